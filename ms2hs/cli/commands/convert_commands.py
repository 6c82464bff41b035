"""`ms2hs convert`: scenes to hyperspectral COGs."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from ms2hs.cli.commands.spectrum_commands import convert_points
from ms2hs.cli.messages import note, print_failed, print_left_out
from ms2hs.cli.options import (
    BATCH,
    DEVICES,
    GSDS,
    INPUT,
    MODEL,
    OUTPUT,
    REGION,
    SITE,
    AsJson,
    BlockSize,
    Compress,
    DnOffset,
    Offset,
    Overwrite,
    Quiet,
    Reference,
    Scale,
    SearchDate,
    SearchMaxCloud,
    SearchProvider,
    Site,
    SiteDate,
    SiteLimit,
    complete_input_error,
    complete_model,
    complete_source,
    complete_target,
    example_epilog,
    given,
    refuse,
)
from ms2hs.cli.parsers import (
    BBox,
    ErrorLevels,
    PixelWindow,
    Ranges,
    Shard,
    parse_bbox,
    parse_gsd,
    parse_input_error,
    parse_pixel_window,
    parse_ranges,
    parse_shard,
)

if TYPE_CHECKING:
    from ms2hs.conversion.dask_backend import Executor
    from ms2hs.conversion.planning import ConvertOptions
    from ms2hs.fetching.selection import SearchRequest

EPILOG = example_epilog(
    "ms2hs convert scene.tif --target enmap",
    "ms2hs convert --bbox 7.1,46.2,7.3,46.4 --date 2024-06 --uncertainty",
    "ms2hs convert june/*.tif --model linear --workers 2 -o cubes/",
)


class Printing(NamedTuple):
    """What the command prints, and whether it only plans."""

    quiet: bool
    as_json: bool
    dry_run: bool


def convert_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(
            help="GeoTIFF, ENVI, .SAFE, folder or archive of band files, STAC item (file or URL), or spectra of points "
            "(.csv). Several scenes are a batch. None: fetch a scene of --bbox and --date.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None, INPUT(help="Sensor of the scene.", show_default="from metadata", autocompletion=complete_source)
    ] = None,
    bands: Annotated[
        str | None,
        INPUT(metavar="B02,B03,…", help="Band names in file order; - skips a band.", show_default="from metadata"),
    ] = None,
    scale: Scale = None,
    offset: Offset = None,
    dn_offset: DnOffset = None,
    granule: Annotated[str | None, INPUT(metavar="TILE", help="Tile, scene or day of a product: T33UUP.")] = None,
    force: Annotated[
        bool, INPUT("--force", help="Convert although the reflectance is implausible.", show_default=False)
    ] = False,
    quality: Annotated[bool, INPUT("--quality/--no-quality", help="Leave out cloud and cloud shadow.")] = True,
    gsd: Annotated[  # noqa: ANN401 - a number or `native`, and Typer takes no union
        Any,
        REGION(
            parser=parse_gsd,
            metavar="METRES",
            help="Output pixel size in metres, or `native`.",
            show_default="30 for Sentinel-2, else the scene's",
            autocompletion=lambda: list(GSDS),
        ),
    ] = None,
    bbox: Annotated[BBox | None, REGION(parser=parse_bbox, metavar="W,S,E,N", help="Area in degrees.")] = None,
    date: SearchDate = None,
    provider: SearchProvider = None,
    max_cloud: SearchMaxCloud = None,
    window: Annotated[
        PixelWindow | None,
        REGION(parser=parse_pixel_window, metavar="ROW,COL,HEIGHT,WIDTH", help="Area in output pixels."),
    ] = None,
    wavelengths: Annotated[
        Ranges | None,
        REGION(
            parser=parse_ranges,
            metavar="LOW-HIGH,…",
            help="Write only bands in these ranges, in nm.",
            show_default="all bands",
        ),
    ] = None,
    target: Annotated[
        str, MODEL(help="Target sensor, or a CSV of center_nm,fwhm_nm.", autocompletion=complete_target)
    ] = "enmap",
    model: Annotated[
        str,
        MODEL(help="Shipped weights or a .safetensors file; `linear` is the fastest.", autocompletion=complete_model),
    ] = "default",
    device: Annotated[
        str,
        MODEL(
            metavar="DEVICE",
            help=f"Device: `auto` (the fastest available), {', '.join(DEVICES[1:])}.",
            autocompletion=lambda: list(DEVICES),
        ),
    ] = "auto",
    window_size: Annotated[
        int | None,
        MODEL(
            min=1,
            metavar="PIXELS",
            help="Side of a network's windows; smaller ones need less memory.",
            show_default="128",
        ),
    ] = None,
    adjustment: Annotated[
        bool,
        MODEL(
            "--adjustment/--no-adjustment", help="Apply the per-sensor gain and offset correction learned from pairs."
        ),
    ] = True,
    input_error: Annotated[  # noqa: ANN401 - a name or levels, and Typer takes no union
        Any,
        SITE(
            parser=parse_input_error,
            metavar="NAME|GAIN,OFFSET,PIXEL",
            help="Input uncertainty (1σ): `none`, `sentinel2` as measured, or relative gain, offset, per-pixel noise.",
            show_default="Sentinel-2: sentinel2",
            autocompletion=complete_input_error,
        ),
    ] = None,
    reference: Reference = None,
    site: Site = None,
    site_date: SiteDate = None,
    site_limit: SiteLimit = 3,
    output: Annotated[
        str | None,
        OUTPUT(
            "-o",
            "--output",
            metavar="PATH",
            help="Output .tif, .zarr, .hdr, .nc, a directory, or s3://….",
            show_default="<scene>_<target>.tif",
        ),
    ] = None,
    uncertainty: Annotated[
        bool,
        OUTPUT("--uncertainty", help="Write <output>_sigma; value ± 1.645 σ covers 90 %.", show_default=False),
    ] = False,
    compress: Compress = None,
    blocksize: BlockSize = None,
    href_base: Annotated[str | None, OUTPUT(metavar="URL", help="Make the item's links absolute, below URL.")] = None,
    collection: Annotated[str | None, OUTPUT(metavar="NAME", help="Collection of the STAC item.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool,
        OUTPUT(
            "--resume",
            help="Resume, and keep finished rows if interrupted again.",
            show_default=False,
        ),
    ] = False,
    dry_run: Annotated[
        bool, OUTPUT("--dry-run", help="Print how the scene is read, and the plan; write nothing.", show_default=False)
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    workers: Annotated[int | None, BATCH(min=1, help="Local processes, one scene and one thread each.")] = None,
    scheduler: Annotated[
        str | None, BATCH(metavar="tcp://HOST:PORT", help="Convert on a dask cluster instead.")
    ] = None,
    shard: Annotated[
        Shard | None,
        BATCH(parser=parse_shard, metavar="I/N", help="Convert only share I of N of the sorted scenes."),
    ] = None,
) -> None:
    """Convert multispectral scenes to hyperspectral COGs."""
    from ms2hs.conversion.planning import ConvertOptions
    from ms2hs.fetching.selection import SearchRequest
    from ms2hs.models.weights import load_weights
    from ms2hs.spectra.product_error import InputError

    if convert_points(context):
        return
    _check_place(context)
    if given(context, "device") and load_weights(model).network is None:
        refuse(context, ["device"], "the linear model always runs on the processor")
    options = ConvertOptions(
        source=source,
        bands=tuple(map(str.strip, bands.split(","))) if bands else None,
        scale=scale,
        offset=offset,
        dn_offset=dn_offset,
        granule=granule,
        force=force,
        quality=quality,
        gsd_m=gsd,
        bbox=bbox,
        window=window,
        wavelengths_nm=wavelengths or (),
        model=model,
        device=device,
        window_size=window_size,
        uncertainty=uncertainty,
        input_error=InputError(*input_error) if isinstance(input_error, ErrorLevels) else input_error,
        reference=reference,
        site=_site(context, site or []),
        site_date=site_date,
        site_limit=site_limit,
        adjust=adjustment,
        compress=compress,
        blocksize=blocksize,
        href_base=href_base,
        collection=collection,
        overwrite=overwrite,
        resume=resume,
    )
    printing = Printing(quiet, as_json, dry_run)
    if not scenes:
        search = SearchRequest(bbox, date=date, provider=provider, max_cloud=max_cloud)
        _convert_place(search, target, output, replace(options, bbox=None), printing)
        return
    if len(scenes) > 1 or workers or scheduler or shard:
        refuse(context, ["dry_run"], "it plans one scene, without --workers, --scheduler and --shard")
        _convert_batch(scenes, target, output, options, _executor(workers, scheduler), shard, printing)
        return
    _convert_scene(scenes[0], target, output, options, printing)


def _convert_scene(
    scene: str,
    target: str,
    output: str | None,
    options: "ConvertOptions",
    printing: Printing,
    *,
    place: dict[str, Any] | None = None,
) -> None:
    """Convert one scene; `place` holds the facts of a search, for --json."""
    from ms2hs.api import with_site
    from ms2hs.cli import listing
    from ms2hs.conversion.convert_scene import run
    from ms2hs.conversion.planning import plan
    from ms2hs.conversion.scene_contract import contract
    from ms2hs.progress import progress_bar

    planned = plan(scene, target, output, options)
    with progress_bar(shown=not printing.quiet, unit="passes") as progress:
        planned = with_site(planned, to_fetch=not printing.dry_run, progress=progress)
    if printing.dry_run:
        facts = contract(planned)
        typer.echo(json.dumps(facts, indent=1) if printing.as_json else listing.contract_text(facts))
        return
    if not printing.quiet:
        note(f"{planned.scene.source} to {planned.target}, model {planned.weights.name}: {planned.scene.offset_rule}")
    with progress_bar(shown=not printing.quiet) as progress:
        result = run(planned, progress)
    if not printing.quiet:
        for text in result.notes:
            note(text)
        note(f"{result.counts.summary()}; {result.clouds}; {result.seconds['whole']:.1f} s")
    if printing.as_json:
        typer.echo(json.dumps(asdict(result) | (place or {}), indent=1, default=str))
    else:
        typer.echo("\n".join(str(path) for path in result.paths))


def _convert_place(
    search: "SearchRequest", target: str, output: str | None, options: "ConvertOptions", printing: Printing
) -> None:
    """Fetch the clearest scene of an area and a date, and convert it."""
    from ms2hs.cli import listing
    from ms2hs.places import plan_place
    from ms2hs.progress import progress_bar

    place = plan_place(search, target, output, options, to_fetch=not printing.dry_run)
    if not printing.quiet:
        print_left_out(place.selected.left_out)
        note(place.note)
    if printing.dry_run:
        facts = place.facts | {"target": target, "model": options.model, "output": str(place.output)}
        typer.echo(json.dumps(facts, indent=1) if printing.as_json else listing.text(facts))
        return
    with progress_bar(shown=not printing.quiet, unit="bytes") as progress:
        scene = str(place.fetch(progress))
    _convert_scene(scene, target, str(place.output), place.options, printing, place=place.facts)


def _check_place(context: typer.Context) -> None:
    """Refuse options that do not apply to a given scene, or to a scene that is searched."""
    if context.params["scenes"]:
        refuse(context, ["date", "provider", "max_cloud"], "the scene is given, and --bbox crops it")
        return
    if context.params["bbox"] is None:
        raise typer.BadParameter(
            "no scene and no place: a scene, or --bbox and --date, is needed. Use for example scene.tif, or --bbox "
            "7.1,46.2,7.3,46.4 --date 2024-06."
        )
    of_file = ["source", "bands", "scale", "offset", "dn_offset", "granule"]
    refuse(context, of_file, "the scene is searched, and its product is known")
    refuse(
        context, ["window", "workers", "scheduler", "shard"], "without a scene, the whole area of --bbox is converted"
    )


def _site(context: typer.Context, values: list[str]) -> tuple[Path, ...] | Literal["auto"]:
    """The cubes of --site, or `auto`."""
    if "auto" not in values:
        refuse(context, ["site_date", "site_limit"], "it needs --site auto")
        return tuple(map(Path, values))
    if len(values) > 1:
        raise typer.BadParameter(
            f"--site auto with {len(values) - 1} other values: auto, or cubes, are allowed. Leave one kind out; a file "
            "of this name is ./auto."
        )
    return "auto"


def _executor(workers: int | None, scheduler: str | None) -> "Executor | None":
    from ms2hs.conversion.dask_backend import Executor

    if workers and scheduler:
        raise typer.BadParameter(
            "--workers starts local processes, --scheduler uses a running cluster: one is allowed. Leave one out."
        )
    return Executor(workers, scheduler) if workers or scheduler else None


def _convert_batch(  # noqa: PLR0917 - called once, with all that the command has
    scenes: list[str],
    target: str,
    folder: str | None,
    options: "ConvertOptions",
    executor: "Executor | None",
    shard: Shard | None,
    printing: Printing,
) -> None:
    """Convert several scenes. A failing scene does not stop the others; failures are listed at the end."""
    from ms2hs.api import convert_all
    from ms2hs.progress import progress_bar

    start = time.perf_counter()
    with progress_bar(shown=not printing.quiet, unit="scenes") as progress:
        batch = convert_all(scenes, target, folder, options, executor=executor, shard=shard, progress=progress)
    if not printing.quiet:
        for text in batch.notes:
            note(text)
    print_failed(batch.failed.values())
    if not printing.quiet:
        count = len(batch.made) + len(batch.failed) + len(batch.there)
        kept = f", {len(batch.there)} already existed" if batch.there else ""
        note(f"{len(batch.made)} of {count} scenes converted{kept}; {time.perf_counter() - start:.1f} s")
    if printing.as_json:
        typer.echo(json.dumps(asdict(batch), indent=1, default=str))
    elif batch.made or batch.there:
        paths = [*batch.there.values(), *(path for one in batch.made.values() for path in one.paths)]
        typer.echo("\n".join(map(str, paths)))
    batch.check()
