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

Most of a large mask is empty, because sequences do not see each other once they have parted, so attention is
computed without it, in two ways (helpers.training.attention).

On a CPU the row is cut into *branches*: parts of the tree whose segments follow each other in the row. A
branch attends to itself and to the branches that lead to it. If a branch may have 3 tokens, the example has
the branches `1 2`, `3` and `4 5 6`, and the last of them sees `1 2` and itself.

On a GPU each sequence is laid out again for the attention alone, along its *path*: the places of its tokens
in the row. The example has the paths 0 1 2, 0 1 3 4 and 0 1 3 5. Then attention is the usual causal one. Its
*owner* is where a token of the row takes its result from: the first path that has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypedDict

import torch

from helpers.training.token_tree import Segment, TokenTree


class BranchInputs(TypedDict):
    """A packed row as tensors, for attention by branches.

    Lines are the tokens to compute. Columns are the tokens they may see: those in the cache, then the lines.
    """

    input_ids: torch.Tensor  # (1, lines)
    positions: torch.Tensor  # (columns,): each token's position in its own sequence
    segments: torch.Tensor  # (columns,): the number of each token's segment
    continues: torch.Tensor  # (segments, segments), bool: continues[a, b] if a is b, or continues it
    branch_lengths: list[int]  # of all branches: they divide the columns, and the last ones the lines
    branch_sees: list[list[int]]  # of each branch of the lines: Branch.sees


class PathInputs(TypedDict):
    """A packed row as tensors, for attention along paths. Columns are all tokens, cached ones included."""

    input_ids: torch.Tensor  # (1, lines): the tokens to compute
    positions: torch.Tensor  # (lines,)
    paths: torch.Tensor  # (sequences, tokens of the longest): columns; 0 beyond a sequence's end
    owners: torch.Tensor  # (lines,): where a line is in the flattened paths


PackedInputs = BranchInputs | PathInputs


@dataclass(frozen=True)
class PackedSequences:
    """Sequences packed into one row. A cache may hold its first segments; only the others are computed."""

    tree: TokenTree
    cached_segments: int  # how many segments the cache holds
    routes: list[list[int]]  # of each packed sequence, the numbers of its segments that are not cached

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

    def find_columns(self) -> list[list[int]]:
        """Of each packed sequence, the columns of all its tokens, those in the cache included."""
        ends = list(accumulate(len(segment.tokens) for segment in self.tree.segments))
        columns = []
        for route in self.routes:
            path: list[int] = []
            for number in [*self.tree.list_leading(route[0]), *route]:
                path.extend(range(ends[number] - len(self.tree.segments[number].tokens), ends[number]))
            columns.append(path)
        return columns

    def to_path_inputs(self) -> PathInputs:
        """The row as tensors for attention along paths, on the CPU."""
        computed = self.tree.segments[self.cached_segments :]
        cached = sum(len(segment.tokens) for segment in self.tree.segments[: self.cached_segments])
        columns = self.find_columns()
        longest = max(map(len, columns))
        paths = torch.zeros(len(columns), longest, dtype=torch.long)
        owners = torch.zeros(self.count_tokens(), dtype=torch.long)
        for number, path in reversed(list(enumerate(columns))):  # the first owner is written last
            row = torch.tensor(path)
            paths[number, : len(path)] = row
            own = row >= cached
            owners[row[own] - cached] = number * longest + own.nonzero()[:, 0]
        return {
            "input_ids": torch.tensor([[token for segment in computed for token in segment.tokens]]),
            "positions": torch.cat([torch.arange(len(s.tokens)) + s.start for s in computed]),
            "paths": paths,
            "owners": owners,
        }

    def to_inputs(self, device: str = "cpu") -> PackedInputs:
        """The row as a model on this kind of device takes it; the tensors are on the CPU."""
        return self.to_branch_inputs() if device == "cpu" else self.to_path_inputs()

    def to_branch_inputs(self) -> BranchInputs:
        """The row as tensors for attention by branches, on the CPU."""
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
