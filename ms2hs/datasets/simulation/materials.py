"""What land is made of: spectra of a data folder, or a prior's own, weighted by how much of the land they cover."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import SpectraFile, read_spectra_folder
from ms2hs.datasets.simulation.spectra_mixing import CANOPY_WAVELENGTH_NM, simulate_canopies
from ms2hs.errors import DataError
from ms2hs.models.moments import expect, moments_of, pool, scale_of, start
from ms2hs.models.prior import SpectralPrior, brightness_of
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

# Libraries that say nothing new or mislead: resamplings of spectra that are there already, and single leaves, which
# are no canopies (the simulated canopies stand for them).
LEFT_OUT = (
    "usgs_splib06_aviris2018",
    "usgs_splib06_emit",
    "usgs_splib06_emit_research",
    "usgs_splib07_aviris95",
    "parthenium_veg",
    "pecan_testspec_leaf",
    "spectratrait_ely_crops",
    "spectrolab_leaf",
)
# How much the spectra of a class count together: about what of the land they cover.
CLASS_WEIGHTS = {
    "vegetation": 1.0,
    "soil": 1.0,
    "urban": 1.0,
    "npv": 0.6,
    "water": 0.3,
    "mineral": 0.2,
    "snow": 0.2,
    "other": 0.2,
}
# The fine grid that scenes are simulated on.
FINE_NM = np.arange(400.0, 2501.0, 10.0)
FINE_FWHM_NM = 10.0
# What counts beside a scene, which counts 1; and how many are taken.
LIBRARIES, CANOPIES = 3.0, 2.0
CANOPY_COUNT, SCENE_PIXELS = 2000, 1000
# As in the prior's estimation: relative noise of known values when unknown ones are filled, and brightness floor.
FILL_NOISE, FLOOR = 0.01, 0.2
# The darkest surface kept, in mean reflectance; clear water has 0.01.
DARKEST = 0.002
# What has at least this NDVI counts as vegetation: above 0.5 pixels are called fully vegetated, below 0.2 bare (Sobrino
# et al. 2004, doi 10.1016/j.rse.2004.02.003).
LEAST_NDVI = 0.45
# A prior's sample is of scale 1; its brightness relative to that tells the true one, well below 1.
BRIGHTEST_SHARE = 0.95


@dataclass(frozen=True, eq=False)
class Spectra:
    """What scenes are made of."""

    wavelength_nm: FloatArray
    """(wavelength,) ascending, in nm."""
    reflectance: Float32Array
    """(spectrum, wavelength) unitless, finite, not negative."""
    weights: FloatArray
    """(spectrum,) how often each is drawn, any sum."""
    classes: tuple[str, ...] = ()
    """(spectrum,) out of `CLASS_WEIGHTS`; none where nothing is known."""

    def __post_init__(self) -> None:
        """Refuse spectra whose parts disagree."""
        count = len(self.weights)
        if self.reflectance.shape != (count, len(self.wavelength_nm)) or len(self.classes) not in {0, count}:
            raise ValueError("reflectance must be (spectrum, wavelength), weights and classes one a spectrum")
        if not np.isfinite(self.reflectance).all() or not np.all(np.diff(self.wavelength_nm) > 0):
            raise ValueError("reflectance must be finite, wavelengths ascending")

    @cached_property
    def grid(self) -> SpectralGrid:
        """The wavelengths as bands of `FINE_FWHM_NM`."""
        return grid_of(self.wavelength_nm, np.full(len(self.wavelength_nm), FINE_FWHM_NM))

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        """(spectrum,) the class of each; told from the spectrum where unknown, and for water and snow."""
        told = kinds_of(self.reflectance, self.grid)
        if not self.classes:
            return told
        named = np.array(self.classes)
        certain = np.isin(named, list(CLASS_WEIGHTS)) & ~np.isin(named, ["water", "snow"])
        kinds: NDArray[np.str_] = np.where(certain, named, told)
        return kinds


def kinds_of(reflectance: Float32Array, grid: SpectralGrid) -> NDArray[np.str_]:
    """(spectrum,) `water`, `snow`, `vegetation` or else `soil`, as indices of spectra (spectrum, band) tell."""
    bands = reflectance.T
    red, nir = (bands[np.abs(grid.wavelength_nm - nm).argmin()] for nm in (670.0, 860.0))
    green = (nir - red) / np.maximum(nir + red, 1e-3) > LEAST_NDVI
    return np.select([*water_and_snow(bands, grid), green], ["water", "snow", "vegetation"], default="soil")


def spectra_of(prior: SpectralPrior) -> Spectra:
    """The prior's own sample of its training spectra, on the fine grid, each as bright as it was.

    A sample of brightness b was divided by sqrt(b² + floor²); what its brightness is now tells b.
    """
    fine = prior.wavelength_nm.astype(float)
    sample = (prior.sample @ prior.factors.T).astype(np.float32)
    share = brightness_of(sample, fine)
    sample, share = sample[share > 0], np.clip(share[share > 0], 0, BRIGHTEST_SHARE)
    scaled = sample * (prior.floor / np.sqrt(1 - share**2))[:, None]
    reflectance = np.clip(interpolate_known(scaled, fine, FINE_NM), 0, None)
    kinds = kinds_of(reflectance, grid_of(FINE_NM))
    return Spectra(FINE_NM, reflectance, np.ones(len(reflectance)), tuple(kinds.tolist()))


def spectra_of_folder(folder: Path, rng: np.random.Generator, leave_out: Collection[str] = ()) -> Spectra:
    """Libraries, canopies over their soils, and pixels of scenes, on the fine grid, without gaps.

    Parameters
    ----------
    leave_out : families of files that must not be seen, as in `corpora.family_of`.

    Raises
    ------
    DataError : the folder has no cubes or spectra, or one cannot be read; or prosail is not installed.
    """
    kept = [corpus for corpus in read_spectra_folder(folder) if corpus.place not in leave_out]
    libraries = [corpus for corpus in kept if corpus.is_library and corpus.name not in LEFT_OUT]
    scenes = [corpus for corpus in kept if not corpus.is_library]
    parts = [_library_part(libraries), *(_scene_part(scene, scenes, rng) for scene in scenes)]
    canopies = canopies_over(libraries, FINE_NM, CANOPY_COUNT, rng)
    parts.append((canopies, np.full(len(canopies), CANOPIES / CANOPY_COUNT), np.full(len(canopies), "vegetation")))
    points, weights, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = (brightness_of(points, FINE_NM) > DARKEST) & (weights > 0)
    if not usable.any():
        raise DataError(
            f"{folder}: none of {len(points)} spectra is known over most of 450-2300 nm; at least one is needed. "
            "Add .npz files of cubes or spectra (ms2hs/data/corpora.py says what they hold)."
        )
    points, weights, classes = points[usable], weights[usable], classes[usable]
    return Spectra(FINE_NM, _filled(points, weights), weights, tuple(classes.tolist()))


Part = tuple[Float32Array, FloatArray, NDArray[np.str_]]


def _library_part(libraries: Sequence[SpectraFile]) -> Part:
    """Spectra of libraries, their weights, `LIBRARIES` together, and classes."""
    if not libraries:
        return np.empty((0, len(FINE_NM)), np.float32), np.empty(0), np.empty(0, "U1")
    points = np.concatenate([interpolate_known(part.reflectance, part.wavelength_nm, FINE_NM) for part in libraries])
    classes = np.concatenate([part.classes or ("",) * len(part.reflectance) for part in libraries])
    files = np.repeat([part.name for part in libraries], [len(part.reflectance) for part in libraries])
    weights = balance(classes, files)
    return points, weights * (LIBRARIES / max(weights.sum(), 1e-9)), classes


def _scene_part(scene: SpectraFile, scenes: Sequence[SpectraFile], rng: np.random.Generator) -> Part:
    """Some pixels of a scene, their weights, 1 together for a family, and the classes that they look like."""
    chosen = rng.permutation(len(scene.reflectance))[:SCENE_PIXELS]
    points = interpolate_known(scene.reflectance[chosen], scene.wavelength_nm, FINE_NM)
    siblings = sum(other.place == scene.place for other in scenes)
    return points, np.full(len(chosen), 1 / (siblings * len(chosen))), kinds_of(points, grid_of(FINE_NM))


def _filled(points: Float32Array, weights: FloatArray) -> Float32Array:
    """Spectra (spectrum, wavelength) with each unknown as the Gaussian of them all expects it."""
    scale = scale_of(brightness_of(points, FINE_NM), FLOOR)
    sets = list(moments_of(points, scale, weights, 1.0))
    model = pool(sets, start(sets, FILL_NOISE), FILL_NOISE, iterations=2)
    whole = scale[:, None] * expect(points / scale[:, None], model, FILL_NOISE)
    return np.clip(whole, 0, None).astype(np.float32)


def balance(classes: NDArray[np.str_], files: NDArray[np.str_]) -> FloatArray:
    """(spectrum,) weights: classes by `CLASS_WEIGHTS`, and within one, files by the square root of their number."""
    weights = np.zeros(len(classes))
    for name, total in CLASS_WEIGHTS.items():
        members = classes == name
        for file in np.unique(files[members]):
            rows = members & (files == file)
            weights[rows] = 1 / np.sqrt(rows.sum())
        if members.any():
            weights[members] *= total / weights[members].sum()
    return weights


def canopies_over(
    libraries: Sequence[SpectraFile], wavelength_nm: FloatArray, count: int, rng: np.random.Generator
) -> Float32Array:
    """(canopy, wavelength) over the soils of the libraries, at most 100 of each; none where there is no soil.

    Raises
    ------
    DataError : the package prosail is not installed.
    """
    soils = [np.empty((0, len(CANOPY_WAVELENGTH_NM)), np.float32)]
    for library in libraries:
        rows = interpolate_known(
            library.reflectance[np.array(library.classes) == "soil"], library.wavelength_nm, CANOPY_WAVELENGTH_NM
        )
        rows = rows[np.isfinite(rows).all(axis=1)]
        soils.append(rows[rng.permutation(len(rows))[:100]])
    ground = np.concatenate(soils)
    if not len(ground) or count <= 0:
        return np.empty((0, len(wavelength_nm)), np.float32)
    return interpolate_known(simulate_canopies(ground, count, rng), CANOPY_WAVELENGTH_NM, wavelength_nm)
