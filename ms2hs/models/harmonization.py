"""Gain and offset of each band that correct a product to what its sensor would measure of the true surface.

Products differ by calibration and atmospheric correction, mostly by a straight line for each band (Claverie et al.
2018, doi:10.1016/j.rse.2018.09.002, adjust Sentinel-2 to Landsat in this way). Models learn spectra through response
functions; the adjustments, fitted to pairs, are stored beside the model by sensor, and a user can skip them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray

Adjustment = Mapping[str, tuple[float, float]]
"""By band name: gain and offset, `adjusted = gain * reflectance + offset`."""
# Pixels further from the line than this many standard deviations are clouds, changes or bad matches.
MAX_DEVIATIONS = 3.0
ROUNDS = 4
# A line needs this many pixels of a band, and a gain this standard deviation of their reflectance.
MIN_PIXELS_FOR_ADJUSTMENT = 50
MIN_SPREAD_FOR_GAIN = 0.005
# A median absolute deviation times this is a Gaussian's standard deviation.
MAD_TO_SIGMA = 1.4826


def adjusted(reflectance: Float32Array, names: Sequence[str], adjustment: Adjustment | None) -> Float32Array:
    """(band, ...) adjusted reflectance of the bands `names`; bands without an adjustment are unchanged."""
    if not adjustment:
        return reflectance
    pairs = np.array([adjustment.get(name, (1.0, 0.0)) for name in names], np.float32)
    gain, offset = pairs.T.reshape(2, len(names), *[1] * (reflectance.ndim - 1))
    result: Float32Array = gain * reflectance + offset
    return result


def fit_adjustment(
    measured: Float32Array, true: Float32Array, names: Sequence[str], weights: FloatArray | None = None
) -> dict[str, tuple[float, float]]:
    """By band name, gain and offset from a product's reflectance to what the sensor would measure of the truth.

    Orthogonal regression, since both sides have errors (Deming 1943), repeated without the pixels far from the line. A
    band with little spread gets an offset alone; a band with too few pixels is left out.

    Parameters
    ----------
    measured, true : (band, pixel) reflectance, NaN = unknown.
    weights : (pixel,) weights; None: equal weights.
    """
    lines = {}
    share = np.ones(measured.shape[1]) if weights is None else weights
    for name, x, y in zip(names, measured.astype(float), true.astype(float), strict=True):
        known = np.isfinite(x) & np.isfinite(y) & (share > 0)
        if known.sum() >= MIN_PIXELS_FOR_ADJUSTMENT:
            lines[name] = _line(x[known], y[known], share[known])
    return lines


def _line(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[float, float]:
    near = np.abs((y - x) - np.median(y - x)) <= MAX_DEVIATIONS * _spread(y - x)
    gain, offset = 1.0, 0.0
    for _ in range(ROUNDS):
        gain, offset = _orthogonal(x[near], y[near], weights[near])
        residual = y - (gain * x + offset)
        near = np.abs(residual) <= MAX_DEVIATIONS * _spread(residual[near])
    return gain, offset


def _spread(values: FloatArray) -> float:
    """Standard deviation about the median, by the median absolute deviation; never 0."""
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))) + 1e-6


def _orthogonal(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Gain and offset of the line with the least squared orthogonal distance to the points."""
    share = weights / weights.sum()
    mean_x, mean_y = float(share @ x), float(share @ y)
    xx, yy = float(share @ (x - mean_x) ** 2), float(share @ (y - mean_y) ** 2)
    xy = float(share @ ((x - mean_x) * (y - mean_y)))
    if min(xx, yy) < MIN_SPREAD_FOR_GAIN**2 or xy <= 0:
        return 1.0, mean_y - mean_x
    gain = ((yy - xx) + float(np.hypot(yy - xx, 2 * xy))) / (2 * xy)
    return gain, mean_y - gain * mean_x
