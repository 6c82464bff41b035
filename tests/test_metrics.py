"""Errors of spectra against definitions, not against remembered numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.spectra.metrics import band_depth, coverage, rmse, sam, spectral_angle, ssim


@given(st.floats(-0.3, 0.3), st.integers(1, 20))
def test_rmse_of_a_constant_error_is_that_error(error, count):
    truth = np.random.default_rng(count).uniform(0, 1, (5, count))
    assert rmse(truth + error, truth) == pytest.approx(abs(error), abs=1e-12)


def test_unknown_truth_counts_nowhere():
    truth = np.array([[0.1, np.nan], [0.2, 0.4]])
    estimate = np.array([[0.1, 9.0], [0.2, 0.4]])
    assert rmse(estimate, truth) == 0
    assert coverage(estimate, np.full((2, 2), 0.01), truth) == 1
    assert np.isnan(rmse(estimate, truth * np.nan))
    assert np.isnan(coverage(estimate, estimate, truth * np.nan))


@given(st.floats(0, 180), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_angle_of_turned_vectors_is_the_turn_whatever_their_lengths(degrees, first, second):
    turn = np.radians(degrees)
    angle = spectral_angle(first * np.array([1.0, 0.0]), second * np.array([np.cos(turn), np.sin(turn)]))
    assert angle == pytest.approx(degrees, abs=1e-6)


def test_spectra_without_direction_are_left_out_of_sam():
    truth = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, np.nan]])
    estimate = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
    angles = spectral_angle(estimate, truth)
    assert angles[0] == pytest.approx(45)
    assert np.isnan(angles[1])
    assert angles[2] == pytest.approx(0)
    assert sam(estimate, truth) == pytest.approx(22.5)
    assert np.isnan(sam(estimate[:, 1:2], truth[:, 1:2]))


def test_tiny_angles_are_not_lost_in_float32():
    spectrum = np.random.default_rng(0).uniform(0.1, 0.5, (200, 1)).astype(np.float32)
    assert sam(spectrum, spectrum) == 0


def test_coverage_of_gaussian_errors_is_ninety_per_cent():
    errors = np.random.default_rng(0).standard_normal((10, 20000))
    assert coverage(errors, np.ones((10, 1)), np.zeros_like(errors)) == pytest.approx(0.9, abs=0.003)


@given(st.floats(0.05, 0.9), st.floats(-2e-4, 2e-4))
def test_band_depth_is_the_share_missing_from_the_line(depth, slope):
    wavelength = np.array([2100.0, 2205.0, 2280.0])
    line = 0.4 + slope * (wavelength - 2205)
    reflectance = line * np.array([1, 1 - depth, 1])
    assert band_depth(reflectance, wavelength, (2100, 2205, 2280)) == pytest.approx(depth)


def test_ssim_is_that_of_its_definition_and_1_for_the_same():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (3, 20, 24))
    estimate = truth + 0.1 * rng.standard_normal(truth.shape)
    valid = np.ones((20, 24), bool)
    assert ssim(truth, truth, valid) == pytest.approx(1)
    found = []
    for one, other in zip(estimate, truth, strict=True):
        windows = [
            np.lib.stride_tricks.sliding_window_view(image, (7, 7)).reshape(14, 18, 49) for image in (one, other)
        ]
        mean, other_mean = (part.mean(axis=2) for part in windows)
        spread, other_spread = (part.var(axis=2, ddof=1) for part in windows)
        shared = ((windows[0] - mean[..., None]) * (windows[1] - other_mean[..., None])).sum(axis=2) / 48
        found.append(
            (2 * mean * other_mean + 1e-4)
            * (2 * shared + 9e-4)
            / ((mean**2 + other_mean**2 + 1e-4) * (spread + other_spread + 9e-4))
        )
    assert ssim(estimate, truth, valid) == pytest.approx(np.mean(found), abs=1e-9)


def test_ssim_leaves_out_what_is_not_valid():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (2, 20, 30))
    estimate = truth + 0.05 * rng.standard_normal(truth.shape)
    valid = np.ones((20, 30), bool)
    valid[:, 15:] = False
    spoilt = np.where(valid, estimate, np.nan)
    assert ssim(spoilt, truth, valid) == pytest.approx(ssim(estimate[:, :, :15], truth[:, :, :15], valid[:, :15]))
    assert np.isnan(ssim(truth[:, :5], truth[:, :5], valid[:5]))
