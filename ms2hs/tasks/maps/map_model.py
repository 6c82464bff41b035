"""A tuned model as a map needs it: its bands, its classes, and the windows in which it predicts."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.inference.device import device_named
from ms2hs.models.config import ModelConfig
from ms2hs.models.weights import find_weights
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
    predict: Callable[[Float32Array, BoolArray], Float32Array]
    """(class or quantity, row, col) probabilities or values, by ([date,] band, row, col) reflectance and (row, col)
    validity of a window; any value where not valid."""

    @classmethod
    def load(cls, name_or_path: str | Path, device: str = "auto") -> Self:
        """The model of weights with a head; errors as of `TaskModel.load` and `device_named`."""
        path = find_weights(str(name_or_path))
        model = TaskModel.load(path)
        model.to(device_named(device))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts, config = model.facts, model.encoder.network.config
        return cls(
            *(path.stem, path, digest, model.task, model.classes, facts.grid, facts.sensor),
            *windows_of(config, facts.side if facts.whole_images else 0),
            model.predict,
        )


def windows_of(config: ModelConfig, image_side: int) -> tuple[int, int]:
    """Side and overlap of the windows of a map, in pixels.

    A head of images averages the features of an image's size around each pixel (`image_side`; 0 for other heads), and
    other heads interpolate between patches: neighbours share these.
    """
    patch, (side, overlap) = config.patch, config.windows()
    if config.is_local:
        side, overlap = max(LOCAL_WINDOW // patch, 2) * patch, patch if patch > 1 else 0
    if image_side:
        overlap = max(overlap, image_side)
        side = max(side, -(-2 * image_side // patch) * patch)
    return side, overlap
