"""What turns a product's bands into what its sensor would measure of the true surface: a gain and an offset a band.

Sensors of two systems differ by their calibration and by the correction of the atmosphere, mostly by a straight line a
band (Claverie et al. 2018, doi:10.1016/j.rse.2018.09.002, who bring Sentinel-2 to Landsat so). A model learns spectra
through response functions; what pairs say of a real product stands beside it, by sensor, and can be left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray

Adjustment = Mapping[str, tuple[float, float]]
"""By band name: gain and offset, `adjusted = gain * reflectance + offset`."""
# Values further from the line than this many standard deviations are clouds, changes or bad matches.
FARTHEST = 3.0
ROUNDS = 4
# With less spread of reflectance than this a band tells no gain, and with fewer pixels nothing.
LEAST_SPREAD = 0.005
FEWEST_PIXELS = 50
# A median absolute deviation times this is a Gaussian's standard deviation.
MAD_TO_SIGMA = 1.4826


def adjusted(reflectance: Float32Array, names: Sequence[str], adjustment: Adjustment | None) -> Float32Array:
    """Reflectance (band, ...) of bands of these names, adjusted; bands that the adjustment does not have stay."""
    if not adjustment:
        return reflectance
    pairs = np.array([adjustment.get(name, (1.0, 0.0)) for name in names], np.float32)
    gain, offset = pairs.T.reshape(2, len(names), *[1] * (reflectance.ndim - 1))
    result: Float32Array = gain * reflectance + offset
    return result


def fit_adjustment(
    measured: Float32Array, true: Float32Array, names: Sequence[str], weights: FloatArray | None = None
) -> dict[str, tuple[float, float]]:
    """The line of each band from what a product measured to what the sensor would measure of the truth.

    Orthogonal regression, since both are off (Deming 1943), again without what lies far from the line. A band whose
    pixels are alike is given an offset alone; one with too few pixels is left out.

    Parameters
    ----------
    measured, true : (band, pixel) reflectance, NaN = unknown.
    weights : (pixel,) how much each counts; None: all alike.
    """
    found = {}
    share = np.ones(measured.shape[1]) if weights is None else weights
    for name, x, y in zip(names, measured.astype(float), true.astype(float), strict=True):
        known = np.isfinite(x) & np.isfinite(y) & (share > 0)
        if known.sum() >= FEWEST_PIXELS:
            found[name] = _line(x[known], y[known], share[known])
    return found


def _line(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[float, float]:
    near = np.abs((y - x) - np.median(y - x)) <= FARTHEST * _spread(y - x)
    gain, offset = 1.0, 0.0
    for _ in range(ROUNDS):
        gain, offset = _orthogonal(x[near], y[near], weights[near])
        left = y - (gain * x + offset)
        near = np.abs(left) <= FARTHEST * _spread(left[near])
    return gain, offset


def _spread(values: FloatArray) -> float:
    """Standard deviation about the median, by the median absolute deviation; never 0."""
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values)))) + 1e-6


def _orthogonal(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Gain and offset of the line that is nearest to all points, across it."""
    share = weights / weights.sum()
    middle_x, middle_y = float(share @ x), float(share @ y)
    xx, yy = float(share @ (x - middle_x) ** 2), float(share @ (y - middle_y) ** 2)
    xy = float(share @ ((x - middle_x) * (y - middle_y)))
    if min(xx, yy) < LEAST_SPREAD**2 or xy <= 0:
        return 1.0, middle_y - middle_x
    gain = ((yy - xx) + float(np.hypot(yy - xx, 2 * xy))) / (2 * xy)
    return gain, middle_y - gain * middle_x
