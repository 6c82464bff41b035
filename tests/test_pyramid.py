"""Overviews from strips: the mean of what is there, however the rows come."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.raster.cube import NODATA
from ms2hs.raster.pyramid import Pyramid, halve


def naive_half(numbers):
    bands, rows, cols = numbers.shape
    half = np.full((bands, -(-rows // 2), -(-cols // 2)), NODATA)
    for band, row, col in np.ndindex(half.shape):
        four = numbers[band, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].astype(float)
        four = four[four != NODATA]
        if four.size:
            half[band, row, col] = np.floor(four.mean() + 0.5)
    return half


def random_numbers(rng, shape, share_unknown):
    numbers = rng.integers(-300, 12000, shape).astype(np.int16)
    numbers[rng.random(shape) < share_unknown] = NODATA
    return numbers


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 23),
    unknown=st.sampled_from([0.0, 0.1, 0.9]),
    levels=st.integers(1, 5),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_strips_give_what_the_whole_gives(rows, cols, unknown, levels, seed):
    rng = np.random.default_rng(seed)
    numbers = random_numbers(rng, (2, rows, cols), unknown)
    expected, half = [], numbers
    for _ in range(levels):
        half = naive_half(half)
        expected.append(half)
    found = [np.full(level.shape, 31111) for level in expected]
    pyramid, row = Pyramid(rows, levels), 0
    while row < rows:
        step = int(rng.integers(1, 9))
        for level, first, strip in pyramid.add(numbers[:, row : row + step]):
            assert (found[level][:, first : first + strip.shape[1]] == 31111).all()  # no row twice
            found[level][:, first : first + strip.shape[1]] = strip
        row += step
    for level, whole in zip(found, expected, strict=True):
        np.testing.assert_array_equal(level, whole)


def test_extreme_numbers_do_not_overflow():
    assert (halve(np.full((1, 2, 2), 32767, np.int16)) == 32767).all()
    assert (halve(np.full((1, 2, 2), -32767, np.int16)) == -32767).all()
    assert (halve(np.full((1, 3, 3), NODATA, np.int16)) == NODATA).all()
