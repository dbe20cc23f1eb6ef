"""Answers followed through their form, token by token or text by text.

llguidance says after each token which tokens may follow. A model that would not come to an end, inside a text
for example, is led to it in time: when no more tokens are left than a short way out takes, the answer takes
that way. So it is not cut off, unless the limit is smaller than the form itself. No torch.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from helpers.common.arguments import cut
from helpers.generation.lark import LIMITS, find_reason
from helpers.generation.structure import Structure, StructureRefused, translate

# What ends an open text, number, list or object soonest, first choice first.
CLOSERS = ("}", "]", '"', '"}', '"]', ",", ":", "1", "0")
MAX_WAY_OUT = 512  # tokens; a form without a shorter way out is cut off where the tokens end


class Follower:
    """Where an answer is in its form, and a short way out from there."""

    longest: int | None = None  # tokens of a way out that is looked for; None for as many as are left

    def __init__(self, structure: Structure, tokenizer: LLTokenizer, most: int, special: bool = True):
        """`most` is how many tokens the answer may have, the one that ends it included.

        `special` says whether the tokenizer has special tokens, or the form is followed without them.
        """
        self.tokenizer = tokenizer
        prepared = prepare(translate(structure, special), tokenizer)
        self.matcher = prepared.matcher.deep_copy()
        self._has_way_out = prepared.way_out is not None
        self._known = prepared.way_out or []  # the last one that was found
        self.way_out = self._find_way_out(most)

    def take(self, tokens: list[int], left: int) -> bool:
        """Takes the next tokens, if the answer can then be ended with `left` more.

        Otherwise it returns False and takes nothing: the way out has to be taken now.
        """
        if tokens:
            self.matcher.consume_tokens(tokens)
            self.refuse_error()
        way_out = self._find_way_out(left)
        if not left and self.matcher.is_accepting():
            way_out = []  # the answer is complete, although it might go on
        if way_out is None and self.way_out is not None:
            self.matcher.rollback(len(tokens))
            return False
        self.way_out = way_out
        return True

    def _find_way_out(self, left: int) -> list[int] | None:
        """As find_way_out. None also if the form has no short one, or if there is room for any yet."""
        if self.matcher.is_stopped():
            return []
        if not self._has_way_out or left > MAX_WAY_OUT:
            return None
        # Mostly the last one still is one: as it was, inside a text, or without its first token.
        for way in (self._known[1:], self._known):
            if way and self.fits(way, left) and self.matcher.validate_tokens(way) == len(way):
                self._known = way
                return way
        found = find_way_out(self.matcher, self.tokenizer, self.longest or left)
        self._known = found or self._known
        return found if found and self.fits(found, left) else None

    def fits(self, way: list[int], left: int) -> bool:
        """Whether so many tokens are enough for a way out."""
        return len(way) <= left

    def refuse_error(self) -> None:
        """Raises StructureRefused for a form that became too complex, or tokens that it does not allow."""
        refuse_error(self.matcher)


class Form(Follower):
    """Follows an answer whose tokens are chosen here.

    Example: the schema is {"type": "string"}, and the answer so far is '"Hello'. The way out is '"' and the
    token that ends an answer. When two tokens are left, `settle` gives '"', whatever the model has chosen.
    """

    def __init__(self, structure: Structure, tokenizer: LLTokenizer, most: int):
        super().__init__(structure, tokenizer, most)
        self.left = most

    def allow(self) -> np.ndarray:
        """(vocabulary,), True for each token that may come next."""
        mask = read_mask(self.matcher, self.tokenizer.vocab_size)
        self.refuse_error()
        return mask

    def settle(self, token: int) -> int:
        """The next token of the answer: the one that was chosen, or else the first one of the way out."""
        self.left -= 1
        if token in self.tokenizer.eos_tokens:
            return token
        if not self.take([token], self.left) and self.way_out:
            token, *self.way_out = self.way_out
            self.matcher.consume_token(token)
        return token


class TextForm(Follower):
    """Follows the text of an answer whose tokens llama.cpp chooses, by the same rules.

    It is followed byte by byte. `count_tokens` says how many tokens of the model a text has.
    """

    longest = MAX_WAY_OUT

    def __init__(self, structure: Structure, most: int, count_tokens: Callable[[str], int]):
        self.count_tokens = count_tokens
        self.most = most
        super().__init__(structure, byte_tokenizer(), most, special=False)
        self.ended = False  # whether the way out was taken

    def fits(self, way: list[int], left: int) -> bool:
        """As Follower.fits. A token has one byte at least, so a short way need not be counted."""
        return len(way) <= left or self.count_tokens(read_way(way)) < left

    def settle(self, text: str, count: int) -> str:
        """The next text of the answer, which has `count` tokens with it.

        It is the one that llama.cpp chose, or else the way out. Raises StructureRefused for a text that the
        form does not allow: llama.cpp gives up on a form that becomes too complex.
        """
        try:
            taken = self.take(list(text.encode()), self.most - count)
        except StructureRefused:
            problem = "llama.cpp gave up on the form: it is too complex."
            raise StructureRefused(problem, "Simplify it, or serve the model with transformers.") from None
        if taken:
            return text
        self.ended = True
        return read_way(self.way_out or [])


def read_way(way: list[int]) -> str:
    """The text of a way out in bytes, without the token that ends it."""
    return bytes(way[:-1]).decode(errors="replace")


class Prepared(NamedTuple):
    """A form that was read, to be copied for each answer, and a short way to its end if it has one."""

    matcher: LLMatcher
    way_out: list[int] | None


@lru_cache(64)
def prepare(grammar: str, tokenizer: LLTokenizer) -> Prepared:
    """Reads a form in Lark. Raises a StructureRefused if it cannot be followed."""
    written = LLMatcher.grammar_from_lark(grammar)
    matcher = LLMatcher(tokenizer, written, log_level=0, limits=LIMITS)
    refuse_error(matcher)
    return Prepared(matcher, find_way_out(matcher, tokenizer, MAX_WAY_OUT))


def refuse_error(matcher: LLMatcher) -> None:
    """Raises StructureRefused if the matcher has failed."""
    if matcher.is_error():
        reason = cut(find_reason(matcher.get_error()), 300)
        raise StructureRefused(f"The form cannot be followed: {reason}.", "Simplify it.")


class Bytes:
    """A tokenizer whose tokens are the 256 bytes, and 256 for the end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<|end|>")
    special_token_ids = (256,)

    def __call__(self, data: bytes) -> list[int]:
        return list(data)


