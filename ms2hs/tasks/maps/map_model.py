"""A tuned model as a map needs it: its bands, its classes, and the windows in which it predicts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.device import device_named
from ms2hs.inference.predictor import TOKENS_PER_BATCH
from ms2hs.models.config import ModelConfig
from ms2hs.models.weights import load_weights
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.task_model import TaskModel

# Side of the windows of a network that sees each patch alone, in pixels: their tokens stay in the processor's cache.
LOCAL_WINDOW = 32


@dataclass(frozen=True, eq=False)
class MapModel:
    """A model of a task for one set of bands, with the windows that it needs."""

    name: str
    path: Path
    sha256: str
    """Hash of its file, in hexadecimal."""
    task: str
    """One of `label_set.TASKS`."""
    classes: tuple[str, ...]
    """Names of the classes, or of the quantities."""
    grid: SpectralGrid
    """The bands that it needs."""
    sensor: str | None
    """Name of the sensor of the bands; None: known by wavelength only."""
    side: int
    """Side of a window in pixels."""
    overlap: int
    """Pixels that neighbouring windows share; 0: each pixel is predicted alone."""
    batch: int
    """Windows that are predicted together."""
    predict: Callable[[Float32Array, BoolArray], Float32Array]
    """(window, class or quantity, row, col) probabilities or values, by (window, date, band, row, col) reflectance and
    (window, row, col) validity; any value where not valid."""

    @classmethod
    def load(cls, name_or_path: str | Path, device: str = "auto") -> Self:
        """The model of weights with a head; errors as of `TaskModel.load` and `device_named`."""
        weights = load_weights(str(name_or_path))
        model = TaskModel.tuned(weights)
        model.to(device_named(device))
        facts, config = model.facts, model.encoder.network.config
        side, overlap = windows_of(config, facts.side, whole_images=facts.whole_images)
        tokens = (side // config.patch) ** 2 * (1 if config.by_patch else len(facts.grid))
        return cls(
            *(weights.name, weights.path, weights.sha256, model.task, model.classes, facts.grid, facts.sensor),
            side,
            overlap,
            batch=max(1, TOKENS_PER_BATCH[model.device.type] // tokens),
            predict=model.predict_windows,
        )


def windows_of(config: ModelConfig, training_side: int, *, whole_images: bool) -> tuple[int, int]:
    """Side and overlap of the windows of a map, in pixels.

    A network that mixes patches sees windows as large as in the training of the head: its features depend on all of a
    window. A head of images averages the features of an image's size around each pixel, and other heads interpolate
    between patches: neighbours share these.

    Parameters
    ----------
    training_side : longest side of the images, or side of the windows, of the training.
    """
    patch = config.patch
    if whole_images:
        side = max(config.windows()[0], -(-2 * training_side // patch) * patch)
        return side, max(side // 4, training_side)
    if config.is_local:
        return max(LOCAL_WINDOW // patch, 2) * patch, patch if patch > 1 else 0
    return training_side, training_side // 4
