"""The figures of free answers, made from texts: the rows' right answers and what was said instead.

helpers.evaluation.judging gets the answers from a model or a server. helpers.evaluation.comparing says how
close each one comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from helpers.common.values import check_filled, check_lengths
from helpers.evaluation.comparing import Closeness, compare_answers
from helpers.evaluation.metrics import estimate_interval
from helpers.evaluation.resampling import Gain, bootstrap_mean, measure_gain
from helpers.tasks.baseline import predict_most_frequent, predict_nearest
from helpers.tasks.given import check_rows, check_template, list_columns
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.split import name_groups
from helpers.tasks.template import Row

METRICS = Closeness._fields


@dataclass(frozen=True)
class JudgedAnswer:
    """One row, what was said, and how close it comes to the right answer."""

    row: Row
    right: str
    said: str
    group: str  # rows of one group are not independent
    closeness: Closeness


@dataclass(frozen=True)
class JudgedAnswers:
    """All answers of a model or a server, in the order of the rows."""

    answers: list[JudgedAnswer]
    perplexity: float | None = None  # of the right answers; None over a URL
    cut: int | None = None  # how many answers were ended by the limit of tokens; None over a URL


@dataclass(frozen=True)
class AnswerEvaluation:
    """The figures of free answers. `python -m helpers.evaluation --json` writes them under these names."""

    rows: int  # number of rows that were judged
    exact_match: float  # share of answers with the words of the right one, in its order
    exact_interval: tuple[float, float]  # 95% Wilson interval
    token_f1: float  # mean overlap in words
    token_f1_interval: tuple[float, float]  # 95%, resampled by groups
    chrf: float  # mean overlap in runs of characters
    chrf_interval: tuple[float, float]  # 95%, resampled by groups
    # How many tokens the model hesitates between, on average, at each token of the right answers and their
    # ends; 1 is certainty. None over a URL.
    perplexity: float | None = None
    # Of each way to answer without a model: the three figures.
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def judge_texts(rows: Sequence[Row], template: AnyTemplate, said: Sequence[str]) -> list[JudgedAnswer]:
    """Compares what was said about each row with the row's right answer."""
    judged = []
    for row, text, group in zip(rows, said, name_groups(rows, template), strict=True):
        right, text = template.build_answer(row).strip(), text.strip()
        judged.append(JudgedAnswer(row, right, text, group, compare_answers(right, text)))
    return judged


def summarise_answers(
    judged: JudgedAnswers, baselines: Mapping[str, Mapping[str, float]] | None = None
) -> AnswerEvaluation:
    """The figures of an evaluation from its answers; `baselines` are those of judge_baselines."""
    answers = judged.answers
    check_filled("answers", answers)
    groups = [answer.group for answer in answers]
    exact, token_f1, chrf = (list_values(answers, metric) for metric in METRICS)
    return AnswerEvaluation(
        rows=len(answers),
        exact_match=fmean(exact),
        exact_interval=estimate_interval(round(sum(exact)), len(exact)),
        token_f1=fmean(token_f1),
        token_f1_interval=bootstrap_mean(token_f1, groups),
        chrf=fmean(chrf),
        chrf_interval=bootstrap_mean(chrf, groups),
        perplexity=judged.perplexity,
        baselines=baselines or {},
    )


def list_values(answers: Sequence[JudgedAnswer], metric: str) -> list[float]:
    """One of the METRICS of each answer."""
    return [getattr(answer.closeness, metric) for answer in answers]


def measure_answer_gains(base: JudgedAnswers, tuned: JudgedAnswers) -> dict[str, Gain]:
    """{metric: how much higher it is for `tuned` than for `base`}, on the same rows."""
    groups = [answer.group for answer in tuned.answers]
    check_filled("answers", groups)
    check_lengths(base=base.answers, tuned=tuned.answers)
    return {
        metric: measure_gain(list_values(base.answers, metric), list_values(tuned.answers, metric), groups)
        for metric in METRICS
    }


def judge_baselines(
    train: Sequence[Row], rows: Sequence[Row], template: AnyTemplate
) -> dict[str, dict[str, float]]:
    """{name: the three figures} of answers that need no model, only the training rows."""
    found = answer_simply(train, rows, template)
    return {
        name: {metric: fmean(list_values(answers, metric)) for metric in METRICS}
        for name, answers in found.items()
    }


def answer_simply(
    train: Sequence[Row], rows: Sequence[Row], template: AnyTemplate
) -> dict[str, list[JudgedAnswer]]:
    """{name: the judged answers} of ways to answer that need no model, only the training rows."""
    check_template(template)
    check_rows(train, list_columns(template), what="train")
    check_rows(rows, list_columns(template))
    prompts = list_questions([*train, *rows], template)
    answers = [template.build_answer(row) for row in train]
    ways = {"most frequent answer": predict_most_frequent, "nearest neighbour": predict_nearest}
    asked = prompts[: len(train)], answers, prompts[len(train) :]
    return {name: judge_texts(rows, template, predict(*asked)) for name, predict in ways.items()}


def list_questions(rows: Sequence[Row], template: AnyTemplate) -> list[str]:
    """The prompt of each row as one text, without the messages that all of them begin with."""
    prompts = [template.build_messages(row) for row in rows]
    shortest = min(map(len, prompts))
    same = [all(prompt[i] == prompts[0][i] for prompt in prompts) for i in range(shortest)]
    shared = max(min([*same, False].index(False), shortest - 1), 0)
    return ["\n".join(message["content"] for message in prompt[shared:]) for prompt in prompts]


def find_worst_answers(answers: Sequence[JudgedAnswer], count: int = 3) -> list[JudgedAnswer]:
    """The answers with the lowest chrF, worst first."""
    return sorted(answers, key=lambda answer: answer.closeness.chrf)[:count]


def list_examples(answers: Sequence[JudgedAnswer], count: int = 4) -> list[JudgedAnswer]:
    """Half right ones and half wrong ones for a report, the first of each; more of one if the other lacks.

    They come in the order of the rows.
    """
    places = range(len(answers))
    right = [place for place in places if answers[place].closeness.exact_match]
    wrong = [place for place in places if not answers[place].closeness.exact_match]
    half = max(count - len(wrong), (count + 1) // 2)
    chosen = right[:half]
    chosen += wrong[: count - len(chosen)]
    return [answers[place] for place in sorted(chosen)]
