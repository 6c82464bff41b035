"""Spectra in `.npz` files (pixels of a cube, or a library), and their resampling to the bands of a sensor.

A cube holds `dn` (..., band), `scale`, `nodata`, `wavelength_nm`, `fwhm_nm` (NaN = unknown) and `good`; points of a
scene are a cube with `dn` (spectrum, band). A library holds what `spectra.library` reads. All may hold `place`, a
string, or one for each spectrum: spectra of one place lie on one side of any split, or a model would be scored on
neighbours of its training pixels. A file without `place` has the place that a table `places.csv` (file,place) in its
folder or the folder above gives, else a place of its own.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import reflectance_of
from ms2hs.errors import DataError
from ms2hs.spectra.library import MAX_STEP_NM, Library, library_of, load_npz
from ms2hs.spectra.sensors import camera_of, load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix


@dataclass(frozen=True, eq=False)
class SpectraFile:
    """The spectra of one file: the pixels of a cube, points of a scene, or a library."""

    name: str
    place: str
    """What a split keeps on one side; several files may have the same."""
    wavelength_nm: FloatArray
    """(band,) of the good bands, ascending."""
    reflectance: Float32Array
    """(spectrum, band) unitless, NaN where unknown."""
    shape: tuple[int, ...]
    """Arrangement of the spectra in the file: (row, col), (plot, row, col) or (spectrum,)."""
    classes: tuple[str, ...] = ()
    """(spectrum,) class of surface, if the file has them."""
    is_library: bool = False
    """True for spectra that were measured one by one, False for pixels of a scene."""
    fwhm_nm: FloatArray | None = None
    """(band,) widths of a library's bands in nm; None if unknown."""


# Libraries with more bands are brought to the bands of this sensor.
MOST_BANDS, FIELD_SPECTROMETER = 1000, "asd-fieldspec"
# Folders of images, points of scenes, and libraries.
PARTS = ("hyperspectral", "points", "spectra")


def read_spectra_folder(folder: Path) -> Iterator[SpectraFile]:
    """Every `.npz` in the `PARTS` of a folder, or else in the folder itself, sorted by name; each place on its own.

    DataError if the folder has no `.npz`, or a file cannot be read.
    """
    parts = [folder / part for part in PARTS if (folder / part).is_dir()] or [folder]
    paths = [path for part in parts for path in sorted(part.glob("*.npz"))]
    if not paths:
        raise DataError(
            f"{folder}: no .npz of cubes or spectra; the folder, or its {', '.join(PARTS)}, must hold some. "
            "Give another folder with --data."
        )
    for path in paths:
        yield from read_places(path)


def read_spectra(path: Path) -> SpectraFile:
    """The spectra of one `.npz`, in ascending wavelength, without bad bands, nodata as NaN.

    DataError if the file is no `.npz`, arrays are missing or disagree in shape, or it has several places.
    """
    first, *others = read_places(path)
    if others:
        raise DataError(
            f"{path}: {1 + len(others)} places ({', '.join(part.place for part in (first, *others)[:3])}); one is "
            "needed here. Write a file for each place."
        )
    return first


def read_places(path: Path) -> list[SpectraFile]:
    """The spectra of one `.npz` as `read_spectra`, a list of one for each place; points and libraries may have several.

    DataError if the file is no `.npz`, or arrays are missing or disagree in shape.
    """
    arrays = load_npz(path)
    places = np.atleast_1d(arrays.get("place", _listed_place(path) or path.stem)).astype(str).ravel()
    file = _read_cube(path, arrays) if "dn" in arrays else _read_library(path, arrays)
    names = np.unique(places).tolist()
    if not names or not all(names) or (len(names) > 1 and places.shape != file.shape):
        raise DataError(
            f"{path}: {len(names)} places ({', '.join(map(repr, names[:3]))}) for spectra of shape {file.shape}; one "
            "name, or for points and libraries one for each spectrum, is needed. Correct place."
        )
    if len(names) == 1:
        return [replace(file, place=names[0])]
    return [_part(file, name, np.flatnonzero(places == name)) for name in names]


def _part(file: SpectraFile, place: str, rows: NDArray[np.intp]) -> SpectraFile:
    classes = tuple(file.classes[row] for row in rows) if file.classes else ()
    return replace(file, place=place, reflectance=file.reflectance[rows], shape=(len(rows),), classes=classes)


def _listed_place(path: Path) -> str | None:
    """The place of a file in `places.csv` (file,place) of its folder or the folder above; None if not listed."""
    for table in (path.parent / "places.csv", path.parent.parent / "places.csv"):
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                if rows.fieldnames != ["file", "place"]:
                    raise DataError(f"{table}: columns {rows.fieldnames}; file,place are needed. Correct the header.")
                listed = {row["file"]: row["place"] for row in rows}
            if path.name in listed:
                return listed[path.name]
    return None


def _read_library(path: Path, arrays: dict[str, NDArray[Any]]) -> SpectraFile:
    return spectra_of(path.stem, library_of(path, arrays))


