"""Bytes of files on servers, asked for by range, and checked.

GDAL's own reading over HTTP does not notice everything that goes wrong: a body that is cut, a page to log in instead of
a file, a range other than the one that was asked for. So every byte that GDAL gets comes through here.

Files on servers as GDAL wants them: it gets every byte through `ranges`.
"""

import bisect
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import RLock
from typing import Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import rasterio
import requests
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from ms2hs.errors import Ms2hsError, RemoteError, SceneError
from ms2hs.remote.client import Access, PassingError, Request, WebClient
from ms2hs.remote.url_policy import shown

# Kinds of content that are no raster: what a server says instead of one.
PAGES = ("text/", "application/xml", "application/json", "application/xhtml")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
# How the files begin that are opened on servers, and GDAL's drivers for them: a VRT could name files of this machine.
DRIVERS = dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff") | {JP2_SIGNATURE: "JP2OpenJPEG"}
# What is asked for at first, and whenever GDAL wants a few bytes of a header: the headers of a COG of a whole tile fit.
HEADER_BYTES = 16_384
# A reader that goes on where it was gets four times as much each time, up to so many bytes: JPEG 2000 is read in bits.
LONGEST_STEP_BYTES = 1_048_576
# Of what came so, this much is kept for one file, and as much of headers.
KEPT_BYTES = 16_000_000
# One request brings neighbouring blocks up to so many bytes: where it is cut off, all of it comes again.
REQUEST_BYTES = 8_000_000
# GDAL reads the lengths of blocks too, which COGs have before and after them.
BESIDE_BYTES = 8
# GDAL finds files by a table that it does not guard, and rasterio writes to it whenever it opens a file of ours: within
# a fetch, GDAL is one thread's at a time. Nobody holds it while bytes come in, but for the few of a long header.
TURN = RLock()


@dataclass(frozen=True)
class Part:
    """Bytes of a file."""

    content: bytes
    size: int
    """Of the whole file."""
    version: str
    """The server's name of this state of it; empty where it gives none."""


