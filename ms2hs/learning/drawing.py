"""Pictures of what a model makes of spectra and scenes, true beside reconstructed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ms2hs.spectra.grid import FloatArray

# Bands that are shown: red, leaf water and short-wave infrared, as far as the target has them.
SHOWN_NM = (650.0, 1200.0, 2200.0)
SPECTRA = 4
# Bands further apart than this are not joined by a line.
GAP_NM = 60.0


def draw_lesson(batch: Mapping[str, Any], made: NDArray[np.float32], path: Path) -> None:
    """Four spectra of a batch, and three bands of its first window: true, reconstructed, and their difference.

    Parameters
    ----------
    batch : as `lessons.MaskedLesson.batch` makes it.
    made : (window, target band, row, col).
    """
    truth, valid, nm = batch["truth"], batch["valid"], batch["target"].wavelength_nm
    figure = Figure(figsize=(15, 8), layout="constrained")
    grid = figure.add_gridspec(3, 5, width_ratios=(2.2, 2.2, 1, 1, 1))
    columns = [grid[:, column].subgridspec(SPECTRA // 2, 1) for column in range(2)]
    for index, (window, row, col) in enumerate(_pixels(valid)):
        axes = figure.add_subplot(columns[index % 2][index // 2])
        _curve(axes, nm, truth[window, :, row, col], color="black", label="true")
        _curve(axes, nm, made[window, :, row, col], color="tab:red", label="reconstructed")
        seen = ~_hidden(batch, window, row, col)
        axes.plot(nm[seen], truth[window, seen, row, col], "k.", markersize=3, label="seen")
        axes.set(xlabel="wavelength (nm)", ylabel="reflectance", title=f"window {window}, pixel {row}, {col}")
        axes.legend(fontsize="x-small")
    for index, wanted in enumerate(SHOWN_NM):
        band = int(np.abs(nm - wanted).argmin())
        planes = np.where(valid[0], truth[0, band], np.nan), np.where(valid[0], made[0, band], np.nan)
        low, high = np.nanpercentile(planes[0], (1, 99)) if valid[0].any() else (0, 1)
        for column, (plane, name) in enumerate(zip(planes, ("true", "reconstructed"), strict=True)):
            axes = figure.add_subplot(grid[index, 2 + column])
            axes.imshow(plane, vmin=low, vmax=max(high, low + 1e-3), cmap="gray", interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=f"{nm[band]:.0f} nm, {name}")
        axes = figure.add_subplot(grid[index, 4])
        image = axes.imshow(planes[1] - planes[0], vmin=-0.05, vmax=0.05, cmap="RdBu", interpolation="nearest")
        axes.set(xticks=[], yticks=[], title="difference")
        figure.colorbar(image, ax=axes, shrink=0.8)
    figure.suptitle(f"masking: {batch['strategy']}")
    part = path.with_name(f".{path.name}.part.png")
    FigureCanvasAgg(figure).print_png(part)
    part.replace(path)


def _pixels(valid: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Some valid pixels, of different windows where there are any."""
    found = []
    for index in range(SPECTRA):
        places = np.argwhere(valid[index % len(valid)])
        if len(places):
            row, col = places[(index * 7919 + len(places) // 2) % len(places)]
            found.append((index % len(valid), int(row), int(col)))
    return found


def _hidden(batch: Mapping[str, Any], window: int, row: int, col: int) -> NDArray[np.bool_]:
    """(target band,) of one pixel."""
    hidden = batch["hidden"]
    places = hidden.shape[2]
    cols = batch["valid"].shape[2]
    patch = int(np.sqrt(batch["valid"][0].size / places)) if places > 1 else 1
    place = (row // patch) * (cols // patch) + col // patch if places > 1 else 0
    result: NDArray[np.bool_] = hidden[min(window, len(hidden) - 1), :, place]
    return result


def _curve(axes: Any, nm: FloatArray, values: FloatArray, **style: Any) -> None:  # noqa: ANN401  matplotlib has no types
    """A line that is broken where bands are missing."""
    breaks = np.flatnonzero(np.diff(nm) > GAP_NM) + 1
    axes.plot(np.insert(nm, breaks, np.nan), np.insert(values.astype(float), breaks, np.nan), linewidth=1, **style)
