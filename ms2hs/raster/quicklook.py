"""Pictures of cubes."""

from pathlib import Path

import imagecodecs
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling

from ms2hs.files import write_bytes
from ms2hs.raster.cube import spectral_of
from ms2hs.raster.dataset import open_dataset
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import nearest_band

LONG_SIDE = 1024
"""Most pixels along the long side of a panel."""
GAP = 8
"""Transparent pixels between two panels."""
SWIR_NM = (2200.0, 1650.0, 850.0)
"""Red, green, blue of the second panel: bare soil and minerals, dry matter, leaves."""
SWIR_REACH_NM = 60.0
STRETCH_PERCENT = (2.0, 98.0)
STRETCH_PIXELS = 1 << 16
"""These percentiles are those of so many valid pixels or more, spread evenly: all of a larger panel take longer."""


def write_quicklook(cube_path: str | Path, png_path: str | Path) -> None:
    """Paint a cube in natural colour, and beside it (below, where it is wide) its short-wave infrared.

    A panel is left out where the cube has no band near one of its wavelengths; where both are, three bands spread
    over the spectrum stand in. The 2nd to 98th percentile of a panel's valid pixels, common to its three bands, spans
    black to white, so that hues stay true. Invalid pixels are transparent.

    Parameters
    ----------
    cube_path : a cube with overviews; no more of it is read than the picture shows.
    png_path : what is there is replaced.

    Raises
    ------
    OutputError : the picture cannot be written.
    """
    with open_dataset(str(cube_path)) as file:
        panels = [_paint(file, bands) for bands in _panels(file)]
    axis = 2 if panels[0].shape[1] >= panels[0].shape[2] else 1
    gap = [4, *panels[0].shape[1:]]
    gap[axis] = GAP
    joined = np.concatenate([part for panel in panels for part in (np.zeros(gap, np.uint8), panel)][1:], axis)
    write_bytes(Path(png_path), _png(joined))


def _panels(file: rasterio.DatasetReader) -> list[list[int]]:
    """0-based positions of red, green and blue of each panel."""
    spectral = spectral_of(file)
    if spectral is None:
        return [_spread(np.arange(file.count))]
    panels = []
    for colours_nm, reach_nm in ((RGB_NM, RGB_REACH_NM), (SWIR_NM, SWIR_REACH_NM)):
        found = [nearest_band(spectral.wavelength_nm, colour_nm, reach_nm) for colour_nm in colours_nm]
        bands = [band for band in found if band is not None]
        if len(set(bands)) == len(colours_nm):
            panels.append(bands)
    return panels or [_spread(np.argsort(spectral.wavelength_nm))]


def _spread(order: NDArray[np.intp]) -> list[int]:
    return [int(order[int(len(order) * share)]) for share in (5 / 6, 3 / 6, 1 / 6)]


def _paint(file: rasterio.DatasetReader, bands: list[int]) -> NDArray[np.uint8]:
    """(4, row, col) red, green, blue, alpha."""
    factor = max(1, -(-max(file.shape) // LONG_SIDE))
    shape = (len(bands), *(-(-side // factor) for side in file.shape))
    dn = file.read([band + 1 for band in bands], out_shape=shape, resampling=Resampling.average)
    scales = np.array([file.scales[band] for band in bands], np.float32)[:, None, None]
    offsets = np.array([file.offsets[band] for band in bands], np.float32)[:, None, None]
    nodata = [file.nodatavals[band] for band in bands]
    valid = np.all([np.isfinite(plane) & (plane != none) for plane, none in zip(dn, nodata, strict=True)], axis=0)
    values = dn * scales + offsets
    picture = np.zeros((4, *shape[1:]), np.uint8)
    if valid.any():
        known = np.flatnonzero(valid)
        step = len(known) // STRETCH_PIXELS | 1  # odd, so that not the same few columns are taken of every row
        some = values.reshape(len(bands), -1)[:, known[::step]]
        low, high = np.percentile(some, STRETCH_PERCENT).astype(np.float32)
        values -= low
        values *= np.float32(255) / max(high - low, np.float32(1e-6))
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        np.copyto(picture[:3], values, casting="unsafe", where=valid)
        picture[3, valid] = 255
    return picture


def _png(picture: NDArray[np.uint8]) -> bytes:
    pixels = np.ascontiguousarray(np.moveaxis(picture, 0, -1))
    return bytes(imagecodecs.png_encode(pixels, level=2, filter=imagecodecs.PNG.FILTER.UP))
