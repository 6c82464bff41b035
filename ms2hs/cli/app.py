"""The application: commands by name, and errors as one clear message."""

import sys
import warnings
from types import TracebackType
from typing import Annotated

import typer

from ms2hs._version import __version__
from ms2hs.cli import (
    convert_commands,
    data_commands,
    evaluate_commands,
    fetch_commands,
    info_commands,
    training_commands,
)
from ms2hs.cli.messages import print_error
from ms2hs.cli.parsers import join_numbers, name_evaluation
from ms2hs.errors import Ms2hsError

# Warnings of numpy about NaN, overflow and empty means: results say which pixels are invalid.
QUIET_WARNINGS = (RuntimeWarning,)

app = typer.Typer(
    name="ms2hs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("convert", epilog=convert_commands.EPILOG)(convert_commands.convert_command)
app.command("fetch", epilog=fetch_commands.EPILOG)(fetch_commands.fetch_command)
app.command("info")(info_commands.info_command)
app.command("example")(info_commands.example_command)
app.command("prepare", epilog=data_commands.PREPARE_EPILOG)(data_commands.prepare_command)
app.command("pairs", epilog=data_commands.PAIRS_EPILOG)(data_commands.pairs_command)
app.command("pretrain", epilog=training_commands.PRETRAIN_EPILOG)(training_commands.pretrain_command)
app.command("finetune", epilog=training_commands.FINETUNE_EPILOG)(training_commands.finetune_command)
app.add_typer(evaluate_commands.app, name="evaluate")


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"ms2hs {__version__}")
        raise typer.Exit


@app.callback()
def start(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    """Multispectral scenes in, hyperspectral scenes out."""
    del version  # its callback has printed it


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that ends the program, but none of rasterio about a message of GDAL that is not UTF-8."""
    if kind is not UnicodeDecodeError or trace is None or "rasterio" not in trace.tb_frame.f_code.co_filename:
        sys.__excepthook__(kind, error, trace)


def print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """The same for errors that Python cannot raise."""
    if "rasterio" not in str(unraisable.object):
        sys.__unraisablehook__(unraisable)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 usage, 3 nothing found, 4 credentials, 5 partly done, 130 interrupted (from Typer).
    """
    sys.excepthook, sys.unraisablehook = print_uncaught, print_unraisable
    for category in QUIET_WARNINGS:
        warnings.simplefilter("ignore", category)
    sys.argv[1:] = name_evaluation(join_numbers(sys.argv[1:]))
    try:
        app()
    except Ms2hsError as error:
        print_error(error)
        raise SystemExit(error.exit_code) from None
