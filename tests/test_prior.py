"""The spectral prior compared with brute force, and on real spectra."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import DataError, GridError
from ms2hs.models.prior import InputError, SpectralPrior, factorise
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, response_matrix

WAVELENGTH = np.arange(370.0, 2511.0, 10.0)


def smooth_moment(seed=0, rank=12):
    """A second moment of smooth positive spectra of brightness near 1."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(370, 2510, rank)
    bumps = np.exp(-0.5 * ((WAVELENGTH[:, None] - centres) / 250) ** 2) * rng.uniform(0.1, 0.4, rank)
    return np.outer(np.ones(len(WAVELENGTH)), np.ones(len(WAVELENGTH))) + bumps @ bumps.T


def make_prior(moment=None, rank=20, noise=0.01):
    factors, residual = factorise(smooth_moment() if moment is None else moment, rank)
    ones = np.ones(len(WAVELENGTH), np.float32)
    return SpectralPrior(
        wavelength_nm=WAVELENGTH.astype(np.float32),
        factors=factors,
        residual=residual,
        reach=ones,
        sigma_scale=ones,
        shift=0.5 * ones,
        sample=np.random.default_rng(1).standard_normal((500, rank)).astype(np.float32),
        floor=0.1,
        noise=noise,
    )


SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid


def spectra_of(prior, count, seed=3):
    """(wavelength, count) spectra drawn from the prior itself, positive in brightness."""
    rng = np.random.default_rng(seed)
    coefficients = rng.standard_normal((prior.factors.shape[1], count))
    coefficients[0] = 1 + 0.2 * np.abs(coefficients[0])
    own = np.sqrt(prior.residual)[:, None] * rng.standard_normal((len(WAVELENGTH), count))
    return prior.factors @ coefficients + own


def test_posterior_is_the_conditional_of_the_joint_gaussian():
    prior = make_prior()
    to_source, to_target = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))
    moment = prior.second_moment()
    joint = np.vstack([to_source, to_target]) @ moment @ np.vstack([to_source, to_target]).T
    bands = len(SOURCE)
    joint[:bands, :bands] += np.diag(prior.source_noise(SOURCE.wavelength_nm) ** 2)
    # brute force: the precision matrix of the joint gives the posterior without the formulas of `condition`
    precision = np.linalg.inv(joint + 1e-10 * np.eye(len(joint)))
    inside, across = precision[bands:, bands:], precision[bands:, :bands]
    gain = -np.linalg.solve(inside, across)
    posterior = prior.condition(SOURCE, TARGET)
    np.testing.assert_allclose(posterior.gain, gain, atol=2e-3)
    np.testing.assert_allclose(
        posterior.relative_sigma[:, 0], np.sqrt(np.diag(np.linalg.inv(inside))), rtol=0.02, atol=1e-4
    )


def test_sigma_is_the_scatter_of_samples_of_the_prior():
    prior = make_prior(noise=0.02)
    rng = np.random.default_rng(0)
    coefficients = rng.standard_normal((prior.factors.shape[1], 20000))
    drawn = prior.factors @ coefficients + np.sqrt(prior.residual)[:, None] * rng.standard_normal(
        (len(WAVELENGTH), 20000)
    )
    noise = prior.source_noise(SOURCE.wavelength_nm)[:, None] * rng.standard_normal((len(SOURCE), 20000))
    measured = response_matrix(SOURCE, WAVELENGTH) @ drawn + noise
    posterior = prior.condition(SOURCE, TARGET)
    error = posterior.reconstruct(measured.astype(np.float32)) - response_matrix(TARGET, WAVELENGTH) @ drawn
    np.testing.assert_allclose(error.std(axis=1), posterior.relative_sigma[:, 0], rtol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 2**16))
def test_posterior_follows_the_order_of_bands(order, seed):
    prior = make_prior()
    measured = np.random.default_rng(seed).uniform(0, 0.6, (12, 5)).astype(np.float32)
    some = TARGET.select(np.random.default_rng(seed).permutation(len(TARGET))[:30])
    plain = prior.condition(SOURCE, TARGET)
    mixed = prior.condition(SOURCE.select(order), some)
    positions = TARGET.index(some.names)
    np.testing.assert_allclose(
        mixed.reconstruct(measured[list(order)]), plain.reconstruct(measured)[positions], atol=2e-4
    )
    np.testing.assert_allclose(
        mixed.sigma(measured[list(order)]), plain.sigma(measured)[positions], rtol=2e-3, atol=1e-5
    )


