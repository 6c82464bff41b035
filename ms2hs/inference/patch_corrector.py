"""Corrections of the prior for a whole raster, by a network of patch tokens, in strips from top to bottom.

The network works at the resolution of patches: a strip of pixels becomes the content of its patches, windows of patches
become corrections of the prior's coefficients, and overlapping windows are blended there, where a patch has `rank`
values instead of its pixels times the target's bands. Corrections of pixels are interpolated between patches, so that
neither patches nor windows leave an edge. Memory holds the strips that a row of windows spans.
Errors of a product are common to a scene. They are estimated once, as the mean over windows all over the raster: the
estimates of single windows differ by what grows there, and would leave a pattern of windows in the result.
Tasks of equal shape run in threads of their own, each with one thread of torch: results do not depend on their number.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.blending import Blender
from ms2hs.inference.device import to_device
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior_tensors import PriorOfBands
from ms2hs.raster.cog.block_compressor import processors
from ms2hs.raster.tiling import Tiling, Window, evenly_spaced
from ms2hs.spectra.spectral_grid import line_weights

# Columns of pixels in one task, a multiple of every patch.
TASK_COLS = 128
# Windows in a row, and rows of windows, from which the errors that a raster has in common are estimated.
SAMPLED_SIDE = 5
# Patches in one call of the network.
PATCHES_PER_CALL = {"cpu": 1 << 10, "cuda": 1 << 18, "mps": 1 << 15}


class Strip(Protocol):
    """Full-width rows of a raster."""

    @property
    def reflectance(self) -> Float32Array:
        """(source band, row, col) float32; any value where not valid."""

    @property
    def valid(self) -> BoolArray:
        """(row, col) True where usable."""


AnyStrip = TypeVar("AnyStrip", bound=Strip)


@dataclass(frozen=True, eq=False)
class PatchCorrections:
    """Corrections of the prior's coefficients at the patches of a strip and the rows of patches beside it."""

    values: Float32Array
    """(rank, patch row, patch col) for spectra of scale 1."""
    first: int
    """Row of the raster's patches that `values` begins with."""
    patch: int
    """Side of a patch, in pixels."""

    def between(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Float32Array:
        """(rank, row, col) float32 at these rows and columns of pixels, ascending, bilinear between patch centres."""
        _, height, width = self.values.shape
        (low, high), down = self._weights(rows, self.first, height)
        (left, right), across = self._weights(cols, 0, width)
        result: Float32Array = down @ (self.values[:, low:high, left:right] @ across.T)
        return result

    def _weights(self, pixels: NDArray[np.intp], first: int, count: int) -> tuple[tuple[int, int], Float32Array]:
        """The range of patches beside some pixels, and (pixel, patch) their weights."""
        at = (pixels + 0.5) / self.patch - 0.5 - first
        low, high = (int(np.clip(edge, 0, count - 1)) for edge in (np.floor(at[0]), np.ceil(at[-1])))
        return (low, high + 1), line_weights(at, np.arange(low, high + 1.0)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PatchNetwork:
    """A network of patch tokens, with the prior between one source and one target, on one device."""

    network: SpectralMAE
    prior: PriorOfBands
    device: torch.device
    window: int
    """Side of a window, in pixels, a multiple of the patch."""
    overlap: int
    """Least number of pixels that neighbouring windows share, a multiple of the patch."""
    bfloat16: bool
    errors: Tensor | None = None
    """(source band, 3) of the whole raster, from `pooled`; None: each window's own."""

    @property
    def patch(self) -> int:
        """Side of a patch, in pixels."""
        return self.network.config.patch

    @torch.inference_mode()
    def correct(self, content: Tensor) -> Tensor:
        """(window, rank, patch row, patch col) float32 corrections; see `SpectralMAE.correct`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.network.correct(content, self.prior, self.errors).float()

    @torch.inference_mode()
    def content(self, reflectance: Float32Array, valid: BoolArray) -> Tensor:
        """(patch row, patch col, value) of pixels (source band, row, col) and (row, col), padded to whole patches."""
        rows, cols = valid.shape
        padding, usable = (0, -cols % self.patch, 0, -rows % self.patch), None
        if any(padding) or not valid.all():
            usable = F.pad(to_device(valid, self.device), padding)[None]
        values = F.pad(to_device(reflectance, self.device), padding)[None]
        return self.prior.content(values, self.patch, usable)[0]

    def pooled(self, windows: Iterable[Strip]) -> Self:
        """The network with the errors that these windows have in common: their mean, weighted by known land.

        Itself where no errors are given, or no window has known land.
        """
        if self.prior.errors is None:
            return self
        with _single_threads(self.device) as pool:
            parts = [*pool.map(self._estimate, windows)]
        errors, land = (torch.stack(column) for column in zip(*parts, strict=True))
        return replace(self, errors=torch.einsum("w,wbe->be", land / land.sum(), errors)) if land.any() else self

    @torch.inference_mode()
    def _estimate(self, window: Strip) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            errors, land = self.network.estimate(self.content(window.reflectance, window.valid)[None], self.prior)
        return errors[0], land[0]


def sampled_windows(height: int, width: int, side: int) -> list[Window]:
    """Up to `SAMPLED_SIDE` squared windows of this side, evenly spaced over a raster."""
    tops, lefts = (evenly_spaced(max(0, length - side), SAMPLED_SIDE) for length in (height, width))
    return [Window(top, left, min(side, height - top), min(side, width - left)) for top in tops for left in lefts]


class PatchCorrector:
    """Corrects one raster by a network of patch tokens."""

    def __init__(self, network: PatchNetwork, height: int, width: int, start: int = 0) -> None:
        """For a raster of this size; corrections are computed for rows from `start` on."""
        self._network, self._start = network, start
        patch = self._patch = network.patch
        self._rows, self._cols = -(-height // patch), -(-width // patch)
        self._tiling = Tiling(self._rows, self._cols, network.window // patch, network.overlap // patch)
        self._blender = Blender(self._tiling, network.network.config.rank, network.device)
        spans = self._tiling.rows
        self._ends = [*(top for top, _ in spans[1:]), self._rows]  # patches before these are in no later window
        first = max(0, start // patch - 1)  # interpolation reaches one patch further
        self._next = next(index for index, (_, end) in enumerate(spans) if end > first)
        self.first_row = spans[self._next][0] * patch
        """First row of pixels that `run` needs, so that results equal the results of a whole run bit for bit."""
        self._content: Tensor | None = None
        """(patch row, patch col, value) of the patches that the next row of windows needs."""
        self._content_first = 0
        self._blended: Float32Array | None = None
        """(rank, patch row, patch col) of the finished rows of patches."""
        self._blended_first = 0

    @torch.inference_mode()
    def _add(self, top: int, strip: Strip, each: Callable[..., Iterator[Tensor]]) -> None:
        """Add the strip of pixels that begins at row `top`, and compute the rows of windows that it completes."""
        width = strip.valid.shape[1]
        areas = [slice(left, min(left + TASK_COLS, width)) for left in range(0, width, TASK_COLS)]
        content = torch.cat([*each(partial(self._content_of, strip), areas)], dim=1)
        if self._content is None:
            self._content, self._content_first = content, top // self._patch
        else:
            self._content = torch.cat([self._content, content])
        for begin, end in self._tiling.rows[self._next :]:
            if end > self._content_first + len(self._content):
                break
            self._content = self._content[begin - self._content_first :]
            self._content_first = begin
            self._predict(self._content[: end - begin], each)
            self._next += 1

    def _content_of(self, strip: Strip, cols: slice) -> Tensor:
        """(patch row, patch col, value) content of the patches of some columns."""
        return self._network.content(strip.reflectance[:, :, cols], strip.valid[:, cols])

    def _predict(self, content: Tensor, each: Callable[..., Iterator[Tensor]]) -> None:
        """Predict and blend a row of windows; a window without a valid pixel corrects nothing."""
        windows = torch.stack([content[:, slice(*span)] for span in self._tiling.cols])  # (window, row, col, value)
        known = torch.nonzero((windows[..., -1] > 0).flatten(1).any(dim=1))[:, 0]
        size = max(1, PATCHES_PER_CALL[content.device.type] // windows[0, ..., 0].numel())
        corrections = windows.new_zeros(len(windows), self._network.network.config.rank, *windows.shape[1:3])
        batches = [known[first : first + size] for first in range(0, len(known), size)]
        for batch, found in zip(batches, each(self._network.correct, (windows[b] for b in batches)), strict=True):
            corrections[batch] = found
        self._blender.begin_row(self._next)
        self._blender.add(range(len(windows)), corrections)
        top = self._tiling.rows[self._next][0]
        finished = self._blender.mean(slice(0, self._ends[self._next] - top)).cpu().numpy()
        if self._blended is None:
            self._blended, self._blended_first = finished.copy(), top
        else:
            self._blended = np.concatenate([self._blended, finished], axis=1)

    def _take(self, top: int, bottom: int) -> PatchCorrections | None:
        """The corrections for the pixels of some rows; None until the windows that cover them are computed."""
        first, stop = max(0, top // self._patch - 1), min(self._rows, -(-bottom // self._patch) + 1)
        if self._blended is None or stop > self._blended_first + self._blended.shape[1]:
            return None
        self._blended = self._blended[:, first - self._blended_first :]
        self._blended_first = first
        return PatchCorrections(self._blended[:, : stop - first], first, self._patch)

    def run(self, strips: Iterable[tuple[int, AnyStrip]]) -> Iterator[tuple[int, AnyStrip, PatchCorrections]]:
        """Each strip from `start` on with its first row and its corrections.

        Parameters
        ----------
        strips : first row, and strip: consecutive, from `first_row` or above to the last row. Their heights are
            multiples of the patch, except the last.
        """
        waiting: deque[tuple[int, AnyStrip]] = deque()
        with _single_threads(self._network.device) as pool:
            for top, strip in strips:
                self._add(top, strip, pool.map)
                if top >= self._start:
                    waiting.append((top, strip))
                while waiting:
                    row, ready = waiting[0]
                    corrections = self._take(row, row + len(ready.valid))
                    if corrections is None:
                        break
                    waiting.popleft()
                    yield row, ready, corrections


@contextmanager
def _single_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute with one thread of torch each: on a CPU one for each processor."""
    count, threads = (processors() if device.type == "cpu" else 1), torch.get_num_threads()
    with ThreadPoolExecutor(count, "network", initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(threads)
