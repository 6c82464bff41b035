"""Water, snow and land cover from a few bands."""

from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import LEAVES, SAND, WATER
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.spectra.indices import COVERS, CoverShares, by_cover, cover, water_and_snow
from ms2hs.spectra.sensors import load_sensor

GRID = load_sensor("sentinel2a").grid
SNOW = (0.9, 0.92, 0.93, 0.92, 0.9, 0.88, 0.86, 0.85, 0.84, 0.7, 0.12, 0.1)
PIXELS = np.array([LEAVES, SAND, WATER, SNOW], np.float32).T


def test_water_and_snow_are_separated_from_land_and_each_other():
    assert water_and_snow(PIXELS, GRID)[0].tolist() == [False, False, True, False]
    assert water_and_snow(PIXELS, GRID)[1].tolist() == [False, False, False, True]
    assert water_and_snow(PIXELS.reshape(12, 2, 2), GRID)[1].tolist() == [[False, False], [False, True]]


def test_water_and_snow_agree_between_sensors():
    oli = load_sensor("hls_l30").grid
    seen = PIXELS[GRID.index(["B01", "B02", "B03", "B04", "B8A", "B11", "B12"])]
    assert water_and_snow(seen, oli)[0].tolist() == [False, False, True, False]


def test_water_and_snow_without_the_bands_are_empty():
    visible = GRID.select(GRID.index(["B02", "B03", "B04"]))
    assert not water_and_snow(PIXELS[1:4], visible)[0].any()
    assert not water_and_snow(PIXELS[1:4], visible)[1].any()


def test_cover_assigns_each_pixel_a_class():
    dry = 0.5 * np.array(LEAVES) + 0.5 * np.array(SAND)  # NDVI 0.32
    pixels = np.column_stack([PIXELS, dry, np.full(12, np.nan)]).astype(np.float32)
    expected = ["vegetation", "bare", "water", "snow", "sparse vegetation", "unknown"]
    assert cover(pixels, GRID).tolist() == expected
    assert cover(pixels.reshape(12, 2, 3), GRID).tolist() == [expected[:3], expected[3:]]
    assert set(expected) == {*COVERS, "unknown"}


def test_cover_without_short_wave_bands_finds_vegetation():
    near = GRID.select(GRID.index(["B03", "B04", "B8A"]))
    assert cover(PIXELS[[2, 3, 8]], near).tolist()[:2] == ["vegetation", "bare"]
    assert set(cover(PIXELS[[2, 3]], near.select([0, 1])).tolist()) == {"unknown"}


SHARES = CoverShares.of(GRID.wavelength_nm)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=12, max_size=12))
def test_shares_of_covers_sum_to_one(bands):
    with np.errstate(over="ignore"):
        shares = np.array(SHARES.shares(np.array(bands, np.float32)[:, None]))
    assert shares.min() >= -1e-6
    assert shares.sum() == pytest.approx(1, abs=1e-6)


def test_shares_are_one_for_a_pure_cover_and_change_continuously():
    found = np.array(SHARES.shares(PIXELS))
    np.testing.assert_allclose(found, np.eye(5)[:, [COVERS.index(kind) for kind in cover(PIXELS, GRID)]], atol=1e-6)
    for first, second in combinations(PIXELS.T, 2):
        between = np.linspace(first, second, 5001, dtype=np.float32).T
        assert np.abs(np.diff(np.array(SHARES.shares(between)))).max() < 0.02


def test_shares_do_not_depend_on_brightness():
    lit = PIXELS[:, [0, 1, 3]]
    for factor in (0.5, 2.0):
        np.testing.assert_allclose(SHARES.shares(np.float32(factor) * lit), SHARES.shares(lit), atol=1e-6)


def test_shares_are_the_same_for_tensors():
    windows = np.stack([PIXELS, 0.7 * PIXELS])
    shares = SHARES.shares(torch.from_numpy(windows))
    for window, values in enumerate(windows):
        expected = SHARES.shares(values)
        np.testing.assert_allclose([share[window] for share in shares], expected, atol=1e-6)
        weighted = torch.cat(by_cover(torch.from_numpy(windows), shares), dim=1)[window]
        np.testing.assert_allclose(weighted, np.concatenate(by_cover(values, expected)), atol=1e-6)


@pytest.mark.parametrize("sensor", ["sentinel2b", "hls_s30", "hls_l30", "landsat8", "landsat9"])
def test_shares_agree_between_sensors(sensor):
    grid = load_sensor(sensor).grid
    seen = PIXELS[[int(np.abs(GRID.wavelength_nm - nm).argmin()) for nm in grid.wavelength_nm]]
    np.testing.assert_allclose(CoverShares.of(grid.wavelength_nm).shares(seen), SHARES.shares(PIXELS), atol=1e-6)


def test_shares_need_four_bands():
    assert CoverShares.of(GRID.select(GRID.index(["B02", "B03", "B04", "B8A"])).wavelength_nm) is None


def test_real_water_is_found_and_desert_is_dry(real_data):
    import rasterio

    share = {}
    for stem in ("aquileia_L2A_20190416", "S2A_29RKH_20200219_L2A_100m"):
        with rasterio.open(real_data / "sentinel2" / f"{stem}.tif") as scene:
            share[stem] = water_and_snow(scene.read() * 1e-4, GRID)[0].mean()
    assert 0.1 < share["aquileia_L2A_20190416"] < 0.3  # a lagoon in a corner
    assert share["S2A_29RKH_20200219_L2A_100m"] < 0.01
