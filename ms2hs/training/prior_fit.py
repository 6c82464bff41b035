"""`ms2hs pretrain --preset linear`: the spectral prior, estimated from cubes and spectral libraries.

`gather` reads the data once. `fit` pools the moments of all scenes, libraries, simulated canopies and mixtures by
expectation-maximisation, for all land covers and for each; places that the others predict badly weigh less, since their
products have artefacts. `calibrate` leaves out the scenes of one place at a time, and measures how much wider the
intervals must be there.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.errors import UnknownName
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.models.intervals import UNKNOWN_SCALE, bridge, quantile_over_scenes, scale_needed
from ms2hs.models.moments import Moments, pool
from ms2hs.models.prior import CoverFactors, PlaceSpread, Posterior, SpectralPrior, factorise
from ms2hs.models.weights import save_weights
from ms2hs.spectra.indices import COVERS, LAND
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import response_matrix
from ms2hs.training.prior_evidence import (
    CALIBRATION_SOURCE,
    Evidence,
    PriorSettings,
    SceneEvidence,
    gather,
    library_moments,
)

__all__ = [
    "Evidence",
    "PriorSettings",
    "SceneEvidence",
    "calibrate",
    "fit",
    "gather",
    "place_weights",
    "pretrain_linear",
]

# Least number of places for `trust`: fewer predict each other badly for other reasons than their products' errors.
# Largest factor of the mean weight, and rounds of its estimation.
MIN_PLACES_FOR_TRUST, MOST_TRUST, TRUST_ROUNDS = 8, 3.0, 2
# Bands that are scored for it, and the share of a place's spectra that must have data in a band.
TRUST_TARGET, LEAST_KNOWN = "enmap", 0.9
# Pixels that a scene, or a library of a scene's place, needs for the calibration.
MIN_PIXELS_FOR_CALIBRATION = 200
# Places that a land cover needs for the spread of places, and number of factors of the spread within a place.
LEAST_PLACES, WITHIN_RANK = 4, 16
# Pixels of a scene that a land cover must dominate for a factor of its own.
MIN_PIXELS_OF_COVER = 50


def fit(evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior of all scenes except the places left out, with land covers, without calibration."""
    settings = evidence.settings
    size = len(evidence.wavelength_nm)
    kept = [scene for scene in evidence.scenes if scene.place not in leave_out]
    library = library_moments(evidence.library)
    sets = {kind: [part] for kind, part in evidence.library.items()}
    for scene, weight in zip(kept, place_weights(evidence, kept), strict=True):
        for kind, parts in scene.moments.items():
            sets.setdefault(kind, []).extend(replace(part, weight=part.weight * weight) for part in parts)
    every = [part for parts in sets.values() for part in parts]
    moment = pool(every, library.second, settings.fill_noise, settings.iterations)
    of_covers = []
    for kind in COVERS:
        simulated = [evidence.rare[kind]] if kind in evidence.rare else []
        general = Moments(np.ones(size, bool), moment, settings.general_rare if simulated else settings.general)
        of_cover = [general, *sets.get(kind, []), *simulated]
        of_covers.append(factorise(pool(of_cover, moment, settings.fill_noise, settings.iterations), settings.rank))
    places = {scene.place for scene in kept}
    reach = sum((weight * scene.reach for scene, weight in zip(kept, _shares(kept), strict=True)), np.zeros(size))
    factors, residual = factorise(moment, settings.rank)
    ones = np.ones(size, np.float32)
    return SpectralPrior(
        wavelength_nm=evidence.wavelength_nm.astype(np.float32),
        factors=factors,
        residual=residual,
        reach=(reach / max(len(places), 1)).astype(np.float32),
        sigma_scale=ones,
        shift=0 * ones,
        sample=np.zeros((1, settings.rank), np.float32),
        floor=settings.floor,
        noise=settings.noise,
        covers=CoverFactors(
            factors=np.stack([factors for factors, _ in of_covers]),
            residual=np.stack([residual for _, residual in of_covers]),
            sigma_scale=np.ones((len(COVERS), size), np.float32),
        ),
        places=place_spread(kept),
    )


