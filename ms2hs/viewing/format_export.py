"""Cubes copied to another format: the same numbers, bands, grid and tags, and the uncertainty beside the cube.

Threads read some columns of a strip; the writer stores the strip. Rasters that store numbers as ms2hs does are copied
number by number. Others, Zarr and NetCDF are read as reflectance, and rounded to steps of 1e-4: reflectance in such
steps stays as it is. The files are written in a folder beside the output and moved into place when all are complete.
"""

import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from rasterio.windows import Window

from ms2hs.arrays import DnArray
from ms2hs.conversion.result_files import publish_files
from ms2hs.errors import OutputError
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.progress import Progress
from ms2hs.raster.cog.block_compressor import processors
from ms2hs.raster.cog.encoding import MAX_DN, Compression, Encoding, quantise
from ms2hs.raster.cube import (
    ENGINES,
    NODATA,
    SCALE,
    open_cube,
    pixel_grid_of,
    sigma_beside,
    spectral_grid_of,
)
from ms2hs.raster.cube_writer import cube_names, cube_path, sigma_name
from ms2hs.raster.dataset import open_dataset, read_bands
from ms2hs.raster.formats import format_of
from ms2hs.raster.header import image_of
from ms2hs.remote.object_store import RemotePath, parse_output

# Columns that a thread reads at once, and rows of a strip: whole blocks of the largest size. A strip of a wide cube has
# fewer rows.
COLS, ROWS, MIN_ROWS, MAX_STRIP_BYTES = 256, 256, 64, 400_000_000
# Bands that are read at once as reflectance: whole chunks of Zarr and NetCDF.
BANDS = 64
# Reflectance from here on does not fit int16.
LARGEST = (MAX_DN + 0.5) * SCALE
# In the names of attributes that belong to a format and not to the cube: `proj:code`, `Conventions`.
FORMAT_TAG = re.compile(r":|^Conventions$")
Read = Callable[[slice, slice, DnArray], int]
"""Called with rows, columns and an array (band, row, col), which it fills; returns how many values were clipped."""


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
    sources = {"reflectance": image_of(str(cube)), "sigma": image_of(str(sigma_beside(cube)))}
    outputs = {"reflectance": path, "sigma": path.with_name(sigma_name(path))}
    if "sigma" not in opened:
        del sources["sigma"], outputs["sigma"]
    inputs = file_ids([*sources.values(), *files_in([cube, *sources.values()])])
    names = [name for one in outputs.values() for name in cube_names(one)]
    for name in names:
        check_output(path.with_name(name), overwrite=overwrite, inputs=inputs)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        clipped = 0
        for quantity, one in outputs.items():
            read, numbers = _reader(opened, quantity, sources[quantity]), replace(encoding, quantity=quantity)
            clipped += _write(read, opened, Path(folder, one.name), numbers, progress)
        publish_files([Path(folder, name) for name in names], path, overwrite=overwrite, inputs=inputs)
    return Exported(path, outputs.get("sigma"), clipped)


def _reader(opened: xr.Dataset, quantity: str, source: str) -> Read:
    """How to read the stored numbers of a variable."""
    if Path(source).suffix.lower() not in ENGINES:
        with open_dataset(source) as file:
            kinds = set(file.dtypes), set(file.scales), set(file.offsets), set(file.nodatavals)
        if kinds == ({"int16"}, {SCALE}, {0.0}, {NODATA}):
            return partial(_copy_numbers, source)
    return partial(_quantise_values, opened[quantity])


def _copy_numbers(source: str, rows: slice, cols: slice, out: DnArray) -> int:
    """Read the stored numbers of a raster into `out`; no value is clipped."""
    with open_dataset(source) as file:
        out[...] = read_bands(file, file.indexes, Window.from_slices(rows, cols))
    return 0


def _quantise_values(variable: xr.DataArray, rows: slice, cols: slice, out: DnArray) -> int:
    """Read reflectance, and write it into `out` as numbers; returns how many values are clipped."""
    clipped = 0
    for first in range(0, len(variable), BANDS):
        values = variable[first : first + BANDS, rows, cols].values
        clipped += int((np.abs(values) >= LARGEST).sum())
        quantise(values, np.ones(values.shape[1:], bool), out=out[first : first + BANDS])
    return clipped


def _write(read: Read, opened: xr.Dataset, path: Path, encoding: Encoding, progress: Progress | None) -> int:
    """Write one variable of a cube; returns the number of clipped values."""
    grid, bands = pixel_grid_of(opened), spectral_grid_of(opened)
    tags = {str(name): text for name, text in opened.attrs.items() if isinstance(text, str)}
    tags = {name: text for name, text in tags.items() if not FORMAT_TAG.search(name)}
    height = ROWS
    while height > MIN_ROWS and height * grid.width * len(bands) * 2 > MAX_STRIP_BYTES:
        height //= 2
    strip, clipped = np.empty((len(bands), height, grid.width), np.int16), 0
    parts = [slice(left, min(left + COLS, grid.width)) for left in range(0, grid.width, COLS)]
    writer = format_of(path).writer(path, grid, bands, tags, encoding=encoding)
    with writer, ThreadPoolExecutor(processors(), "read") as pool:
        for top in range(0, grid.height, height):
            rows = slice(top, min(top + height, grid.height))
            numbers = strip[:, : rows.stop - top]
            reading = [pool.submit(read, rows, cols, numbers[:, :, cols]) for cols in parts]
            clipped += sum(done.result() for done in reading)
            writer.write(top, numbers)
            if progress:
                progress(f"export {encoding.quantity}", rows.stop, grid.height)
    return clipped
