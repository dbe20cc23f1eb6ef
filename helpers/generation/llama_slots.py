"""Which of llama.cpp's slots computes an answer: one that holds the begin of its prompt, of the same LoRA.

A slot keeps the tokens that it has computed, and llama.cpp reuses those that the next prompt begins with. It
does so even where another LoRA has computed them, which would be wrong: so whose they are is kept here.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from helpers.generation.prompts import count_shared

UNKNOWN = object()  # whose tokens a slot holds after an error, or when it is new


@dataclass(eq=False)
class Slot:
    """One of llama.cpp's slots."""

    number: int
    adapter: object = UNKNOWN  # the LoRA that computed its tokens; None is the base
    prompt: Sequence[int] = field(default=(), repr=False)

    def count_reusable(self, adapter: str | None, prompt: Sequence[int]) -> int:
        """How many tokens of this prompt it holds for this LoRA."""
        return count_shared(prompt, self.prompt) if self.adapter == adapter else 0


class SlotPool:
    """The slots that are free. The caller never takes more than there are."""

    def __init__(self, count: int):
        self._free = [Slot(number) for number in range(count)]  # the first one has been free longest
        self._lock = threading.Lock()
        self._questions = 0  # how often `ask` began or ended

    @contextlib.contextmanager
    def take(self, adapter: str | None, prompt: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(number of a slot, tokens of the prompt that it holds) for an answer, which the block computes."""
        with self._lock:
            slot = self._choose(adapter, prompt)
            self._free.remove(slot)
            questions = self._questions
        held, slot.adapter = slot.count_reusable(adapter, prompt), UNKNOWN
        whole = False
        try:
            yield slot.number, held
            whole = True
        finally:
            with self._lock:
                if whole and questions == self._questions:
                    slot.adapter, slot.prompt = adapter, prompt
                self._free.append(slot)

    @contextlib.contextmanager
    def ask(self) -> Iterator[None]:
        """For a question of the block, which llama.cpp computes in any slot that is free, or becomes so.

        Which one that was is not known, so nothing that a slot holds is reused afterwards. Such questions are
        rare, and a slot of their own would take the memory of a whole conversation.
        """
        self._forget()
        try:
            yield
        finally:
            self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._questions += 1
            for slot in self._free:
                slot.adapter = UNKNOWN

    def _choose(self, adapter: str | None, prompt: Sequence[int]) -> Slot:
        """The slot that this prompt continues, or else one of those that have been free longest.

        Otherwise every new conversation, which shares the begin of its chat template with all others, would
        take the place of one that goes on.
        """
        counts = {slot.number: slot.count_reusable(adapter, prompt) for slot in self._free}
        continued = [slot for slot in self._free if counts[slot.number] > len(slot.prompt) / 2]
        oldest = self._free[: (len(self._free) + 1) // 2]
        return max(continued or oldest, key=lambda slot: counts[slot.number])