def place_spread(scenes: Sequence[SceneEvidence]) -> PlaceSpread | None:
    """Means of the land covers and their spread, each place with the same weight; None: too few places of a cover."""
    places = sorted({scene.place for scene in scenes})
    mean, between, within = [], [], []
    for kind in LAND:
        parts = {
            place: [scene.land[kind] for scene in scenes if scene.place == place and kind in scene.land]
            for place in places
        }
        means = {
            place: np.mean([mean for mean, _ in of_place], axis=0) for place, of_place in parts.items() if of_place
        }
        if len(means) < LEAST_PLACES:
            return None
        covariance = np.mean(
            [np.mean([covariance for _, covariance in parts[place]], axis=0) for place in means], axis=0
        )
        mean.append(np.mean(list(means.values()), axis=0))
        between.append([(means.get(place, mean[-1]) - mean[-1]) / np.sqrt(len(means)) for place in places])
        within.append(factorise(covariance.astype(float), WITHIN_RANK)[0])
    return PlaceSpread(np.array(mean), np.array(between).swapaxes(0, 1), np.array(within))


def _shares(scenes: Sequence[SceneEvidence]) -> list[float]:
    """Share of each file in the weight of its place: by the square root of its number of spectra."""
    totals: Counter[str] = Counter()
    for scene in scenes:
        totals[scene.place] += np.sqrt(scene.spectra)
    return [float(np.sqrt(scene.spectra) / totals[scene.place]) for scene in scenes]


def place_weights(evidence: Evidence, scenes: Sequence[SceneEvidence]) -> list[float]:
    """Weight of each file, 1 for a place in the mean; less where the other places' prior errs more.

    The errors of products are common to a scene: they make a prior worse elsewhere, and differ by a factor of four. The
    weight is the inverse of the squared error to the power of `trust`, relative to the geometric mean; scored are the
    bands of `TRUST_TARGET` that the place has.
    """
    shares = _shares(scenes)
    places = sorted({scene.place for scene in scenes})
    if len(places) < MIN_PLACES_FOR_TRUST or evidence.settings.trust == 0:
        return shares
    to_source = response_matrix(load_sensor(CALIBRATION_SOURCE).grid, evidence.wavelength_nm)
    to_target = response_matrix(load_sensor(TRUST_TARGET).grid, evidence.wavelength_nm)
    both = np.vstack([to_source, to_target])
    moments = {place: np.zeros((len(both), len(both))) for place in places}
    known = {place: np.zeros(len(to_target)) for place in places}
    for scene, share in zip(scenes, shares, strict=True):
        moments[scene.place] += share * (both @ scene.whole @ both.T)
        known[scene.place] += share * (to_target @ scene.reach)
    library = library_moments(evidence.library)
    fixed = library.weight * (both @ library.second @ both.T)
    noise = evidence.settings.noise**2 * (len(places) + library.weight)
    weight = dict.fromkeys(places, 1.0)
    for _ in range(TRUST_ROUNDS):
        total = fixed + sum(weight[place] * moments[place] for place in places)
        errors = np.array(
            [
                _error(moments[place], total - weight[place] * moments[place], len(to_source), noise)[
                    known[place] >= LEAST_KNOWN
                ].mean()
                for place in places
            ]
        )
        trust = np.clip((np.exp(np.log(errors).mean()) / errors) ** evidence.settings.trust, MOST_TRUST**-2, MOST_TRUST)
        weight = dict(zip(places, (trust / trust.mean()).tolist(), strict=True))
    return [share * weight[scene.place] for scene, share in zip(scenes, shares, strict=True)]


def _error(truth: FloatArray, moment: FloatArray, count: int, noise: float) -> FloatArray:
    """(target band,) squared error of the expectation by `moment`, of spectra with moment `truth`.

    Both are (band, band) of the source's bands, `count`, and the target's after them; `noise` is a variance.
    """
    gain = np.linalg.solve(moment[:count, :count] + noise * np.eye(count), moment[:count, count:]).T
    seen, across = truth[:count, :count], truth[count:, :count]
    result: FloatArray = np.diag(truth)[count:] + ((gain @ seen - 2 * across) * gain).sum(axis=1)
    return result


