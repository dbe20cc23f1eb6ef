"""Attention along paths: which heads the kernel is given, by facts of a GPU, and that it changes nothing."""

import pytest
import torch

from helpers.loading.attention import shares_heads
from helpers.training.packing import pack_sequences
from helpers.training.path_attention import attend_along_paths, read_paths

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
T4, A100, H100 = (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize(
    ("dtype", "size", "capability", "shares"),
    [
        (BRAIN, 128, H100, True),
        (HALF, 128, A100, True),
        (HALF, 64, T4, False),  # FlashAttention begins with 8.0
        (FULL, 64, H100, False),  # it needs 16 bits
        (BRAIN, 512, H100, False),
        (FULL, 64, None, True),  # a CPU's kernel takes them
    ],
)
def test_key_heads_are_shared_where_the_fast_kernel_takes_them(dtype, size, capability, shares):
    assert shares_heads(dtype, size, capability) is shares


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_result_and_gradients_are_the_same_with_a_key_head_for_each_query_head(key_heads, monkeypatch):
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5], [1, 6]])
    paths = read_paths(packed.to_inputs("cuda"), cached=0)
    tokens, size = packed.count_tokens(), 8
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, tokens, 4, size, generator=generator)
    given = [torch.randn(1, heads, tokens, size, generator=generator) for heads in (4, key_heads, key_heads)]
    results = []
    for shares in (True, False):
        monkeypatch.setattr("helpers.training.path_attention.can_share_heads", lambda query, s=shares: s)
        states = [state.clone().requires_grad_() for state in given]
        result, _ = attend_along_paths(torch.nn.Module(), *states, None, paths=paths, scaling=size**-0.5)
        (result * weights).sum().backward()
        results.append([result, *(state.grad for state in states)])
    for shared, repeated in zip(*results, strict=True):
        assert shared.abs().sum() > 0
        assert torch.allclose(shared, repeated, atol=1e-6)


def test_kernel_is_given_unequal_heads_only_where_it_shares_them(monkeypatch):
    seen = []

    def attend(query, key, value, *, enable_gqa, **others):
        seen.append((key.shape[1], value.shape[1], enable_gqa))
        return query

    monkeypatch.setattr("helpers.training.path_attention.scaled_dot_product_attention", attend)
    paths = read_paths(pack_sequences([[1, 2], [1, 3]]).to_inputs("cuda"), cached=0)
    query, key = torch.ones(1, 4, 3, 8), torch.ones(1, 2, 3, 8)
    for shares in (True, False):
        monkeypatch.setattr("helpers.training.path_attention.can_share_heads", lambda query, s=shares: s)
        attend_along_paths(torch.nn.Module(), query, key, key, None, paths=paths, scaling=1.0)
    assert seen == [(2, 2, True), (4, 4, False)]
