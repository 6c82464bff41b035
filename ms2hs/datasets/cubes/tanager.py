"""Surface reflectance of Tanager-1 (HDF-EOS5), by window: a scene is 1 GB.

The field `surface_reflectance` (band, row, col) is on a UTM grid in ortho products (`GriddedTanager`), and in the
geometry of the sensor in basic products (`TanagerCube`). Its attributes give wavelengths, widths and good bands; layers
beside it flag pixels; the text StructMetadata.0 gives the grid. Source: Tanager Product Specification of Planet,
November 2025. A product is a path, or an open binary file object, such as a remote file.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.datasets.hdf5_file import Source, band_runs, name_of, opened, stored_dataset, stored_ranges
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid

PATTERN = "*_sr_hdf5.h5"
KIND, NEEDS = "Tanager surface reflectance", "surface_reflectance, its attributes and flags"
TANAGER_NODATA = -9999.0
GRID_FIELDS, SWATH_FIELDS = "HDFEOS/GRIDS/HYP/Data Fields", "HDFEOS/SWATHS/HYP/Data Fields"
STRUCTURE = "HDFEOS INFORMATION/StructMetadata.0"
MAX_STRUCTURE_BYTES = 1_000_000
FIELD = "surface_reflectance"
# Layers in which any value but 0 makes a pixel unknown.
FLAGS = ("nodata_pixels", "beta_cloud_mask", "beta_cirrus_mask")
# Time, part and satellite of a scene: `20250511_074311_00_4001`.
SCENE = re.compile(r"\d{8}_\d{6}_\d+_\d+")
CORNER = r"{}=\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)"
# Pixels of the products have 30 m; other sizes within these limits are accepted.
PIXEL_M = (1.0, 300.0)
UTM_ZONES = {*range(32601, 32661), *range(32701, 32761)}
"""EPSG codes of WGS 84 / UTM."""


@dataclass(frozen=True, eq=False)
class TanagerCube:
    """A product; a basic one is in the geometry of the sensor."""

    name: str
    scene: str
    source: Source
    grid: SpectralGrid
    shape: tuple[int, int]
    bands: NDArray[np.intp]
    """(band,) positions in the file."""
    fields: str
    """Path of the group with the fields."""
    block_shape: tuple[int, int]
    """Rows and columns of the chunks in the file."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown or flagged as cloud or cirrus.

        DataError if the file is damaged or truncated. Others: as `hdf5_file.opened`.
        """
        check_window(self.shape, row, col, height, width)
        window = np.s_[row : row + height, col : col + width]
        with opened(self.source, KIND, NEEDS) as file:
            flagged = np.zeros((height, width), bool)
            for name in FLAGS:
                flagged |= ~(stored_dataset(file, f"{self.fields}/{name}")[window] == 0)
            stored = stored_dataset(file, f"{self.fields}/{FIELD}")
            dn = np.concatenate([stored[run, *window] for run in band_runs(self.bands)])
        order = np.argsort(np.argsort(self.bands))  # the bands in the file ascend
        values = reflectance_of(dn[order], nodata=TANAGER_NODATA)
        values[:, flagged] = np.nan
        return values

    def ranges(self, row: int, col: int, height: int, width: int) -> list[tuple[int, int]]:
        """Offset and size of the chunks of the file that `read` reads for a window; errors as in `read`."""
        check_window(self.shape, row, col, height, width)
        window = np.s_[row : row + height, col : col + width]
        with opened(self.source, KIND, NEEDS) as file:
            layers = [(stored_dataset(file, f"{self.fields}/{name}"), window) for name in FLAGS]
            stored = stored_dataset(file, f"{self.fields}/{FIELD}")
            parts = [*layers, *((stored, (run, *window)) for run in band_runs(self.bands))]
            return sorted({chunk for dataset, part in parts for chunk in stored_ranges(dataset, part)})


@dataclass(frozen=True, eq=False)
class GriddedTanager(TanagerCube):
    """An ortho product."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    """Affine a to f, in metres."""


def find_tanager(folder: Path) -> list[Path]:
    """Every surface reflectance product under the folder."""
    return sorted(folder.rglob(PATTERN))


def open_tanager(source: Source) -> TanagerCube:
    """A product with its good bands; no pixel is read.

    Raises
    ------
    DataError : the file is of another kind or damaged. Others: as `hdf5_file.opened`.
    """
    with opened(source, KIND, NEEDS) as file:
        fields, stored = _stored_field(file)
        shape = stored.shape[1:]
        centre, width, good = (
            np.asarray(stored.attrs[key], float).ravel() for key in ("wavelengths", "fwhm", "good_wavelengths")
        )
        layers = {stored_dataset(file, f"{fields}/{name}").shape for name in FLAGS}
        if len(shape) != 2 or len(stored) != len(centre) or layers != {shape}:
            raise DataError(
                f"{name_of(source)}: reflectance of shape {stored.shape}, {len(centre)} wavelengths, flags of shape "
                f"{', '.join(map(str, sorted(layers)))}; (band, row, col), and flags of (row, col), are needed. The "
                "file is damaged: download it again."
            )
        block_shape = stored.chunks[1:] if stored.chunks else shape
        georeference = _georeference(name_of(source), file, stored) if fields == GRID_FIELDS else None
    grid, order = usable_bands(name_of(source), centre, width, good > 0.5)
    name = PurePosixPath(name_of(source)).stem
    scene = SCENE.match(name)
    facts = (name, scene[0] if scene else name, source, grid, shape, order, fields, block_shape)
    return TanagerCube(*facts) if georeference is None else GriddedTanager(*facts, *georeference)


def _stored_field(file: Any) -> tuple[str, Any]:  # noqa: ANN401 - h5py has no types
    """Path of the group of an ortho or a basic product, and its reflectance; KeyError without any."""
    for fields in (GRID_FIELDS, SWATH_FIELDS):
        with suppress(KeyError):
            return fields, stored_dataset(file, f"{fields}/{FIELD}")
    raise KeyError(f"no {FIELD} in {GRID_FIELDS} or {SWATH_FIELDS}")


def _georeference(where: str, file: Any, stored: Any) -> tuple[str, tuple[float, float, float, float, float, float]]:  # noqa: ANN401
    """CRS and transform of an ortho product, by the text of its structure."""
    structure = stored_dataset(file, STRUCTURE, is_text=True)
    text = bytes(structure[()]).decode("ascii", "replace") if structure.nbytes <= MAX_STRUCTURE_BYTES else ""
    corners = [re.search(CORNER.format(key), text) for key in ("UpperLeftPointMtrs", "LowerRightMtrs")]
    (west, north), (east, south) = (
        (float(match[1]), float(match[2])) if match else (np.nan, np.nan) for match in corners
    )
    code = stored.parent.parent.attrs.get("epsg_code")  # of the group HYP, whose path has no external link
    zone = re.search(r"ZoneCode=\s*(-?\d+)", text)
    if code is None and "HE5_GCTP_UTM" in text and zone:  # zones of the southern hemisphere are negative
        code = 32600 + int(zone[1]) if int(zone[1]) > 0 else 32700 - int(zone[1])
    rows, cols = stored.shape[1:]
    width_m, height_m = (east - west) / cols, (north - south) / rows
    low, high = PIXEL_M
    if not (low <= width_m <= high and low <= height_m <= high) or int(code or 0) not in UTM_ZONES:
        raise DataError(
            f"{where}: pixels of {width_m:g} x {height_m:g} m with the EPSG code {code}; a size of {low:g}-{high:g} m "
            "and a UTM zone are needed. The file is damaged: download it again."
        )
    return f"EPSG:{int(code)}", (width_m, 0.0, west, 0.0, -height_m, north)