def calibrate(prior: SpectralPrior, evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior with `sigma_scale` and `shift`, measured on places of scenes that are left out one at a time.

    `sigma_scale` is, for each wavelength, the 80th percentile over scenes of the factor that makes the 90 % interval
    hold 90 % of the values: the raw posterior is too narrow, since a new scene differs from all others as a whole. It
    is measured for the moment of all covers alone, and for each land cover on pixels that it dominates; a cover of few
    scenes has the factor of all pixels. `shift` is the share of the squared error that half of a scene's pixels, as
    references, remove in the other half.

    Parameters
    ----------
    prior : estimated without the places of `leave_out`.
    """
    source = load_sensor(CALIBRATION_SOURCE).grid
    kept = [scene for scene in evidence.scenes if scene.place not in leave_out]
    factors: list[list[FloatArray]] = []
    for place in sorted({scene.place for scene in kept}):
        fitted = fit(evidence, {*leave_out, place})
        posterior, general = (one.condition(source, prior.grid) for one in (fitted, replace(fitted, covers=None)))
        for scene in kept:
            if scene.place != place or len(scene.measured) < MIN_PIXELS_FOR_CALIBRATION:
                continue
            half = len(scene.measured) // 2
            corrected = posterior.with_references(scene.measured[:half], scene.truth[:half])
            raw = replace(corrected, relative_sigma=posterior.relative_sigma)
            rows = [_scale_needed(scene, one) for one in (general, posterior)]
            rows.append(_scale_needed(scene, raw, slice(half, None)))
            dominant = posterior.shares(scene.measured.T) > 0.5
            factors.append(rows + [_scale_needed(scene, posterior, pixels) for pixels in dominant])
    sample = prior.coefficients(np.concatenate([*(scene.truth[:100] for scene in kept), evidence.library_sample]))
    if not factors:  # no scene to measure on
        return replace(prior, sample=sample)
    of_all, before, after, *of_covers = (quantile_over_scenes(np.array(rows)) for rows in zip(*factors, strict=True))
    shift = np.clip(bridge(1 - np.square(after / before), 1.0), 0, 1)
    calibrated = prior.with_sigma_scale(bridge(of_all, UNKNOWN_SCALE))
    scales = [bridge(np.where(np.isfinite(scale), scale, before), UNKNOWN_SCALE) for scale in of_covers]
    covers = calibrated.covers and replace(calibrated.covers, sigma_scale=np.array(scales, np.float32))
    return replace(calibrated, covers=covers, shift=shift.astype(np.float32), sample=sample)


def _scale_needed(scene: SceneEvidence, posterior: Posterior, pixels: slice | BoolArray = slice(None)) -> FloatArray:
    """(wavelength,) factor with which the 90 % interval holds 90 % of the errors of some pixels; NaN for few pixels."""
    measured, truth = np.ascontiguousarray(scene.measured[pixels].T), scene.truth[pixels].T
    if truth.shape[1] < MIN_PIXELS_OF_COVER:
        return np.full(len(truth), np.nan)
    return scale_needed(truth - posterior.reconstruct(measured), posterior.sigma(measured))


def pretrain_linear(
    folder: Path,
    output: Path,
    settings: PriorSettings | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    leave_out: Collection[str] = (),
    *,
    overwrite: bool = True,
) -> str:
    """Estimate the prior of a folder and write it; the file's SHA-256.

    Parameters
    ----------
    leave_out : places of scenes that are neither trained on nor calibrated on.
    scores : scores of left-out scenes for the card, as benchmarks/places.py measures them.
    overwrite : replace an existing file, though none of the folder.

    Raises
    ------
    DataError, OutputError : raised by `gather` and `save_weights`.
    UnknownName : no such place to leave out.
    """
    inputs = file_ids(files_in([folder]))
    check_output(output, overwrite=overwrite, inputs=inputs)
    settings = settings or PriorSettings()
    evidence = gather(folder, settings)
    if absent := sorted(set(leave_out) - set(evidence.places)):
        raise UnknownName.of("scene", absent[0], evidence.places, "Give one of these to --leave-out.")
    without = "".join(f" --leave-out {place}" for place in leave_out)
    kept = [scene.name for scene in evidence.scenes if scene.place not in leave_out]
    card = {
        "command": f"ms2hs pretrain --model linear --data DIR{without} -o {output.name}",
        "settings": asdict(settings),
        "trained_on": sorted(kept) + sorted(evidence.libraries),
        "scores": {name: dict(values) for name, values in (scores or {}).items()},
    }
    prior = calibrate(fit(evidence, leave_out), evidence, leave_out)
    return save_weights(output, prior, card, overwrite=overwrite, inputs=inputs)
