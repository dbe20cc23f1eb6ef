"""Prompts read part by part, in passes that are short enough for others to wait: long ones, and listed ones.

A pass takes the next part of a long prompt, or several short ones whose tokens are listed with their
log-probabilities, padded on the left as in `batching`.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Protocol

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from helpers.common.errors import UsageError
from helpers.generation.passes import pad_rows, run_pass
from helpers.generation.request import LEAST_LOGPROB, EchoedPrompt, Piece, PromptToken

PASS_TOKENS = 256  # that are listed; 1.3 s of one core for a model with 135 million parameters in float32
PASS_LOGITS = 2**24  # 64 MB in float32, and as much again for the log-probabilities


class PromptListing:
    """The tokens of one prompt with their log-probabilities, as far as it was read."""

    def __init__(
        self,
        text: str,
        ids: list[int],
        top: int,
        read_bytes: Callable[[int], bytes],
        emit: Callable[[Piece], None],
    ):
        self.text = text
        self.ids = ids
        self.top = top  # how many likeliest tokens to list beside each one
        self.read_bytes = read_bytes  # the bytes of a token id
        self.emit = emit
        self.tokens = [PromptToken(read_bytes(ids[0]), ids[0])]

    def extend(self, logits: torch.Tensor) -> None:
        """Lists the next tokens, each by its row of the logits (tokens, vocabulary)."""
        ids = self.ids[len(self.tokens) :][: len(logits)]
        logprobs = logits.float().log_softmax(-1)
        own = logprobs.gather(-1, torch.tensor(ids, dtype=torch.long, device=logits.device)[:, None])
        ranks = 1 + (logprobs > own).sum(-1)
        best = logprobs.topk(self.top)
        values = torch.cat([own, best.values], dim=-1).clamp(min=LEAST_LOGPROB).tolist()
        rows = zip(ids, ranks.tolist(), best.indices.tolist(), values, strict=True)
        for number, rank, rivals, (logprob, *rival_logprobs) in rows:
            top = tuple(zip(map(self.read_bytes, rivals), rival_logprobs, strict=True))
            token = PromptToken(self.read_bytes(number), number, logprob, rank, top, tuple(rivals))
            self.tokens.append(token)

    def finish(self) -> None:
        """Passes the prompt on. Raises UsageError if its log-probabilities are not numbers."""
        if any(token.logprob != token.logprob for token in self.tokens):  # only NaN differs from itself
            problem = "The log-probabilities of the prompt are not numbers."
            raise UsageError(problem, "Load the model in float32.")
        self.emit(Piece("", prompt=EchoedPrompt(self.text, tuple(self.tokens))))


class Read(Protocol):
    """An answer whose prompt is read."""

    prompt: list[int]
    listing: PromptListing | None


class Reading:
    """Prompts that are read side by side, or one that needs several passes."""

    def __init__(self, model: PreTrainedModel | PeftModel, waiting: Sequence[Read], chunk: int | None):
        """Takes as many of the waiting prompts as fit into a pass, at least one.

        A prompt that is not listed is longer than `chunk`, the tokens of a pass.
        """
        self.model = model
        self.most = chunk if chunk and not waiting[0].listing else measure_listed(model)
        lengths = [len(one.prompt) for one in takewhile(lambda one: one.listing, waiting)]
        self.count = count_fitting(lengths, self.most) if lengths else 1  # prompts
        self.listings = [one.listing for one in waiting[: self.count]]
        self.rows = pad_rows([one.prompt for one in waiting[: self.count]])
        self.padding = [len(row) - len(one.prompt) for row, one in zip(self.rows, waiting, strict=False)]
        self.columns = len(self.rows[0])
        self.read = 0  # columns
        self.cache = DynamicCache()

    def advance(self) -> torch.Tensor | None:
        """One pass. After the last one, the logits after the prompts, (prompts, vocabulary)."""
        start, end = self.read, min(self.columns, self.read + self.most)
        lengths = [end - count for count in self.padding]
        kept = end - start if any(self.listings) else 1
        new_ids = [row[start:end] for row in self.rows]
        logits = run_pass(self.model, new_ids, lengths, self.cache, kept)
        for listing, count, row in zip(self.listings, self.padding, logits, strict=True):
            if listing:  # a column predicts the token of the next one
                listing.extend(row[max(0, count - start) : self.columns - 1 - start])
        self.read = end
        return logits[:, -1] if end == self.columns else None


def measure_listed(model: PreTrainedModel | PeftModel) -> int:
    """Tokens of a pass whose log-probabilities are listed."""
    embeddings: Any = model.get_input_embeddings()
    return max(1, min(PASS_TOKENS, PASS_LOGITS // embeddings.weight.shape[0]))


def count_fitting(lengths: list[int], most: int) -> int:
    """How many of the first prompts have at most `most` tokens with their padding; at least one."""
    count = 1
    while count < len(lengths) and max(lengths[: count + 1]) * (count + 1) <= most:
        count += 1
    return count
