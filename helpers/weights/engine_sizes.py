"""How the engine divides its work (helpers.generation): the slots of answers and the chunks of prompts.

The sizes are here because the estimates of memory need them too.
"""

import math

# Tokens of a long prompt that are read in one pass, by the type of the device; enough to keep it busy.
CHUNK = {"cpu": 256}
CHUNK_ELSEWHERE = 1024
# Columns of slots: powers of two between these, and then multiples of the second.
MIN_COLUMNS = 256
MAX_COLUMN_STEP = 4096
COLUMN_ALIGNMENT = 16  # attention kernels want masks of so many columns, or a multiple


def round_up_rows(rows: int) -> int:
    """The next power of two: 1, 2, 4, 8, 16."""
    return 1 << (rows - 1).bit_length()


def round_up_columns(length: int, context: int) -> int:
    """Columns for sequences of that length: 256, 512, 1024, 2048, 4096, 8192, 12288, ... within context."""
    step = min(max(MIN_COLUMNS, 1 << (length - 1).bit_length()), MAX_COLUMN_STEP)
    limit = math.ceil(context / COLUMN_ALIGNMENT) * COLUMN_ALIGNMENT
    return min(math.ceil(length / step) * step, limit)


def count_chunk_tokens(device: str) -> int:
    """Tokens of a chunk on a device of this type."""
    return CHUNK.get(device, CHUNK_ELSEWHERE)
