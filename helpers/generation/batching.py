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

A prompt that is longer than a chunk (`chunks`), or whose tokens are listed, is read first (`reading`): one
pass over a part of it for each token of the others. Then its answer joins.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from helpers.common.errors import UsageError
from helpers.generation.decoding import TextStream
from helpers.generation.kv_cache import keep_rows, stack_caches
from helpers.generation.passes import pad_rows, run_pass
from helpers.generation.prefix import Prefix
from helpers.generation.reading import PromptListing, Reading
from helpers.generation.request import Generation, GenerationRequest
from helpers.generation.sampling import NO_TOKEN, Sampler
from helpers.loading.attention import avoid_cudnn

ALIKE = 1.5  # the longest prompt of a pass may have this many times the tokens of the shortest


@dataclass
class PendingAnswer:
    """An answer that waits for its first pass or is being computed."""

    request: GenerationRequest
    prompt: list[int]  # token ids
    sampler: Sampler
    text: TextStream
    max_tokens: int  # of the answer
    eos_ids: list[int]  # each of them ends the answer
    must_end: Callable[[], bool]  # true as soon as the answer must end where it is
    listing: PromptListing | None = None  # of the prompt's tokens, if they are asked for
    job: Future[Generation] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)  # the answer's token ids so far

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.prompt) + len(self.tokens)

    def extend(self, number: int, logits: torch.Tensor) -> None:
        """Takes the next token, which was chosen by its logits (vocabulary,); finishes after the last one.

        An error (a sampling setting that does not work, for one) goes into this answer's future, so that the
        other answers of the pass go on.
        """
        try:
            reason = self._add_token(number, logits)
        except Exception as error:
            self.fail(error)
            return
        if reason:
            self.finish(reason)

    def _add_token(self, number: int, logits: torch.Tensor) -> str | None:
        """Why the answer ends after the new token; None if it goes on."""
        if number == NO_TOKEN:
            problem = "No token can be drawn: the probabilities of the next one are not numbers."
            raise UsageError(problem, "Change the sampling settings, or load the model in float32.")
        self.tokens.append(number)
        if number in self.eos_ids:
            if self.listing:
                self.text.end(self.sampler.describe(number, logits))
            return "stop"
        self.text.push(number, self.sampler.describe(number, logits))
        if self.text.stopped:
            return "stop"
        if len(self.tokens) >= self.max_tokens or self.must_end():
            return "length"
        return None

    def end_reading(self) -> None:
        """Passes on the prompt, which was read; finishes if no answer is wanted."""
        try:
            if self.listing and not self.request.cancelled.is_set():
                self.listing.finish()
        except Exception as error:
            self.fail(error)
            return
        if self.max_tokens == 0 or self.must_end():
            self.finish("length")

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


def group_alike(answers: list[PendingAnswer]) -> list[list[PendingAnswer]]:
    """The answers in groups whose prompts have about the same length: padding is computed like tokens."""
    groups: list[list[PendingAnswer]] = []
    for answer in sorted(answers, key=lambda each: len(each.prompt)):
        if groups and len(answer.prompt) <= ALIKE * len(groups[-1][0].prompt):
            groups[-1].append(answer)
        else:
            groups.append([answer])
    return groups


def extend_all(answers: list[PendingAnswer], logits: torch.Tensor, likeliest: torch.Tensor) -> None:
    """Gives each answer its next token by its row of the logits (rows, vocabulary).

    `likeliest` (rows,) has the likeliest token of each row. The device is waited for once for all of them.
    """
    picks = list(likeliest)
    for row, answer in enumerate(answers):
        if not answer.sampler.takes_likeliest:
            try:
                picks[row] = answer.sampler.pick(answer.tokens, logits[row])
            except Exception as error:
                answer.fail(error)
    for row, number in enumerate(torch.stack(picks).tolist()):
        if not answers[row].job.done():
            answers[row].extend(number, logits[row])


