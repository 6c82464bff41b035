"""What is known of a site: spectra measured in the scene, or a cube of the same place from any date."""

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
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, response_matrix

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor

# Enough spectra for the second moments of a site (the prior's rank is far below), few enough for seconds.
SITE_PIXELS = 20_000
SITE_WINDOW = 32
# Spectra without a place are looked for among this many pixels of the scene.
SEARCH_PIXELS = 250_000


@dataclass(frozen=True)
class References:
    """Spectra measured in a scene, beside what the source saw there."""

    measured: Float32Array
    """(reference, source band) reflectance of the scene."""
    truth: Float32Array
    """(reference, target band) reflectance that was measured there; NaN = unknown."""
    notes: list[str]


def sharpen_to_site(prior: SpectralPrior, cube_path: Path, source: SpectralGrid) -> SpectralPrior:
    """The prior, sharpened by a hyperspectral cube of the same site, for conversions from this source.

    Raises
    ------
    DataError : the cube has fewer than 100 valid pixels.
    """
    cube = open_cube(cube_path)
    grid = grid_of(cube.wavelength_nm.values, cube.fwhm_nm.values)
    _, rows, cols = cube.shape
    windows = max(1, SITE_PIXELS // SITE_WINDOW**2)
    per_side = max(1, int(np.sqrt(windows)))
    tops = np.unique(np.linspace(0, max(0, rows - SITE_WINDOW), per_side).astype(int))
    lefts = np.unique(np.linspace(0, max(0, cols - SITE_WINDOW), per_side).astype(int))
    parts = [
        cube[:, top : top + SITE_WINDOW, left : left + SITE_WINDOW].values.reshape(len(grid), -1)
        for top in tops
        for left in lefts
    ]
    good = np.asarray(cube.good.values, bool)
    spectra = np.concatenate(parts, axis=1)[good].T
    spectra = spectra[np.isfinite(spectra).all(axis=1)]
    if len(spectra) < 100:
        raise DataError(
            f"{cube_path}: {len(spectra)} valid pixels; at least 100 are needed to learn a site from. "
            "Give a cube with more, or leave --site out."
        )
    return prior.with_site(spectra, grid.select(good), source)


def references_in_scene(path: Path, reader: SceneReader, target: SpectralGrid) -> References:
    """The spectra of a file, each beside the scene's pixel at its place, or without a place the most similar pixel.

    Raises
    ------
    DataError : no spectrum of the file lies on a valid pixel of the scene.
    """
    library = read_library(path)
    placed = np.isfinite(library.lon) & np.isfinite(library.lat)
    measured = np.full((len(library.reflectance), len(reader.scene.spectral)), np.nan, np.float32)
    for index in np.flatnonzero(placed):
        measured[index] = _pixel_at(reader, library.lon[index], library.lat[index])
    if not placed.all():
        measured[~placed] = _most_similar(reader, library, ~placed)
    found = np.asarray(np.isfinite(measured).all(axis=1), bool)
    notes = [f"{found.sum()} of {len(found)} reference spectra were used"]
    if not found.any():
        raise DataError(
            f"{path}: none of {len(found)} spectra lies on a valid pixel of the part that is converted; at least one "
            "must. Check lon and lat (degrees), or leave them empty to match by similarity."
        )
    if not found.all():
        notes.append("the rest lie outside the scene or on invalid pixels: " + ", ".join(np.array(library.ids)[~found]))
    return References(measured[found], _on_target(library, target)[found], notes)


def added_by(network: "Predictor", plain: Posterior, measured: Float32Array) -> Float32Array:
    """(reference, target band) what a network says beyond the linear model of pixels (reference, source band).

    Each pixel is shown alone, among its like: a network that looks further may say a little else in the scene.
    """
    side = network.patch
    alone = [np.broadcast_to(pixel[:, None, None], (len(pixel), side, side)) for pixel in measured]
    made = network.reconstruct_windows(alone, [np.ones((side, side), bool)] * len(alone)).mean(axis=(2, 3))
    added: Float32Array = made - plain.reconstruct(np.ascontiguousarray(measured.T)).T
    return added


def _on_target(library: Library, target: SpectralGrid) -> Float32Array:
    """(reference, target band); NaN where a spectrum does not reach or has a gap."""
    truth = np.full((len(library.reflectance), len(target)), np.nan, np.float32)
    for known, rows in by_pattern(np.isfinite(library.reflectance)):
        samples = library.wavelength_nm[known]
        if len(samples) < 2:
            continue
        # A target band is known where a sample lies within its own width (or the library's spacing) on either side.
        reach = np.maximum(target.fwhm_nm, np.median(np.diff(np.sort(samples))) * 1.5)
        near = np.abs(target.wavelength_nm[:, None] - samples[None]).min(axis=1) <= reach
        near &= (target.wavelength_nm >= samples.min()) & (target.wavelength_nm <= samples.max())
        if near.any():
            view = response_matrix(target.select(near), samples)
            truth[np.ix_(rows, near)] = library.reflectance[np.ix_(rows, known)] @ view.T
    return truth


def _pixel_at(reader: SceneReader, lon: float, lat: float) -> Float32Array:
    """(source band,) reflectance; NaN where the place lies outside or the pixel is invalid."""
    place = pixel_at(reader.grid, lon, lat)
    if place:
        reflectance, valid = reader.read(*place, 1, 1)
        if valid[0, 0]:
            return reflectance[:, 0, 0]
    return np.full(len(reader.scene.spectral), np.nan, np.float32)


def _most_similar(reader: SceneReader, library: Library, wanted: BoolArray) -> Float32Array:
    """(wanted, source band): for each spectrum the pixel that is nearest to it in the source's bands."""
    source, grid = reader.scene.spectral, reader.grid
    height = max(1, min(grid.height, SEARCH_PIXELS // grid.width // 8))
    tops = np.unique(np.linspace(0, grid.height - height, 8).astype(int))
    parts = [reader.read(int(top), 0, height, grid.width) for top in tops]
    pixels = np.concatenate([reflectance[:, valid] for reflectance, valid in parts], axis=1).T
    found = np.full((int(wanted.sum()), len(source)), np.nan, np.float32)
    spectra = library.reflectance[wanted]
    for known, rows in by_pattern(np.isfinite(spectra)):
        samples = library.wavelength_nm[known]
        seen = (source.wavelength_nm >= samples.min()) & (source.wavelength_nm <= samples.max())
        if len(pixels) and seen.any():
            views = spectra[np.ix_(rows, known)] @ response_matrix(source.select(seen), samples).T
            for row, view in zip(rows, views, strict=True):
                found[row] = pixels[((pixels[:, seen] - view) ** 2).sum(axis=1).argmin()]
    return found
