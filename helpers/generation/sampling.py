"""The choice of the next token: logits processors, then the likeliest token or a draw.

The processors are transformers' own, except AnswerPenalty and LastTokens, in the order of its `generate`.
"""

import math
from collections import Counter
from typing import cast

import torch
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from helpers.generation.decoding import read_bytes
from helpers.generation.engine import GREEDY_BELOW
from helpers.generation.forms import Form
from helpers.generation.request import GenerationRequest, Token

# The optional fields of a request that are read below, but for two: TextStream reads `skip_special_tokens`,
# and the engine `prompt_logprobs`.
HONOURED = frozenset(
    {
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "repetition_penalty_range",
        "encoder_repetition_penalty",
        "no_repeat_ngram_size",
        "min_length",
        "epsilon_cutoff",
        "eta_cutoff",
        "ban_eos",
        "skip_special_tokens",
        "prompt_logprobs",
        "structure",
    }
)


NO_TOKEN = -1  # instead of the id of a token that could not be drawn
NO_IDS = cast(torch.LongTensor, torch.empty(1, 0, dtype=torch.long))  # warpers look at the scores only


def make_ids(ids: list[int], device: torch.device) -> torch.LongTensor:
    """Token ids as a batch of one row, (1, tokens)."""
    return cast(torch.LongTensor, torch.tensor([ids], device=device))


class AnswerPenalty(LogitsProcessor):
    """OpenAI's presence and frequency penalties, which count the tokens of the answer only."""

    def __init__(self, presence: float, frequency: float, prompt_tokens: int):
        self.presence = presence
        self.frequency = frequency
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits (1, vocabulary), lowered for the tokens of the answer in `input_ids` (1, tokens)."""
        times = Counter(input_ids[0, self.prompt_tokens :].tolist())
        penalties = [self.presence + self.frequency * count for count in times.values()]
        numbers = torch.tensor(list(times), dtype=torch.long, device=scores.device)
        changes = torch.tensor([penalties], dtype=scores.dtype, device=scores.device)
        return scores.index_add(1, numbers, -changes)


class LastTokens(LogitsProcessor):
    """Lets another processor see the last `count` tokens only."""

    def __init__(self, inner: LogitsProcessor, count: int):
        self.inner = inner
        self.count = count

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits (1, vocabulary) as `inner` changes them."""
        last = cast(torch.LongTensor, input_ids[:, -self.count :])
        return self.inner(last, scores)


def list_processors(
    request: GenerationRequest, prompt: list[int], eos: list[int], device: torch.device
) -> LogitsProcessorList:
    """What changes the logits before the choice, greedy or drawn; `prompt` has token ids."""
    processors = LogitsProcessorList()
    if request.logit_bias:
        biases: list = [[[number], bias] for number, bias in request.logit_bias.items()]
        processors.append(SequenceBiasLogitsProcessor(biases))
    if request.encoder_repetition_penalty != 1:
        ids = make_ids(prompt, device)
        processors.append(EncoderRepetitionPenaltyLogitsProcessor(request.encoder_repetition_penalty, ids))
    if request.repetition_penalty != 1:
        penalty = RepetitionPenaltyLogitsProcessor(request.repetition_penalty)
        reach = request.repetition_penalty_range
        processors.append(LastTokens(penalty, reach) if reach else penalty)
    if request.presence_penalty or request.frequency_penalty:
        presence, frequency = request.presence_penalty, request.frequency_penalty
        processors.append(AnswerPenalty(presence, frequency, len(prompt)))
    if request.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(request.no_repeat_ngram_size))
    ends = [] if request.structure else eos  # a form says itself where the answer may end
    if request.min_length and ends:
        processors.append(MinLengthLogitsProcessor(request.min_length, ends, str(device)))
    if request.ban_eos and ends:
        processors.append(SuppressTokensLogitsProcessor(ends, str(device)))
    return processors


