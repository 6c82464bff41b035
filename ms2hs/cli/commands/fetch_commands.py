"""`ms2hs fetch`: multispectral scenes and hyperspectral cubes from STAC servers."""

import json
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ms2hs.cli.messages import note, print_failed, print_left_out, warn
from ms2hs.cli.options import (
    GSDS,
    INPUT,
    OUTPUT,
    AsJson,
    Overwrite,
    Quiet,
    complete_collection,
    complete_provider,
    example_epilog,
    panel,
    refuse,
)
from ms2hs.cli.parsers import BBox, parse_bbox, parse_gsd
from ms2hs.errors import NothingFound, PartlyDone
from ms2hs.fetching.cubes.products import PRODUCTS
from ms2hs.remote.providers import DEFAULT_PROVIDER, PROVIDERS

if TYPE_CHECKING:
    from ms2hs.fetching.fetcher import FetchOptions, FetchResult
    from ms2hs.fetching.selection import SearchRequest

AREA, SEARCH = panel("Area and date"), panel("Search")
EPILOG = example_epilog(
    "ms2hs fetch --bbox 7.1,46.2,7.3,46.4 --date 2024-06 --list",
    "ms2hs fetch --bbox 7.1,46.2,7.3,46.4 --date 2024-06-01/2024-06-30 --max-cloud 5 -o scenes/",
    "ms2hs fetch --product emit --bbox 7.1,46.2,7.3,46.4 --near 2024-06-15 -o cubes/",
)


class Sort(StrEnum):
    """Which scenes come first, and so within the limit."""

    cloud = "cloud"
    date = "date"
    coverage = "coverage"


ProductName = StrEnum("ProductName", {name: name for name in PRODUCTS})  # type: ignore[misc]  # names from a table


