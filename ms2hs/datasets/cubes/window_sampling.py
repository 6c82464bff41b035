"""Which windows a step shows: drawn by its number alone, so that every process knows them and reads its own."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.spectra.sensors import RANGE_NM
from ms2hs.spectra.spectral_grid import SpectralGrid

# A batch of fewer bands or pixels says nothing.
FEWEST_BANDS = 4
FEWEST_PIXELS = 4


class Readable(Protocol):
    """What has windows of bands, NaN where unknown: cubes, and pairs seen as one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col)."""


AnyReadable = TypeVar("AnyReadable", bound=Readable)


def read_windows(
    cubes: Sequence[Readable], size: int, draws: Sequence[np.random.Generator], *, turned: bool = False
) -> Float32Array:
    """(window, band, row, col) one window of a random place a cube; NaN beyond a cube's edge.

    Parameters
    ----------
    cubes : of one grid.
    size : pixels on a side.
    draws : one a window, of its place.
    turned : whether windows are turned and mirrored at random.
    """
    result: Float32Array | None = None
    for index, (cube, rng) in enumerate(zip(cubes, draws, strict=True)):
        height, width = (min(size, length) for length in cube.shape)
        row = int(rng.integers(cube.shape[0] - height + 1))
        col = int(rng.integers(cube.shape[1] - width + 1))
        values = cube.read(row, col, height, width)
        if turned:
            values = np.rot90(values, int(rng.integers(4)), axes=(1, 2))
            values = values[:, :, ::-1] if rng.integers(2) else values
        if result is None:
            result = np.full((len(cubes), len(values), size, size), np.nan, np.float32)
        result[index, :, : values.shape[1], : values.shape[2]] = values
    if result is None:
        raise ValueError("no cubes to read")
    return result


def known_bands(values: Float32Array, grid: SpectralGrid) -> tuple[Float32Array, BoolArray, SpectralGrid] | None:
    """Windows (window, band, row, col) of the bands that most pixels have, which pixels have all of them, the bands.

    Bands that the prior does not reach are left out. Values are finite: 0 where not valid. None where nearly nothing
    is known.
    """
    low, high = RANGE_NM
    finite = np.isfinite(values)
    bands = (grid.wavelength_nm >= low) & (grid.wavelength_nm <= high)
    bands &= finite.sum(axis=(0, 2, 3)) > finite.any(axis=1).sum() / 2
    valid: BoolArray = np.asarray(finite[:, bands].all(axis=1))
    if bands.sum() < FEWEST_BANDS or valid.sum() < FEWEST_PIXELS:
        return None
    return np.where(valid[:, None], values[:, bands], np.float32(0)), valid, grid.select(bands)
