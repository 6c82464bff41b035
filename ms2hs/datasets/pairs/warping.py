"""Resampling of a scene to any pixel grid: another CRS, rotated, coarser or finer, shifted by a fraction of a pixel."""

import numpy as np
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds, pixel_size_m, window_in
from ms2hs.scenes.reader import SceneReader

# Share of a pixel's area that must be valid: the whole area, less rounding. Another sensor measures the whole pixel,
# not its clear half.
WHOLE_PIXEL = 0.995
# Scene pixels read beyond the edges of the grid; interpolation needs one.
MARGIN = 2
# Points along an edge that are projected: an edge that is straight in one CRS is curved in another.
EDGE_POINTS = 33


def overlap(grid: PixelGrid, other: PixelGrid) -> tuple[int, int, int, int] | None:
    """Row, column, height and width of the part of `grid` within the box around `other`; None without overlap."""
    bounds = lonlat_bounds(other)
    return None if bounds is None else window_in(grid, bounds)


def displaced(grid: PixelGrid, row: float, col: float) -> PixelGrid:
    """The grid moved by `row` pixels down and `col` pixels to the right."""
    a, b, c, d, e, f = grid.transform
    return PixelGrid(grid.crs, (a, b, c + a * col + b * row, d, e, f + d * col + e * row), grid.height, grid.width)


def is_finer(grid: PixelGrid, scene: PixelGrid) -> bool:
    """True if the pixels of `grid` have a smaller area than the scene's (by more than 2 %)."""
    fine, coarse = pixel_size_m(grid), pixel_size_m(scene)
    return fine[0] * fine[1] < 0.98 * coarse[0] * coarse[1]


def read_onto(reader: SceneReader, grid: PixelGrid) -> tuple[Float32Array, BoolArray]:
    """A scene on the pixels of `grid`: coarser pixels are averages by area, finer pixels are interpolated linearly.

    Only the part of the scene under the grid is read. SceneError if a file of the scene is damaged.

    Parameters
    ----------
    reader : open, on the scene's own pixel grid. Scene and grid have a CRS.

    Returns
    -------
    (band, row, col) reflectance, 0 where invalid; (row, col) True where the whole area of the pixel is valid.
    """
    shape = (grid.height, grid.width)
    box = _box(reader.grid, grid)
    if box is None:
        return np.zeros((len(reader.scene.assets), *shape), np.float32), np.zeros(shape, np.bool_)
    pixels, pixel_grid = _read_padded(reader, box)
    warped = np.zeros((len(pixels), *shape), np.float32)
    reproject(
        pixels,
        warped,
        src_transform=Affine(*pixel_grid.transform),
        src_crs=pixel_grid.crs,
        dst_transform=Affine(*grid.transform),
        dst_crs=grid.crs,
        resampling=Resampling.bilinear if is_finer(grid, reader.grid) else Resampling.average,
    )
    valid: BoolArray = warped[-1] >= WHOLE_PIXEL
    values = np.divide(warped[:-1], warped[-1], out=np.zeros_like(warped[:-1]), where=valid)
    return values, valid


def _box(scene: PixelGrid, grid: PixelGrid) -> tuple[int, int, int, int] | None:
    """Top, left, bottom and right of the scene pixels under the grid, the last two exclusive; None without overlap."""
    along = np.linspace(0, 1, EDGE_POINTS)
    cols = np.concatenate([along, along, 0 * along, 0 * along + 1]) * grid.width
    rows = np.concatenate([0 * along, 0 * along + 1, along, along]) * grid.height
    x, y, _ = grid.matrix @ np.stack([cols, rows, np.ones_like(rows)])
    projected = np.array(transform(grid.crs, scene.crs, x.tolist(), y.tolist()))
    if not np.isfinite(projected).all():
        return None
    col, row, _ = np.linalg.solve(scene.matrix, np.stack([*projected, np.ones(len(x))]))
    top, left = int(np.floor(row.min())) - MARGIN, int(np.floor(col.min())) - MARGIN
    bottom, right = int(np.ceil(row.max())) + MARGIN, int(np.ceil(col.max())) + MARGIN
    if top >= scene.height or left >= scene.width or bottom <= 0 or right <= 0:
        return None
    return top, left, bottom, right


def _read_padded(reader: SceneReader, box: tuple[int, int, int, int]) -> tuple[Float32Array, PixelGrid]:
    """(band + 1, row, col) bands and validity of a box, 0 outside the scene; and the pixel grid of the box."""
    top, left, bottom, right = box
    first, last = max(top, 0), min(bottom, reader.grid.height)
    begin, end = max(left, 0), min(right, reader.grid.width)
    values, valid = reader.read(first, begin, last - first, end - begin)
    pixels = np.zeros((len(values) + 1, bottom - top, right - left), np.float32)
    inside = pixels[:, first - top : last - top, begin - left : end - left]
    inside[:-1], inside[-1] = values, valid
    return pixels, reader.grid.crop(top, left, bottom - top, right - left)
