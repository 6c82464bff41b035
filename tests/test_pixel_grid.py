"""PixelGrid: outlines, bounds and subsets in degrees."""

import numpy as np
import pytest
from rasterio.warp import transform

from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import SearchArea, parse_bbox
from ms2hs.raster.pixel_grid import PixelGrid, footprint, lonlat_bounds, subset


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


def test_footprint_of_a_grid_in_degrees_is_its_bounds():
    grid = PixelGrid("EPSG:4326", (0.1, 0.0, 10.0, 0.0, -0.1, 50.0), 20, 30)
    (ring,) = footprint(grid)["coordinates"]
    assert area(ring) == pytest.approx(6.0)
    assert subset(grid, (10.0, 48.0, 13.0, 50.0)) == (0, 0, 20, 30)
