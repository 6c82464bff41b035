"""Cubes as a page shows them: int16 planes and spectra of any window, at any resolution, on the grid of one cube.

Numbers are reflectance in steps of 1e-4, as in the files of ms2hs, whose numbers stay as they are. Coarser planes are
averages. A second cube on another grid is read at the nearest pixels, so that one row and column mean one place in
both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rasterio.warp import transform

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.errors import SceneError
from ms2hs.raster.cube import NODATA, SCALE, open_cube, pixel_grid_of, read_window, sigma_beside, spectral_grid_of
from ms2hs.raster.pixel_grid import UNKNOWN_POSITION, WGS84, PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid, line_weights

Int16Array = NDArray[np.int16]
Kind = Literal["reflectance", "sigma"]
PixelWindow = tuple[int, int, int, int]
"""Row, column, height, width."""
# Points per side between which positions in another grid are interpolated: exact to 0.01 pixel for a Sentinel-2 tile.
MAP_POINTS = 33


@dataclass(frozen=True, eq=False)
class CubeLayer:
    """One cube of a page. `grid` is the grid of the page: windows and shapes are in its pixels."""

    cube: xr.Dataset
    path: str
    grid: PixelGrid
    own_grid: PixelGrid
    spectral: SpectralGrid
    support: tuple[str, ...]
    """(band,) `Support` of each band, empty texts where unknown."""
    are_dots: Literal[False] = False
    """Whether the page draws dots instead of a line."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The reflectance, and the uncertainty if it lies beside the cube."""
        return ("reflectance", "sigma") if "sigma" in self.cube else ("reflectance",)

    def read(
        self, kind: Kind, bands: Sequence[int], window: PixelWindow, shape: tuple[int, int] | None = None
    ) -> Int16Array:
        """(band, row, col) values in steps of 1e-4, NODATA where invalid or outside the cube.

        Parameters
        ----------
        bands : 0-based positions.
        shape : rows and columns of the result, at most as the window's; None: every pixel.

        Raises
        ------
        SceneError : the file is damaged.
        """
        shape = shape or window[2:]
        if self.grid == self.own_grid or self.grid.crs is None:
            return stored(self._read_own(kind, bands, window, shape))
        rows, cols = self._own_positions(window, shape)
        inside = (rows >= 0) & (rows < self.own_grid.height) & (cols >= 0) & (cols < self.own_grid.width)
        values = np.full((len(bands), *shape), NODATA, np.int16)
        if inside.any():
            rows, cols = rows[inside].astype(int), cols[inside].astype(int)
            top, left = int(rows.min()), int(cols.min())
            height, width = int(rows.max()) - top + 1, int(cols.max()) - left + 1
            steps = max(1, height // shape[0]), max(1, width // shape[1])
            coarse = -(-height // steps[0]), -(-width // steps[1])
            part = stored(self._read_own(kind, bands, (top, left, height, width), coarse))
            values[:, inside] = part[:, (rows - top) * coarse[0] // height, (cols - left) * coarse[1] // width]
        return values

    def _read_own(self, kind: Kind, bands: Sequence[int], window: PixelWindow, shape: tuple[int, int]) -> Float32Array:
        path = self.path if kind == "reflectance" else str(sigma_beside(self.path))
        return read_window(path, bands, window, shape)

    def _own_positions(self, window: PixelWindow, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """(row, col) rows and columns in the cube's own grid of the pixel centres of a window, NaN where unknown."""
        starts, sizes = window[:2], window[2:]
        knots = [np.linspace(start, start + size, MAP_POINTS) for start, size in zip(starts, sizes, strict=True)]
        x, y = positions(self.grid, self.own_grid.crs or WGS84, *knots)
        own = np.tensordot(np.linalg.inv(self.own_grid.matrix), np.stack([x, y, np.ones_like(x)]), 1)
        centres = [
            start + (np.arange(count) + 0.5) * size / count
            for start, size, count in zip(starts, sizes, shape, strict=True)
        ]
        down, across = (line_weights(at, knot) for at, knot in zip(centres, knots, strict=True))
        return down @ own[1] @ across.T, down @ own[0] @ across.T


def positions(grid: PixelGrid, crs: str, rows: FloatArray, cols: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(row, col) x and y in a CRS of the points at some rows and columns of a grid, NaN where it has no position."""
    points = np.stack([*np.meshgrid(cols, rows), np.ones((len(rows), len(cols)))])
    x, y, _ = np.tensordot(grid.matrix, points, 1)
    if crs != grid.crs:
        try:
            x, y = (np.reshape(part, x.shape) for part in transform(grid.crs, crs, x.ravel(), y.ravel()))
        except UNKNOWN_POSITION:
            return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    return np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)


def open_layers(paths: Sequence[str | Path]) -> list[CubeLayer]:
    """The cubes of a page on the grid of the first.

    Raises
    ------
    SceneError : not a cube, or a cube that shares no place with the first.
    """
    cubes = [open_cube(path) for path in paths]
    grids = [pixel_grid_of(cube) for cube in cubes]
    layers = []
    for path, cube, own_grid in zip(paths, cubes, grids, strict=True):
        known = cube.coords.get("support")
        support = [""] * cube.sizes["wavelength"] if known is None else map(str, known.values)
        layer = CubeLayer(cube, str(path), grids[0], own_grid, spectral_grid_of(cube), tuple(support))
        _check_place(layer, str(paths[0]))
        layers.append(layer)
    return layers


def _check_place(layer: CubeLayer, first: str) -> None:
    grid, own = layer.grid, layer.own_grid
    if grid.crs is None or own.crs is None:
        if (grid.height, grid.width) != (own.height, own.width):
            raise SceneError(
                f"{layer.path} has {own.height} x {own.width} pixels, and one of the cubes has no CRS; the "
                f"{grid.height} x {grid.width} pixels of {first} are needed then. Choose a cube of the same grid."
            )
        return
    rows, cols = layer._own_positions((0, 0, grid.height, grid.width), (MAP_POINTS, MAP_POINTS))  # noqa: SLF001
    if not ((rows >= 0) & (rows < own.height) & (cols >= 0) & (cols < own.width)).any():
        raise SceneError(f"{layer.path} shows no place of {first}; a common area is needed. Choose another cube.")


def stored(values: Float32Array) -> Int16Array:
    """Reflectance as int16 in steps of 1e-4."""
    steps = np.rint(values / np.float32(SCALE))
    return np.where(np.isfinite(steps), np.clip(steps, NODATA + 1, -NODATA - 1), NODATA).astype(np.int16)
