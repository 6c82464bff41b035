"""A scene brought onto pixels that lie anywhere: another CRS, turned, coarser or finer, moved by a fraction."""

import numpy as np
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds, pixel_size_m, subset
from ms2hs.scenes.reader import SceneReader

# All of a pixel must be good, less for rounding: where it is half cloud, the mean of the clear half is not what
# another sensor saw of the whole.
WHOLE = 0.995
# Pixels of the scene beyond the edges of the part that is asked for; interpolation looks one further.
MARGIN = 2
# Places along an edge whose position is asked: an edge that is straight on one map is bent on another.
EDGE_POINTS = 33


def overlap(grid: PixelGrid, other: PixelGrid) -> tuple[int, int, int, int] | None:
    """Row, column, height and width of the part of `grid` within the box around `other`; None where they part."""
    bounds = lonlat_bounds(other)
    if bounds is None or grid.crs is None:
        return None
    try:
        return subset(grid, bounds)
    except SceneError:
        return None


def displaced(grid: PixelGrid, row: float, col: float) -> PixelGrid:
    """The same pixels, moved down and right by `row` and `col` of them."""
    a, b, c, d, e, f = grid.transform
    return PixelGrid(grid.crs, (a, b, c + a * col + b * row, d, e, f + d * col + e * row), grid.height, grid.width)


def is_finer(grid: PixelGrid, scene: PixelGrid) -> bool:
    """Whether `grid` has pixels of a smaller area than the scene's, so that it shows more than was seen."""
    fine, coarse = pixel_size_m(grid), pixel_size_m(scene)
    return fine[0] * fine[1] < 0.98 * coarse[0] * coarse[1]


def read_onto(reader: SceneReader, grid: PixelGrid) -> tuple[Float32Array, BoolArray]:
    """A scene on the pixels of `grid`: coarser ones are averages by area, finer ones are interpolated linearly.

    No more of the scene is read than lies under the grid.

    Parameters
    ----------
    reader : opened; its pixels are averaged, so it should have the scene's own.
    grid : with a CRS, as the scene.

    Returns
    -------
    (band, row, col) reflectance, 0 where invalid; (row, col) True where all of the pixel's area is good.

    Raises
    ------
    SceneError : a file of the scene is damaged.
    """
    shape = (grid.height, grid.width)
    box = _box(reader.grid, grid)
    if box is None:
        return np.zeros((len(reader.scene.assets), *shape), np.float32), np.zeros(shape, np.bool_)
    part, place = _padded(reader, box)
    warped = np.zeros((len(part), *shape), np.float32)
    reproject(
        part,
        warped,
        src_transform=Affine(*place.transform),
        src_crs=place.crs,
        dst_transform=Affine(*grid.transform),
        dst_crs=grid.crs,
        resampling=Resampling.bilinear if is_finer(grid, reader.grid) else Resampling.average,
    )
    valid: BoolArray = warped[-1] >= WHOLE
    values = np.divide(warped[:-1], warped[-1], out=np.zeros_like(warped[:-1]), where=valid)
    return values, valid


def _box(scene: PixelGrid, grid: PixelGrid) -> tuple[int, int, int, int] | None:
    """Row, column, row after and column after of the scene's pixels under the grid; None where there are none."""
    along = np.linspace(0, 1, EDGE_POINTS)
    cols = np.concatenate([along, along, 0 * along, 0 * along + 1]) * grid.width
    rows = np.concatenate([0 * along, 0 * along + 1, along, along]) * grid.height
    x, y, _ = grid.matrix @ np.stack([cols, rows, np.ones_like(rows)])
    there = np.array(transform(grid.crs, scene.crs, x.tolist(), y.tolist()))
    if not np.isfinite(there).all():
        return None
    col, row, _ = np.linalg.solve(scene.matrix, np.stack([*there, np.ones(len(x))]))
    top, left = int(np.floor(row.min())) - MARGIN, int(np.floor(col.min())) - MARGIN
    bottom, right = int(np.ceil(row.max())) + MARGIN, int(np.ceil(col.max())) + MARGIN
    if top >= scene.height or left >= scene.width or bottom <= 0 or right <= 0:
        return None
    return top, left, bottom, right


def _padded(reader: SceneReader, box: tuple[int, int, int, int]) -> tuple[Float32Array, PixelGrid]:
    """(band and validity, row, col) of a box that may reach beyond the scene, 0 there, and where it lies."""
    top, left, bottom, right = box
    first, last = max(top, 0), min(bottom, reader.grid.height)
    begin, end = max(left, 0), min(right, reader.grid.width)
    values, valid = reader.read(first, begin, last - first, end - begin)
    part = np.zeros((len(values) + 1, bottom - top, right - left), np.float32)
    inside = part[:, first - top : last - top, begin - left : end - left]
    inside[:-1], inside[-1] = values, valid
    return part, reader.grid.crop(top, left, bottom - top, right - left)
