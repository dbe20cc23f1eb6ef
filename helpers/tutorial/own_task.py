"""A learner's own task: its template, the rows that are used, and one board for all ways to answer.

The notebook `your_turn` uses it. Labels and free answers take the same calls.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from helpers.adapters.folders import name_output
from helpers.common.files import write_text
from helpers.common.paths import find_home
from helpers.common.training_settings import TrainingSettings
from helpers.evaluation.answer_board import AnswerBoard
from helpers.evaluation.answering import judge_answers
from helpers.evaluation.scoreboard import Scoreboard
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import LoadedModel
from helpers.tasks.baseline import score_bag_of_words
from helpers.tasks.checks.suggesting import suggest_template
from helpers.tasks.data import TaskData
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import keep_short
from helpers.tasks.template import Label, Row, Template
from helpers.tutorial import game

Board = Scoreboard | AnswerBoard


def results_folder() -> Path:
    """Where the page keeps what it writes."""
    return find_home() / "runs" / "your_turn"


def keep_template(data: str, name: str) -> str | None:
    """A first template for a table, kept as runs/your_turn/NAME.yaml; None for chats, which need none.

    A template that is there already stays as it is: its author may have changed it. Raises what
    suggest_template raises, and UsageError if NAME is not a name for a LoRA.
    """
    path = results_folder() / f"{name_output(f'loras/{name}').name}.yaml"
    if not path.is_file():
        suggestion = suggest_template(data)
        if not suggestion.text:
            return None
        write_text(path, suggestion.text)
    return path.relative_to(find_home()).as_posix()


def pick_rows(data: TaskData, settings: TrainingSettings, most: int) -> tuple[list[Row], list[Row]]:
    """(the rows that a training with these settings takes, at most `most` of the held-out rows)."""
    train = data.train
    if settings.max_rows:
        train = keep_short(train, settings.max_rows, settings.seed, data.template)
    return train, random.Random(settings.seed).sample(data.test, min(most, len(data.test)))


def has_labels(template: AnyTemplate) -> bool:
    """Whether the answers are a few labels, and not free text."""
    return template.kind == "labels"


def start_board(template: AnyTemplate, train: Sequence[Row], rows: Sequence[Row]) -> Board:
    """A board of `rows` with the ways to answer that need no model; they know the rows of `train`."""
    if not isinstance(template, Template) or not has_labels(template):
        board = AnswerBoard(rows, template)
        board.add_simple_ways(train)
        return board
    board = Scoreboard(rows, template, pair=())
    board.add_majority()
    bag = score_bag_of_words(train, rows)
    board.add_scores("bag of words", "knows which words come with which answer, and cannot read", bag)
    return board


def add_model(board: Board, name: str, what: str, loaded: LoadedModel) -> None:
    """Judges the model, with the LoRA that is active on it, and adds a line to the board."""
    if isinstance(board, Scoreboard):
        scores = score_answers(loaded, board.rows, board.template, progress=False)
        board.add_scores(name, what, scores)
    else:
        board.add_answers(name, what, judge_answers(loaded, board.rows, board.template, progress=False))


def count_right(board: Board, rounds: Sequence[Row], answers: Sequence[Label | None]) -> dict[str, int]:
    """{player: how many of the rounds are right}: "you" if there are answers, and each line of the board.

    `rounds` are some rows of the board. {} for free answers, and without rounds.
    """
    if not isinstance(board, Scoreboard) or not rounds:
        return {}
    places = [board.rows.index(row) for row in rounds]
    found = {name: sum(line.answers[place] for place in places) for name, line in board.lines.items()}
    played = any(answer is not None for answer in answers)
    return ({"you": game.count_right(answers, rounds)} if played else {}) | found
