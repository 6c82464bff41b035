"""Compressed blocks of an image and its overviews on disk, until they are joined into a COG.

Each level has a file of its own, to which blocks are appended in their final order: all bands of one location, then
the next location of the row. A COG begins with its head and the smaller levels, whose sizes are known only at the end.
Joining therefore copies the level files into a new file. A large full size is not copied if the file system can insert
space at its start (ext4, XFS): copying 12 GB took 61 s, inserting 8 s. A process killed at any time can be resumed: the
size before each block and the four bytes after it show which blocks are whole, and a full-size file that does not
begin with a block begins with inserted space.
"""

import ctypes
import os
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.cog.encoding import REFLECTANCE, Encoding
from ms2hs.raster.cog.overviews import Levels
from ms2hs.raster.pixel_grid import PixelGrid

# Bytes around a block: its size in front, its last four bytes repeated behind (see `tiff_ifd.LAYOUT`).
LEADER_BYTES, TRAILER_BYTES = 4, 4
FRAME_BYTES = LEADER_BYTES + TRAILER_BYTES
MAX_BLOCK_BYTES = 1 << 21
"""More than any compressed block, and less than the first bytes of a TIFF read as a size."""
# Growth of one row of a block in the worst case: incompressible data, and padding beyond the image.
MAX_ROW_GROWTH_BYTES = 8
# The full size begins at a multiple of this: file systems insert, and share between files, only whole blocks.
ALIGNMENT_BYTES = 4096
# A full size up to this is copied: to insert space, the file system first waits for the disk.
MAX_COPY_BYTES = 1_000_000_000
INSERT_RANGE = 0x20  # FALLOC_FL_INSERT_RANGE of Linux
# Large reads and writes make the kernel allocate large pages, which are scarce: in a virtual machine 311 MB took 1.25 s
# in writes of 20 MB and 0.15 s in writes of 75 kB.
COPY_BYTES = 1 << 16
PIXELS_PER_WRITE = 1 << 18


