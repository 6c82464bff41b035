"""Ctrl-C and SIGTERM as a request to stop after the current step, so that a checkpoint can be written first."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# A second signal stops at once only after this time, since launchers and terminals often send two together.
SECOND_SIGNAL_S = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Time that a loading process has to finish its batch after SIGTERM.
FINISH_S = 20.0


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that returns whether a signal has requested a stop.

    A second signal, `SECOND_SIGNAL_S` later, raises KeyboardInterrupt at once. Only the main thread can catch signals;
    in other threads the function always returns False.
    """
    received_s: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def receive(_number: int, _frame: FrameType | None) -> None:
        received_s.append(time.monotonic())
        if received_s[-1] - received_s[0] > SECOND_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield lambda: bool(received_s)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """Ignore Ctrl-C in a loading process: the terminal sends it there too, and the batch is still needed.

    SIGTERM, which a parent also sends when it ends, ends the process after `FINISH_S`, so that the batch is finished.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(_number: int, _frame: FrameType | None) -> None:
    timer = threading.Timer(FINISH_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
