"""The end of an answer by a stop string: text that may still become one is held back, and each token comes with the text that it completes."""

from collections.abc import Callable

from helpers.generation.request import Piece, Token


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
            begun = (
                n
                for text in self.stop
                for n in range(1, min(len(text), len(self.held) + 1))
                if self.held.endswith(text[:n])
            )
            safe = len(self.held) - max(begun, default=0)
        passed, self.held = self.held[:safe], self.held[safe:]
        return passed

    def finish(self) -> str:
        """What was held back and became no stop string."""
        return "" if self.stopped else self.held


class StopGate:
    """Hands an answer to `emit` in pieces, without the stop string that ends it, each with the tokens whose text it completes."""

    def __init__(self, stop: list[str], emit: Callable[[Piece], None]):
        self.emit, self.filter = emit, StopFilter(stop)
        self.come = self.passed = 0  # characters that have come, and those handed on
        self.waiting: list[
            tuple[int, Token]
        ] = []  # (characters that had come with it, token) of text that was not handed on yet

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self.filter.stopped

    def push(self, text: str, tokens: tuple[Token, ...] = ()) -> None:
        """Takes the next text, and the tokens that make it up."""
        self.come += len(text)
        self.waiting += [(self.come, token) for token in tokens]
        self._pass_on(self.filter.push(text))

    def finish(self) -> None:
        """Hands on what was held back."""
        self._pass_on(self.filter.finish())

    def _pass_on(self, text: str) -> None:
        self.passed += len(text)
        ready = tuple(token for end, token in self.waiting if end <= self.passed)
        self.waiting = self.waiting[len(ready) :]
        if text or ready:
            self.emit(Piece(text, ready))
