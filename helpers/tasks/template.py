"""A YAML template in, prompts out: one renderer for training, evaluation, the API and the LoRA lessons.

A template has the keys of the 2023 tutorial: `instruction` (the system message), `task` (the user message, with {columns} of the
CSV) and `label` (the assistant's answer for each value of the label column). Placeholders are filled in one pass, so a brace inside
a comment stays what it is.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from helpers.common.errors import KitError
from helpers.common.paths import find_file

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """A prompt template; `label` maps each value of the label column to the answer's text, which may hold placeholders too."""

    name: str
    instruction: str
    task: str
    label: dict[int, str]

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have, in order of appearance, `text` among them; the label column is apart."""
        texts = (self.instruction, self.task, *self.label.values())
        return list(dict.fromkeys(name for text in texts for name in PLACEHOLDER.findall(text)))

    @property
    def sha256(self) -> str:
        """Hash of what the template says, whatever its name: a LoRA is to be asked with the text that it was trained on."""
        return hashlib.sha256(
            json.dumps([self.instruction, self.task, sorted(self.label.items())]).encode()
        ).hexdigest()

    def build_messages(self, row: Mapping[str, object]) -> list[dict[str, str]]:
        """The prompt of one row: [system, user], each {"role", "content"}."""
        return [
            {"role": "system", "content": fill(self.instruction, row)},
            {"role": "user", "content": fill(self.task, row)},
        ]

    def build_answers(self, row: Mapping[str, object]) -> dict[int, str]:
        """The possible answers of one row: label value -> text. KitError when two of them read the same."""
        answers = {label: fill(text, row) for label, text in self.label.items()}
        if len(set(answers.values())) < len(answers):
            raise KitError(
                f"Two answers read the same: {answers}.",
                "Make the row's options, or the template's label texts, different.",
            )
        return answers

    def build_example(self, row: Mapping[str, object]) -> dict:
        """One training row with prompt and label apart: {"prompt": messages, "completion": [assistant message], "label": int}."""
        answer = self.build_answers(row)[int(row["label"])]
        return {
            "prompt": self.build_messages(row),
            "completion": [{"role": "assistant", "content": answer}],
            "label": int(row["label"]),
        }


def fill(text: str, row: Mapping[str, object]) -> str:
    """`text` with every {column} replaced by the row's value, in one pass; KitError for a column that the row lacks."""

    def value(match: re.Match) -> str:
        if match[1] not in row:
            raise KitError(
                f"The template asks for {{{match[1]}}}, which the row does not have.",
                f"Use one of: {', '.join(row)}.",
            )
        return str(row[match[1]])

    return PLACEHOLDER.sub(value, text)


def load_template(path: str | Path) -> Template:
    """Reads and checks a template file; KitError names what is missing or wrong in it."""
    path = find_file(path, "template")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KitError(
            f"{path} is no YAML text: {error}",
            "Mend the file; templates/college_preferences.yaml shows the form.",
        ) from None
    missing = [
        key
        for key in ("instruction", "task", "label")
        if not (isinstance(content, dict) and content.get(key))
    ]
    if missing:
        raise KitError(
            f"The template {path} lacks {', '.join(missing)}.",
            "Add it; templates/college_preferences.yaml shows the form.",
        )
    if "{text}" not in content["task"]:
        raise KitError(
            f"The task of the template {path} lacks {{text}}.", "Write {text} where the row's text belongs."
        )
    label = content["label"]
    if not isinstance(label, dict) or len(label) < 2 or not all(isinstance(key, int) for key in label):
        raise KitError(
            f"The labels of the template {path} are no whole numbers with a text each.",
            "Write them as `0: No preference`, two or more.",
        )
    return Template(
        path.stem,
        content["instruction"].strip(),
        content["task"].strip(),
        {key: str(text) for key, text in label.items()},
    )
