"""The forms of the JSON files beside weights: the kit's weights.json, and the index of several files."""

from typing import TypedDict


class RecordedFile(TypedDict):
    """What weights.json says of a file."""

    bytes: int
    sha256: str


class Record(TypedDict, total=False):
    """weights.json."""

    source: str | None
    revision: str | None
    files: dict[str, RecordedFile]


class Index(TypedDict):
    """The list of the files with a model's weights: {tensor: file}."""

    weight_map: dict[str, str]
