"""Folders with data files, such as a clone of a data set's repository on the hub."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from helpers.common.errors import UnsupportedError
from helpers.tasks.files.columnar import choose_split, describe_split, read_parquet, read_saved, silence
from helpers.tasks.files.raw_table import RawTable

REMEDY = "Give a file, or a folder with the data files of one table (CSV, JSON or Parquet)."


def read_folder(folder: Path, read_file: Callable[[Path], RawTable]) -> RawTable:
    """The rows of a data set's folder; those of the split `train` if it has several.

    `read_file` reads one file. Raises UnsupportedError for a folder that is not a data set.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return read_saved(folder)
    files = find_data_files(folder)
    split = choose_split(folder, list(files))
    paths = files[split]
    if all(path.suffix == ".parquet" for path in paths):
        table = read_parquet(paths)
    else:
        table = join_tables(folder, paths, [read_file(path) for path in paths])
    if len(files) > 1:
        table.notes.append(describe_split(split, list(files)))
    return table


def find_data_files(folder: Path) -> dict[str, list[Path]]:
    """Split -> its files, by the rules of the hub: the card's YAML, or the names of files and folders."""
    from datasets import load_dataset_builder

    if names_files_elsewhere(folder):
        raise UnsupportedError(
            f"The card of {folder} names files that are not in it.", "Download them first."
        )
    try:
        # The library leaves a lock file in its cache, and remarks on a card without facts.
        with silence("huggingface_hub"), tempfile.TemporaryDirectory() as cache:
            builder = load_dataset_builder(str(folder.resolve()), cache_dir=cache)
    except Exception as error:  # of many kinds: those of its YAML parser and file systems, too
        reason = " ".join(str(error).split("Example")[0].split())
        raise UnsupportedError(f"{folder} cannot be read as a data set: {reason}.", REMEDY) from None
    found = builder.config.data_files
    if builder.name not in ("csv", "json", "parquet", "arrow") or not found:
        raise UnsupportedError(f"{folder} holds no table.", REMEDY)
    return {str(split): [Path(name) for name in names] for split, names in found.items()}


def names_files_elsewhere(folder: Path) -> bool:
    """True if the card's list of data files holds a URL, which would be fetched."""
    card, own = folder / "README.md", folder / ".huggingface.yaml"
    facts = card.read_text(encoding="utf-8", errors="replace").split("---")[1:2] if card.is_file() else []
    facts += [own.read_text(encoding="utf-8", errors="replace")] if own.is_file() else []
    return any(re.search(r"^configs:\n([ -].*\n)*.*://", fact, re.MULTILINE) for fact in facts)


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
