"""The spectral prior: a Gaussian over spectra, and its closed-form posterior for any source and target sensor.

A spectrum is modelled as a Gaussian of unknown brightness: x = s z, where z has second moment Σ and s is any scale.
Given the bands of a source sensor, the expected bands of a target are a linear map of them without a constant term, so
a pixel twice as bright gives a spectrum twice as bright. The mean spectrum is nearly the first direction of Σ. Spectra
of more scenes update Σ in closed form too.

A prior may have a Σ for each land cover. The maps of the covers are then blended by the shares of the covers in each
pixel, which the source's bands give (`spectra.indices`). A source without the bands for that uses the Σ of all covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.models.moments import Moments, moments_of, pool, scale_of
from ms2hs.models.posterior import Posterior
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.library import by_pattern
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, TYPICAL_SCALE, InputError
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, response_matrix

__all__ = [
    "TYPICAL_INPUT_ERROR", "TYPICAL_SCALE", "CoverFactors", "InputError", "PlaceSpread", "Posterior", "SpectralPrior",
    "brightness_of", "brightness_weights", "factorise", "refit",
]  # fmt: skip

# Bands in the water-vapour absorption at 945 and 1380 nm are retrieved through an atmosphere that absorbs most of the
# light; their reflectance is off by a few per cent (relative) even where the other bands are right.
NOISY_BANDS_NM = ((930.0, 965.0), (1350.0, 1430.0))
WATER_VAPOUR_NOISE = 2.5  # times the noise of other bands, added in quadrature
# Wavelength ranges whose mean is a spectrum's brightness: where every sensor is good.
BRIGHTNESS_NM = ((450.0, 1300.0), (1500.0, 1750.0), (2050.0, 2300.0))
# Deviation relative to a spectrum's scale that a product's errors explain (gain 2 %, offset 0.005): a pixel is unlike
# the training spectra only beyond it.
OUTLIER_TOLERANCE = 0.03
# Share of a product's measured covariance in N; the uncertainty has all of it. The covariance comes from few places: a
# gain that trusts it fully is 3 % better on left-out places, and twice as much worse on exact input.
PRODUCT_SHARE = 0.5
# A wavelength is known where at least this share of the training scenes has data.
LEAST_REACH = 0.25
# For `refit`: the prior's own weight in scenes (ten scenes, and libraries, canopies and mixtures that weigh four); the
# relative noise of known values when unknown ones are filled, and the rounds of filling; spectra kept of each scene for
# the outlier limit.
SCENES_BEFORE = 14.0
FILL_NOISE, FILL_ROUNDS = 0.01, 2
KEPT_SPECTRA = 100


@dataclass(frozen=True, eq=False)
class CoverFactors:
    """Second moments of the land covers of `spectra.indices.COVERS`, as low-rank factors, and their calibration."""

    factors: Float32Array
    """(cover, wavelength, rank)."""
    residual: Float32Array
    """(cover, wavelength)."""
    sigma_scale: Float32Array
    """(cover, wavelength)."""


@dataclass(frozen=True, eq=False)
class PlaceSpread:
    """Mean spectra of the covers `spectra.indices.LAND`, scaled to 1, and how they differ between and within places."""

    mean: Float32Array
    """(cover, wavelength) mean over places."""
    between: Float32Array
    """(place, cover, wavelength) deviation of a place's mean, divided by the root of the number of places with the
    cover: their outer products sum to the covariance between places. 0 where a place has no such cover."""
    within: Float32Array
    """(cover, wavelength, rank) factors of the covariance within a place."""


@dataclass(frozen=True, eq=False)
class SpectralPrior:
    """Second moment of brightness-scaled spectra, as low-rank factors, and its calibration."""

    wavelength_nm: Float32Array
    """(wavelength,) ascending, evenly spaced, in nm."""
    factors: Float32Array
    """(wavelength, rank) Σ = factors factorsᵀ + diag(residual), unitless."""
    residual: Float32Array
    """(wavelength,) variance outside the factors."""
    reach: Float32Array
    """(wavelength,) share, 0-1, of the training scenes with data there."""
    sigma_scale: Float32Array
    """(wavelength,) factor on the posterior standard deviation, so that intervals hold on scenes not trained on."""
    shift: Float32Array
    """(wavelength,) share, 0-1, of the squared error on such scenes that references of the scene can correct."""
    sample: Float32Array
    """(spectrum, rank) some training spectra of scale 1, as coefficients of `factors`."""
    floor: float
    """Brightness below which spectra count as equally bright."""
    noise: float
    """Standard deviation of a source band, relative to a spectrum's scale."""
    covers: CoverFactors | None = None
    """The same for each land cover; None: `factors` for all covers."""
    places: PlaceSpread | None = None
    """Spread of the training places, from which networks estimate the errors of a window; None: too few places."""

    @property
    def grid(self) -> SpectralGrid:
        """A band at each wavelength, twice as wide as their spacing."""
        return grid_of(self.wavelength_nm, np.full(len(self.wavelength_nm), 2 * self.step_nm))

    @property
    def step_nm(self) -> float:
        """Spacing of the wavelengths."""
        return float(self.wavelength_nm[1] - self.wavelength_nm[0])

    def second_moment(self) -> FloatArray:
        """(wavelength, wavelength) Σ in float64."""
        factors = self.factors.astype(float)
        moment: FloatArray = factors @ factors.T + np.diag(self.residual.astype(float))
        return moment

    def with_sigma_scale(self, sigma_scale: FloatArray) -> Self:
        """The prior with this calibration (wavelength,); the land covers' own keep their ratio to it."""
        scale = np.asarray(sigma_scale, np.float32)
        covers = self.covers
        if covers is not None:
            ratio = scale / np.maximum(self.sigma_scale, 1e-6)
            covers = replace(covers, sigma_scale=(covers.sigma_scale * ratio).astype(np.float32))
        return replace(self, sigma_scale=scale, covers=covers)

    def of_covers(self, wavelength_nm: FloatArray) -> tuple[CoverShares | None, tuple[Self, ...]]:
        """The shares of the land covers and a prior for each, given a source's band centres.

        None and this prior alone if it has no covers or if the source lacks bands for the shares.
        """
        shares = CoverShares.of(wavelength_nm)
        if self.covers is None or shares is None:
            return None, (self,)
        arrays = zip(self.covers.factors, self.covers.residual, self.covers.sigma_scale, strict=True)
        return shares, tuple(
            replace(self, factors=factors, residual=residual, sigma_scale=scale, covers=None)
            for factors, residual, scale in arrays
        )

    def coefficients(self, spectra: Float32Array) -> Float32Array:
        """(spectrum, rank) expected coefficients of `factors`, of spectra (spectrum, wavelength) scaled to 1.

        NaN = unknown; spectra of unknown brightness are left out.
        """
        brightness = brightness_of(spectra, self.wavelength_nm)
        usable = np.isfinite(brightness)
        scaled = spectra[usable] / scale_of(brightness[usable], self.floor)[:, None]
        result = np.zeros((len(scaled), self.factors.shape[1]), np.float32)
        for known, rows in by_pattern(np.isfinite(scaled)):
            deviation = np.sqrt(self.residual[known] + self.noise**2)
            result[rows] = _coefficients(scaled[np.ix_(rows, known)], self.factors[known], deviation)
        return result

    def source_noise(self, wavelength_nm: FloatArray) -> FloatArray:
        """(source band,) standard deviation of each band's error, relative to the spectrum's scale."""
        inside = _inside(wavelength_nm, NOISY_BANDS_NM)
        return np.where(inside, self.noise * np.hypot(1, WATER_VAPOUR_NOISE), self.noise)

    def expectation(
        self,
        wavelength_nm: FloatArray,
        to_source: FloatArray,
        to_target: FloatArray,
        error: InputError | None = None,
        part: float = 1.0,
    ) -> tuple[FloatArray, FloatArray, CoverShares | None]:
        """Gain of the posterior mean, (source band,) weights of the brightness, and the shares, as in `Posterior`.

        The same as in `condition`, without the uncertainty, for a source's band centres and response matrices (band,
        wavelength): training calls it for many sets of bands. `part` scales the variance of `error`.
        """
        noise = np.diag(np.square(self.source_noise(wavelength_nm)))
        shares, priors = self.of_covers(wavelength_nm)
        error, gains = error or InputError(), []
        product = error.product_covariance(wavelength_nm)
        for prior in priors:
            seen = prior.between(to_source, to_source) + noise
            seen += part * assumed_variance(error, product, seen)
            gains.append(np.linalg.solve(seen, prior.between(to_source, to_target)).T)
        return np.concatenate(gains, axis=1), self._brightness(to_source, noise), shares

    def between(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """(first band, second band) second moment between bands of two response matrices (band, wavelength)."""
        factors = self.factors.astype(float)
        moment: FloatArray = (first @ factors) @ (second @ factors).T + (first * self.residual) @ second.T
        return moment

    def _brightness(self, to_source: FloatArray, noise: FloatArray) -> FloatArray:
        """(source band,) weights of the bands in the expected brightness."""
        joint = self.between(to_source, brightness_weights(self.wavelength_nm)[None])[:, 0]
        weights: FloatArray = np.linalg.solve(self.between(to_source, to_source) + noise, joint)
        return weights

    def condition(self, source: SpectralGrid, target: SpectralGrid, error: InputError | None = None) -> Posterior:
        """The posterior of `target` given `source`, in closed form.

        E[y|x] = R_t Σ R_sᵀ (R_s Σ R_sᵀ + N)⁻¹ x, and its variance (Rasmussen & Williams 2006, A.6), where R are
        response matrices and N is the source's noise, to which `error` adds. Measured errors of a product add half of
        their covariance to N and all of it to the uncertainty; they are common to a scene, so that references can
        correct them. With land covers, for the Σ of each.

        Raises
        ------
        GridError : bands outside the prior's wavelengths, or outside the bands of measured errors.
        """
        to_source = response_matrix(source, self.wavelength_nm)
        to_target = response_matrix(target, self.wavelength_nm)
        error = error or InputError()
        noise = np.diag(self.source_noise(source.wavelength_nm) ** 2)
        product = error.product_covariance(source.wavelength_nm)
        shares, priors = self.of_covers(source.wavelength_nm)
        maps = [prior._map(to_source, to_target, noise, product, error) for prior in priors]  # noqa: SLF001
        seen = self.between(to_source, to_source) + noise
        whitening = np.linalg.inv(np.linalg.cholesky(seen + OUTLIER_TOLERANCE**2 * np.eye(len(source))))
        sample = (to_source @ self.factors.astype(float)) @ self.sample.T.astype(float)
        distance = np.square(whitening @ sample).sum(axis=0)
        return Posterior(
            gain=np.concatenate([gain for gain, _ in maps], axis=1).astype(np.float32),
            relative_sigma=np.stack([sigma for _, sigma in maps], axis=1).astype(np.float32),
            known=to_target @ self.reach >= LEAST_REACH,
            brightness=self._brightness(to_source, noise).astype(np.float32),
            whitening=whitening.astype(np.float32),
            precision=np.linalg.inv(seen).astype(np.float32),
            limit=float(np.quantile(distance, 0.995)),
            shift=np.clip(to_target @ self.shift, 0, 1).astype(np.float32),
            floor=self.floor,
            input_covariance=product.astype(np.float32),
            error=error,
            covers=shares,
        )

    def _map(
        self, to_source: FloatArray, to_target: FloatArray, noise: FloatArray, product: FloatArray, error: InputError
    ) -> tuple[FloatArray, FloatArray]:
        """(target band, source band) gain and (target band,) sigma for a scale of 1, without land covers."""
        seen, joint = self.between(to_source, to_source) + noise, self.between(to_target, to_source)
        gain = np.linalg.solve(seen + assumed_variance(error, product, seen), joint.T).T
        # variance of this gain on bands without errors; the share of gain, offset and noise is added in `sigma`
        factors = to_target @ self.factors.astype(float)
        variance = np.square(factors).sum(axis=1) + np.square(to_target) @ self.residual
        variance += ((gain @ seen - 2 * joint) * gain).sum(axis=1)
        deviation = np.sqrt(np.maximum(variance, 0)) * (to_target @ self.sigma_scale)
        by_product = np.sqrt(np.maximum(((gain @ product) * gain).sum(axis=1), 0))
        return gain, np.hypot(deviation, by_product)


def assumed_variance(error: InputError, product: FloatArray, seen: FloatArray) -> FloatArray:
    """(source band, source band) covariance that N has for errors of a product, relative to the scale of a spectrum.

    Parameters
    ----------
    product : (source band, source band) covariance of the measured errors, `error.product_covariance`.
    seen : (source band, source band) second moment of the bands at scale 1.
    """
    variance: FloatArray = np.diag(error.relative_variance(np.diag(seen))) + PRODUCT_SHARE * product
    return variance


def refit(prior: SpectralPrior, scenes: Sequence[Float32Array], noise: float) -> SpectralPrior:
    """The prior with the second moments of more scenes pooled in, each scene with weight 1.

    Parameters
    ----------
    scenes : for each scene (spectrum, wavelength) reflectance on the prior's wavelengths, NaN = unknown.
    noise : standard deviation of a source band, relative to a spectrum's scale, in addition to the prior's.
    """
    usable = [spectra[np.isfinite(brightness_of(spectra, prior.wavelength_nm))] for spectra in scenes]
    usable = [spectra for spectra in usable if len(spectra)]
    factors, residual, reach = _refit_moment(prior, [(spectra, np.ones(len(spectra))) for spectra in usable])
    shares, priors = prior.of_covers(prior.wavelength_nm)
    covers = prior.covers
    if shares is not None and covers is not None:
        weights = [np.nan_to_num(shares.shares(spectra.T.astype(float))) for spectra in usable]
        refits = [
            _refit_moment(member, [(spectra, own[cover]) for spectra, own in zip(usable, weights, strict=True)])
            for cover, member in enumerate(priors)
        ]
        covers = replace(
            covers,
            factors=np.stack([factors for factors, _, _ in refits]),
            residual=np.stack([residual for _, residual, _ in refits]),
        )
    some = [spectra[:: max(1, len(spectra) // KEPT_SPECTRA)][:KEPT_SPECTRA] for spectra in usable]
    sample = np.concatenate([prior.sample, *map(prior.coefficients, some)]) @ prior.factors.T
    refitted = replace(
        prior,
        factors=factors,
        residual=residual,
        reach=((SCENES_BEFORE * prior.reach + reach) / (SCENES_BEFORE + len(scenes))).astype(np.float32),
        noise=float(np.hypot(prior.noise, noise)),
        covers=covers,
    )
    deviation = np.sqrt(residual.astype(float) + refitted.noise**2)
    return replace(refitted, sample=_coefficients(sample, factors, deviation).astype(np.float32))


def _refit_moment(
    prior: SpectralPrior, scenes: Sequence[tuple[Float32Array, FloatArray]]
) -> tuple[Float32Array, Float32Array, FloatArray]:
    """Factors and residual with the moments of spectra (spectrum, wavelength) pooled in, and (wavelength,) their reach.

    Parameters
    ----------
    scenes : spectra of each scene and their weights (spectrum,); the weight of a scene is the mean of its weights.
    """
    before = prior.second_moment()
    sets, reach = [Moments(np.ones(len(before), bool), before, SCENES_BEFORE)], np.zeros(len(before))
    for spectra, weights in scenes:
        if weights.any():
            scale = scale_of(brightness_of(spectra, prior.wavelength_nm), prior.floor)
            found = list(moments_of(spectra, scale, weights, float(weights.mean())))
            sets += found
            reach += sum(part.weight * part.known for part in found)
    return *factorise(pool(sets, before, FILL_NOISE, FILL_ROUNDS), prior.factors.shape[1]), reach


def _coefficients(spectra: FloatArray, factors: Float32Array, deviation: FloatArray) -> FloatArray:
    """(spectrum, rank) expected coefficients of factors (wavelength, rank) for spectra (spectrum, wavelength).

    Parameters
    ----------
    deviation : (wavelength,) standard deviation of the spectra about the factors.
    """
    weighted = factors.astype(float) / deviation[:, None]
    inner = weighted.T @ weighted + np.eye(weighted.shape[1])
    return np.asarray(np.linalg.solve(inner, weighted.T @ (spectra / deviation).T).T)


def factorise(moment: FloatArray, rank: int) -> tuple[Float32Array, Float32Array]:
    """(wavelength, rank) factors and (wavelength,) residual variance of a second moment (wavelength, wavelength)."""
    values, vectors = np.linalg.eigh(moment)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    strongest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    factors = vectors * np.sqrt(np.maximum(values, 0)) * np.sign(strongest)
    residual = np.maximum(np.diag(moment) - np.square(factors).sum(axis=1), 0)
    return factors.astype(np.float32), residual.astype(np.float32)


def brightness_of(spectra: FloatArray, wavelength_nm: FloatArray) -> FloatArray:
    """(spectrum,) brightness of spectra (spectrum, wavelength): mean of the known values in `BRIGHTNESS_NM`.

    NaN where less than 80 % of them are known.
    """
    inside = spectra[:, brightness_weights(wavelength_nm) > 0].astype(float)
    known = np.isfinite(inside)
    mean = np.where(known, inside, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    brightness: FloatArray = np.where(known.mean(axis=1) > 0.8, mean, np.nan)
    return brightness


def brightness_weights(wavelength_nm: FloatArray) -> FloatArray:
    """(wavelength,) summing to 1: `weights @ spectrum` is a spectrum's brightness."""
    inside = _inside(wavelength_nm, BRIGHTNESS_NM)
    if not inside.any():
        raise ValueError("no wavelength lies in the ranges of brightness")
    weights: FloatArray = inside / inside.sum()
    return weights


def _inside(wavelength_nm: FloatArray, ranges_nm: Sequence[tuple[float, float]]) -> BoolArray:
    """(wavelength,) True within one of the ranges, ends included."""
    return np.asarray(np.any([(wavelength_nm >= low) & (wavelength_nm <= high) for low, high in ranges_nm], axis=0))
