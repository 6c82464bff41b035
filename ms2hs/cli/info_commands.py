"""`ms2hs info` and `ms2hs example`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ms2hs.cli.options import AsJson, Overwrite, complete_model, complete_preset, complete_source, complete_target


def complete_name() -> list[str]:
    """Every name that `info` describes."""
    return [*complete_source(), *complete_target(), *complete_model(), *complete_preset()]


def info_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Sensor, weights or preset.", show_default="list everything", autocompletion=complete_name),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List sensors, targets, weights, presets and data formats, or describe one."""
    from ms2hs.cli import listing

    found = listing.entry(name) if name else listing.entries()
    typer.echo(json.dumps(found, indent=1) if as_json else listing.text(found))


def example_command(
    path: Annotated[Path, typer.Argument(help="Output GeoTIFF.")] = Path("example.tif"),
    overwrite: Overwrite = False,
) -> None:
    """Write a small simulated Sentinel-2 scene."""
    from ms2hs.datasets.simulation.example_scene import write_example

    typer.echo(write_example(path, overwrite=overwrite))
