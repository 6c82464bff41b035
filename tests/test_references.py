"""The correction by references, compared with Gaussian conditioning by brute force and with simulated scenes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prior import SOURCE, TARGET, WAVELENGTH, make_prior, spectra_of

from ms2hs.models.posterior import (
    COMMON_STRENGTHS,
    CONSTANT_VARIANCES,
    DIRECTIONS_VARIANCES,
    EFFECTIVE_BANDS,
    LOCAL_INPUT_NOISE,
)
from ms2hs.spectra.product_error import input_error_named
from ms2hs.spectra.spectral_grid import response_matrix

MEASURED = input_error_named("sentinel2")
TO_SOURCE, TO_TARGET = (response_matrix(grid, WAVELENGTH) for grid in (SOURCE, TARGET))


def references(prior, count, seed=0):
    """(K, source band) bands and (K, target band) truth of spectra of the prior, with scatter."""
    rng = np.random.default_rng(seed)
    spectra = 0.25 * spectra_of(prior, count, seed)
    return (TO_SOURCE @ spectra).T, (TO_TARGET @ spectra).T + 0.005 * rng.standard_normal((count, len(TARGET)))


def test_references_equal_gaussian_process_regressions_weighted_by_their_evidence():
    """Gaussian-process regression solves for references where the code solves for bands."""
    posterior = make_prior().condition(SOURCE, TARGET)
    bands, truth = references(make_prior(), 8)
    bright, precision, gain = (getattr(posterior, name).astype(float) for name in ("brightness", "precision", "gain"))
    scale = posterior.scale(bands.T).astype(float)[:, None]
    scaled, residual = bands / scale, (truth - bands @ gain.T) / scale
    expected, density = [], []
    for constant in CONSTANT_VARIANCES:
        for directions in DIRECTIONS_VARIANCES:
            kernel = scaled @ (constant * np.outer(bright, bright) + directions * precision / len(SOURCE)) @ scaled.T
            noisy = kernel + np.eye(8)
            expected.append(kernel @ np.linalg.solve(noisy, residual))
            unexplained = np.trace(residual.T @ np.linalg.solve(noisy, residual))
            density.append((np.linalg.det(noisy) * unexplained**8) ** (-EFFECTIVE_BANDS / 2))
    expected = np.tensordot(np.array(density) / sum(density), expected, axes=1)
    corrected = posterior.with_references(bands, truth)
    np.testing.assert_allclose(scaled @ (corrected.gain - gain).T, expected, atol=2e-5)


def test_common_input_error_equals_the_conditional_of_all_residuals():
    posterior = make_prior().condition(SOURCE, TARGET, MEASURED).select(slice(0, 200, 8))
    bands, truth = references(make_prior(), 3)
    bands = bands * np.linspace(0.95, 1.1, len(SOURCE))
    corrected = posterior.with_references(bands, truth[:, :200:8])
    bright, precision, gain = (getattr(posterior, name).astype(float) for name in ("brightness", "precision", "gain"))
    prior = posterior.input_covariance.astype(float)
    scale = posterior.scale(bands.T).astype(float)[:, None]
    scaled = bands / scale
    residual = (truth[:, :200:8] / scale - scaled @ gain.T).ravel()
    # brute force: the covariance of all residuals of all references, and theirs with the input's errors
    scatter = LOCAL_INPUT_NOISE**2 * gain @ gain.T + np.diag(posterior.relative_sigma[:, 0].astype(float) ** 2)
    constant, directions = COMMON_STRENGTHS
    of_map = (
        np.eye(3) + scaled @ (constant * np.outer(bright, bright) + precision * directions / len(SOURCE)) @ scaled.T
    )
    share = scaled @ bright
    joint = np.kron(np.outer(share, share), gain @ prior @ gain.T) + np.kron(of_map, scatter)
    across = -np.kron(share, prior @ gain.T)
    expected = across @ np.linalg.solve(joint, residual)
    left = prior - across @ np.linalg.solve(joint, across.T)
    np.testing.assert_allclose(corrected.input_covariance, left, atol=2e-6)
    changed = replace(
        posterior, gain=gain - np.outer(gain @ expected, bright), input_covariance=np.zeros_like(prior)
    ).with_references(bands, truth[:, :200:8])
    np.testing.assert_allclose(corrected.gain, changed.gain, atol=2e-4)


@pytest.mark.parametrize(("count", "share"), [(1, 0.8), (3, 0.7), (10, 0.5)])
def test_intervals_hold_after_references_correct_a_common_error(count, share):
    prior = make_prior()
    posterior = prior.condition(SOURCE, TARGET, MEASURED)
    rng = np.random.default_rng(count)
    inside, squares = [], []
    for scene in range(30):
        spectra = 0.25 * spectra_of(prior, 60, seed=scene)
        right = (TO_SOURCE @ spectra).astype(np.float32)
        error = rng.multivariate_normal(np.zeros(len(SOURCE)), posterior.input_covariance)
        measured = (right + np.outer(error, posterior.scale(right))).astype(np.float32)
        truth = TO_TARGET @ spectra
        corrected = posterior.with_references(measured[:, :count].T, truth[:, :count].T)
        missed = np.abs(corrected.reconstruct(measured) - truth)[:, count:]
        inside.append((missed <= 1.645 * corrected.sigma(measured)[:, count:]).mean())
        before = np.abs(posterior.reconstruct(measured) - truth)[:, count:]
        squares.append((np.square(missed).mean(), np.square(before).mean()))
    assert np.mean(inside) > 0.88
    after, without = np.mean(squares, axis=0)
    assert after < share * without


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.floats(0, 0.1), st.booleans())
def test_references_are_finite_and_never_widen_intervals(count, offset, with_errors):
    prior = make_prior()
    posterior = prior.condition(SOURCE, TARGET, MEASURED if with_errors else None)
    bands, truth = references(prior, count)
    truth[:, 40:50] = np.nan
    corrected = posterior.with_references(bands + offset, truth)
    assert np.isfinite(corrected.gain).all()
    assert (corrected.relative_sigma <= posterior.relative_sigma * (1 + 1e-5)).all()
    assert (np.linalg.eigvalsh(corrected.input_covariance) > -1e-6).all()


def test_references_without_residual_change_nothing():
    prior = make_prior()
    posterior = prior.condition(SOURCE, TARGET)
    bands = references(prior, 5)[0]
    corrected = posterior.with_references(bands, bands @ posterior.gain.T.astype(float))
    np.testing.assert_allclose(corrected.gain, posterior.gain, atol=1e-6)
