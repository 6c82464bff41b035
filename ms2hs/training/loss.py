"""The loss of the training tasks: squared error over all bands, hidden and visible, of valid pixels."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ms2hs.models.config import TARGETS, ModelConfig
from ms2hs.models.layers import BandView
from ms2hs.models.mae import SpectralMAE
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.training.engine.loop import Loss


class TrainingLoss:
    """Base class of the training tasks, frozen dataclasses that define `batch`: the loss and the picture of a batch."""

    config: ModelConfig
    batch_windows: int
    """Windows in a step."""

    @cached_property
    def _band_views(self) -> dict[tuple[bytes, bytes, InputError | None], BandView]:
        return {}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """Input and truth of process `rank` of `world` in a step.

        `source`, `target` (SpectralGrid) and `bands` (positions in the target that are the source, or None);
        `values` (window, source band, row, col), `truth` (window, target band, row, col), `valid` (window, row, col);
        `error` (InputError) that the network is given;
        `visible` (window, sequence, token) or None; `hidden` (window or 1, target band, patch or 1); `strategy`.
        """
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Mapping[str, Any], device: torch.device) -> Loss:
        """Squared error over all bands of valid pixels; relative to brightness for a model with a prior."""
        truth, valid = (torch.as_tensor(batch[name]).to(device, non_blocking=True) for name in ("truth", "valid"))
        limits = TARGETS[self.config.targets][2]
        wanted = truth.clamp(*limits) if limits else truth
        squares = (self.reconstruct(model, batch, device, valid).float() - wanted).square()
        known = valid[:, None].to(squares.dtype)
        weight = known
        if self.config.rank:
            prior = _unwrapped(model).prior
            assert prior is not None  # noqa: S101  a model with rank has a prior
            weight = known / (truth.mean(dim=1, keepdim=True).square() + prior.floor**2)
        hidden = self._hidden_pixels(batch, truth)
        with torch.no_grad():
            parts = {
                "all": ((known * squares).sum(), known.sum() * truth.shape[1]),
                "hidden": ((known * hidden * squares).sum(), (known * hidden).sum()),
                "seen": ((known * ~hidden * squares).sum(), (known * ~hidden).sum()),
            }
        return Loss((weight * squares).sum(), weight.sum() * truth.shape[1], parts)

    def reconstruct(
        self, model: nn.Module, batch: Mapping[str, Any], device: torch.device, valid: Tensor | None = None
    ) -> Tensor:
        """(window, target band, row, col) reflectance that the model predicts; `valid`: the batch's, on the device."""
        target = self._band_view(model, batch["target"])
        known = batch["valid"] if valid is None else valid
        arrays = (batch["values"], batch["visible"], None if batch["valid"].all() else known)
        values, visible, some_valid = (
            None if array is None else torch.as_tensor(array).to(device, non_blocking=True) for array in arrays
        )
        output: Tensor
        if visible is None:
            grid, error = batch["source"], batch.get("error", InputError())
            source = self._band_view(model, grid, error) if grid else target.select(batch["bands"])
            output = model(values, source, target, None, some_valid)
        else:
            output = model(values, target, None, visible, some_valid)
        return output

    def _band_view(self, model: nn.Module, grid: SpectralGrid, error: InputError | None = None) -> BandView:
        key = grid.wavelength_nm.tobytes(), grid.fwhm_nm.tobytes(), error
        if key not in self._band_views:
            self._band_views[key] = _unwrapped(model).band_view(grid, error)
        return self._band_views[key]

    def _hidden_pixels(self, batch: Mapping[str, Any], like: Tensor) -> Tensor:
        """(window or 1, target band, row or 1, col or 1) bool."""
        hidden = torch.as_tensor(batch["hidden"]).to(like.device)
        if hidden.shape[2] == 1:
            return hidden[..., None]
        rows, cols = (size // self.config.patch for size in like.shape[2:])
        image = hidden.view(*hidden.shape[:2], rows, cols)  # (window or 1, target band, patch row, patch col)
        pixels: Tensor = image.repeat_interleave(self.config.patch, 2).repeat_interleave(self.config.patch, 3)
        return pixels

    def save_picture(self, model: nn.Module, path: Path) -> None:
        """Write a PNG of spectra and bands of the first batch, true beside reconstructed."""
        from ms2hs.training.plots import plot_batch  # noqa: PLC0415  matplotlib comes with ms2hs[train]

        small = replace(self, batch_windows=min(self.batch_windows, 4))  # type: ignore[type-var]
        batch = small.batch(0)
        device = next(model.parameters()).device
        with torch.no_grad():
            output = small.reconstruct(model, batch, device).float().cpu().numpy()
        plot_batch(batch, output, path)

    def __getstate__(self) -> dict[str, Any]:
        """Without the cached properties."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


def _unwrapped(model: nn.Module) -> SpectralMAE:
    """The model inside the wrappers of torch.compile and DistributedDataParallel."""
    for name in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, name, model)
    assert isinstance(model, SpectralMAE)  # noqa: S101  tasks train no other model
    return model
