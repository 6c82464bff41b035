"""Which windows a step shows: drawn by its number alone, so that every process knows them and reads its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.window_sampling import AnyReadable
from ms2hs.datasets.simulation.sensor_errors import SensorErrors, disturb
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid

# So often windows are drawn again, where nothing is known in those that were.
TRIES = 20


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


def disturb_half(values: Float32Array, grid: SpectralGrid, artefacts: SensorErrors, draw: Draw) -> Float32Array:
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
