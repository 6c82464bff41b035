"""EMIT L2A reflectance granules (NetCDF-4, read as HDF5), by window: a granule is 1.8 GB.

By default in the geometry of the sensor, which needs no resampling; orthorectified on request, through the granule's
own look-up table (GLT), which counts pixels from 1 and says 0 where there are none. Granules of software build 010613
(May 2023) have a table that runs across track in the wrong direction (github.com/nasa/EMIT-Data-Resources issue 28).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid

PATTERN = "EMIT_L2A_RFL_*.nc"
NODATA = -9999.0
# Layers of the companion MASK file that make a pixel unknown: cloud, cirrus, spacecraft, dilated cloud (user guide of
# EMITL2ARFL.001). Water (2) is a surface; what follows are not flags.
UNKNOWN_FLAGS = (0, 1, 3, 4)
# Ortho pixels a side that are read at once: their sensor pixels lie in a box not much larger.
BLOCK = 64
FLIPPED_BUILD = "010613"
UNFLIPPED_ORIENTATION = "as seen on ground"
# The table points to the nearest sensor pixel, so they lie within about one ortho pixel of each other.
FARTHEST_PIXELS = 3.0
PROBE_ROWS, PROBE_COLS = 12, 8


@dataclass(frozen=True, eq=False)
class EmitCube:
    """A granule in the geometry of the sensor: rows down track, columns across track."""

    name: str
    """The granule: time, orbit and number."""
    scene: str
    path: Path
    grid: SpectralGrid
    shape: tuple[int, int]
    bands: NDArray[np.intp]
    """(band,) positions in the file."""
    flags: Path | None
    """The companion MASK file, where it lies beside."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown or flagged as cloud, cirrus or spacecraft.

        Raises
        ------
        DataError : a file is damaged or cut short, or h5py is not installed.
        """
        check_window(self.shape, row, col, height, width)
        window = np.s_[row : row + height, col : col + width]
        with _opened(self.path) as file:
            dn = np.moveaxis(file["reflectance"][window], -1, 0)[self.bands]
        values = reflectance_of(dn, nodata=NODATA)
        if self.flags:
            with _opened(self.flags) as file:
                raised = file["mask"][(*window, np.s_[: max(UNKNOWN_FLAGS) + 1])][..., UNKNOWN_FLAGS] > 0.5
            values[:, raised.any(axis=-1)] = np.nan
        return values


@dataclass(frozen=True, eq=False)
class OrthoCube:
    """A granule on its own geographic grid, each pixel the nearest one of the sensor's."""

    sensed: EmitCube
    shape: tuple[int, int]
    transform: tuple[float, float, float, float, float, float]
    """Affine a to f: a pixel's centre is at `lon = a (col + 0.5) + b (row + 0.5) + c`, `lat = d (col + 0.5) + ...`."""
    flipped: bool
    """Whether the table's columns run in the wrong direction."""
    crs: str = "EPSG:4326"

    @property
    def name(self) -> str:
        """The granule."""
        return self.sensed.name

    @property
    def scene(self) -> str:
        """The granule."""
        return self.sensed.scene

    @property
    def grid(self) -> SpectralGrid:
        """The good bands."""
        return self.sensed.grid

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown; read in blocks, whatever the window's size.

        Raises
        ------
        DataError : as `EmitCube.read`; or the table points outside the granule.
        """
        check_window(self.shape, row, col, height, width)
        result = np.full((len(self.grid), height, width), np.nan, np.float32)
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                block = result[:, top : top + BLOCK, left : left + BLOCK]
                self._fill(block, row + top, col + left)
        return result

    def _fill(self, block: Float32Array, row: int, col: int) -> None:
        height, width = block.shape[1:]
        with _opened(self.sensed.path) as file:
            rows, cols = _table(file, np.s_[row : row + height, col : col + width])
        known = (rows >= 0) & (cols >= 0)
        if not known.any():
            return
        rows, cols = rows[known], cols[known]
        if rows.max() >= self.sensed.shape[0] or cols.max() >= self.sensed.shape[1]:
            raise DataError(
                f"{self.sensed.path}: its look-up table points to row {rows.max() + 1}, column {cols.max() + 1}; there "
                f"are {self.sensed.shape}. The file is damaged: download it again."
            )
        if self.flipped:
            cols = self.sensed.shape[1] - 1 - cols
        top, left = int(rows.min()), int(cols.min())
        box = self.sensed.read(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1)
        block[:, known] = box[:, rows - top, cols - left]


def open_granules(folder: Path) -> list[EmitCube]:
    """Every granule under the folder, in the geometry of the sensor."""
    return [open_emit(path) for path in sorted(folder.rglob(PATTERN))]


@overload
def open_emit(path: Path, *, ortho: Literal[False] = False) -> EmitCube: ...


@overload
def open_emit(path: Path, *, ortho: Literal[True]) -> OrthoCube: ...


def open_emit(path: Path, *, ortho: bool = False) -> EmitCube | OrthoCube:
    """An L2A reflectance granule, its bands as the file gives them; no pixel is read yet.

    Parameters
    ----------
    ortho : on the granule's geographic grid instead of the sensor's.

    Raises
    ------
    DataError : not such a file, damaged, or h5py is not installed; with `ortho`, a table that fits lon and lat in
        neither direction.
    """
    path = Path(path)
    with _opened(path) as file:
        bands = file["sensor_band_parameters"]
        good = np.asarray(bands["good_wavelengths"]) > 0.5
        grid, order = usable_bands(path, np.asarray(bands["wavelengths"]), np.asarray(bands["fwhm"]), good)
        rows, cols, _ = file["reflectance"].shape
        name = path.stem.removeprefix("EMIT_L2A_RFL_")
        sensed = EmitCube(name, name, path, grid, (rows, cols), order, _flags(path, (rows, cols)))
        if not ortho:
            return sensed
        right, x_by_row, west, down, y_by_row, north = _affine(file)
        transform = (right, x_by_row, west, down, y_by_row, north)
        return OrthoCube(sensed, file["location/glt_x"].shape, transform, _is_flipped(path, file, transform))


def _flags(path: Path, shape: tuple[int, int]) -> Path | None:
    beside = path.with_name(path.name.replace("_RFL_", "_MASK_"))
    if not beside.is_file():
        return None
    with _opened(beside) as file:
        found = file["mask"].shape
    if found[:2] != shape or found[2] <= max(UNKNOWN_FLAGS):
        raise DataError(
            f"{beside}: its flags have shape {found}; {shape} and 8 layers are needed, as of {path.name}. "
            "It belongs to another granule, or is damaged: download it again, or take it away."
        )
    return beside


def _affine(file: Any) -> tuple[float, ...]:  # noqa: ANN401 - h5py has no types
    """Affine a to f from the attribute, which is in GDAL's order: c a b f d e."""
    c, a, b, f, d, e = (float(number) for number in file.attrs["geotransform"])
    return a, b, c, d, e, f