def fetch_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    bbox: Annotated[BBox | None, AREA(parser=parse_bbox, metavar="W,S,E,N", help="Area in degrees.")] = None,
    intersects: Annotated[Path | None, AREA(help="GeoJSON file with polygons, instead of --bbox.")] = None,
    date: Annotated[
        str | None,
        AREA(
            "--date", "--datetime", metavar="DATE", help="Day, month, year or range: 2024-06-01/2024-06-30, 2024-06/..."
        ),
    ] = None,
    products: Annotated[
        list[Path] | None,
        AREA(
            "--for",
            metavar="PRODUCT",
            help="EnMAP, EMIT or Tanager product whose area and date are searched, instead. Repeatable.",
        ),
    ] = None,
    days: Annotated[int, AREA(min=0, max=36_500, help="With --for: largest difference in calendar days.")] = 3,
    product: Annotated[
        ProductName | None,
        SEARCH(
            help="Fetch cubes of a hyperspectral product, by default of any date since 2022: "
            + "; ".join(f"{product.name} ({product.title})" for product in PRODUCTS.values())
            + ".",
            show_default=False,
        ),
    ] = None,
    near: Annotated[
        datetime | None,
        SEARCH(
            formats=["%Y-%m-%d"],
            metavar="DAY",
            help="With --product: order by cloud cover, then by the season and distance of this day.",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        SEARCH(
            help=f"STAC provider: {', '.join(PROVIDERS)}.",
            show_default=DEFAULT_PROVIDER,
            autocompletion=complete_provider,
        ),
    ] = None,
    stac: Annotated[str | None, SEARCH(metavar="URL", help="Another STAC API; needs --collection.")] = None,
    collection: Annotated[
        str | None,
        SEARCH(
            "-c",
            "--collection",
            help="STAC collection, such as hls2-s30.",
            show_default="the provider's first",
            autocompletion=complete_collection,
        ),
    ] = None,
    max_cloud: Annotated[
        float | None, SEARCH(help="Largest cloud cover of a scene, in percent.", show_default="20")
    ] = None,
    limit: Annotated[int | None, SEARCH(min=1, help="Largest number of scenes.", show_default="10")] = None,
    sort: Annotated[Sort, SEARCH(help="Order of the scenes, applied before --limit.")] = Sort.cloud,
    items: Annotated[Path | None, INPUT(help="STAC items saved by --save, instead of a search.")] = None,
    list_only: Annotated[bool, OUTPUT("--list", help="List the scenes, fetch nothing.", show_default=False)] = False,
    save: Annotated[Path | None, OUTPUT(help="Save the STAC items in this JSON file, fetch nothing.")] = None,
    output: Annotated[Path, OUTPUT("-o", "--output", help="Output directory; its parent must exist.")] = Path("scenes"),
    gsd: Annotated[  # noqa: ANN401 - a number or `native`, and Typer takes no union
        Any,
        OUTPUT(
            parser=parse_gsd,
            metavar="METRES",
            help="Pixel size in metres, or `native`: one unchanged file a band.",
            autocompletion=lambda: list(GSDS),
        ),
    ] = "30",
    mosaic: Annotated[
        bool, OUTPUT("--mosaic", help="Merge the scenes of one overpass, the clearest on top.", show_default=False)
    ] = False,
    jobs: Annotated[int, OUTPUT(min=1, help="Parallel connections.")] = 4,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch Sentinel-2 and HLS scenes of an area and a date, ready to convert, or hyperspectral cubes (--product)."""
    from ms2hs.fetching import selection
    from ms2hs.fetching.cubes.cube_fetcher import fetch_cubes
    from ms2hs.fetching.cubes.product_search import select_passes
    from ms2hs.fetching.fetcher import FetchOptions, fetch
    from ms2hs.fetching.stac_search import write_items
    from ms2hs.files import check_output, file_ids, files_in
    from ms2hs.progress import progress_bar

    _check_options(context)
    request = selection.SearchRequest(
        bbox, intersects, date, provider, stac, collection, max_cloud, limit, sort.value, items
    )
    options = FetchOptions(gsd_m=gsd, mosaic=mosaic, jobs=jobs, overwrite=overwrite)
    inputs = file_ids(files_in([items, intersects]))
    if save is not None:
        check_output(save, overwrite=overwrite, inputs=inputs)
    if products:
        _fetch_for_products(products, days, request, output, options, quiet=quiet, as_json=as_json)
        return
    to_fetch = not (list_only or save is not None)
    if product is None:
        selected = selection.select(request, to_fetch=to_fetch)
    else:
        selected = select_passes(request, PRODUCTS[product.value], near and near.date(), to_fetch=to_fetch)
    print_left_out(selected.left_out)  # also with --quiet: the server has scenes that are not in the result
    if save is not None:
        write_items(save, selected.items, selected.area, overwrite=overwrite, inputs=inputs)
    if not to_fetch:
        facts = [candidate.facts for candidate in selected.candidates]
        typer.echo(json.dumps(facts, indent=1) if as_json else selection.format_table(selected.candidates))
        return
    with progress_bar(shown=not quiet, unit="bytes") as progress:
        fetch_items = fetch if product is None else fetch_cubes
        result = fetch_items(selected.items, selected.area, output, options, progress)
    if not quiet:
        print_left_out(result.left_out)
        kind = "scenes" if product is None else "cubes"
        note(f"{len(result.paths)} {kind}, {result.kept} already existed; {result.bytes_read / 1e6:.1f} MB read")
    print_failed(result.failed)
    typer.echo(json.dumps(asdict(result), indent=1, default=str) if as_json else "\n".join(map(str, result.paths)))
    _check_failed(len(result.failed), len(selected.items))


def _check_options(context: typer.Context) -> None:
    """Refuse options that do not apply to each other."""
    values = context.params
    for is_so, names, reason in (
        (not values["products"], ["days"], "it needs --for PRODUCT"),
        (values["products"], ["list_only", "save"], "--for always fetches"),
        (values["product"] is None, ["near"], "it needs --product NAME"),
        (values["product"] is not None, ["products"], "--product searches no multispectral scenes"),
        (values["product"] is not None, ["gsd", "mosaic"], "cubes keep their own grid"),
        (values["near"] is not None, ["sort"], "--near gives the order"),
        (values["items"] is not None, ["sort", "near"], "the items of --items keep their order"),
        (values["list_only"] or values["save"], ["output", "gsd", "mosaic", "jobs"], "--list and --save fetch nothing"),
    ):
        if is_so:
            refuse(context, names, reason)


def _fetch_for_products(
    products: list[Path],
    days: int,
    request: "SearchRequest",
    output: Path,
    options: "FetchOptions",
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch the scenes of each hyperspectral product into a folder of its name."""
    from ms2hs.fetching.fetcher import fetch, make_folder
    from ms2hs.fetching.selection import find_scene_matches
    from ms2hs.progress import progress_bar

    left_out: dict[str, str] = {}
    results: dict[str, FetchResult] = {}
    for match in find_scene_matches(products, request, days, left_out):
        make_folder(output)
        try:
            with progress_bar(shown=not quiet, unit="bytes") as progress:
                results[match.product] = fetch(match.items, match.area, output / match.product, options, progress)
        except NothingFound as error:
            left_out[match.product] = str(error)
    failed = [line for result in results.values() for line in result.failed]
    if not quiet:
        for line in left_out.values():
            warn(line)
    print_failed(failed)
    if not results:
        raise NothingFound(
            f"no scene was taken within {days} days of any of the products; one is needed. Use a larger --days or "
            "--max-cloud."
        )
    paths = [path for result in results.values() for path in result.paths]
    facts = {name: asdict(result) for name, result in results.items()}
    typer.echo(json.dumps(facts, indent=1, default=str) if as_json else "\n".join(map(str, paths)))
    _check_failed(len(failed), len(failed) + len(paths))


def _check_failed(failed: int, count: int) -> None:
    """Raise PartlyDone where scenes failed."""
    if failed:
        raise PartlyDone(
            f"{failed} of {count} scenes could not be fetched; the others are complete. Run the same command again: "
            "it keeps these and retries the rest."
        )
