"""The steps of a conversion, in the order of this module: reading strips, predicting, quantising, writing.

`StripReader` reads full-width strips, one strip ahead of its use: reflectance and validity, denoised if the noise is
given. One of two pipelines converts each strip.
`LinearPipeline` multiplies each block by a matrix and quantises it in the thread that then compresses it. A
network of patch tokens adds columns to that matrix; it computes their factors for the next strip in the meantime.
`NetworkPipeline` predicts, blends and quantises rows of windows on the network's device (`inference.tile_runner`); a
GPU computes the next row while the finished strip is written.
Both count the pixels of a strip, pass stored numbers to the writers, and record each finished row of blocks.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ms2hs.arrays import BoolArray, DnArray, Float32Array
from ms2hs.conversion.planning import Plan
from ms2hs.conversion.statistics import RESIDUAL_ROW_STEP, Statistics
from ms2hs.models.denoising import REACH, denoise
from ms2hs.models.posterior import Features, Posterior
from ms2hs.progress import Progress
from ms2hs.raster.cog.block_compressor import processors
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cube_writer import CubeWriter
from ms2hs.raster.tiling import Tiling, Window
from ms2hs.scenes.reader import Pixels, SceneReader

if TYPE_CHECKING:
    from ms2hs.inference.device_transfer import StoredStrip
    from ms2hs.inference.patch_corrector import PatchCorrections, PatchNetwork
    from ms2hs.inference.predictor import Predictor

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")
# Pixels that the linear model computes in one step: their bands stay in the processor's cache.
PIXELS_PER_TASK = 1 << 14
Record = Callable[[int], None]
"""Called with the number of rows that are finished and counted."""
BlockModel = Callable[["_BlockPixels", int], Float32Array]
"""A block and the number of its step to (target band, pixel) values of some target bands."""


@dataclass
class StripReader:
    """Reads strips of a scene in the output's width; a thread reads one strip ahead."""

    planned: Plan
    reader: SceneReader
    seconds: float = 0.0
    """Time of reading."""

    def read_ahead(self, windows: list[Window]) -> Iterator[tuple[Window, Pixels]]:
        """Each window with its pixels."""
        return one_ahead((window, self.read(window)) for window in windows)

    def read(self, window: Window) -> Pixels:
        """The pixels of a window."""
        began = time.perf_counter()
        noise = self.planned.input_error.pixel
        # The noise filter also reads rows beyond the window, so that results do not depend on the windows.
        reach = REACH if noise else 0
        above = min(reach, window.row)
        below = min(reach, self.planned.grid.height - window.row - window.height)
        height = above + window.height + below
        pixels = self.reader.read_pixels(window.row - above, window.col, height, window.width)
        if noise:
            rows = slice(above, above + window.height)
            denoised = denoise(pixels.reflectance, pixels.valid, noise)
            pixels = pixels._replace(reflectance=denoised).rows(rows)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        valid, last = np.count_nonzero(pixels.valid), window.row + window.height - 1
        LOGGER.debug(
            "read rows %d-%d: %d of %d pixels valid, %.2f s", window.row, last, valid, pixels.valid.size, seconds
        )
        return pixels


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each computed in a thread while the item before is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        pending = thread.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = thread.submit(next, items, None)
            yield item


@dataclass(eq=False)
class Pipeline:
    """The interface and common fields of both pipelines."""

    planned: Plan
    model: Posterior
    """The spectral prior given the source; for a network only its uncertainty is used."""
    reader: StripReader
    statistics: Statistics
    seconds: float = field(default=0.0, init=False)
    """Time in the model, without the time of the writers' threads."""

    def threads(self) -> AbstractContextManager[object]:
        """Limits of numeric libraries that must hold until the writers are closed."""
        return nullcontext()

    def run(self, writers: list[CubeWriter], first_row: int, record: Record, report: Progress) -> None:
        """Convert from `first_row`, the first of a row of blocks; `writers`: of the cube and of its sigma, if any."""
        raise NotImplementedError


