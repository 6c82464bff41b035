"""Arrays and cubes in MATLAB files: version 7.2 and older by SciPy, version 7.3 (HDF5) by h5py.

A file is listed without reading its arrays. The array that is taken is the one named with --variable, else the only one
of the needed number of dimensions. Scenes of `KNOWN` say what their values and classes are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.datasets.hdf5_file import opened, stored_dataset
from ms2hs.errors import DataError, input_errors
from ms2hs.spectra.library import MAX_ARRAY_BYTES, MAX_REFLECTANCE
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_options import LabelOptions

HDF5_MAGIC = b"\x89HDF"
# Offset of the HDF5 signature in a MATLAB file: its own header comes first.
HDF5_OFFSETS = (0, 512)
# Class names of MATLAB in which numbers are stored.
NUMERIC = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
# Side in pixels of the window in the middle of a cube that shows whether the values can be reflectance.
SAMPLED_SIDE = 128
MAX_ITEM_BYTES = 8
TABLES = Path(__file__).parent / "tables"
RADIANCE = (
    "the values are at-sensor radiance, not reflectance: a head on the raw bands is valid, but a pretrained encoder "
    "expects reflectance"
)


class KnownScene(NamedTuple):
    """What is known about a published scene, by the name of its variable."""

    title: str
    note: str = ""
    table: str = ""
    """Table of channels in `TABLES`; empty if the bands are not known."""
    channels: tuple[tuple[int, int], ...] = ()
    """Ranges of channels of the table (from 1, both ends included) in the order of the bands."""
    accuracy: str = ""


# Removed channels and units: www.ehu.eus/ccwintco/index.php/Hyperspectral_Remote_Sensing_Scenes.
_1992 = ("aviris_1992", "the calibration of AVIRIS of 1992, within 3 nm")
_1997 = ("aviris_1997", "the calibration of AVIRIS of 1997, which differs by up to 10 nm from 1998")
_SALINAS_CHANNELS = ((1, 107), (113, 153), (168, 223))
KNOWN = {
    "indian_pines": KnownScene("Indian Pines", RADIANCE, _1992[0], ((1, 220),), _1992[1]),
    "indian_pines_corrected": KnownScene(
        "Indian Pines", RADIANCE, _1992[0], ((1, 103), (109, 149), (164, 219)), _1992[1]
    ),
    "salinas": KnownScene("Salinas", RADIANCE, _1997[0], ((1, 224),), _1997[1]),
    "salinas_corrected": KnownScene("Salinas", RADIANCE, _1997[0], _SALINAS_CHANNELS, _1997[1]),
    "salinasa_corrected": KnownScene("Salinas-A", RADIANCE, _1997[0], _SALINAS_CHANNELS, _1997[1]),
    "ksc": KnownScene("Kennedy Space Center", RADIANCE),
    "pavia": KnownScene("Pavia Centre"),
    "paviau": KnownScene("Pavia University"),
}
# Classes 1, 2, ... of the published label arrays; 0 is unlabelled. Sources disagree about the order of the names of
# Pavia Centre, so that its classes keep their numbers.
_SALINAS = (
    *("Brocoli_green_weeds_1", "Brocoli_green_weeds_2", "Fallow", "Fallow_rough_plow", "Fallow_smooth", "Stubble"),
    *("Celery", "Grapes_untrained", "Soil_vinyard_develop", "Corn_senesced_green_weeds", "Lettuce_romaine_4wk"),
    *("Lettuce_romaine_5wk", "Lettuce_romaine_6wk", "Lettuce_romaine_7wk", "Vinyard_untrained"),
    "Vinyard_vertical_trellis",
)
CLASS_NAMES = {
    "indian_pines_gt": (
        *("Alfalfa", "Corn-notill", "Corn-mintill", "Corn", "Grass-pasture", "Grass-trees", "Grass-pasture-mowed"),
        *("Hay-windrowed", "Oats", "Soybean-notill", "Soybean-mintill", "Soybean-clean", "Wheat", "Woods"),
        *("Buildings-Grass-Trees-Drives", "Stone-Steel-Towers"),
    ),
    "salinas_gt": _SALINAS,
    "paviau_gt": (
        *("Asphalt", "Meadows", "Gravel", "Trees", "Painted metal sheets", "Bare Soil", "Bitumen"),
        *("Self-Blocking Bricks", "Shadows"),
    ),
    "ksc_gt": (
        *("Scrub", "Willow swamp", "Cabbage palm hammock", "Cabbage palm/oak hammock", "Slash pine"),
        *("Oak/broadleaf hammock", "Hardwood swamp", "Graminoid marsh", "Spartina marsh", "Cattail marsh"),
        *("Salt marsh", "Mud flats", "Water"),
    ),
}


class MatArray(NamedTuple):
    """An array of numbers in a file, not read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    """As in MATLAB: (row, col, band) for a cube."""


