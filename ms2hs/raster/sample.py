"""Parts of a raster that are read as a sample of its pixels."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.arrays import FloatArray
from ms2hs.raster.dataset import read_bands

# Largest number of rows and columns in a sample. Files that are slow to decimate are read in LATTICE x LATTICE windows.
SAMPLE_SIDE, LATTICE, WINDOW_SIDE = 128, 6, 16
# Stored numbers (pixels times bands) that are read whole, where a file has no overviews.
MAX_WHOLE_READ = 16_000_000

Part = tuple[float, float, float, float, int, int]
"""First and last row, first and last column, as shares of a grid; rows and columns of the sample."""


def sample_parts(height: int, width: int, *, is_whole: bool) -> list[Part]:
    """The whole grid, or windows spread over it."""
    if is_whole:
        return [(0.0, 1.0, 0.0, 1.0, min(SAMPLE_SIDE, height), min(SAMPLE_SIDE, width))]
    spans = []
    for size in (height, width):
        side = min(WINDOW_SIDE, max(1, size // LATTICE))
        begin = [int((i + 0.5) * size / LATTICE - side / 2) for i in range(LATTICE)]
        spans.append([(max(0, first) / size, (max(0, first) + side) / size, side) for first in begin])
    return [(top, bottom, left, right, rows, cols) for (top, bottom, rows), (left, right, cols) in product(*spans)]


def is_quick(dataset: DatasetReader, bands: int, rows: tuple[float, float], cols: tuple[float, float]) -> bool:
    """Whether a file can be read decimated in little time: it has overviews, or few pixels in this part."""
    return bool(dataset.overviews(1)) or (rows[1] - rows[0]) * (cols[1] - cols[0]) * bands <= MAX_WHOLE_READ


def read_part(
    dataset: DatasetReader, bands: Sequence[int], rows: tuple[float, float], cols: tuple[float, float], part: Part
) -> FloatArray:
    """(band, pixel) stored numbers of a part of the rows and columns, clipped to the file."""
    top, bottom, left, right, height, width = part
    spans = []
    for (begin, end), shares, size in ((rows, (top, bottom), dataset.height), (cols, (left, right), dataset.width)):
        first, last = (begin + (end - begin) * share for share in shares)
        first = min(max(first, 0.0), size - 1.0)
        spans.append((first, max(min(last, float(size)) - first, 1e-3)))
    (row, row_count), (col, col_count) = spans
    window = Window(col, row, col_count, row_count)
    return np.asarray(read_bands(dataset, bands, window, (height, width)), float).reshape(len(bands), -1)
