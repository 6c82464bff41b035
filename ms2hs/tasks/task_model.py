"""A network with the head of a task: classes or quantities of images, or of each pixel, from reflectance.

The head is one linear layer on features of the encoder. Samples that are images have the mean of their patches. Pixels
have the features of the patches around them, interpolated between patch centres, and beside them the pixel's own bands
where a patch has more than one pixel, so that maps are sharp. A change has the features of both dates, and their
absolute difference, which no linear layer could compute.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import Ms2hsError, WeightsError
from ms2hs.files import NO_FILES, FileIds
from ms2hs.models.layers import between_patches, smoothed
from ms2hs.models.weights import TaskPart, Weights, load_weights, save_weights
from ms2hs.spectra.sensors import MAX_BANDS, shipped_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.label_set import TASKS, LabelSet
from ms2hs.tasks.task_encoder import TaskEncoder

# Limits of a header: classes and the length of their names; the longest side of an image or window, in pixels.
MAX_CLASSES, MAX_NAME, MAX_SIDE = 1000, 100, 4096
# Outputs of the head as probabilities or values.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("classification", "segmentation", "change"), lambda logits: logits.softmax(dim=1)),
    "multilabel": torch.sigmoid,
    "regression": lambda values: values,
}


@dataclass(frozen=True, eq=False)
class TaskFacts:
    """What a head was trained for; the header `task` of its weights."""

    task: str
    """One of `TASKS`."""
    classes: tuple[str, ...]
    """Names of the classes, or of the quantities."""
    whole_images: bool
    """Whether samples are images, and not pixels."""
    side: int
    """Longest side of the images, or side of the windows, of the training, in pixels."""
    sensor: str | None
    grid: SpectralGrid
    """The input's bands."""

    @classmethod
    def of(cls, labels: LabelSet, side: int) -> Self:
        """The facts of labelled samples; the sensor is kept where it is shipped and has all the bands."""
        sensor = shipped_sensor(labels.sensor or "")
        has_bands = sensor is not None and set(labels.grid.names) <= set(sensor.grid.names)
        name = labels.sensor if has_bands else None
        return cls(labels.task, labels.classes, labels.whole_images, side, name, labels.grid)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The facts of a header, which is text of others; ValueError, TypeError, KeyError or GridError if unusable."""
        task, classes, sensor, side = (stored[name] for name in ("task", "classes", "sensor", "side"))
        bands = stored["bands"]
        texts = [*classes, *bands]
        if not all(isinstance(text, str) and 0 < len(text) <= MAX_NAME and text.isprintable() for text in texts):
            raise ValueError(f"names of classes and bands; 1 to {MAX_NAME} printable characters are needed")
        if task not in TASKS or not 0 < len(set(classes)) == len(classes) <= MAX_CLASSES:
            raise ValueError(f"task {task!r:.40}, {len(classes)} classes; a known task and distinct names are needed")
        if not (isinstance(side, int) and 0 < side <= MAX_SIDE and isinstance(stored["whole_images"], bool)):
            raise ValueError(f"side {side!r:.40}; 1 to {MAX_SIDE} pixels are needed")
        if len(bands) > MAX_BANDS:
            raise ValueError(f"{len(bands)} bands; at most {MAX_BANDS} are allowed")
        if sensor is not None:
            known = shipped_sensor(str(sensor))
            if known is None:
                raise ValueError(f"sensor {sensor!r:.40}; a sensor of this version of ms2hs is needed")
            grid = known.grid.select(known.grid.index(bands))
        else:
            nm, fwhm = (np.array(stored[name], float) for name in ("wavelength_nm", "fwhm_nm"))
            grid = SpectralGrid(tuple(bands), nm, fwhm, np.ones(len(bands), bool))
        return cls(task, tuple(classes), stored["whole_images"], side, sensor, grid)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values, as `from_dict` reads them."""
        names = ("task", "whole_images", "side", "sensor")
        own = {name: getattr(self, name) for name in names} | {"classes": list(self.classes)}
        grid = {name: getattr(self.grid, name).tolist() for name in ("wavelength_nm", "fwhm_nm")}
        return own | grid | {"bands": list(self.grid.names)}


