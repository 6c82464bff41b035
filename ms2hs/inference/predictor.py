"""A network at work: one source, one target, numpy arrays in and out, any size of window."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody uses
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.device import free_bytes, native_bfloat16
from ms2hs.models.band_mapping import BandMapping
from ms2hs.models.mae import SpectralMAE
from ms2hs.spectra.spectral_grid import SpectralGrid

Area = tuple[slice, slice]
"""Rows and columns."""
# So many tokens of measured bands go through a network at a time: few enough to stay in a processor's cache, where
# `spectral` takes half the time of 16 times as many; a GPU wants many.
TOKENS_AT_A_TIME = {"cpu": 1 << 13, "cuda": 1 << 20, "mps": 1 << 18}
# At its peak a block of a transformer holds so many values a token, in units of its width: 4 each before and after
# GELU, and the token itself at four stages. A result is there as expected, added, sum, and twice in between.
TIMES_TOKEN, TIMES_RESULT = 12, 5


class Predictor:
    """What a network makes of the windows of one source."""

    def __init__(
        self, network: SpectralMAE, source: SpectralGrid, target: SpectralGrid, device: torch.device | None = None
    ) -> None:
        """Nothing is computed yet.

        Raises
        ------
        GridError : bands outside the wavelengths of the network's prior; nothing of the source to paste.
        """
        config = network.config
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device).eval()
        # What a network adds to a prior is small, and the prior itself is computed in float32. On a processor it would
        # save a tenth to a third, and the same scene would come out differently on another.
        self._bfloat16 = config.rank > 0 and self.device.type == "cuda" and native_bfloat16(self.device)
        self.bands = len(target)
        self.sources = len(source)
        self.patch = config.patch
        self.window = config.window
        self.is_local = config.is_local
        """Whether windows need no overlap, and may be of any size."""
        self.overlap = 0 if self.is_local else config.window // 4
        order = np.argsort(target.wavelength_nm, kind="stable")
        self._target = network.band_view(target).select(order)
        self._source = network.band_view(source)
        self._pasting = BandMapping.of(config, source, target.select(order))
        ascends = np.array_equal(order, np.arange(self.bands))
        self._place = None if ascends else torch.as_tensor(np.argsort(order), device=self.device)
        """(target band,) where the network's output has it; None: they ascend in wavelength, as there."""

    def reconstruct(self, reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        """(target band, row, col) float32 of a window of any size, NaN where not `valid`.

        Parameters
        ----------
        reflectance : (source band, row, col) float32; anything where not valid.
        valid : (row, col) bool.
        """
        if not self.is_local:
            (made,) = self.reconstruct_windows([reflectance], [valid])
            return np.asarray(made)
        _, rows, cols = reflectance.shape
        result = np.empty((self.bands, rows, cols), np.float32)
        for part in self.parts((slice(0, rows), slice(0, cols)), self.places_at_a_time):
            result[:, *part] = self.reconstruct_windows([reflectance[:, *part]], [valid[part]])[0]
        return result

    @property
    def places_at_a_time(self) -> int:
        """Places whose tokens go through a network at a time, 1 or more: those of `TOKENS_AT_A_TIME`.

        On CUDA also no more than half of its free memory is thought to hold.
        """
        places = TOKENS_AT_A_TIME[self.device.type] // self.sources
        if self.device.type == "cuda":
            places = min(places, free_bytes(self.device) // 2 // self._bytes_of_place)
        return max(1, places)

    @property
    def _bytes_of_place(self) -> int:
        config = self.network.config
        queries = 1 if config.rank else -(-self.bands // config.group)
        shown = self.sources if self._pasting is None else queries
        width = max(config.width, config.decoder_width)
        return 4 * (TIMES_TOKEN * width * (shown + queries) + TIMES_RESULT * self.bands * self.patch**2)

    def windows_at_a_time(self, rows: int, cols: int) -> int:
        """Windows that go through a network at a time, 1 or more: as many as have `places_at_a_time`.

        On a processor 1, which is the soonest done since more leave its cache.
        """
        if self.device.type == "cpu":
            return 1
        places = -(-rows // self.patch) * -(-cols // self.patch)
        return max(1, self.places_at_a_time // places)

    def parts(self, area: Area, places: int) -> list[Area]:
        """An area cut into parts of whole places, at most so many each; row by row, its own edges cut the last."""
        (top, bottom), (left, right) = ((side.start, side.stop) for side in area)
        across = min(places, -(-(right - left) // self.patch))
        height, width = self.patch * (places // across), self.patch * across
        return [
            (slice(row, min(row + height, bottom)), slice(col, min(col + width, right)))
            for row in range(top, bottom, height)
            for col in range(left, right, width)
        ]

    def reconstruct_windows(self, reflectance: Sequence[Float32Array], valid: Sequence[BoolArray]) -> Float32Array:
        """(window, target band, row, col) float32 of windows of one size, NaN where not `valid`."""
        known = np.stack(valid)
        values = np.where(known[:, None], np.stack(reflectance), np.float32(0))
        ok = None if known.all() else torch.from_numpy(known).to(self.device)
        made = self.reconstruct_tensor(torch.from_numpy(values).to(self.device), ok)
        result = np.ascontiguousarray(made.cpu().numpy())
        if ok is not None:
            np.copyto(result, np.float32(np.nan), where=~known[:, None])
        return result

    @torch.inference_mode()
    def reconstruct_tensor(self, reflectance: Tensor, valid: Tensor | None = None) -> Tensor:
        """(window, target band, row, col) float32 on the device; anything where not `valid`.

        Parameters
        ----------
        reflectance : (window, source band, row, col) float32 on the device; anything finite where not valid.
        valid : (window, row, col) bool on the device; None: everywhere.
        """
        rows, cols = reflectance.shape[2:]
        padding = (0, -cols % self.patch, 0, -rows % self.patch)
        if any(padding):
            valid = reflectance.new_ones(reflectance[:, 0].shape, dtype=torch.bool) if valid is None else valid
            reflectance, valid = F.pad(reflectance, padding), F.pad(valid, padding)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            made = self._run(reflectance, valid)[:, :, :rows, :cols].float()
        return made if self._place is None else made[:, self._place]

    def _run(self, x: Tensor, ok: Tensor | None) -> Tensor:
        if self._pasting is None:
            return self.network(x, self._source, self._target, valid=ok)  # type: ignore[no-any-return]
        # not to wait for the device here keeps it busy
        index, visible = (
            torch.from_numpy(array).to(x.device, non_blocking=True)
            for array in (self._pasting.bands, self._pasting.visible(*x.shape[2:]))
        )
        return self.network(x[:, index], self._target, visible=visible.expand(len(x), -1, -1), valid=ok)  # type: ignore[no-any-return]
