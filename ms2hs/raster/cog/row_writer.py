"""The base of writers that append the rows of a cube from top to bottom: position, and checks of what is appended."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Generic, TypeVar

from ms2hs.arrays import DnArray
from ms2hs.raster.cog.encoding import Encoding
from ms2hs.raster.cog.tiff_tags import BandLabels
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

Bands = TypeVar("Bands", bound=SpectralGrid | BandLabels)


class RowWriter(Generic[Bands]):
    """Counts the appended rows; all errors are ValueError."""

    def __init__(
        self, path: str | Path, grid: PixelGrid, bands: Bands, tags: dict[str, str], *, encoding: Encoding, block: int
    ) -> None:
        """Begin at row 0; `block` is the height of a row of blocks, in pixels."""
        self.path, self.block = Path(path), block
        self.grid, self.bands, self.tags, self.encoding = grid, bands, tags, encoding
        self._row = 0
        self._is_finished = False
        self._stack = ExitStack()

    @property
    def _ends_blocks(self) -> bool:
        """Whether the last appended row completes a row of blocks."""
        return self._row % self.block == 0 or self._row == self.grid.height

    def _parts(self, row: int, values: DnArray) -> Iterator[tuple[int, DnArray]]:
        """Append (band, row, col) numbers; the part in each row of blocks, and its first row there."""
        bands, rows, width = values.shape
        if values.dtype != self.encoding.dtype or (bands, width) != (len(self.bands), self.grid.width):
            expected = f"{self.encoding.dtype} ({len(self.bands)}, rows, {self.grid.width})"
            raise ValueError(f"values are {values.dtype} {values.shape}; expected {expected}")
        self._check_order(row, rows)
        while values.shape[1]:
            first = self._row % self.block
            part, values = values[:, : self.block - first], values[:, self.block - first :]
            self._row += part.shape[1]
            yield first, part

    def _check_order(self, row: int, rows: int) -> None:
        if row != self._row or row + rows > self.grid.height:
            raise ValueError(f"rows {row} to {row + rows} of {self.grid.height}; row {self._row} is next")

    def _append_blocks(self, row: int, rows: int) -> None:
        """Count a whole row of blocks."""
        self._check_order(row, rows)
        if row % self.block or rows != min(self.block, self.grid.height - row):
            raise ValueError(f"rows {row} to {row + rows}; expected a whole row of blocks")
        self._row += rows

    def _check_complete(self) -> None:
        if self._row != self.grid.height:
            raise ValueError(f"{self._row} of {self.grid.height} rows were written")
