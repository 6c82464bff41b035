"""Raster files and URLs opened and read through GDAL, with errors that name the file and the band."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.env import getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.arrays import BoolArray
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote import client
from ms2hs.remote.providers import access_to
from ms2hs.remote.range_file import JP2_SIGNATURE, open_ranged, reading
from ms2hs.remote.url_policy import shown, web_address, without_secrets

# GDAL's block cache is 5 % of the memory by default. It must hold one row of blocks of every band: in a Sentinel-2
# product, with blocks of 1024 rows, these take 165 MB.
MAX_CACHE_BYTES = 192_000_000
CACHE_BYTES_PER_COLUMN = 512 * 4
REMOTE_PREFIXES = ("/vsi", "http://", "https://", "s3://", "gs://")
# GDAL's name of a variable of a file: `netcdf:file.nc:B02`.
NETCDF_PREFIX = "netcdf:"


def open_dataset(href: str) -> DatasetReader:
    """The opened raster; the caller closes it.

    Raises
    ------
    SceneError : the file is missing, truncated, or not a raster that GDAL reads.
    RemoteError, AddressError, CredentialsError : the server does not deliver it.
    """
    is_local = not href.startswith((*REMOTE_PREFIXES, NETCDF_PREFIX))
    if is_local and not Path(href).exists():
        raise SceneError(f"{href}: no such file; an existing raster is needed. Check the path.")
    if is_local and _is_truncated_jp2(Path(href)):
        raise SceneError(
            f"{href}: the JPEG 2000 file is truncated; a complete file is needed. Copy or download it again."
        )
    try:
        with quietly():
            if (address := web_address(href)) is not None:
                return open_ranged(client.DEFAULT_CLIENT, address, access_to(address))
            return rasterio.open(href)
    except RasterioError as error:
        raise SceneError(
            f"{shown(href)}: not a raster that can be read ({without_secrets(str(error))}); a complete GeoTIFF or "
            "JPEG 2000 file is needed. Check that it was copied completely."
        ) from None


@contextmanager
def bounded_cache(width: int, bands: int) -> Iterator[None]:
    """Limit GDAL's block cache to the need of a read from top to bottom, unless the user has set GDAL_CACHEMAX."""
    needed = min(MAX_CACHE_BYTES, CACHE_BYTES_PER_COLUMN * width * bands)
    is_set = "GDAL_CACHEMAX" in os.environ or (hasenv() and "GDAL_CACHEMAX" in getenv())
    with rasterio.Env(**({} if is_set else {"GDAL_CACHEMAX": needed})):  # in bytes here, unlike in the environment
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress rasterio's warning about a missing georeference; scenes have a note of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _is_truncated_jp2(path: Path) -> bool:
    """Whether a file is a truncated JPEG 2000 file, of which GDAL would read missing tiles as zeros.

    A JPEG 2000 file is a sequence of boxes that begin with length and type (ISO/IEC 15444-1, annex I). A last box of
    length 0 reaches to the end of the file; as it holds the image, it ends with the marker FF D9.
    """
    if not path.is_file():
        return False
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(len(JP2_SIGNATURE)) != JP2_SIGNATURE:
            return False
        while position + 8 <= size:
            file.seek(position)
            length = int.from_bytes(file.read(8)[:4])
            if length == 1:
                length = int.from_bytes(file.read(8))
            if length == 0:
                file.seek(size - 2)
                return file.read(2) != b"\xff\xd9"
            if length < 8 or position + length > size:
                return True
            position += length
    return False


def read_pixel_grid(dataset: DatasetReader) -> PixelGrid:
    """The pixel grid of an open raster; without a georeference the CRS is None and pixels are 1 by 1."""
    crs = dataset.crs.to_string() if dataset.crs else None
    return PixelGrid(crs, tuple(dataset.transform)[:6], dataset.height, dataset.width)


def read_valid(dataset: DatasetReader, window: Window) -> BoolArray | None:
    """(row, col) False where the file's mask or alpha band excludes a pixel; None if the file has neither.

    Nodata values are not considered. Errors as for `read_bands`.
    """
    if MaskFlags.per_dataset not in dataset.mask_flag_enums[0]:
        return None
    try:
        with reading(dataset):
            return np.asarray(dataset.dataset_mask(window=window) > 0)
    except RasterioError as error:
        raise _read_error(dataset, "mask", error) from None


def read_bands(
    dataset: DatasetReader, bands: Sequence[int], window: Window | None = None, shape: tuple[int, int] | None = None
) -> NDArray[np.generic]:
    """(band, row, col) stored numbers of the 1-based `bands`.

    Parameters
    ----------
    window : the part to read; None: all pixels.
    shape : (rows, columns) of the result, from overviews or nearest pixels; None: every pixel.

    Raises
    ------
    SceneError : the file is damaged or truncated; the message names the first unreadable band.
    RemoteError, AddressError, CredentialsError : the server does not deliver it.
    """
    out_shape = None if shape is None else (len(bands), *shape)
    try:
        with reading(dataset):
            return np.asarray(
                dataset.read(list(bands), window=window, out_shape=out_shape, resampling=Resampling.nearest)
            )
    except (RasterioError, ValueError) as error:
        if len(bands) > 1:
            for band in bands:
                read_bands(dataset, [band], window, shape)
        name = dataset.descriptions[bands[0] - 1]
        raise _read_error(dataset, f"band {bands[0]}" + (f" ({name})" if name else ""), error) from None


def _read_error(dataset: DatasetReader, part: str, error: Exception) -> SceneError:
    return SceneError(
        f"{shown(dataset.name)}: {part} cannot be read ({without_secrets(str(error))}); a complete file is needed. It "
        "is damaged or truncated: copy or download it again."
    )
