"""The prior refitted to spectra of more scenes, in closed form."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.models.moments import Moments, moments_of, pool, scale_of
from ms2hs.models.prior import SpectralPrior, brightness_of, factorise

# What the prior was pooled from, in scenes: ten scenes, and libraries, canopies and mixtures that weigh four.
SCENES_BEFORE = 14.0
# Relative noise of known values when unknown ones are filled from them, and rounds of filling.
FILL_NOISE, ROUNDS = 0.01, 2
# Spectra of each scene that are kept to tell the unlike by.
KEPT = 100


def refit(prior: SpectralPrior, scenes: Sequence[Float32Array], noise: float) -> SpectralPrior:
    """The prior with the second moments of more scenes pooled in, each weighing one.

    Parameters
    ----------
    scenes : of each (spectrum, wavelength) reflectance on the prior's wavelengths, NaN = unknown.
    noise : standard deviation of a source band, relative to a spectrum's scale, found beside that of the prior.
    """
    before = prior.second_moment()
    size = len(prior.wavelength_nm)
    sets = [Moments(np.ones(size, bool), before, SCENES_BEFORE)]
    reach, sample = SCENES_BEFORE * prior.reach.astype(float), [prior.sample]
    for spectra in scenes:
        brightness = brightness_of(spectra, prior.wavelength_nm)
        usable = np.isfinite(brightness)
        if not usable.any():
            continue
        points = spectra[usable]
        parts = list(moments_of(points, scale_of(brightness[usable], prior.floor), np.ones(len(points)), 1.0))
        sets += parts
        reach += sum(part.weight * part.known for part in parts)
        sample.append(prior.coefficients(points[:: max(1, len(points) // KEPT)][:KEPT]))
    moment = pool(sets, before, FILL_NOISE, ROUNDS)
    factors, residual = factorise(moment, prior.factors.shape[1])
    refitted = replace(
        prior,
        factors=factors,
        residual=residual,
        reach=(reach / (SCENES_BEFORE + len(scenes))).astype(np.float32),
        noise=float(np.hypot(prior.noise, noise)),
    )
    # the coefficients are of other factors now: what they stand for is brought over
    spectra = np.concatenate(sample) @ prior.factors.T
    return replace(refitted, sample=_coefficients(refitted, spectra))


def _coefficients(prior: SpectralPrior, scaled: Float32Array) -> Float32Array:
    """(spectrum, rank) of spectra (spectrum, wavelength) of scale 1."""
    deviation = np.sqrt(prior.residual.astype(float) + prior.noise**2)
    factors = prior.factors.astype(float) / deviation[:, None]
    inner = factors.T @ factors + np.eye(factors.shape[1])
    solved: Float32Array = np.linalg.solve(inner, factors.T @ (scaled / deviation).T).T.astype(np.float32)
    return solved
