"""What a LoRA holds beyond the factors A and B, and who can take that. Nothing here imports torch.

Some parts change the base itself, such as more tokens. They cannot be switched off: such a LoRA is merged.
"""

from collections.abc import Mapping

from helpers.adapters.bases import check_base, read_names
from helpers.adapters.folders import AdapterFolder
from helpers.adapters.patterns import check_matching, list_expressions
from helpers.adapters.tensors import PAIR, find_ranks, pair_factors, read_shapes
from helpers.common.errors import DamagedError, UnsupportedError, UsageError
from helpers.weights.folders import ModelFolder

ANOTHER_WAY = "Merge the LoRA into its base, and convert that."
# PEFT's settings that change what is computed, beyond B A, or where; with their meaning.
BEYOND_FACTORS = {
    "use_dora": "DoRA",
    "modules_to_save": "whole modules",
    "trainable_token_indices": "trained tokens",
    "lora_bias": "biases",
    "layer_replication": "replicated layers",
    "target_parameters": "single parameters",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "fan_in_fan_out": "transposed layers",
    "alora_invocation_tokens": "an activated LoRA",
    "kasa_config": "KaSA",
}
# How A and B were begun, where PEFT first takes the same from the weights of the base.
INITS_FROM_BASE = ("pissa", "olora", "corda", "loftq", "orthogonal", "lora_ga")
# The names of embeddings and of what turns their like into tokens again.
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out")

Shapes = Mapping[str, tuple[int, ...]]


def refuse_more_than_factors(adapter: AdapterFolder, program: str = "llama.cpp") -> None:
    """An UnsupportedError for a LoRA that is more than A and B, which llama.cpp and vLLM do not take."""
    shapes = read_shapes(adapter.weights)
    copies = list_copies(adapter, shapes)
    more = [words for key, words in BEYOND_FACTORS.items() if adapter.config.get(key)]
    if adapter.config.get("bias", "none") != "none":
        more.append("biases")
    if not is_plain_init(adapter):
        more.append(f"the start {adapter.config['init_lora_weights']}")
    more += [f"its own {name}" for name in copies if ".base_layer." not in name]
    more += [
        f"the tensor {name}" for name in sorted(shapes) if not PAIR.fullmatch(name) and name not in copies
    ]
    if more:
        problem = f"The LoRA {adapter.name} has {more[0]}, which {program} does not take."
        raise UnsupportedError(problem, ANOTHER_WAY)


def list_copies(adapter: AdapterFolder, shapes: Shapes) -> list[str]:
    """The tensors that PEFT copied from the base: its embeddings, if they have a LoRA or another size."""
    return [
        name
        for name in sorted(shapes)
        if name.endswith((".base_layer.weight", ".original_module.weight"))
        or (name.endswith(".weight") and name.split(".")[-2] in EMBEDDINGS and not is_whole(adapter, name))
    ]


def is_whole(adapter: AdapterFolder, name: str) -> bool:
    """Whether a tensor is that of a whole module which was trained, or of the one that shares its weights."""
    module, whole = name.split(".")[-2], adapter.config.get("modules_to_save") or ()
    tied = adapter.config.get("ensure_weight_tying") and set(whole) & set(EMBEDDINGS)
    return module.endswith(tuple(whole)) or bool(tied)


def is_plain_init(adapter: AdapterFolder) -> bool:
    """Whether PEFT leaves the base's weights alone when it makes this LoRA's layers."""
    return not str(adapter.config.get("init_lora_weights", True)).lower().startswith(INITS_FROM_BASE)


