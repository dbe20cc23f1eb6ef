"""Private parts of libraries that this room touches, each with the reason.

tests/house/test_private.py watches them.
"""

import glob
from pathlib import Path


def match_files(folder: Path, patterns: dict[str, list[str]] | None) -> tuple[str, dict[str, list[Path]]]:
    """(The kind of a data set's folder, such as "csv"; split -> its files), by the rules of the hub.

    Without patterns the names of files and folders say what is what. Undocumented: these functions of the
    `datasets` library. Its `load_dataset_builder`, which calls them, also reads the folder's card, and asks
    for whatever that names. Raises what the library raises.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns
    from datasets.load import infer_module_for_data_files

    base = glob.escape(folder.resolve().as_posix())
    found = DataFilesDict.from_patterns(patterns or get_data_patterns(base), base_path=base)
    kind, _ = infer_module_for_data_files(found, str(folder))
    return str(kind), {str(split): [Path(name) for name in names] for split, names in found.items()}
