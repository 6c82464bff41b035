"""Lines on stderr, each with its kind in front: note, warning, failed, left out, log; and errors.

Messages may hold text of others: ids, tags, names of files, answers of servers. All of them pass `presentable`.
"""

import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

import typer

from ms2hs.errors import Ms2hsError, visible
from ms2hs.remote.url_policy import without_secrets

# Longest message: lines, and characters of a line.
MAX_LINES, MAX_LINE = 12, 700


def presentable(text: str) -> str:
    """A message without control characters and secrets, of bounded length; all lines but the first are indented."""
    lines = [_shortened(visible(without_secrets(line))) for line in text.splitlines()] or [""]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"… and {len(lines) - MAX_LINES + 1} more lines"]
    return "\n  ".join([lines[0], *map(str.strip, lines[1:])])


def _shortened(line: str) -> str:
    """The beginning and the end of a long line: what is wrong, and what to do."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} … {line[-MAX_LINE // 2 :]}"


def note(text: str) -> None:
    """Print a note; a text that begins with `warning: ` is a warning."""
    if text.startswith("warning: "):
        warn(text.removeprefix("warning: "))
    else:
        _print("note", text)


def warn(text: str) -> None:
    """Print a warning."""
    _print("warning", text, fg="yellow")


def print_failed(lines: Iterable[str]) -> None:
    """Print what failed, a line each."""
    for line in lines:
        _print("failed", line, fg="red")


def print_left_out(lines: Iterable[str]) -> None:
    """Print what was left out and why, a line each."""
    for line in lines:
        _print("left out", line)


def print_error(error: Ms2hsError) -> None:
    """Print the message of an error."""
    _print("ms2hs", str(error), fg="red")


def _print(kind: str, text: str, **style: Any) -> None:  # noqa: ANN401 - of `typer.style`
    """Print a line on stderr, with colour only on a terminal that has it (https://no-color.org)."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    # Typer's own stream would write into a progress bar, which replaces `sys.stderr` while it is drawn.
    typer.secho(f"{kind}: {presentable(text)}", file=sys.stderr, color=False if is_plain else None, **style)


class _LogLines(logging.Handler):
    """Prints what the package logs: waits for a server and other news as notes, details as lines `log: `."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; details with the seconds since the start, and the name of the logger."""
        if record.levelno >= logging.INFO:
            if os.environ.get("RANK", "0") == "0":  # the first process of torchrun
                note(record.getMessage())
        else:
            _print("log", f"{record.relativeCreated / 1000:.2f} s {record.name}: {record.getMessage()}", dim=True)


def print_log(level: int = logging.INFO) -> None:
    """Print what the package logs from now on: INFO as notes, also DEBUG as details."""
    logger = logging.getLogger("ms2hs")
    if not any(isinstance(handler, _LogLines) for handler in logger.handlers):
        logger.addHandler(_LogLines())
    logger.setLevel(level)
