"""PixelGrid: outlines, bounds and subsets in degrees."""

from dataclasses import replace

import numpy as np
import pytest
from rasterio.warp import transform

from ms2hs.datasets.pairs.matching import _lonlat_boxes, _overlapping
from ms2hs.datasets.pairs.warping import overlap
from ms2hs.errors import SceneError
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import SearchArea, parse_bbox
from ms2hs.raster.pixel_grid import (
    PixelGrid,
    distance_km,
    footprint,
    is_on_earth,
    lonlat_bounds,
    pixel_at,
    subset,
    window_in,
)


def tile(west, north, epsg, size=3660):
    return PixelGrid(f"EPSG:{epsg}", (30.0, 0.0, west, 0.0, -30.0, north), size, size)


def area(ring):
    """Signed area in square degrees, positive for counterclockwise rings."""
    (x, y), (x2, y2) = np.array(ring[:-1]).T, np.array(ring[1:]).T
    return float((x * y2 - x2 * y).sum() / 2)


@pytest.mark.parametrize(("west", "north", "epsg"), [(600_000, 5_100_000, 32632), (300_000, 7_900_000, 32719)])
def test_footprint_is_the_outline_and_not_the_bounding_box(west, north, epsg):
    grid = tile(west, north, epsg)
    made = footprint(grid)
    assert made["type"] == "Polygon"
    (ring,) = made["coordinates"]
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    bounds = lonlat_bounds(grid)
    lon, lat = np.array(ring).T
    # lonlat_bounds uses more points along the sides
    assert (lon.min(), lat.min(), lon.max(), lat.max()) == pytest.approx(bounds, abs=2e-4)
    assert area(ring) < 0.995 * (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])
    # midpoints deviate from the true side by a few metres
    middle = (np.array(ring[:-1]) + np.array(ring[1:])) / 2
    x, y = transform("EPSG:4326", grid.crs, *middle.T.tolist())
    left, bottom, right, top = grid.bounds
    off = [min(abs(px - left), abs(px - right), abs(py - bottom), abs(py - top)) for px, py in zip(x, y, strict=True)]
    assert 0.1 < max(off) < 10
    covered = coverage({"geometry": made}, parse_bbox(bounds))
    assert covered == pytest.approx(area(ring) / ((bounds[2] - bounds[0]) * (bounds[3] - bounds[1])), abs=0.03)


@pytest.mark.parametrize(("west", "epsg"), [(799_980, 32660), (199_980 - 109_800, 32601)])
def test_footprint_is_cut_at_the_antimeridian(west, epsg):
    grid = tile(west, 100_020, epsg)
    made = footprint(grid)
    assert made["type"] == "MultiPolygon"
    parts = [np.array(rings[0]) for rings in made["coordinates"]]
    assert len(parts) == 2
    assert sorted(np.sign(part[:, 0]).min() for part in parts) == [-1, 1]
    assert all(np.abs(part[:, 0]).max() == 180 for part in parts)
    assert all(area(part.tolist()) > 0 for part in parts)
    place = SearchArea((179.5, 0.0, -179.5, 0.9), None)
    assert 0 < coverage({"geometry": made}, place) < 1
    whole = sum(area(part.tolist()) for part in parts)
    # a square of 109.8 km at the equator: 0.973 square degrees
    assert whole == pytest.approx((109.8 / 111.32) * (109.8 / 110.57), rel=0.01)


def test_footprint_of_a_polar_grid_and_of_a_grid_without_crs():
    grid = PixelGrid("EPSG:3413", (1000.0, 0.0, -500_000.0, 0.0, -1000.0, 500_000.0), 1000, 1000)
    (ring,) = footprint(grid)["coordinates"]
    assert np.abs(np.array(ring)).max() <= 180
    assert max(lat for _, lat in ring) == pytest.approx(90, abs=0.1)
    assert footprint(PixelGrid(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 10, 10)) is None


def test_footprint_ends_at_the_poles():
    made = footprint(PixelGrid("EPSG:4326", (3.0, 0.0, -181.5, 0.0, -1.5, 90.75), 121, 121))
    rings = [ring for (ring,) in made["coordinates"]] if made["type"] == "MultiPolygon" else made["coordinates"]
    points = np.concatenate(rings)
    assert np.abs(points).max(axis=0).tolist() == [180, 90]


def test_footprint_of_a_grid_in_degrees_is_its_bounds():
    grid = PixelGrid("EPSG:4326", (0.1, 0.0, 10.0, 0.0, -0.1, 50.0), 20, 30)
    (ring,) = footprint(grid)["coordinates"]
    assert area(ring) == pytest.approx(6.0)
    assert subset(grid, (10.0, 48.0, 13.0, 50.0)) == (0, 0, 20, 30)


DEGREES = {
    "across": (0.01, 179.5, (179.5, -179.5)),
    "beyond 180": (0.01, 200, (-160, -159)),
    "before -180": (0.01, -190, (170, 171)),
    "west": (0.01, -180, (-180, -179)),
    "world": (3.6, -180, (-180, 180)),
    "world from Greenwich": (3.6, 0, (-180, 180)),
}


