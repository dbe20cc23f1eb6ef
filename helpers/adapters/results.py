"""What was measured of a LoRA, for its card: figures with intervals, beside the base and the baselines."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """A figure of an evaluation: its name in words, the key of its interval, and how it is written."""

    name: str
    interval: str
    form: str

    def show(self, result: Mapping[str, Any], key: str) -> str:
        """The figure with its interval, as far as they are known."""
        value, interval = result.get(key), result.get(self.interval)
        if value is None:
            return ""
        shown = format(value, self.form)
        if not interval:
            return shown
        low, high = (format(end, self.form) for end in interval)
        return f"{shown} ({low} to {high})"

    def show_gain(self, value: float) -> str:
        """A difference with its sign; that of shares is in percentage points."""
        return f"{100 * value:+.1f}" if self.unit else format(value, f"+{self.form}")

    @property
    def unit(self) -> str:
        """The unit of a difference."""
        return " percentage points" if self.form.endswith("%") else ""


# The first that an evaluation has is the one that is judged by.
MEASURES = {
    "accuracy": Measure("accuracy", "interval", ".1%"),
    "exact_match": Measure("exact match", "exact_interval", ".1%"),
    "token_f1": Measure("token F1", "token_f1_interval", ".2f"),
    "chrf": Measure("chrF", "chrf_interval", ".2f"),
    "macro_f1": Measure("macro-F1", "", ".2f"),
    "perplexity": Measure("perplexity", "", ".2f"),
}
JUDGED = ("base", "lora")

Results = dict[str, dict[str, Any]]  # who answered -> the figures


def list_judged(run: Mapping[str, Any]) -> Results:
    """What was measured of base and LoRA."""
    found = run.get("evaluation", {})
    return {name: found[name] for name in JUDGED if found.get(name)}


def list_baselines(run: Mapping[str, Any]) -> Results:
    """What is reached without the model, by what is known of it."""
    found: Results = {}
    for result in list_judged(run).values():
        if "majority_accuracy" in result:
            found["majority"] = {"accuracy": result["majority_accuracy"], "rows": result.get("rows")}
        found |= result.get("baselines", {})
    return found | run.get("baselines", {})


def tabulate(run: Mapping[str, Any]) -> list[list[str]]:
    """The table of all results, its heads first; [] if nothing was measured."""
    results = list_baselines(run) | list_judged(run)
    if not list_judged(run):
        return []
    shown = [key for key in MEASURES if any(result.get(key) is not None for result in results.values())]
    heads = [name_column(key, results) for key in shown]
    lines = [["", *heads, "held-out rows"]]
    for name, result in results.items():
        cells = [MEASURES[key].show(result, key) for key in shown]
        lines.append([name, *cells, str(result.get("rows") or "")])
    return lines


def name_column(key: str, results: Results) -> str:
    """The head of a measure's column."""
    name, interval, _ = MEASURES[key]
    return f"{name} (95% interval)" if any(interval in result for result in results.values()) else name


def list_missing(run: Mapping[str, Any]) -> list[str]:
    """Which of base and LoRA were not judged."""
    return [name for name in JUDGED if name not in list_judged(run)]


def list_remarks(run: Mapping[str, Any]) -> Iterator[str]:
    """What the figures show and what they do not, in sentences."""
    for key, gain in run.get("gain", {}).items():
        if key in MEASURES and "value" in gain and "interval" in gain:
            yield describe_gain(key, gain)
    lora = list_judged(run).get("lora", {})
    key = next((key for key in MEASURES if key in lora), "")
    known = {name: result[key] for name, result in list_baselines(run).items() if key in result}
    if not known or not lora.get(MEASURES[key].interval):
        return
    best, low = max(known, key=lambda name: known[name]), lora[MEASURES[key].interval][0]
    if low <= known[best]:
        start, reached = (format(value, MEASURES[key].form) for value in (low, known[best]))
        yield (
            f"The LoRA is not shown to be better than the baseline '{best}': "
            f"its interval begins at {start}, and the baseline has {reached}."
        )


def describe_gain(key: str, gain: Mapping[str, Any]) -> str:
    """How much the LoRA gains over its base."""
    measure, (low, high) = MEASURES[key], gain["interval"]
    value, *ends = (measure.show_gain(number) for number in (gain["value"], low, high))
    doubt = "; it includes 0, so this may be chance" if low <= 0 <= high else ""
    interval = f"95% interval {ends[0]} to {ends[1]}{doubt}"
    return f"LoRA against base, on the same rows: {measure.name} {value}{measure.unit} ({interval})."


def list_examples(run: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Rows that were answered right and wrong; {} unless somebody asked for rows to be shown."""
    examples = list_judged(run).get("lora", {}).get("examples") or {}
    return {name: examples[name] for name in ("right", "wrong") if examples.get(name)}
