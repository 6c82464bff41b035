"""Quicklook images of cubes: PNG panels in natural colour and short-wave infrared."""

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.files import write_bytes
from ms2hs.raster.cube import ENGINES, STRETCH_PERCENT, open_cube, read_window, spectral_grid_of, spectral_of
from ms2hs.raster.dataset import open_dataset
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of, nearest_band

# Maximum length of the long side of a panel, in pixels.
LONG_SIDE = 1024
# Transparent pixels between two panels.
GAP = 8
# Red, green and blue of the second panel, sensitive to soil and minerals, dry matter, and leaves.
SWIR_RGB_NM, SWIR_RGB_REACH_NM = (2200.0, 1650.0, 850.0), 60.0
# At least this many valid pixels, evenly spaced, determine the percentiles of a larger panel.
STRETCH_PIXELS = 1 << 16


@dataclass(frozen=True)
class Stretch:
    """The bands and the contrast of a picture."""

    bands: tuple[int, ...]
    """0-based positions of red, green and blue."""
    low: float
    """Reflectance of black, the same for the three bands."""
    high: float
    """Reflectance of white."""


def write_quicklook(cube_path: str | Path, png_path: str | Path) -> Stretch:
    """Write a PNG with a natural-colour panel and beside it, or below for a wide cube, a short-wave infrared panel.

    A panel is omitted if one of its wavelengths has no band nearby. Without both, the image shows three bands spread
    over the spectrum. The 2nd to 98th percentile of a panel's valid pixels spans black to white, the same for the three
    bands so that hues are preserved. Invalid pixels are transparent. Pixels are read from the cube's overviews, or
    averaged where the format has none; an existing PNG is replaced.

    Returns
    -------
    Bands and contrast of the first panel.

    Raises
    ------
    OutputError : the PNG cannot be written.
    """
    path = str(cube_path)
    spectral, (height, width) = _bands_and_size(path)
    factor = max(1, -(-max(height, width) // LONG_SIDE))
    window, shape = (0, 0, height, width), (-(-height // factor), -(-width // factor))
    rendered = [_render(read_window(path, bands, window, shape), bands) for bands in _panel_bands(spectral)]
    panels = [panel for panel, _ in rendered]
    axis = 2 if panels[0].shape[1] >= panels[0].shape[2] else 1
    gap = [4, *panels[0].shape[1:]]
    gap[axis] = GAP
    joined = np.concatenate([part for panel in panels for part in (np.zeros(gap, np.uint8), panel)][1:], axis)
    pixels = np.ascontiguousarray(np.moveaxis(joined, 0, -1))
    write_bytes(Path(png_path), bytes(imagecodecs.png_encode(pixels, level=2, filter=imagecodecs.PNG.FILTER.UP)))
    return rendered[0][1]


def _bands_and_size(path: str) -> tuple[SpectralGrid, tuple[int, int]]:
    """The bands of a cube, with invented wavelengths if a band has none, and its rows and columns."""
    if Path(path).suffix.lower() in ENGINES:
        with open_cube(path) as cube:
            return spectral_grid_of(cube), (cube.sizes["y"], cube.sizes["x"])
    with open_dataset(path) as file:
        return spectral_of(file) or grid_of(np.linspace(1, 2, file.count)), file.shape


def _panel_bands(spectral: SpectralGrid) -> list[list[int]]:
    """0-based band positions of red, green and blue of each panel."""
    panels = []
    for colours_nm, reach_nm in ((RGB_NM, RGB_REACH_NM), (SWIR_RGB_NM, SWIR_RGB_REACH_NM)):
        nearest = [nearest_band(spectral.wavelength_nm, colour_nm, reach_nm) for colour_nm in colours_nm]
        bands = [band for band in nearest if band is not None]
        if len(set(bands)) == len(colours_nm):
            panels.append(bands)
    return panels or [_spread(np.argsort(spectral.wavelength_nm))]


def _spread(order: NDArray[np.intp]) -> list[int]:
    return [int(order[int(len(order) * share)]) for share in (5 / 6, 3 / 6, 1 / 6)]


def _render(values: Float32Array, bands: list[int]) -> tuple[NDArray[np.uint8], Stretch]:
    """(4, row, col) red, green, blue, alpha of a panel of (band, row, col) reflectance, and its contrast."""
    valid = np.isfinite(values).all(axis=0)
    image = np.zeros((4, *valid.shape), np.uint8)
    low, high = np.float32(0), np.float32(1)
    if valid.any():
        positions = np.flatnonzero(valid)
        step = len(positions) // STRETCH_PIXELS | 1  # odd, so that the sample does not repeat a few columns
        sample = values.reshape(len(values), -1)[:, positions[::step]]
        low, high = np.percentile(sample, STRETCH_PERCENT).astype(np.float32)
        values -= low
        values *= np.float32(255) / max(high - low, np.float32(1e-6))
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        np.copyto(image[:3], np.nan_to_num(values), casting="unsafe", where=valid)
        image[3, valid] = 255
    return image, Stretch(tuple(bands), float(low), float(high))
