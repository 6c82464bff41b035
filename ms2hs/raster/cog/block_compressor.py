"""Compression of blocks and their overviews in threads; results are passed on in the order of the file.

A task is a group of bands at one location. It computes the numbers if needed, and compresses the full-size blocks and
the overview blocks that they complete. Tasks of the same bands run in order, since each location continues the
overviews of the previous location. Tasks of different bands run in parallel. Results are passed on in the order of
submission: all bands of a location, then the next location. The number of pending tasks, and so memory, is bounded.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ms2hs.arrays import DnArray
from ms2hs.raster.cog.encoding import REFLECTANCE, Encoding
from ms2hs.raster.cog.overviews import BlockIndex, Levels, Pyramid
from ms2hs.raster.pixel_grid import PixelGrid

# The bands of a location are divided into at least TASKS_PER_THREAD tasks per thread, so that no thread idles, of at
# most BANDS_PER_TASK bands, so that their blocks stay in the processor's cache. Tasks of small blocks have more bands.
TASKS_PER_THREAD, BANDS_PER_TASK, NUMBERS_PER_TASK = 2, 16, 1 << 18
# Tasks per thread that run or wait while finished tasks are written.
PENDING_PER_THREAD = 4
# Scratch memory of a thread for halving and compressing, as a multiple of one task's blocks.
SCRATCH_FACTOR = 6

Task = Future[list[list[bytes]]]
"""Compressed blocks by level."""


class TaskRange(NamedTuple):
    """Pixel columns of one block and the bands that one task compresses."""

    cols: slice
    bands: slice


class BlockCompressor:
    """Compresses blocks in threads and passes them to `append` in the order of the file."""

    def __init__(
        self,
        levels: Levels,
        bands: int,
        encoding: Encoding,
        append: Callable[[int, list[bytes]], None],
        threads: int | None = None,
    ) -> None:
        """Start the threads.

        Parameters
        ----------
        append : called with a level and compressed blocks, by the thread that calls `submit` or `wait`.
        threads : None: one per processor.
        """
        self._threads = threads or processors()
        self._step, self._block = bands_per_task(bands, encoding.block, self._threads), encoding.block
        self.ranges = task_ranges(levels.width, bands, encoding.block, self._threads)
        """The tasks of one row of blocks, in order."""
        self.stages: list[tuple[str, float]] = []
        """Seconds by stage; all threads append to the list."""
        self._encoding, self._append = encoding, append
        self._pyramid = Pyramid(levels, bands, encoding)
        self._pool = ThreadPoolExecutor(self._threads, "blocks")
        self._free: list[DnArray] = []
        self._previous: dict[int, Task] = {}
        self._pending: deque[tuple[Task, DnArray]] = deque()

    def buffer(self) -> DnArray:
        """An array (band, row, col) for the numbers of one task, reused after the task."""
        return (
            self._free.pop() if self._free else np.empty((self._step, self._block, self._block), self._encoding.dtype)
        )

    def submit(self, block_row: int, part: TaskRange, buffer: DnArray, fill: Callable[[], Any] | None = None) -> None:
        """Start a task, and pass on the results of finished tasks; `buffer` holds the numbers, or `fill` fills it."""
        index, blocks = (
            BlockIndex(0, block_row, part.cols.start // self._block),
            buffer[: part.bands.stop - part.bands.start],
        )
        previous = self._previous.get(part.bands.start)
        task = self._pool.submit(self._compress, index, part.bands, blocks, fill, previous)
        self._previous[part.bands.start] = task
        self._pending.append((task, buffer))
        self.wait(PENDING_PER_THREAD * self._threads)

    def wait(self, pending: int = 0) -> None:
        """Pass on results until at most `pending` tasks are unfinished; the error of a task is raised here."""
        while len(self._pending) > pending:
            task, buffer = self._pending[0]
            levels = task.result()
            self._pending.popleft()
            self._free.append(buffer)
            began = time.perf_counter()
            for level, blocks in enumerate(levels):
                self._append(level, blocks)
            levels.clear()  # the next task of these bands still holds the future
            self.stages.append(("store", time.perf_counter() - began))

    def restore(self, index: BlockIndex, blocks: list[bytes]) -> None:
        """Add the blocks of all bands from an interrupted run to the overviews (see `Pyramid.restore`)."""
        self._pyramid.restore(slice(0, len(blocks)), index, self._encoding.decompress(blocks))

    def close(self) -> None:
        """Cancel waiting tasks and end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _compress(
        self, index: BlockIndex, bands: slice, blocks: DnArray, fill: Callable[[], Any] | None, previous: Task | None
    ) -> list[list[bytes]]:
        """The compressed blocks that this location completes, by level."""
        if fill:
            began = time.perf_counter()
            fill()
            self.stages.append(("model", time.perf_counter() - began))
        if previous:
            previous.result()
        began = time.perf_counter()
        compressed = [self._encoding.compress(numbers) for _, numbers in self._pyramid.add(bands, index, blocks)]
        self.stages.append(("compress", time.perf_counter() - began))
        return compressed


def task_ranges(width: int, bands: int, block: int, threads: int) -> list[TaskRange]:
    """The tasks of one row of blocks, in order: all bands of a column of blocks, then the next column."""
    some_bands = _split(bands, bands_per_task(bands, block, threads))
    return [TaskRange(*each) for each in product(_split(width, block), some_bands)]


def bands_per_task(bands: int, block: int, threads: int) -> int:
    """Bands that one task compresses."""
    most = max(BANDS_PER_TASK, NUMBERS_PER_TASK // block**2)
    return min(-(-bands // (TASKS_PER_THREAD * threads)), most)


def memory_bytes(grid: PixelGrid, bands: int, encoding: Encoding = REFLECTANCE, *, strips: bool = True) -> int:
    """Memory of a writer of int16, in bytes; grows with the height only by the number of overviews.

    `strips` : whether the writer receives strips, which wait until they fill a row of blocks.
    """
    block = encoding.block
    levels = Levels(grid.height, grid.width, block)
    waiting = levels.blocks(0)[1] * block * block if strips else 0
    widths = (levels.shape(level)[1] for level in range(1, levels.count))
    overviews = sum((width + block // 2) * block // 2 for width in widths)
    threads = processors()
    per_thread = 2 * PENDING_PER_THREAD + SCRATCH_FACTOR  # numbers and compressed blocks
    tasks = per_thread * threads * bands_per_task(bands, block, threads) * block * block
    return 2 * (bands * (waiting + overviews) + tasks)


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _split(length: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]
