"""Pictures of a training run: spectra and bands of a batch, true beside reconstructed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.files import atomic_write
from ms2hs.spectra.spectral_grid import SpectralGrid

# Wavelengths of the bands to plot: red, leaf water and short-wave infrared.
PLOTTED_NM = (650.0, 1200.0, 2200.0)
SPECTRA = 4
# Lines are broken between bands further apart than this.
GAP_NM = 60.0
# Range of the difference, in reflectance, and percentiles of an image that are black and white.
DIFFERENCE = 0.05
PERCENT = (1, 99)
# Hidden values are grey, as in Figure 2 of arXiv 2502.19451, so no image is.
HIDDEN, UNKNOWN = "lightgrey", "navajowhite"
IMAGE_COLOURS = "viridis"
COLUMNS = ("seen", "true", "reconstructed", "difference")


def plot_batch(batch: Mapping[str, Any], output: Float32Array, path: Path) -> None:
    """Write a PNG of four spectra of a batch, and of three bands of its first window.

    Parameters
    ----------
    batch : as `TrainingLoss.batch` returns it.
    output : (window, target band, row, col) the model's prediction.

    Raises
    ------
    OutputError : the file cannot be written; no partial file is left.
    """
    figure = Figure(figsize=(17, 8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5, 6))[0]
    _plot_spectra(left, batch, output)
    _plot_bands(right, batch, output)
    figure.suptitle(f"masking {batch['strategy']}: {batch['hidden'].mean():.0%} hidden")
    hint = "train without figures, and continue from the last checkpoint with --resume"
    with atomic_write(path, hint=hint) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _plot_spectra(figure: Any, batch: Mapping[str, Any], output: Float32Array) -> None:  # noqa: ANN401
    truth, nm = batch["truth"], batch["target"].wavelength_nm
    panels = figure.subplots(SPECTRA // 2, 2).ravel()
    pixels = _pixels(batch["valid"])
    for axes, (window, row, col) in zip(panels, pixels, strict=False):
        _plot_line(axes, nm, truth[window, :, row, col], color="black", label="true")
        _plot_line(axes, nm, output[window, :, row, col], color="tab:red", label="reconstructed")
        axes.plot(*_seen(batch, window, row, col), ".", color="tab:blue", markersize=5, label="seen")
        for low, high in _ranges(batch["target"], _hidden(batch, window)[:, row, col]):
            axes.axvspan(low, high, color=HIDDEN, linewidth=0, zorder=0)
        axes.set(xlabel="wavelength (nm)", ylabel="reflectance", title=f"window {window}, row {row}, column {col}")
        axes.grid(alpha=0.3)
    for axes in panels[len(pixels) :]:
        axes.set_axis_off()
    if pixels:
        handles = [*figure.axes[0].get_legend_handles_labels()[0], Patch(color=HIDDEN, label="hidden")]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _plot_bands(figure: Any, batch: Mapping[str, Any], output: Float32Array) -> None:  # noqa: ANN401
    valid, nm = batch["valid"][0], batch["target"].wavelength_nm
    rows = figure.subplots(len(PLOTTED_NM), len(COLUMNS))
    hidden = _hidden(batch, 0)
    for panels, shown_nm in zip(rows, PLOTTED_NM, strict=True):
        band = int(np.abs(nm - shown_nm).argmin())
        true, reconstructed = (np.where(valid, image[0, band], np.nan) for image in (batch["truth"], output))
        low, high = np.nanpercentile(true, PERCENT) if valid.any() else (0, 1)
        style = {"vmin": low, "vmax": max(high, low + 1e-3), "cmap": IMAGE_COLOURS, "interpolation": "nearest"}
        images = [axes.imshow(image, **style) for axes, image in zip(panels, (true, true, reconstructed), strict=False)]
        panels[0].imshow(np.where(hidden[band], 1.0, np.nan), cmap=ListedColormap([HIDDEN]), interpolation="nearest")
        difference = panels[3].imshow(
            reconstructed - true, vmin=-DIFFERENCE, vmax=DIFFERENCE, cmap="RdBu_r", interpolation="nearest"
        )
        for axes, name in zip(panels, COLUMNS, strict=True):
            axes.set(xticks=[], yticks=[], title=name if shown_nm == PLOTTED_NM[0] else "", facecolor=UNKNOWN)
        panels[0].set_ylabel(f"{nm[band]:.0f} nm")
        figure.colorbar(images[1], ax=list(panels[:3]), label="reflectance", extend="both", pad=0.01, shrink=0.8)
    figure.colorbar(difference, ax=list(rows[:, 3]), label="reconstructed - true, reflectance", extend="both")
    handles = [Patch(color=HIDDEN, label="hidden"), Patch(color=UNKNOWN, label="not known")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _pixels(valid: BoolArray) -> list[tuple[int, int, int]]:
    """(window, row, col) of some valid pixels, from different windows if possible."""
    pixels = []
    for index in range(SPECTRA):
        positions = np.argwhere(valid[index % len(valid)])
        if len(positions):
            row, col = positions[(index * 7919 + len(positions) // 2) % len(positions)]
            pixels.append((index % len(valid), int(row), int(col)))
    return pixels


def _seen(batch: Mapping[str, Any], window: int, row: int, col: int) -> tuple[FloatArray, FloatArray]:
    """(band,) wavelengths and values of the visible bands of one pixel."""
    nm, values = batch["target"].wavelength_nm, batch["values"][window, :, row, col]
    if batch["visible"] is None:
        return (batch["source"].wavelength_nm if batch["source"] else nm[batch["bands"]]), values
    seen = ~_hidden(batch, window)[:, row, col]
    return nm[seen], values[seen]


def _ranges(grid: SpectralGrid, hidden: BoolArray) -> list[tuple[float, float]]:
    """Wavelengths, low and high in nm, of each run of hidden bands; a gap between bands ends a run."""
    nm = grid.wavelength_nm
    if not hidden.any():
        return []
    middles = (nm[:-1] + nm[1:]) / 2
    low, high = np.append(nm[0] - grid.fwhm_nm[0] / 2, middles), np.append(middles, nm[-1] + grid.fwhm_nm[-1] / 2)
    gaps = np.flatnonzero(np.diff(nm) > GAP_NM)
    high[gaps], low[gaps + 1] = nm[gaps], nm[gaps + 1]
    index = np.flatnonzero(hidden)
    runs = np.split(index, np.flatnonzero((np.diff(index) > 1) | (low[index[1:]] > high[index[:-1]])) + 1)
    return [(float(low[run[0]]), float(high[run[-1]])) for run in runs]


def _hidden(batch: Mapping[str, Any], window: int) -> BoolArray:
    """(target band, row, col) of one window."""
    hidden = batch["hidden"][min(window, len(batch["hidden"]) - 1)]
    rows, cols = batch["valid"].shape[1:]
    bands, patches = hidden.shape
    if patches == 1:
        return np.broadcast_to(hidden[:, :, None], (bands, rows, cols))
    patch = round(np.sqrt(rows * cols / patches))
    image: BoolArray = hidden.reshape(bands, rows // patch, cols // patch)
    return image.repeat(patch, axis=1).repeat(patch, axis=2)


def _plot_line(axes: Any, nm: FloatArray, values: FloatArray, **style: Any) -> None:  # noqa: ANN401  matplotlib has no types
    """Plot a line that is broken where bands are missing."""
    breaks = np.flatnonzero(np.diff(nm) > GAP_NM) + 1
    axes.plot(np.insert(nm, breaks, np.nan), np.insert(values.astype(float), breaks, np.nan), linewidth=1, **style)