@dataclass(eq=False)
class LinearPipeline(Pipeline):
    """Converts by the linear model, one block in each task of the writers' threads."""

    network: "PatchNetwork | None" = None
    """A network that corrects the linear model."""

    def threads(self) -> AbstractContextManager[object]:
        """One BLAS thread in each task: several would split a product and round it differently from run to run."""
        limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
        return limits

    def run(self, writers: list[CubeWriter], first_row: int, record: Record, report: Progress) -> None:
        """Convert block by block (see `Pipeline.run`)."""
        grid, side = self.planned.grid, self.planned.block
        features = lru_cache(maxsize=processors() + 1)(self._features)  # all groups of bands need them, one by one
        models: list[Callable[[slice], BlockModel]] = [partial(self._values, features), self._sigma]
        for top, pixels, corrections in self._strips(first_row):
            self.statistics.sample_rows(top, pixels.reflectance, pixels.valid)
            lefts = range(0, grid.width, side)
            blocks = {left: _BlockPixels.at(pixels, top, slice(left, left + side), corrections) for left in lefts}
            end = top + len(pixels.valid)
            for writer, model in zip(writers, models, strict=False):
                writer.write_blocks(top, end - top, partial(_fill_block, blocks, model))
            for block in blocks.values():
                self._count(block)
            record(end)
            report("convert", end, grid.height)

    def _strips(self, first_row: int) -> "Iterator[tuple[int, Pixels, PatchCorrections | None]]":
        """First row, pixels and corrections, if any, of the rows of blocks from `first_row`."""
        grid, side, corrector = self.planned.grid, self.planned.block, None
        if self.network:
            from ms2hs.inference.patch_corrector import PatchCorrector  # noqa: PLC0415  the linear model needs no torch

            corrector = PatchCorrector(self.network, grid.height, grid.width, first_row)
        begin = corrector.first_row // side * side if corrector else first_row
        tops = range(begin, grid.height, side)
        windows = [Window(top, 0, min(side, grid.height - top), grid.width) for top in tops]
        strips = ((window.row, pixels) for window, pixels in self.reader.read_ahead(windows))
        if corrector is None:
            return ((top, pixels, None) for top, pixels in strips)
        return one_ahead(corrector.run(strips))

    def _features(self, block: "_BlockPixels") -> list[list[Features]]:
        """Of each step of a block."""
        added = self._added(block)
        return [
            self._joined(block.reflectance[:, step], None if added is None else added[:, step]) for step in block.steps
        ]

    def _joined(self, reflectance: Float32Array, added: Float32Array | None) -> list[Features]:
        """The features of pixels (source band, pixel), with the coefficients (rank, pixel) that a network adds."""
        first, *rare = self.model.features(reflectance)
        if added is not None:
            before, after = self.model.gain.shape[1], self._model.gain.shape[1]
            columns = np.concatenate([np.arange(before)[first.columns], np.arange(before, after)])
            first = Features(columns, first.pixels, np.concatenate([first.values, added]))
        return [first, *rare]

    def _added(self, block: "_BlockPixels", row_step: int = 1) -> Float32Array | None:
        """(rank, pixel) coefficients that a network adds, in every `row_step`-th row; None without a network."""
        if block.corrections is None:
            return None
        rows, cols = (np.arange(start, start + size) for start, size in zip(block.corner, block.shape, strict=True))
        added = block.corrections.between(rows[::row_step], cols)
        added *= self.model.scale(block.sample_rows(row_step)[0]).reshape(added.shape[1:])
        return added.reshape(len(added), -1)

    @cached_property
    def _model(self) -> Posterior:
        """The model with a column for each coefficient that a network adds."""
        if self.network is None:
            return self.model
        return replace(self.model, gain=np.concatenate([self.model.gain, self.network.prior.basis.cpu()], axis=1))

    def _values(self, features: Callable[["_BlockPixels"], list[list[Features]]], bands: slice) -> BlockModel:
        model = self._model.select(bands)

        def predict(block: _BlockPixels, step: int) -> Float32Array:
            with block.lock:  # the first task computes the features of its block
                parts = features(block)[step]
            return model.apply(parts, block.valid[block.steps[step]])

        return predict

    def _sigma(self, bands: slice) -> BlockModel:
        model = self.model.select(bands)
        return lambda block, step: model.sigma(block.reflectance[:, block.steps[step]])

    def _count(self, block: "_BlockPixels") -> None:
        self.statistics.count_pixels(block.reflectance, block.cause)
        reflectance, valid = block.sample_rows(RESIDUAL_ROW_STEP)
        added = self._added(block, RESIDUAL_ROW_STEP)
        features = self._joined(reflectance[:, valid], None if added is None else added[:, valid])
        residual = self._residual_model.apply(features)
        self.statistics.add_residuals(np.square(residual).sum(axis=1, dtype=float), int(valid.sum()))

    @cached_property
    def _residual_model(self) -> Posterior:
        residual = self.statistics.input_residual
        gain = residual.of_linear(self.model.gain)
        if self.network and residual.matrix is not None:
            gain = np.concatenate([gain, residual.matrix @ self.network.prior.basis.cpu().numpy()], axis=1)
        return replace(self.model, gain=gain)


