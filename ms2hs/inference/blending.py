"""Overlapping windows on a device, joined into finished rows as `raster.windows.Blender` does."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.raster.tiling import Strip, Tiling, Window

Span = tuple[int, int]


class Windows(Protocol):
    """Windows that cover a raster row by row, such as a `raster.windows.Tiling`."""

    @property
    def height(self) -> int:
        """Rows of the raster."""

    @property
    def width(self) -> int:
        """Columns of the raster."""

    @property
    def rows(self) -> list[Span]:
        """First row, and row after the last, of each row of windows; both ascend."""

    @property
    def cols(self) -> list[Span]:
        """First column, and column after the last, of each column of windows; both ascend."""

    @property
    def tapers(self) -> tuple[list[Float32Array], list[Float32Array]]:
        """(size,) positive weights of each row and of each column of windows."""


class _Piece(NamedTuple):
    """Columns of a window that equally many windows before it cover too."""

    within: slice
    """Of the window."""
    cols: slice
    """Of the raster."""
    taper: Tensor


class RunningMean:
    """The weighted mean of all windows so far, for one row of windows at a time.

    `mean += (v - mean) * w / (W + w)`, for each pixel in the order of the windows: those that agree leave it exactly as
    it is. It holds one window's height of rows. Windows that come together are blended together: first what each is the
    first of its row to cover, then what it is the second to cover, and so on, which for a pixel is their own order.

    A pixel is valid in all windows or in none, and no pixel meets another here. So nothing is done for those that are
    not valid: whatever comes of them is theirs alone.
    """

    def __init__(self, windows: Windows, bands: int, device: torch.device) -> None:
        down, across = ([torch.as_tensor(taper, device=device) for taper in tapers] for tapers in windows.tapers)
        self._down = down
        self._spans = windows.rows
        self._layers = _layers(windows.cols, across)
        self._cols = torch.arange(windows.width, device=device)
        height = max(bottom - top for top, bottom in windows.rows)
        self._mean = torch.empty(bands, height, windows.width, device=device)
        self._weight = torch.empty(height, windows.width, device=device)
        self._row: int | None = None
        self._above = 0  # rows of this row of windows that those before it cover too

    def begin(self, row: int) -> None:
        """Go on to a row of windows, the next or, at first, any."""
        top = self._spans[row][0]
        if self._row is not None:
            before, end = self._spans[self._row]
            step, self._above = top - before, max(0, end - top)
            for buffer in (self._mean, self._weight):
                kept = buffer[..., step : step + self._above, :]
                # torch does not look whether it writes over what it still has to read
                buffer[..., : self._above, :] = kept.clone() if self._above > step else kept
        self._row = row

    def add(self, cols: Sequence[int], values: Tensor) -> None:
        """Take some of the row's windows, from left to right. Those where nothing is valid may be left out.

        Parameters
        ----------
        cols : which columns of windows they are.
        values : (window, band, row, col) float32; anything, NaN too, where not valid.
        """
        assert self._row is not None  # noqa: S101  begun before
        rows = values.shape[2]
        down = self._down[self._row]
        for i, layer in enumerate(self._layers):
            pieces = [(window, layer[col]) for window, col in zip(values, cols, strict=True) if col in layer]
            if not pieces:
                continue
            made = _joined([window[..., piece.within] for window, piece in pieces])
            where = self._columns([piece.cols for _, piece in pieces])
            weight = down[:, None] * _joined([piece.taper for _, piece in pieces])
            covered = rows if i else self._above
            self._merge(slice(0, covered), where, made[:, :covered], weight[:covered])
            if covered < rows:
                fresh = slice(covered, rows)
                self._mean[:, fresh, where] = made[:, fresh]
                self._weight[fresh, where] = weight[fresh]

    def of(self, rows: slice) -> Tensor:
        """(band, row, width) the mean of some rows of the row of windows, anything where no window was valid.

        It lasts until the next begins.
        """
        return self._mean[:, rows]

    def _columns(self, parts: list[slice]) -> slice | Tensor:
        """One slice where they follow one another, which needs no copy."""
        if all(part.stop == following.start for part, following in pairwise(parts)):
            return slice(parts[0].start, parts[-1].stop)
        return torch.cat([self._cols[part] for part in parts])

    def _merge(self, rows: slice, where: slice | Tensor, values: Tensor, weight: Tensor) -> None:
        if weight.numel() == 0:
            return
        mean = self._mean[:, rows, where]
        total = self._weight[rows, where] + weight
        self._mean[:, rows, where] = (values - mean).mul_(weight / total).add_(mean)
        self._weight[rows, where] = total


def _layers(cols: list[Span], tapers: list[Tensor]) -> list[dict[int, _Piece]]:
    """By number of windows of the row that cover it already, and by column of windows: the piece that it adds there."""
    layers: list[dict[int, _Piece]] = [{}]
    for col, (left, right) in enumerate(cols):
        edges = [left, *(end for _, end in cols[:col] if end > left), right]
        for i, (start, end) in enumerate(pairwise(edges)):
            covered = len(edges) - 2 - i
            layers += [{} for _ in range(covered + 1 - len(layers))]
            if start < end:
                within = slice(start - left, end - left)
                layers[covered][col] = _Piece(within, slice(start, end), tapers[col][within])
    return layers


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Blender:
    """Joins windows into finished strips, weighting each pixel by its window's taper, and by nothing where invalid.

    It keeps a running weighted mean, `mean += (v - mean) * w / (W + w)`: windows that agree leave it exactly as it
    is, whatever their weights, which a sum divided by its weights does not. It holds one window's height of rows,
    whatever the height of the raster; strips that are whole windows pass through without a copy.
    """

    def __init__(self, tiling: Tiling, bands: int) -> None:
        self._tiling = tiling
        self._bands = bands
        self._tapers = tiling.tapers
        self._pass_through = len(tiling.cols) == 1 and (len(tiling.rows) == 1 or tiling.overlap == 0)
        self._added = 0
        self._top = 0  # the raster's row that is the buffers' first
        self._mean: Float32Array = np.zeros((bands, 0, tiling.width), np.float32)
        self._weight: Float32Array = np.zeros((0, tiling.width), np.float32)
        if not self._pass_through:
            rows = max(end - start for start, end in tiling.rows)
            self._mean = np.zeros((bands, rows, tiling.width), np.float32)
            self._weight = np.zeros((rows, tiling.width), np.float32)

    def add(self, window: Window, values: Float32Array, valid: BoolArray) -> list[Strip]:
        """Take the next window, and give the strip that it finishes, if any.

        Parameters
        ----------
        window : the next of the tiling.
        values : (band, height, width) float32; anything, NaN too, where not valid; finite where valid.
        valid : (height, width) True where usable.

        Returns
        -------
        No or one strip; use it before the next `add`.

        Raises
        ------
        ValueError : a window out of turn, or arrays of another shape.
        """
        self._check(window, values, valid)
        row, col = divmod(self._added, len(self._tiling.cols))
        self._added += 1
        if self._pass_through:
            return [Strip(window.row, values, valid)]
        self._slide(window.row)
        self._blend(row, col, values, valid)
        if col + 1 < len(self._tiling.cols):
            return []
        last = row + 1 == len(self._tiling.rows)
        final = (self._tiling.height if last else self._tiling.rows[row + 1][0]) - self._top
        return [Strip(self._top, self._mean[:, :final], self._weight[:final] > 0)]

    def _check(self, window: Window, values: Float32Array, valid: BoolArray) -> None:
        row, col = divmod(self._added, len(self._tiling.cols))
        if row >= len(self._tiling.rows):
            raise ValueError("all windows of the tiling were added already")
        (top, bottom), (left, right) = self._tiling.rows[row], self._tiling.cols[col]
        due = Window(top, left, bottom - top, right - left)
        if window != due:
            raise ValueError(f"{window} is out of turn; {due} is due")
        if values.shape != (self._bands, due.height, due.width) or valid.shape != (due.height, due.width):
            raise ValueError(f"values {values.shape} and valid {valid.shape} do not fit {self._bands} bands of {due}")

    def _slide(self, row: int) -> None:
        """Let the buffers begin at `row`, keeping what they have from there on."""
        step = row - self._top
        if step == 0:
            return
        kept = self._weight.shape[0] - step
        for buffer in (self._mean, self._weight):
            buffer[..., :kept, :] = buffer[..., step:, :]
            buffer[..., kept:, :] = 0
        self._top = row

    def _blend(self, row: int, col: int, values: Float32Array, valid: BoolArray) -> None:
        """Work in three parts: rows shared with the windows above, columns shared with the one before, the rest."""
        tiling = self._tiling
        (top, bottom), (left, right) = tiling.rows[row], tiling.cols[col]
        above = max(0, tiling.rows[row - 1][1] - top) if row else 0
        before = max(0, tiling.cols[col - 1][1] - left) if col else 0
        weight = np.outer(self._tapers[0][row], self._tapers[1][col]) * valid
        parts = [
            (slice(0, above), slice(0, right - left)),
            (slice(above, bottom - top), slice(0, before)),
            (slice(above, bottom - top), slice(before, right - left)),
        ]
        for rows, cols in parts[:2]:
            self._merge(rows, slice(left + cols.start, left + cols.stop), values[:, rows, cols], weight[rows, cols])
        rows, cols = parts[2]
        place = rows, slice(left + cols.start, left + cols.stop)
        self._mean[:, *place] = _where(valid[rows, cols], values[:, rows, cols])
        self._weight[place] = weight[rows, cols]

    def _merge(self, rows: slice, cols: slice, values: Float32Array, weight: Float32Array) -> None:
        if weight.size == 0:
            return
        mean = self._mean[:, rows, cols]
        total = self._weight[rows, cols] + weight
        share = np.divide(weight, total, out=np.zeros_like(weight), where=weight > 0)
        step = _where(weight > 0, values - mean)
        step *= share
        mean += step
        self._weight[rows, cols] = total


def _where(valid: BoolArray, values: Float32Array) -> Float32Array:
    """The values, and 0 where not valid: whatever stands there must not take part, and NaN times 0 is NaN."""
    return values if valid.all() else np.where(valid, values, np.float32(0))
