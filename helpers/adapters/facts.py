"""What is known of a LoRA and its training, in words: what both forms of its card say."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from helpers.adapters.curves import Points, thin_out
from helpers.adapters.folders import SHIPPED, AdapterFolder
from helpers.adapters.results import MEASURES, list_judged

KINDS = {"labels": "labels", "answers": "free answers", "chats": "chats"}
SHOWN = ("epochs", "batch_size", "accumulation", "learning_rate", "schedule", "optimizer")
SHORT = 12  # digits of a hash that are shown
PORT = "http://127.0.0.1:5001/v1"  # where helpers.server has its OpenAI-style API


def list_data(run: dict[str, Any]) -> dict[str, str]:
    """What the LoRA was trained on; nothing for a LoRA that the kit did not train."""
    if "rows" not in run:
        return {}
    parts, audit = run.get("parts", {}), run.get("audit", {})
    facts = {
        "file": run.get("data", "rows from memory"),
        "kind": KINDS.get(run.get("kind", ""), ""),
        "trained on": describe_rows(run["rows"], parts.get("train")),
        "sha256 of the rows": run.get("rows_sha256", "")[:SHORT],
        "held out": describe_split(run.get("split")),
        "validation rows": show_number(parts.get("validation")),
        "test rows": show_number(parts.get("test")),
        "copies": f"{audit['copies']:,} rows equal an earlier one" if "copies" in audit else "",
        "training rows of each label": ", ".join(
            f"{name}: {rows}" for name, rows in audit.get("labels", {}).items()
        ),
        "median length (training rows)": describe_lengths(audit),
        "template": describe_template(run),
        "chat template": describe_chat_template(run.get("chat_template", {})),
    }
    return {name: fact for name, fact in facts.items() if fact}


def describe_rows(rows: int, all_rows: int | None) -> str:
    """How many rows were trained on, and of how many. A chat can be several sequences."""
    if not all_rows or rows == all_rows:
        return f"{rows} rows"
    return f"{rows} of {all_rows} rows" if rows < all_rows else f"{rows} sequences of {all_rows} rows"


def describe_split(split: dict[str, Any] | None) -> str:
    """What was held out, in words."""
    return f"{split['test_size']:.0%} of the texts, seed {split['seed']}" if split else "not recorded"


def describe_lengths(audit: dict[str, Any]) -> str:
    """The median lengths of the training rows."""
    words = {
        "question_words": "question {:g} words",
        "answer_words": "answer {:g} words",
        "messages": "chat {:g} messages",
    }
    return ", ".join(form.format(audit[key]) for key, form in words.items() if key in audit)


def describe_template(run: dict[str, Any]) -> str:
    """The template's name, file and hash."""
    parts = [run.get("template", ""), run.get("template_file", ""), show_hash(run.get("template_sha256"))]
    return ", ".join(part for part in parts if part)


def describe_chat_template(recorded: dict[str, str]) -> str:
    """The chat template's name, why it was taken, and its hash."""
    parts = [recorded.get("name", ""), recorded.get("reason", ""), show_hash(recorded.get("sha256"))]
    return ", ".join(part for part in parts if part)


def show_hash(found: str | None) -> str:
    """The first digits of a hash."""
    return f"sha256 {found[:SHORT]}" if found else ""


def show_number(number: float | None) -> str:
    """A number with commas; nothing for one that is not known."""
    return "" if number is None else f"{number:,}"


def list_training(run: dict[str, Any]) -> dict[str, str]:
    """How the LoRA was trained; nothing for a LoRA that the kit did not train."""
    settings = run.get("settings")
    if not settings:
        return {}
    hashes = ", ".join(f"{name} {value[:SHORT]}" for name, value in run.get("base_sha256", {}).items())
    facts = {
        "base (sha256)": hashes or "not recorded",
        "settings": ", ".join(f"{key} {settings[key]}" for key in SHOWN if key in settings),
        "batch size chosen": run.get("batch_reason") or "",
        "trained parameters": show_number(run.get("trainable_parameters")),
        "steps": f"{run['steps']} of {run.get('planned_steps', run['steps'])}"
        if "steps" in run
        else "not recorded",
        "time and memory": describe_effort(run),
        "loss": describe_loss(run.get("loss", [])),
        "validation": describe_validation(run.get("validation", {})),
        "date, commit": f"{run.get('date', 'not recorded')}, {run.get('commit', 'not recorded')}",
    }
    return {name: fact for name, fact in facts.items() if fact}


def describe_effort(run: dict[str, Any]) -> str:
    """What the training took, and on which device."""
    seconds, peak = run.get("seconds"), run.get("peak_mb")
    parts = [
        f"{seconds:,.0f} s" if seconds is not None else "",
        f"peak {peak / 1000:.1f} GB" if peak is not None else "",
        run.get("device", ""),
    ]
    return ", ".join(part for part in parts if part)


def describe_loss(losses: list[float]) -> str:
    """The loss at both ends of the training."""
    if not losses:
        return "not recorded"
    return f"{losses[0]:.2f} at the first step, {losses[-1]:.2f} at the last"


