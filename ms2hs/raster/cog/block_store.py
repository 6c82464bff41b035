"""Compressed blocks of an image and its overviews on disk, until they are joined into a COG.

Each level has a file of its own, to which blocks are appended in their final order: all bands of one location, then
the next location of the row. A COG stores the smallest level first, and its size is unknown until the last row: so
joining copies the level files, smallest first, behind the head. They stay whole until the COG is, so that a process
killed at any time can be resumed: the size before each block and the four bytes after it show which blocks are whole.
"""

import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.cog.overviews import Levels

# Bytes around a block: its size in front, its last four bytes repeated behind (see `tiff_ifd.LAYOUT`).
LEADER_BYTES, TRAILER_BYTES = 4, 4
FRAME_BYTES = LEADER_BYTES + TRAILER_BYTES
# The full-size level begins at a multiple of this: file systems that share blocks between files then need not copy it.
ALIGNMENT_BYTES = 4096
COPY_BYTES = 1 << 20
# Blocks per write call. Large writes make the kernel allocate large pages, which are scarce: in a virtual machine
# 311 MB took 1.25 s in writes of 20 MB and 0.15 s in writes of 75 kB.
BLOCKS_PER_WRITE = 4


class BlockStore:
    """Appends compressed blocks to one file per level, and joins the files into a COG."""

    def __init__(self, folder: Path, levels: Levels, bands: int, block_rows: int = 0) -> None:
        """Create the level files, or reopen the existing ones.

        Parameters
        ----------
        block_rows : rows of full-size blocks to keep, at most `finished_block_rows`; later blocks are cut off.
        """
        self._levels = levels
        self._bands = bands
        self._files: list[FileIO] = []
        self._sizes: list[array[int]] = []
        for level in range(levels.count):
            path = _level_path(folder, level)
            kept = bands * levels.blocks(level)[1] * levels.rows_completed(level, block_rows) if block_rows else 0
            self._sizes.append(_whole_blocks(path)[:kept] if kept else array("I"))
            self._files.append(FileIO(path, "r+b" if block_rows else "w+b"))
            self._files[level].seek(self._level_bytes(level))
            self._files[level].truncate()

    def append(self, level: int, blocks: Sequence[bytes]) -> None:
        """Append compressed blocks to a level: all bands of a location, then those of the next location."""
        for first in range(0, len(blocks), BLOCKS_PER_WRITE):
            pieces: list[bytes] = []
            for block in blocks[first : first + BLOCKS_PER_WRITE]:
                pieces += (len(block).to_bytes(LEADER_BYTES, "little"), block, block[-TRAILER_BYTES:])
            _write(self._files[level], pieces)
        self._sizes[level].extend(map(len, blocks))

    def read(self, level: int, location: int) -> list[bytes]:
        """The compressed blocks of all bands of the n-th location of a level."""
        file, sizes, first = self._files[level], self._sizes[level], location * self._bands
        start = sum(sizes[:first]) + FRAME_BYTES * first
        blocks = []
        for size in sizes[first : first + self._bands]:
            file.seek(start + LEADER_BYTES)
            blocks.append(file.read(size))
            start += size + FRAME_BYTES
        file.seek(0, os.SEEK_END)
        return blocks

    def sizes(self, level: int) -> NDArray[np.uint32]:
        """(band × location,) bytes of each block, in TIFF order: band by band."""
        return _by_band(np.array(self._sizes[level], np.uint32), self._bands)

    def offsets(self, level: int, head_bytes: int) -> NDArray[np.uint64]:
        """(band × location,) position of each block in a COG with a head of `head_bytes`, in TIFF order."""
        lengths = np.array(self._sizes[level], np.uint64) + np.uint64(FRAME_BYTES)
        begin = head_bytes + sum(map(self._level_bytes, range(level + 1, self._levels.count)))
        begin += 0 if level else -begin % ALIGNMENT_BYTES
        starts = begin + np.cumsum(lengths) - lengths + LEADER_BYTES
        return _by_band(starts.astype(np.uint64), self._bands)

    def join(self, head: bytes, path: Path) -> None:
        """Write a COG: the head, then the levels from the smallest to the full size.

        Raises
        ------
        ValueError : blocks are missing.
        """
        for level in range(self._levels.count):
            rows, cols = self._levels.blocks(level)
            expected = rows * cols * self._bands
            if len(self._sizes[level]) != expected:
                raise ValueError(f"level {level} has {len(self._sizes[level])} blocks; expected {expected}")
        with FileIO(path, "wb") as cog:
            _write(cog, [head])
            for file in reversed(self._files):
                if file is self._files[0]:
                    _write(cog, [bytes(-cog.tell() % ALIGNMENT_BYTES)])
                _copy(file, cog)

    def remove(self) -> None:
        """Close and delete the level files."""
        self.close()
        for file in self._files:
            Path(str(file.name)).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the level files, without an error if a write is still pending."""
        for file in self._files:
            with suppress(OSError):
                file.close()

    def _level_bytes(self, level: int) -> int:
        return sum(self._sizes[level]) + FRAME_BYTES * len(self._sizes[level])


def finished_block_rows(folder: Path, levels: Levels, bands: int) -> int:
    """Rows of full-size blocks in a folder for which all overview blocks that they complete exist as well."""
    found = [
        len(_whole_blocks(_level_path(folder, level))) // (bands * levels.blocks(level)[1])
        for level in range(levels.count)
    ]
    done = levels.blocks(0)[0]
    while any(levels.rows_completed(level, done) > rows for level, rows in enumerate(found)):
        done -= 1
    return done


def _level_path(folder: Path, level: int) -> Path:
    return folder / f"level{level}"


def _whole_blocks(path: Path) -> "array[int]":
    """Sizes of the blocks in a level file, up to the first incomplete block."""
    sizes = array("I")
    if not path.exists():
        return sizes
    with path.open("rb") as file:
        end, position = file.seek(0, os.SEEK_END), 0
        while position + FRAME_BYTES < end:
            file.seek(position)
            size = int.from_bytes(file.read(LEADER_BYTES), "little")
            position += size + FRAME_BYTES
            if size < TRAILER_BYTES or position > end:
                break
            file.seek(position - 2 * TRAILER_BYTES)
            if file.read(TRAILER_BYTES) != file.read(TRAILER_BYTES):
                break
            sizes.append(size)
    return sizes


def _by_band(values: NDArray[Any], bands: int) -> NDArray[Any]:
    return np.ascontiguousarray(values.reshape(-1, bands).T).ravel()


def _copy(source: FileIO, target: FileIO) -> None:
    """Append a whole file to another, inside the kernel where the system and the file system can."""
    source.seek(0)
    with suppress(AttributeError, OSError):  # not Linux, or a file system that refuses: the loop below copies the rest
        while os.copy_file_range(source.fileno(), target.fileno(), COPY_BYTES):
            pass
    while piece := source.read(COPY_BYTES):
        _write(target, [piece])


def _write(file: FileIO, pieces: Sequence[bytes]) -> None:
    """Write all pieces; `writev` gathers them without a copy where the system has it."""
    written = os.writev(file.fileno(), pieces) if hasattr(os, "writev") else 0
    rest = memoryview(b"".join(pieces))[written:] if written < sum(map(len, pieces)) else memoryview(b"")
    while rest:
        rest = rest[file.write(rest) :]
