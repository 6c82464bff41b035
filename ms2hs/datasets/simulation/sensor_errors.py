"""What a product's reflectance is off by: errors common to a scene, to a band, to a detector, and noise.

All are drawn anew for each scene. Gains multiply, offsets add: y = x (1 + gains) + offsets + noise.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid

# Centres and standard deviations in nm of the water-vapour bands, where the correction leaves a residual: about their
# half widths, e.g. Gao & Goetz 1990, J. Geophys. Res. 95:3549.
WATER_VAPOUR_NM = ((940.0, 25.0), (1130.0, 25.0), (1380.0, 45.0), (1900.0, 60.0))
# Extinction by continental aerosol falls with wavelength to this power (Angstrom 1929).
AEROSOL_POWER = 1.3
AEROSOL_NM = 443.0
# The short-wave infrared begins here: another detector, calibrated on its own.
SWIR_NM = 1000.0
# Errors smooth in wavelength vary over about this.
SMOOTH_NM = 300.0
# How many detectors lie side by side in a scene, at most.
MOST_DETECTORS = 4


@dataclass(frozen=True)
class SensorErrors:
    """Standard deviations over scenes of each kind of error."""

    gain: float = 0.02
    """Of a band, relative."""
    offset: float = 0.005
    """Of a band, in reflectance."""
    pixel: float = 0.003
    """Noise of each value, in reflectance."""
    smooth: float = 0.5
    """Share, 0-1, of the variance of gain and offset that is smooth in wavelength; the rest is each band's own."""
    water_vapour: float = 0.02
    """Relative, at the centres of the water-vapour bands, common to them."""
    aerosol: float = 0.004
    """In reflectance at 443 nm, less at longer wavelengths."""
    swir: float = 0.003
    """In reflectance, common to all bands from 1000 nm."""
    view: float = 0.015
    """Relative, at the scene's left and right edge, with opposite signs: the angle of view (BRDF) changes across."""
    detector: float = 0.003
    """Relative, of each detector in each band: columns step where one ends."""

    def __post_init__(self) -> None:
        """Refuse what is no standard deviation, or no share."""
        if min(getattr(self, part.name) for part in fields(self)) < 0 or self.smooth > 1:
            raise ValueError("standard deviations must not be negative, and `smooth` not above 1")

    @classmethod
    def none(cls) -> Self:
        """No error at all."""
        return cls(**dict.fromkeys((part.name for part in fields(cls)), 0.0))

    @classmethod
    def plain(cls, gain: float, offset: float, pixel: float) -> Self:
        """Errors of each band alone, independent of all others, as models are scored with."""
        return replace(cls.none(), gain=gain, offset=offset, pixel=pixel)


def disturb(
    reflectance: Float32Array, grid: SpectralGrid, artefacts: SensorErrors, rng: np.random.Generator
) -> Float32Array:
    """(band, row, col) what a product makes of `reflectance` (band, row, col) of one scene. NaN stays NaN.

    Parameters
    ----------
    grid : its bands, in any order.
    """
    if reflectance.ndim != 3 or len(reflectance) != len(grid):
        raise ValueError(f"reflectance of shape {reflectance.shape}; ({len(grid)}, row, col) is needed")
    nm = grid.wavelength_nm
    cols = reflectance.shape[2]
    gain = artefacts.gain * _errors(nm, artefacts.smooth, rng)
    gain = 1 + gain + artefacts.water_vapour * rng.normal() * _water_vapour(nm)
    across = artefacts.view * rng.normal() * np.linspace(-1, 1, cols)
    factor = gain[:, None] + across + artefacts.detector * _detectors(len(grid), cols, rng)
    offset = artefacts.offset * _errors(nm, artefacts.smooth, rng)
    offset = offset + artefacts.aerosol * rng.normal() * (nm / AEROSOL_NM) ** -AEROSOL_POWER
    offset = offset + artefacts.swir * rng.normal() * (nm >= SWIR_NM)
    result = reflectance * factor[:, None, :].astype(np.float32)
    result += offset[:, None, None].astype(np.float32)
    if artefacts.pixel:
        result += np.float32(artefacts.pixel) * rng.standard_normal(result.shape, np.float32)
    return result


def _errors(wavelength_nm: FloatArray, smooth: float, rng: np.random.Generator) -> FloatArray:
    """(band,) of unit variance, of which the share `smooth` is a Gaussian process along the wavelength."""
    knots = np.arange(wavelength_nm.min() - 3 * SMOOTH_NM, wavelength_nm.max() + 3 * SMOOTH_NM, SMOOTH_NM / 4)
    kernel = np.exp(-(((wavelength_nm[:, None] - knots) / SMOOTH_NM) ** 2))
    kernel /= np.linalg.norm(kernel, axis=1, keepdims=True)
    along = kernel @ rng.normal(size=len(knots))
    own = rng.normal(size=len(wavelength_nm))
    errors: FloatArray = np.sqrt(smooth) * along + np.sqrt(1 - smooth) * own
    return errors


def _water_vapour(wavelength_nm: FloatArray) -> FloatArray:
    """(band,) how much a band lies in one of the water-vapour bands, 0-1."""
    depth = [np.exp(-0.5 * ((wavelength_nm - nm) / width) ** 2) for nm, width in WATER_VAPOUR_NM]
    deepest: FloatArray = np.max(depth, axis=0)
    return deepest


def _detectors(bands: int, cols: int, rng: np.random.Generator) -> FloatArray:
    """(band, col) an error of unit variance for each detector of each band."""
    count = int(rng.integers(1, MOST_DETECTORS + 1))
    edges = np.sort(rng.integers(0, cols, count - 1))
    errors: FloatArray = rng.normal(size=(bands, count))
    return errors[:, np.searchsorted(edges, np.arange(cols), side="right")]
