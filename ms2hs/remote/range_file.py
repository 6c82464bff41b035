"""Remote rasters for GDAL: every byte is read by checked range requests.

GDAL's own HTTP reader accepts truncated bodies, login pages and ranges that were not requested. `RangedFile` therefore
reads and caches byte ranges through `WebClient`, and rasterio passes the file to GDAL as an opener. Errors must not be
raised into GDAL: the file keeps its first error, and `open_ranged` and `reading` raise it afterwards.
"""

import bisect
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from pathlib import PurePosixPath
from threading import RLock
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import rasterio
import requests
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from ms2hs.errors import Ms2hsError, RemoteError, SceneError
from ms2hs.remote.client import HttpRequest, TransientError, WebClient
from ms2hs.remote.url_policy import Access, shown

# Content types of pages that servers send instead of a raster. Some servers call a raster `text/plain`.
PAGE_TYPES = ("text/html", "text/xml", "application/xml", "application/json", "application/xhtml")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
# First bytes of the allowed formats, with GDAL's driver. Other formats, such as VRT, can name local files.
DRIVERS = dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff") | {JP2_SIGNATURE: "JP2OpenJPEG"}
# Size of the first request, and of small reads of headers: holds the headers of a COG of a whole tile.
HEADER_BYTES = 16_384
# Sequential small reads, as of JPEG 2000, grow by a factor of four up to this size.
MAX_STEP_BYTES = 1_048_576
# Cache for sequential reads, and for headers, of one file.
CACHE_BYTES = 16_000_000
# Neighbouring blocks are read by one request up to this size: a truncated answer is read again as a whole.
MAX_REQUEST_BYTES = 8_000_000
# GDAL also reads the lengths that a COG stores before and after each block.
BLOCK_MARGIN_BYTES = 8
# GDAL finds our files in a table without a lock, which rasterio changes on every open. During a fetch, only one thread
# at a time may call GDAL; no thread holds this lock while it waits for the network, except for headers.
GDAL_LOCK = RLock()


@dataclass(frozen=True)
class ByteRange:
    """The answer to a range request."""

    content: bytes
    size: int
    """Size of the whole file."""
    version: str
    """ETag or Last-Modified; empty if the server sends neither."""


def read_range(client: WebClient, address: str, access: Access, begin: int, size: int) -> ByteRange:
    """`size` bytes of a file from offset `begin`; fewer only at the end of the file.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `WebClient.send`.
    """
    if begin < 0 or size < 1:
        raise ValueError(f"{size} bytes from {begin}: at least 1 byte, from 0, is allowed")

    def read(response: requests.Response) -> ByteRange:
        file_size = _check_range(response, begin, size)
        expected = min(begin + size, file_size) - begin
        body = client.read_body(response, expected)
        if len(body) != expected:
            more = " and more" if len(body) > expected else ""
            raise TransientError(f"{len(body)} bytes{more} instead of {expected}")
        return ByteRange(body, file_size, response.headers.get("ETag", "") or response.headers.get("Last-Modified", ""))

    headers = {"Range": f"bytes={begin}-{begin + size - 1}", "Accept-Encoding": "identity"}
    return client.send(HttpRequest(address, access, headers), read)


def _check_range(response: requests.Response, begin: int, size: int) -> int:
    """Size of the whole file; TransientError unless the answer is the requested range."""
    content_type = response.headers.get("Content-Type", "").lower()
    if content_type.startswith(PAGE_TYPES):
        raise TransientError(f"{content_type.split(';')[0]} instead of a raster")
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != requests.codes.partial_content or match is None:
        raise TransientError(f"status {response.status_code} without the requested range")
    first, last, file_size = (int(number) for number in match.groups())
    if (first, last) != (begin, min(begin + size, file_size) - 1):
        raise TransientError(f"bytes {first} to {last} of {file_size} instead of {size} from {begin}")
    return file_size


