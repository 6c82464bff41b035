"""Disk and memory that a CogWriter needs, known before any pixel is written."""

import numpy as np

from ms2hs.raster.cog.block_compressor import PENDING_PER_THREAD, bands_per_task, processors
from ms2hs.raster.cog.block_store import ALIGNMENT_BYTES, FRAME_BYTES
from ms2hs.raster.cog.encoding import BLOCK, REFLECTANCE, Encoding
from ms2hs.raster.cog.overviews import Levels
from ms2hs.raster.pixel_grid import PixelGrid

# Growth of one row of a block in the worst case: incompressible data, and padding beyond the image.
MAX_ROW_GROWTH_BYTES = 8
# Scratch memory of a thread for halving and compressing, as a multiple of one task's blocks.
SCRATCH_FACTOR = 6


def disk_bytes(grid: PixelGrid, bands: int, encoding: Encoding = REFLECTANCE) -> int:
    """Peak disk usage of writing a cube, in bytes: the finished file, and the level files that it is joined from.

    An upper bound for incompressible data. Real scenes compress to about half of it.
    """
    levels = Levels(grid.height, grid.width)
    itemsize = np.dtype(encoding.dtype).itemsize
    needed = 20_000 + ALIGNMENT_BYTES + 1000 * bands  # georeference and the tags of every band
    for level in range(levels.count):
        (height, width), (rows, cols) = levels.shape(level), levels.blocks(level)
        lists = 12 * rows * cols
        blocks = itemsize * height * width + rows * cols * (BLOCK * MAX_ROW_GROWTH_BYTES + FRAME_BYTES)
        needed += bands * (lists + 2 * blocks)
    return needed


def memory_bytes(grid: PixelGrid, bands: int, *, strips: bool = True) -> int:
    """Memory of a writer of int16, in bytes; independent of the height but for the number of overviews.

    Parameters
    ----------
    strips : whether rows come by `write`, and wait until they fill a row of blocks.
    """
    levels = Levels(grid.height, grid.width)
    waiting = levels.blocks(0)[1] * BLOCK * BLOCK if strips else 0
    widths = (levels.shape(level)[1] for level in range(1, levels.count))
    overviews = sum((width + BLOCK // 2) * BLOCK // 2 for width in widths)
    threads = processors()
    per_task = 2 * PENDING_PER_THREAD + SCRATCH_FACTOR  # numbers and compressed blocks
    tasks = per_task * threads * bands_per_task(bands, threads) * BLOCK * BLOCK
    return 2 * (bands * (waiting + overviews) + tasks)
