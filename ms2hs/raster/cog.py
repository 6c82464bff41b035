"""Hyperspectral cubes as cloud-optimised GeoTIFFs: the streaming writer; `cube` opens them again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ms2hs.errors import OutputError
from ms2hs.raster.dataset import quietly
from ms2hs.raster.directories import Directory, overview_of, pack, read_directory, with_blocks, with_places_together
from ms2hs.raster.output import check_output, check_space
from ms2hs.raster.pyramid import BLOCK, Levels, Numbers, Place, Pyramid
from ms2hs.raster.scene import PixelGrid
from ms2hs.raster.spool import EDGES, Spool
from ms2hs.raster.storage import REFLECTANCE, Storage
from ms2hs.spectra.grid import SpectralGrid, nearest_band

# What compression adds to a row of a block at worst, where nothing can be compressed and edges are repeated.
WORST_ROW_BYTES = 8
# The bands of a place are shared out in so many tasks a thread: few, for each costs a little; some, so that none idles.
TASKS_PER_THREAD = 4
# Red, green, blue for natural colour, in nm, and how far a band may lie from it.
RGB_NM = (650.0, 550.0, 470.0)
RGB_REACH_NM = 30.0
# rasterio raises some of GDAL's own errors unwrapped.
WRITE_ERRORS = (RasterioError, CPLE_BaseError, OSError)


def overview_levels(height: int, width: int) -> list[int]:
    """Factors 2, 4, …: as many as bring the long side below a block."""
    return [2**level for level in range(1, Levels(height, width).count)]


def disk_bytes(grid: PixelGrid, bands: int, storage: Storage = REFLECTANCE) -> int:
    """Most disk that writing a cube of `bands` takes at once, in bytes: the result, and its overviews once more.

    Blocks are taken as large as their numbers uncompressed, which noise comes near to; real scenes take a half or less.
    """
    levels = Levels(grid.height, grid.width)
    needed = 20_000 + 1000 * bands  # the head: place, tags of every band
    for level in range(levels.count):
        (height, width), (rows, cols) = levels.shape(level), levels.blocks(level)
        blocks = rows * cols * (BLOCK * WORST_ROW_BYTES + sum(EDGES))
        listed = 12 * rows * cols
        numbers = np.dtype(storage.dtype).itemsize * height * width + blocks
        needed += bands * (listed + numbers * (2 if level else 1))
    return needed


def memory_bytes(grid: PixelGrid, bands: int, rows: int) -> int:
    """Memory that a writer of int16 holds when strips have so many rows, in bytes; it does not grow with the height."""
    levels = Levels(grid.height, grid.width)
    waiting = BLOCK - rows if BLOCK % rows == 0 else BLOCK
    overviews = sum(levels.blocks(level)[1] * BLOCK * BLOCK // 2 for level in range(1, levels.count))
    return 2 * bands * (waiting * grid.width + overviews)


class CogWriter:
    """Writes a cube strip by strip, from the top; the COG stands under its name only once it is whole.

    A context manager. Rows wait until they fill blocks; blocks are compressed in parallel, those of the overviews too,
    and written to files of their own, in the order of a COG: the blocks of all bands of one place together, so that a
    spectrum is one short read. On a clean exit these become one file. All of it lives in a directory of its own beside
    the output, which vanishes whatever happens.

    Raises
    ------
    OutputError : no room, or a write failed; from `__enter__`, `write` or the exit.
    """

    def __init__(
        self,
        path: str | Path,
        grid: PixelGrid,
        spectral: SpectralGrid,
        tags: dict[str, str],
        *,
        storage: Storage = REFLECTANCE,
        threads: int | None = None,
    ) -> None:
        """Nothing is written yet.

        Parameters
        ----------
        path : where the COG goes; what is there is replaced (see `check_output`).
        grid : its pixels.
        spectral : its bands, in order.
        tags : of the data set: where it comes from.
        storage : how its numbers are stored.
        threads : how many compress blocks; None: as many as there are processors.
        """
        self.path = Path(path)
        self._grid = grid
        self._spectral = spectral
        self._tags = tags
        self._storage = storage
        self._dtype = np.dtype(storage.dtype)
        self._threads = threads or processors()
        self.is_done = False
        """Whether the COG stands under its name."""
        self._row = 0
        self._levels = Levels(grid.height, grid.width)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make the directory and the files."""
        check_output(self.path, overwrite=True)
        check_space(self.path.parent, disk_bytes(self._grid, len(self._spectral), self._storage))
        bands = len(self._spectral)
        with ExitStack() as stack, self._writing():
            home = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            self._image = self._describe()
            self._spool = Spool(home, self._levels, bands, len(self._head()))
            stack.callback(self._spool.close)
            self._pool = stack.enter_context(ThreadPoolExecutor(self._threads, "blocks"))
            self._stack = stack.pop_all()
        self._pyramid = Pyramid(self._levels, bands, self._dtype, self._storage.nodata)
        self._waiting = np.empty((bands, 0, self._grid.width), self._dtype)
        return self

    def write(self, row: int, strip: Numbers) -> None:
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
        if strip.dtype != self._dtype or (bands, width) != (len(self._spectral), self._grid.width):
            raise ValueError(
                f"{strip.dtype} {strip.shape}: {self._dtype} ({len(self._spectral)}, _, {self._grid.width}) is due"
            )
        if row != self._row or row + rows > self._grid.height:
            raise ValueError(f"rows {row} to {row + rows} of {self._grid.height}: row {self._row} is due")
        done = 0
        while done < rows:
            waiting = self._row % BLOCK
            part = strip[:, done : done + BLOCK - waiting]
            done, self._row = done + part.shape[1], self._row + part.shape[1]
            if self._row % BLOCK and self._row < self._grid.height:
                self._wait(waiting, part)
            else:
                with self._writing():
                    self._write_blocks((self._row - 1) // BLOCK, self._waiting[:, :waiting], part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the COG in place, or leave nothing."""
        with self._stack:
            if kind is None:
                self._finish()

    def _wait(self, waiting: int, part: Numbers) -> None:
        """Keep rows behind those that wait. There is room for no more than equal strips need, or for a whole block."""
        bands, rows, width = part.shape
        if waiting + rows > self._waiting.shape[1]:
            room = BLOCK if waiting or BLOCK % rows else BLOCK - rows
            larger = np.empty((bands, room, width), self._dtype)
            larger[:, :waiting] = self._waiting[:, :waiting]
            self._waiting = larger
        self._waiting[:, waiting : waiting + rows] = part

    def _write_blocks(self, row: int, upper: Numbers, lower: Numbers) -> None:
        """Compress and write a row of blocks, place by place, those of one place while the next are compressed."""
        bands = len(self._spectral)
        step = -(-bands // (TASKS_PER_THREAD * self._threads))
        tasks = [range(first, min(first + step, bands)) for first in range(0, bands, step)]
        done: list[list[tuple[int, bytes]]] = []
        for col in range(self._levels.blocks(0)[1]):
            compress = partial(self._compress, Place(0, row, col), upper, lower)
            futures = [self._pool.submit(compress, task) for task in tasks]
            self._append(done)
            done = _results(futures)
        self._append(done)

    def _compress(self, place: Place, upper: Numbers, lower: Numbers, bands: range) -> list[list[tuple[int, bytes]]]:
        """Of each band the blocks that this place completes, compressed, by level."""
        found = []
        cols = slice(place.col * BLOCK, (place.col + 1) * BLOCK)
        rows, width = upper.shape[1], min(BLOCK, self._grid.width - cols.start)
        for band in bands:
            block = np.empty((BLOCK, BLOCK), self._dtype)
            block[:rows, :width] = upper[band, :, cols]
            block[rows : rows + lower.shape[1], :width] = lower[band, :, cols]
            blocks = self._pyramid.add(band, place, block)
            found.append([(at.level, self._storage.compress(numbers)) for at, numbers in blocks])
        return found

    def _append(self, found: list[list[tuple[int, bytes]]]) -> None:
        """Write what a place completed: a band completes as many levels as every other."""
        for level, blocks in enumerate(zip(*found, strict=True)):
            self._spool.append(level, [block for _, block in blocks])

    def _describe(self) -> Directory:
        """The tags of the image as GDAL writes them, taken from a file of one pixel."""
        grid, spectral = self._grid, self._spectral
        placed = {} if grid.transform == tuple(Affine.identity())[:6] else {"transform": Affine(*grid.transform)}
        profile = placed | {
            "driver": "GTiff",
            "count": len(spectral),
            "height": 1,
            "width": 1,
            "crs": grid.crs,
            "dtype": self._storage.dtype,
            "nodata": self._storage.nodata,
            "BIGTIFF": "YES",
            "ENDIANNESS": "LITTLE",
            "INTERLEAVE": "BAND",
            "TILED": "YES",
            "BLOCKXSIZE": BLOCK,
            "BLOCKYSIZE": BLOCK,
            "COMPRESS": "ZSTD",
            "PREDICTOR": self._storage.predictor,
            "SPARSE_OK": "TRUE",
        }
        with quietly(), MemoryFile() as memory:
            with memory.open(**profile) as file:
                self._describe_bands(file)
            return with_places_together(read_directory(memory.read()))

    def _describe_bands(self, file: Any) -> None:  # noqa: ANN401 - rasterio has no types
        spectral, scale = self._spectral, self._storage.scale
        bands = range(1, len(spectral) + 1)
        if scale is not None:
            file.scales, file.offsets = [scale for _ in bands], [0.0 for _ in bands]
            file.units = ["1" for _ in bands]
        file.colorinterp = _colours(spectral.wavelength_nm)
        for i, name, centre, width in zip(bands, spectral.names, spectral.wavelength_nm, spectral.fwhm_nm, strict=True):
            file.set_band_description(i, f"{name} {centre:.1f} nm")
            micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
            file.update_tags(i, ns="IMAGERY", **micrometres)
        # ENVI's bad band list; copies by GDAL keep it only in the default domain
        good = ", ".join("1" if is_good else "0" for is_good in spectral.good)
        file.update_tags(**self._tags, bbl=f"{{{good}}}")

    def _head(self, spool: Spool | None = None) -> bytes:
        """All that comes before the blocks; as long, if blocks are not there yet, as when they are."""
        directories = []
        for level in range(self._levels.count):
            rows, cols = self._levels.blocks(level)
            nothing = np.zeros(len(self._spectral) * rows * cols)
            blocks = (spool.offsets(level), spool.sizes(level)) if spool else (nothing, nothing)
            directory = overview_of(self._image) if level else self._image
            directories.append(with_blocks(directory, self._levels.shape(level), *blocks))
        return pack(directories)

    def _finish(self) -> None:
        if self._row != self._grid.height:
            raise ValueError(f"{self._row} of {self._grid.height} rows were written")
        with self._writing():
            self._spool.join(self._head(self._spool))
            self._spool.path.replace(self.path)
            self.is_done = True
            # GDAL keeps statistics there; those of a file that was replaced are wrong
            self.path.with_name(self.path.name + ".aux.xml").unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except WRITE_ERRORS as error:
            free = shutil.disk_usage(self.path.parent).free
            needed = disk_bytes(self._grid, len(self._spectral), self._storage)
            raise OutputError(
                f"{self.path} could not be written ({error}); {free / 1e9:.2f} GB are free, and up to "
                f"{needed / 1e9:.2f} GB are needed in all. Free some space, or choose another disk."
            ) from error


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _results(futures: list[Future[list[list[tuple[int, bytes]]]]]) -> list[list[tuple[int, bytes]]]:
    return [blocks for future in futures for blocks in future.result()]


def _colours(wavelength_nm: NDArray[np.floating]) -> list[ColorInterp]:
    found = [nearest_band(wavelength_nm, target, RGB_REACH_NM) for target in RGB_NM]
    colours = [ColorInterp.undefined] * len(wavelength_nm)
    if None not in found and len(set(found)) == len(found):
        for band, colour in zip(found, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True):
            colours[band or 0] = colour
    return colours
