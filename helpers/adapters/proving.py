"""Does a LoRA do what it was trained to do? Its weights, names, template and answers against what its training recorded.

PEFT only warns when a LoRA's names do not match the model's layers, and an adapter of zeros loads without a word; both change nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.adapters.attaching import find_unmatched, list_attached
from helpers.adapters.fingerprint import (
    TOLERANCE,
    Messages,
    compare_fingerprint,
    compute_logits,
    list_prompts,
)
from helpers.adapters.folders import find_adapter, read_config, read_run
from helpers.adapters.tensors import find_scale, pair_factors, read_tensors
from helpers.loading.messages import chat
from helpers.loading.model import LoadedModel
from helpers.tasks.template import Template


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; None in `passed` where the adapter records nothing to hold it against."""

    claim: str
    passed: bool | None
    seen: str  # what was measured, in words
    remedy: str


def prove(
    loaded: LoadedModel, name: str, template: Template | None = None, base: Path | None = None
) -> list[Finding]:
    """Looks at the LoRA loras/NAME, which is on the model and active, from all sides; best in another process than the one that trained it.

    `template` is the one that it will be asked with. Raises nothing for a bad adapter: the findings say what is wrong.
    """
    folder = find_adapter(name, base)
    run, norms = read_run(folder), measure_norms(folder)
    unmatched = (
        find_unmatched(loaded, name, folder)
        if name in list_attached(loaded)
        else f"it is not on {loaded.name}"
    )
    change = measure_change(loaded, list_prompts(folder)[0]) if name in list_attached(loaded) else 0.0
    sizes, broken = norms.to_numpy()[~norms.isna().to_numpy()], count_broken(folder)
    zeros = f"||B A|| of {sizes.size} layers, {(sizes == 0).sum()} of them 0"
    return [
        Finding(
            "its weights are numbers",
            not broken,
            f"{broken} of its matrices hold NaN or infinity",
            "Train it anew with a lower learning rate.",
        ),
        Finding(
            "its weights are not zero",
            bool(sizes.size and (sizes > 0).all()),
            zeros,
            "An emptied or untrained file: copy it or train it anew.",
        ),
        Finding(
            "its names match the model's layers",
            not unmatched,
            unmatched or "every tensor has its layer",
            "Load the base it was trained on.",
        ),
        prove_template(run, template),
        prove_fingerprint(loaded, run.get("fingerprint", [])),
        Finding(
            "it changes the model",
            change > 1e-6,
            f"KL(LoRA || base) {change:.3g} nats",
            "It is switched off, or an adapter of zeros.",
        ),
    ]


def prove_template(run: dict, template: Template | None) -> Finding:
    """Whether the LoRA is asked with the template that it was trained with."""
    claim, recorded = "it is asked with its own template", run.get("template_sha256")
    if not recorded or template is None:
        return Finding(
            claim, None, "the training recorded none" if template else "no template was named to compare", ""
        )
    same = template.sha256 == recorded
    seen = f"trained with {run['template']}" + ("" if same else f"; {template.name} is another text")
    return Finding(claim, same, seen, f"Ask it with the template {run['template']} as it was then.")


def prove_fingerprint(loaded: LoadedModel, prints: list[dict]) -> Finding:
    """Whether the model gives, here and now, the logits that the training has saved."""
    claim = "its logits are those of the trained model"
    if not prints:
        return Finding(claim, None, "the training recorded none", "")
    largest = max(abs(value) for entry in prints for value in entry["top"].values())
    off = max(compare_fingerprint(loaded, entry) for entry in prints)
    seen = f"largest difference {off:.4f}, of logits up to {largest:.1f}"
    return Finding(
        claim,
        off <= TOLERANCE * largest,
        seen,
        "Look for another base, another file of weights, another chat template.",
    )


def count_broken(folder: Path) -> int:
    """How many of an adapter's tensors hold something that is no number."""
    return sum(not np.isfinite(tensor).all() for tensor in read_tensors(folder).values())


def measure_norms(folder: Path) -> pd.DataFrame:
    """||scale B A||, the Frobenius norm of what the LoRA adds to each weight matrix: a line for each layer, a column for each module.

    NaN where a module has no LoRA. B A itself is never built: ||B A||² is the sum over (A Aᵀ) * (Bᵀ B).
    """
    config, found = read_config(folder), {}
    for module, pair in pair_factors(read_tensors(folder)).items():
        a, b = (pair[half].astype(np.float64) for half in "AB")
        squared = float(((a @ a.T) * (b.T @ b)).sum())
        layer = next((int(part) for part in module.split(".") if part.isdigit()), 0)
        found.setdefault(module.rpartition(".")[2], {})[layer] = (
            find_scale(config, module) * max(squared, 0.0) ** 0.5
        )
    return pd.DataFrame(found).sort_index().rename_axis("layer")


def measure_change(loaded: LoadedModel, messages: Messages) -> float:
    """How far the active adapter moves the first token's distribution: KL(adapter || base) in nats; 0 for an adapter that does nothing."""
    adapted = compute_logits(loaded, messages).log_softmax(-1)
    with loaded.model.disable_adapter():
        base = compute_logits(loaded, messages).log_softmax(-1)
    return float((adapted.exp() * (adapted - base)).sum())


def answer_both_ways(loaded: LoadedModel, messages: Messages, max_new_tokens: int = 16) -> tuple[str, str]:
    """The greedy answers of (base, base with the active LoRA)."""
    with loaded.model.disable_adapter():
        base = chat(loaded, messages, max_new_tokens=max_new_tokens)
    return base, chat(loaded, messages, max_new_tokens=max_new_tokens)
