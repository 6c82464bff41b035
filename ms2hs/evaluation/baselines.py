"""What is compared: simple baselines, the spectral prior, and models, all of them from measured bands to many bands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.blending import Blender
from ms2hs.models.harmonization import adjusted
from ms2hs.models.prior import TYPICAL_SCALE, Posterior, SpectralPrior
from ms2hs.raster.tiling import Tiling
from ms2hs.spectra.spectral_grid import SpectralGrid, line_weights, pasted_bands, response_matrix

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor
    from ms2hs.models.weights import Weights

Kind = Literal["baseline", "prior", "model"]
# Pixels whose distance to every spectrum is computed at a time: few enough to stay in a processor's cache.
PIXELS_AT_A_TIME = 256
PRIOR = "prior"


@dataclass(frozen=True, eq=False)
class Method:
    """A way from the source's bands to the target's."""

    name: str
    kind: Kind
    reconstruct: Callable[[Float32Array, BoolArray], Float32Array]
    """From (source band, row, col) reflectance, finite where (row, col) valid, to (target band, row, col)."""
    sigma: Callable[[Float32Array], Float32Array] | None = None
    """From (source band, row, col) to (target band, row, col): value ± 1.645 sigma is the 90 % interval."""
    train_mse: float = float("nan")
    """Of the last tenth of its training, as its card says."""


def line_up(
    prior: SpectralPrior,
    models: Sequence["Weights"],
    source: SpectralGrid,
    target: SpectralGrid,
    sensor: str | None = None,
) -> list[Method]:
    """Baselines, the prior, and the models, in the order of the table.

    `pasted bands` is not among them where no band of the source covers 60 % of one of the target.

    Parameters
    ----------
    prior : what every baseline knows of spectra.
    models : their names need not differ; later ones of a name are told apart by their path.
    sensor : whose products are measured, for models that learnt from pairs what they are off by; None: simulated.

    Raises
    ------
    GridError : bands outside the wavelengths of the prior or of a model, or none that a model could have pasted.
    """
    conditional = prior.condition(source, target)
    spectra = TrainingSpectra.of(prior, conditional, source, target)
    methods = [
        Method("mean spectrum", "baseline", spectra.mean),
        Method("interpolation", "baseline", partial(_interpolate, source=source, target=target)),
        Method("nearest spectra", "baseline", spectra.nearest),
    ]
    if (pasted_bands(source, target) >= 0).any():
        methods.append(Method("pasted bands", "baseline", PastedBands.of(prior, source, target).reconstruct))
    methods.append(Method(PRIOR, "prior", conditional.reconstruct, conditional.sigma))
    taken = {method.name for method in methods}
    for weights in models:
        name = str(weights.path) if weights.name in taken else weights.name
        name = name if name not in taken else f"{name} ({sum(one.startswith(name) for one in taken) + 1})"
        methods.append(method_of(weights, name, (source, target), sensor))
        taken.add(name)
    return methods


def method_of(
    weights: "Weights", name: str, grids: tuple[SpectralGrid, SpectralGrid], sensor: str | None = None
) -> Method:
    """The method of these weights, on the processor.

    Parameters
    ----------
    grids : of the source and the target.
    sensor : as `line_up` has it.

    Raises
    ------
    GridError : as `line_up`.
    """
    adjust = partial(adjusted, names=grids[0].names, adjustment=weights.adjustments.get(sensor) if sensor else None)
    reconstruct: Callable[[Float32Array, BoolArray], Float32Array]
    if weights.network is None:
        reconstruct = weights.prior.condition(*grids).reconstruct
    else:
        from ms2hs.inference.predictor import Predictor  # noqa: PLC0415  torch, which no baseline needs

        reconstruct = partial(_blended, Predictor(weights.network, *grids))
    trained = weights.card.get("scores", {}).get("train", {}).get("mse", float("nan"))
    spread = None if weights.calibrated_prior is None else weights.calibrated_prior.condition(*grids).sigma
    return Method(
        name,
        "model",
        lambda measured, valid: reconstruct(adjust(measured), valid),
        None if spread is None else lambda measured: spread(adjust(measured)),
        float(trained),
    )


def interpolated(measured: Float32Array, source: SpectralGrid, target: SpectralGrid) -> Float32Array:
    """(target band, ...) on the line between the bands (source band, ...), held beyond them: the simplest baseline."""
    order = np.argsort(source.wavelength_nm)
    weights = line_weights(target.wavelength_nm, source.wavelength_nm[order])
    result: Float32Array = np.tensordot(weights.astype(np.float32), measured[order], axes=1)
    return result


def _interpolate(measured: Float32Array, _valid: BoolArray, source: SpectralGrid, target: SpectralGrid) -> Float32Array:
    return interpolated(measured, source, target)


@dataclass(frozen=True, eq=False)
class TrainingSpectra:
    """The prior's sample of its training spectra, of scale 1, as both sensors see them."""

    conditional: Posterior
    measured: Float32Array
    """(spectrum, source band)."""
    made: Float32Array
    """(target band, spectrum)."""

    @classmethod
    def of(
        cls, prior: SpectralPrior, conditional: Posterior, source: SpectralGrid, target: SpectralGrid
    ) -> "TrainingSpectra":
        """The sample through the responses of both."""
        spectra = prior.factors.astype(float) @ prior.sample.T.astype(float)
        measured = (response_matrix(source, prior.wavelength_nm) @ spectra).T
        made = response_matrix(target, prior.wavelength_nm) @ spectra
        return cls(conditional, np.ascontiguousarray(measured, np.float32), made.astype(np.float32))

    def mean(self, measured: Float32Array, _valid: BoolArray) -> Float32Array:
        """Their mean at the brightness of a common pixel, whatever was measured."""
        mean = np.float32(TYPICAL_SCALE) * self.made.mean(axis=1)
        return np.broadcast_to(mean[:, None, None], (len(mean), *measured.shape[1:]))

    def nearest(self, measured: Float32Array, valid: BoolArray) -> Float32Array:
        """The spectrum whose bands are nearest (Euclid) to the pixel's, both of scale 1, at the pixel's brightness."""
        pixels = measured[:, valid]
        scale = self.conditional.scale(pixels)
        chosen = np.empty(pixels.shape[1], np.intp)
        squares, twice = np.square(self.measured).sum(axis=1), 2 * self.measured.T
        for start in range(0, len(chosen), PIXELS_AT_A_TIME):
            part = slice(start, start + PIXELS_AT_A_TIME)
            near = (pixels[:, part] / scale[part]).T @ twice
            near -= squares
            chosen[part] = near.argmax(axis=1)
        made = np.full((len(self.made), *valid.shape), np.nan, np.float32)
        made[:, valid] = self.made[:, chosen] * scale
        return made


