"""Any file with a table in it -> columns and rows. Nothing is decided about what they mean."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.common.errors import DamagedError, ResourceError, UnsupportedError
from helpers.common.paths import find_file
from helpers.common.values import check_kind, check_path
from helpers.tasks.files.columnar import read_arrow, read_excel, read_parquet
from helpers.tasks.files.delimited import read_delimited
from helpers.tasks.files.file_text import ZIP, is_excel, read_text
from helpers.tasks.files.folders import read_folder
from helpers.tasks.files.json_rows import read_json_rows, refuse_half_characters
from helpers.tasks.files.raw_table import RawTable, as_text, name_all, refuse_twins

PANDAS_INDEX = "Unnamed: 0"  # what pandas names the index column when it reads its own CSV

MOST_CELLS = 100_000_000  # of a table: about 5 GB of memory
FEW_CELLS, SPARSE = 1_000_000, 100  # beyond them, one cell in so many must be filled


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file."""

    path: Path
    columns: list[str]
    rows: list[dict[str, Any]]  # each has every column; a cell is text, or a list or dict of JSON
    places: list[str]  # where each row is in the file: "row 7 (line 9)"
    notes: list[str] = field(default_factory=list)  # what was found out, a sentence each
    label_names: dict[str, list[str]] = field(default_factory=dict)  # column -> what its 0, 1 ... mean


def read_table(path: str | Path, columns: Collection[str] = ()) -> Table:
    """The table in a file or in a data set's folder, whatever its format, separator and encoding.

    `columns` are names that the table should have: they help to find the separator, and an error about an
    empty file names them. Raises NotFoundError, DamagedError (with the row and the line), UnsupportedError
    and MissingPackageError.
    """
    check_path("The table", path)
    check_kind("columns", columns, Collection, "a list of names")
    try:
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            problem = f"{path} is a device, a pipe or a socket, not a file on a disk."
            raise UnsupportedError(problem, "Copy what it gives into a file.")
    except (OSError, ValueError):  # it is elsewhere, or no name at all: find_file says which
        pass
    try:
        found = find_file(path, "table", or_folder=True)
        raw = read_raw(found, columns)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror or ' '.join(str(error).split())}."
        raise DamagedError(problem, "Check the file and its permissions.") from None
    except MemoryError:
        problem = f"{path} does not fit into this machine's memory."
        raise ResourceError(problem, "Give a part of the table.") from None
    return build_table(found, raw, columns)


def read_raw(path: Path, columns: Collection[str]) -> RawTable:
    """What the reader for this folder or file makes of it."""
    if path.is_dir():
        return read_folder(path, lambda file: read_raw(file, columns))
    with path.open("rb") as file:
        start = file.read(6)
    if start[:4] == b"PAR1":
        return read_parquet([path])
    if start == b"ARROW1" or start[:4] == b"\xff\xff\xff\xff":
        return read_arrow(path)
    if start[:4] == ZIP and is_excel(path):
        return read_excel(path)
    text, notes = read_text(path)
    table = read_json_rows(path, text)
    if table:
        refuse_half_characters(path, text, table)
    else:
        table = read_delimited(path, text, columns)
    table.notes[:0] = notes
    return table


def build_table(path: Path, raw: RawTable, columns: Collection[str]) -> Table:
    """The table with checked names. Raises DamagedError if it has no rows, or names that cannot be right."""
    if not raw.rows:
        problem = f"{path} has a header and no rows." if raw.header else f"{path} is empty."
        wanted = f"Give a table with the columns {', '.join(columns)}." if columns else "Add rows to it."
        raise DamagedError(problem, wanted)
    refuse_many_cells(path, raw)
    names, notes = name_columns(path, raw)
    if not names:
        raise DamagedError(f"{path} has no named column.", "Write the names of the columns in the first row.")
    if isinstance(raw.rows[0], dict):
        keys = {name: raw.header[at] for at, name in names.items()}
        rows = [{name: as_cell(row.get(key)) for name, key in keys.items()} for row in raw.rows]
    else:
        rows = [{name: row[at] for at, name in names.items()} for row in raw.rows]
    known = [(name, raw.label_names.get(raw.header[at])) for at, name in names.items()]
    label_names = {name: meanings for name, meanings in known if meanings}
    return Table(path, list(names.values()), rows, raw.places, raw.notes + notes, label_names)


def refuse_many_cells(path: Path, raw: RawTable) -> None:
    """An UnsupportedError for a table with more cells than fit into memory, nearly all empty or not."""
    cells = len(raw.header) * len(raw.rows)
    if cells <= FEW_CELLS:
        return
    is_sparse = isinstance(raw.rows[0], dict) and sum(map(len, raw.rows)) < cells / SPARSE
    if cells > MOST_CELLS or is_sparse:
        problem = f"{path} has {len(raw.rows):,} rows and {len(raw.header):,} columns, which is too large."
        reason = "Nearly every row has names of its own: give all rows the same. " if is_sparse else ""
        raise UnsupportedError(problem, reason + "Leave out columns that no template needs.")


def name_columns(path: Path, raw: RawTable) -> tuple[dict[int, str], list[str]]:
    """({position in the header: name of the column}, notes).

    Raises DamagedError for a missing or repeated name. A column without a name is left out if it is the
    first one, which numbers the rows, or if it is empty.
    """
    written = [as_text(name) for name in raw.header]
    names = {at: name.strip() for at, name in enumerate(written)}
    notes = []
    if names and names[0] in ("", PANDAS_INDEX):
        del names[0]
        notes.append("The first column has no name and was left out: it seems to number the rows.")
    for at in [at for at, name in names.items() if not name]:
        if not is_empty(raw, at):
            remedy = "Name it; the first row must hold the names of the columns."
            raise DamagedError(f"Column {at + 1} of {path} has no name.", remedy)
        del names[at]
    refuse_twins(path, names.values())
    trimmed = [name for at, name in names.items() if name != written[at]]
    if trimmed:
        notes.append(f"Spaces around names of columns were removed: {name_all(trimmed)}.")
    return names, notes


def is_empty(raw: RawTable, at: int) -> bool:
    """True if every cell of the column at this position is empty."""
    if isinstance(raw.rows[0], dict):
        return not any(as_text(row.get(raw.header[at])).strip() for row in raw.rows)
    return not any(row[at].strip() for row in raw.rows)


def as_cell(value: object) -> Any:
    """A cell of JSON: lists and objects stay, everything else becomes text."""
    return value if isinstance(value, list | dict) else as_text(value)
