"""Rasters on servers: opened by GDAL, which gets every byte through `ranges`; windows of them copied to disk."""

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import Self
from urllib.parse import urlsplit

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.errors import Ms2hsError, OutputError, RemoteError
from ms2hs.raster.addresses import shown
from ms2hs.raster.dataset import driver_of, open_dataset, pixel_grid, quietly
from ms2hs.raster.output import flush
from ms2hs.raster.ranges import Access, RangeClient
from ms2hs.raster.scene import Asset, PixelGrid
from ms2hs.raster.web import START

# What is asked for at first, and whenever GDAL wants a few bytes of a header: the headers of a COG of a whole tile fit.
HEADER_BYTES = 16_384
# Rows of blocks are read together up to so many bytes of numbers.
STRIP_BYTES = 64_000_000
# One request brings neighbouring blocks up to so many bytes: where it is cut off, all of it comes again.
REQUEST_BYTES = 8_000_000
# GDAL reads the lengths of blocks too, which COGs have before and after them.
BESIDE_BYTES = 8
Stored = NDArray[np.generic]


# GDAL finds files by a table that it does not guard, and rasterio writes to it whenever it opens a file of ours: within
# a fetch, GDAL is one thread's at a time. Nobody holds it while bytes come in, but for the few of a long header.
TURN = RLock()