@dataclass(frozen=True, eq=False)
class PastedBands:
    """The frozen rule of arXiv 2502.19451: source bands stand for the target bands of which they cover 60 %.

    The rest is completed from those by the prior, where the paper has its network.
    """

    pasted: NDArray[np.intp]
    """(target band,) position of the source band, -1 where none."""
    rest: Posterior
    """From the pasted bands to all."""

    @classmethod
    def of(cls, prior: SpectralPrior, source: SpectralGrid, target: SpectralGrid) -> "PastedBands":
        """As `pasted_bands` has it."""
        pasted = pasted_bands(source, target)
        return cls(pasted, prior.condition(target.select(pasted >= 0), target))

    def reconstruct(self, measured: Float32Array, valid: BoolArray) -> Float32Array:
        """(target band, row, col), NaN where not `valid`."""
        seen = self.pasted >= 0
        bands = measured[self.pasted[seen]]
        made = self.rest.reconstruct(bands, valid)
        made[seen] = np.where(valid, bands, np.float32(np.nan))
        return made


def _blended(network: "Predictor", measured: Float32Array, valid: BoolArray) -> Float32Array:
    """As a conversion does: windows of the size that the network knows, overlapping, blended."""
    rows, cols = valid.shape
    if network.is_local or max(rows, cols) <= network.window:
        return network.reconstruct(measured, valid)
    tiling = Tiling(rows, cols, network.window, network.overlap)
    blender = Blender(tiling, network.bands)
    made = np.full((network.bands, rows, cols), np.nan, np.float32)
    for window in tiling:
        part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        for strip in blender.add(window, network.reconstruct(measured[:, *part], valid[part]), valid[part]):
            made[:, strip.row : strip.row + len(strip.valid)] = strip.values
    made[:, ~valid] = np.nan
    return made
