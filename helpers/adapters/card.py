"""A LoRA's model card: README.md in its folder, written from its run.json, so that it says nothing that was not measured."""

from pathlib import Path

import yaml

from helpers.adapters.folders import name_base, read_config, read_run
from helpers.common.files import replace_when_complete

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


def write_card(folder: Path) -> Path:
    """Writes README.md from adapter_config.json and run.json; one that somebody else has written stays. Returns its path."""
    path = folder / "README.md"
    if path.is_file() and MARK not in path.read_text(encoding="utf-8"):
        return path
    config, run = read_config(folder), read_run(folder)
    base, targets = name_base(folder) or "its base", config["target_modules"]
    front = {
        "base_model": config["base_model_name_or_path"],
        "library_name": "peft",
        "tags": ["lora"],
        "pipeline_tag": "text-generation",
    }
    text = CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        mark=MARK,
        name=folder.name,
        rank=config["r"],
        alpha=config["lora_alpha"],
        targets=targets if isinstance(targets, str) else ", ".join(sorted(targets)),
        base=base,
        facts="\n".join(f"| {key} | {value} |" for key, value in list_facts(run).items())
        or "| not recorded | |",
        measured=describe_measurements(run),
        template=run.get("template", "unknown"),
    )
    with replace_when_complete(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
    return path


def list_facts(run: dict) -> dict[str, str]:
    """What is recorded of the training, in words; nothing for an adapter that the kit has not trained."""
    if not (settings := run.get("settings")):
        return {}
    hashes = ", ".join(f"{name} {value[:12]}" for name, value in run["base_sha256"].items()) or "not recorded"
    return {
        "base (sha256)": hashes,
        "data": f"{run.get('data', 'rows from memory')}, {run['rows']} rows (sha256 of the rows {run['rows_sha256'][:12]})",
        "held out": f"{run['split']['test_size']:.0%} of the texts, seed {run['split']['seed']}"
        if "split" in run
        else "not recorded",
        "settings": ", ".join(
            f"{key} {settings[key]}"
            for key in ("epochs", "batch_size", "accumulation", "learning_rate", "schedule", "optimizer")
        ),
        "trained parameters": f"{run['trainable_parameters']:,}",
        "steps": f"{run['steps']} of {run['planned_steps']}" if "steps" in run else "not recorded",
        "time and memory": f"{run['seconds']:.0f} s, peak {run['peak_mb'] / 1000:.1f} GB, {run['device']}",
        "loss": f"{run['loss'][0]:.2f} at the first step, {run['loss'][-1]:.2f} at the last"
        if run["loss"]
        else "not recorded",
        "date, commit": f"{run['date']}, {run['commit']}",
    }


def describe_measurements(run: dict) -> str:
    """The table of accuracies, each with its interval; or that none was measured."""
    found = run.get("evaluation")
    if not found:
        return "Nothing was measured yet: `python -m helpers.evaluation --model ... --lora ... --split test` does."
    lines = ["| | accuracy on held-out rows | 95 % interval | macro-F1 | rows |", "|---|---|---|---|---|"]
    for name, result in found.items():
        low, high = result["interval"]
        lines.append(
            f"| {name} | {result['accuracy']:.1%} | {low:.1%} to {high:.1%} | {result['macro_f1']:.2f} | {result['rows']} |"
        )
    first = next(iter(found.values()))
    return "\n".join(
        [*lines, "", f"Always answering the most frequent label gets {first['majority_accuracy']:.1%}."]
    )
