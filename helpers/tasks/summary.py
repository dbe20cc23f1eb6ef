"""What a training records of its rows: numbers and no text, because rows may be private."""

import statistics
from collections.abc import Sequence
from typing import Any

from helpers.tasks.data import TaskData
from helpers.tasks.rows import AnyTemplate, count_labels
from helpers.tasks.split import list_key
from helpers.tasks.template import Row


def describe_data(data: TaskData) -> dict[str, Any]:
    """{"kind": what is learned, "columns": of a row, "parts": their rows, "audit": of the training rows}."""
    parts = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    return {
        "kind": data.template.kind,
        "columns": list(data.template.columns),
        "parts": parts,
        "audit": audit_shortly(data.train, data.template),
    }


def audit_shortly(rows: Sequence[Row], template: AnyTemplate) -> dict[str, Any]:
    """Copies, median lengths in words, and the rows of each label, or the messages of a chat.

    A copy is a row that equals an earlier one, ignoring case, space and punctuation.
    """
    if not rows:
        return {}
    chats = [template.build_conversation(row) for row in rows]
    different = {list_key("\n".join(message["content"] for message in chat)) for chat in chats}
    found: dict[str, Any] = {
        "copies": len(rows) - len(different),
        "question_words": measure_median([template.find_group(row) for row in rows]),
    }
    if template.kind == "labels":
        return found | {"labels": {str(label): count for label, count in count_labels(rows).items()}}
    found["answer_words"] = measure_median([template.build_answer(row) for row in rows])
    if template.kind == "chats":
        found["messages"] = statistics.median(map(len, chats))
    return found


def measure_median(texts: Sequence[str]) -> float:
    """The median length of the texts, in words."""
    return statistics.median(len(text.split()) for text in texts)
