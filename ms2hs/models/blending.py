"""Overlapping windows on a device, joined into finished rows as `raster.windows.Blender` does."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    def tapers(self) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
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
