"""Windows of real multispectral scenes, whose shapes and contrasts simulated scenes follow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.simulation.random_fields import blur
from ms2hs.errors import SceneError
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

# Bands that distinguish surfaces: blue, green, red, near infrared, and two in the short-wave infrared.
TEXTURE_NM = (490.0, 560.0, 665.0, 842.0, 1610.0, 2190.0)
MAX_BAND_DISTANCE_NM = 60.0
MIN_TEXTURE_BANDS = 4
# Side in pixels below which a window shows too little of a landscape.
MIN_WINDOW_SIDE = 64
# Bands above this wavelength have 20 m in pixels of 10 m, and show as blocks.
COARSE_NM = 1000.0


@dataclass(frozen=True, eq=False)
class Texture:
    """A window of a real multispectral scene; its pixels are read on demand."""

    scene: Scene
    row: int
    col: int
    height: int
    width: int

    @property
    def grid(self) -> SpectralGrid:
        """The bands of `read`."""
        return self.scene.spectral.select(texture_bands(self.scene.spectral))

    def read(self) -> Float32Array:
        """(band, row, col) reflectance in the bands nearest to `TEXTURE_NM`, finite; SceneError if it is damaged."""
        with SceneReader(self.scene, self.scene.grid) as reader:
            reflectance, _ = reader.read(self.row, self.col, self.height, self.width)
        bands = texture_bands(self.scene.spectral)
        coarse = self.scene.spectral.wavelength_nm[bands] > COARSE_NM
        values = np.clip(reflectance[bands], 1e-4, None)
        values[coarse] = blur(values[coarse], 1.0)
        return values


def texture_bands(grid: SpectralGrid) -> list[int]:
    """Positions of the bands nearest to `TEXTURE_NM`, within `MAX_BAND_DISTANCE_NM`."""
    nearest = (nearest_band(grid.wavelength_nm, nm, MAX_BAND_DISTANCE_NM) for nm in TEXTURE_NM)
    return sorted({band for band in nearest if band is not None})


def find_textures(folder: Path, size: int = 128) -> list[Texture]:
    """Adjacent square windows without nodata in the GeoTIFFs of the folder's `sentinel2/`, or of the folder itself.

    A scene smaller than `size` is one window. Files that are no surface reflectance are skipped.
    """
    scenes = folder / "sentinel2" if (folder / "sentinel2").is_dir() else folder
    textures: list[Texture] = []
    for path in sorted(scenes.glob("*.tif")):
        try:
            textures += _windows(open_scene(str(path)), size)
        except SceneError:
            continue
    return textures


def _windows(scene: Scene, size: int) -> list[Texture]:
    rows, cols = scene.grid.height, scene.grid.width
    height, width = min(rows, size), min(cols, size)
    if min(height, width) < MIN_WINDOW_SIDE or len(texture_bands(scene.spectral)) < MIN_TEXTURE_BANDS:
        return []
    with SceneReader(scene, scene.grid) as reader:
        _, valid = reader.read(0, 0, rows, cols)
    corners = [(row, col) for row in range(0, rows - height + 1, height) for col in range(0, cols - width + 1, width)]
    whole = [(row, col) for row, col in corners if valid[row : row + height, col : col + width].all()]
    return [Texture(scene, row, col, height, width) for row, col in whole]
