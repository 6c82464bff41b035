"""The application: commands by name, and errors as one clear message."""

import errno
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ms2hs._version import __version__
from ms2hs.cli.commands import (
    convert_commands,
    data_commands,
    evaluate_commands,
    export_commands,
    fetch_commands,
    finetune_commands,
    info_commands,
    map_commands,
    probe_commands,
    spectrum_commands,
    training_commands,
    view_commands,
)
from ms2hs.cli.messages import print_error
from ms2hs.cli.options import shared_options
from ms2hs.cli.parsers import join_numbers, name_evaluation
from ms2hs.cli.process import AFTER_CHECKPOINT, command_again, was_stopped
from ms2hs.errors import Interrupted, Ms2hsError

PACKAGE = str(Path(__file__).parents[1])
MAX_ERROR_LETTERS = 400


class CommandGroup(TyperGroup):
    """The commands. Errors of the system become messages here: Typer would call some of them `Aborted`."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  as Typer calls it
        super().__init__(**settings)
        _add_parameters(self, shared_options())

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  as Typer calls it
        """Run the command that was given."""
        _check_words(sys.argv[1:])
        try:
            return super().invoke(ctx)
        except (EOFError, OSError) as error:
            raise unexpected(error) from error


app = typer.Typer(
    name="ms2hs",
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("convert", epilog=convert_commands.EPILOG)(convert_commands.convert_command)
app.command("fetch", epilog=fetch_commands.EPILOG)(fetch_commands.fetch_command)
app.command("info")(info_commands.info_command)
app.command("example")(info_commands.example_command)
app.command("demo")(info_commands.demo_command)
app.command("index", epilog=spectrum_commands.INDEX_EPILOG)(spectrum_commands.index_command)
app.command("spectrum", epilog=spectrum_commands.SPECTRUM_EPILOG)(spectrum_commands.spectrum_command)
app.command("view", epilog=view_commands.EPILOG)(view_commands.view_command)
app.command("export", epilog=export_commands.EPILOG)(export_commands.export_command)
app.command("probe", epilog=probe_commands.PROBE_EPILOG)(probe_commands.probe_command)
app.command("prepare", epilog=data_commands.PREPARE_EPILOG)(data_commands.prepare_command)
app.command("pairs", epilog=data_commands.PAIRS_EPILOG)(data_commands.pairs_command)
app.command("pretrain", epilog=training_commands.PRETRAIN_EPILOG)(training_commands.pretrain_command)
app.command("finetune", epilog=finetune_commands.FINETUNE_EPILOG)(finetune_commands.finetune_command)
app.command("map", epilog=map_commands.EPILOG)(map_commands.map_command)
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


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 usage, 3 nothing found, 4 credentials, 5 partly done, 130 interrupted.
    """
    warnings.simplefilter("ignore", RuntimeWarning)  # of numpy about NaN and overflow: results say what is invalid
    sys.argv[1:] = name_evaluation(join_numbers(sys.argv[1:]))
    try:
        app()
    except Exception as error:
        if was_stopped():
            raise KeyboardInterrupt from error
        if os.environ.get("MS2HS_TRACEBACK"):
            traceback.print_exception(error)
        known = error if isinstance(error, Ms2hsError) else unexpected(error)
        if isinstance(known, Interrupted):
            option = "" if "--cross-fit" in sys.argv else "--resume"
            known = Interrupted(f"{known} {AFTER_CHECKPOINT} {command_again(sys.argv[1:], option)}")
        print_error(known)
        raise SystemExit(known.exit_code) from None


def _add_parameters(group: TyperGroup, parameters: list[Any]) -> None:
    """Give every command of a group these parameters."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            _add_parameters(command, parameters)
        else:
            command.params += parameters


def _check_words(words: list[str]) -> None:
    """Refuse names that GDAL and the tags of a file cannot hold."""
    for word in words:
        if not word.isascii() and any("\udc80" <= letter <= "\udcff" for letter in word):
            raise typer.BadParameter(
                f"{word!a} is not UTF-8; names of files in UTF-8 are allowed. Rename the file, or use PYTHONUTF8=1 if "
                "it is UTF-8."
            )


def unexpected(error: Exception) -> Ms2hsError:
    """The message for an error of the operating system, or for a defect of ms2hs."""
    text = " ".join(str(error).split())[:MAX_ERROR_LETTERS]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        limit = " (a name has at most 255 bytes)" if error.errno == errno.ENAMETOOLONG else ""
        name = ascii(str(error.filename))[1 : MAX_ERROR_LETTERS + 1]
        return Ms2hsError(
            f"{name}: {error.strerror}{limit}; an accessible file or folder is needed. Check its name and permissions."
        )
    if isinstance(error, MemoryError):
        return Ms2hsError(f"not enough memory ({text}); a smaller input needs less. Use a part of the input.")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
    at = f" at {Path(frames[-1].filename).relative_to(PACKAGE)}:{frames[-1].lineno}" if frames else ""
    return Ms2hsError(
        f"{type(error).__name__}{at}: {text}; this error is not expected. Check the input files, and report it with "
        "the output of MS2HS_TRACEBACK=1."
    )
