"""Fit of gain and offset from a product to the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.models.harmonization import MIN_PIXELS_FOR_ADJUSTMENT, adjusted, fit_adjustment


def seen(pixels=2000, bands=3, seed=0):
    return np.random.default_rng(seed).uniform(0.02, 0.5, (bands, pixels)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.7, 1.4), st.floats(-0.1, 0.1), st.integers(0, 100))
def test_fit_recovers_an_exact_line(gain, offset, seed):
    true = seen(seed=seed)
    measured = (true - np.float32(offset)) / np.float32(gain)
    found = fit_adjustment(measured, true, ("a", "b", "c"))
    for line in found.values():
        assert line == pytest.approx((gain, offset), abs=2e-4)
    np.testing.assert_allclose(adjusted(measured, ("a", "b", "c"), found), true, atol=2e-4)


def test_noise_on_both_sides_does_not_flatten_the_line():
    rng = np.random.default_rng(1)
    true = seen(20_000, 1)
    noisy = [true + rng.normal(0, 0.05, true.shape).astype(np.float32) for _ in range(2)]
    gain, offset = fit_adjustment(*noisy, ("a",))["a"]
    assert gain == pytest.approx(1, abs=0.02)
    assert offset == pytest.approx(0, abs=0.005)
    flat = np.polyfit(noisy[0].ravel(), noisy[1].ravel(), 1)[0]
    assert flat < 0.95  # ordinary least squares along one axis


def test_fit_ignores_clouds_and_unknown_values():
    true = seen(1000, 1)
    measured = (true - np.float32(0.01)) / np.float32(1.05)
    measured[:, :150] += 0.4
    measured[:, 150:200] = np.nan
    assert fit_adjustment(measured, true, ("a",))["a"] == pytest.approx((1.05, 0.01), abs=0.01)


def test_fit_repeats_until_close_outliers_are_left_out():
    rng = np.random.default_rng(0)
    measured = rng.uniform(0.02, 0.5, (1, 4000))
    true = 1.25 * measured + 0.01 + rng.normal(0, 0.002, measured.shape)
    true[:, rng.random(4000) < 0.2] += 0.06  # within the spread that the gain causes
    assert fit_adjustment(measured, true, ("a",))["a"] == pytest.approx((1.25, 0.01), abs=2e-3)


def test_uniform_pixels_give_an_offset_alone_and_few_give_nothing():
    true = np.full((1, 500), 0.2, np.float32)
    assert fit_adjustment(true - 0.03, true, ("a",))["a"] == pytest.approx((1, 0.03), abs=1e-6)
    assert (
        fit_adjustment(true[:, : MIN_PIXELS_FOR_ADJUSTMENT - 1], true[:, : MIN_PIXELS_FOR_ADJUSTMENT - 1], ("a",)) == {}
    )


def test_fit_uses_the_weights():
    true = seen(1000, 1)
    measured = true.copy()
    measured[:, :500] *= 0.9
    first = np.where(np.arange(1000) < 500, 1.0, 0.0)
    assert fit_adjustment(measured, true, ("a",), first)["a"][0] == pytest.approx(1 / 0.9, abs=1e-3)


def test_bands_without_a_line_are_unchanged():
    values = seen(4, 2).reshape(2, 2, 2)
    made = adjusted(values, ("a", "b"), {"b": (2.0, 0.1), "z": (9.0, 9.0)})
    np.testing.assert_array_equal(made[0], values[0])
    np.testing.assert_allclose(made[1], 2 * values[1] + 0.1, rtol=1e-6)
    assert made.dtype == np.float32
    assert adjusted(values, ("a", "b"), None) is values
