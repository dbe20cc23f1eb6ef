"""Which layers get a LoRA: the linear layers of the decoder's blocks, or those that the settings name.

Blocks are found by structure: Llama calls its list of them `layers`, GPT-2 `h`, MPT `blocks`.
"""

import difflib
import re
from typing import Any, cast

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from helpers.adapters.patterns import match_names, match_whole
from helpers.common.errors import UnsupportedError, UsageError
from helpers.common.messages import collect_messages
from helpers.common.training_settings import ALL_LINEAR, UPPER_LINEAR, TrainingSettings, count_lower_blocks
from helpers.weights.architecture import make_config
from helpers.weights.folders import ModelFolder

HEADS = {"lm_head", "embed_out"}  # what makes tokens of the last layer, which refuse_head refuses
PATTERN = re.compile(r"[*+?|()\[\]\\^$]")  # what no layer's name has: the targets are a regular expression


def make_lora_config(model: torch.nn.Module, settings: TrainingSettings) -> LoraConfig:
    """PEFT's LoraConfig, for the layers that `settings.targets` names.

    Raises UsageError for a name that no layer has, UnsupportedError if the blocks have no linear layers.
    """
    by_structure = settings.targets in (ALL_LINEAR, UPPER_LINEAR)
    targets = list_targets(model) if by_structure else pick_targets(model, settings.targets)
    blocks = list_blocks(model, settings.targets)
    if blocks:  # PEFT takes a name that is a whole path in any block
        lower = tuple(f"{find_blocks(model)}{number}." for number in range(blocks[0]))
        targets = [name for name in targets if not name.startswith(lower)]
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        layers_to_transform=blocks,
        fan_in_fan_out=has_transposed(model, targets),
        task_type="CAUSAL_LM",
    )


