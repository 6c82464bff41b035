"""Hyperspectral cubes as cloud-optimised GeoTIFFs: the streaming writer; `cube` opens them again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.env import getenv, hasenv
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.errors import OutputError
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.dataset import quietly
from ms2hs.raster.output import check_output, check_space
from ms2hs.raster.pyramid import Pyramid
from ms2hs.raster.scene import PixelGrid
from ms2hs.spectra.grid import SpectralGrid, nearest_band

BLOCK = 256
"""Pixels along a side of a block of the COG."""

# GDAL takes 5 % of the machine's memory by default; this much keeps a row of blocks of one band many times over.
CACHE_BYTES = 128_000_000
# Rows of a block of the temporary file. A block that two strips share waits in the cache for every band at once, so it
# must be low; GDAL copies from blocks of this width about a quarter faster than from whole rows.
TEMPORARY_ROWS = 16
# Red, green, blue for natural colour, in nm, and how far a band may lie from it.
RGB_NM = (650.0, 550.0, 470.0)
RGB_REACH_NM = 30.0
# rasterio raises GDAL's own errors unwrapped from overviews and copies.
WRITE_ERRORS = (RasterioError, CPLE_BaseError, OSError)


def quantise(
    reflectance: NDArray[np.float32], valid: NDArray[np.bool_], out: NDArray[np.int16] | None = None
) -> NDArray[np.int16]:
    """Reflectance as stored numbers: `round(reflectance / SCALE)`, at most ±32767, NODATA where there is none.

    Parameters
    ----------
    reflectance : (band, row, col) float32, unitless; NaN is taken as invalid.
    valid : (row, col) True where usable.
    out : (band, row, col) int16 to write to, such as the one of the strip before.
    """
    dn = np.empty(reflectance.shape, np.int16) if out is None else out
    scratch = np.empty(valid.shape, np.float32)
    sunk = np.where(valid, np.float32(0), np.float32(-1e9))
    all_valid = bool(valid.all())
    for band, plane in zip(dn, reflectance, strict=True):
        np.multiply(plane, np.float32(1 / SCALE), out=scratch)
        np.rint(scratch, out=scratch)
        np.clip(scratch, -32767, 32767, out=scratch)
        if not all_valid or np.isnan(scratch).any():
            scratch += sunk
            np.fmax(scratch, NODATA, out=scratch)  # of NaN too
        np.copyto(band, scratch, casting="unsafe")
    return dn


def overview_levels(height: int, width: int) -> list[int]:
    """Factors 2, 4, …: as many as bring the long side below a block."""
    levels: list[int] = []
    while -(-max(height, width) // (2 ** len(levels))) >= BLOCK:
        levels.append(2 ** (len(levels) + 1))
    return levels


def disk_bytes(grid: PixelGrid, bands: int) -> int:
    """Most disk that writing a cube of `bands` takes at once, in bytes: the temporary files, and the COG beside them.

    The temporary files' sizes are exact but for their headers. The COG is taken as large as its numbers uncompressed,
    which noise comes near to; real scenes take a half or less.
    """
    sizes = [
        (-(-grid.height // level), -(-grid.width // level)) for level in (1, *overview_levels(grid.height, grid.width))
    ]
    low_blocks = sum(-(-height // TEMPORARY_ROWS) * -(-width // BLOCK) for height, width in sizes)
    strips = 2 * BLOCK * TEMPORARY_ROWS * low_blocks
    result = sum(2 * height * width for height, width in sizes)
    headers = 5000 + 32 * low_blocks
    return bands * (strips + result + headers)


class CogWriter:
    """Writes a cube strip by strip, from the top; the COG stands under its name only once it is whole.

    A context manager. Strips, and those of the overviews that they average to, go to uncompressed temporary files,
    where a strip costs no more than its bytes; on a clean exit GDAL copies them into blocks, overviews first, as a COG
    wants them. All of it lives in a directory of its own beside the output, which vanishes whatever happens.

    Raises
    ------
    OutputError : no room, or a write failed; from `__enter__`, `write` or the exit.
    """

    def __init__(self, path: str | Path, grid: PixelGrid, spectral: SpectralGrid, tags: dict[str, str]) -> None:
        """Nothing is written yet.

        Parameters
        ----------
        path : where the COG goes; what is there is replaced (see `check_output`).
        grid : its pixels.
        spectral : its bands, in order.
        tags : of the data set: where it comes from.
        """
        self.path = Path(path)
        self._grid = grid
        self._spectral = spectral
        self._tags = tags
        self.is_done = False
        """Whether the COG stands under its name."""
        self._row = 0
        self._folder: Path | None = None
        self._levels = len(overview_levels(grid.height, grid.width))
        self._pyramid = Pyramid(grid.height, self._levels)
        self._files: list[Any] = []

    def __enter__(self) -> Self:
        """Make the temporary file."""
        check_output(self.path, overwrite=True)
        check_space(self.path.parent, disk_bytes(self._grid, len(self._spectral)))
        try:
            with self._writing(), quietly():
                self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
                self._files = [self._temporary(level) for level in range(self._levels + 1)]
                self._describe()
        except BaseException:
            self._clean()
            raise
        return self

    def write(self, row: int, strip: NDArray[np.int16]) -> None:
        """Append rows.

        Parameters
        ----------
        row : the first of them: the one after those written before.
        strip : (band, rows, width) stored numbers (see `quantise`).

        Raises
        ------
        OutputError : the write failed.
        ValueError : rows out of turn, or of another shape or type.
        """
        bands, rows, width = strip.shape
        if strip.dtype != np.int16 or (bands, width) != (len(self._spectral), self._grid.width):
            raise ValueError(
                f"{strip.dtype} {strip.shape}: int16 ({len(self._spectral)}, _, {self._grid.width}) is due"
            )
        if row != self._row or row + rows > self._grid.height:
            raise ValueError(f"rows {row} to {row + rows} of {self._grid.height}: row {self._row} is due")
        with self._writing():
            self._files[0].write(strip, window=Window(0, row, width, rows))
            for level, first, half in self._pyramid.add(strip):
                self._files[level + 1].write(half, window=Window(0, first, half.shape[2], half.shape[1]))
        self._row += rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the COG in place, or leave nothing."""
        try:
            if kind is None:
                self._finish()
        finally:
            self._clean()

    @property
    def _strips(self) -> Path:
        return self._home / "strips.tif"

    @property
    def _home(self) -> Path:
        if self._folder is None:
            raise ValueError("the writer is not open; use it in a with statement")
        return self._folder

    def _temporary(self, level: int) -> Any:  # noqa: ANN401 - rasterio has no types
        """The file of the strips, or of an overview: GDAL takes `x.tif.ovr` as that of `x.tif`, and so on."""
        grid = self._grid
        placed = {} if grid.transform == tuple(Affine.identity())[:6] else {"transform": Affine(*grid.transform)}
        profile = placed | {
            "driver": "GTiff",
            "count": len(self._spectral),
            "height": -(-grid.height // 2**level),
            "width": -(-grid.width // 2**level),
            "crs": grid.crs,
            "dtype": "int16",
            "nodata": NODATA,
            "BIGTIFF": "YES",
            "INTERLEAVE": "BAND",
            "TILED": "YES",
            "BLOCKXSIZE": BLOCK,
            "BLOCKYSIZE": TEMPORARY_ROWS,
        }
        return rasterio.open(f"{self._strips}{'.ovr' * level}", "w", **profile)

    def _describe(self) -> None:
        file, spectral = self._files[0], self._spectral
        bands = range(1, len(spectral) + 1)
        file.scales, file.offsets = [SCALE for _ in bands], [0.0 for _ in bands]
        file.units = ["1" for _ in bands]
        file.colorinterp = _colours(spectral.wavelength_nm)
        for i, name, centre, width in zip(bands, spectral.names, spectral.wavelength_nm, spectral.fwhm_nm, strict=True):
            file.set_band_description(i, f"{name} {centre:.1f} nm")
            micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
            file.update_tags(i, ns="IMAGERY", **micrometres)
        # ENVI's bad band list; the copy keeps it only in the default domain
        good = ", ".join("1" if is_good else "0" for is_good in spectral.good)
        file.update_tags(**self._tags, bbl=f"{{{good}}}")

    def _finish(self) -> None:
        if self._row != self._grid.height:
            raise ValueError(f"{self._row} of {self._grid.height} rows were written")
        result = self._home / self.path.name
        with self._writing(), quietly():
            for file in self._files:
                file.close()
            rasterio.shutil.copy(
                self._strips,
                result,
                driver="GTiff",
                TILED="YES",
                BLOCKXSIZE=BLOCK,
                BLOCKYSIZE=BLOCK,
                INTERLEAVE="BAND",
                COMPRESS="ZSTD",
                ZSTD_LEVEL=1,
                PREDICTOR=2,
                BIGTIFF="YES",
                COPY_SRC_OVERVIEWS="YES",
                NUM_THREADS="ALL_CPUS",
            )
            _check_whole(result)
            result.replace(self.path)
            self.is_done = True
            # GDAL keeps statistics there; those of a file that was replaced are wrong
            self.path.with_name(self.path.name + ".aux.xml").unlink(missing_ok=True)

    def _clean(self) -> None:
        for file in self._files:
            with _environment(), suppress(*WRITE_ERRORS):
                file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _environment():
                yield
        except WRITE_ERRORS as error:
            free = shutil.disk_usage(self.path.parent).free
            needed = disk_bytes(self._grid, len(self._spectral))
            raise OutputError(
                f"{self.path} could not be written ({error}); {free / 1e9:.2f} GB are free, and up to "
                f"{needed / 1e9:.2f} GB are needed in all. Free some space, or choose another disk."
            ) from error


def _colours(wavelength_nm: NDArray[np.floating]) -> list[ColorInterp]:
    found = [nearest_band(wavelength_nm, target, RGB_REACH_NM) for target in RGB_NM]
    colours = [ColorInterp.undefined] * len(wavelength_nm)
    if None not in found and len(set(found)) == len(found):
        for band, colour in zip(found, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True):
            colours[band or 0] = colour
    return colours


def _check_whole(path: Path) -> None:
    """Refuse a file that lacks a block: GDAL does not report that the disk filled up while it copied.

    Raises
    ------
    OSError : a block is missing, or ends beyond the end of the file.
    """
    end = path.stat().st_size
    with rasterio.open(path) as file:
        shapes = [file.shape, *(tuple(-(-n // level) for n in file.shape) for level in file.overviews(1))]
        for band in file.indexes:
            for level, (height, width) in enumerate(shapes):
                for y in range(-(-height // BLOCK)):
                    for x in range(-(-width // BLOCK)):
                        if _block_end(file, band, level, f"{x}_{y}") > end:
                            raise OSError(f"band {band} is not whole")


def _block_end(file: rasterio.DatasetReader, band: int, level: int, block: str) -> float:
    ovr = level - 1 if level else None
    start = file.get_tag_item(f"BLOCK_OFFSET_{block}", "TIFF", bidx=band, ovr=ovr)
    size = file.get_tag_item(f"BLOCK_SIZE_{block}", "TIFF", bidx=band, ovr=ovr)
    return int(start) + int(size) if start and size else float("inf")


def _environment() -> rasterio.Env:
    """GDAL's settings for writing; a cache size that the user has set counts."""
    settings = {"GDAL_TIFF_OVR_BLOCKSIZE": BLOCK}
    if "GDAL_CACHEMAX" not in os.environ and not (hasenv() and "GDAL_CACHEMAX" in getenv()):
        settings["GDAL_CACHEMAX"] = CACHE_BYTES  # in bytes here, unlike in the environment
    return rasterio.Env(**settings)
