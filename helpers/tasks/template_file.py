"""Reads a template from YAML. Every fault is refused with its line and what was probably meant.

Values are read as the texts that they are in the file: to YAML 1.1, which PyYAML speaks, `No` is false and
`007` is seven, but in a template they are words.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml

from helpers.common.arguments import has_surrogates
from helpers.common.errors import DamagedError
from helpers.common.files import read_text
from helpers.common.paths import find_file
from helpers.common.values import check_path
from helpers.common.yaml_errors import YAML_ERRORS
from helpers.tasks.template import PLACEHOLDER, Label, Template, as_whole_number

EXAMPLE = "templates/college_preferences.yaml shows the form."
KEYS = (
    "description", "instruction", "task", "label", "answer",
    "label_column", "examples", "group_by", "optional",
)  # fmt: skip
BRACES = re.compile(r"\{+[^{}\n]*\}+")


def load_template(path: str | Path) -> Template:
    """Reads and checks a template file. A DamagedError names the line and what is wrong in it."""
    check_path("The template", path)
    return TemplateFile(find_file(path, "template")).read()


class TemplateFile:
    """A template file while it is read."""

    def __init__(self, path: Path):
        self.path = path
        self.text = read_text(path, "Save it as UTF-8.").removeprefix("\ufeff")

    def read(self) -> Template:
        """The template."""
        nodes = self.read_keys()
        label = self.read_labels(nodes["label"]) if "label" in nodes else {}
        texts = {key: self.read_text(nodes[key]) for key in ("instruction", "task", "answer") if key in nodes}
        self.check_presence(texts, label)
        template = Template(
            self.path.stem,
            instruction=texts.get("instruction", ""),
            task=texts["task"],
            label=label,
            answer=texts.get("answer", ""),
            label_column=self.read_text(nodes["label_column"]) if "label_column" in nodes else "label",
            examples=self.read_examples(nodes["examples"]) if "examples" in nodes else (),
            group_by=self.read_names(nodes["group_by"]) if "group_by" in nodes else (),
            optional=self.read_names(nodes["optional"]) if "optional" in nodes else (),
        )
        self.check_placeholders(template)
        return template

    def fault(self, problem: str, remedy: str, line: int | None = None) -> DamagedError:
        """An error that names the file, and the line if there is one (counted from 1)."""
        place = f"Line {line} of the template {self.path}: " if line else f"The template {self.path} "
        return DamagedError(place + problem, remedy)

    # YAML

    def read_keys(self) -> dict[str, yaml.Node]:
        """The nodes of the file's keys."""
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            words = f"this is not valid YAML ({error.problem or error.context})."
            remedy = f"A text with a colon or a brace needs quotes, or a place below `task: |-`; {EXAMPLE}"
            raise self.fault(words, remedy, mark.line + 1 if mark else None) from None
        except YAML_ERRORS as error:
            raise self.fault(f"is not valid YAML ({error}).", f"Fix it; {EXAMPLE}") from None
        if not isinstance(root, yaml.MappingNode):
            raise self.fault("has no keys.", f"Add instruction, task, and label or answer; {EXAMPLE}")
        nodes = {key: value for key, value in self.list_entries(root)}
        for key, value in nodes.items():
            near = [] if key in KEYS else get_close_matches(key, KEYS, n=1, cutoff=0.8)
            if near:
                raise self.fault(f"the key {key} is unknown.", f"Did you mean {near[0]}?", line_of(value))
        return nodes

    def list_entries(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
        """The keys and values of a mapping; a fault for a key that is there twice."""
        seen = set()
        for key, value in node.value:
            name = self.read_text(key)
            if name in seen:
                problem = f"the key {name} is there twice."
                raise self.fault(problem, "Keep one of them, or rename the other.", line_of(key))
            seen.add(name)
            yield name, value

    def read_text(self, node: yaml.Node) -> str:
        """The text of a node without the spaces around it."""
        if isinstance(node, yaml.ScalarNode):
            if has_surrogates(node.value):
                raise self.fault("a text has half of a character.", "Write it as it looks.", line_of(node))
            return "" if node.tag == "tag:yaml.org,2002:null" and node.style is None else node.value.strip()
        words = "a list" if isinstance(node, yaml.SequenceNode) else "keys and values"
        flow = isinstance(node, yaml.CollectionNode) and node.flow_style
        remedy = 'Put the text in quotes: "{text}".' if flow else f"Write it as a text; {EXAMPLE}"
        raise self.fault(f"this is {words}, not a text.", remedy, line_of(node))

    def read_names(self, node: yaml.Node) -> tuple[str, ...]:
        """One name or a list of names."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        return tuple(self.read_text(item) for item in nodes)

    # The parts of a template

    def read_labels(self, node: yaml.Node) -> dict[Label, str]:
        """The answer of each label. The labels are whole numbers, or words as in the table."""
        if not isinstance(node, yaml.MappingNode) or len(node.value) < 2:
            remedy = "Write two or more, such as `0: No preference`, or use `answer` for free text."
            raise self.fault(
                "label does not give an answer for each of several labels.", remedy, line_of(node)
            )
        found: dict[str, str] = {}
        for name, value in self.list_entries(node):
            found[name] = self.read_text(value)
            if not name or not found[name]:
                problem = f"the answer of the label '{name}' is empty." if name else "a label is empty."
                raise self.fault(problem, "Write what the model should answer.", line_of(value))
        numbers = {as_whole_number(name): text for name, text in found.items()}
        if None not in numbers and len(numbers) == len(found):
            return {int(name): text for name, text in found.items()}
        return {name: text for name, text in found.items()}  # as words: 007 beside 7, too

    def read_examples(self, node: yaml.Node) -> tuple[tuple[str, str], ...]:
        """The few-shot examples: a list of {user, assistant}."""
        remedy = "Write a list of `- user: ...` with `assistant: ...` below each."
        if not isinstance(node, yaml.SequenceNode):
            raise self.fault("examples is not a list.", remedy, line_of(node))
        examples = []
        for item in node.value:
            parts = dict(self.list_entries(item)) if isinstance(item, yaml.MappingNode) else {}
            if set(parts) != {"user", "assistant"}:
                raise self.fault("an example does not have user and assistant.", remedy, line_of(item))
            question, answer = self.read_text(parts["user"]), self.read_text(parts["assistant"])
            if PLACEHOLDER.search(question + answer):
                problem = "an example is used as it is, so its placeholders would not be filled in."
                raise self.fault(problem, "Write out what they stand for.", line_of(item))
            examples.append((question, answer))
        return tuple(examples)

    # Checks

    def check_presence(self, texts: dict[str, str], label: dict[Label, str]) -> None:
        """A fault unless there is a task, and either labels or an answer."""
        missing = [] if texts.get("task") else ["task"]
        if not label and not texts.get("answer"):
            missing.append("label (or answer, for free text)")
        if missing:
            raise self.fault(f"has no {' and no '.join(missing)}.", f"Add it; {EXAMPLE}")
        if label and texts.get("answer"):
            raise self.fault("has both label and answer.", "Keep label for a few fixed answers, answer "
                             "for free text.")  # fmt: skip

    def check_placeholders(self, template: Template) -> None:
        """A fault for braces that were meant as a placeholder but are not one, and for a task without any."""
        parts = (template.instruction, template.task, template.answer, *template.label.values())
        for text in parts:
            for match in BRACES.finditer(text):
                if meant := guess_placeholder(match[0]):
                    problem = f"{match[0]} is not a placeholder."
                    raise self.fault(problem, f"Write {{{meant}}}.", self.find_line(match[0]))
        shown = PLACEHOLDER.findall(template.task)
        if not shown:
            problem = "has no {placeholder} in its task, so every row would be the same."
            raise self.fault(problem, "Write the column's name in braces, such as {text}.")
        if template.label and template.label_column in shown:
            problem = f"the task shows the column {template.label_column}, which is the answer."
            raise self.fault(
                problem, "Take it out of the task.", self.find_line(f"{{{template.label_column}}}")
            )
        if template.label and template.label_column != "label" and "label" in template.columns:
            problem = "{label} stands for the label of a row, so no other column can have that name."
            raise self.fault(problem, "Rename that column.", self.find_line("{label}"))
        if template.answer and not set(PLACEHOLDER.findall(template.answer)) - set(shown):
            problem = "has an answer with no column that the task does not show already."
            raise self.fault(problem, 'Name the column of the answers: "{answer}".')

    def find_line(self, text: str) -> int | None:
        """The first line that holds a text."""
        lines = self.text.splitlines()
        return next((number for number, line in enumerate(lines, start=1) if text in line), None)


def line_of(node: yaml.Node) -> int:
    """The line of a node, counted from 1."""
    return node.start_mark.line + 1


def guess_placeholder(braces: str) -> str | None:
    """The name that was meant by {{ text }}, { text } or {price:.2f}; None for {text} and other braces."""
    inner = braces.strip("{}")
    name = inner.strip()
    jinja = braces.startswith("{{") and braces.endswith("}}")
    if re.fullmatch(r"\w[\w -]*", name) and (jinja or inner != name):
        return name
    spec = re.fullmatch(r"(\w[\w -]*)[:!][^\s\"']*", name)
    return spec[1] if spec else None
