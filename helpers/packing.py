"""Token sequences with common beginnings laid out as one sequence, in which every common part stands, and is computed, once.

The sequences form a tree (a trie): they share a segment of tokens up to where they part. A token sees the tokens before it in its own
sequence and no others. Such a tree goes through a model as one row with an attention mask and positions of its own; what comes out
at each token is what the token's whole sequence would have given, up to rounding. Branches do not see each other, so that on a CPU attention
is computed a branch at a time, and not as one square of all tokens by all tokens.
"""

import bisect
import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}  # transformers' model_type; each is held against plain computation by a test
BRANCH_TOKENS = 400  # on 2 cores up to 600 are as fast; 128, and one branch for all that begins alike, are slower by a tenth or so

Segment = tuple[Sequence[int], int | None]  # token ids, and the number of the segment that they continue


class PackedSequence(NamedTuple):
    """Sequences with common beginnings as one sequence."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,): each token's place in its own sequence
    visible: torch.Tensor  # (tokens, before + tokens), bool: which tokens (columns) each token (line) sees
    paths: list[list[int]]  # of each sequence that was given, the places of its tokens here
    pieces: list[int]  # lengths of the stretches into which the columns of `visible` fall: what came before, then one of each branch
    branches: list[tuple[int, list[int]]]  # into which the lines fall: (number of tokens, numbers of the pieces that they see)


def find_obstacle(model: torch.nn.Module) -> str | None:
    """Why packed sequences cannot go through this model, in words; None when they can."""
    config = model.config
    if config.model_type not in ARCHITECTURES:
        return f"it was not tested on the architecture '{config.model_type}'"
    if config._attn_implementation not in ("sdpa", "eager", "branches"):
        return f"attention '{config._attn_implementation}' takes no mask of its own"
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        return "the model has sliding-window attention"
    return None


def attend_branchwise(model: torch.nn.Module) -> None:
    """Lets the model compute the attention of packed sequences a branch at a time, from now on; all else it computes as before."""
    model.config._attn_implementation = "branches"


def pack_sequences(sequences: Sequence[Sequence[int]], before: int = 0) -> PackedSequence:
    """Lays out sequences of token ids as one. All of them come after `before` tokens that a cache holds already."""
    segments, owned = split_into_segments(sequences)
    lineage, starts = torch.eye(len(segments), dtype=torch.bool), []
    for number, (_, parent) in enumerate(segments):
        starts.append(before if parent is None else starts[parent] + len(segments[parent][0]))
        if parent is not None:
            lineage[number] |= lineage[parent]
    places = list(itertools.accumulate((len(tokens) for tokens, _ in segments), initial=0))
    owners = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor([len(tokens) for tokens, _ in segments]))
    positions = torch.cat([torch.arange(start, start + len(tokens)) for start, (tokens, _) in zip(starts, segments, strict=True)])
    visible = lineage[owners][:, owners] & (positions[:, None] >= positions)
    visible = torch.cat([visible.new_ones(len(visible), before), visible], dim=1)
    input_ids = torch.tensor([token for tokens, _ in segments for token in tokens])
    paths = [[place for number in numbers for place in range(places[number], places[number + 1])] for numbers in owned]
    return PackedSequence(input_ids, positions, visible, paths, *find_branches(segments, places, before))


def pack_continuations(packed: PackedSequence, groups: Sequence[Sequence[Sequence[int]]]) -> PackedSequence:
    """Lays out what may follow each sequence of `packed`, whose tokens a cache holds: groups[i] has the continuations of sequence i.

    The paths are those of all continuations, group by group. What continues sequences of one branch is a branch.
    """
    ends = list(itertools.accumulate(length for length, _ in packed.branches))
    kept = [(path[-1], pack_sequences(group)) for path, group in zip(packed.paths, groups, strict=True) if group]
    starts = list(itertools.accumulate((len(part.input_ids) for _, part in kept), initial=0))
    before = torch.cat([packed.visible[place].expand(len(part.input_ids), -1) for place, part in kept])
    pieces, branches = list(packed.pieces), []
    for number, members in itertools.groupby(kept, lambda pair: bisect.bisect(ends, pair[0])):
        length = sum(len(part.input_ids) for _, part in members)
        branches.append((length, [*packed.branches[number][1], len(pieces)]))
        pieces.append(length)
    return PackedSequence(
        torch.cat([part.input_ids for _, part in kept]),
        torch.cat([packed.positions[place] + 1 + part.positions for place, part in kept]),
        torch.cat([before, torch.block_diag(*[part.visible for _, part in kept])], dim=1),
        [[first + place for place in path] for first, (_, part) in zip(starts, kept, strict=False) for path in part.paths],
        pieces,
        branches,
    )


def find_branches(segments: list[Segment], places: list[int], before: int) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """(pieces, branches) of a PackedSequence: a part of the tree of up to BRANCH_TOKENS is one branch, a segment with more behind it another."""
    ends = list(range(1, len(segments) + 1))  # of each segment, the number after the last one that continues it
    for number, (_, parent) in reversed(list(enumerate(segments))):
        if parent is not None:
            ends[parent] = max(ends[parent], ends[number])
    pieces, branches, number, owner = [before], [], 0, {None: [0]}
    while number < len(segments):
        end = ends[number] if places[ends[number]] - places[number] <= BRANCH_TOKENS else number + 1
        owner[number] = [*owner[segments[number][1]], len(pieces)]
        pieces.append(places[end] - places[number])
        branches.append((pieces[-1], owner[number]))
        number = end
    return pieces, branches


def split_into_segments(sequences: Sequence[Sequence[int]]) -> tuple[list[Segment], list[list[int]]]:
    """(segments of the tree that the sequences form, parents first; of each sequence, the numbers of its segments in order)."""
    segments: list[Segment] = []
    owned: list[list[int]] = [[] for _ in sequences]
    branches: list[tuple[list[int], int, int | None]] = [(list(range(len(sequences))), 0, None)]  # (sequences, depth, parent)
    while branches:
        members, depth, parent = branches.pop()
        common = os.path.commonprefix([sequences[i][depth:] for i in members])
        if common:
            segments.append((common, parent))
            parent = len(segments) - 1
            for i in members:
                owned[i].append(parent)
        depth, parting = depth + len(common), {}
        for i in members:
            if len(sequences[i]) > depth:
                parting.setdefault(sequences[i][depth], []).append(i)
        branches += [(group, depth, parent) for group in reversed(parting.values())]
    return segments, owned


def score_targets(model, packed: PackedSequence, places: Sequence[int], targets: Sequence[int], cache=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities in nats, hits), both (targets,): of each target token after the token at its place, and whether it is the likeliest.

    The language-model head is computed at these places only. `model` may be wrapped, as accelerate does it for several processes.
    """
    device = model.device
    kept, index = torch.tensor(places, device=device, dtype=torch.long).unique(return_inverse=True)
    logits = model(
        input_ids=packed.input_ids[None].to(device),
        attention_mask=packed.visible[None, None].to(device),
        pieces=packed.pieces,
        branches=cut_masks(packed) if device.type == "cpu" else None,  # on a GPU one large square took 0.7 of the time
        position_ids=packed.positions[None].to(device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=kept,
    ).logits[0]
    wanted = torch.tensor(targets, device=device, dtype=torch.long)
    logits = logits.float()
    # not log_softmax: on a CPU its float32 form is off by up to 1e-5 over a large vocabulary
    return logits[index, wanted] - logits.logsumexp(-1)[index], logits.argmax(-1)[index] == wanted


def cut_masks(packed: PackedSequence) -> list[tuple[torch.Tensor, list[int]]]:
    """(mask, pieces that it covers) of each branch, as attend_by_branches takes them; once for all layers.

    A mask is (tokens, tokens of its pieces), to be added to attention scores: 0 where a token sees another, else -inf. bfloat16 holds both.
    """
    lines = torch.zeros(packed.visible.shape, dtype=torch.bfloat16).masked_fill(~packed.visible, float("-inf"))
    parts = [part.split(packed.pieces, 1) for part in lines.split([length for length, _ in packed.branches])]
    return [(torch.cat([part[i] for i in seen], 1), seen) for part, (_, seen) in zip(parts, packed.branches, strict=True)]


def attend_by_branches(module, query, key, value, attention_mask, pieces=None, branches=None, scaling=None, **kwargs) -> tuple[torch.Tensor, None]:
    """transformers' attention function for packed sequences: each branch attends to itself and to what it continues.

    `query`: (1, heads, tokens, size); `key`, `value`: (1, key heads, before + tokens, size); `branches`: of cut_masks; the result: (1, tokens,
    heads, size). Without `branches`, and with dropout, it is plain `sdpa`.
    """
    if branches is None or kwargs.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    keys, values = key.split(pieces, 2), value.split(pieces, 2)  # no slices: a slice's backward pass is as large as what it is cut from
    results = []
    for part, (mask, seen) in zip(query.split([len(mask) for mask, _ in branches], 2), branches, strict=True):
        near = [torch.cat([parts[number] for number in seen], 2) for parts in (keys, values)]
        results.append(attend_grouped(part, *near, mask.to(query.dtype), scaling))
    return torch.cat(results, 1), None


def attend_grouped(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """softmax(QK' scaling + mask) V, the query heads that share a key head as one matrix, so that keys and values are not repeated for them.

    In bfloat16 it is written out: on a CPU torch's sdpa takes nearly twice as long, its backward pass two to three times. In float32 it is
    sdpa, whose rounding is that of the plain way.
    `query`: (1, heads, n, size); `key`, `value`: (1, key heads, m, size); `mask`: (n, m), added; the result: (1, n, heads, size).
    """
    if query.dtype == torch.float32:
        return scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=True).transpose(1, 2)
    (_, heads, n, size), groups = query.shape, key.shape[1]
    scores = ((query * scaling).reshape(groups, -1, size) @ key[0].mT).view(groups, -1, n, key.shape[2])
    chances = scores.add_(mask).softmax(-1)  # which torch computes in float32 and rounds once
    return (chances.view(groups, -1, key.shape[2]) @ value[0]).view(1, heads, n, size).transpose(1, 2)


AttentionInterface.register("branches", attend_by_branches)
AttentionMaskInterface.register("branches", sdpa_mask)  # for calls that pack nothing, such as generate
