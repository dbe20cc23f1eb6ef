"""The keys and values of a batch: join two batches, drop rows and columns.

This uses only the public interface of transformers: iterating over a DynamicCache yields (keys, values, ...)
for each layer, which is what its constructor takes, and `update` appends to a layer.
"""

import torch
from torch.nn import functional
from transformers import DynamicCache

ROWS, HEADS, TOKENS, SIZE = range(4)  # the axes of keys and values


def list_layers(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, both (rows, heads, tokens, head size)."""
    layers = []
    for keys, values, *_ in cache:
        assert keys is not None and values is not None  # None only in a layer that never computed anything
        layers.append((keys, values))
    return layers


def keep_rows(cache: DynamicCache, rows: list[int], tokens: int) -> DynamicCache:
    """A new cache with these rows, in this order, and with the last `tokens` columns."""
    kept = DynamicCache()
    if not rows:
        return kept
    for layer, (keys, values) in enumerate(list_layers(cache)):
        kept.update(keys[rows, :, -tokens:], values[rows, :, -tokens:], layer)
    return kept


def stack_caches(upper: DynamicCache, lower: DynamicCache) -> DynamicCache:
    """A new cache with the rows of both; the shorter ones are padded on the left."""
    tokens = max(upper.get_seq_length(), lower.get_seq_length())
    stacked = DynamicCache()
    pairs = zip(list_layers(upper), list_layers(lower), strict=True)
    for layer, ((upper_keys, upper_values), (lower_keys, lower_values)) in enumerate(pairs):
        keys = torch.cat([pad_left(upper_keys, tokens), pad_left(lower_keys, tokens)], dim=ROWS)
        values = torch.cat([pad_left(upper_values, tokens), pad_left(lower_values, tokens)], dim=ROWS)
        stacked.update(keys, values, layer)
    return stacked


def pad_left(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Keys or values with zeros before the first column, so that there are `tokens` columns."""
    missing = tokens - states.shape[TOKENS]
    # Pairs (before, after), the last axis first: nothing for the size, `missing` before the tokens.
    return functional.pad(states, (0, 0, missing, 0))
