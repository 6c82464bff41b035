"""A network at work: one source, one target, numpy arrays in and out, any size of window."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  as everywhere
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.models.device import native_bfloat16
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.pasting import Pasting
from ms2hs.spectra.grid import SpectralGrid

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

# So many tokens go through a local network at a time: few enough to stay in a processor's cache, where `spectral` takes
# half the time of 16 times as many; a GPU wants many.
TOKENS_AT_A_TIME = {"cpu": 1 << 13, "cuda": 1 << 20, "mps": 1 << 18}


class Reconstructor:
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
        self.patch = config.patch
        self.window = config.window
        self.is_local = config.is_local
        """Whether windows need no overlap, and may be of any size."""
        self.overlap = 0 if self.is_local else config.window // 4
        self._order = np.argsort(target.wavelength_nm, kind="stable")
        self._target = network.lens(target).select(self._order)
        self._source = network.lens(source)
        self._pasting = Pasting.of(config, source, target.select(self._order))

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
        for part in self._parts(rows, cols, len(reflectance)):
            result[:, *part] = self.reconstruct_windows([reflectance[:, *part]], [valid[part]])[0]
        return result

    def _parts(self, rows: int, cols: int, bands: int) -> Iterator[tuple[slice, slice]]:
        """Whole places, of few enough tokens."""
        places = max(1, TOKENS_AT_A_TIME[self.device.type] // bands)
        across = min(places, -(-cols // self.patch))
        height, width = self.patch * (places // across), self.patch * across
        for top in range(0, rows, height):
            for left in range(0, cols, width):
                yield slice(top, top + height), slice(left, left + width)

    def reconstruct_windows(self, reflectance: Sequence[Float32Array], valid: Sequence[BoolArray]) -> Float32Array:
        """(window, target band, row, col) float32 of windows of one size, NaN where not `valid`."""
        known = np.stack(valid)
        values = np.where(known[:, None], np.stack(reflectance), np.float32(0))
        rows, cols = known.shape[1:]
        padding = (0, -cols % self.patch, 0, -rows % self.patch)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            x = F.pad(torch.from_numpy(values).to(self.device), padding)
            ok = F.pad(torch.from_numpy(known).to(self.device), padding)
            made = self._run(x, None if bool(ok.all()) else ok)[:, :, :rows, :cols]
        result = np.empty((len(known), self.bands, rows, cols), np.float32)
        result[:, self._order] = made.float().cpu().numpy()
        if not known.all():
            np.copyto(result, np.float32(np.nan), where=~known[:, None])
        return result

    def _run(self, x: Tensor, ok: Tensor | None) -> Tensor:
        if self._pasting is None:
            return self.network(x, self._source, self._target, valid=ok)  # type: ignore[no-any-return]
        index = torch.as_tensor(self._pasting.bands, device=x.device)
        visible = torch.as_tensor(self._pasting.visible(*x.shape[2:]), device=x.device).expand(len(x), -1, -1)
        return self.network(x[:, index], self._target, visible=visible, valid=ok)  # type: ignore[no-any-return]
