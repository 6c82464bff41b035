"""Options that several commands share, the panels of their help, and their shell completion."""

import logging
import math
import shlex
import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ms2hs._version import __version__
from ms2hs.cli.messages import print_log
from ms2hs.cli.recipes import is_from_config, take_files
from ms2hs.remote.providers import DEFAULT_PROVIDER


def panel(title: str) -> Callable[..., Any]:
    """`typer.Option` for options that --help shows in the panel of this title."""
    return partial(typer.Option, rich_help_panel=title)


INPUT, REGION, MODEL, SITE = panel("Input"), panel("Region and bands"), panel("Model"), panel("Site knowledge")
DATA, TRAINING, OUTPUT, BATCH = panel("Data"), panel("Training"), panel("Output"), panel("Batch")
GENERAL = panel("General")


class Precision(StrEnum):
    """Number formats of training; `auto` is bfloat16 where the device computes in it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def complete_camera() -> list[str]:
    """Names of cameras."""
    from ms2hs.spectra.sensors import sensor_names

    return sensor_names("camera")


def complete_source() -> list[str]:
    """Names of source sensors."""
    from ms2hs.spectra.sensors import sensor_names

    return [*sensor_names("source"), *complete_camera()]


def complete_target() -> list[str]:
    """Names of target sensors."""
    from ms2hs.spectra.sensors import sensor_names

    return [*sensor_names("target"), *complete_camera()]


def complete_model() -> list[str]:
    """Names of shipped weights."""
    from ms2hs.models.weights import weights_names

    return weights_names()


def complete_preset() -> list[str]:
    """Names of presets that can be trained."""
    from ms2hs.models.config import PRESETS

    return ["linear", *PRESETS]


def complete_provider() -> list[str]:
    """Names of STAC providers."""
    from ms2hs.remote.providers import PROVIDERS

    return list(PROVIDERS)


def complete_collection(context: typer.Context) -> list[str]:
    """Names of the collections of the chosen STAC provider, or of all."""
    from ms2hs.remote.providers import PROVIDERS

    chosen = PROVIDERS.get(context.params.get("provider") or "")
    return sorted({name for provider in ([chosen] if chosen else PROVIDERS.values()) for name in provider.rules})


def complete_field() -> list[str]:
    """Fields of a preset, each with the sign that its value follows."""
    from ms2hs.models.config import ModelConfig

    return [f"{name}=" for name in ModelConfig.__dataclass_fields__]


def complete_input_error() -> list[str]:
    """Names of input uncertainties."""
    from ms2hs.spectra.product_error import error_table_names

    return ["none", *error_table_names()]


DEVICES, GSDS = ("auto", "cpu", "cuda", "cuda:1", "mps"), ("native", "10", "20", "30", "60")


def given(context: typer.Context, parameter: str) -> bool:
    """Whether the command line or a recipe gives a parameter. A value of `ms2hs.toml` is a default."""
    source = context.get_parameter_source(parameter)
    is_given = source is not None and source.name in {"COMMANDLINE", "DEFAULT_MAP"}
    return is_given and not is_from_config(context, parameter) and context.params[parameter] not in (None, [])


def refuse(context: typer.Context, parameters: Iterable[str], reason: str) -> None:
    """Refuse options that were given and do not apply; an option is never ignored."""
    options = {one.name: one.opts[0] for one in context.command.params}
    if wrong := [options[name] for name in parameters if given(context, name)]:
        raise typer.BadParameter(f"{', '.join(wrong)} does not apply: {reason}. Leave {wrong[0]} out.")


def check_learning_rate(value: float) -> float:
    """Refuse a learning rate that is not above 0."""
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a learning rate; a number above 0 is needed. Write for example 1e-3.")
    return value


Overwrite = Annotated[bool, OUTPUT("--overwrite", help="Replace existing files.", show_default=False)]
Compress = Annotated[
    Literal["zstd", "deflate"] | None,
    OUTPUT(help="Old web readers need deflate.", show_default="zstd"),
]
BlockSize = Annotated[
    int | None,
    OUTPUT(
        metavar="64|128|256",
        help="Block side in pixels; small is fast for spectra.",
        show_default="128",
        autocompletion=lambda: ["64", "128", "256"],
    ),
]
AsJson = Annotated[bool, OUTPUT("--json", help="Print JSON on stdout.", show_default=False)]
Quiet = Annotated[bool, GENERAL("-q", "--quiet", help="No progress bar and no notes.", show_default=False)]
Seed = Annotated[int, DATA(min=0, help="Random seed.")]
Scale = Annotated[float | None, INPUT(help="Reflectance = stored × scale + offset.", show_default="from metadata")]
Offset = Annotated[float | None, INPUT(help="Offset in reflectance, such as -0.1.", show_default="from metadata")]
DnOffset = Annotated[
    float | None, INPUT(help="Added to stored integers instead, such as -1000.", show_default="from metadata")
]

# Knowledge of the site of `convert`.
Reference = Annotated[
    Path | None, SITE(help="Spectra measured in the scene: CSV of id,lon,lat,<nm>,… or an ENVI spectral library.")
]
Site = Annotated[
    list[str] | None,
    SITE(
        metavar="PATH",
        help="Hyperspectral cube of the site, from any date, or a folder of cubes; repeatable. `auto` fetches EMIT "
        "and EnMAP passes.",
        autocompletion=lambda: ["auto"],
    ),
]
SiteDate = Annotated[str | None, SITE(metavar="DATE", help="With auto: period of the passes.", show_default="any")]
SiteLimit = Annotated[int, SITE(min=1, help="With auto: largest number of passes.")]

# The search of `convert` without a scene.
SearchDate = Annotated[str | None, REGION(metavar="DATE", help="Without a scene: day, month or range.")]
SearchProvider = Annotated[
    str | None,
    REGION(help="Without a scene: STAC provider.", show_default=DEFAULT_PROVIDER, autocompletion=complete_provider),
]
SearchMaxCloud = Annotated[
    float | None, REGION(metavar="PERCENT", help="Without a scene: largest cloud cover.", show_default="20")
]

# Data sets: shared by pretrain and prepare.
ImageSource = Annotated[
    str | None,
    DATA(help="Sensor of multispectral images.", show_default="from metadata", autocompletion=complete_source),
]

# Training: shared by pretrain and finetune.
Split = Annotated[str | None, DATA(help="Use only what splits/<split>.csv or .txt lists, such as hard/train.")]
LeaveOut = Annotated[list[str] | None, DATA(metavar="SCENE", help="Scene that is not used at all. Repeatable.")]
Window = Annotated[int | None, TRAINING(min=1, help="Training window size, in pixels.", show_default="the preset's")]
Steps = Annotated[int, TRAINING(min=1, help="Optimizer steps (length of the cosine schedule).")]
BatchSize = Annotated[int, TRAINING("--batch", min=1, help="Windows a step, over all processes.")]
LearningRate = Annotated[float, TRAINING("--lr", callback=check_learning_rate, help="Peak learning rate.")]
TrainingSeed = Annotated[int, TRAINING("--seed", min=0, help="Random seed; equal seeds give equal weights.")]
Workers = Annotated[int, TRAINING(min=0, max=64, help="Loader processes; 0 loads in the training process.")]
CheckpointEvery = Annotated[int, TRAINING(min=1, help="Steps between checkpoints.")]
TrainingPrecision = Annotated[
    Precision, TRAINING("--precision", help="Number format; `auto` is bfloat16 where the device supports it.")
]
Device = Annotated[
    str,
    TRAINING(
        metavar="DEVICE",
        help=f"Device: `auto` (the fastest available), {', '.join(DEVICES[1:])}.",
        autocompletion=lambda: list(DEVICES),
    ),
]
Resume = Annotated[bool, TRAINING("--resume", help="Continue from the checkpoint in <stem>.run/.", show_default=False)]


def print_run_log(context: typer.Context, wanted: bool) -> None:
    """Print the notes that are logged in this run, unless --quiet is given, and its whole log if that is wanted."""
    if not context.resilient_parsing:
        is_quiet = context.params.get("quiet")  # options that are not given follow the others
        print_log(logging.DEBUG if wanted else logging.WARNING if is_quiet else logging.INFO)
        logging.getLogger(__name__).debug("ms2hs %s: %s", __version__, shlex.join(sys.argv[1:]))


_shared = typer.Typer(add_completion=False)


@_shared.command()
def _take_shared(
    *,
    verbose: Annotated[
        bool,
        GENERAL(
            "-v",
            "--verbose",
            callback=print_run_log,
            expose_value=False,
            help="Log requests, files, blocks and decisions on stderr.",
            show_default=False,
        ),
    ] = False,
    recipe: Annotated[
        Path | None,
        GENERAL(
            is_eager=True,
            callback=take_files,
            expose_value=False,
            help="TOML file of options; options on the command line win.",
        ),
    ] = None,
) -> None:
    """Options of every command, which act by their callbacks."""


def shared_options() -> list[Any]:
    """The parameters of every command."""
    return [one for one in typer.main.get_command(_shared).params if one.name != "help"]


def example_epilog(*commands: str) -> str:
    """The epilog of a help text: each command on its own line."""
    return "\n\n".join(["Examples:", *commands])
