"""Overviews averaged from the blocks as they pass, so that no pixel has to be read again for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Pixels along a side of a block."""
HALF = BLOCK // 2

Numbers = NDArray[Any]


class Place(NamedTuple):
    """Where a block lies: its level (0: full size, each next one half of it), and its row and column of blocks."""

    level: int
    row: int
    col: int


@dataclass(frozen=True)
class Levels:
    """The sizes of an image and of its overviews, each half as high and wide as the one before, rounded up."""

    height: int
    width: int

    @property
    def count(self) -> int:
        """The image and as many overviews as bring the long side below a block."""
        count = 1
        while -(-max(self.height, self.width) // 2 ** (count - 1)) >= BLOCK:
            count += 1
        return count

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return -(-self.height // 2**level), -(-self.width // 2**level)

    def blocks(self, level: int) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = self.shape(level)
        return -(-height // BLOCK), -(-width // BLOCK)


class Pyramid:
    """Takes the blocks of an image row by row, and gives them back with those of the overviews that they complete.

    It holds half a block's height of rows of each overview: what a row of blocks halves to is the upper half of a row
    of blocks of the next level, and waits there for the lower. Bands do not meet: each may be added by another thread.
    """

    def __init__(self, levels: Levels, bands: int, dtype: np.dtype[Any], nodata: float | None) -> None:
        """Nothing has passed yet."""
        self._levels = levels
        self._nodata = nodata
        above = range(1, levels.count)
        self._upper = [np.empty((bands, HALF, BLOCK * levels.blocks(level)[1]), dtype) for level in above]
        self._left = [np.empty((bands, HALF, HALF), dtype) for _ in above]

    def add(self, band: int, place: Place, block: Numbers) -> Iterator[tuple[Place, Numbers]]:
        """The block with its far edges repeated over what lies outside of the image, and each that it completes.

        Parameters
        ----------
        place : right of the one before of this band, or first of the next row.
        block : (BLOCK, BLOCK); what lies outside of the image may be anything, and is written over.
        """
        self._repeat_edges(place, block)
        yield place, block
        if place.level + 1 == self._levels.count:
            return
        whole = self._joined(band, place, halve(block, self._nodata))
        if whole is not None:
            yield from self.add(band, Place(place.level + 1, place.row // 2, place.col // 2), whole)

    def _repeat_edges(self, place: Place, block: Numbers) -> None:
        height, width = self._levels.shape(place.level)
        rows, cols = height - place.row * BLOCK, width - place.col * BLOCK
        if cols < BLOCK:
            block[:, cols:] = block[:, cols - 1 : cols]
        if rows < BLOCK:
            block[rows:] = block[rows - 1]

    def _joined(self, band: int, place: Place, quarter: Numbers) -> Numbers | None:
        """The block of the next level that this quarter completes; None where another has to come first."""
        upper, left = self._upper[place.level][band], self._left[place.level][band]
        rows, cols = self._levels.blocks(place.level)
        is_lower, is_right = place.row % 2 == 1, place.col % 2 == 1
        first = place.col // 2 * BLOCK
        if not is_lower and place.row + 1 < rows:
            upper[:, first + HALF * is_right :][:, :HALF] = quarter
            return None
        if not is_right and place.col + 1 < cols:
            left[:] = quarter
            return None
        whole = np.empty((BLOCK, BLOCK), quarter.dtype)
        if is_lower:
            whole[:HALF] = upper[:, first : first + BLOCK]
        half = whole[HALF:] if is_lower else whole[:HALF]
        if is_right:
            half[:, :HALF] = left
        half[:, HALF * is_right :][:, :HALF] = quarter
        return whole


def halve(block: Numbers, nodata: float | None) -> Numbers:
    """(half the rows, half the columns): the mean of the usable numbers in each 2 × 2, `nodata` where there is none.

    Means of integers are rounded to the nearest, halves upwards.

    Parameters
    ----------
    block : (row, col), both even; integers of at most 32 bits, or floats.
    nodata : the number that means none, NaN too; None where all are usable.
    """
    known = _known(block, nodata)
    if known is None:
        total = _sum_of_four(block, _wide_enough(block))
        mean = total / 4 if block.dtype.kind == "f" else (total + 2) >> 2
        return mean.astype(block.dtype)
    if not known.any():
        return np.full((block.shape[0] // 2, block.shape[1] // 2), nodata, block.dtype)
    count = _sum_of_four(known, np.int8)
    if block.dtype.kind == "f":
        mean = _sum_of_four(np.where(known, block, 0), np.float64) / np.maximum(count, 1)
    else:
        exact = np.float32 if block.dtype.itemsize <= 2 else np.float64  # as sums of four, and far from other halves
        mean = np.floor(_sum_of_four(block * known, exact) / np.maximum(count, 1) + exact(0.5))
    return np.where(count > 0, mean, nodata or 0).astype(block.dtype)


def _known(block: Numbers, nodata: float | None) -> NDArray[np.bool_] | None:
    """Where a number is usable; None: everywhere, which is found soonest."""
    if nodata is None:
        return None
    if np.isnan(nodata):
        return None if not np.isnan(block.sum()) else ~np.isnan(block)
    return None if nodata < block.min() or nodata > block.max() else block != nodata


def _wide_enough(block: Numbers) -> type[np.generic]:
    """The narrowest type for sums of four of its numbers, and two more: the fewer bytes, the sooner it is done."""
    dtype = block.dtype
    if dtype.kind == "f":
        return np.float64
    holds = np.iinfo(dtype)
    fits = 4 * int(block.min()) >= holds.min and 4 * int(block.max()) + 2 <= holds.max
    if fits:
        return dtype.type
    return np.int32 if dtype.itemsize <= 2 else np.int64


def _sum_of_four(plane: Numbers, dtype: type[np.generic]) -> Numbers:
    pairs: Numbers = np.add(plane[0::2], plane[1::2], dtype=dtype)
    return np.add(pairs[:, 0::2], pairs[:, 1::2])
