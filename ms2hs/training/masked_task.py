"""The pretraining task: windows of cubes, partly hidden from the model by a masking strategy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.cubes.spectra_npz import view_matrix
from ms2hs.datasets.cubes.window_sampling import MIN_BANDS_IN_BATCH, known_bands, read_windows
from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.errors import DataError
from ms2hs.models.config import ModelConfig
from ms2hs.models.masking import SENSORS, STRATEGIES, draw_share, hide, visible_index
from ms2hs.models.moments import scale_of
from ms2hs.models.prior import brightness_weights
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, InputError, input_error_named
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid, pasted_bands
from ms2hs.training.draws import (
    TRIES,
    StepDraws,
    choose_sources,
    disturb_as_given,
    disturb_half,
    no_known_pixel,
)
from ms2hs.training.loss import TrainingLoss
from ms2hs.training.prior_evidence import PriorSettings

# Factors of the typical input error.
ERROR_SIZES = (0.5, 1.0, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class MaskedTask(TrainingLoss):
    """Batches of cubes that the configuration's strategies hide in part. A batch follows from (seed, step) alone."""

    config: ModelConfig
    cubes: Sequence[Cube]
    batch_windows: int
    """Windows in a step."""
    steps: int
    """Steps of the run; the stages of a staged configuration have equal parts."""
    seed: int = 0
    window: int | None = None
    """Side of the windows, in pixels; None: the configuration's."""
    sensor_errors: SensorErrors = field(default_factory=SensorErrors)
    """Errors of the simulated sources' bands."""

    @cached_property
    def _grids(self) -> dict[bytes, dict[str, list[Cube]]]:
        """Cubes by grid and scene: a batch has one grid."""
        grids: dict[bytes, dict[str, list[Cube]]] = {}
        for cube in self.cubes:
            key = cube.grid.wavelength_nm.tobytes() + cube.grid.fwhm_nm.tobytes()
            grids.setdefault(key, {}).setdefault(cube.scene, []).append(cube)
        return grids

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """See `TrainingLoss.batch`.

        Raises
        ------
        DataError : a cube cannot be read; no pixel is known; too few tokens to hide some; fewer windows than processes.
        """
        draws = StepDraws.of(self.batch_windows, (self.seed, step), rank, world)
        strategy = self._strategy(step, draws.common)
        truth, valid, target = self._windows(draws)
        if strategy == SENSORS:
            model_input = self._sensor_bands(truth, target, draws)
        elif self.config.rank:
            model_input = self._some_bands(truth, target, draws)
        else:
            model_input = self._masked(strategy, truth, draws)
        known = valid & np.isfinite(model_input["values"]).all(axis=1)
        unused = {"source": None, "bands": None, "visible": None, "error": InputError()}
        return unused | model_input | {"strategy": strategy, "valid": known, "truth": truth, "target": target}

    def _strategy(self, step: int, rng: np.random.Generator) -> str:
        names = self.config.masking
        if self.config.staged:
            return names[min(step * len(names) // self.steps, len(names) - 1)]
        return names[int(rng.integers(len(names)))]

    def _windows(self, draws: StepDraws) -> tuple[Float32Array, BoolArray, SpectralGrid]:
        """(window, band, row, col) reflectance, (window, row, col) valid, and the bands."""
        c = self.config
        whole_patches = any(name in STRATEGIES and STRATEGIES[name].hides_whole_patches for name in c.masking)
        least = 2 if whole_patches else 1  # patches on a side: one patch cannot be both visible and hidden
        for _ in range(TRIES):
            cubes, side = choose_sources(list(self._grids.values()), draws)
            size = min(self.window or c.window, max(least, -(-side // c.patch)) * c.patch)
            known = known_bands(read_windows(cubes, size, draws.own, turned=True), cubes[0].grid)
            if known is not None:
                return known
        raise no_known_pixel(self.batch_windows, f"{len(self.cubes)} cubes")

    def _masked(self, strategy: str, truth: Float32Array, draws: StepDraws) -> dict[str, Any]:
        """Tokens of the target's own bands, some of them hidden."""
        c = self.config
        _, bands, rows, cols = truth.shape
        if c.per_patch:
            strategy = STRATEGIES[strategy].for_single_patches or strategy
        counts = {"patch": (rows // c.patch) * (cols // c.patch), "group": -(-bands // c.group)}
        if np.prod([counts[axis] for axis in STRATEGIES[strategy].drawn_from]) < 2:
            raise DataError(
                f"windows of {rows}x{cols} pixels and {bands} bands: {counts['patch']} patches by {counts['group']} "
                f"groups of bands; masking {strategy!r} needs two, one visible and one hidden. Use larger windows, "
                "more bands, or a smaller patch or group with --set."
            )
        hidden = hide(strategy, (self.batch_windows, *counts.values()), c.hidden, draws.common)[draws.mine]
        return {
            "values": truth,
            "visible": visible_index(hidden, per_patch=c.per_patch),
            "hidden": np.repeat(hidden, c.group, axis=2)[:, :, :bands].transpose(0, 2, 1),
        }

    def _some_bands(self, truth: Float32Array, target: SpectralGrid, draws: StepDraws) -> dict[str, Any]:
        """Some of the target's bands, the same in all patches, as tokens of their own."""
        bands, rng = len(target), draws.common
        visible = bands - min(max(round(draw_share(self.config.hidden, rng) * bands), 1), bands - 1)
        chosen = np.sort(rng.choice(bands, max(visible, min(MIN_BANDS_IN_BATCH, bands - 1)), replace=False))
        values = disturb_half(truth[:, chosen], target.select(chosen), self.sensor_errors, draws)
        hidden = ~np.isin(np.arange(bands), chosen)
        return {"bands": chosen, "values": values, "hidden": hidden[None, :, None]}

    def _sensor_bands(self, truth: Float32Array, target: SpectralGrid, draws: StepDraws) -> dict[str, Any]:
        """The bands of a random sensor with enough of them, simulated from the target's spectra."""
        low, high = target.wavelength_nm[[0, -1]]
        for name in draws.common.permutation(sorted(sensor_names("source"))):
            grid = load_sensor(str(name)).grid
            inside = (grid.wavelength_nm >= low) & (grid.wavelength_nm <= high)
            source = grid.select(inside)
            if len(source) >= MIN_BANDS_IN_BATCH and (CoverShares.of(source.wavelength_nm) or not self.config.by_patch):
                matrix = view_matrix(source, target.wavelength_nm).astype(np.float32)
                measured = np.einsum("sb,nbij->nsij", matrix, truth, optimize=True)
                hidden = (pasted_bands(source, target) < 0)[None, :, None]
                if not self.config.by_patch:
                    values = disturb_half(measured, source, self.sensor_errors, draws)
                    return {"source": source, "values": values, "hidden": hidden}
                error = _given_error(str(name), draws.common)
                values = disturb_as_given(measured, _scale(truth, target), source, error, draws)
                return {"source": source, "values": values, "hidden": hidden, "error": error}
        if self.config.by_patch:
            raise DataError(
                f"a cube of {low:.0f}-{high:.0f} nm; green, red, near infrared and 1610 nm are needed to find the land "
                "cover. Leave this cube out, or train another preset: spectral, dlr-ibm-spectral, s2mae or general."
            )
        return self._some_bands(truth, target, draws)


def _given_error(sensor: str, rng: np.random.Generator) -> InputError:
    """The errors that a network is given in a step: typical errors of random size, or, as often, a product's errors."""
    product = load_sensor(sensor).product_error
    if product and rng.random() < 0.5:
        return input_error_named(product)
    size, typical = float(rng.choice(ERROR_SIZES)), TYPICAL_INPUT_ERROR
    return InputError(size * typical.gain, size * typical.offset, size * typical.pixel)


def _scale(truth: Float32Array, target: SpectralGrid) -> Float32Array:
    """(window, row, col) scale of spectra (window, target band, row, col)."""
    inside = brightness_weights(target.wavelength_nm).astype(np.float32)
    scale: Float32Array = scale_of(np.tensordot(inside, truth, (0, 1)), PriorSettings().floor).astype(np.float32)
    return scale
