"""Error metrics against their definitions, not against recorded numbers."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.spectra.metrics import band_depth, coverage, ergas, psnr, r2, ratio_interval, rmse, sam, spectral_angle, ssim


@given(st.floats(-0.3, 0.3), st.integers(1, 20))
def test_rmse_of_a_constant_error_is_that_error(error, count):
    truth = np.random.default_rng(count).uniform(0, 1, (5, count))
    assert rmse(truth + error, truth) == pytest.approx(abs(error), abs=1e-12)


def test_metrics_ignore_unknown_truth():
    truth = np.array([[0.1, np.nan], [0.2, 0.4]])
    estimate = np.array([[0.1, 9.0], [0.2, 0.4]])
    assert rmse(estimate, truth) == 0
    assert coverage(estimate, np.full((2, 2), 0.01), truth) == 1
    assert np.isnan(rmse(estimate, truth * np.nan))
    assert np.isnan(coverage(estimate, estimate, truth * np.nan))


@given(st.floats(0, 180), st.floats(0.01, 100), st.floats(0.01, 100))
def test_spectral_angle_is_the_rotation_for_any_length(degrees, first, second):
    turn = np.radians(degrees)
    angle = spectral_angle(first * np.array([1.0, 0.0]), second * np.array([np.cos(turn), np.sin(turn)]))
    assert angle == pytest.approx(degrees, abs=1e-6)


def test_sam_ignores_spectra_without_direction():
    truth = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, np.nan]])
    estimate = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
    angles = spectral_angle(estimate, truth)
    assert angles[0] == pytest.approx(45)
    assert np.isnan(angles[1])
    assert angles[2] == pytest.approx(0)
    assert sam(estimate, truth) == pytest.approx(22.5)
    assert np.isnan(sam(estimate[:, 1:2], truth[:, 1:2]))


def test_spectral_angle_keeps_tiny_angles_in_float32():
    spectrum = np.random.default_rng(0).uniform(0.1, 0.5, (200, 1)).astype(np.float32)
    assert sam(spectrum, spectrum) == 0


def test_coverage_of_gaussian_errors_is_ninety_percent():
    errors = np.random.default_rng(0).standard_normal((10, 20000))
    assert coverage(errors, np.ones((10, 1)), np.zeros_like(errors)) == pytest.approx(0.9, abs=0.003)


@given(st.floats(0.05, 0.9), st.floats(-2e-4, 2e-4))
def test_band_depth_is_the_depth_below_the_line(depth, slope):
    wavelength = np.array([2100.0, 2205.0, 2280.0])
    line = 0.4 + slope * (wavelength - 2205)
    reflectance = line * np.array([1, 1 - depth, 1])
    assert band_depth(reflectance, wavelength, (2100, 2205, 2280)) == pytest.approx(depth)


def test_ssim_follows_its_definition_and_is_1_for_equal_images():
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


def test_ssim_ignores_invalid_pixels():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (2, 20, 30))
    estimate = truth + 0.05 * rng.standard_normal(truth.shape)
    valid = np.ones((20, 30), bool)
    valid[:, 15:] = False
    spoilt = np.where(valid, estimate, np.nan)
    assert ssim(spoilt, truth, valid) == pytest.approx(ssim(estimate[:, :, :15], truth[:, :, :15], valid[:, :15]))
    assert np.isnan(ssim(truth[:, :5], truth[:, :5], valid[:5]))


def images(seed=0, shape=(4, 24, 30)):
    """Estimate and truth (band, row, col), float64, bands of different brightness."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.05, 0.6, (shape[0], 1, 1)) * rng.uniform(0.5, 1.5, shape)
    return np.clip(truth + 0.05 * rng.standard_normal(shape), 0, 1), truth


def by_band(estimate, truth):
    """RMSE, mean, SSE and SST of each band."""
    error, axes = estimate - truth, (1, 2)
    spread = np.square(truth - truth.mean(axis=axes, keepdims=True)).sum(axis=axes)
    return np.sqrt(np.mean(error**2, axis=axes)), truth.mean(axis=axes), np.square(error).sum(axis=axes), spread


