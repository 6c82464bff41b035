"""Known shifts of textured images, measured to a fraction of a pixel."""

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.datasets.pairs.coregistration import shift_between
from ms2hs.datasets.simulation.random_fields import smooth_noise

FINE = 10
PAD = 4


def seen(ground, size, row=0.0, col=0.0):
    """(size, size) averages over squares of a finer image, shifted by (row, col) pixels."""
    top, left = (PAD * FINE + round(shift * FINE) for shift in (row, col))
    part = ground[top : top + size * FINE, left : left + size * FINE]
    return part.reshape(size, FINE, size, FINE).mean(axis=(1, 3))


def images(seed, size, slope, shift, noise):
    rng = np.random.default_rng(seed)
    ground = smooth_noise(((size + 2 * PAD) * FINE,) * 2, slope, rng)
    first, second = seen(ground, size), seen(ground, size, *shift)
    return [image + noise * image.std() * rng.normal(size=image.shape) for image in (first, second)]


SHIFTS = st.tuples(*(st.integers(-20, 20).map(lambda tenths: tenths / FINE) for _ in range(2)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([32, 64]), st.sampled_from([1.2, 1.8, 2.2]), SHIFTS)
def test_shift_between_ignores_gain_offset_and_noise(seed, size, slope, shift):
    first, second = images(seed, size, slope, shift, noise=0.02)
    found = shift_between(first, 1.4 * second + 0.3)
    np.testing.assert_allclose((found.row, found.col), shift, atol=0.1)
    assert found.correlation > 0.9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([1.2, 2.0]), SHIFTS)
def test_shift_between_is_not_drawn_to_zero_by_gaps(seed, slope, shift):
    """Cloud on 30 % of the pixels of both images, brighter than the ground: if filled, it would dominate the match."""
    first, second = images(seed, 48, slope, shift, noise=0.02)
    cloud = smooth_noise((48, 48), 1.8, np.random.default_rng(seed + 1))
    valid = cloud < np.quantile(cloud, 0.7)
    first[~valid], second[~valid] = 9.0, np.nan
    found = shift_between(first, 0.7 * second - 0.1, valid)
    np.testing.assert_allclose((found.row, found.col), shift, atol=0.15)


def test_shift_between_is_the_movement_of_the_second_image():
    first = np.random.default_rng(0).random((30, 40))
    second = np.roll(first, (-2, 1), axis=(0, 1))
    found = shift_between(first, second)
    np.testing.assert_allclose((found.row, found.col), (2, -1), atol=0.02)


def test_shift_between_equal_images_is_zero():
    image = np.random.default_rng(0).random((30, 40))
    found = shift_between(image, image)
    assert abs(found.row) < 1e-6
    assert abs(found.col) < 1e-6
    assert found.correlation == pytest.approx(1)


def test_shift_between_needs_contrast_and_pixels():
    image = np.random.default_rng(0).random((30, 40))
    assert shift_between(image, np.full((30, 40), 0.3)) is None
    assert shift_between(image, image, np.zeros((30, 40), bool)) is None
    assert shift_between(image[:5], image[:5]) is None


def test_shift_between_unrelated_images_has_low_correlation():
    rng = np.random.default_rng(0)
    found = shift_between(rng.random((64, 64)), rng.random((64, 64)))
    assert found is None or found.correlation < 0.4


def test_shift_between_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"one \(row, col\) shape"):
        shift_between(np.zeros((9, 9)), np.zeros((9, 8)))


def test_shift_between_real_scenes_of_known_shift(real_data):
    """Red and near infrared at 10 m, averaged to 30 m from corners 1 and 2 pixels apart: shifts of 1/3 and 2/3."""
    errors = []
    for path in sorted((real_data / "sentinel2").glob("ben_*.tif")):
        with rasterio.open(path) as file:
            bands = [file.descriptions.index(name) for name in ("B04", "B08")]
            dn = file.read([band + 1 for band in bands]).astype(float)
        for image in dn:
            first, second = (
                image[top : top + 114, left : left + 114].reshape(38, 3, 38, 3).mean(axis=(1, 3))
                for top, left in ((3, 3), (4, 1))
            )
            found = shift_between(first, second)
            errors.append(max(abs(found.row - 1 / 3), abs(found.col + 2 / 3)))
    assert len(errors) >= 12
    assert np.median(errors) < 0.05
    assert max(errors) < 0.2
