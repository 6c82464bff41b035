"""Widths of uncertainty intervals: what `sigma_scale` in a weights file means, and the statistics that measure it.

A model's posterior gives a relative sigma per wavelength, which is too small on new scenes. `sigma_scale` multiplies
it, so that value ± 1.645 sigma holds 90 % of the errors. `SpectralPrior.condition` applies the scale;
`training.prior_fit` (the prior) and `training.conformal` (any model) fit it with the functions of this module.
"""

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.spectra.library import by_pattern
from ms2hs.spectra.metrics import NORMAL_90

# Known values that a quantile of a wavelength needs.
MIN_VALUES = 3
# Factor on sigma for wavelengths that no scene calibrates, relative to the nearest calibrated wavelength.
UNKNOWN_SCALE = 1.5


def scale_needed(error: FloatArray, sigma: FloatArray) -> FloatArray:
    """(wavelength,) factor on sigma with which the 90 % interval holds 90 % of the errors.

    Parameters
    ----------
    error, sigma : (wavelength, pixel) error, NaN = unknown, and its standard deviation.
    """
    return _quantile((np.abs(error) / sigma).T, 0.9) / NORMAL_90


def quantile_over_scenes(values: FloatArray) -> FloatArray:
    """(wavelength,) 80th percentile of values (scene, wavelength): valid for most scenes, whatever the worst scene."""
    return _quantile(values, 0.8)


def bridge(values: FloatArray, factor: float) -> FloatArray:
    """Values with each NaN replaced by `factor` times the larger of the nearest known values on both sides."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.full(len(values), factor)
    index = np.arange(len(values))
    right = np.clip(np.searchsorted(known, index), 0, len(known) - 1)
    left = np.clip(np.searchsorted(known, index, side="right") - 1, 0, len(known) - 1)
    nearest = np.maximum(values[known[left]], values[known[right]])
    bridged: FloatArray = np.where(np.isfinite(values), values, factor * nearest)
    return bridged


def _quantile(values: FloatArray, share: float) -> FloatArray:
    """(wavelength,) quantile over the known rows of values (row, wavelength); NaN below `MIN_VALUES` known rows."""
    result = np.full(values.shape[1], np.nan)
    for rows, columns in by_pattern(np.isfinite(values).T):
        if rows.sum() >= MIN_VALUES:
            result[columns] = np.quantile(values[np.ix_(np.flatnonzero(rows), columns)], share, axis=0)
    return result
