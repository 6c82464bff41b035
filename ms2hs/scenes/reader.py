"""Pixels of a scene on its working grid: reflectance, and which pixels are valid.

Each file is a `Layer`. A window of each layer is read on the file's own grid and converted to reflectance. Nodata,
pixels that no surface can have, and pixels that the quality layers mark as cloud become invalid. Then the window is
averaged or interpolated to the working grid.

Without declared nodata, 0 is a value: water reflects 0 in the infrared. The outside of the image is 0 in every band. In
a scene of several files it is 0 in every band of the finest files.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.raster.dataset import open_dataset, read_pixel_grid, read_valid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import Axis, AxisWeights, axis_weights, covered, regrid, relate
from ms2hs.raster.rows_ahead import RowsAhead
from ms2hs.scenes.quality import QUALITY_LAYERS, has_value, valid_by
from ms2hs.scenes.scene import Asset, Scene
from ms2hs.spectra.library import MAX_REFLECTANCE

# No surface reflects MIN_REFLECTANCE or less, or MAX_REFLECTANCE or more. Landsat's fill is -0.2 in reflectance.
MIN_REFLECTANCE = -0.2
# Numbers this close are equal: a smaller step than products store, and more than float32 loses.
SAME_REFLECTANCE = 1e-6
# Below this, no surface has the same reflectance in each of MIN_SAME_BANDS bands or more.
MAX_SAME_REFLECTANCE = 0.002
MIN_SAME_BANDS = 4
# Smallest share of the area of a pixel without a missing part: 1, less rounding.
WHOLE_AREA = 0.999


Positions = tuple[NDArray[np.intp], ...]
"""Rows and columns of pixels."""
NOWHERE: Positions = (np.zeros(0, np.intp),) * 2


class Cause(IntEnum):
    """Why a pixel is invalid; of several causes the largest number counts."""

    VALID = 0
    IMPOSSIBLE = 1
    """No surface has this reflectance (`impossible`)."""
    CLOUD = 2
    """Excluded by a quality layer that marks clouds."""
    NODATA = 3


class Pixels(NamedTuple):
    """A window of the working grid."""

    reflectance: Float32Array
    """(band, row, col) unitless, in the order of the scene's bands, 0 where invalid."""
    valid: BoolArray
    """(row, col) True where every band is valid in at least half of the pixel's area."""
    cause: NDArray[np.uint8]
    """(row, col) `Cause`."""

    def rows(self, rows: slice) -> "Pixels":
        """Some rows of the window."""
        return Pixels(np.ascontiguousarray(self.reflectance[:, rows]), self.valid[rows], self.cause[rows])


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
    rows_ahead: RowsAhead


