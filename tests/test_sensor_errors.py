"""Simulated product errors: size, and correlation between bands and pixels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.datasets.simulation.sensor_errors import SensorErrors, disturb
from ms2hs.models.prior import TYPICAL_INPUT_ERROR
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of

GRID = grid_of(np.arange(400.0, 2500.0, 20.0))
BANDS = len(GRID)
SCENES = 400


def errors(artefacts, level=0.5, shape=(2, 12), scenes=SCENES):
    """(scene, band, row, col) error added to an even scene."""
    even = np.full((BANDS, *shape), level, np.float32)
    return np.stack([disturb(even, GRID, artefacts, np.random.default_rng(seed)) - even for seed in range(scenes)])


def band(nm):
    return int(np.abs(GRID.wavelength_nm - nm).argmin())


def only(**kinds):
    return replace(SensorErrors.none(), **kinds)


def test_sensor_errors_defaults_equal_those_of_scoring():
    found = SensorErrors()
    assert (found.gain, found.offset, found.pixel) == (
        TYPICAL_INPUT_ERROR.gain,
        TYPICAL_INPUT_ERROR.offset,
        TYPICAL_INPUT_ERROR.pixel,
    )
    plain = SensorErrors.plain(TYPICAL_INPUT_ERROR.gain, TYPICAL_INPUT_ERROR.offset, TYPICAL_INPUT_ERROR.pixel)
    assert plain == only(gain=0.02, offset=0.005, pixel=0.003)


@given(seed=st.integers(0, 99), high=st.floats(0.01, 2))
@settings(max_examples=20, deadline=None)
def test_disturb_without_errors_changes_nothing(seed, high):
    rng = np.random.default_rng(seed)
    scene = rng.uniform(-0.05, high, (BANDS, 3, 4)).astype(np.float32)
    scene[rng.uniform(size=scene.shape) < 0.2] = np.nan
    np.testing.assert_array_equal(disturb(scene, GRID, SensorErrors.none(), rng), scene)


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_disturb_keeps_unknown_values(seed):
    rng = np.random.default_rng(seed)
    scene = rng.uniform(0, 0.5, (12, 5, 6)).astype(np.float32)
    scene[rng.uniform(size=scene.shape) < 0.3] = np.nan
    before = scene.copy()
    found = disturb(scene, load_sensor("sentinel2a").grid, SensorErrors(), rng)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(scene))
    np.testing.assert_array_equal(scene, before)
    assert found.dtype == np.float32
    assert (found != scene)[np.isfinite(scene)].mean() > 0.99


def test_disturb_is_reproducible():
    scene = np.full((BANDS, 4, 4), 0.3, np.float32)
    first, again, other = (disturb(scene, GRID, SensorErrors(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("smooth", [0.0, 0.5, 1.0])
def test_gain_and_offset_have_the_given_size_in_a_band(smooth):
    for kind, level, expected in (("gain", 0.5, 0.01), ("gain", 0.0, 0.0), ("offset", 0.5, 0.02)):
        found = errors(only(**{kind: 0.02}, smooth=smooth), level)
        np.testing.assert_allclose(found, found[:, :, :1, :1] + np.zeros_like(found), atol=1e-6)
        assert found.std(axis=0).mean() == pytest.approx(expected, rel=0.05)
        assert np.abs(found.mean(axis=0)).max() < 0.25 * expected + 1e-9


def test_smooth_errors_correlate_in_neighbouring_bands():
    correlation = {
        smooth: np.corrcoef(errors(only(offset=0.02, smooth=smooth))[:, :, 0, 0], rowvar=False)
        for smooth in (0, 0.5, 1)
    }
    near, far = (band(800), band(820)), (band(500), band(2200))
    assert correlation[1][near] > 0.95
    assert correlation[0.5][near] == pytest.approx(0.5, abs=0.12)
    assert abs(correlation[0][near]) < 0.2
    assert abs(correlation[1][far]) < 0.2


def test_pixel_noise_is_independent():
    found = errors(only(pixel=0.003), shape=(20, 20), scenes=5)
    assert found.std() == pytest.approx(0.003, rel=0.02)
    assert np.abs(np.corrcoef(found[0].reshape(BANDS, -1))[np.triu_indices(BANDS, 1)]).mean() < 0.06


def test_water_vapour_aerosol_and_swir_affect_their_wavelengths():
    vapour = errors(only(water_vapour=0.04)).std(axis=(0, 2, 3))
    assert vapour[[band(940), band(1380), band(1900)]] == pytest.approx(0.02, rel=0.12)
    assert vapour[[band(660), band(1640), band(2200)]].max() < 1e-4
    aerosol = errors(only(aerosol=0.01)).std(axis=(0, 2, 3))
    assert np.all(np.diff(aerosol) < 0)
    assert aerosol[band(440)] == pytest.approx(0.01, rel=0.12)
    assert aerosol[band(2200)] < 0.0015
    swir = errors(only(swir=0.01)).std(axis=(0, 2, 3))
    assert swir[GRID.wavelength_nm < 1000].max() == 0
    assert swir[GRID.wavelength_nm >= 1000] == pytest.approx(0.01, rel=0.12)


def test_view_error_is_linear_across_columns():
    found = errors(only(view=0.02))
    assert found[..., 0].std() == pytest.approx(0.01, rel=0.12)
    np.testing.assert_allclose(found[..., 0], -found[..., -1], atol=1e-6)
    np.testing.assert_allclose(np.diff(found, 2, axis=3), 0, atol=1e-6)


def test_detector_errors_step_between_columns():
    found = errors(only(detector=0.02))
    assert found.std() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 1])
    steps = (np.abs(np.diff(found[:, :, 0], axis=2)) > 1e-7).any(axis=1).sum(axis=1)
    assert 0 <= steps.min() <= steps.max() <= 3
    assert steps.mean() > 0.5


def test_error_variances_add_up():
    both = errors(only(offset=0.01, pixel=0.01, aerosol=0.01), scenes=SCENES)
    assert both[:, band(440)].std() == pytest.approx(0.01 * np.sqrt(3), rel=0.1)


def test_sensor_errors_refuse_invalid_values():
    with pytest.raises(ValueError, match="negative"):
        SensorErrors(gain=-0.1)
    with pytest.raises(ValueError, match="smooth"):
        SensorErrors(smooth=1.5)
    with pytest.raises(ValueError, match="is needed"):
        disturb(np.zeros((3, 4, 4), np.float32), GRID, SensorErrors(), np.random.default_rng(0))
