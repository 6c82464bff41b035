"""Lines on stderr, each with its kind in front: note, warning, failed, left out; and errors.

Messages may hold text of others: ids, tags, names of files, answers of servers. All of them pass `presentable`.
"""

import logging
from collections.abc import Iterable

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
        typer.echo(f"note: {presentable(text)}", err=True)


def warn(text: str) -> None:
    """Print a warning."""
    typer.secho(f"warning: {presentable(text)}", err=True, fg="yellow")


def print_failed(lines: Iterable[str]) -> None:
    """Print what failed, a line each."""
    for line in lines:
        typer.secho(f"failed: {presentable(line)}", err=True, fg="red")


def print_left_out(lines: Iterable[str]) -> None:
    """Print what was left out and why, a line each."""
    for line in lines:
        typer.echo(f"left out: {presentable(line)}", err=True)


def print_error(error: Ms2hsError) -> None:
    """Print the message of an error."""
    typer.secho(f"ms2hs: {presentable(str(error))}", fg="red", err=True)


class _WaitNotes(logging.Handler):
    """Prints what the package logs, such as waits for a server, as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        note(record.getMessage())


def print_waits() -> None:
    """Print notes about waits for servers from now on."""
    logger = logging.getLogger("ms2hs")
    if not any(isinstance(handler, _WaitNotes) for handler in logger.handlers):
        logger.addHandler(_WaitNotes())
        logger.setLevel(logging.INFO)