def to_reflectance(stored: NDArray[np.generic], assets: tuple[Asset, ...]) -> tuple[Float32Array, NDArray[np.uint8]]:
    """(band, row, col) reflectance of `stored` numbers, and (row, col) `Cause` of invalid pixels.

    Nodata is the declared number, and NaN.
    """
    reflectance = np.empty(stored.shape, np.float32)
    missing = np.zeros(stored.shape[1:], np.bool_)
    for band, dn, asset in zip(reflectance, stored, assets, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(dn, np.float32(asset.dn_offset), out=band, casting="unsafe")
            np.multiply(band, np.float32(asset.dn_scale), out=band)
            low, high = dn.min(), dn.max()  # NaN if a number is NaN
            if asset.nodata is not None and not (low > asset.nodata or high < asset.nodata):
                missing |= dn == asset.nodata
        if np.isnan(low):
            missing |= np.isnan(dn)
    cause = impossible(reflectance, stored).view(np.uint8)  # Cause.IMPOSSIBLE is 1
    if missing.any():
        cause[missing] = Cause.NODATA
    return reflectance, cause


def impossible(reflectance: Float32Array, stored: NDArray[np.generic]) -> BoolArray:
    """(row, col) True where a band has a number that no surface can have.

    Impossible are reflectance that is not finite, at most `MIN_REFLECTANCE` or at least `MAX_REFLECTANCE`, and integers
    at the limit of their type, where writers cut off larger numbers. The extremes of a band show if it needs a map.

    Parameters
    ----------
    reflectance, stored : (band, row, col) reflectance and the stored numbers that it is computed from.
    """
    result = np.zeros(stored.shape[1:], np.bool_)
    lowest, highest = MIN_REFLECTANCE + SAME_REFLECTANCE, MAX_REFLECTANCE - SAME_REFLECTANCE
    for band, dn in zip(reflectance, stored, strict=True):
        ends = [dn.argmin(), dn.argmax()]  # of NaN, if a number is NaN
        if not np.all((band.ravel()[ends] > lowest) & (band.ravel()[ends] < highest)):
            result |= ~((band > lowest) & (band < highest))
        if dn.dtype.kind in "iu":
            limits = np.iinfo(dn.dtype)
            for limit in {*dn.ravel()[ends]} & ({limits.min, limits.max} - {0}):
                result |= dn == limit
    return result


def same_small_number(reflectance: Float32Array, stored: NDArray[np.generic]) -> Positions:
    """Row and column of the pixels with the same number in every band, and reflectance below `MAX_SAME_REFLECTANCE`.

    Such pixels are fill to which scale and offset were applied, such as -0.1. `stored` as in `impossible`.
    """
    highest = MAX_SAME_REFLECTANCE - SAME_REFLECTANCE
    is_small = reflectance[0] < highest
    at: Positions = np.nonzero(is_small) if is_small.any() else NOWHERE
    for band, dn in zip(reflectance[1:], stored[1:], strict=True):
        if not at[0].size:
            break
        with np.errstate(invalid="ignore"):  # -inf - -inf
            is_same = (dn[at] == stored[0][at]) | (np.abs(band[at] - reflectance[0][at]) <= SAME_REFLECTANCE)
        is_same &= band[at] < highest
        at = at[0][is_same], at[1][is_same]
    return at


def _is_zero(stored: NDArray[np.generic]) -> BoolArray:
    """(row, col) True where every band is 0."""
    zero: BoolArray = stored[0] == 0
    for dn in stored[1:]:
        if not zero.any():
            break
        zero &= dn == 0
    return zero


def _regrid_cause(
    cause: NDArray[np.uint8], valid: BoolArray, rows: AxisWeights, cols: AxisWeights
) -> NDArray[np.uint8]:
    """(row, col) `Cause` of working pixels: where not `valid`, the cause with the largest area; nodata beyond the file.

    A single cause within the file needs no areas.
    """
    result = np.zeros(valid.shape, np.uint8)
    if not valid.all():
        result[~valid] = Cause.NODATA
        present = [kind for kind in (Cause.NODATA, Cause.CLOUD, Cause.IMPOSSIBLE) if (cause == kind).any()]
        inside = rows.area.weight.sum(axis=1)[:, None] * cols.area.weight.sum(axis=1)
        largest = 1 - inside
        for kind in present:
            area = covered((cause == kind).astype(np.float32), rows, cols) if len(present) > 1 else inside
            result[~valid & (area > largest)] = kind
            largest = np.maximum(largest, area)
    return result


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
        self._finest: list[Layer] = []
        self._quality: list[Layer] = []
        self.impossible_range = np.inf, -np.inf
        """Lowest and highest reflectance of the impossible pixels read so far."""

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
            areas = [abs(np.linalg.det(layer.grid.matrix)) for layer in self._layers]
            self._finest = [layer for layer, area in zip(self._layers, areas, strict=True) if area < 1.01 * min(areas)]
            self._quality = [self._layer(opened, (asset,), (0,)) for asset in self.scene.quality]
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
        """Reflectance and valid pixels of a window of the working grid: `read_pixels` without the causes."""
        pixels = self.read_pixels(row, col, height, width)
        return pixels.reflectance, pixels.valid

    def read_pixels(self, row: int, col: int, height: int, width: int) -> Pixels:
        """The pixels of a window of the working grid.

        Working pixels coarser than a band's are averages of its valid pixels, finer pixels are interpolated. Before
        that, impossible pixels and quality layers are applied to the band's own pixels, each with the quality at its
        centre.

        Raises
        ------
        SceneError : a file is damaged or truncated; the message names file and band.
        ValueError : the window reaches beyond the grid.
        """
        rows_left, cols_left = self.grid.height - row, self.grid.width - col
        if row < 0 or col < 0 or not (0 < height <= rows_left and 0 < width <= cols_left):
            raise ValueError(f"window {(row, col, height, width)} reaches beyond {self.grid.height}x{self.grid.width}")
        reflectance = np.zeros((len(self.scene.assets), height, width), np.float32)
        cause = np.zeros((height, width), np.uint8)
        for layer in self._layers:
            rows, cols = axis_weights(layer.rows, row, height), axis_weights(layer.cols, col, width)
            if rows.begin == rows.end or cols.begin == cols.end:
                cause[:] = Cause.NODATA
                break
            values, why = self._read_layer(layer, rows, cols)
            if not (layer.rows.is_same and layer.cols.is_same and why.shape == cause.shape):
                values, good = regrid(values, why == Cause.VALID, rows, cols)
                why = _regrid_cause(why, good, rows, cols)
            np.maximum(cause, why, out=cause)
            if len(layer.assets) == len(self.scene.assets):
                reflectance = values
            else:
                reflectance[list(layer.index)] = values
        valid = cause == Cause.VALID
        return Pixels(_zero_invalid(reflectance, valid), valid, cause)

    def _read_layer(self, layer: Layer, rows: AxisWeights, cols: AxisWeights) -> tuple[Float32Array, NDArray[np.uint8]]:
        """(band, row, col) reflectance of a file's own pixels, 0 where invalid, and (row, col) `Cause`."""
        row, col = slice(rows.begin, rows.end), slice(cols.begin, cols.end)
        stored = layer.rows_ahead.read(row, col)
        reflectance, cause = to_reflectance(stored, layer.assets)
        if (declared := read_valid(layer.dataset, layer.rows_ahead.bands, Window.from_slices(row, col))) is not None:
            cause[~declared] = Cause.NODATA
        is_open = any(asset.nodata != 0 for asset in layer.assets)
        if is_open and (zero := _is_zero(stored)).any():
            cause[zero if self._finest == [layer] else zero & self._is_outside(layer, rows, cols)] = Cause.NODATA
        for quality in self._quality:
            np.maximum(cause, _quality_cause(quality, layer, rows, cols), out=cause)
        if len(self.scene.assets) >= MIN_SAME_BANDS:
            at = same_small_number(reflectance, stored)
            is_valid = cause[at] == Cause.VALID
            at = at[0][is_valid], at[1][is_valid]
            for other in self._layers:
                if other is not layer and at[0].size:
                    at = self._same_in(other, layer, rows, cols, at)
            cause[at] = Cause.IMPOSSIBLE
        if not cause.any():
            return reflectance, cause
        if (is_impossible := cause == Cause.IMPOSSIBLE).any():
            values = reflectance[:, is_impossible]
            low, high = self.impossible_range
            self.impossible_range = min(low, float(values.min())), max(high, float(values.max()))
        return _zero_invalid(reflectance, cause == Cause.VALID), cause

    def _same_in(self, other: Layer, layer: Layer, rows: AxisWeights, cols: AxisWeights, at: Positions) -> Positions:
        """The positions `at` in a layer's window where another file has the `same_small_number` at their centres."""
        down, right = relate(layer.grid, other.grid, other.assets[0].name)
        row, row_inside = _nearest(down, rows.begin, rows.end)
        col, col_inside = _nearest(right, cols.begin, cols.end)
        is_inside = row_inside[at[0]] & col_inside[at[1]]
        at = at[0][is_inside], at[1][is_inside]
        own = layer.rows_ahead.read(slice(rows.begin, rows.end), slice(cols.begin, cols.end))[0][at][None, None]
        others = other.rows_ahead.read(_extent(row), _extent(col))
        others = others[:, row[at[0]] - row.min(), col[at[1]] - col.min()][:, None]
        values = [to_reflectance(own, layer.assets[:1])[0], to_reflectance(others, other.assets)[0]]
        _, same = same_small_number(np.concatenate(values), np.concatenate([own, others]))
        return at[0][same], at[1][same]

    def _is_outside(self, layer: Layer, rows: AxisWeights, cols: AxisWeights) -> BoolArray:
        """(row, col) True where a part of a layer's pixel is 0 in every band of the finest files, or beyond them."""
        down, right = relate(layer.grid, self._finest[0].grid, layer.assets[0].name)
        finer_rows = axis_weights(down, rows.begin, rows.end - rows.begin)
        finer_cols = axis_weights(right, cols.begin, cols.end - cols.begin)
        row, col = slice(finer_rows.begin, finer_rows.end), slice(finer_cols.begin, finer_cols.end)
        if row.start == row.stop or col.start == col.stop:
            return np.ones((rows.end - rows.begin, cols.end - cols.begin), np.bool_)
        zero = np.logical_and.reduce([_is_zero(finest.rows_ahead.read(row, col)) for finest in self._finest])
        return np.asarray(covered((~zero).astype(np.float32), finer_rows, finer_cols) < WHOLE_AREA)


def _quality_cause(quality: Layer, layer: Layer, rows: AxisWeights, cols: AxisWeights) -> NDArray[np.uint8]:
    """(row, col) `Cause` by the quality layer at the centre of a layer's pixel; nodata in and beyond its own nodata."""
    asset = quality.assets[0]
    down, right = relate(layer.grid, quality.grid, asset.name)
    row, row_inside = _nearest(down, rows.begin, rows.end)
    col, col_inside = _nearest(right, cols.begin, cols.end)
    stored = quality.rows_ahead.read(_extent(row), _extent(col))[0]
    kind = Cause.CLOUD if QUALITY_LAYERS[asset.name].rank else Cause.NODATA
    cause = np.where(valid_by(asset, stored), np.uint8(Cause.VALID), np.uint8(kind))
    cause[~has_value(asset, stored)] = Cause.NODATA
    cause = cause[np.ix_(row - row.min(), col - col.min())]
    cause[~row_inside] = Cause.NODATA
    cause[:, ~col_inside] = Cause.NODATA
    return cause


def _nearest(axis: Axis, begin: int, end: int) -> tuple[NDArray[np.intp], BoolArray]:
    """(pixel,) position in the other grid of the centre of each pixel, and True where it lies inside that grid."""
    edges = axis.edges(begin, end - begin)
    position = np.floor((edges[:-1] + edges[1:]) / 2).astype(np.intp)
    return np.clip(position, 0, axis.size - 1), (position >= 0) & (position < axis.size)


def _extent(positions: NDArray[np.intp]) -> slice:
    return slice(int(positions.min()), int(positions.max()) + 1)
