"""A prior with a second moment for each land cover, compared with the priors of single covers."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import LEAVES, SAND, WATER
from test_indices import SNOW
from test_prior import SOURCE, TARGET, WAVELENGTH, make_prior, smooth_moment

from ms2hs.models.prior import CoverFactors, PlaceSpread, refit
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.spectra.indices import COVERS, CoverShares
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, InputError, input_error_named
from ms2hs.spectra.spectral_grid import response_matrix

PURE = np.array([WATER, SNOW, LEAVES, SAND], np.float32).T
# mixtures of the pure spectra: shares of up to three covers at once
PIXELS = (PURE @ np.random.default_rng(0).dirichlet(np.full(4, 0.4), 300).T).astype(np.float32)


def with_covers(seeds=(1, 2, 3, 4, 5), scale=1.0):
    """The prior of test_prior with other moments for the land covers."""
    prior = make_prior()
    members = [make_prior(smooth_moment(seed)) for seed in seeds]
    arrays = (np.stack([getattr(member, name) for member in members]) for name in ("factors", "residual"))
    sigma_scale = np.outer(np.arange(1, 6), np.full(len(WAVELENGTH), scale)).astype(np.float32)
    return replace(prior, covers=CoverFactors(*arrays, sigma_scale))


PRIOR = with_covers()


@pytest.mark.parametrize("error", [None, TYPICAL_INPUT_ERROR, input_error_named("sentinel2")])
def test_each_pixel_is_the_mean_of_the_covers_by_its_shares(error):
    shares, members = PRIOR.of_covers(SOURCE.wavelength_nm)
    weights = np.array(shares.shares(PIXELS))
    assert ((weights > 0.05).sum(axis=0) > 1).mean() > 0.2
    posterior = PRIOR.condition(SOURCE, TARGET, error)
    alone = [member.condition(SOURCE, TARGET, error) for member in members]
    expected = sum(weight * one.reconstruct(PIXELS) for weight, one in zip(weights, alone, strict=True))
    np.testing.assert_allclose(posterior.reconstruct(PIXELS), expected, atol=2e-6)
    plain = replace(error or InputError(), gain=0.0, offset=0.0, pixel=0.0)
    sigmas = [replace(one, error=plain, brightness=posterior.brightness).sigma(PIXELS) for one in alone]
    expected = sum(weight * sigma for weight, sigma in zip(weights, sigmas, strict=True))
    np.testing.assert_allclose(replace(posterior, error=plain).sigma(PIXELS), expected, rtol=1e-4)
    assert (posterior.sigma(PIXELS) >= expected * 0.9999).all()


def test_covers_with_the_moment_of_all_equal_a_prior_without_covers():
    plain = make_prior()
    same = with_covers((0,) * 5)
    posterior, expected = (prior.condition(SOURCE, TARGET) for prior in (same, plain))
    np.testing.assert_allclose(posterior.reconstruct(PIXELS), expected.reconstruct(PIXELS), atol=1e-6)
    half = posterior.select(slice(3, 50))
    np.testing.assert_allclose(half.reconstruct(PIXELS), posterior.reconstruct(PIXELS)[3:50], atol=1e-6)
    assert half.sigma(PIXELS).shape == (47, 300)


def test_source_without_the_bands_of_the_shares_uses_the_moment_of_all():
    visible = SOURCE.select(SOURCE.index(["B02", "B03", "B04", "B8A"]))
    found, expected = (prior.condition(visible, TARGET) for prior in (PRIOR, make_prior()))
    np.testing.assert_array_equal(found.gain, expected.gain)
    assert found.covers is None


def test_pixel_twice_as_bright_gives_a_spectrum_twice_as_bright():
    land = (PURE[:, 2:] @ np.random.default_rng(1).dirichlet((1, 1), 50).T).astype(np.float32)  # above `SNOW_NIR`
    posterior = PRIOR.condition(SOURCE, TARGET)
    np.testing.assert_allclose(posterior.reconstruct(2 * land), 2 * posterior.reconstruct(land), rtol=1e-4, atol=1e-6)


def test_result_is_continuous_between_covers():
    posterior = PRIOR.condition(SOURCE, TARGET)
    line = np.linspace(SAND, LEAVES, 4001, dtype=np.float32).T
    values = posterior.reconstruct(line)
    steps = np.abs(np.diff(values)).max(axis=1)
    assert (steps <= 40 / 4000 * (1e-3 + np.ptp(values, axis=1))).all()


def test_result_does_not_depend_on_other_pixels():
    posterior = PRIOR.condition(SOURCE, TARGET)
    whole = posterior.reconstruct(PIXELS)
    for pixels in (slice(0, 0), slice(0, 1), slice(5, 60)):  # covers that are rare in one set are not in another
        np.testing.assert_allclose(posterior.reconstruct(PIXELS[:, pixels]), whole[:, pixels], atol=1e-6)
    spoilt, valid = PIXELS.copy(), np.arange(300) % 3 > 0
    spoilt[:, ~valid] = [[np.nan, np.inf, -3e38, 3e38, 0.0] * 20] * len(SOURCE)
    found = posterior.reconstruct(spoilt, valid)
    np.testing.assert_allclose(found[:, valid], whole[:, valid], atol=1e-6)
    assert np.isnan(found[:, ~valid]).all()


def test_expectation_equals_the_posterior():
    to_source, to_target = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))
    gain, brightness, shares = PRIOR.expectation(SOURCE.wavelength_nm, to_source, to_target)
    posterior = PRIOR.condition(SOURCE, TARGET)
    np.testing.assert_allclose(gain, posterior.gain, atol=1e-6)
    np.testing.assert_allclose(brightness, posterior.brightness, atol=1e-6)
    assert shares == CoverShares.of(SOURCE.wavelength_nm)


@pytest.mark.parametrize("error", [None, input_error_named("sentinel2")])
def test_references_change_the_map_of_every_cover_alike(error):
    posterior = PRIOR.condition(SOURCE, TARGET, error)
    offset = 0.03 * np.sin(TARGET.wavelength_nm / 200)[:, None]
    measured = PIXELS[:, :40].T.astype(float)
    truth = (posterior.reconstruct(PIXELS[:, :40]) + offset * posterior.scale(PIXELS[:, :40])).T
    corrected = posterior.with_references(measured, truth)
    change = (corrected.gain - posterior.gain).reshape(len(TARGET), len(COVERS), -1)
    if error is None:
        np.testing.assert_allclose(change, change[:, :1].repeat(len(COVERS), 1), atol=1e-6)
    rest = corrected.reconstruct(PIXELS[:, :40]).T - truth
    assert np.square(rest).mean() < 0.05 * np.square(offset * posterior.scale(PIXELS[:, :40])).mean()
    assert (corrected.relative_sigma <= posterior.relative_sigma * (1 + 1e-5)).all()


def test_weights_keep_the_covers(tmp_path):
    path = tmp_path / "covers.safetensors"
    save_weights(path, PRIOR, {})
    loaded = load_weights(str(path)).prior
    for name in ("factors", "residual", "sigma_scale"):
        np.testing.assert_array_equal(getattr(loaded.covers, name), getattr(PRIOR.covers, name))
    save_weights(path, make_prior(), {})  # as written before there were covers
    assert load_weights(str(path)).prior.covers is None


def test_weights_keep_the_spread_of_places(tmp_path):
    path, rng = tmp_path / "places.safetensors", np.random.default_rng(0)
    size = len(WAVELENGTH)
    sizes = {"mean": (3, size), "between": (7, 3, size), "within": (3, size, 4)}
    spread = PlaceSpread(**{name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()})
    save_weights(path, replace(PRIOR, places=spread), {})
    loaded = load_weights(str(path)).prior.places
    for name in sizes:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(spread, name))


def test_sigma_scale_is_replaced_for_every_cover():
    wide = PRIOR.with_sigma_scale(np.full(len(WAVELENGTH), 2.0)).condition(SOURCE, TARGET)
    narrow = PRIOR.with_sigma_scale(np.ones(len(WAVELENGTH))).condition(SOURCE, TARGET)
    np.testing.assert_allclose(wide.relative_sigma, 2 * narrow.relative_sigma, rtol=1e-5)


def test_refit_updates_the_covers_of_the_spectra():
    rng = np.random.default_rng(0)
    desert = np.interp(WAVELENGTH, SOURCE.wavelength_nm, SAND) * rng.uniform(0.8, 1.2, (50, 1))
    learnt = refit(PRIOR, [desert.astype(np.float32)] * 5, 0.0).covers
    change = np.abs(learnt.factors - PRIOR.covers.factors).max(axis=(1, 2))
    assert change[COVERS.index("bare")] > 0.05
    assert np.delete(change, COVERS.index("bare")).max() < 1e-3
    np.testing.assert_array_equal(learnt.sigma_scale, PRIOR.covers.sigma_scale)


def test_calibration_keeps_the_ratios_of_land_covers():
    twice = PRIOR.with_sigma_scale(2 * PRIOR.sigma_scale)
    np.testing.assert_allclose(twice.covers.sigma_scale, 2 * PRIOR.covers.sigma_scale, rtol=1e-6)
    again = twice.with_sigma_scale(PRIOR.sigma_scale)
    np.testing.assert_allclose(again.covers.sigma_scale, PRIOR.covers.sigma_scale, rtol=1e-6)