def test_sigma_grows_with_noise_in_every_band():
    clean, noisy = (make_prior(noise=noise).condition(SOURCE, TARGET) for noise in (0.002, 0.05))
    assert (noisy.relative_sigma >= clean.relative_sigma * 0.999).all()
    assert noisy.relative_sigma.mean() > 1.5 * clean.relative_sigma.mean()


def test_input_error_lowers_the_gain_and_widens_sigma():
    prior = make_prior()
    rng = np.random.default_rng(8)
    truth = 0.25 * spectra_of(prior, 4000)
    to_source, to_target = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))
    right = (to_source @ truth).astype(np.float32)
    error = InputError(gain=0.02, offset=0.005, pixel=0.003)
    wrong = right + np.sqrt(error.variance(right)) * rng.standard_normal(right.shape)
    wrong = wrong.astype(np.float32)
    plain, robust = prior.condition(SOURCE, TARGET), prior.condition(SOURCE, TARGET, error)
    missed = {}
    for name, posterior in (("plain", plain), ("robust", robust)):
        made = posterior.reconstruct(wrong)
        off = np.abs(to_target @ truth - made)
        missed[name] = np.sqrt(np.square(off).mean()), (off <= 1.645 * posterior.sigma(wrong)).mean()
        missed[name] += (np.sqrt(np.square(response_matrix(SOURCE, TARGET.wavelength_nm) @ made - wrong).mean()),)
    assert missed["robust"][0] < missed["plain"][0]
    assert missed["plain"][1] < 0.8
    assert 0.87 < missed["robust"][1] < 0.95
    noise = np.sqrt(np.square(wrong - right).mean())
    assert missed["plain"][2] < missed["robust"][2]
    assert 0.6 * noise < missed["robust"][2] < 1.3 * noise


def test_no_input_error_equals_an_error_of_zero():
    prior, x = make_prior(), np.full((len(SOURCE), 3), 0.2, np.float32)
    zero = prior.condition(SOURCE, TARGET, InputError(0, 0, 0))
    none = prior.condition(SOURCE, TARGET)
    np.testing.assert_allclose(zero.reconstruct(x), none.reconstruct(x), rtol=1e-6)
    np.testing.assert_allclose(zero.sigma(x), none.sigma(x), rtol=1e-5)


def test_sigma_grows_with_fewer_bands():
    prior = make_prior()
    every, few = (prior.condition(SOURCE.select(range(count)), TARGET) for count in (12, 8))
    assert (few.relative_sigma >= every.relative_sigma * 0.999).all()


