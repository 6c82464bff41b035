"""The fit of the prior to a scene by spectra of its site, on scenes whose changes and errors are known."""

from dataclasses import replace

import numpy as np
import pytest
from test_land_covers import with_covers as land_covers
from test_prior import SOURCE, TARGET, WAVELENGTH, make_prior, smooth_moment, spectra_of

from ms2hs.conversion.site_fit import SceneBands, fit_site
from ms2hs.errors import DataError
from ms2hs.spectra.indices import COVERS, CoverShares
from ms2hs.spectra.product_error import InputError, input_error_named
from ms2hs.spectra.spectral_grid import response_matrix

TO_SOURCE, TO_TARGET = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))


def land(seed, count, brightness=0.3):
    """(spectrum, wavelength) spectra of one kind of land."""
    spectra = spectra_of(make_prior(smooth_moment(seed, rank=5), rank=6), count, seed=seed)
    return np.abs(brightness * spectra).T.astype(np.float32)


def bands_of(spectra):
    return (spectra @ TO_SOURCE.T).astype(np.float32)


def errors(posterior, spectra, measured=None):
    """RMSE of the conversion of these spectra."""
    bands = np.ascontiguousarray((bands_of(spectra) if measured is None else measured).T)
    return float(np.sqrt(np.square(posterior.reconstruct(bands) - TO_TARGET @ spectra.T).mean()))


@pytest.fixture(scope="module")
def prior():
    return make_prior()


@pytest.fixture(scope="module")
def spectra():
    return land(9, 600)


def test_site_moves_the_prior_to_its_spectra(prior, spectra):
    fit = fit_site(prior, spectra[:300], SOURCE, bands_of(spectra[300:]))
    assert fit.is_used
    plain = errors(prior.condition(SOURCE, TARGET), spectra[300:])
    assert errors(fit.condition(TARGET), spectra[300:]) < 0.7 * plain


def test_posterior_is_the_conditional_of_the_joint_gaussian(prior, spectra):
    fit = fit_site(prior, spectra[:300], SOURCE, bands_of(spectra[300:]))
    both = np.vstack([TO_SOURCE, TO_TARGET])
    (moment,) = fit.of_covers
    np.testing.assert_array_equal(moment, fit.moment)
    joint = both @ moment @ both.T
    count = len(SOURCE)
    joint[:count, :count] += fit.common_error + fit.pixel_error
    gain = joint[count:, :count] @ np.linalg.inv(joint[:count, :count]) * fit.band_gain
    posterior = fit.condition(TARGET)
    np.testing.assert_allclose(posterior.gain, gain, atol=1e-3)
    left = joint[count:, count:] - joint[count:, :count] @ np.linalg.solve(joint[:count, :count], joint[:count, count:])
    np.testing.assert_allclose(np.square(posterior.relative_sigma[:, 0]), np.diag(left), rtol=0.01, atol=1e-7)


def test_site_has_a_moment_for_each_land_cover(prior, spectra):
    with_covers = land_covers()
    fit = fit_site(with_covers, spectra[:300], SOURCE, bands_of(spectra[300:]))
    posterior = fit.condition(TARGET)
    assert posterior.covers == CoverShares.of(SOURCE.wavelength_nm)
    of_covers = posterior.gain.reshape(len(TARGET), len(COVERS), -1)
    for number, moment in enumerate(fit.of_covers):
        seen = TO_SOURCE @ moment @ TO_SOURCE.T + fit.common_error + fit.pixel_error
        gain = TO_TARGET @ moment @ TO_SOURCE.T @ np.linalg.inv(seen) * fit.band_gain
        np.testing.assert_allclose(of_covers[:, number], gain, atol=1e-3)
    visible = SOURCE.select(SOURCE.index(["B02", "B03", "B04", "B8A"]))
    (moment,) = fit_site(with_covers, spectra[:300], visible, bands_of(spectra[300:])[:, [1, 2, 3, 8]]).of_covers
    alone = fit_site(prior, spectra[:300], visible, bands_of(spectra[300:])[:, [1, 2, 3, 8]])
    np.testing.assert_array_equal(moment, alone.moment)


def test_other_land_falls_back_to_the_prior(prior, spectra):
    for seed in (21, 22, 23):
        fit = fit_site(prior, spectra, SOURCE, bands_of(land(seed, 300)))
        assert not fit.is_used
        np.testing.assert_array_equal(fit.condition(TARGET).gain, prior.condition(SOURCE, TARGET).gain)


def test_land_that_the_site_lacks_falls_back_to_the_prior(prior, spectra):
    scene = np.concatenate([spectra[300:], land(21, 150)])
    assert not fit_site(prior, spectra[:300], SOURCE, bands_of(scene)).is_used


def test_error_of_one_band_is_corrected(prior, spectra):
    measured = bands_of(spectra[300:])
    measured[:, 6] *= 1.06
    fit = fit_site(prior, spectra[:300], SOURCE, measured)
    assert fit.band_gain[6] == pytest.approx(1 / 1.06, abs=0.025)
    np.testing.assert_allclose(np.delete(fit.band_gain, 6), 1, atol=0.02)
    plain = errors(prior.condition(SOURCE, TARGET), spectra[300:], measured)
    assert errors(fit.condition(TARGET), spectra[300:], measured) < 0.6 * plain


