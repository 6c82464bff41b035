"""Fit of `sigma_scale`: how sure a model may be, by split-conformal calibration on scenes it was not trained on.

For each scene and wavelength, the smallest scale for which the 90 % interval holds 90 % of the scene's values. Over
scenes, the 80th percentile, or the largest of fewer than three: a new scene differs from all others as a whole, and
should lie within the interval in most cases. `models.intervals` has the statistics, and says where the scale is used.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.pairs.pair_sampling import by_scene, windows_of
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.models.harmonization import adjusted
from ms2hs.models.intervals import MIN_VALUES, UNKNOWN_SCALE, bridge, quantile_over_scenes, scale_needed
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights
from ms2hs.spectra.library import interpolate_known

# Pixels that a scene needs for a `sigma_scale` of its own.
MIN_PIXELS_FOR_SIGMA_SCALE = 100


def fit_sigma_scale(weights: Weights, pairs: Sequence[Pair], seed: int = 0) -> Float32Array | None:
    """(wavelength,) factor on the prior's posterior standard deviation that makes it this model's uncertainty.

    `pairs` are of scenes that the model was not trained on. None where no scene has enough pixels.
    """
    raw = weights.prior.with_sigma_scale(np.ones_like(weights.prior.sigma_scale))
    return scale_of_scenes([_scale_needed(weights, raw, of_scene, seed) for of_scene in by_scene(pairs)])


def scale_of_scenes(needed: Sequence[FloatArray | None]) -> Float32Array | None:
    """(wavelength,) one scale for all scenes, from each scene's (wavelength,), NaN = unknown; None without scenes."""
    rows = np.array([row for row in needed if row is not None])
    if not len(rows):
        return None
    scale = quantile_over_scenes(rows) if len(rows) >= MIN_VALUES else np.full(rows.shape[1], np.nan)
    known = np.isfinite(rows).any(axis=0) & ~np.isfinite(scale)
    scale[known] = np.nanmax(rows[:, known], axis=0) if known.any() else scale[known]
    return np.maximum(bridge(scale, UNKNOWN_SCALE), 1e-3).astype(np.float32)


def _scale_needed(weights: Weights, raw: SpectralPrior, pairs: Sequence[Pair], seed: int) -> FloatArray | None:
    """(wavelength,) for one scene, NaN where its truth has no data; None for too few pixels."""
    sensor, source, target = pairs[0].sensor, pairs[0].source, pairs[0].target
    reconstruct: Callable[[Float32Array, BoolArray], Float32Array]
    if weights.network is None:
        reconstruct = weights.prior.condition(source, target).reconstruct
    else:
        from ms2hs.inference.predictor import Predictor  # noqa: PLC0415  the linear model needs no torch

        reconstruct = Predictor(weights.network, source, target).reconstruct
    adjustment = None if pairs[0].is_simulated else weights.adjustments.get(sensor)
    posterior = raw.condition(source, target)
    errors, sigmas = [], []
    for _, measured, truth in windows_of(pairs, seed):
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0), bool)
        if not valid.any():
            continue
        seen = np.where(valid, adjusted(measured, source.names, adjustment), np.float32(0))
        errors.append((truth - reconstruct(seen, valid))[:, valid])
        sigmas.append(posterior.sigma(seen[:, valid]))
    if sum(error.shape[1] for error in errors) < MIN_PIXELS_FOR_SIGMA_SCALE:
        return None
    ratio = scale_needed(np.concatenate(errors, axis=1).astype(float), np.concatenate(sigmas, axis=1))
    fine = raw.wavelength_nm.astype(float)
    return np.asarray(interpolate_known(ratio[None].astype(np.float32), target.wavelength_nm, fine)[0], float)
