"""`ms2hs pretrain --preset linear`: the spectral prior, estimated from cubes and spectral libraries.

`gather` reads the data once and keeps their moments, so that fits without a scene cost little. `fit` pools the moments
of all scenes, libraries, simulated canopies and mixtures by expectation-maximisation. `calibrate` leaves out the scenes
of one place at a time, and measures how much wider the intervals must be there.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import SpectraFile, read_spectra_folder, spectra_on
from ms2hs.datasets.simulation.materials import UNUSED_LIBRARIES, balance, canopies_over
from ms2hs.datasets.simulation.spectra_mixing import mix
from ms2hs.errors import DataError, UnknownName
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.models.intervals import UNKNOWN_SCALE, bridge, quantile_over_scenes, sigma_needed
from ms2hs.models.moments import Moments, expect, moments_of, pool, scale_of, start
from ms2hs.models.prior import Posterior, SpectralPrior, brightness_of, factorise
from ms2hs.models.weights import save_weights
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.sensors import RANGE_NM, load_sensor


@dataclass(frozen=True)
class PriorSettings:
    """Settings of the estimation. The defaults were chosen on inner splits (benchmarks/leave_one_scene_out.py)."""

    step_nm: float = 5.0
    """Spacing of the prior's wavelengths."""
    rank: int = 60
    floor: float = 0.2
    """Brightness below which spectra count as equally bright."""
    noise: float = 0.008
    """Relative noise of a source band: between 0.004, best on clean input, and 0.03, best with a product's errors."""
    fill_noise: float = 0.01
    """Relative noise of known values when unknown ones are filled from them."""
    libraries: float = 1.0
    """Weight of all libraries together, in scenes."""
    canopies: float = 2.0
    """Weight of the simulated canopies, in scenes."""
    mixtures: float = 1.0
    """Weight of the mixtures, in scenes."""
    simulated: int = 6000
    """Number of canopies, and number of mixtures."""
    pixels: int = 2000
    """Pixels of each scene for the calibration."""
    iterations: int = 2
    seed: int = 0


# Source sensor of the calibration.
CALIBRATION_SOURCE = "sentinel2a"
# Probability of a canopy relative to a library spectrum, as a member of a mixture.
CANOPY_SHARE = 0.5
# Pixels that a scene, or a library of a scene's place, needs for the calibration.
MIN_PIXELS_FOR_CALIBRATION = 200


@dataclass(frozen=True, eq=False)
class SceneEvidence:
    """Moments of one cube, and some of its pixels for the calibration."""

    name: str
    place: str
    """Cubes of one place are left out together."""
    moments: tuple[Moments, ...]
    """With a total weight of 1."""
    measured: Float32Array
    """(pixel, source band) simulated bands of `CALIBRATION_SOURCE`."""
    truth: Float32Array
    """(pixel, wavelength) on the prior's wavelengths, NaN = unknown."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Moments of all data that the prior is estimated from."""

    settings: PriorSettings
    wavelength_nm: FloatArray
    """(wavelength,) the prior's wavelengths, 370-2510 nm."""
    scenes: tuple[SceneEvidence, ...]
    libraries: tuple[str, ...]
    """Names of the libraries."""
    library: Moments
    """Moments of libraries, canopies and mixtures together, with all wavelengths known."""
    library_sample: Float32Array
    """(spectrum, wavelength) sample of the library spectra and mixtures."""

    @property
    def places(self) -> list[str]:
        """Places of the scenes, sorted."""
        return sorted({scene.place for scene in self.scenes})


