"""Labels and their figures: by a loaded model, which scores each answer, or by a server, which is asked.

A prediction is the answer with the highest probability, its end-of-turn token included; nothing is generated
(helpers.evaluation.scoring). A server's reply counts if it is one of the answers, word for word, whatever the
spaces around it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from helpers.evaluation.asking import REQUESTS_AT_ONCE, Ask, ask_all, check_reply, map_prompts
from helpers.evaluation.metrics import (
    Evaluation,
    Scores,
    list_labels,
    pick_predictions,
    summarise_predictions,
)
from helpers.evaluation.scoring import score_answers
from helpers.loading.model import LoadedModel
from helpers.tasks.given import check_labelled, check_rows, list_columns
from helpers.tasks.template import Label, Row, Template

ASK_ANSWERS = "ask_answers, judge_answers and summarise_answers"


def evaluate(loaded: LoadedModel, rows: list[Row], template: Template, progress: bool = True) -> Evaluation:
    """Judges every row with the model, and with the LoRA that is active on it.

    Raises DamagedError if the model computes no numbers.
    """
    check_labelled(template, ASK_ANSWERS)
    scores = score_answers(loaded, rows, template, progress=progress, every=False)
    return summarise_scores(scores, rows, template)


def summarise_scores(scores: list[Scores], rows: list[Row], template: Template) -> Evaluation:
    """The figures of an evaluation from its rows' scores; the likeliest labels are the predictions."""
    check_labelled(template, ASK_ANSWERS)
    truth = list_labels(rows)
    return summarise_predictions(truth, pick_predictions(scores), list(template.label))


def evaluate_over_url(ask: Ask, rows: list[Row], template: Template, progress: bool = True) -> Evaluation:
    """Judges every row by what a server replies to `ask`, such as clients.ask_openai."""
    check_labelled(template, ASK_ANSWERS)
    truth = list_labels(rows)
    return summarise_predictions(truth, ask_predictions(ask, rows, template, progress), list(template.label))


def ask_predictions(
    ask: Ask, rows: list[Row], template: Template, progress: bool = True
) -> list[Label | None]:
    """The label of the answer that a server replies to each row; None for any other reply.

    Several rows are asked at a time. Raises what `ask` raises.
    """
    check_labelled(template, ASK_ANSWERS)
    check_rows(rows, list_columns(template), empty=True)
    said = ask_all(ask, [template.build_messages(row) for row in rows], progress)
    return [find_label(reply, template.build_answers(row)) for reply, row in zip(said, rows, strict=True)]


def ask_sides(
    ask: Callable[..., str],
    rows: list[Row],
    template: Template,
    pair: Sequence[Label],
    progress: bool = True,
) -> list[Label | None]:
    """The label of the pair that a server gives to each row when it may say nothing else.

    `ask` takes messages and `extra_body`, in which the two answers go to the server as vLLM names them:
    structured_outputs with a choice. A reply that is neither is None. Raises what `ask` raises.
    """
    check_labelled(template, ASK_ANSWERS)

    def ask_one(row: Row) -> Label | None:
        choice = {label: template.build_answers(row)[label] for label in pair}
        form = {"structured_outputs": {"choice": list(choice.values())}}
        return find_label(check_reply(ask(template.build_messages(row), extra_body=form)), choice)

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return map_prompts(pool, ask_one, rows, "asking", progress)


def find_label(reply: str, answers: dict[Label, str]) -> Label | None:
    """The label whose answer the reply is, whatever the spaces around it; None for any other reply."""
    return {answer.strip(): label for label, answer in answers.items()}.get(reply.strip())
