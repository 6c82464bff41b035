"""Pairs: reflectance of a multispectral and of a hyperspectral sensor on the same pixels, measured or simulated."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window
from ms2hs.datasets.cubes.raster_cube import RasterCube, open_raster
from ms2hs.datasets.cubes.registry import Cube, SceneData
from ms2hs.datasets.cubes.spectra_npz import covered_bands, view_matrix
from ms2hs.errors import DataError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.library import MAX_STEP_NM
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# The tag of a multispectral file that names the sensor, and with it the response functions.
SENSOR_TAG = "MS2HS_SOURCE"


class Pair(SceneData, Protocol):
    """Pixels that both sensors measured, on one pixel grid. It pickles, and keeps no file open."""

    @property
    def sensor(self) -> str:
        """Name of the source sensor, or `custom` if only wavelengths are known."""

    @property
    def is_simulated(self) -> bool:
        """True if the source bands were computed from the target's, so that they have no errors of a product."""

    @property
    def source(self) -> SpectralGrid:
        """The source bands, in the order of `read`."""

    @property
    def target(self) -> SpectralGrid:
        """The target bands, in ascending wavelength."""

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col) reflectance of a window, NaN where unknown.

        Raises
        ------
        Ms2hsError : a file is missing or damaged.
        ValueError : the window does not lie inside.
        """


@dataclass(frozen=True, eq=False)
class SimulatedPair:
    """A cube beside its view by a source sensor, simulated with the sensor's response functions."""

    cube: Cube
    sensor: str
    """Name of the source sensor."""
    target_grid: SpectralGrid | None = None
    """Target bands, in ascending wavelength; None = the cube's own. Bands that the cube does not cover are unknown."""
    is_simulated: bool = True

    @property
    def name(self) -> str:
        """Name of the cube."""
        return self.cube.name

    @property
    def scene(self) -> str:
        """Scene of the cube."""
        return self.cube.scene

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.shape

    @cached_property
    def source(self) -> SpectralGrid:
        """All bands of the source sensor."""
        return load_sensor(self.sensor).grid

    @property
    def target(self) -> SpectralGrid:
        """The target bands."""
        return self.target_grid or self.cube.grid

    @property
    def unknown_source_bands(self) -> list[str]:
        """Names of the source bands that cannot be simulated: their centre lies beyond the cube's bands."""
        nm = self.cube.grid.wavelength_nm
        beyond = (self.source.wavelength_nm < nm[0] - MAX_STEP_NM) | (self.source.wavelength_nm > nm[-1] + MAX_STEP_NM)
        return [name for name, outside in zip(self.source.names, beyond, strict=True) if outside]

    @cached_property
    def _views(self) -> tuple[Float32Array, Float32Array | None]:
        """(source band, cube band) and (target band, cube band) weights; rows of NaN for bands not covered."""
        own = self.cube.grid.wavelength_nm
        to_source = view_matrix(self.source, own).astype(np.float32)
        if self.target_grid is None:
            return to_source, None
        known = covered_bands(own, self.target_grid)
        to_target = np.full((len(self.target_grid), len(own)), np.nan, np.float32)
        if known.any():
            to_target[known] = view_matrix(self.target_grid.select(known), own)
        return to_source, to_target

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col), NaN where unknown. Errors as in `Cube.read`."""
        values = self.cube.read(row, col, height, width)
        to_source, to_target = self._views
        truth = values if to_target is None else apply_responses(to_target, values)
        return apply_responses(to_source, values), truth


@dataclass(frozen=True, eq=False)
class StoredPair:
    """A measured pair in two files."""

    name: str
    scene: str
    multispectral: Scene
    cube: RasterCube
    """The hyperspectral file."""
    is_simulated: bool = False

    @property
    def sensor(self) -> str:
        """Sensor of the multispectral file."""
        return self.multispectral.source

    @cached_property
    def source(self) -> SpectralGrid:
        """The bands of the multispectral file, with response functions if the sensor is known."""
        return self.multispectral.spectral

    @property
    def target(self) -> SpectralGrid:
        """The good bands of the hyperspectral file."""
        return self.cube.grid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.multispectral.grid.height, self.multispectral.grid.width

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col) reflectance, NaN where unknown.

        A pixel that is unknown in one source band is unknown in all, as in scenes. Errors as in `Pair.read`.
        """
        check_window(self.shape, row, col, height, width)
        return self._read_multispectral(row, col, height, width), self.cube.read(row, col, height, width)

    def _read_multispectral(self, row: int, col: int, height: int, width: int) -> Float32Array:
        from ms2hs.scenes.reader import SceneReader

        with SceneReader(self.multispectral, self.multispectral.grid) as reader:
            values, valid = reader.read(row, col, height, width)
        values[:, ~valid] = np.nan
        return values

    def has_pixels(self) -> bool:
        """True if any pixel is known to both sensors; only three bands of the cube are read."""
        bands = sorted({0, len(self.cube.grid) // 2, len(self.cube.grid) - 1})
        stored = self.cube.encoding
        scale, offset = (np.broadcast_to(part, len(stored.bands))[bands] for part in (stored.scale, stored.offset))
        three = replace(stored, bands=tuple(stored.bands[band] for band in bands), scale=scale, offset=offset)
        window = (0, 0, *self.shape)
        known = np.isfinite(replace(self.cube, encoding=three).read(*window)).any(axis=0)
        return bool((known & np.isfinite(self._read_multispectral(*window)).all(axis=0)).any())


def open_pair(name: str, scene: str, multispectral: Path, hyperspectral: Path) -> StoredPair:
    """The measured pair in two files.

    SceneError or DataError if a file cannot be read, the pixel grids differ, or no pixel is known to both sensors.
    """
    from ms2hs.raster.dataset import open_dataset, read_pixel_grid
    from ms2hs.raster.header import read_header
    from ms2hs.scenes.formats import open_scene

    cube = open_raster(hyperspectral)
    with open_dataset(str(cube.path)) as file:
        grid = read_pixel_grid(file)
    path = str(multispectral)
    with open_dataset(path) as file:
        sensor = read_header(file, path).tags.get(SENSOR_TAG.lower())
    pair = StoredPair(name, scene, open_scene(path, SceneOptions(source=sensor)), cube)
    if not _same_pixels(pair.multispectral.grid, grid):
        raise DataError(
            f"{name}: the files have different pixel grids ({_describe(pair.multispectral.grid)}, {_describe(grid)}); "
            "both must have the same pixels. Warp one onto the other (gdalwarp), or make the pairs with `ms2hs pairs`."
        )
    if not pair.has_pixels():
        raise DataError(
            f"{name}: no pixel is known to both sensors, only cloud or nodata; at least one is needed. Remove the pair."
        )
    return pair


def _same_pixels(first: PixelGrid, second: PixelGrid) -> bool:
    """True if corners agree within a hundredth of a pixel."""
    if (first.height, first.width, first.crs) != (second.height, second.width, second.crs):
        return False
    corners = np.array([[0, first.width, 0], [0, 0, first.height], [1, 1, 1]])
    in_first = np.linalg.solve(first.matrix, second.matrix @ corners)
    return bool(np.abs(in_first - corners).max() < 0.01)


def _describe(grid: PixelGrid) -> str:
    return f"{grid.height} x {grid.width} pixels of {grid.crs} from {grid.transform[2]:.10g}, {grid.transform[5]:.10g}"


def apply_responses(matrix: Float32Array | FloatArray, values: Float32Array) -> Float32Array:
    """(band, row, col) `matrix @ values`; an unknown value makes only the bands with a weight for it unknown."""
    flat = values.reshape(len(values), -1)
    unknown = ~np.isfinite(flat)
    result = np.asarray(matrix @ np.where(unknown, 0, flat), np.float32)
    if unknown.any():
        result[(matrix != 0).astype(np.float32) @ unknown.astype(np.float32) > 0] = np.nan
    return result.reshape(len(matrix), *values.shape[1:])
