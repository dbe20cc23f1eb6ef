"""What the command prints and writes: figures in lines and as JSON, and rows if they may be shown."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.adapters.results import MEASURES
from helpers.common.arguments import escape
from helpers.common.errors import KitError
from helpers.common.files import read_json
from helpers.evaluation import board_figures
from helpers.evaluation.board_figures import ANSWER, SIDE, GainFigure, Share
from helpers.evaluation.free_answers import AnswerEvaluation, JudgedAnswer, find_worst_answers, list_examples
from helpers.evaluation.metrics import Evaluation
from helpers.evaluation.resampling import Gain
from helpers.tasks.rows import AnyTemplate

COLUMNS = {"accuracy": ANSWER, "right_side": SIDE}  # {a gain of labels: its column on the scoreboard}


@dataclass(frozen=True)
class Report:
    """What the command found out about a model, a LoRA or a server."""

    result: Evaluation | AnswerEvaluation
    base: Evaluation | AnswerEvaluation | None = None  # the same rows without the LoRA, if that was asked for
    gains: Mapping[str, Gain] = field(default_factory=dict)  # of the LoRA over the base, by metric
    answers: list[JudgedAnswer] = field(default_factory=list)  # [] for labels
    cut: int = 0  # answers that were ended by the limit of tokens

    def list_lines(self) -> list[str]:
        """The figures in lines: those of labels with the confusion, of free answers with the baselines."""
        lines = [describe_figures(self.result)]
        if isinstance(self.result, Evaluation):
            lines.append(json.dumps({"confusion": self.result.confusion}))
        else:
            lines += [f"{name}: {describe_means(means)}" for name, means in self.result.baselines.items()]
        if self.base:
            lines.append(f"base: {describe_figures(self.base)}")
            lines.append("gain over the base: " + "  ".join(map(describe_gain, self.gains.items())))
        if self.cut:
            lines.append(f"{self.cut} of {self.result.rows} answers did not end and were cut.")
        return lines

    def list_worst(self, count: int, template: AnyTemplate) -> Iterator[str]:
        """The worst answers, each with the last message of its prompt and the right answer."""
        for answer in find_worst_answers(self.answers, count):
            yield f"chrF {answer.closeness.chrf:.3f}"
            asked = template.build_messages(answer.row)[-1]["content"]
            yield indent_text("asked", asked)
            yield indent_text("right", answer.right)
            yield indent_text("said", answer.said)

    def list_examples(self, template: AnyTemplate) -> dict[str, list[dict[str, str]]]:
        """Some answers for the card: {"right": [...], "wrong": [...]}, each with its prompt."""
        found: dict[str, list[dict[str, str]]] = {"right": [], "wrong": []}
        for answer in list_examples(self.answers):
            name = "right" if answer.closeness.exact_match else "wrong"
            asked = template.build_messages(answer.row)[-1]["content"]
            found[name].append({"prompt": asked, "right": answer.right, "said": answer.said})
        return found

    def to_json(self, show_rows: bool) -> dict[str, Any]:
        """The figures; with `show_rows` also every row, its right answer, and what was said."""
        content = asdict(self.result)
        if self.base:
            content |= {"base": asdict(self.base)}
            content |= {"gain": {metric: asdict(gain) for metric, gain in self.gains.items()}}
        if show_rows:
            content |= {"answers": [list_facts(answer) for answer in self.answers]}
        return content


def is_result(path: Path) -> bool:
    """True for a file with what Report.to_json made."""
    try:
        found = read_json(path, "Delete it.")
    except KitError:
        return False
    return "rows" in found and any(MEASURES[key].interval in found for key in ("accuracy", "exact_match"))


def describe_figures(result: Evaluation | AnswerEvaluation) -> str:
    """The figures of an evaluation in one line, with intervals."""
    if isinstance(result, Evaluation):
        return "  ".join(list_label_figures(result))
    parts = [
        f"rows {result.rows}",
        describe_share("exact match", result.exact_match, result.exact_interval),
        describe_share("token F1", result.token_f1, result.token_f1_interval),
        describe_share("chrF", result.chrf, result.chrf_interval),
    ]
    if result.perplexity is not None:
        parts.append(f"perplexity {result.perplexity:.2f}")
    return "  ".join(parts)


def list_label_figures(result: Evaluation) -> Iterator[str]:
    """The figures of labels, its shares written as on the lessons' scoreboard."""
    low, high = result.interval
    answer: Share = {"value": result.accuracy, "low": low, "high": high, "n": result.rows}
    yield f"rows {result.rows}"
    yield f"{ANSWER} {board_figures.describe_share(answer)}"
    if side := result.right_side:
        yield f"{SIDE} {board_figures.describe_share(side)} of {side['n']} rows"
    yield f"majority {result.majority_accuracy:.1%}"
    yield f"macro-F1 {result.macro_f1:.3f}"


def describe_share(name: str, share: float, interval: tuple[float, float]) -> str:
    """A share with its interval."""
    low, high = interval
    return f"{name} {share:.3f} [{low:.3f}, {high:.3f}]"


def describe_means(means: Mapping[str, float]) -> str:
    """The figures of a baseline."""
    return "  ".join(f"{MEASURES[metric].name} {mean:.3f}" for metric, mean in means.items())


def describe_gain(item: tuple[str, Gain]) -> str:
    """A metric and its gain, with the interval."""
    metric, gain = item
    low, high = gain.interval
    if metric in COLUMNS:
        figure: GainFigure = {"value": gain.value, "low": low, "high": high}
        return f"{COLUMNS[metric]} {board_figures.describe_gain(figure)} points"
    return f"{MEASURES[metric].name} {gain.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def indent_text(name: str, text: str) -> str:
    """A text beside its name, with its lines aligned."""
    return f"  {name:5}  " + escape(text).replace("\n", "\n" + " " * 9)


def list_facts(answer: JudgedAnswer) -> dict[str, Any]:
    """A judged answer as JSON has it."""
    return {"row": answer.row, "right": answer.right, "said": answer.said, **answer.closeness._asdict()}
