"""What a network is shown in fine-tuning: windows of pairs, and now and then of simulated ones, lest it forget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.window_sampling import known_bands, read_windows
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.models.band_mapping import BandMapping
from ms2hs.models.config import ModelConfig
from ms2hs.models.harmonization import Adjustment, adjusted
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands
from ms2hs.training.draws import TRIES, Draw, choose, disturb_half, nothing_known
from ms2hs.training.loss import TrainingLoss


@dataclass(frozen=True, eq=False)
class PairedTask(TrainingLoss):
    """Pairs, and what the network sees of them: the source's bands, as it will in use. Follows from (seed, step)."""

    config: ModelConfig
    pairs: Sequence[Pair]
    batch_windows: int
    """Windows a step."""
    seed: int = 0
    window: int | None = None
    """Pixels on a side; None: the configuration's."""
    rehearsal: Sequence[Pair] = ()
    """Simulated pairs that stay in."""
    rehearsal_share: float = 0.2
    """Share of the steps that show them."""
    adjustments: Mapping[str, Adjustment] = field(default_factory=dict)
    """Of products, by sensor: what brings their bands to the truth. Simulated sources have none."""
    artefacts: SensorErrors = field(default_factory=SensorErrors)
    """What simulated sources' bands are off by, in half of the windows."""

    @cached_property
    def _groups(self) -> dict[bool, list[dict[str, list["_Joined"]]]]:
        """By whether they are rehearsed: those of one source and target, by scene."""
        return {False: _grouped(self.pairs), True: _grouped(self.rehearsal)}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """As `TrainingLoss.batch` says.

        Raises
        ------
        DataError : a pair cannot be read; nothing is known in any; too few windows.
        GridError : nothing of a source can be pasted.
        """
        draw = Draw.of(self.batch_windows, (self.seed, step), rank, world)
        rehearsed = bool(self.rehearsal) and draw.common.random() < self.rehearsal_share
        values, truth, valid, target, pair = self._windows(draw, rehearsed=rehearsed)
        source = pair.source
        if pair.is_simulated:
            values = disturb_half(values, source, self.artefacts, draw)
        else:
            values = adjusted_windows(values, source, self.adjustments.get(pair.sensor))
        known = valid & np.isfinite(values).all(axis=1)
        values = np.where(known[:, None], values, np.float32(0))
        hidden = pasted_bands(source, target) < 0
        shown: dict[str, Any] = {"source": source, "bands": None, "values": values, "visible": None}
        pasting = BandMapping.of(self.config, source, target)
        if pasting:
            visible = pasting.visible(*values.shape[2:]).repeat(len(values), axis=0)
            shown |= {"source": None, "values": values[:, pasting.bands], "visible": visible}
        others = {"hidden": hidden[None, :, None], "valid": known, "truth": truth, "target": target}
        return shown | others | {"strategy": "rehearsal" if rehearsed else "pairs"}

    def _windows(
        self, draw: Draw, *, rehearsed: bool
    ) -> tuple[Float32Array, Float32Array, BoolArray, SpectralGrid, Pair]:
        """(window, source band, row, col), (window, target band, row, col), (window, row, col), the target's bands."""
        c = self.config
        for _ in range(TRIES):
            own, side = choose(self._groups[rehearsed], draw)
            size = min(self.window or c.window, max(1, -(-side // c.patch)) * c.patch)
            both = read_windows(own, size, draw.own, turned=True)
            pair = own[0].pair
            measured, truth = np.split(both, [len(pair.source)], axis=1)
            found = known_bands(np.where(np.isfinite(measured).all(axis=1, keepdims=True), truth, np.nan), pair.target)
            if found is not None:
                return measured, *found, pair
        raise nothing_known(self.batch_windows, f"{len(self.pairs)} pairs")


def adjusted_windows(values: Float32Array, source: SpectralGrid, adjustment: Adjustment | None) -> Float32Array:
    """(window, source band, row, col) values with the product's adjustment."""
    return adjusted(values.swapaxes(0, 1), source.names, adjustment).swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class _Joined:
    """A pair as one cube: the source's bands, then the target's, so that both are cut and turned alike."""

    pair: Pair

    @property
    def shape(self) -> tuple[int, int]:
        return self.pair.shape

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        return np.concatenate(self.pair.read(row, col, height, width))


def _grouped(pairs: Sequence[Pair]) -> list[dict[str, list[_Joined]]]:
    found: dict[tuple[Any, ...], dict[str, list[_Joined]]] = {}
    for pair in pairs:
        grids = (pair.source, pair.target)
        key = (pair.sensor, pair.is_simulated, *(grid.wavelength_nm.tobytes() for grid in grids))
        found.setdefault(key, {}).setdefault(pair.scene, []).append(_Joined(pair))
    return list(found.values())
