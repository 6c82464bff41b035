"""Closed-form fits to pairs: the bias of products, their noise, and the prior refitted to the spectra."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.spectra_npz import covered_bands, view_matrix
from ms2hs.datasets.pairs.pair_sampling import Sample
from ms2hs.datasets.pairs.pair_types import apply_responses
from ms2hs.models.harmonization import Adjustment, adjusted, fit_adjustment
from ms2hs.models.prior import refit
from ms2hs.models.weights import Weights
from ms2hs.spectra.library import interpolate_known
from ms2hs.training.engine.distributed import Note


def seen_by_source(sample: Sample) -> Float32Array:
    """(source band, pixel) the truth as the source measures it; NaN for bands outside the truth's wavelengths."""
    known = covered_bands(sample.target.wavelength_nm, sample.source)
    result = np.full(sample.measured.shape, np.nan, np.float32)
    if known.any():
        matrix = view_matrix(sample.source.select(known), sample.target.wavelength_nm)
        result[known] = apply_responses(matrix, sample.truth)
    return result


def adjustments_of(samples: Sequence[Sample], note: Note) -> dict[str, Adjustment]:
    """By sensor, the correction of its products: from samples that are not simulated, with equal weight per scene."""
    adjustments: dict[str, Adjustment] = {}
    products = [sample for sample in samples if not sample.is_simulated]
    for sensor in sorted({sample.sensor for sample in products}):
        own = [sample for sample in products if sample.sensor == sensor]
        lines: dict[str, tuple[float, float]] = {}
        for name in dict.fromkeys(name for sample in own for name in sample.source.names):
            lines |= _fit_band(name, [sample for sample in own if name in sample.source.names])
        adjustments[sensor] = lines
        listed = ", ".join(f"{name} {gain:.3f} {offset:+.4f}" for name, (gain, offset) in lines.items())
        note(f"{sensor}: gain and offset of the correction: {listed}")
    return adjustments


def _fit_band(name: str, samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    measured = np.concatenate([sample.measured[sample.source.names.index(name)] for sample in samples])
    true = np.concatenate([seen_by_source(sample)[sample.source.names.index(name)] for sample in samples])
    sizes = [sample.measured.shape[1] for sample in samples]
    return fit_adjustment(measured[None], true[None], (name,), np.repeat(1 / np.array(sizes), sizes))


def refitted(weights: Weights, samples: Sequence[Sample]) -> Weights:
    """The spectral prior refitted to the spectra of these scenes, with the noise of their adjusted products."""
    prior = weights.prior
    fine = prior.wavelength_nm.astype(float)
    scenes: dict[str, list[Float32Array]] = {}
    for sample in samples:
        spectra = interpolate_known(sample.truth.T, sample.target.wavelength_nm, fine)
        scenes.setdefault(sample.scene, []).append(spectra)
    spectra_of_scenes = [np.concatenate(parts) for parts in scenes.values()]
    return replace(weights, prior=refit(prior, spectra_of_scenes, noise_of(weights, samples)))


def noise_of(weights: Weights, samples: Sequence[Sample]) -> float:
    """Median over bands of the error of adjusted products, relative to a spectrum's scale; 0 without products."""
    deviations: list[float] = []
    for sample in samples:
        if sample.is_simulated:
            continue
        seen = adjusted(sample.measured, sample.source.names, weights.adjustments.get(sample.sensor))
        scale = weights.prior.condition(sample.source, sample.target).scale(seen)
        known = [band[np.isfinite(band)] for band in (seen - seen_by_source(sample)) / scale]
        deviations += [float(np.sqrt(np.mean(values**2))) for values in known if len(values)]
    return float(np.median(deviations)) if deviations else 0.0
