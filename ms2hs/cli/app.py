"""The commands: parse, call one function, show progress, turn Ms2hsError into one clear message."""

import json
import math
import shlex
import sys
import time
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ms2hs.errors import Ms2hsError, NothingFound, PartlyDone

if TYPE_CHECKING:
    from ms2hs.conversion.planning import ConvertOptions
    from ms2hs.fetching.fetcher import FetchOptions
    from ms2hs.fetching.selection import SearchRequest

app = typer.Typer(
    name="ms2hs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Multispectral scenes in, hyperspectral scenes out.",
)
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bar and no notes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
# What pretrain and finetune share.
Steps = Annotated[int, typer.Option(min=1, help="How many there are; the learning rate falls over all.")]
Batch = Annotated[int, typer.Option(min=1, help="Windows a step, over all processes.")]
LearningRate = Annotated[float, typer.Option("--lr", help="Highest learning rate, above 0.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn; the same seed gives the same weights.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that make batches; 0: this one does.")]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Precision = Annotated[
    str, typer.Option(help="One of float32, bfloat16, and auto: bfloat16 where the device computes in it.")
]
TrainingDevice = Annotated[str, typer.Option(help="Where it trains: cpu, cuda, cuda:1. [default: the best]")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in <stem>.run/.")]


def _take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Let a recipe's values stand where the command line says nothing."""
    if path is None:
        return None
    from ms2hs.errors import DataError

    known = {option.lstrip("-"): one.name for one in context.command.params for option in one.opts if len(option) > 2}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); TOML of options is needed. Check the path.") from error
    if unknown := sorted(set(values) - set(known)):
        raise DataError(
            f"{path}: no option {unknown[0]!r}; {context.info_name} has {', '.join(sorted(known))}. Correct the recipe."
        )
    values = {known[name]: value for name, value in values.items()}
    context.default_map = {**(context.default_map or {}), **values}
    return path


