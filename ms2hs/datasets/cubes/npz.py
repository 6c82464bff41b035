"""Cubes in `.npz` files (layout: `spectra_npz`). A window cannot be read on its own, so a process keeps whole files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, usable_bands
from ms2hs.datasets.cubes.spectra_npz import read_places
from ms2hs.spectra.library import load_npz
from ms2hs.spectra.spectral_grid import SpectralGrid

_read_cached = lru_cache(maxsize=64)(read_places)


@dataclass(frozen=True, eq=False)
class NpzCube:
    """The image in a file, or one of its plots."""

    name: str
    scene: str
    """The file's place."""
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    plot: int | None
    """Index of the plot; None in a file of one image."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. DataError if the file cannot be read."""
        check_window(self.shape, row, col, height, width)
        (spectra,) = _read_cached(self.path)
        cube = spectra.reflectance.reshape(*spectra.shape, -1)
        image = cube if self.plot is None else cube[self.plot]
        return np.moveaxis(image[row : row + height, col : col + width], -1, 0).copy()


def find_npz(folder: Path) -> list[Path]:
    """Every `.npz` of the folder, or of its `hyperspectral/`."""
    inner = folder / "hyperspectral"
    return list((inner if inner.is_dir() else folder).glob("*.npz"))


def open_npz(path: Path) -> list[NpzCube]:
    """The cubes of a file; a library of spectra, and points of a scene, have none."""
    spectra, *_ = _read_cached(path)
    if len(spectra.shape) == 1:
        return []
    arrays = load_npz(path)
    grid, _ = usable_bands(path, arrays["wavelength_nm"], arrays.get("fwhm_nm"), arrays.get("good"))
    rows, cols = spectra.shape[-2:]
    if len(spectra.shape) == 2:
        return [NpzCube(path.stem, spectra.place, path, grid, (rows, cols), None)]
    return [
        NpzCube(f"{path.stem}/{plot:04d}", spectra.place, path, grid, (rows, cols), plot)
        for plot in range(spectra.shape[0])
    ]
