"""Blender: overlapping windows to whole rows, against the whole raster blended in float64."""

from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tiling import cut, tilings

from ms2hs.inference.blending import Blender
from ms2hs.raster.tiling import Tiling

BANDS = 2
CPU = torch.device("cpu")
settings.register_profile("windows", max_examples=150, deadline=None)
settings.load_profile("windows")


def blend(tiling, pieces):
    """(band, row, col) of the finished strips of each row of windows."""
    blender, windows, strips = Blender(tiling, BANDS, CPU), iter(pieces), []
    for row, (top, _) in enumerate(tiling.rows):
        blender.begin_row(row)
        for col in range(len(tiling.cols)):
            blender.add([col], torch.from_numpy(next(windows))[None])
        end = tiling.rows[row + 1][0] if row + 1 < len(tiling.rows) else tiling.height
        strips.append(blender.mean(slice(0, end - top)).numpy().copy())
    return np.concatenate(strips, 1)


def blend_whole(tiling, pieces, valid):
    """(band, row, col) of the whole raster at once, in float64: sum of weighted values by sum of weights."""
    total, weights = np.zeros((BANDS, tiling.height, tiling.width)), np.zeros((tiling.height, tiling.width))
    for window, values, tapers in zip(tiling, pieces, product(*tiling.tapers), strict=True):
        weight = np.outer(*tapers) * cut(valid, window)
        cut(total, window)[...] += np.where(cut(valid, window), values, 0) * weight
        cut(weights, window)[...] += weight
    assert np.array_equal(weights > 0, valid)
    return total / np.where(valid, weights, 1)


@given(tilings(), st.integers(0, 2**32 - 1))
def test_windows_that_agree_return_the_raster_bit_for_bit(tiling, seed):
    rng = np.random.default_rng(seed)
    raster = rng.normal(0, 1, (BANDS, tiling.height, tiling.width)).astype(np.float32)
    valid = rng.random((tiling.height, tiling.width)) < 0.8
    raster[:, ~valid] = np.nan
    found = blend(tiling, [cut(raster, window).copy() for window in tiling])
    assert np.array_equal(np.isfinite(found[0]), valid)
    assert np.array_equal(found[:, valid], raster[:, valid])


@given(tilings(), st.integers(0, 2**32 - 1))
def test_strips_equal_blending_the_whole_raster_at_once(tiling, seed):
    rng = np.random.default_rng(seed)
    valid, pieces = rng.random((tiling.height, tiling.width)) < 0.7, []
    for window in tiling:
        values = rng.normal(0, 1, (BANDS, window.height, window.width)).astype(np.float32)
        values[:, ~cut(valid, window)] = rng.choice([np.nan, np.inf, 1e30])
        pieces.append(values)
    found = blend(tiling, pieces)
    assert found.shape == (BANDS, tiling.height, tiling.width)
    assert np.allclose(found[:, valid], blend_whole(tiling, pieces, valid)[:, valid], atol=1e-5)


def test_memory_does_not_grow_with_height():
    def held(height, overlap):
        blender = Blender(Tiling(height, 100, 16, overlap), BANDS, CPU)
        return blender._mean.nbytes + blender._weight.nbytes

    for overlap in (0, 4):
        assert held(64, overlap) == held(640, overlap) == 4 * (BANDS + 1) * 16 * 100
