from types import SimpleNamespace

import pytest
import torch

from helpers.training.branches import attend_by_branches, cut_masks, find_obstacle, score_targets
from helpers.training.packing import pack_continuations, pack_sequences


def test_what_sequences_share_stands_once_and_is_seen_by_those_that_continue_it():
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5, 6], [1, 2, 4, 5], [7]])
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert packed.positions.tolist() == [0, 1, 2, 2, 3, 4, 0]
    assert packed.paths == [[0, 1, 2], [0, 1, 3, 4, 5], [0, 1, 3, 4], [6]]
    assert packed.visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]  # fmt: skip


def test_tokens_in_a_cache_come_before_and_are_seen_by_all():
    packed = pack_sequences([[3], [3, 4], [3]], before=2)
    assert packed.positions.tolist() == [2, 3] and packed.paths == [[0], [0, 1], [0]]
    assert packed.visible.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_scores_are_those_of_each_whole_sequence(tiny):
    sequences = [[7, 8, 9, 10, 11], [7, 8, 9, 12], [7, 8, 9, 12, 13], [30, 31]]
    packed, targets = pack_sequences(sequences), [20, 21, 22, 23]
    with torch.inference_mode():
        scores, hits = score_targets(tiny.model, packed, [path[-1] for path in packed.paths], targets)
        for score, hit, ids, target in zip(scores, hits, sequences, targets, strict=True):
            alone = tiny.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            assert score.item() == pytest.approx(alone[target].item(), abs=1e-5)
            assert hit.item() == (alone.argmax() == target)


def test_a_place_may_have_several_targets_or_none(tiny):
    packed = pack_sequences([[7, 8]])
    with torch.inference_mode():
        alone = tiny.model(torch.tensor([[7, 8]])).logits[0].log_softmax(-1)
        scores, _ = score_targets(tiny.model, packed, [1, 0, 1], [5, 6, 7])
        assert scores.tolist() == pytest.approx(
            [alone[1, 5].item(), alone[0, 6].item(), alone[1, 7].item()], abs=1e-5
        )
        assert score_targets(tiny.model, packed, [], [])[0].shape == (0,)


def test_sliding_windows_attention_without_masks_and_unknown_architectures_are_obstacles(tiny):
    assert find_obstacle(tiny.model) is None
    tiny.model.config.layer_types = ["sliding_attention", "full_attention"]
    assert "sliding" in find_obstacle(tiny.model)
    tiny.model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in find_obstacle(tiny.model)
    tiny.model.config.model_type = "olmo"
    assert "'olmo'" in find_obstacle(tiny.model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize(("branch_tokens", "branches"), [(0, 5), (4, 3), (400, 1)])
def test_attention_by_branches_is_that_of_the_whole_mask(
    dtype, continued, branch_tokens, branches, monkeypatch
):
    monkeypatch.setattr("helpers.training.packing.BRANCH_TOKENS", branch_tokens)
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5], [1, 2], [1, 2, 4, 6, 7]], before=2)
    assert len(packed.branches) == branches
    if continued:
        packed = pack_continuations(packed, [[[8, 9], [8]], [[10]], [[8], [9]], [[11, 12, 13]]])
    generator, (count, seen) = torch.Generator().manual_seed(0), packed.visible.shape
    assert (sum(length for length, _ in packed.branches), sum(packed.pieces)) == (count, seen)
    shapes = [(4, count), (2, seen), (2, seen)]  # (heads, tokens) of query, key and value
    query, key, value = (
        torch.randn(1, *shape, 8, generator=generator).to(getattr(torch, dtype)) for shape in shapes
    )
    module, mask = (
        SimpleNamespace(num_key_value_groups=2, is_causal=True, training=False),
        packed.visible[None, None],
    )
    whole, parts = (
        attend_by_branches(module, query, key, value, mask, packed.pieces, branches, 0.3)[0]
        for branches in (None, cut_masks(packed))
    )
    assert parts.shape == (1, count, 4, 8) and torch.allclose(
        parts, whole, atol=1e-6 if dtype == "float32" else 2e-2
    )


def test_dropout_of_attention_is_not_lost():
    packed = pack_sequences([[1, 2, 3], [1, 2, 4]])
    module, mask = (
        SimpleNamespace(num_key_value_groups=1, is_causal=True, training=True),
        packed.visible[None, None],
    )
    query, key, value = torch.randn(3, 1, 2, 4, 8).unbind()
    plain, dropped = (
        attend_by_branches(module, query, key, value, mask, packed.pieces, cut_masks(packed), 0.3, dropout=p)[
            0
        ]
        for p in (0.0, 0.9)
    )
    assert not torch.allclose(plain, dropped)


def test_a_model_wrapped_for_several_processes_is_scored_too(tiny):
    class Wrapper(torch.nn.Module):  # as DistributedDataParallel: a device and a forward, no config
        def __init__(self, model):
            super().__init__()
            self.module, self.device = model, model.device

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    packed = pack_sequences([[7, 8, 9], [7, 8, 10]])
    with torch.inference_mode():
        plain, wrapped = (
            score_targets(model, packed, [2, 3], [20, 21])[0] for model in (tiny.model, Wrapper(tiny.model))
        )
    assert torch.equal(plain, wrapped)
