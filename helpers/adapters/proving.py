"""Does a LoRA do what it was trained to do? Its weights, names, template and answers, checked.

PEFT only warns if a LoRA's names do not match the model's layers, and a LoRA of zeros loads without a
warning. Both change nothing.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.adapters.attaching import find_unmatched, list_attached
from helpers.adapters.fingerprint import (
    TOLERANCE,
    Messages,
    check_prints,
    compare_fingerprint,
    compute_logits,
    describe_difference,
    list_prompts,
)
from helpers.adapters.folders import AdapterFolder, find_adapter
from helpers.adapters.norms import measure_norms
from helpers.adapters.tensors import count_broken
from helpers.loading.messages import chat
from helpers.loading.model import LoadedModel
from helpers.tasks.template import Template


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; `passed` is None if the LoRA records nothing to check it against."""

    claim: str
    passed: bool | None
    seen: str  # what was measured, in words
    remedy: str


def prove(
    loaded: LoadedModel, name: str, template: Template | None = None, loras_dir: Path | None = None
) -> list[Finding]:
    """Checks the LoRA loras/NAME, which is attached and active, from all sides; best in a new process.

    `template` is the one that it will be asked with. A bad LoRA raises nothing: the findings say what is
    wrong.
    """
    folder = find_adapter(name, loras_dir)
    name = folder.name
    attached = name in list_attached(loaded)
    unmatched = find_unmatched(loaded, folder) if attached else f"it is not attached to {loaded.name}"
    prompt = list_prompts(loaded, folder)[0]
    check_prints(loaded, folder)
    return [
        prove_finite(folder),
        prove_nonzero(folder),
        Finding(
            "its names match the model's layers",
            not unmatched,
            unmatched or "every tensor has its layer",
            "Load the base that it was trained on.",
        ),
        prove_template(folder.run, template),
        prove_tokens(loaded, folder, prompt),
        prove_fingerprint(loaded, folder.run),
        prove_change(measure_change(loaded, prompt) if attached else 0.0),
    ]


def prove_finite(folder: AdapterFolder) -> Finding:
    """Whether all weights are numbers."""
    broken = count_broken(folder.weights)
    seen = f"{broken} of its matrices hold NaN or infinity"
    return Finding("its weights are numbers", not broken, seen, "Train it again with a lower learning rate.")


def prove_nonzero(folder: AdapterFolder) -> Finding:
    """Whether every layer's B A is something other than zero."""
    sizes = measure_norms(folder).to_numpy().flatten()
    sizes = sizes[~np.isnan(sizes)]
    seen = f"||B A|| of {sizes.size} matrices, {(sizes == 0).sum()} of them 0"
    if count_broken(folder.weights) or not np.isfinite(sizes).all():
        return Finding("its weights are not zero", False, "they are not numbers", "Train the LoRA again.")
    passed = bool(sizes.size and (sizes > 0).all())
    remedy = "The file is empty or untrained: copy it or train the LoRA again."
    return Finding("its weights are not zero", passed, seen, remedy)


def prove_template(run: dict[str, Any], template: Template | None) -> Finding:
    """Whether the LoRA is asked with the template that it was trained with."""
    claim = "it is asked with its own template"
    recorded = run.get("template_sha256")
    if not recorded:
        return Finding(claim, None, "the training recorded none", "")
    if template is None:
        return Finding(claim, None, "no template was named to compare", "")
    same = template.sha256 == recorded
    name = run.get("template", "another one")
    seen = f"trained with {name}"
    if not same:
        seen += f"; {template.name} is another text"
    return Finding(claim, same, seen, f"Ask it with the template {name} as it was then.")


def prove_tokens(loaded: LoadedModel, folder: AdapterFolder, prompt: Messages) -> Finding:
    """Whether the chat template makes the tokens that the LoRA was trained on."""
    claim = "it is asked with the tokens of its training"
    if not folder.run:
        return Finding(claim, None, "the training recorded none", "")
    differs = describe_difference(loaded, folder, prompt)
    remedy = "Load the base with the chat template of the training: --chat-template NAME|FILE."
    return Finding(claim, not differs, differs or "every token is the same", remedy)


def prove_fingerprint(loaded: LoadedModel, run: dict[str, Any]) -> Finding:
    """Whether the model gives, here and now, the logits that the training saved."""
    prints, day = run.get("fingerprint", []), str(run.get("date", ""))
    claim = "its logits are those of the trained model"
    if not prints:
        return Finding(claim, None, "the training recorded none", "")
    largest = max(abs(value) for entry in prints for value in entry["top"].values())
    off = max(compare_fingerprint(loaded, entry, day) for entry in prints)
    seen = f"largest difference {off:.4f}, of logits up to {largest:.1f}"
    remedy = "Check that the base, its weights and its chat template are those of the training."
    return Finding(claim, off <= TOLERANCE * largest, seen, remedy)


def prove_change(change: float) -> Finding:
    """Whether the LoRA changes the model at all; `change` is a KL divergence in nats."""
    seen = f"KL(LoRA || base) {change:.3g} nats"
    if not math.isfinite(change):
        return Finding("it changes the model", False, seen, "Its logits are not numbers: train it again.")
    return Finding("it changes the model", change > 1e-6, seen, "It is switched off, or a LoRA of zeros.")


def measure_change(loaded: LoadedModel, messages: Messages) -> float:
    """How far the active LoRA moves the first token's distribution: KL(LoRA || base) in nats."""
    adapted = compute_logits(loaded, messages).log_softmax(-1)
    with loaded.model.disable_adapter():
        base = compute_logits(loaded, messages).log_softmax(-1)
    return float((adapted.exp() * (adapted - base)).sum())


def answer_both_ways(loaded: LoadedModel, messages: Messages, max_new_tokens: int = 16) -> tuple[str, str]:
    """The greedy answers of (base, base with the active LoRA)."""
    with loaded.model.disable_adapter():
        base = chat(loaded, messages, max_new_tokens=max_new_tokens)
    return base, chat(loaded, messages, max_new_tokens=max_new_tokens)
