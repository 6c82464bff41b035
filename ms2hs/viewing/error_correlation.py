"""Correlation between the errors of a cube's bands, from the model that its tags name.

The uncertainty of a band says nothing about whether two bands err together, and an index of two bands depends on that.
The spectral prior knows it: the posterior covariance of the target's bands given the source's bands. It can be computed
again where the tags name shipped weights (SHA-256) and a known source, and no reference of the site changed the model.
Elsewhere errors count as independent, and a note says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.errors import GridError, UnknownName
from ms2hs.models.prior import SpectralPrior, assumed_variance
from ms2hs.models.weights import load_weights, weights_names
from ms2hs.raster.cube import spectral_grid_of
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.product_error import InputError, input_error_named
from ms2hs.spectra.sensors import shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

LEVEL = re.compile(r"(gain|offset|pixel) ([0-9.e+-]+)")
SITE_TAGS = ("MS2HS_SITE", "MS2HS_REFERENCE")


@dataclass(frozen=True, eq=False)
class ErrorCorrelation:
    """Correlation of the errors of some bands, for each land cover."""

    matrices: FloatArray
    """(cover, band, band)."""
    covers: CoverShares | None
    """Shares of the land covers, computed from all bands of the cube; None: one matrix for all pixels."""
    note: str
    """How the errors are correlated."""

    def shares(self, reflectance: Float32Array) -> Float32Array:
        """(cover, pixel) shares of the covers, from reflectance (band, pixel)."""
        if self.covers is None:
            return np.ones((1, reflectance.shape[1]), np.float32)
        return np.stack(self.covers.shares(reflectance))


def correlation_of(cube: xr.Dataset) -> ErrorCorrelation:
    """The correlation of the errors of an open cube's bands; the unit matrix where it is unknown."""
    target = spectral_grid_of(cube)
    matrices, text = _model_correlation({key: str(value) for key, value in cube.attrs.items()}, target)
    if matrices is None:
        return ErrorCorrelation(np.eye(len(target))[None], None, f"errors of bands count as independent: {text}")
    covers = CoverShares.of(target.wavelength_nm) if len(matrices) > 1 else None
    if covers is None:
        matrices = matrices.mean(axis=0, keepdims=True)
    return ErrorCorrelation(matrices, covers, f"errors of bands are correlated as in the model {text}")


def _model_correlation(tags: Mapping[str, str], target: SpectralGrid) -> tuple[FloatArray | None, str]:
    """(cover, band, band) correlation, and the name of the model; or None, and why it is unknown.

    Tags are text of others: their names are looked up in tables and never used as paths.
    """
    name, source = tags.get("MS2HS_MODEL", ""), shipped_sensor(tags.get("MS2HS_SOURCE", ""), "source")
    if any(tag in tags for tag in SITE_TAGS):
        return None, "the cube was adapted to its site"
    if name not in weights_names() or source is None:
        return None, "the tags name no known weights and source"
    weights = load_weights(name)
    prior = weights.calibrated_prior
    if prior is None or weights.sha256 != tags.get("MS2HS_WEIGHTS_SHA256"):
        return None, f"the installed weights {name} are not those that the tags name"
    try:
        error = _input_error(tags.get("MS2HS_INPUT_ERROR", ""))
        matrices = posterior_correlation(prior, source.grid, target, error)
    except (UnknownName, GridError):
        return None, "bands or input errors are unknown to the model"
    return matrices, f"{name} (source {source.name})"


def posterior_correlation(
    prior: SpectralPrior, source: SpectralGrid, target: SpectralGrid, error: InputError
) -> FloatArray:
    """(cover, target band, target band) correlation of the errors of the target's bands.

    Of the gain G that `SpectralPrior.condition` uses, for spectra with second moment Σ and bands of the source with
    noise N: Cov = R_t Σ R_tᵀ + G (R_s Σ R_sᵀ + N) Gᵀ - G R_s Σ R_tᵀ - (G R_s Σ R_tᵀ)ᵀ, scaled by the calibration, plus
    the propagated errors of the product, G E Gᵀ.

    Raises
    ------
    GridError : bands outside the prior's wavelengths, or outside the bands of measured errors.
    """
    return np.stack(
        [matrix / _outer(np.sqrt(np.diag(matrix))) for matrix in posterior_covariance(prior, source, target, error)]
    )


def posterior_covariance(
    prior: SpectralPrior, source: SpectralGrid, target: SpectralGrid, error: InputError
) -> list[FloatArray]:
    """For each land cover the (target band, target band) covariance of `posterior_correlation`, at a scale of 1."""
    to_source, to_target = (response_matrix(grid, prior.wavelength_nm) for grid in (source, target))
    noise, product = (
        np.diag(prior.source_noise(source.wavelength_nm) ** 2),
        error.product_covariance(source.wavelength_nm),
    )
    _, priors = prior.of_covers(source.wavelength_nm)
    covariances: list[FloatArray] = []
    for member in priors:
        seen, joint = member.between(to_source, to_source) + noise, member.between(to_target, to_source)
        gain = np.linalg.solve(seen + assumed_variance(error, product, seen), joint.T).T
        crossed = gain @ joint.T
        covariance = member.between(to_target, to_target) + gain @ seen @ gain.T - crossed - crossed.T
        covariance *= _outer(to_target @ member.sigma_scale)
        of_product = product + np.diag(error.relative_variance(np.diag(seen)))
        covariances.append(covariance + gain @ of_product @ gain.T)
    return covariances


def _outer(values: FloatArray) -> FloatArray:
    matrix: FloatArray = np.multiply.outer(values, values)
    return matrix


def _input_error(text: str) -> InputError:
    """The errors that the tag MS2HS_INPUT_ERROR names; an empty text is none.

    Raises
    ------
    UnknownName : neither levels nor a table of errors.
    """
    levels = {name: float(number) for name, number in LEVEL.findall(text)}
    tables = [part for part in filter(None, text.split(", ")) if not LEVEL.fullmatch(part)]
    product = input_error_named(tables[0]).product if tables else None
    return InputError(**levels, product=product)
