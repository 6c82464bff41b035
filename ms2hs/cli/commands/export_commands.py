"""`ms2hs export`: cubes in other formats."""

from typing import Annotated

import typer

from ms2hs.cli.messages import note
from ms2hs.cli.options import BlockSize, Compress, Overwrite, Quiet, example_epilog

EPILOG = example_epilog(
    "ms2hs export cube.tif cube.zarr",
    "ms2hs export cube.tif cube.hdr",
    "ms2hs export cube.tif web.tif --compress deflate",
)


def export_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    cube: Annotated[str, typer.Argument(help="Cube that `convert` wrote, or any raster with wavelengths.")],
    output: Annotated[str, typer.Argument(help="Output .zarr, .hdr or .dat (ENVI), .nc, or .tif.")],
    compress: Compress = None,
    blocksize: BlockSize = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a cube and its uncertainty in another format: Zarr, ENVI, NetCDF or COG."""
    from ms2hs.progress import progress_bar
    from ms2hs.viewing.format_export import export

    with progress_bar(shown=not quiet) as progress:
        exported = export(cube, output, compress=compress, blocksize=blocksize, overwrite=overwrite, progress=progress)
    if exported.clipped and not quiet:
        note(f"{exported.clipped} values beyond ±3.2767 do not fit 16 bits, and were set to this limit")
    typer.echo("\n".join(map(str, exported.paths)))
