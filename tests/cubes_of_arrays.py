"""Cubes in memory, for tests of training and evaluation."""

from dataclasses import dataclass

import numpy as np

from ms2hs.models.weights import load_weights
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, response_matrix


@dataclass(frozen=True, eq=False)
class ArrayCube:
    name: str
    scene: str
    grid: SpectralGrid
    values: np.ndarray

    @property
    def shape(self):
        return self.values.shape[1:]

    def read(self, row, col, height, width):
        return self.values[:, row : row + height, col : col + width].copy()


def smooth_cubes(count=4, bands=40, side=16, seed=0, scenes=None):
    """Cubes of spectra from the prior's sample, smooth over the image."""
    rng = np.random.default_rng(seed)
    prior = load_weights("linear").prior
    grid = grid_of(np.linspace(420, 2400, bands), np.full(bands, 20.0))
    spectra = response_matrix(grid, prior.wavelength_nm) @ prior.factors.astype(float) @ prior.sample.T.astype(float)
    cubes = []
    for index in range(count):
        members = spectra[:, rng.integers(spectra.shape[1], size=3)] * 0.3
        ramp = np.linspace(0, 1, side)
        share = np.stack([np.outer(ramp, ramp), np.outer(1 - ramp, ramp), np.outer(np.ones(side), 1 - ramp)])
        values = np.tensordot(members, share, axes=1).astype(np.float32)
        scene = f"scene {index if scenes is None else index % scenes}"
        cubes.append(ArrayCube(f"cube {index}", scene, grid, values))
    return cubes
