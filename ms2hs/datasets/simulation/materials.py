"""Spectra that simulated scenes are made of: from a data folder or a prior's sample, weighted by land cover.

A folder gives libraries, simulated canopies over their soils, and pixels of its cubes. All are interpolated to one fine
grid; gaps are filled with the conditional mean of a Gaussian with the second moments of all spectra.
"""

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
from ms2hs.models.prior import FILL_NOISE, SpectralPrior, brightness_of
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

# Libraries that are not used: copies, parts or resamplings of others, and single leaves (simulated canopies are used
# instead).
UNUSED_LIBRARIES = (
    "usgs_splib06_aviris2018",
    "usgs_splib06_emit",
    "usgs_splib06_emit_research",
    "usgs_splib07_aviris95",
    "parthenium_veg",
    "pecan_testspec_leaf",
    "spectratrait_ely_crops",
    "spectrolab_leaf",
    "ecostress_vegetation_npv",
    "pef_maine_tree_leaves",
    "emit_surface_liquids",
    "soilspec_minerals",
    "spectacles_oz_soil",
    "earthlib_optimized",
)
# Total weight of the spectra of a class: about its share of the land.
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
# Weight of libraries and canopies relative to a scene, and number of canopies and of pixels of a scene.
LIBRARY_WEIGHT, CANOPY_WEIGHT = 3.0, 2.0
CANOPY_COUNT, SCENE_PIXELS = 2000, 1000
# Floor of the brightness that spectra are divided by, as in the estimation of the prior.
BRIGHTNESS_FLOOR = 0.2
# Mean reflectance below which a spectrum is left out; clear water has 0.01.
MIN_BRIGHTNESS = 0.002
# NDVI from which a spectrum is vegetation: pixels above 0.5 are fully vegetated, below 0.2 bare (Sobrino et al. 2004,
# doi:10.1016/j.rse.2004.02.003).
MIN_NDVI = 0.45
# Relative brightness at which a prior's sample is clipped before its true brightness is computed.
MAX_RELATIVE_BRIGHTNESS = 0.95


@dataclass(frozen=True, eq=False)
class Spectra:
    """Weighted spectra on one wavelength grid."""

    wavelength_nm: FloatArray
    """(wavelength,) ascending."""
    reflectance: Float32Array
    """(spectrum, wavelength) unitless, finite, not negative."""
    weights: FloatArray
    """(spectrum,) probability of a spectrum, any sum."""
    classes: tuple[str, ...] = ()
    """(spectrum,) classes of `CLASS_WEIGHTS`; empty if unknown."""

    def __post_init__(self) -> None:
        """Refuse arrays whose shapes disagree, and values that are not finite."""
        count = len(self.weights)
        if self.reflectance.shape != (count, len(self.wavelength_nm)) or len(self.classes) not in {0, count}:
            raise ValueError("reflectance must be (spectrum, wavelength), weights and classes (spectrum,)")
        if not np.isfinite(self.reflectance).all() or not np.all(np.diff(self.wavelength_nm) > 0):
            raise ValueError("reflectance must be finite, wavelengths ascending")

    @cached_property
    def grid(self) -> SpectralGrid:
        """The wavelengths as bands of width `FINE_FWHM_NM`."""
        return grid_of(self.wavelength_nm, np.full(len(self.wavelength_nm), FINE_FWHM_NM))

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        """(spectrum,) class of surface; from the spectrum itself if unknown, and for water and snow."""
        estimated = kinds_of(self.reflectance, self.grid)
        if not self.classes:
            return estimated
        named = np.array(self.classes)
        certain = np.isin(named, list(CLASS_WEIGHTS)) & ~np.isin(named, ["water", "snow"])
        return np.asarray(np.where(certain, named, estimated))


def kinds_of(reflectance: Float32Array, grid: SpectralGrid) -> NDArray[np.str_]:
    """(spectrum,) `water`, `snow`, `vegetation` or else `soil`, by spectral indices of (spectrum, band) reflectance."""
    bands = reflectance.T
    red, nir = (bands[np.abs(grid.wavelength_nm - nm).argmin()] for nm in (670.0, 860.0))
    green = (nir - red) / np.maximum(nir + red, 1e-3) > MIN_NDVI
    return np.select([*water_and_snow(bands, grid), green], ["water", "snow", "vegetation"], default="soil")


def spectra_of(prior: SpectralPrior) -> Spectra:
    """The prior's sample of its training spectra, on the fine grid, at their original brightness.

    The prior divides spectra of brightness b by sqrt(b² + floor²). Their brightness in the sample is then
    s = b / sqrt(b² + floor²), and the divisor is floor / sqrt(1 - s²).
    """
    fine = prior.wavelength_nm.astype(float)
    sample = (prior.sample @ prior.factors.T).astype(np.float32)
    share = brightness_of(sample, fine)
    sample, share = sample[share > 0], np.clip(share[share > 0], 0, MAX_RELATIVE_BRIGHTNESS)
    scaled = sample * (prior.floor / np.sqrt(1 - share**2))[:, None]
    reflectance = np.clip(interpolate_known(scaled, fine, FINE_NM), 0, None)
    kinds = kinds_of(reflectance, grid_of(FINE_NM))
    return Spectra(FINE_NM, reflectance, np.ones(len(reflectance)), tuple(kinds.tolist()))


