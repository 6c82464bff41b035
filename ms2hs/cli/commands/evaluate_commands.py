"""`ms2hs evaluate`: models scored on pairs, on cubes, on completion, and a finished conversion beside its truth."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ms2hs.cli.options import (
    DATA,
    MODEL,
    OUTPUT,
    AsJson,
    Overwrite,
    Quiet,
    Seed,
    Split,
    complete_model,
    complete_source,
    complete_target,
    example_epilog,
    refuse,
)
from ms2hs.cli.parsers import parse_shares

if TYPE_CHECKING:
    from ms2hs.datasets.pairs.pair_set import PairSet
    from ms2hs.evaluation.completion import CompletionOptions
    from ms2hs.evaluation.evaluator import EvaluationSettings
    from ms2hs.evaluation.results import Evaluation

REPORT_SUFFIXES = (".html", ".htm")

app = typer.Typer(
    help="Score models beside the baselines they have to beat. `evaluate --pairs DIR` is `evaluate pairs DIR`.",
)

Models = Annotated[
    list[str] | None, MODEL("--model", help="Weights to score. Repeatable.", autocompletion=complete_model)
]
Prior = Annotated[
    str, MODEL(help="Weights of the prior to beat, not trained on these scenes.", autocompletion=complete_model)
]
Scenes = Annotated[list[str] | None, DATA("--scene", help="Use only this scene. Repeatable.")]
Windows = Annotated[int, DATA(min=1, help="Largest number of windows of a scene.")]
Report = Annotated[Path | None, OUTPUT(help="Write an HTML report, and <stem>.csv, <stem>.json and <stem>.npz.")]


@app.command(
    "pairs",
    epilog=example_epilog(
        "ms2hs evaluate pairs pairs/ --model default",
        "ms2hs evaluate pairs pairs/ --model tuned.safetensors --split test --report report.html",
        "ms2hs evaluate --pairs pairs/ --json",
    ),
)
def evaluate_pairs_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    folder: Annotated[Path, typer.Argument(help="Folder of pairs, as `ms2hs pairs` writes it.")],
    model: Models = None,
    prior: Prior = "linear",
    split: Split = None,
    scene: Scenes = None,
    windows: Windows = 64,
    seed: Seed = 0,
    report: Report = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score models on measured pairs."""
    from ms2hs.datasets.pairs.pair_set import open_pairs

    write = _report_writer(report, [folder, prior, *(model or [])], overwrite=overwrite)
    settings = _settings(prior, windows, seed)
    evaluation = _score(model, open_pairs(folder, split), scene, settings, quiet=quiet)
    _print(evaluation, write, as_json=as_json)


@app.command(
    "corpus",
    epilog=example_epilog(
        "ms2hs evaluate corpus cubes/ --model default",
        "ms2hs evaluate corpus cubes/ --source hls_s30 --target emit --model spectral --model linear",
        "ms2hs evaluate corpus cubes/ --model default --report report.html",
    ),
)
def evaluate_corpus_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    folder: Annotated[Path, typer.Argument(help="Folder of hyperspectral cubes; the source is simulated from them.")],
    source: Annotated[str, DATA(help="Simulated source sensor.", autocompletion=complete_source)] = "sentinel2a",
    target: Annotated[str, DATA(help="Scored bands: a sensor or a CSV.", autocompletion=complete_target)] = "enmap",
    model: Models = None,
    prior: Prior = "linear",
    split: Split = None,
    scene: Scenes = None,
    windows: Windows = 64,
    seed: Seed = 0,
    report: Report = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score models on hyperspectral cubes, with a simulated source."""
    from ms2hs.datasets.pairs.pair_set import simulated_pairs

    write = _report_writer(report, [folder, target, prior, *(model or [])], overwrite=overwrite)
    settings = _settings(prior, windows, seed)
    evaluation = _score(model, simulated_pairs(folder, source, target, split), scene, settings, quiet=quiet)
    _print(evaluation, write, as_json=as_json)


@app.command(
    "cube",
    epilog=example_epilog(
        "ms2hs evaluate cube scene_enmap.tif --truth ENMAP01-….tif",
        "ms2hs evaluate cube scene_enmap.tif --truth truth.tif --report report.html",
        "ms2hs evaluate --cube scene_enmap.tif --truth truth.tif --json",
    ),
)
def evaluate_cube_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    cube: Annotated[Path, typer.Argument(help="Output of `ms2hs convert`.")],
    truth: Annotated[Path, DATA(help="True cube on the same pixels.")],
    prior: Prior = "linear",
    windows: Windows = 64,
    seed: Seed = 0,
    report: Report = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a finished conversion beside its truth."""
    from ms2hs.evaluation.cube_evaluation import evaluate_cube
    from ms2hs.progress import progress_bar

    write = _report_writer(report, [cube, cube.with_suffix(".json"), truth, prior], overwrite=overwrite)
    with progress_bar(shown=not quiet, unit="windows") as progress:
        evaluation = evaluate_cube(cube, truth, _settings(prior, windows, seed), progress)
    _print(evaluation, write, as_json=as_json)


