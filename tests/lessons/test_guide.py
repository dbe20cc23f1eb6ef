"""The guide for teachers says what is so: its plans add up, its commands are taken, its messages are the kit's own."""

import re
import shlex

import pytest

from helpers import PROJECT
from helpers.server.__main__ import parse_arguments
from helpers.tutorial import lesson_server

GUIDE = (PROJECT / "notebooks" / "GUIDE.md").read_text(encoding="utf-8")
ELSEWHERE = ("No module named", "CUDA out of memory")  # messages of Python and torch


def read_section(title: str) -> str:
    """What stands below a heading, up to the next one."""
    return re.search(
        rf"^#+ {title}[^\n]*\n(.*?)(?=^#|\Z)",
        re.sub(r"^# (?=vLLM|the)", "  ", GUIDE, flags=re.M),
        flags=re.M | re.S,
    )[1]


@pytest.mark.parametrize(("plan", "minutes"), [("45 minutes", 45), ("Half a day", 210), ("A day", 390)])
def test_minutes_of_a_plan_add_up_to_what_its_title_says(plan, minutes):
    assert re.search(rf"^### {plan}.*\b{minutes} minutes|^### {minutes} minutes", GUIDE, flags=re.M)
    assert sum(int(found) for found in re.findall(r"^\| (\d+) \|", read_section(plan), flags=re.M)) == minutes


def test_line_of_the_kits_server_is_taken_and_opens_it_behind_a_key():
    (line,) = re.findall(r"^python -m helpers\.server (.*)$", GUIDE, flags=re.M)
    options = parse_arguments(shlex.split(line))
    assert (
        options.listen
        and options.api_key == "KEY"
        and options.extensions == ["openai"]
        and f":{options.openai_port}/v1" in GUIDE
    )


def test_variables_of_the_guide_are_the_ones_that_are_read(monkeypatch):
    named = set(re.findall(r"^export (\w+)=", GUIDE, flags=re.M))
    assert named == set(
        re.findall(
            r"environ\.get\(\"(\w+)\"",
            (PROJECT / "helpers" / "tutorial" / "lesson_server.py").read_text(encoding="utf-8"),
        )
    )
    assert named <= set(re.findall(r"\w+", lesson_server.__doc__))


def test_messages_that_the_guide_explains_are_the_kits():
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [PROJECT / "Makefile", *(PROJECT / "helpers").rglob("*.py")]
    )
    sources = re.sub(r"\{[^{}\n]*\}|\$\(PYTHON\)", "", sources)  # what a message fills in
    spans = [
        span
        for row in re.findall(r"^\| (.*?) \|", read_section("What goes wrong"), flags=re.M)
        for span in re.findall(r"`([^`]*)`", row)
    ]
    pieces = [
        piece.strip(" :()")
        for span in spans
        for piece in re.split(r"\.\.\.|python3|5000|401|404", span)
        if not span.startswith(ELSEWHERE)
    ]
    assert [piece for piece in pieces if piece and piece not in sources] == [] and len(pieces) > 8
