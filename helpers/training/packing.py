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

BRANCH_TOKENS = 400  # on 2 cores up to 600 are as fast; 128, and one branch for all that begins alike, are slower by a tenth or so


Segment = tuple[Sequence[int], int | None]  # token ids, and the number of the segment that they continue


class PackedSequence(NamedTuple):
    """Sequences with common beginnings as one sequence."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,): each token's place in its own sequence
    visible: torch.Tensor  # (tokens, before + tokens), bool: which tokens (columns) each token (line) sees
    paths: list[list[int]]  # of each sequence that was given, the places of its tokens here
    pieces: list[
        int
    ]  # lengths of the stretches into which the columns of `visible` fall: what came before, then one of each branch
    branches: list[
        tuple[int, list[int]]
    ]  # into which the lines fall: (number of tokens, numbers of the pieces that they see)


def pack_sequences(sequences: Sequence[Sequence[int]], before: int = 0) -> PackedSequence:
    """Lays out sequences of token ids as one. All of them come after `before` tokens that a cache holds already."""
    segments, owned = split_into_segments(sequences)
    lineage, starts = torch.eye(len(segments), dtype=torch.bool), []
    for number, (_, parent) in enumerate(segments):
        starts.append(before if parent is None else starts[parent] + len(segments[parent][0]))
        if parent is not None:
            lineage[number] |= lineage[parent]
    places = list(itertools.accumulate((len(tokens) for tokens, _ in segments), initial=0))
    owners = torch.repeat_interleave(
        torch.arange(len(segments)), torch.tensor([len(tokens) for tokens, _ in segments])
    )
    positions = torch.cat(
        [
            torch.arange(start, start + len(tokens))
            for start, (tokens, _) in zip(starts, segments, strict=True)
        ]
    )
    visible = lineage[owners][:, owners] & (positions[:, None] >= positions)
    visible = torch.cat([visible.new_ones(len(visible), before), visible], dim=1)
    input_ids = torch.tensor([token for tokens, _ in segments for token in tokens])
    paths = [
        [place for number in numbers for place in range(places[number], places[number + 1])]
        for numbers in owned
    ]
    return PackedSequence(input_ids, positions, visible, paths, *find_branches(segments, places, before))


def pack_continuations(packed: PackedSequence, groups: Sequence[Sequence[Sequence[int]]]) -> PackedSequence:
    """Lays out what may follow each sequence of `packed`, whose tokens a cache holds: groups[i] has the continuations of sequence i.

    The paths are those of all continuations, group by group. What continues sequences of one branch is a branch.
    """
    ends = list(itertools.accumulate(length for length, _ in packed.branches))
    kept = [
        (path[-1], pack_sequences(group)) for path, group in zip(packed.paths, groups, strict=True) if group
    ]
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
        [
            [first + place for place in path]
            for first, (_, part) in zip(starts, kept, strict=False)
            for path in part.paths
        ],
        pieces,
        branches,
    )


def find_branches(
    segments: list[Segment], places: list[int], before: int
) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """(pieces, branches) of a PackedSequence: a part of the tree of up to BRANCH_TOKENS is one branch, a segment with more behind it another."""
    ends = list(
        range(1, len(segments) + 1)
    )  # of each segment, the number after the last one that continues it
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
    branches: list[tuple[list[int], int, int | None]] = [
        (list(range(len(sequences))), 0, None)
    ]  # (sequences, depth, parent)
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
