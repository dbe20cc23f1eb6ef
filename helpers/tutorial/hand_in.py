"""The page that a learner hands in after `your_turn`: what was trained, on what, and how good it is.

No text of a row is on it, because rows may be private.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.common.files import hash_text, read_text, write_text
from helpers.common.outputs import ANOTHER_NAME
from helpers.tasks.data import TaskData
from helpers.tutorial.markdown import write_table
from helpers.tutorial.own_task import Board, results_folder

TITLE = "# Your turn: results"
SEAL = "<!-- written by the kit, sha256 of what is above: {} -->\n"  # the last line of a page
MISSING = "**not given yet**"


@dataclass(frozen=True)
class Sayings:
    """What only the learner can say."""

    source: str = ""  # where the rows come from
    licence: str = ""  # who may use them
    surprise: str = ""  # what was surprising


def write_results(
    data: TaskData, board: Board, run: Mapping[str, Any], said: Sayings, players: Mapping[str, int]
) -> str:
    """Writes runs/your_turn/results.md and returns its text, in Markdown.

    `run` is what train_lora returned, `players` what count_right did. An older page is replaced as long as
    nobody has changed it: an AlreadyThereError if somebody has.
    """
    parts = [TITLE, write_facts(data, board, run, said), write_board(board.tabulate(), len(board.rows))]
    parts += [f"{board.describe_rows()} In brackets: the 95% interval. Gains are in percentage points."]
    if players:
        rounds = ", ".join(f"{name} {count}" for name, count in players.items())
        parts.append(f"Right on the rows that were played: {rounds}.")
    parts += ["## What surprised me", say(said.surprise)]
    text = "\n\n".join(parts) + "\n\n"
    write_text(results_folder() / "results.md", text + SEAL.format(hash_text(text)), is_untouched)
    return text


def is_untouched(path: Path) -> bool:
    """Whether a page is as write_results left it."""
    text, _, seal = read_text(path, ANOTHER_NAME).rpartition("<!--")
    return f"<!--{seal}" == SEAL.format(hash_text(text))


def write_facts(data: TaskData, board: Board, run: Mapping[str, Any], said: Sayings) -> str:
    """The table of what was trained, on what."""
    settings = run["settings"]
    learned = f"{run['rows']} rows, {run['steps']} steps, {run['seconds']:.0f} s on {run['device']}"
    shown = ("epochs", "batch_size", "learning_rate", "lora_r", "lora_alpha", "seed")
    facts = {
        "data set": f"{name_source(data)}: {len(data.train)} rows to train on, {len(data.test)} held out",
        "where the rows come from": say(said.source),
        "licence": say(said.licence),
        "template": f"{data.template.name} ({data.template.kind})",
        "model": run["base"],
        "training": learned,
        "settings": ", ".join(f"{name} {settings[name]}" for name in shown),
        "judged on": f"{len(board.rows)} held-out rows",
        "kit": f"commit {run['commit']}, {run['date']}",
    }
    return write_table(["", ""], [[name, str(fact)] for name, fact in facts.items()])


def name_source(data: TaskData) -> str:
    """The file's name and its folder's, without what is above them on somebody's computer."""
    return "/".join(Path(data.source or "rows").parts[-2:])


def write_board(table: pd.DataFrame, rows: int) -> str:
    """The board as a table in Markdown, with the number of rows beside each figure."""
    heads = ["", table.columns[0], "rows", *table.columns[1:]]
    lines = [
        [str(name), str(cells.iloc[0]), str(rows), *map(str, cells.iloc[1:])]
        for name, cells in table.iterrows()
    ]
    return write_table(heads, lines)


def say(words: str) -> str:
    """The learner's words in one line, or that they are missing."""
    return " ".join(words.split()) or MISSING