@pytest.mark.parametrize("kind", DEGREES)
def test_bounds_and_pixels_of_grids_in_degrees_are_within_180(kind):
    step, west, expected = DEGREES[kind]
    grid = PixelGrid("EPSG:4326", (step, 0.0, west, 0.0, -0.01, 50.0), 100, 100)
    bounds = lonlat_bounds(grid)
    assert (bounds[0], bounds[2]) == pytest.approx(expected)
    assert window_in(grid, bounds) == (0, 0, 100, 100)
    assert window_in(grid, (-180, -90, 180, 90)) == (0, 0, 100, 100)
    for col in (0, 30, 99):
        lon = (west + (col + 0.5) * step + 180) % 360 - 180
        assert pixel_at(grid, lon, 49.995) == (0, col)
        assert window_in(grid, (lon - step / 4, 49, lon + step / 4, 50)) == (0, col, 100, 1)
    lons = [np.array(part[0])[:, 0] for part in _polygons(footprint(grid))]
    assert max(np.abs(lon).max() for lon in lons) <= 180
    assert sum(np.ptp(lon) for lon in lons) == pytest.approx(100 * step)


def _polygons(shape):
    return shape["coordinates"] if shape["type"] == "MultiPolygon" else [shape["coordinates"]]


@pytest.mark.parametrize("bbox", [(-180, -90, 180, 90), (-170, 0, 170, 89), (100, 40, -10, 50), (0, 45, 20, 47)])
def test_window_in_takes_boxes_that_the_projection_does_not_hold(bbox):
    assert window_in(tile(600_000, 5_100_000, 32632), bbox) == (0, 0, 3660, 3660) or bbox == (100, 40, -10, 50)
    assert window_in(tile(600_000, 5_100_000, 32632), (100, 40, -10, 50)) is None


@pytest.mark.parametrize(
    "bbox", [(10, 5, 10, 6), (0, 6, 1, 5), (float("nan"), 5, 1, 6), (0, -91, 1, 5), (400, 5, 401, 6)]
)
def test_subset_refuses_boxes_that_are_not_on_the_earth(bbox):
    with pytest.raises(SceneError, match=r"west < east and south < north.*Give"):
        subset(tile(600_000, 5_100_000, 32632), bbox)


@pytest.mark.parametrize("corner", [(0, 0), (-960_000, 0), (-480_000, 480_000), (-2_000_000, 2_000_000)])
@pytest.mark.parametrize("epsg", [3413, 3031])
def test_bounds_of_polar_grids_hold_every_pixel(corner, epsg):
    west, north = corner
    grid = PixelGrid(f"EPSG:{epsg}", (8000.0, 0.0, west, 0.0, -8000.0, north), 120, 120)
    left, south, right, top = lonlat_bounds(grid)
    cols, rows = np.meshgrid(np.arange(5, 120, 10) + 0.5, np.arange(5, 120, 10) + 0.5)
    x, y = west + 8000 * cols.ravel(), north - 8000 * rows.ravel()
    lon, lat = map(np.array, transform(grid.crs, "EPSG:4326", x.tolist(), y.tolist()))
    assert ((lat >= south) & (lat <= top)).all()
    is_inside = (lon >= left) & (lon <= right) if left < right else (lon >= left) | (lon <= right)
    assert is_inside.all()
    assert window_in(grid, (left, south, right, top)) == (0, 0, 120, 120)
    assert [pixel_at(grid, *point) for point in zip(lon[:3], lat[:3], strict=True)] == [(5, 5), (5, 15), (5, 25)]


def test_products_and_scenes_overlap_across_the_antimeridian():
    west, east = tile(799_980, 100_020, 32660), tile(199_980 - 109_800, 100_020, 32601)
    here = PixelGrid("EPSG:4326", (0.001, 0.0, 179.9, 0.0, -0.001, 0.5), 200, 200)
    far = tile(600_000, 5_100_000, 32632)
    boxes = _lonlat_boxes([west, east, here, far])
    assert [_overlapping(boxes, box).tolist() for box in boxes] == [[True, True, True, False]] * 3 + [
        [False, False, False, True]
    ]
    height = overlap(west, east)[2]
    assert height == pytest.approx(3660, abs=20)
    assert overlap(here, west) == (0, 0, 200, 200)
    assert overlap(far, west) is None


def test_is_on_earth_refuses_other_systems():
    far = PixelGrid("EPSG:4326", (30.0, 0.0, 384_000.0, 0.0, -30.0, 5_806_000.0), 10, 10)
    local = PixelGrid('LOCAL_CS["grid",UNIT["metre",1]]', (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), 10, 10)
    assert not any(map(is_on_earth, (far, local)))
    assert is_on_earth(tile(600_000, 5_100_000, 32632))


@pytest.mark.parametrize(
    ("west", "south", "expected_km"),
    [
        (10.0, 50.0, 0),
        (10.5, 50.5, 0),
        (10.0, 52.0, 111.2),
        (13.0, 50.0, 2 * 70.8),
        (9.0, 50.0, 0),
        (-171.5, 50.0, None),
    ],
)
def test_distance_of_boxes(west, south, expected_km):
    first, second = (
        PixelGrid("EPSG:4326", (0.01, 0, corner[0], 0, -0.01, corner[1] + 1), 100, 100)
        for corner in ((10.0, 50.0), (west, south))
    )
    found = distance_km(first, second)
    assert found == pytest.approx(distance_km(second, first))
    if expected_km is not None:
        assert found == pytest.approx(expected_km, rel=0.02)


def test_distance_across_the_antimeridian_and_without_a_crs():
    east, west = (PixelGrid("EPSG:4326", (0.01, 0, lon, 0, -0.01, 1), 100, 100) for lon in (178.5, -179.5))
    assert distance_km(east, west) == pytest.approx(111.2, rel=0.02)
    assert distance_km(replace(east, crs=None), west) == 0
