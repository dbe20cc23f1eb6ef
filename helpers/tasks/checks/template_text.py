"""Writes a template as the YAML text that template_file reads."""

import re
import textwrap
from collections.abc import Sequence

import yaml

from helpers.common.arguments import escape
from helpers.tasks.template import Template

PLAIN = re.compile(r"[^\W\d_][\w ]*\w|\d{1,9}")  # needs no quotes, whatever reads it
NOT_PLAIN = {"yes", "no", "on", "off", "true", "false", "null", "none"}  # YAML 1.1 does not read them as text


def write_template(template: Template, comments: Sequence[str] = ()) -> str:
    """The text of a template; `comments` are the lines above it."""
    parts = [f"# {escape(' '.join(line.split()))}" for line in comments]
    if template.instruction:
        parts += [
            "# The system message: the same for every row.",
            f"instruction: {fold(template.instruction)}",
        ]
    else:
        parts += ["# There is no system message. To add one, write `instruction: ...`."]
    parts += ["# The user message: one row of the table.", f"task: {keep_lines(template.task)}"]
    if template.label:
        parts += [f"# The model's answer for each value of the column {template.label_column}.", "label:"]
        parts += [f"  {quote(str(label))}: {quote(text)}" for label, text in template.label.items()]
    else:
        parts += ["# The model's answer.", f"answer: {quote(template.answer)}"]
    if template.label and template.label_column != "label":
        parts += [f"label_column: {quote(template.label_column)}"]
    if template.group_by:
        parts += ["# Rows that are equal here stay on one side of the split."]
        parts += [f"group_by: {quote_list(template.group_by)}"]
    if template.optional:
        parts += ["# Where one of these is empty, its line of the task is left out."]
        parts += [f"optional: {quote_list(template.optional)}"]
    return "\n".join(parts) + "\n"


def quote(text: str) -> str:
    """A text for one line, in quotes if it needs them."""
    if PLAIN.fullmatch(text) and text.casefold() not in NOT_PLAIN:
        return text
    width, shown = float("inf"), all(line.isprintable() for line in text.split("\n"))
    return yaml.safe_dump(text, default_style='"', allow_unicode=shown, width=width).strip()


def quote_list(texts: Sequence[str]) -> str:
    """One text, or a list of texts in brackets."""
    return quote(texts[0]) if len(texts) == 1 else f"[{', '.join(map(quote, texts))}]"


def fold(text: str) -> str:
    """A text in several lines that are read as one."""
    lines = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    if not text.isprintable() or " ".join(lines) != text:
        return quote(text)
    return "\n  ".join([">-", *lines])


def keep_lines(text: str) -> str:
    """A text whose lines stay lines."""
    lines = text.split("\n")
    if not all(line.isprintable() and line == line.strip() for line in lines):
        return quote(text)
    return "\n  ".join(["|-", *lines])