def gather(folder: Path, settings: PriorSettings) -> Evidence:
    """Read the cubes and libraries of a folder, and simulate canopies and mixtures.

    Raises
    ------
    DataError : no cube, or no library, in the folder; prosail is not installed.
    """
    rng = np.random.default_rng(settings.seed)
    low, high = RANGE_NM
    wavelength = np.arange(low, high + settings.step_nm / 2, settings.step_nm)
    scenes: list[SceneEvidence] = []
    libraries: list[SpectraFile] = []
    for corpus in read_spectra_folder(folder):
        if not corpus.is_library:
            scenes.append(_scene(corpus, wavelength, settings, rng))
        elif corpus.name not in UNUSED_LIBRARIES:
            libraries.append(corpus)
    places = {scene.place for scene in scenes}
    scenes += [_scene(library, wavelength, settings, rng) for library in libraries if library.place in places]
    libraries = [library for library in libraries if library.place not in places]
    if not scenes or not libraries:
        raise DataError(
            f"{folder}: {len(scenes)} cubes and {len(libraries)} libraries; at least one of each is needed. "
            "Add .npz files (their format: ms2hs/datasets/cubes/spectra_npz.py)."
        )
    names = tuple(library.name for library in libraries)
    library, sample = _library(libraries, wavelength, settings, rng)
    return Evidence(settings, wavelength, tuple(scenes), names, library, sample)


def _scene(
    corpus: SpectraFile, wavelength_nm: FloatArray, settings: PriorSettings, rng: np.random.Generator
) -> SceneEvidence:
    points = interpolate_known(corpus.reflectance, corpus.wavelength_nm, wavelength_nm)
    brightness = brightness_of(points, wavelength_nm)
    usable = np.isfinite(brightness)
    points = points[usable]
    moments = tuple(moments_of(points, scale_of(brightness[usable], settings.floor), np.ones(len(points)), 1.0))
    measured, _ = spectra_on(corpus, load_sensor(CALIBRATION_SOURCE).grid, interpolate=True)
    measured = measured[usable]
    chosen = rng.permutation(np.flatnonzero(np.isfinite(measured).all(axis=1)))[: settings.pixels]
    return SceneEvidence(corpus.name, corpus.place, moments, measured[chosen], points[chosen])


