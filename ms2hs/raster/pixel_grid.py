"""Pixel grids of rasters: CRS, affine transform and shape, and their position on the Earth."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform, transform_bounds

from ms2hs.errors import SceneError

# Length of one degree of latitude in m: a quarter of the WGS 84 meridian, 10 001 966 m, over 90.
DEGREE_M = 111_133.0
# Points per side of a footprint: eight describe an MGRS tile to within a few metres.
SIDE_POINTS = 8


@dataclass(frozen=True)
class PixelGrid:
    """Position of a raster's pixels: CRS, transform and shape. Immutable."""

    crs: str | None
    """Coordinate reference system as GDAL reads it (`EPSG:32633` or WKT); None for a raster without CRS."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, at pixel corners, in CRS units."""
    height: int
    """Rows."""
    width: int
    """Columns."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the corners, in CRS units."""
        a, b, c, d, e, f = self.transform
        xs = [c + a * col + b * row for row in (0, self.height) for col in (0, self.width)]
        ys = [f + d * col + e * row for row in (0, self.height) for col in (0, self.width)]
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) matrix that maps (col, row, 1) to (x, y, 1)."""
        return np.array([self.transform[:3], self.transform[3:], (0.0, 0.0, 1.0)])

    def resized(self, row_step: float, col_step: float) -> "PixelGrid":
        """The grid with the same upper-left corner whose pixels span `row_step` rows and `col_step` columns.

        The last row or column is kept if at least half of it lies on this grid.
        """
        a, b, c, d, e, f = self.transform
        height = max(1, math.floor(self.height / row_step + 0.5))
        width = max(1, math.floor(self.width / col_step + 0.5))
        return PixelGrid(self.crs, (a * col_step, b * row_step, c, d * col_step, e * row_step, f), height, width)

    def crop(self, row: int, col: int, height: int, width: int) -> "PixelGrid":
        """The grid of a window."""
        a, b, c, d, e, f = self.transform
        return PixelGrid(self.crs, (a, b, c + a * col + b * row, d, e, f + d * col + e * row), height, width)


def pixel_size_m(grid: PixelGrid) -> tuple[float, float]:
    """Height and width of a pixel in metres, at the grid's centre for degrees; without a CRS, units are metres."""
    a, b, _, d, e, _ = grid.transform
    height, width = float(np.hypot(b, e)), float(np.hypot(a, d))
    if grid.crs is None:
        return height, width
    crs = CRS.from_user_input(grid.crs)
    if crs.is_geographic:
        _, south, _, north = grid.bounds
        return height * DEGREE_M, width * DEGREE_M * float(np.cos(np.radians((south + north) / 2)))
    metres = float(crs.linear_units_factor[1])
    return height * metres, width * metres


def subset(grid: PixelGrid, bbox: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Row, column, height, width of the pixels in a bounding box: west, south, east, north in degrees (WGS 84).

    Raises
    ------
    SceneError : the bounding box is invalid or outside the scene, or the scene has no CRS.
    """
    west, south, east, north = bbox
    text = ",".join(f"{value:g}" for value in bbox)
    if not (west < east and south < north and south >= -90 and north <= 90):
        raise SceneError(
            f"bounding box {text}; west < east and south < north in degrees are needed. Give west,south,east,north."
        )
    if grid.crs is None:
        raise SceneError(f"bounding box {text}: the scene has no CRS. Use a window in pixels instead.")
    try:
        left, bottom, right, top = transform_bounds("EPSG:4326", grid.crs, *bbox, densify_pts=21)
        corners = [[x, y, 1.0] for x in (left, right) for y in (bottom, top)]
        cols, rows, _ = np.linalg.solve(grid.matrix, np.array(corners).T).tolist()
        (row0, row1), (col0, col1) = _span(rows, grid.height), _span(cols, grid.width)
    except (RasterioError, ValueError, OverflowError):
        row0 = row1 = col0 = col1 = 0
    if row0 >= row1 or col0 >= col1:
        bounds = ",".join(f"{value:.4f}" for value in transform_bounds(grid.crs, "EPSG:4326", *grid.bounds))
        raise SceneError(f"bounding box {text} is outside the scene, which covers {bounds} (west,south,east,north).")
    return row0, col0, row1 - row0, col1 - col0


def _span(positions: list[float], size: int) -> tuple[int, int]:
    """First pixel between positions along an axis, and one past the last; pixels that only touch are outside."""
    low, high = min(positions), max(positions)
    return max(0, math.floor(low + 1e-6)), min(size, math.ceil(high - 1e-6))


def pixel_at(grid: PixelGrid, lon: float, lat: float) -> tuple[int, int] | None:
    """Row and column of the pixel at a point (degrees, WGS 84); None outside the grid or without a CRS."""
    if grid.crs is None:
        return None
    (x,), (y,) = transform("EPSG:4326", grid.crs, [lon], [lat])
    col, row, _ = np.floor(np.linalg.solve(grid.matrix, (x, y, 1.0))).astype(int).tolist()
    return (row, col) if 0 <= row < grid.height and 0 <= col < grid.width else None


def lonlat_bounds(grid: PixelGrid) -> tuple[float, float, float, float] | None:
    """West, south, east, north of a grid in degrees (WGS 84); None without a CRS."""
    if grid.crs is None:
        return None
    west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    return west, south, east, north


def footprint(grid: PixelGrid) -> dict[str, Any] | None:
    """Outline of a grid as GeoJSON in degrees (WGS 84), cut at the antimeridian (RFC 7946, 3.1.9); None without a CRS.

    Sides that are straight in the grid's CRS are curves in degrees, hence the points between the corners.
    """
    if grid.crs is None:
        return None
    along = np.linspace(0, 1, SIDE_POINTS, endpoint=False)
    zero, one = np.zeros(SIDE_POINTS), np.ones(SIDE_POINTS)
    cols = np.concatenate([along, one, 1 - along, zero, [0]]) * grid.width
    rows = np.concatenate([one, 1 - along, zero, along, [1]]) * grid.height
    x, y, _ = grid.matrix @ np.array([cols, rows, np.ones_like(cols)])
    lon, lat = transform(grid.crs, "EPSG:4326", x.tolist(), y.tolist())
    ring = np.column_stack([np.unwrap(lon, period=360.0), lat])
    if abs(ring[-1, 0] - ring[0, 0]) > 1:  # around a pole
        west, south, east, north = lonlat_bounds(grid) or (-180.0, -90.0, 180.0, 90.0)
        ring = np.array([[west, south], [east, south], [east, north], [west, north], [west, south]])
    if (np.diff(ring[:, 0]) * (ring[1:, 1] + ring[:-1, 1])).sum() > 0:  # clockwise
        ring = ring[::-1]
    parts = [part for turn in (0.0, 360.0, -360.0) if len(part := _between(np.add(ring, (turn, 0.0)))) > 0]
    rings = [[part.round(7).tolist()] for part in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _between(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a closed ring between -180 and 180 degrees longitude, possibly empty (Sutherland-Hodgman)."""
    for sign in (1, -1):
        kept = []
        for (lon, lat), (next_lon, next_lat) in pairwise(ring):
            is_inside, is_next_inside = sign * lon <= 180, sign * next_lon <= 180
            if is_inside:
                kept.append((lon, lat))
            if is_inside != is_next_inside:
                kept.append((sign * 180.0, lat + (next_lat - lat) * (sign * 180.0 - lon) / (next_lon - lon)))
        if len(kept) < 3:
            return np.empty((0, 2))
        ring = np.array([*kept, kept[0]])
    return ring if np.ptp(ring[:, 0]) > 0 else np.empty((0, 2))
