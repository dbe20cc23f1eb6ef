"""Several answers computed together: each forward pass makes the next token of every row, and rows join and leave between two passes.

A row's keys and values are computed from its own prompt alone and never shared, so no answer depends on what is asked beside it. (transformers'
continuous batching has no seed or log-probabilities of a row's own.) The rows of a batch have one adapter: PEFT can mix them in a pass, but not
on GPTQ weights.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from helpers.generation.decoding import TextStream
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.sampling import Sampler


@dataclass
class Row:
    """An answer that is being computed."""

    request: GenerationRequest
    prompt: list[int]
    sampler: Sampler
    text: TextStream
    limit: int  # tokens of the answer at most
    eos: list[int]
    job: Future = field(default_factory=Future)
    answer: list[int] = field(default_factory=list)

    def take(self, logits: torch.Tensor, ending: Callable[[GenerationRequest], bool]) -> None:
        """Chooses the next token by logits (vocabulary,) and finishes the job when it was the last one."""
        number, token = self.sampler.choose(self.prompt + self.answer, logits)
        self.answer.append(number)
        if number in self.eos:
            self.finish("stop")
            return
        self.text.push(number, token)
        if self.text.stopped:
            self.finish("stop")
        elif len(self.answer) >= self.limit or ending(self.request):
            self.finish("length")

    def finish(self, reason: str) -> None:
        """Hands out what was held back and the result."""
        self.text.finish()
        self.job.set_result(Generation("", len(self.prompt), len(self.answer), reason))


class Batch:
    """The rows of a model's next pass, with their keys and values, padded on the left to the longest."""

    def __init__(self, model: PreTrainedModel | PeftModel, ending: Callable[[GenerationRequest], bool]):
        self.model, self.ending = model, ending
        self.rows: list[Row] = []
        self.cache = DynamicCache()

    def advance(self, new: list[Row]) -> None:
        """One token more for every row, and for the new ones, which take part from now on, their first."""
        try:
            self._step()
            self._join(new)
        except Exception as error:  # out of memory, for one: these answers fail, those of other batches go on
            for row in self.rows + new:
                if not row.job.done():
                    row.job.set_exception(error)
            self.rows = []

    def _join(self, rows: list[Row]) -> None:
        """Reads the prompts in one pass, which makes the first tokens."""
        if not rows:
            return
        longest = max(len(row.prompt) for row in rows)
        ids = torch.tensor(
            [[0] * (longest - len(row.prompt)) + row.prompt for row in rows], device=self.model.device
        )
        cache = DynamicCache()
        self._pass(rows, ids, cache)
        self.cache = stack([self.cache, cache]) if self.rows else cache
        self.rows = self.rows + rows
        self._drop_finished()

    def _step(self) -> None:
        if self.rows:
            ids = torch.tensor([row.answer[-1:] for row in self.rows], device=self.model.device)
            self._pass(self.rows, ids, self.cache)
            self._drop_finished()

    @torch.inference_mode()
    def _pass(self, rows: list[Row], ids: torch.Tensor, cache: DynamicCache) -> None:
        """The pass over ids (rows, tokens), which lengthens the cache and gives every row its next token."""
        total = cache.get_seq_length() + ids.shape[1]
        lengths = torch.tensor([len(row.prompt) + len(row.answer) for row in rows], device=ids.device)
        padding = total - lengths[:, None]  # (rows, 1)
        places = torch.arange(total, device=ids.device)[None]
        logits = self.model(
            input_ids=ids,
            attention_mask=(places >= padding).long()
            if padding.any()
            else None,  # without one, attention is faster
            position_ids=(places[:, -ids.shape[1] :] - padding).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for row, scores in zip(rows, logits, strict=True):
            try:
                row.take(scores, self.ending)
            except Exception as error:  # of this row's settings: the others' answers go on
                row.job.set_exception(error)

    def _drop_finished(self) -> None:
        """Lets finished rows go, with the columns that only they needed."""
        kept = [place for place, row in enumerate(self.rows) if not row.job.done()]
        if len(kept) < len(self.rows):
            self.rows = [self.rows[place] for place in kept]
            longest = max((len(row.prompt) + len(row.answer) - 1 for row in self.rows), default=0)
            self.cache = DynamicCache(
                [
                    (keys[kept, :, -longest:], values[kept, :, -longest:])
                    for keys, values in list_layers(self.cache)
                ]
                if kept
                else None
            )


def list_layers(cache: DynamicCache) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, (rows, heads, tokens, head size)."""
    return ((layer.keys, layer.values) for layer in cache.layers)


def stack(caches: list[DynamicCache]) -> DynamicCache:
    """One cache with the rows of all, the shorter ones padded on the left."""
    longest = max(cache.get_seq_length() for cache in caches)
    padded = [
        [
            [functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in layer]
            for layer in list_layers(cache)
        ]
        for cache in caches
    ]
    return DynamicCache(
        [
            tuple(torch.cat(parts) for parts in zip(*layers, strict=True))
            for layers in zip(*padded, strict=True)
        ]
    )
