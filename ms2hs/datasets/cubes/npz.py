"""Cubes in `.npz` archives (see `corpora`). They are small and cannot be read by window: a process keeps them whole."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, usable_bands
from ms2hs.datasets.cubes.spectra_npz import Corpus, family_of, read_corpus
from ms2hs.spectra.library import load_npz
from ms2hs.spectra.spectral_grid import SpectralGrid


@dataclass(frozen=True, eq=False)
class ArchivedCube:
    """A cube of an archive, or one of its plots."""

    name: str
    scene: str
    """The family: all plots of a file, and files of one place."""
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    plot: int | None
    """Which of the file's plots; None where it is one image."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. DataError if the file cannot be read."""
        check_window(self.shape, row, col, height, width)
        corpus = _corpus(self.path)
        cube = corpus.reflectance.reshape(*corpus.shape, -1)
        image = cube if self.plot is None else cube[self.plot]
        return np.moveaxis(image[row : row + height, col : col + width], -1, 0).copy()


def open_archives(folder: Path) -> list[ArchivedCube]:
    """The cubes of every `.npz` of the folder, or of its `hyperspectral/`; libraries of spectra are passed over."""
    inner = folder / "hyperspectral"
    return [cube for path in (inner if inner.is_dir() else folder).glob("*.npz") for cube in _cubes(path)]


def _cubes(path: Path) -> list[ArchivedCube]:
    corpus = _corpus(path)
    if corpus.is_library:
        return []
    arrays = load_npz(path)
    grid, _ = usable_bands(path, arrays["wavelength_nm"], arrays.get("fwhm_nm"), arrays.get("good"))
    rows, cols = corpus.shape[-2:]
    scene = family_of(path.stem)
    if len(corpus.shape) == 2:
        return [ArchivedCube(path.stem, scene, path, grid, (rows, cols), None)]
    return [
        ArchivedCube(f"{path.stem}/{plot:04d}", scene, path, grid, (rows, cols), plot)
        for plot in range(corpus.shape[0])
    ]


@lru_cache(maxsize=64)
def _corpus(path: Path) -> Corpus:
    return read_corpus(path)