@dataclass(frozen=True, eq=False)
class MatCube:
    """A cube (row, col, band) in a MATLAB file. A window of version 7.3 is read alone, else the array is kept.

    Cubes of unmixing are (band, pixel), with the pixels column by column, and `nRow` and `nCol` beside them.
    """

    name: str
    scene: str
    array: MatArray
    grid: SpectralGrid
    order: NDArray[np.intp]
    """(band,) position in the file of each band of `grid`."""
    scale: float
    shape: tuple[int, int]
    """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. DataError if the file cannot be read."""
        check_window(self.shape, row, col, height, width)
        return reflectance_of(_bands_first(self.array, self.shape, (row, col, height, width)), self.scale)[self.order]


def is_mat(path: Path) -> bool:
    """Whether the path is a MATLAB file, by its name."""
    return path.suffix.lower() == ".mat"


def mat_arrays(path: Path) -> list[MatArray]:
    """The arrays of numbers with two or three dimensions in a file; none are read.

    Raises
    ------
    DataError : the file is missing or damaged, or SciPy is not installed.
    """
    if _is_hdf5(path):
        with opened(path, "MATLAB 7.3", "arrays of numbers") as file:
            listed = [(name, tuple(reversed(node.shape))) for name, node in file.items() if hasattr(node, "dtype")]
            return [MatArray(path, name, shape) for name, shape in listed if len(shape) in {2, 3}]
    check_scipy_installed()
    from scipy.io import whosmat  # noqa: PLC0415  comes with ms2hs[tasks]

    with input_errors(str(path), DataError):
        return [
            MatArray(path, name, tuple(shape))
            for name, shape, kind in whosmat(path)
            if len(shape) in {2, 3} and kind in NUMERIC
        ]


def check_scipy_installed() -> None:
    """DataError unless SciPy, which reads MATLAB files, is installed."""
    if find_spec("scipy") is None:
        raise DataError("SciPy is not installed; .mat files need it. `pip install 'ms2hs[tasks]'` brings it.")


def find_classes(path: Path, shape: tuple[int, int], wanted: Sequence[str]) -> MatArray:
    """The array of classes: named in `wanted`, else the only one with the shape of the image, or of any shape.

    Raises
    ------
    DataError : no such array, or several.
    """
    flat = [array for array in mat_arrays(path) if len(array.shape) == 2 and min(array.shape) > 1]
    return _only(path, [array for array in flat if array.shape == shape] or flat, wanted, "array of classes (row, col)")


def _only(path: Path, fitting: Sequence[MatArray], wanted: Sequence[str], what: str) -> MatArray:
    """The one of these arrays that --variable names, or the only one."""
    found = [array for array in fitting if array.name in wanted] or fitting
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{path}: {len(found)} arrays may be the {what}; arrays there are {_listed(mat_arrays(path))}, and one is "
        "needed. Name it with --variable."
    )


def check_variables(paths: Sequence[Path], wanted: Sequence[str]) -> None:
    """DataError if none of these files has an array that is named with --variable."""
    arrays = [array for path in paths for array in mat_arrays(path)]
    if absent := [name for name in wanted if name not in {array.name for array in arrays}]:
        raise DataError(
            f"{paths[0]}: no array {absent[0]!r}; arrays there are {_listed(arrays)}. Use their names with --variable."
        )


def _listed(arrays: Sequence[MatArray]) -> str:
    return ", ".join(f"{array.name} {array.shape}" for array in arrays) or "none"


def read_mat(array: MatArray, window: tuple[int, int, int, int] | None = None) -> NDArray[Any]:
    """The values of an array, in the order of MATLAB.

    Parameters
    ----------
    window : row, col, height and width of a part.
    """
    row, col, height, width = window or (0, 0, *array.shape[:2])
    is_hdf5 = _is_hdf5(array.path)
    size = math.prod((height, width, *array.shape[2:]) if is_hdf5 else array.shape) * MAX_ITEM_BYTES
    if size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{array.path}: {array.name} {array.shape} takes up to {size / 1e9:.1f} GB; at most "
            f"{MAX_ARRAY_BYTES / 1e9:g} GB are read. Save it with -v7.3, or cut it."
        )
    if is_hdf5:
        with opened(array.path, "MATLAB 7.3", array.name) as file:
            part = stored_dataset(file, array.name)[..., col : col + width, row : row + height]
        return np.asarray(part).T
    return _loaded(array.path, array.name)[row : row + height, col : col + width]


@lru_cache(maxsize=4)
def _loaded(path: Path, name: str) -> NDArray[Any]:
    from scipy.io import loadmat  # noqa: PLC0415

    with input_errors(str(path), DataError):
        return np.asarray(loadmat(path, variable_names=[name])[name])


