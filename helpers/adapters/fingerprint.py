"""Fingerprints: the logits that a model gives for a few prompts, saved to be compared later."""

from typing import Any

import torch

from helpers.adapters.folders import AdapterFolder
from helpers.loading.messages import Message, tokenize_chat
from helpers.loading.model import LoadedModel

Messages = list[Message]
TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps about three digits
ANY_PROMPT: Messages = [{"role": "user", "content": "Who are you?"}]  # for LoRAs that recorded none


def list_prompts(folder: AdapterFolder) -> list[Messages]:
    """The prompts whose logits the training saved; a general one for other LoRAs."""
    return [entry["messages"] for entry in folder.run.get("fingerprint", [])] or [ANY_PROMPT]


def compute_logits(loaded: LoadedModel, messages: Messages) -> torch.Tensor:
    """Logits of the reply's first token after the messages: float32, (vocabulary,)."""
    inputs = tokenize_chat(loaded.tokenizer, messages).to(loaded.model.device)
    with torch.inference_mode():
        return loaded.model(**inputs, logits_to_keep=1).logits[0, -1].float()


def take_fingerprint(loaded: LoadedModel, messages: Messages, count: int = 5) -> dict[str, Any]:
    """{"messages", "top": {token id: logit}}: the likeliest first tokens of the reply, to compare later."""
    top = compute_logits(loaded, messages).topk(count)
    found = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return {"messages": messages, "top": {str(token): round(logit, 4) for token, logit in found}}


def compare_fingerprint(loaded: LoadedModel, fingerprint: dict[str, Any]) -> float:
    """Largest difference, in logits, between a saved fingerprint and what the loaded model gives now."""
    logits = compute_logits(loaded, fingerprint["messages"])
    return max(abs(float(logits[int(token)]) - value) for token, value in fingerprint["top"].items())
