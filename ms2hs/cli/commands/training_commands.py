"""`ms2hs pretrain` and `ms2hs finetune`: weights of the user's own."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ms2hs.cli.messages import note
from ms2hs.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    TRAINING,
    BatchSize,
    CheckpointEvery,
    Device,
    ImageSource,
    LearningRate,
    LeaveOut,
    Overwrite,
    Precision,
    Quiet,
    Resume,
    Split,
    Steps,
    TrainingPrecision,
    TrainingSeed,
    Window,
    Workers,
    complete_field,
    complete_model,
    complete_preset,
    complete_source,
    complete_target,
    example_epilog,
    given,
    refuse,
)
from ms2hs.cli.parsers import parse_fields
from ms2hs.cli.recipes import option_files, stages_of

if TYPE_CHECKING:
    from ms2hs.training.pretraining import PretrainOptions

PRETRAIN_EPILOG = example_epilog(
    "ms2hs pretrain --preset spectral --data shards/ -o mine.safetensors",
    "ms2hs pretrain --preset s2mae --data eurosat/ --source sentinel2a -o first.safetensors",
    "torchrun --nproc-per-node 4 -m ms2hs.cli pretrain --preset spatial-spectral --data shards/ --batch 64",
)
FINETUNE_EPILOG = example_epilog(
    "ms2hs finetune --pairs pairs/ --init spatial-spectral -o tuned.safetensors",
    "ms2hs finetune --corpus cubes/ --source hls_s30 --init spectral",
    "ms2hs finetune --pairs pairs/ --init spectral --train decoder --hold-out scene1",
)
# What gradient descent needs, and what a model in closed form has no use for.
GRADIENT_OPTIONS = (
    *("steps", "batch", "lr", "workers", "checkpoint_every", "precision", "device", "resume", "window"),
)
PRETRAIN_NETWORK_OPTIONS = (
    *GRADIENT_OPTIONS,
    *(
        "seed",
        "source",
        "split",
        "simulated",
        "init",
        "prior",
        "change",
        "picture_every",
        "cross_fit",
        "folds",
        "compiled",
    ),
)
# Parameters of a [[stage]] that are fields of `PretrainOptions` and of its `FitSettings`.
STAGE_FIELDS = ("source", "split", "simulated", "window")
STAGE_FIT_FIELDS = ("steps", "batch", "lr", "seed", "workers", "checkpoint_every", "picture_every")


class Part(StrEnum):
    """Parts of a network that are trained."""

    all = "all"
    decoder = "decoder"
    head = "head"
    none = "none"


def pretrain_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    preset: Annotated[
        str,
        MODEL(
            "--preset",
            "--model",
            help="Network preset: spectral, spatial-spectral, dlr-ibm-spectral, dlr-ibm-spatial-spectral, s2mae, "
            "general; or linear, the spectral prior.",
            autocompletion=complete_preset,
        ),
    ],
    change: Annotated[
        list[str] | None,
        MODEL(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the preset: depth=2. Repeatable.",
            autocompletion=complete_field,
        ),
    ] = None,
    init: Annotated[Path | None, MODEL(help="Initial weights: of ms2hs, or a ViT with timm's names.")] = None,
    prior: Annotated[
        str, MODEL(help="Weights with the spectral prior that the network adds to.", autocompletion=complete_model)
    ] = "linear",
    data: Annotated[
        list[Path] | None, DATA(help="Folder of cubes or shards. Repeatable.", show_default="simulated scenes")
    ] = None,
    source: ImageSource = None,
    split: Split = None,
    leave_out: LeaveOut = None,
    simulated: Annotated[int, DATA(min=0, help="Number of simulated scenes added to the data.")] = 0,
    window: Window = None,
    steps: Steps = 1000,
    batch: BatchSize = 16,
    lr: LearningRate = 1e-3,
    seed: TrainingSeed = 0,
    workers: Workers = 0,
    precision: TrainingPrecision = Precision.auto,
    device: Device = "auto",
    compiled: Annotated[bool, TRAINING("--compile", help="Use torch.compile.", show_default=False)] = False,
    cross_fit: Annotated[
        bool,
        TRAINING(
            "--cross-fit",
            help="Also train without each fold of places, to fit how far the network can be trusted. An interrupted "
            "run continues.",
            show_default=False,
        ),
    ] = False,
    folds: Annotated[
        int, TRAINING(min=2, help="With --cross-fit: number of folds, each with a training of its own.")
    ] = 6,
    checkpoint_every: CheckpointEvery = 500,
    picture_every: Annotated[int, TRAINING(min=0, help="Steps between pictures in <stem>.run/; 0 draws none.")] = 0,
    resume: Resume = False,
    output: Annotated[
        Path | None,
        OUTPUT(
            "-o",
            "--output",
            help="Weights file; log and checkpoints go to <stem>.run/.",
            show_default="<preset>.safetensors",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train weights on hyperspectral or multispectral data, also under torchrun on several GPUs."""
    from ms2hs.files import check_output, file_ids
    from ms2hs.progress import fit_bar

    if preset == "linear":
        refuse(context, PRETRAIN_NETWORK_OPTIONS, "the linear model is estimated in closed form from one folder")
    stages = stages_of(context)
    if stages and (preset == "linear" or cross_fit):
        raise typer.BadParameter(
            "a recipe with [[stage]] trains one network after another; without --cross-fit, and no linear model. Leave "
            "the stages out, or give another --preset."
        )
    if not data and not stages:
        refuse(context, ["source", "split", "leave_out"], "it needs --data DIR")
    if cross_fit:
        refuse(context, ["resume"], "--cross-fit continues by itself")
    else:
        refuse(context, ["folds"], "it needs --cross-fit")
    output = output or Path(f"{preset}.safetensors")
    check_output(output, overwrite=overwrite, inputs=file_ids(option_files(context)))
    if preset == "linear":
        from ms2hs.training.prior_fit import pretrain_linear

        if not data or len(data) > 1:
            raise typer.BadParameter("the linear model is estimated from one folder of .npz. Use --data DIR once.")
        pretrain_linear(data[0], output, leave_out=tuple(leave_out or ()), overwrite=overwrite)
        typer.echo(output)
        return
    from ms2hs.training import pretraining
    from ms2hs.training.engine.loop import FitSettings

    settings = pretraining.PretrainOptions(
        preset=preset,
        data=tuple(data or ()),
        source=source,
        split=split,
        leave_out=tuple(leave_out or ()),
        simulated=simulated,
        init=init,
        prior=prior,
        window=window,
        changes=parse_fields(change or []),
        fit=FitSettings(
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            workers=workers,
            checkpoint_every=checkpoint_every,
            picture_every=picture_every,
            precision=precision.value,
            compiled=compiled,
            device=device,
        ),
    )
    notes = None if quiet else note
    if cross_fit:
        from ms2hs.training.cross_fitting import pretrain_cross_fitted

        with fit_bar(shown=not quiet) as progress:
            pretrain_cross_fitted(settings, output, folds, overwrite=overwrite, progress=progress, note=notes)
        typer.echo(output)
        return
    trainings = [_staged(settings, stage) for stage in stages] or [settings]
    with fit_bar(shown=not quiet) as progress:
        result = pretraining.pretrain_stages(
            trainings, output, resume=resume, overwrite=overwrite, progress=progress, note=notes
        )
    if result.fit.first:
        if not quiet:
            note(f"sha256 {result.sha256}")
        typer.echo(result.output)


