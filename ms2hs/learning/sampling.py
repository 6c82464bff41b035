"""Which windows a step shows: drawn by its number alone, so that every process knows them and reads its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ms2hs.data.artefacts import Artefacts, disturb
from ms2hs.errors import DataError
from ms2hs.spectra.grid import SpectralGrid
from ms2hs.spectra.sensors import RANGE_NM

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
# A batch of fewer bands or pixels says nothing.
FEWEST_BANDS = 4
FEWEST_PIXELS = 4
# So often windows are drawn again, where nothing is known in those that were.
TRIES = 20


class Readable(Protocol):
    """What has windows of bands, NaN where unknown: cubes, and pairs seen as one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col)."""


AnyReadable = TypeVar("AnyReadable", bound=Readable)


@dataclass(frozen=True)
class Draw:
    """What a step draws at random, so that each process knows what is common and reads its own windows only."""

    windows: int
    """Of the step, over all processes."""
    common: np.random.Generator
    """Of all windows of the step, in each process the same."""
    own: Sequence[np.random.Generator]
    """One a window of this process."""
    mine: slice
    """Which of all windows these are."""

    @classmethod
    def of(cls, windows: int, seed: tuple[int, int], rank: int, world: int) -> Self:
        """The draw of process `rank` of `world`.

        Parameters
        ----------
        seed : of the run, and the number of the step.

        Raises
        ------
        DataError : fewer windows than processes.
        """
        if windows < world:
            raise DataError(
                f"batches of {windows} windows for {world} processes; at least one for each is needed. Raise --batch, "
                "or start fewer."
            )
        mine = range(windows)[rank::world]
        own = [np.random.default_rng([*seed, window]) for window in mine]
        return cls(windows, np.random.default_rng(seed), own, slice(rank, None, world))


def choose(groups: Sequence[Mapping[str, Sequence[AnyReadable]]], draw: Draw) -> tuple[Sequence[AnyReadable], int]:
    """What this process reads of a step, a window each, and the longest side of all that any process reads.

    Of one group (of those with the same bands), drawn by the square root of its number of scenes, so that a large
    corpus leaves room for small ones; within it each scene is as likely as another.

    Parameters
    ----------
    groups : of each the members by scene.
    """
    rng = draw.common
    sizes = np.sqrt([len(scenes) for scenes in groups])
    scenes = groups[int(rng.choice(len(groups), p=sizes / sizes.sum()))]
    names = list(scenes)
    of_scene = [scenes[names[i]] for i in rng.integers(len(names), size=draw.windows)]
    chosen = [members[int(rng.integers(len(members)))] for members in of_scene]
    return chosen[draw.mine], max(max(one.shape) for one in chosen)


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


def disturb_half(values: Float32Array, grid: SpectralGrid, artefacts: Artefacts, draw: Draw) -> Float32Array:
    """(window, band, row, col) values with a product's errors, in half of the windows; each is a scene of its own."""
    result = values.copy()
    for window, rng in enumerate(draw.own):
        if rng.random() < 0.5:
            result[window] = disturb(values[window], grid, artefacts, rng)
    return result


def nothing_known(windows: int, what: str) -> DataError:
    """What to raise when every draw was in vain."""
    return DataError(
        f"{TRIES} draws of {windows} windows from {what} had no pixel known in all bands; training needs such pixels. "
        "Look at the data (nodata, NaN), or leave the bad ones out."
    )
