"""Cubes in GeoTIFF and ENVI files, opened and read through GDAL window by window, and the flag layers beside them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.errors import DataError, SceneError
from ms2hs.spectra.spectral_grid import SpectralGrid

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

    from ms2hs.raster.header import Header

TIFF_SUFFIXES = (".tif", ".tiff")
# The tag that marks the output of a conversion, which is no measurement to train on.
SYNTHETIC_TAG = "ms2hs_synthetic"
# Side in pixels of the window that is checked for being reflectance.
PROBE_SIDE = 64


@dataclass(frozen=True, eq=False)
class ReflectanceEncoding:
    """How a raster file stores reflectance: `dn * scale + offset`."""

    count: int
    """Number of bands in the file."""
    bands: tuple[int, ...]
    """1-based bands to read, in ascending wavelength."""
    scale: FloatArray | float
    """(band to read,) or one number for all."""
    offset: FloatArray | float
    """(band to read,) or one number for all, in reflectance."""
    nodata: float | None


@dataclass(frozen=True)
class FlagLayer:
    """A raster on the pixels of a cube that says which values show the surface."""

    name: str
    path: Path | None
    """None: the product lacks the layer."""
    surface: tuple[int, ...]
    """Numbers of the pixels that show the surface; all others hide it."""
    by_band: bool
    """Whether the layer has a band for each band of the cube's file, or one for all."""


