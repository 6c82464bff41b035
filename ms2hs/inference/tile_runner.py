"""Conversion of rows of windows by a network to finished strips of stored numbers, on the network's device.

A row of windows is copied to the device once, as float32 reflectance, and its strip is copied back as int16. On the
device its windows are predicted in batches and blended with the rows of windows above; rows that no later window covers
are quantised. A local network needs no blending: it fills the strip part by part.
Memory holds one row of windows and two finished strips, whatever the height of the raster.
"""

from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.blending import Blender
from ms2hs.inference.device import AdaptiveBatch, to_device
from ms2hs.inference.device_transfer import DeviceTransfer, Quantiser, ResidualSampling, StoredStrip
from ms2hs.inference.predictor import Area, Predictor
from ms2hs.models.posterior import Posterior
from ms2hs.raster.tiling import Tiling


class TileRunner:
    """Converts the windows of one raster, row by row: reflectance in, stored numbers of finished rows out."""

    def __init__(
        self,
        predictor: Predictor,
        tiling: Tiling,
        *,
        change: Posterior | None = None,
        residuals: ResidualSampling | None = None,
        start: int = 0,
    ) -> None:
        """Allocate the buffers.

        Parameters
        ----------
        tiling : for a local network, rows of windows that do not overlap.
        change : `change.reconstruct(reflectance)` is added to the prediction.
        residuals : None: no residuals are computed.
        start : the first row of the raster to return.

        Raises
        ------
        ValueError : overlapping rows for a local network, or a start outside the raster.
        """
        if predictor.is_local and any(top < end for (_, end), (top, _) in pairwise(tiling.rows)):
            raise ValueError("rows of windows overlap; a local network needs rows that do not")
        if not 0 <= start < tiling.height:
            raise ValueError(f"start {start} of {tiling.height} rows: it must be from 0 to less than that")
        self._predictor, self._tiling, self._start = predictor, tiling, start
        tops = [top for top, _ in tiling.rows]
        self._ends = [*tops[1:], tiling.height]  # rows before these are finished: no later window covers them
        self.first_index = next(i for i, (_, end) in enumerate(tiling.rows) if end > start)
        """Index of the first row of windows that covers a row from `start` on. Results therefore equal the results of
        a run over the whole raster bit for bit."""
        self._next_index = self.first_index
        tallest = max(end - top for top, end in zip(tops, self._ends, strict=True))
        count, device = predictor.target_count, predictor.device
        self._blender = None if predictor.is_local else Blender(tiling, count, device)
        self._quantiser = Quantiser(device, change, residuals)
        self._transfer = DeviceTransfer(device, count * tallest * tiling.width)
        rows, cols = (end - first for first, end in (tiling.rows[0], tiling.cols[0]))
        size = predictor.windows_per_batch(rows, cols) if self._blender else predictor.patches_per_batch
        self._batch = AdaptiveBatch(device, size)

    @torch.inference_mode()
    def add(self, index: int, reflectance: Float32Array, valid: BoolArray) -> StoredStrip | None:
        """Convert the next row of windows and return the strip that it finishes.

        Parameters
        ----------
        index : index of the row of windows: `first_index`, then each following index.
        reflectance : (source band, rows, width) float32 of the whole row of windows; any value where not valid.
        valid : (rows, width) True where usable.

        Returns
        -------
        None if all finished rows lie before `start`. On CUDA the copy to the host may still run: reading the strip's
        arrays waits for its end, so read them in the thread that writes. They are valid until the second next `add`.

        Raises
        ------
        Ms2hsError : the memory of the device is too small.
        ValueError : a row out of order, or arrays of another shape.
        """
        self._check(index, reflectance, valid)
        self._next_index += 1
        top = self._tiling.rows[index][0]
        finished = slice(max(0, self._start - top), self._ends[index] - top)
        row = _WindowRow(reflectance, valid, self._predictor.device)
        if self._blender:
            self._blend(index, row, self._blender)
        if finished.start >= finished.stop:
            return None
        shape = self._predictor.target_count, finished.stop - finished.start, row.width
        strip = _StripBuilder(row, top, finished, self._transfer.buffer(shape), self._quantiser)
        if self._blender:
            strip.store((finished, slice(0, row.width)), self._blender.mean(finished))
        else:
            self._predict_parts(row, strip)
        return self._transfer.send(top + finished.start, strip.counts, strip.numbers, strip.squares)

    def _check(self, index: int, reflectance: Float32Array, valid: BoolArray) -> None:
        if index != self._next_index or index >= len(self._ends):
            expected = f"expected {self._next_index}" if self._next_index < len(self._ends) else "all are done"
            raise ValueError(f"row {index} of windows is out of order; {expected}")
        top, bottom = self._tiling.rows[index]
        shape = bottom - top, self._tiling.width
        if reflectance.shape != (self._predictor.source_count, *shape) or valid.shape != shape:
            raise ValueError(
                f"reflectance {reflectance.shape} and valid {valid.shape} do not match "
                f"{self._predictor.source_count} bands of {shape} pixels"
            )

    def _blend(self, index: int, row: "_WindowRow", blender: Blender) -> None:
        """Predict and blend the windows of a row, except those without a valid pixel."""
        areas = [(slice(0, row.height), slice(*span)) for span in self._tiling.cols]
        cols = [col for col, area in enumerate(areas) if row.host_valid[area].any()]
        blender.begin_row(index)

        def predict(batch: list[int]) -> Tensor:
            reflectance = torch.stack([row.reflectance[:, *areas[col]] for col in batch])
            all_valid = all(row.host_valid[areas[col]].all() for col in batch)
            valid = None if all_valid else torch.stack([row.valid[areas[col]] for col in batch])
            return self._predictor.reconstruct_tensor(reflectance, valid)

        def split(batch: list[int], size: int) -> list[list[int]]:
            return [batch[i : i + size] for i in range(0, len(batch), size)]

        # windows of a batch have one size; the last window may be smaller
        same_size = [list(group) for _, group in groupby(cols, lambda col: areas[col][1].stop - areas[col][1].start)]
        self._batch.run(same_size, split, predict, blender.add)

    def _predict_parts(self, row: "_WindowRow", strip: "_StripBuilder") -> None:
        """Predict a row with a local network, in parts of whole patches."""

        def predict(area: Area) -> Tensor:
            reflectance, valid = row.reflectance[:, *area], row.valid_in(area)
            if not row.host_valid[area].any():
                return reflectance.new_zeros(self._predictor.target_count, *reflectance.shape[1:])
            return self._predictor.reconstruct_tensor(reflectance[None], None if valid is None else valid[None])[0]

        whole = slice(0, row.height), slice(0, row.width)
        self._batch.run([whole], self._predictor.split_area, predict, strip.store)


