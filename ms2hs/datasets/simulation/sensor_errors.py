"""Simulated errors of a reflectance product: errors of a scene, a band and a detector, and noise.

All are drawn for each scene: y = x (1 + gains) + offsets + noise. Gains are calibration, water-vapour residuals, view
angle and detectors; offsets are calibration, aerosol (Angstrom 1929) and a step at the short-wave infrared detector.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid

# Centres and standard deviations in nm of the water-vapour bands, where the correction leaves a residual: about their
# half widths (Gao & Goetz 1990, J. Geophys. Res. 95:3549).
VAPOUR_BANDS_NM = ((940.0, 25.0), (1130.0, 25.0), (1380.0, 45.0), (1900.0, 60.0))
# Angstrom exponent of continental aerosol: extinction is proportional to wavelength ** -1.3 (Angstrom 1929).
AEROSOL_POWER = 1.3
AEROSOL_NM = 443.0
# Start of the short-wave infrared, which has a detector and calibration of its own.
SWIR_START_NM = 1000.0
# Correlation length of errors that are smooth in wavelength.
CORRELATION_NM = 300.0
# Largest number of detectors side by side in a scene.
MAX_DETECTORS = 4


@dataclass(frozen=True)
class SensorErrors:
    """Standard deviations over scenes of each kind of error."""

    gain: float = 0.02
    """Relative error of a band."""
    offset: float = 0.005
    """Error of a band, in reflectance."""
    pixel: float = 0.003
    """Noise of each value, in reflectance."""
    smooth: float = 0.5
    """Share, 0-1, of the variance of gain and offset that is smooth in wavelength; the rest is independent by band."""
    water_vapour: float = 0.02
    """Relative error at the centres of the water-vapour bands, the same for all of them."""
    aerosol: float = 0.004
    """Error in reflectance at 443 nm, smaller at longer wavelengths."""
    swir: float = 0.003
    """Error in reflectance, the same for all bands from 1000 nm."""
    view: float = 0.015
    """Relative error at the left and right edge, with opposite signs: the view angle (BRDF) changes across."""
    detector: float = 0.003
    """Relative error of each detector in each band; a step in the columns where a detector ends."""

    def __post_init__(self) -> None:
        """Refuse numbers that are no standard deviation or share."""
        if min(getattr(self, part.name) for part in fields(self)) < 0 or self.smooth > 1:
            raise ValueError("standard deviations must not be negative, and `smooth` not above 1")

    @classmethod
    def none(cls) -> Self:
        """No errors."""
        return cls(**dict.fromkeys((part.name for part in fields(cls)), 0.0))

    @classmethod
    def plain(cls, gain: float, offset: float, pixel: float) -> Self:
        """Independent errors of each band only, as models are scored with."""
        return replace(cls.none(), gain=gain, offset=offset, pixel=pixel)


def disturb(
    reflectance: Float32Array, grid: SpectralGrid, errors: SensorErrors, rng: np.random.Generator
) -> Float32Array:
    """(band, row, col) reflectance of one scene with random errors of a product; NaN stays NaN."""
    if reflectance.ndim != 3 or len(reflectance) != len(grid):
        raise ValueError(f"reflectance of shape {reflectance.shape}; ({len(grid)}, row, col) is needed")
    nm = grid.wavelength_nm
    cols = reflectance.shape[2]
    gain = errors.gain * _band_errors(nm, errors.smooth, rng)
    gain = 1 + gain + errors.water_vapour * rng.normal() * _water_vapour(nm)
    across = errors.view * rng.normal() * np.linspace(-1, 1, cols)
    factor = gain[:, None] + across + errors.detector * _detectors(len(grid), cols, rng)
    offset = errors.offset * _band_errors(nm, errors.smooth, rng)
    offset = offset + errors.aerosol * rng.normal() * (nm / AEROSOL_NM) ** -AEROSOL_POWER
    offset = offset + errors.swir * rng.normal() * (nm >= SWIR_START_NM)
    result = reflectance * factor[:, None, :].astype(np.float32)
    result += offset[:, None, None].astype(np.float32)
    if errors.pixel:
        result += np.float32(errors.pixel) * rng.standard_normal(result.shape, np.float32)
    return result


def _band_errors(wavelength_nm: FloatArray, smooth: float, rng: np.random.Generator) -> FloatArray:
    """(band,) errors of unit variance; the share `smooth` of it is a Gaussian process along wavelength."""
    reach = 3 * CORRELATION_NM
    knots = np.arange(wavelength_nm.min() - reach, wavelength_nm.max() + reach, CORRELATION_NM / 4)
    kernel = np.exp(-(((wavelength_nm[:, None] - knots) / CORRELATION_NM) ** 2))
    kernel /= np.linalg.norm(kernel, axis=1, keepdims=True)
    along = kernel @ rng.normal(size=len(knots))
    own = rng.normal(size=len(wavelength_nm))
    return np.asarray(np.sqrt(smooth) * along + np.sqrt(1 - smooth) * own)


def _water_vapour(wavelength_nm: FloatArray) -> FloatArray:
    """(band,) position in a water-vapour band: 1 at its centre, 0 outside."""
    depth = [np.exp(-0.5 * ((wavelength_nm - nm) / width) ** 2) for nm, width in VAPOUR_BANDS_NM]
    return np.asarray(np.max(depth, axis=0))


def _detectors(bands: int, cols: int, rng: np.random.Generator) -> FloatArray:
    """(band, col) errors of unit variance, one for each detector and band."""
    count = int(rng.integers(1, MAX_DETECTORS + 1))
    edges = np.sort(rng.integers(0, cols, count - 1))
    errors: FloatArray = rng.normal(size=(bands, count))
    return errors[:, np.searchsorted(edges, np.arange(cols), side="right")]
