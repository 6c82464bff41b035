"""Estimating models from spectra: so far the linear one, the spectral prior."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import Corpus, read_corpora, spectra_on
from ms2hs.datasets.simulation.materials import LEFT_OUT, balance, canopies_over
from ms2hs.datasets.simulation.spectra_mixing import mix
from ms2hs.errors import DataError, UnknownName
from ms2hs.models.intervals import bridge, quantile_over_scenes, sigma_needed
from ms2hs.models.moments import Moments, expect, moments_of, pool, scale_of, start
from ms2hs.models.prior import Posterior, SpectralPrior, brightness_of, factorise
from ms2hs.models.weights import save_weights
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.sensors import RANGE_NM, load_sensor
from ms2hs.spectra.spectral_grid import grid_of


@dataclass(frozen=True)
class PriorSettings:
    """How the prior is estimated. The defaults were chosen on inner splits (benchmarks/leave_one_scene_out.py)."""

    step_nm: float = 5.0
    """Spacing of the fine grid."""
    rank: int = 60
    floor: float = 0.2
    """Brightness below which spectra count as equally bright."""
    noise: float = 0.008
    """Relative noise of a source band: between 0.004, best on clean input, and 0.03, best under a product's errors."""
    fill_noise: float = 0.01
    """Relative noise of known values when unknown ones are filled from them."""
    libraries: float = 1.0
    """Weight of the libraries together, in scenes."""
    canopies: float = 2.0
    """Weight of the simulated canopies, in scenes."""
    mixtures: float = 1.0
    """Weight of the mixtures, in scenes."""
    simulated: int = 6000
    """How many canopies, and how many mixtures."""
    pixels: int = 2000
    """How many pixels of each scene the calibration looks at."""
    iterations: int = 2
    seed: int = 0


# The sensor that the calibration looks through.
CALIBRATION_SOURCE = "sentinel2a"

# How often a member of a mixture is a canopy, for each time that it is a library's spectrum.
CANOPY_SHARE = 0.5

# Where no scene tells how sure the posterior may be, it is taken to be this much less sure than beside the gap.
UNKNOWN_SCALE = 1.5

# A scene of fewer pixels, or a library of a scene's family, tells nothing of how sure the posterior may be.
FEWEST_PIXELS = 200


@dataclass(frozen=True, eq=False)
class SceneEvidence:
    """What is kept of one cube: its moments, and some pixels to calibrate on."""

    name: str
    family: str
    moments: tuple[Moments, ...]
    """Weighing 1 together."""
    measured: Float32Array
    """(pixel, source band) as `CALIBRATION_SOURCE` sees them."""
    truth: Float32Array
    """(pixel, wavelength) on the fine grid, NaN = unknown."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the prior is estimated from, read once."""

    settings: PriorSettings
    wavelength_nm: FloatArray
    """(wavelength,) the fine grid, 370-2510 nm."""
    scenes: tuple[SceneEvidence, ...]
    libraries: tuple[str, ...]
    """Names of the libraries."""
    library: Moments
    """Libraries, canopies and mixtures, completed."""
    library_sample: Float32Array
    """(spectrum, wavelength) some of their spectra."""

    @property
    def families(self) -> list[str]:
        """Families of the scenes, sorted."""
        return sorted({scene.family for scene in self.scenes})


def gather(folder: Path, settings: PriorSettings) -> Evidence:
    """Read the corpora of a folder, and simulate canopies and mixtures.

    Raises
    ------
    DataError : no cube, or no library, in the folder.
    """
    rng = np.random.default_rng(settings.seed)
    low, high = RANGE_NM
    wavelength = np.arange(low, high + settings.step_nm / 2, settings.step_nm)
    scenes: list[SceneEvidence] = []
    libraries: list[Corpus] = []
    for corpus in read_corpora(folder):
        if not corpus.is_library:
            scenes.append(_scene(corpus, wavelength, settings, rng))
        elif corpus.name not in LEFT_OUT:
            libraries.append(corpus)
    taken = {scene.family for scene in scenes}
    scenes += [_scene(library, wavelength, settings, rng) for library in libraries if library.family in taken]
    libraries = [library for library in libraries if library.family not in taken]
    if not scenes or not libraries:
        raise DataError(
            f"{folder}: {len(scenes)} cubes and {len(libraries)} libraries; at least one of each is needed. "
            "Add .npz files of them (ms2hs/data/corpora.py says what they hold)."
        )
    names = tuple(library.name for library in libraries)
    library, sample = _library(libraries, wavelength, settings, rng)
    return Evidence(settings, wavelength, tuple(scenes), names, library, sample)


