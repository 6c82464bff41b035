"""Rows of windows through a network to finished strips of stored numbers, all of it on the network's device."""

from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.blending import RunningMean, Windows
from ms2hs.inference.device import Portion
from ms2hs.inference.device_transfer import Comparison, DeviceTransfer, Finish, StoredStrip
from ms2hs.inference.predictor import Area, Predictor


class TileRunner:
    """The windows of one conversion, row by row: reflectance in, stored numbers of finished rows out.

    Only measured reflectance goes to the device, and only 16-bit integers come back. Nothing is as large as the raster:
    it holds one window's height of rows of results, and two finished strips.
    """

    def __init__(
        self,
        network: Predictor,
        windows: Windows,
        scale: float,
        nodata: int,
        *,
        change: Float32Array | None = None,
        comparison: Comparison | None = None,
        start: int = 0,
    ) -> None:
        """Nothing is computed yet.

        Parameters
        ----------
        windows : a `raster.windows.Tiling`. A network that is local takes whole rows of it, which must not overlap.
        scale : reflectance of one stored step.
        nodata : the stored number that means there is none.
        change : (target band, source band) what is added to the network's result, times the reflectance.
        comparison : None: nothing is compared.
        start : the first row of the raster that is wanted.

        Raises
        ------
        ValueError : rows that overlap, for a network that is local; a start outside the raster.
        """
        if network.is_local and any(top < end for (_, end), (top, _) in pairwise(windows.rows)):
            raise ValueError("a local network takes rows that do not overlap")
        if not 0 <= start < windows.height:
            raise ValueError(f"start {start} of {windows.height} rows: it must be from 0 to less than that")
        self._network, self._windows, self._start = network, windows, start
        tops = [top for top, _ in windows.rows]
        self._ends = [*tops[1:], windows.height]  # what lies before these no later row of windows reaches
        self.begin = next(i for i, (_, end) in enumerate(windows.rows) if end > start)
        """The row of windows to begin with: the first that ends beyond `start`. Those before it do not reach the rows
        that are wanted, whose numbers are bit for bit those of a run from the raster's first row on."""
        self._due = self.begin
        tallest = max(end - top for top, end in zip(tops, self._ends, strict=True))
        self._mean = None if network.is_local else RunningMean(windows, network.bands, network.device)
        self._finish = Finish(network.device, scale, nodata, change, comparison)
        self._handover = DeviceTransfer(network.device, network.bands * tallest * windows.width)
        (top, bottom), (left, right) = windows.rows[0], windows.cols[0]
        self._portion = Portion(
            network.device,
            network.windows_at_a_time(bottom - top, right - left) if self._mean else network.places_at_a_time,
        )

    @torch.inference_mode()
    def add(self, i: int, reflectance: Float32Array, valid: BoolArray) -> StoredStrip | None:
        """Take the next row of windows, and give the strip that it finishes.

        Parameters
        ----------
        i : which row of windows it is: `begin`, and from there on one after another.
        reflectance : (source band, rows, width) float32 of the whole row of windows; anything where not valid.
        valid : (rows, width) True where usable.

        Returns
        -------
        None where all that it finishes lies before `start`. On CUDA the strip may not be there yet: its arrays wait
        for it, so ask for them in the thread that writes. They last until the next `add` but one.

        Raises
        ------
        Ms2hsError : the memory of the device is too small.
        ValueError : a row out of turn, or arrays of another shape.
        """
        self._check(i, reflectance, valid)
        self._due += 1
        top = self._windows.rows[i][0]
        wanted = slice(max(0, self._start - top), self._ends[i] - top)
        row = _Row(reflectance, valid, self._network.device)
        if self._mean:
            self._blend(i, row, self._mean)
        if wanted.start >= wanted.stop:
            return None
        shape = self._network.bands, wanted.stop - wanted.start, row.width
        strip = _Strip(row, top, wanted, self._handover.memory(shape), self._finish)
        if self._mean:
            strip.take((wanted, slice(0, row.width)), self._mean.of(wanted))
        else:
            self._convert_parts(row, strip)
        return self._handover.send(top + wanted.start, strip.counts, strip.numbers, strip.squares)

    def _check(self, i: int, reflectance: Float32Array, valid: BoolArray) -> None:
        if i != self._due or i >= len(self._ends):
            due = f"{self._due} is due" if self._due < len(self._ends) else "all were added already"
            raise ValueError(f"row {i} of windows is out of turn; {due}")
        top, bottom = self._windows.rows[i]
        shape = bottom - top, self._windows.width
        if reflectance.shape != (self._network.sources, *shape) or valid.shape != shape:
            raise ValueError(
                f"reflectance {reflectance.shape} and valid {valid.shape} do not fit {self._network.sources} bands of "
                f"{shape} pixels"
            )

    def _blend(self, i: int, row: "_Row", mean: RunningMean) -> None:
        """Windows where nothing is valid are left out."""
        areas = [(slice(0, row.height), slice(*span)) for span in self._windows.cols]
        cols = [col for col, area in enumerate(areas) if row.known[area].any()]
        mean.begin(i)

        def compute(some: list[int]) -> Tensor:
            reflectance = torch.stack([row.reflectance[:, *areas[col]] for col in some])
            if all(row.known[areas[col]].all() for col in some):
                return self._network.reconstruct_tensor(reflectance)
            return self._network.reconstruct_tensor(reflectance, torch.stack([row.valid[areas[col]] for col in some]))

        # windows of one size go together; an edge may cut the last
        alike = [list(some) for _, some in groupby(cols, lambda col: areas[col][1].stop - areas[col][1].start)]
        self._portion.work(alike, _shared_out, compute, mean.add)

    def _convert_parts(self, row: "_Row", strip: "_Strip") -> None:
        """Of a network that is local."""

        def compute(area: Area) -> Tensor:
            reflectance, valid = row.reflectance[:, *area], row.valid_within(area)
            if not row.known[area].any():
                return reflectance.new_zeros(self._network.bands, *reflectance.shape[1:])
            return self._network.reconstruct_tensor(reflectance[None], None if valid is None else valid[None])[0]

        whole = slice(0, row.height), slice(0, row.width)
        self._portion.work([whole], self._network.parts, compute, strip.take)


