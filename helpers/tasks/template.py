"""A row in, messages out: one renderer for training, evaluation, the API and the lessons.

A template has the keys of the 2023 tutorial: `instruction` (the system message), `task` (the user message,
with the table's columns as {placeholders}) and `label` (the assistant's answer for each value of the label
column). Instead of `label` it can have `answer`, for answers in free text: "{answer}" is the text of that
column. helpers.tasks.template_file reads it from YAML. All placeholders are filled in one pass, so a brace
inside a comment stays as it is.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from helpers.common.errors import DamagedError, MismatchError

if TYPE_CHECKING:
    from helpers.loading.chat_tokenizer import Message

Row = dict[str, Any]  # the template's columns (str), and `label` (Label) for a template with labels
Label = int | str

# {column}. A name begins with a letter, digit or _ and has no quote or colon: {"a": 1} is plain text.
PLACEHOLDER = re.compile(r"""\{(\w[^{}"':\n]*)\}""")


@dataclass(frozen=True)
class Template:
    """A prompt template. It has either `label` or `answer`; texts may hold placeholders."""

    name: str
    instruction: str  # the system message; "" = none
    task: str  # the user message
    label: Mapping[Label, str] = field(default_factory=dict)  # of each label, its answer
    answer: str = ""  # the answer of every row, if there are no labels
    label_column: str = "label"
    examples: tuple[tuple[str, str], ...] = ()  # few-shot: (user message, answer), as they are
    group_by: tuple[str, ...] = ()  # rows that are equal in these columns stay on one side of a split
    optional: tuple[str, ...] = ()  # columns that may be empty: then their line of the task is left out

    @property
    def kind(self) -> str:
        """What is learned: one of a few "labels", or "answers" in free text."""
        return "labels" if self.label else "answers"

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have, in order of appearance; the label column comes extra."""
        texts = (self.instruction, self.task, *self.label.values(), self.answer)
        names = [name for text in texts for name in PLACEHOLDER.findall(text)]
        return list(dict.fromkeys([*names, *self.group_by]))

    @property
    def needed(self) -> list[str]:
        """All columns that the table must have."""
        return [*self.columns, self.label_column] if self.label else self.columns

    @property
    def sha256(self) -> str:
        """Hash of what the template says, whatever its name: a LoRA should be asked as it was trained."""
        content: list[Any] = [self.instruction, self.task, sorted(self.label.items())]
        added = {"answer": self.answer, "examples": self.examples, "optional": self.optional}
        if any(added.values()):  # without them the hash is that of earlier versions
            content.append(added)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def build_messages(self, row: Mapping[str, Any]) -> "list[Message]":
        """The prompt of one row: system, few-shot examples and user, each {"role", "content"}."""
        messages: list[Message] = []
        if self.instruction:
            messages.append({"role": "system", "content": fill(self.instruction, row)})
        for question, answer in self.examples:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": fill(self._task_for(row), row)}]

    def _task_for(self, row: Mapping[str, Any]) -> str:
        """The task without the lines whose optional column is empty in this row."""
        empty = {column for column in self.optional if not str(row.get(column, "")).strip()}
        if not empty:
            return self.task
        lines = [line for line in self.task.split("\n") if not empty & set(PLACEHOLDER.findall(line))]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()

    def build_answers(self, row: Mapping[str, Any]) -> dict[Label, str]:
        """The possible answers of one row: label -> text. MismatchError if two of them are the same.

        Those that differ in the spaces around them are the same: many chat templates remove them.
        """
        answers = {label: fill(text, row) for label, text in self.label.items()}
        if len({text.strip() for text in answers.values()}) < len(answers):
            remedy = "Make the row's options, or the template's label texts, different."
            raise MismatchError(f"Two answers of a row are the same: {answers}.", remedy)
        return answers

    def build_answer(self, row: Mapping[str, Any]) -> str:
        """The right answer of one row."""
        return self.build_answers(row)[row["label"]] if self.label else fill(self.answer, row)

    def build_example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One training row: {"prompt": messages, "completion": [assistant message]}, and "label" if any."""
        answer = {"role": "assistant", "content": self.build_answer(row)}
        example: dict[str, Any] = {"prompt": self.build_messages(row), "completion": [answer]}
        return {**example, "label": row["label"]} if self.label else example

    def build_conversation(self, row: Mapping[str, Any]) -> "list[Message]":
        """The prompt and the right answer."""
        return [*self.build_messages(row), {"role": "assistant", "content": self.build_answer(row)}]

    def list_learned(self, row: Mapping[str, Any], turns: str = "all") -> list[int]:
        """The places of the messages in the conversation that are learned: the last. Examples are not."""
        return [len(self.build_messages(row))]

    @property
    def group_columns(self) -> Sequence[str]:
        """The columns that make a group: `group_by`, or {text}, or all that the task shows."""
        shown = PLACEHOLDER.findall(self.task)
        return self.group_by or (["text"] if "text" in shown else list(dict.fromkeys(shown)))

    def find_group(self, row: Mapping[str, Any]) -> str:
        """Rows with the same group stay together."""
        return "\n".join(str(row[column]) for column in self.group_columns)

    def make_row(self, cells: Mapping[str, Any]) -> Row:
        """A checked row, made of a row of a table. A KitError names the column that is wrong."""
        row: Row = {column: read_cell(cells, column) for column in self.columns}
        answering = {name for text in self.label.values() for name in PLACEHOLDER.findall(text)}
        for column, value in row.items():
            if column in answering:  # nobody can see the space at the end of an option
                row[column] = value.strip()
            if column not in self.optional and not value.strip():
                remedy = f"Fill it in, delete the row, or write `optional: {column}` into the template."
                raise DamagedError(f"The column {column} is empty.", remedy)
        if self.label:
            self.build_answers(row)
            row["label"] = self.find_label(read_cell(cells, self.label_column))
        return row

    def find_label(self, cell: str) -> Label:
        """The label that a cell means: "1", " 1" and "1.0" are 1, and "Yes" is yes."""
        if not cell.strip():
            raise MismatchError(f"The column {self.label_column} is empty.", "Fill it in or delete the row.")
        ways: tuple[Callable[[str], object], ...] = (
            str, str.strip, simplify_number, lambda text: simplify_number(text).casefold(), as_whole_number,
        )  # fmt: skip
        for normalise in ways:
            meant = normalise(cell)
            found = [] if meant is None else [one for one in self.label if normalise(str(one)) == meant]
            if len(found) == 1:
                return found[0]
        problem = f"The column {self.label_column} has the label '{cell}', which the template does not know."
        known = ", ".join(str(label) for label in self.label)
        raise MismatchError(problem, f"The template knows {known}; fix the row or the template.")


def simplify_number(text: str) -> str:
    """A whole number without spaces and ".0"; other texts without the spaces around them."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text.strip())


def as_whole_number(text: str) -> int | None:
    """The whole number that a text is, such as 1 for +1 and 1.0; None for another text, such as 007."""
    found = re.fullmatch(r"[+-]?(0|[1-9]\d{0,17})", simplify_number(text))
    return int(found[0]) if found else None


def read_cell(cells: Mapping[str, Any], column: str) -> str:
    """The text of one cell; a MismatchError for a list or an object."""
    value = cells[column]
    if isinstance(value, str):
        return value
    problem = f"The column {column} holds a {type(value).__name__}, not a text."
    raise MismatchError(problem, "Write its text into a column of its own.")


def fill(text: str, row: Mapping[str, Any]) -> str:
    """`text` with every {column} replaced by the row's value; MismatchError for a missing one."""

    def find_value(match: re.Match[str]) -> str:
        if match[1] not in row:
            problem = f"The template asks for {{{match[1]}}}, which the row does not have."
            raise MismatchError(problem, suggest_column(match[1], list(row)))
        return str(row[match[1]])

    return PLACEHOLDER.sub(find_value, text)


def suggest_column(name: str, columns: Sequence[str]) -> str:
    """What to use instead of a column that is not there, as a sentence."""
    near = [column for column in columns if column.casefold() == name.strip().casefold()]
    near = near or get_close_matches(name, columns, n=1)
    return f"Did you mean {{{near[0]}}}?" if near else f"Use one of: {', '.join(columns)}."
