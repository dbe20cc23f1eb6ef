"""The shape of a decoder, as its config.json describes it: the numbers that memory and LoRAs depend on.

Architectures call the same numbers differently, and their linear layers too. Both are in tables here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helpers.common.arguments import LARGEST, shorten
from helpers.common.errors import DamagedError

# Where the config of a model that also reads images or sound has the part for text.
TEXT_PARTS = ("text_config", "llm_config", "language_config")
# Llama's name of a number: the names that older architectures have for it.
OTHER_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "num_experts": ("n_routed_experts",),
}

# Of what is made one by one, also on paper: no model comes near, and a million takes hours.
MOST = {"num_hidden_layers": 10_000, "num_local_experts": 10_000, "num_experts": 10_000}

Layers = dict[str, tuple[str, str]]  # name of a linear layer: what goes in and what comes out


def name_mlp(*names: str) -> Layers:
    """The layers of an MLP: those that widen, then the one that narrows."""
    *wider, narrower = names
    return {**{name: ("hidden", "mlp") for name in wider}, narrower: ("mlp", "hidden")}


SEPARATE: Layers = {
    "q_proj": ("hidden", "queries"),
    "k_proj": ("hidden", "keys"),
    "v_proj": ("hidden", "keys"),
}
GATED = name_mlp("gate_proj", "up_proj", "down_proj")
GPT2: Layers = {
    "c_attn": ("hidden", "joined"), "attn.c_proj": ("queries", "hidden"), **name_mlp("c_fc", "mlp.c_proj"),
}  # fmt: skip
NEOX: Layers = {
    "query_key_value": ("hidden", "joined"), "dense": ("queries", "hidden"),
    **name_mlp("dense_h_to_4h", "dense_4h_to_h"),
}  # fmt: skip
LLAMA: Layers = {**SEPARATE, "o_proj": ("queries", "hidden"), **GATED}
# model_type: its linear layers, where they are not Llama's. "joined" is queries, keys and values together.
LAYERS: dict[str, Layers] = {
    "gpt2": GPT2, "gpt_bigcode": GPT2, "gpt_neox": NEOX, "bloom": NEOX, "falcon": NEOX,
    "gptj": {**SEPARATE, "out_proj": ("queries", "hidden"), **name_mlp("fc_in", "fc_out")},
    "opt": {**SEPARATE, "out_proj": ("queries", "hidden"), **name_mlp("fc1", "fc2")},
    "phi": {**SEPARATE, "dense": ("queries", "hidden"), **name_mlp("fc1", "fc2")},
    "starcoder2": {**SEPARATE, "o_proj": ("queries", "hidden"), **name_mlp("c_fc", "c_proj")},
    "phi3": {
        "qkv_proj": ("hidden", "joined"), "o_proj": ("queries", "hidden"),
        "gate_up_proj": ("hidden", "mlp twice"), "down_proj": ("mlp", "hidden"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    model_type: str = "llama"

    def list_linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by name. Two of one name have a prefix."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        sizes = {
            "hidden": self.hidden,
            "queries": queries,
            "keys": keys,
            "joined": queries + 2 * keys,
            "mlp": self.intermediate,
            "mlp twice": 2 * self.intermediate,
        }
        layers = LAYERS.get(self.model_type, LLAMA)
        return {name: (sizes[inputs], sizes[outputs]) for name, (inputs, outputs) in layers.items()}


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes.

    Raises KeyError if it is not that of a decoder like Llama or one in LAYERS, DamagedError for a value that
    is not a number.
    """
    config = get_text_part(config)
    model_type = str(config.get("model_type"))
    hidden, heads = need_number(config, "hidden_size"), need_number(config, "num_attention_heads")
    intermediate = read_number(config, "intermediate_size")
    if intermediate is None and model_type in LAYERS:  # GPT-2's default
        intermediate = 4 * hidden
    return Shape(
        layers=need_number(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=intermediate or need_number(config, "intermediate_size"),
        heads=heads,
        kv_heads=count_kv_heads(config, heads),
        head_size=read_number(config, "head_dim") or hidden // heads,
        model_type=model_type,
    )


# The names under which a config has the most tokens that its model takes, and what is assumed without one.
CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length")
USUAL_CONTEXT = 2048


def read_context(config: Mapping[str, Any]) -> int:
    """The most tokens that a model with this config takes, prompt and answer together."""
    found = (read_number(config, name) for name in CONTEXT_NAMES if config.get(name))
    return next((tokens for tokens in found if tokens), USUAL_CONTEXT)


def get_text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the decoder: itself, or one of TEXT_PARTS in it."""
    parts = (config.get(name) for name in TEXT_PARTS)
    return next((part for part in parts if isinstance(part, Mapping)), config)


def count_kv_heads(config: Mapping[str, Any], heads: int) -> int:
    """Heads of keys and values: one for all in Falcon's and StarCoder's multi-query attention."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return read_number(config, "num_key_value_heads") or heads


def need_number(config: Mapping[str, Any], name: str) -> int:
    """A number by Llama's name; a KeyError if the config does not have it."""
    number = read_number(config, name)
    if number is None:
        raise KeyError(name)
    return number


def read_number(config: Mapping[str, Any], name: str) -> int | None:
    """A number by Llama's name or another for it, None if there is none or it is null; or a DamagedError."""
    for each in (name, *OTHER_NAMES.get(name, ())):
        value = config.get(each)
        largest = MOST.get(name, LARGEST)
        if value is not None and (type(value) is not int or not 1 <= value <= largest):
            problem = f"config.json has {each} {shorten(value, 40)}, not a whole number from 1 to {largest}."
            raise DamagedError(problem, "Fetch the model again, or correct config.json.")
        if value is not None:
            return value
    return None
