"""Strips of stored numbers on their way from a device to files."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


class Handover:
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
