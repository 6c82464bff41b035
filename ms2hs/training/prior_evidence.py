"""Evidence for the spectral prior by land cover: moments of cubes, points, libraries, simulated surfaces and mixtures.

They are kept for each file, so that fits without a place, or of one land cover, cost little.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import SpectraFile, read_spectra_folder, spectra_on
from ms2hs.datasets.simulation.materials import UNUSED_LIBRARIES, balance, canopies_over
from ms2hs.datasets.simulation.spectra_mixing import mix
from ms2hs.datasets.simulation.surfaces import simulate_snow, simulate_water, simulate_wet_soils
from ms2hs.errors import DataError
from ms2hs.models.moments import Moments, complete, expect, moments_of, pool, scale_of, start
from ms2hs.models.prior import brightness_of
from ms2hs.spectra.indices import COVERS, LAND, CoverShares
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.sensors import RANGE_NM, load_sensor


@dataclass(frozen=True)
class PriorSettings:
    """Settings of the estimation, chosen by leaving places out (benchmarks/places.py)."""

    step_nm: float = 5.0
    """Spacing of the prior's wavelengths."""
    rank: int = 60
    floor: float = 0.2
    """Brightness below which spectra count as equally bright."""
    noise: float = 0.008
    """Relative noise of a source band: between 0.004, best on clean input, and 0.03, best with a product's errors."""
    fill_noise: float = 0.01
    """Relative noise of known values when unknown ones are filled from them."""
    libraries: float = 3.0
    """Weight of all libraries together, in scenes."""
    canopies: float = 2.0
    """Weight of the simulated canopies, in scenes."""
    mixtures: float = 1.0
    """Weight of the mixtures, in scenes."""
    wet_soils: float = 0.2
    """Weight of the simulated wet soils, in scenes."""
    water: float = 1.0
    """Weight of simulated water in the prior of water (and of snow, for turbid water); 0 in that of all covers."""
    snow: float = 0.3
    """The same for simulated snow."""
    cover_share: float = 0.5
    """Exponent of a land cover's share of a scene in its weight: 1 weighs pixels alike, 0 covers."""
    trust: float = 0.75
    """Exponent of the weight of a place, by the inverse of the squared error of the other places' prior; 0: none."""
    general: float = 1.0
    """Weight of the prior of all land covers in the prior of one, in scenes."""
    general_rare: float = 0.1
    """The same for water and snow, if they are simulated."""
    simulated: int = 6000
    """Number of canopies, and number of mixtures; a third of it of wet soils, water and snow."""
    pixels: int = 2000
    """Pixels of each scene for the calibration."""
    iterations: int = 2
    seed: int = 0


# Land covers of which few spectra were measured: simulated ones count for them, but not for the prior of all covers.
RARE_COVERS = ("water", "snow")
# Source sensor of the calibration.
CALIBRATION_SOURCE = "sentinel2a"
# Probability of a canopy relative to a library spectrum, as a member of a mixture.
CANOPY_SHARE = 0.5
# Least share of a land cover in a scene that counts for `cover_share`.
LEAST_SHARE = 0.002
# Least number of a scene's spectra, and share of them, for the mean spectrum of a land cover.
LEAST_SPECTRA, LEAST_COVER = 8, 0.01


