"""Overviews computed from the full-size blocks while these are written, so that no pixel is read again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ms2hs.arrays import BoolArray, DnArray
from ms2hs.raster.cog.encoding import BLOCK, Encoding, scratch_array


class BlockIndex(NamedTuple):
    """Position of a block: level (0 is the full size), row and column of blocks."""

    level: int
    row: int
    col: int


@dataclass(frozen=True)
class Levels:
    """Sizes of an image and its overviews; each level has half the rows and columns of the previous, rounded up."""

    height: int
    width: int
    block: int = BLOCK
    """Height and width of a block, in pixels."""

    @property
    def count(self) -> int:
        """Number of levels: the image, and overviews until the long side is shorter than a block."""
        count = 1
        while max(self.shape(count - 1)) >= self.block:
            count += 1
        return count

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return -(-self.height // 2**level), -(-self.width // 2**level)

    def blocks(self, level: int) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = self.shape(level)
        return -(-height // self.block), -(-width // self.block)

    def rows_completed(self, level: int, block_rows: int) -> int:
        """Rows of blocks of a level that the first `block_rows` rows of full-size blocks complete."""
        return self.blocks(level)[0] if block_rows == self.blocks(0)[0] else block_rows >> level


class Pyramid:
    """Turns full-size blocks, row by row, into these blocks and the overview blocks that they complete.

    For each overview the pyramid keeps half a block of rows: an even row of blocks gives the upper half of the next
    level's blocks, which wait for the lower half. Bands are independent: threads may add different bands at once.
    """

    def __init__(self, levels: Levels, bands: int, encoding: Encoding) -> None:
        self._levels, self._encoding = levels, encoding
        overviews, half = range(1, levels.count), levels.block // 2
        self._upper = [np.empty((bands, half, levels.shape(level)[1]), encoding.dtype) for level in overviews]
        self._left = [np.empty((bands, half, half), encoding.dtype) for _ in overviews]

    def add(self, bands: slice, index: BlockIndex, blocks: DnArray) -> Iterator[tuple[BlockIndex, DnArray]]:
        """The blocks, padded beyond the image with its edge pixels, then the overview blocks that they complete.

        `blocks` is (band, row, col) of `bands`; the indices of a band come in row-major order. Yielded arrays are
        scratch memory, valid until the next iteration.
        """
        self._pad(index, blocks)
        yield index, blocks
        if index.level + 1 == self._levels.count:
            return
        whole = self._join(bands, index, self._halve(blocks))
        if whole is not None:
            yield from self.add(bands, BlockIndex(index.level + 1, index.row // 2, index.col // 2), whole)

    def restore(self, bands: slice, index: BlockIndex, blocks: DnArray) -> None:
        """Add an even row of blocks of an interrupted run again, without output.

        After the last even row of every level is restored, `add` continues where that run stopped.
        """
        self._join(bands, index, self._halve(blocks))

    def _halve(self, blocks: DnArray) -> DnArray:
        return halve(blocks, self._encoding.nodata) if self._encoding.averages else blocks[..., ::2, ::2].copy()

    def _pad(self, index: BlockIndex, blocks: DnArray) -> None:
        (height, width), block = self._levels.shape(index.level), self._levels.block
        rows, cols = height - index.row * block, width - index.col * block
        if cols < block:
            blocks[..., cols:] = blocks[..., cols - 1 : cols]
        if rows < block:
            blocks[:, rows:] = blocks[:, rows - 1 : rows]

    def _join(self, bands: slice, index: BlockIndex, quarters: DnArray) -> DnArray | None:
        """The blocks of the next level that these quarters complete; None while other quarters are missing."""
        upper, left = self._upper[index.level][bands], self._left[index.level][bands]
        (rows, cols), block, half = self._levels.blocks(index.level), self._levels.block, self._levels.block // 2
        is_lower, is_right = index.row % 2 == 1, index.col % 2 == 1
        first = index.col // 2 * block
        if not is_lower and index.row + 1 < rows:
            target = upper[..., first + half * is_right :][..., :half]
            target[:] = quarters[..., : target.shape[-1]]
            return None
        if not is_right and index.col + 1 < cols:
            left[:] = quarters
            return None
        whole = scratch_array("whole", (len(quarters), block, block), quarters.dtype)
        if is_lower:
            above = upper[..., first : first + block]
            whole[:, :half, : above.shape[-1]] = above
        part = whole[:, half:] if is_lower else whole[:, :half]
        if is_right:
            part[..., :half] = left
        part[..., half * is_right :][..., :half] = quarters
        return whole


def halve(numbers: DnArray, nodata: float | None) -> DnArray:
    """(..., half the rows, half the columns): mean of the valid numbers in each 2 × 2, `nodata` where none is valid.

    Means of integers are rounded to the nearest integer, halves upwards.

    Parameters
    ----------
    numbers : (..., row, col), rows and columns even, C-contiguous; integers of at most 32 bits, or floats.
    nodata : the number of invalid pixels, may be NaN; None: all pixels are valid.
    """
    invalid = _invalid(numbers, nodata)
    if invalid is None or nodata is None:
        total = _sum_of_four(numbers, "total")
        if numbers.dtype.kind == "f":
            return (total / 4).astype(numbers.dtype)
        total += 2
        total >>= 2
        return total.astype(numbers.dtype)
    exact = np.float32 if _is_narrow(numbers.dtype) else np.float64  # holds sums of four and their halves exactly
    missing = _sum_of_four(invalid.view(np.int8), "missing")
    if numbers.dtype.kind == "f":
        mean = _sum_of_four(np.where(invalid, numbers.dtype.type(0), numbers), "total")
    else:
        total = _sum_of_four(numbers, "total")
        nodata_sum = scratch_array("nodata sum", total.shape, total.dtype)
        total -= np.multiply(missing, total.dtype.type(nodata), out=nodata_sum, casting="unsafe")
        mean = scratch_array("mean", total.shape, exact)
        mean[:] = total
    valid_count = np.subtract(4, missing, out=scratch_array("valid count", mean.shape, exact))
    mean /= np.maximum(valid_count, 1, out=valid_count)
    if numbers.dtype.kind != "f":
        mean += exact(0.5)
        np.floor(mean, out=mean)
    np.copyto(mean, exact(nodata), where=np.equal(missing, 4, out=scratch_array("none", missing.shape, np.bool_)))
    return mean.astype(numbers.dtype)


def _invalid(numbers: DnArray, nodata: float | None) -> BoolArray | None:
    """True where a number is nodata; None if no number is nodata, which minimum and maximum often show."""
    if nodata is None:
        return None
    if np.isnan(nodata):
        return None if not np.isnan(numbers.sum()) else np.isnan(numbers)
    if nodata < numbers.min() or nodata > numbers.max():
        return None
    invalid: BoolArray = np.equal(numbers, nodata, out=scratch_array("invalid", numbers.shape, np.bool_))
    return invalid


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind != "f" and dtype.itemsize <= 2


def _sum_of_four(numbers: DnArray, use: str) -> DnArray:
    """Sums of each 2 × 2, in integers of twice the bits or more, or in double; in scratch memory of this `use`."""
    if _is_narrow(numbers.dtype):
        # Two neighbours are read as one number of twice the bits: shifts use whole registers, strides of two do not.
        bits = 8 * numbers.dtype.itemsize
        both = numbers.view(f"{numbers.dtype.kind}{2 * numbers.dtype.itemsize}")
        pairs: DnArray = np.left_shift(both, bits, out=scratch_array("pairs", both.shape, both.dtype))
        pairs >>= bits
        pairs += np.right_shift(both, bits, out=scratch_array("seconds", both.shape, both.dtype))
    else:
        wide = np.float64 if numbers.dtype.kind == "f" else np.int64
        pairs = np.add(numbers[..., 0::2], numbers[..., 1::2], dtype=wide)
    upper, lower = pairs[..., 0::2, :], pairs[..., 1::2, :]
    sums: DnArray = np.add(upper, lower, out=scratch_array(use, upper.shape, pairs.dtype))
    return sums
