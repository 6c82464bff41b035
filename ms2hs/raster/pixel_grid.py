"""Pixel grids of rasters: CRS, affine transform and shape, and their position on the Earth."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.session import DummySession
from rasterio.warp import transform

from ms2hs.arrays import FloatArray
from ms2hs.errors import SceneError

# Length of one degree of latitude in m: a quarter of the WGS 84 meridian, 10 001 966 m, over 90.
DEGREE_M = 111_133.0
# Points per side of a footprint: eight describe an MGRS tile to within a few metres.
SIDE_POINTS = 8
# Points per side of a box that is projected to a grid.
BOX_SIDE_POINTS = 22
# Degrees around a grid's box: edges that are straight in its projection are curved in degrees.
MARGIN_DEG = 0.1
# A box with west > east crosses the antimeridian if it is narrower than this, in degrees; else its numbers are swapped.
WIDEST_CROSSING = 180.0
# Degrees beyond which no raster is on the Earth: some reach around the antimeridian, or half a pixel past a pole.
MAX_LONGITUDE, MAX_LATITUDE = 540.0, 91.0
# Larger numbers of a transform are damage, in any unit of length.
MAX_COORDINATE = 1e12
# Length of a degree of latitude.
KM_PER_DEGREE = 111.2
WGS84 = "EPSG:4326"
# WKB: type number of a point, without the flag of a third dimension.
WKB_POINT, WKB_FLAGS = 1, 0x1FFFFFFF
# rasterio raises some errors of PROJ without wrapping them.
UNKNOWN_POSITION = (RasterioError, CRSError, CPLE_BaseError, ValueError, OverflowError)

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees (WGS 84)."""


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

    def __post_init__(self) -> None:
        """Refuse a transform that gives pixels no size."""
        a, b, _, d, e, _ = self.transform
        if not all(abs(number) < MAX_COORDINATE for number in self.transform) or a * e == b * d:
            raise ValueError(f"the transform {self.transform} is not finite, or not invertible")

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
    unit = float(crs.units_factor[1])  # metres, or radians
    if not crs.is_geographic:
        return height * unit, width * unit
    _, south, _, north = grid.bounds
    metres = DEGREE_M * float(np.degrees(unit))
    return height * metres, width * metres * float(np.cos(unit * (south + north) / 2))


def check_box(bbox: Box) -> None:
    """Refuse a box that is not on the Earth; west > east crosses the antimeridian (RFC 7946, 5.2).

    Raises
    ------
    SceneError : other than finite numbers, south >= north, or west and east swapped.
    """
    west, south, east, north = bbox
    is_on_globe = -90 <= south < north <= 90 and -360 <= west <= 360 and -360 <= east <= 360
    if not is_on_globe or west == east:
        raise SceneError(
            f"bounding box {_text(bbox)}; west < east and south < north are needed, from -360 to 360 and from "
            "-90 to 90 degrees. Give west,south,east,north."
        )
    if 0 < west - east < 360 - WIDEST_CROSSING:
        raise SceneError(
            f"bounding box {_text(bbox)} has its west at {west:g} and its east at {east:g} degrees; west < east is "
            f"needed, unless it crosses the antimeridian and is less than {WIDEST_CROSSING:g} degrees wide. Swap the "
            "two."
        )


def _text(bbox: Box) -> str:
    return ",".join(f"{value:g}" for value in bbox)


def subset(grid: PixelGrid, bbox: Box) -> tuple[int, int, int, int]:
    """Row, column, height, width of the pixels in a bounding box of the user; west > east over the antimeridian.

    Raises
    ------
    SceneError : the bounding box is invalid or outside the scene, or the scene has no CRS.
    """
    check_box(bbox)
    bounds = lonlat_bounds(grid)
    if bounds is None:
        raise SceneError(
            f"bounding box {_text(bbox)}: the scene has no CRS that relates pixels to degrees; a georeference is "
            "needed. Use --window with pixels instead."
        )
    window = window_in(grid, bbox)
    if window is None:
        covered = ",".join(f"{value:.4f}" for value in bounds)
        raise SceneError(
            f"bounding box {_text(bbox)} is outside the scene, which covers {covered} (west,south,east,north). Use a "
            "--bbox inside it."
        )
    return window


def window_in(grid: PixelGrid, bbox: Box) -> tuple[int, int, int, int] | None:
    """Row, column, height, width of the smallest window that covers a box; None without a common pixel or a CRS.

    Only the part of the box near the grid is projected: positions far away have none in the grid's CRS.
    """
    bounds = lonlat_bounds(grid)
    if bounds is None:
        return None
    corners = [corner for part in _parts_near(bounds, bbox) for corner in _pixel_edges(grid, part)]
    if not corners:
        return None
    windows = np.array(corners)
    (row0, col0), (row1, col1) = windows[:, :2].min(axis=0).tolist(), windows[:, 2:].max(axis=0).tolist()
    return row0, col0, row1 - row0, col1 - col0


