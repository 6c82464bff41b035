"""The picture of `ms2hs evaluate completion --ratio`: one window, true, visible and reconstructed at each ratio.

Images are in false colour: near infrared, red and green shown as red, green and blue. A hidden value is black in its
colour, so that a place with one visible band has a pure colour; places with no visible band are grey.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.evaluation.masked_completion import RatioExample, RatioPanel
from ms2hs.evaluation.report.figure_style import report_style
from ms2hs.evaluation.report.figures import draw_line
from ms2hs.files import NO_FILES, FileIds, atomic_write, check_output

FALSE_COLOUR_NM = (860.0, 650.0, 560.0)
PERCENT = (2, 98)
NOTHING_VISIBLE, INVALID = 0.75, 1.0
CELL_INCHES = 2.6


def draw_panels(
    panels: Sequence[RatioPanel], path: Path, *, overwrite: bool = False, inputs: FileIds = NO_FILES
) -> Path:
    """Write a PNG with a block for each model: columns are ratios; rows are true, visible, reconstructed, spectrum.

    Raises
    ------
    OutputError : the file exists, is an input, or cannot be written; no partial file is left.
    """
    check_output(path, overwrite=overwrite, inputs=inputs)
    columns = max(len(panel.examples) for panel in panels)
    with report_style():
        figure = Figure(figsize=(CELL_INCHES * columns + 0.6, 11 * len(panels)), dpi=110, layout="constrained")
        for block, panel in zip(figure.subfigures(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            _draw(block, panel)
        with atomic_write(path, hint="give another path with -o") as temporary:
            FigureCanvasAgg(figure).print_png(temporary)
    return path


def _draw(figure: Any, panel: RatioPanel) -> None:  # noqa: ANN401  matplotlib has no types
    bands = [int(np.abs(panel.wavelength_nm - nm).argmin()) for nm in FALSE_COLOUR_NM]
    colours = ", ".join(f"{panel.wavelength_nm[band]:.0f}" for band in bands)
    figure.suptitle(f"{panel.model}\n{panel.masking}\nbands {colours} nm", fontsize=11)
    truth = np.where(panel.valid, panel.truth[bands], np.nan)
    limits = np.nanpercentile(truth, PERCENT, axis=(1, 2)) if panel.valid.any() else np.array([[0.0] * 3, [1.0] * 3])
    row, col = _varied_pixel(panel)
    axes = figure.subplots(4, len(panel.examples), squeeze=False)
    for column, example in enumerate(panel.examples):
        visible = _image(panel.truth[bands], panel.valid, limits)
        hidden = example.hidden[bands].transpose(1, 2, 0)
        visible[hidden] = 0.0
        visible[hidden.all(axis=2) & panel.valid] = NOTHING_VISIBLE
        images = (
            ("true", _image(panel.truth[bands], panel.valid, limits)),
            ("visible", visible),
            ("reconstructed", _image(example.estimate[bands], panel.valid, limits)),
        )
        for axis, (name, image) in zip(axes[:, column], images, strict=False):
            axis.imshow(image)
            axis.plot(col, row, "o", markersize=9, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.5)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            if column == 0:
                axis.set_ylabel(name)
        axes[0, column].set_title(f"{example.ratio:.0%} hidden")
        axes[2, column].set_title(f"MSE of hidden values {example.masked_mse:.2e}", fontsize=10, fontweight="normal")
        _draw_spectrum(axes[3, column], panel, example, (row, col))
    axes[3, 0].set_ylabel("reflectance")
    top = max(float(np.nanmax(axis.get_ylim())) for axis in axes[3])
    for axis in axes[3]:
        axis.set_ylim(0, top)
    figure.legend(*axes[3, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _draw_spectrum(axis: Any, panel: RatioPanel, example: RatioExample, pixel: tuple[int, int]) -> None:  # noqa: ANN401
    nm, (row, col) = panel.wavelength_nm, pixel
    truth, visible = panel.truth[:, row, col], ~example.hidden[:, row, col]
    draw_line(axis, nm, truth, {"color": "black", "linewidth": 1.2, "label": "true"})
    estimate = example.estimate[:, row, col]
    draw_line(axis, nm, estimate, {"color": "tab:red", "linewidth": 1.2, "label": "reconstructed"})
    axis.plot(nm[visible], truth[visible], ".", color="tab:blue", markersize=5, label="visible")
    axis.set_xlabel("wavelength (nm)")


def _image(values: Float32Array, valid: BoolArray, limits: FloatArray) -> Float32Array:
    """(row, col, colour) 0-1 of (colour, row, col) reflectance, stretched between (2, colour) limits."""
    low, high = limits[:, :, None, None]
    stretched = np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1)
    image: Float32Array = np.where(valid, stretched, INVALID).transpose(1, 2, 0).astype(np.float32)
    return image


def _varied_pixel(panel: RatioPanel) -> tuple[int, int]:
    """Row and column of the valid pixel whose spectrum varies most: the hardest to guess from a mean."""
    spread = np.where(panel.valid, panel.truth.std(axis=0), -1)
    row, col = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(row), int(col)
