"""The scene that a cube was converted from, as a layer of its page: the measured values on the grid of the cube."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.viewing.cube_layers import Int16Array, Kind, PixelWindow, stored

# Rows of the page's grid that are read at a time.
STRIP_ROWS = 256


@dataclass(frozen=True, eq=False)
class SceneLayer:
    """A scene on the `grid` of a page, read as `CubeLayer` is."""

    scene: Scene
    path: str
    grid: PixelGrid
    kinds: tuple[Kind, ...] = ("reflectance",)
    are_dots: Literal[True] = True

    @property
    def spectral(self) -> SpectralGrid:
        """The bands of the scene."""
        return self.scene.spectral

    @property
    def support(self) -> tuple[str, ...]:
        """(band,) `measured` for each."""
        return ("measured",) * len(self.spectral)

    def read(
        self, kind: Kind, bands: Sequence[int], window: PixelWindow, shape: tuple[int, int] | None = None
    ) -> Int16Array:
        """(band, row, col) reflectance in steps of 1e-4, as `CubeLayer.read`; averages of the valid pixels.

        Raises
        ------
        SceneError : a file is damaged, or its grid is not aligned with the page's.
        """
        del kind  # a scene has one
        rows, cols = shape or window[2:]
        coarse = self.grid.crop(*window).resized(window[2] / rows, window[3] / cols)
        count = max(1, STRIP_ROWS * rows // window[2])
        strips = []
        with SceneReader(self.scene, coarse) as reader:
            for row in range(0, rows, count):
                reflectance, valid = reader.read(row, 0, min(count, rows - row), cols)
                strips.append(stored(np.where(valid, reflectance[list(bands)], np.float32(np.nan))))
        return np.concatenate(strips, axis=1)