def list_warpers(request: GenerationRequest) -> LogitsProcessorList:
    """What shapes the distribution from which a token is drawn."""
    warpers = LogitsProcessorList()
    if request.temperature != 1:
        warpers.append(TemperatureLogitsWarper(request.temperature))
    if request.top_k:
        warpers.append(TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        warpers.append(TopPLogitsWarper(request.top_p))
    if request.min_p:
        warpers.append(MinPLogitsWarper(request.min_p))
    if request.typical_p < 1:
        warpers.append(TypicalLogitsWarper(request.typical_p))
    if request.epsilon_cutoff:
        warpers.append(EpsilonLogitsWarper(request.epsilon_cutoff))
    if request.eta_cutoff:
        warpers.append(EtaLogitsWarper(request.eta_cutoff))
    return warpers


def draw(probabilities: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """(): a token id, drawn by the probabilities (vocabulary,); NO_TOKEN if they are not numbers.

    It is the token that torch.multinomial draws (the first of competing exponential clocks to ring), without
    its checks, which fetch two numbers from the device.
    """
    clocks = torch.empty_like(probabilities).exponential_(1, generator=random)
    number = (probabilities / clocks).argmax()
    # Not a number in one place makes the sum not a number.
    return number.masked_fill(probabilities.sum().isnan(), NO_TOKEN)


def mask_others(scores: torch.Tensor, form: Form) -> torch.Tensor:
    """The scores (1, vocabulary), -inf for tokens that may not come next.

    A token that may come has a score, also where a bias or a penalty made it -inf.
    """
    allowed = torch.from_numpy(form.allow()).to(scores.device)
    return scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~allowed, -math.inf)


class Sampler:
    """Chooses the tokens of one answer.

    It has its own random generator, so that a seed gives the same answer whatever is asked at the same time.
    `form` follows the answer if it must have one.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        eos: list[int],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        form: Form | None = None,
    ):
        self.tokenizer = tokenizer
        self.form = form
        self.top_logprobs = request.top_logprobs
        self.prompt = prompt
        self.processors = list_processors(request, prompt, eos, device)
        self.greedy = request.temperature < GREEDY_BELOW
        self.warpers = LogitsProcessorList() if self.greedy else list_warpers(request)
        self.random = torch.Generator(device)
        if request.seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(request.seed)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the model's likeliest token is the next one, so that `pick` need not be asked."""
        return self.greedy and not self.processors and not self.form

    def pick(self, answer: list[int], logits: torch.Tensor) -> torch.Tensor:
        """(): the next token's id, by the ids of the answer so far and its logits (vocabulary,).

        It stays on the device of the logits, since fetching one number from a GPU waits for all that runs
        there. It is NO_TOKEN if no token can be drawn.
        """
        scores = logits[None].float()  # (1, vocabulary)
        if self.processors:
            ids = make_ids(self.prompt + answer, logits.device)
            for processor in self.processors:  # the list's own call looks up all their signatures each time
                scores = processor(ids, scores)
        if self.form is None:
            return self._choose(scores)
        chosen = int(self._choose(mask_others(scores, self.form)))
        if chosen != NO_TOKEN:
            chosen = self.form.settle(chosen)
        return torch.tensor(chosen, device=logits.device)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        """(): the likeliest token by the scores (1, vocabulary), or one that is drawn."""
        if self.greedy:
            return scores[0].argmax()
        for warper in self.warpers:
            scores = warper(NO_IDS, scores)
        return draw(scores[0].softmax(-1), self.random)

    def describe(self, number: int, logits: torch.Tensor) -> Token | None:
        """The Token of this id with its log-probabilities if the request asked for them, else None."""
        return None if self.top_logprobs is None else self._describe(number, logits, self.top_logprobs)

    def _describe(self, number: int, logits: torch.Tensor, top: int) -> Token:
        """The chosen token and the `top` likeliest ones, with their log-probabilities in the model itself.

        They come from the logits before any processor, which is what OpenAI's API reports.
        """
        logprobs = logits.float().log_softmax(-1)
        best = logprobs.topk(top)
        likeliest = tuple(
            (read_bytes(self.tokenizer, rival), value)
            for rival, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return Token(read_bytes(self.tokenizer, number), float(logprobs[number]), likeliest)
