"""`ms2hs map`: maps of classes or values by a tuned model."""

import json
from typing import Annotated, Any, Literal

import typer

from ms2hs.cli.messages import note, print_log
from ms2hs.cli.options import (
    GSDS,
    MODEL,
    OUTPUT,
    REGION,
    Area,
    AreaPixels,
    AsJson,
    BandNames,
    DnOffset,
    Force,
    Granule,
    ModelDevice,
    Offset,
    Overwrite,
    Quality,
    Quiet,
    Scale,
    Source,
    example_epilog,
)
from ms2hs.cli.parsers import parse_gsd

EPILOG = example_epilog(
    "ms2hs map scene.tif --model tuned.safetensors",
    "ms2hs map scene.tif --model tuned.safetensors --probability best -o map.tif",
    "ms2hs map before.tif after.tif --model change.safetensors",
)


def map_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE [AFTER]",
            help="Scene as for convert, or a GeoTIFF or ENVI cube with wavelengths; for a model of change the scene "
            "before, then the scene after.",
        ),
    ],
    model: Annotated[
        str, MODEL(metavar="FILE", help="Weights with the head of a task, as `finetune --labels` writes them.")
    ],
    source: Source = None,
    bands: BandNames = None,
    scale: Scale = None,
    offset: Offset = None,
    dn_offset: DnOffset = None,
    granule: Granule = None,
    force: Force = False,
    quality: Quality = True,
    gsd: Annotated[  # noqa: ANN401 - a number or `native`, and Typer takes no union
        Any,
        REGION(
            parser=parse_gsd,
            metavar="METRES",
            help="Pixel size of the map in metres, or `native`: the scene's own.",
            show_default="native",
            autocompletion=lambda: list(GSDS),
        ),
    ] = None,
    bbox: Area = None,
    window: AreaPixels = None,
    device: ModelDevice = "auto",
    output: Annotated[
        str | None,
        OUTPUT(
            "-o", "--output", metavar="PATH", help="Output .tif, or a directory.", show_default="<scene>_classes.tif"
        ),
    ] = None,
    probability: Annotated[
        Literal["best", "all"] | None,
        OUTPUT(help="Write <output>_probability.tif: of the best class, or a band for each of all classes."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map classes or values of a scene by a tuned model."""
    from ms2hs.progress import progress_bar
    from ms2hs.scenes.scene import SceneOptions
    from ms2hs.tasks.maps.mapping import MapOptions, map_scene

    if not quiet:
        print_log()
    names = tuple(map(str.strip, bands.split(","))) if bands else None
    options = MapOptions(
        SceneOptions(source, names, scale, offset, dn_offset, quality, granule),
        force=force,
        gsd_m=gsd or "native",
        bbox=bbox,
        window=window,
        probability=probability,
        overwrite=overwrite,
    )
    with progress_bar(shown=not quiet) as progress:
        result = map_scene(*scenes, model=model, output=output, options=options, device=device, progress=progress)
    if not quiet:
        for text in result.notes:
            note(text)
        note(result.summary())
    typer.echo(json.dumps(result.to_json(), indent=1) if as_json else "\n".join(map(str, result.paths)))
