"""Options that several commands share, the panels of their help, and their shell completion."""

import math
import tomllib
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ms2hs.errors import DataError
from ms2hs.remote.providers import DEFAULT_PROVIDER


def panel(title: str) -> Callable[..., Any]:
    """`typer.Option` for options that --help shows in the panel of this title."""
    return partial(typer.Option, rich_help_panel=title)


INPUT, REGION, MODEL, SITE = panel("Input"), panel("Region and bands"), panel("Model"), panel("Site knowledge")
DATA, TRAINING, OUTPUT, BATCH = panel("Data"), panel("Training"), panel("Output"), panel("Batch")


class Precision(StrEnum):
    """Number formats of training; `auto` is bfloat16 where the device computes in it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def complete_source() -> list[str]:
    """Names of source sensors."""
    from ms2hs.spectra.sensors import sensor_names

    return sensor_names("source")


def complete_target() -> list[str]:
    """Names of target sensors."""
    from ms2hs.spectra.sensors import sensor_names

    return sensor_names("target")


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


def take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Use the values of a recipe for options that the command line does not give."""
    if path is None:
        return None
    known = {option.lstrip("-"): one.name for one in context.command.params for option in one.opts if len(option) > 2}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); a TOML file of options is needed. Check the path."
        ) from error
    if unknown := sorted(set(values) - set(known)):
        raise DataError(
            f"{path}: no option {unknown[0]!r}; {context.info_name} has {', '.join(sorted(known))}. Correct the recipe."
        )
    values = {known[name]: value for name, value in values.items()}
    context.default_map = {**(context.default_map or {}), **values}
    return path


def given(context: typer.Context, parameter: str) -> bool:
    """Whether the command line or a recipe gives a parameter."""
    source = context.get_parameter_source(parameter)
    is_given = source is not None and source.name in {"COMMANDLINE", "DEFAULT_MAP"}
    return is_given and context.params[parameter] not in (None, [])


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
AsJson = Annotated[bool, OUTPUT("--json", help="Print JSON on stdout.", show_default=False)]
Quiet = Annotated[bool, OUTPUT("-q", "--quiet", help="No progress bar and no notes.", show_default=False)]
Seed = Annotated[int, DATA(min=0, help="Random seed.")]
Scale = Annotated[float | None, INPUT(help="Reflectance = stored × scale + offset.", show_default="from metadata")]
Offset = Annotated[float | None, INPUT(help="Offset in reflectance, such as -0.1.", show_default="from metadata")]
DnOffset = Annotated[
    float | None, INPUT(help="Added to stored integers instead, such as -1000.", show_default="from metadata")
]

# The search of `convert` without a scene.
SearchDate = Annotated[str | None, REGION(metavar="DATE", help="Without a scene: day, month or range.")]
SearchProvider = Annotated[
    str | None,
    REGION(help="Without a scene: STAC provider.", show_default=DEFAULT_PROVIDER, autocompletion=complete_provider),
]
SearchMaxCloud = Annotated[
    float | None, REGION(metavar="PERCENT", help="Without a scene: largest cloud cover.", show_default="20")
]

# Training: shared by pretrain and finetune.
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
    str, TRAINING(metavar="DEVICE", help="Device: `auto` (the fastest available), cpu, cuda, cuda:1, mps.")
]
Resume = Annotated[bool, TRAINING("--resume", help="Continue from the checkpoint in <stem>.run/.", show_default=False)]
Recipe = Annotated[
    Path | None,
    TRAINING(is_eager=True, callback=take_recipe, help="TOML file of options; options on the command line win."),
]


def example_epilog(*commands: str) -> str:
    """The epilog of a help text: each command on its own line."""
    return "\n\n".join(["Examples:", *commands])
