"""Noise of single pixels, taken off by what their neighbours show: a local Wiener filter of all bands together."""

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray

# Pixels to each side of one that are looked at. Of windows of 5, 7 and 9 pixels these did best on simulated scenes.
REACH = 3
# Pixels at a time: covariances of 12 bands take 1.2 kB each.
PIXELS_AT_A_TIME = 1 << 15


def denoise(reflectance: Float32Array, valid: BoolArray, sigma: float) -> Float32Array:
    """(band, row, col) float32: each value brought nearer to its neighbours', as far as these differ by noise alone.

    With C the covariance of a pixel's neighbours in units of the noise, the deviation r from their mean becomes
    C² (C² + C + 2)⁻¹ r. Along each of C's axes that is within 0.04 of Wiener's 1 - 1 / c where that is above a half;
    and where it would be 0 or less, since C is that of few pixels, it goes to 0 gently. Pixels closer than `REACH` to
    the window's edge see fewer neighbours.

    Parameters
    ----------
    reflectance : (band, row, col) float32.
    valid : (row, col) bool; others neither count nor change.
    sigma : standard deviation of the noise, in reflectance, independent between bands and pixels.
    """
    rows, cols = valid.shape
    made = np.array(reflectance, np.float32)
    step = max(1, PIXELS_AT_A_TIME // max(cols, 1))
    for top in range(0, rows, step):
        above, stop = min(REACH, top), min(top + step, rows)
        part = slice(top - above, min(stop + REACH, rows))
        inside = slice(above, above + stop - top)
        made[:, top:stop] = _denoised(reflectance[:, part], valid[part], sigma)[:, inside]
    return made


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
    # 1 - c² / (c² + c + 2) of what deviates; c - 1 + 4 / (c + 2) is its inverse, without a square to lose digits in
    noise = np.linalg.solve(covariance - unit + 4 * np.linalg.inv(covariance + 2 * unit), rest)
    result: FloatArray = np.where(valid, sigma * (values - np.moveaxis(noise[..., 0], -1, 0)), reflectance)
    return result


def _around(values: FloatArray) -> FloatArray:
    """(row, col) sum over the pixels within `REACH`, as far as there are any."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.cumsum(np.moveaxis(values, axis, 0), axis=0)
        sums = np.concatenate([np.zeros_like(sums[:1]), sums])
        last = np.minimum(np.arange(length) + REACH + 1, length)
        first = np.maximum(np.arange(length) - REACH, 0)
        values = np.moveaxis(sums[last] - sums[first], 0, axis)
    return values
