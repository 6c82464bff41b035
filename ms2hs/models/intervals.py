"""How wide an interval must be to hold what it claims, wavelength by wavelength, where some values are unknown."""

from collections.abc import Callable

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.spectra.library import by_pattern
from ms2hs.spectra.metrics import NORMAL_90

# Fewer known values than this tell nothing.
FEWEST_VALUES = 3


def by_wavelength(values: FloatArray, statistic: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """(wavelength,) statistic over the known rows of values (row, wavelength); NaN where fewer than three are known.

    Parameters
    ----------
    statistic : from (row, wavelength) without unknowns to (wavelength,).
    """
    result = np.full(values.shape[1], np.nan)
    for rows, columns in by_pattern(np.isfinite(values).T):
        if rows.sum() >= FEWEST_VALUES:
            result[columns] = statistic(values[np.ix_(np.flatnonzero(rows), columns)])
    return result


def sigma_needed(error: FloatArray, scale: FloatArray) -> FloatArray:
    """(wavelength,) relative sigma whose 90 % interval, times the pixels' scale, holds 90 % of their errors.

    Parameters
    ----------
    error : (pixel, wavelength) NaN = unknown.
    scale : (pixel,) what errors are taken as proportional to.
    """
    return by_wavelength(np.abs(error) / scale[:, None], _ninety) / NORMAL_90


def most_scenes(values: FloatArray) -> FloatArray:
    """(wavelength,) the 80th percentile over scenes of values (scene, wavelength): not ruled by the worst."""
    return by_wavelength(values, _eighty)


def bridge(values: FloatArray, factor: float) -> FloatArray:
    """Values with each NaN replaced by `factor` times the larger of the nearest known on both sides."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.full(len(values), factor)
    index = np.arange(len(values))
    right = np.clip(np.searchsorted(known, index), 0, len(known) - 1)
    left = np.clip(np.searchsorted(known, index, side="right") - 1, 0, len(known) - 1)
    nearest = np.maximum(values[known[left]], values[known[right]])
    bridged: FloatArray = np.where(np.isfinite(values), values, factor * nearest)
    return bridged


def _ninety(known: FloatArray) -> FloatArray:
    quantile: FloatArray = np.quantile(known, 0.9, axis=0)
    return quantile


def _eighty(known: FloatArray) -> FloatArray:
    percentile: FloatArray = np.percentile(known, 80, axis=0)
    return percentile