class BlockStore:
    """Appends compressed blocks to one file per level, and joins the files into a COG."""

    def __init__(self, folder: Path, levels: Levels, bands: int, head_bytes: int, block_rows: int = 0) -> None:
        """Create the level files, or reopen the existing ones.

        Parameters
        ----------
        head_bytes : length of the COG before its first block.
        block_rows : rows of full-size blocks to keep, at most `finished_block_rows`; later blocks are cut off.
        """
        self._folder, self._levels, self._bands, self._head_bytes = folder, levels, bands, head_bytes
        self._inserted_bytes = _inserted_bytes(folder, levels, head_bytes) if block_rows else 0
        self._files: list[FileIO] = []
        self._sizes: list[array[int]] = []
        for level in range(levels.count):
            path, begin = _level_path(folder, level), 0 if level else self._inserted_bytes
            kept = bands * levels.blocks(level)[1] * levels.rows_completed(level, block_rows) if block_rows else 0
            self._sizes.append(_whole_blocks(path, begin)[:kept] if kept else array("I"))
            self._files.append(FileIO(path, "r+b" if block_rows else "w+b"))
            self._files[level].seek(begin + self._level_bytes(level))
            self._files[level].truncate()

    def append(self, level: int, blocks: Sequence[bytes]) -> None:
        """Append compressed blocks to a level: all bands of a location, then all bands of the next location."""
        step = PIXELS_PER_WRITE // self._levels.block**2
        for first in range(0, len(blocks), step):
            pieces: list[bytes] = []
            for block in blocks[first : first + step]:
                pieces += (len(block).to_bytes(LEADER_BYTES, "little"), block, block[-TRAILER_BYTES:])
            _write(self._files[level], pieces)
        self._sizes[level].extend(map(len, blocks))

    def read(self, level: int, location: int) -> list[bytes]:
        """The compressed blocks of all bands of the n-th location of a level."""
        file, sizes, first = self._files[level], self._sizes[level], location * self._bands
        file.seek(sum(sizes[:first]) + FRAME_BYTES * first)
        frames = [file.read(size + FRAME_BYTES) for size in sizes[first : first + self._bands]]
        file.seek(0, os.SEEK_END)
        return [frame[LEADER_BYTES:-TRAILER_BYTES] for frame in frames]

    def sizes(self, level: int) -> NDArray[np.uint32]:
        """(band × location,) bytes of each block, in TIFF order: band by band."""
        return _by_band(np.array(self._sizes[level], np.uint32), self._bands)

    def offsets(self, level: int) -> NDArray[np.uint64]:
        """(band × location,) position of each block in the COG, in TIFF order."""
        lengths = np.array(self._sizes[level], np.uint64) + np.uint64(FRAME_BYTES)
        begin = self._head_bytes + sum(map(self._level_bytes, range(level + 1, self._levels.count)))
        starts = (begin if level else _aligned(begin)) + np.cumsum(lengths) - lengths + LEADER_BYTES
        return _by_band(starts.astype(np.uint64), self._bands)

    def join(self, head: bytes) -> Path:
        """Write the head, then the levels from the smallest to the full size, to one file; returns its path.

        Raises
        ------
        ValueError : blocks are missing, or the head is not `head_bytes` long.
        """
        for level in range(self._levels.count):
            rows, cols = self._levels.blocks(level)
            expected = rows * cols * self._bands
            if len(self._sizes[level]) != expected:
                raise ValueError(f"level {level} has {len(self._sizes[level])} blocks; expected {expected}")
        if len(head) != self._head_bytes:
            raise ValueError(f"head of {len(head)} bytes; expected {self._head_bytes}")
        full, *overviews = self._files
        begin = _aligned(len(head) + sum(map(self._level_bytes, range(1, self._levels.count))))
        if not self._inserted_bytes and self._level_bytes(0) > MAX_COPY_BYTES and _insert(full, begin):
            self._inserted_bytes = begin
        path = _level_path(self._folder, 0) if self._inserted_bytes else self._folder / "cog"
        with full if self._inserted_bytes else FileIO(path, "wb") as cog:
            cog.seek(0)
            _write(cog, [head])
            for file in reversed(overviews):
                _copy(file, cog)
            _write(cog, [bytes(begin - cog.tell())])
            if cog is not full:
                _copy(full, cog)
        return path

    def remove(self) -> None:
        """Close and delete the level files."""
        self.close()
        for level in range(self._levels.count):
            _level_path(self._folder, level).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the level files; a write that still fails raises no error."""
        for file in self._files:
            with suppress(OSError):
                file.close()

    def _level_bytes(self, level: int) -> int:
        return sum(self._sizes[level]) + FRAME_BYTES * len(self._sizes[level])


def finished_block_rows(folder: Path, levels: Levels, bands: int, head_bytes: int) -> int:
    """Rows of full-size blocks in a folder for which all overview blocks that they complete exist as well.

    After space was inserted before the full size: all rows or none.
    """
    inserted = _inserted_bytes(folder, levels, head_bytes)
    rows = [
        len(_whole_blocks(_level_path(folder, level), 0 if level else inserted)) // (bands * levels.blocks(level)[1])
        for level in range(levels.count)
    ]
    done = total = levels.blocks(0)[0]
    while any(levels.rows_completed(level, done) > found for level, found in enumerate(rows)):
        done -= 1
    return 0 if inserted and done < total else done


def disk_bytes(grid: PixelGrid, bands: int, folder: Path, encoding: Encoding = REFLECTANCE) -> int:
    """Peak disk usage of writing a cube into a folder, in bytes: the COG, and the level files that are copied into it.

    An upper bound for incompressible data. Real scenes compress to about half of it.
    """
    levels = Levels(grid.height, grid.width, encoding.block)
    max_copy = MAX_COPY_BYTES if _can_insert(folder) else sys.maxsize
    needed = 20_000 + ALIGNMENT_BYTES + 1000 * bands  # georeference, and tags of every band
    for level in range(levels.count):
        (height, width), (rows, cols) = levels.shape(level), levels.blocks(level)
        blocks = np.dtype(encoding.dtype).itemsize * height * width
        blocks = bands * (blocks + rows * cols * (encoding.block * MAX_ROW_GROWTH_BYTES + FRAME_BYTES))
        needed += bands * 12 * rows * cols + blocks + (min(blocks, max_copy) if level == 0 else blocks)
    return needed


def _level_path(folder: Path, level: int) -> Path:
    return folder / f"level{level}"


def _inserted_bytes(folder: Path, levels: Levels, head_bytes: int) -> int:
    """Bytes that an interrupted join inserted at the start of the full-size file, else 0."""
    full, *overviews = (_level_path(folder, level) for level in range(levels.count))
    if not all(path.exists() for path in (full, *overviews)):
        return 0
    with full.open("rb") as file:
        size = int.from_bytes(file.read(LEADER_BYTES), "little")
    if TRAILER_BYTES <= size <= MAX_BLOCK_BYTES:
        return 0
    return _aligned(head_bytes + sum(path.stat().st_size for path in overviews))


def _whole_blocks(path: Path, begin: int) -> "array[int]":
    """Sizes of the blocks in a level file, from byte `begin` to the first incomplete block."""
    sizes = array("I")
    if not path.exists():
        return sizes
    with path.open("rb") as file:
        end, position = file.seek(0, os.SEEK_END), begin
        while position + FRAME_BYTES < end:
            file.seek(position)
            size = int.from_bytes(file.read(LEADER_BYTES), "little")
            position += size + FRAME_BYTES
            if not TRAILER_BYTES <= size <= MAX_BLOCK_BYTES or position > end:
                break
            file.seek(position - 2 * TRAILER_BYTES)
            if file.read(TRAILER_BYTES) != file.read(TRAILER_BYTES):
                break
            sizes.append(size)
    return sizes


def _by_band(values: NDArray[Any], bands: int) -> NDArray[Any]:
    return np.ascontiguousarray(values.reshape(-1, bands).T).ravel()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _insert(file: IO[bytes] | FileIO, size: int) -> bool:
    """Insert space at the start of a file; False if the system or the file system cannot."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None) if sys.platform == "linux" else None
    if fallocate is None:
        return False
    fallocate.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    return bool(fallocate(file.fileno(), INSERT_RANGE, 0, size) == 0)


def _can_insert(folder: Path) -> bool:
    """Whether the file system of a folder can insert space at the start of a file, tested with a temporary file."""
    try:
        with TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(2 * ALIGNMENT_BYTES))
            return _insert(file, ALIGNMENT_BYTES)
    except OSError:
        return False


def _copy(source: FileIO, target: FileIO) -> None:
    """Append a whole file to `target`, inside the kernel if the system and the file system support it."""
    source.seek(0)
    with suppress(AttributeError, OSError):  # not Linux, or a file system that refuses: the loop below copies the rest
        while os.copy_file_range(source.fileno(), target.fileno(), COPY_BYTES):
            pass
    while piece := source.read(COPY_BYTES):
        _write(target, [piece])


def _write(file: FileIO, pieces: Sequence[bytes]) -> None:
    """Write all pieces, without joining them first if the system has `writev`."""
    written = os.writev(file.fileno(), pieces) if hasattr(os, "writev") else 0
    rest = memoryview(b"".join(pieces))[written:] if written < sum(map(len, pieces)) else memoryview(b"")
    while rest:
        rest = rest[file.write(rest) :]
