"""Tokens in, text out as it becomes whole: no half characters."""

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.generation.request import Piece, Token
from helpers.generation.stopping import StopGate

BYTE_OF = {
    character: byte for byte, character in bytes_to_unicode().items()
}  # byte-level vocabularies write every byte as a printable character


def read_bytes(tokenizer: PreTrainedTokenizerBase, number: int) -> bytes:
    """The bytes that a token stands for, also when they are a part of a character only."""
    if number in tokenizer.added_tokens_decoder:
        return tokenizer.added_tokens_decoder[number].content.encode()
    text = (
        tokenizer.convert_ids_to_tokens(number) or ""
    )  # a vocabulary that was rounded up has logits for tokens that are none
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", text):  # as vocabularies of SentencePiece write a byte
        return bytes([int(found[1], 16)])
    if all(character in BYTE_OF for character in text):
        return bytes(BYTE_OF[character] for character in text)
    return text.replace("\u2581", " ").encode()


class TextStream:
    """Turns the tokens of one answer into pieces and hands them to `emit`.

    transformers' TextStreamer waits for the next space and takes one row only: a stop string, or a client's leaving, would take effect late.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: list[str],
        emit: Callable[[Piece], None],
        skip_special_tokens: bool = True,
    ):
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.gate = StopGate(stop, emit)
        self.ids: list[int] = []
        self.context = self.shown = (
            0  # ids[context:shown] are decoded again, since a token's text may depend on the one before it
        )

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self.gate.stopped

    def push(self, number: int, token: Token | None = None) -> None:
        """Takes the next token's id, and its log-probabilities when they were asked for."""
        self.ids.append(number)
        text = self._decode_new()
        if text.endswith("\ufffd"):  # a character whose other bytes are still to come
            text = ""
        else:
            self.context, self.shown = self.shown, len(self.ids)
        self.gate.push(text, (token,) if token else ())

    def finish(self) -> None:
        """Passes on what was held back, without the half character that a length limit may leave."""
        self.gate.push(self._decode_new().rstrip("\ufffd"))
        self.gate.finish()

    def _decode_new(self) -> str:
        return self._decode(self.ids[self.context :])[
            len(self._decode(self.ids[self.context : self.shown])) :
        ]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=self.skip_special_tokens, clean_up_tokenization_spaces=False
        )
