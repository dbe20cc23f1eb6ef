"""Does a LoRA do what it was trained to do? Its weights, names, template and answers against what its training recorded.

PEFT only warns when a LoRA's names do not match the model's layers, and an adapter of zeros loads without a word; both change nothing.
"""

from pathlib import Path

import torch

from helpers.adapters.folders import read_run
from helpers.loading.messages import tokenize_chat
from helpers.loading.model import LoadedModel

Messages = list[dict[str, str]]


TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps about three digits


ANY_PROMPT: Messages = [{"role": "user", "content": "Who are you?"}]  # for adapters that recorded none


def list_prompts(folder: Path) -> list[Messages]:
    """The prompts whose logits the training has saved; a general one for other adapters."""
    return [entry["messages"] for entry in read_run(folder).get("fingerprint", [])] or [ANY_PROMPT]


def compute_logits(loaded: LoadedModel, messages: Messages) -> torch.Tensor:
    """Logits of the reply's first token after the messages: float32, (vocabulary,)."""
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    with torch.inference_mode():
        return loaded.model(**inputs, logits_to_keep=1).logits[0, -1].float()


def take_fingerprint(loaded: LoadedModel, messages: Messages, count: int = 5) -> dict:
    """What a model answers a prompt with, to compare later: {"messages", "top": {token id: logit}} of the reply's likeliest first tokens."""
    top = compute_logits(loaded, messages).topk(count)
    return {
        "messages": messages,
        "top": {str(int(i)): round(float(v), 4) for i, v in zip(top.indices, top.values, strict=True)},
    }


def compare_fingerprint(loaded: LoadedModel, fingerprint: dict) -> float:
    """Largest difference, in logits, between a saved fingerprint and what the loaded model says to the same prompt now."""
    logits = compute_logits(loaded, fingerprint["messages"])
    return max(abs(float(logits[int(token)]) - value) for token, value in fingerprint["top"].items())