def check_targets(folder: ModelFolder, settings: TrainingSettings) -> None:
    """The errors of make_lora_config before the model is loaded: one without weights has the same layers.

    GGUF folders have no config, and what transformers cannot read is left to load_model to explain.
    """
    if settings.targets in (ALL_LINEAR, UPPER_LINEAR) or not folder.config:
        return
    try:
        with collect_messages(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(make_config(folder), trust_remote_code=False)
    except Exception:  # of any kind, as in load_model
        return
    pick_targets(model, settings.targets)
    refuse_head(model, settings, folder.path.name)


def refuse_head(model: torch.nn.Module, settings: TrainingSettings, name: str) -> None:
    """An UnsupportedError for targets that take in what makes tokens of the last layer of the model `name`.

    The trainer computes the loss from that layer's own weights, so that a LoRA on it would learn nothing.
    """
    find_head: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = find_head()
    paths = [path for path, module in model.named_modules() if module is head]
    targets = settings.targets
    if PATTERN.search(targets):
        (found,) = match_names([match_whole(targets)], paths, "the settings", "Write names of layers.")
    else:
        found = [find_paths(paths, each) for each in targets.split(",")]
    if any(found):
        problem = (
            f"{name} cannot be trained with a LoRA on {paths[0]}: its loss comes from the weights alone."
        )
        raise UnsupportedError(problem, "Take it out of targets.")


def list_targets(model: torch.nn.Module) -> list[str]:
    """Sorted names of the linear layers in the decoder's blocks (q_proj, up_proj ...), which can get a LoRA.

    A name that another part of the model has too, such as a vision tower, is given with its whole path.
    Raises UnsupportedError if there are none.
    """
    blocks = find_blocks(model)
    names = {path.rpartition(".")[2] for path in list_linears(model) if path.startswith(blocks)}
    if not names:
        layers = ", ".join(sorted({path.rpartition(".")[2] for path in list_layers(model)})) or "none"
        problem = f"The blocks of {type(model).__name__} have no linear layers."
        raise UnsupportedError(problem, f"Name layers in targets instead of all-linear (there: {layers}).")
    return qualify(model, names)


def list_blocks(model: torch.nn.Module, targets: str) -> list[int] | None:
    """PEFT's layers_to_transform: the numbers of the blocks that get a LoRA; None if all of them do."""
    place = find_blocks(model)
    blocks = len(cast(torch.nn.ModuleList, model.get_submodule(place.removesuffix(".")))) if place else 0
    lower = count_lower_blocks(blocks, targets)
    return list(range(lower, blocks)) if lower else None


def pick_targets(model: torch.nn.Module, targets: str) -> list[str] | str:
    """The layers that the settings name, or their regular expression; UsageError if one is not there."""
    paths = list_layers(model)
    if PATTERN.search(targets):
        try:
            re.compile(targets)
        except (re.error, RecursionError, OverflowError) as error:
            problem = f"The targets '{targets}' are not a regular expression ({error})."
            raise UsageError(problem, "Write names with commas, such as q_proj,v_proj.") from None
        (matched,) = match_names([match_whole(targets)], paths, "the settings", "Write names of layers.")
        if not any(matched):
            raise UsageError(f"No layer matches the targets '{targets}'.", suggest(targets, paths))
        return targets
    names = [name for name in targets.split(",") if name]
    for name in names:
        if not find_paths(paths, name):
            raise UsageError(f"'{name}' in targets is not a layer of the model.", suggest(name, paths))
    if not names:
        raise UsageError("The settings name no targets.", suggest("", paths))
    return qualify(model, set(names))


def suggest(name: str, paths: list[str]) -> str:
    """The remedy for a layer that is not there: the nearest name, or all of them."""
    known = sorted({path.rpartition(".")[2] for path in paths} - HEADS)
    near = difflib.get_close_matches(name, known, n=1)
    return (
        f"Did you mean {near[0]}?"
        if near
        else f"Write all-linear, upper-linear, or some of {', '.join(known)}."
    )


def qualify(model: torch.nn.Module, names: set[str]) -> list[str]:
    """The names, sorted; the paths in the decoder's blocks instead of one that is also used outside."""
    blocks, paths = find_blocks(model), list_layers(model)
    found = set()
    for name in names:
        places = find_paths(paths, name)
        inside = [path for path in places if path.startswith(blocks)]
        found |= set(inside) if 0 < len(inside) < len(places) else {name}
    return sorted(found)


def find_paths(paths: list[str], name: str) -> list[str]:
    """The paths that end with this name, as PEFT reads names."""
    return [path for path in paths if path == name or path.endswith(f".{name}")]


def find_blocks(model: torch.nn.Module) -> str:
    """Where the decoder's blocks are, such as "model.layers."; the largest list of modules in the decoder."""
    get_decoder: Any = getattr(model, "get_decoder", lambda: None)
    inner = {id(module) for module in (get_decoder() or model).modules()}
    lists = {
        path: sum(parameter.numel() for parameter in module.parameters())
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and id(module) in inner
    }
    largest = max(lists.values(), default=0)
    return next((f"{path}." for path, size in lists.items() if size == largest), "")


def list_layers(model: torch.nn.Module) -> list[str]:
    """The paths of all layers that can get a LoRA: linear ones and embeddings."""
    return [
        path
        for path, module in model.named_modules()
        if is_linear(module) or isinstance(module, torch.nn.Embedding)
    ]


def list_linears(model: torch.nn.Module) -> set[str]:
    """The paths of all linear layers."""
    return {path for path, module in model.named_modules() if is_linear(module)}


def is_linear(module: torch.nn.Module) -> bool:
    """Whether this is a linear layer: torch's, GPT-2's, or a quantised one (gptqmodel's have in_features)."""
    has_features = hasattr(module, "in_features") and hasattr(module, "out_features")
    return (has_features or isinstance(module, Conv1D)) and not list(module.children())


def has_transposed(model: torch.nn.Module, targets: list[str] | str) -> bool:
    """Whether the targets are GPT-2's layers, whose weights are (inputs, outputs)."""
    transposed = [path for path, module in model.named_modules() if isinstance(module, Conv1D)]
    if isinstance(targets, str):
        return any(re.fullmatch(targets, path) for path in transposed)
    return any(find_paths(transposed, name) for name in targets)
