"""Hyperspectral cubes as cloud-optimised GeoTIFFs: the streaming writer; `cube` opens them again."""

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from ms2hs.errors import OutputError
from ms2hs.files import check_output, check_space, move_into_place
from ms2hs.raster.cog.block_store import EDGES, BlockStore, finished_rows
from ms2hs.raster.cog.encoding import REFLECTANCE, Storage
from ms2hs.raster.cog.overviews import BLOCK, Levels, Numbers, Place, Pyramid
from ms2hs.raster.cog.room import ALIGNMENT_BYTES
from ms2hs.raster.cog.tiff_ifd import Directory, overview_of, pack, with_blocks
from ms2hs.raster.cog.tiff_tags import BandLabels, describe
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

# What compression adds to a row of a block at worst, where nothing can be compressed and edges are repeated.
WORST_ROW_BYTES = 8
# The bands of a place are shared out in so many tasks a thread or more, so that none idles; each has so many or fewer,
# for their blocks to stay near the processor.
TASKS_PER_THREAD = 2
BANDS_AT_A_TIME = 16
# Tasks a thread that are made and compressed while others are written.
TASKS_AT_ONCE = 4
# What a thread needs beside, to halve and compress a task's blocks, as a multiple of these.
SCRATCHES = 6
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
    needed = 20_000 + ALIGNMENT_BYTES + 1000 * bands  # the head: place, tags of every band
    for level in range(levels.count):
        (height, width), (rows, cols) = levels.shape(level), levels.blocks(level)
        blocks = rows * cols * (BLOCK * WORST_ROW_BYTES + sum(EDGES))
        listed = 12 * rows * cols
        numbers = np.dtype(storage.dtype).itemsize * height * width + blocks
        needed += bands * (listed + numbers * (2 if level else 1))
    return needed


