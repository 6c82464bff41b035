"""Files that GDAL reads: opened and read with errors that name the file and the band."""

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

# GDAL keeps 5 % of the machine's memory by default. What it may keep has to hold a row of blocks of every band: those
# of a Sentinel-2 product, 1024 rows high, take 165 MB.
CACHE_BYTES = 192_000_000
CACHE_BYTES_A_COLUMN = 512 * 4
REMOTE = ("/vsi", "http://", "https://", "s3://", "gs://")


def open_dataset(href: str) -> DatasetReader:
    """The opened raster; the caller closes it.

    Raises
    ------
    SceneError : the file is missing, or is no raster that GDAL reads.
    RemoteError, AddressError, CredentialsError : its server does not give it.
    """
    if not href.startswith(REMOTE) and not Path(href).exists():
        raise SceneError(f"{href}: no such file; a path to a raster that exists is needed. Check the path.")
    if not href.startswith(REMOTE) and is_cut_jp2(Path(href)):
        raise SceneError(
            f"{href}: the JPEG 2000 file ends before its image does; a whole one is needed. Copy or download it again."
        )
    try:
        with quietly():
            if (address := web_address(href)) is not None:
                return open_ranged(client.DEFAULT_CLIENT, address, access_to(address))
            return rasterio.open(href)
    except RasterioError as error:
        raise SceneError(
            f"{shown(href)}: not a raster that can be read ({without_secrets(str(error))}); a whole GeoTIFF or "
            "JPEG 2000 file is needed. Check that it was copied completely."
        ) from None


@contextmanager
def bounded_cache(width: int, bands: int) -> Iterator[None]:
    """Let GDAL keep no more blocks than reading from top to bottom needs; a size that the user has set counts."""
    needed = min(CACHE_BYTES, CACHE_BYTES_A_COLUMN * width * bands)
    is_set = "GDAL_CACHEMAX" in os.environ or (hasenv() and "GDAL_CACHEMAX" in getenv())
    with rasterio.Env(**({} if is_set else {"GDAL_CACHEMAX": needed})):  # in bytes here, unlike in the environment
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """Rasters without georeference are allowed: it is said once for a scene, as a note of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_cut_jp2(path: Path) -> bool:
    """Whether this is a JPEG 2000 file that was cut short: GDAL reads the tiles that are missing as zeros.

    Such a file is a row of boxes that begin with their length and kind (ISO/IEC 15444-1, annex I); the image is in one
    of them, and where that is said to reach to the end of the file, it ends with the marker FF D9.
    """
    if not path.is_file():
        return False
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(len(JP2_SIGNATURE)) != JP2_SIGNATURE:
            return False
        while at + 8 <= size:
            file.seek(at)
            length = int.from_bytes(file.read(8)[:4])
            if length == 1:
                length = int.from_bytes(file.read(8))
            if length == 0:
                file.seek(size - 2)
                return file.read(2) != b"\xff\xd9"
            if length < 8 or at + length > size:
                return True
            at += length
    return False


def read_pixel_grid(dataset: DatasetReader) -> PixelGrid:
    """Where its pixels lie. A raster without georeference has the CRS None and pixels of 1 by 1."""
    crs = dataset.crs.to_string() if dataset.crs else None
    return PixelGrid(crs, tuple(dataset.transform)[:6], dataset.height, dataset.width)


def read_inside(
    dataset: DatasetReader, window: Window | None = None, shape: tuple[int, int] | None = None
) -> BoolArray | None:
    """(row, col) False where the file's own mask or alpha band leaves a pixel out; None if it has neither.

    Parameters and errors as of `read_bands`. Numbers that mean nodata are the reader's to find.
    """
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset not in flags:
        return None
    try:
        with reading(dataset):
            return np.asarray(dataset.dataset_mask(window=window, out_shape=shape) > 0)
    except RasterioError as error:
        raise SceneError(
            f"{shown(dataset.name)}: its mask cannot be read ({without_secrets(str(error))}); a file that is whole is "
            "needed. It is damaged or was cut short: copy or download it again."
        ) from None


def read_bands(
    dataset: DatasetReader,
    bands: Sequence[int],
    window: Window | None = None,
    shape: tuple[int, int] | None = None,
) -> NDArray[np.generic]:
    """(band, row, col) stored numbers of these 1-based `bands`, in one call.

    Parameters
    ----------
    window : the part to read; without it everything.
    shape : (row, col) to thin the part out to, by nearest pixels or the file's overviews.

    Raises
    ------
    SceneError : the file is damaged or cut short; the message names the first band that cannot be read.
    RemoteError, AddressError, CredentialsError : its server does not give it.
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
        band_name = f"band {bands[0]}" + (f" ({name})" if name else "")
        raise SceneError(
            f"{shown(dataset.name)}: {band_name} cannot be read ({without_secrets(str(error))}); a file that is whole "
            "is needed. It is damaged or was cut short: copy or download it again."
        ) from None
