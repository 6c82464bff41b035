"""`ms2hs finetune`: weights fitted to pairs of scenes, and heads trained on labels."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ms2hs.cli.commands.training_commands import GRADIENT_OPTIONS
from ms2hs.cli.messages import note
from ms2hs.cli.options import (
    DATA,
    LABELS,
    MODEL,
    OUTPUT,
    TRAINING,
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
    complete_model,
    complete_source,
    complete_target,
    example_epilog,
    given,
    refuse,
)
from ms2hs.cli.recipes import option_files
from ms2hs.tasks.labels.label_options import BLOCK

FINETUNE_EPILOG = example_epilog(
    "ms2hs finetune --pairs pairs/ --init spatial-spectral -o tuned.safetensors",
    "ms2hs finetune --corpus cubes/ --source hls_s30 --init spectral",
    "ms2hs finetune --labels crowns.npz --task classification --init spectral -o species.safetensors",
)
# Options of `finetune` for labels, and for pairs.
LABEL_OPTIONS = ("task", "scene", "scale", "variable", "label_key", "group_key", "drop", "split", "block")
PAIR_OPTIONS = ("target", "leave_out", "hold_out", "rehearse")


class Part(StrEnum):
    """Parts of a network that are trained."""

    all = "all"
    decoder = "decoder"
    head = "head"
    none = "none"


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
