"""Overviews averaged from the strips as they pass, so that no pixel has to be read again for them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.cube import NODATA

Stored = NDArray[np.int16]


class Pyramid:
    """Takes the strips of a cube from the top, and gives those of its overviews as their rows come together."""

    def __init__(self, height: int, levels: int) -> None:
        """Nothing has passed yet.

        Parameters
        ----------
        height : rows of the cube.
        levels : how many overviews, each half as high and wide as the one before, rounded up.
        """
        self._heights = [-(-height // 2**level) for level in range(levels)]
        self._taken = [0] * levels
        self._left: list[Stored | None] = [None] * levels

    def add(self, strip: Stored) -> Iterator[tuple[int, int, Stored]]:
        """Level (0: half the size), first row, and numbers (band, rows, cols) of the overview strips that this ends.

        Parameters
        ----------
        strip : (band, rows, cols) stored numbers, the rows after those added before.
        """
        for level, height in enumerate(self._heights):
            left = self._left[level]
            rows = strip if left is None else np.concatenate([left, strip], axis=1)
            first = (self._taken[level] - (0 if left is None else 1)) // 2
            self._taken[level] += strip.shape[1]
            is_last = self._taken[level] == height
            self._left[level] = rows[:, -1:].copy() if rows.shape[1] % 2 and not is_last else None
            strip = halve(rows if self._left[level] is None else rows[:, :-1])
            if not strip.shape[1]:
                return
            yield level, first, strip


def halve(numbers: Stored) -> Stored:
    """(band, half the rows, half the cols), rounded up: the mean of the usable numbers in each 2 x 2, to the nearest.

    NODATA where none is usable. At an odd edge the mean is of those that there are.
    """
    bands, rows, cols = numbers.shape
    half = np.empty((bands, -(-rows // 2), -(-cols // 2)), np.int16)
    for plane, out in zip(numbers, half, strict=True):
        even = np.pad(plane, ((0, rows % 2), (0, cols % 2)), mode="edge") if rows % 2 or cols % 2 else plane
        known = even != NODATA
        if known.all():
            out[:] = (_sum_of_four(even.astype(np.int32)) + 2) >> 2
            continue
        count = _sum_of_four(known.astype(np.int32))
        total = _sum_of_four(np.where(known, even, 0).astype(np.int32))
        out[:] = np.where(count > 0, (2 * total + count) // np.maximum(2 * count, 1), NODATA)
    return half


def _sum_of_four(plane: NDArray[np.int32]) -> NDArray[np.int32]:
    pairs = plane[0::2] + plane[1::2]
    return pairs[:, 0::2] + pairs[:, 1::2]