def memory_bytes(grid: PixelGrid, bands: int, *, strips: bool = True) -> int:
    """Memory that a writer of int16 holds, in bytes; it does not grow with the height.

    Parameters
    ----------
    strips : whether rows come in strips, and wait until they fill blocks.
    """
    levels = Levels(grid.height, grid.width)
    waiting = levels.blocks(0)[1] * BLOCK * BLOCK if strips else 0
    widths = (levels.shape(level)[1] for level in range(1, levels.count))
    overviews = sum((width + BLOCK // 2) * BLOCK // 2 for width in widths)
    threads = processors()
    each = 2 * TASKS_AT_ONCE + SCRATCHES  # as numbers, and compressed
    at_work = each * threads * _bands_at_a_time(bands, threads) * BLOCK * BLOCK
    return 2 * (bands * (waiting + overviews) + at_work)


def _bands_at_a_time(bands: int, threads: int) -> int:
    return min(-(-bands // (TASKS_PER_THREAD * threads)), BANDS_AT_A_TIME)


def _cut(length: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


Task = Future[list[list[bytes]]]

"""Makes and compresses the blocks of some bands of one place: by level, those that it completes."""

Filler = Callable[[slice, slice, Numbers], None]

"""Given bands, columns, and room for their numbers in a row of blocks, (band, rows, columns), puts them there."""


class CogWriter:
    """Writes a cube from the top down; the COG stands under its name only once it is whole.

    A context manager. Numbers come as strips (`write`), which wait until they fill blocks, or are made when a block is
    due, by the thread that then compresses it (`write_made`). Blocks are compressed in parallel, those of the overviews
    too, and written to files of their own, in the order of a COG: the blocks of all bands of one place together, so
    that a spectrum is one short read. On a clean exit these become one file. All of it lives in a directory of its own
    beside the output, which vanishes whatever happens; or in one that was given and stays if work is stopped, so that
    another writer of the same cube can go on there (`from_row`).

    Raises
    ------
    OutputError : no room, or a write failed; from `__enter__`, `write` or the exit.
    """

    def __init__(
        self,
        path: str | Path,
        grid: PixelGrid,
        spectral: SpectralGrid | BandLabels,
        tags: dict[str, str],
        *,
        storage: Storage = REFLECTANCE,
        threads: int | None = None,
        home: Path | None = None,
    ) -> None:
        """Nothing is written yet.

        Parameters
        ----------
        path : where the COG goes; what is there is replaced (see `check_output`).
        grid : its pixels.
        spectral : its bands, in order; labels of its bands, where not all of them have a wavelength.
        tags : of the data set: where it comes from.
        storage : how its numbers are stored.
        threads : how many compress blocks; None: as many as there are processors.
        home : a directory to work in, on the same disk, which is made if it is not there and stays if work is stopped;
            None: one of its own.
        """
        self.path = Path(path)
        self._grid = grid
        self._spectral = spectral
        self._tags = tags
        self._storage = storage
        self._dtype = np.dtype(storage.dtype)
        self._threads = threads or processors()
        self._took: list[tuple[str, float]] = []  # appended to by all threads at once
        self._row = 0
        self._levels = Levels(grid.height, grid.width)
        self._home = home
        self._stack = ExitStack()

    @cached_property
    def kept_rows(self) -> int:
        """Rows of pixels that a writer of the same cube left in `home`: from there on another can go on."""
        if self._home is None or not self._home.is_dir():
            return 0
        found = finished_rows(self._home, self._levels, len(self._spectral), len(self._head()))
        return min(found * BLOCK, self._grid.height)

    def from_row(self, row: int) -> Self:
        """The same writer, with `row` as the first that is due.

        Raises
        ------
        ValueError : fewer rows are kept, or it does not begin a row of blocks.
        """
        if row > self.kept_rows or (row % BLOCK and row != self._grid.height):
            raise ValueError(f"row {row}: a multiple of {BLOCK} up to {self.kept_rows} is due")
        self._row = row
        return self

    def __enter__(self) -> Self:
        """Make the directory and the files."""
        check_output(self.path, overwrite=True)
        check_space(self.path.parent, disk_bytes(self._grid, len(self._spectral), self._storage))
        bands, done = len(self._spectral), -(-self._row // BLOCK)
        storage = self._storage
        self._pyramid = Pyramid(self._levels, bands, self._dtype, storage.nodata, averages=storage.averages)
        with ExitStack() as stack, self._writing():
            self._spool = BlockStore(self._make_home(stack), self._levels, bands, len(self._head()), done)
            stack.callback(self._spool.close)
            self._restore(done)
            self._pool = stack.enter_context(ThreadPoolExecutor(self._threads, "blocks"))
            self._stack = stack.pop_all()
        self._step = _bands_at_a_time(bands, self._threads)
        self._units = list(product(_cut(self._grid.width, BLOCK), _cut(bands, self._step)))
        self._waiting: list[Numbers] = []
        self._free: list[Numbers] = []
        self._before: dict[int, Task] = {}
        self._due: deque[tuple[Task, Numbers]] = deque()
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
        self._check_turn(row, rows)
        done = 0
        while done < rows:
            waiting = self._row % BLOCK
            part = strip[:, done : done + BLOCK - waiting]
            done, self._row = done + part.shape[1], self._row + part.shape[1]
            if not waiting:
                self._waiting = [self._room() for _ in self._units]
            for room, (cols, some) in zip(self._waiting, self._units, strict=True):
                piece = part[some, :, cols]
                room[: len(piece), waiting : waiting + piece.shape[1], : piece.shape[2]] = piece
            if self._row % BLOCK == 0 or self._row == self._grid.height:
                for unit, room in zip(self._units, self._waiting, strict=True):
                    self._submit((self._row - 1) // BLOCK, *unit, room)

    def write_made(self, row: int, rows: int, fill: Filler) -> None:
        """Append a row of blocks whose numbers are made as they are due, in several threads at once.

        Parameters
        ----------
        row : the first of them: the one after those written before, a multiple of BLOCK.
        rows : BLOCK, or all that are left.
        fill : is called for each band and column once, soon or during one of the next calls.

        Raises
        ------
        OutputError : a write failed.
        ValueError : rows out of turn.
        """
        self._check_turn(row, rows)
        if row % BLOCK or rows != min(BLOCK, self._grid.height - row):
            raise ValueError(f"rows {row} to {row + rows}: a row of blocks is due")
        self._row += rows
        for cols, bands in self._units:
            room = self._room()
            part = room[: bands.stop - bands.start, :rows, : cols.stop - cols.start]
            self._submit(row // BLOCK, cols, bands, room, partial(fill, bands, cols, part))

    def wait(self) -> None:
        """Return when all rows of blocks that were written are compressed and in files.

        Raises
        ------
        OutputError : a write failed.
        """
        self._append(0)

    @property
    def seconds(self) -> dict[str, float]:
        """Time of threads in making numbers (`model`), compressing and storing them, and in finishing the file."""
        totals = dict.fromkeys(("model", "compress", "store", "finish"), 0.0)
        for stage, took in self._took:
            totals[stage] += took
        return totals

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the COG in place, or leave nothing."""
        with self._stack:
            try:
                if kind is None:
                    self._finish()
                elif self._home is not None:  # another writer will go on with what is due
                    with suppress(Exception):
                        self._append(0)
            finally:
                for task, _ in self._due:
                    task.cancel()

    def _make_home(self, stack: ExitStack) -> Path:
        if self._home is not None:
            self._home.mkdir(exist_ok=True)
            return self._home
        home = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        return home

    def _restore(self, done: int) -> None:
        """Bring the pyramid to where it was after so many rows of blocks."""
        bands = slice(0, len(self._spectral))
        for level in range(self._levels.count - 1):
            row, (rows, cols) = self._levels.rows_completed(level, done) - 1, self._levels.blocks(level)
            if row % 2 == 0 and row + 1 < rows:
                for col in range(cols):
                    blocks = self._storage.expand(self._spool.read(level, row * cols + col), BLOCK)
                    self._pyramid.restore(bands, Place(level, row, col), blocks)

    def _check_turn(self, row: int, rows: int) -> None:
        if row != self._row or row + rows > self._grid.height:
            raise ValueError(f"rows {row} to {row + rows} of {self._grid.height}: row {self._row} is due")

    def _room(self) -> Numbers:
        """Where numbers of some bands wait, (band, BLOCK, BLOCK); such as those that were appended left."""
        return self._free.pop() if self._free else np.empty((self._step, BLOCK, BLOCK), self._dtype)

    def _submit(
        self, row: int, cols: slice, bands: slice, room: Numbers, make: Callable[[], None] | None = None
    ) -> None:
        """Let blocks be made and compressed, and append what is done."""
        place, blocks = Place(0, row, cols.start // BLOCK), room[: bands.stop - bands.start]
        before = self._before.get(bands.start)
        task = self._before[bands.start] = self._pool.submit(self._compress, place, bands, blocks, make, before)
        self._due.append((task, room))
        self._append(TASKS_AT_ONCE * self._threads)

    def _compress(
        self, place: Place, bands: slice, blocks: Numbers, make: Callable[[], None] | None, before: Task | None
    ) -> list[list[bytes]]:
        """Of some bands the blocks that this place completes, compressed, by level."""
        if make:
            began = time.perf_counter()
            make()
            self._took.append(("model", time.perf_counter() - began))
        if before:
            before.result()  # a pyramid takes the places of a band one after the other
        began = time.perf_counter()
        compressed = [self._storage.compress(numbers) for _, numbers in self._pyramid.add(bands, place, blocks)]
        self._took.append(("compress", time.perf_counter() - began))
        return compressed

    def _append(self, waiting: int) -> None:
        """Write what the first tasks completed, until so many wait: bands follow each other, then places."""
        while len(self._due) > waiting:
            task, room = self._due[0]
            found = task.result()
            self._due.popleft()
            self._free.append(room)
            began = time.perf_counter()
            with self._writing():
                for level, blocks in enumerate(found):
                    self._spool.append(level, blocks)
            found.clear()  # the task of the next place holds it
            self._took.append(("store", time.perf_counter() - began))

    @cached_property
    def _image(self) -> Directory:
        return describe(self._grid, self._spectral, self._tags, self._storage)

    def _head(self, spool: BlockStore | None = None) -> bytes:
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
        self._append(0)
        began = time.perf_counter()
        with self._writing():
            self._spool.join(self._head(self._spool), self._pool)
            move_into_place(self._spool.path, self.path)
            # GDAL keeps statistics there; those of a file that was replaced are wrong
            self.path.with_name(self.path.name + ".aux.xml").unlink(missing_ok=True)
        self._took.append(("finish", time.perf_counter() - began))

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
