"""Progress of long work: a bar that is drawn, or a function that is told and can stop the work."""

from collections.abc import Callable

from tqdm.auto import tqdm

Report = Callable[
    [str, float], None
]  # takes words and the share that is done, 0 to 1; what it raises ends the work


class Bar:
    """Counts work that is done. `progress` is True (tqdm draws a bar), False (silent) or a Report. For a `with` block."""

    def __init__(self, progress: bool | Report, total: int, what: str, unit: str):
        self.total, self.what, self.unit, self.n = total, what, unit, 0
        self.report = progress if callable(progress) else None
        self.drawn = tqdm(
            total=total, desc=what, unit=unit, unit_scale=unit == "B", disable=progress is not True
        )

    def update(self, count: int = 1) -> None:
        """`count` more are done."""
        self.n += count
        self.drawn.update(count)
        if self.report:
            done, total = (
                f"{number / 1e6:.0f}" if self.unit == "B" else str(number) for number in (self.n, self.total)
            )
            self.report(
                f"{self.what}: {done} of {total} {'MB' if self.unit == 'B' else self.unit + 's'}",
                self.n / max(self.total, 1),
            )

    def rename(self, what: str) -> None:
        """What is done from now on."""
        self.what = what
        self.drawn.set_description(what)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.drawn.close()
