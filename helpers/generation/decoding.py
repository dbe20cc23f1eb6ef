"""Incremental detokenisation: token ids go in, text comes out as soon as it has no half characters."""

import re
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from helpers.generation.request import Piece, Token
from helpers.generation.stopping import StopGate

UNDECODABLE = "\ufffd"  # what a tokenizer writes for bytes that are not a whole character


def make_byte_table() -> dict[str, int]:
    """{character: byte} for byte-level vocabularies such as GPT-2's, which write each byte as one character.

    Bytes that print in Latin-1 stay themselves: "A" is 65. The others are the characters 256, 257, ... in
    their order: byte 0 is "Ā", and the space, the 33rd of them, is "Ġ".
    """
    printing = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printing]
    table = {chr(byte): byte for byte in printing}
    for place, byte in enumerate(others):
        table[chr(256 + place)] = byte
    return table


BYTE_OF = make_byte_table()


def read_bytes(tokenizer: PreTrainedTokenizerBase, number: int) -> bytes:
    """The bytes of a token, even if they are only a part of a character. Empty for an id that has no token.

    (Models whose vocabulary was rounded up have logits for such ids.)
    """
    added = tokenizer.added_tokens_decoder.get(number)
    if added is not None:
        return added.content.encode()
    text = str(tokenizer.convert_ids_to_tokens(number) or "")
    hexadecimal = re.fullmatch(r"<0x([0-9A-F]{2})>", text)  # a single byte in a vocabulary of SentencePiece
    if hexadecimal:
        return bytes([int(hexadecimal[1], 16)])
    if all(character in BYTE_OF for character in text):
        return bytes(BYTE_OF[character] for character in text)
    return text.replace("\u2581", " ").encode()  # SentencePiece's sign for a space


class TextStream:
    """Turns the tokens of one answer into pieces of text and passes them to `emit`.

    Transformers' TextStreamer waits for the next space and takes a single answer: a stop string, or a client
    that disconnects, would take effect too late.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: list[str],
        emit: Callable[[Piece], None],
        skip_special_tokens: bool = True,
    ):
        self.tokenizer = tokenizer
        self.skip_special_tokens = skip_special_tokens
        self.gate = StopGate(stop, emit)
        self.ids: list[int] = []
        # The text of ids[:shown] was passed on. A token's text may depend on the token before it (a leading
        # space, for one), so ids[context:shown] are decoded again with those that follow.
        self.context = 0
        self.shown = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self.gate.stopped

    def push(self, number: int, token: Token | None = None) -> None:
        """Takes the next token id, and the token's log-probabilities if they were asked for."""
        self.ids.append(number)
        text = self._decode_new()
        if text.endswith(UNDECODABLE):  # a character whose other bytes are still to come
            text = ""
        else:
            self.context = self.shown
            self.shown = len(self.ids)
        self.gate.push(text, (token,) if token else ())

    def end(self, token: Token | None) -> None:
        """Takes the token that ends the answer, which is listed and has no text."""
        self.gate.push(self._decode_new().rstrip(UNDECODABLE), (token,) if token else ())
        self.shown = len(self.ids)

    def finish(self) -> None:
        """Passes on what was held back, without the half character that a length limit may leave."""
        self.gate.push(self._decode_new().rstrip(UNDECODABLE))
        self.gate.finish()

    def _decode_new(self) -> str:
        """The text of ids[shown:]."""
        known = self._decode(self.ids[self.context : self.shown])
        whole = self._decode(self.ids[self.context :])
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=self.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)  # it is a list for several sequences only
