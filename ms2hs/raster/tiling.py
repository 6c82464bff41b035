"""Overlapping windows that cover a raster, and the tapers that blend them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np

from ms2hs.arrays import Float32Array


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels of a raster: first row and column, number of rows and columns."""

    row: int
    col: int
    height: int
    width: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Its rows and columns, as an index."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


@dataclass(frozen=True)
class Tiling:
    """Windows, row by row, that together cover every pixel of a raster.

    With an overlap, all windows have the same size (smaller only in a smaller raster) and equal distances, so that
    neighbours share at least `overlap` pixels. Without overlap, windows at the far edges are smaller.
    """

    height: int
    """Rows of the raster."""
    width: int
    """Columns of the raster."""
    size: int | tuple[int, int] = 128
    """Side of a window in pixels, or its rows and columns."""
    overlap: int = 32
    """Minimum number of pixels that neighbours share; less than the size."""

    def __post_init__(self) -> None:
        """Check sizes and overlap."""
        if min(self.height, self.width, *self.shape) < 1:
            raise ValueError(f"raster {self.height} x {self.width}, window {self.shape}: all must be at least 1")
        if not 0 <= self.overlap < min(self.shape):
            raise ValueError(f"overlap {self.overlap} of window {self.shape}: must be from 0 to less than both sides")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a full window."""
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
    def tapers(self) -> tuple[list[Float32Array], list[Float32Array]]:
        """(size,) float32 weights of each row and each column of windows, lower where neighbours overlap.

        The weights of a window are the outer product of its row's and its column's weights.
        """
        return _tapers(self.rows), _tapers(self.cols)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows) * len(self.cols)

    def __iter__(self) -> Iterator[Window]:
        """The windows, row by row, each row from left to right."""
        for (top, bottom), (left, right) in product(self.rows, self.cols):
            yield Window(top, left, bottom - top, right - left)


def _spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    if overlap == 0 or length <= size:
        return [(start, min(start + size, length)) for start in range(0, length, size)]
    gaps = -(-(length - size) // (size - overlap))
    starts = [i * (length - size) // gaps for i in range(gaps + 1)]
    return [(start, start + size) for start in starts]


def taper(size: int, before: int, after: int) -> Float32Array:
    """(size,) positive weights that rise over the first `before` pixels and fall over the last `after` pixels.

    A raised cosine at pixel centres, sin²(π/2 · (i + ½)/n): the weights of two neighbours that share n pixels sum to 1.
    An edge without shared pixels has weight 1.
    """
    weight = np.ones(size)
    if before:
        weight[:before] *= np.sin(np.pi / 2 * (np.arange(before) + 0.5) / before) ** 2
    if after:
        weight[size - after :] *= np.cos(np.pi / 2 * (np.arange(after) + 0.5) / after) ** 2
    return weight.astype(np.float32)


def _tapers(spans: list[tuple[int, int]]) -> list[Float32Array]:
    """One taper per span, over the pixels shared with its neighbours."""
    shared = [0, *(max(0, left[1] - right[0]) for left, right in pairwise(spans)), 0]
    return [taper(end - start, shared[i], shared[i + 1]) for i, (start, end) in enumerate(spans)]


def evenly_spaced(last: int, count: int) -> list[int]:
    """At most `count` different integers from 0 to `last`, ascending: first rows or columns of a sample of windows."""
    return sorted(set(np.linspace(0, last, count).astype(int).tolist()))