@pytest.fixture(scope="module")
def torchmetrics():
    """The functions of torchmetrics, on arrays with a batch of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        functional = pytest.importorskip("torchmetrics.functional")
        image = pytest.importorskip("torchmetrics.functional.image")
    import torch

    def call(function, *arrays, **options):
        return float(function(*(torch.from_numpy(array)[None] for array in arrays), **options))

    return call, functional, image


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_torchmetrics(seed, torchmetrics):
    call, functional, image = torchmetrics
    estimate, truth = images(seed)
    root, mean, error, spread = by_band(estimate, truth)
    assert np.radians(spectral_angle(estimate, truth).mean()) == pytest.approx(
        call(image.spectral_angle_mapper, estimate, truth), rel=1e-6
    )
    assert ergas(root, mean) == pytest.approx(
        call(image.error_relative_global_dimensionless_synthesis, estimate, truth, ratio=1), rel=1e-6
    )
    assert psnr(rmse(estimate, truth) ** 2) == pytest.approx(
        call(image.peak_signal_noise_ratio, estimate, truth, data_range=1.0), rel=1e-6
    )
    import torch

    flat = (torch.from_numpy(values.reshape(len(values), -1).T.copy()) for values in (estimate, truth))
    assert r2(error, spread) == pytest.approx(float(functional.r2_score(*flat)), rel=1e-6)
    assert rmse(estimate, truth) ** 2 == pytest.approx(float(np.square(estimate - truth).mean()))


def test_ssim_agrees_with_torchmetrics_except_for_the_variance(torchmetrics):
    # Theirs divides a window's squares by 49, ours, as scikit-image does by itself, by 48; and it crops more than the
    # window's half, so that its whole image is taken. Gaussian windows, their default, are another measure.
    import torch
    from skimage.metrics import structural_similarity

    _, _, image = torchmetrics
    estimate, truth = images(5, (3, 40, 40))
    options = {"gaussian_kernel": False, "kernel_size": 7, "data_range": 1.0, "return_full_image": True}
    arrays = (torch.from_numpy(values)[None] for values in (estimate, truth))
    _, full = image.structural_similarity_index_measure(*arrays, **options)
    theirs = float(full[..., 3:-3, 3:-3].mean())
    same = {"win_size": 7, "data_range": 1.0, "channel_axis": 0}
    assert theirs == pytest.approx(structural_similarity(truth, estimate, use_sample_covariance=False, **same))
    ours = ssim(estimate, truth, np.ones((40, 40), bool))
    assert ours == pytest.approx(structural_similarity(truth, estimate, **same))
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_psnr_agrees_with_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    estimate, truth = images()
    assert psnr(rmse(estimate, truth) ** 2) == pytest.approx(peak_signal_noise_ratio(truth, estimate, data_range=1.0))
    assert psnr(0.0) == np.inf


@given(st.floats(-0.3, 0.3), st.integers(0, 5))
def test_rmse_of_a_constant_error_ignores_unknown_truth(error, seed):
    _, truth = images(seed)
    truth[0, 0, 0] = np.nan
    assert rmse(truth + error, truth) ** 2 == pytest.approx(error**2, abs=1e-12)


@given(st.floats(0.1, 10), st.floats(-0.5, 0.5))
def test_ergas_is_the_relative_error_in_percent_for_any_unit(unit, share):
    _, truth = images()
    truth = truth * unit
    root, mean, *_ = by_band(truth * (1 + share), truth)
    expected = 100 * abs(share) * np.sqrt(np.mean(np.mean(truth**2, axis=(1, 2)) / np.mean(truth, axis=(1, 2)) ** 2))
    assert ergas(root, mean) == pytest.approx(expected, abs=1e-9)
    assert np.isnan(ergas(root, np.zeros(4)))
    assert ergas(np.append(root, np.nan), np.append(mean, np.nan)) == ergas(root, mean)


@given(st.floats(0, 1))
def test_r2_of_a_shrunken_truth_is_its_remaining_variance(share):
    _, truth = images()
    drawn = truth + share * (truth.mean(axis=(1, 2), keepdims=True) - truth)
    *_, error, spread = by_band(drawn, truth)
    assert r2(error, spread) == pytest.approx(1 - share**2, abs=1e-12)
    assert np.isnan(r2(error, np.zeros(4)))


def test_spectral_angle_is_nan_without_direction():
    estimate, truth = np.ones((2, 3)), np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    np.testing.assert_allclose(spectral_angle(estimate, truth), [0, np.nan, 45], atol=1e-12)


def test_interval_of_a_ratio_of_means():
    prior = np.arange(1.0, 10)
    np.testing.assert_allclose(ratio_interval(0.9 * prior, prior), 0.9)  # the same ratio in every place
    values = prior * np.tile([0.8, 1.0, 1.2], 3)
    low, high = ratio_interval(values, prior)
    assert 0.8 < low < values.mean() / prior.mean() < high < 1.2
    narrow = ratio_interval(values, prior, level=0.5)
    assert low < narrow[0] < narrow[1] < high
