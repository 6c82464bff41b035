"""Small cubes for the tests of pages: files with wavelengths, an uncertainty, invalid pixels, and the tags of ms2hs."""

import numpy as np
import rasterio
from conftest import write_raster

NODATA = -32768
BANDS, ROWS, COLS = 60, 32, 40
WAVELENGTH_NM = np.concatenate([np.linspace(420, 1300, 45), np.linspace(1550, 1700, 5), np.linspace(2000, 2400, 10)])


def make_cube(path, seed=0, *, names=None, sigma=True, shape=(ROWS, COLS), model="linear", **profile):
    """A cube of smooth spectra with noise, with a row of invalid pixels; `<stem>_sigma.tif` beside it."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]] / np.array(shape)[:, None, None]
    curves = np.stack([np.sin(WAVELENGTH_NM / scale) ** 2 for scale in (300, 500, 900)])
    reflectance = np.einsum("kb,krc->brc", curves, np.stack([rows, cols, 1 - rows])) / 3 + 0.02
    dn = np.rint(reflectance * 1e4 + random.normal(0, 8, reflectance.shape)).astype(np.int16)
    dn[:, 3] = NODATA
    wavelengths = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.6f}", "FWHM_UM": "0.010"} for nm in WAVELENGTH_NM]
    facts = {"MS2HS_SOURCE": "sentinel2a", "MS2HS_TARGET": "enmap", "MS2HS_SYNTHETIC": "YES", "MS2HS_MODEL": model}
    options = {"scale": 1e-4, "nodata": NODATA, "band_tags": {"IMAGERY": wavelengths}, "descriptions": names or ()}
    options |= profile
    write_raster(path, dn, tags=facts, **options)
    if sigma:
        error = np.where(dn == NODATA, NODATA, 40 + dn // 20).astype(np.int16)
        write_raster(path.with_name(f"{path.stem}_sigma.tif"), error, **options)
    return path


def numbers_of(path):
    """(band, row, col) stored numbers of a file."""
    with rasterio.open(path) as file:
        return file.read()
