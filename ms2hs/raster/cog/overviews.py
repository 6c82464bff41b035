"""Overviews averaged from the blocks as they pass, so that no pixel has to be read again for them.

Memory that a thread takes once and uses again: a new page costs more than what is done with its numbers.
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ms2hs.arrays import BoolArray

BLOCK = 256
"""Pixels along a side of a block."""
HALF = BLOCK // 2
Numbers = NDArray[Any]
_own = threading.local()


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

    def rows_completed(self, level: int, done: int) -> int:
        """Rows of blocks of a level that the first `done` rows of blocks of the full size complete."""
        return self.blocks(level)[0] if done == self.blocks(0)[0] else done >> level


class Pyramid:
    """Takes the blocks of an image row by row, and gives them back with those of the overviews that they complete.

    It holds half a block's height of rows of each overview: what a row of blocks halves to is the upper half of a row
    of blocks of the next level, and waits there for the lower. Bands do not meet: each may be added by another thread.
    """

    def __init__(
        self, levels: Levels, bands: int, dtype: np.dtype[Any], nodata: float | None, *, averages: bool = True
    ) -> None:
        """Nothing has passed yet."""
        self._levels = levels
        self._nodata = nodata
        self._averages = averages
        above = range(1, levels.count)
        self._upper = [np.empty((bands, HALF, levels.shape(level)[1]), dtype) for level in above]
        self._left = [np.empty((bands, HALF, HALF), dtype) for _ in above]

    def add(self, bands: slice, place: Place, blocks: Numbers) -> Iterator[tuple[Place, Numbers]]:
        """The blocks with their far edges repeated over what lies outside of the image, and those that they complete.

        These are scratch, good until the next is asked for.

        Parameters
        ----------
        bands : the bands that they are of.
        place : right of the one before of these bands, or first of the next row.
        blocks : (band, BLOCK, BLOCK); what lies outside of the image may be anything, and is written over.
        """
        self._repeat_edges(place, blocks)
        yield place, blocks
        if place.level + 1 == self._levels.count:
            return
        whole = self._joined(bands, place, self._halve(blocks))
        if whole is not None:
            yield from self.add(bands, Place(place.level + 1, place.row // 2, place.col // 2), whole)

    def restore(self, bands: slice, place: Place, blocks: Numbers) -> None:
        """Take up blocks of an upper row that went through another pyramid, the last row of their level there.

        So a pyramid goes on where another was left, when it was given these of every level.
        """
        self._joined(bands, place, self._halve(blocks))

    def _halve(self, blocks: Numbers) -> Numbers:
        return halve(blocks, self._nodata) if self._averages else blocks[..., ::2, ::2].copy()

    def _repeat_edges(self, place: Place, blocks: Numbers) -> None:
        height, width = self._levels.shape(place.level)
        rows, cols = height - place.row * BLOCK, width - place.col * BLOCK
        if cols < BLOCK:
            blocks[..., cols:] = blocks[..., cols - 1 : cols]
        if rows < BLOCK:
            blocks[:, rows:] = blocks[:, rows - 1 : rows]

    def _joined(self, bands: slice, place: Place, quarters: Numbers) -> Numbers | None:
        """The blocks of the next level that these quarters complete; None where others have to come first."""
        upper, left = self._upper[place.level][bands], self._left[place.level][bands]
        rows, cols = self._levels.blocks(place.level)
        is_lower, is_right = place.row % 2 == 1, place.col % 2 == 1
        first = place.col // 2 * BLOCK
        if not is_lower and place.row + 1 < rows:
            room = upper[..., first + HALF * is_right :][..., :HALF]
            room[:] = quarters[..., : room.shape[-1]]
            return None
        if not is_right and place.col + 1 < cols:
            left[:] = quarters
            return None
        whole = reused("whole", (len(quarters), BLOCK, BLOCK), quarters.dtype)
        if is_lower:
            above = upper[..., first : first + BLOCK]
            whole[:, :HALF, : above.shape[-1]] = above
        half = whole[:, HALF:] if is_lower else whole[:, :HALF]
        if is_right:
            half[..., :HALF] = left
        half[..., HALF * is_right :][..., :HALF] = quarters
        return whole


def halve(numbers: Numbers, nodata: float | None) -> Numbers:
    """(..., half the rows, half the columns): the mean of the usable numbers in each 2 × 2, `nodata` without any.

    Means of integers are rounded to the nearest, halves upwards.

    Parameters
    ----------
    numbers : (..., row, col), rows and columns even, C-contiguous; integers of at most 32 bits, or floats.
    nodata : the number that means none, NaN too; None where all are usable.
    """
    unknown = _unknown(numbers, nodata)
    if unknown is None or nodata is None:
        total = _sum_of_four(numbers, "total")
        if numbers.dtype.kind == "f":
            return (total / 4).astype(numbers.dtype)
        total += 2
        total >>= 2
        return total.astype(numbers.dtype)
    exact = np.float32 if _is_narrow(numbers.dtype) else np.float64  # as sums of four, and far from other halves
    missing = _sum_of_four(unknown.view(np.int8), "missing")
    if numbers.dtype.kind == "f":
        mean = _sum_of_four(np.where(unknown, numbers.dtype.type(0), numbers), "total")
    else:
        total = _sum_of_four(numbers, "total")
        counted = reused("counted", total.shape, total.dtype)
        total -= np.multiply(missing, total.dtype.type(nodata), out=counted, casting="unsafe")
        mean = reused("mean", total.shape, exact)
        mean[:] = total
    known = np.subtract(4, missing, out=reused("known", mean.shape, exact))
    mean /= np.maximum(known, 1, out=known)
    if numbers.dtype.kind != "f":
        mean += exact(0.5)
        np.floor(mean, out=mean)
    np.copyto(mean, exact(nodata), where=np.equal(missing, 4, out=reused("none", missing.shape, np.bool_)))
    return mean.astype(numbers.dtype)


def _unknown(numbers: Numbers, nodata: float | None) -> BoolArray | None:
    """Where a number is none; None: nowhere, which is found soonest."""
    if nodata is None:
        return None
    if np.isnan(nodata):
        return None if not np.isnan(numbers.sum()) else np.isnan(numbers)
    if nodata < numbers.min() or nodata > numbers.max():
        return None
    unknown: BoolArray = np.equal(numbers, nodata, out=reused("unknown", numbers.shape, np.bool_))
    return unknown


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind != "f" and dtype.itemsize <= 2


def _sum_of_four(numbers: Numbers, use: str) -> Numbers:
    """Sums of each 2 × 2, of a kind that holds them, of twice the bits or more, or double; in scratch of this use."""
    if _is_narrow(numbers.dtype):
        # two neighbours as one number of twice the bits: whole registers at a time, not every other number
        bits = 8 * numbers.dtype.itemsize
        both = numbers.view(f"{numbers.dtype.kind}{2 * numbers.dtype.itemsize}")
        pairs: Numbers = np.left_shift(both, bits, out=reused("pairs", both.shape, both.dtype))
        pairs >>= bits
        pairs += np.right_shift(both, bits, out=reused("seconds", both.shape, both.dtype))
    else:
        wide = np.float64 if numbers.dtype.kind == "f" else np.int64
        pairs = np.add(numbers[..., 0::2], numbers[..., 1::2], dtype=wide)
    upper, lower = pairs[..., 0::2, :], pairs[..., 1::2, :]
    sums: Numbers = np.add(upper, lower, out=reused(use, upper.shape, pairs.dtype))
    return sums


def reused(use: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Room with anything in it, this thread's own, and only until it asks for the same use again.

    It is held as long as the thread is, so for sizes that a task has, none that a scene has.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    held: NDArray[np.uint8] | None = getattr(_own, use, None)
    if held is None or held.size < needed:
        held = np.empty(needed, np.uint8)
        setattr(_own, use, held)
    return held[:needed].view(dtype).reshape(shape)
