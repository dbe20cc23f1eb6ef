"""The guide for teachers is correct: its plans add up, its commands are valid, its messages are the kit's."""

import inspect
import re
import shlex

import pytest
from support.lessons import NOTEBOOKS, PATHS, read_notebook

from helpers.common.paths import PROJECT
from helpers.server.__main__ import parse_arguments
from helpers.tutorial import lesson_server
from tools.talk_plan import build_plan, put_plan_into_guide

GUIDE = (NOTEBOOKS / "GUIDE.md").read_text(encoding="utf-8")
ELSEWHERE = ("No module named", "CUDA out of memory")  # messages of Python and torch


def read_section(title: str) -> str:
    """What is below a heading, up to the next one."""
    lines = GUIDE.splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"#+ {title}", line))
    section = []
    for line in lines[start + 1 :]:
        if re.match(r"#{2,} ", line):
            break
        section.append(line)
    return "\n".join(section)


def list_messages() -> list[str]:
    """The parts of the messages in the last table that are the kit's own and always the same."""
    table = re.findall(r"^\| (.*?) \|", read_section("What goes wrong"), flags=re.MULTILINE)
    spans = [span for cell in table for span in re.findall(r"`([^`]*)`", cell)]
    parts = []
    for span in spans:
        if not span.startswith(ELSEWHERE):
            # An ellipsis, a program's name and numbers are examples of what a message fills in.
            parts += re.split(r"\.\.\.|python3|5000|401|404", span)
    return [part.strip(" :()") for part in parts if part.strip(" :()")]


@pytest.mark.parametrize(("plan", "minutes"), [("45 minutes", 45), ("Half a day", 210), ("A day", 390)])
def test_minutes_of_a_plan_add_up_to_what_its_title_says(plan, minutes):
    heading = next(line for line in GUIDE.splitlines() if line.startswith(f"### {plan}"))
    assert re.search(rf"\b{minutes} minutes", heading)
    parts = re.findall(r"^\| ([\d.]+) \|", read_section(plan), flags=re.MULTILINE)
    assert sum(map(float, parts)) == minutes


def test_plan_of_the_talk_is_that_of_the_slides():
    lessons = {path.name: read_notebook(path) for path in PATHS}
    assert put_plan_into_guide(GUIDE, lessons) == GUIDE and "\n".join(build_plan(lessons)) in GUIDE


def test_command_of_the_kits_server_is_valid_and_opens_it_with_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("secret\n")
    [line] = re.findall(r"^python -m helpers\.server (.*)$", GUIDE, flags=re.MULTILINE)
    options = parse_arguments(shlex.split(line))
    assert options.listen and options.api_key == "secret" and options.extensions == ["openai"]
    assert f":{options.openai_port}/v1" in GUIDE


def test_variables_of_the_guide_are_those_that_are_documented_and_read():
    named = set(re.findall(r"^export (\w+)=", GUIDE, flags=re.MULTILINE))
    assert named == set(re.findall(r"\bOPENAI_\w+", lesson_server.__doc__))
    assert named == set(re.findall(r"\b(OPENAI_\w+)\"", inspect.getsource(lesson_server)))


@pytest.mark.parametrize("message", list_messages())
def test_message_that_the_guide_explains_is_in_the_kit(message):
    rooms = ("helpers", "tools")
    sources = [PROJECT / "Makefile", *(path for room in rooms for path in (PROJECT / room).rglob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert message in re.sub(r"\{[^{}\n]*\}|\$\(PYTHON\)", "", text)  # without what a message fills in


def test_guide_explains_more_than_eight_messages():
    assert len(list_messages()) > 8
