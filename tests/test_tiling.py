import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.inference.blending import Blender
from ms2hs.raster.tiling import Strip, Tiling, Window, taper

BANDS = 2
settings.register_profile("windows", max_examples=150, deadline=None)
settings.load_profile("windows")


@st.composite
def tilings(draw):
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    overlap = draw(st.integers(0, min(size) - 1))
    return Tiling(draw(st.integers(1, 60)), draw(st.integers(1, 60)), size, overlap)


def cut(array, window):
    return array[..., window.row : window.row + window.height, window.col : window.col + window.width]


def blend(tiling, pieces):
    """Strips, copied out of the blender's buffer, joined into whole arrays."""
    blender = Blender(tiling, BANDS)
    strips = []
    for window, values, valid in pieces:
        for strip in blender.add(window, values, valid):
            assert strip.row == sum(s.valid.shape[0] for s in strips)
            strips.append(Strip(strip.row, strip.values.copy(), strip.valid.copy()))
    return np.concatenate([s.values for s in strips], 1), np.concatenate([s.valid for s in strips])


def oracle(tiling, pieces):
    """The whole raster at once, in float64: sum of weighted values by sum of weights."""
    total, weights = np.zeros((BANDS, tiling.height, tiling.width)), np.zeros((tiling.height, tiling.width))
    for window, values, valid in pieces:
        down = taper_of(tiling.rows, window.row, window.height)
        across = taper_of(tiling.cols, window.col, window.width)
        weight = np.outer(down, across) * valid
        cut(total, window)[...] += np.where(valid, values, 0) * weight
        cut(weights, window)[...] += weight
    return np.where(weights > 0, total / np.where(weights > 0, weights, 1), 0), weights > 0


def taper_of(spans, start, length):
    i = [s for s, _ in spans].index(start)
    before = max(0, spans[i - 1][1] - start) if i else 0
    after = max(0, start + length - spans[i + 1][0]) if i + 1 < len(spans) else 0
    return taper(length, before, after)


@given(tilings())
def test_windows_cover_every_pixel_and_stay_inside(tiling):
    count = np.zeros((tiling.height, tiling.width), int)
    windows = list(tiling)
    assert len(windows) == len(tiling) == len(set(windows))
    assert windows == sorted(windows, key=lambda w: (w.row, w.col))
    for window in windows:
        view = cut(count, window)
        assert view.shape == (window.height, window.width)
        view += 1
    assert count.min() == 1 if tiling.overlap == 0 else count.min() >= 1
    if tiling.overlap == 0:
        assert count.max() == 1


@given(tilings().filter(lambda t: t.overlap > 0))
def test_neighbours_share_at_least_the_overlap_and_windows_are_whole(tiling):
    for spans, size, length in (
        (tiling.rows, tiling.shape[0], tiling.height),
        (tiling.cols, tiling.shape[1], tiling.width),
    ):
        assert all(end - start == min(size, length) for start, end in spans)
        assert all(left[1] - right[0] >= tiling.overlap for left, right in pairwise(spans))


def test_an_hls_tile_loses_nothing():
    tiling = Tiling(3660, 3660, 128, 32)
    assert tiling.rows[0] == (0, 128)
    assert tiling.rows[-1] == (3532, 3660)
    assert len(tiling.rows) == 38
    assert {w.width for w in tiling} == {w.height for w in tiling} == {128}


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (8, 8), (8, -1), ((8, 4), 5)])
def test_windows_that_cannot_cover_are_refused(size, overlap):
    with pytest.raises(ValueError, match=r"window|overlap"):
        Tiling(10, 10, size, overlap)


@given(st.integers(1, 60), st.data())
def test_tapers_of_neighbours_sum_to_one_and_are_never_zero(size, data):
    shared = data.draw(st.integers(0, size))
    left, right = taper(size, 0, shared), taper(size, shared, 0)
    assert np.allclose(left[size - shared :] + right[:shared], 1, atol=1e-6)
    assert (left > 0).all()
    assert (np.diff(right[:shared]) > 0).all()
    assert (left[: size - shared] == 1).all()


@given(tilings())
def test_tapers_are_over_what_neighbours_share(tiling):
    for tapers, spans in zip(tiling.tapers, (tiling.rows, tiling.cols), strict=True):
        expected = [taper_of(spans, start, end - start) for start, end in spans]
        assert [weights.tolist() for weights in tapers] == [weights.tolist() for weights in expected]


@given(tilings(), st.integers(0, 2**32 - 1))
def test_windows_that_agree_give_the_raster_back_bit_for_bit(tiling, seed):
    rng = np.random.default_rng(seed)
    raster = rng.normal(0, 1, (BANDS, tiling.height, tiling.width)).astype(np.float32)
    valid = rng.random((tiling.height, tiling.width)) < 0.8
    raster[:, ~valid] = np.nan
    values, found = blend(tiling, [(w, cut(raster, w), cut(valid, w)) for w in tiling])
    assert np.array_equal(found, valid)
    assert np.array_equal(values[:, valid], raster[:, valid])


@given(tilings(), st.integers(0, 2**32 - 1))
def test_strips_equal_blending_the_whole_raster_at_once(tiling, seed):
    rng = np.random.default_rng(seed)
    pieces = []
    for window in tiling:
        values = rng.normal(0, 1, (BANDS, window.height, window.width)).astype(np.float32)
        valid = rng.random((window.height, window.width)) < 0.7
        values[:, ~valid] = rng.choice([np.nan, np.inf, 1e30])
        pieces.append((window, values, valid))
    values, valid = blend(tiling, pieces)
    expected, expected_valid = oracle(tiling, pieces)
    assert np.array_equal(valid, expected_valid)
    assert np.allclose(values[:, valid], expected[:, valid], atol=1e-5)


def test_whole_rows_pass_through_without_a_copy():
    tiling = Tiling(20, 7, (8, 7), 0)
    blender = Blender(tiling, BANDS)
    for window in tiling:
        values, valid = np.ones((BANDS, window.height, 7), np.float32), np.ones((window.height, 7), bool)
        (strip,) = blender.add(window, values, valid)
        assert strip.values is values
        assert strip.valid is valid


@pytest.mark.parametrize("overlap", [0, 4])
def test_memory_does_not_grow_with_height(overlap):
    def peak(height):
        tiling = Tiling(height, 100, 16, overlap)
        values, valid = np.ones((BANDS, 16, 16), np.float32), np.ones((16, 16), bool)
        tracemalloc.start()
        blender = Blender(tiling, BANDS)
        for window in tiling:
            shape = window.height, window.width
            blender.add(window, values[:, : shape[0], : shape[1]], valid[: shape[0], : shape[1]])
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(64)
    low, high = peak(64), peak(640)
    assert high < low + 20_000  # the list of spans; a raster of 640 rows is 512,000 bytes


def test_a_window_out_of_turn_or_of_another_shape_is_refused():
    blender = Blender(Tiling(20, 20, 8, 2), BANDS)
    values, valid = np.zeros((BANDS, 8, 8), np.float32), np.ones((8, 8), bool)
    with pytest.raises(ValueError, match="out of turn"):
        blender.add(Window(6, 0, 8, 8), values, valid)
    with pytest.raises(ValueError, match="do not fit"):
        blender.add(Window(0, 0, 8, 8), values[:, :4], valid)
    small = Blender(Tiling(8, 8, 8, 0), BANDS)
    small.add(Window(0, 0, 8, 8), values, valid)
    with pytest.raises(ValueError, match="already"):
        small.add(Window(0, 0, 8, 8), values, valid)
