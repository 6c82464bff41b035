"""Pairs in memory, for tests of training and evaluation."""

from dataclasses import dataclass

import numpy as np
from cubes_of_arrays import smooth_cubes

from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.spectra.sensors import load_sensor


@dataclass(frozen=True, eq=False)
class ProductPair:
    """A simulated pair with a product's gain and offset error, marked as measured."""

    inner: SimulatedPair
    gain: float = 1.0
    offset: float = 0.0
    is_simulated: bool = False

    def __getattr__(self, name):
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, row, col, height, width):
        measured, truth = self.inner.read(row, col, height, width)
        return np.float32(self.gain) * measured + np.float32(self.offset), truth


def simulated_pairs(count=4, target="enmap", sensor="sentinel2a", **cubes):
    """Simulated pairs of smooth cubes, each a scene."""
    asked = load_sensor(target).grid if target else None
    return [SimulatedPair(cube, sensor, asked) for cube in smooth_cubes(count, **({"bands": 150} | cubes))]


def product_pairs(count=4, gain=1.0, offset=0.0, **others):
    """Pairs whose source has an error of gain and offset."""
    return [ProductPair(pair, gain, offset) for pair in simulated_pairs(count, **others)]


def with_holes(pair, share=0.2, seed=0):
    """The pair with random unknown pixels in source and target."""
    return _Holed(pair, share, seed)


@dataclass(frozen=True, eq=False)
class _Holed:
    inner: object
    share: float
    seed: int

    def __getattr__(self, name):
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, row, col, height, width):
        measured, truth = (part.copy() for part in self.inner.read(row, col, height, width))
        rng = np.random.default_rng(self.seed)
        holes = rng.random((2, *self.inner.shape)) < self.share
        window = np.s_[row : row + height, col : col + width]
        measured[:, holes[0][window]] = np.nan
        truth[:, holes[1][window]] = np.nan
        return measured, truth
