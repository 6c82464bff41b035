"""The example scene of `ms2hs example`: a simulated Sentinel-2 image of a river plain with fields, woods and a town.

`example_land` draws the land in sub-pixels. Each surface has one spectrum; a pixel is the mean of its sub-pixels, and
its neighbours and the air blur it a little.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.io import MemoryFile

from ms2hs.datasets.simulation.example_land import FINE, draw_land
from ms2hs.datasets.simulation.random_fields import blur
from ms2hs.errors import OutputError
from ms2hs.files import check_output, write_bytes
from ms2hs.spectra.sensors import load_sensor

SCENE_HEIGHT, SCENE_WIDTH = 230, 310
# Reflectance of common surfaces in Sentinel-2's bands B01-B09, B11 and B12: round numbers like those in level-2A
# products of early June in central Europe. Ours: for a natural look, not for measurement.
SURFACES = {
    "river": (0.038, 0.045, 0.058, 0.042, 0.033, 0.022, 0.020, 0.018, 0.015, 0.012, 0.007, 0.005),
    "pond": (0.034, 0.039, 0.045, 0.026, 0.019, 0.013, 0.012, 0.011, 0.009, 0.008, 0.005, 0.003),
    "gravel": (0.095, 0.118, 0.152, 0.178, 0.194, 0.207, 0.220, 0.232, 0.244, 0.250, 0.295, 0.258),
    "broadleaf": (0.018, 0.023, 0.046, 0.022, 0.070, 0.235, 0.310, 0.325, 0.340, 0.340, 0.140, 0.058),
    "oak": (0.020, 0.026, 0.052, 0.027, 0.078, 0.230, 0.295, 0.310, 0.325, 0.325, 0.150, 0.066),
    "conifer": (0.015, 0.020, 0.033, 0.021, 0.046, 0.135, 0.170, 0.180, 0.190, 0.195, 0.090, 0.039),
    "meadow": (0.028, 0.036, 0.063, 0.045, 0.100, 0.250, 0.315, 0.335, 0.350, 0.352, 0.220, 0.120),
    "hay": (0.050, 0.066, 0.105, 0.115, 0.160, 0.235, 0.270, 0.290, 0.310, 0.315, 0.320, 0.200),
    "wheat": (0.022, 0.029, 0.053, 0.031, 0.085, 0.290, 0.385, 0.405, 0.420, 0.412, 0.185, 0.085),
    "barley": (0.036, 0.047, 0.084, 0.086, 0.138, 0.250, 0.300, 0.320, 0.335, 0.337, 0.240, 0.130),
    "rapeseed": (0.027, 0.036, 0.072, 0.044, 0.110, 0.300, 0.375, 0.395, 0.407, 0.396, 0.180, 0.082),
    "beet": (0.025, 0.033, 0.066, 0.035, 0.105, 0.340, 0.450, 0.470, 0.490, 0.478, 0.235, 0.108),
    "loam": (0.060, 0.077, 0.100, 0.120, 0.138, 0.156, 0.174, 0.189, 0.204, 0.215, 0.290, 0.250),
    "sand": (0.075, 0.097, 0.132, 0.164, 0.186, 0.206, 0.225, 0.242, 0.258, 0.268, 0.350, 0.310),
    "peat": (0.040, 0.050, 0.066, 0.085, 0.098, 0.112, 0.125, 0.137, 0.150, 0.158, 0.220, 0.200),
    "track": (0.082, 0.104, 0.138, 0.168, 0.190, 0.214, 0.242, 0.255, 0.268, 0.275, 0.340, 0.300),
    "tiles": (0.068, 0.077, 0.097, 0.142, 0.168, 0.184, 0.195, 0.205, 0.213, 0.218, 0.255, 0.228),
    "slate": (0.080, 0.088, 0.097, 0.106, 0.111, 0.116, 0.120, 0.124, 0.128, 0.130, 0.148, 0.142),
    "hall": (0.210, 0.232, 0.246, 0.254, 0.258, 0.260, 0.263, 0.266, 0.268, 0.268, 0.268, 0.240),
    "asphalt": (0.080, 0.092, 0.107, 0.120, 0.128, 0.134, 0.140, 0.145, 0.150, 0.153, 0.180, 0.168),
    "ballast": (0.075, 0.086, 0.105, 0.124, 0.135, 0.145, 0.154, 0.162, 0.170, 0.174, 0.210, 0.195),
}

# Standard deviation in pixels of the point-spread function; that of light which the air scatters from the neighbourhood
# into a pixel, and its share; and noise in reflectance.
BLUR, SCATTER, SCATTERED_SHARE, NOISE = 0.5, 5.0, 0.08, 0.0012


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
    shape = dict(zip(("count", "height", "width"), dn.shape, strict=True))
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
    shape = (SCENE_HEIGHT, SCENE_WIDTH)
    land = draw_land(list(SURFACES), shape, rng)
    reflectance = np.empty((12, *shape), np.float32)
    for band, spectrum in zip(reflectance, np.array(list(SURFACES.values()), np.float32).T, strict=True):
        cover, soil = spectrum[land.surface], spectrum[land.soil]
        shown = land.light * (cover + land.bare * (soil - cover))
        band[:] = shown.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))
    reflectance = blur(reflectance, BLUR)
    reflectance += SCATTERED_SHARE * (blur(reflectance, SCATTER) - reflectance)
    reflectance += rng.normal(0, NOISE, reflectance.shape)
    dn: NDArray[np.uint16] = np.clip(np.round(reflectance * 1e4), 1, None).astype(np.uint16)
    rows, cols = np.mgrid[0:SCENE_HEIGHT, 0:SCENE_WIDTH]
    dn[:, cols - 0.35 * rows > SCENE_WIDTH - 15] = 0  # beyond the orbit's edge
    return dn
