"""The posterior of a target's bands given the bands of one source: a linear map, its uncertainty, and its correction.

`SpectralPrior.condition` computes it once for each source and target; converting a pixel is then one matrix product.
Errors scale with a pixel's brightness. Reference spectra of a scene correct the map by a Bayesian regression.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.models.moments import scale_of
from ms2hs.spectra.library import by_pattern
from ms2hs.spectra.product_error import InputError

# Strength of the correction by references: the mean of K residuals is shrunk by K / (K + CONSTANT_REFERENCES).
# DIRECTIONS_WEIGHT is the variance of the map's errors along all directions of the source's bands together, relative to
# the scatter of a residual. Half or twice of either changes the error by less than 2 %.
CONSTANT_REFERENCES = 2.0
DIRECTIONS_WEIGHT = 4.0
# OpenBLAS multiplies matrices of up to this many multiplications twice as fast where one side is a dozen bands.
SMALL_PRODUCT = 1_000_000


@dataclass(frozen=True, eq=False)
class Posterior:
    """The expectation of a target's bands given the bands of one source, and its uncertainty."""

    gain: Float32Array
    """(target band, source band) the posterior mean is `gain @ reflectance`."""
    relative_sigma: Float32Array
    """(target band,) calibrated standard deviation for a spectrum of scale 1, with the product's measured errors."""
    known: BoolArray
    """(target band,) False where few training scenes have data."""
    brightness: Float32Array
    """(source band,) a pixel's brightness is `brightness @ reflectance`."""
    whitening: Float32Array
    """(source band, source band) the squared length of `whitening @ reflectance` is Mahalanobis' for a scale of 1."""
    precision: Float32Array
    """(source band, source band) inverse of the second moment of the source's bands, for a scale of 1; smaller
    where the map to the target is better known than for all scenes."""
    limit: float
    """Squared Mahalanobis distance that 0.5 % of the training spectra exceed."""
    shift: Float32Array
    """(target band,) share, 0-1, of the squared error that is common to a scene, so that references can correct it."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    error: InputError | None = None
    """Errors of the source's bands; `sigma` covers its gain, offset and noise, which depend on the pixel."""

    def reconstruct(
        self, reflectance: Float32Array, valid: BoolArray | None = None, out: Float32Array | None = None
    ) -> Float32Array:
        """(target band, ...) float32 expected reflectance, NaN where not `valid`.

        Parameters
        ----------
        reflectance : (source band, ...) float32.
        valid : (...) bool; other pixels may hold any value. None: all pixels are valid.
        out : (target band, ...) float32, C-contiguous, to write into.
        """
        shape = (len(self.gain), *reflectance.shape[1:])
        if out is None:
            out = np.empty(shape, np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be float32, C-contiguous, of shape {shape}")
        flat = np.asarray(reflectance, np.float32).reshape(len(reflectance), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # invalid pixels may hold any value
            _multiply(self.gain, flat, out.reshape(len(self.gain), -1))
        if valid is not None and not valid.all():
            np.copyto(out, np.float32(np.nan), where=~valid)
        return out

    def select(self, bands: slice) -> Self:
        """The posterior of some of the target's bands."""
        per_band = ("gain", "relative_sigma", "known", "shift")
        return replace(self, **{name: getattr(self, name)[bands] for name in per_band})

    def scale(self, reflectance: Float32Array) -> Float32Array:
        """(...) the scale of each pixel, from its brightness; errors are proportional to it."""
        with np.errstate(invalid="ignore", over="ignore"):
            brightness = np.tensordot(self.brightness, reflectance, axes=1)
            result: Float32Array = scale_of(brightness, self.floor).astype(np.float32)
        return result

    def sigma(self, reflectance: Float32Array) -> Float32Array:
        """(target band, ...) float32 such that the value ± 1.645 sigma is the calibrated 90 % interval.

        Covers the conversion and the source's own errors.
        """
        scale = self.scale(reflectance)
        result: Float32Array = np.multiply.outer(self.relative_sigma, scale)
        if self.error and self.error.has_levels:
            variance = self.error.variance(reflectance).astype(np.float32)
            result = np.sqrt(np.square(result) + np.tensordot(np.square(self.gain), variance, axes=1))
        return result

    def unlike(self, reflectance: Float32Array) -> BoolArray:
        """(...) True for pixels whose bands are unlike nearly all training spectra, at any brightness.

        Also True where a band is not finite.
        """
        flat = reflectance.reshape(len(reflectance), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            white = self.whitening @ flat
            white *= white
            distance = white.sum(axis=0)
            like: BoolArray = distance <= np.square(self.scale(flat)) * np.float32(self.limit)
            like &= np.isfinite(distance)
        return ~like.reshape(reflectance.shape[1:])

    def with_references(self, measured: FloatArray, truth: FloatArray) -> Self:
        """The posterior corrected by spectra of the scene: a linear map of the bands, fitted to their residuals.

        A Bayesian regression in which a residual of scale s scatters by s. The map's prior variance has two parts: a
        constant spectrum times brightness, which alone would give the mean residual shrunk by K / (K + 2); and a change
        along each direction in which the source's bands vary.

        Parameters
        ----------
        measured : (K, source band) the source's reflectance at the references.
        truth : (K, target band) reflectance of the references, NaN = unknown.

        Raises
        ------
        DataError : no reference with finite source bands and a known target band.
        """
        usable = np.atleast_1d(np.isfinite(measured).all(axis=1) & np.isfinite(truth).any(axis=1))
        if not usable.any():
            raise DataError(
                f"none of {len(usable)} reference spectra can be used; at least one needs finite source bands and some "
                "known target bands. Check the spectra and where they lie in the scene."
            )
        bands = np.asarray(measured, float)[usable]
        residual = np.asarray(truth, float)[usable] - bands @ self.gain.T.astype(float)
        scale = self.scale(bands.T)
        brightness, precision = self.brightness.astype(float), self.precision.astype(float)
        directions = precision * (DIRECTIONS_WEIGHT / len(brightness))
        before = np.outer(brightness, brightness) / CONSTANT_REFERENCES + directions
        gain, left = self.gain.astype(float), np.ones(len(self.gain))
        for known, columns in by_pattern(np.isfinite(residual).T):
            if not known.any():
                continue
            scaled = bands[known] / scale[known, None]
            projected = before @ scaled.T
            after = before - projected @ np.linalg.solve(np.eye(len(scaled)) + scaled @ projected, projected.T)
            gain[columns] += (residual[np.ix_(known, columns)] / scale[known, None]).T @ scaled @ after
            left[columns] = _variance_left(scaled, before, after)
        error = 1 - self.shift + self.shift * left
        return replace(
            self,
            gain=gain.astype(np.float32),
            relative_sigma=(self.relative_sigma * np.sqrt(error)).astype(np.float32),
            shift=(self.shift * left / error).astype(np.float32),
        )


def _multiply(gain: Float32Array, flat: Float32Array, out: Float32Array) -> None:
    """Write `gain @ flat` into `out`, (target band, pixel), in steps of `SMALL_PRODUCT`."""
    bands, pixels = out.shape
    step = 1 << max(0, (SMALL_PRODUCT // max(gain.size, 1)).bit_length() - 1)
    whole = pixels - pixels % step
    if whole:
        parts = flat[:, :whole].reshape(len(flat), -1, step), out[:, :whole].reshape(bands, -1, step)
        np.matmul(gain, parts[0].transpose(1, 0, 2), out=parts[1].transpose(1, 0, 2))
    if whole < pixels:
        np.matmul(gain, flat[:, whole:], out=out[:, whole:])


def _variance_left(scaled: FloatArray, before: FloatArray, after: FloatArray) -> float:
    """Mean share, 0-1, of a regression's prior variance that the other spectra leave at each spectrum.

    A single reference therefore lowers no uncertainty, and dissimilar references lower it little. Leaving a spectrum
    out raises its leverage h to h / (1 - h) (Sherman & Morrison 1950).
    """
    leverage = np.einsum("ij,jk,ik->i", scaled, after, scaled)
    prior = np.einsum("ij,jk,ik->i", scaled, before, scaled)
    return float(np.minimum(leverage / (1 - leverage), prior).sum() / prior.sum())
