"""The attention of a packed row on a GPU: along the path of each sequence (helpers.training.packing).

What takes the time on a GPU are the linear layers, and they still see each shared token once. For the
attention alone the sequences are laid out one below the other, as if they shared nothing. Then it is the
usual causal attention, for which a GPU has its fastest kernels, and no mask is needed.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from helpers.loading.attention import avoid_cudnn, can_share_heads
from helpers.training.packing import PathInputs

PATH_ATTENTION = "packed-paths"  # the name under which attend_along_paths is registered


class Paths(NamedTuple):
    """What attend_along_paths needs to know of a packed row; the same in all layers."""

    shape: tuple[int, int]  # sequences, tokens of the longest
    columns: torch.Tensor  # (sequences x longest,): the column of each token
    lines: torch.Tensor  # (sequences x longest,): its line; any for a token that a cache holds
    owners: torch.Tensor  # (lines,): where a line takes its result from


def read_paths(inputs: PathInputs, cached: int) -> Paths:
    """The paths of a packed row; `cached` columns are in the cache."""
    sequences, longest = inputs["paths"].shape
    columns = inputs["paths"].flatten()
    lines = (columns - cached).clamp(min=0) if cached else columns
    return Paths((sequences, longest), columns, lines, inputs["owners"])


class TakeShared(torch.autograd.Function):
    """index_select along the first axis. Gradients of what is taken several times are added in float32.

    A shared token is taken by each sequence. In 16 bits, the sum of a hundred small gradients is rounded a
    hundred times.
    """

    @staticmethod
    def forward(ctx: Any, source: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """(tokens, numbers) to (taken, numbers)."""
        ctx.save_for_backward(index)
        ctx.tokens = len(source)
        return source.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(taken, numbers) to (tokens, numbers)."""
        (index,) = ctx.saved_tensors
        (gradient,) = gradients
        total = gradient.new_zeros(ctx.tokens, gradient.shape[1], dtype=torch.float32)
        return total.index_add_(0, index, gradient.float()).to(gradient.dtype), None


def lay_out(states: torch.Tensor, index: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """(1, heads, tokens, size) to (sequences, heads, longest, size): each sequence's own."""
    _, heads, tokens, size = states.shape
    flat = states.transpose(1, 2).reshape(tokens, heads * size)
    taken: Any = TakeShared.apply(flat, index)
    return taken.view(*shape, heads, size).transpose(1, 2)


def repeat_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(sequences, key heads, longest, size) to (sequences, heads, longest, size): one for each query head.

    As they are if there are as many. The backward pass adds up the gradients of those that share a key head.
    """
    sequences, key_heads, longest, size = states.shape
    if key_heads == heads:
        return states
    grouped = states[:, :, None].expand(sequences, key_heads, heads // key_heads, longest, size)
    return grouped.reshape(sequences, heads, longest, size)


def attend_along_paths(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paths: Paths,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function for packed rows: each sequence attends to itself.

    `query`: (1, heads, lines, size); `key` and `value`: (1, key heads, columns, size); the result:
    (1, lines, heads, size). What is beyond a sequence's end comes after its tokens, which do not see it.
    """
    laid_out = (
        lay_out(query, paths.lines, paths.shape),
        lay_out(key, paths.columns, paths.shape),
        lay_out(value, paths.columns, paths.shape),
    )
    if not can_share_heads(query):
        laid_out = (laid_out[0], *(repeat_heads(states, query.shape[1]) for states in laid_out[1:]))
    grouped = laid_out[1].shape[1] != query.shape[1]
    with avoid_cudnn(query.device):
        result = scaled_dot_product_attention(
            *laid_out, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=grouped
        )
    flat = result.transpose(1, 2).reshape(-1, query.shape[1] * query.shape[3])
    own = flat.index_select(0, paths.owners)
    return own.view(1, -1, query.shape[1], query.shape[3]), None


# As for attention by branches, this only adds a name to a table.
AttentionInterface.register(PATH_ATTENTION, attend_along_paths)