def test_posterior_treats_pixels_independently_and_scales_with_brightness():
    posterior = make_prior().condition(SOURCE, TARGET)
    measured = np.random.default_rng(0).uniform(0, 0.5, (12, 4, 6)).astype(np.float32)
    whole = posterior.reconstruct(measured)
    assert whole.shape == (202, 4, 6)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(posterior.reconstruct(measured[:, 2:3, 3:5]), whole[:, 2:3, 3:5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(posterior.reconstruct(measured * 2), whole * 2, rtol=1e-5, atol=1e-6)


def test_invalid_pixels_give_nan_whatever_their_values():
    posterior = make_prior().condition(SOURCE, TARGET)
    measured = np.full((12, 2, 3), 0.3, np.float32)
    valid = np.array([[True, False, True], [False, True, False]])
    measured[:, ~valid] = np.array([np.nan, np.inf, 3e38], np.float32)
    out = np.empty((202, 2, 3), np.float32)
    result = posterior.reconstruct(measured, valid, out=out)
    assert result is out
    assert (np.isfinite(result) == valid).all()
    assert np.isfinite(posterior.sigma(measured)[:, valid]).all()
    assert posterior.unlike(measured)[~valid].all()


def test_reconstruct_rejects_an_unsuitable_out_array():
    posterior = make_prior().condition(SOURCE, TARGET)
    measured = np.zeros((12, 3), np.float32)
    for out in (np.empty((202, 3)), np.empty((201, 3), np.float32), np.empty((3, 202), np.float32).T):
        with pytest.raises(ValueError, match="out must be"):
            posterior.reconstruct(measured, out=out)


def test_unlike_flags_sawteeth_and_not_samples_of_the_prior():
    prior = make_prior()
    posterior = prior.condition(SOURCE, TARGET)
    usual = (response_matrix(SOURCE, WAVELENGTH) @ spectra_of(prior, 300)).astype(np.float32)
    sawtooth = np.where(np.arange(12) % 2, 0.05, 0.6).astype(np.float32)[:, None]
    assert posterior.unlike(usual).mean() < 0.2
    assert posterior.unlike(sawtooth).all()
    assert (posterior.unlike(usual * 3) == posterior.unlike(usual * 4)).mean() > 0.95


def test_more_references_correct_more_of_a_constant_error():
    prior = make_prior(noise=1e-3)
    posterior = prior.condition(SOURCE, TARGET)
    measured = response_matrix(SOURCE, WAVELENGTH) @ spectra_of(prior, 260)
    expected = posterior.reconstruct(measured.astype(np.float32))
    truth = expected + 0.05 * np.sin(TARGET.wavelength_nm / 200)[:, None] * (posterior.brightness @ measured)
    others = measured[:, 60:].astype(np.float32)
    errors, sigmas = [], []
    for count in (1, 4, 16, 60):
        corrected = posterior.with_references(measured[:, :count].T, truth[:, :count].T)
        errors.append(np.sqrt(np.mean((truth[:, 60:] - corrected.reconstruct(others)) ** 2)))
        sigmas.append(corrected.relative_sigma.mean() / posterior.relative_sigma.mean())
    assert errors[0] < np.sqrt(np.mean((truth - expected) ** 2))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]
    # one reference says nothing about the others; half of the squared error is common to a scene, the rest stays
    assert sigmas == sorted(sigmas, reverse=True)
    assert np.sqrt(0.5) < sigmas[-1] < sigmas[1] < sigmas[0] <= 1


def test_references_keep_unknown_bands_and_need_one_usable_spectrum():
    posterior = make_prior().condition(SOURCE, TARGET)
    measured, truth = np.full((4, 12), 0.3), np.full((4, 202), 0.5)
    truth[:, 50:60] = np.nan
    corrected = posterior.with_references(measured, truth)
    np.testing.assert_array_equal(corrected.gain[50:60], posterior.gain[50:60])
    np.testing.assert_array_equal(corrected.relative_sigma[50:60], posterior.relative_sigma[50:60])
    assert (corrected.gain[:50] != posterior.gain[:50]).any()
    with pytest.raises(DataError, match="none of 4"):
        posterior.with_references(measured * np.nan, truth)


def test_bands_that_few_scenes_reach_are_not_known():
    prior = make_prior()
    prior = replace(prior, reach=np.where(WAVELENGTH < 420, 0.0, 1.0).astype(np.float32))
    target = load_sensor("emit-285").grid
    known = prior.condition(SOURCE, target).known
    assert not known[target.wavelength_nm < 410].any()
    assert known[target.wavelength_nm > 430].all()


def test_condition_rejects_bands_outside_the_prior():
    with pytest.raises(GridError, match="outside"):
        make_prior().condition(SOURCE, grid_of(np.array([2600.0]), np.array([10.0])))


@pytest.mark.parametrize("source", ["sentinel2b", "sentinel2c", "hls_s30", "hls_l30", "landsat8", "landsat9"])
@pytest.mark.parametrize("target", ["enmap", "emit", "emit-285", "prisma"])
def test_every_source_and_target_has_a_posterior(source, target):
    grid = load_sensor(source).grid
    posterior = make_prior().condition(grid, load_sensor(target).grid)
    assert np.isfinite(posterior.gain).all()
    assert (posterior.relative_sigma > 0).all()


DATA = os.environ.get("MS2HS_DATA")


@pytest.mark.skipif(not DATA, reason="MS2HS_DATA is not set")
def test_prior_of_real_spectra_beats_interpolation_on_a_left_out_scene(tmp_path):
    pytest.importorskip("prosail")
    from known_truth import read_scene, score, score_prior

    from ms2hs.evaluation.baselines import interpolated
    from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather

    for name in ("hyperspectral/sjer_neon", "hyperspectral/bavaria_hyspex", "hyperspectral/jasper_ridge_aviris",
                 "spectra/earthlib_asd_urban_npv", "spectra/prosail_soil_ossl"):  # fmt: skip
        (tmp_path / Path(name).parent).mkdir(exist_ok=True)
        (tmp_path / f"{name}.npz").symlink_to(Path(DATA, f"{name}.npz").resolve())
    evidence = gather(tmp_path, PriorSettings(step_nm=10, rank=30, simulated=300))
    prior = calibrate(fit(evidence), evidence)
    scene = read_scene(Path(DATA, "hyperspectral/salton_sea_aviris.npz"), SOURCE, TARGET)
    baseline = score(interpolated(scene.measured, SOURCE, TARGET), scene)
    found = score_prior(prior.condition(SOURCE, TARGET), scene)
    assert found.rmse < 0.6 * baseline.rmse
    assert found.sam < 0.7 * baseline.sam
    assert 0.6 < found.coverage <= 1