def test_calibration_of_a_pass_follows_exact_bands(prior, spectra):
    curve = (1 + 0.03 * np.sin(WAVELENGTH / 150)).astype(np.float32)
    fit = fit_site(prior, spectra[:300] * curve, SOURCE, bands_of(spectra[300:]), InputError(gain=1e-4))
    np.testing.assert_allclose(fit.band_gain, 1, atol=0.01)
    exact = fit_site(prior, spectra[:300], SOURCE, bands_of(spectra[300:]))
    seen, expected = (np.sqrt(np.diag(TO_SOURCE @ one.moment @ TO_SOURCE.T)) for one in (fit, exact))
    planted = TO_SOURCE @ (spectra * curve).mean(axis=0) / (TO_SOURCE @ spectra.mean(axis=0)) - 1
    assert np.abs(seen / expected - 1).mean() < 0.5 * np.abs(planted).mean()


def test_errors_that_the_model_does_not_know_do_not_make_a_scene_worse(prior, spectra):
    rng = np.random.default_rng(0)
    plain = prior.condition(SOURCE, TARGET)
    for _ in range(5):
        gain, offset = 1 + 0.02 * rng.standard_normal(12), 0.005 * rng.standard_normal(12)
        measured = (bands_of(spectra[300:]) * gain + offset + 0.003 * rng.standard_normal((300, 12))).astype(np.float32)
        fit = fit_site(prior, spectra[:300], SOURCE, measured)
        assert errors(fit.condition(TARGET), spectra[300:], measured) < 0.9 * errors(plain, spectra[300:], measured)


def test_intervals_hold_nine_tenths_of_the_values_or_more(prior, spectra):
    fit = fit_site(prior, spectra[:300], SOURCE, bands_of(spectra[300:]))
    posterior, bands = fit.condition(TARGET), np.ascontiguousarray(bands_of(spectra[300:]).T)
    inside = np.abs(posterior.reconstruct(bands) - TO_TARGET @ spectra[300:].T) <= 1.645 * posterior.sigma(bands)
    assert inside.mean() > 0.88


def test_assumed_errors_of_the_product_widen_the_intervals(prior, spectra):
    fits = [
        fit_site(prior, spectra[:300], SOURCE, bands_of(spectra[300:]), error)
        for error in (None, input_error_named("sentinel2"))
    ]
    exact, assumed = (fit.condition(TARGET) for fit in fits)
    assert (assumed.relative_sigma > exact.relative_sigma).mean() > 0.9
    assert assumed.relative_sigma.mean() > 1.5 * exact.relative_sigma.mean()


def test_scene_outside_the_spread_needs_halves_that_predict_each_other(prior):
    # A site of one kind of land, and a scene that is brighter in the near infrared than all of it.
    site = land(9, 400)
    shape = (1 + 0.25 / (1 + np.exp(-(WAVELENGTH - 720) / 20))).astype(np.float32)
    measured = bands_of(land(9, 700)[400:] * shape)
    assert fit_site(prior, site, SOURCE, measured).change >= 0.3 or not fit_site(prior, site, SOURCE, measured).is_used
    unlike = np.concatenate([site[:200], land(31, 200)])
    assert not fit_site(prior, unlike, SOURCE, measured).is_used


def test_references_after_a_site_correct_a_constant_and_no_slope(prior):
    points = land(9, 2000, brightness=0.25)
    posterior = fit_site(prior, points, SOURCE, bands_of(points)).condition(TARGET)
    rng = np.random.default_rng(4)
    measured = bands_of(points[:10])
    truth = posterior.reconstruct(np.ascontiguousarray(measured.T)).T + rng.normal(0, 0.01, (10, len(TARGET)))
    mended = posterior.with_references(measured, truth)
    some = np.ascontiguousarray(bands_of(points[100:400]).T)
    change = mended.reconstruct(some) - posterior.reconstruct(some)
    bright = posterior.brightness @ some
    constant = np.outer(change @ bright / (bright @ bright), bright)
    assert np.square(change - constant).mean() < 0.1 * np.square(change).mean()
    np.testing.assert_allclose(mended.relative_sigma, posterior.relative_sigma, rtol=0.06)


def test_unknown_wavelengths_of_a_site_are_filled(prior, spectra):
    gaps = spectra[:300].copy()
    gaps[:, (WAVELENGTH > 1350) & (WAVELENGTH < 1450)] = np.nan
    whole, filled = (fit_site(prior, one, SOURCE, bands_of(spectra[300:])) for one in (spectra[:300], gaps))
    assert np.isfinite(filled.moment).all()
    seen = TARGET.wavelength_nm < 1300
    difference = (whole.condition(TARGET).gain - filled.condition(TARGET).gain)[seen]
    assert np.abs(difference).max() < 0.05


def test_bands_are_scaled_to_1(prior, spectra):
    one, three = (SceneBands.of(replace(prior, floor=0.0), SOURCE, bands_of(k * spectra), None) for k in (1, 3))
    np.testing.assert_allclose(one.mean, three.mean, rtol=1e-4)
    np.testing.assert_allclose(one.second, three.second, rtol=1e-4)


def test_site_needs_enough_spectra(prior, spectra):
    with pytest.raises(DataError, match="20 or more"):
        fit_site(prior, spectra[:5], SOURCE, bands_of(spectra))
