"""`ms2hs info`, `ms2hs example` and `ms2hs demo`."""

import json
import os
import sys
import time
import webbrowser
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ms2hs.cli.messages import note
from ms2hs.cli.options import (
    OUTPUT,
    AsJson,
    Overwrite,
    Quiet,
    complete_camera,
    complete_model,
    complete_preset,
    complete_source,
    complete_target,
    refuse,
)


def complete_name() -> list[str]:
    """Every name that `info` describes."""
    return [*dict.fromkeys((*complete_source(), *complete_target(), *complete_model(), *complete_preset()))]


class ExampleKind(StrEnum):
    """What `example` writes."""

    scene = "scene"
    bench = "bench"


def info_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Sensor, weights or preset.", show_default="list everything", autocompletion=complete_name),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List sensors, targets, weights, presets, and formats of labels and data, or describe one."""
    from ms2hs.cli import listing

    found = listing.entry(name) if name else listing.entries()
    typer.echo(json.dumps(found, indent=1) if as_json else listing.text(found))


def example_command(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="Output file.", show_default="example.tif, or bench.dat")] = None,
    kind: Annotated[
        ExampleKind, typer.Option(help="A Sentinel-2 scene, or a bench with leaves and soil below a camera.")
    ] = ExampleKind.scene,
    camera: Annotated[str, typer.Option(help="Camera above the bench.", autocompletion=complete_camera)] = "specim-iq",
    overwrite: Overwrite = False,
) -> None:
    """Write a small simulated Sentinel-2 scene, or the cube of a camera above a bench."""
    from ms2hs.datasets.simulation.bench_scene import write_bench
    from ms2hs.datasets.simulation.example_scene import write_example

    if kind is ExampleKind.bench:
        typer.echo(write_bench(path or Path("bench.dat"), camera, overwrite=overwrite))
    else:
        refuse(context, ["camera"], "it is for --kind bench")
        typer.echo(write_example(path or Path("example.tif"), overwrite=overwrite))


def demo_command(
    folder: Annotated[Path, typer.Argument(help="Output directory.")] = Path("demo"),
    to_open: Annotated[
        bool, OUTPUT("--open/--no-open", help="Open the page in a browser, if a display exists.")
    ] = True,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write the example scene, convert it, and show the cube in a browser; works offline."""
    from ms2hs.api import convert
    from ms2hs.conversion.planning import ConvertOptions
    from ms2hs.datasets.simulation.example_scene import write_example
    from ms2hs.progress import progress_bar
    from ms2hs.viewing.page import view

    began = time.perf_counter()
    folder.mkdir(exist_ok=True)
    scene = write_example(folder / "example.tif", overwrite=overwrite)
    options = ConvertOptions(uncertainty=True, input_error="none", overwrite=overwrite)  # the scene is simulated
    with progress_bar(shown=not quiet) as progress:
        result = convert(scene, "enmap", folder / "example_enmap.tif", options, progress)
    page = view(result.output, folder / "example.html", scene=scene, overwrite=overwrite)
    typer.echo("\n".join(map(str, (scene, *result.paths, page))))
    if not quiet:
        note(f"{time.perf_counter() - began:.0f} s; a click on the picture in {page} shows the pixel's spectrum")
    if to_open and can_show():
        webbrowser.open(page.resolve().as_uri())


def can_show() -> bool:
    """Whether a browser with a window can be opened: not in continuous integration, and not without a display."""
    has_display = sys.platform in {"darwin", "win32"} or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    return bool(has_display) and not os.environ.get("CI")