class _ByteCache:
    """Chunks of a file; beyond `limit` bytes in all, the oldest are dropped."""

    def __init__(self, limit: int | None = None) -> None:
        self._begins: list[int] = []
        self._contents: list[bytes] = []
        self._limit, self._size = limit, 0
        self._order: deque[int] = deque()

    def add(self, begin: int, content: bytes) -> None:
        """Add the chunk that begins at this offset."""
        at = bisect.bisect_right(self._begins, begin)
        self._begins.insert(at, begin)
        self._contents.insert(at, content)
        self._order.append(begin)
        self._size += len(content)
        while self._limit is not None and self._size > self._limit and len(self._order) > 1:
            oldest = bisect.bisect_left(self._begins, self._order.popleft())
            self._size -= len(self._contents.pop(oldest))
            del self._begins[oldest]

    def find(self, begin: int, size: int) -> bytes | None:
        """These bytes, from one chunk or several adjacent ones; None if some are missing."""
        parts, end = [], begin + size
        at = bisect.bisect_right(self._begins, begin) - 1
        while begin < end:
            if not 0 <= at < len(self._begins) or self._begins[at] > begin:
                return None
            first = begin - self._begins[at]
            part = self._contents[at][first : first + end - begin]
            if not part:
                return None
            parts.append(part)
            begin += len(part)
            at += 1
        return b"".join(parts)


class RangedFile:
    """A remote file, read and cached by ranges. Thread-safe.

    `error` holds the first error; after it, all reads return no bytes.
    """

    def __init__(self, client: WebClient, address: str, access: Access) -> None:
        self.error: Ms2hsError | None = None
        self.name = shown(address)
        self.size = 0
        self._client, self._address, self._access = client, address, access
        self._lock = RLock()
        self._headers, self._steps, self._blocks = _ByteCache(CACHE_BYTES), _ByteCache(CACHE_BYTES), _ByteCache()
        self._version: str | None = None
        self._headers.add(0, self._fetch(0, HEADER_BYTES))

    def read(self, begin: int, size: int, step: int) -> bytes:
        """These bytes; if they are not cached, at least `step` bytes are read and cached."""
        with self._lock:
            content = self.cached(begin, size)
            if content is None:
                content = self._fetch(begin, max(size, step))
                if size < step:
                    # JPEG 2000 reads its headers again and again: sequential data must not drop them from the cache.
                    (self._headers if step <= HEADER_BYTES else self._steps).add(begin, content)
            return content[:size]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, as (offset, size); neighbours are read by one request."""
        with self._lock:
            fetched = _ByteCache()
            for begin, end in _merge_ranges([part for part in ranges if self.cached(*part) is None], self.size):
                fetched.add(begin, self._fetch(begin, end - begin))
            return [self.cached(*part) or fetched.find(*part) or b"" for part in ranges]

    def fetch_ahead(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read and cache ranges, as (offset, size), and drop the ranges of the previous call.

        Raises
        ------
        RemoteError, AddressError, CredentialsError : as `read_range`.
        """
        self._blocks = _ByteCache()
        for begin, end in _merge_ranges(ranges, self.size):
            if self._headers.find(begin, end - begin) is None:
                self._blocks.add(begin, self._fetch(begin, end - begin))
        if self.error is not None:
            raise self.error

    def cached(self, begin: int, size: int) -> bytes | None:
        """These bytes from the cache; None if some are missing."""
        caches = self._headers, self._steps, self._blocks
        return next((content for cache in caches if (content := cache.find(begin, size))), None)

    def _fetch(self, begin: int, size: int) -> bytes:
        if self.error is not None:
            return b""
        try:
            part = read_range(self._client, self._address, self._access, begin, size)
            if self._version is not None and (part.size, part.version) != (self.size, self._version):
                raise RemoteError(
                    f"{self.name}: changed on the server while it was read; one version is needed. Start again."
                )
        except Ms2hsError as error:
            self.error = error
            return b""
        self.size, self._version = part.size, part.version
        return part.content


@dataclass(frozen=True, eq=False)
class RangeRequest:
    """A byte range that can be read and kept ahead of its use."""

    file: RangedFile
    begin: int
    end: int

    def send(self) -> None:
        """Read the range, and keep it for later reads; RemoteError, AddressError or CredentialsError if that fails."""
        self.file.fetch_ahead([(self.begin, self.end - self.begin)])


class _FileHandle(IOBase):
    """An open file with a position, as GDAL reads it. Closing it has no effect: the operating system has no file."""

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._position = 0
        self._last_end, self._step = -1, HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """Bytes from the position on; fewer at the end of the file, or after an error."""
        size = max(0, min(size if size >= 0 else self._file.size, self._file.size - self._position))
        if not size:
            return b""
        if self._position != self._last_end:
            self._step = HEADER_BYTES // 4
        content = self._file.cached(self._position, size)
        if content is None:
            self._step = min(4 * self._step, MAX_STEP_BYTES)
            content = self._file.read(self._position, size, self._step)
        self._position = self._last_end = self._position + len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, in bytes, and return it."""
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several ranges; GDAL reads the blocks of a window by this method."""
        return self._file.read_many(list(zip(offsets, sizes, strict=True)))


