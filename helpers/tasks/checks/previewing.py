"""Rows as the model will see them: every token, and which of them are learned."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from helpers.common.errors import KitError, NotFoundError
from helpers.common.lanes import pick_lane
from helpers.common.training_settings import TURNS, TrainingSettings
from helpers.common.values import check_choice, check_whole
from helpers.loading.chat_tokenizer import LearnedTokens
from helpers.tasks.checks.lengths import find_base, find_context, tokenize_within
from helpers.tasks.checks.reviewing import open_for_review

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class PreviewToken(NamedTuple):
    """One token as text, and whether the loss sees it. A character of several tokens is in the last one."""

    token: str
    learned: bool


@dataclass(frozen=True)
class PreviewedRow:
    """One sequence of tokens, which is one row for most chat templates."""

    place: str
    tokens: list[PreviewToken]

    @property
    def text(self) -> str:
        """The text of all tokens; what is learned is shown in [[...]]."""
        parts = groupby(self.tokens, key=lambda token: token.learned)
        texts = ((learned, "".join(token.token for token in tokens)) for learned, tokens in parts)
        return "".join(f"[[{text}]]" if learned else text for learned, text in texts)


@dataclass(frozen=True)
class Preview:
    """Some rows of a table."""

    model: str
    template: str  # the template's name, "suggested" or "chats"
    rows: list[PreviewedRow]


def preview_rows(
    data: str | Path,
    template: str | Path | None = None,
    model: str | None = None,
    rows: int = 3,
    turns: str = "all",
) -> Preview:
    """The first rows of a table as tokens. Without a template, the suggested one is taken.

    The model is named, or the lane's; only its tokenizer is loaded. Raises a KitError for what cannot be
    read, with the place of a row that has a fault.
    """
    from helpers.loading.tokenizer import load_both, make_chat_tokenizer  # transformers, which takes seconds

    check_whole("rows", rows, 1)
    check_choice("turns", turns, TURNS)
    opened = open_for_review(data, template)
    folder = find_base(model) or refuse_without_model()
    tokenizer = load_both(folder, need_examples=True)[0]
    chat = make_chat_tokenizer(tokenizer)
    limit = min(find_context(folder), TrainingSettings.max_length)
    found = []
    for place, cells in list(zip(opened.table.places, opened.table.rows, strict=True))[:rows]:
        try:
            row = opened.template.make_row(cells)
        except KitError as error:
            raise type(error)(
                f"{place.capitalize()} of {opened.table.path}: {error.problem}", error.remedy
            ) from None
        sequences, left_out = tokenize_within(chat, row, opened.template, turns, limit)
        if left_out:
            place = f"{place}, the turns within {limit:,} tokens"
        for sequence in sequences:
            found.append(PreviewedRow(place, list(name_tokens(tokenizer, sequence))))
    return Preview(folder.name, opened.template.name, found)


def refuse_without_model() -> NoReturn:
    """A NotFoundError, with the command that fetches the lane's model."""
    lane = pick_lane().value
    problem = f"The lane's model, {lane.folder}, is not in models/, and its tokenizer is needed."
    raise NotFoundError(problem, f"Name one with --model, or: python -m helpers.weights fetch {lane.model}")


def name_tokens(tokenizer: "PreTrainedTokenizerBase", sequence: LearnedTokens) -> Iterator[PreviewToken]:
    """The text of each token, such that all of them together are the text of the sequence.

    A token's text depends on the one before it (SentencePiece drops the space of the first), and bytes of a
    character wait for the last of them.
    """
    start = done = 0  # where the text is decoded from, and up to where it has been given out
    for end, learned in enumerate(sequence.mask, start=1):
        before = decode(tokenizer, sequence.ids[start:done])
        text = decode(tokenizer, sequence.ids[start:end])
        if text.endswith(UNFINISHED) and end < len(sequence.ids):
            yield PreviewToken("", bool(learned))
            continue
        yield PreviewToken(text[len(before) :], bool(learned))
        start, done = done, end


def decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    """The text of these tokens, marks included."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
