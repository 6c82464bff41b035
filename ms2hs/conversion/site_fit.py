"""Fit of the spectral prior to a scene by hyperspectral passes over its site, from other dates.

A pass knows the materials of the site. It differs from the scene by changes of the land, by its own calibration, which
is off by a curve that is smooth in wavelength, and by the errors of the scene's bands. All three are Gaussian:

1. Spectra follow a mixture of the site's second moment and the prior's. The difference between the mean bands of the
   scene and of the site is the sum of the three parts; each is its conditional expectation given the sum. The pass is
   corrected by its part, and the bands of the scene by theirs.
2. The share of the prior and the sizes of the parts are those with the highest evidence: the likelihood of the
   difference, and of the scene's pixels.
3. Each land cover has the mixture of its own second moments of site and prior, with the parts found for all.
4. Where more than a little of the prior is likelier, the scene holds land that the site does not: the site does not
   fit, and the prior alone is used. Where the mean of the scene lies outside the spread of the site, the site must
   carry over to other land: its halves must predict each other far better than the prior does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.models.moments import expect, scale_of
from ms2hs.models.prior import Posterior, SpectralPrior, brightness_of
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.product_error import TYPICAL_SCALE, InputError
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

MIN_SITE_SPECTRA = 20
# Calibration error of a pass: standard deviation relative to the spectrum, offset relative to its scale, and the
# distance over which both stay alike. Ours: a third more than the errors of the passes in `benchmarks/site.py`.
PASS_GAIN, PASS_OFFSET, PASS_LENGTH_NM = 0.03, 0.01, 100.0
# Tried: share of the prior; variance of the change of land, relative to the site's spread; variance of the calibration
# error, relative to the above; share of the known common errors that this scene has; standard deviation of the bands'
# other common errors, and of their errors in each pixel, relative to a spectrum's scale.
PRIOR_SHARES = (0.03, 0.1, 0.3, 0.6)
CHANGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PASS_SHARES = (0.03, 1.0)
KNOWN_SHARES = (0.03, 0.3, 1.0)
BAND_ERRORS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.045)
PIXEL_ERRORS = (0.001, 0.002, 0.004, 0.008, 0.012, 0.016, 0.024)
# Before the scene is seen, the bands' common error is 0.005, or up to 4 times as much or as little (one sigma).
EXPECTED_BAND_ERROR, BAND_ERROR_RATIO = 0.005, 4.0
# Largest factor by which wavelengths of a pass, and bands of a scene, are corrected.
LARGEST_GAIN = 1.5
# Pixels that count as independent in the likelihood of all pixels.
INDEPENDENT_PIXELS = 50
# Weight of the moment of all spectra of a site in the moment of a land cover, in spectra.
SPECTRA_OF_ALL = 30
# A site fits a scene up to this share of the prior. A change of land from OUTSIDE on puts the scene outside the spread
# of the site; then each half must predict the other with at most this part of the prior's error.
LARGEST_SHARE, OUTSIDE, LARGEST_HALF_ERROR = 0.1, 0.3, 0.7


@dataclass(frozen=True, eq=False)
class SiteFit:
    """The scene as its site and its bands describe it, for one source."""

    scene: "SceneBands"
    share: float
    """Share, 0-1, of the prior in the second moment."""
    change: float
    """Variance of the change of land between site and scene, relative to the site's spread."""
    evidence: float
    """Logarithm of the likelihood of the scene, up to a constant."""
    moment: FloatArray
    """(wavelength, wavelength) second moment of the scene's spectra, for a scale of 1."""
    of_covers: tuple[FloatArray, ...]
    """The same for each map of the posterior: one, or one for each land cover."""
    common_error: FloatArray
    """(source band, source band) likely covariance of the errors that all pixels have in common, after the correction
    of the bands, for a scale of 1."""
    largest_common_error: FloatArray
    """(source band, source band) the same if the scene has the known errors at their full size."""
    pixel_error: FloatArray
    """(source band, source band) covariance of the errors of a pixel, for a scale of 1."""
    band_gain: FloatArray
    """(source band,) factor that corrects the scene's bands."""
    is_used: bool = True
    """False: the site does not fit the scene, and the prior alone is used."""

    def condition(self, target: SpectralGrid) -> Posterior:
        """The posterior of `target` in this scene, as `SpectralPrior.condition` gives it for any scene.

        Raises
        ------
        GridError : bands outside the prior's wavelengths.
        """
        prior, to_source = self.scene.prior, self.scene.to_source
        posterior = prior.condition(self.scene.source, target, self.scene.error)
        if not self.is_used:
            return posterior
        to_target = response_matrix(target, prior.wavelength_nm)
        error, more = self.common_error + self.pixel_error, self.largest_common_error - self.common_error
        maps = []
        for moment in self.of_covers:
            across = moment @ to_source.T
            joint = to_target @ across
            gain = np.linalg.solve(to_source @ across + error, joint.T).T
            variance = ((to_target @ moment) * to_target).sum(axis=1) - (gain * joint).sum(axis=1)
            variance += np.maximum(((gain @ more) * gain).sum(axis=1), 0)
            maps.append((gain * self.band_gain, np.sqrt(np.maximum(variance, 0))))
        seen = to_source @ self.moment @ to_source.T + error
        # the site has corrected the error common to a scene: references still remove a constant, but lower sigma less
        return replace(
            posterior,
            gain=np.concatenate([gain for gain, _ in maps], axis=1).astype(np.float32),
            relative_sigma=np.stack([sigma for _, sigma in maps], axis=1).astype(np.float32),
            precision=(self.share * np.linalg.inv(seen)).astype(np.float32),
            shift=(self.share * posterior.shift).astype(np.float32),
            input_covariance=self.largest_common_error.astype(np.float32),
            error=None,  # `relative_sigma` covers it
        )


