"""Byte ranges of a remote file, kept in memory (`ByteCache`) or on disk (`KeptBytes`)."""

import bisect
import json
from collections import deque
from pathlib import Path
from zlib import crc32

from ms2hs.errors import OutputError
from ms2hs.files import write_error


class ByteCache:
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


class KeptBytes:
    """Byte ranges of one version of a remote file in a sparse file, which outlast an interruption.

    Beside the sparse file, a list `<name>.ranges` has the version, and offset, size and CRC-32 of every range. Ranges
    that do not fit their checksum, for example after a power cut, are dropped when the list is read.
    """

    def __init__(self, path: Path, size: int, version: str) -> None:
        """Open the file of an earlier run, or a new one.

        Parameters
        ----------
        size, version : of the remote file. Another version, or an unknown one (empty), starts over.

        Raises
        ------
        OutputError : the files cannot be written.
        """
        self._path = path
        self._begins: list[int] = []
        self._ends: list[int] = []
        head = json.dumps([size, version])
        list_path = path.with_name(f"{path.name}.ranges")
        try:
            path.parent.mkdir(exist_ok=True)
            lines = []
            if version and list_path.is_file():
                lines = list_path.read_text(encoding="ascii", errors="replace").splitlines()
            is_same = path.is_file() and lines[:1] == [head]
            self._file = path.open("r+b" if is_same else "w+b")
            kept = [line for line in lines[1:] if self._restore(line.split())] if is_same else []
            self._list = list_path.open("w", encoding="ascii")
            self._list.write("\n".join([head, *kept, ""]))
            self._list.flush()
        except OSError as error:
            raise self._error(error) from error

    def add(self, begin: int, content: bytes) -> None:
        """Keep a range; OutputError if it cannot be written."""
        try:
            self._file.seek(begin)
            self._file.write(content)
            self._file.flush()
            self._list.write(self._line(begin, content))
            self._list.flush()
        except OSError as error:
            raise self._error(error) from error
        self._insert(begin, begin + len(content))

    def find(self, begin: int, size: int) -> bytes | None:
        """These bytes; None if some are missing."""
        return self._read(begin, size) if self.has(begin, size) else None

    def has(self, begin: int, size: int) -> bool:
        """Whether none of these bytes is missing."""
        at = bisect.bisect_right(self._begins, begin) - 1
        return at >= 0 and begin + size <= self._ends[at]

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._list.close()

    def _restore(self, fields: list[str]) -> bool:
        """Take a range of an earlier run; False if its line or its bytes are damaged."""
        if len(fields) != 3 or not all(field.isdecimal() for field in fields):
            return False
        begin, size, checksum = map(int, fields)
        content = self._read(begin, size)
        if len(content) != size or crc32(content) != checksum:
            return False
        self._insert(begin, begin + size)
        return True

    def _insert(self, begin: int, end: int) -> None:
        """Add a range to the sorted ranges, joined with those that it touches."""
        first, last = bisect.bisect_left(self._ends, begin), bisect.bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last], self._ends[first:last] = [begin], [end]

    def _read(self, begin: int, size: int) -> bytes:
        self._file.seek(begin)
        return self._file.read(size)

    @staticmethod
    def _line(begin: int, content: bytes) -> str:
        return f"{begin} {len(content)} {crc32(content)}\n"

    def _error(self, error: OSError) -> OutputError:
        return write_error(self._path, error)