class _WindowRow:
    """The input of one row of windows, on the device."""

    def __init__(self, reflectance: Float32Array, valid: BoolArray, device: torch.device) -> None:
        self.host_valid = valid
        """(rows, width) validity on the host, so that decisions do not wait for the device."""
        self.height, self.width = valid.shape
        self.valid = to_device(valid, device)
        """(rows, width)."""
        values = to_device(reflectance, device)
        self.reflectance = values if valid.all() else torch.where(self.valid, values, 0.0)
        """(source band, rows, width), 0 where not valid."""

    def valid_in(self, area: Area) -> Tensor | None:
        """(row, col) validity of an area; None: every pixel is valid."""
        return None if self.host_valid[area].all() else self.valid[area]


class _StripBuilder:
    """Quantises the rows that a row of windows finishes, part by part, and sums their residuals."""

    def __init__(self, row: _WindowRow, top: int, finished: slice, numbers: Tensor, quantiser: Quantiser) -> None:
        self.numbers = numbers
        self._row, self._top, self._finished, self._quantiser = row, top, finished, quantiser
        residuals = quantiser.residuals
        bands, rows = len(residuals.bands) if residuals else 0, finished.stop - finished.start
        self.squares = numbers.new_zeros(bands, rows, dtype=torch.float32)
        """(compared band, row) sums of squared residuals over the pixels of a row; 0 for a row that is not sampled."""
        self.counts = np.zeros(rows, np.intp)
        """(row,) pixels in these sums."""
        if residuals:
            sampled = residuals.rows(top, finished)
            self.counts[sampled.start - finished.start :: sampled.step] = row.host_valid[sampled].sum(axis=1)

    def store(self, area: Area, predicted: Tensor) -> None:
        """Quantise the (target band, row, col) prediction of an area of the window row, without unfinished rows."""
        rows, cols = slice(max(area[0].start, self._finished.start), area[0].stop), area[1]
        if rows.start >= rows.stop:
            return
        row, first = self._row, self._finished.start
        predicted = predicted[:, rows.start - area[0].start :]
        out = self.numbers[:, rows.start - first : rows.stop - first, cols]
        self._quantiser.quantise(predicted, row.reflectance[:, rows, cols], row.valid_in((rows, cols)), out)
        if residuals := self._quantiser.residuals:
            sampled = residuals.rows(self._top, rows)
            if sampled.start < sampled.stop:
                squares = self.squares[:, sampled.start - first : sampled.stop - first : sampled.step]
                squares += self._quantiser.squares(
                    predicted[:, sampled.start - rows.start :: sampled.step],
                    row.reflectance[:, sampled, cols],
                    row.valid_in((sampled, cols)),
                )
