"""`ms2hs pretrain` and `ms2hs finetune`: weights of the user's own."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ms2hs.cli.messages import note
from ms2hs.cli.options import (
    DATA,
    LABELS,
    MODEL,
    OUTPUT,
    TRAINING,
    BatchSize,
    CheckpointEvery,
    Device,
    DropClass,
    GroupKey,
    LabelBlock,
    LabelKey,
    LabelScale,
    LabelScene,
    LabelSplit,
    LabelTask,
    LabelVariable,
    LearningRate,
    LeaveOut,
    Overwrite,
    PictureEvery,
    Precision,
    Quiet,
    Resume,
    Steps,
    TrainingPrecision,
    TrainingSeed,
    Window,
    Workers,
    check_learning_rate,
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
from ms2hs.cli.recipes import option_files
from ms2hs.tasks.labels.label_options import BLOCK

PRETRAIN_EPILOG = example_epilog(
    "ms2hs pretrain --preset spectral --data shards/ -o mine.safetensors",
    "ms2hs pretrain --preset linear --data spectra/ -o prior.safetensors",
    "torchrun --nproc-per-node 4 -m ms2hs.cli pretrain --preset spatial-spectral --data shards/ --batch 64",
)
FINETUNE_EPILOG = example_epilog(
    "ms2hs finetune --pairs pairs/ --init spatial-spectral -o tuned.safetensors",
    "ms2hs finetune --corpus cubes/ --source hls_s30 --init spectral",
    "ms2hs finetune --pairs pairs/ --init spectral --train decoder --hold-out scene1",
    "ms2hs finetune --labels crowns.npz --task classification --init spectral -o species.safetensors",
)
# What gradient descent needs, and what a model in closed form has no use for.
GRADIENT_OPTIONS = (
    *("steps", "batch", "lr", "workers", "checkpoint_every", "picture_every", "precision", "device", "resume"),
    "window",
)
PRETRAIN_NETWORK_OPTIONS = (
    *GRADIENT_OPTIONS,
    *("seed", "split", "simulated", "init", "prior", "change", "cross_fit", "folds", "compiled"),
)
# Options of `finetune` for labels, and for pairs.
LABEL_OPTIONS = (*("task", "scene", "scale", "variable", "label_key", "group_key", "drop", "split", "block"),)
PAIR_OPTIONS = ("target", "leave_out", "hold_out", "rehearse")


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
    split: Annotated[str | None, DATA(help="Use only the cubes of splits/<split>.csv, such as hard/train.")] = None,
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
    picture_every: PictureEvery = 0,
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
    """Train weights on hyperspectral data, also under torchrun on several GPUs."""
    from ms2hs.files import check_output, file_ids
    from ms2hs.progress import fit_bar

    if preset == "linear":
        refuse(context, PRETRAIN_NETWORK_OPTIONS, "the linear model is estimated in closed form from one folder")
    if not data:
        refuse(context, ["split", "leave_out"], "it needs --data DIR")
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
    with fit_bar(shown=not quiet) as progress:
        result = pretraining.pretrain(
            settings, output, resume=resume, overwrite=overwrite, progress=progress, note=notes
        )
    if result.fit.first:
        if not quiet:
            note(f"sha256 {result.sha256}")
        typer.echo(result.output)


def finetune_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    pairs: Annotated[Path | None, DATA(help="Folder of pairs, as `ms2hs pairs` writes it.")] = None,
    corpus: Annotated[Path | None, DATA(help="Folder of cubes, instead; the source is simulated from them.")] = None,
    labels: Annotated[
        Path | None, LABELS(help="Labelled data, instead: a file, a folder or a pattern. A head is trained for them.")
    ] = None,
    task: LabelTask = None,
    scene: LabelScene = None,
    scale: LabelScale = None,
    variable: LabelVariable = None,
    label_key: LabelKey = None,
    group_key: GroupKey = None,
    drop: DropClass = None,
    split: LabelSplit = "groups",
    block: LabelBlock = BLOCK,
    source: Annotated[
        str | None,
        DATA(
            help="With --corpus: simulated source sensor. With --labels: sensor of the images.",
            show_default="sentinel2a; with --labels from the files",
            autocompletion=complete_source,
        ),
    ] = None,
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
        str | None,
        MODEL(
            "--init",
            "--model",
            help="Initial weights: a shipped name or a .safetensors file.",
            show_default="linear; with --labels default",
            autocompletion=complete_model,
        ),
    ] = None,
    train: Annotated[
        Part | None,
        MODEL(
            help="Part of the network that is trained; with --labels head, or all: head and encoder.",
            show_default="all; with --labels head",
        ),
    ] = None,
    rehearse: Annotated[
        float,
        TRAINING(min=0, max=0.9, help="Share of the steps on simulated scenes, which keeps what the network knows."),
    ] = 0.2,
    window: Window = None,
    steps: Steps = 300,
    batch: Annotated[
        int | None,
        TRAINING(min=1, help="Windows a step, over all processes.", show_default="8; with --labels 32"),
    ] = None,
    lr: Annotated[
        float | None,
        TRAINING(
            callback=check_learning_rate,
            help="Peak learning rate.",
            show_default="1e-4; with --labels 1e-2; with --train all 1e-3",
        ),
    ] = None,
    seed: TrainingSeed = 0,
    workers: Workers = 0,
    precision: TrainingPrecision = Precision.auto,
    device: Device = "auto",
    checkpoint_every: CheckpointEvery = 500,
    picture_every: PictureEvery = 0,
    resume: Resume = False,
    output: Annotated[
        Path, OUTPUT("-o", "--output", help="Weights file; log and checkpoints go to <stem>.run/.")
    ] = Path("finetuned.safetensors"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit weights to pairs of scenes and calibrate their uncertainty, or train a head on labels."""
    if [pairs, corpus, labels].count(None) != 2:
        raise typer.BadParameter(
            "one source of pairs or labels is needed. Use either --pairs DIR, or --corpus DIR of cubes, or --labels "
            "LABELS."
        )
    if labels is not None:
        refuse(context, PAIR_OPTIONS, "it needs --pairs DIR or --corpus DIR")
    else:
        refuse(context, LABEL_OPTIONS, "it needs --labels LABELS")
    if pairs is not None:
        refuse(context, ["source", "target"], "pairs have their own bands; it needs --corpus DIR")
    from ms2hs.files import check_output, file_ids
    from ms2hs.models.weights import DEFAULT, LINEAR, load_weights
    from ms2hs.progress import fit_bar
    from ms2hs.training import finetuning
    from ms2hs.training.engine.loop import FitSettings

    init = init or (DEFAULT if labels else LINEAR)
    part = train.value if train else ("head" if labels else "all")
    options = [name for name in (*GRADIENT_OPTIONS, "train", "rehearse") if given(context, name)]
    if options and not labels and load_weights(init).network is None:
        refuse(context, options, f"{init} is a linear model, which is fitted in closed form")
    check_output(output, overwrite=overwrite, inputs=file_ids(option_files(context)))
    fit = FitSettings(
        steps=steps,
        batch=batch or (32 if labels else 8),
        lr=lr or (1e-4 if not labels else 1e-2 if part == "head" else 1e-3),
        seed=seed,
        workers=workers,
        checkpoint_every=checkpoint_every,
        picture_every=picture_every,
        precision=precision.value,
        device=device,
    )
    run: Any
    if labels:
        from ms2hs.tasks import tuning
        from ms2hs.tasks.labels.label_options import LabelOptions

        of_labels = LabelOptions(
            path=labels,
            task=task,
            scene=scene,
            source=source,
            scale=scale,
            variables=tuple(variable or ()),
            label_key=label_key,
            group_key=group_key,
            drop=tuple(drop or ()),
            split=split,
            block=block,
        )
        run = partial(tuning.tune, tuning.TuneOptions(of_labels, init, part, window, fit))
    else:
        settings = finetuning.FinetuneOptions(
            init=init,
            pairs=pairs,
            corpus=corpus,
            source=source or "sentinel2a",
            target=target,
            leave_out=tuple(leave_out or ()),
            hold_out=tuple(hold_out or ()),
            train=part,
            rehearse=rehearse,
            window=window,
            fit=fit,
        )
        run = partial(finetuning.finetune, settings)
    with fit_bar(shown=not quiet) as progress:
        result = run(output, resume=resume, overwrite=overwrite, progress=progress, note=None if quiet else note)
    if result.sha256:
        if not quiet:
            note(f"sha256 {result.sha256}")
        typer.echo(result.output)