class Batch:
    """The answers of one adapter that are computed together, with their keys and values.

    Prompts of more than `chunk` tokens are read in chunks, and what prompts begin with is kept for the next
    ones. Without it each is read in one pass.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, chunk: int | None = None):
        self.model = model
        self.chunk = chunk
        self.answers: list[PendingAnswer] = []  # answer i has row i of the cache
        self.cache = DynamicCache()
        self.unread: list[PendingAnswer] = []  # whose prompts are read first, part by part
        self.reading: Reading | None = None  # of the first of them
        self.prefix = Prefix()

    def list_all(self) -> list[PendingAnswer]:
        """The answers that are computed, and those whose prompts are read."""
        return self.answers + self.unread

    def _reads_first(self, answer: PendingAnswer) -> bool:
        """Whether the answer waits until its prompt is read part by part, or listed."""
        return bool(answer.listing) or (self.chunk is not None and len(answer.prompt) > self.chunk)

    @torch.inference_mode()
    def advance(self, new: list[PendingAnswer]) -> None:
        """Computes one more token of every answer, and the first token of the new ones, which join the batch.

        Of the prompts that are listed or long, one part is read instead. If a pass fails (for lack of memory,
        say), all these answers fail. Those of other batches go on.
        """
        try:
            with avoid_cudnn(self.model.device):
                if self.answers:
                    self._compute_next()
                short = [answer for answer in new if not self._reads_first(answer)]
                self.unread += [answer for answer in new if self._reads_first(answer)]
                for group in group_alike(short):
                    self._join(group, *self._compute_prompts([answer.prompt for answer in group]))
                self._drop_cancelled()
                if self.unread:
                    self._read()
        except Exception as error:
            for answer in self.list_all() + new:
                answer.fail(error)
            self.clear()

    def clear(self) -> None:
        """Forgets the answers and gives back the memory for them."""
        self.answers = []
        self.cache = DynamicCache()
        self.unread = []
        self.reading = None

    def _compute_next(self) -> None:
        """One pass over the newest token of every answer; the cache has the earlier ones."""
        newest = [answer.tokens[-1:] for answer in self.answers]
        lengths = [answer.length for answer in self.answers]
        logits = run_pass(self.model, newest, lengths, self.cache)[:, -1]
        extend_all(self.answers, logits, logits.argmax(-1))
        self._drop_finished()

    def _compute_prompts(self, prompts: list[list[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """One pass over prompts: the logits (prompts, vocabulary) after them, and their cache."""
        cache = self.prefix.begin(prompts) if self.chunk else DynamicCache()
        begun = cache.get_seq_length()
        rows = [row[begun:] for row in pad_rows(prompts)]
        logits = run_pass(self.model, rows, list(map(len, prompts)), cache)[:, -1]
        if self.chunk:
            self.prefix.keep(prompts[0], cache)
        return logits, cache

    def _drop_cancelled(self) -> None:
        """Ends the cancelled answers whose prompts wait to be read, and the reading if nobody wants it."""
        group = self.reading.count if self.reading else 0
        if all(answer.request.cancelled.is_set() for answer in self.unread[:group]):
            self.reading, group = None, 0
        for answer in self.unread[group:]:
            if answer.request.cancelled.is_set():
                answer.finish("length")
        self.unread = [answer for answer in self.unread if not answer.job.done()]

    def _read(self) -> None:
        """One pass over prompts that are read first. The answers to those that are read to the end join."""
        if self.reading is None:
            self.reading = Reading(self.model, self.unread, self.chunk)
        logits = self.reading.advance()
        if logits is None:
            return
        cache, group = self.reading.cache, self.unread[: self.reading.count]
        self.reading = None
        for answer in group:
            answer.end_reading()
        if not all(answer.job.done() for answer in group):
            self._join(group, logits, cache)
        self.unread = self.unread[len(group) :]  # not before: if there is no room, they fail with the batch

    def _join(self, new: list[PendingAnswer], logits: torch.Tensor, cache: DynamicCache) -> None:
        """Takes in new answers, by the logits (new, vocabulary) after their prompts and their cache."""
        self.cache = stack_caches(self.cache, cache) if self.answers else cache
        self.answers = self.answers + new
        extend_all(new, logits, logits.argmax(-1))
        self._drop_finished()

    def _drop_finished(self) -> None:
        """Removes the rows of finished answers, and the columns that only they needed."""
        kept = [row for row, answer in enumerate(self.answers) if not answer.job.done()]
        if len(kept) == len(self.answers):
            return
        self.answers = [self.answers[row] for row in kept]
        # The newest token of an answer is not in the cache yet: the next pass computes it.
        columns = max((answer.length - 1 for answer in self.answers), default=0)
        self.cache = keep_rows(self.cache, kept, columns)
