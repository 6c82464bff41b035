"""From the pixels of one grid to those of another that lies along the same axes.

Both directions are separable: rows first, then columns, each a few weighted neighbours (taps) of every output pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid

# Two edges nearer than this, in pixels, are the same edge: coordinates in degrees are not exact.
SAME_EDGE = 1e-5
# At least half of a pixel must be good; a little less for rounding.
HALF = 0.499


@dataclass(frozen=True)
class Axis:
    """One axis of a working grid in the pixels of a band: working pixel i is [start + i step, start + (i+1) step]."""

    start: float
    step: float
    size: int
    """How many pixels the band has."""

    @property
    def is_same(self) -> bool:
        """Whether the pixels of the working grid are pixels of the band."""
        return abs(self.step - 1) * self.size < SAME_EDGE * 100 and abs(self.start - round(self.start)) < SAME_EDGE

    def edges(self, first: int, count: int) -> NDArray[np.float64]:
        """(count + 1,) edges of the working pixels from `first` on, in pixels of the band."""
        edges = self.start + self.step * np.arange(first, first + count + 1)
        nearest = np.round(edges)
        return np.where(np.abs(edges - nearest) < SAME_EDGE, nearest, edges)


def relate(grid: PixelGrid, band: PixelGrid, name: str) -> tuple[Axis, Axis]:
    """The rows and columns of the working `grid` in the pixels of a `band`.

    Raises
    ------
    SceneError : the CRS differ, or one grid is turned against the other; the message has the band's `name`.
    """
    (col_step, skew, col_start), (turn, row_step, row_start), _ = np.linalg.solve(band.matrix, grid.matrix).tolist()
    turned = max(abs(skew) * grid.height, abs(turn) * grid.width) > 0.1
    if grid.crs != band.crs or turned or col_step <= 0 or row_step <= 0:
        raise SceneError(
            f"band {name} lies on another grid ({band.crs}, {band.transform}) than the scene ({grid.crs}, "
            f"{grid.transform}); the bands must share CRS and axes. Warp it with gdalwarp first."
        )
    return Axis(row_start, row_step, band.height), Axis(col_start, col_step, band.width)


@dataclass(frozen=True)
class Taps:
    """For each of n output pixels, k input pixels and their weights."""

    index: NDArray[np.intp]
    """(n, k) positions of input pixels, always inside the band."""
    weight: Float32Array
    """(n, k)."""


@dataclass(frozen=True)
class Share:
    """How one axis of a part of the working grid is made of a band."""

    value: Taps
    """What each value is made of."""
    area: Taps
    """What each pixel's area is made of."""
    begin: int
    """First pixel of the band that matters."""
    end: int
    """One past the last; equal to `begin` where the band does not reach."""


def share(axis: Axis, first: int, count: int) -> Share:
    """How `count` working pixels from `first` on are made of a band's."""
    value, area = value_taps(axis, first, count), area_taps(axis, first, count)
    used = np.concatenate([taps.index[taps.weight != 0] for taps in (value, area)])
    begin, end = (int(used.min()), int(used.max()) + 1) if used.size else (0, 0)
    return Share(value, area, begin, end)


def area_taps(axis: Axis, first: int, count: int) -> Taps:
    """The share of each working pixel that each pixel of the band covers; shares outside the band are missing."""
    edges = axis.edges(first, count)
    low, high = edges[:-1], edges[1:]
    begin = np.floor(low).astype(np.intp)
    taps = int((np.ceil(high) - begin).max())
    index = begin[:, None] + np.arange(taps)
    overlap = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
    inside = (index >= 0) & (index < axis.size)
    weight = np.where(inside, np.clip(overlap, 0, None), 0) / (high - low)[:, None]
    return Taps(np.clip(index, 0, axis.size - 1), weight.astype(np.float32))


def value_taps(axis: Axis, first: int, count: int) -> Taps:
    """What the value of each working pixel is made of; rows sum to 1, or to 0 outside the band.

    Finer working pixels are interpolated linearly between the centres of the band's pixels; half a pixel from the
    band's border its last pixel goes on. Coarser ones are averages by area. Where the grids do not fit, as 20 m in 30 m
    do not, the weights are tilted so that their centroid is the centre of the working pixel: shares alone would move
    the image by up to a twelfth of a pixel, back and forth.
    """
    return _linear_taps(axis, first, count) if axis.step < 1 - SAME_EDGE else _average_taps(axis, first, count)


def _linear_taps(axis: Axis, first: int, count: int) -> Taps:
    edges = axis.edges(first, count)
    centre = (edges[:-1] + edges[1:]) / 2
    left = np.floor(centre - 0.5).astype(np.intp)
    share = centre - 0.5 - left
    inside = (centre >= 0) & (centre <= axis.size)
    weight = np.stack([1 - share, share], axis=1) * inside[:, None]
    return Taps(np.clip(np.stack([left, left + 1], axis=1), 0, axis.size - 1), weight.astype(np.float32))


def _average_taps(axis: Axis, first: int, count: int) -> Taps:
    area = area_taps(axis, first, count)
    edges = axis.edges(first, count)
    centre = ((edges[:-1] + edges[1:]) / 2)[:, None]
    weight = area.weight.astype(np.float64)
    weight = _normalised(weight)
    position = area.index + 0.5
    centroid = (weight * position).sum(axis=1, keepdims=True)
    spread = (weight * (position - centroid) ** 2).sum(axis=1, keepdims=True)
    tilt = np.divide(centre - centroid, spread, out=np.zeros_like(spread), where=spread > SAME_EDGE)
    tilted = np.clip(weight * (1 + tilt * (position - centroid)), 0, None)
    return Taps(area.index, _normalised(tilted).astype(np.float32))


def _normalised(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    normalised: NDArray[np.float64] = weight / total
    return normalised


def regrid(values: Float32Array, valid: BoolArray, rows: Share, cols: Share) -> tuple[Float32Array, BoolArray]:
    """Values on the working grid from the valid ones alone, and where at least half of the area is valid.

    Parameters
    ----------
    values : (band, row, col) of the band's pixels that `rows` and `cols` begin and end with, 0 where invalid.
    valid : (row, col) of all the bands.

    Returns
    -------
    (band, row, col) and (row, col); what is not valid means nothing.
    """
    whole = valid.astype(np.float32)
    area = _along(_along(whole, rows.area, rows.begin, -2), cols.area, cols.begin, -1)
    result = _along(_along(values, rows.value, rows.begin, -2), cols.value, cols.begin, -1)
    if not valid.all():
        known = _along(_along(whole, rows.value, rows.begin, -2), cols.value, cols.begin, -1)
        np.divide(result, known, out=result, where=known > 0)
    return result, area >= HALF


def covered(values: Float32Array, rows: Share, cols: Share) -> Float32Array:
    """(..., row, col) the share of each working pixel's area that `values` of the band's pixels cover, 0 outside it."""
    return _along(_along(values, rows.area, rows.begin, -2), cols.area, cols.begin, -1)


def _along(values: Float32Array, taps: Taps, begin: int, axis: int) -> Float32Array:
    """Weighted sums along rows (axis -2) or columns (axis -1) of `values`, which begin at pixel `begin`."""
    last = values.shape[axis] - 1
    shape = (-1, 1) if axis == -2 else (-1,)
    total: Float32Array | None = None
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        # Positions that carry no weight may lie outside what was read.
        part = np.take(values, np.clip(index - begin, 0, last), axis=axis)
        part *= weight.reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("taps without any input pixel")
    return total