@dataclass(frozen=True, eq=False)
class RasterCube:
    """A cube in one raster file, opened for each read: it pickles, and processes and threads can share it."""

    name: str
    scene: str
    path: Path
    grid: SpectralGrid
    encoding: ReflectanceEncoding
    flags: tuple[FlagLayer, ...] = field(default=(), kw_only=True)

    @property
    def missing_flags(self) -> tuple[str, ...]:
        """Names of the flag layers that the product lacks."""
        return tuple(layer.name for layer in self.flags if layer.path is None)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        with self._opened() as file:
            return file.height, file.width

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown or flagged.

        SceneError or DataError if the file or a flag layer is missing or damaged, or has another number of bands.
        """
        from rasterio.windows import Window

        from ms2hs.raster.dataset import read_bands

        with self._opened() as file:
            check_window(file.shape, row, col, height, width)
            window, shape = Window(col, row, width, height), file.shape
            dn = read_bands(file, self.encoding.bands, window)
        values = reflectance_of(dn, self.encoding.scale, self.encoding.offset, self.encoding.nodata)
        for layer in self.flags:
            if layer.path is not None:
                np.copyto(values, np.nan, where=~self._read_surface(layer, layer.path, shape, window))
        return values

    def _read_surface(self, layer: FlagLayer, path: Path, shape: tuple[int, int], window: "Window") -> BoolArray:
        """(band or 1, row, col) True where a flag layer shows the surface; `shape` is needed."""
        from ms2hs.raster.dataset import open_dataset, read_bands

        count = self.encoding.count if layer.by_band else 1
        with open_dataset(str(path)) as file:
            if (file.count, *file.shape) != (count, *shape):
                raise DataError(
                    f"{path}: {file.count} bands of {file.shape} pixels; {count} of {shape} are needed, as in "
                    f"{self.path.name}. The file belongs to another product or is damaged: get it again, or remove it."
                )
            numbers = read_bands(file, self.encoding.bands if layer.by_band else [1], window)
        return np.isin(numbers, layer.surface)

    @contextmanager
    def _opened(self) -> Iterator["DatasetReader"]:
        from ms2hs.raster.dataset import open_dataset

        with open_dataset(str(self.path)) as file:
            if file.count != self.encoding.count:
                raise DataError(
                    f"{self.path}: {file.count} bands; {self.encoding.count} are needed. "
                    "The file is another product or was changed: get the original file."
                )
            yield file


def find_rasters(folder: Path) -> list[Path]:
    """Every GeoTIFF under the folder, and every image that an ENVI header describes."""
    tiffs = [path for path in folder.rglob("*") if path.suffix.lower() in TIFF_SUFFIXES]
    headers = [path for path in folder.rglob("*.hdr") if path.read_bytes()[:4] == b"ENVI"]
    return sorted({*tiffs, *(image for header in headers for image in _image_of(header))})


def open_rasters(folder: Path, paths: Sequence[Path]) -> list[RasterCube]:
    """Rasters whose bands carry wavelengths; empty if none does. Rasters of one band are skipped.

    A scene is a subfolder of the folder, or a file in the folder itself. Raw counts of a camera are skipped beside its
    reflectance. DataError for rasters with and rasters without wavelengths in one folder, and for outputs of a
    conversion, SceneError for unreadable files and for raw counts alone.
    """
    from ms2hs.raster.dataset import open_dataset
    from ms2hs.scenes.recognition import is_raw_capture, raw_capture_error

    cubes, counts = [], {}
    finished = [path for path in paths if not is_raw_capture(path)]
    if paths and not finished:
        raise raw_capture_error(paths[0])
    for path in finished:
        with open_dataset(str(path)) as file:
            if file.count == 1:
                continue
            cube = read_cube(folder, path, file)
            if cube is None:
                counts[path] = file.count
            else:
                cubes.append(cube)
    if counts and cubes:
        numbers = ", ".join(str(count) for count in sorted(set(counts.values())))
        raise DataError(
            f"{folder}: {len(counts)} of {len(counts) + len(cubes)} rasters have no wavelengths, and {numbers} bands "
            f"(the first: {min(counts)}); each band needs a wavelength tag. Write the tags, or put the images of a "
            "multispectral sensor into another folder."
        )
    return cubes


def open_raster(path: Path, folder: Path | None = None) -> RasterCube:
    """The cube in one file, with the name and scene that it has in `folder` (by default its own folder).

    Errors as in `open_rasters`.
    """
    from ms2hs.raster.dataset import open_dataset

    with open_dataset(str(path)) as file:
        cube = read_cube(folder or path.parent, path, file)
        if cube is None:
            raise DataError(
                f"{path}: {file.count} bands without wavelengths; each band needs a wavelength tag. Write the tags, "
                "or give the folder of a known data set."
            )
    return cube


def _image_of(header: Path) -> list[Path]:
    """The image that an ENVI header `x.hdr` describes: `x` or `x.*` beside it; none for a spectral library."""
    if re.search(rb"file type\s*=\s*ENVI Spectral Library", header.read_bytes(), re.IGNORECASE):
        return []
    bare = header.with_suffix("")
    files = [bare] if bare.is_file() else sorted(header.parent.glob(f"{bare.name}.*"))
    images = [path for path in files if path.suffix.lower() not in {".hdr", ".xml", ".enp", ".sta", ".txt", ".png"}]
    if not images:
        raise DataError(f"{header}: no image beside the header; both are needed. Copy {bare.name} there.")
    return images[:1]


def read_cube(folder: Path, path: Path, file: "DatasetReader") -> RasterCube | None:
    """The cube in an open file, by its header; None if its bands have no wavelengths. Errors as in `open_rasters`."""
    from ms2hs.raster.cube import spectral_of
    from ms2hs.raster.header import read_header

    spectral = spectral_of(file)
    if spectral is None:
        return None
    header = read_header(file, str(path))
    if SYNTHETIC_TAG in header.tags:
        raise DataError(
            f"{path}: is the output of a conversion, not a measurement; measured cubes are needed. Use another cube."
        )
    widths = _widths(spectral.wavelength_nm, header)
    listed = _numbers(header.tags.get("bbl", ""))
    good = np.array(listed) != 0 if len(listed) == file.count else spectral.good
    grid, order = usable_bands(path, spectral.wavelength_nm, widths, good)
    scale, offset = _scale_and_offset(path, file)
    bands = tuple(int(band) + 1 for band in order)
    relative = path.relative_to(folder)
    scene = relative.parts[0] if len(relative.parts) > 1 else path.stem
    encoding = ReflectanceEncoding(file.count, bands, scale[order], offset[order], file.nodata)
    return RasterCube(relative.with_suffix("").as_posix(), scene, path, grid, encoding)


def _widths(wavelength_nm: FloatArray, header: "Header") -> FloatArray:
    """(band,) FWHM in nm, NaN = unknown. For ENVI files GDAL gives the centres by band, the widths as one list."""
    widths = np.array([band.fwhm_nm or np.nan for band in header.wavelengths if band])
    centres, listed = (_numbers(header.tags.get(key, "")) for key in ("wavelength", "fwhm"))
    if np.isnan(widths).all() and len(centres) == len(listed) == len(widths):
        widths = np.array(listed) * (wavelength_nm[0] / centres[0])
    return widths


def _scale_and_offset(path: Path, file: "DatasetReader") -> tuple[FloatArray, FloatArray]:
    """(band,) by the rule for scenes (`scenes.radiometry`); DataError for floats that are no reflectance."""
    from ms2hs.raster.header import declared_in
    from ms2hs.scenes.radiometry import rules_of_raster
    from ms2hs.spectra.library import MAX_REFLECTANCE

    declared = declared_in(file, file.indexes)
    p99 = _p99(file)
    if p99 is not None and p99 > MAX_REFLECTANCE and declared[0].scale is None:
        raise DataError(
            f"{path}: floats with 99th percentile {p99:.4g} and no scale; reflectance is at most {MAX_REFLECTANCE:g}. "
            "Write the scale into the file (`gdal_edit.py -scale 0.0001`, or `reflectance scale factor` in the header)."
        )
    try:
        (rule,) = rules_of_raster(declared, where=str(path))
    except SceneError as error:
        raise DataError(str(error)) from error
    return np.array(rule.dn_scale), np.array(rule.offset)


def _p99(file: "DatasetReader") -> float | None:
    """99th percentile of known values in the middle of nine bands; None for integers."""
    from rasterio.windows import Window

    from ms2hs.raster.dataset import read_bands

    if np.dtype(file.dtypes[0]).kind != "f":
        return None
    height, width = min(PROBE_SIDE, file.height), min(PROBE_SIDE, file.width)
    window = Window((file.width - width) // 2, (file.height - height) // 2, width, height)
    bands = sorted({1 + (file.count - 1) * part // 8 for part in range(9)})
    values = np.asarray(read_bands(file, bands, window), float)
    known = values[np.isfinite(values) & (values != file.nodata) & (values > -1)]
    return float(np.quantile(known, 0.99)) if known.size else 0.0


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", text)]