def _scene(
    corpus: Corpus, wavelength_nm: FloatArray, settings: PriorSettings, rng: np.random.Generator
) -> SceneEvidence:
    points = interpolate_known(corpus.reflectance, corpus.wavelength_nm, wavelength_nm)
    usable = np.isfinite(brightness_of(points, wavelength_nm))
    points = points[usable]
    scale = scale_of(brightness_of(points, wavelength_nm), settings.floor)
    moments = tuple(moments_of(points, scale, np.ones(len(points)), 1.0))
    measured, _ = spectra_on(corpus, load_sensor(CALIBRATION_SOURCE).grid, interpolate=True)
    measured = measured[usable]
    chosen = rng.permutation(np.flatnonzero(np.isfinite(measured).all(axis=1)))[: settings.pixels]
    return SceneEvidence(corpus.name, corpus.family, moments, measured[chosen], points[chosen])


def _library(
    libraries: list[Corpus], wavelength_nm: FloatArray, settings: PriorSettings, rng: np.random.Generator
) -> tuple[Moments, Float32Array]:
    """The moments of libraries, canopies and mixtures together, and some of the spectra."""
    points = np.concatenate(
        [interpolate_known(library.reflectance, library.wavelength_nm, wavelength_nm) for library in libraries]
    )
    classes = np.concatenate([library.classes for library in libraries])
    files = np.repeat([library.name for library in libraries], [len(library.reflectance) for library in libraries])
    usable = brightness_of(points, wavelength_nm) > 0.01
    points, classes, weights = points[usable], classes[usable], balance(classes[usable], files[usable])
    scale = scale_of(brightness_of(points, wavelength_nm), settings.floor)
    sets = list(moments_of(points, scale, weights, settings.libraries))
    wanted = settings.simulated if settings.canopies > 0 else 0
    canopies = canopies_over(libraries, wavelength_nm, wanted, rng)
    scale_canopies = scale_of(brightness_of(canopies, wavelength_nm), settings.floor)
    if len(canopies):
        sets += moments_of(canopies, scale_canopies, np.ones(len(canopies)), settings.canopies)
    model = pool(sets, start(sets, settings.fill_noise), settings.fill_noise, settings.iterations)
    whole = scale[:, None] * expect(points / scale[:, None], model, settings.fill_noise)
    sample: list[FloatArray] = [whole[rng.choice(len(whole), size=400, p=weights / weights.sum())]]
    total = settings.libraries + settings.canopies * bool(len(canopies))
    if settings.mixtures > 0:
        whole_canopies = scale_canopies[:, None] * expect(
            canopies / scale_canopies[:, None], model, settings.fill_noise
        )
        mixtures = _mixtures(whole, weights, whole_canopies, settings, rng)
        scale = scale_of(brightness_of(mixtures, wavelength_nm), settings.floor)
        (mixed,) = moments_of(mixtures, scale, np.ones(len(mixtures)), settings.mixtures)
        model = (total * model + settings.mixtures * mixed.second) / (total + settings.mixtures)
        total += settings.mixtures
        sample.append(mixtures[:400])
    return Moments(np.ones(len(wavelength_nm), bool), model, total), np.concatenate(sample).astype(np.float32)