def describe_validation(found: dict[str, Any]) -> str:
    """What was watched while training: the loss at both ends, the best step, whether it ended early."""
    if not found.get("loss"):
        return ""
    words = f"loss {found['loss'][0]:.2f} at first, {found['loss'][-1]:.2f} at last"
    if found.get("rows"):
        words += f", on {found['rows']} rows"
    if found.get("best_step") is not None:
        words += f"; the LoRA is that of step {found['best_step']}, the best one"
    return words + ("; the training was stopped early" if found.get("stopped_early") else "")


def list_curves(run: dict[str, Any]) -> dict[str, Points]:
    """The loss of the training, and of the validation rows if there were any: {name: (step, loss)}."""
    losses, found = run.get("loss", []), run.get("validation", {})
    validation = list(zip(found.get("steps") or [], found.get("loss") or [], strict=False))
    curves = {"training": thin_out(losses, run.get("steps", len(losses))), "validation": validation}
    return {name: points for name, points in curves.items() if points}


def list_exact(run: dict[str, Any]) -> list[tuple[int, float]]:
    """(step, share of validation rows that were answered exactly), if it was watched."""
    found = run.get("validation", {})
    return list(zip(found.get("steps") or [], found.get("exact") or [], strict=False))


# How it is used


def write_commands(folder: AdapterFolder) -> dict[str, str]:
    """Lines for a terminal: to serve the LoRA, to ask it, to prove it, and to measure it."""
    base, run = folder.base_name or "BASE", folder.run
    messages = [{"role": "user", "content": "PROMPT"}]
    if run.get("kind") != "chats":  # as the template writes them
        messages = [{"role": "system", "content": "INSTRUCTION"}, {"role": "user", "content": "TASK"}]
    body = {"model": folder.name, "messages": messages}
    serve = ["--model", base, "--lora", folder.name, "--api", "--extensions", "openai"]
    measure = ["--model", base, "--lora", folder.name, "--base", "--data", run.get("data", "FILE")]
    if run.get("kind") != "chats":
        measure += ["--template", run.get("template_file", "TEMPLATE")]
    if split := run.get("split"):
        measure += ["--split", "test"]
        measure += ["--seed", str(split["seed"]), "--test-size", str(split["test_size"])]
    curl = ["curl", f"{PORT}/chat/completions", "-H", "Content-Type: application/json"]
    return {
        "serve": shlex.join(["python", "-m", "helpers.server", *serve]),
        "prove": shlex.join(["python", "-m", "helpers.adapters", "prove", folder.name]),
        "measure": shlex.join(["python", "-m", "helpers.evaluation", *measure]),
        "curl": shlex.join([*curl, "-d", json.dumps(body, ensure_ascii=False)]),
    }


def write_loading(folder: AdapterFolder) -> str:
    """The Python that loads base and LoRA with PEFT."""
    place = SHIPPED.name if folder.path.parent == SHIPPED else "loras"
    base, lora = json.dumps(f"models/{folder.base_name or 'BASE'}"), json.dumps(f"{place}/{folder.name}")
    lines = [
        "from transformers import AutoModelForCausalLM",
        "from peft import PeftModel",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({base}, trust_remote_code=False)",
        f"model = PeftModel.from_pretrained(base, {lora})",
    ]
    return "\n".join(lines)


def write_asking(folder: AdapterFolder) -> str:
    """The Python that asks a server with the OpenAI client, as the LoRA was trained to be asked."""
    run = folder.run
    lines = ["from openai import OpenAI"]
    messages = '[{"role": "user", "content": "PROMPT"}]'
    if file := run.get("template_file"):
        row = {name: "..." for name in run.get("columns", [])}
        lines += ["from helpers import tasks"]
        filled = json.dumps(row, ensure_ascii=False) if row else "row"
        messages = f"tasks.load_template({json.dumps(file)}).build_messages({filled})"
    lines += [
        "",
        f'client = OpenAI(base_url="{PORT}", api_key="not-needed")',
        f"messages = {messages}",
        f"reply = client.chat.completions.create(model={json.dumps(folder.name)}, messages=messages)",
        "print(reply.choices[0].message.content)",
    ]
    return "\n".join(lines)


# What it must not be used for


def list_limits(folder: AdapterFolder) -> Iterator[str]:
    """What the LoRA must not be used for, as far as its records tell."""
    run = folder.run
    yield describe_judgement(run)
    yield (
        "Nothing is known about other inputs: texts of another kind or length, other languages, "
        "other questions, another template."
    )
    if run.get("kind") == "labels":
        yield "It gives every input one of its labels, even if none fits."
    else:
        yield "It does not know facts that it never saw. Its answers can sound right and be wrong."
    base = folder.base_name or "which is not recorded"
    yield f"The limits and the licence of its base, {base}, apply to it too."
    yield "A LoRA can repeat texts that it was trained on. Pass it on only if its rows may be seen."


def describe_judgement(run: dict[str, Any]) -> str:
    """On what the LoRA was judged, as a limit of what is known."""
    lora = list_judged(run).get("lora")
    if not lora:
        return "It was not judged, so nobody knows how good its answers are. Do not rely on them."
    key = next((key for key in MEASURES if key in lora), "")
    rows, file = lora.get("rows", "some"), run.get("data")
    where = f"held-out rows of {file}" if file else "held-out rows"
    measured = f": {MEASURES[key].name} {MEASURES[key].show(lora, key)}" if key else ""
    interval = ". The numbers in brackets are a 95% interval" if "(" in measured else ""
    return f"It was judged only on {rows} {where}{measured}{interval}."