def explain_changed_base(adapter: AdapterFolder, base: ModelFolder | None) -> str | None:
    """How the LoRA changes the base itself, in words that follow its name; None if it only adds layers."""
    shapes = read_shapes(adapter.weights)
    if adapter.config.get("kasa_config"):
        return "cuts off weights of its base (KaSA)"
    if not is_plain_init(adapter):
        return f"moves weights of its base ({adapter.config['init_lora_weights']})"
    biases = [name for name in shapes if name.endswith(".bias") and ".lora_" not in name]
    if biases and adapter.config.get("bias", "none") != "none":
        return "has other biases for its base"
    rows, known = count_tokens(shapes), read_vocabulary(base)
    if rows and known and rows != known:
        return f"was trained with {rows} tokens, and its base has {known}"
    return None


def count_tokens(shapes: Shapes) -> int | None:
    """The size of the vocabulary, from a LoRA's tensors for embeddings; None without such tensors."""
    for name, shape in sorted(shapes.items()):
        parts = name.split(".")
        if not set(parts) & set(EMBEDDINGS) or len(shape) != 2:
            continue
        if parts[-1] == "lora_embedding_A":  # (rank, tokens)
            return shape[1]
        if parts[-1] == "weight" and parts[-2] != "lora_A":  # (tokens, hidden size), or B: (tokens, rank)
            return shape[0]
    return None


def read_vocabulary(base: ModelFolder | None) -> int | None:
    """The rows of the base's embeddings; None if its config does not tell."""
    config = base.config if base else {}
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")


def check_attachable(adapter: AdapterFolder, base: ModelFolder, any_model: bool = False) -> None:
    """A KitError, before a model is loaded, for a LoRA that cannot be switched on and off on this base.

    With `any_model`, the base need not be the one that it was trained on.
    """
    if not any_model:
        check_base(adapter, base)
    check_supported(adapter)
    check_names(adapter, base)
    if reason := explain_changed_base(adapter, base):
        problem = f"The LoRA {adapter.name} {reason}, so that it cannot be switched on and off."
        raise UnsupportedError(problem, f"Merge it: {write_merge_command(adapter)}")


def write_merge_command(adapter: AdapterFolder) -> str:
    """The line that merges the LoRA."""
    return f"python -m helpers.adapters merge {adapter.name} --output {adapter.name}-merged"


def check_names(adapter: AdapterFolder, base: ModelFolder) -> None:
    """A DamagedError if PEFT would take too long to find the layers of the base that the LoRA names."""
    own = pair_factors(read_shapes(adapter.weights))
    layers = {name.rpartition(".")[0] for name in read_names(base)}
    check_matching(adapter.config, {*own, *layers}, str(adapter.path / "adapter_config.json"))


def check_supported(adapter: AdapterFolder, matching: bool = True) -> None:
    """A KitError for a LoRA that can neither be attached nor merged.

    Without `matching`, ranks that depend on patterns are not looked at.
    """
    if matching or not list_expressions(adapter.config):
        check_ranks(adapter)
    for module in adapter.config.get("modules_to_save") or ():
        if adapter.name.endswith(module):  # PEFT finds whole modules by the ends of names, its own included
            problem = (
                f"PEFT takes the name '{adapter.name}' for the module {module}, which the LoRA holds whole."
            )
            raise UsageError(problem, "Rename its folder.")
    if adapter.config.get("layer_replication"):
        problem = f"The LoRA {adapter.name} repeats layers of its base (layer_replication); the kit does not."
        raise UnsupportedError(problem, "Load it with PEFT.")


def check_ranks(adapter: AdapterFolder) -> None:
    """A DamagedError if the ranks in the config are not those of the weights."""
    if adapter.config.get("target_parameters"):  # A and B of several experts are one matrix
        return
    pairs = pair_factors(read_shapes(adapter.weights))
    ranks = find_ranks(adapter.config, list(pairs))
    for module, pair in pairs.items():
        found = pair.get("A", (None,))[0]
        if found not in (None, ranks[module]):
            problem = f"The weights of the LoRA {adapter.name} have the rank {found}, "
            problem += f"its config says {ranks[module]}."
            raise DamagedError(problem, f"Correct r in {adapter.path / 'adapter_config.json'}.")