def read_range(client: WebClient, address: str, access: Access, begin: int, size: int) -> Part:
    """`size` bytes of a file from `begin` on, fewer only where it ends.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `WebClient.ask`.
    """
    if begin < 0 or size < 1:
        raise ValueError(f"{size} bytes from {begin}: from 1 and from 0 on are allowed")

    def take(answer: requests.Response) -> Part:
        whole = _checked_size(answer, begin, size)
        wanted = min(begin + size, whole) - begin
        body = client.body(answer, wanted)
        if len(body) != wanted:
            more = " and more" if len(body) > wanted else ""
            raise PassingError(f"{len(body)} bytes{more} instead of {wanted}")
        return Part(body, whole, answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", ""))

    headers = {"Range": f"bytes={begin}-{begin + size - 1}", "Accept-Encoding": "identity"}
    return client.ask(Request(address, access, headers), take)


def _checked_size(answer: requests.Response, begin: int, size: int) -> int:
    """Of the whole file, once it is plain that the answer is the range that was asked for."""
    kind = answer.headers.get("Content-Type", "").lower()
    if kind.startswith(PAGES):
        raise PassingError(f"{kind.split(';')[0]} instead of a raster")
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code != requests.codes.partial_content or found is None:
        raise PassingError(f"status {answer.status_code} with something else than a range")
    first, last, whole = (int(number) for number in found.groups())
    if (first, last) != (begin, min(begin + size, whole) - 1):
        raise PassingError(f"bytes {first} to {last} of {whole} instead of {size} from {begin}")
    return whole


class _Pieces:
    """Parts of a file that have come; the oldest are dropped where they are more than `most` bytes."""

    def __init__(self, most: int | None = None) -> None:
        self._begins: list[int] = []
        self._contents: list[bytes] = []
        self._most, self._sum = most, 0
        self._order: deque[int] = deque()

    def add(self, begin: int, content: bytes) -> None:
        """One more."""
        at = bisect.bisect_right(self._begins, begin)
        self._begins.insert(at, begin)
        self._contents.insert(at, content)
        self._order.append(begin)
        self._sum += len(content)
        while self._most is not None and self._sum > self._most and len(self._order) > 1:
            old = bisect.bisect_left(self._begins, self._order.popleft())
            self._sum -= len(self._contents.pop(old))
            del self._begins[old]

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
    """A file on a server, of which pieces come as they are wanted. For several threads.

    Nothing may be raised into GDAL: an error ends the reading, and is there to be raised afterwards.
    """

    def __init__(self, client: WebClient, address: str, access: Access) -> None:
        self.error: Ms2hsError | None = None
        self.name = shown(address)
        self.size = 0
        self._client, self._address, self._access = client, address, access
        self._lock = RLock()
        self._headers, self._steps, self._blocks = _Pieces(KEPT_BYTES), _Pieces(KEPT_BYTES), _Pieces()
        self._version: str | None = None
        self._headers.add(0, self._fetch(0, HEADER_BYTES))

    def piece(self, begin: int, size: int, step: int) -> bytes:
        """These bytes, and if they have not come, kept with them what follows, up to a step."""
        with self._lock:
            found = self.known(begin, size)
            if found is None:
                found = self._fetch(begin, max(size, step))
                if size < step:
                    # JPEG 2000 goes through all its headers again and again: what follows them must not drive them out.
                    (self._headers if step <= HEADER_BYTES else self._steps).add(begin, found)
            return found[:size]

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several, as first byte and size, neighbours in one request."""
        with self._lock:
            come = _Pieces()
            for begin, end in _joined([one for one in ranges if self.known(*one) is None], self.size):
                come.add(begin, self._fetch(begin, end - begin))
            return [self.known(*one) or come.find(*one) or b"" for one in ranges]

    def fetch_ahead(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Let what will be read come, as first byte and size, neighbours in one request; what came before is forgotten.

        Raises
        ------
        RemoteError, AddressError, CredentialsError : as `ranges.read_range`.
        """
        self._blocks = _Pieces()
        for begin, end in _joined(ranges, self.size):
            if self._headers.find(begin, end - begin) is None:
                self._blocks.add(begin, self._fetch(begin, end - begin))
        if self.error is not None:
            raise self.error

    def known(self, begin: int, size: int) -> bytes | None:
        """These bytes, if they have come."""
        stores = self._headers, self._steps, self._blocks
        return next((found for store in stores if (found := store.find(begin, size))), None)

    def _fetch(self, begin: int, size: int) -> bytes:
        if self.error is not None:
            return b""
        try:
            part = read_range(self._client, self._address, self._access, begin, size)
            if self._version is not None and (part.size, part.version) != (self.size, self._version):
                raise RemoteError(
                    f"{self.name}: the server changed it while it was read; one state of it is needed. Start again."
                )
        except Ms2hsError as error:
            self.error = error
            return b""
        self.size, self._version = part.size, part.version
        return part.content


class _Handle:
    """An opened file: a place in it."""

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._at = 0
        self._end, self._step = -1, HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """From where it stands; short only at its end, or after an error."""
        size = max(0, min(size if size >= 0 else self._file.size, self._file.size - self._at))
        if not size:
            return b""
        if self._at != self._end:
            self._step = HEADER_BYTES // 4
        found = self._file.known(self._at, size)
        if found is None:
            self._step = min(4 * self._step, LONGEST_STEP_BYTES)
            found = self._file.piece(self._at, size, self._step)
        self._at = self._end = self._at + len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Stand elsewhere."""
        self._at = offset + (0, self._at, self._file.size)[whence]
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
        """Several pieces, by which GDAL asks for the blocks of a window."""
        return self._file.pieces(list(zip(offsets, sizes, strict=True)))


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

    def open(self, path: str, mode: str = "r", **_options: object) -> _Handle:
        if not self.isfile(path) or "w" in mode:
            raise FileNotFoundError(path)
        return _Handle(self._file)

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


_FILES: WeakKeyDictionary[DatasetReader, RangedFile] = WeakKeyDictionary()


def open_ranged(client: WebClient, address: str, access: Access) -> DatasetReader:
    """A raster on a server, opened; the caller closes it. Its pixels may be read by one thread at a time.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `ranges.read_range`, or GDAL cannot read it.
    SceneError : it is no GeoTIFF or JPEG 2000 file.
    """
    file = RangedFile(client, address, access)
    if file.error is not None:
        raise file.error
    driver = driver_of(file.known(0, len(JP2_SIGNATURE)) or b"", file.name)
    name = PurePosixPath(urlsplit(address).path).name or "raster.tif"
    try:
        with TURN, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            dataset = rasterio.open(f"/{name}", driver=driver, opener=_OneFile(name, file))
    except RasterioError as error:
        raise file.error or _unreadable(file.name, error) from None
    _FILES[dataset] = file
    return dataset


def file_of(dataset: DatasetReader) -> RangedFile | None:
    """Where the bytes of a dataset come from, if it was opened here."""
    return _FILES.get(dataset)


@contextmanager
def reading(dataset: DatasetReader) -> Iterator[None]:
    """While numbers of a dataset are read, wherever it was opened.

    JPEG 2000 is decoded by one thread: GDAL's others would not find a file of ours, and leave zeros without a word.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : its server did not give it, whatever GDAL makes of that.
    """
    file = _FILES.get(dataset)
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
        f"{name}: not a raster that can be read ({error}); a GeoTIFF or JPEG 2000 file is needed. Choose another "
        "scene: the archive's file seems to be damaged."
    )


def driver_of(start: bytes, name: str) -> str:
    """GDAL's driver for a file on a server, by its first bytes.

    Raises
    ------
    SceneError : it is another kind of file. GDAL opens many that are lists of files, with any of this machine in them.
    """
    driver = next((driver for begin, driver in DRIVERS.items() if start.startswith(begin)), None)
    if driver is None:
        raise SceneError(
            f"{name}: what the server gives is neither a GeoTIFF nor a JPEG 2000 file; one of these is needed. "
            "Look at the address in a browser: it may be a page to log in."
        )
    return driver
