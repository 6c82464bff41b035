"""The base of formats without overviews: strips of a cube are collected in memory and stored one after the other.

Threads compute the numbers of a strip, one row of blocks, into one array (band, row, col); the format then stores the
array. Memory holds one strip, whatever the height of the cube. The files are written in a working directory beside the
output, and renamed when the last strip is stored; an interrupted writer leaves no file and cannot be resumed.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ms2hs.arrays import DnArray
from ms2hs.errors import OutputError
from ms2hs.files import check_output, check_space, move_into_place, write_error
from ms2hs.raster.cog.block_compressor import processors, task_ranges
from ms2hs.raster.cog.encoding import REFLECTANCE, Encoding
from ms2hs.raster.cog.row_writer import RowWriter
from ms2hs.raster.cube_writer import BlockFiller, cube_names
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

STRIP = 128
"""Least height of a strip, in pixels: the blocks of the model, as of a COG, and not the chunks of the file."""
# Disk space of a cube as a multiple of its numbers, for compressed data that grows; and of coordinates and metadata.
GROWTH, METADATA_BYTES = 1.01, 2_000_000
# Memory of a strip that is being stored, as a multiple of its numbers: the numbers, and their compressed copies.
STRIP_COPIES = 3


class StripWriter(RowWriter[SpectralGrid]):
    """Writes a cube strip by strip; implements `CubeWriter` for the formats that derive from it.

    A format implements `begin`, `store` and `end`, which write to `self.work(name)`, where `name` is in `cube_names`.

    Raises
    ------
    OutputError : not enough space, or a failed write; from `__enter__`, `write`, `write_blocks` or `finish`.
    """

    def __init__(
        self,
        path: str | Path,
        grid: PixelGrid,
        bands: SpectralGrid,
        tags: dict[str, str],
        *,
        encoding: Encoding = REFLECTANCE,
        threads: int | None = None,
        home: Path | None = None,
    ) -> None:
        """Prepare a writer; no file is created yet. Parameters as of `CogWriter`; `home` is emptied."""
        super().__init__(path, grid, bands, tags, encoding=encoding, block=max(encoding.block, STRIP))
        self.threads, self._home = threads or processors(), home
        self._strip: DnArray | None = None
        self._stages = dict.fromkeys(("model", "store", "finish"), 0.0)

    def begin(self) -> None:
        """Create the files."""
        raise NotImplementedError

    def store(self, row: int, values: DnArray) -> None:
        """Store (band, row, width) numbers: one row of blocks, or all remaining rows."""
        raise NotImplementedError

    def end(self) -> None:
        """Complete the files."""

    def close(self) -> None:
        """Close the files, after success and after an error."""

    def work(self, name: str) -> Path:
        """Path of a file while it is being written."""
        return self._folder / name

    @property
    def kept_rows(self) -> int:
        """None: an interrupted writer starts over."""
        return 0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds to compute numbers (`model`), to `store` and to `finish` the files."""
        return dict(self._stages)

    def from_row(self, row: int) -> Self:
        """The writer; ValueError if `row` is not 0."""
        if row:
            raise ValueError(f"row {row}; the format starts at row 0")
        return self

    def __enter__(self) -> Self:
        """Create the working files, and start the threads."""
        check_output(self.path, overwrite=True)
        check_space(self.path.parent, disk_bytes(self.grid, len(self.bands), self.path.parent, self.encoding))
        with ExitStack() as stack, self._write_errors():
            self._folder = self._make_folder()
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.pool = stack.enter_context(ThreadPoolExecutor(self.threads, "strips"))
            stack.callback(self.close)
            self.begin()
            self._stack = stack.pop_all()
        return self

    def write(self, row: int, values: DnArray) -> None:
        """Append rows; parameters and errors as of `CogWriter.write`."""
        for first, part in self._parts(row, values):
            is_whole = first == 0 and self._ends_blocks
            strip = part if is_whole else self._buffer()
            if not is_whole:
                strip[:, first : first + part.shape[1]] = part
            if self._ends_blocks:
                self._store(strip[:, : (self._row - 1) % self.block + 1])

    def write_blocks(self, row: int, rows: int, fill: BlockFiller) -> None:
        """Append one row of blocks that threads compute; parameters and errors as of `CogWriter.write_blocks`."""
        self._append_blocks(row, rows)
        began = time.perf_counter()
        strip = self._buffer()[:, :rows]
        ranges = task_ranges(self.grid.width, len(self.bands), self.block, self.threads)
        for done in [self.pool.submit(fill, bands, cols, strip[bands, :, cols]) for cols, bands in ranges]:
            done.result()
        self._stages["model"] += time.perf_counter() - began
        self._store(strip)

    def wait(self) -> None:
        """Return at once: complete strips are stored by the calls that complete them."""

    def finish(self) -> None:
        """Complete the files and rename them, the cube last; ValueError if rows are missing."""
        self._check_complete()
        began = time.perf_counter()
        with self._write_errors():
            self.end()
            self.close()
            for name in reversed(cube_names(self.path)):
                move_into_place(self.work(name), self.path.with_name(name))
        self._stages["finish"] += time.perf_counter() - began
        self._is_finished = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish after success; after an error no file remains."""
        with self._stack:
            if kind is None and not self._is_finished:
                self.finish()

    def _store(self, values: DnArray) -> None:
        began = time.perf_counter()
        with self._write_errors():
            self.store(self._row - values.shape[1], values)
        self._stages["store"] += time.perf_counter() - began

    def _buffer(self) -> DnArray:
        if self._strip is None:
            rows = min(self.block, self.grid.height)
            self._strip = np.empty((len(self.bands), rows, self.grid.width), self.encoding.dtype)
        return self._strip

    def _make_folder(self) -> Path:
        if self._home is None:
            return Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        return self._home

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn errors of a write into OutputError."""
        try:
            yield
        except OutputError:
            raise
        except (OSError, RuntimeError) as error:  # HDF5 raises RuntimeError for a full disk
            raise write_error(self.path, error) from error


def disk_bytes(grid: PixelGrid, bands: int, _folder: Path, encoding: Encoding = REFLECTANCE) -> int:
    """Peak disk usage of a cube without overviews, in bytes; an upper bound for incompressible data."""
    return int(GROWTH * np.dtype(encoding.dtype).itemsize * bands * grid.height * grid.width) + METADATA_BYTES


def memory_bytes(grid: PixelGrid, bands: int, encoding: Encoding = REFLECTANCE, *, strips: bool = True) -> int:
    """Memory of a writer, in bytes, whatever the height; `strips` as in `cog.block_compressor.memory_bytes`."""
    del strips  # one strip waits in either case
    return STRIP_COPIES * 2 * bands * max(encoding.block, STRIP) * grid.width
