"""Quantisation of reflectance on the device, and the copy of the stored numbers to the host.

Reflectance is quantised to int16 before it leaves the device, which halves the copy. Residuals against the measured
input are summed on the device too, so that only sums are copied. Two strip buffers alternate: on CUDA one strip is
copied on a stream of its own while the next strip is computed, and the thread that writes waits for the copy to end.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.arrays import Float32Array
from ms2hs.models.posterior import Posterior
from ms2hs.models.prior_tensors import features
from ms2hs.raster.cog.encoding import MAX_DN
from ms2hs.raster.cube import NODATA, SCALE

# Values quantised in one step: on a CPU they stay in its cache, on a GPU they leave memory for the network.
VALUES_PER_STEP = {"cpu": 1 << 17, "cuda": 1 << 26, "mps": 1 << 24}
STEPS_PER_UNIT = float(np.float32(1 / SCALE))


@dataclass(frozen=True, eq=False)
class StoredStrip:
    """Finished rows of stored numbers. `numbers` and `squares` wait until the copy from the device has ended."""

    row: int
    """First row in the raster."""
    counts: NDArray[np.integer]
    """(row,) valid pixels in `squares`; 0 for a row that is not sampled."""
    _numbers: Tensor
    _squares: Tensor
    _copied: torch.cuda.Event | None

    @property
    def numbers(self) -> NDArray[np.int16]:
        """(target band, rows, width) int16, valid until the second call of `TileRunner.add` from now."""
        self._wait()
        array: NDArray[np.int16] = self._numbers.numpy()
        return array

    @property
    def squares(self) -> NDArray[np.float64]:
        """(compared band, row) sums of squared residuals in reflectance over the valid pixels of each row."""
        self._wait()
        return self._squares.numpy().astype(float)

    def _wait(self) -> None:
        if self._copied:
            self._copied.synchronize()


class _StripBuffer:
    """Memory for one strip on the device and on the host; one tensor on a CPU."""

    def __init__(self, device: torch.device, size: int) -> None:
        on_cuda = device.type == "cuda"
        self.on_device = self.on_host = torch.empty(size, dtype=torch.int16, device=device)
        if device.type != "cpu":
            self.on_host = torch.empty(size, dtype=torch.int16, pin_memory=on_cuda)
        self.copied = torch.cuda.Event(blocking=True) if on_cuda else None  # type: ignore[no-untyped-call]


class DeviceTransfer:
    """Two strip buffers that alternate, and the CUDA stream that copies them to the host."""

    def __init__(self, device: torch.device, size: int) -> None:
        """Allocate buffers for strips of at most `size` stored numbers."""
        self._buffers = _StripBuffer(device, size), _StripBuffer(device, size)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._turn = 0

    def buffer(self, shape: tuple[int, int, int]) -> Tensor:
        """(target band, rows, width) int16 on the device, for the numbers of the next strip."""
        buffer = self._buffers[self._turn]
        if self._stream and buffer.copied:
            torch.cuda.current_stream(self._stream.device).wait_event(buffer.copied)
        return buffer.on_device[: int(np.prod(shape))].view(shape)

    def send(self, row: int, counts: NDArray[np.integer], numbers: Tensor, squares: Tensor) -> StoredStrip:
        """Start the copy of the strip that begins at `row`.

        `numbers` is the last result of `buffer`; `squares` is (compared band, row) float32 on the device.
        """
        buffer = self._buffers[self._turn]
        self._turn = 1 - self._turn
        on_host = buffer.on_host[: numbers.numel()].view(numbers.shape)
        if self._stream is None or buffer.copied is None:
            if buffer.on_host is not buffer.on_device:
                on_host.copy_(numbers)
            return StoredStrip(row, counts, on_host, squares.cpu(), None)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            on_host.copy_(numbers, non_blocking=True)
            sums = squares.to("cpu", non_blocking=True)
            buffer.copied.record(self._stream)
        squares.record_stream(self._stream)  # keeps its memory from being reused before the copy ends
        return StoredStrip(row, counts, on_host, sums, buffer.copied)


class ResidualSampling(NamedTuple):
    """The bands and rows on which residuals against the input are computed."""

    matrix: Float32Array
    """(compared band, target band) responses of the source."""
    bands: NDArray[np.integer]
    """(compared band,) index of the source band."""
    row_step: int
    """Rows of the raster whose index is a multiple of this number are sampled."""

    def rows(self, top: int, rows: slice) -> slice:
        """The sampled rows among `rows`, which count from row `top` of the raster."""
        return slice(rows.start + -(top + rows.start) % self.row_step, rows.stop, self.row_step)


class Quantiser:
    """Quantises predictions and sums their residuals pixel by pixel, so that any tiling gives the same numbers."""

    def __init__(self, device: torch.device, change: Posterior | None, residuals: ResidualSampling | None) -> None:
        """Copy the gain of `change` to the device; `change.reconstruct(reflectance)` is added to predictions."""
        self.residuals = residuals
        to_device = partial(torch.as_tensor, dtype=torch.float32, device=device)
        self._values_per_step = VALUES_PER_STEP[device.type]
        self._change = None if change is None else to_device(change.gain)
        self._covers = None if change is None else change.covers
        if residuals is not None:
            self._matrix, self._bands = to_device(residuals.matrix), torch.as_tensor(residuals.bands, device=device)
            self._residual_change = None if change is None else to_device(residuals.matrix @ change.gain)

    def quantise(self, predicted: Tensor, reflectance: Tensor, valid: Tensor | None, out: Tensor) -> None:
        """Fill `out` with the numbers of `raster.cog.encoding.quantise`.

        Parameters
        ----------
        predicted : (target band, row, col) float32 reflectance; NaN becomes NODATA.
        reflectance : (source band, row, col) float32 input, finite.
        valid : (row, col) True where usable; None: everywhere.
        out : (target band, row, col) int16.
        """
        invalid = None if valid is None else ~valid
        pixels = None if self._change is None else features(reflectance.flatten(1), self._covers)
        step = max(1, self._values_per_step // predicted[0].numel())
        for first in range(0, len(predicted), step):
            bands = slice(first, first + step)
            values = predicted[bands]
            if self._change is not None and pixels is not None:
                values = values + (self._change[bands] @ pixels).view(values.shape)
            dn = (values * STEPS_PER_UNIT).round_().clamp_(-MAX_DN, MAX_DN).nan_to_num_(NODATA)
            if invalid is not None:
                dn.masked_fill_(invalid, NODATA)
            out[bands] = dn

    def squares(self, predicted: Tensor, reflectance: Tensor, valid: Tensor | None) -> Tensor:
        """(compared band, row) float32 sums of squared residuals over valid pixels; arguments as of `quantise`."""
        rows, cols = predicted.shape[1:]
        pixels = reflectance.flatten(1)
        residual = self._matrix @ predicted.flatten(1) - pixels[self._bands]
        if self._residual_change is not None:
            residual += self._residual_change @ features(pixels, self._covers)
        if valid is not None:
            residual.masked_fill_(~valid.flatten(), 0.0)
        return residual.square_().view(-1, rows, cols).sum(dim=2)