@dataclass(frozen=True, eq=False)
class _BlockPixels:
    """The pixels of one block, contiguous in memory."""

    reflectance: Float32Array
    """(source band, pixel)."""
    valid: BoolArray
    """(pixel,)."""
    cause: NDArray[np.uint8]
    """(pixel,) `Cause`."""
    shape: tuple[int, int]
    """Rows and columns."""
    corner: tuple[int, int]
    """First row and column in the raster."""
    corrections: "PatchCorrections | None"
    """A network's corrections of the strip."""
    lock: Lock = field(default_factory=Lock)

    @classmethod
    def at(cls, strip: Pixels, top: int, cols: slice, corrections: "PatchCorrections | None") -> "_BlockPixels":
        """The block of these columns, of a strip that begins at row `top`."""
        reflectance, valid, cause = strip.reflectance[:, :, cols], strip.valid[:, cols], strip.cause[:, cols]
        flat = reflectance.reshape(len(reflectance), -1), valid.reshape(-1), cause.reshape(-1)
        return cls(*flat, valid.shape, (top, cols.start), corrections)

    @cached_property
    def steps(self) -> list[slice]:
        """Pixels of a few rows each, about `PIXELS_PER_TASK`."""
        rows, width = self.shape
        step = width * max(1, PIXELS_PER_TASK // width)
        return [slice(first, first + step) for first in range(0, rows * width, step)]

    def sample_rows(self, step: int) -> tuple[Float32Array, BoolArray]:
        """Reflectance and validity of every `step`-th row."""
        rows = self.reflectance.reshape(-1, *self.shape)[:, ::step]
        return rows.reshape(len(rows), -1), self.valid.reshape(self.shape)[::step].reshape(-1)


def _fill_block(
    blocks: dict[int, _BlockPixels],
    models: Callable[[slice], BlockModel],
    bands: slice,
    cols: slice,
    out: DnArray,
) -> None:
    """Predict and quantise some bands of a block into `out`, (band, row, col), a few rows at a time.

    `blocks` : by first column.
    """
    block, model = blocks[cols.start], models(bands)
    width = block.shape[1]
    for number, step in enumerate(block.steps):
        rows = slice(step.start // width, step.stop // width)
        values = model(block, number).reshape(len(out), -1, width)
        quantise(values, block.valid[step].reshape(-1, width), out=out[:, rows])


@dataclass(eq=False)
class NetworkPipeline(Pipeline):
    """Converts by a network, one row of windows at a time on its device."""

    predictor: "Predictor"
    change: Posterior | None = None
    """Its gain is the change of the linear model's gain by adaptation, applied to predictions too."""

    def run(self, writers: list[CubeWriter], first_row: int, record: Record, report: Progress) -> None:
        """Convert one row of windows at a time (see `Pipeline.run`)."""
        from ms2hs.inference.device_transfer import ResidualSampling  # noqa: PLC0415
        from ms2hs.inference.tile_runner import TileRunner  # noqa: PLC0415  the linear model needs no torch

        grid, predictor, residual = self.planned.grid, self.predictor, self.statistics.input_residual
        size = (self.planned.rows_per_strip, grid.width) if predictor.is_local else predictor.window
        tiling, matrix = Tiling(grid.height, grid.width, size, predictor.overlap), residual.matrix
        sampling = None if matrix is None else ResidualSampling(matrix, residual.bands, RESIDUAL_ROW_STEP)
        runner = TileRunner(predictor, tiling, change=self.change, residuals=sampling, start=first_row)
        windows = [Window(top, 0, end - top, grid.width) for top, end in tiling.rows[runner.first_index :]]
        # A network on a CPU uses all cores. Concurrent writers would slow it down: every thread of a matrix product
        # waits for the slowest.
        takes_turns = predictor.device.type == "cpu"
        with ThreadPoolExecutor(1, "writer") as thread:
            writing: Future[None] | None = None
            for index, (window, pixels) in enumerate(self.reader.read_ahead(windows), runner.first_index):
                began = time.perf_counter()
                strip = runner.add(index, pixels.reflectance, pixels.valid)
                self.seconds += time.perf_counter() - began
                if writing:
                    writing.result()
                if strip:
                    rows = slice(strip.row - window.row, None)
                    writing = thread.submit(self._write, writers, strip, pixels.rows(rows), record)
                    report("convert", strip.row, grid.height)
                    if takes_turns:
                        writing.result()
                        for writer in writers:
                            writer.wait()
            if writing:
                writing.result()
            report("convert", grid.height, grid.height)

    def _write(self, writers: list[CubeWriter], strip: "StoredStrip", pixels: Pixels, record: Record) -> None:
        """Count and write a strip, cut at block boundaries: only whole rows of blocks are recorded."""
        numbers, squares, side = strip.numbers, strip.squares, self.planned.block
        first, last = strip.row, strip.row + numbers.shape[1]
        finished = pixels.rows(slice(last - first))
        self.statistics.sample_rows(strip.row, finished.reflectance, finished.valid)
        for row in (first, *range(-(-(first + 1) // side) * side, last, side)):
            end = min((row // side + 1) * side, last)
            rows = slice(row - first, end - first)
            measured, usable, cause = pixels.rows(rows)
            self.statistics.count_pixels(measured, cause)
            self.statistics.add_residuals(squares[:, rows].sum(axis=1), int(strip.counts[rows].sum()))
            writers[0].write(row, numbers[:, rows])
            for writer in writers[1:]:
                writer.write(row, self._sigma(measured, usable))
            if end % side == 0 or end == self.planned.grid.height:
                record(end)

    def _sigma(self, reflectance: Float32Array, valid: BoolArray) -> NDArray[np.int16]:
        """(target band, row, col) stored numbers of the uncertainty."""
        rows, width = valid.shape
        numbers = np.empty((len(self.planned.spectral), rows, width), np.int16)
        step = max(1, PIXELS_PER_TASK // width)
        for top in range(0, rows, step):
            part = slice(top, top + step)
            quantise(self.model.sigma(reflectance[:, part]), valid[part], out=numbers[:, part])
        return numbers
