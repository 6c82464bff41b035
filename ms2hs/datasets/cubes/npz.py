"""Cubes in `.npz` files (layout: `spectra_npz`), and spectral libraries as cubes.

A window cannot be read on its own, so a process keeps whole files. Points, plots and libraries have no neighbours in
the file. They become one image, in which neighbours are alike as on the ground: sorted by their first principal
component into columns, and within a column by the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window, usable_bands
from ms2hs.datasets.cubes.spectra_npz import PARTS, SpectraFile, at_resolution, read_places, spectra_of
from ms2hs.spectra.library import load_npz, read_library
from ms2hs.spectra.spectral_grid import SpectralGrid

# The columns that a CSV of spectra begins with; other tables lie beside cubes.
LIBRARY_START, MAX_START, LIBRARY_SUFFIXES = "id,lon,lat,", 40, (".csv", ".npz", ".sli")


@lru_cache(maxsize=64)
def _read_cached(path: Path) -> list[SpectraFile]:
    """The spectra of a file by place; a CSV or an ENVI library is one place."""
    parts = read_places(path) if path.suffix.lower() == ".npz" else [spectra_of(path.stem, read_library(path))]
    return [at_resolution(part) if part.is_library else part for part in parts]


@dataclass(frozen=True, eq=False)
class NpzCube:
    """The image in a file, or its plots or points of one place, arranged to an image."""

    name: str
    scene: str
    """The place."""
    path: Path
    part: int
    """Index of the place in the file."""
    grid: SpectralGrid
    layout: NDArray[np.intp]
    """(row, col) index of each pixel's spectrum; -1 = no spectrum."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.layout.shape
        return rows, cols

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. DataError if the file cannot be read."""
        check_window(self.shape, row, col, height, width)
        index = self.layout[row : row + height, col : col + width]
        spectra = _read_cached(self.path)[self.part].reflectance
        return np.where(index >= 0, np.moveaxis(spectra[index], -1, 0), np.float32(np.nan))


def find_npz(folder: Path) -> list[Path]:
    """Every `.npz` of the folder, or of its folders of images and points."""
    inner = [folder / part for part in PARTS[:2] if (folder / part).is_dir()] or [folder]
    return [path for part in inner for path in sorted(part.glob("*.npz"))]


def open_npz(path: Path) -> list[NpzCube]:
    """The cubes of a file, one for each place; a library of spectra has none."""
    parts = [part for part in _read_cached(path) if not part.is_library]
    if not parts:
        return []
    arrays = load_npz(path)
    grid, _ = usable_bands(path, arrays["wavelength_nm"], arrays.get("fwhm_nm"), arrays.get("good"))
    return _cubes(path, parts, grid)


def find_libraries(folder: Path) -> list[Path]:
    """Every spectral library in the folder itself."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in LIBRARY_SUFFIXES and path.is_file())
    return [path for path in paths if path.suffix.lower() != ".csv" or _begins_as_library(path)]


def open_library(path: Path) -> list[NpzCube]:
    """The spectra of a library as cubes, one for each place; DataError if the file cannot be read."""
    parts = _read_cached(path)
    grid, _ = usable_bands(path, parts[0].wavelength_nm, parts[0].fwhm_nm)
    return _cubes(path, parts, grid)


def _begins_as_library(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline(MAX_START).replace(" ", "").lower().startswith(LIBRARY_START)


def _cubes(path: Path, parts: Sequence[SpectraFile], grid: SpectralGrid) -> list[NpzCube]:
    names = [path.stem] if len(parts) == 1 else [f"{path.stem}/{part.place}" for part in parts]
    return [
        NpzCube(name, part.place, path, number, grid, _layout(part))
        for number, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def _layout(spectra: SpectraFile) -> NDArray[np.intp]:
    """(row, col) index of the spectrum of each pixel of one image; -1 = no spectrum."""
    index = np.arange(len(spectra.reflectance))
    if len(spectra.shape) == 2:
        return index.reshape(spectra.shape)
    rows, cols = spectra.shape[1:] or (1, 1)
    plots = index.reshape(-1, rows, cols)
    reflectance = spectra.reflectance.reshape(*plots.shape, -1)
    order = arrange(np.where(np.isfinite(reflectance), reflectance, 0).mean(axis=(1, 2)))
    image = np.where(order[..., None, None] >= 0, plots[order], -1)
    return image.transpose(0, 2, 1, 3).reshape(order.shape[0] * rows, -1)


def arrange(features: FloatArray) -> NDArray[np.intp]:
    """(row, col) index of each item of (item, feature) in a square where neighbours are alike; -1 = no item."""
    count = len(features)
    rows = int(np.ceil(np.sqrt(count)))
    centred = features - features.mean(axis=0)
    first, *others = (centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T).T
    order = np.full((-(-count // rows), rows), -1)
    order.ravel()[:count] = np.argsort(first, kind="stable")
    for column in order if others else ():
        items = column[column >= 0]
        column[: len(items)] = items[np.argsort(others[0][items], kind="stable")]
    return order.T
