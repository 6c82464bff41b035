"""What an evaluation found, drawn: every axis with its quantity and unit, no words that a file could have brought."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.evaluation.report.plates import Style, ink, sheet
from ms2hs.evaluation.results import Evaluation, Example, Picture, Row
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.spectral_grid import SpectralGrid

Styles = Mapping[str, Style]
WIDE_PX, HALF_PX = 1080, 530
# Neighbours further apart than this, and than so many usual steps, are the two sides of a gap: water vapour.
GAP_NM, GAP_STEPS = 40.0, 4.0
# Images are shown with no more pixels on a side.
IMAGE_PIXELS = 160
# Of a picture: with the one of what is unknown they fit a palette.
COLOURS = 128
PERCENT = (1.0, 99.0)
MAPS_IN_A_ROW = 6
LONGEST_NAME = 30
# Decades that a logarithmic axis shows at most.
DECADES = 3.5


def draw_overview(rows: Sequence[Row], styles: Styles) -> Figure:
    """Each method's RMSE with its interval, and of each scene."""
    figure = sheet(WIDE_PX, 74 + 30 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour = ink(styles[row.method].name)
        scenes = np.array([scores.rmse for scores in row.scenes.values()], float)
        if len(scenes) > 1:
            axes.plot(scenes, np.full(len(scenes), place), "|", color=colour, alpha=0.5, markersize=11)
        if row.kind == "prior":
            axes.axvline(row.overall.rmse, color=colour, linewidth=1, alpha=0.5)
        if "rmse" in row.interval:
            axes.plot(row.interval["rmse"], (place, place), color=colour, linewidth=3.5, solid_capstyle="round")
        axes.plot(row.overall.rmse, place, "o", color=colour, markersize=8)
    everything = [value for row in rows for value in _rmse_of(row)]
    _make_logarithmic(axes, axes.xaxis, axes.set_xlim, np.array(everything))
    axes.set_yticks(range(len(rows)), [_shortened(row.method) for row in rows], color=ink("ink"))
    axes.set(xlabel="RMSE (reflectance, logarithmic)", ylabel="method", ylim=(len(rows) - 0.5, -0.5))
    axes.yaxis.grid(visible=False)
    return figure


def draw_curves(evaluation: Evaluation, styles: Styles) -> Figure:
    """RMSE, spectral angle and bias by wavelength, a line a method."""
    figure = sheet(WIDE_PX, 760)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(5, 4, 4))
    curves = evaluation.curves
    for axes in panels:
        mark_bands(axes, evaluation)
    for method, curve in curves.items():
        for axes, values in zip(panels, (curve.rmse, curve.sam, curve.bias), strict=True):
            draw_line(axes, evaluation.target.wavelength_nm, values, styles[method].line)
    for axes, field in ((panels[0], "rmse"), (panels[1], "sam")):
        values = np.concatenate([getattr(curve, field) for curve in curves.values()])
        _make_logarithmic(axes, axes.yaxis, axes.set_ylim, values)
    kinds = {row.method: row.kind for row in evaluation.rows}
    serious = [curve.bias for method, curve in curves.items() if kinds.get(method) != "baseline"]
    limit = _largest(serious or [curve.bias for curve in curves.values()])
    panels[2].set_ylim(-limit, limit)
    panels[2].axhline(0, color=ink("axis"), linewidth=0.8)
    for axes, label in zip(panels, ("RMSE (reflectance)", "SAM within ±100 nm (°)", "bias (reflectance)"), strict=True):
        axes.set_ylabel(label)
    panels[2].set_xlabel("wavelength (nm)")
    return figure


def draw_example(example: Example, evaluation: Evaluation, focus: str, styles: Styles) -> Figure:
    """One pixel's spectrum, true and as `focus` makes it with its 90 % interval; below, every method less the truth."""
    figure = sheet(HALF_PX, 430)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    nm, source = evaluation.target.wavelength_nm, evaluation.source
    spread = NORMAL_90 * np.asarray(example.sigma[focus], float) if focus in example.sigma else None
    made = np.asarray(example.made[focus], float)
    for axes in (upper, lower):
        mark_bands(axes, evaluation)
    if spread is not None:
        colour = ink(styles[focus].name)
        _fill(upper, nm, made - spread, made + spread, colour)
        _fill(lower, nm, -spread, spread, colour)
    draw_line(upper, nm, example.truth, {"color": ink("ink"), "linewidth": 1.7})
    draw_line(upper, nm, made, styles[focus].line)
    upper.errorbar(
        source.wavelength_nm, example.measured, xerr=source.fwhm_nm / 2, fmt="o", color=ink("source"),
        markersize=5, markerfacecolor=ink("page"), elinewidth=1.2, markeredgewidth=1.2, zorder=4,
    )  # fmt: skip
    lower.axhline(0, color=ink("ink"), linewidth=1.2)
    for method, values in example.made.items():
        draw_line(lower, nm, np.asarray(values, float) - example.truth, styles[method].line)
    limit = _largest([made - example.truth] if spread is None else [made - example.truth, spread])
    lower.set(ylim=(-limit, limit), xlabel="wavelength (nm)", ylabel="error (reflectance)")
    upper.set(ylim=_room_for([example.truth, made, example.measured]), ylabel="reflectance")
    figure.align_ylabels()
    return figure


