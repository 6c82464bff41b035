"""The figures of the report. Every axis has a label with quantity and unit, and every figure its own legend."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.evaluation.report.figure_style import AXIS, GROUND, INK, NOT_MEASURED, SOURCE, UNKNOWN, LineStyle, new_figure
from ms2hs.evaluation.results import Evaluation, Example, ExampleWindow, MethodScores
from ms2hs.spectra.metrics import NORMAL_90
from ms2hs.spectra.spectral_grid import SpectralGrid

Styles = Mapping[str, LineStyle]
WIDE_PX, HALF_PX = 1080, 530
# A gap (water vapour) is a distance of neighbouring bands above this, and above this many median distances.
GAP_NM, GAP_STEPS = 40.0, 4.0
# Larger images are shown with every n-th pixel.
IMAGE_PIXELS = 160
# Colours of an image; few, so that the page stays small.
IMAGE_COLOURS = 64
PERCENTILES = (1.0, 99.0)
MAPS_PER_ROW = 6
MAX_NAME_LENGTH = 30
# Most decades that a logarithmic axis shows.
MAX_DECADES = 3.5
INTERVAL_ALPHA, BAND_ALPHA = 0.22, 0.65


def draw_overview(rows: Sequence[MethodScores], styles: Styles) -> Figure:
    """RMSE of each method with its interval, and of each scene."""
    figure = new_figure(WIDE_PX, 74 + 30 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(rows):
        colour = styles[row.method].colour
        scenes = np.array([scores["rmse"] for scores in row.scenes.values()], float)
        if len(scenes) > 1:
            axes.plot(scenes, np.full(len(scenes), y), "|", color=colour, alpha=0.5, markersize=11)
        if row.kind == "prior":
            axes.axvline(row.overall["rmse"], color=colour, linewidth=1, alpha=0.5)
        if "rmse" in row.interval:
            axes.plot(row.interval["rmse"], (y, y), color=colour, linewidth=3.5, solid_capstyle="round")
        axes.plot(row.overall["rmse"], y, "o", color=colour, markersize=8)
    values = [scores["rmse"] for row in rows for scores in (row.overall, *row.scenes.values())]
    values += [end for row in rows for end in row.interval.get("rmse", ())]
    _make_logarithmic(axes, axes.xaxis, axes.set_xlim, np.array(values))
    axes.set_yticks(range(len(rows)), [_shortened(row.method) for row in rows], color=INK)
    axes.set(xlabel="RMSE (reflectance, logarithmic)", ylabel="method", ylim=(len(rows) - 0.5, -0.5))
    axes.yaxis.grid(visible=False)
    return figure


def draw_curves(evaluation: Evaluation, styles: Styles) -> Figure:
    """RMSE, spectral angle and bias by wavelength, one line per method."""
    figure = new_figure(WIDE_PX, 800)
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
    limit = bias_limit(evaluation)
    panels[2].set_ylim(-limit, limit)
    panels[2].axhline(0, color=AXIS, linewidth=0.8)
    for axes, label in zip(panels, ("RMSE (reflectance)", "SAM within ±100 nm (°)", "bias (reflectance)"), strict=True):
        axes.set_ylabel(label)
    panels[2].set_xlabel("wavelength (nm)")
    _add_legend(figure, _method_lines(curves, styles) | _band_marks())
    return figure


def draw_example(example: Example, evaluation: Evaluation, shown: str, styles: Styles) -> Figure:
    """Above, the spectrum of a pixel, true and predicted by the method `shown`; below, the errors of all methods."""
    figure = new_figure(HALF_PX, 520)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    nm, source = evaluation.target.wavelength_nm, evaluation.source
    half_interval = NORMAL_90 * np.asarray(example.sigma[shown], float) if shown in example.sigma else None
    predicted = np.asarray(example.predicted[shown], float)
    for axes in (upper, lower):
        mark_bands(axes, evaluation)
    handles: dict[str, Artist] = {"true": Line2D([], [], color=INK, linewidth=1.7)}
    handles |= _method_lines(example.predicted, styles)
    if half_interval is not None:
        colour = styles[shown].colour
        _fill(upper, nm, predicted - half_interval, predicted + half_interval, colour)
        _fill(lower, nm, -half_interval, half_interval, colour)
        handles["90 % interval"] = Patch(color=colour, alpha=INTERVAL_ALPHA, linewidth=0)
    draw_line(upper, nm, example.truth, {"color": INK, "linewidth": 1.7})
    draw_line(upper, nm, predicted, styles[shown].line)
    marker: dict[str, Any] = {"color": SOURCE, "marker": "o", "markersize": 5, "markerfacecolor": GROUND}
    upper.errorbar(
        source.wavelength_nm, example.measured, xerr=source.fwhm_nm / 2, linestyle="", elinewidth=1.2,
        markeredgewidth=1.2, zorder=4, **marker,
    )  # fmt: skip
    handles["measured"] = Line2D([], [], linewidth=1.2, **marker)
    lower.axhline(0, color=INK, linewidth=1.2)
    for method, values in example.predicted.items():
        draw_line(lower, nm, np.asarray(values, float) - example.truth, styles[method].line)
    limit = error_limit(example, shown)
    lower.set(ylim=(-limit, limit), xlabel="wavelength (nm)", ylabel="error (reflectance)")
    upper.set(ylim=_reflectance_limits([example.truth, predicted, example.measured]), ylabel="reflectance")
    figure.align_ylabels()
    _add_legend(figure, handles | _band_marks())
    return figure


def bias_limit(evaluation: Evaluation) -> float:
    """End of the axis of the bias: it fits the prior and the models, or without these the baselines."""
    kinds = {row.method: row.kind for row in evaluation.rows}
    best = [curve.bias for method, curve in evaluation.curves.items() if kinds.get(method) != "baseline"]
    return _largest(best or [curve.bias for curve in evaluation.curves.values()])


def error_limit(example: Example, shown: str) -> float:
    """End of the axis of the errors of a pixel: it fits the method `shown`, and its interval."""
    error = np.asarray(example.predicted[shown], float) - example.truth
    return _largest([error, NORMAL_90 * example.sigma[shown]] if shown in example.sigma else [error])


def draw_bands(window: ExampleWindow) -> Figure:
    """The shown bands of a window: true, reconstructed, and reconstructed minus true."""
    height, width = window.error.shape
    figure = new_figure(HALF_PX, 56 + len(window.truth) * np.clip(138 * height / width, 96, 250))
    rows = figure.subplots(len(window.truth), 3, squeeze=False)
    differences = window.predicted - window.truth
    limit = _percentile(np.abs(differences), PERCENTILES[1], 1e-3)
    bands = zip(rows, window.wavelength_nm, window.truth, window.predicted, differences, strict=True)
    for panels, nm, truth, predicted, difference in bands:
        low = _percentile(truth, PERCENTILES[0], 0)
        high = max(_percentile(truth, PERCENTILES[1], 1), low + 1e-3)
        show_image(panels[0], truth, low, high, "gray")
        image = show_image(panels[1], predicted, low, high, "gray")
        error = show_image(panels[2], difference, -limit, limit, "RdBu_r")
        _add_colour_bar(figure, image, panels[:2], "reflectance")
        _add_colour_bar(figure, error, [panels[2]], "reflectance")
        panels[0].set_title(f"{nm:.0f} nm, true")
    for axes, title in zip(rows[0, 1:], ("reconstructed", "difference"), strict=True):
        axes.set_title(title)
    for axes in rows.flat:
        axes.set(xlabel="column (pixel)", ylabel="row (pixel)")
        axes.label_outer()
    return figure


def draw_error_maps(windows: Sequence[ExampleWindow]) -> Figure:
    """RMSE of each pixel over all known bands, one map per window, on one scale; windows numbered from 1."""
    columns = min(MAPS_PER_ROW, len(windows))
    rows = -(-len(windows) // columns)
    cell = (WIDE_PX - 100) / MAPS_PER_ROW
    figure = new_figure(130 + cell * columns, 50 + rows * (cell + 14))
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = _percentile(np.concatenate([window.error.ravel() for window in windows]), PERCENTILES[1], 1e-3)
    for number, (axes, window) in enumerate(zip(panels.flat, windows, strict=False), 1):
        image = show_image(axes, window.error, 0, limit, "magma")
        axes.set_title(f"{number}", color=INK, fontsize=11)
    for axes in panels.flat[len(windows) :]:
        axes.set_axis_off()
    figure.supxlabel("column (pixel)", fontsize=12)
    figure.supylabel("row (pixel)", fontsize=12)
    _add_colour_bar(figure, image, list(panels.flat), "RMSE over known bands (reflectance)", 24)
    return figure


def draw_reliability(evaluation: Evaluation, styles: Styles) -> Figure:
    """Share of true values inside the intervals, against the nominal share."""
    figure = new_figure(HALF_PX, HALF_PX + 40)
    axes = figure.subplots()
    axes.plot((0, 100), (0, 100), color=AXIS, linewidth=1)
    curves = {method: curve for method, curve in evaluation.curves.items() if curve.reliability is not None}
    for method, curve in curves.items():
        shares = 100 * np.asarray(curve.reliability)
        axes.plot(100 * np.asarray(evaluation.levels), shares, marker="o", markersize=4, **styles[method].line)
    axes.set(xlabel="nominal share (%)", ylabel="share inside (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    _add_legend(figure, _method_lines(curves, styles))
    return figure


def mark_bands(axes: Axes, evaluation: Evaluation) -> None:
    """Shade the wavelengths that the source does not measure, and draw its bands as bars at the top."""
    for low, high in unmeasured_ranges(evaluation.target, evaluation.measured):
        axes.axvspan(low, high, color=NOT_MEASURED, linewidth=0, zorder=0)
    source = evaluation.source
    bars = list(zip(source.wavelength_nm - source.fwhm_nm / 2, source.fwhm_nm, strict=True))
    style: dict[str, Any] = {"facecolor": SOURCE, "alpha": BAND_ALPHA, "linewidth": 0, "zorder": 3}
    axes.broken_barh(bars, (0.965, 0.035), transform=axes.get_xaxis_transform(), **style)
    nm = evaluation.target.wavelength_nm
    margin = 0.01 * (nm.max() - nm.min()) + 5
    axes.set_xlim(nm.min() - margin, nm.max() + margin)


def unmeasured_ranges(target: SpectralGrid, measured: BoolArray) -> list[tuple[float, float]]:
    """Lowest and highest wavelength (nm) of each run of bands that were not measured; a gap ends a run."""
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
    """Positions of the bands (ascending wavelength) that follow a gap."""
    steps = np.diff(nm)
    if not len(steps):
        return []
    return [int(at) for at in np.flatnonzero(steps > max(GAP_NM, GAP_STEPS * float(np.median(steps)))) + 1]


def draw_line(axes: Axes, nm: FloatArray, values: FloatArray, style: Mapping[str, Any]) -> None:
    """Draw a line with breaks at gaps and at unknown values."""
    wavelength_nm, (broken,) = _broken(nm, values)
    axes.plot(wavelength_nm, broken, **style)


def show_image(axes: Axes, values: FloatArray, low: float, high: float, colours: str) -> AxesImage:
    """Show (row, col) values with axes in pixels; unknown pixels are beige."""
    rows, cols = values.shape
    step = -(-max(rows, cols) // IMAGE_PIXELS)
    colour_map = mpl.colormaps[colours].resampled(IMAGE_COLOURS)
    image = axes.imshow(values[::step, ::step], colour_map, extent=(0, cols, rows, 0), vmin=low, vmax=high)
    axes.set_facecolor(UNKNOWN)
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(2, integer=True))
    return image


def _broken(nm: FloatArray, *values: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """Wavelengths in ascending order and the values at them, with NaN in the gaps."""
    order = np.argsort(nm)
    breaks = gaps(nm[order])
    broken = [np.insert(np.asarray(line, float)[order], breaks, np.nan) for line in (nm, *values)]
    return broken[0], broken[1:]


def _fill(axes: Axes, nm: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> None:
    wavelength_nm, (lower, upper) = _broken(nm, low, high)
    axes.fill_between(wavelength_nm, lower, upper, color=colour, alpha=INTERVAL_ALPHA, linewidth=0)


def _make_logarithmic(axes: Axes, axis: mpl.axis.Axis, limit: Callable[..., object], values: FloatArray) -> None:
    """Make an axis logarithmic with plain numbers; its ends are 1, 2 or 5 times a power of ten around the values."""
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1e-3, 1e-1)
    nice = np.array([step * 10.0**power for power in range(-12, 12) for step in (1, 2, 5)])
    low = max(low, high / 10**MAX_DECADES)
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log", nonpositive="clip")
    limit(nice[nice <= low].max(), nice[nice >= high].min())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _largest(values: Sequence[FloatArray]) -> float:
    """1.15 times the largest absolute value; at least 1e-6."""
    known = np.concatenate([np.abs(np.asarray(array)[np.isfinite(array)]) for array in values])
    return max(1.15 * float(known.max() if len(known) else 1e-3), 1e-6)


def _reflectance_limits(values: Sequence[FloatArray]) -> tuple[float, float]:
    """Limits of an axis that shows 0, all values, and above them the bars of the source's bands."""
    known = np.concatenate([np.asarray(array, float)[np.isfinite(array)] for array in values])
    low, high = (min(0.0, float(known.min())), float(known.max())) if len(known) else (0.0, 1.0)
    return low, high + 0.1 * max(high - low, 1e-3)


