"""The pixels of a conversion on their way: read ahead, converted, counted, written, a row of blocks at a time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.conversion.planning import Plan
from ms2hs.conversion.statistics import COMPARED, Statistics
from ms2hs.models.denoising import REACH, denoise
from ms2hs.models.prior import Posterior
from ms2hs.progress import Progress
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.overviews import BLOCK, Numbers
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.tiling import Tiling, Window
from ms2hs.scenes.reader import SceneReader

if TYPE_CHECKING:
    from ms2hs.inference.device_transfer import StoredStrip
    from ms2hs.inference.predictor import Predictor

# The linear model is soonest done where bands of so many pixels stay near the processor.
PART_PIXELS = 1 << 14


@dataclass
class Source:
    """Reads a scene's rows, without noise if its size is told, one window ahead of who takes them."""

    planned: Plan
    reader: SceneReader
    seconds: float = 0.0
    """Time in reading."""

    def ahead(self, windows: list[Window]) -> Iterator[tuple[Window, Float32Array, BoolArray]]:
        """Each window, as wide as the scene, with (band, row, col) reflectance and (row, col) where it is usable."""
        with ThreadPoolExecutor(1, "reader") as thread:
            due = thread.submit(self.read, windows[0]) if windows else None
            for window, following in zip(windows, [*windows[1:], None], strict=True):
                assert due is not None  # noqa: S101  submitted with the window before
                reflectance, valid = due.result()
                due = thread.submit(self.read, following) if following else None
                yield window, reflectance, valid

    def read(self, window: Window) -> tuple[Float32Array, BoolArray]:
        """Reflectance and where it is usable."""
        began = time.perf_counter()
        try:
            return self._read(window)
        finally:
            self.seconds += time.perf_counter() - began

    def _read(self, window: Window) -> tuple[Float32Array, BoolArray]:
        error = self.planned.choices.input_error
        if error is None or not error.pixel:
            return self.reader.read(window.row, window.col, window.height, window.width)
        # rows beyond the window too, so that a value does not depend on how the scene was cut; windows are as wide
        above = min(REACH, window.row)
        below = min(REACH, self.planned.grid.height - window.row - window.height)
        rows = slice(above, above + window.height)
        seen, valid = self.reader.read(window.row - above, window.col, above + window.height + below, window.width)
        return np.ascontiguousarray(denoise(seen, valid, error.pixel)[:, rows]), valid[rows]


Make = Callable[[Float32Array, BoolArray], Float32Array]

"""Of pixels, (source band, pixel) and (pixel,), the values of some bands of a result, (band, pixel)."""


@dataclass(eq=False)
class PixelFlow:
    """Converts by the linear model: each block when it is due, by the thread that then compresses it."""

    planned: Plan
    model: Posterior
    source: Source
    census: Statistics
    seconds = 0.0
    """Time in the model, without that of the writers' threads."""

    def threads(self) -> AbstractContextManager[object]:
        """In it, until the writers are done, each thread multiplies alone: as many blocks are at work as processors.

        Shared among threads, a product is cut otherwise and rounded otherwise, and would not be the same again.
        """
        alone: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
        return alone

    def run(self, writers: list[CogWriter], begin: int, note: Callable[[int], None], tell: Progress) -> None:
        """Convert the rows from `begin` on, a multiple of BLOCK.

        Parameters
        ----------
        writers : of the values and, if there are two, of their uncertainty.
        note : called with the rows that were taken up by the census.
        """
        grid = self.planned.grid
        makers = self._values, self._sigma
        for window, reflectance, valid in self.source.ahead(_rows_of_blocks(begin, grid.height, grid.width)):
            self.census.keep(window.row, reflectance, valid)
            blocks = [_Pixels.of(reflectance, valid, first) for first in range(0, grid.width, BLOCK)]
            for writer, maker in zip(writers, makers, strict=False):
                writer.write_made(window.row, window.height, partial(_fill, blocks, maker))
            for block in blocks:
                self._look(block)
            note(window.row + window.height)
            tell("convert", window.row + window.height, grid.height)

    def _values(self, bands: slice) -> Make:
        return self._of(bands.start, bands.stop).reconstruct

    def _sigma(self, bands: slice) -> Make:
        model = self._of(bands.start, bands.stop)
        return lambda reflectance, _valid: model.sigma(reflectance)

    @cache  # noqa: B019  lives as long as the conversion
    def _of(self, first: int, stop: int) -> Posterior:
        return self.model.select(slice(first, stop))

    def _look(self, block: "_Pixels") -> None:
        self.census.count(block.reflectance, block.valid)
        seen, ok = block.thinned(COMPARED)
        differences = self._difference @ seen[:, ok]
        self.census.compare(np.square(differences).sum(axis=1, dtype=float), int(ok.sum()))

    @cached_property
    def _difference(self) -> Float32Array:
        return self.census.closure.of(self.model.gain)