@dataclass(frozen=True, eq=False)
class SceneEvidence:
    """Moments of one cube, and some of its pixels for the calibration."""

    name: str
    place: str
    """Cubes of one place are left out together."""
    spectra: int
    """Number of spectra in the file."""
    moments: Mapping[str, tuple[Moments, ...]]
    """By land cover, with a total weight of 1."""
    whole: FloatArray
    """(wavelength, wavelength) their sum, completed by the expectation of the libraries."""
    measured: Float32Array
    """(pixel, source band) simulated bands of `CALIBRATION_SOURCE`."""
    truth: Float32Array
    """(pixel, wavelength) on the prior's wavelengths, NaN = unknown."""
    land: Mapping[str, tuple[Float32Array, Float32Array]]
    """By cover of `LAND`: (wavelength,) mean of these pixels, scaled to 1, and (wavelength, wavelength) covariance."""

    @property
    def reach(self) -> FloatArray:
        """(wavelength,) share, 0-1, of the scene with data there."""
        return sum(
            (part.weight * part.known for parts in self.moments.values() for part in parts), np.zeros(len(self.whole))
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """Moments of all data that the prior is estimated from."""

    settings: PriorSettings
    wavelength_nm: FloatArray
    """(wavelength,) the prior's wavelengths, 370-2510 nm."""
    scenes: tuple[SceneEvidence, ...]
    libraries: tuple[str, ...]
    """Names of the libraries."""
    library: Mapping[str, Moments]
    """By land cover: moments of libraries, canopies and mixtures together, with all wavelengths known."""
    rare: Mapping[str, Moments]
    """By land cover of `RARE_COVERS`: moments of simulated water and snow, which count for these covers only."""
    library_sample: Float32Array
    """(spectrum, wavelength) sample of the library spectra and mixtures."""

    @property
    def places(self) -> list[str]:
        """Places of the scenes, sorted."""
        return sorted({scene.place for scene in self.scenes})


def gather(folder: Path, settings: PriorSettings, without: Collection[str] = ()) -> Evidence:
    """Read the cubes, points and libraries of a folder; simulate canopies, water, snow and mixtures.

    Parameters
    ----------
    without : beginnings of the names of files that are not used.

    Raises
    ------
    DataError : no cube, or no library, in the folder; prosail is not installed.
    """
    rng = np.random.default_rng(settings.seed)
    low, high = RANGE_NM
    wavelength = np.arange(low, high + settings.step_nm / 2, settings.step_nm)
    unused = (*UNUSED_LIBRARIES, *without)
    files = [file for file in read_spectra_folder(folder) if not file.name.startswith(unused)]
    places = {file.place for file in files if not file.is_library}
    libraries = [file for file in files if file.is_library and file.place not in places]
    if not places or not libraries:
        raise DataError(
            f"{folder}: {sum(not file.is_library for file in files)} cubes and {len(libraries)} libraries; at least "
            "one of each is needed. Add .npz files (their format: ms2hs/datasets/cubes/spectra_npz.py)."
        )
    library, rare, sample = _library(libraries, wavelength, settings, rng)
    filled = library_moments(library).second
    of_places = (file for file in files if file.place in places)
    scenes = tuple(_scene(file, wavelength, filled, settings, rng) for file in of_places)
    names = tuple(dict.fromkeys(file.name for file in libraries))
    return Evidence(settings, wavelength, scenes, names, library, rare, sample)


def _whole(parts: Iterable[Moments], model: FloatArray, noise: float) -> FloatArray:
    """(wavelength, wavelength) weighted sum of moments, each completed by the expectation of `model`."""
    result = np.zeros_like(model)
    for part in parts:
        result += part.weight * complete(part, model, noise)
    return result


def library_moments(library: Mapping[str, Moments]) -> Moments:
    """The moments of all land covers together."""
    weight = sum(part.weight for part in library.values())
    second = sum((part.weight * part.second for part in library.values()), np.zeros(1)) / weight
    return Moments(np.ones(len(second), bool), second, weight)


def _shares(spectra: FloatArray, wavelength_nm: FloatArray) -> dict[str, FloatArray]:
    """(spectrum,) share of each land cover in spectra (spectrum, wavelength); `unknown`: a band for it is unknown."""
    covers = CoverShares.of(wavelength_nm)
    assert covers is not None  # noqa: S101  the prior's wavelengths include the bands for it
    shares = np.array(covers.shares(spectra.T.astype(float)))
    known = np.isfinite(shares).all(axis=0)
    return dict(zip((*COVERS, "unknown"), (*np.where(known, shares, 0), 1.0 - known), strict=True))


def _scene(
    corpus: SpectraFile,
    wavelength_nm: FloatArray,
    filled: FloatArray,
    settings: PriorSettings,
    rng: np.random.Generator,
) -> SceneEvidence:
    points = interpolate_known(corpus.reflectance, corpus.wavelength_nm, wavelength_nm)
    brightness = brightness_of(points, wavelength_nm)
    usable = np.isfinite(brightness)
    points, scale = points[usable], scale_of(brightness[usable], settings.floor)
    shares = _shares(points, wavelength_nm)
    weights = sum(
        (share * max(share.mean(), LEAST_SHARE) ** (settings.cover_share - 1) for share in shares.values()),
        np.zeros(len(points)),
    )
    weights /= weights.sum()
    moments = {
        kind: tuple(moments_of(points, scale, weights * share, float(weights @ share)))
        for kind, share in shares.items()
        if share.any()
    }
    whole = _whole(chain.from_iterable(moments.values()), filled, settings.fill_noise)
    measured, _ = spectra_on(corpus, load_sensor(CALIBRATION_SOURCE).grid, interpolate=True)
    measured = measured[usable]
    chosen = rng.permutation(np.flatnonzero(np.isfinite(measured).all(axis=1)))[: settings.pixels]
    spectra = _completed(points[chosen], scale[chosen], filled, settings.fill_noise) / scale[chosen, None]
    land = _spread(spectra, {kind: shares[kind][chosen] for kind in LAND})
    return SceneEvidence(corpus.name, corpus.place, len(points), moments, whole, measured[chosen], points[chosen], land)


def _spread(spectra: FloatArray, shares: Mapping[str, FloatArray]) -> dict[str, tuple[Float32Array, Float32Array]]:
    """Mean and covariance of spectra (spectrum, wavelength) by cover; covers with few spectra are left out."""
    least = max(LEAST_SPECTRA, LEAST_COVER * len(spectra))
    covers = {kind: share for kind, share in shares.items() if share.sum() > least}
    means = {kind: share @ spectra / share.sum() for kind, share in covers.items()}
    deviation = spectra - sum((np.outer(share, means[kind]) for kind, share in covers.items()), np.zeros(1))
    return {
        kind: (means[kind].astype(np.float32), ((deviation.T * share) @ deviation / share.sum()).astype(np.float32))
        for kind, share in covers.items()
    }


_Part = tuple[FloatArray, FloatArray, FloatArray]
"""(spectrum, wavelength) with unknown values and without, and (spectrum,) weights."""


def _library(
    libraries: list[SpectraFile], wavelength_nm: FloatArray, settings: PriorSettings, rng: np.random.Generator
) -> tuple[dict[str, Moments], dict[str, Moments], Float32Array]:
    """Moments of libraries, canopies and mixtures, and of `rare` covers; (spectrum, wavelength) a sample of spectra."""

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
    whole_canopies = _completed(canopies, scale_for(canopies), model, settings.fill_noise)
    sample: list[FloatArray] = [whole[rng.choice(len(whole), size=400, p=weights / weights.sum())]]
    parts: list[_Part] = [
        (points, whole, weights * (settings.libraries / weights.sum())),
        (canopies, whole_canopies, np.full(len(canopies), settings.canopies / max(len(canopies), 1))),
    ]
    if settings.mixtures > 0:
        some = whole_canopies[: settings.simulated // 3]
        shares = np.concatenate([weights / weights.sum(), np.full(len(some), CANOPY_SHARE / max(len(some), 1))])
        mixtures = mix(np.concatenate([whole, some]).astype(np.float32), shares, settings.simulated, rng)
        parts.append((mixtures, mixtures, np.full(len(mixtures), settings.mixtures / len(mixtures))))
        sample.append(mixtures[:400])
    soils = whole[classes == "soil"] if (classes == "soil").any() else whole
    rare: list[_Part] = []
    count = settings.simulated // 3
    for weight, simulate, into in (
        (settings.wet_soils, simulate_wet_soils, parts),
        (settings.water, simulate_water, rare),
        (settings.snow, simulate_snow, rare),
    ):
        if weight > 0:
            spectra = simulate(soils, wavelength_nm, count, rng)
            into.append((spectra, spectra, np.full(count, weight / count)))
    of_library, of_rare = (_moments_of_parts(some, wavelength_nm, model, settings) for some in (parts, rare))
    rare_moments = {kind: of_rare[kind] for kind in RARE_COVERS if kind in of_rare}
    return of_library, rare_moments, np.concatenate(sample).astype(np.float32)


def _moments_of_parts(
    parts: Iterable[_Part], wavelength_nm: FloatArray, model: FloatArray, settings: PriorSettings
) -> dict[str, Moments]:
    """By land cover: moments of all parts together, completed by the expectation of `model`."""
    sums: dict[str, tuple[FloatArray, float]] = {}
    for measured, completed, share in parts:
        scale = scale_of(brightness_of(measured, wavelength_nm), settings.floor)
        for kind, of_kind in _shares(completed, wavelength_nm).items():
            weight = float(share @ of_kind)
            if weight > 0:
                found = moments_of(measured, scale, share * of_kind, weight)
                total, before = sums.get(kind, (np.zeros_like(model), 0.0))
                sums[kind] = total + _whole(found, model, settings.fill_noise), before + weight
    known = np.ones(len(wavelength_nm), bool)
    return {kind: Moments(known, total / weight, weight) for kind, (total, weight) in sums.items()}


def _completed(spectra: FloatArray, scale: FloatArray, model: FloatArray, noise: float) -> FloatArray:
    """(spectrum, wavelength) spectra with each NaN replaced by the expectation of `model`."""
    return scale[:, None] * expect(spectra / scale[:, None], model, noise)
