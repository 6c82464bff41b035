"""Windows of real multispectral scenes, for the shapes that they show."""

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

# The bands that tell surfaces apart: blue, green, red, near infrared, and two of the short-wave infrared.
TELLING_NM = (490.0, 560.0, 665.0, 842.0, 1610.0, 2190.0)
REACH_NM = 60.0
FEWEST_TELLING = 4
# A window smaller than this shows too little of a landscape.
SMALLEST_WINDOW = 64
# Bands beyond this are coarser than the pixels (20 m of 10 m), and stand in the file as blocks.
COARSE_NM = 1000.0


@dataclass(frozen=True, eq=False)
class Texture:
    """A window of a real multispectral scene, whose shapes a simulated one takes. Holds no pixels."""

    scene: Scene
    row: int
    col: int
    height: int
    width: int

    @property
    def grid(self) -> SpectralGrid:
        """The bands that `read` gives."""
        return self.scene.spectral.select(telling_bands(self.scene.spectral))

    def read(self) -> Float32Array:
        """(band, row, col) reflectance of the bands that tell surfaces apart, finite.

        Raises
        ------
        SceneError : the file is gone or damaged.
        """
        with SceneReader(self.scene, self.scene.grid) as reader:
            reflectance, _ = reader.read(self.row, self.col, self.height, self.width)
        bands = telling_bands(self.scene.spectral)
        coarse = self.scene.spectral.wavelength_nm[bands] > COARSE_NM
        values = np.clip(reflectance[bands], 1e-4, None)
        values[coarse] = blur(values[coarse], 1.0)
        return values


def telling_bands(grid: SpectralGrid) -> list[int]:
    """Positions of those bands nearest to `TELLING_NM` that are there."""
    found = [nearest_band(grid.wavelength_nm, nm, REACH_NM) for nm in TELLING_NM]
    return sorted({band for band in found if band is not None})


def structures(folder: Path, size: int = 128) -> list[Texture]:
    """Windows of the GeoTIFFs in `sentinel2/` of a folder, or in itself: square, side by side, without nodata.

    A scene smaller than `size` is one window. Files that are no surface reflectance are passed over.
    """
    place = folder / "sentinel2" if (folder / "sentinel2").is_dir() else folder
    found: list[Texture] = []
    for path in sorted(place.glob("*.tif")):
        try:
            found += _windows(open_scene(str(path)), size)
        except SceneError:
            continue
    return found


def _windows(scene: Scene, size: int) -> list[Texture]:
    rows, cols = scene.grid.height, scene.grid.width
    height, width = min(rows, size), min(cols, size)
    if min(height, width) < SMALLEST_WINDOW or len(telling_bands(scene.spectral)) < FEWEST_TELLING:
        return []
    with SceneReader(scene, scene.grid) as reader:
        _, valid = reader.read(0, 0, rows, cols)
    corners = [(row, col) for row in range(0, rows - height + 1, height) for col in range(0, cols - width + 1, width)]
    whole = [(row, col) for row, col in corners if valid[row : row + height, col : col + width].all()]
    return [Texture(scene, row, col, height, width) for row, col in whole]