@dataclass(eq=False)
class WindowFlow:
    """Converts by a network, in rows of windows on its device; a GPU goes on while what these finish is written."""

    planned: Plan
    model: Posterior
    """Of the uncertainty."""
    source: Source
    census: Statistics
    network: "Predictor"
    change: Float32Array | None = None
    """(target band, source band) what adaptation changes of the linear model; a network's result changes by as much."""
    seconds: float = 0.0
    """Time in the network and in blending and quantising what it makes."""

    def threads(self) -> AbstractContextManager[object]:
        """As `PixelFlow.threads`: nothing, since a network multiplies one thing at a time."""
        return nullcontext()

    def run(self, writers: list[CogWriter], begin: int, note: Callable[[int], None], tell: Progress) -> None:
        """As `PixelFlow.run`."""
        from ms2hs.inference.device_transfer import Comparison  # noqa: PLC0415
        from ms2hs.inference.tile_runner import TileRunner  # noqa: PLC0415  the linear model needs no torch

        grid, network, closure = self.planned.grid, self.network, self.census.closure
        if network.is_local:
            tiling = Tiling(grid.height, grid.width, (self.planned.rows_at_a_time, grid.width), overlap=0)
        else:
            tiling = Tiling(grid.height, grid.width, network.window, network.overlap)
        compared = None if closure.matrix is None else Comparison(closure.matrix, closure.bands, COMPARED)
        assembly = TileRunner(network, tiling, SCALE, NODATA, change=self.change, comparison=compared, start=begin)
        windows = [Window(top, 0, end - top, grid.width) for top, end in tiling.rows[assembly.begin :]]
        # A network on a processor keeps all of it busy: writers beside it would cost it more than they gain, since all
        # threads of a product wait for the one that was held up.
        takes_turns = network.device.type == "cpu"
        with ThreadPoolExecutor(1, "writer") as writing:
            taken: Future[None] | None = None
            for i, (window, reflectance, valid) in enumerate(self.source.ahead(windows), assembly.begin):
                began = time.perf_counter()
                strip = assembly.add(i, reflectance, valid)
                self.seconds += time.perf_counter() - began
                if taken:
                    taken.result()
                if strip:
                    skipped = strip.row - window.row
                    taken = writing.submit(self._take, writers, strip, reflectance[:, skipped:], valid[skipped:], note)
                    tell("convert", strip.row, grid.height)
                    if takes_turns:
                        taken.result()
                        for writer in writers:
                            writer.wait()
            if taken:
                taken.result()
            tell("convert", grid.height, grid.height)

    def _take(
        self,
        writers: list[CogWriter],
        strip: "StoredStrip",
        reflectance: Float32Array,
        valid: BoolArray,
        note: Callable[[int], None],
    ) -> None:
        """Write and count a strip, cut where rows of blocks end: what is noted then is of whole ones."""
        numbers, squares = strip.numbers, strip.squares
        self.census.keep(strip.row, reflectance[:, : numbers.shape[1]], valid[: numbers.shape[1]])
        first, last = strip.row, strip.row + numbers.shape[1]
        for row in (first, *range(-(-(first + 1) // BLOCK) * BLOCK, last, BLOCK)):
            end = min((row // BLOCK + 1) * BLOCK, last)
            rows = slice(row - first, end - first)
            x, ok = reflectance[:, rows], valid[rows]
            self.census.count(np.ascontiguousarray(x), ok)
            self.census.compare(squares[:, rows].sum(axis=1), int(strip.counts[rows].sum()))
            writers[0].write(row, numbers[:, rows])
            for writer in writers[1:]:
                writer.write(row, self._sigma(x, ok))
            if end % BLOCK == 0 or end == self.planned.grid.height:
                note(end)

    def _sigma(self, reflectance: Float32Array, valid: BoolArray) -> NDArray[np.int16]:
        """(target band, row, col) stored numbers of the uncertainty."""
        rows, width = valid.shape
        numbers = np.empty((len(self.planned.spectral), rows, width), np.int16)
        step = max(1, PART_PIXELS // width)
        for top in range(0, rows, step):
            part = slice(top, top + step)
            quantise(self.model.sigma(reflectance[:, part]), valid[part], out=numbers[:, part])
        return numbers


@dataclass(frozen=True, eq=False)
class _Pixels:
    """The pixels of one block, side by side in memory."""

    reflectance: Float32Array
    """(source band, pixel)."""
    valid: BoolArray
    """(pixel,)."""
    shape: tuple[int, int]
    """Rows and columns."""

    @classmethod
    def of(cls, reflectance: Float32Array, valid: BoolArray, first: int) -> "_Pixels":
        """The columns from the first of them on."""
        cols = slice(first, first + BLOCK)
        shape = valid[:, cols].shape
        return cls(reflectance[:, :, cols].reshape(len(reflectance), -1), valid[:, cols].reshape(-1), shape)

    def thinned(self, step: int) -> tuple[Float32Array, BoolArray]:
        """Every so many rows."""
        rows = self.reflectance.reshape(-1, *self.shape)[:, ::step]
        return rows.reshape(len(rows), -1), self.valid.reshape(self.shape)[::step].reshape(-1)


def _rows_of_blocks(begin: int, height: int, width: int) -> list[Window]:
    return [Window(row, 0, min(BLOCK, height - row), width) for row in range(begin, height, BLOCK)]


def _fill(blocks: list[_Pixels], maker: Callable[[slice], Make], bands: slice, cols: slice, room: Numbers) -> None:
    """Fill the room in a block with stored numbers of these bands, some rows at a time."""
    block, make = blocks[cols.start // BLOCK], maker(bands)
    rows, width = block.shape
    step = max(1, PART_PIXELS // width)
    for top in range(0, rows, step):
        part = slice(top * width, (top + step) * width)
        valid = block.valid[part]
        made = make(block.reflectance[:, part], valid)
        shape = -1, width
        quantise(made.reshape(len(made), *shape), valid.reshape(shape), out=room[:, top : top + step])
