"""Pairs: what a multispectral sensor and what a hyperspectral one measured of the same pixels, real or simulated."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ms2hs.data.corpora import reach, view_matrix
from ms2hs.data.cubes import Cube
from ms2hs.spectra.grid import FloatArray, SpectralGrid
from ms2hs.spectra.sensors import load_sensor

Float32Array = NDArray[np.float32]


class Pair(Protocol):
    """A window that both sensors saw, on one pixel grid. It pickles, and keeps no file open."""

    @property
    def name(self) -> str:
        """Unique within its folder."""

    @property
    def scene(self) -> str:
        """What no split may part: a place, a scene, a family."""

    @property
    def sensor(self) -> str:
        """Name of the source's sensor, or `custom` where only wavelengths are known."""

    @property
    def is_simulated(self) -> bool:
        """Whether the source's bands were computed from the truth, so that nothing of a product is in them."""

    @property
    def source(self) -> SpectralGrid:
        """The measured bands, in the order that `read` gives."""

    @property
    def target(self) -> SpectralGrid:
        """The true bands, in ascending wavelength."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col) reflectance of a window inside, NaN where unknown.

        Raises
        ------
        Ms2hsError : a file is gone or damaged.
        ValueError : the window does not lie inside.
        """


@dataclass(frozen=True, eq=False)
class SimulatedPair:
    """A cube, and what a source sensor would see of it through its response functions."""

    cube: Cube
    sensor: str
    """Of the source."""
    asked: SpectralGrid | None = None
    """Bands to have as truth, in ascending wavelength; None: the cube's own. Those it does not reach are unknown."""
    is_simulated: bool = True

    @property
    def name(self) -> str:
        """The cube's."""
        return self.cube.name

    @property
    def scene(self) -> str:
        """The cube's."""
        return self.cube.scene

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.shape

    @cached_property
    def source(self) -> SpectralGrid:
        """All bands of the source."""
        return load_sensor(self.sensor).grid

    @property
    def target(self) -> SpectralGrid:
        """The bands that were asked for."""
        return self.asked or self.cube.grid

    @cached_property
    def _views(self) -> tuple[Float32Array, Float32Array | None]:
        """(source band, own band), and (target band, own band): a row of NaN where the cube does not reach."""
        own = self.cube.grid.wavelength_nm
        to_source = view_matrix(self.source, own).astype(np.float32)
        if self.asked is None:
            return to_source, None
        known = reach(own, self.asked)
        to_target = np.full((len(self.asked), len(own)), np.nan, np.float32)
        if known.any():
            to_target[known] = view_matrix(self.asked.select(known), own)
        return to_source, to_target

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col), NaN where unknown. Errors as of the cube's `read`."""
        values = self.cube.read(row, col, height, width)
        to_source, to_target = self._views
        truth = values if to_target is None else seen_through(to_target, values)
        return seen_through(to_source, values), truth


def seen_through(matrix: Float32Array | FloatArray, values: Float32Array) -> Float32Array:
    """(band, row, col) `matrix @ values`, where an unknown value spreads to those bands alone that see it."""
    flat = values.reshape(len(values), -1)
    unknown = ~np.isfinite(flat)
    result = np.asarray(matrix @ np.where(unknown, 0, flat), np.float32)
    if unknown.any():
        result[(matrix != 0).astype(np.float32) @ unknown.astype(np.float32) > 0] = np.nan
    return result.reshape(len(matrix), *values.shape[1:])
