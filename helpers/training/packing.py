"""Token sequences that begin alike, packed into one row that has, and computes, each shared part only once.

The sequences form a tree (a trie). Its nodes are *segments*, stretches of tokens that belong to the same
sequences:

    three sequences      their tree                  its segments

    1 2 3                1 2 ─┬─ 3                   0: tokens 1 2
    1 2 4 5                   └─ 4 ─┬─ 5             1: token 3, continues segment 0
    1 2 4 6                         └─ 6             2: token 4, continues segment 0
                                                     3: token 5, continues segment 2
                                                     4: token 6, continues segment 2

The packed row consists of the segments, one after the other. A token keeps the position that it has in its
own sequence. It sees (x) itself and the tokens that come before it in its own sequence:

    place in the row     0 1 2 3 4 5
    token                1 2 3 4 5 6
    position             0 1 2 2 3 3

    token 1 sees         x
    token 2              x x
    token 3              x x x
    token 4              x x . x
    token 5              x x . x x
    token 6              x x . x . x

With these positions and this mask the row goes through a model in one pass. What comes out at a token is what
the token's own sequence would have given, up to rounding.

Most of a large mask is empty, because sequences do not see each other once they have parted. So the row is
also cut into *branches*: parts of the tree whose segments follow each other in the row. On a CPU, attention
is computed one branch at a time (helpers.training.attention). A branch attends to itself and to the branches
that lead to it. If a branch may have 3 tokens, the example has the branches `1 2`, `3` and `4 5 6`, and the
last of them sees `1 2` and itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

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


class PackedInputs(TypedDict):
    """What a model needs to compute a packed row (helpers.training.attention).

    Lines are the tokens to compute. Columns are the tokens they may see: those in the cache, then the lines.
    """

    input_ids: torch.Tensor  # (1, lines)
    positions: torch.Tensor  # (columns,): each token's position in its own sequence
    segments: torch.Tensor  # (columns,): the number of each token's segment
    continues: torch.Tensor  # (segments, segments), bool: continues[a, b] if a is b, or continues it
    branch_lengths: list[int]  # of all branches: they divide the columns, and the last ones the lines
    branch_sees: list[list[int]]  # of each branch of the lines: Branch.sees


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

    def relate_segments(self) -> torch.Tensor:
        """PackedInputs.continues: a segment continues itself, and all that its parent continues."""
        continues = torch.eye(len(self.segments), dtype=torch.bool)
        for number, segment in enumerate(self.segments):
            if segment.parent is not None:
                continues[number] |= continues[segment.parent]
        return continues


@dataclass(frozen=True)
class PackedSequences:
    """Sequences packed into one row. A cache may hold its first segments; the others are to be computed."""

    tree: TokenTree
    cached_segments: int  # how many segments the cache holds
    routes: list[list[int]]  # of each packed sequence, the numbers of its segments that are to be computed

    def count_tokens(self) -> int:
        """Number of tokens to compute."""
        return sum(len(segment.tokens) for segment in self.tree.segments[self.cached_segments :])

    def find_paths(self) -> list[list[int]]:
        """Of each packed sequence, the places of its tokens among the tokens to compute."""
        places: dict[int, range] = {}  # of each segment's tokens
        end = 0
        for number in range(self.cached_segments, len(self.tree.segments)):
            start = end
            end = start + len(self.tree.segments[number].tokens)
            places[number] = range(start, end)
        paths = []
        for route in self.routes:
            path: list[int] = []
            for number in route:
                path.extend(places[number])
            paths.append(path)
        return paths

    def to_inputs(self) -> PackedInputs:
        """The row as tensors, on the CPU."""
        tokens: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        for number, segment in enumerate(self.tree.segments):
            length = len(segment.tokens)
            positions.extend(range(segment.start, segment.start + length))
            owners.extend([number] * length)
            if number >= self.cached_segments:
                tokens.extend(segment.tokens)
        first_branch = self.tree.branch_of[self.cached_segments]
        return {
            "input_ids": torch.tensor([tokens]),
            "positions": torch.tensor(positions),
            "segments": torch.tensor(owners),
            "continues": self.tree.relate_segments(),
            "branch_lengths": [branch.length for branch in self.tree.branches],
            "branch_sees": [branch.sees for branch in self.tree.branches[first_branch:]],
        }


def pack_sequences(sequences: Sequence[Sequence[int]], cached_prefix: Sequence[int] = ()) -> PackedSequences:
    """Packs sequences of token ids. All of them continue `cached_prefix`, which a cache holds already."""
    tree = TokenTree()
    root = None
    if cached_prefix:
        root = tree.add_segment(Segment(cached_prefix, parent=None, start=0))
        tree.add_branch(root, root + 1)
    cached_segments = len(tree.segments)
    routes = tree.add_sequences(sequences, root)
    tree.cut_into_branches()
    return PackedSequences(tree, cached_segments, routes)


def pack_continuations(packed: PackedSequences, groups: Sequence[Sequence[Sequence[int]]]) -> PackedSequences:
    """Packs what may follow the sequences of `packed`, all of whose tokens a cache holds by now.

    `groups[i]` has the continuations of sequence i; at least one group is not empty. The result's routes are
    those of all continuations, group after group.
    """
    tree = packed.tree.copy()
    cached_segments = len(tree.segments)
    routes: list[list[int]] = []
    # Groups are small. Consecutive ones that continue the same branch form one branch together.
    pending = cached_segments  # the first segment that does not belong to a branch yet
    continued = None  # number of the branch that the pending segments continue
    for route, group in zip(packed.routes, groups, strict=True):
        if not group:
            continue
        first, parent = len(tree.segments), route[-1]
        if pending < first and tree.branch_of[parent] != continued:
            tree.add_branch(pending, first)
            pending = first
        continued = tree.branch_of[parent]
        routes.extend(tree.add_sequences(group, parent))
    tree.add_branch(pending, len(tree.segments))
    return PackedSequences(tree, cached_segments, routes)


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
