"""Windows that cover a raster, and the way back from overlapping windows to one raster, strip by strip."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels of a raster."""

    row: int
    """First row."""
    col: int
    """First column."""
    height: int
    """Rows."""
    width: int
    """Columns."""


class Strip(NamedTuple):
    """Finished rows over the whole width of a raster."""

    row: int
    """First row."""
    values: FloatArray
    """(band, rows, width); means something only where `valid`. It may be a view that the next `add` writes over."""
    valid: BoolArray
    """(rows, width) True where some window was valid."""


@dataclass(frozen=True)
class Tiling:
    """Windows, row by row, that together cover every pixel of a raster.

    With an overlap, all windows have one size (smaller only if the raster is) and are spread evenly, so that
    neighbours share `overlap` pixels or a few more. Without, they share none, and those at the far edges are cut.
    """

    height: int
    """Rows of the raster."""
    width: int
    """Columns of the raster."""
    size: int | tuple[int, int] = 128
    """Pixels along a side of a window, or its rows and columns."""
    overlap: int = 32
    """Least number of pixels that neighbours share; less than the size."""

    def __post_init__(self) -> None:
        """Refuse windows that cannot cover."""
        if min(self.height, self.width, *self.shape) < 1:
            raise ValueError(f"raster {self.height} x {self.width}, window {self.shape}: all must be at least 1")
        if not 0 <= self.overlap < min(self.shape):
            raise ValueError(f"overlap {self.overlap} of window {self.shape}: it must be from 0 to less than a side")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a window that no edge cuts."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """First row, and row after the last, of each row of windows."""
        return _spans(self.height, self.shape[0], self.overlap)

    @cached_property
    def cols(self) -> list[tuple[int, int]]:
        """First column, and column after the last, of each column of windows."""
        return _spans(self.width, self.shape[1], self.overlap)

    @cached_property
    def tapers(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """(size,) float32 weights of each row and of each column of windows, over what it shares with its neighbours.

        There is none at an edge of the raster. A window's weights are the product of its row's and its column's.
        """
        return _tapers(self.rows), _tapers(self.cols)

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.rows) * len(self.cols)

    def __iter__(self) -> Iterator[Window]:
        """The windows, row by row, each row from left to right."""
        for top, bottom in self.rows:
            for left, right in self.cols:
                yield Window(top, left, bottom - top, right - left)


def _spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    if overlap == 0 or length <= size:
        return [(start, min(start + size, length)) for start in range(0, length, size)]
    gaps = -(-(length - size) // (size - overlap))
    starts = [i * (length - size) // gaps for i in range(gaps + 1)]
    return [(start, start + size) for start in starts]


def taper(size: int, before: int, after: int) -> FloatArray:
    """(size,) weights that rise over the first `before` pixels, fall over the last `after`, and are never zero.

    A raised cosine taken at pixel centres, sin²(π/2 · (i + ½)/n): the weights of two neighbours that share n pixels
    sum to 1. An edge with 0 shared pixels keeps weight 1.
    """
    weight = np.ones(size)
    if before:
        weight[:before] *= np.sin(np.pi / 2 * (np.arange(before) + 0.5) / before) ** 2
    if after:
        weight[size - after :] *= np.cos(np.pi / 2 * (np.arange(after) + 0.5) / after) ** 2
    return weight.astype(np.float32)


def _tapers(spans: list[tuple[int, int]]) -> list[FloatArray]:
    """One taper a span, over what it shares with its neighbours: none at either end of the raster."""
    shared = [0, *(max(0, left[1] - right[0]) for left, right in pairwise(spans)), 0]
    return [taper(end - start, shared[i], shared[i + 1]) for i, (start, end) in enumerate(spans)]


class Blender:
    """Joins windows into finished strips, weighting each pixel by its window's taper, and by nothing where invalid.

    It keeps a running weighted mean, `mean += (v - mean) * w / (W + w)`: windows that agree leave it exactly as it
    is, whatever their weights, which a sum divided by its weights does not. It holds one window's height of rows,
    whatever the height of the raster; strips that are whole windows pass through without a copy.
    """

    def __init__(self, tiling: Tiling, bands: int) -> None:
        self._tiling = tiling
        self._bands = bands
        self._tapers = tiling.tapers
        self._pass_through = len(tiling.cols) == 1 and (len(tiling.rows) == 1 or tiling.overlap == 0)
        self._added = 0
        self._top = 0  # the raster's row that is the buffers' first
        self._mean: FloatArray = np.zeros((bands, 0, tiling.width), np.float32)
        self._weight: FloatArray = np.zeros((0, tiling.width), np.float32)
        if not self._pass_through:
            rows = max(end - start for start, end in tiling.rows)
            self._mean = np.zeros((bands, rows, tiling.width), np.float32)
            self._weight = np.zeros((rows, tiling.width), np.float32)

    def add(self, window: Window, values: FloatArray, valid: BoolArray) -> list[Strip]:
        """Take the next window, and give the strip that it finishes, if any.

        Parameters
        ----------
        window : the next of the tiling.
        values : (band, height, width) float32; anything, NaN too, where not valid; finite where valid.
        valid : (height, width) True where usable.

        Returns
        -------
        No or one strip; use it before the next `add`.

        Raises
        ------
        ValueError : a window out of turn, or arrays of another shape.
        """
        self._check(window, values, valid)
        row, col = divmod(self._added, len(self._tiling.cols))
        self._added += 1
        if self._pass_through:
            return [Strip(window.row, values, valid)]
        self._slide(window.row)
        self._blend(row, col, values, valid)
        if col + 1 < len(self._tiling.cols):
            return []
        last = row + 1 == len(self._tiling.rows)
        final = (self._tiling.height if last else self._tiling.rows[row + 1][0]) - self._top
        return [Strip(self._top, self._mean[:, :final], self._weight[:final] > 0)]

    def _check(self, window: Window, values: FloatArray, valid: BoolArray) -> None:
        row, col = divmod(self._added, len(self._tiling.cols))
        if row >= len(self._tiling.rows):
            raise ValueError("all windows of the tiling were added already")
        (top, bottom), (left, right) = self._tiling.rows[row], self._tiling.cols[col]
        due = Window(top, left, bottom - top, right - left)
        if window != due:
            raise ValueError(f"{window} is out of turn; {due} is due")
        if values.shape != (self._bands, due.height, due.width) or valid.shape != (due.height, due.width):
            raise ValueError(f"values {values.shape} and valid {valid.shape} do not fit {self._bands} bands of {due}")

    def _slide(self, row: int) -> None:
        """Let the buffers begin at `row`, keeping what they have from there on."""
        step = row - self._top
        if step == 0:
            return
        kept = self._weight.shape[0] - step
        for buffer in (self._mean, self._weight):
            buffer[..., :kept, :] = buffer[..., step:, :]
            buffer[..., kept:, :] = 0
        self._top = row

    def _blend(self, row: int, col: int, values: FloatArray, valid: BoolArray) -> None:
        """Work in three parts: rows shared with the windows above, columns shared with the one before, the rest."""
        tiling = self._tiling
        (top, bottom), (left, right) = tiling.rows[row], tiling.cols[col]
        above = max(0, tiling.rows[row - 1][1] - top) if row else 0
        before = max(0, tiling.cols[col - 1][1] - left) if col else 0
        weight = np.outer(self._tapers[0][row], self._tapers[1][col]) * valid
        parts = [
            (slice(0, above), slice(0, right - left)),
            (slice(above, bottom - top), slice(0, before)),
            (slice(above, bottom - top), slice(before, right - left)),
        ]
        for rows, cols in parts[:2]:
            self._merge(rows, slice(left + cols.start, left + cols.stop), values[:, rows, cols], weight[rows, cols])
        rows, cols = parts[2]
        place = rows, slice(left + cols.start, left + cols.stop)
        self._mean[:, *place] = _where(valid[rows, cols], values[:, rows, cols])
        self._weight[place] = weight[rows, cols]

    def _merge(self, rows: slice, cols: slice, values: FloatArray, weight: FloatArray) -> None:
        if weight.size == 0:
            return
        mean = self._mean[:, rows, cols]
        total = self._weight[rows, cols] + weight
        share = np.divide(weight, total, out=np.zeros_like(weight), where=weight > 0)
        step = _where(weight > 0, values - mean)
        step *= share
        mean += step
        self._weight[rows, cols] = total


def _where(valid: BoolArray, values: FloatArray) -> FloatArray:
    """The values, and 0 where not valid: whatever stands there must not take part, and NaN times 0 is NaN."""
    return values if valid.all() else np.where(valid, values, np.float32(0))
