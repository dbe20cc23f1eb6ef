"""A LoRA's model card: README.md, written from run.json, so that it says only what was measured."""

from pathlib import Path
from typing import Any

import yaml

from helpers.adapters.folders import AdapterFolder
from helpers.common.files import write_json, write_text

MARK = "<!-- written from run.json; what is changed here is lost with the next measurement -->"

CARD = """---
{front}---
{mark}

# {name}

A LoRA of rank {rank} (alpha {alpha}) on {targets} of `{base}`.

## Training

| | |
|---|---|
{facts}

## Measured

{measured}

## Loading

```python
from transformers import AutoModelForCausalLM
from peft import PeftModel

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("models/{base}"), "loras/{name}")
```

Ask it with the template `{template}`: it learned to answer that text. From a terminal:

```bash
python -m helpers.server --model {base} --lora {name} --api --extensions openai
python -m helpers.adapters prove {name}
```
"""


def add_to_run(folder: AdapterFolder, **facts: object) -> None:
    """Adds facts, such as evaluations, to a LoRA's run.json and card; dataclasses become objects."""
    write_json(folder.path / "run.json", {**folder.run, **facts})
    write_card(folder)


def write_card(folder: AdapterFolder) -> Path:
    """Writes README.md from the LoRA's records; somebody else's card stays. Returns its path."""
    path = folder.path / "README.md"
    if path.is_file() and MARK not in path.read_text(encoding="utf-8"):
        return path
    run = folder.run
    front = {
        "base_model": folder.config.get("base_model_name_or_path"),
        "library_name": "peft",
        "tags": ["lora"],
        "pipeline_tag": "text-generation",
    }
    facts = [f"| {key} | {value} |" for key, value in list_facts(run).items()]
    text = CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        mark=MARK,
        name=folder.name,
        rank=folder.config["r"],
        alpha=folder.config["lora_alpha"],
        targets=folder.targets_in_words,
        base=folder.base_name or "its base",
        facts="\n".join(facts) or "| not recorded | |",
        measured=describe_measurements(run),
        template=run.get("template", "unknown"),
    )
    return write_text(path, text)


def list_facts(run: dict[str, Any]) -> dict[str, str]:
    """What is recorded of the training, in words; nothing for a LoRA that the kit did not train."""
    settings = run.get("settings")
    if not settings:
        return {}
    hashes = ", ".join(f"{name} {value[:12]}" for name, value in run["base_sha256"].items())
    rows = f"{run['rows']} rows (sha256 of the rows {run['rows_sha256'][:12]})"
    shown = ("epochs", "batch_size", "accumulation", "learning_rate", "schedule", "optimizer")
    return {
        "base (sha256)": hashes or "not recorded",
        "data": f"{run.get('data', 'rows from memory')}, {rows}",
        "held out": describe_split(run.get("split")),
        "settings": ", ".join(f"{key} {settings[key]}" for key in shown),
        "trained parameters": f"{run['trainable_parameters']:,}",
        "steps": f"{run['steps']} of {run['planned_steps']}" if "steps" in run else "not recorded",
        "time and memory": f"{run['seconds']:.0f} s, peak {run['peak_mb'] / 1000:.1f} GB, {run['device']}",
        "loss": describe_loss(run["loss"]),
        "date, commit": f"{run['date']}, {run['commit']}",
    }


def describe_split(split: dict[str, Any] | None) -> str:
    """What was held out, in words."""
    return f"{split['test_size']:.0%} of the texts, seed {split['seed']}" if split else "not recorded"


def describe_loss(losses: list[float]) -> str:
    """The loss at both ends of the training."""
    if not losses:
        return "not recorded"
    return f"{losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last"


def describe_measurements(run: dict[str, Any]) -> str:
    """The table of the figures, with intervals; or that none was measured."""
    found = run.get("evaluation")
    if not found:
        command = "python -m helpers.evaluation --model ... --lora ... --split test"
        return f"Not measured yet. To measure: `{command}`."
    free = {name: result for name, result in found.items() if "exact_match" in result}
    labels = {name: result for name, result in found.items() if name not in free}
    tables = [tabulate_labels(labels)] if labels else []
    return "\n\n".join([*tables, tabulate_answers(free)] if free else tables)


def tabulate_labels(found: dict[str, dict[str, Any]]) -> str:
    """The table of accuracies."""
    lines = ["| | accuracy on held-out rows | 95 % interval | macro-F1 | rows |", "|---|---|---|---|---|"]
    for name, result in found.items():
        interval = describe_interval(result["interval"])
        macro_f1 = f"{result['macro_f1']:.2f}"
        lines.append(f"| {name} | {result['accuracy']:.1%} | {interval} | {macro_f1} | {result['rows']} |")
    first = next(iter(found.values()))
    majority = f"Always answering the most frequent label gets {first['majority_accuracy']:.1%}."
    return "\n".join([*lines, "", majority])


def tabulate_answers(found: dict[str, dict[str, Any]]) -> str:
    """The table of free answers on held-out rows, with the baselines in its last rows."""
    titles = ["", "exact match on held-out rows", "95 % interval", "token F1", "chrF", "perplexity", "rows"]
    lines = [titles, ["---"] * len(titles)]
    for name, result in found.items():
        interval = describe_interval(result["exact_interval"])
        perplexity = f"{result['perplexity']:.2f}"
        lines.append([name, *list_shares(result, interval), perplexity, str(result["rows"])])
    for name, means in next(iter(found.values()))["baselines"].items():
        lines.append([name, *list_shares(means), "", ""])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def list_shares(result: dict[str, Any], interval: str = "") -> list[str]:
    """The cells with the figures of free answers."""
    return [f"{result['exact_match']:.1%}", interval, f"{result['token_f1']:.2f}", f"{result['chrf']:.2f}"]


def describe_interval(interval: list[float]) -> str:
    """An interval in words."""
    low, high = interval
    return f"{low:.1%} to {high:.1%}"
