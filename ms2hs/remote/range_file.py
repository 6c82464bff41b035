"""Remote files, and rasters for GDAL: every byte is read by checked range requests.

GDAL's own HTTP reader accepts truncated bodies, login pages and ranges that were not requested. `RangedFile` therefore
reads and caches byte ranges through `WebClient`, and rasterio passes the file to GDAL as an opener. Errors must not be
raised into GDAL: the file keeps its first error, and `open_ranged`, `reading` and `check` raise it afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from pathlib import Path, PurePosixPath
from threading import RLock
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import rasterio
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession

from ms2hs.errors import Ms2hsError, RemoteError, SceneError
from ms2hs.remote.byte_cache import ByteCache, KeptBytes
from ms2hs.remote.byte_range import read_range
from ms2hs.remote.client import WebClient
from ms2hs.remote.url_policy import Access, shown

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


class RangedFile:
    """A remote file, read and cached by ranges. Thread-safe.

    `error` holds the first error; after it, all reads return no bytes.
    """

    def __init__(self, client: WebClient, address: str, access: Access, kept: Path | None = None) -> None:
        """Read the first bytes.

        Parameters
        ----------
        kept : sparse file on disk that keeps everything that is read, for a later run too; None: memory.
        """
        self.error: Ms2hsError | None = None
        self.name = shown(address)
        self.size = 0
        self._client, self._address, self._access = client, address, access
        self._lock = RLock()
        self._headers, self._steps = ByteCache(CACHE_BYTES), ByteCache(CACHE_BYTES)
        self._blocks, self._pinned = ByteCache(), ByteCache()
        self._version: str | None = None
        self._kept: KeptBytes | None = None
        start = self._fetch(0, HEADER_BYTES)
        self._headers.add(0, start)
        if kept is not None and self.error is None:
            self._kept = KeptBytes(kept, self.size, self._version or "")

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
            fetched = ByteCache()
            for begin, end in _merge_ranges([part for part in ranges if self.cached(*part) is None], self.size):
                fetched.add(begin, self._fetch(begin, end - begin))
            return [self.cached(*part) or fetched.find(*part) or b"" for part in ranges]

    def fetch_ahead(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read and cache ranges, as (offset, size); in memory, other ranges of earlier calls are dropped.

        Raises
        ------
        RemoteError, AddressError, CredentialsError : as `read_range`.
        """
        if self._kept is not None:
            for request in self.requests(ranges):
                request.send()
            return
        blocks, missing = ByteCache(), []
        for begin, size in ranges:
            content = self.cached(begin, size)
            if content is None:
                missing.append((begin, size))
            else:
                blocks.add(begin, content)
        for begin, end in _merge_ranges(missing, self.size):
            blocks.add(begin, self._fetch(begin, end - begin))
        with self._lock:
            self._blocks = blocks
        self.check()

    def requests(self, ranges: Sequence[tuple[int, int]], gap_bytes: int = 0) -> list["RangeRequest"]:
        """Requests for the ranges, as (offset, size), that are not cached; neighbours are one request.

        Parameters
        ----------
        gap_bytes : largest gap between neighbours, which is read too.
        """
        missing = [part for part in ranges if not self._has(*part)]
        return [RangeRequest(self, begin, end) for begin, end in _merge_ranges(missing, self.size, gap_bytes)]

    def _has(self, begin: int, size: int) -> bool:
        if self._kept is None:
            return self.cached(begin, size) is not None
        with self._lock:
            return self._kept.has(begin, size)

    def keep(self, begin: int, end: int, *, for_good: bool = False) -> None:
        """Read and cache one range, besides all others; errors as in `fetch_ahead`.

        Parameters
        ----------
        for_good : as long as the file is open; else until the next `fetch_ahead`.
        """
        content = self._fetch(begin, end - begin)
        self.check()
        if self._kept is None:
            with self._lock:
                (self._pinned if for_good else self._blocks).add(begin, content)

    def cached(self, begin: int, size: int) -> bytes | None:
        """These bytes from the cache; None if some are missing."""
        with self._lock:
            caches = self._headers, self._steps, self._blocks, self._pinned, self._kept
            return next((content for cache in caches if cache and (content := cache.find(begin, size))), None)

    def check(self) -> None:
        """Raise the first error, if any."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the file on disk."""
        if self._kept is not None:
            self._kept.close()

    def _fetch(self, begin: int, size: int) -> bytes:
        """Bytes from the server; none after an error. Several threads may read at the same time."""
        if self.error is not None:
            return b""
        try:
            part = read_range(self._client, self._address, self._access, begin, size)
            with self._lock:
                if self._version is not None and (part.size, part.version) != (self.size, self._version):
                    raise RemoteError(
                        f"{self.name}: changed on the server while it was read; one version is needed. Start again."
                    )
                self.size, self._version = part.size, part.version
                if self._kept is not None:
                    self._kept.add(begin, part.content)
        except Ms2hsError as error:
            self.error = self.error or error
            return b""
        return part.content


@dataclass(frozen=True, eq=False)
class RangeRequest:
    """A byte range that can be read and kept ahead of its use."""

    file: RangedFile
    begin: int
    end: int

    def send(self) -> None:
        """Read the range, and keep it for later reads; RemoteError, AddressError or CredentialsError if that fails."""
        self.file.keep(self.begin, self.end)


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


def _merge_ranges(ranges: Sequence[tuple[int, int]], file_size: int, gap_bytes: int = 0) -> list[tuple[int, int]]:
    """First byte and end of the requests for these ranges, with the margins that GDAL reads around blocks."""
    merged: list[tuple[int, int]] = []
    for first, length in sorted(ranges):
        begin, end = max(0, first - BLOCK_MARGIN_BYTES), min(file_size, first + length + BLOCK_MARGIN_BYTES)
        if merged and begin <= merged[-1][1] + gap_bytes and end - merged[-1][0] <= MAX_REQUEST_BYTES:
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


def open_ranged(client: WebClient, address: str, access: Access, kept: Path | None = None) -> DatasetReader:
    """An open dataset of a remote raster; the caller closes it. Its pixels may be read by one thread at a time.

    Parameters
    ----------
    kept : as in `RangedFile`; then the caller closes also `file_of(dataset)`.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `read_range`, or GDAL cannot read the file.
    SceneError : the file is not a GeoTIFF or JPEG 2000 file.
    """
    file = RangedFile(client, address, access, kept)
    file.check()
    driver = gdal_driver(file.cached(0, len(JP2_SIGNATURE)) or b"", file.name)
    name = PurePosixPath(urlsplit(address).path).name or "raster.tif"
    try:
        with GDAL_LOCK, rasterio.Env(DummySession(), GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
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
        with rasterio.Env(DummySession(), GDAL_NUM_THREADS="1"):
            yield
    except RasterioError as error:
        raise file.error or _unreadable(file.name, error) from None
    file.check()


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