@dataclass(frozen=True, eq=False)
class SceneBands:
    """The bands of a scene under a prior and a model of their errors, all for a spectrum of scale 1."""

    prior: SpectralPrior
    priors: tuple[SpectralPrior, ...]
    """One for each map of the posterior (`SpectralPrior.of_covers`)."""
    source: SpectralGrid
    error: InputError | None
    """Known errors of the bands."""
    mean: FloatArray
    """(source band,) of the pixels."""
    second: FloatArray
    """(source band, source band) second moment of the pixels."""
    to_source: FloatArray
    """(source band, wavelength) response."""
    common: FloatArray
    """(source band, source band) covariance of the known errors that all pixels have in common."""
    separate: float
    """Variance of the known error of a pixel."""
    weight: FloatArray
    """(source band,) unknown errors relative to other bands: more in water vapour."""

    @classmethod
    def of(
        cls, prior: SpectralPrior, source: SpectralGrid, measured: Float32Array, error: InputError | None
    ) -> "SceneBands":
        """From the reflectance (pixel, source band) of some pixels."""
        scale = prior.condition(source, source).scale(np.ascontiguousarray(measured.T))
        bands = measured.astype(float) / scale[:, None]
        mean, second = bands.mean(axis=0), bands.T @ bands / len(bands)
        known = error or InputError()
        levels = replace(known, pixel=0.0).relative_variance(np.diag(second))
        common = np.diag(levels) + known.product_covariance(source.wavelength_nm)
        separate = (known.pixel / TYPICAL_SCALE) ** 2
        weight = prior.source_noise(source.wavelength_nm) / prior.noise
        to_source = response_matrix(source, prior.wavelength_nm)
        priors = prior.of_covers(source.wavelength_nm)[1]
        return cls(prior, priors, source, error, mean, second, to_source, common, separate, weight)

    def fits(self, spectra: FloatArray, scale: FloatArray) -> list[SiteFit]:
        """The fit to a site with each share of the prior.

        Parameters
        ----------
        spectra, scale : (spectrum, wavelength) divided by their scale, and (spectrum, 1) this scale.
        """
        mean, second = spectra.mean(axis=0), spectra.T @ spectra / len(spectra)
        shares = CoverShares.of(self.prior.wavelength_nm) if len(self.priors) > 1 else None
        weights = shares.shares((spectra * scale).T) if shares else ()
        of_covers = [_of_cover(spectra, weight, second) for weight in weights] or [second]
        return [self._fit(mean, second, of_covers, share) for share in PRIOR_SHARES]

    def _fit(self, mean: FloatArray, second: FloatArray, of_covers: Sequence[FloatArray], share: float) -> SiteFit:
        """The fit to a site of this mean (wavelength,) and second moment, of all and of each land cover."""
        moment = (1 - share) * second + share * self.prior.second_moment()
        spread = moment - (1 - share) * np.outer(mean, mean)
        distance = np.subtract.outer(self.prior.wavelength_nm, self.prior.wavelength_nm) / PASS_LENGTH_NM
        calibration = (PASS_GAIN**2 * np.outer(mean, mean) + PASS_OFFSET**2) * np.exp(-0.5 * np.square(distance))
        across = calibration @ self.to_source.T
        of_land, of_pass = self.to_source @ spread @ self.to_source.T, self.to_source @ across
        difference = self.mean - self.to_source @ mean

        def of_bands(known_share: float, band_error: float) -> FloatArray:
            return known_share * self.common + np.diag(np.square(band_error * self.weight))

        def evidence(sizes: tuple[float, float, float, float]) -> float:
            surprise = np.log(sizes[3] / EXPECTED_BAND_ERROR) / np.log(BAND_ERROR_RATIO)
            total = sizes[0] * of_land + sizes[1] * of_pass + of_bands(*sizes[2:])
            return _log_likelihood(total, np.outer(difference, difference)) - 0.5 * float(surprise) ** 2

        # Beside known errors of the bands, the difference does not show the size of the pass's error.
        parts = (PASS_SHARES[-1:], KNOWN_SHARES) if self.common.any() else (PASS_SHARES, KNOWN_SHARES[-1:])
        sizes = max(product(CHANGES, *parts, BAND_ERRORS), key=evidence)
        change, pass_share, known_share, band_error = sizes
        calibration, across = pass_share * calibration, pass_share * across
        errors, of_both = of_bands(known_share, band_error), change * of_land + pass_share * of_pass
        precision = np.linalg.inv(of_both + errors)
        pass_part, band_part = across @ precision, errors @ precision
        pass_gain = _bounded(1 + pass_part @ difference / mean)
        band_gain = _bounded(1 - band_part @ difference / self.mean)
        factor, left = np.outer(pass_gain, pass_gain), calibration - pass_part @ across.T
        moment = moment * factor + left
        covers = tuple(
            ((1 - share) * own + share * prior.second_moment()) * factor + left
            for own, prior in zip(of_covers, self.priors, strict=True)
        )
        remaining = errors - band_part @ errors
        full = of_bands(1.0, band_error)
        largest = full - full @ np.linalg.solve(of_both + full, full)
        pixel_error, likelihood = self._pixel_error(moment, remaining, band_gain)
        whole = INDEPENDENT_PIXELS * likelihood + evidence(sizes)
        return SiteFit(self, share, change, whole, moment, covers, remaining, largest, pixel_error, band_gain)

    def _pixel_error(self, moment: FloatArray, common: FloatArray, gain: FloatArray) -> tuple[FloatArray, float]:
        """The likeliest covariance of the errors of a pixel, and the mean log-likelihood of a pixel."""
        second = self.second * np.outer(gain, gain)
        seen = self.to_source @ moment @ self.to_source.T + common
        tried = [np.diag(np.square(size * self.weight) + self.separate) for size in PIXEL_ERRORS]
        likelihoods = [_log_likelihood(seen + one, second) + float(np.log(gain).sum()) for one in tried]
        best = int(np.argmax(likelihoods))
        return tried[best], likelihoods[best]


