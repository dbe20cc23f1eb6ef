"""The next token of one answer: transformers' logits processors in the order that its `generate` has them, then the likeliest or a draw."""

from collections import Counter

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation import (
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
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

HONOURED = frozenset(
    "presence_penalty frequency_penalty logit_bias repetition_penalty_range encoder_repetition_penalty no_repeat_ngram_size min_length "
    "epsilon_cutoff eta_cutoff ban_eos skip_special_tokens".split()
)


class AnswerPenalty(LogitsProcessor):
    """OpenAI's presence and frequency penalty, over the tokens of the answer."""

    def __init__(self, presence: float, frequency: float, prompt_tokens: int):
        self.presence, self.frequency, self.prompt_tokens = presence, frequency, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes them off the logits (1, vocabulary) of the tokens in (1, tokens)."""
        counted = Counter(input_ids[0, self.prompt_tokens :].tolist())
        penalties = torch.tensor(
            [self.presence + self.frequency * times for times in counted.values()],
            dtype=scores.dtype,
            device=scores.device,
        )
        return scores.index_add(
            1, torch.tensor(list(counted), dtype=torch.long, device=scores.device), -penalties[None]
        )


class LastTokens(LogitsProcessor):
    """Another processor that sees the last `count` tokens only."""

    def __init__(self, inner: LogitsProcessor, count: int):
        self.inner, self.count = inner, count

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """What `inner` makes of the logits (1, vocabulary)."""
        return self.inner(input_ids[:, -self.count :], scores)


def list_processors(request: GenerationRequest, prompt: torch.Tensor, eos: list[int]) -> LogitsProcessorList:
    """What changes the logits before the choice, of a prompt's ids (1, tokens)."""
    made, device = LogitsProcessorList(), str(prompt.device)
    if request.logit_bias:
        made.append(
            SequenceBiasLogitsProcessor({(number,): bias for number, bias in request.logit_bias.items()})
        )
    if request.encoder_repetition_penalty != 1:
        made.append(EncoderRepetitionPenaltyLogitsProcessor(request.encoder_repetition_penalty, prompt))
    if request.repetition_penalty != 1:
        inner = RepetitionPenaltyLogitsProcessor(request.repetition_penalty)
        made.append(
            LastTokens(inner, request.repetition_penalty_range) if request.repetition_penalty_range else inner
        )
    if request.presence_penalty or request.frequency_penalty:
        made.append(AnswerPenalty(request.presence_penalty, request.frequency_penalty, prompt.shape[1]))
    if request.no_repeat_ngram_size:
        made.append(NoRepeatNGramLogitsProcessor(request.no_repeat_ngram_size))
    if request.min_length and eos:
        made.append(MinLengthLogitsProcessor(request.min_length, eos, device))
    if request.ban_eos and eos:
        made.append(SuppressTokensLogitsProcessor(eos, device))
    return made


def list_warpers(request: GenerationRequest) -> LogitsProcessorList:
    """What shapes the distribution that a draw is made from."""
    made = LogitsProcessorList()
    if request.temperature != 1:
        made.append(TemperatureLogitsWarper(request.temperature))
    if request.top_k:
        made.append(TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        made.append(TopPLogitsWarper(request.top_p))
    if request.typical_p < 1:
        made.append(TypicalLogitsWarper(request.typical_p))
    if request.epsilon_cutoff:
        made.append(EpsilonLogitsWarper(request.epsilon_cutoff))
    if request.eta_cutoff:
        made.append(EtaLogitsWarper(request.eta_cutoff))
    return made


class Sampler:
    """Chooses the tokens of one answer, with a random generator of its own: what others ask at the same time changes nothing."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        eos: list[int],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
    ):
        self.tokenizer, self.top = tokenizer, request.top_logprobs
        self.processors = list_processors(request, torch.tensor([prompt], device=device), eos)
        self.drawn = request.temperature >= GREEDY_BELOW
        self.warpers = list_warpers(request) if self.drawn else LogitsProcessorList()
        self.random = torch.Generator(device)
        self.random.seed() if request.seed is None else self.random.manual_seed(request.seed)

    def choose(self, ids: list[int], logits: torch.Tensor) -> tuple[int, Token | None]:
        """The next token after `ids` by its logits (vocabulary,), and how likely it was to the model, before any setting, when that was asked for."""
        scores = logits[None].float()
        if self.processors or self.warpers:
            context = torch.tensor([ids], device=logits.device)
            scores = self.warpers(context, self.processors(context, scores))
        if self.drawn:
            number = int(torch.multinomial(scores[0].softmax(-1), 1, generator=self.random))
        else:
            number = int(scores[0].argmax())
        return number, None if self.top is None else self._tell(number, logits.float().log_softmax(-1))

    def _tell(self, number: int, logprobs: torch.Tensor) -> Token:
        values, numbers = logprobs.topk(self.top)
        rivals = tuple(
            (read_bytes(self.tokenizer, n), value)
            for n, value in zip(numbers.tolist(), values.tolist(), strict=True)
        )
        return Token(read_bytes(self.tokenizer, number), float(logprobs[number]), rivals)
