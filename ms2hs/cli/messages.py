"""Lines on stderr, each with its kind in front: note, warning, failed, left out."""

from collections.abc import Iterable

import typer


def note(text: str) -> None:
    """Print a note; a text that begins with `warning: ` is a warning."""
    if text.startswith("warning: "):
        warn(text.removeprefix("warning: "))
    else:
        typer.echo(f"note: {text}", err=True)


def warn(text: str) -> None:
    """Print a warning."""
    typer.secho(f"warning: {text}", err=True, fg="yellow")


def print_failed(lines: Iterable[str]) -> None:
    """Print what failed, a line each."""
    for line in lines:
        typer.secho(f"failed: {line}", err=True, fg="red")


def print_left_out(lines: Iterable[str]) -> None:
    """Print what was left out and why, a line each."""
    for line in lines:
        typer.echo(f"left out: {line}", err=True)
