"""EMIT L2A reflectance granules (NetCDF-4, read as HDF5), by window: a granule is 1.8 GB.

Cubes have the geometry of the sensor, which needs no resampling, or are orthorectified through the granule's geographic
look-up table (GLT). The table counts pixels from 1 and holds 0 outside the swath. In granules of software build 010613
(May 2023) it is mirrored across track (github.com/nasa/EMIT-Data-Resources issue 28).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid

PATTERN = "EMIT_L2A_RFL_*.nc"
EMIT_NODATA = -9999.0
# Layers of the MASK file that make a pixel unknown: cloud, cirrus, spacecraft, dilated cloud (user guide of
# EMITL2ARFL.001). Layer 2, water, is a surface; layers from 5 on are not flags.
UNKNOWN_FLAGS = (0, 1, 3, 4)
# Side in pixels of the blocks that are orthorectified at once: their sensor pixels lie in a box not much larger.
ORTHO_BLOCK = 64
FLIPPED_BUILD = "010613"
UNFLIPPED_ORIENTATION = "as seen on ground"
# Largest distance, in ortho pixels, between an ortho pixel and the sensor pixel that the table gives for it. The table
# points to the nearest sensor pixel, so about 1 is usual.
MAX_TABLE_ERROR = 3.0
# Rows, and pixels in each, at which the direction of the table is checked.
PROBE_ROWS, PROBE_COLS = 12, 8


@dataclass(frozen=True, eq=False)
class EmitCube:
    """A granule in the geometry of the sensor: rows down track, columns across track."""

    name: str
    """Time, orbit and number of the granule."""
    scene: str
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    bands: NDArray[np.intp]
    """(band,) positions in the file."""
    flags: Path | None
    """The MASK file beside the granule, if there is one."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown or flagged as cloud, cirrus or spacecraft.

        DataError if a file is damaged or truncated, or h5py is not installed.
        """
        check_window(self.shape, row, col, height, width)
        window = np.s_[row : row + height, col : col + width]
        with _opened(self.path) as file:
            dn = np.moveaxis(file["reflectance"][window], -1, 0)[self.bands]
        values = reflectance_of(dn, nodata=EMIT_NODATA)
        if self.flags:
            with _opened(self.flags) as file:
                flagged = file["mask"][(*window, np.s_[: max(UNKNOWN_FLAGS) + 1])][..., UNKNOWN_FLAGS] > 0.5
            values[:, flagged.any(axis=-1)] = np.nan
        return values


@dataclass(frozen=True, eq=False)
class OrthoCube:
    """A granule on its geographic grid, by nearest neighbour."""

    name: str
    scene: str
    grid: SpectralGrid
    shape: tuple[int, int]
    sensor_cube: EmitCube
    transform: tuple[float, float, float, float, float, float]
    """Affine a to f: the centre of a pixel is at `lon = a (col + 0.5) + b (row + 0.5) + c`."""
    flipped: bool
    """Whether the columns of the table are mirrored."""
    crs: str = "EPSG:4326"

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown, read in blocks.

        DataError as in `EmitCube.read`, or if the table points outside the granule.
        """
        check_window(self.shape, row, col, height, width)
        result = np.full((len(self.grid), height, width), np.nan, np.float32)
        for top in range(0, height, ORTHO_BLOCK):
            for left in range(0, width, ORTHO_BLOCK):
                block = result[:, top : top + ORTHO_BLOCK, left : left + ORTHO_BLOCK]
                self._fill(block, row + top, col + left)
        return result

    def _fill(self, block: Float32Array, row: int, col: int) -> None:
        height, width = block.shape[1:]
        with _opened(self.sensor_cube.path) as file:
            rows, cols = _read_table(file, np.s_[row : row + height, col : col + width])
        known = (rows >= 0) & (cols >= 0)
        if not known.any():
            return
        rows, cols = rows[known], cols[known]
        if rows.max() >= self.sensor_cube.shape[0] or cols.max() >= self.sensor_cube.shape[1]:
            raise DataError(
                f"{self.sensor_cube.path}: the look-up table points to row {rows.max() + 1}, column {cols.max() + 1} "
                f"of {self.sensor_cube.shape}. The file is damaged: download it again."
            )
        if self.flipped:
            cols = self.sensor_cube.shape[1] - 1 - cols
        top, left = int(rows.min()), int(cols.min())
        box = self.sensor_cube.read(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1)
        block[:, known] = box[:, rows - top, cols - left]


def find_granules(folder: Path) -> list[Path]:
    """The reflectance file of every granule under the folder."""
    return sorted(folder.rglob(PATTERN))


