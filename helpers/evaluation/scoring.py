"""How likely each possible answer is after a prompt, from as few tokens as possible; nothing is generated.

What all prompts begin with goes through the model once for the whole set, and each prompt once for all of its
answers. An answer includes its end-of-turn token. A batch of rows is scored in two phases:

1. Beginnings: the prompts are packed (helpers.training.packing) and go through the model. The output at the
   end of each prompt gives the probability of every answer's first token.
2. Endings: the answers are packed as continuations of the prompts, which are in a cache by now, and go
   through the model. This gives the probabilities of their other tokens.

If only the likeliest answer is wanted, phase 2 first takes the answer that begins best in each row. After
that it takes only those whose first token alone is as likely as that whole answer, because more tokens can
only lower a probability.
"""

import math
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm
from transformers import Cache, DynamicCache

from helpers.common.errors import DamagedError, UnsupportedError
from helpers.common.values import check_kind
from helpers.evaluation.metrics import Scores
from helpers.loading.chat_tokenizer import ChatTokenizer
from helpers.loading.model import LoadedModel
from helpers.loading.tokenizer import make_chat_tokenizer
from helpers.tasks.given import check_labelled, check_rows, list_columns
from helpers.tasks.template import Label, Row, Template
from helpers.training.attention import score_targets, use_packed_attention, why_not_packable
from helpers.training.packing import PackedSequences, pack_continuations, pack_sequences
from helpers.training.token_tree import count_shared

# About fifty of the lessons' rows. On 2 cores, 3,000 to 8,000 are about as fast.
BATCH_TOKENS = 4000


@dataclass
class ScoredRow:
    """A row as token ids, and what is known of its answers so far."""

    prompt: list[int]
    answers: dict[Label, list[int]]  # of each label, in the template's order
    beginnings: Scores = field(default_factory=dict)  # log P(first token of the answer | prompt), in nats
    scores: Scores = field(default_factory=dict)  # log P(answer | prompt), in nats, as far as computed

    def count_tokens(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.prompt) + max(map(len, self.answers.values()))

    def count_computed(self, shared: int) -> int:
        """Tokens that go through the model: the prompt without its first `shared` tokens, and the answers."""
        return len(self.prompt) - shared + sum(map(len, self.answers.values()))

    def find_favourite(self) -> Label:
        """The label whose answer has the likeliest first token."""
        return max(self.beginnings, key=self.beginnings.__getitem__)

    def score_short(self, labels: list[Label]) -> list[Label]:
        """Scores answers of one token, which their beginnings tell: empty ones. Returns the other labels."""
        short = [label for label in labels if len(self.answers[label]) == 1]
        self.scores.update({label: self.beginnings[label] for label in short})
        return [label for label in labels if label not in short]

    def list_rivals(self) -> list[Label]:
        """The labels without a score that may still win: their beginnings are as high as the best score."""
        best = max(self.scores.values())
        unscored = [label for label in self.answers if label not in self.scores]
        return [label for label in unscored if self.beginnings[label] >= best]

    def sort_scores(self) -> Scores:
        """The scores in the template's order, so that a tie gives the same prediction as with all scores."""
        return {label: self.scores[label] for label in self.answers if label in self.scores}


def score_answers(
    loaded: LoadedModel,
    rows: list[Row],
    template: Template,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
    every: bool = True,
) -> list[Scores]:
    """{label: log P(answer | prompt), in nats} of each row: how likely each possible answer is.

    A batch takes rows until they have `batch_tokens` tokens, not counting those that all rows share. Without
    `every`, a row has only the scores that were needed to know which answer is the likeliest. Raises
    UnsupportedError for a row that does not fit into the model's context, and DamagedError for scores that
    are not numbers.
    """
    check_kind("loaded", loaded, LoadedModel, "what load_model(name) returns")
    check_labelled(template, "judge_answers")
    check_rows(rows, list_columns(template))
    chat = make_chat_tokenizer(loaded.tokenizer)
    scored = [tokenize_row(chat, row, template) for row in rows]
    fill_scores(loaded, scored, batch_tokens, progress, every)
    return [row.sort_scores() for row in scored]


def fill_scores(
    loaded: LoadedModel,
    scored: list[ScoredRow],
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
    every: bool = True,
) -> None:
    """Fills in the rows' scores, packed if the model can compute that. Arguments and errors as above."""
    refuse_too_long(scored, loaded)
    prompts = [row.prompt for row in scored]
    shared = min(count_shared(prompts), min(len(prompt) for prompt in prompts) - 1)
    loaded.model.eval()
    with torch.inference_mode():
        if shared and not why_not_packable(loaded.model, max(map(ScoredRow.count_tokens, scored))):
            score_packed(loaded, scored, shared, batch_tokens, progress, every)
        else:
            for row in tqdm(scored, desc="scoring", unit="row", disable=not progress):
                row.scores = score_plainly(loaded, row)
    refuse_nan(scored, loaded)


def refuse_too_long(rows: list[ScoredRow], loaded: LoadedModel) -> None:
    """An UnsupportedError if a row is longer than the model's context: no server would answer it."""
    lengths = [row.count_tokens() for row in rows]
    count = sum(length > loaded.context for length in lengths)
    if count:
        problem = (
            f"{count} of {len(rows)} rows are longer than the {loaded.context} tokens that {loaded.name}"
        )
        remedy = "Shorten the texts, or take a model with a longer context."
        raise UnsupportedError(f"{problem} takes; the longest has {max(lengths)}.", remedy)


