"""A YAML template in, prompts out: one renderer for training, evaluation, the API and the lessons.

A template has the keys of the 2023 tutorial: `instruction` (the system message), `task` (the user message,
with the table's columns as {placeholders}) and `label` (the assistant's answer for each value of the label
column). All placeholders are filled in one pass, so a brace inside a comment stays as it is.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from helpers.common.errors import DamagedError, MismatchError
from helpers.common.paths import find_file

PLACEHOLDER = re.compile(r"\{(\w+)\}")
EXAMPLE = "templates/college_preferences.yaml shows the form."


@dataclass(frozen=True)
class Template:
    """A prompt template; `label` maps each label to its answer, which may hold placeholders too."""

    name: str
    instruction: str
    task: str
    label: dict[int, str]

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have, in order of appearance; the label column comes extra."""
        texts = (self.instruction, self.task, *self.label.values())
        names = [name for text in texts for name in PLACEHOLDER.findall(text)]
        return list(dict.fromkeys(names))

    @property
    def sha256(self) -> str:
        """Hash of what the template says, whatever its name: a LoRA should be asked as it was trained."""
        content = [self.instruction, self.task, sorted(self.label.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def build_messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """The prompt of one row: [system, user], each {"role", "content"}."""
        return [
            {"role": "system", "content": fill(self.instruction, row)},
            {"role": "user", "content": fill(self.task, row)},
        ]

    def build_answers(self, row: Mapping[str, Any]) -> dict[int, str]:
        """The possible answers of one row: label -> text. MismatchError if two of them are the same.

        Those that differ in the spaces around them are the same: many chat templates remove them.
        """
        answers = {label: fill(text, row) for label, text in self.label.items()}
        if len({text.strip() for text in answers.values()}) < len(answers):
            remedy = "Make the row's options, or the template's label texts, different."
            raise MismatchError(f"Two answers of a row are the same: {answers}.", remedy)
        return answers

    def build_example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One training row: {"prompt": messages, "completion": [assistant message], "label": int}."""
        label = int(row["label"])
        answer = {"role": "assistant", "content": self.build_answers(row)[label]}
        return {"prompt": self.build_messages(row), "completion": [answer], "label": label}


def fill(text: str, row: Mapping[str, Any]) -> str:
    """`text` with every {column} replaced by the row's value; MismatchError for a missing one."""

    def find_value(match: re.Match[str]) -> str:
        if match[1] not in row:
            problem = f"The template asks for {{{match[1]}}}, which the row does not have."
            raise MismatchError(problem, f"Use one of: {', '.join(row)}.")
        return str(row[match[1]])

    return PLACEHOLDER.sub(find_value, text)


def load_template(path: str | Path) -> Template:
    """Reads and checks a template file; a KitError names what is missing or wrong in it."""
    path = find_file(path, "template")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} is not valid YAML: {error}", f"Fix the file; {EXAMPLE}") from None
    given = content if isinstance(content, dict) else {}
    missing = [key for key in ("instruction", "task", "label") if not given.get(key)]
    if missing:
        raise DamagedError(f"The template {path} has no {', '.join(missing)}.", f"Add it; {EXAMPLE}")
    wrong = [key for key in ("instruction", "task") if not isinstance(given[key], str)]
    if wrong:
        raise DamagedError(f"{wrong[0]} in the template {path} is not text.", f"Correct it; {EXAMPLE}")
    if "{text}" not in given["task"]:
        problem = f"The task of the template {path} does not contain {{text}}."
        raise DamagedError(problem, "Write {text} where the row's text belongs.")
    labels = read_labels(path, given["label"])
    return Template(path.stem, given["instruction"].strip(), given["task"].strip(), labels)


def read_labels(path: Path, given: object) -> dict[int, str]:
    """The answer for each label; DamagedError unless there are two or more, with whole numbers."""
    if not (isinstance(given, dict) and len(given) >= 2 and all(isinstance(key, int) for key in given)):
        problem = f"The labels of the template {path} are not whole numbers with a text each."
        raise DamagedError(problem, "Write them as `0: No preference`, two or more.")
    return {key: str(text) for key, text in given.items()}
