"""How a run tells what it is doing: silent by default, bars in a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """What a run calls; does nothing. Subclasses show it, or stop the run by an exception."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, stage: str, total: float) -> None:
        """Begin a stage, of which ``total`` will be done at its end."""

    def update(self, done: float, **numbers: float) -> None:
        """Tell how much of the stage is done, and numbers worth seeing, such as ``force_rmse_meV_per_A``."""

    def finish(self) -> None:
        """End the stage."""

    def note(self, message: str) -> None:
        """Say a sentence that stays to be read."""


class RichReporter(Reporter):
    """Bars through rich, one a stage.

    Parameters
    ----------
    console
        Where to; None is the standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self.task: TaskID | None = None
        self.total = 1.0
        self.numbers: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, stage: str, total: float) -> None:
        """Show a new bar."""
        self.total, self.numbers = total, {}
        self.task = self.bars.add_task(stage, total=total, numbers="")

    def update(self, done: float, **numbers: float) -> None:
        """Move the bar; numbers stay beside it until they are told again."""
        if self.task is None:
            return
        self.numbers.update(numbers)
        text = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.numbers.items())
        self.bars.update(self.task, completed=min(done, self.total), numbers=text)

    def finish(self) -> None:
        """Fill the bar."""
        if self.task is not None:
            self.bars.update(self.task, completed=self.total)
        self.task = None

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(message, highlight=False)
