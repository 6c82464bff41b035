"""Denoising: noise falls, edges stay, and the result does not depend on how a scene is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.models import denoising
from ms2hs.models.denoising import REACH, denoise

SIGMA = 0.003


def field(rng, rows=40, cols=50, bands=6):
    """(band, row, col) two materials on either side of an edge, each of them varying along one spectrum."""
    spectra = rng.uniform(0.05, 0.5, (2, bands))
    side = (np.arange(cols) >= cols // 2).astype(int)
    slope = 1 + 0.1 * np.sin(np.arange(rows) / 8)
    return (spectra[side].T[:, None] * slope[None, :, None]).astype(np.float32)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_denoise_halves_noise_and_keeps_edges(seed):
    rng = np.random.default_rng(seed)
    truth = field(rng)
    noisy = (truth + SIGMA * rng.standard_normal(truth.shape)).astype(np.float32)
    made = denoise(noisy, np.ones(truth.shape[1:], bool), SIGMA)
    assert rms(made - truth) < 0.6 * SIGMA
    edge = slice(truth.shape[2] // 2 - 1, truth.shape[2] // 2 + 1)
    assert rms((made - truth)[:, :, edge]) < 1.3 * SIGMA  # the step itself is 10 to 100 times as large


def test_denoise_removes_pure_noise_and_keeps_strong_signal():
    rng = np.random.default_rng(0)
    valid = np.ones((60, 60), bool)
    alone = (0.2 + SIGMA * rng.standard_normal((6, 60, 60))).astype(np.float32)
    assert rms(denoise(alone, valid, SIGMA) - 0.2) < 0.5 * SIGMA
    texture = rng.uniform(0, 0.5, (6, 60, 60)).astype(np.float32)
    assert rms(denoise(texture, valid, SIGMA) - texture) < SIGMA / 10


def test_denoise_weighs_each_axis_as_a_wiener_filter():
    c = np.linspace(2, 1000, 2000)
    assert np.abs(c**2 / (c**2 + c + 2) - (1 - 1 / c)).max() < 0.04


@pytest.mark.parametrize("cut", [1, 7, 20, 33])
def test_denoise_of_parts_equals_the_whole(cut, monkeypatch):
    rng = np.random.default_rng(1)
    values = (field(rng) + SIGMA * rng.standard_normal((6, 40, 50))).astype(np.float32)
    valid = rng.random((40, 50)) > 0.1
    whole = denoise(values, valid, SIGMA)
    low = max(0, cut - REACH)
    part = denoise(values[:, low:], valid[low:], SIGMA)[:, cut - low :]
    np.testing.assert_allclose(part, whole[:, cut:], atol=1e-6)
    monkeypatch.setattr(denoising, "PIXELS_AT_A_TIME", 50)
    np.testing.assert_allclose(denoise(values, valid, SIGMA), whole, atol=1e-6)


def test_denoise_ignores_and_keeps_invalid_pixels():
    rng = np.random.default_rng(2)
    values = (field(rng) + SIGMA * rng.standard_normal((6, 40, 50))).astype(np.float32)
    valid = rng.random((40, 50)) > 0.3
    spoilt = np.where(valid, values, np.float32(np.nan))
    made, other = denoise(values, valid, SIGMA), denoise(spoilt, valid, SIGMA)
    np.testing.assert_array_equal(made[:, valid], other[:, valid])
    assert np.isnan(other[:, ~valid]).all()
    np.testing.assert_array_equal(made[:, ~valid], values[:, ~valid])


def test_denoise_keeps_a_single_pixel():
    values = np.full((3, 20, 20), 0.3, np.float32)
    valid = np.zeros((20, 20), bool)
    valid[10, 10] = True
    np.testing.assert_allclose(denoise(values, valid, SIGMA), values, atol=1e-7)
