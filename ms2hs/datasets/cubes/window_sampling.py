"""Random training windows of cubes and pairs, and the bands and pixels of a batch that are known."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.spectra.sensors import RANGE_NM
from ms2hs.spectra.spectral_grid import SpectralGrid

# A batch with fewer known bands or pixels is not trained on.
MIN_BANDS_IN_BATCH = 4
MIN_PIXELS_IN_BATCH = 4


class Readable(Protocol):
    """A cube, or a pair as one stack of bands: reflectance read by window, NaN where unknown."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col)."""


AnyReadable = TypeVar("AnyReadable", bound=Readable)


def read_windows(
    cubes: Sequence[Readable], size: int, rngs: Sequence[np.random.Generator], *, turned: bool = False
) -> Float32Array:
    """(window, band, row, col) a window at a random position of each cube; NaN beyond the edge of a cube.

    Parameters
    ----------
    cubes : of one spectral grid.
    size : side of a window in pixels.
    rngs : (cube,) random generators.
    turned : turn and mirror the windows at random.
    """
    result: Float32Array | None = None
    for index, (cube, rng) in enumerate(zip(cubes, rngs, strict=True)):
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
    """The bands of a batch that are known in most pixels; None if too few bands or pixels are known.

    Parameters
    ----------
    values : (window, band, row, col) NaN where unknown.

    Returns
    -------
    (window, band, row, col) in the chosen bands, 0 where not valid; (window, row, col) True where all of them are
    known; and the chosen bands. Bands outside the range of the prior are left out.
    """
    low, high = RANGE_NM
    finite = np.isfinite(values)
    bands = (grid.wavelength_nm >= low) & (grid.wavelength_nm <= high)
    bands &= finite.sum(axis=(0, 2, 3)) > finite.any(axis=1).sum() / 2
    valid: BoolArray = np.asarray(finite[:, bands].all(axis=1))
    if bands.sum() < MIN_BANDS_IN_BATCH or valid.sum() < MIN_PIXELS_IN_BATCH:
        return None
    return np.where(valid[:, None], values[:, bands], np.float32(0)), valid, grid.select(bands)
