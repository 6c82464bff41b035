"""`ms2hs spectrum` and `ms2hs index`: numbers of a cube, at locations and for all pixels; `convert` of points."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ms2hs.cli.messages import note, print_left_out
from ms2hs.cli.options import INPUT, OUTPUT, AsJson, Overwrite, Quiet, example_epilog, given, refuse
from ms2hs.cli.parsers import is_number, parse_fields, parse_lonlat, parse_row_col

SPECTRUM_EPILOG = example_epilog(
    "ms2hs spectrum cube.tif --at 13.31,52.38",
    "ms2hs spectrum cube.tif --row-col 40,60 --plot spectrum.png",
    "ms2hs spectrum cube.tif --points plots.csv --json",
)

INDEX_EPILOG = example_epilog(
    "ms2hs index cube.tif NDVI CAI -o indices.tif",
    "ms2hs index cube.tif SAVI --set L=0.5",
    "ms2hs index --list",
)


def spectrum_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    cube: Annotated[str, typer.Argument(help="Cube that `convert` wrote, or any raster with wavelengths.")],
    at: Annotated[
        list[str] | None, INPUT("--at", metavar="LON,LAT", help="Location in degrees (WGS 84). Repeatable.")
    ] = None,
    row_col: Annotated[
        list[str] | None, INPUT("--row-col", metavar="R,C", help="Row and column, counted from 0. Repeatable.")
    ] = None,
    points: Annotated[
        Path | None, INPUT(help="CSV with the columns id, lon, lat; or a GeoPackage, GeoJSON or shapefile of points.")
    ] = None,
    plot: Annotated[Path | None, OUTPUT(metavar="PNG", help="Also draw the spectra, with 90 % intervals.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the spectra of some pixels as CSV: one row a band, with uncertainty and support."""
    from ms2hs.errors import NothingFound, PartlyDone, SceneError
    from ms2hs.files import check_output, file_ids, write_bytes
    from ms2hs.raster.cube import open_cube, pixel_grid_of
    from ms2hs.viewing.locations import Pixel, Point, check_pixels, find_pixels, read_points
    from ms2hs.viewing.spectrum_at import csv_text, json_facts, read_spectra
    from ms2hs.viewing.spectrum_plot import MAX_SPECTRA, check_plot, draw_spectra

    if not (at or row_col or points):
        raise typer.BadParameter(
            "no location; --at, --row-col or --points is needed. Write for example --at 13.31,52.38."
        )
    inputs = file_ids(path for path in (cube, points) if path)
    if plot:
        if plot.suffix.lower() != ".png":
            raise typer.BadParameter(f"--plot {plot} is no PNG; the suffix .png is needed. Write {plot.stem}.png.")
        check_plot()
        check_output(plot, overwrite=overwrite, inputs=inputs)
    given = [Point(text, *parse_lonlat(text)) for text in at or []] + (read_points(points) if points else [])
    numbered = [Pixel(text, *parse_row_col(text)) for text in row_col or []]
    opened = open_cube(cube)
    grid = pixel_grid_of(opened)
    (pixels, outside), (others, outside_too) = find_pixels(grid, given), check_pixels(grid, numbered)
    spectra, invalid = read_spectra(opened, [*pixels, *others])
    left_out, count = [*outside, *outside_too, *invalid], len(given) + len(numbered)
    if len(left_out) == count == 1:
        raise SceneError(f"{cube}: {left_out[0]}")
    print_left_out(left_out)
    if len(left_out) == count:
        raise NothingFound(
            f"{cube}: none of {count} locations has a spectrum; valid pixels inside the cube are needed. Choose other "
            "locations."
        )
    if not quiet and "sigma" not in opened:
        note(f"{cube} has no uncertainty; `ms2hs convert --uncertainty` writes it")
    typer.echo(
        json.dumps(json_facts(spectra), indent=1) if as_json else csv_text(spectra, with_id=count > 1), nl=as_json
    )
    if plot:
        if not quiet and spectra.sizes["point"] > MAX_SPECTRA:
            note(f"{plot} shows the first {MAX_SPECTRA} of {spectra.sizes['point']} spectra")
        write_bytes(plot, draw_spectra(spectra, Path(cube).name), overwrite=overwrite, inputs=inputs)
    if left_out:
        raise PartlyDone(
            f"{len(left_out)} of {count} locations have no spectrum; the others are complete. Choose other locations."
        )


