"""How a packed row (helpers.training.packing) goes through a model, and how likely its next tokens are.

transformers lets a program register an attention function under a name and switch a model to it
(https://huggingface.co/docs/transformers/attention_interface). The function registered here computes the
attention of a packed row one branch at a time. A model on a CPU is switched to it while it computes a packed
row. On a GPU, transformers' own `sdpa` with one large mask takes only 0.7 of the time.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache, PreTrainedModel

from helpers.training._private import read_attention
from helpers.training.packing import PackedInputs

# transformers' model_type. A test compares each of them with the plain computation.
ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}

PACKED_ATTENTION = "packed"  # the name under which attend_by_branches is registered


class BranchMasks(NamedTuple):
    """What attend_by_branches needs to know of a packed row; the same in all layers.

    Lines are queries, columns are keys and values (see PackedInputs).
    """

    lengths: list[int]  # of all branches: they divide the columns
    sees: list[list[int]]  # of each branch of the lines: numbers of the branches that it sees
    masks: list[torch.Tensor]  # of each branch of the lines: (tokens, tokens that it sees)


def why_not_packable(model: PreTrainedModel, longest: int = 0) -> str | None:
    """The reason why packed rows cannot go through this model, in words; None if they can.

    `longest` is the number of tokens of the longest sequence. Within a sliding window, attention is the same
    as without one.
    """
    architecture = model.config.model_type
    attention = read_attention(model)
    if architecture not in ARCHITECTURES:
        return f"it was not tested on the architecture '{architecture}'"
    if attention not in ("sdpa", "eager", PACKED_ATTENTION):
        return f"attention '{attention}' cannot be given a mask"
    window = find_window(model)
    if window and longest > window:
        return f"a token sees {window} tokens (sliding-window attention), and rows have up to {longest}"
    return None


def find_window(model: PreTrainedModel) -> int | None:
    """How many tokens a token sees at most, itself included; None without sliding-window attention.

    Newer configs say of each layer what it does. Older ones, such as Mistral's, have the window alone.
    """
    layer_types = getattr(model.config, "layer_types", None)
    if layer_types and "sliding_attention" not in layer_types:
        return None
    return getattr(model.config, "sliding_window", None)


@contextlib.contextmanager
def use_packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model computes packed rows, and nothing else. Then its attention is restored."""
    before = read_attention(model)
    wanted = PACKED_ATTENTION if model.device.type == "cpu" else "sdpa"
    if before == wanted:  # on a GPU, or within another such block
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
    return read_log_probabilities(logits, index, targets), logits.argmax(-1)[index] == targets


def predict_targets(
    model: PreTrainedModel,
    inputs: PackedInputs,
    places: Sequence[int] | torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
    cache: Cache | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits, (different places, vocabulary), float32; of each target, its line there; the targets)."""
    device = model.device
    inputs = move_inputs(inputs, device)
    places = torch.as_tensor(places, device=device, dtype=torch.long)
    targets = torch.as_tensor(targets, device=device, dtype=torch.long)
    kept_places, index = places.unique(return_inverse=True)
    line_count = inputs["input_ids"].shape[1]
    if device.type == "cpu":
        masks = {"branch_masks": mask_branches(inputs)}
    else:
        masks = {"attention_mask": mask_all(inputs)}
    # DDP, FSDP and DeepSpeed keep the model that they wrap as `module`.
    with use_packed_attention(getattr(model, "module", model)):
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["positions"][None, -line_count:],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=kept_places,
            **masks,
        )
    return outputs.logits[0].float(), index, targets


def read_log_probabilities(logits: torch.Tensor, index: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(targets,): the log-probability of each target by the logits of its line."""
    # Not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary.
    return logits[index, targets] - logits.logsumexp(-1)[index]


def move_inputs(inputs: PackedInputs, device: torch.device) -> PackedInputs:
    """The inputs with their tensors on `device`."""
    moved = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in inputs.items()
    }
    return cast(PackedInputs, moved)


def mask_all(inputs: PackedInputs) -> torch.Tensor:
    """(1, 1, lines, columns), bool: which tokens each line sees."""
    lines = slice(-inputs["input_ids"].shape[1], None)
    segments, positions = inputs["segments"], inputs["positions"]
    visible = find_visible(inputs["continues"], segments[lines], positions[lines], segments, positions)
    return visible[None, None]


