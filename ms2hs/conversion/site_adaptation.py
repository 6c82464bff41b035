"""Adaptation of a conversion to a site: spectra measured in the scene, or hyperspectral cubes of the same site.

Site cubes change the prior and correct the bands (`site_fit`). Reference spectra correct the conditioned model: each
is paired with the pixel at its coordinates, or without coordinates with the most similar pixel of the scene.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.conversion.site_fit import SiteFit, fit_site
from ms2hs.datasets.cubes.emit import find_granules
from ms2hs.datasets.cubes.enmap import ENMAP_METADATA, find_products
from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube, find_cubes
from ms2hs.datasets.cubes.plausibility import PLAUSIBLE_REFLECTANCE
from ms2hs.datasets.cubes.raster_cube import find_rasters, open_raster
from ms2hs.datasets.cubes.tanager import find_tanager
from ms2hs.errors import DataError
from ms2hs.models.prior import Posterior, SpectralPrior, brightness_of
from ms2hs.raster.cube import open_cube, spectral_of
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.dates import day_of
from ms2hs.raster.pixel_grid import PixelGrid, distance_km, pixel_at
from ms2hs.raster.tiling import evenly_spaced
from ms2hs.scenes.reader import SceneReader
from ms2hs.spectra.library import Library, by_pattern, interpolate_known, read_library
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.sensors import MAX_BANDS
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

if TYPE_CHECKING:
    from ms2hs.inference.predictor import Predictor

# Pixels that estimate the second moment of a site: many more than the prior's rank, and read within seconds.
SITE_PIXELS = 20_000
SITE_WINDOW = 32
MIN_SITE_PIXELS = 100
# Nearly all pixels of a site are darker or brighter than the scene by this factor only if their scale is wrong.
# Surfaces much darker than DARK (reflectance) count as equally bright.
LARGEST_RATIO, DARK = 2.0, 0.02
# Distance from which a cube cannot be of the same site.
FAR_KM = 50.0
# Pixels of the scene that are fitted to a site, and that are compared with spectra without coordinates, from evenly
# spaced strips.
FIT_PIXELS, SEARCH_PIXELS, SEARCH_STRIPS = 50_000, 250_000, 8
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


def find_site_cubes(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The cubes at these paths; a folder gives its EMIT, EnMAP and Tanager products, and its rasters with wavelengths.

    Results of conversions in a folder are left out.

    Raises
    ------
    DataError : a folder without cubes. SceneError : a damaged raster in a folder.
    """
    cubes: list[Path] = []
    for path in paths:
        found = _cubes_in(path) if path.is_dir() else [path]
        if not found:
            raise DataError(
                f"{path}: the folder has no cube; rasters with wavelengths, or products of EMIT, EnMAP or Tanager, "
                "are needed. Give other cubes with --site."
            )
        cubes += found
    return tuple(dict.fromkeys(cubes))


def _cubes_in(folder: Path) -> list[Path]:
    cubes = [*find_granules(folder), *find_products(folder), *find_tanager(folder)]
    for path in find_rasters(folder):
        with open_dataset(str(path)) as file:
            cubes += [path] if spectral_of(file) and "MS2HS_SYNTHETIC" not in file.tags() else []
    return cubes


def site_text(path: Path) -> str:
    """The item or the file of a site's cube; its day of acquisition and, of a sample, its pixels, if known."""
    tags = {} if _is_product(path) else {key: str(text) for key, text in open_cube(path).attrs.items()}
    day, pixels = day_of([path.name], {key.lower(): text for key, text in tags.items()}), tags.get("MS2HS_PIXELS")
    facts = ", ".join(filter(None, [str(day or ""), f"{pixels} pixels" if pixels else ""]))
    name = tags.get("MS2HS_ITEM", path.name)
    return f"{name} ({facts})" if facts else name


