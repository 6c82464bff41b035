"""Pixels of a scene on its working grid: reflectance, and which pixels are valid.

Each file is a `Layer`. A window of each layer is read on the file's own grid and converted to reflectance. Pixels that
the quality layer marks as cloud become invalid. Then the window is averaged or interpolated to the working grid.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid, read_valid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import Axis, AxisWeights, axis_weights, regrid, relate
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.scene import Asset, Scene


@dataclass(frozen=True, eq=False)
class Layer:
    """An open file with some bands of a scene."""

    dataset: DatasetReader
    grid: PixelGrid
    rows: Axis
    """Rows of the working grid in pixels of the file."""
    cols: Axis
    assets: tuple[Asset, ...]
    index: tuple[int, ...]
    """Position of each of `assets` in the scene."""
    rows_ahead: "RowsAhead"

    def read(self, row: slice, col: slice) -> tuple[Float32Array, BoolArray]:
        """(band, row, col) reflectance, 0 where invalid, and (row, col) True where every band is valid.

        `row` and `col` count the file's pixels and lie inside it.
        """
        reflectance, valid = to_reflectance(self.rows_ahead.read(row, col), self.assets)
        if (declared := read_valid(self.dataset, self.rows_ahead.bands, Window.from_slices(row, col))) is not None:
            valid &= declared
        return _zero_invalid(reflectance, valid), valid


class RowsAhead:
    """Stored numbers of some bands of a file. A read of full width keeps the rows down to the end of the block.

    A block of a Sentinel-2 JPEG 2000 file is 1024 rows high and takes a tenth of a second to decode. Strips of a third
    of that height would decode each block several times. GDAL's own cache helps only if it holds a row of blocks of all
    bands at once (about 300 MB for a tile).
    """

    # A row of blocks with more bytes, as in a file of a single block, is not kept.
    MAX_BYTES = 300_000_000

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
        if not self.is_kept or col.stop - col.start < self.dataset.width:
            return read_bands(self.dataset, self.bands, Window.from_slices(row, col))
        kept = self._kept
        if kept is not None:
            is_next = self._begin <= row.start <= self._begin + kept.shape[1]
            kept = kept[:, row.start - self._begin :] if is_next else None
        end = row.start + (0 if kept is None else kept.shape[1])
        if end < row.stop:
            block_end = min(-(-row.stop // self.block_rows) * self.block_rows, self.dataset.height)
            more = read_bands(self.dataset, self.bands, Window.from_slices((end, block_end), col))
            kept = more if kept is None else np.concatenate([kept, more], axis=1)
        if kept is None:
            raise ValueError(f"no rows in {row}")
        self._begin, self._kept = row.start, kept
        return kept[:, : row.stop - row.start]


def to_reflectance(stored: NDArray[np.generic], assets: tuple[Asset, ...]) -> tuple[Float32Array, BoolArray]:
    """(band, row, col) reflectance of `stored` numbers, 0 where invalid, and (row, col) True where every band is valid.

    Invalid are nodata, NaN, infinity, and pixels that are 0 in every band: no surface is, and some writers fill the
    outside of the image with 0 without declaring it. A single band may be 0, such as SWIR over water.
    """
    reflectance = np.empty(stored.shape, np.float32)
    invalid = np.zeros(stored.shape[1:], np.bool_)
    for band, dn, asset in zip(reflectance, stored, assets, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(dn, np.float32(asset.dn_offset), out=band, casting="unsafe")
            np.multiply(band, np.float32(asset.dn_scale), out=band)
        if asset.nodata is not None:
            invalid |= dn == asset.nodata
        if dn.dtype.kind == "f":
            invalid |= ~np.isfinite(band)
    if len(assets) > 1 and {asset.nodata for asset in assets} != {0.0}:
        invalid |= np.all(stored == 0, axis=0)
    valid: BoolArray = ~invalid
    return _zero_invalid(reflectance, valid), valid


def _zero_invalid(reflectance: Float32Array, valid: BoolArray) -> Float32Array:
    """The array itself, set to 0 where invalid."""
    if not valid.all():
        reflectance[:, ~valid] = 0
    return reflectance


class SceneReader:
    """Reads windows of a scene on a working grid and keeps the files open between them. Not thread-safe.

    Strips of the grid's full width, from top to bottom, decode each block of a file once and keep at most a row of
    blocks of each band in memory. Other windows are also possible, in any order.
    """

    def __init__(self, scene: Scene, grid: PixelGrid) -> None:
        self.scene = scene
        self.grid = grid
        self._open = ExitStack()
        self._layers: list[Layer] = []
        self._quality: Layer | None = None

    def __enter__(self) -> Self:
        """Open the files; SceneError if a file is missing, not a raster, or not aligned with the grid."""
        with ExitStack() as opened:
            positions: dict[str, list[int]] = {}
            for i, asset in enumerate(self.scene.assets):
                positions.setdefault(asset.href, []).append(i)
            self._layers = [
                self._layer(opened, tuple(self.scene.assets[i] for i in index), tuple(index))
                for index in positions.values()
            ]
            if self.scene.quality is not None:
                self._quality = self._layer(opened, (self.scene.quality,), (0,))
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.close()

    def _layer(self, opened: ExitStack, assets: tuple[Asset, ...], index: tuple[int, ...]) -> Layer:
        dataset = opened.enter_context(open_dataset(assets[0].href))
        grid = read_pixel_grid(dataset)
        rows, cols = relate(self.grid, grid, assets[0].name)
        return Layer(dataset, grid, rows, cols, assets, index, RowsAhead(dataset, tuple(a.band for a in assets)))

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, BoolArray]:
        """Reflectance and valid pixels of a window of the working grid.

        Working pixels coarser than a band's are averages of its valid pixels, finer pixels are interpolated. Before
        that, the quality layer is applied to the band's own pixels, each with the quality at its centre.

        Returns
        -------
        (band, row, col) reflectance, unitless, in the order of the scene's bands, 0 where invalid;
        (row, col) True where every band is valid in at least half of the pixel's area.

        Raises
        ------
        SceneError : a file is damaged or truncated; the message names file and band.
        ValueError : the window reaches beyond the grid.
        """
        rows_left, cols_left = self.grid.height - row, self.grid.width - col
        if row < 0 or col < 0 or not (0 < height <= rows_left and 0 < width <= cols_left):
            raise ValueError(f"window {(row, col, height, width)} reaches beyond {self.grid.height}x{self.grid.width}")
        reflectance = np.zeros((len(self.scene.assets), height, width), np.float32)
        valid = np.ones((height, width), np.bool_)
        for layer in self._layers:
            rows, cols = axis_weights(layer.rows, row, height), axis_weights(layer.cols, col, width)
            if rows.begin == rows.end or cols.begin == cols.end:
                valid[:] = False
                break
            values, good = layer.read(slice(rows.begin, rows.end), slice(cols.begin, cols.end))
            if self._quality is not None:
                good &= self._usable(self._quality, layer, rows, cols)
                _zero_invalid(values, good)
            if not (layer.rows.is_same and layer.cols.is_same and good.shape == valid.shape):
                values, good = regrid(values, good, rows, cols)
            valid &= good
            if len(layer.assets) == len(self.scene.assets):
                reflectance = values
            else:
                reflectance[list(layer.index)] = values
        return _zero_invalid(reflectance, valid), valid

    def _usable(self, quality: Layer, layer: Layer, rows: AxisWeights, cols: AxisWeights) -> BoolArray:
        """(row, col) True where the quality layer is valid at the centre of a layer's pixel."""
        kind = QUALITY_LAYERS[self.scene.quality_rule or ""]
        down, right = relate(layer.grid, quality.grid, quality.assets[0].name)
        row, row_inside = _nearest(down, rows.begin, rows.end)
        col, col_inside = _nearest(right, cols.begin, cols.end)
        stored = quality.rows_ahead.read(_extent(row), _extent(col))[0]
        usable = kind.flags(stored).valid[np.ix_(row - row.min(), col - col.min())]
        return usable & row_inside[:, None] & col_inside


def _nearest(axis: Axis, begin: int, end: int) -> tuple[NDArray[np.intp], BoolArray]:
    """(pixel,) position in the other grid of the centre of each pixel, and True where it lies inside that grid."""
    edges = axis.edges(begin, end - begin)
    position = np.floor((edges[:-1] + edges[1:]) / 2).astype(np.intp)
    return np.clip(position, 0, axis.size - 1), (position >= 0) & (position < axis.size)


def _extent(positions: NDArray[np.intp]) -> slice:
    return slice(int(positions.min()), int(positions.max()) + 1)
