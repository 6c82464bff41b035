"""Ctrl-C and SIGTERM as a request to stop at the next good place, so that what was learnt can be saved first."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A second signal counts as impatience only after this time: launchers and terminals often send two at once.
PATIENCE_S = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A process that loads data and is told to end is still there so long.
STEP_S = 20.0


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that tells whether to stop; a second signal, a while later, stops at once, with KeyboardInterrupt.

    In a thread other than the main one signals cannot be caught: there it never asks to stop.
    """
    asked: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > PATIENCE_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent(_worker: int) -> None:
    """In a process that loads data: the terminal sends Ctrl-C to it too, and its step is still wanted.

    SIGTERM ends it after a while, in which the step is done: a parent that ends sends it too, and waits for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(_number: int, _frame: FrameType | None) -> None:
    timer = threading.Timer(STEP_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
