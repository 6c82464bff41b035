"""Resampling between pixel grids with the same CRS and axes: linear to finer pixels, area averages to coarser pixels.

Both are separable: an output pixel is a weighted sum of a few input pixels (`Taps`), first along rows, then along
columns. A second set of taps holds the covered area, which determines the validity of an output pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid

# Edges closer than this, in pixels, are equal: coordinates in degrees are not exact.
SAME_EDGE = 1e-5
# Smallest valid share of the area of a valid pixel: one half, less rounding.
MIN_VALID_SHARE = 0.499


@dataclass(frozen=True)
class Axis:
    """An axis of the working grid in pixels of a band: working pixel i spans start + i step to start + (i+1) step."""

    start: float
    step: float
    size: int
    """Pixels of the band."""

    @property
    def is_same(self) -> bool:
        """Whether working pixels coincide with pixels of the band."""
        return abs(self.step - 1) * self.size < SAME_EDGE * 100 and abs(self.start - round(self.start)) < SAME_EDGE

    def edges(self, first: int, count: int) -> NDArray[np.float64]:
        """(count + 1,) edges of the working pixels that start at `first`, in pixels of the band."""
        edges = self.start + self.step * np.arange(first, first + count + 1)
        nearest = np.round(edges)
        return np.where(np.abs(edges - nearest) < SAME_EDGE, nearest, edges)

    def centres(self, first: int, count: int) -> NDArray[np.float64]:
        """(count,) centres of these working pixels, in pixels of the band."""
        edges = self.edges(first, count)
        return (edges[:-1] + edges[1:]) / 2


def relate(grid: PixelGrid, band: PixelGrid, name: str) -> tuple[Axis, Axis]:
    """Row axis and column axis of the working `grid` in pixels of a `band`.

    Raises
    ------
    SceneError : the CRSs differ, or one grid is rotated against the other; the message contains the band's `name`.
    """
    band_from_grid = np.linalg.solve(band.matrix, grid.matrix).tolist()
    (col_step, col_skew, col_start), (row_skew, row_step, row_start), _ = band_from_grid
    is_rotated = max(abs(col_skew) * grid.height, abs(row_skew) * grid.width) > 0.1
    if grid.crs != band.crs or is_rotated or col_step <= 0 or row_step <= 0:
        raise SceneError(
            f"band {name} has another grid ({band.crs}, {band.transform}) than the scene ({grid.crs}, "
            f"{grid.transform}); bands must share CRS and axes. Warp the band with gdalwarp first."
        )
    return Axis(row_start, row_step, band.height), Axis(col_start, col_step, band.width)


@dataclass(frozen=True)
class Taps:
    """For each of n output pixels, k input pixels and their weights."""

    index: NDArray[np.intp]
    """(n, k) positions of input pixels, all inside the band."""
    weight: Float32Array
    """(n, k)."""


@dataclass(frozen=True)
class AxisWeights:
    """Weights of a band's pixels for a range of working pixels along one axis."""

    value: Taps
    """Weights for pixel values."""
    area: Taps
    """Covered share of each working pixel."""
    begin: int
    """First pixel of the band with a weight."""
    end: int
    """One past the last pixel with a weight; equal to `begin` outside the band."""


def axis_weights(axis: Axis, first: int, count: int) -> AxisWeights:
    """Weights of a band's pixels for `count` working pixels that start at `first`."""
    value, area = value_taps(axis, first, count), area_taps(axis, first, count)
    used = np.concatenate([taps.index[taps.weight != 0] for taps in (value, area)])
    begin, end = (int(used.min()), int(used.max()) + 1) if used.size else (0, 0)
    return AxisWeights(value, area, begin, end)


def area_taps(axis: Axis, first: int, count: int) -> Taps:
    """Share of each working pixel that each pixel of the band covers; rows sum to less than 1 at the band's edge."""
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
    """Weights for the value of each working pixel; rows sum to 1, or to 0 outside the band.

    Finer working pixels are interpolated linearly between pixel centres of the band, and constant in its outer half
    pixel. Coarser working pixels are area averages. Where pixels straddle (20 m to 30 m), the weights are tilted so
    that their centroid is the centre of the working pixel. Pure area averages would shift the image back and forth by
    up to a twelfth of a pixel.
    """
    return _linear_taps(axis, first, count) if axis.step < 1 - SAME_EDGE else _average_taps(axis, first, count)


def _linear_taps(axis: Axis, first: int, count: int) -> Taps:
    centre = axis.centres(first, count)
    left = np.floor(centre - 0.5).astype(np.intp)
    fraction = centre - 0.5 - left
    inside = (centre >= 0) & (centre <= axis.size)
    weight = np.stack([1 - fraction, fraction], axis=1) * inside[:, None]
    return Taps(np.clip(np.stack([left, left + 1], axis=1), 0, axis.size - 1), weight.astype(np.float32))


def _average_taps(axis: Axis, first: int, count: int) -> Taps:
    area, centre = area_taps(axis, first, count), axis.centres(first, count)[:, None]
    weight = _normalised(area.weight.astype(np.float64))
    position = area.index + 0.5
    centroid = (weight * position).sum(axis=1, keepdims=True)
    spread = (weight * (position - centroid) ** 2).sum(axis=1, keepdims=True)
    tilt = np.divide(centre - centroid, spread, out=np.zeros_like(spread), where=spread > SAME_EDGE)
    tilted = np.clip(weight * (1 + tilt * (position - centroid)), 0, None)
    return Taps(area.index, _normalised(tilted).astype(np.float32))


def _normalised(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weight / np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(float).tiny))


def regrid(
    values: Float32Array, valid: BoolArray, rows: AxisWeights, cols: AxisWeights
) -> tuple[Float32Array, BoolArray]:
    """Values on the working grid from valid pixels only, and validity: at least half of the area is valid.

    Parameters
    ----------
    values : (band, row, col) pixels from `begin` to `end` of `rows` and `cols`, 0 where invalid.
    valid : (row, col), the same for all bands.

    Returns
    -------
    (band, row, col) values, arbitrary where invalid, and (row, col) validity.
    """
    weights = valid.astype(np.float32)
    result = _interpolated(values, rows, cols)
    if not valid.all():
        valid_weight = _interpolated(weights, rows, cols)
        np.divide(result, valid_weight, out=result, where=valid_weight > 0)
    return result, covered(weights, rows, cols) >= MIN_VALID_SHARE


def _interpolated(values: Float32Array, rows: AxisWeights, cols: AxisWeights) -> Float32Array:
    return _along(_along(values, rows.value, rows.begin, -2), cols.value, cols.begin, -1)


def covered(values: Float32Array, rows: AxisWeights, cols: AxisWeights) -> Float32Array:
    """(..., row, col) area average of `values` over each working pixel; 0 outside the band."""
    return _along(_along(values, rows.area, rows.begin, -2), cols.area, cols.begin, -1)


def _along(values: Float32Array, taps: Taps, begin: int, axis: int) -> Float32Array:
    """Weighted sums along rows (axis -2) or columns (axis -1) of `values`, whose first pixel is `begin`."""
    total: Float32Array | None = None
    for index, weight in zip(taps.index.T, taps.weight.T, strict=True):
        # Positions without weight may be outside the values.
        part = np.take(values, np.clip(index - begin, 0, values.shape[axis] - 1), axis=axis)
        part *= weight[:, None] if axis == -2 else weight
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("taps without an input pixel")
    return total
