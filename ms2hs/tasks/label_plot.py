"""Pictures of a training run on labels: images, their labels, and what the model predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.files import atomic_write
from ms2hs.spectra.sensors import RGB_NM
from ms2hs.tasks.labels.label_set import LabelSet

# Percentiles of an image that are black and white, and colours of classes, which repeat.
PERCENT, COLORS = (1, 99), colormaps["tab20"]
# Classes in the legend, or names in a text, at most.
MOST_NAMED = 12
VALUED = ("regression", "multilabel")


def plot_windows(batch: Mapping[str, Any], outputs: Float32Array, labels: LabelSet, path: Path) -> None:
    """Write a PNG with a row for each window. Of quantities, images show the first.

    Parameters
    ----------
    batch : arrays of `label_task.LabelledWindow`, with the window in front.
    outputs : (window, output, row, col) of the model.

    Raises
    ------
    OutputError : the file cannot be written; no partial file is left.
    """
    figure = Figure(figsize=(9, 3 * len(outputs) + 0.6), layout="constrained")
    panels = figure.subplots(len(outputs), 3, squeeze=False)
    for row, (image, *others) in enumerate(panels):
        valid, known = batch["valid"][row], batch["labelled"][row]
        image.imshow(_composite(batch["values"][row, -1], valid, labels))
        shown = known if labels.whole_images else valid
        for axes, values, place in zip(others, (batch["truth"][row], outputs[row]), (known, shown), strict=True):
            axes.set(xticks=[], yticks=[])
            if labels.whole_images:
                axes.text(0.5, 0.5, _in_words(values[:, 0, 0], labels), ha="center", va="center", wrap=True)
            else:
                _show(axes, values, place, labels)
        image.set(xticks=[], yticks=[])
    of_first = f": {labels.classes[0]}" if labels.task in VALUED and not labels.whole_images else ""
    for axes, title in zip(panels[0], ("image", f"labels{of_first}", f"predicted{of_first}"), strict=True):
        axes.set_title(title)
    if labels.task not in VALUED and not labels.whole_images:
        named = list(enumerate(labels.classes[:MOST_NAMED]))
        patches = [Patch(color=COLORS(number % COLORS.N), label=name) for number, name in named]
        figure.legend(handles=patches, loc="outside lower center", ncols=4)
    hint = "train without figures, and continue from the last checkpoint with --resume"
    with atomic_write(path, hint=hint) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _class_of(values: Float32Array) -> Any:  # noqa: ANN401  a number or an image
    """The class of (class, ...) outputs or (1, ...) labels."""
    return values.argmax(axis=0) if len(values) > 1 else values[0].astype(int)


def _in_words(values: Float32Array, labels: LabelSet) -> str:
    """(value,) labels or outputs of an image as text."""
    if labels.task == "regression":
        return "\n".join(f"{name} {value:.3g}" for name, value in zip(labels.classes, values, strict=True))
    if labels.task == "multilabel":
        names = [name for name, value in zip(labels.classes, values, strict=True) if value > 0]
        return "\n".join(names[:MOST_NAMED]) or "none"
    return labels.classes[int(_class_of(values))]


def _show(axes: Any, values: Float32Array, shown: BoolArray, labels: LabelSet) -> None:  # noqa: ANN401  matplotlib
    """(value, row, col) labels or outputs of a window as an image, blank where not `shown`."""
    if labels.task in VALUED:
        low, high = float(np.min(labels.labels[:, 0])), float(np.max(labels.labels[:, 0]))
        axes.imshow(np.where(shown, values[0], np.nan), vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
        return
    classes = np.where(shown, _class_of(values) % COLORS.N, np.nan)
    colors = BoundaryNorm(np.arange(COLORS.N + 1) - 0.5, COLORS.N)
    axes.imshow(classes, norm=colors, cmap=COLORS, interpolation="nearest")


def _composite(values: Float32Array, valid: BoolArray, labels: LabelSet) -> Float32Array:
    """(row, col, 3) the bands nearest to red, green and blue of (band, row, col)."""
    bands = [int(np.abs(labels.grid.wavelength_nm - nm).argmin()) for nm in RGB_NM]
    image = np.where(valid, values[bands], np.nan)
    low, high = np.nanpercentile(image, PERCENT) if valid.any() else (0.0, 1.0)
    stretched = np.nan_to_num((image - low) / max(high - low, 1e-3), nan=1.0).clip(0, 1)
    return np.moveaxis(stretched, 0, -1).astype(np.float32)