def _is_hdf5(path: Path) -> bool:
    with input_errors(str(path), DataError), path.open("rb") as file:
        start = file.read(HDF5_OFFSETS[-1] + len(HDF5_MAGIC))
    return any(start[offset:].startswith(HDF5_MAGIC) for offset in HDF5_OFFSETS)


def open_mat_cube(path: Path, options: LabelOptions) -> tuple[MatCube, str | None, tuple[str, ...]]:
    """The cube in a MATLAB file, the sensor or CSV of its bands if one was used, and notes about its values.

    Raises
    ------
    DataError : no single cube, no wavelengths, or values that are no reflectance.
    """
    array, (rows, cols) = _find_cube(path, options)
    known = KNOWN.get(array.name.lower())
    centre, width, sensor, notes = _wavelengths(array, options.source, known)
    grid, order = usable_bands(path, centre, width)
    height, width_px = min(rows, SAMPLED_SIDE), min(cols, SAMPLED_SIDE)
    sample = _bands_first(array, (rows, cols), ((rows - height) // 2, (cols - width_px) // 2, height, width_px))
    declared = 1e-4 if sample.dtype.kind in "iu" else 1.0
    scale = declared if options.scale is None else options.scale
    values = np.asarray(sample, float) * scale
    high = float(np.nanquantile(values, 0.99))
    if not 0 < high <= MAX_REFLECTANCE:
        raise DataError(
            f"{path}: {array.name} x {scale:g} has the 99th percentile {high:.3g}; reflectance is above 0 and at most "
            f"{MAX_REFLECTANCE:g}. Give the factor that the source of the file documents with --scale."
        )
    if options.scale is None:
        notes = (*notes, f"{array.name}: reflectance = stored x {scale:g}, as nothing else is declared")
    if known and known.note:
        notes = (*notes, f"{known.title}: {known.note}")
    return MatCube(array.name, path.stem, array, grid, order, scale, (rows, cols)), sensor, notes


def _find_cube(path: Path, options: LabelOptions) -> tuple[MatArray, tuple[int, int]]:
    """The array of the cube, and its rows and columns."""
    arrays = {array.name: array for array in mat_arrays(path)}
    if {"nRow", "nCol"} <= arrays.keys() and not any(len(array.shape) == 3 for array in arrays.values()):
        rows, cols = (int(read_mat(arrays[name]).flat[0]) for name in ("nRow", "nCol"))
        flat = [array for array in arrays.values() if array.shape[1] == rows * cols and array.shape[0] > 1]
        return _only(path, flat, options.variables, f"cube (band, pixel) with {rows} x {cols} pixels"), (rows, cols)
    array = _only(
        path, [array for array in arrays.values() if len(array.shape) == 3], options.variables, "cube (row, col, band)"
    )
    return array, (array.shape[0], array.shape[1])


_held = lru_cache(maxsize=2)(read_mat)


def _bands_first(array: MatArray, shape: tuple[int, int], window: tuple[int, int, int, int]) -> NDArray[Any]:
    """(band, row, col) stored numbers of a window of a cube of this shape."""
    if len(array.shape) == 3:
        return np.moveaxis(read_mat(array, window), 2, 0)
    row, col, height, width = window
    return _held(array).reshape(-1, *shape[::-1]).swapaxes(1, 2)[:, row : row + height, col : col + width]


def _wavelengths(
    array: MatArray, source: str | None, known: KnownScene | None
) -> tuple[FloatArray, FloatArray, str | None, tuple[str, ...]]:
    """Centre and width in nm of each band of a cube, their sensor, and a note.

    They are the bands of `source` where it has as many, else the channels of a known scene.
    """
    bands = array.shape[2] if len(array.shape) == 3 else array.shape[0]
    grid = load_sensor(source).grid if source else None
    if grid is not None and len(grid) == bands:
        return grid.wavelength_nm, grid.fwhm_nm, source, ()
    channels = [number - 1 for low, high in (known.channels if known else ()) for number in range(low, high + 1)]
    if known and len(channels) == bands:
        table = TABLES / f"{known.table}.csv"
        centre, width = np.loadtxt(table, delimiter=",", skiprows=4, usecols=(1, 2))[channels].T
        note = f"{known.title}: the wavelengths are {known.accuracy}; --source takes a CSV of others"
        return centre, width, None, (note,)
    found = f"{source} has {len(grid)}" if grid is not None else "MATLAB files hold no wavelengths"
    raise DataError(
        f"{array.path}: {array.name} has {bands} bands, and {found}; the wavelength of each band is needed. Give "
        "--source with a CSV of center_nm,fwhm_nm, one row for each band."
    )
