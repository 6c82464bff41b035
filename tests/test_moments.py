"""Second moments with unknown wavelengths, compared with known Gaussians."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.models.moments import Moments, complete, expect, moments_of, pool, scale_of


def make_model(size, seed):
    factors = np.random.default_rng(seed).standard_normal((size, 4))
    return factors @ factors.T + 0.01 * np.eye(size)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16))
def test_complete_reproduces_the_model_from_its_own_moments(seed):
    model = make_model(10, seed)
    known = np.random.default_rng(seed).uniform(size=10) < 0.7
    known[:2] = True, False
    found = complete(Moments(known, model[np.ix_(known, known)], 1.0), model, 1e-6)
    np.testing.assert_allclose(found, model, atol=1e-6)


def test_pool_recovers_the_moment_of_partly_known_spectra():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((8, 2))
    spectra = rng.standard_normal((4000, 2)) @ factors.T
    truth = spectra.T @ spectra / len(spectra)
    holed = spectra.copy()
    holed[:2000, 5:] = np.nan
    holed[2000:, :3] = np.nan
    ones = np.ones(len(spectra))
    sets = list(moments_of(holed, ones, ones, 3.0))
    np.testing.assert_allclose(sum(part.weight for part in sets), 3.0)
    found = pool(sets, np.eye(8), 1e-3, 200)
    # bands 3 and 4 are known in all spectra, and two numbers determine a spectrum: the other moments follow
    np.testing.assert_allclose(found, truth, atol=0.1 * np.abs(truth).max())
    np.testing.assert_array_equal(found, found.T)


def test_moments_are_weighted_and_scaled():
    spectra = np.array([[1.0, 2.0], [3.0, np.nan], [4.0, 6.0]])
    sets = list(moments_of(spectra, np.array([1.0, 3.0, 2.0]), np.array([1.0, 1.0, 2.0]), 2.0))
    by_size = {int(part.known.sum()): part for part in sets}
    assert by_size[1].weight == 0.5
    np.testing.assert_allclose(by_size[1].second, [[1.0]])
    assert by_size[2].weight == 1.5
    expected = (np.outer([1, 2], [1, 2]) + 2 * np.outer([2, 3], [2, 3])) / 3
    np.testing.assert_allclose(by_size[2].second, expected)


def test_expect_is_the_regression_on_the_known_values():
    model = make_model(6, 1)
    spectra = np.random.default_rng(2).multivariate_normal(np.zeros(6), model, 50)
    holed = spectra.copy()
    holed[:, 4:] = np.nan
    found = expect(holed, model, 1e-6)
    np.testing.assert_array_equal(found[:, :4], spectra[:, :4])
    gain = np.linalg.solve(model[:4, :4], model[:4, 4:])
    np.testing.assert_allclose(found[:, 4:], spectra[:, :4] @ gain, atol=1e-6)


def test_scale_grows_with_brightness_and_stays_above_zero():
    brightness = np.array([-0.01, 0.0, 0.1, 0.5])
    scale = scale_of(brightness, 0.1)
    assert (scale >= 0.1).all()
    assert (np.diff(scale[1:]) > 0).all()