Recipe = Annotated[
    Path | None,
    typer.Option(is_eager=True, callback=_take_recipe, help="A TOML file of options; those that are given here win."),
]


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 usage, 3 nothing found, 4 credentials, 5 partly done.

    130, interrupted, is Typer's.
    """
    sys.argv[1:] = join_numbers(sys.argv[1:])
    try:
        app()
    except Ms2hsError as error:
        typer.secho(f"ms2hs: {error}", fg="red", err=True)
        raise SystemExit(error.exit_code) from None


def join_numbers(arguments: list[str]) -> list[str]:
    """`--bbox W S E N` as `--bbox=W,S,E,N`, since both are usual and a leading minus looks like an option."""
    joined = list(arguments)
    for option in ("--bbox", "--window"):
        if option in joined:
            at = joined.index(option)
            numbers = []
            for word in joined[at + 1 : at + 5]:
                if not all(_is_number(part) for part in word.split(",")):
                    break
                numbers.append(word)
                if "," in word:
                    break
            if numbers:
                joined[at : at + 1 + len(numbers)] = [f"{option}={','.join(numbers)}"]
    return joined


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbers(text: str | None, option: str, count: int, names: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != count or not all(_is_number(part) for part in parts):
        raise typer.BadParameter(f"{text!r} is not {count} numbers; {names} are needed. Write {option} {names}.")
    return tuple(float(part) for part in parts)


def _ranges(text: str | None) -> tuple[tuple[float, float], ...]:
    if text is None:
        return ()
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not (_is_number(low) and _is_number(high) and float(low) <= float(high)):
            raise typer.BadParameter(
                f"{part!r} is not LOW-HIGH in nm. Write for example --wavelengths 400-900,2100-2300."
            )
        ranges.append((float(low), float(high)))
    return tuple(ranges)


def _gsd(text: str | None) -> Any:  # noqa: ANN401 - float, "native" or None: what Choices takes
    if text is None or text == "native":
        return text
    if not _is_number(text) or float(text) <= 0:
        raise typer.BadParameter(
            f"{text!r} is no ground sampling; metres above 0 or `native`. Write for example --gsd 30."
        )
    return float(text)


@app.command()
def convert(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    scenes: Annotated[
        list[str],
        typer.Argument(
            help="A GeoTIFF, a .SAFE folder or zip, an HLS folder, or a STAC item (file or address). Or several."
        ),
    ],
    target: Annotated[
        str, typer.Option(help="A sensor (`ms2hs info` lists them) or a CSV of center_nm,fwhm_nm.")
    ] = "enmap",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="The COG, or a directory for it; of several, that. Or s3://… [default: <scene>_<target>.tif]",
        ),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Sensor of the scene. [default: from its metadata]")] = None,
    bands: Annotated[
        str | None, typer.Option(help="Band names in file order, such as B02,B03,-,B8A (- skips).")
    ] = None,
    dn_offset: Annotated[
        float | None, typer.Option(help="Added to stored numbers, such as -1000. [default: metadata]")
    ] = None,
    no_quality: Annotated[bool, typer.Option("--no-quality", help="Keep cloud and shadow.")] = False,
    gsd: Annotated[
        str | None, typer.Option(help="Metres, or native. [default: 30 for Sentinel-2 products, else own]")
    ] = None,
    bbox: Annotated[str | None, typer.Option(help="Only this part: W,S,E,N in degrees.")] = None,
    window: Annotated[str | None, typer.Option(help="Only this part: ROW,COL,HEIGHT,WIDTH in pixels.")] = None,
    wavelengths: Annotated[str | None, typer.Option(help="Only bands in these ranges, nm: 400-900,2100-2300.")] = None,
    model: Annotated[str, typer.Option(help="Shipped weights, or a .safetensors file; linear is quick.")] = "default",
    device: Annotated[str, typer.Option(help="Where a network runs: cpu, cuda, mps. [default: the best]")] = "auto",
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Write <output>_sigma.tif too.")] = False,
    input_error: Annotated[
        str | None,
        typer.Option(help="What the product is off by, as GAIN,OFFSET,PIXEL standard deviations: 0.02,0.005,0.003."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Spectra measured in the scene: CSV id,lon,lat,<nm>,... or an ENVI library.")
    ] = None,
    site: Annotated[Path | None, typer.Option(help="A hyperspectral cube of the same site, from any date.")] = None,
    no_adjustment: Annotated[
        bool,
        typer.Option("--no-adjustment", help="Take the bands as they are, whatever pairs taught."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Convert so many scenes at once, in processes with one thread each.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Convert on the workers of a dask scheduler: tcp://HOST:PORT.")
    ] = None,
    share: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Only every N-th of the sorted scenes, from the I-th (1 to N) on."),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep what is done if stopped, and go on with what a conversion that was stopped has left.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Convert multispectral scenes to hyperspectral COGs."""
    box = _numbers(bbox, "--bbox", 4, "W,S,E,N")
    part = _numbers(window, "--window", 4, "ROW,COL,HEIGHT,WIDTH")
    error = _numbers(input_error, "--input-error", 3, "GAIN,OFFSET,PIXEL")
    if error and min(error) < 0:
        raise typer.BadParameter(
            f"{input_error!r}: standard deviations are 0 or more. Write for example 0.02,0.005,0.003."
        )
    ranges, gsd_m = _ranges(wavelengths), _gsd(gsd)
    from ms2hs.conversion.convert_scene import run
    from ms2hs.conversion.planning import ConvertOptions, plan
    from ms2hs.models.prior import InputError
    from ms2hs.progress import progress_bar

    choices = ConvertOptions(
        source=source,
        bands=tuple(bands.split(",")) if bands else None,
        dn_offset=dn_offset,
        quality=not no_quality,
        gsd_m=gsd_m,
        bbox=box,  # type: ignore[arg-type]
        window=tuple(int(number) for number in part) if part else None,  # type: ignore[arg-type]
        wavelengths_nm=ranges,
        model=model,
        device=device,
        uncertainty=uncertainty,
        input_error=InputError(*error) if error else None,
        reference=reference,
        site=site,
        adjust=not no_adjustment,
        overwrite=overwrite,
        resume=resume,
    )
    if len(scenes) > 1 or any(one is not None for one in (workers, scheduler, share)):
        if dry_run:
            raise typer.BadParameter("--dry-run looks at one scene. Give one, without --workers, --scheduler, --shard.")
        who = None if share is None else _share(share)
        _convert_all(scenes, target, output, choices, (workers, scheduler), who, quiet=quiet, as_json=as_json)
        return
    planned = plan(scenes[0], target, output, choices)
    if dry_run:
        facts = {"output": str(planned.place), "offset_rule": planned.scene.offset_rule, **planned.facts}
        typer.echo(
            json.dumps(facts, indent=1) if as_json else "\n".join(f"{key}: {value}" for key, value in facts.items())
        )
        return
    if not quiet:
        _note(f"{planned.scene.source} to {planned.target}, model {planned.weights.name}: {planned.scene.offset_rule}")
    with progress_bar(shown=not quiet) as progress:
        made = run(planned, progress)
    if not quiet:
        for note in made.notes:
            _note(note)
        typer.echo(f"{made.counts.told()}; {made.seconds['whole']:.1f} s", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=1, default=str))
    else:
        typer.echo("\n".join(str(path) for path in made.paths))


