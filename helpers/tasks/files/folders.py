"""Folders with data files, such as a clone of a data set's repository on the hub."""

import glob
import importlib
import os
from collections.abc import Callable
from pathlib import Path

from helpers.common.arguments import cut, shorten
from helpers.common.errors import UnsupportedError
from helpers.tasks._private import match_files
from helpers.tasks.files.cards import read_patterns
from helpers.tasks.files.columnar import choose_split, describe_split, read_parquet, read_saved, silence
from helpers.tasks.files.raw_table import RawTable, name_all

REMEDY = "Give a file, or a folder with the data files of one table (CSV, JSON or Parquet)."
SUFFIXES = {  # of the files of each kind of folder
    "csv": {".csv", ".tsv", ".zip"},
    "json": {".json", ".jsonl", ".ndjson", ".zip"},
    "parquet": {".parquet"},
    "arrow": {".arrow"},
}


def read_folder(folder: Path, read_file: Callable[[Path], RawTable]) -> RawTable:
    """The rows of a data set's folder; those of the split `train` if it has several.

    `read_file` reads one file. Raises UnsupportedError for a folder that is not a data set.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return read_saved(folder)
    files, others = find_data_files(folder)
    split = choose_split(folder, list(files))
    paths = files[split]
    if all(path.suffix == ".parquet" for path in paths):
        table = read_parquet(paths)
    else:
        table = join_tables(folder, paths, [read_file(path) for path in paths])
    if len(files) > 1:
        table.notes.append(describe_split(split, list(files)))
    if others:
        table.notes.append(
            f"Files of another format were left out: {name_all(path.name for path in others)}."
        )
    return table


def find_data_files(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """(Split -> its files, tables of another format that lie beside them).

    The rules are those of the hub: the card's YAML, or the names of files and folders.
    """
    importlib.import_module("datasets")  # what fails here is not the fault of the folder
    refuse_chains(folder)
    patterns = read_patterns(folder)
    try:
        with silence("huggingface_hub"):
            kind, found = match_files(folder, patterns)
    except Exception as error:  # of many kinds: those of its file systems, too
        reason = " ".join(str(error).split()).replace(glob.escape(str(folder.resolve())), str(folder))
        problem = f"{folder} cannot be read as a data set: {cut(reason, 300).rstrip('. ')}."
        raise UnsupportedError(problem, REMEDY) from None
    fitting = {
        split: [path for path in paths if not SUFFIXES[kind].isdisjoint(map(str.lower, path.suffixes))]
        for split, paths in (found.items() if kind in SUFFIXES else ())
    }
    fitting = {split: paths for split, paths in fitting.items() if paths}
    if not fitting:
        raise UnsupportedError(f"{folder} holds no table.", REMEDY)
    of_tables = set().union(*SUFFIXES.values())
    others = [path for paths in found.values() for path in paths if path.suffix.lower() in of_tables]
    return fitting, [path for path in others if path not in sum(fitting.values(), [])]


def refuse_chains(folder: Path) -> None:
    """An UnsupportedError for a name with ::, which libraries take for an address elsewhere.

    Raises an OSError for a folder that cannot be looked into.
    """

    def fail(error: OSError) -> None:
        raise error

    names = (name for _, folders, files in os.walk(folder, onerror=fail) for name in (*folders, *files))
    if odd := next((name for name in (str(folder.resolve()), *names) if "::" in name), ""):
        raise UnsupportedError(f"{folder} has a name with '::' in it: {shorten(odd)}.", "Rename it.")


def join_tables(folder: Path, paths: list[Path], tables: list[RawTable]) -> RawTable:
    """The rows of several files as one table; each place names its file. Their headers must be equal."""
    first = tables[0]
    if len(tables) == 1:
        return first
    for path, table in zip(paths, tables, strict=True):
        if table.header != first.header:
            problem = f"{path.name} and {paths[0].name} in {folder} have different columns."
            raise UnsupportedError(problem, "Give one file, or files with the same columns.")
        table.places = [f"{place} of {path.name}" for place in table.places]
    rows = [row for table in tables for row in table.rows]
    places = [place for table in tables for place in table.places]
    return RawTable(first.header, rows, places, [*first.notes, f"{len(paths)} files were read."])
