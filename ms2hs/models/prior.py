"""The closed-form spectral prior: what spectra are like, and what a few bands then say about all the others.

A spectrum is taken as a Gaussian of unknown brightness: x = s z, where z has second moment Σ and s is anything. Given
the bands of a source sensor, the expected bands of a target are a linear map of them, with no constant term, so that a
pixel twice as bright gives a spectrum twice as bright. The mean spectrum is nearly the first direction of Σ.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.models.intervals import sigma_needed
from ms2hs.models.moments import expect, moments_of, pool, scale_of
from ms2hs.spectra.library import by_pattern, interpolate_known
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, response_matrix

# Bands in the water-vapour bands at 945 and 1380 nm are retrieved through an atmosphere that absorbs most of the light;
# their reflectance is off by a few per cent (relative) even where the other bands are right.
WATER_VAPOUR_NM = ((930.0, 965.0), (1350.0, 1430.0))
WATER_VAPOUR_NOISE = 2.5  # times the noise of other bands, added in quadrature
# Windows whose mean is a spectrum's brightness: where every sensor is good.
BRIGHTNESS_NM = ((450.0, 1300.0), (1500.0, 1750.0), (2050.0, 2300.0))
# What a real product's bands are off by, relative to a spectrum's scale (gain 2 %, offset 0.005): no pixel is called
# unlike for less.
PRODUCT_ERROR = 0.03
# Scale (about the brightness) of a common spectrum, at which an error in reflectance becomes a relative one: the mean
# of the public scenes.
TYPICAL_SCALE = 0.25
# Fewer than this share of the training scenes reach a wavelength: it is called not known.
LEAST_REACH = 0.25
# How references correct a scene: the mean of K residuals is shrunk by K / (K + 2), and beside it each direction of the
# source's bands has its own error, of this variance together relative to a residual's scatter. Half or twice of either
# changes the error by less than 2 %.
CONSTANT_REFERENCES = 2.0
DIRECTIONS_WEIGHT = 4.0
# N spectra of a site count N / (N + 12) against everything known before, and fewer than 20 are no site.
SITE_BEFORE = 12.0
# Part of the noise stands for what sets scenes apart; this much of it is left where the site is known.
SITE_NOISE = 0.25
FEWEST_SITE_SPECTRA = 20
# OpenBLAS has kernels for products of up to so many multiplications: twice as fast, where one side is a dozen bands.
SMALL_PRODUCT = 1_000_000


@dataclass(frozen=True)
class InputError:
    """What a product's reflectance is off by: one gain and one offset a band and scene, and noise a pixel."""

    gain: float
    """Standard deviation, relative to the value."""
    offset: float
    """Standard deviation, in reflectance."""
    pixel: float
    """Standard deviation, in reflectance."""

    def variance(self, reflectance: FloatArray) -> FloatArray:
        """(...) of values of that reflectance."""
        variance: FloatArray = np.square(self.gain * reflectance) + (self.offset**2 + self.pixel**2)
        return variance


