"""The coordinates and attributes of a cube by the CF conventions, for Zarr and NetCDF.

The dataset is the dataset of `open_cube`: one variable (wavelength, y, x) and the coordinates `wavelength`, `fwhm`,
`good`, `band`, `x`, `y` and, if known, `support`; `spatial_ref` is the grid mapping. GDAL encodes the grid mapping.
Source: CF Conventions 1.11, sections 4.4 (grid mappings), 5.6 and 8.1 (packed data).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import h5py
import numpy as np
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from ms2hs.raster.cog.encoding import Encoding
from ms2hs.raster.cube import DIMENSIONS, FWHM_ATTRS, WAVELENGTH_ATTRS
from ms2hs.raster.dataset import quietly
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

CONVENTIONS = "CF-1.11"
LONG_NAMES = {"reflectance": "surface reflectance", "sigma": "standard uncertainty of surface reflectance"}
SPATIAL_REF = "spatial_ref"


class CfVariable(NamedTuple):
    """A coordinate: the names of its dimensions, its values and its attributes."""

    dimensions: tuple[str, ...]
    values: NDArray[Any]
    attributes: dict[str, Any]


def coordinates(grid: PixelGrid, bands: SpectralGrid) -> dict[str, CfVariable]:
    """The coordinates of a cube by name. `x` and `y` are missing on a rotated grid, which `spatial_ref` describes."""
    by_wavelength, names = DIMENSIONS[:1], np.array(bands.names, object)
    flags = {"long_name": "False where the sensor's products flag the band as bad"}
    variables = {
        "wavelength": CfVariable(by_wavelength, bands.wavelength_nm, WAVELENGTH_ATTRS),
        "fwhm": CfVariable(by_wavelength, bands.fwhm_nm, FWHM_ATTRS),
        "good": CfVariable(by_wavelength, bands.good.astype(np.int8), flags),
        "band": CfVariable(by_wavelength, names, {"long_name": "band name"}),
    }
    if bands.support:
        values, meaning = np.array(bands.support, object), {"long_name": "how the source supports the band"}
        variables["support"] = CfVariable(by_wavelength, values, meaning)
    mapping = _grid_mapping(grid)
    a, b, c, d, e, f = grid.transform
    if b == d == 0:
        x_attrs, y_attrs = _axis_attributes(mapping.get("grid_mapping_name", ""))
        variables["y"] = CfVariable(("y",), f + e * (np.arange(grid.height) + 0.5), y_attrs)
        variables["x"] = CfVariable(("x",), c + a * (np.arange(grid.width) + 0.5), x_attrs)
    geotransform = " ".join(f"{number:.17g}" for number in (c, a, b, f, d, e))
    variables[SPATIAL_REF] = CfVariable((), np.array(0, np.int32), mapping | {"GeoTransform": geotransform})
    return variables


def variable_attributes(encoding: Encoding, bands: SpectralGrid) -> dict[str, Any]:
    """The attributes of the variable with the numbers, besides `_FillValue`."""
    return {
        "long_name": LONG_NAMES[encoding.quantity],
        "units": "1",
        "scale_factor": encoding.scale,
        "add_offset": 0.0,
        "grid_mapping": SPATIAL_REF,
        "coordinates": "fwhm good band" + (" support" if bands.support else ""),
    }


def _axis_attributes(grid_mapping: str) -> tuple[dict[str, str], dict[str, str]]:
    """The attributes of `x` and `y`."""
    if grid_mapping == "latitude_longitude":
        return (
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
        )
    if not grid_mapping:
        return {"axis": "X"}, {"axis": "Y"}
    return (
        {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"},
        {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"},
    )


def _grid_mapping(grid: PixelGrid) -> dict[str, Any]:
    """The attributes of the CRS, from a NetCDF file of one pixel that GDAL writes; none without a CRS."""
    if grid.crs is None:
        return {}
    pixel = {"driver": "GTiff", "count": 1, "height": 1, "width": 1, "dtype": "int16", "crs": grid.crs}
    with quietly(), TemporaryDirectory(prefix="ms2hs.") as folder, MemoryFile() as memory:
        path = Path(folder, "pixel.nc")
        with memory.open(**pixel, transform=Affine(*grid.transform)) as file:
            rasterio.shutil.copy(file, path, driver="netCDF", FORMAT="NC4")
        with h5py.File(path) as copied:
            attributes = next(dict(one.attrs) for one in copied.values() if "crs_wkt" in one.attrs)
    return {name: _plain(value) for name, value in attributes.items() if name != "GeoTransform"}


def _plain(value: Any) -> Any:  # noqa: ANN401 - an attribute of HDF5
    """An attribute as a text or number of Python."""
    return value.decode() if isinstance(value, bytes) else np.asarray(value).ravel()[0].item()
