"""Pasting of source bands into target bands, for models that do not take source bands as tokens of their own.

A source band is pasted into each target band of which it covers 60 % (arXiv 2502.19451). A token holds a group of
target bands: it is visible if any of its bands is covered. Its other bands are hidden by their value, the middle of
reflectance, or repeat the nearest covered band of the group: `ModelConfig.uncovered`.
"""

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms2hs.errors import GridError
from ms2hs.models.config import NEUTRAL, ModelConfig
from ms2hs.models.mae import MIDDLE
from ms2hs.models.masking import hide_unseen, visible_index
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands


class BandMapping:
    """The source band to paste into each target band, and the groups of target bands that are visible."""

    def __init__(self, config: ModelConfig, source: SpectralGrid, target: SpectralGrid) -> None:
        """`target` ascends in wavelength. GridError where the source covers none of its bands well enough."""
        self._config = config
        self._hidden = hide_unseen(source, target, config.group)
        if self._hidden.all():
            raise GridError(
                "none of the source's bands covers 60 % of a target band; a model with pasted bands needs at least one "
                "such band. Choose another target, or use --model linear."
            )
        covered = pasted_bands(source, target)
        self.bands = np.maximum(_fill_groups(covered, config.group), 0)
        """(target band,) index of the source band to paste there; any index where the group is hidden."""
        self.neutral = np.flatnonzero(covered < 0) if config.uncovered == NEUTRAL else np.empty(0, np.intp)
        """(band,) positions of the target bands that are set to the middle of reflectance."""

    @classmethod
    def of(cls, config: ModelConfig, source: SpectralGrid, target: SpectralGrid) -> Self | None:
        """The mapping, or None for models that take source bands as tokens of their own."""
        return cls(config, source, target) if config.measured == "pasted" else None

    def paste(self, reflectance: Tensor) -> Tensor:
        """(window, target band, row, col) of the source's bands (window, source band, row, col)."""
        bands, neutral = (  # asynchronous copies keep the device busy
            torch.from_numpy(index).to(reflectance.device, non_blocking=True) for index in (self.bands, self.neutral)
        )
        return reflectance[:, bands].index_fill_(1, neutral, MIDDLE)

    def visible(self, rows: int, cols: int) -> NDArray[np.int64]:
        """(1, sequence, token) positions of the visible tokens of a window of these pixels."""
        patches = (rows // self._config.patch) * (cols // self._config.patch)
        hidden = np.broadcast_to(self._hidden, (1, patches, len(self._hidden)))
        return visible_index(hidden, per_patch=self._config.per_patch)


def _fill_groups(pasted: NDArray[np.intp], group: int) -> NDArray[np.intp]:
    """(target band,) source bands, with the gaps of each group filled from its nearest covered band."""
    result = pasted.copy()
    for start in range(0, len(pasted), group):
        part = pasted[start : start + group]
        covered = np.flatnonzero(part >= 0)
        if len(covered):
            nearest = np.abs(np.arange(len(part))[:, None] - covered).argmin(axis=1)
            result[start : start + group] = part[covered[nearest]]
    return result