def _staged(settings: "PretrainOptions", stage: Mapping[str, Any]) -> "PretrainOptions":
    """The settings of a [[stage]], whose values are given by parameter of the command."""
    own = {name: value for name, value in stage.items() if name in STAGE_FIELDS}
    if "data" in stage:
        own["data"] = tuple(map(Path, stage["data"]))
    if "leave_out" in stage:
        own["leave_out"] = tuple(stage["leave_out"])
    if "change" in stage:
        own["changes"] = settings.changes | parse_fields(list(stage["change"]))
    fit = {name: value for name, value in stage.items() if name in STAGE_FIT_FIELDS}
    return replace(settings, **own, fit=replace(settings.fit, **fit))


def finetune_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    pairs: Annotated[Path | None, DATA(help="Folder of pairs, as `ms2hs pairs` writes it.")] = None,
    corpus: Annotated[Path | None, DATA(help="Folder of cubes, instead; the source is simulated from them.")] = None,
    source: Annotated[
        str, DATA(help="With --corpus: simulated source sensor.", autocompletion=complete_source)
    ] = "sentinel2a",
    target: Annotated[
        str | None,
        DATA(
            help="With --corpus: bands to learn, a sensor or a CSV.",
            show_default="each cube's own",
            autocompletion=complete_target,
        ),
    ] = None,
    leave_out: LeaveOut = None,
    hold_out: Annotated[
        list[str] | None,
        DATA(
            "--hold-out",
            metavar="SCENE",
            help="Scene that calibrates the uncertainty. Repeatable.",
            show_default="the split val, or a fifth",
        ),
    ] = None,
    init: Annotated[
        str,
        MODEL(
            "--init",
            "--model",
            help="Initial weights: a shipped name or a .safetensors file.",
            autocompletion=complete_model,
        ),
    ] = "linear",
    train: Annotated[Part, MODEL(help="Part of the network that is trained.")] = Part.all,
    rehearse: Annotated[
        float,
        TRAINING(min=0, max=0.9, help="Share of the steps on simulated scenes, which keeps what the network knows."),
    ] = 0.2,
    window: Window = None,
    steps: Steps = 300,
    batch: BatchSize = 8,
    lr: LearningRate = 1e-4,
    seed: TrainingSeed = 0,
    workers: Workers = 0,
    precision: TrainingPrecision = Precision.auto,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 500,
    resume: Resume = False,
    output: Annotated[
        Path, OUTPUT("-o", "--output", help="Weights file; log and checkpoints go to <stem>.run/.")
    ] = Path("finetuned.safetensors"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit weights to pairs of scenes, and calibrate their uncertainty."""
    if (pairs is None) == (corpus is None):
        raise typer.BadParameter("one source of pairs is needed. Use either --pairs DIR, or --corpus DIR of cubes.")
    if corpus is None:
        refuse(context, ["source", "target"], "pairs have their own bands; it needs --corpus DIR")
    from ms2hs.files import check_output, file_ids
    from ms2hs.models.weights import load_weights
    from ms2hs.progress import fit_bar
    from ms2hs.training import finetuning
    from ms2hs.training.engine.loop import FitSettings

    options = [name for name in (*GRADIENT_OPTIONS, "train", "rehearse") if given(context, name)]
    if options and load_weights(init).network is None:
        refuse(context, options, f"{init} is a linear model, which is fitted in closed form")
    check_output(output, overwrite=overwrite, inputs=file_ids(option_files(context)))
    settings = finetuning.FinetuneOptions(
        init=init,
        pairs=pairs,
        corpus=corpus,
        source=source,
        target=target,
        leave_out=tuple(leave_out or ()),
        hold_out=tuple(hold_out or ()),
        train=train.value,
        rehearse=rehearse,
        window=window,
        fit=FitSettings(
            steps=steps,
            batch=batch,
            lr=lr,
            seed=seed,
            workers=workers,
            checkpoint_every=checkpoint_every,
            precision=precision.value,
            device=device,
        ),
    )
    with fit_bar(shown=not quiet) as progress:
        result = finetuning.finetune(
            settings,
            output,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            note=None if quiet else note,
        )
    if result.sha256:
        if not quiet:
            note(f"sha256 {result.sha256}")
        typer.echo(result.output)
