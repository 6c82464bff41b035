"""Tiling: windows that cover a raster, and their tapers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.raster.tiling import Tiling, taper

settings.register_profile("windows", max_examples=150, deadline=None)
settings.load_profile("windows")


@st.composite
def tilings(draw):
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    overlap = draw(st.integers(0, min(size) - 1))
    return Tiling(draw(st.integers(1, 60)), draw(st.integers(1, 60)), size, overlap)


def cut(array, window):
    return array[..., window.row : window.row + window.height, window.col : window.col + window.width]


def taper_of(spans, start, length):
    i = [s for s, _ in spans].index(start)
    before = max(0, spans[i - 1][1] - start) if i else 0
    after = max(0, start + length - spans[i + 1][0]) if i + 1 < len(spans) else 0
    return taper(length, before, after)


@given(tilings())
def test_tiling_covers_every_pixel_and_stays_inside(tiling):
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
def test_tiling_neighbours_share_at_least_the_overlap_and_windows_are_full(tiling):
    for spans, size, length in (
        (tiling.rows, tiling.shape[0], tiling.height),
        (tiling.cols, tiling.shape[1], tiling.width),
    ):
        assert all(end - start == min(size, length) for start, end in spans)
        assert all(left[1] - right[0] >= tiling.overlap for left, right in pairwise(spans))


def test_tiling_covers_a_whole_hls_tile():
    tiling = Tiling(3660, 3660, 128, 32)
    assert tiling.rows[0] == (0, 128)
    assert tiling.rows[-1] == (3532, 3660)
    assert len(tiling.rows) == 38
    assert {w.width for w in tiling} == {w.height for w in tiling} == {128}


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (8, 8), (8, -1), ((8, 4), 5)])
def test_tiling_refuses_windows_that_cannot_cover(size, overlap):
    with pytest.raises(ValueError, match=r"window|overlap"):
        Tiling(10, 10, size, overlap)


@given(st.integers(1, 60), st.data())
def test_taper_of_neighbours_sums_to_one_and_is_positive(size, data):
    shared = data.draw(st.integers(0, size))
    left, right = taper(size, 0, shared), taper(size, shared, 0)
    assert np.allclose(left[size - shared :] + right[:shared], 1, atol=1e-6)
    assert (left > 0).all()
    assert (np.diff(right[:shared]) > 0).all()
    assert (left[: size - shared] == 1).all()


@given(tilings())
def test_tapers_span_the_overlap_of_neighbours(tiling):
    for tapers, spans in zip(tiling.tapers, (tiling.rows, tiling.cols), strict=True):
        expected = [taper_of(spans, start, end - start) for start, end in spans]
        assert [weights.tolist() for weights in tapers] == [weights.tolist() for weights in expected]
