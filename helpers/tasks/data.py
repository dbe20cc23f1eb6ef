"""`TaskData`: the rows of a task, split, with where they came from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.tasks.rows import AnyTemplate, open_data, read_rows
from helpers.tasks.split import Split
from helpers.tasks.template import Row


@dataclass(frozen=True)
class TaskData:
    """What a LoRA is trained and judged on. For rows from memory, `TaskData(template, rows)` is enough."""

    template: AnyTemplate
    train: list[Row]
    test: list[Row] = field(default_factory=list)  # held out
    source: str | None = None  # path of the table, as the user gave it
    template_source: str | None = None  # path of the template; None for chats
    split: Split | None = None  # how the parts were made
    notes: list[str] = field(default_factory=list)  # what was found out about the file, a sentence each
    validation: list[Row] = field(default_factory=list)  # watched while training, and not trained on

    def list_facts(self) -> dict[str, Any]:
        """What a training records about its data: paths and split, as far as they are known; and hashes."""
        facts: dict[str, Any] = {
            "template": self.template.name,
            "template_sha256": self.template.sha256,
            "rows_sha256": hash_rows(self.train),
        }
        if self.source:
            facts["data"] = self.source
        if self.template_source:
            facts["template_file"] = self.template_source
        if self.split:
            facts["split"] = asdict(self.split)
        return facts

    def find_place(self, row: Row) -> str:
        """Where a row stands, for errors, such as "Row 7 (line 9) of rows.csv". The table is read again."""
        if self.source:
            table, template = open_data(self.source, self.template_source)
            for place, cells in zip(table.places, table.rows, strict=True):
                if template.make_row(cells) == row:
                    return f"{place.capitalize()} of {table.path}"
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        found = (
            f"Row {rows.index(row) + 1} of the {name} rows" for name, rows in parts.items() if row in rows
        )
        return next(found, "A row")


def load_task_data(
    data: str | Path, template: str | Path | None = None, split: Split | None = None
) -> TaskData:
    """Reads a table and a template and splits the rows (by default with Split's defaults).

    A table of chats needs no template. Raises what open_data, read_rows and Split.divide raise.
    """
    split = split or Split()
    table, read = open_data(data, template)
    train, test = split.divide(read_rows(table, read), read)
    train, validation = split.take_validation(train, read)
    return TaskData(
        read,
        train,
        test,
        validation=validation,
        source=str(data),
        template_source=str(template) if template else None,
        split=split,
        notes=table.notes,
    )


def hash_rows(rows: Sequence[Row]) -> str:
    """sha256 of the rows, in their order."""
    return hashlib.sha256(json.dumps(list(rows), sort_keys=True).encode()).hexdigest()
