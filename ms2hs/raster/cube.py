"""Cubes opened as xarray: wavelengths as coordinates, and no pixel read before it is asked for."""

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
from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.header import read_header
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

SCALE = 1e-4
"""Reflectance of one stored step."""
NODATA = -32768
"""The stored number that means there is none."""


def open_cube(path: str | Path) -> xr.DataArray:
    """A cube whose pixels are read when they are used: `cube.sel(band=…)`, `cube.isel(x=7, y=9).values`, `cube.load()`.

    Stored numbers become reflectance by the file's own scale and offset; integers without any are taken as 1e-4.

    Parameters
    ----------
    path : one of our COGs, or any raster that GDAL opens whose bands carry wavelengths (see `spectral_of`).

    Returns
    -------
    (band, y, x) float32 reflectance, NaN where there is none. Coordinates: `band` (names), `wavelength_nm`, `fwhm_nm`,
    `good`; `x`, `y` of pixel centres in CRS units unless the grid is rotated. Attributes: `crs` ("" without),
    `transform` (affine a to f), and the file's own tags.

    Raises
    ------
    SceneError : not a raster, or without wavelengths.
    """
    with open_dataset(str(path)) as file:
        spectral = spectral_of(file)
        pixels = _Pixels(file)
        place = file.transform
        attrs = file.tags() | {"crs": file.crs.to_string() if file.crs else "", "transform": tuple(place)[:6]}
    if spectral is None:
        raise SceneError(
            f"{path} has bands without a wavelength; each needs IMAGERY tags (CENTRAL_WAVELENGTH_UM) or a "
            "wavelength tag. Open it with rasterio, or add the tags."
        )
    coords: dict[str, Any] = {
        "band": list(spectral.names),
        "wavelength_nm": ("band", spectral.wavelength_nm, {"units": "nm", "standard_name": "radiation_wavelength"}),
        "fwhm_nm": ("band", spectral.fwhm_nm, {"units": "nm"}),
        "good": ("band", spectral.good),
    }
    if place.b == place.d == 0:
        coords["y"] = place.f + place.e * (np.arange(pixels.shape[1]) + 0.5)
        coords["x"] = place.c + place.a * (np.arange(pixels.shape[2]) + 0.5)
    lazy = indexing.LazilyIndexedArray(pixels)
    return xr.DataArray(cast("Any", lazy), coords, ("band", "y", "x"), "reflectance", attrs)


def spectral_of(file: rasterio.DatasetReader) -> SpectralGrid | None:
    """The grid of an open raster's bands, as its header gives it; None where a band has no wavelength.

    Bands are called good as the header's bad-band list (`bbl`) says, which our own files carry as a tag.
    """
    header = read_header(file, file.name)
    known = [wavelength for wavelength in header.wavelengths if wavelength]
    if len(known) < file.count:
        return None
    centre_nm = np.array([wavelength.centre_nm for wavelength in known])
    grid = grid_of(centre_nm, np.array([wavelength.fwhm_nm or np.nan for wavelength in known]))
    names = tuple((description or "").split(" ")[0] for description in file.descriptions)
    listed = re.findall(r"\d+", header.tags.get("bbl", ""))
    return SpectralGrid(
        names if all(names) and len(set(names)) == len(names) else grid.names,
        grid.wavelength_nm,
        grid.fwhm_nm,
        np.array([number != "0" for number in listed]) if len(listed) == len(grid) else grid.good,
    )


class _Pixels(BackendArray):
    """The pixels of a raster as reflectance; each read opens the file anew, so that it can be shared and pickled."""

    def __init__(self, file: rasterio.DatasetReader) -> None:
        self.shape = (file.count, file.height, file.width)
        self.dtype = np.dtype(np.float32)
        self._path = file.name
        integers = all(np.dtype(kind).kind in "iu" for kind in file.dtypes)
        unscaled = set(file.scales) == {1.0} and set(file.offsets) == {0.0}
        self._scales = np.full(file.count, SCALE) if integers and unscaled else np.array(file.scales)
        self._offsets = np.array(file.offsets)
        self._nodata = file.nodatavals

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401
        """What xarray asks for, as it asks for it."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> Float32Array:
        bands, rows, cols = (
            np.arange(size)[part if isinstance(part, slice) else [part]]
            for size, part in zip(self.shape, key, strict=True)
        )
        picked = tuple(0 if not isinstance(part, slice) else slice(None) for part in key)
        if not (bands.size and rows.size and cols.size):
            return np.empty((len(bands), len(rows), len(cols)), np.float32)[picked]
        top, left = int(rows.min()), int(cols.min())
        window = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
        with open_dataset(self._path) as file:
            dn = file.read([int(band) + 1 for band in bands], window=window)
        dn = dn[:, rows - top][:, :, cols - left]
        values = dn.astype(np.float32)
        for band, plane, stored in zip(bands, values, dn, strict=True):
            np.multiply(plane, np.float32(self._scales[band]), out=plane)
            np.add(plane, np.float32(self._offsets[band]), out=plane)
            nodata = self._nodata[band]
            if nodata is not None and not np.isnan(nodata):
                plane[stored == nodata] = np.nan
        return cast("Float32Array", values[picked])
