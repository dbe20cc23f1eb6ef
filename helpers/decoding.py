"""Tokens in, text out as it becomes whole: no half characters, nothing that may still turn out to be a stop string."""

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.generation import Piece, Token

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}  # byte-level vocabularies write every byte as a printable character


def read_bytes(tokenizer: PreTrainedTokenizerBase, number: int) -> bytes:
    """The bytes that a token stands for, also when they are a part of a character only."""
    if number in tokenizer.added_tokens_decoder:
        return tokenizer.added_tokens_decoder[number].content.encode()
    text = tokenizer.convert_ids_to_tokens(number) or ""  # a vocabulary that was rounded up has logits for tokens that are none
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", text):  # as vocabularies of SentencePiece write a byte
        return bytes([int(found[1], 16)])
    if all(character in BYTE_OF for character in text):
        return bytes(BYTE_OF[character] for character in text)
    return text.replace("\u2581", " ").encode()


class StopFilter:
    """Passes text on up to the first stop string, holding back what may become one."""

    def __init__(self, stop: list[str]):
        self.stop, self.held, self.stopped = [text for text in stop if text], "", False

    def push(self, piece: str) -> str:
        """The text that is safe to pass on after this piece."""
        if self.stopped:
            return ""
        self.held += piece
        found = [place for text in self.stop if (place := self.held.find(text)) >= 0]
        if found:
            self.stopped, safe = True, min(found)
        else:
            begun = (n for text in self.stop for n in range(1, min(len(text), len(self.held) + 1)) if self.held.endswith(text[:n]))
            safe = len(self.held) - max(begun, default=0)
        passed, self.held = self.held[:safe], self.held[safe:]
        return passed

    def finish(self) -> str:
        """What was held back and became no stop string."""
        return "" if self.stopped else self.held


class TextStream:
    """Turns the tokens of one answer into pieces and hands them to `emit`.

    transformers' TextStreamer waits for the next space and takes one row only: a stop string, or a client's leaving, would take effect late.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: list[str], emit: Callable[[Piece], None], skip_special_tokens: bool = True):
        self.tokenizer, self.emit, self.skip_special_tokens = tokenizer, emit, skip_special_tokens
        self.filter = StopFilter(stop)
        self.ids: list[int] = []
        self.context = self.shown = 0  # ids[context:shown] are decoded again, since a token's text may depend on the one before it
        self.decoded = self.passed = 0  # characters decoded, and handed on
        self.waiting: list[tuple[int, Token]] = []  # (characters decoded with it, token) of text that was not handed on yet

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self.filter.stopped

    def push(self, number: int, token: Token | None = None) -> None:
        """Takes the next token's id, and its log-probabilities when they were asked for."""
        self.ids.append(number)
        text = self._decode_new()
        if text.endswith("\ufffd"):  # a character whose other bytes are still to come
            text = ""
        else:
            self.context, self.shown = self.shown, len(self.ids)
        self.decoded += len(text)
        if token:
            self.waiting.append((self.decoded, token))
        self._pass_on(self.filter.push(text))

    def finish(self) -> None:
        """Passes on what was held back, without the half character that a length limit may leave."""
        rest = self._decode_new().rstrip("\ufffd")
        self.decoded += len(rest)
        self._pass_on(self.filter.push(rest) + self.filter.finish())

    def _decode_new(self) -> str:
        return self._decode(self.ids[self.context :])[len(self._decode(self.ids[self.context : self.shown])) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.skip_special_tokens, clean_up_tokenization_spaces=False)

    def _pass_on(self, text: str) -> None:
        self.passed += len(text)
        ready = tuple(token for end, token in self.waiting if end <= self.passed)
        self.waiting = self.waiting[len(ready) :]
        if text or ready:
            self.emit(Piece(text, ready))
