"""Hyperspectral cubes opened as lazy xarray arrays with wavelength coordinates."""

import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import rasterio
import xarray as xr
from rasterio.windows import Window
from xarray.backends import BackendArray
from xarray.core import indexing

from ms2hs.arrays import Float32Array
from ms2hs.errors import SceneError, input_errors
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.header import read_header
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

SCALE = 1e-4
"""Reflectance of one stored step."""
NODATA = -32768
"""Stored number of an invalid pixel."""
SUPPORT_TAG = "ms2hs_support"
"""Tag of a band: its `Support`."""


def open_cube(path: str | Path) -> xr.DataArray:
    """Reflectance of a cube as a lazy array. Pixels are read on access, for example by `cube.isel(x=7, y=9).values`.

    The file is a COG of ms2hs, or any raster of GDAL whose bands have wavelengths (see `spectral_of`). Stored numbers
    become reflectance by its scale and offset. Integers without a scale use 1e-4.

    Returns
    -------
    (band, y, x) float32 reflectance, NaN where invalid. Coordinates: `band` (names), `wavelength_nm`, `fwhm_nm`,
    `good`; `x`, `y` of pixel centres in CRS units unless the grid is rotated. Attributes: `crs` ("" if unknown),
    `transform` (affine a to f), and the tags of the file.

    Raises
    ------
    SceneError : not a raster, or a raster with bands without a wavelength.
    """
    with input_errors(str(path), SceneError), open_dataset(str(path)) as file:
        spectral = spectral_of(file)
        pixels = _LazyReflectance(file)
        affine = file.transform
        attrs = file.tags() | {"crs": file.crs.to_string() if file.crs else "", "transform": tuple(affine)[:6]}
    if spectral is None:
        raise SceneError(
            f"{path} has bands without a wavelength; every band needs a tag CENTRAL_WAVELENGTH_UM (domain IMAGERY) or "
            "wavelength. Add the tags, or open the file with rasterio."
        )
    coords: dict[str, Any] = {
        "band": list(spectral.names),
        "wavelength_nm": ("band", spectral.wavelength_nm, {"units": "nm", "standard_name": "radiation_wavelength"}),
        "fwhm_nm": ("band", spectral.fwhm_nm, {"units": "nm"}),
        "good": ("band", spectral.good),
    }
    if affine.b == affine.d == 0:
        coords["y"] = affine.f + affine.e * (np.arange(pixels.shape[1]) + 0.5)
        coords["x"] = affine.c + affine.a * (np.arange(pixels.shape[2]) + 0.5)
    lazy = indexing.LazilyIndexedArray(pixels)
    return xr.DataArray(cast("Any", lazy), coords, ("band", "y", "x"), "reflectance", attrs)


def spectral_of(file: rasterio.DatasetReader) -> SpectralGrid | None:
    """Wavelengths, widths, names and good flags of an open raster's bands; None if a band has no wavelength.

    The good flags come from the bad band list (`bbl`) of ENVI headers, which files of ms2hs have as a tag.
    """
    header = read_header(file, file.name)
    wavelengths = [wavelength for wavelength in header.wavelengths if wavelength]
    if len(wavelengths) < file.count:
        return None
    centres, widths = zip(*((band.centre_nm, band.fwhm_nm or np.nan) for band in wavelengths), strict=True)
    grid = grid_of(np.array(centres), np.array(widths))
    names = tuple((description or "").split(" ")[0] for description in file.descriptions)
    flags = re.findall(r"\d+", header.tags.get("bbl", ""))
    return SpectralGrid(
        names if all(names) and len(set(names)) == len(names) else grid.names,
        grid.wavelength_nm,
        grid.fwhm_nm,
        np.array([flag != "0" for flag in flags]) if len(flags) == len(grid) else grid.good,
    )


class _LazyReflectance(BackendArray):
    """Reflectance of a raster. Every read opens the file, so that the array can be pickled and shared by threads."""

    def __init__(self, file: rasterio.DatasetReader) -> None:
        self.shape = (file.count, file.height, file.width)
        self.dtype = np.dtype(np.float32)
        self._path = file.name
        integers = all(np.dtype(kind).kind in "iu" for kind in file.dtypes)
        unscaled = set(file.scales) == {1.0} and set(file.offsets) == {0.0}
        self._scales = np.array([SCALE] * file.count if integers and unscaled else file.scales, np.float32)
        self._offsets = np.array(file.offsets, np.float32)
        self._nodata = file.nodatavals

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401
        """Reflectance of an xarray index."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> Float32Array:
        as_arrays = (part if isinstance(part, slice) else [part] for part in key)
        bands, rows, cols = (np.arange(size)[part] for size, part in zip(self.shape, as_arrays, strict=True))
        result_key = tuple(slice(None) if isinstance(part, slice) else 0 for part in key)
        if not (bands.size and rows.size and cols.size):
            return np.empty((len(bands), len(rows), len(cols)), np.float32)[result_key]
        top, left = int(rows.min()), int(cols.min())
        window = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
        with open_dataset(self._path) as file:
            dn = file.read([int(band) + 1 for band in bands], window=window)
        dn = dn[:, rows - top][:, :, cols - left]
        values = dn.astype(np.float32)
        values *= self._scales[bands, None, None]
        values += self._offsets[bands, None, None]
        for band, plane, stored in zip(bands, values, dn, strict=True):
            nodata = self._nodata[band]
            if nodata is not None and not np.isnan(nodata):
                plane[stored == nodata] = np.nan
        return cast("Float32Array", values[result_key])