def _table(file: Any, window: tuple[slice, slice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ANN401
    """Rows and columns of the sensor, from 0, negative where there is none; in arrays of their own."""
    rows, cols = (np.asarray(file[f"location/glt_{axis}"][window], np.int64) - 1 for axis in "yx")
    return rows, cols


def _is_flipped(path: Path, file: Any, transform: tuple[float, ...]) -> bool:  # noqa: ANN401
    """Whether the table's columns run backwards: the longitudes and latitudes of the pixels it points to decide.

    Where both directions fit them (a granule a few pixels wide), build and orientation do.
    """
    rows, cols = file["location/glt_x"].shape
    width = file["location/lon"].shape[1]
    distances: list[tuple[float, float]] = []
    for row in np.unique(np.linspace(0, rows - 1, PROBE_ROWS).astype(int)):
        lines, samples = (axis[0] for axis in _table(file, np.s_[row : row + 1, :cols]))
        known = np.flatnonzero((lines >= 0) & (samples >= 0))
        for col in known[:: max(1, len(known) // PROBE_COLS)]:
            line, sample = int(lines[col]), int(samples[col])
            both = (_distance(file, transform, (row, col), (line, at)) for at in (sample, width - 1 - sample))
            distances.append((next(both), next(both)))
    straight, mirrored = np.median(distances, axis=0) if distances else (0.0, 0.0)
    if min(straight, mirrored) > FARTHEST_PIXELS:
        raise DataError(
            f"{path}: its look-up table misses lon and lat by {straight:.0f} pixels, mirrored by {mirrored:.0f}; at "
            f"most {FARTHEST_PIXELS:g} are usual. Read it without orthorectification, or download it again."
        )
    if max(straight, mirrored) > FARTHEST_PIXELS:
        return bool(mirrored < straight)
    build, orientation = (_text(file, key) for key in ("software_build_version", "crosstrack_orientation"))
    return build == FLIPPED_BUILD and orientation != UNFLIPPED_ORIENTATION


def _distance(file: Any, transform: tuple[float, ...], ortho: tuple[int, int], sensed: tuple[int, int]) -> float:  # noqa: ANN401
    """In ortho pixels, between the centre of an ortho pixel and the place of a sensor pixel."""
    a, b, c, d, e, f = transform
    row, col = ortho[0] + 0.5, ortho[1] + 0.5
    lon, lat = (float(file[f"location/{name}"][sensed]) for name in ("lon", "lat"))
    return max(abs(a * col + b * row + c - lon) / abs(a), abs(d * col + e * row + f - lat) / abs(e))


def _text(file: Any, key: str) -> str:  # noqa: ANN401
    found = file.attrs.get(key, "")
    return found.decode() if isinstance(found, bytes) else str(found)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path}: EMIT granules are read with h5py, which is not installed. Install ms2hs[train]."
        ) from error
    try:
        # Without locks, which shared file systems often refuse: nobody writes to a product.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, IndexError) as error:
        raise DataError(
            f"{path}: not a whole EMIT L2A file ({error}); reflectance, sensor_band_parameters and location are "
            "needed. Download it again."
        ) from error