def mask_branches(inputs: PackedInputs) -> BranchMasks:
    """The masks of all branches of a packed row, once for all layers.

    A mask is added to attention scores: 0 where a token sees another one, else minus infinity. bfloat16 can
    represent both.
    """
    segments = inputs["segments"].split(inputs["branch_lengths"])
    positions = inputs["positions"].split(inputs["branch_lengths"])
    masks = []
    for sees in inputs["branch_sees"]:
        own = sees[-1]
        seen_segments = torch.cat([segments[number] for number in sees])
        seen_positions = torch.cat([positions[number] for number in sees])
        visible = find_visible(
            inputs["continues"], segments[own], positions[own], seen_segments, seen_positions
        )
        mask = torch.zeros(visible.shape, dtype=torch.bfloat16, device=visible.device)
        masks.append(mask.masked_fill_(~visible, float("-inf")))
    return BranchMasks(inputs["branch_lengths"], inputs["branch_sees"], masks)


def find_visible(
    continues: torch.Tensor,
    line_segments: torch.Tensor,
    line_positions: torch.Tensor,
    column_segments: torch.Tensor,
    column_positions: torch.Tensor,
) -> torch.Tensor:
    """(lines, columns), bool: a token sees what is not later, in its segment and those it continues."""
    same_sequence = continues[line_segments][:, column_segments]
    not_later = line_positions[:, None] >= column_positions[None, :]
    return same_sequence & not_later


def attend_by_branches(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    branch_masks: BranchMasks,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function for packed rows: each branch attends to the branches that it sees.

    `query`: (1, heads, lines, size); `key` and `value`: (1, key heads, columns, size); the result:
    (1, lines, heads, size).
    """
    # Split, not sliced: the backward pass of a slice fills a tensor as large as what the slice is from.
    queries = query.split([len(mask) for mask in branch_masks.masks], dim=2)
    keys = key.split(branch_masks.lengths, dim=2)
    values = value.split(branch_masks.lengths, dim=2)
    results = []
    for own_query, mask, sees in zip(queries, branch_masks.masks, branch_masks.sees, strict=True):
        seen_key = torch.cat([keys[number] for number in sees], dim=2)
        seen_value = torch.cat([values[number] for number in sees], dim=2)
        results.append(attend(own_query, seen_key, seen_value, mask.to(query.dtype), scaling, dropout))
    return torch.cat(results, dim=1), None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(scaling query key' + mask) value, where each key head serves several query heads.

    `query`: (1, heads, lines, size); `key` and `value`: (1, key heads, columns, size); `mask`:
    (lines, columns); the result: (1, lines, heads, size). In float32 it is torch's sdpa, whose rounding is
    that of the plain computation.
    """
    if query.dtype == torch.float32 or dropout:
        result = scaled_dot_product_attention(
            query, key, value, mask, dropout_p=dropout, scale=scaling, enable_gqa=True
        )
        return result.transpose(1, 2)
    return attend_grouped(query, key, value, mask, scaling)


def attend_grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The same, without dropout, written out.

    On a CPU in bfloat16, torch's sdpa takes nearly twice as long, and its backward pass two to three times.
    The query heads that share a key head form one matrix, so keys and values need not be repeated for them.
    """
    _, heads, lines, size = query.shape
    _, key_heads, columns, _ = key.shape
    stacked_lines = heads // key_heads * lines  # the lines of all query heads that share a key head
    stacked_query = (query * scaling).reshape(key_heads, stacked_lines, size)
    stacked_scores = stacked_query @ key[0].mT  # (key heads, stacked lines, columns)
    scores = stacked_scores.view(key_heads, heads // key_heads, lines, columns)
    weights = scores.add_(mask).softmax(-1)  # torch computes a softmax in float32 and rounds once
    stacked_result = weights.view(key_heads, stacked_lines, columns) @ value[0]
    return stacked_result.view(1, heads, lines, size).transpose(1, 2)


# Done at import, because it only adds a name to a table: no model uses it before use_packed_attention.
# Nothing is added to AttentionMaskInterface, so transformers does not build a mask of its own.
AttentionInterface.register(PACKED_ATTENTION, attend_by_branches)
