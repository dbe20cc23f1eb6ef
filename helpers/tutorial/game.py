"""The task, played by the learner before a model does it: five comments, and the learner's own score."""

import html
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import pandas as pd
from IPython.display import HTML, display

from helpers.common.errors import KitError, UsageError
from helpers.common.files import read_json, write_json
from helpers.common.paths import find_home
from helpers.common.values import check_lengths
from helpers.tasks.split import name_groups
from helpers.tasks.template import Label, Row, Template

ROUNDS = 5
# The seed of the five comments. Of 0 to 29, which were tried, it is one in which the lessons' LoRAs have four
# right, a little more than on average. Lessons 4 and 5 say so.
DRAW = 21
RIGHT, WRONG = "✔", "✘"


class Saved(TypedDict):
    """What the file of a learner's answers has."""

    texts: list[str]
    answers: list[str | int | None]


def pick_rounds(rows: Sequence[Row], template: Template, count: int = ROUNDS) -> list[Row]:
    """Rows to play, the same in every run: of different texts, with labels as mixed as possible.

    They are a random draw from the shorter half of the rows, with the seed DRAW.
    """
    shorter = sorted(range(len(rows)), key=lambda number: (len(str(rows[number])), number))
    half = (len(rows) + 1) // 2
    draw = random.Random(DRAW)
    order = draw.sample(shorter[:half], half) + shorter[half:]
    texts = name_groups(rows, template)
    picked: list[int] = []
    while len(picked) < min(count, len(set(texts))):
        used = [rows[number]["label"] for number in picked]
        known = {texts[number] for number in picked}
        free = [number for number in order if texts[number] not in known]  # the first of the rarest label
        picked.append(min(free, key=lambda number: used.count(rows[number]["label"])))
    return [rows[number] for number in sorted(picked)]


def show_rounds(rounds: Sequence[Row], template: Template) -> None:
    """Displays the rows, as write_rounds writes them."""
    display(HTML(write_rounds(rounds, template)))


def write_rounds(rounds: Sequence[Row], template: Template) -> str:
    """HTML of each row as the model is given it, with all answers and no hint at the right one."""
    parts = []
    for number, row in enumerate(rounds, start=1):
        task = html.escape(template.build_messages(row)[-1]["content"]).replace("\n", "<br>")
        choices = " &nbsp; ".join(
            f"<b>{html.escape(str(label))}</b> {html.escape(answer)}"
            for label, answer in template.build_answers(row).items()
        )
        parts.append(f"<p><b>{number}.</b> {task}<br>{choices}</p>")
    return "".join(parts)


def keep_answers(answers: Sequence[Label | None], rounds: Sequence[Row], task: str) -> None:
    """Says how many of the learner's answers are right, and keeps them for later cells and lessons.

    Raises UsageError for another number of answers than rows. None is a row without an answer.
    """
    check_lengths(answers=answers, rows=rounds)
    if not any(answer is not None for answer in answers):
        print("You have not answered yet. Put a number in place of each None, and run this cell again.")
        return
    write_json(name_file(task), {"texts": list(map(str, rounds)), "answers": list(answers)})
    right = count_right(answers, rounds)
    print(f"You have {right} of {len(rounds)} right. Remember that: a model will be asked the same five.")


def read_answers(rounds: Sequence[Row], task: str) -> list[Label | None] | None:
    """The learner's answers to these rows, as keep_answers kept them; None if there are none."""
    path = name_file(task)
    try:
        saved = read_json(path, "Delete it.", Saved) if path.is_file() else None
    except KitError:
        return None
    if saved is None or saved["texts"] != list(map(str, rounds)) or len(saved["answers"]) != len(rounds):
        return None
    return saved["answers"]


def name_file(task: str) -> Path:
    """Where the learner's answers are kept."""
    return find_home() / "runs" / task / "your_answers.json"


def count_right(answers: Sequence[Label | None], rounds: Sequence[Row]) -> int:
    """How many answers are right."""
    return sum(answer == row["label"] for answer, row in zip(answers, rounds, strict=True))


def compare_players(
    players: Mapping[str, Sequence[Label | None] | None], rounds: Sequence[Row], template: Template
) -> pd.DataFrame:
    """A line for each row: the right answer, and what each player said, marked. The last line counts.

    `players`: name -> label for each row; a player whose answers are None is left out.
    """
    played = {name: said for name, said in players.items() if said}
    table = []
    for number, row in enumerate(rounds):
        answers = template.build_answers(row)
        line = {"": f"comment {number + 1}", "truth": answers[row["label"]]}
        for name, said in played.items():
            line[name] = describe_answer(said[number], row, answers)
        table.append(line)
    total = {"": "right", "truth": ""}
    for name, said in played.items():
        total[name] = f"{count_right(said, rounds)} of {len(rounds)}"
    return pd.DataFrame([*table, total]).set_index("")


def describe_answer(said: Label | None, row: Row, answers: Mapping[Label, str]) -> str:
    """An answer in words with its mark; empty for none."""
    if said is None:
        return ""
    if said not in answers:
        known = ", ".join(map(str, answers))
        raise UsageError(f"{said!r} is not one of the answers.", f"Give one of: {known}.")
    return f"{RIGHT if said == row['label'] else WRONG} {answers[said]}"
