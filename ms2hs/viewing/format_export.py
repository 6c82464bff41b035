"""Cubes copied to another format: the same numbers, bands, grid and tags, and the uncertainty beside the cube.

Threads read parts of some columns of a strip; the writer stores the strip. Reflectance in steps of 1e-4 survives the
way through float32 without change; other reflectance is rounded to these steps. The files are written in a folder
beside the output and moved into place when all are complete.
"""

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from ms2hs.arrays import DnArray
from ms2hs.conversion.result_files import publish_files
from ms2hs.errors import OutputError
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.progress import Progress
from ms2hs.raster.cog.block_compressor import processors
from ms2hs.raster.cog.encoding import MAX_DN, Compression, Encoding, quantise
from ms2hs.raster.cube import SCALE, open_cube, pixel_grid_of, sigma_beside, spectral_grid_of
from ms2hs.raster.cube_writer import cube_names, cube_path, sigma_name
from ms2hs.raster.formats import format_of
from ms2hs.remote.object_store import RemotePath, parse_output

# Columns that a thread reads at once, and rows of a strip: whole blocks of the largest size. A strip of a wide cube has
# fewer rows.
COLS, ROWS, MIN_ROWS, MAX_STRIP_BYTES = 256, 256, 64, 400_000_000
# Reflectance from here on does not fit int16.
LARGEST = (MAX_DN + 0.5) * SCALE
# In the names of attributes that belong to a format and not to the cube: `proj:code`, `Conventions`.
FORMAT_TAG = re.compile(r":|^Conventions$")


class Exported(NamedTuple):
    """The files of an exported cube."""

    output: Path
    sigma: Path | None
    clipped: int = 0
    """Number of values beyond the range of int16, ±3.2767, which were set to the limit."""

    @property
    def paths(self) -> list[Path]:
        """Every file, the cube first; a Zarr store is one path."""
        cubes = [cube for cube in (self.output, self.sigma) if cube]
        return [cube.with_name(name) for cube in cubes for name in cube_names(cube)]


def export(
    cube: str | Path,
    output: str | Path,
    *,
    compress: Compression | None = None,
    blocksize: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a cube, and its uncertainty if it lies beside the cube, in another format or with other blocks.

    Parameters
    ----------
    cube : a cube that `open_cube` opens.
    output : its suffix, one of `raster.formats.FORMATS`, is the format.
    compress, blocksize : as in `ConvertOptions`.
    progress : called with the rows done and all rows.

    Raises
    ------
    SceneError : not a cube. OutputError : a format, compression or path that is not possible; no file is left then.
    """
    target = cube_path(parse_output(output))
    if isinstance(target, RemotePath):
        raise OutputError(
            f"{target}: a cube is exported to the local disk; a local path is needed. Export to a local path, and copy "
            "the files."
        )
    path, encoding = target, format_of(target).encoding(compress, blocksize)
    opened = open_cube(cube)
    quantities = [name for name in ("reflectance", "sigma") if name in opened]
    outputs = [path, path.with_name(sigma_name(path))][: len(quantities)]
    sources = [cube_path(Path(cube)), sigma_beside(cube)]
    inputs = file_ids([str(cube), *files_in(one.with_name(name) for one in sources for name in cube_names(one))])
    names = [name for one in outputs for name in cube_names(one)]
    for name in names:
        check_output(path.with_name(name), overwrite=overwrite, inputs=inputs)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        clipped = sum(
            _write(opened, quantity, Path(folder, one.name), encoding, progress)
            for quantity, one in zip(quantities, outputs, strict=True)
        )
        publish_files([Path(folder, name) for name in names], path, overwrite=overwrite, inputs=inputs)
    return Exported(path, outputs[1] if len(outputs) > 1 else None, clipped)


def _write(opened: xr.Dataset, quantity: str, path: Path, encoding: Encoding, progress: Progress | None) -> int:
    """Write one variable of a cube; returns the number of clipped values."""
    grid, bands = pixel_grid_of(opened), spectral_grid_of(opened)
    tags = {
        str(name): text
        for name, text in opened.attrs.items()
        if isinstance(text, str) and not FORMAT_TAG.search(str(name))
    }
    rows = ROWS
    while rows > MIN_ROWS and rows * grid.width * len(bands) * 2 > MAX_STRIP_BYTES:
        rows //= 2
    strip, clipped = np.empty((len(bands), rows, grid.width), np.int16), 0
    parts = [slice(left, min(left + COLS, grid.width)) for left in range(0, grid.width, COLS)]
    writer = format_of(path).writer(path, grid, bands, tags, encoding=replace(encoding, quantity=quantity))
    with writer, ThreadPoolExecutor(processors(), "read") as pool:
        for top in range(0, grid.height, rows):
            numbers = strip[:, : min(rows, grid.height - top)]

            def read(cols: slice, top: int = top, numbers: DnArray = numbers) -> int:
                values = opened[quantity][:, top : top + numbers.shape[1], cols].values
                quantise(values, np.ones(values.shape[1:], bool), out=numbers[:, :, cols])
                return 0 if np.nanmax(np.abs(values), initial=0) < LARGEST else int((np.abs(values) >= LARGEST).sum())

            clipped += sum(pool.map(read, parts))
            writer.write(top, numbers)
            if progress:
                progress(f"export {quantity}", top + numbers.shape[1], grid.height)
    return clipped
