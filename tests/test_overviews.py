"""Pyramid: overviews from blocks are means of the valid pixels, for every data type."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.raster.cog.encoding import REFLECTANCE
from ms2hs.raster.cog.overviews import BlockIndex, Levels, Pyramid, halve
from ms2hs.raster.cube import NODATA


def naive_half(numbers, nodata):
    """(band, half the rows, half the columns), in double precision; at odd edges the mean of the existing pixels."""
    bands, rows, cols = numbers.shape
    wide = np.full((bands, rows + rows % 2, cols + cols % 2), np.nan)
    wide[:, :rows, :cols] = numbers
    if nodata is not None:
        wide[wide == nodata] = np.nan
    four = np.stack([wide[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
    count = (~np.isnan(four)).sum(axis=0)
    mean = np.nansum(four, axis=0) / np.maximum(count, 1)
    if numbers.dtype.kind != "f":
        mean = np.floor(mean + 0.5)
    return np.where(count > 0, mean, 0 if nodata is None else nodata).astype(numbers.dtype)


DTYPES = {"int16": NODATA, "uint8": 0, "uint16": 65535, "int32": -1, "uint32": None, "float32": np.nan, "int8": -128}


def random_numbers(rng, dtype, shape, invalid_share):
    if dtype == "float32":
        numbers = rng.normal(0, 1000, shape).astype(dtype)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        low, high = (low, high) if rng.random() < 0.5 else (max(low, -99), min(high, 5000))
        numbers = rng.integers(low, high, shape, endpoint=True).astype(dtype)
    if DTYPES[dtype] is not None:
        numbers[rng.random(shape) < invalid_share] = DTYPES[dtype]
    return numbers


@given(
    dtype=st.sampled_from(list(DTYPES)),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    invalid=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=150, deadline=None)
def test_halve_returns_the_mean_of_valid_pixels(dtype, shape, invalid, seed):
    block = random_numbers(np.random.default_rng(seed), dtype, (2 * shape[0], 2 * shape[1]), invalid)
    half = halve(block, DTYPES[dtype])
    assert half.dtype == block.dtype
    np.testing.assert_array_equal(half, naive_half(block[None], DTYPES[dtype])[0])


def test_halve_does_not_overflow():
    for value in (32767, -32767, NODATA, 8192, -8193):
        assert (halve(np.full((2, 4), value, np.int16), NODATA) == value).all()
    for value in (0, 4_294_967_295):
        assert (halve(np.full((2, 4), value, np.uint32), None) == value).all()


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    invalid=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_pyramid_equals_halving_the_whole_image(height, width, invalid, seed):
    rng = np.random.default_rng(seed)
    bands, levels = 3, Levels(height, width, 4)
    numbers = random_numbers(rng, "int16", (bands, height, width), invalid)
    pyramid_of = Pyramid(levels, bands, REFLECTANCE)
    found, seen = [np.zeros((bands, *levels.shape(level)), np.int16) for level in range(levels.count)], []
    for row in range(levels.blocks(0)[0]):
        for col in range(levels.blocks(0)[1]):
            for some in (slice(0, 1), slice(1, bands)):
                # arbitrary numbers beyond the image
                blocks = rng.integers(-99, 99, (some.stop - some.start, 4, 4)).astype(np.int16)
                part = numbers[some, row * 4 :, col * 4 :][:, :4, :4]
                blocks[:, : part.shape[1], : part.shape[2]] = part
                for place, whole in pyramid_of.add(some, BlockIndex(0, row, col), blocks):
                    seen += [(place.level, place.row, place.col, band) for band in range(some.start, some.stop)]
                    target = found[place.level][some, place.row * 4 :, place.col * 4 :][:, :4, :4]
                    target[:] = whole[:, : target.shape[1], : target.shape[2]]
    for level in range(levels.count):
        np.testing.assert_array_equal(found[level], numbers)
        rows, cols = levels.blocks(level)
        each = [(level, row, col, band) for row in range(rows) for col in range(cols) for band in range(bands)]
        assert [place for place in seen if place[0] == level] == each  # each once, in the order of the file
        numbers = naive_half(numbers, NODATA)
