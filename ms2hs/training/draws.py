"""Random choices of a training step: its windows, and the sensor errors that are added to them.

All choices follow from the seed of the run and the step number alone. Every process makes the same common choices, then
reads and disturbs only its own windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.window_sampling import AnyReadable
from ms2hs.datasets.simulation.sensor_errors import SensorErrors, disturb
from ms2hs.errors import DataError
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import SpectralGrid

# Draws of a step's windows before training fails because no pixel is known.
TRIES = 20
# Share of a pixel's noise that `models.denoising` leaves on average.
FILTERED_NOISE = 0.5


@dataclass(frozen=True)
class StepDraws:
    """The random generators of one step in one process."""

    windows: int
    """Windows of the step, over all processes."""
    common: np.random.Generator
    """For choices about all windows; the same in each process."""
    own: Sequence[np.random.Generator]
    """One generator for each window of this process."""
    mine: slice
    """Positions of this process's windows among all windows."""

    @classmethod
    def of(cls, windows: int, seed: tuple[int, int], rank: int, world: int) -> Self:
        """The generators of process `rank` of `world`; `seed` is the run's seed and the step number.

        Raises
        ------
        DataError : fewer windows than processes.
        """
        if windows < world:
            raise DataError(
                f"batches of {windows} windows for {world} processes; at least one window for each is needed. Raise "
                "--batch, or start fewer processes."
            )
        mine = range(windows)[rank::world]
        own = [np.random.default_rng([*seed, window]) for window in mine]
        return cls(windows, np.random.default_rng(seed), own, slice(rank, None, world))


def choose_sources(
    groups: Sequence[Mapping[str, Sequence[AnyReadable]]], draws: StepDraws
) -> tuple[Sequence[AnyReadable], int]:
    """The cubes or pairs that this process cuts its windows from, and the longest side over all processes' cubes.

    Each of `groups` holds its members by scene; all have the same bands. A group is drawn by the square root of its
    number of scenes, so that a large data set leaves room for small ones. Scenes of a group are equally likely.
    """
    rng = draws.common
    sizes = np.sqrt([len(scenes) for scenes in groups])
    scenes = groups[int(rng.choice(len(groups), p=sizes / sizes.sum()))]
    names = list(scenes)
    of_scene = [scenes[names[i]] for i in rng.integers(len(names), size=draws.windows)]
    chosen = [members[int(rng.integers(len(members)))] for members in of_scene]
    return chosen[draws.mine], max(max(member.shape) for member in chosen)


def disturb_half(values: Float32Array, grid: SpectralGrid, errors: SensorErrors, draws: StepDraws) -> Float32Array:
    """(window, band, row, col) values with sensor errors in half of the windows, drawn anew for each window."""
    result = values.copy()
    for window, rng in enumerate(draws.own):
        if rng.random() < 0.5:
            result[window] = disturb(values[window], grid, errors, rng)
    return result


def disturb_as_given(
    values: Float32Array, scale: Float32Array, grid: SpectralGrid, error: InputError, draws: StepDraws
) -> Float32Array:
    """(window, band, row, col) values with errors of the given size, drawn anew for each window.

    Of the noise, the part remains that a conversion leaves when it filters the noise that it is given.

    Parameters
    ----------
    scale : (window, row, col) scale of the spectra.
    """
    filtered = replace(error, pixel=FILTERED_NOISE * error.pixel)
    parts = zip(values, scale, draws.own, strict=True)
    return np.stack([filtered.disturb(part, size, grid.wavelength_nm, rng) for part, size, rng in parts])


def no_known_pixel(windows: int, data: str) -> DataError:
    """The error for data in which `TRIES` draws found no known pixel."""
    return DataError(
        f"{TRIES} draws of {windows} windows from {data} had no pixel known in all bands; training needs known pixels. "
        "Check the data (nodata, NaN), or leave out the scenes without valid pixels."
    )
