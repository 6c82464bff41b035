"""Hyperspectral cubes opened as lazy xarray datasets with wavelength coordinates.

`open_cube` opens rasters of GDAL (COG, ENVI) and the Zarr and NetCDF files of ms2hs as the same dataset: `reflectance`,
with `sigma` from the file beside the cube, on the coordinates `wavelength`, `y` and `x`. Zarr and NetCDF store this
dataset; of a raster it is assembled from the tags. Pixels are read on access. The accessor `ms2hs` of the dataset has
pictures and spectra.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import rasterio
import xarray as xr
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.windows import Window
from xarray.backends import BackendArray
from xarray.core import indexing

from ms2hs.arrays import Float32Array
from ms2hs.errors import GridError, SceneError, input_errors
from ms2hs.raster.cube_writer import sigma_name
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.header import ENVI_DRIVER, declared_in, image_of, read_header
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds, pixel_at
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM, shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, Support, band_support, grid_of, nearest_band

SCALE = 1e-4
"""Reflectance of one stored step."""
NODATA = -32768
"""Stored number of an invalid pixel."""
DIMENSIONS = ("wavelength", "y", "x")
SUPPORT_TAG = "ms2hs_support"
"""Tag of a band: its `Support`."""
SUPPORTS = get_args(Support)
# Attributes of the coordinates: CF's standard name of wavelengths, and units.
WAVELENGTH_ATTRS = {"units": "nm", "standard_name": "radiation_wavelength", "long_name": "wavelength"}
FWHM_ATTRS = {"units": "nm", "long_name": "full width at half maximum"}
# Tags that the coordinates hold.
COORDINATE_TAGS = {"bbl", "wavelength", "wavelength_units", "fwhm", "band_names", "area_or_point"}
# xarray's options by suffix; GDAL opens files of other suffixes.
ENGINES: dict[str, dict[str, Any]] = {
    ".zarr": {"engine": "zarr", "consolidated": False},
    ".nc": {"engine": "h5netcdf"},
}
# Suffixes of the image that an ENVI header describes.
STRETCH_PERCENT = (2.0, 98.0)
# Longest side of a picture, and rows that are read at once, in pixels of the picture.
MAX_RGB_SIDE, RGB_STRIP = 1024, 64
# Rows of a format without overviews that are averaged at once: whole rows of its blocks.
ROWS_PER_READ = 256
Chunks = int | Literal["auto"] | Mapping[str, int | Literal["auto"]]


def open_cube(path: str | Path, chunks: Chunks | None = None) -> xr.Dataset:
    """A cube as a lazy dataset. Pixels are read on access, for example by `cube.isel(x=7, y=9).load()`.

    The file is a COG, ENVI, Zarr or NetCDF file of ms2hs, or any raster of GDAL whose bands have wavelengths (see
    `spectral_of`). Stored numbers become reflectance by the declared scale and offset; integers without them use 1e-4.

    Parameters
    ----------
    chunks : dask chunks as in `xarray.Dataset.chunk`, such as {"y": 256, "x": 256}; None: no dask.

    Returns
    -------
    Variables: `reflectance` (wavelength, y, x) float32, NaN where invalid; `sigma` likewise, the standard uncertainty,
    if `<stem>_sigma` with the same suffix lies beside a local file. Coordinates by wavelength: `wavelength` and `fwhm`
    in nm, in the order of the file; `band` (names), `good`, and `support` (`Support`) where the file states it or
    names its source. `x`, `y`: pixel centres in CRS units unless the grid is rotated; `spatial_ref` with CRS and
    geotransform. Attributes: the tags of the file. The accessor `ms2hs` has `rgb()` and `spectrum(lon, lat)`.

    Raises
    ------
    SceneError : not a raster, or a raster with bands without a wavelength. GridError : an uncertainty of another size.
    """
    cube = _open(str(path))
    sigma_path = sigma_beside(path)
    if sigma_path.exists():
        sigma = _open(str(sigma_path)).reflectance
        if sigma.shape != cube.reflectance.shape:
            raise GridError(
                f"{sigma_path} has the shape {sigma.shape}; {cube.reflectance.shape}, the shape of {path}, is needed. "
                "Remove the file, or convert again with --uncertainty."
            )
        cube["sigma"] = cube.reflectance.dims, sigma.variable._data, _attrs("standard uncertainty")  # noqa: SLF001
        cube.sigma.encoding["grid_mapping"] = "spatial_ref"
    return cube if chunks is None else cube.chunk(chunks)


def read_window(
    path: str, bands: Sequence[int], window: tuple[int, int, int, int], shape: tuple[int, int]
) -> Float32Array:
    """(band, row, col) values of a window of a cube file, at a lower resolution averages of the valid pixels.

    Averages come from the overviews of rasters; of Zarr and NetCDF files, whole blocks of pixels are averaged.

    Parameters
    ----------
    window : row, column, height, width in pixels of the file.
    shape : rows and columns of the result, at most height and width.

    Raises
    ------
    SceneError : the file is missing or damaged.
    """
    row, col, height, width = window
    if Path(path).suffix.lower() in ENGINES:
        steps = {"y": -(-height // shape[0]), "x": -(-width // shape[1])}
        with _open(path) as cube:
            part = cube.reflectance[:, row : row + height, col : col + width]
            rows = steps["y"] * max(1, ROWS_PER_READ // steps["y"])
            tops = range(0, height, rows)
            # one band at a time: zarr takes three times as long for a list of bands
            strips = ((part[band, top : top + rows].load() for top in tops) for band in bands)
            means = ([strip.coarsen(steps, boundary="pad").mean().values for strip in band] for band in strips)
            return np.stack([np.concatenate(band) for band in means])
    with input_errors(path, SceneError), open_dataset(image_of(path)) as file:
        dn = file.read(
            [band + 1 for band in bands],
            window=Window(col, row, width, height),
            out_shape=(len(bands), *shape),
            resampling=Resampling.average,
        )
        return _LazyReflectance(file).decode(dn, np.asarray(bands))


def sigma_beside(path: str | Path) -> Path:
    """The path of a cube's uncertainty."""
    path = Path(path)
    return path.with_name(sigma_name(path))


