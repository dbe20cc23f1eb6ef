"""Token sequences that begin alike as a tree (a trie) of segments, cut into branches.

The module helpers.training.packing draws an example and makes use of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

# On 2 cores, limits up to 600 are as fast; 128, and no limit at all, are slower by about a tenth.
BRANCH_TOKENS = 400


class Segment(NamedTuple):
    """A stretch of tokens that the same sequences share."""

    tokens: Sequence[int]
    parent: int | None  # number of the segment that it continues
    start: int  # position of its first token


class Branch(NamedTuple):
    """A part of the tree whose attention is computed at once."""

    length: int  # tokens
    sees: list[int]  # numbers of the branches that its tokens see: those that lead to it, then its own


@dataclass
class TokenTree:
    """Sequences as a tree of segments, and the segments grouped into branches."""

    segments: list[Segment] = field(default_factory=list)  # in the order of the row, parents before children
    branches: list[Branch] = field(default_factory=list)  # in the order of the row
    branch_of: list[int] = field(default_factory=list)  # of each segment, the number of its branch

    def copy(self) -> "TokenTree":
        """A tree that can grow without changing this one."""
        return TokenTree(list(self.segments), list(self.branches), list(self.branch_of))

    def add_segment(self, segment: Segment) -> int:
        """Adds a segment; returns its number."""
        self.segments.append(segment)
        return len(self.segments) - 1

    def add_sequences(self, sequences: Sequence[Sequence[int]], parent: int | None) -> list[list[int]]:
        """Adds sequences that continue the segment `parent`; returns the numbers of each one's new segments.

        The new segments do not belong to a branch yet (see add_branch).
        """
        routes: list[list[int]] = [[] for _ in sequences]
        start = 0 if parent is None else self.segments[parent].start + len(self.segments[parent].tokens)

        def grow(members: list[int], depth: int, parent: int | None) -> None:
            """Adds what these sequences share from their token `depth` on, then, group by group, the rest."""
            shared = count_shared([sequences[member] for member in members], depth)
            if shared:
                tokens = sequences[members[0]][depth : depth + shared]
                parent = self.add_segment(Segment(tokens, parent, start + depth))
                for member in members:
                    routes[member].append(parent)
            for group in group_by_token(sequences, members, depth + shared):
                grow(group, depth + shared, parent)

        grow(list(range(len(sequences))), 0, parent)
        return routes

    def add_branch(self, first: int, end: int) -> None:
        """Makes a branch of the segments from `first` to `end` (exclusive).

        The branch sees itself and the branches that lead to its first segment. Its other segments must
        continue the first one, or the branch that the first one continues.
        """
        number = len(self.branches)
        parent = self.segments[first].parent
        leading = [] if parent is None else self.branches[self.branch_of[parent]].sees
        length = sum(len(segment.tokens) for segment in self.segments[first:end])
        self.branches.append(Branch(length, [*leading, number]))
        self.branch_of.extend([number] * (end - first))

    def cut_into_branches(self) -> None:
        """Makes branches of the segments that do not belong to one yet.

        A segment and all that continues it are one branch if they have at most BRANCH_TOKENS tokens together.
        Otherwise the segment alone is a branch, and what continues it is cut by the same rule.
        """
        first = len(self.branch_of)
        # Of each segment with all that continues it: the number of tokens, and of the segment after its last.
        sizes = [len(segment.tokens) for segment in self.segments]
        ends = list(range(1, len(self.segments) + 1))
        for number in reversed(range(first, len(self.segments))):
            parent = self.segments[number].parent
            if parent is not None:
                sizes[parent] += sizes[number]
                ends[parent] = max(ends[parent], ends[number])
        while first < len(self.segments):
            end = ends[first] if sizes[first] <= BRANCH_TOKENS else first + 1
            self.add_branch(first, end)
            first = end

    def list_leading(self, number: int) -> list[int]:
        """The segments that lead to segment `number`, the first one first."""
        leading: list[int] = []
        parent = self.segments[number].parent
        while parent is not None:
            leading.append(parent)
            parent = self.segments[parent].parent
        return leading[::-1]

    def relate_segments(self) -> torch.Tensor:
        """BranchInputs.continues: a segment continues itself, and all that its parent continues."""
        continues = torch.eye(len(self.segments), dtype=torch.bool)
        for number, segment in enumerate(self.segments):
            if segment.parent is not None:
                continues[number] |= continues[segment.parent]
        return continues


def count_shared(sequences: Sequence[Sequence[int]], start: int = 0) -> int:
    """How many tokens, from token `start` on, are the same in all sequences."""
    first = sequences[0]
    end = min(len(sequence) for sequence in sequences)
    for other in sequences[1:]:
        place = start
        while place < end and other[place] == first[place]:
            place += 1
        end = place
    return end - start


def group_by_token(sequences: Sequence[Sequence[int]], members: list[int], depth: int) -> list[list[int]]:
    """The members that have a token at `depth`, grouped by that token, in the order of first appearance."""
    groups: dict[int, list[int]] = {}
    for member in members:
        if len(sequences[member]) > depth:
            groups.setdefault(sequences[member][depth], []).append(member)
    return list(groups.values())