def _convert_all(  # noqa: PLR0917 - what its only caller has
    scenes: list[str],
    target: str,
    folder: str | None,
    choices: "ConvertOptions",
    crew: tuple[int | None, str | None],
    share: tuple[int, int] | None,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Convert several scenes, tell of each that fails, and print what the others left."""
    from ms2hs.conversion.dask_backend import Executor, convert_all
    from ms2hs.progress import progress_bar

    if None not in crew:
        raise typer.BadParameter("--workers makes processes here, --scheduler takes those there are. Leave one out.")
    began = time.perf_counter()
    with progress_bar(shown=not quiet, unit="scenes") as progress:
        who = None if crew == (None, None) else Executor(*crew)
        made = convert_all(scenes, target, folder, choices, crew=who, share=share, progress=progress)
    if not quiet:
        for note in made.notes:
            _note(note)
    for message in made.failed.values():
        typer.secho(f"failed: {message}", fg="red", err=True)
    if not quiet:
        count = len(made.made) + len(made.failed) + len(made.there)
        kept = f", {len(made.there)} were there" if made.there else ""
        told = f"{len(made.made)} of {count} scenes converted{kept}"
        typer.echo(f"{told}; {time.perf_counter() - began:.1f} s", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=1, default=str))
    elif made.made or made.there:
        paths = [*made.there.values(), *(path for one in made.made.values() for path in one.paths)]
        typer.echo("\n".join(map(str, paths)))
    made.check()


def _share(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N. Write for example --shard 1/8.")
    return int(number), int(count)


def _note(text: str) -> None:
    typer.secho(f"note: {text}", err=True, fg="yellow" if "warning" in text.lower() else None)


@app.command()
def info(
    name: Annotated[
        str | None, typer.Argument(help="A sensor, weights or a preset; without it, everything is listed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List sensors, targets, weights and presets, or show one."""
    from ms2hs.cli import listing

    found = listing.entry(name) if name else listing.entries()
    typer.echo(json.dumps(found, indent=1) if as_json else listing.text(found))


@app.command("example")
def write_example_scene(
    path: Annotated[Path, typer.Argument(help="Where to write the GeoTIFF.")] = Path("example.tif"),
    overwrite: Overwrite = False,
) -> None:
    """Write a small Sentinel-2-like scene to try things on."""
    from ms2hs.datasets.simulation.example_scene import write_example

    typer.echo(write_example(path, overwrite=overwrite))


@app.command()
def pretrain(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "--model",
            help="A network: spectral, spatial-spectral, dlr-ibm-spectral, dlr-ibm-spatial-spectral, s2mae or general. "
            "Or linear: the spectral prior.",
        ),
    ],
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of cubes; give it again for more. [default: simulated scenes]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The weights; log and checkpoint go to <stem>.run/. [default: <preset>.safetensors]"
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="A list of the data's splits/, such as hard/train.")] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A scene not to train on; give it again for more.")
    ] = None,
    simulated: Annotated[int, typer.Option(min=0, help="So many simulated scenes beside the data.")] = 0,
    init: Annotated[
        Path | None, typer.Option(help="Weights to begin with: of ms2hs, or a ViT in timm's naming.")
    ] = None,
    prior: Annotated[
        str, typer.Option(help="Weights whose spectral prior it builds on, and simulates scenes from.")
    ] = "linear",
    window: Annotated[
        int | None, typer.Option(min=1, help="Pixels on a side of what a step shows. [default: the preset's]")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the preset, changed: depth=2. Again for more."),
    ] = None,
    steps: Steps = 1000,
    batch: Batch = 16,
    lr: LearningRate = 1e-3,
    seed: Seed = 0,
    workers: Workers = 0,
    checkpoint_every: CheckpointEvery = 500,
    picture_every: Annotated[int, typer.Option(min=0, help="Steps between pictures in <stem>.run/; 0: none.")] = 0,
    precision: Precision = "auto",
    cross_fit: Annotated[
        bool,
        typer.Option(
            "--cross-fit",
            help="Train again without each scene too, to learn how far the network may be trusted. Many times as long.",
        ),
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
    device: TrainingDevice = "auto",
    resume: Resume = False,
    recipe: Recipe = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train weights on hyperspectral data, under torchrun on several GPUs too."""
    del recipe  # taken before the others
    from ms2hs.files import check_output

    output = output or Path(f"{preset}.safetensors")
    check_output(output, overwrite=overwrite)
    if preset == "linear":
        from ms2hs.training.prior_fit import pretrain_linear

        if not data or len(data) > 1:
            raise typer.BadParameter("the linear model is estimated from one folder of .npz. Write --data DIR.")
        pretrain_linear(data[0], output, leave_out=tuple(leave_out or ()))
        typer.echo(output)
        return
    _check_lr(lr)
    from ms2hs.progress import fit_bar
    from ms2hs.training import pretraining
    from ms2hs.training.engine.loop import FitSettings

    settings = FitSettings(
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        workers=workers,
        checkpoint_every=checkpoint_every,
        picture_every=picture_every,
        precision=precision,
        compiled=compiled,
        device=device,
    )
    asked = pretraining.PretrainOptions(
        preset=preset,
        data=tuple(data or ()),
        split=split,
        leave_out=tuple(leave_out or ()),
        simulated=simulated,
        init=init,
        prior=prior,
        window=window,
        changes=_changes(change or []),
        fit=settings,
    )
    if cross_fit:
        from ms2hs.progress import progress_bar
        from ms2hs.training.cross_fitting import pretrain_cross_fitted

        with progress_bar(shown=not quiet, unit="scenes") as progress:
            pretrain_cross_fitted(asked, output, overwrite=overwrite, progress=progress, note=None if quiet else _note)
        typer.echo(output)
        return
    with fit_bar(shown=not quiet) as progress:
        made = pretraining.pretrain(
            asked, output, resume=resume, overwrite=overwrite, progress=progress, note=None if quiet else _note
        )
    if made.fit.first:
        if not quiet:
            typer.echo(f"sha256 {made.sha256}", err=True)
        typer.echo(made.output)


@app.command()
def finetune(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    pairs: Annotated[Path | None, typer.Option(help="Folder of pairs, as `ms2hs pairs` makes them.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of cubes instead, of which --source is simulated.")
    ] = None,
    init: Annotated[
        str, typer.Option("--init", "--model", help="Weights to begin with: a name, or a .safetensors file.")
    ] = "linear",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The weights; a run's log goes to <stem>.run/. [default: finetuned.safetensors]"
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="Sensor through which a corpus is seen.")] = "sentinel2a",
    target: Annotated[
        str | None,
        typer.Option(help="Bands learnt of a corpus: a sensor or a CSV. [default: each cube's own]"),
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A scene to keep away from; give it again for more.")
    ] = None,
    held: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            help="A scene to calibrate the uncertainty on; again for more. [default: the split val, or a fifth]",
        ),
    ] = None,
    train: Annotated[str, typer.Option(help="Parts of a network that learn: all, decoder, head or none.")] = "all",
    rehearse: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the steps that show simulated scenes, lest it forget.")
    ] = 0.2,
    window: Annotated[
        int | None, typer.Option(min=1, help="Pixels on a side of what a step shows. [default: the network's]")
    ] = None,
    steps: Steps = 300,
    batch: Batch = 8,
    lr: LearningRate = 1e-4,
    seed: Seed = 0,
    workers: Workers = 0,
    checkpoint_every: CheckpointEvery = 500,
    precision: Precision = "auto",
    device: TrainingDevice = "auto",
    resume: Resume = False,
    recipe: Recipe = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fit weights to pairs of scenes, and calibrate their uncertainty."""
    del recipe  # taken before the others
    if (pairs is None) == (corpus is None):
        raise typer.BadParameter("give either --pairs DIR, or --corpus DIR of cubes to simulate pairs from.")
    _check_lr(lr)
    from ms2hs.files import check_output
    from ms2hs.progress import fit_bar
    from ms2hs.training import finetuning
    from ms2hs.training.engine.loop import FitSettings

    output = output or Path("finetuned.safetensors")
    check_output(output, overwrite=overwrite)
    settings = FitSettings(
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        workers=workers,
        checkpoint_every=checkpoint_every,
        precision=precision,
        device=device,
    )
    asked = finetuning.FinetuneOptions(
        init=init,
        pairs=pairs,
        corpus=corpus,
        source=source,
        target=target,
        leave_out=tuple(leave_out or ()),
        hold_out=tuple(held or ()),
        train=train,
        rehearse=rehearse,
        window=window,
        fit=settings,
    )
    with fit_bar(shown=not quiet) as progress:
        made = finetuning.finetune(
            asked, output, resume=resume, overwrite=overwrite, progress=progress, note=None if quiet else _note
        )
    if made.sha256:
        if not quiet:
            typer.echo(f"sha256 {made.sha256}", err=True)
        typer.echo(made.output)


def _check_lr(lr: float) -> None:
    if not 0 < lr < math.inf:
        raise typer.BadParameter(f"{lr} is no learning rate; a number above 0 is needed. Write for example --lr 1e-3.")


def _changes(pairs: list[str]) -> dict[str, str]:
    """`depth=2` as a field and its value."""
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is not FIELD=VALUE. Write for example --set depth=2.")
    return dict(pair.split("=", 1) for pair in pairs)


@app.command()
def evaluate(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    pairs: Annotated[Path | None, typer.Option(help="Folder of pairs, as `ms2hs pairs` leaves it.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Instead: folder of hyperspectral cubes; the source is simulated from them.")
    ] = None,
    cube: Annotated[Path | None, typer.Option(help="Instead: a finished conversion, beside --truth.")] = None,
    truth: Annotated[Path | None, typer.Option(help="A true cube on the pixels of --cube.")] = None,
    source: Annotated[str, typer.Option(help="Sensor that is simulated from --corpus.")] = "sentinel2a",
    target: Annotated[str, typer.Option(help="Bands of --corpus that are scored: a sensor or a CSV.")] = "enmap",
    model: Annotated[list[str] | None, typer.Option(help="Weights to score; give it again for more.")] = None,
    prior: Annotated[
        str, typer.Option(help="Weights of the prior to beat, which the baselines share: one that saw no such scene.")
    ] = "linear",
    split: Annotated[str | None, typer.Option(help="A list of the data's splits/: test, hard/test.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene; give it again for more.")] = None,
    windows: Annotated[int, typer.Option(min=1, help="Of a scene, at most; with --hidden of all.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    hidden: Annotated[
        float | None, typer.Option(help="Complete cubes of which this share of groups of 8 bands is hidden, 0-1.")
    ] = None,
    size: Annotated[int, typer.Option(min=7, help="With --hidden: pixels on a side of a window.")] = 64,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page, and <stem>.csv and <stem>.json.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score models on pairs, on cubes, or a finished conversion, beside what they have to beat."""
    if sum(one is not None for one in (pairs, corpus, cube)) != 1 or (cube is None) != (truth is None):
        raise typer.BadParameter(
            "what to score is not clear; one of --pairs DIR, --corpus DIR, and --cube FILE with --truth FILE is needed."
        )
    if hidden is not None:
        if corpus is None or report is not None:
            raise typer.BadParameter("--hidden goes with --corpus DIR, and without --report. Leave it out.")
        asked = (corpus, split, tuple(scene or ()), hidden, windows, size, seed)
        _complete(model or ["linear"], asked, as_json=as_json)
        return
    from ms2hs.evaluation import scoreboard
    from ms2hs.evaluation.evaluator import EvaluationSettings
    from ms2hs.files import check_output
    from ms2hs.progress import progress_bar

    if report:
        from ms2hs.evaluation.report.page import check_report, write_report

        check_report()
        for path in (report, report.with_suffix(".csv"), report.with_suffix(".json")):
            check_output(path, overwrite=overwrite)
    command = shlex.join(["ms2hs", *sys.argv[1:]])
    settings = EvaluationSettings(prior, windows, seed, command=command)
    if cube and truth:
        from ms2hs.evaluation.cube_evaluation import evaluate_cube

        found = evaluate_cube(cube, truth, settings)
    else:
        from ms2hs.datasets.pairs.pair_set import measured_pairs, simulated_pairs
        from ms2hs.evaluation.evaluator import evaluate as score

        there = measured_pairs(pairs, split) if pairs else simulated_pairs(cast("Path", corpus), source, target, split)
        chosen = there.of_scenes(scene or [])
        settings = replace(settings, title=chosen.title)
        with progress_bar(shown=not quiet, unit="scenes") as progress:
            found = score(model or [], chosen.pairs, settings, chosen.left_out, progress)
    if as_json:
        typer.echo(json.dumps(scoreboard.facts(found), indent=1))
    else:
        for line in scoreboard.lines_of(found):
            typer.secho(line.text, fg="red" if line.loses else None)
    if report:
        write_report(found, report)
        written = report, *scoreboard.write_numbers(found, report)
        typer.echo("\n".join(str(path) for path in written), err=as_json)


def _complete(models: list[str], asked: tuple[Any, ...], *, as_json: bool) -> None:
    """Print how models complete cubes; `asked` are the fields of a `Trial`."""
    from ms2hs.evaluation.completion import Trial, compare, facts, table

    trial = Trial(*asked)
    if not 0 < trial.hidden < 1:
        raise typer.BadParameter(f"{trial.hidden} is no share; above 0 and below 1 is needed. Write --hidden 0.75.")
    rows = compare(models, trial)
    typer.echo(json.dumps(facts(rows), indent=1) if as_json else table(rows))


@app.command()
def prepare(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    folder: Annotated[Path, typer.Argument(help="Hyperspectral cubes: HySpecNet-11k, SpectralEarth, EMIT, EnMAP, ….")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the shards; made if it is not there.")],
    window: Annotated[int, typer.Option(min=1, help="Side of the windows, in pixels.")] = 128,
    split: Annotated[str | None, typer.Option(help="Only the cubes listed in splits/<split>.csv.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Pack hyperspectral cubes into shards to train from."""
    from ms2hs.datasets.cubes import packing
    from ms2hs.progress import progress_bar

    with progress_bar(shown=not quiet) as progress:
        packed = packing.prepare(folder, output, window, progress, split, overwrite=overwrite)
    if not quiet:
        told = f"{packed.windows} windows in {len(packed.paths)} shards"
        typer.echo(
            f"{told}; {packed.left_out} with less than {packing.FEWEST_KNOWN:.0%} known pixels left out", err=True
        )
    typer.echo("\n".join(str(path) for path in packed.paths))


@app.command("pairs")
def make_pairs(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    hyperspectral: Annotated[
        list[Path], typer.Argument(help="EnMAP or EMIT L2A products, HySpecNet-11k, georeferenced cubes; or folders.")
    ],
    scenes: Annotated[
        list[Path], typer.Option(help="A Sentinel-2 or HLS scene, or a folder of them; give it again for more.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the pairs; its parent must exist.")],
    days: Annotated[int, typer.Option(min=0, help="Most calendar days between the two.")] = 3,
    window: Annotated[int, typer.Option(min=16, help="Pixels on a side of a pair.")] = 128,
    dn_offset: Annotated[
        float | None, typer.Option(help="Added to the scenes' stored numbers, such as -1000. [default: metadata]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of which location is in which split.")] = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make pairs: what two sensors measured of one place, on one grid."""
    from ms2hs.datasets.pairs import pairing
    from ms2hs.progress import progress_bar

    choices = pairing.PairOptions(days, window, dn_offset, seed)
    with progress_bar(shown=not quiet) as progress:
        made = pairing.pair(hyperspectral, scenes, output, choices, progress, overwrite=overwrite)
    if not quiet:
        for match in made.matches:
            typer.echo(match.told(), err=True)
            for note in match.notes:
                _note(note)
        for note in made.notes:
            _note(note)
        for line in pairing.told(made.left_out):
            typer.echo(f"left out: {line}", err=True)
        told = f"{made.pairs} pairs of {len(made.matches)} matches, {made.windows_left_out} windows left out"
        typer.echo(f"{told}; {len(made.left_out)} products, scenes and couples left out", err=True)
    typer.echo(json.dumps(pairing.facts(made), indent=1) if as_json else made.output)


@app.command("fetch")
def fetch_scenes(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    bbox: Annotated[str | None, typer.Option(help="Place: W,S,E,N in degrees.")] = None,
    intersects: Annotated[Path | None, typer.Option(help="Place instead: a GeoJSON file with polygons.")] = None,
    date: Annotated[
        str | None,
        typer.Option(
            "--date", "--datetime", help="A day, a month, a year, or a range: 2024-06-01/2024-06-30, 2024-06/..."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Directory for the scenes; its parent must exist.")
    ] = Path("scenes"),
    provider: Annotated[
        str | None,
        typer.Option(help="Whom to ask: earth-search, planetary-computer, lpdaac, copernicus. [default: earth-search]"),
    ] = None,
    stac: Annotated[str | None, typer.Option(help="Another STAC API: its address; goes with --collection.")] = None,
    collection: Annotated[
        str | None, typer.Option("-c", "--collection", help="Such as hls2-s30. [default: the provider's first]")
    ] = None,
    max_cloud: Annotated[float | None, typer.Option(help="Percent of a whole scene. [default: 20]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Scenes, at most. [default: 10]")] = None,
    sort: Annotated[str, typer.Option(help="What comes first, and within the limit: cloud, date, coverage.")] = "cloud",
    items: Annotated[Path | None, typer.Option(help="Fetch what --save kept, instead of a search.")] = None,
    products: Annotated[
        list[Path] | None,
        typer.Option("--for", help="EnMAP or EMIT product to find scenes for, each in a folder; again for more."),
    ] = None,
    days: Annotated[int, typer.Option(min=0, help="With --for: most calendar days between the two.")] = 3,
    save: Annotated[Path | None, typer.Option(help="Keep what is found in a JSON file; fetch nothing.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show what is found; fetch nothing.")] = False,
    gsd: Annotated[str, typer.Option(help="Metres of a pixel, or native: a file a band as it is.")] = "30",
    mosaic: Annotated[bool, typer.Option("--mosaic", help="Scenes of one pass together, clearest first.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Connections at once, at most.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Fetch again what is there and whole.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch Sentinel-2 and HLS scenes of a place and a time, ready to convert."""
    box = _numbers(bbox, "--bbox", 4, "W,S,E,N")
    gsd_m = _gsd(gsd)
    from ms2hs.fetching import selection
    from ms2hs.files import check_output

    wish = selection.SearchRequest(box, intersects, date, provider, stac, collection, max_cloud, limit, sort, items)
    if save is not None:
        check_output(save, overwrite=overwrite)
    if products:
        if list_only or save is not None:
            raise typer.BadParameter("--for goes without --list and --save. Leave these out.")
        from ms2hs.fetching.fetcher import FetchOptions

        choices = FetchOptions(gsd_m=gsd_m, mosaic=mosaic, jobs=jobs, overwrite=overwrite)
        _fetch_for(products, days, wish, output, choices, quiet=quiet, as_json=as_json)
        return
    looking = list_only or save is not None
    found = selection.select(wish, to_fetch=not looking)
    if save is not None:
        selection.save(found, save)
    if looking:
        typer.echo(selection.as_json(found) if as_json else selection.table(found))
        return
    from ms2hs.fetching.fetcher import FetchOptions, fetch
    from ms2hs.progress import progress_bar

    choices = FetchOptions(gsd_m=gsd_m, mosaic=mosaic, jobs=jobs, overwrite=overwrite)
    with progress_bar(shown=not quiet, unit="bytes") as progress:
        made = fetch(selection.items_of(found), wish.place, output, choices, progress)
    if not quiet:
        for line in made.left_out:
            _note(f"left out: {line}")
        for line in made.failed:
            _note(f"warning: {line}")
        typer.echo(f"{len(made.paths)} scenes, {made.kept} were there; {made.bytes_read / 1e6:.1f} MB read", err=True)
    typer.echo(json.dumps(asdict(made), indent=1, default=str) if as_json else "\n".join(map(str, made.paths)))
    if made.failed:
        raise PartlyDone(
            f"{len(made.failed)} of {len(found)} scenes could not be fetched; all were asked for. The same command "
            "tries them again and keeps the others."
        )


def _fetch_for(
    products: list[Path],
    days: int,
    wish: "SearchRequest",
    output: Path,
    choices: "FetchOptions",
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch the scenes of each product into a folder of its name."""
    from ms2hs.fetching import fetcher
    from ms2hs.fetching.selection import find_scene_matches
    from ms2hs.progress import progress_bar

    left_out: dict[str, str] = {}
    made: dict[str, fetcher.FetchResult] = {}
    fetcher.make_folder(output)
    for one in find_scene_matches(products, wish, days, left_out):
        try:
            with progress_bar(shown=not quiet, unit="bytes") as progress:
                made[one.product] = fetcher.fetch(one.items, one.place, output / one.product, choices, progress)
        except NothingFound as error:
            left_out[one.product] = str(error)
    failed = [line for found in made.values() for line in found.failed]
    if not quiet:
        for line in (*left_out.values(), *failed):
            _note(f"warning: {line}")
    if not made:
        raise NothingFound(
            f"no scene was taken within {days} days of any of the products; one is needed. Give more --days, or a "
            "higher --max-cloud."
        )
    paths = [path for found in made.values() for path in found.paths]
    facts = {name: asdict(found) for name, found in made.items()}
    typer.echo(json.dumps(facts, indent=1, default=str) if as_json else "\n".join(map(str, paths)))
    if failed:
        raise PartlyDone(
            f"{len(failed)} of {len(failed) + len(paths)} scenes could not be fetched; all were asked for. The same "
            "command tries them again and keeps the others."
        )