def _parts_near(bounds: Box, bbox: Box) -> list[Box]:
    """The parts of a box, also moved by whole turns, within a margin around the bounds of a grid."""
    west, south, east, north = bounds
    east += 360 * (east < west)
    left, bottom, right, top = bbox
    right += 360 * (right < left)
    bottom, top = max(bottom, south - MARGIN_DEG, -90), min(top, north + MARGIN_DEG, 90)
    turned = [(left + turn, right + turn) for turn in (-720, -360, 0, 360, 720)]
    sides = [(max(low, west - MARGIN_DEG), min(high, east + MARGIN_DEG)) for low, high in turned]
    return [(low, bottom, high, top) for low, high in sides if low < high and bottom < top]


def _pixel_edges(grid: PixelGrid, box: Box) -> Iterator[tuple[int, int, int, int]]:
    """First row and column of the pixels in a box, and one past the last."""
    west, south, east, north = box
    along = np.linspace(0, 1, BOX_SIDE_POINTS + 1)
    zero, one = np.zeros_like(along), np.ones_like(along)
    lon = west + (east - west) * np.concatenate([along, one, 1 - along, zero])
    lat = south + (north - south) * np.concatenate([zero, along, one, 1 - along])
    for rows, cols in _pixels(grid, lon, lat):
        known = np.isfinite(rows) & np.isfinite(cols)
        if known.any():
            (row0, row1), (col0, col1) = _span(rows[known], grid.height), _span(cols[known], grid.width)
            if row0 < row1 and col0 < col1:
                yield row0, col0, row1, col1


def _span(positions: FloatArray, size: int) -> tuple[int, int]:
    """First pixel between positions along an axis, and one past the last; pixels that only touch are outside."""
    low, high = float(positions.min()), float(positions.max())
    return max(0, math.floor(low + 1e-6)), min(size, math.ceil(high - 1e-6))