def draw_bands(picture: Picture) -> Figure:
    """Some bands of a window: true, reconstructed, and their difference."""
    height, width = picture.error.shape
    figure = sheet(HALF_PX, 56 + len(picture.truth) * np.clip(138 * height / width, 96, 250))
    rows = figure.subplots(len(picture.truth), 3, squeeze=False)
    differences = picture.made - picture.truth
    limit = _percentile(np.abs(differences), PERCENT[1], 1e-3)
    colours = {"vmin": -limit, "vmax": limit, "cmap": _colours("RdBu_r")}
    shown = zip(rows, picture.wavelength_nm, picture.truth, picture.made, differences, strict=True)
    for panels, nm, truth, made, difference in shown:
        low = _percentile(truth, PERCENT[0], 0)
        greys = {"vmin": low, "vmax": max(_percentile(truth, PERCENT[1], 1), low + 1e-3), "cmap": _colours("gray")}
        show_image(panels[0], truth, greys)
        image = show_image(panels[1], made, greys)
        error = show_image(panels[2], difference, colours)
        _add_bar(figure, image, panels[:2], "reflectance")
        _add_bar(figure, error, [panels[2]], "reflectance")
        panels[0].set_title(f"{nm:.0f} nm, true")
    for axes, title in zip(rows[0, 1:], ("reconstructed", "difference"), strict=True):
        axes.set_title(title)
    for axes in rows.flat:
        axes.set(xlabel="column (pixel)", ylabel="row (pixel)")
        axes.label_outer()
    return figure


