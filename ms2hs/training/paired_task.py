"""The fine-tuning task: windows of pairs, and in some steps windows of simulated pairs, so that the model forgets less.

The input is the source's bands as in conversion: adjusted for a product, and pasted for models without band tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.window_sampling import known_bands, read_windows
from ms2hs.datasets.pairs.pair_types import Pair
from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.inference.band_mapping import BandMapping
from ms2hs.models.config import ModelConfig
from ms2hs.models.harmonization import Adjustment, adjusted
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands
from ms2hs.training.draws import TRIES, StepDraws, choose_sources, disturb_half, no_known_pixel
from ms2hs.training.loss import TrainingLoss


@dataclass(frozen=True, eq=False)
class PairedTask(TrainingLoss):
    """Batches of pairs. A batch follows from (seed, step) alone."""

    config: ModelConfig
    pairs: Sequence[Pair]
    batch_windows: int
    """Windows in a step."""
    seed: int = 0
    window: int | None = None
    """Side of the windows, in pixels; None: the configuration's."""
    rehearsal: Sequence[Pair] = ()
    """Simulated pairs."""
    rehearsal_share: float = 0.2
    """Share of the steps with simulated pairs."""
    adjustments: Mapping[str, Adjustment] = field(default_factory=dict)
    """Corrections of products, by sensor. Simulated sources have none."""
    sensor_errors: SensorErrors = field(default_factory=SensorErrors)
    """Errors of simulated sources' bands, in half of the windows."""

    @cached_property
    def _groups(self) -> dict[bool, list[dict[str, list["_JoinedPair"]]]]:
        """Pairs of one source and target by scene; False: `pairs`, True: `rehearsal`."""
        return {False: _grouped(self.pairs), True: _grouped(self.rehearsal)}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """See `TrainingLoss.batch`.

        Raises
        ------
        DataError : a pair cannot be read; no pixel is known; fewer windows than processes.
        GridError : no band of a source can be pasted.
        """
        draws = StepDraws.of(self.batch_windows, (self.seed, step), rank, world)
        rehearsed = bool(self.rehearsal) and draws.common.random() < self.rehearsal_share
        values, truth, valid, target, pair = self._windows(draws, rehearsed=rehearsed)
        source = pair.source
        if pair.is_simulated:
            values = disturb_half(values, source, self.sensor_errors, draws)
        else:
            adjustment = self.adjustments.get(pair.sensor)
            values = adjusted(values.swapaxes(0, 1), source.names, adjustment).swapaxes(0, 1)
        known = valid & np.isfinite(values).all(axis=1)
        values = np.where(known[:, None], values, np.float32(0))
        batch: dict[str, Any] = {
            "source": source,
            "bands": None,
            "values": values,
            "visible": None,
            "hidden": (pasted_bands(source, target) < 0)[None, :, None],
            "valid": known,
            "truth": truth,
            "target": target,
            "strategy": "rehearsal" if rehearsed else "pairs",
        }
        mapping = BandMapping.of(self.config, source, target)
        if mapping:
            visible = mapping.visible(*values.shape[2:]).repeat(len(values), axis=0)
            pasted = mapping.paste(torch.from_numpy(values)).numpy()
            batch |= {"source": None, "values": pasted, "visible": visible}
        return batch

    def _windows(
        self, draws: StepDraws, *, rehearsed: bool
    ) -> tuple[Float32Array, Float32Array, BoolArray, SpectralGrid, Pair]:
        """(window, source band, row, col), (window, target band, row, col), (window, row, col), the target's bands."""
        c = self.config
        for _ in range(TRIES):
            joined, side = choose_sources(self._groups[rehearsed], draws)
            size = min(self.window or c.window, max(1, -(-side // c.patch)) * c.patch)
            windows = read_windows(joined, size, draws.own, turned=True)
            pair = joined[0].pair
            measured, truth = np.split(windows, [len(pair.source)], axis=1)
            known = known_bands(np.where(np.isfinite(measured).all(axis=1, keepdims=True), truth, np.nan), pair.target)
            if known is not None:
                return measured, *known, pair
        raise no_known_pixel(self.batch_windows, f"{len(self.pairs)} pairs")


@dataclass(frozen=True, eq=False)
class _JoinedPair:
    """A pair as one cube: the source's bands, then the target's, so that both are cut and turned alike."""

    pair: Pair

    @property
    def shape(self) -> tuple[int, int]:
        return self.pair.shape

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        return np.concatenate(self.pair.read(row, col, height, width))


def _grouped(pairs: Sequence[Pair]) -> list[dict[str, list[_JoinedPair]]]:
    groups: dict[tuple[Any, ...], dict[str, list[_JoinedPair]]] = {}
    for pair in pairs:
        grids = (pair.source, pair.target)
        key = (pair.sensor, pair.is_simulated, *(grid.wavelength_nm.tobytes() for grid in grids))
        groups.setdefault(key, {}).setdefault(pair.scene, []).append(_JoinedPair(pair))
    return list(groups.values())