def _pixels(grid: PixelGrid, lon: FloatArray, lat: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(point,) rows and columns of neighbouring points in degrees; not finite where the CRS has no position.

    The longitudes of a grid in degrees may exceed 180, so points moved by a whole turn follow.
    """
    x, y = _project(WGS84, grid.crs or WGS84, lon, lat)
    crs = CRS.from_user_input(grid.crs)
    turn, turns = 0.0, [0]
    if crs.is_geographic and np.isfinite(x).all():
        turn, turns = math.tau / float(crs.units_factor[1]), [-1, 0, 1]
        x = np.unwrap(x, period=turn)
    for times in turns:
        cols, rows, _ = np.linalg.solve(grid.matrix, np.array([x + times * turn, y, np.ones_like(x)]))
        yield rows, cols


def _project(source: str, target: str, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Positions in another CRS, infinite where it has none."""
    with rasterio.Env(DummySession()):  # without one, GDAL prints its errors
        try:
            projected = np.array(transform(source, target, x.tolist(), y.tolist()), float)
        except UNKNOWN_POSITION:
            projected = np.full((2, len(x)), np.inf)
    return projected[0], projected[1]


def position(crs: str, x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude of a point of a CRS; infinite if it has none."""
    (lon,), (lat,) = _project(crs, WGS84, np.array([x]), np.array([y]))
    return float(lon), float(lat)


def wkb_point(shape: bytes | None) -> tuple[float, float] | None:
    """Coordinates of a point in WKB (OGC 06-103r4, 8.2: byte order, type, x, y); None for another geometry."""
    order = "<" if shape and shape[0] else ">"
    if not shape or (struct.unpack_from(f"{order}I", shape, 1)[0] & WKB_FLAGS) % 1000 != WKB_POINT:
        return None
    x, y = struct.unpack_from(f"{order}dd", shape, 5)
    return float(x), float(y)


def pixel_at(grid: PixelGrid, lon: float, lat: float) -> tuple[int, int] | None:
    """Row and column of the pixel at a point (degrees, WGS 84); None outside the grid or without a CRS."""
    if grid.crs is None:
        return None
    for (row,), (col,) in _pixels(grid, np.array([lon]), np.array([lat])):
        if 0 <= row < grid.height and 0 <= col < grid.width:
            return math.floor(row), math.floor(col)
    return None


def is_on_earth(grid: PixelGrid) -> bool:
    """Whether the CRS of a grid places its pixels on the Earth."""
    try:
        crs = CRS.from_user_input(grid.crs)
    except CRSError:
        return False
    x, y, _ = (grid.matrix @ (grid.width / 2, grid.height / 2, 1.0)).tolist()
    lon, lat = np.column_stack([_outline(grid, SIDE_POINTS), position(grid.crs or WGS84, x, y)])
    on_earth = np.isfinite(lon) & (np.abs(lon) <= MAX_LONGITUDE) & (np.abs(lat) <= MAX_LATITUDE)
    return bool((crs.is_geographic or crs.is_projected) and on_earth.any())


def lonlat_bounds(grid: PixelGrid) -> Box | None:
    """West, south, east, north of a grid in degrees (WGS 84), -180 to 180; None without a CRS.

    As in RFC 7946, 5.2, west > east across the antimeridian, and a grid around a pole reaches from -180 to 180.
    """
    if grid.crs is None:
        return None
    ring, is_around_pole = _ring(grid, BOX_SIDE_POINTS)
    if not len(ring):
        return None
    (west, south), (east, north) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
    if is_around_pole:
        west, east = -180.0, 180.0
        south, north = (south, 90.0) if south + north > 0 else (-90.0, north)
    if east - west > 360 - 1e-6:
        west, east = -180.0, 180.0
    turns = math.floor((west + 180) / 360)
    west, east = west - 360 * turns, east - 360 * turns
    return west, max(south, -90.0), east - 360 * (east > 180), min(north, 90.0)


def distance_km(first: PixelGrid, second: PixelGrid) -> float:
    """Distance between the boxes of two grids, within a few percent; 0 where they overlap, or one has no CRS."""
    boxes = [box for box in map(lonlat_bounds, (first, second)) if box]
    if len(boxes) < 2:
        return 0.0
    (west, south, east, north), (other_west, other_south, other_east, other_north) = boxes
    lat = max(0.0, south - other_north, other_south - north)
    widths = (east - west) % 360, (other_east - other_west) % 360
    meet = (other_west - west) % 360 <= widths[0] or (west - other_west) % 360 <= widths[1]
    lon = 0.0 if meet else min((other_west - east) % 360, (west - other_east) % 360)
    middle = math.radians((max(south, other_south) + min(north, other_north)) / 2)
    return KM_PER_DEGREE * math.hypot(lat, lon * math.cos(middle))


def _outline(grid: PixelGrid, side_points: int) -> tuple[FloatArray, FloatArray]:
    """(point,) longitudes and latitudes of a closed line along the edges, counterclockwise if rows count to the south.

    Sides that are straight in the grid's CRS are curves in degrees, hence the points between the corners.
    """
    along = np.linspace(0, 1, side_points, endpoint=False)
    zero, one = np.zeros(side_points), np.ones(side_points)
    cols = np.concatenate([along, one, 1 - along, zero, [0]]) * grid.width
    rows = np.concatenate([one, 1 - along, zero, along, [1]]) * grid.height
    x, y, _ = grid.matrix @ np.array([cols, rows, np.ones_like(cols)])
    return _project(grid.crs or WGS84, WGS84, x, y)


def _ring(grid: PixelGrid, side_points: int) -> tuple[NDArray[np.float64], bool]:
    """(point, 2) outline in degrees, without jumps of the longitude; and whether it runs around a pole.

    Corners of world maps that are not on the Earth are left out; a point at a pole gets the longitude between its
    neighbours. Empty if too little of the outline is on the Earth.
    """
    lon, lat = _outline(grid, side_points)
    known = np.isfinite(lon)
    at_pole = (np.abs(lat) > 90 - 1e-9) & (not CRS.from_user_input(grid.crs).is_geographic)
    sure, point = known & ~at_pole, np.arange(len(lon))
    if sure.sum() < 4:
        return np.empty((0, 2)), False
    lon = np.interp(point, point[sure], np.unwrap(lon[sure], period=360.0))
    turn = 360 * round((lon.min() + lon.max()) / 720)
    ring = np.column_stack([lon - turn, np.clip(lat, -90, 90)])[known]
    is_around_pole = bool(sure.all()) and abs(ring[-1, 0] - ring[0, 0]) > 1
    is_open = not is_around_pole and ring[0].tolist() != ring[-1].tolist()
    return np.vstack([ring, ring[:1]]) if is_open else ring, is_around_pole


def footprint(grid: PixelGrid) -> dict[str, Any] | None:
    """Outline of a grid as GeoJSON in degrees, cut at the antimeridian (RFC 7946, 3.1.9); None without a CRS."""
    if grid.crs is None:
        return None
    ring, is_around_pole = _ring(grid, SIDE_POINTS)
    if not len(ring):
        return None
    if is_around_pole:
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
