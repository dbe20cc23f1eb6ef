"""Keys and values at fixed places: a slot for each answer, a column for each of its tokens.

A CUDA graph replays kernels on the addresses with which they were recorded, so nothing may move while graphs
are in use. Each slot begins in column 0, whatever the length of its neighbours ("-" is not in use):

    slot 0    a  b  c  -  -  -      the next token is written into column 3
    slot 1    d  e  f  g  h  -      column 5
    slot 2    i  -  -  -  -  -      column 1

A step writes the newest token of row i at column positions[i] and lets it see the columns up to there.
"""

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from helpers.generation.kv_cache import ROWS, TOKENS, list_layers


class SlotLayer(CacheLayerMixin):
    """The first rows and columns of one layer's slots, as transformers' attention uses them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor):
        super().__init__()
        self.keys = keys  # a view, (rows, heads, columns, size)
        self.values = values
        self.positions = positions  # (rows,): the column of each row's newest token
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the newest keys and values (rows, heads, 1, size) in place; returns all of these rows."""
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        places = self.positions[:, None, None, None].expand_as(key_states)
        keys.scatter_(TOKENS, places, key_states)
        values.scatter_(TOKENS, places, value_states)
        return keys, values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the tensors are there from the beginning."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns, offset), for a mask that transformers would build; a step brings its own."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """Columns. How many of them are in use differs from row to row."""
        return self.get_max_length()

    def get_max_length(self) -> int:
        """Columns."""
        assert self.keys is not None
        return self.keys.shape[TOKENS]


class SlotCache:
    """The slots of all layers: two tensors (rows, heads, columns, size) for each.

    They take 2 * layers * heads * size * bytes of a number for each row and column: half a megabyte for
    Llama-2-7B in 16 bits, so 134 MB for one answer in 256 columns and 2.1 GB for 16. Models whose query heads
    share key heads take a quarter or an eighth of it.

    Columns beyond an answer are masked, but they still count with weight 0, and 0 times "not a number" is not
    0: so they hold nothing that another answer left there.
    """

    def __init__(self):
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # keys and values; empty before `reserve`
        self.rows = 0
        self.columns = 0

    @property
    def bytes(self) -> int:
        """What the slots take."""
        return sum(states.nbytes for layer in self.layers for states in layer)

    def reserve(self, rows: int, columns: int, like: DynamicCache | None = None) -> bool:
        """Grows to so many rows and columns, with what is in them; true if the slots have moved.

        `like` is a cache of the model, whose layers show heads, sizes and number format the first time. One
        layer grows after the other, so that the old and the new slots never take memory side by side.
        """
        if rows <= self.rows and columns <= self.columns:
            return False
        rows, columns = max(rows, self.rows), max(columns, self.columns)
        if not self.layers:
            assert like is not None
            self.layers = [(keys[:0], values[:0]) for keys, values in list_layers(like)]
        for number, (keys, values) in enumerate(self.layers):
            self.layers[number] = (enlarge(keys, rows, columns), enlarge(values, rows, columns))
        self.rows, self.columns = rows, columns
        return True

    def write(self, row: int, source: DynamicCache, source_row: int, tokens: int) -> None:
        """Fills a slot with the last `tokens` columns of a row of `source`."""
        for layer, new in zip(self.layers, list_layers(source), strict=True):
            for states, new_states in zip(layer, new, strict=True):
                states[row, :, :tokens] = new_states[source_row, :, -tokens:]
                states[row, :, tokens:] = 0

    def move(self, row: int, target: int) -> None:
        """Copies a slot into another one."""
        for layer in self.layers:
            for states in layer:
                states[target] = states[row]

    def view(self, rows: int, columns: int, positions: torch.Tensor) -> Cache:
        """The first rows and columns as a cache for a step, which writes at `positions` (rows,)."""
        return Cache(
            layers=[
                SlotLayer(keys[:rows, :, :columns], values[:rows, :, :columns], positions)
                for keys, values in self.layers
            ]
        )


def enlarge(states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Keys or values with more rows and columns, zeros where nothing was."""
    _, heads, _, size = states.shape
    larger = states.new_zeros(rows, heads, columns, size)
    larger[: states.shape[ROWS], :, : states.shape[TOKENS]] = states
    return larger