def draw_error_maps(pictures: Sequence[Picture]) -> Figure:
    """RMSE over all known bands of each pixel of each window, on one scale; windows numbered from 1."""
    columns = min(MAPS_IN_A_ROW, len(pictures))
    rows = -(-len(pictures) // columns)
    cell = (WIDE_PX - 100) / MAPS_IN_A_ROW
    figure = sheet(130 + cell * columns, 50 + rows * (cell + 14))
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = _percentile(np.concatenate([picture.error.ravel() for picture in pictures]), PERCENT[1], 1e-3)
    for number, (axes, picture) in enumerate(zip(panels.flat, pictures, strict=False), 1):
        image = show_image(axes, picture.error, {"vmin": 0, "vmax": limit, "cmap": _colours("magma")})
        axes.set_title(f"{number}", color=ink("ink"), fontsize=11)
    for axes in panels.flat[len(pictures) :]:
        axes.set_axis_off()
    figure.supxlabel("column (pixel)", fontsize=12)
    figure.supylabel("row (pixel)", fontsize=12)
    _add_bar(figure, image, list(panels.flat), "RMSE over known bands (reflectance)", 24)
    return figure


def draw_reliability(evaluation: Evaluation, styles: Styles) -> Figure:
    """Share of values that intervals hold, beside the share that they promise."""
    figure = sheet(HALF_PX, HALF_PX)
    axes = figure.subplots()
    axes.plot((0, 100), (0, 100), color=ink("axis"), linewidth=1)
    for method, curve in evaluation.curves.items():
        if curve.reliability is not None:
            nominal = 100 * np.asarray(evaluation.levels)
            axes.plot(nominal, 100 * curve.reliability, marker="o", markersize=4, **styles[method].line)
    axes.set(xlabel="share promised (%)", ylabel="share held (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    return figure


def mark_bands(axes: Axes, evaluation: Evaluation) -> None:
    """Grey where the source did not measure; a bar at the top as wide as each of its bands."""
    for low, high in hidden_ranges(evaluation.target, evaluation.measured):
        axes.axvspan(low, high, color=ink("hidden"), linewidth=0, zorder=0)
    source = evaluation.source
    bars = list(zip(source.wavelength_nm - source.fwhm_nm / 2, source.fwhm_nm, strict=True))
    style: dict[str, Any] = {"facecolor": ink("source"), "alpha": 0.65, "linewidth": 0, "zorder": 3}
    axes.broken_barh(bars, (0.965, 0.035), transform=axes.get_xaxis_transform(), **style)
    nm = evaluation.target.wavelength_nm
    margin = 0.01 * (nm.max() - nm.min()) + 5
    axes.set_xlim(nm.min() - margin, nm.max() + margin)


def hidden_ranges(target: SpectralGrid, measured: BoolArray) -> list[tuple[float, float]]:
    """Wavelengths in nm, from and to, of neighbouring bands that were not measured; none across a gap."""
    order = np.argsort(target.wavelength_nm)
    nm, hidden, half = target.wavelength_nm[order], ~measured[order], target.fwhm_nm[order] / 2
    starts = {0, *gaps(nm)}
    edges = (nm[1:] + nm[:-1]) / 2
    ranges: list[tuple[float, float]] = []
    for band in np.flatnonzero(hidden):
        last = band + 1 == len(nm) or band + 1 in starts
        high = float(nm[band] + half[band] if last else edges[band])
        if ranges and band not in starts and hidden[band - 1]:
            ranges[-1] = (ranges[-1][0], high)
        else:
            ranges.append((float(nm[band] - half[band] if band in starts else edges[band - 1]), high))
    return ranges


def gaps(nm: FloatArray) -> list[int]:
    """Positions (of ascending wavelengths) before which bands are missing."""
    steps = np.diff(nm)
    if not len(steps):
        return []
    return [int(at) for at in np.flatnonzero(steps > max(GAP_NM, GAP_STEPS * float(np.median(steps)))) + 1]


def draw_line(axes: Axes, nm: FloatArray, values: FloatArray, style: Mapping[str, Any]) -> None:
    """A line that is broken at gaps, and where values are unknown."""
    wavelength_nm, (broken,) = _broken(nm, values)
    axes.plot(wavelength_nm, broken, **style)


def show_image(axes: Axes, values: FloatArray, scale: Mapping[str, Any]) -> AxesImage:
    """(row, col) with its pixel numbers; of a large image every n-th pixel."""
    rows, cols = values.shape
    step = -(-max(rows, cols) // IMAGE_PIXELS)
    image = axes.imshow(values[::step, ::step], extent=(0, cols, rows, 0), **scale)
    axes.set_facecolor(ink("unknown"))
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(2, integer=True))
    return image


def _broken(nm: FloatArray, *values: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Wavelengths in ascending order, and values at them, with NaN in the gaps."""
    order = np.argsort(nm)
    breaks = gaps(nm[order])
    broken = [np.insert(np.asarray(one, float)[order], breaks, np.nan) for one in (nm, *values)]
    return broken[0], broken[1:]


def _fill(axes: Axes, nm: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> None:
    wavelength_nm, (lower, upper) = _broken(nm, low, high)
    axes.fill_between(wavelength_nm, lower, upper, color=colour, alpha=0.22, linewidth=0)


def _rmse_of(row: Row) -> Iterator[float]:
    yield row.overall.rmse
    yield from row.interval.get("rmse", ())
    yield from (scores.rmse for scores in row.scenes.values())


def _make_logarithmic(axes: Axes, axis: mpl.axis.Axis, limit: Callable[..., object], values: FloatArray) -> None:
    """An axis of decades with plain numbers, from the 1, 2 or 5 below the values to the one above."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1e-3, 1e-1)
    nice = np.array([step * 10.0**power for power in range(-12, 12) for step in (1, 2, 5)])
    low = max(low, high / 10**DECADES)
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log", nonpositive="clip")
    limit(nice[nice <= low].max(), nice[nice >= high].min())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _largest(values: Sequence[FloatArray]) -> float:
    """A little more than the largest known size; never 0."""
    known = [float(np.abs(one[np.isfinite(one)]).max()) for one in map(np.asarray, values) if np.isfinite(one).any()]
    return max(1.15 * max(known, default=1e-3), 1e-6)


def _room_for(values: Sequence[FloatArray]) -> tuple[float, float]:
    """From 0 or the lowest known value to above the highest, leaving the bars of the source's bands free."""
    known = np.concatenate([np.asarray(one, float)[np.isfinite(one)] for one in values])
    low, high = (min(0.0, float(known.min())), float(known.max())) if len(known) else (0.0, 1.0)
    return low, high + 0.1 * max(high - low, 1e-3)


def _percentile(values: FloatArray, percent: float, otherwise: float) -> float:
    known = values[np.isfinite(values)]
    return max(float(np.percentile(known, percent)), 1e-6 if otherwise else -np.inf) if len(known) else otherwise


def _colours(name: str) -> Colormap:
    """What is not known is left clear."""
    return mpl.colormaps[name].resampled(COLOURS)


def _add_bar(figure: Figure, image: AxesImage, panels: Iterable[Axes], label: str, aspect: int = 14) -> None:
    bar = figure.colorbar(image, ax=panels, label=label, pad=0.02, fraction=0.05, aspect=aspect)
    bar.outline.set_visible(False)
    bar.ax.yaxis.label.set_fontsize(10)
    bar.ax.tick_params(labelsize=10)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3))
    bar.ax.grid(visible=False)


def _shortened(name: str) -> str:
    """A name for an axis: one line, its ends kept."""
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}"
