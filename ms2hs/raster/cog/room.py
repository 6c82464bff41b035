"""Room in a file before bytes that are in it already: made at once where a file system can, or by moving the bytes.

How far they have come is noted in a file beside it, so that who goes on after a process was killed finds them.
"""

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Self

from ms2hs.files import write_bytes

ALIGNMENT_BYTES = 4096
"""File systems insert whole blocks of theirs, which are as long on all but a few."""
# Pieces that stay in a processor's cache are moved three times as fast as pieces of 16 MiB.
COPY_BYTES = 1 << 20
# What is longer than this share of a machine's memory waits for the disk anyway (Linux: vm.dirty_ratio); what is
# shorter is sooner moved in memory, since a file system has all of a file on the disk before it inserts.
SHARE_IN_MEMORY = 0.2
INSERT_RANGE = 0x20  # FALLOC_FL_INSERT_RANGE of Linux


def aligned(size: int) -> int:
    """The next size, from this one on, that a file system can insert."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def make_room(path: Path, begin: int, by: int, pool: Executor) -> None:
    """Move all bytes of a file, from `begin` on, by `by` bytes towards its end; what is before them then is undefined.

    Parameters
    ----------
    by : as `aligned` gives it.
    pool : what moves pieces, several at once.
    """
    length = path.stat().st_size - begin
    if not by or length <= 0:
        return
    is_inserted = length >= SHARE_IN_MEMORY * _memory_bytes() and _insert(path, by)
    note = _Note(by, 0 if is_inserted else length)
    note.write(path)
    _move(note, path, begin, pool.map)


def room_made(path: Path, begin: int) -> int:
    """By how many bytes all from `begin` on were moved; a move that was stopped is brought to its end first."""
    note = _Note.of(path)
    if note is None:
        return 0
    _move(note, path, begin, map)
    return note.by


def forget_room(path: Path) -> None:
    """Say that nothing was moved, of a file that is begun again."""
    _beside(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Note:
    """What is noted."""

    by: int
    left: int
    """Bytes that are where they were; those behind them are `by` bytes further."""

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """None: nothing was moved."""
        try:
            by, left = _beside(path).read_text(encoding="ascii").split()
        except FileNotFoundError:
            return None
        return cls(int(by), int(left))

    def write(self, path: Path) -> None:
        """In place of what was noted."""
        write_bytes(_beside(path), f"{self.by} {self.left}".encode("ascii"))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.room")


def _move(note: _Note, path: Path, begin: int, each: Callable[..., Iterable[object]]) -> None:
    """From the last bytes on, so that none is written over before it is read, even where this is done twice."""
    by, left = note.by, note.left
    while left:
        first = max(0, left - by)  # these are moved to where none of them is: in any order, several at once
        pieces = range(begin + first, begin + left, COPY_BYTES)
        sizes = [min(COPY_BYTES, begin + left - at) for at in pieces]
        deque(each(_move_piece, repeat(path), pieces, sizes, repeat(by)), maxlen=0)
        left = first
        _Note(by, left).write(path)


def _move_piece(path: Path, at: int, size: int, by: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        piece = file.read(size)
        file.seek(at + by)
        file.write(piece)


def _insert(path: Path, size: int) -> bool:
    """Insert bytes at the beginning of a file; False, and nothing done, where the system cannot."""
    if sys.platform != "linux":
        return False
    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)  # not in every C library
    if fallocate is None:
        return False
    fallocate.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    with path.open("r+b") as file:
        return bool(fallocate(file.fileno(), INSERT_RANGE, 0, size) == 0)


def _memory_bytes() -> int:
    """Of the machine; without end where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
