"""Progress callbacks, and progress bars on stderr with rate and remaining time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

Progress = Callable[[str, int, int], None]
"""Called with the stage, and the completed and total number of its units, such as rows; a total of 0 is unknown."""
FitProgress = Callable[[int, int, float], None]
"""Called after every training step with the completed and total number of steps, and the loss."""


# Seconds over which rate and remaining time are estimated: steps may be minutes apart.
RATE_PERIOD_S = 1800.0


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Units per second; empty before the first update."""
        return Text(f"{task.speed:,.{0 if task.speed > 10 else 2}f} {self.unit}/s" if task.speed else "")


@contextmanager
def progress_bar(*, shown: bool, unit: str = "rows") -> Iterator[Progress | None]:
    """Yield a callback that updates a progress bar; None, without a bar, if stderr is not a terminal.

    Parameters
    ----------
    unit : of the numbers that the callback gets; `bytes` are shown as MB.
    """
    if not shown or not sys.stderr or not sys.stderr.isatty():
        yield None
        return
    with _bar(unit) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield show


@contextmanager
def fit_bar(*, shown: bool) -> Iterator[FitProgress | None]:
    """Yield a callback for a training run; None, without a bar, if stderr is not a terminal."""
    if not shown or not sys.stderr or not sys.stderr.isatty():
        yield None
        return
    with _bar("steps") as bar:
        task = bar.add_task("training", total=None)

        def show(done: int, total: int, loss: float) -> None:
            bar.update(task, completed=done, total=total, description=f"loss {loss:.3e}")

        yield show


def _bar(unit: str) -> Bar:
    numbers = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), _Rate(unit))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *numbers, TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), speed_estimate_period=RATE_PERIOD_S)
