"""PatchCorrector: corrections of a raster, against the same windows and interpolation in numpy on the whole raster."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_predictor import SOURCE, TARGET, network_of

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference import patch_corrector
from ms2hs.inference.patch_corrector import PatchCorrector, PatchNetwork, sampled_windows
from ms2hs.inference.predictor import Predictor
from ms2hs.models.layers import between_patches
from ms2hs.models.prior import TYPICAL_INPUT_ERROR
from ms2hs.raster.tiling import Tiling

NAME = "spatial-spectral"


class Rows(NamedTuple):
    """A strip."""

    reflectance: Float32Array
    valid: BoolArray


def predictor(window=16, **changes):
    network = network_of(NAME, **({"depth": 1} | changes))
    return Predictor(network, SOURCE, TARGET, window=window, error=TYPICAL_INPUT_ERROR)


def scene(height, width, seed=0, bad=0.1):
    rng = np.random.default_rng(seed)
    reflectance = rng.uniform(0.02, 0.5, (12, height, width)).astype(np.float32)
    valid = rng.random((height, width)) >= bad
    reflectance[:, ~valid] = np.nan
    return reflectance, valid


def corrections(network: PatchNetwork, reflectance, valid, start=0, rows=32):
    """(rank, row, col) corrections of all pixels from `start` on."""
    height, width = valid.shape
    corrector = PatchCorrector(network, height, width, start)
    tops = range(corrector.first_row // rows * rows, height, rows)
    strips = ((top, Rows(reflectance[:, top : top + rows], valid[top : top + rows])) for top in tops)
    parts, row = [], start
    for top, strip, found in corrector.run(strips):
        assert top == row
        row += len(strip.valid)
        parts.append(found.between(np.arange(top, row), np.arange(width)))
    assert row == height
    return np.concatenate(parts, axis=1)


def by_hand(network: PatchNetwork, reflectance, valid):
    """The same from the whole raster at once: weighted means of all windows, then bilinear interpolation."""
    patch, (height, width) = network.patch, valid.shape
    rows, cols = -(-height // patch), -(-width // patch)
    padded = np.zeros((12, rows * patch, cols * patch), np.float32)
    known = np.zeros(padded.shape[1:], bool)
    padded[:, :height, :width], known[:height, :width] = np.where(valid, reflectance, 0), valid
    content = network.prior.content(torch.from_numpy(padded)[None], patch, torch.from_numpy(known)[None])
    tiling = Tiling(rows, cols, network.window // patch, network.overlap // patch)
    total, weights = np.zeros((network.network.config.rank, rows, cols)), np.zeros((rows, cols))
    for window, tapers in zip(tiling, product(*tiling.tapers), strict=True):
        part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        weights[part] += np.outer(*tapers)
        if (content[0][part][..., -1] > 0).any():
            total[:, *part] += np.outer(*tapers) * network.correct(content[:, *part])[0].numpy()
    mean = torch.from_numpy(total / weights)
    return between_patches(mean[None], patch)[0, :, :height, :width].numpy()


@pytest.mark.parametrize("shape", [(70, 45), (33, 16), (5, 40), (1, 1), (16, 17), (90, 20)])
def test_corrections_equal_windows_blended_by_hand(shape):
    network = predictor().patch_network
    reflectance, valid = scene(*shape)
    valid[20:60, :20] = False  # windows without a valid pixel
    found, expected = corrections(network, reflectance, valid), by_hand(network, reflectance, valid)
    assert np.abs(expected[:, valid]).max() > 1e-2
    np.testing.assert_allclose(found[:, valid], expected[:, valid], atol=2e-5)


@pytest.mark.parametrize("start", [32, 64])
def test_later_start_gives_the_same_corrections_bit_for_bit(start):
    network = predictor(window=32).patch_network
    reflectance, valid = scene(90, 40)
    whole = corrections(network, reflectance, valid)
    np.testing.assert_array_equal(corrections(network, reflectance, valid, start), whole[:, start:])


def test_corrections_do_not_depend_on_threads_and_strips(monkeypatch):
    network = predictor().patch_network
    monkeypatch.setitem(patch_corrector.PATCHES_PER_CALL, "cpu", 32)  # several calls in each row of windows
    reflectance, valid = scene(70, 90)
    results = []
    for threads in (1, 4):
        monkeypatch.setattr(patch_corrector, "processors", lambda threads=threads: threads)
        results.append(corrections(network, reflectance, valid))
    np.testing.assert_array_equal(*results)
    lower = corrections(network, reflectance, valid, rows=16)
    np.testing.assert_allclose(lower[:, valid], results[0][:, valid], atol=1e-5)


def test_torch_keeps_its_number_of_threads():
    before = torch.get_num_threads()
    corrections(predictor().patch_network, *scene(20, 20))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("shape", [(16, 16), (14, 15)])
def test_reconstruct_of_one_window_equals_the_network(shape):
    reflectance, valid = scene(*shape)
    applied = predictor(window=16)
    alone = applied.reconstruct_windows([reflectance], [valid])[0]
    np.testing.assert_array_equal(applied.reconstruct(reflectance, valid), alone)
    strips = next(applied._corrected(reflectance, valid))[1]
    np.testing.assert_allclose(strips[:, valid], alone[:, valid], atol=1e-5)


def pooled(network: PatchNetwork, reflectance, valid):
    """The network with the common errors of a raster."""
    windows = sampled_windows(*valid.shape, network.window)
    return network.pooled(Rows(reflectance[:, *window.area], valid[window.area]) for window in windows)


def test_pooled_errors_are_the_mean_of_the_windows_by_known_land():
    network = predictor().patch_network
    reflectance, valid = scene(16, 32, bad=0)
    valid[:, 16:24] = False
    halves = [Rows(reflectance[:, :, cols], valid[:, cols]) for cols in (slice(0, 16), slice(16, 32))]
    alone = [network.pooled([half]).errors for half in halves]
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    with torch.inference_mode():
        found = [network.network.estimate(network.content(*half)[None], network.prior) for half in halves]
    weights = [float(land) for _, land in found]
    expected = (weights[0] * alone[0] + weights[1] * alone[1]) / sum(weights)
    torch.testing.assert_close(network.pooled(halves).errors, expected)
    assert weights[0] > weights[1] > 0
    assert network.pooled([Rows(reflectance, valid & False)]) is network


def test_pooled_corrections_do_not_depend_on_windows():
    reflectance, valid = scene(70, 90)
    network = pooled(predictor().patch_network, reflectance, valid)
    wider = replace(network, window=48, overlap=16)
    found = [corrections(one, reflectance, valid)[:, valid] for one in (network, wider)]
    np.testing.assert_allclose(*found, atol=2e-5)
    assert np.abs(found[0]).max() > 1e-2


def test_sampled_windows_are_evenly_spaced_inside_the_raster():
    windows = sampled_windows(100, 20, 32)
    assert sorted({window.row for window in windows}) == [0, 17, 34, 51, 68]
    assert {(window.col, window.height, window.width) for window in windows} == {(0, 32, 20)}


def test_reconstruct_adds_the_blended_corrections_to_the_prior():
    applied = predictor()
    reflectance, valid = scene(40, 50)
    found = applied.reconstruct(reflectance, valid)
    posterior = replace(applied.network.prior.condition(SOURCE, TARGET), gain=applied.patch_network.prior.gain.numpy())
    network = pooled(applied.patch_network, reflectance, valid)
    added = by_hand(network, reflectance, valid) * posterior.scale(reflectance)
    basis = applied.patch_network.prior.basis.numpy()
    expected = posterior.reconstruct(reflectance, valid) + np.tensordot(basis, added, 1)
    np.testing.assert_allclose(found[:, valid], expected[:, valid], atol=2e-5)
    assert np.isnan(found[:, ~valid]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    reflectance, valid = scene(90, 80)
    results = []
    for device in ("cpu", "cuda"):
        given = {"window": 32, "error": TYPICAL_INPUT_ERROR}
        network = Predictor(network_of(NAME), SOURCE, TARGET, torch.device(device), **given).patch_network
        results.append(corrections(replace(network, bfloat16=False), reflectance, valid))
    np.testing.assert_allclose(results[1][:, valid], results[0][:, valid], atol=1e-3)
