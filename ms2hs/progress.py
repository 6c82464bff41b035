"""Progress callbacks, and progress bars on stderr with units, rate and remaining time."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

Progress = Callable[[str, int, int], None]
"""Called with the stage, and the completed and total number of its units, such as rows; a total of 0 is unknown."""
FitProgress = Callable[[int, int, float], None]
"""Called after every training step with the completed and total number of steps, and the loss."""


# Seconds over which rate and remaining time are estimated: steps may be minutes apart.
RATE_PERIOD_S = 1800.0


# Stages whose numbers are bytes, by their first word; the numbers of other stages have the unit of their bar.
BYTE_STAGES = {"fetch", "upload"}


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Completed and total number with their unit: `1,200/3,660 rows`, `1.5/20.0 MB`."""
        if task.fields["unit"] == "bytes":
            total = "?" if task.total is None else f"{task.total / 1e6:,.1f}"
            return Text(f"{task.completed / 1e6:,.1f}/{total} MB")
        total = "?" if task.total is None else f"{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}/{total} {task.fields['unit']}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Units per second; empty before the first update."""
        if not task.speed:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{task.speed / 1e6:,.1f} MB/s")
        return Text(f"{task.speed:,.{0 if task.speed > 10 else 2}f} {task.fields['unit']}/s")


@contextmanager
def progress_bar(*, shown: bool, unit: str = "rows") -> Iterator[Progress | None]:
    """Yield a callback that updates a progress bar; None, without a bar, if stderr is not a terminal that moves lines.

    Parameters
    ----------
    unit : of the numbers that the callback gets, except in BYTE_STAGES; bytes are shown as MB.
    """
    if not (shown and _can_draw()):
        yield None
        return
    with _bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                own = "bytes" if stage.partition(" ")[0] in BYTE_STAGES else unit
                tasks[stage] = bar.add_task(stage, total=total or None, unit=own)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield show


@contextmanager
def fit_bar(*, shown: bool) -> Iterator[FitProgress | None]:
    """Yield a callback for a training run; None, without a bar, if stderr is not a terminal that moves lines."""
    if not (shown and _can_draw()):
        yield None
        return
    with _bar() as bar:
        task = bar.add_task("training", total=None, unit="steps")

        def show(done: int, total: int, loss: float) -> None:
            bar.update(task, completed=done, total=total, description=f"loss {loss:.3e}")

        yield show


def _can_draw() -> bool:
    return bool(sys.stderr and sys.stderr.isatty()) and os.environ.get("TERM") != "dumb"


def _bar() -> Bar:
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), _Count(), _Rate(), TimeRemainingColumn(),
    )  # fmt: skip
    return Bar(*columns, console=Console(stderr=True), speed_estimate_period=RATE_PERIOD_S)