def _library(
    libraries: list[SpectraFile], wavelength_nm: FloatArray, settings: PriorSettings, rng: np.random.Generator
) -> tuple[Moments, Float32Array]:
    """Moments of libraries, canopies and mixtures together, and (spectrum, wavelength) a sample of the spectra."""

    def scale_for(spectra: FloatArray) -> FloatArray:
        return scale_of(brightness_of(spectra, wavelength_nm), settings.floor)

    on_grid = [interpolate_known(library.reflectance, library.wavelength_nm, wavelength_nm) for library in libraries]
    points = np.concatenate(on_grid)
    classes = np.concatenate([library.classes for library in libraries])
    files = np.repeat([library.name for library in libraries], [len(library.reflectance) for library in libraries])
    usable = brightness_of(points, wavelength_nm) > 0.01
    points, classes, weights = points[usable], classes[usable], balance(classes[usable], files[usable])
    sets = list(moments_of(points, scale_for(points), weights, settings.libraries))
    canopies = canopies_over(libraries, wavelength_nm, settings.simulated if settings.canopies > 0 else 0, rng)
    if len(canopies):
        sets += moments_of(canopies, scale_for(canopies), np.ones(len(canopies)), settings.canopies)
    model = pool(sets, start(sets, settings.fill_noise), settings.fill_noise, settings.iterations)
    whole = _completed(points, scale_for(points), model, settings.fill_noise)
    sample: list[FloatArray] = [whole[rng.choice(len(whole), size=400, p=weights / weights.sum())]]
    total = settings.libraries + settings.canopies * bool(len(canopies))
    if settings.mixtures > 0:
        whole_canopies = _completed(canopies, scale_for(canopies), model, settings.fill_noise)
        some = whole_canopies[: settings.simulated // 3]
        shares = np.concatenate([weights / weights.sum(), np.full(len(some), CANOPY_SHARE / max(len(some), 1))])
        mixtures = mix(np.concatenate([whole, some]).astype(np.float32), shares, settings.simulated, rng)
        (mixed,) = moments_of(mixtures, scale_for(mixtures), np.ones(len(mixtures)), settings.mixtures)
        model = (total * model + settings.mixtures * mixed.second) / (total + settings.mixtures)
        total += settings.mixtures
        sample.append(mixtures[:400])
    return Moments(np.ones(len(wavelength_nm), bool), model, total), np.concatenate(sample).astype(np.float32)


def _completed(spectra: FloatArray, scale: FloatArray, model: FloatArray, noise: float) -> FloatArray:
    """(spectrum, wavelength) spectra with each NaN replaced by the expectation of `model`."""
    return scale[:, None] * expect(spectra / scale[:, None], model, noise)


def fit(evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior of all scenes except the places left out, without calibration."""
    settings = evidence.settings
    kept = [scene for scene in evidence.scenes if scene.place not in leave_out]
    cubes = Counter(scene.place for scene in kept)
    sets = [replace(part, weight=part.weight * (1 / cubes[scene.place])) for scene in kept for part in scene.moments]
    reach = sum((part.weight * part.known for part in sets), np.zeros(len(evidence.wavelength_nm)))
    moment = pool([evidence.library, *sets], evidence.library.second, settings.fill_noise, settings.iterations)
    factors, residual = factorise(moment, settings.rank)
    ones = np.ones(len(reach), np.float32)
    return SpectralPrior(
        wavelength_nm=evidence.wavelength_nm.astype(np.float32),
        factors=factors,
        residual=residual,
        reach=(reach / max(len(cubes), 1)).astype(np.float32),
        sigma_scale=ones,
        shift=0 * ones,
        sample=np.zeros((1, settings.rank), np.float32),
        floor=settings.floor,
        noise=settings.noise,
    )


def calibrate(prior: SpectralPrior, evidence: Evidence, leave_out: Collection[str] = ()) -> SpectralPrior:
    """The prior with `sigma_scale` and `shift`, measured on places of scenes that are left out one at a time.

    `sigma_scale` is, for each wavelength, the 80th percentile over places of the factor that makes the 90 % interval
    hold 90 % of the values: the raw posterior is too narrow, since a new scene differs from all others as a whole.
    `shift` is the share of the squared error that half of a scene's pixels, as references, remove in the other half.

    Parameters
    ----------
    prior : estimated without the places of `leave_out`.
    """
    source = load_sensor(CALIBRATION_SOURCE).grid
    kept = [scene for scene in evidence.scenes if scene.place not in leave_out]
    factors: list[tuple[FloatArray, FloatArray]] = []
    for place in sorted({scene.place for scene in kept}):
        posterior = fit(evidence, {*leave_out, place}).condition(source, prior.grid)
        for scene in kept:
            if scene.place != place or len(scene.measured) < MIN_PIXELS_FOR_CALIBRATION:
                continue
            half = len(scene.measured) // 2
            corrected = posterior.with_references(scene.measured[:half], scene.truth[:half])
            before = _sigma_needed(scene, posterior, slice(None))
            after = _sigma_needed(scene, corrected, slice(half, None))
            factors.append((before / posterior.relative_sigma, after / posterior.relative_sigma))
    sample = prior.coefficients(np.concatenate([*(scene.truth[:100] for scene in kept), evidence.library_sample]))
    if not factors:  # no scene to measure on
        return replace(prior, sample=sample)
    scale, corrected_scale = (quantile_over_scenes(np.array(part)) for part in zip(*factors, strict=True))
    shift = 1 - np.square(corrected_scale / scale)
    return replace(
        prior,
        sigma_scale=bridge(scale, UNKNOWN_SCALE).astype(np.float32),
        shift=np.clip(bridge(shift, 1.0), 0, 1).astype(np.float32),
        sample=sample,
    )


def _sigma_needed(scene: SceneEvidence, posterior: Posterior, pixels: slice) -> FloatArray:
    """(wavelength,) relative sigma whose 90 % interval holds 90 % of the errors of these pixels."""
    measured = np.ascontiguousarray(scene.measured[pixels].T)
    error = scene.truth[pixels] - posterior.reconstruct(measured).T
    return sigma_needed(error, posterior.scale(measured))


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
    scores : scores of left-out scenes for the card, as benchmarks/leave_one_scene_out.py measures them.
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
