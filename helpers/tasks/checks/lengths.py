"""How long the rows are in tokens, and which of them a training would cut. Only the tokenizer is loaded."""

import bisect
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from helpers.common.errors import KitError, NotFoundError
from helpers.common.lanes import pick_lane
from helpers.common.progress import Bar, Report
from helpers.loading.chat_tokenizer import ChatTokenizer, LearnedTokens
from helpers.tasks.rows import AnyTemplate
from helpers.tasks.template import Row
from helpers.weights.folders import ModelFolder, find_model, locate, models_folder
from helpers.weights.shape import USUAL_CONTEXT, get_text_part, read_context

SAMPLE = 2000  # rows that are tokenised to know the usual length; those that could be cut all are
LISTED = 20  # places that are named
MANY_TURNS = 64  # of a chat, up to which all are rendered without a thought


@dataclass(frozen=True)
class Lengths:
    """Lengths of the rows, prompt and answer together."""

    unit: str  # tokens, or words without a tokenizer
    median: float
    p95: float  # 19 of 20 rows are not longer
    longest: int
    rows: int  # how many rows this was measured on
    limit: int | None = None  # tokens that a training keeps of a row: max_length, or the model's context
    limit_name: str = ""  # which of the two
    cut: int = 0  # rows of which a part of what is learned is cut off
    lost: int = 0  # rows of which nothing that is learned is left
    places: list[str] = field(default_factory=list)  # of the first rows that are cut
    refused: list[str] = field(
        default_factory=list
    )  # places of the counted rows that the chat template rejects


@dataclass(frozen=True)
class TokenizedRows:
    """Some rows as the model will see them."""

    sequences: list[LearnedTokens]

    @property
    def total(self) -> int:
        """Tokens of all sequences."""
        return sum(len(one.ids) for one in self.sequences)

    @property
    def shared(self) -> int:
        """Tokens at the beginning that all sequences have in common."""
        first, last = min(one.ids for one in self.sequences), max(one.ids for one in self.sequences)
        pairs = enumerate(zip(first, last, strict=False))
        return next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))


def find_base(name: str | None) -> ModelFolder | None:
    """The folder of the model: the named one, or the lane's if it is in models/, else None."""
    if name:
        return find_model(name)
    try:
        found = locate(pick_lane().value.folder, models_folder())
    except NotFoundError:  # there is no home, so there are no models
        return None
    return None if found is None or found.find_missing() else found


def find_context(folder: ModelFolder) -> int:
    """The most tokens that the model takes, prompt and answer together."""
    return USUAL_CONTEXT if folder.gguf else read_context(get_text_part(folder.config))


def tokenize_row(chat: ChatTokenizer, row: Row, template: AnyTemplate, turns: str) -> list[LearnedTokens]:
    """The sequences of a row as a training sees them: usually one."""
    return chat.tokenize_conversation(template.build_conversation(row), template.list_learned(row, turns))


def tokenize_within(
    chat: ChatTokenizer, row: Row, template: AnyTemplate, turns: str, limit: int
) -> tuple[list[LearnedTokens], bool]:
    """(the sequences of a row, whether turns were left out), with the turns that begin within `limit` tokens.

    Each turn of a chat is rendered with all that comes before it, so the time grows with the square of their
    number. Of a chat of thousands of turns, a training keeps the first only. At least one turn is taken.
    """
    messages, learned = template.build_conversation(row), template.list_learned(row, turns)
    count = len(learned)
    if count > MANY_TURNS:
        count = bisect.bisect_right(learned, limit, key=lambda place: len(chat.tokenize(messages[:place])))
    count = max(count, 1)
    return chat.tokenize_conversation(messages, learned[:count]), count < len(learned)


def count_words(rows: Sequence[Row], template: AnyTemplate) -> Lengths:
    """The lengths in words, for when there is no tokenizer."""
    counts = [sum(len(one["content"].split()) for one in template.build_conversation(row)) for row in rows]
    return Lengths("words", statistics.median(counts), find_p95(counts), max(counts), len(counts))


def count_tokens(
    chat: ChatTokenizer,
    rows: Sequence[Row],
    places: Sequence[str],
    template: AnyTemplate,
    turns: str,
    limit: tuple[int, str],
    progress: bool | Report = False,
) -> Lengths:
    """The lengths in tokens against a limit, (tokens, its name).

    Every row that could exceed the limit is tokenised, and SAMPLE rows of the others: no text has more
    tokens than bytes.
    """
    sizes = [count_bytes(row, template) for row in rows]
    chosen = set(random.Random(0).sample(range(len(rows)), min(SAMPLE, len(rows))))
    marks = max(len(chat.render(template.build_conversation(rows[0])).encode()) - sizes[0], 0)
    chosen |= {number for number, size in enumerate(sizes) if size + 2 * marks + 64 > limit[0]}
    chosen |= set(sorted(range(len(rows)), key=sizes.__getitem__)[-LISTED:])
    lengths, cut, refused, lost = [0], [], [], 0
    with Bar(progress, len(chosen), "counting tokens", "row") as bar:
        for number in sorted(chosen):
            bar.update()
            try:
                found, left_out = tokenize_within(chat, rows[number], template, turns, limit[0])
                if left_out:
                    found += tokenize_row(chat, rows[number], template, "last")
            except KitError:
                refused.append(places[number])
                continue
            lengths.append(max((len(one.ids) for one in found), default=0))
            if any(any(one.mask[limit[0] :]) for one in found):
                cut.append(places[number])
                lost += not any(any(one.mask[: limit[0]]) for one in found)
    usual = sorted(lengths)[1:] or lengths
    return Lengths(
        "tokens", statistics.median(usual), find_p95(usual), usual[-1], len(usual),
        limit[0], limit[1], len(cut), lost, cut[:LISTED], refused,
    )  # fmt: skip


def count_bytes(row: Row, template: AnyTemplate) -> int:
    """Bytes of all messages of a row."""
    return sum(len(message["content"].encode()) for message in template.build_conversation(row))


def find_p95(numbers: Sequence[int]) -> int:
    """The number that 19 of 20 do not exceed."""
    return sorted(numbers)[max(-(-len(numbers) * 95 // 100) - 1, 0)]
