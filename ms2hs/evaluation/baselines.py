"""The methods compared: simple baselines, the spectral prior and models, all from measured bands to target bands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.evaluation.results import Kind
from ms2hs.models.harmonization import adjusted
from ms2hs.models.prior import TYPICAL_SCALE, Posterior, SpectralPrior
from ms2hs.spectra.spectral_grid import SpectralGrid, line_weights, pasted_bands, response_matrix

if TYPE_CHECKING:
    from ms2hs.models.weights import Weights

# Pixels per step of the nearest-spectrum search; few, so that their arrays stay in the processor's cache.
PIXELS_PER_SEARCH = 256
PRIOR = "prior"


@dataclass(frozen=True, eq=False)
class Method:
    """A function from the source's bands to the target's bands."""

    name: str
    kind: Kind
    reconstruct: Callable[[Float32Array, BoolArray], Float32Array]
    """From (source band, row, col) reflectance, finite where (row, col) valid, to (target band, row, col)."""
    sigma: Callable[[Float32Array], Float32Array] | None = None
    """From (source band, row, col) to (target band, row, col): value ± 1.645 sigma is the 90 % interval."""
    train_mse: float = float("nan")
    """MSE of the last tenth of the training, from the weights' card."""


def build_methods(
    prior: SpectralPrior,
    models: Sequence["Weights"],
    source: SpectralGrid,
    target: SpectralGrid,
    sensor: str | None = None,
) -> list[Method]:
    """Baselines, the prior and the models, in the order of the table.

    `pasted bands` is left out if no source band covers 60 % of a target band.

    Parameters
    ----------
    prior : also gives the baselines their training spectra.
    models : a name that is taken is replaced by the path of the weights.
    sensor : product whose gain and offset correction the models apply; None for simulated sources.

    Raises
    ------
    GridError : bands outside the wavelengths of the prior or of a model, or no band that a model could paste.
    """
    conditional = prior.condition(source, target)
    spectra = TrainingSpectra.of(prior, conditional, source, target)
    methods = [
        Method("mean spectrum", "baseline", spectra.mean),
        Method("interpolation", "baseline", lambda measured, _valid: interpolated(measured, source, target)),
        Method("nearest spectra", "baseline", spectra.nearest),
    ]
    if (pasted_bands(source, target) >= 0).any():
        methods.append(Method("pasted bands", "baseline", PastedBands.of(prior, source, target).reconstruct))
    methods.append(Method(PRIOR, "prior", conditional.reconstruct, conditional.sigma))
    for weights in models:
        names = {method.name for method in methods}
        name = str(weights.path) if weights.name in names else weights.name
        name = name if name not in names else f"{name} ({sum(other.startswith(name) for other in names) + 1})"
        methods.append(_model_method(weights, name, (source, target), sensor))
    return methods


def _model_method(
    weights: "Weights", name: str, grids: tuple[SpectralGrid, SpectralGrid], sensor: str | None
) -> Method:
    """The method of a model, on the CPU; `grids` are the bands of source and target."""
    adjust = partial(adjusted, names=grids[0].names, adjustment=weights.adjustments.get(sensor) if sensor else None)
    reconstruct: Callable[[Float32Array, BoolArray], Float32Array]
    if weights.network is None:
        reconstruct = weights.prior.condition(*grids).reconstruct
    else:
        from ms2hs.inference.predictor import Predictor  # noqa: PLC0415  torch, which no baseline needs

        reconstruct = Predictor(weights.network, *grids).reconstruct
    sigma = None if weights.calibrated_prior is None else weights.calibrated_prior.condition(*grids).sigma
    return Method(
        name,
        "model",
        lambda measured, valid: reconstruct(adjust(measured), valid),
        None if sigma is None else lambda measured: sigma(adjust(measured)),
        training_mse(weights),
    )


def training_mse(weights: "Weights") -> float:
    """MSE of the last tenth of the training, from the card; NaN if the card has no such score."""
    return float(weights.card.get("scores", {}).get("train", {}).get("mse", float("nan")))


def interpolated(measured: Float32Array, source: SpectralGrid, target: SpectralGrid) -> Float32Array:
    """(target band, ...) linear interpolation between the bands (source band, ...), constant outside them."""
    order = np.argsort(source.wavelength_nm)
    weights = line_weights(target.wavelength_nm, source.wavelength_nm[order])
    result: Float32Array = np.tensordot(weights.astype(np.float32), measured[order], axes=1)
    return result


@dataclass(frozen=True, eq=False)
class TrainingSpectra:
    """The prior's sample of its training spectra, of scale 1, in the bands of both sensors."""

    conditional: Posterior
    source: Float32Array
    """(spectrum, source band)."""
    target: Float32Array
    """(target band, spectrum)."""

    @classmethod
    def of(
        cls, prior: SpectralPrior, conditional: Posterior, source: SpectralGrid, target: SpectralGrid
    ) -> "TrainingSpectra":
        """The sample, through the spectral responses of both sensors."""
        spectra = prior.factors.astype(float) @ prior.sample.T.astype(float)
        in_source = (response_matrix(source, prior.wavelength_nm) @ spectra).T
        in_target = response_matrix(target, prior.wavelength_nm) @ spectra
        return cls(conditional, np.ascontiguousarray(in_source, np.float32), in_target.astype(np.float32))

    def mean(self, measured: Float32Array, _valid: BoolArray) -> Float32Array:
        """(target band, row, col) the mean spectrum at a typical brightness, the same in every pixel."""
        mean = np.float32(TYPICAL_SCALE) * self.target.mean(axis=1)
        return np.broadcast_to(mean[:, None, None], (len(mean), *measured.shape[1:]))

    def nearest(self, measured: Float32Array, valid: BoolArray) -> Float32Array:
        """(target band, row, col) the nearest spectrum (Euclidean, both of scale 1), at the brightness of the pixel."""
        pixels = measured[:, valid]
        scale = self.conditional.scale(pixels)
        chosen = np.empty(pixels.shape[1], np.intp)
        squares, twice = np.square(self.source).sum(axis=1), 2 * self.source.T
        for start in range(0, len(chosen), PIXELS_PER_SEARCH):
            part = slice(start, start + PIXELS_PER_SEARCH)
            similarity = (pixels[:, part] / scale[part]).T @ twice
            similarity -= squares
            chosen[part] = similarity.argmax(axis=1)
        result = np.full((len(self.target), *valid.shape), np.nan, np.float32)
        result[:, valid] = self.target[:, chosen] * scale
        return result


@dataclass(frozen=True, eq=False)
class PastedBands:
    """The baseline of arXiv 2502.19451: source bands are pasted as the target bands of which they cover 60 %.

    The prior, instead of the paper's network, predicts the other target bands from the pasted bands.
    """

    pasted: NDArray[np.intp]
    """(target band,) position of the source band, -1 without one."""
    completion: Posterior
    """Predicts all target bands from the pasted bands."""

    @classmethod
    def of(cls, prior: SpectralPrior, source: SpectralGrid, target: SpectralGrid) -> "PastedBands":
        """The baseline for two sensors; at least one band must be pasted."""
        pasted = pasted_bands(source, target)
        return cls(pasted, prior.condition(target.select(pasted >= 0), target))

    def reconstruct(self, measured: Float32Array, valid: BoolArray) -> Float32Array:
        """(target band, row, col), NaN where not `valid`."""
        is_pasted = self.pasted >= 0
        bands = measured[self.pasted[is_pasted]]
        predicted = self.completion.reconstruct(bands, valid)
        predicted[is_pasted] = np.where(valid, bands, np.float32(np.nan))
        return predicted
