"""Strips of stored numbers on their way from a device to files.

What is done to a result before it leaves the device: it is compared with what was measured, and quantised.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.arrays import Float32Array

# So many values are quantised at a time: on a processor they stay in its cache, and they do not fill a GPU's memory.
VALUES_AT_A_TIME = {"cpu": 1 << 17, "cuda": 1 << 26, "mps": 1 << 24}
LARGEST = 32767.0
"""Stored numbers are at most as large, with either sign."""


@dataclass(frozen=True, eq=False)
class StoredStrip:
    """Finished rows as a file stores them. Its arrays wait until they are there, in whatever thread asks for them."""

    row: int
    """First row of the raster."""
    counts: NDArray[np.integer]
    """(row,) valid pixels that were compared with what was measured; 0 where a row is not compared."""
    _numbers: Tensor
    _squares: Tensor
    _arrived: torch.cuda.Event | None

    @property
    def numbers(self) -> NDArray[np.int16]:
        """(target band, rows, width) int16; written over by the next `add` but one."""
        self._wait()
        array: NDArray[np.int16] = self._numbers.numpy()
        return array

    @property
    def squares(self) -> NDArray[np.float64]:
        """(compared band, row) sums of squared differences of reflectance over the compared pixels of each row."""
        self._wait()
        return self._squares.numpy().astype(float)

    def _wait(self) -> None:
        if self._arrived:
            self._arrived.synchronize()


class _Slot:
    """Memory of one strip, on the device and here; the same where they are one."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.there = torch.empty(size, dtype=torch.int16, device=device)
        on_cuda = device.type == "cuda"
        self.here = self.there
        if device.type != "cpu":
            self.here = torch.empty(size, dtype=torch.int16, pin_memory=on_cuda)
        self.arrived = torch.cuda.Event(blocking=True) if on_cuda else None  # type: ignore[no-untyped-call]


class DeviceTransfer:
    """Two strips in turn: on CUDA one is copied, by a stream of its own, while the next is computed."""

    def __init__(self, device: torch.device, size: int) -> None:
        """`size` : numbers of the largest strip."""
        self._slots = _Slot(device, size), _Slot(device, size)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._turn = 0

    def memory(self, shape: tuple[int, int, int]) -> Tensor:
        """(target band, rows, width) int16 on the device, to be filled with the next strip."""
        slot = self._slots[self._turn]
        if self._stream and slot.arrived:
            torch.cuda.current_stream(self._stream.device).wait_event(slot.arrived)
        return slot.there[: int(np.prod(shape))].view(shape)

    def send(self, row: int, counts: NDArray[np.integer], numbers: Tensor, squares: Tensor) -> StoredStrip:
        """The strip from `row` on, whose `numbers` fill what `memory` gave last.

        Parameters
        ----------
        squares : (compared band, row) float32 on the device.
        """
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        here = slot.here[: numbers.numel()].view(numbers.shape)
        if self._stream is None or slot.arrived is None:
            if slot.here is not slot.there:
                here.copy_(numbers)
            return StoredStrip(row, counts, here, squares.cpu(), None)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            here.copy_(numbers, non_blocking=True)
            sums = squares.to("cpu", non_blocking=True)
            slot.arrived.record(self._stream)
        squares.record_stream(self._stream)  # its memory is not given to another before it was copied
        return StoredStrip(row, counts, here, sums, slot.arrived)


class Comparison(NamedTuple):
    """How a result, seen through the source's responses, is compared with what the source measured."""

    matrix: Float32Array
    """(compared band, target band) responses."""
    bands: NDArray[np.integer]
    """(compared band,) which source bands they are."""
    every: int
    """One row of the raster in so many is compared: those that it divides."""

    def rows(self, top: int, rows: slice) -> slice:
        """Which of some rows, counted from the raster's row `top`, are compared."""
        return slice(rows.start + -(top + rows.start) % self.every, rows.stop, self.every)


class Finish:
    """Quantises results on the device, and compares them, pixel by pixel: any cut of a raster gives the same."""

    def __init__(
        self,
        device: torch.device,
        scale: float,
        nodata: int,
        change: Float32Array | None,
        comparison: Comparison | None,
    ) -> None:
        """`change` : (target band, source band) what is added to a result, times the reflectance."""
        self.comparison = comparison
        put = partial(torch.as_tensor, dtype=torch.float32, device=device)
        self._at_a_time = VALUES_AT_A_TIME[device.type]
        self._per_step, self._nodata = float(np.float32(1 / scale)), float(nodata)
        self._change = None if change is None else put(change)
        if comparison is not None:
            self._matrix, self._bands = put(comparison.matrix), torch.as_tensor(comparison.bands, device=device)
            self._seen_change = None if change is None else put(comparison.matrix @ change)

    def store(self, made: Tensor, reflectance: Tensor, valid: Tensor | None, numbers: Tensor) -> None:
        """Fill `numbers`: `round(reflectance / scale)` half to even, at most ±32767, nodata where there is none.

        Parameters
        ----------
        made : (target band, row, col) float32 reflectance; NaN is taken as invalid.
        reflectance : (source band, row, col) float32, finite.
        valid : (row, col) True where usable; None: everywhere.
        numbers : (target band, row, col) int16.
        """
        hole = None if valid is None else ~valid
        seen = None if self._change is None else reflectance.flatten(1)
        step = max(1, self._at_a_time // made[0].numel())
        for low in range(0, len(made), step):
            some = slice(low, low + step)
            values = made[some]
            if self._change is not None and seen is not None:
                values = values + (self._change[some] @ seen).view(values.shape)
            dn = (values * self._per_step).round_().clamp_(-LARGEST, LARGEST).nan_to_num_(self._nodata)
            if hole is not None:
                dn.masked_fill_(hole, self._nodata)
            numbers[some] = dn

    def squares(self, made: Tensor, reflectance: Tensor, valid: Tensor | None) -> Tensor:
        """(compared band, row) float32 sums of squared differences over the valid pixels of rows; arrays as above."""
        rows, cols = made.shape[1:]
        seen = reflectance.flatten(1)
        differences = self._matrix @ made.flatten(1) - seen[self._bands]
        if self._seen_change is not None:
            differences += self._seen_change @ seen
        if valid is not None:
            differences.masked_fill_(~valid.flatten(), 0.0)
        return differences.square_().view(-1, rows, cols).sum(dim=2)
