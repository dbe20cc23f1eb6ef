"""Tables whose cells have types: Parquet, Arrow, folders of `save_to_disk`, and Excel's xlsx."""

import contextlib
import glob
import importlib.util
import logging
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd

from helpers.common.arguments import shorten, state_reason
from helpers.common.errors import DamagedError, KitError, MissingPackageError, UnsupportedError
from helpers.common.files import read_json
from helpers.tasks.files.file_text import refuse_large
from helpers.tasks.files.raw_table import RawTable, as_text, list_places, name_all, refuse_twins

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, IterableDataset

NO_TEXT = {"Audio", "Image", "Video", "Pdf", "binary", "large_binary"}  # kinds of columns that are left out
BATCH = 1000  # rows that are turned into Python values together
LAST_ROW = 2**20  # of a sheet in Excel
SHEET_CELLS = 20_000_000  # that are looked at
PANDAS_INDEX = "__index_level_"  # how the columns begin in which pandas keeps its index


class Splits(TypedDict):
    """What dataset_dict.json has."""

    splits: list[str]


class SavedFile(TypedDict):
    """A file with rows."""

    filename: str


class State(TypedDict):
    """What state.json has."""

    _data_files: list[SavedFile]


def read_parquet(paths: list[Path]) -> RawTable:
    """The rows of Parquet files of one table. Nothing is written to a cache."""
    from datasets import Dataset

    names: list[Any] = [glob.escape(str(path)) for path in paths]
    import pyarrow.parquet

    with refuse_damage(paths[0]), tempfile.TemporaryDirectory() as cache:  # a lock file is left in it
        for path in paths:
            check_columns(path, pyarrow.parquet.read_schema(path))
        return read_dataset(Dataset.from_parquet(names, streaming=True, cache_dir=cache))


def check_columns(path: Path, schema: "pyarrow.Schema") -> None:
    """A KitError for a file without columns, with two of one name, or with one of an unknown type."""
    from datasets.features.features import generate_from_arrow_type

    refuse_twins(path, schema.names)
    if not schema.names:
        raise DamagedError(f"{path} has no columns.", "Copy or export it again.")
    for field in schema:
        try:
            generate_from_arrow_type(field.type)
        except ValueError:
            problem = f"{path} has a column of a type that is not read here: {field.name}, {field.type}."
            raise UnsupportedError(problem, "Save the table without it.") from None


def read_arrow(path: Path) -> RawTable:
    """The rows of an Arrow file, in the stream form of the `datasets` library or in Feather's."""
    from datasets import Dataset
    from pyarrow import ipc

    with path.open("rb") as file:
        is_feather = file.read(6) == b"ARROW1"
    with refuse_damage(path):
        opened = ipc.open_file(path) if is_feather else ipc.open_stream(path)
        with opened as table:
            check_columns(path, table.schema)
        if is_feather:
            frame = pd.read_feather(path, dtype_backend="pyarrow")
            return read_dataset(Dataset.from_pandas(frame, preserve_index=False))
        return read_dataset(Dataset.from_file(str(path)))


def read_saved(folder: Path) -> RawTable:
    """The rows of a folder that `save_to_disk` of the `datasets` library made: all, or those of one split."""
    from datasets import DatasetDict, load_from_disk

    refuse_other_files(folder)
    with refuse_damage(folder):
        found = load_from_disk(str(folder))
        if not isinstance(found, DatasetDict):
            return read_dataset(found)
        splits = list(map(str, found))
        split = choose_split(folder, splits)
        table = read_dataset(found[split])
    table.notes.append(describe_split(split, splits))
    return table


def refuse_other_files(folder: Path) -> None:
    """A DamagedError if a saved data set names files or splits that do not lie in its own folder."""
    remedy = "Copy or export it again."
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", remedy, Splits)["splits"]
        refuse_paths(folder, splits, remedy)
        parts = [folder / split for split in splits]
    for part in parts:
        if (part / "state.json").is_file():
            files = read_json(part / "state.json", remedy, State)["_data_files"]
            refuse_paths(part, [file["filename"] for file in files], remedy)


def refuse_paths(folder: Path, names: Iterable[str], remedy: str) -> None:
    """A DamagedError for a name that is a path."""
    for name in names:
        if name in (".", "..") or {"/", "\\", ":"} & set(name):
            problem = f"{folder} is damaged: it names {shorten(name)}, which is not in it."
            raise DamagedError(problem, remedy)


@contextlib.contextmanager
def refuse_damage(path: str | Path) -> Iterator[None]:
    """Turns what the libraries raise for a broken file into a DamagedError; they print nothing."""
    try:
        with silence("datasets"):
            yield
    except KitError:
        raise
    except Exception as error:  # of many kinds: Arrow's own, but also TypeError and MemoryError
        problem = f"{path} cannot be read: {state_reason(error)}."
        raise DamagedError(problem, "Copy or export it again.") from None


