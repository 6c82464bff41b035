"""Stored numbers of a file in strips from top to bottom, with each block decoded once."""

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.raster.dataset import read_bands


class RowsAhead:
    """Stored numbers of some bands of a file. A read of full width keeps the rows down to the end of the block.

    A block of a Sentinel-2 JPEG 2000 file is 1024 rows high and takes a tenth of a second to decode. Strips of a third
    of that height would decode each block several times. GDAL's own cache helps only if it holds a row of blocks of all
    bands at once (about 300 MB for a tile).
    """

    # A row of blocks with more bytes, as in a file of a single block, is not kept.
    MAX_BYTES = 300_000_000
    # Rows kept above the last read: pixels of a coarser file begin there.
    ROWS_ABOVE = 16

    def __init__(self, dataset: DatasetReader, bands: tuple[int, ...]) -> None:
        self.dataset = dataset
        self.bands = bands
        self.block_rows = max(dataset.block_shapes[band - 1][0] for band in bands)
        row_bytes = sum(np.dtype(dataset.dtypes[band - 1]).itemsize for band in bands) * dataset.width
        self.is_kept = self.block_rows > 1 and self.block_rows * row_bytes <= self.MAX_BYTES
        self._begin = 0
        self._kept: NDArray[np.generic] | None = None

    def read(self, row: slice, col: slice) -> NDArray[np.generic]:
        """(band, row, col) stored numbers of rows and columns inside the file. Do not write to the result."""
        begin, kept = self._begin, self._kept
        is_next = kept is not None and begin <= row.start <= begin + kept.shape[1]
        is_full = col.stop - col.start == self.dataset.width
        if not self.is_kept or not (is_full or is_next):
            return read_bands(self.dataset, self.bands, Window.from_slices(row, col))
        if not is_next:
            begin, kept = row.start, None
        end = begin + (0 if kept is None else kept.shape[1])
        if end < row.stop:
            block_end = min(-(-row.stop // self.block_rows) * self.block_rows, self.dataset.height)
            more = read_bands(self.dataset, self.bands, Window(0, end, self.dataset.width, block_end - end))
            kept = more if kept is None else np.concatenate([kept, more], axis=1)
        if kept is None:
            raise ValueError(f"no rows in {row}")
        self._begin = max(begin, row.start - self.ROWS_ABOVE)
        self._kept = kept[:, self._begin - begin :]
        return kept[:, row.start - begin : row.stop - begin, col]
