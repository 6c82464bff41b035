"""A source's bands set in the places of a target's: what models without tokens for measured bands are shown."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from ms2hs.errors import GridError
from ms2hs.models.config import ModelConfig
from ms2hs.models.masking import hide_unseen, visible_index
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands


class BandMapping:
    """Which source band stands for which target band, and which groups of the target's bands are seen at all."""

    def __init__(self, config: ModelConfig, source: SpectralGrid, target: SpectralGrid) -> None:
        """`target` ascends in wavelength. GridError where none of its bands is covered enough by one of the source."""
        self._by_place = config.reach == "place"
        self._patch = config.patch
        self._hidden = hide_unseen(source, target, config.group)
        if self._hidden.all():
            raise GridError(
                "none of the source's bands covers 60 % of a band of the target; at least one must for a model that "
                "has them pasted. Choose another target, or --model linear."
            )
        self.bands = np.maximum(_fill_groups(pasted_bands(source, target), config.group), 0)
        """(target band,) position of the source band to show there; any where its group is hidden."""

    @classmethod
    def of(cls, config: ModelConfig, source: SpectralGrid, target: SpectralGrid) -> Self | None:
        """None for models that take measured bands as tokens of their own."""
        return cls(config, source, target) if config.measured == "pasted" else None

    def visible(self, rows: int, cols: int) -> NDArray[np.int64]:
        """(1, sequence, token) the groups of which the source sees a band, at each place of a window."""
        places = (rows // self._patch) * (cols // self._patch)
        hidden = np.broadcast_to(self._hidden, (1, places, len(self._hidden)))
        return visible_index(hidden, by_place=self._by_place)


def _fill_groups(pasted: NDArray[np.intp], group: int) -> NDArray[np.intp]:
    """(target band,) source bands, where a group that has any lends the nearest of them to its other bands."""
    result = pasted.copy()
    for start in range(0, len(pasted), group):
        part = pasted[start : start + group]
        seen = np.flatnonzero(part >= 0)
        if len(seen):
            nearest = np.abs(np.arange(len(part))[:, None] - seen).argmin(axis=1)
            result[start : start + group] = part[seen[nearest]]
    return result
