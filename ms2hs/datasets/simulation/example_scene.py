"""The example scene of `ms2hs example`: a simulated Sentinel-2 image of a river plain.

Surfaces fill Voronoi parcels, a river, high ground and a town; noise fields give texture and shading.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.io import MemoryFile

from ms2hs.datasets.simulation.random_fields import smooth_noise
from ms2hs.errors import OutputError
from ms2hs.files import check_output, write_bytes
from ms2hs.spectra.sensors import load_sensor

SCENE_HEIGHT, SCENE_WIDTH = 230, 310
# Reflectance of common surfaces in Sentinel-2's bands B01-B09, B11 and B12: round numbers like those in level-2A
# products of summer scenes in central Europe. Ours: for a natural look, not for measurement.
SURFACES = {
    "water": (0.040, 0.045, 0.050, 0.030, 0.025, 0.018, 0.016, 0.015, 0.012, 0.010, 0.006, 0.004),
    "forest": (0.018, 0.024, 0.045, 0.022, 0.065, 0.210, 0.270, 0.285, 0.300, 0.305, 0.120, 0.050),
    "crop": (0.025, 0.032, 0.065, 0.030, 0.095, 0.320, 0.430, 0.450, 0.465, 0.460, 0.200, 0.095),
    "stubble": (0.060, 0.080, 0.125, 0.180, 0.210, 0.235, 0.260, 0.280, 0.295, 0.305, 0.360, 0.250),
    "soil": (0.055, 0.075, 0.110, 0.150, 0.175, 0.195, 0.215, 0.230, 0.245, 0.260, 0.330, 0.290),
    "roofs": (0.090, 0.105, 0.130, 0.155, 0.170, 0.185, 0.195, 0.205, 0.215, 0.220, 0.250, 0.220),
}


def write_example(path: Path, *, overwrite: bool = False) -> Path:
    """Write the example scene as a GeoTIFF: 12 bands of Sentinel-2A, uint16, 10 m, nodata beyond the edge of the orbit.

    OutputError if the file exists, or its directory does not.
    """
    if path.suffix.lower() not in {".tif", ".tiff"}:
        raise OutputError(f"{path}: not the name of a GeoTIFF; .tif or .tiff is needed. Use a name like example.tif.")
    check_output(path, overwrite=overwrite)
    grid = load_sensor("sentinel2a").grid
    dn = example_dn()
    profile = {"driver": "GTiff", "dtype": "uint16", "nodata": 0, "crs": "EPSG:32633"}
    shape = {"count": len(dn), "height": SCENE_HEIGHT, "width": SCENE_WIDTH}
    transform = Affine(10, 0, 384000, 0, -10, 5806000)
    with MemoryFile() as memory:
        with memory.open(**profile, **shape, transform=transform, compress="deflate", predictor=2) as scene:
            scene.write(dn)
            scene.descriptions = grid.names
            scene.scales = (1e-4,) * len(dn)
            scene.update_tags(SPACECRAFT_NAME="Sentinel-2A", LEVEL="L2A", NOTE="made up by ms2hs; no real place")
        write_bytes(path, bytes(memory.read()), overwrite=overwrite)
    return path


def example_dn(seed: int = 20240607) -> NDArray[np.uint16]:
    """(12, row, col) dn of the example scene, scale 1e-4; 0 is nodata."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0:SCENE_HEIGHT, 0:SCENE_WIDTH]
    relief = smooth_noise((SCENE_HEIGHT, SCENE_WIDTH), 2.2, rng)
    river = np.abs(rows - 0.55 * SCENE_HEIGHT - 40 * np.sin(cols / 55) - 8 * relief)
    centres = rng.uniform((0, 0), (SCENE_HEIGHT, SCENE_WIDTH), (160, 2))  # of long parcels
    along = (rows[None] - centres[:, 0, None, None]) * 1.7
    across = cols[None] - centres[:, 1, None, None]
    surface = rng.choice([2, 3, 4, 1], size=len(centres), p=[0.45, 0.25, 0.2, 0.1])
    kind = surface[(along**2 + across**2).argmin(axis=0)]
    kind[relief > 0.9] = 1  # woods on high ground
    kind[(relief < -1.1) & (river < 45)] = 5  # a town by the river
    kind[river < 5] = 0
    surfaces = np.array(list(SURFACES.values()))
    inside = 1 + 0.10 * smooth_noise((SCENE_HEIGHT, SCENE_WIDTH), 1.2, rng)  # growth and moisture differ within a field
    shading = 1 + 0.05 * np.gradient(relief, axis=1)
    reflectance = surfaces[kind].transpose(2, 0, 1) * inside * shading
    reflectance += rng.normal(0, 0.0015, reflectance.shape)
    dn: NDArray[np.uint16] = np.clip(np.round(reflectance * 1e4), 1, None).astype(np.uint16)
    dn[:, cols - 0.35 * rows > SCENE_WIDTH - 15] = 0  # beyond the orbit's edge
    return dn