class _Row:
    """A row of windows, on the device."""

    def __init__(self, reflectance: Float32Array, valid: BoolArray, device: torch.device) -> None:
        self.known = valid
        """Here too: what it decides needs no waiting for the device."""
        self.height, self.width = valid.shape
        self.valid = _put(valid, device)
        """(rows, width)."""
        values = _put(reflectance, device)
        self.reflectance = values if valid.all() else torch.where(self.valid, values, 0.0)
        """(source band, rows, width), 0 where not valid."""

    def valid_within(self, area: Area) -> Tensor | None:
        """None: everywhere."""
        return None if self.known[area].all() else self.valid[area]


class _Strip:
    """The rows that a row of windows finishes, filled part by part."""

    def __init__(self, row: _Row, top: int, wanted: slice, numbers: Tensor, finish: Finish) -> None:
        self.numbers = numbers
        self._row, self._top, self._wanted, self._finish = row, top, wanted, finish
        compared = finish.comparison
        bands = len(compared.bands) if compared else 0
        self.squares = numbers.new_zeros(bands, wanted.stop - wanted.start, dtype=torch.float32)
        """(compared band, row) sums of squares over the pixels of a row; 0 where a row is not compared."""
        self.counts = np.zeros(wanted.stop - wanted.start, np.intp)
        """(row,) pixels that these are sums over."""
        if compared:
            some = compared.rows(top, wanted)
            self.counts[some.start - wanted.start :: some.step] = row.known[some].sum(axis=1)

    def take(self, area: Area, made: Tensor) -> None:
        """Of the row of windows, the (target band, row, col) result of an area; what is not wanted is left out."""
        rows, cols = slice(max(area[0].start, self._wanted.start), area[0].stop), area[1]
        if rows.start >= rows.stop:
            return
        row, first = self._row, self._wanted.start
        made = made[:, rows.start - area[0].start :]
        numbers = self.numbers[:, rows.start - first : rows.stop - first, cols]
        self._finish.store(made, row.reflectance[:, rows, cols], row.valid_within((rows, cols)), numbers)
        if compared := self._finish.comparison:
            some = compared.rows(self._top, rows)
            if some.start < some.stop:
                few = made[:, some.start - rows.start :: some.step]
                seen, valid = row.reflectance[:, some, cols], row.valid_within((some, cols))
                self.squares[:, some.start - first : some.stop - first : some.step] += self._finish.squares(
                    few, seen, valid
                )


def _put(array: Float32Array | BoolArray, device: torch.device) -> Tensor:
    """A tensor on the device: on a processor the array itself, to CUDA by a copy that nothing waits for."""
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _shared_out(cols: list[int], size: int) -> list[list[int]]:
    """In lists of at most so many."""
    return [cols[i : i + size] for i in range(0, len(cols), size)]
