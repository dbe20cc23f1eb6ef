"""What a model costs in memory, to run it and to train a LoRA on it: a list of terms, each with its formula and its bytes.

The formulas are those of a decoder as Llama is one: attention with grouped keys and values, a gated MLP. `tests/test_costs.py` holds them
against the measured peak of the embedded model.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int

    def list_linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block, by Llama's names."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys), "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate), "up_proj": (self.hidden, self.intermediate), "down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip


def read_shape(config: dict) -> Shape:
    """The shape that a config.json tells; a KeyError for a model that is no such decoder."""
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
    )


def read_quantization(config: dict) -> dict | None:
    """{bits, group_size, act_order} of a quantised model, out of its config.json; None for full precision."""
    found = config.get("quantization_config")
    if not found:
        return None
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    return {"bits": bits, "group_size": found.get("group_size"), "act_order": found.get("desc_act")}
