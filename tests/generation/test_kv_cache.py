import torch
from transformers import DynamicCache

from helpers.generation.kv_cache import keep_rows, list_layers, stack_caches


def make_cache(rows, layers=2):
    """A cache whose keys are these numbers, one a row and token, and whose values are their negatives."""
    cache = DynamicCache()
    keys = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]  # (rows, heads, tokens, size)
    for layer in range(layers):
        cache.update(keys + 100 * layer, -keys - 100 * layer, layer)
    return cache


def read_keys(cache, layer=0):
    return list_layers(cache)[layer][0][:, 0, :, 0].tolist()


def test_stacked_caches_are_padded_on_the_left():
    stacked = stack_caches(make_cache([[1, 2, 3]]), make_cache([[4], [5]]))
    assert read_keys(stacked) == [[1, 2, 3], [0, 0, 4], [0, 0, 5]]
    assert read_keys(stacked, layer=1) == [[101, 102, 103], [0, 0, 104], [0, 0, 105]]
    assert all(torch.equal(keys, -values) for keys, values in list_layers(stacked))


def test_kept_rows_come_in_their_order_with_their_last_tokens():
    kept = keep_rows(make_cache([[0, 0, 1], [2, 3, 4], [0, 5, 6]]), [0, 2], tokens=2)
    assert read_keys(kept) == [[0, 1], [5, 6]]
    assert read_keys(kept, layer=1) == [[100, 101], [105, 106]]
    assert kept.get_seq_length() == 2


def test_cache_without_rows_is_empty():
    assert keep_rows(make_cache([[1, 2]]), [], tokens=0).get_seq_length() == 0
