"""The process of the command line: streams that can always be written to, and signals that end the work in order.

Imports the standard library only, so that an interrupt during all other imports is caught too. Ctrl-C, SIGTERM and
SIGHUP raise KeyboardInterrupt in the main thread: every `with` block removes its temporary files. A stderr that is
closed or full loses messages and stops no work; a stdout that is full is reported at the end.
"""

import errno
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

# Signals that follow within this time are ignored: terminals and process managers often send several together.
REPEATED_S = 5.0
# An interrupt that arrives in a callback, as of an import, is lost; it is repeated after this time.
REPEAT_S = 0.05
INTERRUPTED = 130
_received: list[tuple[int, float]] = []
"""Signals with their times."""

# What a repeated run does, by command, and the option that it needs.
CONTINUATIONS = {
    "convert": ("To keep the finished rows if it is stopped again, run:", "--resume"),
    "convert --resume": ("To continue after the finished rows, run:", "--resume"),
    "fetch": ("To keep complete scenes and fetch the others, run:", ""),
}
AFTER_CHECKPOINT = "To continue from the checkpoint, run:"
# Longest command in a message.
MAX_COMMAND = 400


def run_process(start: Callable[[], None]) -> None:
    """Call `start` and end the process with its exit code: 130 and a message after a signal.

    Raises
    ------
    SystemExit : always.
    """
    _open_missing_streams()
    out, err = _Stream(sys.stdout), _Stream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    sys.excepthook, sys.unraisablehook = _print_uncaught, _print_unraisable
    _catch_signals()
    code: Any = 0
    try:
        start()
    except SystemExit as end:
        code = end.code
    except BaseException:  # an interrupted import may raise any error
        if not was_stopped():
            raise
        code = INTERRUPTED
    if code and was_stopped():
        code = INTERRUPTED
        print(f"ms2hs: {stop_message(sys.argv[1:])}", file=err)
    for stream in (out, err):
        stream.flush()
    if out.error and out.error.errno != errno.EPIPE:  # a reader that has read enough is no failure
        code = code or 1
        print(
            f"ms2hs: stdout could not be written ({out.error.strerror}); what was printed is incomplete, files are "
            "complete. Redirect stdout to a disk with free space.",
            file=err,
        )
    if was_stopped():
        os._exit(code if isinstance(code, int) else 1)  # what half-started libraries do at the end may fail
    raise SystemExit(code)


def was_stopped() -> bool:
    """Whether a signal has stopped the process."""
    return bool(_received)


def stop_message(words: Sequence[str]) -> str:
    """What was stopped, what is left, and how to continue; `words` follow the name of the program."""
    name = "Ctrl-C" if _received[0][0] == signal.SIGINT else signal.Signals(_received[0][0]).name
    key = " ".join([*words[:1], *(["--resume"] if "--resume" in words else [])])
    aim, option = CONTINUATIONS.get(key, CONTINUATIONS.get(words[0] if words else "", ("To start again, run:", "")))
    return (
        f"stopped by {name}; complete files are kept, no incomplete file has a final name. {aim} "
        f"{command_again(words, option)}"
    )


def command_again(words: Sequence[str], option: str = "") -> str:
    """The command with an option, to be typed again; only described if it is long, or has an address with secrets."""
    added = [option] if option and option not in words else []
    command = shlex.join(["ms2hs", *words[:1], *added, *words[1:]])
    if len(command) > MAX_COMMAND or any("://" in word for word in words):
        return f"the same command{' with ' * bool(added)}{option if added else ''}"
    return command


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that ends the program, but none of rasterio about a message of GDAL that is not UTF-8."""
    if kind is not UnicodeDecodeError or trace is None or "rasterio" not in trace.tb_frame.f_code.co_filename:
        sys.__excepthook__(kind, error, trace)


def _print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an error in a callback, which Python ignores, but none of rasterio; an interrupt is repeated soon after."""
    if unraisable.exc_type is KeyboardInterrupt and _received:
        number, _ = _received.pop()
        threading.Timer(REPEAT_S, os.kill, (os.getpid(), number)).start()
    elif "rasterio" not in str(unraisable.object):
        sys.__unraisablehook__(unraisable)


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append((number, time.monotonic()))
    since_s = _received[-1][1] - _received[0][1]
    if len(_received) == 1 or since_s > REPEATED_S:
        raise KeyboardInterrupt


def _catch_signals() -> None:
    """Handle the signals that this process has not been started to ignore."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, _stop)


def _open_missing_streams() -> None:
    """Open closed standard streams: the next file would otherwise get the number of stderr and GDAL's messages."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  open until the end


class _Stream:
    """A text stream that never raises: unknown characters are escaped, and the first error is kept in `error`."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401  a TextIO
        self._stream = stream
        self.error: OSError | None = None
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  any attribute of the stream
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text unless a write has failed."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush unless a write has failed."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.error:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            with suppress(OSError):  # Python flushes the stream once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
