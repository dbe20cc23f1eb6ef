"""The English of errors, docstrings and comments. Other tests ask only for the class of an error."""

import ast
import re
import socket

import pytest

from helpers import PROJECT, training, weights
from helpers.common.errors import KitError
from helpers.common.paths import find_file, resolve_inside
from helpers.server.ports import refuse_taken_port
from helpers.tasks.template_file import load_template

# Phrases that read like a translation, and what to write instead.
BANNED = {
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bwhence\b": "where ... from",
    r"\ban own\b": "a ... of its own",
    r"\b(is|are) no (valid|correct|longer a valid)\b": "is not a valid ...",
    r"\btold apart\b": "distinguished",
    r"\bknows no\b": "does not have",
    r"\bstands in for\b": "replaces",
    r"\bwhat for\b": "why",
}

ROOMS = sorted({path.parent for folder in ("helpers", "tools") for path in (PROJECT / folder).rglob("*.py")})


def list_texts(path):
    """The docstrings, comments and other texts of a module with the numbers of their lines."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        if "# " in line:
            yield number, line.partition("# ")[2]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_texts_do_not_sound_translated(room):
    found = [
        f"{path.name}:{number}: write '{better}' instead of '{match[0]}'"
        for path in room.glob("*.py")
        for number, text in list_texts(path)
        for phrase, better in BANNED.items()
        if (match := re.search(phrase, text, re.IGNORECASE))
    ]
    assert not found


def read_template(folder, text):
    path = folder / "quiz.yaml"
    path.write_text(text)
    return load_template(path)


def ask_for_a_taken_port(folder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        refuse_taken_port(other.getsockname()[1])


CASES = {
    "a file that is not there": (
        lambda folder: find_file(folder / "rows.csv", "CSV file"),
        r"No CSV file at .*rows\.csv\. Give the path of an existing CSV file \(tried .*\)\.",
    ),
    "a name that leads out of its folder": (
        lambda folder: resolve_inside(folder, "../mine", "LoRA"),
        r"'\.\./mine' is not a valid name for a LoRA\. Use a plain folder name in .*\.",
    ),
    "a model that is not there": (
        lambda folder: weights.find_model("mine", folder),
        r"No model 'mine' in .* \(there: .*\)\. .*\.",
    ),
    "a preset that is not there": (
        lambda folder: training.pick_settings("mine"),
        r"'mine' is not a preset\. Give a YAML file, or one of: .*\.",
    ),
    "a template that is not YAML": (
        lambda folder: read_template(folder, "task: [unclosed"),
        r"Line 1 of .*quiz\.yaml: this is not valid YAML \(.*\)\. A text with .*\.",
    ),
    "a template without labels": (
        lambda folder: read_template(folder, "instruction: Judge.\ntask: '{text}'\n"),
        r"The template .*quiz\.yaml has no label \(or .*\)\. Add it; .*\.",
    ),
    "a port that is taken": (
        ask_for_a_taken_port,
        r"Port \d+ is in use by another program\. Choose another one, such as \d+, which is free\.",
    ),
}


@pytest.mark.parametrize("call, words", CASES.values(), ids=CASES)
def test_errors_say_what_is_wrong_and_what_to_do(tmp_path, call, words):
    with pytest.raises(KitError) as caught:
        call(tmp_path)
    assert re.fullmatch(words, str(caught.value))
