"""`ms2hs prepare` and `ms2hs pairs`: data for training and evaluation."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ms2hs.cli.messages import note, print_left_out
from ms2hs.cli.options import (
    DATA,
    INPUT,
    OUTPUT,
    AsJson,
    DnOffset,
    ImageSource,
    Offset,
    Overwrite,
    Quiet,
    Scale,
    Seed,
    Split,
    example_epilog,
)

PREPARE_EPILOG = example_epilog(
    "ms2hs prepare HySpecNet-11k/ -o shards/",
    "ms2hs prepare HySpecNet-11k/ -o shards/train --split easy/train",
    "ms2hs prepare BigEarthNet-S2/ -o shards/ --window 64",
)
PAIRS_EPILOG = example_epilog(
    "ms2hs pairs enmap/ --scenes scenes/ -o pairs/",
    "ms2hs pairs EMIT_L2A_RFL_….nc --scenes scenes/ --days 1 -o pairs/",
    "ms2hs pairs enmap/ --scenes hls/ --scenes sentinel2/ --window 64 -o pairs/",
)


def prepare_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    folder: Annotated[
        Path, typer.Argument(help="Folder of cubes or images, in a data format that `ms2hs info` lists.")
    ],
    output: Annotated[
        Path,
        OUTPUT("-o", "--output", help="Directory for the shards; created if missing."),
    ],
    window: Annotated[int, DATA(min=1, help="Window size, in pixels.")] = 128,
    split: Split = None,
    source: ImageSource = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Pack hyperspectral cubes or multispectral images into shards for training."""
    from ms2hs.datasets.cubes import packing
    from ms2hs.progress import progress_bar

    with progress_bar(shown=not quiet) as progress:
        result = packing.prepare(folder, output, window, progress, split, source=source, overwrite=overwrite)
    if not quiet:
        note(
            f"{result.windows} windows in {len(result.paths)} shards; {result.left_out} with less than "
            f"{packing.MIN_KNOWN_SHARE:.0%} known pixels left out"
        )
    typer.echo("\n".join(str(path) for path in result.paths))


def pairs_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    hyperspectral: Annotated[
        list[Path],
        typer.Argument(help="EnMAP, EMIT or Tanager products, HySpecNet-11k, georeferenced cubes; or folders of them."),
    ],
    scenes: Annotated[
        list[Path],
        INPUT(help="Sentinel-2 or HLS scene, or a folder of scenes. Repeatable."),
    ],
    output: Annotated[
        Path,
        OUTPUT("-o", "--output", help="Directory for the pairs; its parent must exist."),
    ],
    scale: Scale = None,
    offset: Offset = None,
    dn_offset: DnOffset = None,
    days: Annotated[int, DATA(min=0, help="Largest difference in calendar days.")] = 3,
    window: Annotated[int, DATA(min=16, help="Window size, in pixels.")] = 128,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Cut pairs: windows that a multispectral and a hyperspectral sensor measured within a few days, on one grid."""
    from ms2hs.datasets.pairs import pairing
    from ms2hs.progress import progress_bar

    options = pairing.PairOptions(days, window, scale, offset, dn_offset, seed)
    with progress_bar(shown=not quiet) as progress:
        result = pairing.pair(hyperspectral, scenes, output, options, progress, overwrite=overwrite)
    if not quiet:
        for match in result.matches:
            note(match.summary())
            for text in match.notes:
                note(text)
        for text in result.notes:
            note(text)
        print_left_out(pairing.left_out_lines(result.left_out))
        note(
            f"{result.pairs} pairs of {len(result.matches)} matches, {result.windows_left_out} windows left out; "
            f"{len(result.left_out)} products, scenes and matches left out"
        )
    typer.echo(json.dumps(pairing.facts(result), indent=1) if as_json else result.output)
