"""Removal of pixel noise by a local Wiener filter over all bands together."""

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray

# Neighbours on each side of a pixel: windows of 7 pixels did better on simulated scenes than windows of 5 and 9.
REACH = 3
# Pixels at a time: covariances of 12 bands take 1.2 kB each.
PIXELS_AT_A_TIME = 1 << 15


def denoise(reflectance: Float32Array, valid: BoolArray, sigma: float) -> Float32Array:
    """(band, row, col) float32: reflectance with its noise reduced, and edges kept.

    With C the covariance of a pixel's neighbours in units of the noise, the deviation r from their mean becomes
    C² (C² + C + 2)⁻¹ r. Along each axis of C this is within 0.04 of Wiener's 1 - 1 / c where that is above one half.
    Where Wiener's factor would be 0 or less, which happens since C comes from few pixels, this one falls smoothly to 0.
    Pixels closer than `REACH` to the window's edge have fewer neighbours.

    Parameters
    ----------
    reflectance : (band, row, col) float32.
    valid : (row, col) bool; invalid pixels are not used and do not change.
    sigma : standard deviation of the noise, in reflectance, independent between bands and pixels.
    """
    rows, cols = valid.shape
    result = np.array(reflectance, np.float32)
    step = max(1, PIXELS_AT_A_TIME // max(cols, 1))
    for top in range(0, rows, step):
        above, stop = min(REACH, top), min(top + step, rows)
        part = slice(top - above, min(stop + REACH, rows))
        inside = slice(above, above + stop - top)
        result[:, top:stop] = _denoised(reflectance[:, part], valid[part], sigma)[:, inside]
    return result


def _denoised(reflectance: Float32Array, valid: BoolArray, sigma: float) -> FloatArray:
    values = np.where(valid, reflectance, 0).astype(float) / sigma
    bands = len(values)
    count = np.maximum(_around(valid.astype(float)), 1)
    mean = np.array([_around(band) for band in values]) / count
    covariance = np.empty((*valid.shape, bands, bands))
    for i in range(bands):
        for j in range(i + 1):
            both = (_around(values[i] * values[j]) - count * mean[i] * mean[j]) / np.maximum(count - 1, 1)
            covariance[..., i, j] = covariance[..., j, i] = both
    unit = np.eye(bands)
    rest = np.moveaxis(values - mean, 0, -1)[..., None]
    # the noise is 1 - c² / (c² + c + 2) of the deviation; the inverse c - 1 + 4 / (c + 2) loses no digits in a square
    noise = np.linalg.solve(covariance - unit + 4 * np.linalg.inv(covariance + 2 * unit), rest)
    result: FloatArray = np.where(valid, sigma * (values - np.moveaxis(noise[..., 0], -1, 0)), reflectance)
    return result


def _around(values: FloatArray) -> FloatArray:
    """(row, col) sum over the pixels within `REACH` and within the window."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.cumsum(np.moveaxis(values, axis, 0), axis=0)
        sums = np.concatenate([np.zeros_like(sums[:1]), sums])
        last = np.minimum(np.arange(length) + REACH + 1, length)
        first = np.maximum(np.arange(length) - REACH, 0)
        values = np.moveaxis(sums[last] - sums[first], 0, axis)
    return values
