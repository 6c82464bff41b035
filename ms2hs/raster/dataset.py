"""Raster files and URLs opened and read through GDAL, with errors that name the file and the band."""

import logging
import math
import os
import re
import shlex
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Interleaving, MaskFlags, Resampling
from rasterio.env import getenv, hasenv
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession
from rasterio.windows import Window

from ms2hs.arrays import BoolArray
from ms2hs.errors import SceneError
from ms2hs.raster.driver_policy import DRIVERS, drivers_of, sidecars_of
from ms2hs.raster.pixel_grid import PixelGrid, is_on_earth, position
from ms2hs.remote import client
from ms2hs.remote.providers import access_to
from ms2hs.remote.range_file import JP2_SIGNATURE, open_ranged, reading
from ms2hs.remote.url_policy import shown, web_address, without_secrets

# GDAL environments get a `DummySession`: otherwise rasterio creates a session of boto3, if installed, in 15 ms.
LOGGER = logging.getLogger(__name__)
# GDAL's block cache is 5 % of the memory by default. It must hold one row of blocks of every band: in a Sentinel-2
# product, with blocks of 1024 rows, these take 165 MB.
MAX_CACHE_BYTES = 192_000_000
CACHE_BYTES_PER_COLUMN = 512 * 4
# GDAL decodes a block as a whole; a band of a whole Sentinel-2 tile has 121 million numbers.
MAX_BLOCK_NUMBERS = 150_000_000
# Descriptions of bands that hold transparency or validity, and of bands without a name of their own.
ALPHA = re.compile(r"alpha([ _-]?(band|channel|mask))?|valid(ity)?[ _-]?mask", re.IGNORECASE)
UNNAMED = re.compile(r"(band[ _-]?\d+)?", re.IGNORECASE)
# Masks of GDAL that `read_valid` does not need: none, from a nodata value, and from an alpha band, which it reads.
IGNORED_MASKS = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
# GDAL and rasterio raise some errors of damaged files without wrapping them.
FILE_ERRORS = (RasterioError, CPLE_BaseError, ValueError, OverflowError, MemoryError)
REMOTE_PREFIXES = ("/vsi", "http://", "https://", "s3://", "gs://")
# A file in a zip, and the largest whose checksum is compared.
ZIP_MEMBER, MAX_CHECKED_BYTES = re.compile(r"/vsizip/\{(.*)\}/(.*)"), 4_000_000_000
# GDAL's name of a variable of a file: `netcdf:file.nc:B02`.
NETCDF_PREFIX = "netcdf:"


def open_dataset(href: str) -> DatasetReader:
    """The opened raster; the caller closes it.

    Raises
    ------
    SceneError : the file is missing, truncated, not a raster that GDAL reads, or differs from its checksum in a zip.
    RemoteError, AddressError, CredentialsError : the server does not deliver it.
    """
    is_local = not href.startswith((*REMOTE_PREFIXES, NETCDF_PREFIX))
    if is_local and not Path(href).exists():
        raise SceneError(f"{href}: no such file; an existing raster is needed. Check the path.")
    if is_local and _is_truncated_jp2(Path(href)):
        raise SceneError(
            f"{href}: the JPEG 2000 file is truncated; a complete file is needed. Copy or download it again."
        )
    for sidecar in sidecars_of(Path(href)) if is_local else ():
        open_dataset(str(sidecar)).close()
    member = ZIP_MEMBER.fullmatch(href)
    if member and Path(member[1]).is_file():
        _check_member(member[1], member[2], Path(member[1]).stat().st_mtime_ns)
    try:
        with quietly():
            if (address := web_address(href)) is not None:
                dataset = open_ranged(client.DEFAULT_CLIENT, address, access_to(address))
            else:
                with rasterio.Env(DummySession()):  # rasterio.open takes one driver only
                    dataset = DatasetReader(href, driver=drivers_of(href) if is_local else DRIVERS)
    except FILE_ERRORS as error:
        raise SceneError(
            f"{shown(href)}: not a raster that can be read ({without_secrets(str(error))}); a complete GeoTIFF or "
            "JPEG 2000 file is needed. Check that it was copied completely."
        ) from None
    height, width = max(dataset.block_shapes, default=(0, 0))
    numbers = height * width * (dataset.count if dataset.interleaving == Interleaving.pixel else 1)
    if numbers > MAX_BLOCK_NUMBERS:
        dataset.close()
        raise SceneError(
            f"{shown(href)}: its pixels are stored in blocks of {width} x {height}, {numbers / 1e6:.0f} million "
            f"numbers each; at most {MAX_BLOCK_NUMBERS / 1e6:.0f} million are allowed. Write it in tiles with "
            "`gdal_translate -co TILED=YES`."
        )
    if file := dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"):
        dataset.close()
        raise SceneError(
            f"{shown(href)}: names a file of overviews, {file[:200]!r}, which may be anywhere; overviews inside the "
            "file or in a file .ovr are allowed. Copy the file with `gdal_translate`, and use the copy."
        )
    size, kind = f"{dataset.width} x {dataset.height} x {dataset.count}", dataset.dtypes[0] if dataset.count else "none"
    LOGGER.debug("opened: %s, %s, %s %s, blocks of %d x %d", shown(href), dataset.driver, size, kind, width, height)
    return dataset


