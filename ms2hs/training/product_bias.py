"""What pairs say in closed form: what products are off by, how noisy they are, and spectra for the prior."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.spectra_npz import reach, view_matrix
from ms2hs.datasets.pairs.pair_sampling import Sample
from ms2hs.datasets.pairs.pair_types import seen_through
from ms2hs.models.harmonization import Adjustment, adjusted, fit_adjustment
from ms2hs.models.prior import refit
from ms2hs.models.weights import Weights
from ms2hs.spectra.library import interpolate_known


def seen_by_source(sample: Sample) -> Float32Array:
    """(source band, pixel) what the source would measure of the truth; NaN for bands that the truth does not reach."""
    known = reach(sample.target.wavelength_nm, sample.source)
    result = np.full(sample.measured.shape, np.nan, np.float32)
    if known.any():
        matrix = view_matrix(sample.source.select(known), sample.target.wavelength_nm)
        result[known] = seen_through(matrix, sample.truth)
    return result


def adjustments_of(samples: Sequence[Sample], tell: Callable[[str], None]) -> dict[str, Adjustment]:
    """By sensor, what brings its products to the truth: of samples that are not simulated, each scene weighing one."""
    found: dict[str, Adjustment] = {}
    products = [sample for sample in samples if not sample.is_simulated]
    for sensor in sorted({sample.sensor for sample in products}):
        own = [sample for sample in products if sample.sensor == sensor]
        fitted: dict[str, tuple[float, float]] = {}
        for name in dict.fromkeys(name for sample in own for name in sample.source.names):
            fitted |= _adjustment(name, [sample for sample in own if name in sample.source.names])
        found[sensor] = fitted
        told = ", ".join(f"{name} {gain:.3f} {offset:+.4f}" for name, (gain, offset) in fitted.items())
        tell(f"{sensor}: gain and offset that bring its products to the truth: {told}")
    return found


def _adjustment(name: str, samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Of one band."""
    bands = [sample.source.names.index(name) for sample in samples]
    measured = np.concatenate([sample.measured[band] for sample, band in zip(samples, bands, strict=True)])
    true = np.concatenate([seen_by_source(sample)[band] for sample, band in zip(samples, bands, strict=True)])
    sizes = [sample.measured.shape[1] for sample in samples]
    return fit_adjustment(measured[None], true[None], (name,), np.repeat(1 / np.array(sizes), sizes))


def refitted(weights: Weights, samples: Sequence[Sample]) -> Weights:
    """The linear model with the spectra of these scenes, and the noise of their products once they are adjusted."""
    prior = weights.prior
    fine = prior.wavelength_nm.astype(float)
    scenes: dict[str, list[Float32Array]] = {}
    for sample in samples:
        spectra = interpolate_known(sample.truth.T, sample.target.wavelength_nm, fine)
        scenes.setdefault(sample.scene, []).append(spectra)
    together = [np.concatenate(parts) for parts in scenes.values()]
    return replace(weights, prior=refit(prior, together, noise_of(weights, samples)))


def noise_of(weights: Weights, samples: Sequence[Sample]) -> float:
    """Standard deviation of a typical band of adjusted products, relative to a spectrum's scale; 0 without products."""
    found = []
    for sample in samples:
        if sample.is_simulated:
            continue
        seen = adjusted(sample.measured, sample.source.names, weights.adjustments.get(sample.sensor))
        left = (seen - seen_by_source(sample)) / weights.prior.condition(sample.source, sample.target).scale(seen)
        found += [float(np.sqrt(np.mean(band[np.isfinite(band)] ** 2))) for band in left if np.isfinite(band).any()]
    return float(np.median(found)) if found else 0.0
