"""EMIT L2A reflectance granules (NetCDF-4, read as HDF5), by window: a granule is 1.8 GB.

Granules of versions 1 and 2 have the geometry of the sensor. Their cubes need no resampling (`EmitCube`), or are
orthorectified through the granule's geographic look-up table (GLT, `OrthoCube`). The table counts pixels from 1 and
holds 0 outside the swath. In granules of software build 010613 (May 2023) it is mirrored across track
(github.com/nasa/EMIT-Data-Resources issue 28). Gridded granules (emit-sds-l3) are orthorectified, without pixels under
cloud (`GriddedCube`). A granule is a path, or an open binary file object, such as a remote file.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window, reflectance_of, usable_bands
from ms2hs.datasets.emit_flags import KIND, flag_layers, flags_beside
from ms2hs.datasets.hdf5_file import Source, band_runs, hdf5_errors, name_of, opened, stored_dataset, stored_table
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid

PATTERN = "EMIT_L2A_RFL_*.nc"
NEEDS = "reflectance, sensor_band_parameters and location"
EMIT_NODATA = -9999.0
# Shorter waves, of the first four bands, are left out as in the table `emit` and in arXiv 2502.19451: 240 bands remain.
FIRST_NM = 407.0
# Side in pixels of the blocks that are orthorectified at once: large, so that each chunk of the sensor is decoded once.
ORTHO_BLOCK = 1024
FLIPPED_BUILD = "010613"
UNFLIPPED_ORIENTATION = "as seen on ground"
# Largest distance, in ortho pixels, between an ortho pixel and the sensor pixel that the table gives for it. The table
# points to the nearest sensor pixel, so about 1 is usual.
MAX_TABLE_ERROR = 3.0
# Number of sensor rows at which the direction of the table is checked.
PROBE_ROWS = 6
# Limits of a geographic grid; granules have about 2000 pixels a side.
MAX_DEGREES, MAX_SIDE = 1000.0, 20_000
Transform = tuple[float, float, float, float, float, float]
Window = tuple[slice, slice]
"""Rows and columns, with start and stop."""
Pixels = tuple[slice, slice] | tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class EmitFiles:
    """The open files of a granule, and datasets that stay open: HDF5 caches the chunks of an open dataset only."""

    granule: Any
    reflectance: Any
    mask: Any | None


@dataclass(frozen=True, eq=False)
class EmitCube:
    """A granule in the geometry of the sensor: rows down track, columns across track."""

    name: str
    """Time, orbit and number of the granule."""
    scene: str
    source: Source
    grid: SpectralGrid
    shape: tuple[int, int]
    bands: NDArray[np.intp]
    """(band,) positions in the file."""
    flags: Source | None
    """The MASK file of the granule, if it exists."""
    flag_layers: tuple[int, ...]
    """Positions of the flags in the MASK file that make a pixel unknown."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown or flagged as cloud, cirrus or spacecraft.

        DataError if a file is damaged or truncated.
        """
        check_window(self.shape, row, col, height, width)
        with self.opened() as files:
            return self.read_open(files, np.s_[row : row + height, col : col + width])

    @property
    def missing_flags(self) -> tuple[str, ...]:
        """The MASK file, if the granule lacks it."""
        return () if self.flags else ("EMIT_L2A_MASK",)

    @contextmanager
    def opened(self) -> Iterator[EmitFiles]:
        """The open files of the granule, for several reads."""
        with ExitStack() as stack:
            flags = stack.enter_context(opened(self.flags, KIND, "flags")) if self.flags else None
            granule = stack.enter_context(opened(self.source, KIND, NEEDS))
            mask = None if flags is None else stored_dataset(flags, "mask")
            yield EmitFiles(granule, stored_dataset(granule, "reflectance"), mask)

    def read_open(self, files: EmitFiles, window: Window, pixels: Pixels = np.s_[:, :]) -> Float32Array:
        """As `read`, from open files; or (band, pixel) values of some pixels, by rows and columns in the window."""
        runs = [files.reflectance[*window, run][pixels] for run in band_runs(self.bands)]
        order = np.argsort(np.argsort(self.bands))  # the bands in the file ascend
        dn = np.moveaxis(np.concatenate(runs, axis=-1), -1, 0)[order]
        values = reflectance_of(dn.reshape(len(dn), -1, 1), nodata=EMIT_NODATA).reshape(dn.shape)
        values[:, self.read_flags(files, window)[pixels]] = np.nan
        return values

    def read_flags(self, files: EmitFiles, window: Window) -> BoolArray:
        """(row, col) True where a pixel is flagged as cloud, cirrus or spacecraft."""
        if files.mask is None or self.flags is None:
            return np.zeros([side.stop - side.start for side in window], np.bool_)
        with hdf5_errors(self.flags, KIND, "flags"):
            layers = files.mask[*window, : max(self.flag_layers) + 1]
        # NaN and nodata are flags too: version 2 has nodata where clouds were cut off on board.
        return np.asarray((~(np.abs(layers[..., self.flag_layers]) <= 0.5)).any(axis=-1))


@dataclass(frozen=True, eq=False)
class _Lookup:
    """Ortho pixels, and the sensor pixels that the table gives for them, all (pixel,) and inside the swath."""

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    """Position in the window that is read."""
    sensor_rows: NDArray[np.int64]
    sensor_cols: NDArray[np.int64]

    @property
    def box(self) -> Window:
        """The smallest window of the sensor with all pixels."""
        rows, cols = self.sensor_rows, self.sensor_cols
        return slice(int(rows.min()), int(rows.max()) + 1), slice(int(cols.min()), int(cols.max()) + 1)

    @property
    def in_box(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(pixel,) rows and columns of the sensor pixels in `box`."""
        rows, cols = self.box
        return self.sensor_rows - rows.start, self.sensor_cols - cols.start

    def split(self, cell: tuple[int, int]) -> Iterator["_Lookup"]:
        """The parts in each cell (rows, columns) of the sensor, such as a chunk of the file."""
        width = self.sensor_cols.max() // cell[1] + 1
        which = self.sensor_rows // cell[0] * width + self.sensor_cols // cell[1]
        order = np.argsort(which, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
            yield _Lookup(self.rows[part], self.cols[part], self.sensor_rows[part], self.sensor_cols[part])


@dataclass(frozen=True, eq=False)
class OrthoCube:
    """A granule on its geographic grid, by nearest neighbour."""

    name: str
    scene: str
    grid: SpectralGrid
    shape: tuple[int, int]
    sensor_cube: EmitCube
    transform: Transform
    """Affine a to f: the centre of a pixel is at `lon = a (col + 0.5) + b (row + 0.5) + c`."""
    flipped: bool
    """Whether the columns of the table are mirrored."""
    is_direction_measured: bool
    """Whether longitudes and latitudes tell `flipped`; else the software build does."""
    crs: str = "EPSG:4326"

    @property
    def missing_flags(self) -> tuple[str, ...]:
        """As in `EmitCube`."""
        return self.sensor_cube.missing_flags

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown, read in blocks.

        DataError as in `EmitCube.read`, or if the table points outside the granule.
        """
        check_window(self.shape, row, col, height, width)
        result = np.full((len(self.grid), height, width), np.nan, np.float32)
        with self.sensor_cube.opened() as files:
            for part in self._lookups(files, row, col, height, width):
                if self._is_clear(files, part):
                    result[:, part.rows, part.cols] = self.sensor_cube.read_open(files, part.box, part.in_box)
        return result

    def sensor_windows(self, row: int, col: int, height: int, width: int, *, clear: bool) -> list[Window]:
        """The windows of the sensor that `read` reads for a window; errors as in `read`.

        Parameters
        ----------
        clear : only windows of which reflectance is read: those with a pixel that is not flagged.
        """
        check_window(self.shape, row, col, height, width)
        with self.sensor_cube.opened() as files:
            parts = self._lookups(files, row, col, height, width)
            return [part.box for part in parts if not clear or self._is_clear(files, part)]

    def _is_clear(self, files: EmitFiles, part: _Lookup) -> bool:
        """Whether one of the pixels is not flagged."""
        return not self.sensor_cube.read_flags(files, part.box)[part.in_box].all()

    def _lookups(self, files: EmitFiles, row: int, col: int, height: int, width: int) -> Iterator[_Lookup]:
        """The pixels of a window inside the swath, by blocks, and in each block by chunks, or rows, of the file."""
        cell, tables = (files.reflectance.chunks or (1, self.sensor_cube.shape[1]))[:2], open_tables(files.granule)
        for top in range(0, height, ORTHO_BLOCK):
            for left in range(0, width, ORTHO_BLOCK):
                bottom, right = min(top + ORTHO_BLOCK, height), min(left + ORTHO_BLOCK, width)
                rows, cols = read_table(tables, np.s_[row + top : row + bottom, col + left : col + right])
                known = np.nonzero((rows >= 0) & (cols >= 0))
                if known[0].size:
                    sensor = self._checked(rows[known], cols[known])
                    yield from _Lookup(known[0] + top, known[1] + left, *sensor).split(cell)

    def _checked(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = self.sensor_cube.shape
        if rows.max() >= height or cols.max() >= width:
            raise DataError(
                f"{name_of(self.sensor_cube.source)}: the look-up table points to row {rows.max() + 1}, column "
                f"{cols.max() + 1} of {(height, width)}. The file is damaged: download it again."
            )
        return rows, width - 1 - cols if self.flipped else cols


@dataclass(frozen=True, eq=False)
class GriddedCube:
    """A gridded granule: (band, lat, lon) on a geographic grid, without pixels under cloud."""

    name: str
    scene: str
    source: Source
    grid: SpectralGrid
    shape: tuple[int, int]
    bands: NDArray[np.intp]
    """(band,) positions in the file."""
    transform: Transform
    """As in `OrthoCube`."""
    crs: str = "EPSG:4326"

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown; DataError if the file is damaged."""
        check_window(self.shape, row, col, height, width)
        window = np.s_[row : row + height, col : col + width]
        with opened(self.source, KIND, NEEDS) as file:
            stored = stored_dataset(file, "reflectance")
            dn = np.concatenate([stored[run, *window] for run in band_runs(self.bands)])
        return reflectance_of(dn[np.argsort(np.argsort(self.bands))], nodata=EMIT_NODATA)


def find_granules(folder: Path) -> list[Path]:
    """The reflectance file of every granule under the folder."""
    return sorted(folder.rglob(PATTERN))


def open_emit(source: Source, flags: Source | None = None) -> EmitCube | GriddedCube:
    """An L2A reflectance granule with its good bands from FIRST_NM on; no pixel is read.

    `flags` is the MASK file of a granule; None: the newest file of the granule beside a path, if one exists. Errors as
    in `hdf5_file.opened`.
    """
    with opened(source, KIND, NEEDS) as file:
        names = "wavelengths", "fwhm", "good_wavelengths"
        centre, width, good = (stored_table(file, f"sensor_band_parameters/{name}") for name in names)
        stored = stored_dataset(file, "reflectance")
        shape, dtype = stored.shape, stored.dtype
        is_gridded = "location" not in file and len(shape) == 3 and shape[0] == len(centre)
        if len(shape) != 3 or shape[0 if is_gridded else 2] != len(centre) or dtype.kind not in "fiu":
            raise DataError(
                f"{name_of(source)}: reflectance of shape {shape} and type {dtype} with {len(centre)} wavelengths; "
                "numbers by row, column and band are needed. The file is damaged: download it again."
            )
        transform = _transform_of_axes(file, shape[1:]) if is_gridded else None
    grid, order = usable_bands(name_of(source), centre, width, (good > 0.5) & (centre >= FIRST_NM))
    name = PurePosixPath(name_of(source)).stem.removeprefix("EMIT_L2A_RFL_")
    if transform is not None:
        return GriddedCube(name, name, source, grid, shape[1:], order, transform)
    flags = flags or (flags_beside(source) if isinstance(source, Path) else None)
    layers = flag_layers(flags, shape[:2]) if flags else ()
    return EmitCube(name, name, source, grid, shape[:2], order, flags, layers)


def table_grid(cube: EmitCube) -> tuple[Transform, tuple[int, int]]:
    """Transform and shape of a granule's geographic grid, by the header of its look-up table."""
    with cube.opened() as files:
        c, a, b, f, d, e = (float(number) for number in files.granule.attrs["geotransform"])  # GDAL's order
        rows, cols = (table.shape for table in open_tables(files.granule))
    is_table = rows == cols and len(rows) == 2 and 0 < min(rows) <= max(rows) <= MAX_SIDE
    if not is_table or not np.abs([a, b, c, d, e, f]).max() <= MAX_DEGREES or a * e == 0:
        raise DataError(
            f"{name_of(cube.source)}: look-up tables of shape {rows} and {cols} with the geotransform "
            f"{(c, a, b, f, d, e)}; one shape of at most {MAX_SIDE} a side and pixels with a size are needed. Download "
            "the file again."
        )
    return (a, b, c, d, e, f), rows


def orthorectify(cube: EmitCube | GriddedCube, window: Window | None = None) -> OrthoCube | GriddedCube:
    """The granule on its geographic grid, without reading pixels of reflectance.

    `window` is the part in which the direction of the table is checked. DataError if the table misses lon and lat.
    """
    if isinstance(cube, GriddedCube):
        return cube
    transform, shape = table_grid(cube)
    with cube.opened() as files:
        whole = slice(0, shape[0]), slice(0, shape[1])
        flipped, is_measured = _is_flipped(cube, files.granule, transform, window or whole)
    return OrthoCube(cube.name, cube.scene, cube.grid, shape, cube, transform, flipped, is_measured)


def _transform_of_axes(file: Any, shape: tuple[int, int]) -> Transform:  # noqa: ANN401 - h5py has no types
    """The transform of a grid with the pixel centres `lat` and `lon`, evenly spaced."""
    ends = []
    for axis, size in zip(("lon", "lat"), shape[::-1], strict=True):
        centres = stored_table(file, axis).astype(float)
        steps = np.diff(centres)
        if centres.shape != (size,) or not 2 <= size <= MAX_SIDE or not np.ptp(steps) < abs(steps.mean()) / 10:
            raise DataError(
                f"{file.filename}: {axis} of shape {centres.shape}; {size} evenly spaced values are needed. The file "
                "is damaged: download it again."
            )
        ends += [(centres[-1] - centres[0]) / (size - 1), centres[0]]
    a, lon, e, lat = (float(number) for number in ends)
    return a, 0.0, lon - a / 2, 0.0, e, lat - e / 2


def open_tables(file: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """The look-up tables of a granule, for rows and columns of the sensor."""
    return stored_dataset(file, "location/glt_y"), stored_dataset(file, "location/glt_x")


def read_table(tables: tuple[Any, Any], window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, col) rows and columns of the sensor, from 0, and negative outside the swath."""
    rows, cols = (np.asarray(table[window], np.int64) - 1 for table in tables)
    return rows, cols


def _is_flipped(cube: EmitCube, file: Any, transform: Transform, window: Window) -> tuple[bool, bool]:  # noqa: ANN401
    """Whether the columns of the table are mirrored, and whether that is measured.

    Judged by longitude and latitude of the pixels that the table points to, on some rows of the sensor. Where both
    directions fit (a granule a few pixels wide), software build and orientation decide.
    """
    a, b, c, d, e, f = transform
    positions = [stored_dataset(file, f"location/{key}") for key in ("lon", "lat")]
    if not positions[0].shape == positions[1].shape == cube.shape:
        raise ValueError(f"lon of shape {positions[0].shape}, lat of {positions[1].shape}, reflectance of {cube.shape}")
    straight, mirrored = [np.zeros(0)], [np.zeros(0)]
    for line, row, col, sample in _probes(file, window):
        lon, lat = (np.asarray(position[line], float) for position in positions)
        for distances, samples in ((straight, sample), (mirrored, len(lon) - 1 - sample)):
            east = np.abs(a * col + b * row + c - lon[samples]) / abs(a)
            north = np.abs(d * col + e * row + f - lat[samples]) / abs(e)
            distances.append(np.maximum(east, north))
    straight_error, mirrored_error = (
        float(np.median(np.concatenate(part))) if len(part) > 1 else 0.0 for part in (straight, mirrored)
    )
    if not min(straight_error, mirrored_error) <= MAX_TABLE_ERROR:
        raise DataError(
            f"{name_of(cube.source)}: the look-up table misses lon and lat by {straight_error:.0f} pixels, mirrored by "
            f"{mirrored_error:.0f}; at most {MAX_TABLE_ERROR:g} are allowed. Read it without orthorectification, or "
            "download it again."
        )
    if max(straight_error, mirrored_error) > MAX_TABLE_ERROR:
        return mirrored_error < straight_error, True
    build, orientation = (_text(file, key) for key in ("software_build_version", "crosstrack_orientation"))
    return build == FLIPPED_BUILD and orientation != UNFLIPPED_ORIENTATION, False


def _probes(file: Any, window: Window) -> list[tuple[int, FloatArray, FloatArray, NDArray[np.int64]]]:  # noqa: ANN401
    """Some rows of the sensor, each with rows and columns of its ortho pixel centres, and with their sensor columns."""
    rows, cols = read_table(open_tables(file), window)
    known = (rows >= 0) & (cols >= 0)
    if not known.any():
        return []
    probes = []
    for line in np.unique(np.linspace(rows[known].min(), rows[known].max(), PROBE_ROWS).astype(int)).tolist():
        top, left = np.nonzero(known & (rows == line))
        if top.size:
            row, col = (at + side.start + 0.5 for at, side in zip((top, left), window, strict=True))
            probes.append((line, row, col, cols[top, left]))
    return probes


def _text(file: Any, key: str) -> str:  # noqa: ANN401
    value = file.attrs.get(key, "")
    return value.decode() if isinstance(value, bytes) else str(value)
