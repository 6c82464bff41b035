"""`ms2hs probe`: how much a frozen encoder helps a task with labels."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ms2hs.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    AsJson,
    DropClass,
    GroupKey,
    LabelBlock,
    LabelKey,
    LabelPath,
    LabelScale,
    LabelScene,
    LabelSource,
    LabelSplit,
    LabelTask,
    LabelVariable,
    Overwrite,
    Quiet,
    complete_model,
    complete_target,
    example_epilog,
)
from ms2hs.cli.parsers import parse_shares
from ms2hs.tasks.labels.label_options import BLOCK

PROBE_EPILOG = example_epilog(
    "ms2hs probe points.npz --model spectral --model spatial-spectral",
    "ms2hs probe crowns.npz --source sentinel2a --share 0.1,1 -o probe.html",
    "ms2hs probe EuroSAT/ --source sentinel2a --json",
)


def probe_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    labels: LabelPath,
    model: Annotated[
        list[str] | None,
        MODEL(
            "--model",
            help="Weights: a network for its encoder, `linear` for the prior. Repeatable.",
            show_default="spectral, spatial-spectral",
            autocompletion=complete_model,
        ),
    ] = None,
    target: Annotated[
        str, MODEL(help="Bands of the converted cube: a sensor or a CSV.", autocompletion=complete_target)
    ] = "enmap",
    share: Annotated[
        str, DATA(metavar="SHARE,…", help="Shares of the training labels that are used, 0-1.")
    ] = "0.01,0.05,0.1,1",
    seeds: Annotated[int, DATA(min=1, help="Number of splits and draws.")] = 5,
    samples: Annotated[int, DATA(min=10, help="Most samples; of more, a part is drawn by class.")] = 2000,
    task: LabelTask = None,
    scene: LabelScene = None,
    source: LabelSource = None,
    scale: LabelScale = None,
    variable: LabelVariable = None,
    label_key: LabelKey = None,
    group_key: GroupKey = None,
    drop: DropClass = None,
    split: LabelSplit = "groups",
    block: LabelBlock = BLOCK,
    output: Annotated[
        Path | None,
        OUTPUT("-o", "--output", help="Write an HTML page, and <stem>.csv and <stem>.json.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score linear heads on a frozen encoder, beside raw bands and converted cubes.

    Labels of hyperspectral data with --source of a multispectral sensor are probed in its simulated bands.
    """
    from ms2hs.evaluation.report.terminal import print_tables
    from ms2hs.files import NO_FILES, check_output, file_ids, files_in
    from ms2hs.progress import progress_bar
    from ms2hs.tasks.labels.label_options import LabelOptions
    from ms2hs.tasks.probing import ProbeOptions, check_probe_installed, probe

    options = LabelOptions(
        labels, task, scene, source, scale, tuple(variable or ()), label_key, group_key, tuple(drop or ()), split, block
    )
    models = tuple(model or ProbeOptions.models)
    settings = ProbeOptions(models, target, parse_shares(share), seeds, samples, shlex.join(["ms2hs", *sys.argv[1:]]))
    check_probe_installed()
    from ms2hs.tasks.probe_report import (
        PAGE_SUFFIXES,
        check_probe_page,
        explanations,
        findings,
        probe_json,
        score_tables,
        write_probe,
    )

    protected = NO_FILES
    if output is not None:
        check_probe_page()
        if output.suffix.lower() not in PAGE_SUFFIXES:
            raise typer.BadParameter(
                f"--output {output} is no HTML file; {', '.join(PAGE_SUFFIXES)} are allowed. Use -o probe.html."
            )
        protected = file_ids(files_in([labels, scene, target, *models]))
        for path in (output, output.with_suffix(".csv"), output.with_suffix(".json")):
            check_output(path, overwrite=overwrite, inputs=protected)
    with progress_bar(shown=not quiet, unit="samples") as progress:
        result = probe(options, settings, progress)
    if as_json:
        typer.echo(json.dumps(probe_json(result), indent=1))
    else:
        print_tables(score_tables(result), [*findings(result), *explanations(result)])
    if output is not None:
        written = write_probe(result, output, overwrite=overwrite, inputs=protected)
        typer.echo("\n".join(map(str, written)), err=as_json)
