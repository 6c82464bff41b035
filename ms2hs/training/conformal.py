"""How sure a model may be, learnt on scenes that it was not trained on: split-conformal, by wavelength."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.pairs.pair_sampling import by_scene, windows_of
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.models.harmonization import adjusted
from ms2hs.models.intervals import MIN_VALUES, bridge, quantile_over_scenes, sigma_needed
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.spectral_grid import SpectralGrid

Reconstruct = Callable[[Float32Array, BoolArray], Float32Array]
# Where no scene tells how sure a model may be, it is taken to be this much less sure than beside the gap.
UNKNOWN_SCALE = 1.5
# Fewer pixels of a scene tell nothing.
FEWEST_PIXELS = 100


def fit_sigma_scale(weights: Weights, pairs: Sequence[Pair], seed: int = 0) -> Float32Array | None:
    """(wavelength,) what the prior's posterior standard deviation is multiplied by to be this model's.

    Of each scene, what would make 90 % of its values fall into the 90 % interval, band by band; of the scenes the 80th
    percentile, or of fewer than three the largest: a new scene differs from all others as a whole, and should fall
    among the most.

    Parameters
    ----------
    pairs : of scenes that the model was not trained on.

    Returns
    -------
    None where no scene has enough pixels.
    """
    raw = replace(weights.prior, sigma_scale=np.ones_like(weights.prior.sigma_scale))
    return scale_of_scenes([_needed(weights, raw, together, seed) for together in by_scene(pairs)])


def scale_of_scenes(needed: Sequence[FloatArray | None]) -> Float32Array | None:
    """(wavelength,) one scale for all scenes, of what each needs (wavelength,), NaN where it does not reach.

    None where no scene tells anything.
    """
    rows = np.array([row for row in needed if row is not None])
    if not len(rows):
        return None
    scale = quantile_over_scenes(rows) if len(rows) >= MIN_VALUES else np.full(rows.shape[1], np.nan)
    known = np.isfinite(rows).any(axis=0) & ~np.isfinite(scale)
    scale[known] = np.nanmax(rows[:, known], axis=0) if known.any() else scale[known]
    return np.maximum(bridge(scale, UNKNOWN_SCALE), 1e-3).astype(np.float32)


def _needed(weights: Weights, raw: SpectralPrior, pairs: Sequence[Pair], seed: int) -> FloatArray | None:
    """(wavelength,) for one scene, NaN where its truth does not reach."""
    one = pairs[0]
    reconstruct = _reconstruct(weights, one.source, one.target)
    adjustment = None if one.is_simulated else weights.adjustments.get(one.sensor)
    conditional = raw.condition(one.source, one.target)
    errors, scales = [], []
    for _, measured, truth in windows_of(pairs, seed):
        valid = np.asarray(np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0), bool)
        if not valid.any():
            continue
        seen = np.where(valid, adjusted(measured, one.source.names, adjustment), np.float32(0))
        made = reconstruct(seen, valid)
        errors.append((truth - made)[:, valid].T)
        scales.append(conditional.scale(seen[:, valid]))
    if sum(map(len, scales)) < FEWEST_PIXELS:
        return None
    ratio = sigma_needed(np.concatenate(errors).astype(float), np.concatenate(scales)) / conditional.relative_sigma
    fine = raw.wavelength_nm.astype(float)
    return np.asarray(interpolate_known(ratio[None].astype(np.float32), one.target.wavelength_nm, fine)[0], float)


def _reconstruct(weights: Weights, source: SpectralGrid, target: SpectralGrid) -> Reconstruct:
    if weights.network is None:
        return weights.prior.condition(source, target).reconstruct
    from ms2hs.inference.predictor import Predictor  # noqa: PLC0415  the linear model needs no torch

    return Predictor(weights.network, source, target).reconstruct