def fit_site(
    prior: SpectralPrior,
    site: Float32Array,
    source: SpectralGrid,
    measured: Float32Array,
    error: InputError | None = None,
) -> SiteFit:
    """The fit of a prior to a scene by spectra of its site.

    Parameters
    ----------
    site : (spectrum, wavelength) reflectance on the prior's wavelengths, in the order of its pixels, NaN = unknown.
    measured : (pixel, source band) reflectance of pixels of the scene.
    error : known errors of the source's bands.

    Raises
    ------
    DataError : too few spectra with a known brightness.
    """
    usable = np.isfinite(brightness_of(site, prior.wavelength_nm))
    if usable.sum() < MIN_SITE_SPECTRA:
        raise DataError(
            f"{usable.sum()} of the site's {len(site)} spectra are complete between 450 and 2300 nm; "
            f"{MIN_SITE_SPECTRA} or more are needed. Give a cube with more valid pixels and with these bands."
        )
    site = site[usable]
    scale = scale_of(brightness_of(site, prior.wavelength_nm), prior.floor)[:, None]
    spectra = expect(site / scale, prior.second_moment(), prior.noise)
    fits = SceneBands.of(prior, source, measured, error).fits(spectra, scale)
    best = max(fits, key=lambda fit: fit.evidence)
    if best.share <= LARGEST_SHARE and best.change >= OUTSIDE:
        errors = _half_errors(prior, spectra * scale, np.isfinite(site), source)
        number = max(fits.index(best), int(np.argmin(np.square(errors).mean(axis=0))))
        return replace(fits[number], is_used=bool(errors[:, number].max() <= LARGEST_HALF_ERROR))
    return replace(best, is_used=best.share <= LARGEST_SHARE)