def pixel_grid_of(cube: xr.Dataset) -> PixelGrid:
    """The pixel grid of an open cube, from its `spatial_ref`."""
    attrs = cube.spatial_ref.attrs
    c, a, b, f, d, e = map(float, attrs["GeoTransform"].split())
    crs = CRS.from_wkt(attrs["crs_wkt"]).to_string() if attrs.get("crs_wkt") else None
    return PixelGrid(crs, (a, b, c, d, e, f), cube.sizes["y"], cube.sizes["x"])


def spectral_grid_of(cube: xr.Dataset) -> SpectralGrid:
    """The bands of an open cube."""
    names = tuple(map(str, cube.band.values))
    support = tuple(cube.support.values) if "support" in cube.coords else ()
    return SpectralGrid(names, cube.wavelength.values, cube.fwhm.values, cube.good.values, support=support)


def spectral_of(file: rasterio.DatasetReader) -> SpectralGrid | None:
    """Wavelengths, widths, names, good flags and support of an open raster's bands; None if a band has no wavelength.

    The good flags come from the bad band list (`bbl`) of ENVI headers, which files of ms2hs have as a tag. The support
    comes from the bands' tags, else from the source sensor that the file's tags name.
    """
    header = read_header(file, file.name)
    wavelengths = [wavelength for wavelength in header.wavelengths if wavelength]
    if len(wavelengths) < file.count:
        return None
    centres, widths = zip(*((band.centre_nm, band.fwhm_nm or np.nan) for band in wavelengths), strict=True)
    grid = grid_of(np.array(centres), np.array(widths))
    names = tuple((description or "").split(" ")[0] for description in file.descriptions)
    flags = re.findall(r"\d+", header.tags.get("bbl", ""))
    grid = SpectralGrid(
        names if all(names) and len(set(names)) == len(names) else grid.names,
        grid.wavelength_nm,
        grid.fwhm_nm,
        np.array([flag != "0" for flag in flags]) if len(flags) == len(grid) else grid.good,
    )
    return replace(grid, support=_support_of(file, grid))


def tags_of(file: rasterio.DatasetReader) -> dict[str, str]:
    """The tags of an open raster without the tags of bands; of an ENVI header only the tags of ms2hs."""
    if file.driver == ENVI_DRIVER:
        return {
            key.upper(): text
            for key, text in file.tags(ns="ENVI").items()
            if key.startswith("ms2hs_") and key != SUPPORT_TAG
        }
    return {key: text for key, text in file.tags().items() if key.lower() not in COORDINATE_TAGS}


def _support_of(file: rasterio.DatasetReader, grid: SpectralGrid) -> tuple[Support, ...]:
    """(band,) `Support`; empty if unknown."""
    listed = (file.tags(ns="ENVI").get(SUPPORT_TAG) or "").strip("{} ").split(", ")
    tags = listed if len(listed) == file.count else [file.tags(band).get(SUPPORT_TAG) for band in file.indexes]
    if set(tags) <= set(SUPPORTS):
        return cast("tuple[Support, ...]", tuple(tags))
    source = shipped_sensor(tags_of(file).get("MS2HS_SOURCE", ""), "source")
    return tuple(band_support(source.grid, grid)) if source else ()


