"""Several answers computed together: each forward pass makes the next token of all of them.

Answers join and leave between two passes. The keys and values of an answer are computed from its own prompt
alone and are never shared, so no answer depends on what is asked beside it. (transformers' continuous
batching has neither seeds nor log-probabilities for single answers.) The answers of a batch use one adapter:
PEFT can mix adapters in a pass, but not on GPTQ weights.

A batch is a table with one row for each answer and one column for each token. Prompts differ in length, so
the rows are padded on the left ("."), and the next token of every row belongs in the same new column:

    prompt and answer so far    attention mask    positions
    .  .  a  b  c               0  0  1  1  1     0  0  0  1  2
    d  e  f  g  h               1  1  1  1  1     0  1  2  3  4
    .  .  .  i  j               0  0  0  1  1     0  0  0  0  1

When the second answer ends, its row goes, and so do the two columns on the left that only it needed.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from helpers.generation.decoding import TextStream
from helpers.generation.kv_cache import keep_rows, stack_caches
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.sampling import Sampler

PADDING_ID = 0  # any token id does: the attention mask hides it


@dataclass
class PendingAnswer:
    """An answer that waits for its first pass or is being computed."""

    request: GenerationRequest
    prompt: list[int]  # token ids
    sampler: Sampler
    text: TextStream
    max_tokens: int  # of the answer
    eos_ids: list[int]  # each of them ends the answer
    must_end: Callable[[], bool]  # true as soon as the answer is to end where it is
    job: Future[Generation] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)  # the answer's token ids so far

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.prompt) + len(self.tokens)

    def extend(self, logits: torch.Tensor) -> None:
        """Chooses the next token by its logits (vocabulary,); finishes the answer if that was the last one.

        An error (a sampling setting that does not work, for one) goes into this answer's future, so that the
        other answers of the pass go on.
        """
        try:
            reason = self._add_token(logits)
        except Exception as error:
            self.fail(error)
            return
        if reason:
            self.finish(reason)

    def _add_token(self, logits: torch.Tensor) -> str | None:
        """Why the answer ends after the new token; None if it goes on."""
        number, token = self.sampler.choose(self.prompt + self.tokens, logits)
        self.tokens.append(number)
        if number in self.eos_ids:
            return "stop"
        self.text.push(number, token)
        if self.text.stopped:
            return "stop"
        if len(self.tokens) >= self.max_tokens or self.must_end():
            return "length"
        return None

    def finish(self, reason: str) -> None:
        """Passes on the text that was held back, and sets the result."""
        try:
            self.text.finish()
        except Exception as error:
            self.fail(error)
            return
        self.job.set_result(Generation("", len(self.prompt), len(self.tokens), reason))

    def fail(self, error: Exception) -> None:
        """Sets the error as the outcome, unless there is one already."""
        if not self.job.done():
            self.job.set_exception(error)


class Batch:
    """The answers of one adapter that are computed together, with their keys and values."""

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.model = model
        self.answers: list[PendingAnswer] = []  # answer i has row i of the cache
        self.cache = DynamicCache()

    def advance(self, new: list[PendingAnswer]) -> None:
        """Computes one more token of every answer, and the first token of the new ones, which join the batch.

        If a pass fails (for lack of memory, say), all these answers fail. Those of other batches go on.
        """
        try:
            if self.answers:
                self._compute_next()
            if new:
                self._join(new)
        except Exception as error:
            for answer in self.answers + new:
                answer.fail(error)
            self.answers = []

    def _compute_next(self) -> None:
        """One pass over the newest token of every answer; the cache has the earlier ones."""
        newest = [answer.tokens[-1:] for answer in self.answers]
        self._run_pass(self.answers, torch.tensor(newest, device=self.model.device), self.cache)
        self._drop_finished()

    def _join(self, new: list[PendingAnswer]) -> None:
        """One pass over the prompts of the new answers, which makes their first tokens."""
        longest = max(len(answer.prompt) for answer in new)
        padded = [[PADDING_ID] * (longest - len(answer.prompt)) + answer.prompt for answer in new]
        cache = DynamicCache()
        self._run_pass(new, torch.tensor(padded, device=self.model.device), cache)
        self.cache = stack_caches(self.cache, cache) if self.answers else cache
        self.answers = self.answers + new
        self._drop_finished()

    @torch.inference_mode()
    def _run_pass(self, answers: list[PendingAnswer], ids: torch.Tensor, cache: DynamicCache) -> None:
        """One pass over ids (rows, new columns): extends the cache and gives each answer its next token."""
        new_columns = ids.shape[1]
        all_columns = cache.get_seq_length() + new_columns
        lengths = torch.tensor([answer.length for answer in answers], device=ids.device)
        padding = all_columns - lengths[:, None]  # (rows, 1)
        columns = torch.arange(all_columns, device=ids.device)[None]  # (1, all columns)
        mask = None  # attention without a mask is faster
        if padding.any():
            mask = (columns >= padding).long()
        positions = (columns[:, -new_columns:] - padding).clamp(min=0)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for answer, row in zip(answers, logits, strict=True):
            answer.extend(row)

    def _drop_finished(self) -> None:
        """Removes the rows of finished answers, and the columns that only they needed."""
        kept = [row for row, answer in enumerate(self.answers) if not answer.job.done()]
        if len(kept) == len(self.answers):
            return
        self.answers = [self.answers[row] for row in kept]
        # The newest token of an answer is not in the cache yet: the next pass computes it.
        columns = max((answer.length - 1 for answer in self.answers), default=0)
        self.cache = keep_rows(self.cache, kept, columns)
