"""The choice of the next token: logits processors, then the likeliest token or a draw.

The processors are transformers' own, except AnswerPenalty and LastTokens, in the order of its `generate`.
"""

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
from helpers.generation.request import GenerationRequest, Token

# The optional fields of a request that are read below; TextStream reads `skip_special_tokens`.
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
    }
)


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
    request: GenerationRequest, prompt: torch.LongTensor, eos: list[int]
) -> LogitsProcessorList:
    """What changes the logits before the choice, greedy or drawn; `prompt` has token ids, (1, tokens)."""
    processors = LogitsProcessorList()
    device = str(prompt.device)
    if request.logit_bias:
        biases: list = [[[number], bias] for number, bias in request.logit_bias.items()]
        processors.append(SequenceBiasLogitsProcessor(biases))
    if request.encoder_repetition_penalty != 1:
        processors.append(EncoderRepetitionPenaltyLogitsProcessor(request.encoder_repetition_penalty, prompt))
    if request.repetition_penalty != 1:
        penalty = RepetitionPenaltyLogitsProcessor(request.repetition_penalty)
        reach = request.repetition_penalty_range
        processors.append(LastTokens(penalty, reach) if reach else penalty)
    if request.presence_penalty or request.frequency_penalty:
        presence, frequency = request.presence_penalty, request.frequency_penalty
        processors.append(AnswerPenalty(presence, frequency, prompt.shape[1]))
    if request.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(request.no_repeat_ngram_size))
    if request.min_length and eos:
        processors.append(MinLengthLogitsProcessor(request.min_length, eos, device))
    if request.ban_eos and eos:
        processors.append(SuppressTokensLogitsProcessor(eos, device))
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
    if request.typical_p < 1:
        warpers.append(TypicalLogitsWarper(request.typical_p))
    if request.epsilon_cutoff:
        warpers.append(EpsilonLogitsWarper(request.epsilon_cutoff))
    if request.eta_cutoff:
        warpers.append(EtaLogitsWarper(request.eta_cutoff))
    return warpers


class Sampler:
    """Chooses the tokens of one answer.

    It has its own random generator, so that a seed gives the same answer whatever is asked at the same time.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        eos: list[int],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
    ):
        self.tokenizer = tokenizer
        self.top_logprobs = request.top_logprobs
        self.greedy = request.temperature < GREEDY_BELOW
        self.processors = list_processors(request, make_ids(prompt, device), eos)
        if not self.greedy:
            self.processors.extend(list_warpers(request))
        self.random = torch.Generator(device)
        if request.seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(request.seed)

    def choose(self, ids: list[int], logits: torch.Tensor) -> tuple[int, Token | None]:
        """The next token's id after the ids of prompt and answer, by its logits (vocabulary,).

        With it comes the Token with its log-probabilities if the request asked for them, else None.
        """
        scores = logits[None].float()  # (1, vocabulary)
        if self.processors:
            scores = self.processors(make_ids(ids, logits.device), scores)
        if self.greedy:
            number = int(scores[0].argmax())
        else:
            number = int(torch.multinomial(scores[0].softmax(-1), 1, generator=self.random))
        if self.top_logprobs is None:
            return number, None
        return number, self._describe(number, logits, self.top_logprobs)

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