def _open(path: str) -> xr.Dataset:
    """A cube without its uncertainty."""
    path = image_of(path)
    with input_errors(path, SceneError):
        engine = ENGINES.get(Path(path).suffix.lower())
        cube = _open_store(path, engine) if engine and Path(path).exists() else _open_raster(path)
    cube.reflectance.attrs = _attrs("surface reflectance")
    cube.reflectance.encoding["grid_mapping"] = "spatial_ref"
    return cube


def _open_raster(path: str) -> xr.Dataset:
    with open_dataset(path) as file:
        spectral = spectral_of(file)
        if spectral is None:
            raise SceneError(
                f"{path} has bands without a wavelength; every band needs a tag CENTRAL_WAVELENGTH_UM (domain IMAGERY) "
                "or wavelength. Add the tags, or open the file with rasterio."
            )
        pixels, affine = _LazyReflectance(file), file.transform
        tags = tags_of(file)
        spatial_ref = {"crs_wkt": file.crs.to_wkt()} if file.crs else {}
    coords: dict[str, Any] = {
        "wavelength": ("wavelength", spectral.wavelength_nm, WAVELENGTH_ATTRS),
        "band": ("wavelength", _strings(spectral.names), {"long_name": "band name"}),
        "fwhm": ("wavelength", spectral.fwhm_nm, FWHM_ATTRS),
        "good": ("wavelength", spectral.good, {"long_name": "False where the sensor's products flag the band as bad"}),
    }
    if spectral.support:
        coords["support"] = (
            "wavelength",
            _strings(spectral.support),
            {"long_name": "how the source supports the band"},
        )
    if affine.b == affine.d == 0:
        coords["y"] = affine.f + affine.e * (np.arange(pixels.shape[1]) + 0.5)
        coords["x"] = affine.c + affine.a * (np.arange(pixels.shape[2]) + 0.5)
    geotransform = " ".join(f"{number:.17g}" for number in affine.to_gdal())
    coords["spatial_ref"] = ((), 0, spatial_ref | {"GeoTransform": geotransform})
    lazy = cast("Any", indexing.LazilyIndexedArray(pixels))
    return xr.Dataset({"reflectance": (DIMENSIONS, lazy)}, coords, tags)


def _open_store(path: str, engine: dict[str, Any]) -> xr.Dataset:
    """A Zarr or NetCDF file of ms2hs, which holds the dataset; its cube is its variable with three dimensions."""
    stored = xr.open_dataset(path, **engine, chunks=None, mask_and_scale=False)
    names = [str(name) for name, variable in stored.data_vars.items() if variable.dims == DIMENSIONS]
    if len(names) != 1 or not {"wavelength", "fwhm", "good", "band", "spatial_ref"} <= set(stored.variables):
        raise SceneError(
            f"{path} is not a cube of ms2hs; a variable ({', '.join(DIMENSIONS)}) and its coordinates are needed. Use "
            "`ms2hs export` to write one."
        )
    attrs = stored[names[0]].attrs
    attrs.update({key: np.float32(attrs[key]) for key in ("scale_factor", "add_offset") if key in attrs})  # not float64
    cube = xr.decode_cf(stored).rename({names[0]: "reflectance"})
    cube = cube.set_coords([name for name in cube.data_vars if name != "reflectance"])
    return cube.assign_coords(good=cube.good.astype(bool))


def _strings(texts: Sequence[str]) -> Any:  # noqa: ANN401 - an array of objects
    """Texts of any length; Zarr v3 specifies no texts of fixed length."""
    return np.array(texts, object)


