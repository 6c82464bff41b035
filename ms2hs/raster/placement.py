"""Where a conversion's pixels lie: the working grid of a scene, and parts of it."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform, transform_bounds

from ms2hs.errors import SceneError
from ms2hs.raster.scene import PixelGrid, Scene

# Length of one degree of latitude in m: a quarter of the WGS 84 meridian, 10 001 966 m, over 90.
DEGREE_M = 111_133.0
# Of a footprint, on each side: with eight, one of a tile of the military grid is right to a few metres.
SIDE_POINTS = 8


def working_grid(scene: Scene, gsd_m: float | None = None) -> PixelGrid:
    """The grid to convert on, from the upper-left corner of the scene.

    Parameters
    ----------
    gsd_m : size of its pixels in m; None is the scene's `working_gsd_m`, or else its own grid.

    Raises
    ------
    SceneError : a size that is not above 0.
    """
    gsd_m = scene.working_gsd_m if gsd_m is None else gsd_m
    if gsd_m is None:
        return scene.grid
    if not gsd_m > 0:
        raise SceneError(f"a ground sampling of {gsd_m:g} m; a size above 0 is needed. Give --gsd 30, or native.")
    row_m, col_m = pixel_size_m(scene.grid)
    row_step, col_step = gsd_m / row_m, gsd_m / col_m
    # A file in whole metres says 30 m as 30.000000000004.
    if max(abs(row_step - 1), abs(col_step - 1)) < 1e-6:
        return scene.grid
    return scene.grid.resized(row_step, col_step)


def pixel_size_m(grid: PixelGrid) -> tuple[float, float]:
    """Height and width of its pixels in m, at its centre if they are in degrees; without CRS, units are taken as m."""
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
    """Row, column, height and width of the pixels that a box touches.

    Parameters
    ----------
    bbox : west, south, east, north in degrees (WGS 84).

    Raises
    ------
    SceneError : the box is empty or misses the scene, or the scene has no CRS.
    """
    west, south, east, north = bbox
    text = ",".join(f"{value:g}" for value in bbox)
    if not (west < east and south < north and south >= -90 and north <= 90):
        raise SceneError(
            f"the box {text}; west < east and south < north in degrees are needed. Give it as west,south,east,north."
        )
    if grid.crs is None:
        raise SceneError(f"the box {text} cannot be placed: the scene has no CRS. Give the part as a window in pixels.")
    try:
        left, bottom, right, top = transform_bounds("EPSG:4326", grid.crs, *bbox, densify_pts=21)
        corners = [[x, y, 1.0] for x in (left, right) for y in (bottom, top)]
        cols, rows, _ = np.linalg.solve(grid.matrix, np.array(corners).T).tolist()
        (row0, row1), (col0, col1) = _span(rows, grid.height), _span(cols, grid.width)
    except (RasterioError, ValueError, OverflowError):
        row0 = row1 = col0 = col1 = 0
    if row0 >= row1 or col0 >= col1:
        there = ",".join(f"{value:.4f}" for value in transform_bounds(grid.crs, "EPSG:4326", *grid.bounds))
        raise SceneError(f"the box {text} misses the scene, which lies in {there} (west,south,east,north). Correct it.")
    return row0, col0, row1 - row0, col1 - col0


def _span(positions: list[float], size: int) -> tuple[int, int]:
    """First pixel that these positions along an axis enclose, and one past the last; on an edge is not inside."""
    low, high = min(positions), max(positions)
    return max(0, math.floor(low + 1e-6)), min(size, math.ceil(high - 1e-6))


def pixel_at(grid: PixelGrid, lon: float, lat: float) -> tuple[int, int] | None:
    """Row and column of the pixel at a place (degrees, WGS 84); None outside the grid, or where it has no CRS."""
    if grid.crs is None:
        return None
    (x,), (y,) = transform("EPSG:4326", grid.crs, [lon], [lat])
    col, row, _ = np.floor(np.linalg.solve(grid.matrix, (x, y, 1.0))).astype(int).tolist()
    return (row, col) if 0 <= row < grid.height and 0 <= col < grid.width else None


def lonlat_bounds(grid: PixelGrid) -> tuple[float, float, float, float] | None:
    """West, south, east, north of a grid in degrees (WGS 84); None where it has no CRS."""
    if grid.crs is None:
        return None
    west, south, east, north = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    return west, south, east, north


def footprint(grid: PixelGrid) -> dict[str, Any] | None:
    """A grid's outline as GeoJSON in degrees (WGS 84), cut at the antimeridian (RFC 7946, 3.1.9); None without CRS.

    Its sides are straight on the grid's own map and bent in degrees, so there are points between the corners.
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
    """What of a closed ring lies within -180 to 180 degrees of longitude, empty if nothing (Sutherland-Hodgman)."""
    for sign in (1, -1):
        kept = []
        for (lon, lat), (after, up) in pairwise(ring):
            inside, is_next = sign * lon <= 180, sign * after <= 180
            if inside:
                kept.append((lon, lat))
            if inside != is_next:
                kept.append((sign * 180.0, lat + (up - lat) * (sign * 180.0 - lon) / (after - lon)))
        if len(kept) < 3:
            return np.empty((0, 2))
        ring = np.array([*kept, kept[0]])
    return ring if np.ptp(ring[:, 0]) > 0 else np.empty((0, 2))