def _mixtures(
    spectra: FloatArray,
    weights: FloatArray,
    canopies: FloatArray,
    settings: PriorSettings,
    rng: np.random.Generator,
) -> Float32Array:
    """(mixture, wavelength) of library spectra and a third as many canopies."""
    some = canopies[: settings.simulated // 3]
    shares = np.concatenate([weights / weights.sum(), np.full(len(some), CANOPY_SHARE / max(len(some), 1))])
    return mix(np.concatenate([spectra, some]).astype(np.float32), shares, settings.simulated, rng)


def fit(evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior of all scenes but those of the families left out, not yet calibrated."""
    settings = evidence.settings
    kept = [scene for scene in evidence.scenes if scene.family not in leave_out]
    families = [scene.family for scene in kept]
    sets = [evidence.library]
    reach = np.zeros(len(evidence.wavelength_nm))
    for scene, family in zip(kept, families, strict=True):
        weight = 1 / families.count(family)
        for part in scene.moments:
            sets.append(replace(part, weight=part.weight * weight))
            reach += part.weight * weight * part.known
    moment = pool(sets, evidence.library.second, settings.fill_noise, settings.iterations)
    factors, residual = factorise(moment, settings.rank)
    ones = np.ones(len(reach), np.float32)
    return SpectralPrior(
        wavelength_nm=evidence.wavelength_nm.astype(np.float32),
        factors=factors,
        residual=residual,
        reach=(reach / max(len(set(families)), 1)).astype(np.float32),
        sigma_scale=ones,
        shift=0 * ones,
        sample=np.zeros((1, settings.rank), np.float32),
        floor=settings.floor,
        noise=settings.noise,
    )


def calibrate(prior: SpectralPrior, evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior with what makes its uncertainty honest, learnt on families of scenes each left out in its turn.

    Per wavelength, `sigma_scale` is the 80th percentile over families of what would make 90 % of a family's values fall
    into the 90 % interval: the raw posterior is too sure, because a new scene differs from all others as a whole.

    Parameters
    ----------
    prior : estimated without the families of `leave_out`.
    """
    source = load_sensor(CALIBRATION_SOURCE).grid
    target = grid_of(evidence.wavelength_nm, np.full(len(evidence.wavelength_nm), 2 * evidence.settings.step_nm))
    widths: list[tuple[FloatArray, FloatArray]] = []
    for family in evidence.families:
        if family in leave_out:
            continue
        conditional = fit(evidence, {*leave_out, family}).condition(source, target)
        for scene in evidence.scenes:
            if scene.family != family or len(scene.measured) < FEWEST_PIXELS:
                continue
            half = len(scene.measured) // 2
            corrected = conditional.with_references(scene.measured[:half], scene.truth[:half])
            before = _sigma_needed(scene, conditional, slice(None))
            after = _sigma_needed(scene, corrected, slice(half, None))
            widths.append((before / conditional.relative_sigma, after / conditional.relative_sigma))
    sample = _sample(prior, evidence, leave_out)
    if not widths:  # of libraries alone: nothing tells how much a scene differs
        return replace(prior, sample=sample)
    shape = (len(widths), 2, len(target))
    scale, mended = (quantile_over_scenes(part) for part in np.moveaxis(np.array(widths).reshape(shape), 1, 0))
    shift = 1 - np.square(mended / scale)
    return replace(
        prior,
        sigma_scale=bridge(scale, UNKNOWN_SCALE).astype(np.float32),
        shift=np.clip(bridge(shift, 1.0), 0, 1).astype(np.float32),
        sample=sample,
    )


def _sigma_needed(scene: SceneEvidence, conditional: Posterior, pixels: slice) -> FloatArray:
    measured = np.ascontiguousarray(scene.measured[pixels].T)
    error = scene.truth[pixels] - conditional.reconstruct(measured).T
    return sigma_needed(error, conditional.scale(measured))


def _sample(prior: SpectralPrior, evidence: Evidence, leave_out: Collection[str]) -> Float32Array:
    """(spectrum, rank) training spectra of scale 1, as coefficients of the prior's factors."""
    kept = [scene.truth[:100] for scene in evidence.scenes if scene.family not in leave_out]
    return prior.coefficients(np.concatenate([*kept, evidence.library_sample]))


def estimate_prior(folder: Path, settings: PriorSettings | None = None) -> SpectralPrior:
    """The calibrated prior of all corpora of a folder.

    Raises
    ------
    DataError : the folder lacks cubes or libraries, or one cannot be read; or prosail is not installed.
    """
    evidence = gather(folder, settings or PriorSettings())
    return calibrate(fit(evidence), evidence)


def pretrain_linear(
    folder: Path,
    output: Path,
    settings: PriorSettings | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    leave_out: Collection[str] = (),
) -> str:
    """Estimate the prior of a folder and write it; returns the file's SHA-256. What `ms2hs pretrain` calls.

    Parameters
    ----------
    leave_out : families of scenes that are neither learnt from nor calibrated on.
    scores : what the card says of left-out scenes, such as benchmarks/leave_one_scene_out.py measures.

    Raises
    ------
    DataError, WeightsError : as `gather` and `save_weights` say.
    UnknownName : no such family to leave out.
    """
    settings = settings or PriorSettings()
    evidence = gather(folder, settings)
    if absent := sorted(set(leave_out) - set(evidence.families)):
        raise UnknownName.of("scene", absent[0], evidence.families, "Give scenes that are there to --leave-out.")
    without = "".join(f" --leave-out {family}" for family in leave_out)
    kept = [scene.name for scene in evidence.scenes if scene.family not in leave_out]
    card = {
        "command": f"ms2hs pretrain --model linear --data DIR{without} -o {output.name}",
        "settings": asdict(settings),
        "trained_on": sorted(kept) + sorted(evidence.libraries),
        "scores": {name: dict(found) for name, found in (scores or {}).items()},
    }
    return save_weights(output, calibrate(fit(evidence, leave_out), evidence, leave_out), card)
