"""Adaptation of a conversion to a site: spectra measured in the scene, or a hyperspectral cube of the same site.

A site cube changes the prior's second moment before conversion. Reference spectra correct the conditioned model: each
is paired with the pixel at its coordinates, or without coordinates with the most similar pixel of the scene.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import DataError
from ms2hs.models.prior import Posterior, SpectralPrior
from ms2hs.raster.cube import open_cube
from ms2hs.raster.pixel_grid import pixel_at
from ms2hs.scenes.reader import SceneReader
from ms2hs.spectra.library import Library, by_pattern, read_library
from ms2hs.spectra.sensors import MAX_BANDS
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, response_matrix

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor

# Pixels that estimate the second moment of a site: many more than the prior's rank, and read within seconds.
SITE_PIXELS = 20_000
SITE_WINDOW = 32
MIN_SITE_PIXELS = 100
# Pixels of the scene that are compared with spectra without coordinates, from evenly spaced strips.
SEARCH_PIXELS, SEARCH_STRIPS = 250_000, 8
# Each reference is compared with all others and with the searched pixels.
MAX_REFERENCES = 1000


@dataclass(frozen=True)
class References:
    """Spectra measured in a scene, paired with the scene's pixels."""

    measured: Float32Array
    """(reference, source band) reflectance of the pixel."""
    truth: Float32Array
    """(reference, target band) reflectance of the spectrum; NaN where unknown."""
    notes: list[str]