def adapt_to_site(
    prior: SpectralPrior,
    cube_paths: Sequence[Path],
    reader: SceneReader,
    target: SpectralGrid,
    error: InputError | None = None,
) -> tuple[Posterior, list[Path], list[str]]:
    """The posterior of `target` given the bands of a scene, fitted to hyperspectral cubes of its site.

    Cubes that do not fit the scene are left out, and the others are pooled.

    Returns
    -------
    The posterior, the cubes that are used, and notes for the result: which these are, and what they change.

    Raises
    ------
    DataError : a cube has fewer than MIN_SITE_PIXELS valid pixels.
    """
    source = reader.scene.spectral
    spectra = [_site_spectra(path, SITE_PIXELS // len(cube_paths), prior.wavelength_nm) for path in cube_paths]
    pixels = _pixels_of_strips(reader, FIT_PIXELS)
    plain = prior.condition(source, target, error)
    if len(pixels) < MIN_SITE_PIXELS:
        return plain, [], [f"site: not used; {len(pixels)} valid pixels in the scene, {MIN_SITE_PIXELS} are needed"]
    bands, fits, notes = np.ascontiguousarray(pixels.T), [], []
    brightness = float(np.median(plain.brightness @ bands))
    for path, points in zip(cube_paths, spectra, strict=True):
        try:
            fits.append(fit_site(prior, points, source, pixels, error))
        except DataError as problem:
            raise DataError(f"{path}: {problem}") from problem
        if reason := _misfit(fits[-1], points, brightness):
            notes.append(f"site: {site_text(path)} is not used, since {reason}")
            fits[-1] = replace(fits[-1], is_used=False)
    fitting = [number for number, fit in enumerate(fits) if fit.is_used]
    if not fitting:
        return plain, [], notes
    fit = max((fits[number] for number in fitting), key=lambda one: one.evidence)
    if len(fitting) > 1:
        pooled = fit_site(prior, np.concatenate([spectra[number] for number in fitting]), source, pixels, error)
        fit, fitting = (pooled, fitting) if pooled.is_used else (fit, [fits.index(fit)])
    used = [cube_paths[number] for number in fitting]
    posterior, names = fit.condition(target), ", ".join(map(site_text, used))
    change = np.sqrt(np.mean(np.square(posterior.reconstruct(bands) - plain.reconstruct(bands))))
    before, after = (float(np.mean(one.sigma(bands))) for one in (plain, posterior))
    notes.append(
        f"site: {names} used; reflectance changes by {change:.4f} (root mean square), and its uncertainty from "
        f"{before:.4f} to {after:.4f} (mean)"
    )
    distances = [(path, distance_km(_pixel_grid(path), reader.grid)) for path in used]
    notes += [
        f"site: {site_text(path)} lies {distance:.0f} km from the scene; a cube of the same place is needed"
        for path, distance in distances
        if distance > FAR_KM
    ]
    return posterior, used, notes


def _misfit(fit: SiteFit, spectra: Float32Array, scene_brightness: float) -> str:
    """Why a site is not used; empty if it fits. Spectra are fitted relative to their brightness, which hides a scale.

    Parameters
    ----------
    spectra : (pixel, wavelength) reflectance of the site.
    scene_brightness : median of the scene.
    """
    brightness = np.nanquantile(brightness_of(spectra, fit.scene.prior.wavelength_nm), (0.02, 0.98))
    low, high = np.hypot(brightness, DARK) / np.hypot(scene_brightness, DARK)
    ratio = low if low > LARGEST_RATIO else high
    is_alike = low <= LARGEST_RATIO and high >= 1 / LARGEST_RATIO
    other_scale = f"its pixels are {ratio:.2g} times as bright as the scene: the scale of its numbers seems wrong"
    if fit.is_used:
        return "" if is_alike else other_scale
    land = "the scene does not look like it: another place, or other land, such as snow, flood or another season"
    return land if is_alike else f"{land}; or {other_scale}"


def _site_spectra(path: Path, pixels: int, wavelength_nm: FloatArray) -> Float32Array:
    """(pixel, wavelength) reflectance of about this number of valid pixels, from evenly spaced windows."""
    cube = _open_product(path) if _is_product(path) else open_raster(path)
    shape, grid = (cube.cube.shape, cube.cube.grid) if isinstance(cube, GeoreferencedCube) else (cube.shape, cube.grid)
    if len(grid) > MAX_BANDS:
        raise DataError(f"{path}: {len(grid)} bands; at most {MAX_BANDS} are used. Use a --site cube of fewer bands.")
    per_side = max(1, int(np.sqrt(pixels // SITE_WINDOW**2)))
    tops, lefts = (  # windows that do not overlap, but by a part of one
        evenly_spaced(max(0, side - SITE_WINDOW), min(per_side, -(-side // SITE_WINDOW))) for side in shape
    )
    height, width = (min(SITE_WINDOW, side) for side in shape)
    parts = [cube.read(top, left, height, width).reshape(len(grid), -1) for top in tops for left in lefts]
    values = np.concatenate(parts, axis=1)
    known = np.isfinite(values)
    has_data = grid.good & (known.any(axis=1) | ~known.any())  # bands in water vapour may be empty
    spectra = values[has_data].T
    spectra = spectra[np.isfinite(spectra).all(axis=1)]
    if len(spectra) < MIN_SITE_PIXELS:
        low, high = PLAUSIBLE_REFLECTANCE
        raise DataError(
            f"{path}: {len(spectra)} valid pixels, with reflectance from {low:g} to {high:g} in every band; at least "
            f"{MIN_SITE_PIXELS} are needed. Check the scale of its numbers, use another --site cube, or omit --site."
        )
    return interpolate_known(spectra, grid.select(has_data).wavelength_nm, wavelength_nm)


def _pixel_grid(path: Path) -> PixelGrid:
    if _is_product(path):
        return _open_product(path).pixel_grid
    with open_dataset(str(path)) as file:
        return read_pixel_grid(file)


def _open_product(path: Path) -> GeoreferencedCube:
    left_out: dict[str, str] = {}
    cubes = find_cubes([path], left_out)
    if not cubes:
        raise DataError(next(iter(left_out.values())))
    return cubes[0]


def _is_product(path: Path) -> bool:
    """Whether a path is an EMIT or Tanager file or metadata of EnMAP, which GDAL does not open as cubes."""
    return path.suffix.lower() in {".nc", ".h5"} or ENMAP_METADATA.fullmatch(path.name) is not None


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
    source, pixels = reader.scene.spectral, _pixels_of_strips(reader, SEARCH_PIXELS)
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


def _pixels_of_strips(reader: SceneReader, count: int) -> Float32Array:
    """(pixel, source band) reflectance of valid pixels, at most about `count`, from evenly spaced strips of a scene."""
    grid = reader.grid
    height = max(1, min(grid.height, count // grid.width // SEARCH_STRIPS))
    strips = [reader.read(top, 0, height, grid.width) for top in evenly_spaced(grid.height - height, SEARCH_STRIPS)]
    pixels: Float32Array = np.concatenate([reflectance[:, valid] for reflectance, valid in strips], axis=1).T
    return pixels