def convert_points(context: typer.Context) -> bool:
    """`ms2hs convert` for spectra of points; False, and nothing done, if the first scene is no such file."""
    from ms2hs.conversion.point_spectra import convert_spectra, is_spectra

    if not is_spectra(next(iter(context.params["scenes"] or ()), "")):
        return False
    allowed = {"scenes", "target", "model", "output", "uncertainty", "overwrite", "as_json", "quiet"}
    refuse(context, sorted(set(context.params) - allowed), "the input is spectra of points, not a scene")
    options = context.params
    first, *others = options["scenes"]
    if others:
        raise typer.BadParameter(f"{first} is spectra of points, which are converted alone. Leave {others[0]} out.")
    model = options["model"] if given(context, "model") else "linear"
    output = Path(options["output"]) if options["output"] else None
    flags = {name: options[name] for name in ("uncertainty", "overwrite")}
    result = convert_spectra(Path(first), options["target"], output, model=model, **flags)
    if not options["quiet"]:
        note(f"{result.spectra} spectra, {result.unlike} unlike the training data; each converted alone by the prior")
    print_left_out(f"{name}: too few known bands" for name in result.left_out)
    facts = asdict(result) | {"output": str(result.output), "sigma": result.sigma and str(result.sigma)}
    typer.echo(json.dumps(facts, indent=1) if options["as_json"] else "\n".join(map(str, result.paths)))
    return True


def complete_index() -> list[str]:
    """Names of spectral indices."""
    from ms2hs.spectra.index_catalogue import indices_by_name

    return list(indices_by_name())


def index_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    cube: Annotated[
        str | None,
        typer.Argument(help="Cube that `convert` wrote, or any raster with wavelengths.", show_default=False),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME…", help="Index names.", autocompletion=complete_index, show_default=False),
    ] = None,
    list_names: Annotated[
        bool, INPUT("--list", help="List names, formulas, wavelengths and sources.", show_default=False)
    ] = False,
    constants: Annotated[
        list[str] | None, INPUT("--set", metavar="NAME=VALUE", help="Constant of a formula, such as L=0.5. Repeatable.")
    ] = None,
    output: Annotated[
        Path | None, OUTPUT("-o", "--output", help="Output .tif.", show_default="<cube>_indices.tif")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write spectral indices of a cube as a COG, with uncertainty where the cube has one."""
    from ms2hs.errors import visible
    from ms2hs.progress import progress_bar
    from ms2hs.spectra.index_catalogue import indices_by_name
    from ms2hs.viewing.band_indices import write_indices

    if list_names:
        facts = [index.facts() for index in indices_by_name().values()]
        lines = [visible(_line(fact)) for fact in facts]
        typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(lines))
        return
    if cube is None or not names:
        raise typer.BadParameter("no cube or no index; both are needed. Write for example cube.tif NDVI, or --list.")
    fields = parse_fields(constants or [])
    if wrong := [value for value in fields.values() if not is_number(value)]:
        raise typer.BadParameter(f"--set with {wrong[0]!r}; a number is needed. Write for example --set L=0.5.")
    numbers = {name: float(value) for name, value in fields.items()}
    with progress_bar(shown=not quiet) as progress:
        result = write_indices(cube, names, output, constants=numbers, overwrite=overwrite, progress=progress)
    if not quiet:
        for text in (*(text for facts in result.indices for text in facts["notes"]), *result.notes):
            note(text)
    typer.echo(json.dumps(result.to_json(), indent=1) if as_json else str(result.output))


def _line(facts: dict[str, Any]) -> str:
    """An index on one line: name, formula, wavelengths, source."""
    wavelengths = ", ".join(f"{name} {nm}" for name, nm in facts["bands_nm"].items())
    return f"{facts['name']:<14} {facts['formula']}  [{wavelengths} nm]  {facts['title']}. {facts['source']}"