def spectra_of_folder(folder: Path, rng: np.random.Generator, leave_out: Collection[str] = ()) -> Spectra:
    """Libraries, canopies over their soils, and pixels of cubes, on the fine grid, without gaps.

    Files of the places in `leave_out` are not used. DataError if the folder has no cubes or spectra, a file cannot be
    read, or prosail is not installed.
    """
    files = [file for file in read_spectra_folder(folder) if file.place not in leave_out]
    libraries = [file for file in files if file.is_library and file.name not in UNUSED_LIBRARIES]
    scenes = [file for file in files if not file.is_library]
    parts = [_from_libraries(libraries), *(_from_scene(scene, scenes, rng) for scene in scenes)]
    canopies = canopies_over(libraries, FINE_NM, CANOPY_COUNT, rng)
    parts.append((canopies, np.full(len(canopies), CANOPY_WEIGHT / CANOPY_COUNT), np.full(len(canopies), "vegetation")))
    points, weights, classes = (np.concatenate(column) for column in zip(*parts, strict=True))
    usable = (brightness_of(points, FINE_NM) > MIN_BRIGHTNESS) & (weights > 0)
    if not usable.any():
        raise DataError(
            f"{folder}: none of {len(points)} spectra is known over most of 450-2300 nm; at least one is needed. "
            "Add .npz files of cubes or spectra (datasets/cubes/spectra_npz describes their arrays)."
        )
    points, weights, classes = points[usable], weights[usable], classes[usable]
    return Spectra(FINE_NM, _filled(points, weights), weights, tuple(classes.tolist()))


_Weighted = tuple[Float32Array, FloatArray, NDArray[np.str_]]


def _from_libraries(libraries: Sequence[SpectraFile]) -> _Weighted:
    """Spectra, weights (`LIBRARY_WEIGHT` in sum) and classes of libraries."""
    if not libraries:
        return np.empty((0, len(FINE_NM)), np.float32), np.empty(0), np.empty(0, "U1")
    points = np.concatenate([interpolate_known(part.reflectance, part.wavelength_nm, FINE_NM) for part in libraries])
    classes = np.concatenate([part.classes or ("",) * len(part.reflectance) for part in libraries])
    files = np.repeat([part.name for part in libraries], [len(part.reflectance) for part in libraries])
    weights = balance(classes, files)
    return points, weights * (LIBRARY_WEIGHT / max(weights.sum(), 1e-9)), classes


def _from_scene(scene: SpectraFile, scenes: Sequence[SpectraFile], rng: np.random.Generator) -> _Weighted:
    """Random pixels of a cube, their weights (1 in sum for a place), and classes estimated from the spectra."""
    chosen = rng.permutation(len(scene.reflectance))[:SCENE_PIXELS]
    points = interpolate_known(scene.reflectance[chosen], scene.wavelength_nm, FINE_NM)
    siblings = sum(other.place == scene.place for other in scenes)
    return points, np.full(len(chosen), 1 / (siblings * len(chosen))), kinds_of(points, grid_of(FINE_NM))


def _filled(points: Float32Array, weights: FloatArray) -> Float32Array:
    """(spectrum, wavelength) with unknown values as expected by the Gaussian of all spectra."""
    scale = scale_of(brightness_of(points, FINE_NM), BRIGHTNESS_FLOOR)
    sets = list(moments_of(points, scale, weights, 1.0))
    model = pool(sets, start(sets, FILL_NOISE), FILL_NOISE, iterations=2)
    whole = scale[:, None] * expect(points / scale[:, None], model, FILL_NOISE)
    return np.clip(whole, 0, None).astype(np.float32)


def balance(classes: NDArray[np.str_], files: NDArray[np.str_]) -> FloatArray:
    """(spectrum,) weights: classes by `CLASS_WEIGHTS`; in a class, files by the square root of their number."""
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
    """(canopy, wavelength) reflectance of canopies over soils of the libraries; empty without soils.

    At most 100 soils of each library are used. DataError if the package prosail is not installed.
    """
    soils = [np.empty((0, len(CANOPY_WAVELENGTH_NM)), np.float32)]
    for library in libraries:
        spectra = library.reflectance[np.array(library.classes) == "soil"]
        rows = interpolate_known(spectra, library.wavelength_nm, CANOPY_WAVELENGTH_NM)
        rows = rows[np.isfinite(rows).all(axis=1)]
        soils.append(rows[rng.permutation(len(rows))[:100]])
    ground = np.concatenate(soils)
    if not len(ground) or count <= 0:
        return np.empty((0, len(wavelength_nm)), np.float32)
    return interpolate_known(simulate_canopies(ground, count, rng), CANOPY_WAVELENGTH_NM, wavelength_nm)
