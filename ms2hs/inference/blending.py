"""Overlapping windows blended into rows of one raster, on the network's device.

Each pixel is the weighted mean of the windows that cover it; weights fall towards the edges of a window (`taper`).
The mean is updated window by window, `mean += (value - mean) * w / (W + w)`. Windows that agree therefore return
their value exactly, which a sum divided by the sum of weights does not. The buffer holds one row of windows.
Validity needs no weights: a pixel is valid in all windows or in none, and pixels never mix.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ms2hs.raster.tiling import Tiling


class _Segment(NamedTuple):
    """Columns of a window that the same number of earlier windows cover, with their weights."""

    in_window: slice
    in_raster: slice
    taper: Tensor


class Blender:
    """Weighted mean of overlapping windows, one row of windows at a time.

    Windows of one batch are blended together: first the columns that no earlier window covers, then the columns that
    one earlier window covers, and so on. For every pixel this is the order of the windows.
    """

    def __init__(self, tiling: Tiling, bands: int, device: torch.device) -> None:
        tapers = [[torch.as_tensor(taper, device=device) for taper in axis] for axis in tiling.tapers]
        self._row_tapers, col_tapers = tapers
        self._row_spans = tiling.rows
        self._layers = _layers(tiling.cols, col_tapers)
        self._col_index = torch.arange(tiling.width, device=device)
        height = max(bottom - top for top, bottom in tiling.rows)
        self._mean = torch.empty(bands, height, tiling.width, device=device)
        self._weight = torch.empty(height, tiling.width, device=device)
        self._current: int | None = None
        self._overlap_rows = 0  # first rows of the buffer, which earlier rows of windows cover too

    def begin_row(self, index: int) -> None:
        """Move to a row of windows: to any row at first, then always to the next row."""
        top = self._row_spans[index][0]
        if self._current is not None:
            previous_top, previous_bottom = self._row_spans[self._current]
            step, self._overlap_rows = top - previous_top, max(0, previous_bottom - top)
            for buffer in (self._mean, self._weight):
                kept = buffer[..., step : step + self._overlap_rows, :]
                # torch does not check whether both sides overlap in memory
                buffer[..., : self._overlap_rows, :] = kept.clone() if self._overlap_rows > step else kept
        self._current = index

    def add(self, cols: Sequence[int], values: Tensor) -> None:
        """Blend some windows of the current row, from left to right. Windows without a valid pixel may be omitted.

        Parameters
        ----------
        cols : position of each window in its row.
        values : (window, band, row, col) float32; any value, also NaN, at invalid pixels.
        """
        assert self._current is not None  # noqa: S101  begin_row was called
        rows = values.shape[2]
        row_taper = self._row_tapers[self._current]
        for covered_before, layer in enumerate(self._layers):
            segments = [(window, layer[col]) for window, col in zip(values, cols, strict=True) if col in layer]
            if not segments:
                continue
            piece = _concatenate([window[..., segment.in_window] for window, segment in segments])
            columns = self._columns([segment.in_raster for _, segment in segments])
            weight = row_taper[:, None] * _concatenate([segment.taper for _, segment in segments])
            blended = rows if covered_before else self._overlap_rows
            if blended:
                self._merge(slice(0, blended), columns, piece[:, :blended], weight[:blended])
            if blended < rows:
                fresh = slice(blended, rows)
                self._mean[:, fresh, columns] = piece[:, fresh]
                self._weight[fresh, columns] = weight[fresh]

    def mean(self, rows: slice) -> Tensor:
        """(band, row, width) blended values of some rows of the current row of windows, until `begin_row`.

        A pixel that no added window covers has an arbitrary value.
        """
        return self._mean[:, rows]

    def _columns(self, parts: list[slice]) -> slice | Tensor:
        """One slice if the parts are contiguous, which needs no copy; else column indices."""
        if all(part.stop == following.start for part, following in pairwise(parts)):
            return slice(parts[0].start, parts[-1].stop)
        return torch.cat([self._col_index[part] for part in parts])

    def _merge(self, rows: slice, columns: slice | Tensor, values: Tensor, weight: Tensor) -> None:
        mean = self._mean[:, rows, columns]
        total = self._weight[rows, columns] + weight
        self._mean[:, rows, columns] = (values - mean).mul_(weight / total).add_(mean)
        self._weight[rows, columns] = total


def _layers(spans: list[tuple[int, int]], tapers: list[Tensor]) -> list[dict[int, _Segment]]:
    """For each number of earlier windows that cover a column: the segments by position of the window in its row."""
    layers: list[dict[int, _Segment]] = [{}]
    for col, (left, right) in enumerate(spans):
        edges = [left, *(end for _, end in spans[:col] if end > left), right]
        for i, (start, end) in enumerate(pairwise(edges)):
            covered = len(edges) - 2 - i
            layers += [{} for _ in range(covered + 1 - len(layers))]
            if start < end:
                in_window = slice(start - left, end - left)
                layers[covered][col] = _Segment(in_window, slice(start, end), tapers[col][in_window])
    return layers


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
