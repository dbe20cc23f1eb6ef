"""How a packed row (helpers.training.packing) goes through a model, and how likely its next tokens are.

transformers lets a program register an attention function under a name and switch a model to it
(https://huggingface.co/docs/transformers/attention_interface). The kit registers two for packed rows: by
branches for a CPU, along paths for a GPU. A model is switched to one of them while it computes a packed row.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy
from transformers import Cache, PreTrainedModel

from helpers.loading.attention import find_window
from helpers.training._private import read_attention
from helpers.training.branch_attention import BRANCH_ATTENTION, mask_branches
from helpers.training.packing import BranchInputs, PackedInputs, PathInputs
from helpers.training.path_attention import PATH_ATTENTION, read_paths

# transformers' model_type. A test compares each of them with the plain computation.
ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}

IGNORED = -100  # the label of a token that the loss leaves out, in transformers as in torch


def why_not_packable(model: PreTrainedModel, longest: int = 0) -> str | None:
    """The reason why packed rows cannot go through this model, in words; None if they can.

    `longest` is the number of tokens of the longest sequence. Within a sliding window, attention is the same
    as without one.
    """
    architecture = model.config.model_type
    attention = read_attention(model)
    if architecture not in ARCHITECTURES:
        return f"it was not tested on the architecture '{architecture}'"
    if attention not in ("sdpa", "eager", BRANCH_ATTENTION, PATH_ATTENTION):
        return f"attention '{attention}' cannot be given a mask"
    window = find_window(model.config)
    if window and longest > window:
        return f"a token sees {window} tokens (sliding-window attention), and rows have up to {longest}"
    return None


@contextlib.contextmanager
def use_packed_attention(model: PreTrainedModel, inputs: PackedInputs | None = None) -> Iterator[None]:
    """Within the block the model computes packed rows, and nothing else. Then its attention is restored.

    The attention is the one that `inputs` are made for; without them, the one for the model's device.
    """
    before = read_attention(model)
    along_paths = "paths" in inputs if inputs else model.device.type != "cpu"
    wanted = PATH_ATTENTION if along_paths else BRANCH_ATTENTION
    if before == wanted:  # within another such block
        yield
        return
    model.set_attn_implementation(wanted)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def score_targets(
    model: PreTrainedModel,
    inputs: PackedInputs,
    places: Sequence[int] | torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
    cache: Cache | None = None,
) -> torch.Tensor:
    """(targets,): the log-probability, in nats, of each target as the token after the one at its place.

    The language-model head is computed at these places only; several targets may have the same place. `cache`
    holds the columns that come before the lines; after the call it holds the lines as well. `model` may be
    wrapped, as accelerate does it for several processes.
    """
    logits, index, targets = predict_targets(model, inputs, places, targets, cache)
    return read_log_probabilities(logits, index, targets)


def judge_targets(
    model: PreTrainedModel,
    inputs: PackedInputs,
    places: Sequence[int] | torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what score_targets gives, (targets,) bool: whether no other token is likelier at the target's place).

    Of equally likely tokens the first counts as the likeliest, as in greedy decoding.
    """
    logits, index, targets = predict_targets(model, inputs, places, targets)
    best = logits.argmax(-1)
    return read_log_probabilities(logits, index, targets), (best if index is None else best[index]) == targets


def predict_targets(
    model: PreTrainedModel,
    inputs: PackedInputs,
    places: Sequence[int] | torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
    cache: Cache | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """(logits, (different places, vocabulary), float32; of each target, its line there; the targets).

    Places on the model's GPU may repeat: each has a line of its own, and the second result is None.
    """
    device = model.device
    inputs = move_inputs(inputs, device)
    kept_places, index = find_kept(torch.as_tensor(places, dtype=torch.long), device)
    targets = torch.as_tensor(targets, device=device, dtype=torch.long)
    layout = describe_layout(inputs, cache.get_seq_length() if cache else 0)
    # DDP, FSDP and DeepSpeed keep the model that they wrap as `module`.
    with use_packed_attention(getattr(model, "module", model), inputs):
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["positions"][None, -inputs["input_ids"].shape[1] :],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=kept_places,
            **layout,
        )
    return outputs.logits[0].float(), index, targets


def find_kept(places: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(different places; of each place, its number among them, None for its own number), on the device.

    Places that are on a GPU already are kept as they are: to count the different ones, the program would have
    to wait for the GPU.
    """
    if places.device.type != "cpu":
        return places, None
    kept, index = places.unique(return_inverse=True)
    return kept.to(device), index.to(device)


def describe_layout(inputs: PackedInputs, cached: int) -> dict[str, Any]:
    """What the attention must be given for these inputs; `cached` columns are in a cache."""
    if "paths" in inputs:
        return {"paths": read_paths(cast(PathInputs, inputs), cached)}
    return {"branch_masks": mask_branches(cast(BranchInputs, inputs))}


def read_log_probabilities(
    logits: torch.Tensor, index: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """(targets,): the log-probability of each target by the logits of its line; 0 for IGNORED.

    `index` has the line of each target; without it, target i has line i.
    """
    if index is None:
        return -cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    # Not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary.
    found = logits[index, targets.clamp(min=0)] - logits.logsumexp(-1)[index]
    return found.masked_fill(targets == IGNORED, 0)


def move_inputs(inputs: PackedInputs, device: torch.device) -> PackedInputs:
    """The inputs with their tensors on `device`."""
    moved = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in inputs.items()
    }
    return cast(PackedInputs, moved)
