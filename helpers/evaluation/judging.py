"""Label accuracy with an interval, against the base model and the majority class; local or over a URL.

A verdict is the answer to which the model gives the highest probability, its end-of-turn token included; nothing is generated
(helpers.evaluation.scoring).
"""

from collections.abc import Callable

from tqdm.auto import tqdm

from helpers.evaluation.metrics import Evaluation, Scores, pick_verdicts, summarise_verdicts
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import LoadedModel
from helpers.tasks.rows import Row
from helpers.tasks.template import Template


def evaluate(loaded: LoadedModel, rows: list[Row], template: Template, progress: bool = True) -> Evaluation:
    """Judges every row with the model (and the adapter that is active on it)."""
    return summarise_scores(
        score_answers(loaded, rows, template, progress=progress, every=False), rows, template
    )


def summarise_scores(scores: list[Scores], rows: list[Row], template: Template) -> Evaluation:
    """The figures of an evaluation from the scores of its rows, whose likeliest labels are the verdicts."""
    return summarise_verdicts([row["label"] for row in rows], pick_verdicts(scores), list(template.label))


def evaluate_over_url(
    ask: Callable[[list[dict[str, str]]], str], rows: list[Row], template: Template, progress: bool = True
) -> Evaluation:
    """Judges every row by what a server answers: `ask` takes messages and returns the reply's text (see helpers.clients.raw)."""
    return summarise_verdicts(
        [row["label"] for row in rows], ask_verdicts(ask, rows, template, progress), list(template.label)
    )


def ask_verdicts(
    ask: Callable[[list[dict[str, str]]], str], rows: list[Row], template: Template, progress: bool = True
) -> list[int | None]:
    """The label whose answer a server's reply is, word for word, of each row; None for any other reply."""
    verdicts = []
    for row in tqdm(rows, desc="asking", disable=not progress):
        reply = ask(template.build_messages(row)).strip()
        verdicts.append(
            next((label for label, answer in template.build_answers(row).items() if reply == answer), None)
        )
    return verdicts
