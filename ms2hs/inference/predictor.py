"""A network applied to reflectance: one source and one target sensor, windows or whole rasters of any size.

A network that mixes patches receives windows; larger rasters are covered by overlapping windows and blended
(`patch_corrector` for a network of patch tokens). A local network predicts each patch alone and needs no windows.
A batch holds as many patches as `TOKENS_PER_BATCH` allows: few on a CPU, so that they stay in its cache; many on a GPU,
limited by the free memory for their activations.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.band_mapping import BandMapping
from ms2hs.inference.blending import Blender
from ms2hs.inference.device import free_bytes, native_bfloat16
from ms2hs.inference.patch_corrector import PatchCorrector, PatchNetwork, Strip, sampled_windows
from ms2hs.models.mae import SpectralMAE
from ms2hs.raster.tiling import Tiling
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import SpectralGrid

Area = tuple[slice, slice]
"""Rows and columns."""
# Tokens of measured bands in a batch. On a CPU `spectral` takes twice as long with 16 times as many.
TOKENS_PER_BATCH = {"cpu": 1 << 13, "cuda": 1 << 20, "mps": 1 << 18}
# Float32 values in memory at the peak: per token and unit of width in a transformer block (4 before and 4 after GELU,
# 4 stages of the token), and per predicted value (prior, addition, sum, and two temporaries).
VALUES_PER_TOKEN, VALUES_PER_PREDICTION = 12, 5
# Rows that `reconstruct` corrects together.
STRIP_ROWS = 256


class _Rows(NamedTuple):
    """Rows of a raster, as `patch_corrector.Strip`."""

    reflectance: Float32Array
    valid: BoolArray


class Predictor:
    """A network with the bands of one source and one target, on one device."""

    def __init__(
        self,
        network: SpectralMAE,
        source: SpectralGrid,
        target: SpectralGrid,
        device: torch.device | None = None,
        window: int | None = None,
        *,
        error: InputError | None = None,
    ) -> None:
        """Move the network to the device.

        Parameters
        ----------
        device : None: the CPU.
        window : side of the windows of a network that mixes patches, in pixels, a multiple of its patch; None: as of
            `ModelConfig.windows`.
        error : errors of the input, for a network of patch tokens, which then adds to the expectation given these.

        Raises
        ------
        GridError : bands outside the wavelengths of the network's prior, or no source band that maps to the target.
        """
        config = network.config
        self.device = device or torch.device("cpu")
        self.network = network.to(self.device).eval()
        # A network adds little to its prior, and the prior is computed in float32. On a CPU bfloat16 would save 10 to
        # 30 %, and results would differ between CPUs with and without it.
        self._bfloat16 = config.rank > 0 and self.device.type == "cuda" and native_bfloat16(self.device)
        self.source_count, self.target_count = len(source), len(target)
        self.patch, (self.window, self.overlap) = config.patch, config.windows(window)
        self.is_local = config.is_local
        """Whether each patch is predicted from that patch alone: windows need no overlap and may have any size."""
        order = np.argsort(target.wavelength_nm, kind="stable")
        self._target = network.band_view(target).select(order)
        self._source = network.band_view(source, error if config.by_patch else None)
        self._band_mapping = BandMapping.of(config, source, target.select(order))
        is_sorted = np.array_equal(order, np.arange(self.target_count))
        self.patch_network: PatchNetwork | None = None
        """The network where it is one of patch tokens."""
        if config.by_patch:
            prior = network.prior_between(self._source, network.band_view(target), self.device)
            settings = self.device, self.window, self.overlap, self._bfloat16
            self.patch_network = PatchNetwork(self.network, prior, *settings)
        self._output_order = None if is_sorted else torch.as_tensor(np.argsort(order), device=self.device)
        """(target band,) index into the network's output, which is sorted by wavelength; None: the same order."""

    def pool(self, windows: Iterable[Strip]) -> None:
        """Keep the errors that a raster has in common, from its `sampled_windows`, for a network of patch tokens."""
        if self.patch_network:
            self.patch_network = self.patch_network.pooled(windows)

    def reconstruct(self, reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        """(target band, row, col) float32 of a raster of any size, NaN where not `valid`, blended as in `convert`.

        Parameters
        ----------
        reflectance : (source band, row, col) float32; any value where not valid.
        valid : (row, col) True where usable.
        """
        height, width = valid.shape
        result = np.empty((self.target_count, height, width), np.float32)
        is_pooled = self.patch_network is not None and self.patch_network.errors is not None
        if is_pooled or (not self.is_local and max(height, width) > self.window):
            parts = self._corrected(reflectance, valid) if self.patch_network else self._blended(reflectance, valid)
            for top, values in parts:
                result[:, top : top + values.shape[1]] = values
            return result
        whole = slice(0, height), slice(0, width)
        for area in self.split_area(whole, self.patches_per_batch) if self.is_local else [whole]:
            result[:, *area] = self.reconstruct_windows([reflectance[:, *area]], [valid[area]])[0]
        return result

    def _blended(self, reflectance: Float32Array, valid: BoolArray) -> Iterator[tuple[int, Float32Array]]:
        """First row, and (target band, row, col), of the parts of a raster that rows of overlapping windows finish."""
        height, width = valid.shape
        tiling = Tiling(height, width, self.window, self.overlap)
        blender = Blender(tiling, self.target_count, self.device)
        for i, (top, bottom) in enumerate(tiling.rows):
            blender.begin_row(i)
            for col, (left, right) in enumerate(tiling.cols):
                area = slice(top, bottom), slice(left, right)
                predicted = self.reconstruct_windows([reflectance[:, *area]], [valid[area]])
                blender.add([col], torch.from_numpy(predicted).to(self.device))
            end = tiling.rows[i + 1][0] if i + 1 < len(tiling.rows) else height
            yield top, blender.mean(slice(0, end - top)).cpu().numpy()

    def _corrected(self, reflectance: Float32Array, valid: BoolArray) -> Iterator[tuple[int, Float32Array]]:
        """The same for a network of patch tokens, in strips."""
        assert self.patch_network is not None  # noqa: S101  called only for such a network
        height, width = valid.shape
        strips = (
            (top, _Rows(reflectance[:, top : top + STRIP_ROWS], valid[top : top + STRIP_ROWS]))
            for top in range(0, height, STRIP_ROWS)
        )
        network = self.patch_network
        if network.errors is None:
            windows = (window.area for window in sampled_windows(height, width, self.window))
            network = network.pooled(_Rows(reflectance[:, *area], valid[area]) for area in windows)
        for top, rows, corrections in PatchCorrector(network, height, width).run(strips):
            coefficients = corrections.between(top + np.arange(len(rows.valid)), np.arange(width))
            values = np.where(rows.valid, rows.reflectance, np.float32(0))
            tensors = (torch.from_numpy(array)[None].to(self.device) for array in (values, coefficients))
            predicted = self.patch_network.prior.corrected(*tensors)[0].cpu().numpy()
            yield top, np.where(rows.valid, predicted, np.float32(np.nan))

    @property
    def patches_per_batch(self) -> int:
        """Patches in a batch, 1 or more; on CUDA at most as many as half of its free memory holds."""
        patches = TOKENS_PER_BATCH[self.device.type] // self.source_count
        if self.device.type == "cuda":
            patches = min(patches, free_bytes(self.device) // 2 // self._bytes_per_patch)
        return max(1, patches)

    @property
    def _bytes_per_patch(self) -> int:
        config = self.network.config
        queries = 1 if config.rank else -(-self.target_count // config.group)
        visible = self.source_count if self._band_mapping is None else queries
        width = max(config.width, config.decoder_width)
        activations = VALUES_PER_TOKEN * width * (visible + queries)
        return 4 * (activations + VALUES_PER_PREDICTION * self.target_count * self.patch**2)

    def windows_per_batch(self, rows: int, cols: int) -> int:
        """Windows of this size in a batch: as many as `patches_per_batch` allows, at least 1; always 1 on a CPU."""
        if self.device.type == "cpu":
            return 1
        patches = -(-rows // self.patch) * -(-cols // self.patch)
        return max(1, self.patches_per_batch // patches)

    def split_area(self, area: Area, patches: int) -> list[Area]:
        """Parts of an area with at most this many patches each, row by row; far edges of the area may cut patches."""
        (top, bottom), (left, right) = ((side.start, side.stop) for side in area)
        across = min(patches, -(-(right - left) // self.patch))
        height, width = self.patch * (patches // across), self.patch * across
        return [
            (slice(row, min(row + height, bottom)), slice(col, min(col + width, right)))
            for row in range(top, bottom, height)
            for col in range(left, right, width)
        ]

    def reconstruct_windows(self, reflectance: Sequence[Float32Array], valid: Sequence[BoolArray]) -> Float32Array:
        """(window, target band, row, col) float32 of windows of one size, NaN where not `valid`."""
        usable = np.stack(valid)
        values = np.where(usable[:, None], np.stack(reflectance), np.float32(0))
        valid_tensor = None if usable.all() else torch.from_numpy(usable).to(self.device)
        predicted = self.reconstruct_tensor(torch.from_numpy(values).to(self.device), valid_tensor)
        result = np.ascontiguousarray(predicted.cpu().numpy())
        np.copyto(result, np.float32(np.nan), where=~usable[:, None])
        return result

    @torch.inference_mode()
    def reconstruct_tensor(self, reflectance: Tensor, valid: Tensor | None = None) -> Tensor:
        """(window, target band, row, col) float32 on the device; arbitrary where not `valid`.

        Parameters
        ----------
        reflectance : (window, source band, row, col) float32 on the device; any finite value where not valid.
        valid : (window, row, col) bool on the device; None: everywhere.
        """
        rows, cols = reflectance.shape[2:]
        padding = (0, -cols % self.patch, 0, -rows % self.patch)
        if any(padding):
            valid = reflectance.new_ones(reflectance[:, 0].shape, dtype=torch.bool) if valid is None else valid
            reflectance, valid = F.pad(reflectance, padding), F.pad(valid, padding)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            predicted = self._forward(reflectance, valid)[:, :, :rows, :cols].float()
        return predicted if self._output_order is None else predicted[:, self._output_order]

    def _forward(self, reflectance: Tensor, valid: Tensor | None) -> Tensor:
        if self._band_mapping is None:
            return self.network(reflectance, self._source, self._target, valid=valid)  # type: ignore[no-any-return]
        pasted = self._band_mapping.paste(reflectance)
        visible = torch.from_numpy(self._band_mapping.visible(*reflectance.shape[2:]))
        visible = visible.to(reflectance.device, non_blocking=True).expand(len(reflectance), -1, -1)
        return self.network(pasted, self._target, visible=visible, valid=valid)  # type: ignore[no-any-return]
