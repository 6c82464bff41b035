"""The training task of a head: windows with labelled pixels, or labelled images, and their loss.

A window lies at random around a labelled pixel; the pixels of all training samples in it count, and other pixels do
not. Windows and images are turned and mirrored at random. Samples are drawn as often as they occur: classes have no
weights, so that the probabilities of a model follow the frequencies of its labels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from numpy.typing import NDArray
from torch import Tensor, nn

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.training.draws import TRIES, StepDraws, no_known_pixel
from ms2hs.training.engine.loop import Loss

# Windows of a picture.
PICTURED = 4


def _cross_entropy(outputs: Tensor, truth: Tensor, _deviation: Tensor) -> Tensor:
    return F.cross_entropy(outputs, truth[:, 0].long(), reduction="none")


def _binary_cross_entropy(outputs: Tensor, truth: Tensor, _deviation: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(dim=1)


def _squared_error(outputs: Tensor, truth: Tensor, deviation: Tensor) -> Tensor:
    return ((outputs - truth) / deviation[:, None, None]).square().mean(dim=1)


# By task: (window, row, col) loss of outputs (window, output, row, col) for labels (window, label, row, col), given the
# (label,) standard deviation of the training labels.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(("classification", "segmentation", "change"), _cross_entropy),
    "multilabel": _binary_cross_entropy,
    "regression": _squared_error,
}


class LabelledWindow(NamedTuple):
    """A window, or an image, and its labels."""

    values: Float32Array
    """(date, band, row, col) reflectance, 0 where not valid."""
    valid: BoolArray
    """(row, col) True where all bands of all dates are known."""
    truth: Float32Array
    """(label, row, col): the class index, a number for each class or quantity; one row and column for an image."""
    labelled: BoolArray
    """(row, col) of the labels: True where valid and labelled."""


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Windows with the labels of some samples."""

    labels: LabelSet
    samples: NDArray[np.intp]
    side: int
    """Side in pixels of the windows; images fill the upper left part of a square of this side."""

    @cached_property
    def cells(self) -> list[tuple[int, ...]]:
        """Windows that hold every sample once: (sample,), or (image, row, col) of their upper left pixels."""
        if self._alone:
            return [(int(sample),) for sample in self.samples]
        labels, side = self.labels, self.side
        corners = np.stack([one[self.samples] for one in (labels.image, labels.row, labels.col)], axis=1)
        corners[:, 1:] -= corners[:, 1:] % side
        return [tuple(corner) for corner in np.unique(corners, axis=0).tolist()]

    def read(self, cell: tuple[int, ...]) -> LabelledWindow:
        """The window of a cell; Ms2hsError if its file is missing or damaged."""
        return self._of_sample(*cell) if self._alone else self._of_place(*cell)

    def draw(self, rng: np.random.Generator) -> LabelledWindow:
        """A window at random around a random sample, turned and mirrored; its labelled part may be invalid."""
        sample = int(self.samples[rng.integers(len(self.samples))])
        cell: tuple[int, ...] = (sample,)
        if not self._alone:
            labels, image = self.labels, int(self.labels.image[sample])
            shape, pixel = labels.images[image][0].shape, (labels.row[sample], labels.col[sample])
            corner = [
                int(np.clip(at - rng.integers(self.side), 0, max(length - self.side, 0)))
                for at, length in zip(pixel, shape, strict=True)
            ]
            cell = (image, *corner)
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        step = -1 if mirrored else 1
        turned: Any = (np.rot90(part, turns, axes=(-2, -1))[..., ::step] for part in self.read(cell))
        return LabelledWindow(*turned)

    @property
    def _alone(self) -> bool:
        """Whether each sample has a window of its own."""
        return self.labels.whole_images or self.labels.isolated

    def _of_sample(self, sample: int) -> LabelledWindow:
        values = self.labels.read(sample, self.side)
        rows, cols = values.shape[2:]
        padded = np.full((*values.shape[:2], self.side, self.side), np.nan, np.float32)
        padded[:, :, :rows, :cols] = values
        known = np.asarray(np.isfinite(padded).all(axis=(0, 1)))
        truth = self._encoded(np.array([sample]))[:, :, None]  # (label, 1, 1)
        if self.labels.whole_images:
            return _window(padded, known, truth, np.array([[known.any()]]))
        labelled = np.zeros_like(known)
        labelled[self.side // 2, self.side // 2] = True
        return _window(padded, known, np.tile(truth, known.shape), labelled & known)

    def _of_place(self, image: int, top: int, left: int) -> LabelledWindow:
        labels, side = self.labels, self.side
        values = labels.window(image, top, left, side)
        known = np.asarray(np.isfinite(values).all(axis=(0, 1)))
        samples = self._inside(image, top, left)
        row, col = labels.row[samples] - top, labels.col[samples] - left
        encoded = self._encoded(samples)
        truth, labelled = np.zeros((len(encoded), side, side), np.float32), np.zeros((side, side), bool)
        truth[:, row, col], labelled[row, col] = encoded, True
        return _window(values, known, truth, labelled & known)

    def _encoded(self, samples: NDArray[np.intp]) -> Float32Array:
        """(label, sample)."""
        labels = self.labels.labels[samples].astype(np.float32)
        return labels.T if labels.ndim == 2 else labels[None]

    @cached_property
    def _by_row(self) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
        """Samples by image and row, their keys image * rows + row in ascending order, and this number of rows."""
        rows = int(self.labels.row.max()) + 1
        keys = self.labels.image[self.samples] * rows + self.labels.row[self.samples]
        order = np.argsort(keys, kind="stable")
        return self.samples[order], keys[order], rows

    def _inside(self, image: int, top: int, left: int) -> NDArray[np.intp]:
        """The samples in a window."""
        samples, keys, rows = self._by_row
        first, last = np.searchsorted(keys, image * rows + np.clip([top, top + self.side], 0, rows))
        found = samples[first:last]
        col = self.labels.col[found] - left
        return found[(col >= 0) & (col < self.side)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the cached properties."""
        return {name: self.__dict__[name] for name in ("labels", "samples", "side")}


def _window(values: Float32Array, valid: BoolArray, truth: Float32Array, labelled: BoolArray) -> LabelledWindow:
    return LabelledWindow(np.where(valid, values, np.float32(0)), valid, truth, labelled)


def stacked(windows: Sequence[LabelledWindow]) -> dict[str, Any]:
    """A batch of windows, by the names of their parts."""
    parts = zip(LabelledWindow._fields, zip(*windows, strict=True), strict=True)
    return {name: np.stack(arrays) for name, arrays in parts}


@dataclass(frozen=True, eq=False)
class LabelTask:
    """Batches of labelled windows. A batch follows from (seed, step) alone."""

    windows: LabelledWindows
    batch_windows: int
    """Windows in a step."""
    seed: int = 0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Any]:
        """The arrays of `LabelledWindow`, each with the window in front, of process `rank` of `world` in a step.

        Raises
        ------
        DataError : an image cannot be read; no labelled pixel is known; fewer windows than processes.
        """
        draws = StepDraws.of(self.batch_windows, (self.seed, step), rank, world)
        return stacked([self._draw(rng) for rng in draws.own])

    def _draw(self, rng: np.random.Generator) -> LabelledWindow:
        for _ in range(TRIES):
            window = self.windows.draw(rng)
            if window.labelled.any():
                return window
        raise no_known_pixel(1, f"{len(self.windows.samples)} samples")

    @cached_property
    def deviation(self) -> Float32Array:
        """(label,) standard deviation of the training labels; 1 where they do not vary."""
        deviation = np.atleast_1d(self.windows.labels.labels[self.windows.samples].astype(np.float32).std(axis=0))
        return np.where(deviation > 0, deviation, np.float32(1))

    @property
    def constant(self) -> Float32Array:
        """(output,) of a model that ignores its input: the frequency of each class, or the mean."""
        labels, chosen = self.windows.labels, self.windows.labels.labels[self.windows.samples]
        if labels.task == "regression":
            return np.asarray(chosen.mean(axis=0), np.float32)
        if labels.task == "multilabel":
            return np.asarray(chosen.mean(axis=0) - 0.5, np.float32)
        return np.bincount(chosen, minlength=len(labels.classes)).astype(np.float32)

    def loss(self, model: nn.Module, batch: Mapping[str, Any], device: torch.device) -> Loss:
        """The loss of `LOSSES`, over labelled pixels or images."""
        parts = (torch.as_tensor(batch[name]).to(device, non_blocking=True) for name in LabelledWindow._fields)
        values, valid, truth, labelled = parts
        errors = self._errors(model(values, valid).float(), truth)
        weight = labelled.to(errors.dtype)
        return Loss((errors * weight).sum(), weight.sum(), {})

    def _errors(self, outputs: Tensor, truth: Tensor) -> Tensor:
        deviation = torch.from_numpy(self.deviation).to(outputs.device)
        return LOSSES[self.windows.labels.task](outputs, truth, deviation)

    def score(self, model: nn.Module, windows: LabelledWindows, cells: Sequence[tuple[int, ...]]) -> float:
        """The negative mean loss over the labels of some cells; NaN without any known label."""
        truth, outputs = self.predicted(model, windows, cells)
        if not len(truth):
            return np.nan
        errors = self._errors(*(torch.from_numpy(one)[:, :, None, None] for one in (outputs, truth)))
        return -float(errors.mean())

    @torch.no_grad()
    def predicted(
        self, model: nn.Module, windows: LabelledWindows, cells: Sequence[tuple[int, ...]]
    ) -> tuple[Float32Array, Float32Array]:
        """(sample, label) truth and (sample, output) outputs of a model, for the known labels of some cells."""
        device, pairs = next(model.parameters()).device, []
        for batch in self._batches(windows, cells):
            parts = (torch.from_numpy(batch[name]).to(device) for name in ("values", "valid"))
            outputs = model(*parts).float().cpu().numpy()
            images = (np.moveaxis(image, 1, -1)[batch["labelled"]] for image in (batch["truth"], outputs))
            pairs.append(tuple(images))
        truth, output = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        return truth, output

    def _batches(self, windows: LabelledWindows, cells: Sequence[tuple[int, ...]]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(cells), self.batch_windows):
            yield stacked([windows.read(cell) for cell in cells[start : start + self.batch_windows]])

    def save_picture(self, model: nn.Module, path: Path) -> None:
        """Write a PNG of windows of the first batch: an image, its labels, and what the model predicts."""
        from ms2hs.tasks.label_plot import plot_windows  # noqa: PLC0415  matplotlib comes with ms2hs[tasks]

        batch = {name: part[:PICTURED] for name, part in self.batch(0).items()}
        device = next(model.parameters()).device
        outputs = model(*(torch.from_numpy(batch[name]).to(device) for name in ("values", "valid")))
        plot_windows(batch, outputs.float().cpu().numpy(), self.windows.labels, path)
