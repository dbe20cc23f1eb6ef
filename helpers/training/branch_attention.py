"""The attention of a packed row on a CPU: one branch at a time (helpers.training.packing)."""

from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from helpers.training.packing import BranchInputs

BRANCH_ATTENTION = "packed-branches"  # the name under which attend_by_branches is registered


class BranchMasks(NamedTuple):
    """What attend_by_branches needs to know of a packed row; the same in all layers.

    Lines are queries, columns are keys and values (see PackedInputs).
    """

    lengths: list[int]  # of all branches: they divide the columns
    sees: list[list[int]]  # of each branch of the lines: numbers of the branches that it sees
    masks: list[torch.Tensor]  # of each branch of the lines: (tokens, tokens that it sees)


def mask_branches(inputs: BranchInputs) -> BranchMasks:
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
AttentionInterface.register(BRANCH_ATTENTION, attend_by_branches)
