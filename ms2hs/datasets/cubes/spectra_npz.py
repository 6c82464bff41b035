"""Cubes and libraries to learn from, in the layout of `.npz` files, and their spectra on any grid.

A cube holds `dn` (..., band), `scale`, `nodata`, `wavelength_nm`, `fwhm_nm` (NaN = unknown) and `good`; a library holds
what `spectra.library` reads. A file of cubes is one scene. Several files of one place are one family: no split may part
them, or a score would be measured on what was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.spectra.library import MAX_STEP_NM, Library, library_of, load_npz
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# Surface reflectance outside this is an artefact of the product's correction, not a surface.
PLAUSIBLE = (-0.05, 1.5)
# Files of one place, by the beginning of their names; every other file is a family of its own.
FAMILIES = {
    "bavaria_hyspex": ("bavaria_hyspex",),
    "berlin": ("berlin_", "enmapbox_berlin_"),
    "urban_hydice": ("urban_hydice",),
    "usgs": ("usgs_",),
}


@dataclass(frozen=True, eq=False)
class Corpus:
    """Spectra of one file: a scene's pixels, or a library."""

    name: str
    family: str
    """What must stay together in any split."""
    wavelength_nm: FloatArray
    """(band,) ascending, in nm; bad bands are not among them."""
    reflectance: Float32Array
    """(spectrum, band) unitless, NaN where unknown."""
    shape: tuple[int, ...]
    """How the spectra lie in the file: (row, col), (plot, row, col) or (spectrum,)."""
    classes: tuple[str, ...] = ()
    """(spectrum,) what each spectrum shows, where the file says so."""

    @property
    def is_library(self) -> bool:
        """Whether these are single spectra, not pixels."""
        return len(self.shape) == 1


def family_of(name: str) -> str:
    """The family that a file of this name belongs to."""
    return next((family for family, starts in FAMILIES.items() if name.startswith(starts)), name)


def read_corpora(folder: Path) -> Iterator[Corpus]:
    """Every `.npz` under `hyperspectral/` and `spectra/` of a data folder (or of the folder itself), sorted by name.

    Raises
    ------
    DataError : the folder has none.
    """
    parts = [folder / part for part in ("hyperspectral", "spectra") if (folder / part).is_dir()] or [folder]
    paths = [path for part in parts for path in sorted(part.glob("*.npz"))]
    if not paths:
        raise DataError(
            f"{folder}: no .npz of cubes or spectra; the folder, or its hyperspectral/ and spectra/, must hold some. "
            "Give another folder with --data."
        )
    yield from map(read_corpus, paths)


def read_corpus(path: Path) -> Corpus:
    """The spectra of one `.npz`, in ascending wavelength, without bad bands and without nodata.

    Raises
    ------
    DataError : not an `.npz`, or arrays missing or of shapes that disagree.
    """
    arrays = load_npz(path)
    return _cube(path, arrays) if "dn" in arrays else _library(path, library_of(path, arrays))


def _library(path: Path, library: Library) -> Corpus:
    order = np.argsort(library.wavelength_nm, kind="stable")
    reflectance = library.reflectance[:, order]
    name = path.stem
    shape = (len(reflectance),)
    return Corpus(name, family_of(name), library.wavelength_nm[order], reflectance, shape, library.classes)


def _cube(path: Path, arrays: dict[str, NDArray[Any]]) -> Corpus:
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
    flat = dn.reshape(-1, dn.shape[-1])[:, order]
    reflectance = flat.astype(np.float32) * np.float32(arrays["scale"])
    low, high = PLAUSIBLE
    reflectance[(flat == arrays["nodata"]) | (reflectance < low) | (reflectance > high)] = np.nan
    reflectance[(flat == flat[:, :1]).all(axis=1)] = np.nan  # one number in every band is a fill value, not a surface
    name = path.stem
    return Corpus(name, family_of(name), wavelength[order], reflectance, dn.shape[:-1])


def view_matrix(target: SpectralGrid, wavelength_nm: FloatArray) -> FloatArray:
    """(target band, wavelength) responses to spectra that keep their first and last value beyond their ends."""
    low, high = target.range_nm
    ends = np.array([min(wavelength_nm[0], low) - 100, max(wavelength_nm[-1], high) + 100])
    matrix = response_matrix(target, np.concatenate([ends[:1], wavelength_nm, ends[1:]]))
    held: FloatArray = matrix[:, 1:-1]
    held[:, 0] += matrix[:, 0]
    held[:, -1] += matrix[:, -1]
    return held


def reach(wavelength_nm: FloatArray, target: SpectralGrid) -> BoolArray:
    """(target band,) whether bands at `wavelength_nm` (ascending) really tell what the target band would measure.

    That is so where the target's whole FWHM interval lies between bands no further apart than `MAX_STEP_NM`.
    """
    steps = np.diff(wavelength_nm)
    gaps = np.flatnonzero(steps > MAX_STEP_NM)
    starts = np.concatenate([wavelength_nm[:1], wavelength_nm[gaps + 1]])
    ends = np.concatenate([wavelength_nm[gaps], wavelength_nm[-1:]])
    low, high = target.wavelength_nm - target.fwhm_nm / 2, target.wavelength_nm + target.fwhm_nm / 2
    inside: BoolArray = np.any((low[:, None] >= starts) & (high[:, None] <= ends), axis=1)
    return inside


def spectra_on(corpus: Corpus, target: SpectralGrid, *, interpolate: bool = False) -> tuple[Float32Array, BoolArray]:
    """What each band of `target` measures of the corpus, (spectrum, target band) NaN = unknown, and (band,) the known.

    Bands that no spectrum of the corpus reaches are NaN. With `interpolate`, gaps inside the corpus' range are bridged
    by a line, and the ends held: for a source sensor's view of a scene, never for truth.
    """
    result = np.full((len(corpus.reflectance), len(target)), np.nan, np.float32)
    seen = np.isfinite(corpus.reflectance)
    bands = seen.mean(axis=0) > 0.5
    wavelength = corpus.wavelength_nm[bands]
    known = np.ones(len(target), bool) if interpolate else reach(wavelength, target)
    if not known.any() or len(wavelength) < 2:
        return result, np.zeros(len(target), bool)
    matrix = view_matrix(target.select(known), wavelength).astype(np.float32)
    spectra, holes = corpus.reflectance[:, bands], ~seen[:, bands]
    values = np.nan_to_num(spectra, nan=0.0) @ matrix.T
    if holes.any():
        values[holes.astype(np.float32) @ (matrix != 0).T.astype(np.float32) > 0] = np.nan
    result[:, known] = values
    return result, known
