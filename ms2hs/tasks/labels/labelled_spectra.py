"""Labelled spectra in `.npz` files: pixels of crowns, plots and points, or a library of spectra.

A file holds `dn` (spectrum, band) with `scale`, `nodata` and `wavelength_nm`, or `reflectance` (spectrum, band), and
one array of labels. The groups of a split are another array: crowns, plots or scenes. Several files with the same bands
are one data set; a name of a group counts within its file.
"""

import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.errors import DataError, input_errors
from ms2hs.spectra.library import library_of, load_npz
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.label_values import class_indices, keyed, matched

# Arrays that hold labels or groups, in the order in which they are looked for.
LABEL_KEYS = ("label", "class", "species")
GROUP_KEYS = ("individual", "crown", "plot", "scene", "place")
NEEDED = ("dn", "scale", "nodata", "wavelength_nm")


@dataclass(frozen=True, eq=False)
class SpectraCube:
    """The spectra of a file as an image of one column; its pixels are not neighbours on the ground."""

    name: str
    scene: str
    path: Path
    grid: SpectralGrid
    order: NDArray[np.intp]
    """(band,) position in the file of each band of `grid`."""
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.count, 1

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of spectra, NaN where unknown. DataError if the file cannot be read."""
        check_window(self.shape, row, col, height, width)
        return _reflectance(self.path)[self.order, row : row + height]


@lru_cache(maxsize=16)
def _reflectance(path: Path) -> Float32Array:
    """(band, spectrum, 1) reflectance in the order of the file."""
    arrays = load_npz(path)
    if "dn" not in arrays:
        return np.ascontiguousarray(library_of(path, arrays).reflectance.T)[:, :, None]
    dn = np.ascontiguousarray(arrays["dn"].T)[:, :, None]
    return reflectance_of(dn, float(arrays["scale"]), nodata=float(arrays["nodata"]))


def is_pattern(path: Path) -> bool:
    """Whether the name of a path stands for several files."""
    return any(sign in path.name for sign in "*?[")


def is_labelled_spectra(path: Path) -> bool:
    """Whether the path is an `.npz`, or a pattern of several, without abundances."""
    return path.suffix.lower() == ".npz" and "abundance" not in array_names(_files(path)[0])


def open_labelled_spectra(options: LabelOptions, task: str) -> LabelSet:
    """The labelled spectra of the files; each spectrum is a pixel without neighbours.

    Raises
    ------
    DataError : no file has labels, bands disagree, or arrays have other lengths than the spectra.
    """
    files = [part for path in _files(options.path) if (part := _read(path, options, task)) is not None]
    if not files:
        raise DataError(
            f"{options.path}: no array of labels ({', '.join(LABEL_KEYS)}); arrays there are "
            f"{', '.join(array_names(_files(options.path)[0]))}. Name one with --label-key."
        )
    first = files[0].cube.grid.wavelength_nm
    for part in files[1:]:
        if len(part.cube.grid) != len(first) or not np.allclose(part.cube.grid.wavelength_nm, first, atol=0.5):
            raise DataError(
                f"{part.cube.path}: other bands than {files[0].cube.path.name}; files of one set need the same. Give "
                "them one by one."
            )
    keys = {part.group_key for part in files}
    groups = [np.char.add(f"{part.cube.name}/" if len(files) > 1 else "", part.groups) for part in files]
    values = np.concatenate([part.values for part in files])
    if task == "regression":
        classes: tuple[str, ...] = (keyed(options.label_key or LABEL_KEYS[0])[0],)
        labels: NDArray[Any] = values.astype(np.float32)[:, None]
    else:
        classes, labels = class_indices(str(options.path), values)
    left_out = len(_files(options.path)) - len(files)
    return LabelSet(
        name=re.sub(r"[*?\[\]_]+", "_", options.path.stem).strip("_") or options.path.parent.name,
        task=task,
        classes=classes,
        grid=files[0].cube.grid,
        sensor=None,
        images=[(part.cube,) for part in files],
        image=np.repeat(np.arange(len(files)), [len(part.values) for part in files]),
        row=np.concatenate([np.arange(len(part.values)) for part in files]),
        col=np.zeros(len(values), np.intp),
        labels=labels,
        groups=np.concatenate(groups),
        grouped_by=" or ".join(sorted(keys)) if all(keys) else "",
        isolated=True,
        notes=(f"files left out, since they have no labels: {left_out}",) if left_out else (),
    )


@dataclass(frozen=True, eq=False)
class _File:
    cube: SpectraCube
    values: NDArray[Any]
    """(spectrum,) labels as the file holds them."""
    groups: NDArray[np.str_]
    group_key: str
    """Empty: nothing says which spectra belong together."""


def _files(path: Path) -> list[Path]:
    if path.exists() or not is_pattern(path):
        return [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise DataError(f"{path}: no file has such a name; at least one is needed. Check the pattern.")
    return found


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an `.npz`, sorted; none are read. DataError if it is no such file."""
    with input_errors(str(path), DataError), zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read(path: Path, options: LabelOptions, task: str) -> _File | None:
    """A file with its labels; None if it has none."""
    arrays = load_npz(path)
    spectra = arrays.get("dn", arrays.get("reflectance"))
    missing = [key for key in NEEDED if key not in arrays] if "dn" in arrays else []
    if spectra is None or spectra.ndim != 2 or missing:
        raise DataError(
            f"{path}: {f'no {missing[0]}' if missing else 'no spectra'}; (spectrum, band) `dn` with "
            f"{', '.join(NEEDED[1:])}, or `reflectance`, is needed. Convert the file."
        )
    per_spectrum = {key for key, array in arrays.items() if array.shape[:1] == spectra.shape[:1] and array.ndim == 1}
    if options.label_key is not None and keyed(options.label_key)[0] not in arrays:
        return None
    label_key = _chosen(path, "--label-key", options.label_key or LABEL_KEYS, per_spectrum)
    if label_key is None:
        return None
    name, pattern = keyed(label_key)
    values = matched(arrays[name], pattern)
    if task == "regression" and values.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {name} is {values.dtype}; numbers are needed for regression. Use --task classification."
        )
    others = {key for key in per_spectrum - ({name} if pattern is None else set()) if len(np.unique(arrays[key])) > 1}
    group_key = _chosen(path, "--group-key", options.group_key or GROUP_KEYS, others)
    groups = np.zeros(len(values), "U1")
    if group_key is not None:
        group_name, group_pattern = keyed(group_key)
        groups = matched(arrays[group_name].astype(str), group_pattern)
    grid, order = usable_bands(path, arrays["wavelength_nm"], arrays.get("fwhm_nm"), arrays.get("good"))
    place = str(np.atleast_1d(arrays.get("place", path.stem)).ravel()[0])
    cube = SpectraCube(path.stem, place, path, grid, order, len(spectra))
    return _File(cube, values, groups, keyed(group_key)[0] if group_key else "")


def _chosen(path: Path, option: str, wanted: str | tuple[str, ...], known: set[str]) -> str | None:
    """The key that the option names, else the first of the usual names that is known; None if there is none."""
    if isinstance(wanted, tuple):
        return next((key for key in wanted if key in known), None)
    name = keyed(wanted)[0]
    if name not in known:
        raise DataError(
            f"{path}: no array {name!r} with several values, one for each spectrum; {', '.join(sorted(known))} have "
            f"them. Use one of these with {option}."
        )
    return wanted