def refuse_nan(rows: list[ScoredRow], loaded: LoadedModel) -> None:
    """A DamagedError if a score is not a number."""
    if any(math.isnan(score) for row in rows for score in row.scores.values()):
        remedy = "See `python -m helpers.adapters prove` for its LoRA; without one, fetch the model again."
        raise DamagedError(f"The scores of {loaded.name} are not numbers (NaN).", remedy)


def score_packed(
    loaded: LoadedModel, rows: list[ScoredRow], shared: int, batch_tokens: int, progress: bool, every: bool
) -> None:
    """Fills in the rows' scores, batch by batch. The first `shared` tokens of all prompts are equal."""
    ordered = sorted(rows, key=lambda row: row.prompt)  # rows that begin alike come into one batch
    batches = fill_batches(ordered, shared, batch_tokens)
    cache = fill_cache(loaded, rows[0].prompt[:shared])
    with use_packed_attention(loaded.model):
        for batch in tqdm(batches, desc="scoring", unit="batch", disable=not progress):
            score_batch(loaded, batch, shared, cache, every)


def fill_batches(rows: list[ScoredRow], shared: int, limit: int) -> list[list[ScoredRow]]:
    """The rows in batches of at most `limit` tokens, the shared ones left out; a longer row is alone."""
    batches: list[list[ScoredRow]] = []
    room = 0
    for row in rows:
        length = row.count_computed(shared)
        if not batches or length > room:
            batches.append([])
            room = limit
        batches[-1].append(row)
        room -= length
    return batches


def tokenize_row(chat: ChatTokenizer, row: Row, template: Template) -> ScoredRow:
    """A row's prompt and answers as token ids; each answer ends with the token that ends the turn."""
    texts = template.build_answers(row)
    prompt, answers = chat.tokenize_answers(template.build_messages(row), list(texts.values()))
    return ScoredRow(prompt, dict(zip(texts, answers, strict=True)))


def fill_cache(loaded: LoadedModel, prefix: list[int]) -> Cache:
    """A cache with the keys and values of the tokens that all prompts begin with.

    A plain one: the model's own may be for a sliding window, and then nothing can be taken back from it.
    """
    input_ids = torch.tensor([prefix], device=loaded.model.device)
    cache = DynamicCache()
    loaded.model(input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def score_batch(loaded: LoadedModel, rows: list[ScoredRow], shared: int, cache: Cache, every: bool) -> None:
    """Fills in the scores of these rows. Before and after, the cache holds the first `shared` tokens."""
    prefix = rows[0].prompt[:shared]
    prompts = pack_sequences([row.prompt[shared:] for row in rows], cached_prefix=prefix)
    score_beginnings(loaded, rows, prompts, cache)
    if every:
        score_endings(loaded, rows, [list(row.answers) for row in rows], prompts, cache)
    else:
        score_endings(loaded, rows, [[row.find_favourite()] for row in rows], prompts, cache)
        rivals = [row.list_rivals() for row in rows]
        if any(rivals):
            score_endings(loaded, rows, rivals, prompts, cache)
    cache.crop(-prompts.count_tokens())


def score_beginnings(
    loaded: LoadedModel, rows: list[ScoredRow], prompts: PackedSequences, cache: Cache
) -> None:
    """Phase 1: fills in the beginnings of all answers, and the cache with the prompts."""
    places: list[int] = []
    targets: list[int] = []
    for row, path in zip(rows, prompts.find_paths(), strict=True):
        for answer in row.answers.values():
            places.append(path[-1])
            targets.append(answer[0])
    inputs = prompts.to_inputs(loaded.model.device.type)
    found = iter(score_targets(loaded.model, inputs, places, targets, cache).tolist())
    for row in rows:
        for label in row.answers:
            row.beginnings[label] = next(found)


def score_endings(
    loaded: LoadedModel,
    rows: list[ScoredRow],
    wanted: list[list[Label]],
    prompts: PackedSequences,
    cache: Cache,
) -> None:
    """Phase 2: fills in the scores of the wanted labels. Before and after, the cache holds the prompts."""
    groups = []  # of each row: the wanted answers without their last tokens, which have nothing to predict
    wanted = [row.score_short(labels) for row, labels in zip(rows, wanted, strict=True)]
    if not any(wanted):
        return
    for row, labels in zip(rows, wanted, strict=True):
        groups.append([row.answers[label][:-1] for label in labels])
    endings = pack_continuations(prompts, groups)
    asked = [(row, label) for row, labels in zip(rows, wanted, strict=True) for label in labels]
    places: list[int] = []
    targets: list[int] = []
    for (row, label), path in zip(asked, endings.find_paths(), strict=True):
        places.extend(path)
        targets.extend(row.answers[label][1:])
    inputs = endings.to_inputs(loaded.model.device.type)
    found = score_targets(loaded.model, inputs, places, targets, cache)
    cache.crop(-endings.count_tokens())
    parts = found.split([len(row.answers[label]) - 1 for row, label in asked])
    for (row, label), part in zip(asked, parts, strict=True):
        row.scores[label] = row.beginnings[label] + part.sum().item()


def score_plainly(loaded: LoadedModel, row: ScoredRow) -> Scores:
    """{label: score}, from one pass of the model per label: for models that cannot compute packed rows."""
    scores = {}
    for label, answer in row.answers.items():
        input_ids = torch.tensor([[*row.prompt, *answer]], device=loaded.model.device)
        # A token is predicted by the one before it, the answer's first token by the prompt's last one.
        logits = loaded.model(input_ids).logits[0, len(row.prompt) - 1 : -1]
        targets = input_ids[0, len(row.prompt) :, None]
        scores[label] = logits.float().log_softmax(-1).gather(-1, targets).sum().item()
    return scores
