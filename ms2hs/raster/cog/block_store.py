"""Compressed blocks of an image and its overviews: kept in files as they come, and joined into one in a COG's order."""

import os
from array import array
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.cog.overviews import Levels
from ms2hs.raster.cog.room import COPY_BYTES, aligned, forget_room, make_room, room_made

# Bytes around a block: its size before it, its last four bytes again behind it (see `directories.LAYOUT`).
EDGES = 4, 4
# Blocks that are written in one call. For a long write the system takes memory in large pieces, which are seldom at
# hand: in a virtual machine 311 MB took 1.25 s in writes of 20 MB, 0.15 s in writes of 75 kB, which are many calls.
BLOCKS_AT_A_TIME = 4


class BlockStore:
    """Files of blocks, one a level, each with the blocks of all bands of one place together, place by place.

    That of the full size becomes the result: blocks are never copied but once, and what the disk holds at the peak is
    the result and the overviews once more.
    """

    def __init__(self, folder: Path, levels: Levels, bands: int, head_bytes: int, done: int = 0) -> None:
        """Make the files, or go on with those that are there.

        Parameters
        ----------
        head_bytes : what comes before the first block in the result.
        done : rows of blocks of the full size that are kept, at most as many as `finished_rows`; others are cut off.
        """
        self._levels = levels
        self._bands = bands
        self._head_bytes = head_bytes
        self.path = folder / "level0"
        """The file that becomes the result."""
        self._files: list[FileIO] = []
        self._sizes: list[array[int]] = []
        if not done:
            self.path.unlink(missing_ok=True)  # first, so that nothing in it is taken for what it is not
            forget_room(self.path)
        self._room = room_made(self.path, head_bytes)
        for level in range(levels.count):
            path, begin = folder / f"level{level}", 0 if level else head_bytes + self._room
            blocks = bands * levels.blocks(level)[1] * levels.rows_completed(level, done) if done else 0
            self._sizes.append(_whole_blocks(path, begin)[:blocks] if done else array("I"))
            self._files.append(FileIO(path, "r+b" if done else "w+b"))
            self._files[level].seek(begin + self._bytes(level))
            self._files[level].truncate()

    def append(self, level: int, blocks: Sequence[bytes]) -> None:
        """Write compressed blocks behind those before: of all bands of one place, then of the next place in its row."""
        for first in range(0, len(blocks), BLOCKS_AT_A_TIME):
            pieces: list[bytes] = []
            for block in blocks[first : first + BLOCKS_AT_A_TIME]:
                pieces += (len(block).to_bytes(EDGES[0], "little"), block, block[-EDGES[1] :])
            _write(self._files[level], pieces)
        self._sizes[level].extend(map(len, blocks))

    def read(self, level: int, place: int) -> list[bytes]:
        """The compressed blocks of all bands of the n-th place of a level."""
        file, sizes, first = self._files[level], self._sizes[level], place * self._bands
        at = (0 if level else self._head_bytes + self._room) + sum(sizes[:first]) + sum(EDGES) * first
        blocks = []
        for size in sizes[first : first + self._bands]:
            file.seek(at + EDGES[0])
            blocks.append(file.read(size))
            at += size + sum(EDGES)
        file.seek(0, os.SEEK_END)
        return blocks

    def sizes(self, level: int) -> NDArray[np.uint32]:
        """(band × place) bytes of the blocks, as the format lists them: a whole band after the other."""
        return _by_band(np.array(self._sizes[level], np.uint32), self._bands)

    def offsets(self, level: int) -> NDArray[np.uint64]:
        """(band × place) where the blocks begin in the result, as the format lists them."""
        lengths = np.array(self._sizes[level], np.uint64) + np.uint64(sum(EDGES))
        smaller = self._overviews(level + 1)
        begins = self._head_bytes + (smaller if level else aligned(smaller)) + np.cumsum(lengths) - lengths + EDGES[0]
        return _by_band(begins.astype(np.uint64), self._bands)

    def join(self, head: bytes, pool: Executor) -> None:
        """Put the head, and the overviews from the smallest on, before the blocks of the full size.

        Parameters
        ----------
        pool : what moves blocks, several at once.

        Raises
        ------
        ValueError : blocks are missing, or the head is not as long as was said.
        """
        for level in range(self._levels.count):
            rows, cols = self._levels.blocks(level)
            due = rows * cols * self._bands
            if len(self._sizes[level]) != due:
                raise ValueError(f"level {level}: {len(self._sizes[level])} blocks; {due} are due")
        if len(head) != self._head_bytes:
            raise ValueError(f"a head of {len(head)} bytes; {self._head_bytes} are due")
        result, overviews = self._files[0], self._overviews()
        if not self._room:
            make_room(self.path, self._head_bytes, aligned(overviews), pool)
        result.seek(0)
        _write(result, [head])
        for file in self._files[:0:-1]:
            file.seek(0)
            while piece := file.read(COPY_BYTES):
                _write(result, [piece])
        _write(result, [bytes(aligned(overviews) - overviews)])
        result.close()

    def close(self) -> None:
        """Close the files, whatever they still hold."""
        for file in self._files:
            with suppress(OSError):
                file.close()

    def _overviews(self, first: int = 1) -> int:
        """Bytes of the levels from one on."""
        return sum(map(self._bytes, range(first, self._levels.count)))

    def _bytes(self, level: int) -> int:
        return sum(self._sizes[level]) + sum(EDGES) * len(self._sizes[level])


def finished_rows(folder: Path, levels: Levels, bands: int, head_bytes: int) -> int:
    """Rows of blocks of the full size that a spool in this folder holds, with all that they complete of overviews.

    All or none where it was being joined.
    """
    rows, room = [], room_made(folder / "level0", head_bytes)
    for level in range(levels.count):
        whole = len(_whole_blocks(folder / f"level{level}", 0 if level else head_bytes + room))
        rows.append(whole // (bands * levels.blocks(level)[1]))
    done = everything = levels.blocks(0)[0]
    while any(levels.rows_completed(level, done) > there for level, there in enumerate(rows)):
        done -= 1
    return 0 if room and done < everything else done


def _whole_blocks(path: Path, begin: int) -> "array[int]":
    """Sizes of the blocks that stand in a file from some byte on, up to the first that is not whole."""
    sizes = array("I")
    if not path.exists():
        return sizes
    with path.open("rb") as file:
        end, at = file.seek(0, os.SEEK_END), begin
        while at + sum(EDGES) < end:
            file.seek(at)
            size = int.from_bytes(file.read(EDGES[0]), "little")
            at += size + sum(EDGES)
            if size < EDGES[1] or at > end:
                break
            file.seek(at - 2 * EDGES[1])
            last, again = file.read(EDGES[1]), file.read(EDGES[1])
            if last != again:
                break
            sizes.append(size)
    return sizes


def _by_band(listed: NDArray[Any], bands: int) -> NDArray[Any]:
    return np.ascontiguousarray(listed.reshape(-1, bands).T).ravel()


def _write(file: FileIO, pieces: Sequence[bytes]) -> None:
    """Write all pieces, without a copy where the system can gather them itself."""
    written = os.writev(file.fileno(), pieces) if hasattr(os, "writev") else 0
    left = memoryview(b"".join(pieces))[written:] if written < sum(map(len, pieces)) else memoryview(b"")
    while left:
        left = left[file.write(left) :]