def _merge_ranges(ranges: Sequence[tuple[int, int]], file_size: int) -> list[tuple[int, int]]:
    """First byte and end of the requests for these ranges, with the margins that GDAL reads around blocks."""
    merged: list[tuple[int, int]] = []
    for first, length in sorted(ranges):
        begin, end = max(0, first - BLOCK_MARGIN_BYTES), min(file_size, first + length + BLOCK_MARGIN_BYTES)
        if merged and begin <= merged[-1][1] and end - merged[-1][0] <= MAX_REQUEST_BYTES:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((max(begin, merged[-1][1]) if merged else begin, end))
    return merged


class _SingleFile(MultiByteRangeResourceContainer):  # type: ignore[misc]  # rasterio has no types
    """A directory with one file, so that GDAL does not look for masks and sidecar files."""

    def __init__(self, name: str, file: RangedFile) -> None:
        self._name, self._file = name, file

    def open(self, path: str, mode: str = "r", **_options: object) -> _FileHandle:
        if not self.isfile(path) or "w" in mode:
            raise FileNotFoundError(path)
        return _FileHandle(self._file)

    def isfile(self, path: str) -> bool:
        return path.endswith(self._name)

    def isdir(self, path: str) -> bool:  # noqa: ARG002 - rasterio's interface
        return False

    def ls(self, path: str) -> list[str]:  # noqa: ARG002 - rasterio's interface
        return [self._name]

    def mtime(self, path: str) -> int:  # noqa: ARG002 - rasterio's interface
        return 0

    def size(self, path: str) -> int:  # noqa: ARG002 - rasterio's interface
        return self._file.size

    def rm(self, path: str) -> None:
        raise PermissionError(path)


_FILES: WeakKeyDictionary[DatasetReader, RangedFile] = WeakKeyDictionary()


def open_ranged(client: WebClient, address: str, access: Access) -> DatasetReader:
    """An open dataset of a remote raster; the caller closes it. Its pixels may be read by one thread at a time.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `read_range`, or GDAL cannot read the file.
    SceneError : the file is not a GeoTIFF or JPEG 2000 file.
    """
    file = RangedFile(client, address, access)
    if file.error is not None:
        raise file.error
    driver = gdal_driver(file.cached(0, len(JP2_SIGNATURE)) or b"", file.name)
    name = PurePosixPath(urlsplit(address).path).name or "raster.tif"
    try:
        with GDAL_LOCK, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            dataset = rasterio.open(f"/{name}", driver=driver, opener=_SingleFile(name, file))
    except RasterioError as error:
        raise file.error or _unreadable(file.name, error) from None
    _FILES[dataset] = file
    return dataset


def file_of(dataset: DatasetReader) -> RangedFile | None:
    """The remote file of a dataset; None unless `open_ranged` opened the dataset."""
    return _FILES.get(dataset)


@contextmanager
def reading(dataset: DatasetReader) -> Iterator[None]:
    """Raise the error of the remote file, if any, after pixels of a dataset were read.

    JPEG 2000 is decoded by one thread: other threads of GDAL do not find the file, and return zeros.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : the server failed, also where GDAL reported no error.
    """
    file = file_of(dataset)
    if file is None:
        yield
        return
    try:
        with rasterio.Env(GDAL_NUM_THREADS="1"):
            yield
    except RasterioError as error:
        raise file.error or _unreadable(file.name, error) from None
    if file.error is not None:
        raise file.error


def _unreadable(name: str, error: Exception) -> RemoteError:
    return RemoteError(
        f"{name}: cannot be read as a raster ({error}); an undamaged GeoTIFF or JPEG 2000 file is needed. The "
        "archive's file seems to be damaged: choose another scene."
    )


def gdal_driver(start: bytes, name: str) -> str:
    """GDAL's driver for a remote file, by the first bytes of the file.

    Raises
    ------
    SceneError : another format. Some formats of GDAL are lists of files, which may name files of this machine.
    """
    driver = next((driver for begin, driver in DRIVERS.items() if start.startswith(begin)), None)
    if driver is None:
        raise SceneError(
            f"{name}: the server sent neither a GeoTIFF nor a JPEG 2000 file; one of these is needed. Open the address "
            "in a browser: it may be a login page."
        )
    return driver