@contextmanager
def bounded_cache(width: int, bands: int) -> Iterator[None]:
    """Limit GDAL's block cache to the need of a read from top to bottom, unless the user has set GDAL_CACHEMAX."""
    needed = min(MAX_CACHE_BYTES, CACHE_BYTES_PER_COLUMN * width * bands)
    is_set = "GDAL_CACHEMAX" in os.environ or (hasenv() and "GDAL_CACHEMAX" in getenv())
    options = {} if is_set else {"GDAL_CACHEMAX": needed}  # in bytes here, unlike in the environment
    with rasterio.Env(DummySession(), **options):
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


@lru_cache(maxsize=1024)
def _check_member(archive: str, member: str, _modified_ns: int) -> None:
    """Refuse a file in a zip that differs from its checksum: GDAL reads wrong bytes without an error."""
    try:
        with zipfile.ZipFile(archive) as files, files.open(member) as file:
            is_checked = files.getinfo(member).file_size <= MAX_CHECKED_BYTES
            while is_checked and file.read(1 << 20):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise SceneError(
            f"{archive}: {member} is damaged ({error}); a complete archive is needed. Copy or download it again."
        ) from None
    except (KeyError, NotImplementedError, RuntimeError):  # a name, method or password for which GDAL has a message
        return


def read_pixel_grid(dataset: DatasetReader) -> PixelGrid:
    """The pixel grid of an open raster; without a georeference the CRS is None and pixels are 1 by 1.

    A CRS that does not place the pixels on the Earth, such as a local site grid, counts as none; the transform stays.

    Raises
    ------
    SceneError : the transform is not invertible or not finite.
    """
    transform = tuple(dataset.transform)[:6]
    try:
        grid = PixelGrid(declared_crs(dataset), transform, dataset.height, dataset.width)
    except ValueError:
        raise SceneError(
            f"{shown(dataset.name)}: the geotransform {transform} gives pixels no size; a finite, invertible one is "
            "needed. Correct the file, such as with gdal_edit.py -a_ullr."
        ) from None
    is_usable = grid.crs and not dataset.transform.is_identity and is_on_earth(grid)
    return grid if is_usable else replace(grid, crs=None)


def declared_crs(dataset: DatasetReader) -> str | None:
    """The CRS that a file declares, whether it can be used or not; None if it declares none that can be parsed."""
    try:
        return dataset.crs.to_string() if dataset.crs else None
    except CRSError:
        return None


def georeference_note(dataset: DatasetReader) -> str | None:
    """A note why the output has no CRS, with the command that rectifies the file; None for a georeferenced file."""
    if read_pixel_grid(dataset).crs is not None:
        return None
    crs, (points, points_crs), file = declared_crs(dataset), dataset.gcps, Path(dataset.name).name
    if points and points_crs:
        x, y = (float(np.mean([getattr(point, axis) for point in points])) for axis in "xy")
        centre = position(points_crs.to_string(), x, y)
        note = _rectification(f"{len(points)} ground control points", "", centre, file)
    elif dataset.rpcs:
        note = _rectification("RPCs", "-rpc ", (dataset.rpcs.long_off, dataset.rpcs.lat_off), file)
    elif points:
        note = f"The file has {len(points)} ground control points without a CRS: the output has no CRS, and loses them."
    elif crs is None:
        note = "The file has no coordinate reference system, so the output has none."
    elif dataset.transform.is_identity:
        note = f"The file has a CRS ({crs[:40]}) but no geotransform, so the output has no CRS."
    else:
        note = (
            f"The file's CRS ({crs[:40]}) does not relate its pixels to longitude and latitude: it counts as no CRS, "
            "and the output has none."
        )
    return note


def _rectification(kind: str, option: str, lonlat: tuple[float, float], file: str) -> str:
    """The note on a file that must be warped to a CRS: the UTM zone of its centre."""
    lon, lat = lonlat
    code = (32600 if lat >= 0 else 32700) + math.floor((lon + 180) / 6) % 60 + 1 if math.isfinite(lon) else 4326
    return (
        f"The file has {kind} instead of a geotransform: the output has no CRS, and loses them. To keep the position, "
        f"rectify the scene first: gdalwarp {option}-t_srs EPSG:{code} {shlex.quote(file)} rectified.tif"
    )


def alpha_bands(dataset: DatasetReader) -> list[int]:
    """1-based bands that hold transparency or validity, at any position: pixels with 0 there are invalid.

    The colour interpretation declares them unless a band has a description of its own, because GDAL takes the fourth
    band of 8-bit files for alpha.
    """
    return [
        band
        for band, (text, colour) in enumerate(zip(dataset.descriptions, dataset.colorinterp, strict=True), 1)
        if ALPHA.fullmatch(text or "") or (colour == ColorInterp.alpha and UNNAMED.fullmatch(text or ""))
    ]


def read_valid(dataset: DatasetReader, bands: Sequence[int], window: Window) -> BoolArray | None:
    """(row, col) False where a mask of the file or of these bands, or an alpha band, is 0; None if the file has none.

    Nodata values are not considered. Errors as for `read_bands`.
    """
    masked = [band for band in bands if not {*dataset.mask_flag_enums[band - 1]} & IGNORED_MASKS]
    if any(MaskFlags.per_dataset in dataset.mask_flag_enums[band - 1] for band in masked):
        masked = masked[:1]
    alpha = alpha_bands(dataset)
    if not (masked or alpha):
        return None
    layers: list[NDArray[Any]] = [read_bands(dataset, alpha, window)] if alpha else []
    try:
        with reading(dataset):
            layers += [dataset.read_masks(masked, window=window)] if masked else []
    except FILE_ERRORS as error:
        raise _read_error(dataset, "mask", error) from None
    return np.asarray(np.all([(layer > 0).all(axis=0) for layer in layers], axis=0))


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
    except FILE_ERRORS as error:
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
