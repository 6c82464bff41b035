"""The share of a search area that the footprint of an item covers, counted on a grid of cells."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine

from ms2hs.arrays import BoolArray
from ms2hs.fetching.search_query import SearchArea, polygons_of
from ms2hs.raster.pixel_grid import WIDEST_CROSSING, Box

# Number of cells along a side of a box: shares are accurate to about 1 %.
CELLS = 128


def coverage(item: Mapping[str, Any], area: SearchArea) -> float:
    """Share of an area that an item's footprint covers, 0 to 1. An invalid geometry is replaced by the item's box."""
    footprint = _rings(item.get("geometry")) or _rings(_box_geometry(item.get("bbox")))
    wanted = _rings(area.geometry) if area.geometry else None
    covered = total = 0.0
    for box in area.boxes:
        inside = np.ones((CELLS, CELLS), np.bool_) if wanted is None else _cells(wanted, box)
        is_covered = _cells(footprint, box)
        width = box[2] - box[0]
        covered += width * float((inside & is_covered).sum())
        total += width * float(inside.sum())
    return covered / total if total else 0.0


def _cells(polygons: list[list[NDArray[np.float64]]], box: Box) -> BoolArray:
    """(CELLS, CELLS) True where polygons touch the cells of a box, also polygons shifted by 360 degrees."""
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
    touched = rasterize(shapes, (CELLS, CELLS), transform=transform, all_touched=True, dtype="uint8")
    return np.asarray(touched > 0)


def _rings(geometry: Mapping[str, Any] | None) -> list[list[NDArray[np.float64]]]:
    """Polygons as rings of (n, 2) degrees without jumps at the antimeridian; empty for an invalid geometry."""
    try:
        coordinates = polygons_of(geometry) if geometry else []
        polygons = [[np.array([position[:2] for position in ring], float) for ring in rings] for rings in coordinates]
    except (TypeError, ValueError, KeyError):
        return []
    if not all(rings and all(len(ring) >= 4 and np.isfinite(ring).all() for ring in rings) for rings in polygons):
        return []
    return [[_unwrapped(ring) for ring in rings] for rings in polygons]


def _unwrapped(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    lon = ring[:, 0]
    if lon.max() - lon.min() <= WIDEST_CROSSING:
        return ring
    return np.column_stack([np.where(lon < 0, lon + 360, lon), ring[:, 1]])


def _box_geometry(bbox: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any JSON value
    """The polygon of an item's `bbox` of two or three dimensions; None for an invalid box."""
    numbers = bbox if isinstance(bbox, list) else []
    if len(numbers) not in {4, 6} or not all(isinstance(number, int | float) for number in numbers):
        return None
    half = len(numbers) // 2
    west, south, east, north = numbers[0], numbers[1], numbers[half], numbers[half + 1]
    east = east + 360 if east < west else east
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