@lru_cache(1)
def byte_tokenizer() -> LLTokenizer:
    """The tokenizer of Bytes."""
    return LLTokenizer(TokenizerWrapper(Bytes()))


def read_mask(matcher: LLMatcher, size: int) -> np.ndarray:
    """(size,), True for each token that may come next."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    return bits[:size].astype(bool)


def find_way_out(matcher: LLMatcher, tokenizer: LLTokenizer, most: int) -> list[int] | None:
    """The tokens of a short way to the end of the form, its end included; None if over `most`."""
    return walk_out(matcher, tokenizer, most, repeats=True) or walk_out(matcher, tokenizer, most)


def walk_out(
    matcher: LLMatcher, tokenizer: LLTokenizer, most: int, repeats: bool = False
) -> list[int] | None:
    """The same. With `repeats`, a step is repeated while the same tokens may come, as in [a-z]{400}.

    That is fast, but might go round in circles.
    """
    matcher = matcher.deep_copy()
    way: list[int] = []
    step, before = -1, np.zeros(0, dtype=bool)
    while len(way) < most:
        if matcher.is_accepting() or matcher.is_stopped():
            return [*way, tokenizer.eos_token]
        tokens = matcher.compute_ff_tokens()
        if not tokens:
            mask = read_mask(matcher, tokenizer.vocab_size)
            if not (repeats and np.array_equal(mask, before)):
                step, before = pick_step(matcher, tokenizer, mask), mask
            tokens = [step]
        if not matcher.consume_tokens(tokens):
            return None
        way += tokens
    return None


def pick_step(matcher: LLMatcher, tokenizer: LLTokenizer, mask: np.ndarray) -> int:
    """The next token of a way out: the first closer or else the character with which the form goes on best.

    `mask` is what may come, (vocabulary,).

    In a text, "}" is one more character, after which the same tokens may come as before: nothing is gained.
    After the quotation mark, others may come; so it is with "@" in [a-z]+@[a-z]+. Of several characters, the
    one after which the fewest tokens may come is taken.
    """
    closers, characters = list_steps(tokenizer)
    for token in closers:
        if mask[token]:
            open_still, unchanged, _ = look_ahead(matcher, token, mask)
            if not (open_still and unchanged):
                return token
    found = find_first(characters, mask)
    return min(found, key=lambda token: look_ahead(matcher, token, mask), default=int(mask.argmax()))


def look_ahead(matcher: LLMatcher, token: int, mask: np.ndarray) -> tuple[bool, bool, int]:
    """After this token: whether the form is still open, whether `mask` is the same, how many may come."""
    ahead = matcher.deep_copy()
    ahead.consume_token(token)
    after = read_mask(ahead, len(mask))
    return not ahead.is_accepting(), bool((after == mask).all()), int(after.sum())


@lru_cache(8)
def list_steps(tokenizer: LLTokenizer) -> tuple[list[int], list[int]]:
    """The tokens of CLOSERS, and those of the characters of ASCII that print, in their order."""

    def encode(texts: Iterable[str]) -> list[int]:
        found = (tokenizer.tokenize_str(text) for text in texts)
        return [tokens[0] for tokens in found if len(tokens) == 1]

    return encode(CLOSERS), encode(map(chr, range(ord(" "), 127)))


def find_first(tokens: list[int], mask: np.ndarray) -> list[int]:
    """The first of each run of tokens, neighbours such as a to z, that the mask allows."""
    allowed = mask[tokens]
    return [
        token for place, token in enumerate(tokens) if allowed[place] and not (place and allowed[place - 1])
    ]
