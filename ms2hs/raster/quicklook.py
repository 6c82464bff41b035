"""Quicklook images of cubes: PNG panels in natural colour and short-wave infrared."""

from pathlib import Path

import imagecodecs
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from ms2hs.files import write_bytes
from ms2hs.raster.cube import STRETCH_PERCENT, spectral_of
from ms2hs.raster.dataset import open_dataset
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import nearest_band

# Maximum length of the long side of a panel, in pixels.
LONG_SIDE = 1024
# Transparent pixels between two panels.
GAP = 8
# Red, green and blue of the second panel, sensitive to soil and minerals, dry matter, and leaves.
SWIR_RGB_NM, SWIR_RGB_REACH_NM = (2200.0, 1650.0, 850.0), 60.0
# At least this many valid pixels, evenly spaced, determine the percentiles of a larger panel.
STRETCH_PIXELS = 1 << 16


def write_quicklook(cube_path: str | Path, png_path: str | Path) -> None:
    """Write a PNG with a natural-colour panel and beside it, or below for a wide cube, a short-wave infrared panel.

    A panel is omitted if one of its wavelengths has no band nearby. Without both, the image shows three bands spread
    over the spectrum. The 2nd to 98th percentile of a panel's valid pixels spans black to white, the same for the three
    bands so that hues are preserved. Invalid pixels are transparent. Pixels are read from the cube's overviews; an
    existing PNG is replaced.

    Raises
    ------
    OutputError : the PNG cannot be written.
    """
    with open_dataset(str(cube_path)) as file:
        panels = [_render(file, bands) for bands in _panel_bands(file)]
    axis = 2 if panels[0].shape[1] >= panels[0].shape[2] else 1
    gap = [4, *panels[0].shape[1:]]
    gap[axis] = GAP
    joined = np.concatenate([part for panel in panels for part in (np.zeros(gap, np.uint8), panel)][1:], axis)
    pixels = np.ascontiguousarray(np.moveaxis(joined, 0, -1))
    write_bytes(Path(png_path), bytes(imagecodecs.png_encode(pixels, level=2, filter=imagecodecs.PNG.FILTER.UP)))


def _panel_bands(file: rasterio.DatasetReader) -> list[list[int]]:
    """0-based band positions of red, green and blue of each panel."""
    spectral = spectral_of(file)
    if spectral is None:
        return [_spread(np.arange(file.count))]
    panels = []
    for colours_nm, reach_nm in ((RGB_NM, RGB_REACH_NM), (SWIR_RGB_NM, SWIR_RGB_REACH_NM)):
        nearest = [nearest_band(spectral.wavelength_nm, colour_nm, reach_nm) for colour_nm in colours_nm]
        bands = [band for band in nearest if band is not None]
        if len(set(bands)) == len(colours_nm):
            panels.append(bands)
    return panels or [_spread(np.argsort(spectral.wavelength_nm))]


def _spread(order: NDArray[np.intp]) -> list[int]:
    return [int(order[int(len(order) * share)]) for share in (5 / 6, 3 / 6, 1 / 6)]


def _render(file: rasterio.DatasetReader, bands: list[int]) -> NDArray[np.uint8]:
    """(4, row, col) red, green, blue, alpha of a panel."""
    factor = max(1, -(-max(file.shape) // LONG_SIDE))
    shape = (len(bands), *(-(-side // factor) for side in file.shape))
    dn = file.read([band + 1 for band in bands], out_shape=shape, resampling=Resampling.average)
    scales, offsets = (np.array(of_file, np.float32)[bands, None, None] for of_file in (file.scales, file.offsets))
    nodata = [file.nodatavals[band] for band in bands]
    valid = np.all([np.isfinite(plane) & (plane != value) for plane, value in zip(dn, nodata, strict=True)], axis=0)
    values = dn * scales + offsets
    image = np.zeros((4, *shape[1:]), np.uint8)
    if valid.any():
        positions = np.flatnonzero(valid)
        step = len(positions) // STRETCH_PIXELS | 1  # odd, so that the sample does not repeat a few columns
        sample = values.reshape(len(bands), -1)[:, positions[::step]]
        low, high = np.percentile(sample, STRETCH_PERCENT).astype(np.float32)
        values -= low
        values *= np.float32(255) / max(high - low, np.float32(1e-6))
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        np.copyto(image[:3], values, casting="unsafe", where=valid)
        image[3, valid] = 255
    return image
