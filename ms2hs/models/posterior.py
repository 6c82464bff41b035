"""The posterior of a target's bands given the bands of one source: a linear map, its uncertainty, and its correction.

`SpectralPrior.condition` computes it once for each source and target; converting a pixel is then one matrix product.
With land covers there is a map for each, blended by the shares of the covers in a pixel: y = Σ_k w_k(x) G_k x, which is
one product of all maps with the features (w_1 x, …, w_K x). Errors scale with a pixel's brightness. Reference spectra
of a scene correct the map by a Bayesian regression; the correction is the same for all covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.models.moments import scale_of
from ms2hs.spectra.indices import CoverShares, by_cover
from ms2hs.spectra.library import by_pattern
from ms2hs.spectra.product_error import InputError

# Strengths of the correction by references: prior variances of the map's change relative to the scatter of a residual,
# for a constant spectrum times brightness (alone, 2 would shrink the mean of K residuals by K / (K + 0.5)), and for all
# directions of the source's bands together. The references' own evidence weighs the pairs, as that of
# `EFFECTIVE_BANDS` independent target bands; 2 to 20 of these change the error by less than 1 %.
CONSTANT_VARIANCES = (0.5, 2.0)
DIRECTIONS_VARIANCES = (2.0, 8.0, 32.0)
EFFECTIVE_BANDS = 4.0
COMMON_STRENGTHS = (0.5, 4.0)  # of both, where errors of the source's bands that are common to a scene are estimated
# Scatter of a source band's error at one reference, relative to a spectrum's scale: noise of 0.003 at a scale of 0.25.
LOCAL_INPUT_NOISE = 0.012
# Land covers in less than this share of pixels are added separately: in a product of all pixels most would be zeros.
RARE = 0.125
# OpenBLAS multiplies matrices of up to this many multiplications twice as fast where one side is a dozen bands.
SMALL_PRODUCT = 1_000_000


class Features(NamedTuple):
    """What the maps of some land covers are applied to, in some pixels."""

    columns: slice | NDArray[np.intp]
    """The columns of `Posterior.gain` of these covers."""
    pixels: slice | NDArray[np.intp]
    """The pixels."""
    values: Float32Array
    """(column, pixel) reflectance times the share of a cover."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The expectation of a target's bands given the bands of one source, and its uncertainty."""

    gain: Float32Array
    """(target band, cover · source band) the maps of the land covers, side by side; see `features`."""
    relative_sigma: Float32Array
    """(target band, cover) calibrated standard deviation for a spectrum of scale 1, with the product's measured errors;
    a pixel's is the mean by its shares."""
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
    input_covariance: Float32Array
    """(source band, source band) covariance of the errors of the source's bands that are common to a scene, relative to
    its squared scale; `relative_sigma` covers it."""
    error: InputError | None = None
    """Errors of the source's bands; `sigma` covers its gain, offset and noise, which depend on the pixel."""
    covers: CoverShares | None = None
    """Shares of the land covers in a pixel; None: one map for all pixels."""

    def shares(self, reflectance: Float32Array) -> Float32Array:
        """(cover, pixel) shares of the land covers of pixels (source band, pixel); 1 without covers."""
        if self.covers is None:
            return np.ones((1, reflectance.shape[1]), np.float32)
        return np.stack(self.covers.shares(reflectance))

    def features(self, reflectance: Float32Array) -> list[Features]:
        """The features of pixels (source band, pixel): in all pixels, and of rare covers only where they are."""
        if self.covers is None:
            return [Features(slice(None), slice(None), reflectance)]
        columns = np.arange(self.gain.shape[1]).reshape(-1, len(reflectance))
        with np.errstate(invalid="ignore", over="ignore"):  # invalid pixels may hold any value
            shares = self.shares(reflectance)
            present = shares != 0
            number = present.sum(axis=1)
            common = number >= RARE * shares.shape[1]
            result = [Features(columns[common].ravel(), slice(None), _weighted(reflectance, shares[common]))]
            if (rare := ~common & (number > 0)).any():
                some = np.flatnonzero(present[rare].any(axis=0))
                values = _weighted(reflectance[:, some], shares[np.ix_(rare, some)])
                result.append(Features(columns[rare].ravel(), some, values))
        return result

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
        flags = None if valid is None else valid.reshape(-1)
        self.apply(self.features(flat), flags, out.reshape(len(self.gain), -1))
        return out

    def apply(
        self, features: Sequence[Features], valid: BoolArray | None = None, out: Float32Array | None = None
    ) -> Float32Array:
        """(target band, pixel) as `reconstruct`, from `features`; `valid` is (pixel,), `out` (target band, pixel)."""
        first, *rare = features
        result = np.empty((len(self.gain), first.values.shape[1]), np.float32) if out is None else out
        with np.errstate(invalid="ignore", over="ignore"):  # invalid pixels may hold any value
            _multiply(np.ascontiguousarray(self.gain[:, first.columns]), first.values, result)
            for part in rare:
                result[:, part.pixels] += self.gain[:, part.columns] @ part.values
        if valid is not None and not valid.all():
            np.copyto(result, np.float32(np.nan), where=~valid)
        return result

    def minus(self, other: Self) -> Self:
        """The posterior whose mean is the difference of both means; `other` has land covers if this one has."""
        maps = other.gain.shape[1] // self.gain.shape[1]
        return replace(other, gain=np.tile(self.gain, (1, maps)) - other.gain)  # shares sum to 1

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
        flat = reflectance.reshape(len(reflectance), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # invalid pixels may hold any value
            shares = self.shares(flat)
            result = self.relative_sigma @ (shares * self.scale(flat))
            if self.error and self.error.has_levels:
                variance = self.error.variance(flat).astype(np.float32)
                # the square of the mean gain is at most the mean of the squares
                variance = _weighted(variance, shares)
                result = np.sqrt(np.square(result) + np.square(self.gain) @ variance)
        return result.reshape(-1, *reflectance.shape[1:])

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

        First the errors of the source's bands that are common to the scene are estimated, a number for each band. Then
        follows a Bayesian regression in which a residual of scale s scatters by s. The map's prior variance has two
        parts: a constant spectrum times brightness, and a change along each direction in which the source's bands vary.
        The result is the mean over several strengths of both, weighted by their evidence.

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
        scale = self.scale(bands.T).astype(float)[:, None]
        scaled, brightness = bands / scale, self.brightness.astype(float)
        shares, expected = self.shares(bands.T), np.asarray(truth, float)[usable] / scale
        weighted, shares = _weighted(scaled.T, shares).T, shares.mean(axis=1)
        gain = self.gain.astype(float)
        maps = gain.reshape(len(gain), len(shares), -1)  # (target band, cover, source band) in the same memory
        input_error, covariance = self._input_error(scaled, expected - weighted @ gain.T, shares)
        maps -= (maps @ input_error)[..., None] * brightness
        residual = expected - weighted @ gain.T
        priors = [self._map_variance(*strengths) for strengths in product(CONSTANT_VARIANCES, DIRECTIONS_VARIANCES)]
        left = np.ones(len(gain))
        for known, columns in by_pattern(np.isfinite(residual).T):
            if known.any():
                change, left[columns] = _mean_regression(scaled[known], residual[np.ix_(known, columns)], priors)
                maps[columns] += change[:, None]
        before = self.gain.reshape(maps.shape)
        by_input, by_input_left = (
            ((before @ part) * before).sum(axis=2) for part in (self.input_covariance, covariance)
        )
        error = 1 - self.shift + self.shift * left
        variance = np.maximum(np.square(self.relative_sigma) - by_input, 0) * error[:, None] + by_input_left
        return replace(
            self,
            gain=gain.astype(np.float32),
            relative_sigma=np.sqrt(variance).astype(np.float32),
            shift=(self.shift * left / error).astype(np.float32),
            input_covariance=covariance.astype(np.float32),
        )

    def _input_error(
        self, scaled: FloatArray, residual: FloatArray, shares: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """(source band,) expected error of the bands, relative to scale, and (source band, source band) its covariance.

        The mean residual of the references, by generalised least squares, is the gain times the error, with the scatter
        of the conversion and of the source at each reference (a Gaussian posterior).

        Parameters
        ----------
        scaled, residual : (K, source band) and (K, target band) of references scaled to 1, NaN = unknown.
        shares : (cover,) mean shares of the land covers in the references, whose mean map is used.
        """
        prior = self.input_covariance.astype(float)
        if not prior.any():
            return np.zeros(len(prior)), prior
        root = _root(self._map_variance(*COMMON_STRENGTHS))
        mean, weight = np.zeros(len(self.gain)), np.zeros(len(self.gain))
        for known, columns in by_pattern(np.isfinite(residual).T):
            features, share = scaled[known] @ root, scaled[known] @ self.brightness.astype(float)
            inner = features.T @ features + np.eye(len(root))
            solved = share - features @ np.linalg.solve(inner, features.T @ share)
            weight[columns] = solved @ share
            mean[columns] = solved @ residual[np.ix_(known, columns)]  # times weight
        sigma = np.maximum(self.relative_sigma @ shares.astype(float), 1e-6)
        gain = shares @ self.gain.reshape(len(sigma), len(shares), -1).astype(float)
        evidence = (gain.T * (weight / sigma**2)) @ gain
        toward = -gain.T @ (mean / sigma**2)
        seen = prior + np.eye(len(prior)) * (LOCAL_INPUT_NOISE**2 / weight.max())
        common = np.linalg.solve(seen, prior).T
        posterior = np.linalg.inv(np.linalg.inv(seen) + evidence)
        return common @ posterior @ toward, prior - common @ prior + common @ posterior @ common.T

    def _map_variance(self, constant: float, directions: float) -> FloatArray:
        """(source band, source band) prior variance of the map's change, of these strengths."""
        brightness = self.brightness.astype(float)
        precision = self.precision.astype(float) / len(brightness)
        variance: FloatArray = constant * np.outer(brightness, brightness) + directions * precision
        return variance


def _weighted(values: FloatArray, shares: FloatArray) -> FloatArray:
    """(cover · band, pixel) values (band, pixel) times the share of each cover (cover, pixel)."""
    return np.concatenate(by_cover(values, shares))


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


def _mean_regression(
    scaled: FloatArray, residual: FloatArray, priors: Sequence[FloatArray]
) -> tuple[FloatArray, float]:
    """(target band, source band) mean posterior map over priors, weighted by their evidence, and `_variance_left`.

    Parameters
    ----------
    scaled, residual : (K, source band) and (K, target band) of references scaled to 1.
    priors : (source band, source band) prior variances of the map.
    """
    changes, parts, evidence = [], [], []
    for prior in priors:
        root = _root(prior)
        features = scaled @ root
        inner = features.T @ features + np.eye(len(root))
        solved = np.linalg.solve(inner, features.T)
        changes.append((root @ solved @ residual).T)
        parts.append(_variance_left(scaled, prior, root @ np.linalg.solve(inner, root.T)))
        unexplained = max(float((residual * (residual - features @ (solved @ residual))).sum()), 1e-30)
        evidence.append(-0.5 * EFFECTIVE_BANDS * (np.linalg.slogdet(inner)[1] + len(scaled) * np.log(unexplained)))
    weights = np.exp(np.array(evidence) - max(evidence))
    weights /= weights.sum()
    return np.tensordot(weights, changes, axes=1), float(weights @ parts)


def _root(variance: FloatArray) -> FloatArray:
    """(band, band) root with `root @ root.T` the variance, whose rounding may leave slightly negative eigenvalues."""
    values, vectors = np.linalg.eigh(variance)
    root: FloatArray = vectors * np.sqrt(np.maximum(values, 0))
    return root


def _variance_left(scaled: FloatArray, before: FloatArray, after: FloatArray) -> float:
    """Mean share, 0-1, of a regression's prior variance that the other spectra leave at each spectrum.

    A single reference therefore lowers no uncertainty, and dissimilar references lower it little. Leaving a spectrum
    out raises its leverage h to h / (1 - h) (Sherman & Morrison 1950).
    """
    leverage = np.einsum("ij,jk,ik->i", scaled, after, scaled)
    prior = np.einsum("ij,jk,ik->i", scaled, before, scaled)
    return float(np.minimum(leverage / (1 - leverage), prior).sum() / prior.sum())
