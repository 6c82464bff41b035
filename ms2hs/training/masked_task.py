"""What a masked autoencoder is shown in pretraining: windows of cubes, and what it sees of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.cubes.spectra_npz import view_matrix
from ms2hs.datasets.cubes.window_sampling import FEWEST_BANDS, known_bands, read_windows
from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.errors import DataError
from ms2hs.models.config import ModelConfig
from ms2hs.models.masking import SENSORS, STRATEGIES, draw_share, hide, visible_index
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands
from ms2hs.training.draws import TRIES, Draw, choose, disturb_half, nothing_known
from ms2hs.training.loss import TrainingLoss


@dataclass(frozen=True, eq=False)
class MaskedTask(TrainingLoss):
    """Cubes, and how the strategies of a configuration hide parts of them. Follows from (seed, step) alone."""

    config: ModelConfig
    cubes: Sequence[Cube]
    batch_windows: int
    """Windows a step."""
    steps: int
    """Steps that the stages share."""
    seed: int = 0
    window: int | None = None
    """Pixels on a side; None: the configuration's."""
    artefacts: SensorErrors = field(default_factory=SensorErrors)
    """What the simulated sources' bands are off by."""

    @cached_property
    def _grids(self) -> dict[bytes, dict[str, list[Cube]]]:
        """Cubes by their grid and scene: a batch has one grid."""
        found: dict[bytes, dict[str, list[Cube]]] = {}
        for cube in self.cubes:
            key = cube.grid.wavelength_nm.tobytes() + cube.grid.fwhm_nm.tobytes()
            found.setdefault(key, {}).setdefault(cube.scene, []).append(cube)
        return found

    @cached_property
    def _sources(self) -> dict[str, SpectralGrid]:
        return {name: load_sensor(name).grid for name in sensor_names("source")}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """As `TrainingLoss.batch` says.

        Raises
        ------
        DataError : a cube cannot be read; nothing is known in any; too few tokens to hide some; too few windows.
        """
        draw = Draw.of(self.batch_windows, (self.seed, step), rank, world)
        strategy = self._strategy(step, draw.common)
        truth, valid, target = self._windows(draw)
        shown = self._show(strategy, truth, target, draw)
        known = valid & np.isfinite(shown["values"]).all(axis=1)
        return shown | {"strategy": strategy, "valid": known, "truth": truth, "target": target}

    def _strategy(self, step: int, rng: np.random.Generator) -> str:
        names = self.config.masking
        if self.config.staged:
            return names[min(step * len(names) // self.steps, len(names) - 1)]
        return names[int(rng.integers(len(names)))]

    def _windows(self, draw: Draw) -> tuple[Float32Array, BoolArray, SpectralGrid]:
        """(window, band, row, col), (window, row, col) and the bands."""
        c = self.config
        least = 2 if any(name in STRATEGIES and STRATEGIES[name].hides_whole_patches for name in c.masking) else 1  # places on a side: one to see and one to hide
        for _ in range(TRIES):
            own, side = choose(list(self._grids.values()), draw)
            size = min(self.window or c.window, max(least, -(-side // c.patch)) * c.patch)
            found = known_bands(read_windows(own, size, draw.own, turned=True), own[0].grid)
            if found is not None:
                return found
        raise nothing_known(self.batch_windows, f"{len(self.cubes)} cubes")

    def _show(self, strategy: str, truth: Float32Array, target: SpectralGrid, draw: Draw) -> dict[str, Any]:
        if strategy == SENSORS:
            return self._through_sensor(truth, target, draw)
        if self.config.rank:
            return self._some_bands(truth, target, draw)
        return self._masked(strategy, truth, draw)

    def _masked(self, strategy: str, truth: Float32Array, draw: Draw) -> dict[str, Any]:
        """Tokens of the target's own bands, some hidden."""
        c = self.config
        _, bands, rows, cols = truth.shape
        if c.per_patch:
            strategy = STRATEGIES[strategy].for_single_patches or strategy
        shape = (self.batch_windows, (rows // c.patch) * (cols // c.patch), -(-bands // c.group))
        drawn_from = STRATEGIES[strategy].drawn_from
        places = shape[1] if "patch" in drawn_from else 1
        groups = shape[2] if "group" in drawn_from else 1
        if places * groups < 2:
            raise DataError(
                f"windows of {rows}x{cols} pixels and {bands} bands: {shape[1]} places by {shape[2]} groups of bands; "
                f"masking {strategy!r} needs two, one to see and one to hide. Give larger windows or more bands, or "
                "--set a smaller patch or group."
            )
        hidden = hide(strategy, shape, c.hidden, draw.common)[draw.mine]
        return {
            "source": None,
            "bands": None,
            "values": truth,
            "visible": visible_index(hidden, per_patch=c.per_patch),
            "hidden": np.repeat(hidden, c.group, axis=2)[:, :, :bands].transpose(0, 2, 1),
        }

    def _some_bands(self, truth: Float32Array, target: SpectralGrid, draw: Draw) -> dict[str, Any]:
        """Some of the target's bands, the same at all places, as tokens of their own."""
        bands, rng = len(target), draw.common
        seen = bands - min(max(round(draw_share(self.config.hidden, rng) * bands), 1), bands - 1)
        chosen = np.sort(rng.choice(bands, max(seen, min(FEWEST_BANDS, bands - 1)), replace=False))
        values = disturb_half(truth[:, chosen], target.select(chosen), self.artefacts, draw)
        hidden = ~np.isin(np.arange(bands), chosen)
        return {"source": None, "bands": chosen, "values": values, "visible": None, "hidden": hidden[None, :, None]}

    def _through_sensor(self, truth: Float32Array, target: SpectralGrid, draw: Draw) -> dict[str, Any]:
        """A source's view of the target's spectra; a source that sees too few bands of them is drawn again."""
        low, high = target.wavelength_nm[[0, -1]]
        for name in draw.common.permutation(sorted(self._sources)):
            grid = self._sources[str(name)]
            inside = (grid.wavelength_nm >= low) & (grid.wavelength_nm <= high)
            if inside.sum() >= FEWEST_BANDS:
                source = grid.select(inside)
                matrix = view_matrix(source, target.wavelength_nm).astype(np.float32)
                seen = np.einsum("sb,nbij->nsij", matrix, truth, optimize=True)
                values = disturb_half(seen, source, self.artefacts, draw)
                hidden = pasted_bands(source, target) < 0
                return {
                    "source": source,
                    "bands": None,
                    "values": values,
                    "visible": None,
                    "hidden": hidden[None, :, None],
                }
        return self._some_bands(truth, target, draw)