class _Pieces:
    """Parts of a file that have come."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._contents: list[bytes] = []

    def add(self, begin: int, content: bytes) -> None:
        """One more."""
        at = bisect.bisect_right(self._begins, begin)
        self._begins.insert(at, begin)
        self._contents.insert(at, content)

    def find(self, begin: int, size: int) -> bytes | None:
        """These bytes, of one piece or of several that follow each other; None where some have not come."""
        found, end = [], begin + size
        at = bisect.bisect_right(self._begins, begin) - 1
        while begin < end:
            if not 0 <= at < len(self._begins) or self._begins[at] > begin:
                return None
            first = begin - self._begins[at]
            part = self._contents[at][first : first + end - begin]
            if not part:
                return None
            found.append(part)
            begin += len(part)
            at += 1
        return b"".join(found)


class RangedFile:
    """A file on a server, as GDAL wants one.

    Nothing may be raised into GDAL: an error ends the reading, and is there to be raised afterwards.
    """

    def __init__(self, client: RangeClient, address: str, access: Access) -> None:
        self.error: Ms2hsError | None = None
        self._client, self._address, self._access = client, address, access
        self._at = 0
        self._headers, self._blocks = _Pieces(), _Pieces()
        self._version: str | None = None
        self.size = 0
        self._headers.add(0, self._fetch(0, HEADER_BYTES))

    def read(self, size: int = -1) -> bytes:
        """From where it stands; short only at its end, or after an error."""
        size = max(0, min(size if size >= 0 else self.size, self.size - self._at))
        found = self._piece(self._at, size) if size else b""
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Stand elsewhere."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where it stands."""
        return self._at

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        """Is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several pieces, by which GDAL asks for the blocks of a window, neighbours together."""
        return [self._piece(begin, size) for begin, size in zip(offsets, sizes, strict=True)]

    def fetch_ahead(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Let what will be read come, neighbours in one request; what came before is forgotten.

        Parameters
        ----------
        ranges : first byte and size of each.

        Raises
        ------
        RemoteError, AddressError, CredentialsError : as `RangeClient.read`.
        """
        self._blocks = _Pieces()
        for begin, end in _joined(ranges, self.size):
            if self._headers.find(begin, end - begin) is None:
                self._blocks.add(begin, self._fetch(begin, end - begin))
        if self.error is not None:
            raise self.error

    def _piece(self, begin: int, size: int) -> bytes:
        found = self._headers.find(begin, size) or self._blocks.find(begin, size)
        if found is not None:
            return found
        if size >= HEADER_BYTES:
            return self._fetch(begin, size)
        more = self._fetch(begin, HEADER_BYTES)
        self._headers.add(begin, more)
        return more[:size]

    def _fetch(self, begin: int, size: int) -> bytes:
        if self.error is not None:
            return b""
        try:
            part = self._client.read(self._address, self._access, begin, size)
            if self._version is not None and (part.size, part.version) != (self.size, self._version):
                raise RemoteError(
                    f"{shown(self._address)}: the server changed it while it was read; one state of it is needed. "
                    "Start again."
                )
        except Ms2hsError as error:
            self.error = error
            return b""
        self.size, self._version = part.size, part.version
        return part.content


def _joined(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """First byte and end of the requests that bring these ranges of a file, with what GDAL reads around them."""
    joined: list[tuple[int, int]] = []
    for first, length in sorted(ranges):
        begin, end = max(0, first - BESIDE_BYTES), min(size, first + length + BESIDE_BYTES)
        if joined and begin <= joined[-1][1] and end - joined[-1][0] <= REQUEST_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((max(begin, joined[-1][1]) if joined else begin, end))
    return joined


class _OneFile(MultiByteRangeResourceContainer):  # type: ignore[misc]  # rasterio has no types
    """A place where there is one file and nothing beside it, so that GDAL does not look for masks and side-cars."""

    def __init__(self, name: str, file: RangedFile) -> None:
        self._name, self._file = name, file

    def open(self, path: str, mode: str = "r", **_options: object) -> RangedFile:
        if not self.isfile(path) or "w" in mode:
            raise FileNotFoundError(path)
        self._file.seek(0)
        return self._file

    def isfile(self, path: str) -> bool:
        return path.endswith(self._name)

    def isdir(self, path: str) -> bool:  # noqa: ARG002 - as rasterio asks
        return False

    def ls(self, path: str) -> list[str]:  # noqa: ARG002 - as rasterio asks
        return [self._name]

    def mtime(self, path: str) -> int:  # noqa: ARG002 - as rasterio asks
        return 0

    def size(self, path: str) -> int:  # noqa: ARG002 - as rasterio asks
        return self._file.size

    def rm(self, path: str) -> None:
        raise PermissionError(path)


@dataclass(frozen=True, eq=False)
class RemoteRaster:
    """An opened raster on a server. For one thread."""

    name: str
    """Its address as it may be shown."""
    dataset: DatasetReader
    file: RangedFile | None
    grid: PixelGrid

    def read(self, band: int, rows: slice, cols: slice) -> Stored:
        """(row, col) stored numbers of a band; RemoteError and the like where the server does not give them."""
        if self.file is not None:
            self.file.fetch_ahead(self._blocks(band, rows, cols))
        try:
            with TURN:
                return np.asarray(self.dataset.read(band, window=Window.from_slices(rows, cols)))
        except RasterioError as error:
            raise (self.file and self.file.error) or _unreadable(self.name, error) from error

    def blocks_bytes(self, band: int, rows: slice, cols: slice) -> int:
        """Size of the blocks that a window touches, as they are stored; its numbers', where blocks tell no size."""
        numbers = (rows.stop - rows.start) * (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        return sum(size for _, size in self._blocks(band, rows, cols)) or numbers

    def _blocks(self, band: int, rows: slice, cols: slice) -> list[tuple[int, int]]:
        """First byte and size of the blocks that a window touches; JPEG 2000 does not tell."""
        high, wide = self.dataset.block_shapes[band - 1]
        places = [
            f"{x}_{y}"
            for y in range(rows.start // high, -(-rows.stop // high))
            for x in range(cols.start // wide, -(-cols.stop // wide))
        ]
        with TURN:
            told = [
                [self.dataset.get_tag_item(f"BLOCK_{fact}_{place}", "TIFF", bidx=band) for fact in ("OFFSET", "SIZE")]
                for place in places
            ]
        return list(dict.fromkeys((int(offset), int(size)) for offset, size in told if offset and size))

    def strips(self, rows: slice, cols: slice) -> Iterator[slice]:
        """The rows in parts that end where blocks do, as many blocks high as is no burden."""
        high = self.dataset.block_shapes[0][0]
        row_bytes = (cols.stop - cols.start) * np.dtype(self.dataset.dtypes[0]).itemsize
        step = high * max(1, STRIP_BYTES // max(1, row_bytes * high))
        begin = rows.start
        while begin < rows.stop:
            end = min(rows.stop, (begin // step + 1) * step)
            yield slice(begin, end)
            begin = end


def address_of(href: str) -> str | None:
    """The address, `https://...` or `s3://...`, of a file that GDAL knows as `/vsi...`; None of one on the own disk."""
    if href.startswith("/vsis3/"):
        return "s3://" + href.removeprefix("/vsis3/")
    address = href.removeprefix("/vsicurl/")
    return address if urlsplit(address).scheme.lower() in {"http", "https", "s3"} else None


@contextmanager
def open_remote(client: RangeClient, href: str, access: Access) -> Iterator[RemoteRaster]:
    """Open a raster on a server, or on the own disk.

    Parameters
    ----------
    href : as a `Scene` has it; unsigned.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `RangeClient.read`; or it is no raster.
    """
    address = address_of(href)
    if address is None:
        with TURN, open_dataset(href) as dataset:
            yield RemoteRaster(href, dataset, None, pixel_grid(dataset))
        return
    file = RangedFile(client, address, access)
    if file.error is not None:
        raise file.error
    name = PurePosixPath(urlsplit(address).path).name or "raster.tif"
    driver = driver_of(file.read(START), shown(address))
    try:
        with TURN, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), quietly():
            dataset = rasterio.open(f"/{name}", driver=driver, opener=_OneFile(name, file))
            grid = pixel_grid(dataset)
    except RasterioError as error:
        raise file.error or _unreadable(shown(address), error) from error
    try:
        yield RemoteRaster(shown(address), dataset, file, grid)
    finally:
        with TURN:
            dataset.close()


def _unreadable(name: str, error: Exception) -> RemoteError:
    return RemoteError(
        f"{name}: not a raster that can be read ({error}); a GeoTIFF or JPEG 2000 file is needed. Choose another "
        "scene: the archive's file seems to be damaged."
    )


def copy_window(raster: RemoteRaster, asset: Asset, rows: slice, cols: slice, path: Path) -> Iterator[int]:
    """Copy a window of a band to a GeoTIFF, number for number; yields how many rows have come, again and again.

    The file stands under its name once it is whole. It has the band's name, and its rule as scale and offset.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `RangeClient.read`; no file is left then.
    OutputError : it cannot be written.
    """
    part = path.with_name(f".{path.name}")
    grid = raster.grid.crop(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": Affine(*grid.transform),
        "dtype": raster.dataset.dtypes[0],
        "nodata": asset.nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": 2 if np.dtype(raster.dataset.dtypes[0]).kind in "iu" else 3,
        "bigtiff": "IF_SAFER",
    }
    try:
        with TURN, quietly():
            file = rasterio.open(part, "w", **profile)
        try:
            with TURN:
                file.scales, file.offsets = [asset.dn_scale], [asset.dn_offset * asset.dn_scale]
                file.set_band_description(1, asset.name)
            for strip in raster.strips(rows, cols):
                numbers = raster.read(asset.band, strip, cols)
                with TURN:
                    file.write(numbers, 1, window=Window(0, strip.start - rows.start, *numbers.shape[::-1]))
                yield len(numbers)
        finally:
            with TURN:
                file.close()
        flush(part)
        part.replace(path)
    except (RasterioError, OSError) as error:
        raise OutputError(
            f"{path} could not be written ({error}); its directory must be writable and have room. "
            "Free some space, or choose another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def holds_data(path: Path, nodata: float | None) -> bool:
    """Whether any number of a small file's first band is none that means nodata."""
    with TURN, open_dataset(str(path)) as dataset:
        return any((dataset.read(1, window=window) != nodata).any() for _, window in dataset.block_windows(1))