def _attrs(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1"}


class _LazyReflectance(BackendArray):
    """Reflectance of a raster. Every read opens the file, so that the array can be pickled and shared by threads."""

    def __init__(self, file: rasterio.DatasetReader) -> None:
        self.shape = (file.count, file.height, file.width)
        self.dtype = np.dtype(np.float32)
        self._path = file.name
        declared = declared_in(file, file.indexes)
        integers = all(np.dtype(kind).kind in "iu" for kind in file.dtypes)
        default = SCALE if integers and all(one.scale is one.offset is None for one in declared) else 1.0
        self._scales = np.array([default if one.scale is None else one.scale for one in declared], np.float32)
        self._offsets = np.array([one.offset or 0.0 for one in declared], np.float32)
        if not np.isfinite([self._scales, self._offsets]).all():
            raise SceneError(
                f"{file.name}: {next(one.where for one in declared if one.where)} scale or offset is no number; "
                "numbers are needed. Correct the tags."
            )
        self._nodata = file.nodatavals

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401
        """Reflectance of an xarray index."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[int | slice | NDArray[np.integer], ...]) -> Float32Array:
        as_arrays = ([part] if isinstance(part, int | np.integer) else part for part in key)
        bands, rows, cols = (np.arange(size)[part] for size, part in zip(self.shape, as_arrays, strict=True))
        result_key = tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in key)
        if not (bands.size and rows.size and cols.size):
            return np.empty((len(bands), len(rows), len(cols)), np.float32)[result_key]
        top, left = int(rows.min()), int(cols.min())
        window = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
        with open_dataset(self._path) as file:
            dn = file.read([int(band) + 1 for band in bands], window=window)
        return self.decode(dn[:, rows - top][:, :, cols - left], bands)[result_key]

    def decode(self, dn: NDArray[Any], bands: NDArray[np.intp]) -> Float32Array:
        """(band, row, col) reflectance of stored numbers of these bands, NaN where invalid."""
        values = dn.astype(np.float32)
        values *= self._scales[bands, None, None]
        values += self._offsets[bands, None, None]
        for band, plane, stored in zip(bands, values, dn, strict=True):
            nodata = self._nodata[band]
            if nodata is not None and not np.isnan(nodata):
                plane[stored == nodata] = np.nan
        return values


@xr.register_dataset_accessor("ms2hs")  # type: ignore[no-untyped-call]
class CubeAccessor:
    """`cube.ms2hs` of a dataset of `open_cube`: pictures and spectra."""

    def __init__(self, cube: xr.Dataset) -> None:
        self._cube = cube

    def rgb(self, wavelengths_nm: tuple[float, float, float] = RGB_NM, side: int = MAX_RGB_SIDE) -> xr.DataArray:
        """A picture of three bands, in natural colour by default: `cube.ms2hs.rgb().plot.imshow()`.

        Parameters
        ----------
        wavelengths_nm : of red, green and blue.
        side : longest side in pixels; of a larger cube every n-th pixel is read.

        Returns
        -------
        (y, x, rgb) float32 from 0 to 1, NaN where invalid. The 2nd to 98th percentile of all three bands is stretched.

        Raises
        ------
        SceneError : no band within 30 nm of a wavelength.
        """
        centres = self._cube.wavelength.values
        bands = [nearest_band(centres, nm, RGB_REACH_NM) for nm in wavelengths_nm]
        if None in bands:
            raise SceneError(
                f"no band within {RGB_REACH_NM:g} nm of {wavelengths_nm[bands.index(None)]:g} nm; the bands are at "
                f"{centres.min():.0f}-{centres.max():.0f} nm. Choose other wavelengths."
            )
        step = max(1, -(-max(self._cube.sizes["y"], self._cube.sizes["x"]) // side))
        part = self._cube.reflectance.isel(wavelength=bands, x=slice(None, None, step))
        rows = range(0, self._cube.sizes["y"], RGB_STRIP * step)  # all rows between the first and the last are read
        strips = [part.isel(y=slice(row, row + RGB_STRIP * step, step)).load() for row in rows]
        picture = xr.concat(strips, "y").drop_vars("wavelength").rename(wavelength="rgb").transpose("y", "x", "rgb")
        values = picture.values[np.isfinite(picture.values).all(axis=2)]
        low, high = np.percentile(values, STRETCH_PERCENT).astype(np.float32) if values.size else (0, 1)
        stretched: xr.DataArray = ((picture - low) / max(high - low, 1e-6)).clip(0, 1)
        return stretched.rename("rgb")

    def spectrum(self, lon: float, lat: float) -> xr.Dataset:
        """The spectrum of the pixel at a location in degrees (WGS 84): `cube.ms2hs.spectrum(7.1, 46.2).reflectance`.

        Returns
        -------
        The variables of the cube by `wavelength`, loaded; NaN at an invalid pixel.

        Raises
        ------
        SceneError : the location lies outside the cube.
        """
        grid = pixel_grid_of(self._cube)
        at = pixel_at(grid, lon, lat)
        if at is None:
            bounds = lonlat_bounds(grid)
            allowed = f"W,S,E,N is {','.join(f'{degrees:.5f}' for degrees in bounds)}" if bounds else "a CRS is needed"
            raise SceneError(
                f"longitude {lon}, latitude {lat} is outside the cube; {allowed}. Choose a location inside."
            )
        return self._cube.isel(y=at[0], x=at[1]).load()