def open_emit(path: Path) -> EmitCube:
    """An L2A reflectance granule with its good bands, in the geometry of the sensor; no pixel is read.

    DataError if the file is of another kind or damaged, or h5py is not installed.
    """
    with _opened(path) as file:
        bands = file["sensor_band_parameters"]
        good = np.asarray(bands["good_wavelengths"]) > 0.5
        grid, order = usable_bands(path, np.asarray(bands["wavelengths"]), np.asarray(bands["fwhm"]), good)
        rows, cols, _ = file["reflectance"].shape
        name = path.stem.removeprefix("EMIT_L2A_RFL_")
    return EmitCube(name, name, path, grid, (rows, cols), order, _find_flags(path, (rows, cols)))


def orthorectify(cube: EmitCube) -> OrthoCube:
    """The granule on its geographic grid, without reading pixels; DataError if the table misses lon and lat."""
    with _opened(cube.path) as file:
        c, a, b, f, d, e = (float(number) for number in file.attrs["geotransform"])  # GDAL's order
        transform = (a, b, c, d, e, f)
        flipped = _is_flipped(cube.path, file, transform)
        return OrthoCube(cube.name, cube.scene, cube.grid, file["location/glt_x"].shape, cube, transform, flipped)


def _find_flags(path: Path, shape: tuple[int, int]) -> Path | None:
    flags = path.with_name(path.name.replace("_RFL_", "_MASK_"))
    if not flags.is_file():
        return None
    with _opened(flags) as file:
        stored = file["mask"].shape
    if stored[:2] != shape or stored[2] <= max(UNKNOWN_FLAGS):
        raise DataError(
            f"{flags}: flags of shape {stored}; {shape} and 8 layers are needed, as in {path.name}. "
            "The file belongs to another granule or is damaged: download it again, or remove it."
        )
    return flags


def _read_table(file: Any, window: tuple[slice, slice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ANN401 - h5py has no types
    """Rows and columns of the sensor, from 0, and negative outside the swath."""
    rows, cols = (np.asarray(file[f"location/glt_{axis}"][window], np.int64) - 1 for axis in "yx")
    return rows, cols


def _is_flipped(path: Path, file: Any, transform: tuple[float, ...]) -> bool:  # noqa: ANN401
    """Whether the columns of the table are mirrored, judged by longitude and latitude of the pixels it points to.

    Where both directions fit (a granule a few pixels wide), software build and orientation decide.
    """
    rows, cols = file["location/glt_x"].shape
    width = file["location/lon"].shape[1]
    distances: list[tuple[float, float]] = []
    for row in np.unique(np.linspace(0, rows - 1, PROBE_ROWS).astype(int)):
        lines, samples = (axis[0] for axis in _read_table(file, np.s_[row : row + 1, :cols]))
        known = np.flatnonzero((lines >= 0) & (samples >= 0))
        for col in known[:: max(1, len(known) // PROBE_COLS)]:
            line, sample = int(lines[col]), int(samples[col])
            both = (_distance(file, transform, (row, col), (line, at)) for at in (sample, width - 1 - sample))
            distances.append((next(both), next(both)))
    straight, mirrored = np.median(distances, axis=0) if distances else (0.0, 0.0)
    if min(straight, mirrored) > MAX_TABLE_ERROR:
        raise DataError(
            f"{path}: the look-up table misses lon and lat by {straight:.0f} pixels, mirrored by {mirrored:.0f}; at "
            f"most {MAX_TABLE_ERROR:g} are allowed. Read it without orthorectification, or download it again."
        )
    if max(straight, mirrored) > MAX_TABLE_ERROR:
        return bool(mirrored < straight)
    build, orientation = (_text(file, key) for key in ("software_build_version", "crosstrack_orientation"))
    return build == FLIPPED_BUILD and orientation != UNFLIPPED_ORIENTATION


def _distance(file: Any, transform: tuple[float, ...], ortho: tuple[int, int], sensor: tuple[int, int]) -> float:  # noqa: ANN401
    """Distance in ortho pixels between the centres of an ortho pixel and a sensor pixel, each (row, col)."""
    a, b, c, d, e, f = transform
    row, col = ortho[0] + 0.5, ortho[1] + 0.5
    lon, lat = (float(file[f"location/{name}"][sensor]) for name in ("lon", "lat"))
    return max(abs(a * col + b * row + c - lon) / abs(a), abs(d * col + e * row + f - lat) / abs(e))


def _text(file: Any, key: str) -> str:  # noqa: ANN401
    value = file.attrs.get(key, "")
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path}: EMIT granules are read with h5py, which is not installed. Install ms2hs[train]."
        ) from error
    try:
        # Without locks, which shared file systems often refuse; products are never written.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, IndexError) as error:
        raise DataError(
            f"{path}: not a whole EMIT L2A file ({error}); reflectance, sensor_band_parameters and location are "
            "needed. Download it again."
        ) from error