def _half_errors(prior: SpectralPrior, spectra: FloatArray, known: BoolArray, source: SpectralGrid) -> FloatArray:
    """(2, fit) RMSE of each half of a site as predicted from the other half, relative to the prior alone.

    Parameters
    ----------
    spectra, known : (spectrum, wavelength) reflectance, complete, and where it was measured.
    """
    halves = slice(len(spectra) // 2), slice(len(spectra) // 2, None)
    scale = scale_of(brightness_of(spectra, prior.wavelength_nm), prior.floor)[:, None]
    errors = []
    for own, other in (halves, halves[::-1]):
        measured = (spectra[other] @ response_matrix(source, prior.wavelength_nm).T).astype(np.float32)
        fits = SceneBands.of(prior, source, measured, None).fits(spectra[own] / scale[own], scale[own])
        posteriors = [prior.condition(source, prior.grid), *(fit.condition(prior.grid) for fit in fits)]
        estimates = (posterior.reconstruct(np.ascontiguousarray(measured.T)).T for posterior in posteriors)
        squares = np.array([np.square(one - spectra[other])[known[other]].mean() for one in estimates])
        errors.append(np.sqrt(squares[1:] / squares[0]))
    return np.array(errors)


def _of_cover(spectra: FloatArray, weights: FloatArray, second: FloatArray) -> FloatArray:
    """(wavelength, wavelength) second moment of a land cover with the weights (spectrum,) of its spectra."""
    some = spectra[weights > 0] * np.sqrt(weights[weights > 0])[:, None]
    moment: FloatArray = (some.T @ some + SPECTRA_OF_ALL * second) / (weights.sum() + SPECTRA_OF_ALL)
    return moment


def _bounded(gain: FloatArray) -> FloatArray:
    bounded: FloatArray = np.clip(gain, 1 / LARGEST_GAIN, LARGEST_GAIN)
    return bounded


def _log_likelihood(covariance: FloatArray, second: FloatArray) -> float:
    """Mean log-likelihood of vectors with this second moment, of mean 0 and this covariance, up to a constant."""
    _, determinant = np.linalg.slogdet(covariance)
    return float(-0.5 * (np.trace(np.linalg.solve(covariance, second)) + determinant))
