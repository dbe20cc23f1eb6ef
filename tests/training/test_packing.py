import pytest
import torch
from torch import distributed
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

from helpers.training._private import read_attention
from helpers.training.attention import (
    score_targets,
    use_packed_attention,
    why_not_packable,
)
from helpers.training.branch_attention import (
    BRANCH_ATTENTION,
    attend_by_branches,
    find_visible,
    mask_branches,
)
from helpers.training.packing import pack_continuations, pack_sequences
from helpers.training.token_tree import Branch


def mask_all(inputs):
    """(1, 1, lines, columns), bool: which tokens each line sees."""
    lines = slice(-inputs["input_ids"].shape[1], None)
    segments, positions = inputs["segments"], inputs["positions"]
    return find_visible(inputs["continues"], segments[lines], positions[lines], segments, positions)[
        None, None
    ]


def list_visible(packed):
    """Which tokens each token of a packed row sees, as rows of 0 and 1."""
    return mask_all(packed.to_inputs())[0, 0].int().tolist()


def score_last_tokens(model, packed, targets):
    """The log-probability of a target after the end of each packed sequence."""
    places = [path[-1] for path in packed.find_paths()]
    with torch.no_grad():
        return score_targets(model, packed.to_inputs(), places, targets)


def test_sequences_become_the_tree_that_the_module_draws(monkeypatch):
    monkeypatch.setattr("helpers.training.token_tree.BRANCH_TOKENS", 3)
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 6]])
    segments = [(list(tokens), parent) for tokens, parent, _ in packed.tree.segments]
    assert segments == [([1, 2], None), ([3], 0), ([4], 0), ([5], 2), ([6], 2)]
    assert packed.tree.branches == [Branch(2, [0]), Branch(1, [0, 1]), Branch(3, [0, 2])]
    inputs = packed.to_inputs()
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]
    assert inputs["positions"].tolist() == [0, 1, 2, 2, 3, 3]
    assert list_visible(packed) == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 0, 1],
    ]


def test_sequences_may_end_inside_others_and_share_nothing():
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5, 6], [1, 2, 4, 5], [7]])
    inputs = packed.to_inputs()
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert inputs["positions"].tolist() == [0, 1, 2, 2, 3, 4, 0]
    assert packed.find_paths() == [[0, 1, 2], [0, 1, 3, 4, 5], [0, 1, 3, 4], [6]]
    assert list_visible(packed)[5:] == [[1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1]]


def test_cached_prefix_comes_before_all_sequences_and_is_seen_by_all():
    packed = pack_sequences([[3], [3, 4], [3]], cached_prefix=[1, 2])
    inputs = packed.to_inputs()
    assert inputs["input_ids"].tolist() == [[3, 4]] and packed.count_tokens() == 2
    assert inputs["positions"].tolist() == [0, 1, 2, 3]
    assert packed.find_paths() == [[0], [0, 1], [0]]
    assert list_visible(packed) == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_continuations_see_their_own_sequence_and_each_other_s_shared_tokens():
    packed = pack_sequences([[1, 2], [1, 3], [4]])
    continued = pack_continuations(packed, [[[8, 9], [8]], [], [[8]]])
    inputs = continued.to_inputs()
    assert inputs["input_ids"].tolist() == [[8, 9, 8]] and continued.count_tokens() == 3
    assert inputs["positions"].tolist() == [0, 1, 1, 0, 2, 3, 1]
    assert continued.find_paths() == [[0, 1], [0], [2]]
    assert list_visible(continued) == [  # columns: 1 2 3 4 of the sequences, 8 9 8 that continue them
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 0, 1],
    ]
    assert len(packed.tree.segments) == 4  # packing what follows does not change what came before


def test_continuations_of_one_branch_are_one_branch():
    packed = pack_sequences([[1, 2], [1, 3], [4]])
    assert packed.tree.branches == [Branch(3, [0]), Branch(1, [1])]
    continued = pack_continuations(packed, [[[8, 9]], [[8], [9]], [[8]]])
    assert continued.tree.branches[2:] == [Branch(4, [0, 2]), Branch(1, [1, 3])]


def test_scores_are_those_of_each_whole_sequence(tiny):
    sequences = [[7, 8, 9, 10, 11], [7, 8, 9, 12], [7, 8, 9, 12, 13], [30, 31]]
    targets = [20, 21, 22, 23]
    scores = score_last_tokens(tiny.model, pack_sequences(sequences), targets)
    for score, ids, target in zip(scores, sequences, targets, strict=True):
        alone = tiny.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert score.item() == pytest.approx(alone[target].item(), abs=1e-5)


def test_a_place_may_have_several_targets_or_none(tiny):
    inputs = pack_sequences([[7, 8]]).to_inputs()
    with torch.inference_mode():
        alone = tiny.model(torch.tensor([[7, 8]])).logits[0].log_softmax(-1)
        scores = score_targets(tiny.model, inputs, [1, 0, 1], [5, 6, 7])
        expected = [alone[1, 5].item(), alone[0, 6].item(), alone[1, 7].item()]
        assert scores.tolist() == pytest.approx(expected, abs=1e-5)
        assert score_targets(tiny.model, inputs, [], []).shape == (0,)


