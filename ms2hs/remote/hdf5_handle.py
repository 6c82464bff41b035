"""Remote HDF5 and NetCDF-4 files for h5py, without waiting for the network inside HDF5.

h5py holds one lock of the process while HDF5 reads, and also to free an object. A thread that waits for the network
inside a read can therefore wait for a thread that waits for the lock. So a read of bytes that are not cached raises
`MissingBytes`, which ends the operation of h5py; `with_bytes` reads the bytes and repeats the operation. Most
operations need few repetitions, since chunks are read ahead and a page holds many headers.
"""

from collections.abc import Callable, Iterable
from io import IOBase
from pathlib import Path
from typing import TypeVar

from ms2hs.errors import Ms2hsError, RemoteError, SceneError
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import HEADER_BYTES, RangedFile
from ms2hs.remote.url_policy import Access

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Largest number of reads that one operation may miss; a granule of EMIT needs about 20.
MAX_REPETITIONS = 2000
T = TypeVar("T")


class MissingBytes(OSError):
    """Bytes are not cached yet."""


class Hdf5Handle(IOBase):
    """An open remote file with a position, as h5py reads it. Closing it has no effect; close `file`."""

    def __init__(self, file: RangedFile) -> None:
        self.file = file
        self.name = file.name
        self._position = 0
        self._missing: tuple[int, int] | None = None

    def read(self, size: int = -1) -> bytes:
        """Cached bytes from the position on, fewer at the end of the file; MissingBytes if they are not cached."""
        begin = self._position
        size = max(0, min(size if size >= 0 else self.file.size, self.file.size - begin))
        content = self.file.cached(begin, size) if size else b""
        if content is None:
            self._missing = begin, begin + size
            raise MissingBytes(f"bytes {begin} to {begin + size} are not read yet")
        self._position += size
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, in bytes, and return it."""
        self._position = offset + (0, self._position, self.file.size)[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def fetch_missing(self) -> bool:
        """Read and cache the bytes that a read has missed, with the rest of their pages; False if none was missed.

        Raises
        ------
        RemoteError, AddressError, CredentialsError, OutputError : as `RangedFile.fetch_ahead`.
        """
        if self._missing is None:
            return False
        (begin, end), self._missing = self._missing, None
        begin -= begin % HEADER_BYTES
        self.file.keep(begin, min(max(end, begin + HEADER_BYTES), self.file.size), for_good=True)
        return True


def open_hdf5(client: WebClient, address: str, access: Access, kept: Path | None = None) -> Hdf5Handle:
    """A remote HDF5 or NetCDF-4 file as a binary file object; operations of h5py on it run in `with_bytes`.

    Parameters
    ----------
    kept : as in `RangedFile`.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `read_range`. OutputError : `kept` cannot be written.
    SceneError : the file is not an HDF5 file.
    """
    file = RangedFile(client, address, access, kept)
    file.check()
    if not (file.cached(0, len(HDF5_SIGNATURE)) or b"").startswith(HDF5_SIGNATURE):
        file.close()
        raise SceneError(
            f"{file.name}: the server sent no HDF5 file; one is needed. Open the address in a browser: it may be a "
            "login page."
        )
    return Hdf5Handle(file)


def with_bytes(sources: Iterable[object], operation: Callable[[], T]) -> T:
    """The result of an operation that reads HDF5 files, repeated until all bytes of its remote files are cached.

    Parameters
    ----------
    sources : the files that the operation reads; all but `Hdf5Handle` are ignored.

    Raises
    ------
    RemoteError, AddressError, CredentialsError, OutputError : the server failed, or the bytes cannot be kept.
    Others : as the operation raises them.
    """
    handles = [source for source in sources if isinstance(source, Hdf5Handle)]
    for _ in range(MAX_REPETITIONS):
        try:
            result = operation()
        except (Ms2hsError, MissingBytes):
            if not sum(handle.fetch_missing() for handle in handles):
                raise
        else:
            if not sum(handle.fetch_missing() for handle in handles):
                return result
    raise RemoteError(
        f"{handles[0].name}: one read needs more than {MAX_REPETITIONS} requests; a file with fewer parts is needed. "
        "Download the file, and read it from disk."
    )
