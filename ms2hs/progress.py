"""A progress bar on stderr, with rate and remaining time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done and what there is to do, in rows; 0 to do means that nobody knows."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Rows a second, once there is a speed."""
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Progress | None]:
    """What to call with progress; None, and no bar, where stderr is no terminal."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total or None)
            bar.update(tasks[stage], completed=done, total=total or None)

        yield show
