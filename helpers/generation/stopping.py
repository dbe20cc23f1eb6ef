"""Ends an answer at a stop string. Text that may be the beginning of one is held back until it is clear."""

from collections.abc import Callable

from helpers.generation.request import Piece, Token


class StopFilter:
    """Passes text on up to the first stop string.

    With the stop string "###END", the pieces "a ##", "# b" and " #" come out as "a ", "### b" and " ": the
    "##" and the last "#" were held back, since "###END" begins like that. `finish` returns the "#".
    """

    def __init__(self, stop: list[str]):
        self.stop = [text for text in stop if text]
        self.held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is safe to pass on after this piece."""
        if self.stopped:
            return ""
        self.held += piece
        found = [place for place in map(self.held.find, self.stop) if place >= 0]
        if found:
            self.stopped = True
            safe = min(found)
        else:
            safe = len(self.held) - self._count_begun()
        passed, self.held = self.held[:safe], self.held[safe:]
        return passed

    def _count_begun(self) -> int:
        """How many characters at the end of the held text are the beginning of a stop string."""
        longest = 0
        for text in self.stop:
            for size in range(1, min(len(text), len(self.held) + 1)):
                if self.held.endswith(text[:size]):
                    longest = max(longest, size)
        return longest

    def finish(self) -> str:
        """The text that is still held back and did not become a stop string."""
        return "" if self.stopped else self.held


class StopGate:
    """Passes an answer to `emit` in pieces, up to the first stop string.

    Each piece carries the tokens whose text ends in it, so a token of a held-back text waits with it.
    """

    def __init__(self, stop: list[str], emit: Callable[[Piece], None]):
        self.emit = emit
        self.filter = StopFilter(stop)
        self.received = 0  # characters that came in
        self.passed = 0  # characters that went out
        # (characters received with it, token) of text that is not yet passed on
        self.waiting: list[tuple[int, Token]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self.filter.stopped

    def push(self, text: str, tokens: tuple[Token, ...] = ()) -> None:
        """Takes the next text and the tokens that it consists of."""
        self.received += len(text)
        self.waiting += [(self.received, token) for token in tokens]
        self._pass_on(self.filter.push(text))

    def finish(self) -> None:
        """Passes on what was held back."""
        self._pass_on(self.filter.finish())

    def _pass_on(self, text: str) -> None:
        self.passed += len(text)
        ready = tuple(token for end, token in self.waiting if end <= self.passed)
        self.waiting = self.waiting[len(ready) :]
        if text or ready:
            self.emit(Piece(text, ready))