class TaskModel(nn.Module):
    """Encoder and head. `forward` gives the head's outputs, `predict` probabilities or values."""

    def __init__(self, encoder: TaskEncoder, facts: TaskFacts) -> None:
        """A head of zeros: equal probabilities."""
        super().__init__()
        self.encoder, self.facts = encoder, facts
        self._has_own_bands = encoder.patch > 1 and not facts.whole_images
        own_bands = len(facts.grid) if self._has_own_bands else 0
        self.feature_count = (encoder.width + own_bands) * (3 if facts.task == "change" else 1)
        self.head = nn.Linear(self.feature_count, len(facts.classes))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        # see `standardise`
        for name, values in (("mean", torch.zeros), ("deviation", torch.ones)):
            self.register_buffer(f"feature_{name}", values(self.feature_count))
            self.register_buffer(f"output_{name}", values(len(facts.classes)))

    feature_mean: Tensor
    feature_deviation: Tensor
    output_mean: Tensor
    output_deviation: Tensor

    @classmethod
    def of(cls, weights: Weights, facts: TaskFacts) -> Self:
        """An untrained head on a copy of the encoder of weights; errors as of `TaskEncoder.of`."""
        encoder = TaskEncoder.of(weights, facts.grid, facts.sensor)
        return cls(copy.deepcopy(encoder), facts)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The model of a file of weights with a head; errors as of `load_weights` and `tuned`."""
        return cls.tuned(load_weights(str(path)))

    @classmethod
    def tuned(cls, weights: Weights) -> Self:
        """The model of weights with a head, in evaluation mode on the CPU.

        Raises
        ------
        WeightsError : weights without a head; a header or arrays that do not fit.
        """
        if weights.task is None:
            raise WeightsError(
                f"{weights.path}: weights without the head of a task; weights with a head are needed. Train one with "
                "`ms2hs finetune --labels LABELS`."
            )
        try:
            facts = TaskFacts.from_dict(weights.task.facts)
        except (KeyError, TypeError, ValueError, OverflowError, Ms2hsError) as error:
            raise WeightsError(
                f"{weights.path}: cannot read 'task' of its header ({str(error)[:200]}); a header of this version of "
                "ms2hs is needed. Train the head again with `ms2hs finetune --labels LABELS`."
            ) from error
        model = cls(TaskEncoder.of(weights, facts.grid, facts.sensor), facts)
        arrays = {name: torch.from_numpy(np.array(one, np.float32)) for name, one in weights.task.arrays.items()}
        if arrays["head.weight"].shape != model.head.weight.shape:
            shapes = tuple(arrays["head.weight"].shape), tuple(model.head.weight.shape)
            raise WeightsError(
                f"{weights.path}: task.head.weight is {shapes[0]}; {shapes[1]} is needed for its classes and bands. "
                "Train the head again with `ms2hs finetune --labels LABELS`."
            )
        model.load_state_dict({_module_name(name): array for name, array in arrays.items()}, strict=False)
        return model.eval()

    def save(
        self,
        path: Path,
        weights: Weights,
        card: Mapping[str, Any],
        *,
        overwrite: bool = False,
        inputs: FileIds = NO_FILES,
    ) -> str:
        """Fold the head, and write `weights` with it and the encoder's trained parameters; the SHA-256 of the file.

        A conversion with the file equals a conversion with `weights`. Errors are as of `save_weights`.
        """
        self.fold()
        tensors = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        named = self.encoder.encoder_parameters().items()
        tensors |= {f"encoder.{name}": parameter for name, parameter in named if parameter.requires_grad}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        return save_weights(
            *(path, weights.prior, card, weights.network),
            sigma_scale=weights.sigma_scale,
            adjustments=weights.adjustments,
            task=TaskPart(self.facts.to_dict(), arrays),
            overwrite=overwrite,
            inputs=inputs,
        )

    @property
    def task(self) -> str:
        """One of `TASKS`."""
        return self.facts.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the quantities."""
        return self.facts.classes

    @property
    def grid(self) -> SpectralGrid:
        """The input's bands."""
        return self.facts.grid

    @property
    def sensor(self) -> str | None:
        """Name of the sensor of the bands; None: known by wavelength only."""
        return self.facts.sensor

    @property
    def patch(self) -> int:
        """Side of the encoder's patches, in pixels."""
        return self.encoder.patch

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.head.weight.device

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """(window, output, row, col) logits or values; one row and column where samples are images.

        Parameters
        ----------
        values : (window, date, band, row, col) reflectance; any value, also NaN, where not valid. One date, or two for
            a change.
        valid : (window, row, col) bool; for a change, where both dates are valid.
        """
        tokens, own = self.features(values, valid)
        of_patches, of_pixels = self.outputs(tokens, own)
        if self.facts.whole_images:
            return of_patches
        rows, cols = valid.shape[1:]
        return between_patches(of_patches, self.encoder.patch)[:, :, :rows, :cols] + of_pixels

    def features(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the head; arguments as of `forward`.

        Returns
        -------
        (window, feature, patch row, patch col) of patches, or of the image with one row and column; and
        (window, feature, row, col) of pixels, which may be none.
        """
        dates = [self._of_date(values[:, date], valid) for date in range(values.shape[1])]
        if self.task == "change":
            dates.append(((dates[1][0] - dates[0][0]).abs(), (dates[1][1] - dates[0][1]).abs()))
        tokens, own = (torch.cat(parts, dim=1) for parts in zip(*dates, strict=True))
        return tokens, own

    def outputs(self, tokens: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """(window, output, row, col) parts of the outputs by features of patches and of pixels; both are linear.

        The outputs of patches are interpolated in place of their features: the head has fewer values.
        """
        split = tokens.shape[1]
        weight, bias = self._scaled_head()
        of_patches = F.linear(tokens.movedim(1, -1), weight[:, :split], bias)
        of_pixels = F.linear(own.movedim(1, -1), weight[:, split:])
        return of_patches.movedim(-1, 1), of_pixels.movedim(-1, 1)

    def standardise(self, feature: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        """Scale features and outputs by their (feature,) and (output,) means and deviations during training."""
        for name, values in zip(("mean", "deviation"), zip(feature, output, strict=True), strict=True):
            getattr(self, f"feature_{name}").copy_(values[0])
            getattr(self, f"output_{name}").copy_(values[1])

    def fold(self) -> None:
        """Make this scaling part of the head's linear layer."""
        with torch.no_grad():
            weight, bias = self._scaled_head()
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)
        feature, output = self.feature_mean, self.output_mean
        self.standardise((0 * feature, 0 * feature + 1), (0 * output, 0 * output + 1))

    def _scaled_head(self) -> tuple[Tensor, Tensor]:
        """(output, feature) weights and (output,) biases for features and outputs without scaling."""
        weight = self.head.weight * self.output_deviation[:, None] / self.feature_deviation
        return weight, self.head.bias * self.output_deviation + self.output_mean - weight @ self.feature_mean

    def predict(self, reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        """(class or quantity, row, col) probabilities or values of each pixel of one window: see `predict_windows`.

        Parameters
        ----------
        reflectance : (band, row, col), with the bands of `facts.grid`; (date, band, row, col) for a change.
        valid : (row, col).
        """
        values = reflectance[None] if reflectance.ndim == 4 else reflectance[None, None]
        result: Float32Array = self.predict_windows(values, valid[None])[0]
        return result

    @torch.inference_mode()
    def predict_windows(self, reflectance: Float32Array, valid: BoolArray) -> Float32Array:
        """(window, class or quantity, row, col) probabilities or values of each pixel, NaN where not valid.

        For a head that was trained on images, a pixel has the result of an image of the training's size around it.

        Parameters
        ----------
        reflectance : (window, date, band, row, col), with the bands of `facts.grid`; two dates for a change.
        valid : (window, row, col).
        """
        values = torch.from_numpy(np.ascontiguousarray(reflectance, np.float32)).to(self.device)
        known = torch.from_numpy(np.ascontiguousarray(valid)).to(self.device)
        outputs = self._sliding(values[:, 0], known) if self.facts.whole_images else self(values, known)
        result: Float32Array = ACTIVATIONS[self.task](outputs.float()).cpu().numpy()
        return np.where(valid[:, None], result, np.float32(np.nan))

    def _of_date(self, reflectance: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The features of one date."""
        tokens, known = self._tokens(reflectance, valid)
        if self.facts.whole_images:
            tokens = (tokens * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        own = torch.where(valid[:, None], reflectance, 0.0)
        return tokens, own if self._has_own_bands else own[:, :0]

    def _sliding(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        """(window, output, row, col) of a head of images: tokens averaged over an image's size around each patch."""
        patch, (rows, cols) = self.encoder.patch, valid.shape[1:]
        tokens, known = self._tokens(reflectance, valid)
        size = max(1, round(self.facts.side / patch))
        averaged = smoothed(tokens * known, size) / smoothed(known, size).clamp(min=1e-6)
        of_patches, _ = self.outputs(averaged, reflectance[:, :0])
        return between_patches(of_patches, patch)[:, :, :rows, :cols]

    def _tokens(self, reflectance: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(window, width, patch row, patch col), and (window, 1, patch row, patch col) 1 where a pixel is valid."""
        tokens = self.encoder(reflectance, valid).movedim(-1, 1)
        known = F.max_pool2d(valid[:, None].to(tokens.dtype), self.encoder.patch, ceil_mode=True)
        return tokens, known


def _module_name(name: str) -> str:
    """The name of an array of a file in the state dict of a `TaskModel`."""
    return name.replace("encoder.", "encoder.network.", 1) if name.startswith("encoder.") else name
