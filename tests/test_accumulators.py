"""Scores from accumulated sums, against the same scores of whole arrays."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.evaluation.accumulators import FEATURES_NM, LEVELS, Accumulator, LocalAngles, TargetBands
from ms2hs.evaluation.metric_table import METRICS, scores_of
from ms2hs.spectra import metrics
from ms2hs.spectra.spectral_grid import grid_of

WAVELENGTH = np.linspace(420, 2450, 103)
GRID = grid_of(WAVELENGTH)
MEASURED = (np.arange(103) // 9) % 2 == 0
BANDS = TargetBands(GRID, MEASURED)


def pixels(count, seed=0, unknown=0.0, error=0.02):
    """Estimate, truth and sigma (band, pixel); the truth has unknown values, one dark pixel and one of zeros."""
    rng = np.random.default_rng(seed)
    curve = 0.3 + 0.1 * np.sin(WAVELENGTH / 210 + rng.uniform(0, 6))
    truth = curve[:, None] * rng.uniform(0.2, 1.5, count) + 0.03 * rng.standard_normal((103, count))
    estimate = truth + error * rng.standard_normal(truth.shape)
    truth[:, 0] = 0
    truth[rng.random(truth.shape) < unknown] = np.nan
    sigma = rng.uniform(0.5, 1.5, (103, 1)) * np.full(count, 0.02)
    return [values.astype(np.float32) for values in (estimate, truth, sigma)]


def sums_of(*parts):
    sums = Accumulator(BANDS)
    for part in parts:
        sums.add(*part)
    return sums


def assert_same(one, other):
    assert one == pytest.approx(other, rel=1e-9, nan_ok=True)


def test_scores_equal_the_metrics_of_whole_arrays():
    estimate, truth, sigma = pixels(200, unknown=0.1)
    found = scores_of(sums_of((estimate, truth, sigma)))
    error = estimate.astype(float) - truth
    known = np.isfinite(truth)
    assert found["mse"] == pytest.approx(np.mean(error[known] ** 2))
    assert found["rmse"] == pytest.approx(metrics.rmse(estimate, truth))
    assert found["bias"] == pytest.approx(np.mean(error[known]))
    assert found["masked_mse"] == pytest.approx(np.nanmean(error[~MEASURED] ** 2))
    assert found["unmasked_mse"] == pytest.approx(np.nanmean(error[MEASURED] ** 2))
    assert found["sam_mean"] == pytest.approx(np.nanmean(metrics.spectral_angle(estimate, truth)), rel=1e-6)
    assert found["sam_median"] == pytest.approx(metrics.sam(estimate, truth), rel=1e-6)
    band = np.sqrt(np.nanmean(error**2, axis=1)) / np.nanmean(truth, axis=1, dtype=float)
    assert found["ergas"] == pytest.approx(100 * np.sqrt(np.mean(band**2)))
    spread = np.nansum((truth.astype(float) - np.nanmean(truth, axis=1, keepdims=True, dtype=float)) ** 2, axis=1)
    assert found["r2"] == pytest.approx(np.mean(1 - np.nansum(error**2, axis=1) / spread))
    for share, coverage in ((0.68, found["coverage_68"]), (0.9, found["coverage_90"])):
        factor = NormalDist().inv_cdf((1 + share) / 2)
        assert coverage == pytest.approx(metrics.coverage(estimate, sigma, truth, factor))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=5), st.floats(0, 0.3))
def test_accumulators_of_parts_add_up_to_the_whole(cuts, unknown):
    whole = pixels(40, unknown=unknown)
    edges = sorted({0, 40, *cuts})
    parts = [tuple(values[:, low:high] for values in whole) for low, high in pairwise(edges)]
    assert_same(scores_of(sums_of(*parts)), scores_of(sums_of(whole)))
    total = sums_of(parts[0])
    for part in parts[1:]:
        total = total + sums_of(part)
    assert_same(scores_of(total), scores_of(sums_of(whole)))


def test_perfect_estimate_has_no_error():
    _, truth, sigma = pixels(50, unknown=0.2)
    found = scores_of(sums_of((np.where(np.isfinite(truth), truth, 7), truth, sigma)))
    assert [found[key] for key in ("mse", "rmse", "bias", "sam_mean", "sam_median", "ergas")] == [0] * 6
    assert found["psnr"] == np.inf
    assert found["r2"] == 1
    assert found["coverage_90"] == found["coverage_68"] == 1


@given(st.floats(-0.2, 0.2))
@settings(max_examples=20, deadline=None)
def test_bias_is_recovered(bias):
    _, truth, _ = pixels(30, unknown=0.1)
    sums = sums_of((truth + np.float32(bias), truth))
    assert scores_of(sums)["bias"] == pytest.approx(bias, abs=1e-7)
    np.testing.assert_allclose(sums.bias, bias, atol=1e-6)
    np.testing.assert_allclose(sums.rmse, abs(bias), atol=1e-6)


def test_undefined_scores_are_nan():
    estimate, truth, _ = pixels(20)
    found = scores_of(sums_of((estimate, truth)))
    assert np.isnan(found["coverage_90"])
    assert np.isnan(found["ssim"])
    assert np.isnan(found["seconds"])
    nothing = scores_of(Accumulator(BANDS))
    assert np.isnan([nothing[name] for name in METRICS]).all()
    truth[50:] = np.nan
    part = sums_of((estimate, truth))
    assert np.isnan(part.rmse[50:]).all()
    assert np.isfinite(part.rmse[:50]).all()


def test_r2_leaves_out_constant_bands():
    truth = np.full((103, 30), 0.3, np.float32)
    truth[0] = np.linspace(0.1, 0.5, 30)
    estimate = truth + np.float32(0.01)
    expected = 1 - 30 * 0.01**2 / np.square(truth[0] - truth[0].mean()).sum()
    assert scores_of(sums_of((estimate, truth)))["r2"] == pytest.approx(expected, rel=1e-4)


def test_reliability_of_gaussian_errors_is_nominal():
    rng = np.random.default_rng(0)
    truth = np.full((103, 2000), 0.3, np.float32)
    estimate = (truth + 0.02 * rng.standard_normal(truth.shape)).astype(np.float32)
    sums = sums_of((estimate, truth, np.full(truth.shape, 0.02, np.float32)))
    np.testing.assert_allclose(sums.reliability, LEVELS, atol=0.005)
    assert sums_of((estimate, truth)).reliability is None


@pytest.mark.parametrize("feature", FEATURES_NM)
def test_missed_feature_is_an_error_of_its_depth(feature):
    nm = np.arange(400, 2500, 5.0)
    bands = TargetBands(grid_of(nm), np.ones(len(nm), bool))
    flat = np.full((len(nm), 40), 0.3, np.float32)
    truth = flat.copy()
    truth[np.abs(nm - feature) < 6] *= np.float32(0.8)
    sums = Accumulator(bands)
    sums.add(flat, truth)
    scores = scores_of(sums)
    assert scores[f"depth_{feature}"] == pytest.approx(0.2, abs=1e-6)
    dark = Accumulator(bands)
    dark.add(flat, truth * np.float32(0.05))
    assert np.isnan(scores_of(dark)[f"depth_{feature}"])


def test_feature_without_bands_is_nan():
    nm = WAVELENGTH[WAVELENGTH < 1000]
    bands = TargetBands(grid_of(nm), np.ones(len(nm), bool))
    sums = Accumulator(bands)
    sums.add(*[values[: len(nm)] for values in pixels(20)])
    scores = scores_of(sums)
    assert np.isfinite(scores["depth_670"])
    assert all(np.isnan(scores[f"depth_{feature}"]) for feature in FEATURES_NM if feature > 1000)


def test_local_angle_equals_the_angle_of_the_local_bands():
    estimate, truth, _ = pixels(60, unknown=0.1)
    parts = LocalAngles(BANDS)
    parts.add(estimate[:, :25], truth[:, :25])
    parts.add(estimate[:, 25:], truth[:, 25:])
    for band in (0, 40, 102):
        near = np.abs(WAVELENGTH - WAVELENGTH[band]) <= 100
        known = np.isfinite(truth[band])
        expected = metrics.sam(estimate[near][:, known], truth[near][:, known])
        assert parts.median()[band] == pytest.approx(expected, abs=1e-3)