@dataclass(frozen=True, eq=False)
class Conditional:
    """What the prior expects of a target's bands, given those of one source."""

    gain: Float32Array
    """(target band, source band) the posterior mean is `gain @ reflectance`."""
    relative_sigma: Float32Array
    """(target band,) calibrated standard deviation of a spectrum of scale 1."""
    known: BoolArray
    """(target band,) False where few training scenes reach."""
    brightness: Float32Array
    """(source band,) a pixel's brightness is `brightness @ reflectance`."""
    whitening: Float32Array
    """(source band, source band) the squared length of `whitening @ reflectance` is Mahalanobis' for a scale of 1."""
    precision: Float32Array
    """(source band, source band) inverse of the second moment of the source's bands, for a scale of 1, times
    `SpectralPrior.slope_doubt`."""
    limit: float
    """Squared Mahalanobis distance that few training spectra exceed."""
    shift: Float32Array
    """(target band,) share, 0-1, of the squared error that is common to a scene, so that references can mend it."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    error: InputError | None = None
    """What the source's bands are off by, as far as the user told; `sigma` covers it."""

    def reconstruct(
        self, reflectance: Float32Array, valid: BoolArray | None = None, out: Float32Array | None = None
    ) -> Float32Array:
        """(target band, ...) float32 expected reflectance, NaN where not `valid`.

        Parameters
        ----------
        reflectance : (source band, ...) float32.
        valid : (...) bool; other pixels may hold anything. None: all are valid.
        out : (target band, ...) float32, C-contiguous, to write into.
        """
        shape = (len(self.gain), *reflectance.shape[1:])
        if out is None:
            out = np.empty(shape, np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be float32, C-contiguous, of shape {shape}")
        flat = np.asarray(reflectance, np.float32).reshape(len(reflectance), -1)
        with np.errstate(invalid="ignore", over="ignore"):  # what stands in invalid pixels
            _multiply(self.gain, flat, out.reshape(len(self.gain), -1))
        if valid is not None and not valid.all():
            np.copyto(out, np.float32(np.nan), where=~valid)
        return out

    def select(self, bands: slice) -> Self:
        """The same of some of the target's bands."""
        per_band = ("gain", "relative_sigma", "known", "shift")
        return replace(self, **{name: getattr(self, name)[bands] for name in per_band})

    def scale(self, reflectance: Float32Array) -> Float32Array:
        """(...) what errors of these pixels are proportional to, from their brightness."""
        with np.errstate(invalid="ignore", over="ignore"):
            brightness = np.tensordot(self.brightness, reflectance, axes=1)
            result: Float32Array = scale_of(brightness, self.floor).astype(np.float32)
        return result

    def sigma(self, reflectance: Float32Array) -> Float32Array:
        """(target band, ...) float32 such that the value ± 1.645 sigma is the calibrated 90 % interval.

        Of the conversion alone, and of the source's own errors too where `error` tells them.
        """
        scale = self.scale(reflectance)
        result: Float32Array = np.multiply.outer(self.relative_sigma, scale)
        if self.error:
            variance = self.error.variance(reflectance).astype(np.float32)
            result = np.sqrt(np.square(result) + np.tensordot(np.square(self.gain), variance, axes=1))
        return result

    def unlike(self, reflectance: Float32Array) -> BoolArray:
        """(...) True for pixels whose bands are unlike those of nearly all training spectra, whatever their brightness.

        Also where a band is not finite.
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
        """Corrected by spectra of the scene: a linear map of the bands, fitted to their residuals and shrunk.

        A Bayesian regression in which a residual of scale s scatters by s, before anything is seen of the scene. The
        map's prior variance is that of a constant spectrum times brightness, which alone would be the mean residual
        shrunk by K / (K + 2), and of a change along each direction in which the source's bands vary.

        Parameters
        ----------
        measured : (K, source band) reflectance that the source has at the references.
        truth : (K, target band) reflectance of the references, NaN = unknown.

        Raises
        ------
        DataError : no reference with finite source bands and some known target bands.
        """
        seen = np.atleast_1d(np.isfinite(measured).all(axis=1) & np.isfinite(truth).any(axis=1))
        if not seen.any():
            raise DataError(
                f"none of {len(seen)} reference spectra can be used; at least one needs finite source bands and some "
                "known target bands. Check the spectra and where they lie in the scene."
            )
        bands = np.asarray(measured, float)[seen]
        residual = np.asarray(truth, float)[seen] - bands @ self.gain.T.astype(float)
        scale = self.scale(bands.T)
        bright, precision = self.brightness.astype(float), self.precision.astype(float)
        before = np.outer(bright, bright) / CONSTANT_REFERENCES + precision * (DIRECTIONS_WEIGHT / len(bright))
        gain, left = self.gain.astype(float), np.ones(len(self.gain))
        for known, columns in by_pattern(np.isfinite(residual).T):
            if not known.any():
                continue
            scaled = bands[known] / scale[known, None]
            seen_as = before @ scaled.T
            after = before - seen_as @ np.linalg.solve(np.eye(len(scaled)) + scaled @ seen_as, seen_as.T)
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
    """Put `gain @ flat` into `out`, (target band, pixel), some pixels at a time."""
    bands, pixels = out.shape
    step = 1 << max(0, (SMALL_PRODUCT // max(gain.size, 1)).bit_length() - 1)
    whole = pixels - pixels % step
    if whole:
        parts = flat[:, :whole].reshape(len(flat), -1, step), out[:, :whole].reshape(bands, -1, step)
        np.matmul(gain, parts[0].transpose(1, 0, 2), out=parts[1].transpose(1, 0, 2))
    if whole < pixels:
        np.matmul(gain, flat[:, whole:], out=out[:, whole:])


def _variance_left(scaled: FloatArray, before: FloatArray, after: FloatArray) -> float:
    """Share, 0-1, of a regression's variance that is left at each of its spectra by the others; the mean of them.

    So a single reference proves nothing of the rest of the scene, and references unlike each other prove little.
    Leaving one out raises its leverage h to h / (1 - h) (Sherman & Morrison 1950).
    """
    leverage = np.einsum("ij,jk,ik->i", scaled, after, scaled)
    prior = np.einsum("ij,jk,ik->i", scaled, before, scaled)
    return float(np.minimum(leverage / (1 - leverage), prior).sum() / prior.sum())


@dataclass(frozen=True, eq=False)
class SpectralPrior:
    """Second moment of brightness-scaled spectra, as low-rank factors, with what calibration needs."""

    wavelength_nm: Float32Array
    """(wavelength,) ascending, evenly spaced, in nm."""
    factors: Float32Array
    """(wavelength, rank) Σ = factors factorsᵀ + diag(residual), unitless."""
    residual: Float32Array
    """(wavelength,) variance that the factors leave out."""
    reach: Float32Array
    """(wavelength,) share, 0-1, of the training scenes that were measured there."""
    sigma_scale: Float32Array
    """(wavelength,) what the posterior standard deviation is multiplied by to hold on scenes not trained on."""
    shift: Float32Array
    """(wavelength,) share, 0-1, of the squared error on such scenes that references of the scene can mend."""
    sample: Float32Array
    """(spectrum, rank) some training spectra of scale 1, as coefficients of `factors`."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    noise: float
    """Standard deviation, relative to a spectrum's scale, of a source band."""
    slope_doubt: float = 1.0
    """How much the map from source to target may differ in another scene, relative to that of a general prior."""

    def second_moment(self) -> FloatArray:
        """(wavelength, wavelength) Σ in float64."""
        factors = self.factors.astype(float)
        moment: FloatArray = factors @ factors.T + np.diag(self.residual.astype(float))
        return moment

    def coefficients(self, spectra: Float32Array) -> Float32Array:
        """(spectrum, rank) expected coefficients of `factors` of spectra (spectrum, wavelength) brought to scale 1.

        NaN = unknown; spectra whose brightness is unknown are left out.
        """
        brightness = brightness_of(spectra, self.wavelength_nm)
        usable = np.isfinite(brightness)
        scaled = spectra[usable] / scale_of(brightness[usable], self.floor)[:, None]
        result = np.zeros((len(scaled), self.factors.shape[1]), np.float32)
        for known, rows in by_pattern(np.isfinite(scaled)):
            deviation = np.sqrt(self.residual[known] + self.noise**2)
            factors = self.factors[known].astype(float) / deviation[:, None]
            weighted = scaled[np.ix_(rows, known)] / deviation
            inner = factors.T @ factors + np.eye(factors.shape[1])
            result[rows] = np.linalg.solve(inner, factors.T @ weighted.T).T
        return result

    def with_site(self, reflectance: Float32Array, grid: SpectralGrid, source: SpectralGrid | None = None) -> Self:
        """Sharpened by spectra of the same site, from any date, in closed form.

        Parameters
        ----------
        reflectance : (spectrum, band) of the site, in the order of its pixels, NaN = unknown.
        grid : its bands. Gaps wider than `MAX_STEP_NM` between them stay unknown.
        source : the sensor that the prior will be conditioned on. With it the uncertainty is calibrated between the
            two halves of the site; without, it may be too sure.

        Raises
        ------
        DataError : too few spectra with a known brightness.
        """
        points = interpolate_known(reflectance, grid.wavelength_nm, self.wavelength_nm.astype(float))
        points = points[np.isfinite(brightness_of(points, self.wavelength_nm))]
        if len(points) < FEWEST_SITE_SPECTRA:
            raise DataError(
                f"{len(points)} of the site's {len(reflectance)} spectra are complete between 450 and 2300 nm; "
                f"{FEWEST_SITE_SPECTRA} or more are needed. Give a cube with more valid pixels and the bands there."
            )
        sharpened = self._mixed_with(points)
        if source is None:
            return sharpened
        half = len(points) // 2
        parts = (points[:half], points[half:])
        ratios = [self._mixed_with(parts[i])._sigma_ratio(parts[1 - i], source) for i in (0, 1)]  # noqa: SLF001
        needed = np.where(np.isfinite(ratios), ratios, 1).max(axis=0)
        return replace(sharpened, sigma_scale=(sharpened.sigma_scale * np.maximum(needed, 1)).astype(np.float32))

    def _mixed_with(self, points: Float32Array) -> Self:
        """The prior with the moments of spectra (spectrum, wavelength) of one site mixed in."""
        scale = scale_of(brightness_of(points, self.wavelength_nm), self.floor)
        sets = list(moments_of(points, scale, np.ones(len(points)), 1.0))
        before = self.second_moment()
        share = len(points) / (len(points) + SITE_BEFORE)
        moment = (1 - share) * before + share * pool(sets, before, self.noise, 1)
        factors, residual = factorise(moment, self.factors.shape[1])
        # what references could mend, a site has mended: they still take out a constant, but promise no less sigma
        return replace(
            self,
            factors=factors,
            residual=residual,
            shift=((1 - share) * self.shift).astype(np.float32),
            noise=SITE_NOISE * self.noise,
            slope_doubt=1 - share,
        )

    def _sigma_ratio(self, points: Float32Array, source: SpectralGrid) -> FloatArray:
        """(wavelength,) how much larger sigma must be for these spectra (spectrum, wavelength); NaN = unknown."""
        some = points[:: max(1, len(points) // 2000)].astype(float)
        scale = scale_of(brightness_of(some, self.wavelength_nm), self.floor)[:, None]
        whole = scale * expect(some / scale, self.second_moment(), self.noise)
        measured = (response_matrix(source, self.wavelength_nm) @ whole.T).astype(np.float32)
        widths = np.full(len(self.wavelength_nm), 2 * float(self.wavelength_nm[1] - self.wavelength_nm[0]))
        conditional = self.condition(source, grid_of(self.wavelength_nm, widths))
        error = some - conditional.reconstruct(measured).T
        return sigma_needed(error, conditional.scale(measured)) / np.maximum(conditional.relative_sigma, 1e-9)

    def source_noise(self, wavelength_nm: FloatArray) -> FloatArray:
        """(source band,) standard deviation of each band's error, relative to the spectrum's scale."""
        noise = np.full(len(wavelength_nm), self.noise)
        for low, high in WATER_VAPOUR_NM:
            inside = (wavelength_nm >= low) & (wavelength_nm <= high)
            noise[inside] = self.noise * np.hypot(1, WATER_VAPOUR_NOISE)
        return noise

    def expectation(
        self, to_source: FloatArray, to_target: FloatArray, noise: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """(target band, source band) gain of the posterior mean, and (source band,) that of the brightness.

        What `condition` gives, for bands of these responses (band, wavelength) and of this relative noise (source
        band,): of many sets of bands, one after the other, without their uncertainty.
        """
        across = self.second_moment() @ to_source.T
        seen = to_source @ across + np.diag(np.square(noise))
        wanted = np.vstack([to_target @ across, brightness_weights(self.wavelength_nm) @ across])
        gain = np.linalg.solve(seen, wanted.T).T
        return gain[:-1], gain[-1]

    def condition(self, source: SpectralGrid, target: SpectralGrid, error: InputError | None = None) -> Conditional:
        """The expectation of `target`, given `source`, in closed form.

        With `error` the source's bands are followed only as far as such errors allow.

        E[y|x] = R_t Σ R_sᵀ (R_s Σ R_sᵀ + N)⁻¹ x, and its variance (Rasmussen & Williams 2006, A.6), where R are
        response matrices and N the source's noise.

        Raises
        ------
        GridError : bands outside the prior's wavelengths.
        """
        to_source = response_matrix(source, self.wavelength_nm)
        to_target = response_matrix(target, self.wavelength_nm)
        moment = self.second_moment()
        across = moment @ to_source.T
        seen = to_source @ across + np.diag(self.source_noise(source.wavelength_nm) ** 2)
        joint = to_target @ across
        told = np.zeros(len(source)) if error is None else _relative_variance(error, np.diag(seen))
        gain = np.linalg.solve(seen + np.diag(told), joint.T).T
        # of the error of this gain on bands that are right; the part of `error` depends on the pixel (see `sigma`)
        variance = ((to_target @ moment) * to_target).sum(axis=1) + ((gain @ seen - 2 * joint) * gain).sum(axis=1)
        brightness = np.linalg.solve(seen, across.T @ brightness_weights(self.wavelength_nm))
        whitening = np.linalg.inv(np.linalg.cholesky(seen + PRODUCT_ERROR**2 * np.eye(len(source))))
        sample = (to_source @ self.factors.astype(float)) @ self.sample.T.astype(float)
        distance = np.square(whitening @ sample).sum(axis=0)
        return Conditional(
            gain=gain.astype(np.float32),
            relative_sigma=(np.sqrt(np.maximum(variance, 0)) * (to_target @ self.sigma_scale)).astype(np.float32),
            known=to_target @ self.reach >= LEAST_REACH,
            brightness=brightness.astype(np.float32),
            whitening=whitening.astype(np.float32),
            precision=(self.slope_doubt * np.linalg.inv(seen)).astype(np.float32),
            limit=float(np.quantile(distance, 0.995)),
            shift=np.clip(to_target @ self.shift, 0, 1).astype(np.float32),
            floor=self.floor,
            error=error,
        )


def _relative_variance(error: InputError, second: FloatArray) -> FloatArray:
    """(band,) variance of an error relative to a spectrum's scale, for bands of these second moments at scale 1."""
    relative: FloatArray = np.square(error.gain) * second + (error.offset**2 + error.pixel**2) / TYPICAL_SCALE**2
    return relative


def factorise(moment: FloatArray, rank: int) -> tuple[Float32Array, Float32Array]:
    """(wavelength, rank) factors and (wavelength,) residual variance of a second moment (wavelength, wavelength)."""
    values, vectors = np.linalg.eigh(moment)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    strongest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    factors = vectors * np.sqrt(np.maximum(values, 0)) * np.sign(strongest)
    residual = np.maximum(np.diag(moment) - np.square(factors).sum(axis=1), 0)
    return factors.astype(np.float32), residual.astype(np.float32)


def brightness_of(spectra: FloatArray, wavelength_nm: FloatArray) -> FloatArray:
    """(spectrum,) brightness of spectra (spectrum, wavelength), over what is known; NaN where a fifth of it is not."""
    inside = spectra[:, brightness_weights(wavelength_nm) > 0].astype(float)
    known = np.isfinite(inside)
    mean = np.where(known, inside, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    brightness: FloatArray = np.where(known.mean(axis=1) > 0.8, mean, np.nan)
    return brightness


def brightness_weights(wavelength_nm: FloatArray) -> FloatArray:
    """(wavelength,) summing to 1: `weights @ spectrum` is a spectrum's brightness."""
    inside = np.zeros(len(wavelength_nm), bool)
    for low, high in BRIGHTNESS_NM:
        inside |= (wavelength_nm >= low) & (wavelength_nm <= high)
    if not inside.any():
        raise ValueError("no wavelength lies in the windows of brightness")
    weights: FloatArray = inside / inside.sum()
    return weights


# What stands between a simulated source and a real one: a gain and an offset common to a band of a scene, and noise of
# each pixel; standard deviations.
TYPICAL_INPUT_ERROR = InputError(gain=0.02, offset=0.005, pixel=0.003)
