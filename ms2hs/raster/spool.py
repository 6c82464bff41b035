"""Compressed blocks of an image and its overviews: kept in files as they come, and joined into one in a COG's order."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.raster.pyramid import Levels

# Bytes around a block: its size before it, its last four bytes again behind it (see `directories.LAYOUT`).
EDGES = 4, 4
BUFFER_BYTES = 1 << 18
# Pieces that stay in a processor's cache are moved three times as fast as pieces of 16 MiB.
COPY_BYTES = 1 << 20


class Spool:
    """Files of blocks, one a level, each with the blocks of all bands of one place together, place by place.

    That of the full size becomes the result: blocks are never copied but once, and what the disk holds at the peak is
    the result and the overviews once more.
    """

    def __init__(self, folder: Path, levels: Levels, bands: int, head_bytes: int) -> None:
        """Make the files.

        Parameters
        ----------
        head_bytes : what comes before the first block in the result.
        """
        self._levels = levels
        self._bands = bands
        self._head_bytes = head_bytes
        self.path = folder / "level0"
        """The file that becomes the result."""
        self._files: list[BufferedRandom] = []
        self._sizes: list[list[int]] = [[] for _ in range(levels.count)]
        for level in range(levels.count):
            self._files.append(BufferedRandom(FileIO(folder / f"level{level}", "x+b"), BUFFER_BYTES))
        self._files[0].seek(head_bytes)

    def append(self, level: int, blocks: Sequence[bytes]) -> None:
        """Write compressed blocks behind those before: of all bands of one place, then of the next place in its row."""
        pieces: list[bytes] = []
        for block in blocks:
            pieces += (len(block).to_bytes(4, "little"), block, block[-4:])
        self._files[level].writelines(pieces)
        self._sizes[level] += [len(block) for block in blocks]

    def sizes(self, level: int) -> NDArray[np.uint32]:
        """(band × place) bytes of the blocks, as the format lists them: a whole band after the other."""
        return _by_band(np.array(self._sizes[level], np.uint32), self._bands)

    def offsets(self, level: int) -> NDArray[np.uint64]:
        """(band × place) where the blocks begin in the result, as the format lists them."""
        lengths = np.array(self._sizes[level], np.uint64) + np.uint64(sum(EDGES))
        smaller = sum(self._bytes(other) for other in range(level + 1, self._levels.count))
        begins = self._head_bytes + smaller + np.cumsum(lengths) - lengths + EDGES[0]
        return _by_band(begins.astype(np.uint64), self._bands)

    def join(self, head: bytes) -> None:
        """Put the head, and the overviews from the smallest on, before the blocks of the full size.

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
        result = self._files[0]
        overviews = sum(self._bytes(level) for level in range(1, self._levels.count))
        _shift(result, self._head_bytes, self._bytes(0), overviews)
        result.seek(0)
        result.write(head)
        for file in self._files[:0:-1]:
            file.seek(0)
            shutil.copyfileobj(file, result, COPY_BYTES)
        result.close()

    def close(self) -> None:
        """Close the files, whatever they still hold."""
        for file in self._files:
            with suppress(OSError):
                file.close()

    def _bytes(self, level: int) -> int:
        return sum(self._sizes[level]) + sum(EDGES) * len(self._sizes[level])


def _by_band(listed: NDArray[Any], bands: int) -> NDArray[Any]:
    return np.ascontiguousarray(listed.reshape(-1, bands).T).ravel()


def _shift(file: BufferedRandom, begin: int, length: int, by: int) -> None:
    """Move bytes towards the end of a file, from the last on, so that none is written over before it is read."""
    left, buffer = length if by else 0, bytearray(COPY_BYTES)
    while left:
        piece = memoryview(buffer)[: min(COPY_BYTES, left)]
        left -= len(piece)
        file.seek(begin + left)
        file.readinto(piece)
        file.seek(begin + left + by)
        file.write(piece)
