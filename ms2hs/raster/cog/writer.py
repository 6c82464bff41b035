"""Streaming writer of cubes as cloud-optimised GeoTIFFs.

Rows are appended from top to bottom, as strips or as rows of blocks that threads compute. `BlockCompressor` compresses
blocks and computes overviews in threads. `BlockStore` appends the blocks to one file per level, all bands of a location
together, so that a spectrum is one short read. After the last row, the head and the level files, smallest first, are
joined to a COG, which is renamed to its path. An interrupted run can be resumed from its level files.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from ms2hs.arrays import DnArray
from ms2hs.errors import OutputError
from ms2hs.files import check_output, check_space, move_into_place
from ms2hs.raster.cog.block_compressor import BlockCompressor
from ms2hs.raster.cog.block_store import BlockStore, disk_bytes, finished_block_rows
from ms2hs.raster.cog.encoding import REFLECTANCE, Encoding
from ms2hs.raster.cog.overviews import BlockIndex, Levels
from ms2hs.raster.cog.row_writer import RowWriter
from ms2hs.raster.cog.tiff_ifd import Directory, overview_directory, pack, with_blocks
from ms2hs.raster.cog.tiff_tags import BandLabels, image_directory
from ms2hs.raster.cube_writer import BlockFiller
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

# rasterio raises some GDAL errors without wrapping them.
WRITE_ERRORS = (RasterioError, CPLE_BaseError, OSError)


class CogWriter(RowWriter[SpectralGrid | BandLabels]):
    """Writes a cube as a COG, from the first row to the last; implements `CubeWriter`.

    Raises
    ------
    OutputError : not enough space, or a failed write; from `__enter__`, `write`, `write_blocks`, `wait` or `finish`.
    """

    def __init__(
        self,
        path: str | Path,
        grid: PixelGrid,
        bands: SpectralGrid | BandLabels,
        tags: dict[str, str],
        *,
        encoding: Encoding = REFLECTANCE,
        threads: int | None = None,
        home: Path | None = None,
    ) -> None:
        """Prepare a writer; no file is created yet.

        Parameters
        ----------
        path : the COG; an existing file is replaced.
        bands : the bands in order; `BandLabels` if some have no wavelength.
        threads : threads that compress; None: one per processor.
        home : working directory on the same disk, kept after an interruption, from which another writer of the same
            cube resumes (`from_row`); None: a temporary directory beside `path`.
        """
        super().__init__(path, grid, bands, tags, encoding=encoding, block=encoding.block)
        self._threads, self._home = threads, home
        self._levels = Levels(grid.height, grid.width, encoding.block)
        self._col = 0
        self._buffers: list[DnArray] = []
        self._stages: list[tuple[str, float]] = []

    @cached_property
    def kept_rows(self) -> int:
        """Rows in `home`, left by an interrupted writer of the same cube."""
        if self._home is None or not self._home.is_dir():
            return 0
        block_rows = finished_block_rows(self._home, self._levels, len(self.bands), len(self._head()))
        return min(block_rows * self.block, self.grid.height)

    def from_row(self, row: int) -> Self:
        """Resume an interrupted run at `row`; returns the writer.

        Raises
        ------
        ValueError : `row` is larger than `kept_rows` or is not the first of a row of blocks.
        """
        if row > self.kept_rows or (row % self.block and row != self.grid.height):
            raise ValueError(f"row {row}; expected a multiple of {self.block} up to {self.kept_rows}")
        self._row = row
        return self

    def __enter__(self) -> Self:
        """Create or reopen the level files, and start the threads."""
        check_output(self.path, overwrite=True)
        check_space(self.path.parent, self._disk_bytes())
        bands, block_rows = len(self.bands), -(-self._row // self.block)
        with ExitStack() as stack, self._write_errors():
            self._store = BlockStore(self._make_folder(stack), self._levels, bands, len(self._head()), block_rows)
            stack.callback(self._store.close)
            self._compressor = BlockCompressor(self._levels, bands, self.encoding, self._append, self._threads)
            stack.callback(self._compressor.close)
            self._stages = self._compressor.stages
            self._restore_overviews(block_rows)
            self._stack = stack.pop_all()
        return self

    def write(self, row: int, values: DnArray) -> None:
        """Append rows.

        Parameters
        ----------
        row : the first row; it follows the last appended row.
        values : (band, row, width) stored numbers (see `quantise`).

        Raises
        ------
        ValueError : rows out of order, or another shape or data type.
        """
        ranges = self._compressor.ranges
        for first, part in self._parts(row, values):
            if first == 0:
                self._buffers = [self._compressor.buffer() for _ in ranges]
            for buffer, (cols, some_bands) in zip(self._buffers, ranges, strict=True):
                piece = part[some_bands, :, cols]
                buffer[: len(piece), first : first + piece.shape[1], : piece.shape[2]] = piece
            if self._ends_blocks:
                for buffer, task_range in zip(self._buffers, ranges, strict=True):
                    self._compressor.submit((self._row - 1) // self.block, task_range, buffer)

    def write_blocks(self, row: int, rows: int, fill: BlockFiller) -> None:
        """Append one row of blocks whose numbers the compressing threads compute.

        Parameters
        ----------
        row : the first row, a multiple of `block`; it follows the last appended row.
        rows : `block`, or all remaining rows.
        fill : called once for each group of bands and each column of blocks, during this or a later call.

        Raises
        ------
        ValueError : rows out of order, or not a whole row of blocks.
        """
        self._append_blocks(row, rows)
        for task_range in self._compressor.ranges:
            cols, bands = task_range
            buffer = self._compressor.buffer()
            target = buffer[: bands.stop - bands.start, :rows, : cols.stop - cols.start]
            self._compressor.submit(row // self.block, task_range, buffer, partial(fill, bands, cols, target))

    def write_block(self, row: int, col: int, values: DnArray) -> None:
        """Append the blocks of all bands at one location: no row of blocks has to wait in memory.

        Parameters
        ----------
        row, col : the first pixel, multiples of `block`; locations follow each other left to right, then downwards.
        values : (band, `block`, `block`) stored numbers; fewer rows or columns at the lower and right edge.

        Raises
        ------
        ValueError : out of order, or another shape.
        """
        _, rows, cols = values.shape
        self._check_order(row, rows)
        expected = len(self.bands), min(self.block, self.grid.height - row), min(self.block, self.grid.width - col)
        if values.shape != expected or row % self.block or col != self._col:
            raise ValueError(f"values {values.shape} at column {col}; expected {expected} at column {self._col}")
        for task_range in self._compressor.ranges:
            if task_range.cols.start == col:
                buffer = self._compressor.buffer()
                buffer[: task_range.bands.stop - task_range.bands.start, :rows, :cols] = values[task_range.bands]
                self._compressor.submit(row // self.block, task_range, buffer)
        is_last = col + cols == self.grid.width
        self._row, self._col = (self._row + rows, 0) if is_last else (self._row, col + cols)

    def wait(self) -> None:
        """Return when all complete rows of blocks are compressed and on disk."""
        self._compressor.wait()

    def finish(self) -> None:
        """Join the level files to a COG and rename it to `path`.

        Raises
        ------
        ValueError : rows are missing.
        """
        self._check_complete()
        self.wait()
        began = time.perf_counter()
        with self._write_errors():
            move_into_place(self._store.join(self._head(self._store)), self.path)
            self._store.remove()
            # GDAL's cached statistics of a replaced file
            self.path.with_name(self.path.name + ".aux.xml").unlink(missing_ok=True)
        self._stages.append(("finish", time.perf_counter() - began))
        self._is_finished = True

    @property
    def seconds(self) -> dict[str, float]:
        """Thread seconds to compute numbers (`model`), `compress` and `store` blocks, and `finish` the file."""
        stages = "model", "compress", "store", "finish"
        return {stage: sum((seconds for name, seconds in self._stages if name == stage), 0.0) for stage in stages}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish after success; after an error keep complete blocks in `home`, or nothing."""
        with self._stack:
            if kind is None and not self._is_finished:
                self.finish()
            elif kind is not None and self._home is not None:
                with suppress(Exception):
                    self.wait()

    def _disk_bytes(self) -> int:
        return disk_bytes(self.grid, len(self.bands), self.path.parent, self.encoding)

    def _make_folder(self, stack: ExitStack) -> Path:
        if self._home is not None:
            self._home.mkdir(exist_ok=True)
            return self._home
        folder = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _restore_overviews(self, block_rows: int) -> None:
        """Bring the overviews to their state after this many rows of blocks."""
        for level in range(self._levels.count - 1):
            row, (rows, cols) = self._levels.rows_completed(level, block_rows) - 1, self._levels.blocks(level)
            if row % 2 == 0 and row + 1 < rows:
                for col in range(cols):
                    self._compressor.restore(BlockIndex(level, row, col), self._store.read(level, row * cols + col))

    def _append(self, level: int, blocks: list[bytes]) -> None:
        with self._write_errors():
            self._store.append(level, blocks)

    @cached_property
    def _image(self) -> Directory:
        return image_directory(self.grid, self.bands, self.tags, self.encoding)

    def _head(self, store: BlockStore | None = None) -> bytes:
        """The file up to its first block; without a store the same length, with zeros for offsets and sizes."""
        directories = []
        for level in range(self._levels.count):
            zeros = np.zeros(len(self.bands) * math.prod(self._levels.blocks(level)))
            blocks = (store.offsets(level), store.sizes(level)) if store else (zeros, zeros)
            directory = overview_directory(self._image) if level else self._image
            directories.append(with_blocks(directory, self._levels.shape(level), *blocks))
        return pack(directories)

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn errors of a write into OutputError, with the free and the needed space."""
        try:
            yield
        except WRITE_ERRORS as error:
            free, needed = shutil.disk_usage(self.path.parent).free, self._disk_bytes()
            raise OutputError(
                f"{self.path} could not be written ({error}); {free / 1e9:.2f} GB are free, up to {needed / 1e9:.2f} "
                "GB are needed. Free some space, or choose another disk."
            ) from error