@app.command(
    "completion",
    epilog=example_epilog(
        "ms2hs evaluate completion cubes/ --model spatial-spectral",
        "ms2hs evaluate completion cubes/ --model spectral --hidden 0.5 --windows 128",
        "ms2hs evaluate completion cubes/ --model s2mae.safetensors --ratio 0.5,0.75,0.9,0.95 -o panel.png",
    ),
)
def evaluate_completion_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of hyperspectral cubes.")],
    model: Models = None,
    hidden: Annotated[float, DATA(help="Hidden share of the groups of 8 bands, between 0 and 1.")] = 0.75,
    split: Split = None,
    scene: Scenes = None,
    windows: Annotated[int, DATA(min=1, help="Number of windows.")] = 64,
    size: Annotated[int, DATA(min=7, help="Window size, in pixels.")] = 64,
    seed: Seed = 0,
    ratio: Annotated[
        str | None,
        DATA(
            metavar="R,R,…",
            help="Hidden shares of each model's own tokens instead of --hidden, such as 0.5,0.75,0.9,0.95; draws a "
            "window at each.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        OUTPUT("--report", "-o", "--output", help="With --ratio: PNG of a window.", show_default="completion.png"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score how models complete cubes of which bands are hidden."""
    from ms2hs.evaluation.completion import CompletionOptions, complete_cubes
    from ms2hs.evaluation.report import numbers, terminal
    from ms2hs.progress import progress_bar

    if ratio is not None:
        refuse(context, ["hidden"], "--ratio gives the hidden shares")
        options = CompletionOptions(folder, split, tuple(scene or ()), windows=windows, size=size, seed=seed)
        path = output or Path("completion.png")
        _complete_at_ratios(
            *(model or ["linear"], options, parse_shares(ratio), path),
            overwrite=overwrite,
            as_json=as_json,
            quiet=quiet,
        )
        return
    refuse(context, ["output", "overwrite"], "the picture needs --ratio")
    if not 0 < hidden < 1:
        raise typer.BadParameter(f"{hidden} is not a share; above 0 and below 1 is needed. Use --hidden 0.75.")
    options = CompletionOptions(folder, split, tuple(scene or ()), hidden, windows, size, seed)
    with progress_bar(shown=not quiet, unit="windows") as progress:
        scores = complete_cubes(model or ["linear"], options, progress)
    if as_json:
        typer.echo(json.dumps(numbers.json_values(scores), indent=1))
    else:
        terminal.print_completion(scores)


def _complete_at_ratios(
    models: list[str],
    options: "CompletionOptions",
    ratios: list[float],
    path: Path,
    *,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score and draw the completion at some ratios."""
    from ms2hs.evaluation.masked_completion import complete_at_ratios
    from ms2hs.evaluation.report import numbers, terminal
    from ms2hs.evaluation.report.page import check_report
    from ms2hs.files import check_output, file_ids, files_in
    from ms2hs.progress import progress_bar

    check_report()
    from ms2hs.evaluation.report.completion_figure import draw_panels

    inputs = file_ids(files_in([options.corpus, *models]))
    check_output(path, overwrite=overwrite, inputs=inputs)
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"-o {path} is no PNG file; the picture is one. Use -o completion.png.")
    with progress_bar(shown=not quiet, unit="ratios") as progress:
        scores, panels = complete_at_ratios(models, options, ratios, progress)
    draw_panels(panels, path, overwrite=overwrite, inputs=inputs)
    if as_json:
        typer.echo(json.dumps(numbers.json_values(scores), indent=1))
    else:
        terminal.print_ratios(scores)
    typer.echo(path, err=as_json)


def _settings(prior: str, windows: int, seed: int) -> "EvaluationSettings":
    from ms2hs.evaluation.evaluator import EvaluationSettings

    return EvaluationSettings(prior, windows, seed, command=shlex.join(["ms2hs", *sys.argv[1:]]))


def _score(
    models: list[str] | None,
    pairs: "PairSet",
    scenes: list[str] | None,
    settings: "EvaluationSettings",
    *,
    quiet: bool,
) -> "Evaluation":
    from ms2hs.evaluation.evaluator import evaluate_pairs
    from ms2hs.progress import progress_bar

    with progress_bar(shown=not quiet, unit="scenes") as progress:
        return evaluate_pairs(models or [], pairs.of_scenes(scenes or []), settings, progress)


def _report_writer(
    report: Path | None, inputs: Iterable[str | Path | None], *, overwrite: bool
) -> Callable[["Evaluation"], list[Path]]:
    """A function that writes the report and its tables; before any work it is checked that they can be written."""
    if report is None:
        return lambda _evaluation: []
    from ms2hs.evaluation.report import numbers
    from ms2hs.evaluation.report.page import ARRAYS_SUFFIX, check_report, write_report
    from ms2hs.files import check_output, file_ids, files_in

    check_report()
    if report.suffix.lower() not in REPORT_SUFFIXES:
        raise typer.BadParameter(
            f"--report {report} is no HTML file; {', '.join(REPORT_SUFFIXES)} are allowed. Use --report report.html."
        )
    protected = file_ids(files_in(inputs))
    for path in (report, *(report.with_suffix(suffix) for suffix in (".csv", ".json", ARRAYS_SUFFIX))):
        check_output(path, overwrite=overwrite, inputs=protected)

    def write(evaluation: "Evaluation") -> list[Path]:
        page = write_report(evaluation, report, overwrite=overwrite, inputs=protected)
        arrays = [report.with_suffix(ARRAYS_SUFFIX)] if evaluation.windows else []
        return [page, *arrays, *numbers.write_numbers(evaluation, report, overwrite=overwrite, inputs=protected)]

    return write


def _print(evaluation: "Evaluation", write: Callable[["Evaluation"], list[Path]], *, as_json: bool) -> None:
    """Print the scores, and write the report where one is wanted."""
    from ms2hs.evaluation.report import numbers, terminal

    if as_json:
        typer.echo(json.dumps(numbers.evaluation_json(evaluation), indent=1))
    else:
        terminal.print_evaluation(evaluation)
    if written := write(evaluation):
        typer.echo("\n".join(map(str, written)), err=as_json)