def spectra_of(name: str, library: Library) -> SpectraFile:
    """The spectra of a library in ascending wavelength, as one place; with a camera's bands, its nominal widths."""
    order = np.argsort(library.wavelength_nm, kind="stable")
    wavelength, reflectance = library.wavelength_nm[order], library.reflectance[:, order]
    camera = camera_of(wavelength.tolist())
    widths, shape = camera.grid.fwhm_nm if camera else None, (len(reflectance),)
    return SpectraFile(name, name, wavelength, reflectance, shape, library.classes, is_library=True, fwhm_nm=widths)


def at_resolution(spectra: SpectraFile) -> SpectraFile:
    """Spectra with more than `MOST_BANDS` bands in the covered bands of a field spectrometer; others as they are.

    Such files are interpolated to steps of 1 nm: neighbours are one measurement, not several.
    """
    if len(spectra.wavelength_nm) <= MOST_BANDS:
        return spectra
    grid = load_sensor(FIELD_SPECTROMETER).grid
    values, known = spectra_on(spectra, grid)
    return replace(
        spectra, wavelength_nm=grid.wavelength_nm[known], reflectance=values[:, known], fwhm_nm=grid.fwhm_nm[known]
    )


def _read_cube(path: Path, arrays: dict[str, NDArray[Any]]) -> SpectraFile:
    needed = ("dn", "scale", "nodata", "wavelength_nm")
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; a cube needs {', '.join(needed)}. Add them.")
    dn, wavelength = arrays["dn"], arrays["wavelength_nm"].astype(float)
    good = arrays.get("good", np.ones(len(wavelength), bool)).astype(bool)
    if dn.shape[-1:] != wavelength.shape or good.shape != wavelength.shape:
        raise DataError(
            f"{path}: dn has {dn.shape[-1]} bands, wavelength_nm {len(wavelength)}, good {len(good)}; they must agree."
        )
    order = np.argsort(wavelength, kind="stable")
    order = order[good[order]]
    bands_first = dn.reshape(-1, 1, dn.shape[-1])[..., order].transpose(2, 0, 1)
    values = reflectance_of(bands_first, float(arrays["scale"]), nodata=float(arrays["nodata"]))
    reflectance = np.asfortranarray(values[..., 0].T)  # sums over spectra run along memory
    return SpectraFile(path.stem, "", wavelength[order], reflectance, dn.shape[:-1])


def view_matrix(target: SpectralGrid, wavelength_nm: FloatArray) -> FloatArray:
    """(target band, wavelength) responses to spectra that keep their first and last value beyond their ends."""
    low, high = target.range_nm
    ends = np.array([min(wavelength_nm[0], low) - 100, max(wavelength_nm[-1], high) + 100])
    matrix = response_matrix(target, np.concatenate([ends[:1], wavelength_nm, ends[1:]]))
    held: FloatArray = matrix[:, 1:-1]
    held[:, 0] += matrix[:, 0]
    held[:, -1] += matrix[:, -1]
    return held


def covered_bands(wavelength_nm: FloatArray, target: SpectralGrid) -> BoolArray:
    """(target band,) True where bands at `wavelength_nm` (ascending) cover the target band.

    A band is covered if its whole FWHM interval lies between bands that are at most `MAX_STEP_NM` apart.
    """
    steps = np.diff(wavelength_nm)
    gaps = np.flatnonzero(steps > MAX_STEP_NM)
    starts = np.concatenate([wavelength_nm[:1], wavelength_nm[gaps + 1]])
    ends = np.concatenate([wavelength_nm[gaps], wavelength_nm[-1:]])
    low, high = target.wavelength_nm - target.fwhm_nm / 2, target.wavelength_nm + target.fwhm_nm / 2
    return np.asarray(np.any((low[:, None] >= starts) & (high[:, None] <= ends), axis=1))


def spectra_on(
    spectra: SpectraFile, target: SpectralGrid, *, interpolate: bool = False
) -> tuple[Float32Array, BoolArray]:
    """(spectrum, target band) reflectance in the bands of `target`, NaN = unknown, and (target band,) the known bands.

    Parameters
    ----------
    interpolate : bridge gaps between the spectra's bands by a line, and extend the end values: for a simulated input,
        never for truth. Otherwise bands that the spectra do not cover are unknown.
    """
    result = np.full((len(spectra.reflectance), len(target)), np.nan, np.float32)
    measured = np.isfinite(spectra.reflectance)
    bands = measured.mean(axis=0) > 0.5
    wavelength = spectra.wavelength_nm[bands]
    known = np.ones(len(target), bool) if interpolate else covered_bands(wavelength, target)
    if not known.any() or len(wavelength) < 2:
        return result, np.zeros(len(target), bool)
    matrix = view_matrix(target.select(known), wavelength).astype(np.float32)
    reflectance, holes = spectra.reflectance[:, bands], ~measured[:, bands]
    values = np.nan_to_num(reflectance, nan=0.0) @ matrix.T
    if holes.any():
        values[holes.astype(np.float32) @ (matrix != 0).T.astype(np.float32) > 0] = np.nan
    result[:, known] = values
    return result, known
