"""Some windows and pixels of each scene of many pairs: enough for statistics, the same each time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.spectra.spectral_grid import SpectralGrid

# Pixels on a side of a window; so many windows, and pixels in them, tell enough of a scene; so many of these are kept.
SIDE = 64
WINDOWS, WINDOW_PIXELS = 24, 4000
PIXELS = 2000


@dataclass(frozen=True, eq=False)
class Sample:
    """Pixels of one scene that one source saw."""

    scene: str
    sensor: str
    is_simulated: bool
    source: SpectralGrid
    target: SpectralGrid
    measured: Float32Array
    """(source band, pixel) all of them known."""
    truth: Float32Array
    """(target band, pixel) NaN = unknown."""


def by_scene(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of one scene, source and target together, sorted by scene."""
    found: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        grids = (pair.source, pair.target)
        key = (pair.scene, pair.sensor, str(pair.is_simulated), *(str(grid.wavelength_nm.tolist()) for grid in grids))
        found.setdefault(key, []).append(pair)
    return [found[key] for key in sorted(found)]


def windows_of(pairs: Sequence[Pair], seed: int) -> Iterator[tuple[Pair, Float32Array, Float32Array]]:
    """Some windows of pairs that belong together: the pair, (source band, row, col), (target band, row, col)."""
    rng = np.random.default_rng(seed)
    windows = pixels = 0
    for index in rng.permutation(len(pairs)):
        if windows >= WINDOWS and pixels >= WINDOW_PIXELS:
            return
        pair = pairs[int(index)]
        rows, cols = pair.shape
        of_pair = max(1, WINDOWS // len(pairs))
        height, width = min(SIDE, rows), min(SIDE, cols)
        places = {(int(rng.integers(rows - height + 1)), int(rng.integers(cols - width + 1))) for _ in range(of_pair)}
        for row, col in sorted(places):
            windows, pixels = windows + 1, pixels + height * width
            yield pair, *pair.read(row, col, height, width)


def sample_pixels(pairs: Sequence[Pair], seed: int = 0) -> list[Sample]:
    """Some pixels of every scene; scenes without a known pixel are not among them.

    Raises
    ------
    Ms2hsError : a pair cannot be read.
    """
    rng, found = np.random.default_rng(seed), []
    for together in by_scene(pairs):
        measured, truth = [], []
        for _, seen, true in windows_of(together, seed):
            known = np.isfinite(seen).all(axis=0) & np.isfinite(true).any(axis=0)
            measured.append(seen[:, known])
            truth.append(true[:, known])
        seen, true = np.concatenate(measured, axis=1), np.concatenate(truth, axis=1)
        some = np.sort(rng.permutation(seen.shape[1])[:PIXELS])
        if len(some):
            one = together[0]
            grids = (one.source, one.target)
            found.append(Sample(one.scene, one.sensor, one.is_simulated, *grids, seen[:, some], true[:, some]))
    return found
