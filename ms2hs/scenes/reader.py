"""Pixels of a scene on its working grid: reflectance, and where it is usable."""

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
from ms2hs.scenes import quality
from ms2hs.scenes.scene import Asset, Scene


@dataclass(frozen=True, eq=False)
class Layer:
    """The bands of a scene that lie in one file, which is open."""

    dataset: DatasetReader
    grid: PixelGrid
    rows: Axis
    """Rows of the working grid in the file's pixels."""
    cols: Axis
    assets: tuple[Asset, ...]
    index: tuple[int, ...]
    """Position of each of `assets` in the scene."""

    rows_ahead: "RowsAhead"

    def read(self, row: slice, col: slice) -> tuple[Float32Array, BoolArray]:
        """(band, row, col) reflectance, 0 where there is none, and (row, col) where all the bands have some.

        Rows and columns are the file's and lie inside it.
        """
        reflectance, valid = to_reflectance(self.rows_ahead.read(row, col), self.assets)
        return _inside(self.dataset, reflectance, valid, Window.from_slices(row, col))


class RowsAhead:
    """Stored numbers of some bands of a file; when rows are read at full width, those down to the block's end are kept.

    A block of a Sentinel-2 JPEG 2000 file is 1024 rows high and takes a tenth of a second to decode: strips of a
    third of that would decode each block several times. GDAL's own cache does not help unless it holds a row of blocks
    of all bands at once (about 300 MB of a tile).
    """

    # With more, as where a file is a single block, the rows are read as they are asked for.
    LARGEST_BYTES = 300_000_000

    def __init__(self, dataset: DatasetReader, bands: tuple[int, ...]) -> None:
        self.dataset = dataset
        self.bands = bands
        self.block_rows = max(dataset.block_shapes[band - 1][0] for band in bands)
        row_bytes = sum(np.dtype(dataset.dtypes[band - 1]).itemsize for band in bands) * dataset.width
        self.is_kept = self.block_rows > 1 and self.block_rows * row_bytes <= self.LARGEST_BYTES
        self._begin = 0
        self._kept: NDArray[np.generic] | None = None

    def read(self, row: slice, col: slice) -> NDArray[np.generic]:
        """(band, row, col) stored numbers of rows and columns that lie inside the file; not to be written to."""
        if not self.is_kept or col.stop - col.start < self.dataset.width:
            return read_bands(self.dataset, self.bands, Window.from_slices(row, col))
        kept = self._kept
        if kept is not None and self._begin <= row.start <= self._begin + kept.shape[1]:
            kept = kept[:, row.start - self._begin :]
        else:
            kept = None
        end = row.start + (0 if kept is None else kept.shape[1])
        if end < row.stop:
            block_end = min(-(-row.stop // self.block_rows) * self.block_rows, self.dataset.height)
            more = read_bands(self.dataset, self.bands, Window.from_slices((end, block_end), col))
            kept = more if kept is None else np.concatenate([kept, more], axis=1)
        if kept is None:
            raise ValueError(f"no rows in {row}")
        self._begin, self._kept = row.start, kept
        return kept[:, : row.stop - row.start]


def _inside(
    dataset: DatasetReader,
    reflectance: Float32Array,
    valid: BoolArray,
    window: Window | None = None,
    shape: tuple[int, int] | None = None,
) -> tuple[Float32Array, BoolArray]:
    """The same, without what the file's own mask leaves out."""
    inside = read_valid(dataset, window, shape)
    if inside is not None:
        valid &= inside
    return _emptied(reflectance, valid), valid


def to_reflectance(stored: NDArray[np.generic], assets: tuple[Asset, ...]) -> tuple[Float32Array, BoolArray]:
    """(band, row, col) reflectance of `stored` numbers, 0 where invalid, and (row, col) where every band has a value.

    No value: the nodata number, NaN, infinity, and spectra of nothing but 0, which some writers leave outside the
    image without declaring it and which no surface has. A single band may well be 0: SWIR over water is.
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
    return _emptied(reflectance, valid), valid


def _emptied(reflectance: Float32Array, valid: BoolArray) -> Float32Array:
    """The same array, with 0 wherever it is not valid; NaN too."""
    if not valid.all():
        reflectance[:, ~valid] = 0
    return reflectance


class SceneReader:
    """Reads windows of a scene on a working grid; keeps its files open in between. For one thread at a time.

    Read strips as wide as the grid from the top down: then each block of a file is decoded once, and at most a row of
    blocks of each band is kept. Other windows are read as they come.
    """

    def __init__(self, scene: Scene, grid: PixelGrid) -> None:
        self.scene = scene
        self.grid = grid
        self._open = ExitStack()
        self._layers: list[Layer] = []
        self._quality: Layer | None = None

    def __enter__(self) -> Self:
        """Open the files; SceneError where one is missing, no raster, or on another grid."""
        with ExitStack() as opened:
            hrefs = dict.fromkeys(asset.href for asset in self.scene.assets)
            self._layers = [self._layer(opened, href) for href in hrefs]
            if self.scene.quality is not None:
                self._quality = self._file(opened, (self.scene.quality,), (0,))
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.close()

    def _layer(self, opened: ExitStack, href: str) -> Layer:
        index = tuple(i for i, asset in enumerate(self.scene.assets) if asset.href == href)
        return self._file(opened, tuple(self.scene.assets[i] for i in index), index)

    def _file(self, opened: ExitStack, assets: tuple[Asset, ...], index: tuple[int, ...]) -> Layer:
        dataset = opened.enter_context(open_dataset(assets[0].href))
        grid = read_pixel_grid(dataset)
        rows, cols = relate(self.grid, grid, assets[0].name)
        return Layer(dataset, grid, rows, cols, assets, index, RowsAhead(dataset, tuple(a.band for a in assets)))

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, BoolArray]:
        """A window of the working grid.

        Coarser working pixels are averages of the valid pixels of a band, finer ones are interpolated from them.
        Quality is applied to a band's own pixels first, each taking the quality at its centre.

        Returns
        -------
        (band, row, col) reflectance, unitless, in the order of the scene's bands, 0 where invalid;
        (row, col) True where every band has a value and at least half of the pixel's area is good.

        Raises
        ------
        SceneError : a file is damaged or cut short; the message names file and band.
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
                _emptied(values, good)
            if not (layer.rows.is_same and layer.cols.is_same and good.shape == valid.shape):
                values, good = regrid(values, good, rows, cols)
            valid &= good
            if len(layer.assets) == len(self.scene.assets):
                reflectance = values
            else:
                reflectance[list(layer.index)] = values
        return _emptied(reflectance, valid), valid

    def _usable(self, source: Layer, layer: Layer, rows: AxisWeights, cols: AxisWeights) -> BoolArray:
        """(row, col) what the quality layer says at the centres of a part of another layer's pixels."""
        rule = quality.RULES[self.scene.quality_rule or ""]
        down, right = relate(layer.grid, source.grid, source.assets[0].name)
        row, row_inside = _nearest(down, rows.begin, rows.end)
        col, col_inside = _nearest(right, cols.begin, cols.end)
        stored = source.rows_ahead.read(_reach(row), _reach(col))[0]
        usable = rule(stored)[np.ix_(row - row.min(), col - col.min())]
        return usable & row_inside[:, None] & col_inside


def _nearest(axis: Axis, begin: int, end: int) -> tuple[NDArray[np.intp], BoolArray]:
    """For each pixel the one of the other grid at its centre, and whether there is one."""
    edges = axis.edges(begin, end - begin)
    position = np.floor((edges[:-1] + edges[1:]) / 2).astype(np.intp)
    return np.clip(position, 0, axis.size - 1), (position >= 0) & (position < axis.size)


def _reach(positions: NDArray[np.intp]) -> slice:
    return slice(int(positions.min()), int(positions.max()) + 1)
