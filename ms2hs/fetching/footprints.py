"""How much of a place the footprint of an item covers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine

from ms2hs.arrays import BoolArray
from ms2hs.fetching.search_query import AREAS, WIDEST_CROSSING, Box, Place

# Cells along a side of a box, that are counted: shares are right to about 1 %.
CELLS = 128


def coverage(item: Mapping[str, Any], place: Place) -> float:
    """The share of a place that an item's footprint covers, 0 to 1; of its box where its geometry is not usable."""
    footprint = _rings(item.get("geometry")) or _rings(_box_geometry(item.get("bbox")))
    wanted = _rings(place.geometry) if place.geometry else None
    covered = total = 0.0
    for box in place.boxes:
        inside = np.ones((CELLS, CELLS), np.bool_) if wanted is None else _cells(wanted, box)
        seen = _cells(footprint, box)
        width = box[2] - box[0]
        covered += width * float((inside & seen).sum())
        total += width * float(inside.sum())
    return covered / total if total else 0.0


def _cells(polygons: list[list[NDArray[np.float64]]], box: Box) -> BoolArray:
    """(CELLS, CELLS) True where polygons touch a box's cells, also those that are written 360 degrees beside it."""
    west, south, east, north = box
    transform = Affine((east - west) / CELLS, 0, west, 0, -(north - south) / CELLS, north)
    shapes = [
        {"type": "Polygon", "coordinates": [np.add(ring, (turn, 0.0)).tolist() for ring in rings]}
        for rings in polygons
        for turn in (-360.0, 0.0, 360.0)
        if rings[0][:, 0].max() + turn >= west and rings[0][:, 0].min() + turn <= east
    ]
    if not shapes:
        return np.zeros((CELLS, CELLS), np.bool_)
    burnt = rasterize(shapes, (CELLS, CELLS), transform=transform, all_touched=True, dtype="uint8")
    return np.asarray(burnt > 0)


def _rings(geometry: Mapping[str, Any] | None) -> list[list[NDArray[np.float64]]]:
    """Polygons as rings of (n, 2) degrees that do not jump at the antimeridian; none where they are not well formed."""
    if not geometry or geometry.get("type") not in AREAS:
        return []
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    try:
        found = [[np.array([position[:2] for position in ring], float) for ring in rings] for rings in polygons]
    except (TypeError, ValueError, KeyError):
        return []
    if not all(rings and all(len(ring) >= 4 and np.isfinite(ring).all() for ring in rings) for rings in found):
        return []
    return [[_unwrapped(ring) for ring in rings] for rings in found]


def _unwrapped(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    lon = ring[:, 0]
    if lon.max() - lon.min() <= WIDEST_CROSSING:
        return ring
    return np.column_stack([np.where(lon < 0, lon + 360, lon), ring[:, 1]])


def _box_geometry(bbox: Any) -> dict[str, Any] | None:  # noqa: ANN401 - whatever JSON holds
    """The polygon of an item's `bbox`, of two or three dimensions."""
    numbers = bbox if isinstance(bbox, list) else []
    if len(numbers) not in {4, 6} or not all(isinstance(number, int | float) for number in numbers):
        return None
    half = len(numbers) // 2
    west, south, east, north = numbers[0], numbers[1], numbers[half], numbers[half + 1]
    east = east + 360 if east < west else east
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
