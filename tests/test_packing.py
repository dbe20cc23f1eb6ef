import pytest
import torch

from helpers.packing import find_obstacle, pack_segments, score_targets


def test_segments_see_themselves_and_what_they_continue():
    packed = pack_segments([([1, 2], None), ([3], 0), ([4, 5], 0), ([6], 2)])
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.positions.tolist() == [0, 1, 2, 2, 3, 4]
    assert packed.ends == [1, 2, 4, 5]
    assert packed.visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 1],
    ]  # fmt: skip


def test_tokens_in_a_cache_come_before_and_are_seen_by_all():
    packed = pack_segments([([3], None), ([], 0), ([4], 0)], before=2)
    assert packed.positions.tolist() == [2, 3] and packed.ends == [0, 0, 1]
    assert packed.visible.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_scores_are_those_of_each_whole_sequence(tiny):
    packed = pack_segments([([7, 8, 9], None), ([10, 11], 0), ([12], 0)])
    with torch.inference_mode():
        scores, hits = score_targets(tiny.model, packed, packed.ends[1:], [20, 21])
        for score, hit, ids, target in zip(scores, hits, ([7, 8, 9, 10, 11], [7, 8, 9, 12]), (20, 21), strict=True):
            alone = tiny.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            assert score.item() == pytest.approx(alone[target].item(), abs=1e-5)
            assert hit.item() == (alone.argmax() == target)


def test_sliding_windows_attention_without_masks_and_unknown_architectures_are_obstacles(tiny):
    assert find_obstacle(tiny.model) is None
    tiny.model.config.layer_types = ["sliding_attention", "full_attention"]
    assert "sliding" in find_obstacle(tiny.model)
    tiny.model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in find_obstacle(tiny.model)
    tiny.model.config.model_type = "olmo"
    assert "'olmo'" in find_obstacle(tiny.model)
