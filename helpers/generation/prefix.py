"""What prompts begin with, computed once: a template has the same instruction before each question.

The keys and values of the last prompt are kept. Those that the next prompts share with it are copied. With
"a b c d e" kept, and two prompts that are padded on the left as in `batching`:

    a  b  c  d | e  x      four columns are copied: all that the second row shares, and its padding
    .  a  b  c | y  z      two are computed
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from helpers.generation.kv_cache import list_layers
from helpers.generation.prompts import count_shared

LEAST = 16  # tokens; copying fewer saves nothing
MOST = 512  # tokens that are kept


class Prefix:
    """The begin of the last prompt, for one adapter: another one computes other keys and values."""

    def __init__(self):
        self.ids: list[int] = []
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each: keys and values, with one row

    def begin(self, prompts: Sequence[Sequence[int]]) -> DynamicCache:
        """A cache with the first columns of the padded prompts, as many as can be copied; it may be empty."""
        cache = DynamicCache()
        longest = max(map(len, prompts))
        padding = [longest - len(ids) for ids in prompts]
        shared = [count_shared(ids, self.ids) for ids in prompts]
        # The last column is computed, for the logits after it.
        columns = min(longest - 1, *(count + pad for count, pad in zip(shared, padding, strict=True)))
        if columns >= LEAST:
            counts = [max(0, columns - pad) for pad in padding]
            for layer, (keys, values) in enumerate(self.layers):
                cache.update(lay_out(keys, counts, columns), lay_out(values, counts, columns), layer)
        return cache

    def keep(self, prompt: Sequence[int], cache: DynamicCache) -> None:
        """Keeps the begin of a prompt, which is the first row of the cache."""
        start = cache.get_seq_length() - len(prompt)
        self.ids = list(prompt[:MOST])
        if len(self.ids) < LEAST:
            self.ids = []
        end = start + len(self.ids)
        self.layers = [
            (keys[:1, :, start:end].clone(), values[:1, :, start:end].clone())
            for keys, values in list_layers(cache)
        ]


def lay_out(states: torch.Tensor, counts: Sequence[int], columns: int) -> torch.Tensor:
    """Keys or values with a row for each count: zeros, and then the first `count` tokens of the one row."""
    _, heads, _, size = states.shape
    rows = states.new_zeros(len(counts), heads, columns, size)
    for row, count in enumerate(counts):
        rows[row, :, columns - count :] = states[0, :, :count]
    return rows
