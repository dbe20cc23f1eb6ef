"""Progress of long work: a bar that is drawn, or a function that is called and can stop the work."""

from collections.abc import Callable
from typing import Self

from tqdm.auto import tqdm

# Called with a description and the share that is done (0 to 1). An exception that it raises ends the work.
Report = Callable[[str, float], None]


class Bar:
    """Counts work that is done. `progress` is True (tqdm draws a bar), False (silent) or a Report."""

    def __init__(self, progress: bool | Report, total: int, what: str, unit: str):
        self.total, self.what, self.unit, self.n = total, what, unit, 0
        self.report = progress if callable(progress) else None
        hidden = progress is not True
        self.drawn = tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", disable=hidden)

    def update(self, count: int = 1) -> None:
        """Adds `count` to what is done."""
        self.n += count
        self.drawn.update(count)
        if self.report:
            self.report(f"{self.what}: {self._describe_state()}", self.n / max(self.total, 1))

    def rename(self, what: str) -> None:
        """Changes the description, for the next part of the work."""
        self.what = what
        self.drawn.set_description(what)

    def _describe_state(self) -> str:
        if self.unit == "B":
            return f"{self.n / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        return f"{self.n} of {self.total} {self.unit}s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.drawn.close()