def sharpen_to_site(prior: SpectralPrior, cube_path: Path, source: SpectralGrid) -> SpectralPrior:
    """The prior with the second moment of a site, from its hyperspectral cube, for conversions from this source.

    Raises
    ------
    DataError : the cube has fewer than MIN_SITE_PIXELS valid pixels.
    """
    cube = open_cube(cube_path)
    if (count := len(cube.wavelength_nm)) > MAX_BANDS:
        raise DataError(f"{cube_path}: {count} bands; at most {MAX_BANDS} are used. Use a --site cube of fewer bands.")
    grid = grid_of(cube.wavelength_nm.values, cube.fwhm_nm.values)
    per_side = int(np.sqrt(SITE_PIXELS // SITE_WINDOW**2))
    tops, lefts = (_evenly_spaced(max(0, side - SITE_WINDOW), per_side) for side in cube.shape[1:])
    parts = [
        cube[:, top : top + SITE_WINDOW, left : left + SITE_WINDOW].values.reshape(len(grid), -1)
        for top in tops
        for left in lefts
    ]
    good = np.asarray(cube.good.values, bool)
    spectra = np.concatenate(parts, axis=1)[good].T
    spectra = spectra[np.isfinite(spectra).all(axis=1)]
    if len(spectra) < MIN_SITE_PIXELS:
        raise DataError(
            f"{cube_path}: {len(spectra)} valid pixels; at least {MIN_SITE_PIXELS} are needed. Use another "
            "--site cube, or omit --site."
        )
    return prior.with_site(spectra, grid.select(good), source)


def references_in_scene(path: Path, reader: SceneReader, target: SpectralGrid) -> References:
    """The spectra of a file, each paired with the pixel at its coordinates, or else with the most similar pixel.

    Raises
    ------
    DataError : no spectrum lies on a valid pixel of the scene.
    """
    library = read_library(path)
    if (count := len(library.reflectance)) > MAX_REFERENCES:
        raise DataError(
            f"{path}: {count} reference spectra; at most {MAX_REFERENCES} are used. Give the spectra of this scene, or "
            "their means."
        )
    located = np.isfinite(library.lon) & np.isfinite(library.lat)
    measured = np.full((len(library.reflectance), len(reader.scene.spectral)), np.nan, np.float32)
    for index in np.flatnonzero(located):
        pixel = pixel_at(reader.grid, library.lon[index], library.lat[index])
        if pixel:
            reflectance, valid = reader.read(*pixel, 1, 1)
            measured[index] = np.where(valid, reflectance, np.nan)[:, 0, 0]
    if not located.all():
        measured[~located] = _most_similar(reader, library, ~located)
    used = np.asarray(np.isfinite(measured).all(axis=1), bool)
    notes = [f"{used.sum()} of {len(used)} reference spectra used"]
    if not used.any():
        raise DataError(
            f"{path}: none of {len(used)} spectra lies on a valid pixel of the requested part; at least 1 must. Check "
            "lon and lat (degrees), or leave them empty to match by similarity."
        )
    if not used.all():
        unused = ", ".join(np.array(library.ids)[~used])
        notes.append(f"unused spectra lie outside the scene or on invalid pixels: {unused}")
    return References(measured[used], _on_target(library, target)[used], notes)


def network_addition(network: "Predictor", linear: Posterior, measured: Float32Array) -> Float32Array:
    """(reference, target band) network prediction minus linear prediction, for (reference, source band) reflectance.

    The network's input is a patch of identical pixels. With other neighbours its prediction may differ a little.
    """
    side = network.patch
    patches = [np.broadcast_to(pixel[:, None, None], (len(pixel), side, side)) for pixel in measured]
    predicted = network.reconstruct_windows(patches, [np.ones((side, side), bool)] * len(patches)).mean(axis=(2, 3))
    addition: Float32Array = predicted - linear.reconstruct(np.ascontiguousarray(measured.T)).T
    return addition


def _on_target(library: Library, target: SpectralGrid) -> Float32Array:
    """(reference, target band) reflectance; NaN where a spectrum has no samples."""
    truth = np.full((len(library.reflectance), len(target)), np.nan, np.float32)
    for known, rows in by_pattern(np.isfinite(library.reflectance)):
        samples = library.wavelength_nm[known]
        if len(samples) < 2:
            continue
        # A target band is known if a sample lies within its FWHM, or within 1.5 times the library's sample spacing.
        reach = np.maximum(target.fwhm_nm, np.median(np.diff(np.sort(samples))) * 1.5)
        near = np.abs(target.wavelength_nm[:, None] - samples[None]).min(axis=1) <= reach
        near &= (target.wavelength_nm >= samples.min()) & (target.wavelength_nm <= samples.max())
        if near.any():
            response = response_matrix(target.select(near), samples)
            truth[np.ix_(rows, near)] = library.reflectance[np.ix_(rows, known)] @ response.T
    return truth


def _most_similar(reader: SceneReader, library: Library, chosen: BoolArray) -> Float32Array:
    """(chosen spectrum, source band) reflectance of the scene's pixel that is nearest to each chosen spectrum."""
    source, grid = reader.scene.spectral, reader.grid
    height = max(1, min(grid.height, SEARCH_PIXELS // grid.width // SEARCH_STRIPS))
    strips = [reader.read(top, 0, height, grid.width) for top in _evenly_spaced(grid.height - height, SEARCH_STRIPS)]
    pixels = np.concatenate([reflectance[:, valid] for reflectance, valid in strips], axis=1).T
    spectra = library.reflectance[chosen]
    nearest = np.full((len(spectra), len(source)), np.nan, np.float32)
    for known, rows in by_pattern(np.isfinite(spectra)):
        samples = library.wavelength_nm[known]
        covered = (source.wavelength_nm >= samples.min()) & (source.wavelength_nm <= samples.max())
        if len(pixels) and covered.any():
            measured = spectra[np.ix_(rows, known)] @ response_matrix(source.select(covered), samples).T
            for row, bands in zip(rows, measured, strict=True):
                nearest[row] = pixels[((pixels[:, covered] - bands) ** 2).sum(axis=1).argmin()]
    return nearest


def _evenly_spaced(last: int, count: int) -> list[int]:
    """At most `count` different integers from 0 to `last`."""
    return sorted(set(np.linspace(0, last, count).astype(int).tolist()))