@contextlib.contextmanager
def silence(library: str) -> Iterator[None]:
    """Keeps a library's warnings and errors off the screen: what matters of them is raised as well."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def choose_split(folder: Path, splits: list[str]) -> str:
    """The split `train`, or the only one; UnsupportedError if there is neither."""
    if len(splits) != 1 and "train" not in splits:
        problem = f"{folder} has no split 'train' (it has {', '.join(splits)})."
        raise UnsupportedError(problem, "Give the folder or file of one split.")
    return splits[0] if len(splits) == 1 else "train"


def describe_split(split: str, splits: list[str]) -> str:
    """The note that says which split was read."""
    return f"The split '{split}' was read, one of {', '.join(splits)}."


def read_dataset(dataset: "Dataset | IterableDataset") -> RawTable:
    """The rows of a data set, as Python values; columns of bytes, pictures and sounds are left out."""
    from datasets import ClassLabel

    features = dict(dataset.features or {})
    kinds = {name: name_kind(kind) for name, kind in features.items()}
    no_text = [name for name, kind in kinds.items() if kind in NO_TEXT]
    header = [name for name in kinds if name not in no_text and not name.startswith(PANDAS_INDEX)]
    rows: list[dict[str, Any]] = []
    for batch in dataset.select_columns(header).with_format("arrow").iter(BATCH):
        table: Any = batch  # a pyarrow.Table
        table.validate(full=True)  # Arrow trusts its files: a damaged one could end the process
        rows += table.to_pylist()
    for name in (name for name in header if kinds[name] in ("float16", "float32")):
        for row in rows:
            row[name] = shorten_float(row[name])
    names = {name: list(kind.names) for name, kind in features.items() if isinstance(kind, ClassLabel)}
    notes = [f"The columns without text were left out: {name_all(no_text)}."] if no_text else []
    return RawTable(header, rows, list_places(len(rows)), notes, names)


def name_kind(feature: object) -> str:
    """The kind of a column: the type of its values, such as "float32", or a class such as "Image"."""
    kind = type(feature).__name__
    return str(getattr(feature, "dtype", kind)) if kind == "Value" else kind


def shorten_float(value: float | None) -> float | None:
    """A number of 32 bits as short as people write it: 0.1 instead of 0.10000000149011612."""
    return None if value is None else float(str(np.float32(value)))


def read_excel(path: Path) -> RawTable:
    """The first sheet of an xlsx file, each cell as text."""
    if not importlib.util.find_spec("openpyxl"):
        remedy = "Install it: pip install -c constraints.txt -e '.[xlsx]', or save the file as CSV."
        raise MissingPackageError(f"To read {path}, openpyxl is needed.", remedy)
    try:
        sheets, filled = read_first_sheet(path)
    except KitError:
        raise
    except Exception as error:  # openpyxl lets through what zipfile, its XML parser and its own checks raise
        problem = f"{path} is not a sound xlsx file: {state_reason(error)}."
        raise DamagedError(problem, "Save it again, or as CSV.") from None
    width = max((len(row) for _, row in filled), default=0)
    rows = [row + [""] * (width - len(row)) for _, row in filled]
    places = [
        f"row {number} (row {line} of the sheet)" for number, (line, _) in enumerate(filled[1:], start=1)
    ]
    notes = [f"Sheet 1 of {len(sheets)} was read: {sheets[0]}."] if len(sheets) > 1 else []
    return RawTable(rows[0] if rows else [], rows[1:], places, notes)


def read_first_sheet(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """(The names of the sheets, the rows of the first that are not blank: number and texts).

    A row ends with its last text: a space in the last cell of a sheet stands for 17 billion cells before it.
    """
    from openpyxl import load_workbook

    with zipfile.ZipFile(path) as archive:
        refuse_large(path, sum(member.file_size for member in archive.infolist()))
    book = load_workbook(path, read_only=True, data_only=True, keep_links=False)
    with contextlib.closing(book):
        sheet: Any = book.worksheets[0]
        sheet.reset_dimensions()  # what the file says about them can be anything
        filled, count = [], 0
        for line, cells in enumerate(sheet.iter_rows(max_row=LAST_ROW), start=1):
            count += len(cells)
            if count > SHEET_CELLS:
                problem = f"{path} has more than {SHEET_CELLS:,} cells, empty ones before others included."
                raise UnsupportedError(problem, "Save it as CSV.")
            texts = ["" if cell.data_type == "e" else as_text(cell.value) for cell in cells]  # e: #DIV/0!
            while texts and not texts[-1].strip():
                texts.pop()
            if texts:
                filled.append((line, texts))
        return book.sheetnames, filled