def test_the_whole_mask_which_a_gpu_gets_gives_the_same_scores(tiny):
    packed = pack_sequences([[7, 8, 9, 10], [7, 8, 12]])
    inputs = packed.to_inputs()
    with torch.no_grad():
        logits = tiny.model(
            inputs["input_ids"], attention_mask=mask_all(inputs), position_ids=inputs["positions"][None]
        ).logits
    ends = [path[-1] for path in packed.find_paths()]
    expected = logits[0].log_softmax(-1)[ends, [20, 21]]
    assert score_last_tokens(tiny.model, packed, [20, 21]).tolist() == pytest.approx(
        expected.tolist(), abs=1e-5
    )


def test_unknown_architectures_sliding_windows_and_attention_without_masks_are_not_packable(tiny):
    assert why_not_packable(tiny.model) is None
    tiny.model.config.sliding_window = 16  # Mistral's, which says nothing of layers
    assert why_not_packable(tiny.model, 16) is None and "sliding" in why_not_packable(tiny.model, 17)
    tiny.model.config.layer_types = ["full_attention", "full_attention"]
    assert why_not_packable(tiny.model, 17) is None
    tiny.model.config.layer_types = ["sliding_attention", "full_attention"]
    assert "sliding" in why_not_packable(tiny.model, 17)
    tiny.model.set_attn_implementation("flex_attention")
    assert "flex_attention" in why_not_packable(tiny.model)
    tiny.model.config.model_type = "olmo"
    assert "'olmo'" in why_not_packable(tiny.model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_keeps_the_attention_that_it_had(tiny, attention):
    tiny.model.set_attn_implementation(attention)
    packed = pack_sequences([[7, 8, 9], [7, 8, 10]])
    scores = score_last_tokens(tiny.model, packed, [20, 21])
    assert read_attention(tiny.model) == attention
    alone = tiny.model(torch.tensor([[7, 8, 10]])).logits[0, -1].log_softmax(-1)
    assert scores[1].item() == pytest.approx(alone[21].item(), abs=1e-5)


def test_attention_is_restored_after_an_error_and_by_the_outer_of_two_blocks(tiny):
    with pytest.raises(ZeroDivisionError), use_packed_attention(tiny.model):
        with use_packed_attention(tiny.model):
            pass
        assert read_attention(tiny.model) == BRANCH_ATTENTION
        raise ZeroDivisionError
    assert read_attention(tiny.model) == "sdpa"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize(("branch_tokens", "branches"), [(0, 5), (4, 3), (400, 1)])
def test_attention_by_branches_is_that_of_the_whole_mask(
    dtype, continued, branch_tokens, branches, monkeypatch
):
    monkeypatch.setattr("helpers.training.token_tree.BRANCH_TOKENS", branch_tokens)
    packed = pack_sequences([[1, 2, 3], [1, 2, 4, 5], [1, 2], [1, 2, 4, 6, 7]], cached_prefix=[98, 99])
    assert len(packed.tree.branches) == 1 + branches  # the prefix is a branch too
    if continued:
        packed = pack_continuations(packed, [[[8, 9], [8]], [[10]], [[8], [9]], [[11, 12, 13]]])
    inputs = packed.to_inputs()
    lines, columns = packed.count_tokens(), len(inputs["positions"])
    assert sum(inputs["branch_lengths"]) == columns
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, lines, 8, generator=generator).to(dtype)
    key = torch.randn(1, 2, columns, 8, generator=generator).to(dtype)
    value = torch.randn(1, 2, columns, 8, generator=generator).to(dtype)
    whole = scaled_dot_product_attention(query, key, value, mask_all(inputs), scale=0.3, enable_gqa=True)
    masks = mask_branches(inputs)
    parts, _ = attend_by_branches(torch.nn.Module(), query, key, value, None, branch_masks=masks, scaling=0.3)
    assert parts.shape == (1, lines, 4, 8)
    assert torch.allclose(parts, whole.transpose(1, 2), atol=1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_attention_is_not_lost(dtype):
    torch.manual_seed(0)
    masks = mask_branches(pack_sequences([[1, 2, 3], [1, 2, 4]]).to_inputs())
    query, key, value = torch.randn(3, 1, 2, 4, 8).to(dtype).unbind()
    results = []
    for dropout in (0.0, 0.9):
        result, _ = attend_by_branches(
            torch.nn.Module(), query, key, value, None, branch_masks=masks, scaling=0.3, dropout=dropout
        )
        results.append(result)
    assert results[0].shape == results[1].shape and not torch.allclose(results[0], results[1])


def test_a_model_wrapped_for_several_processes_is_scored_too(tiny):
    packed = pack_sequences([[7, 8, 9], [7, 8, 10]])
    alone = score_last_tokens(tiny.model, packed, [20, 21])
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(tiny.model)
        assert torch.equal(score_last_tokens(wrapped, packed, [20, 21]), alone)
    finally:
        distributed.destroy_process_group()