def _percentile(values: FloatArray, percent: float, default: float) -> float:
    """A percentile of the finite values, or the default without any; above 0 unless the default is 0."""
    known = values[np.isfinite(values)]
    return max(float(np.percentile(known, percent)), 1e-6 if default else -np.inf) if len(known) else default


def _add_colour_bar(figure: Figure, image: AxesImage, panels: Iterable[Axes], label: str, aspect: int = 14) -> None:
    bar = figure.colorbar(image, ax=panels, label=label, pad=0.02, fraction=0.05, aspect=aspect)
    bar.outline.set_visible(False)
    bar.ax.yaxis.label.set_fontsize(10)
    bar.ax.tick_params(labelsize=10)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3))
    bar.ax.grid(visible=False)


def _shortened(name: str) -> str:
    """A name for an axis or legend: at most 30 printable characters."""
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH // 2]}…{name[-MAX_NAME_LENGTH // 2 :]}"


def _method_lines(methods: Iterable[str], styles: Styles) -> dict[str, Artist]:
    return {method: Line2D([], [], **styles[method].line) for method in methods}


def _band_marks() -> dict[str, Artist]:
    return {
        "source bands": Patch(color=SOURCE, alpha=BAND_ALPHA, linewidth=0),
        "not measured": Patch(color=NOT_MEASURED, linewidth=0),
    }


def _add_legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Below the axes, in as many columns as the longest name allows."""
    names = [_shortened(name) for name in handles]
    columns = int(figure.get_figwidth() * 72 / (60 + 6.5 * max(map(len, names), default=1)))
    figure.legend(list(handles.values()), names, loc="outside lower center", ncols=max(columns, 1))
