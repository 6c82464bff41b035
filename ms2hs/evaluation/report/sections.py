"""The sections of the page: figures with their titles, captions and alternative texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ms2hs.arrays import FloatArray
from ms2hs.evaluation.report import figures
from ms2hs.evaluation.report.chart_data import (
    csv_uri,
    curves_chart,
    curves_csv,
    example_chart,
    example_csv,
    reliability_csv,
)
from ms2hs.evaluation.report.figure_style import LineStyle, data_uri, report_style, styles_of
from ms2hs.evaluation.report.numbers import csv_of
from ms2hs.evaluation.report.summary import best_of
from ms2hs.evaluation.results import Evaluation, Example, ExampleWindow, MethodScores

# Most figures of a section, worst windows first, so that the page stays below 15 MB.
MAX_EXAMPLES, MAX_WINDOWS, MAX_MAPS = 24, 12, 48


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page."""

    image: str
    """The `src` of an `<img>`."""
    width: int
    """In CSS pixels."""
    alt: str
    caption: str
    title: str = ""
    badge: str = ""
    """A short mark beside the title."""
    items: tuple[str, ...] = ()
    """A numbered list below the caption."""
    chart: str = ""
    """JSON of `chart_data` for a chart with values under the pointer; empty for a picture only."""
    csv: str = ""
    """The values as a table, for a link."""


@dataclass(frozen=True)
class Section:
    """Figures on one subject."""

    anchor: str
    title: str
    lead: str
    figures: tuple[ReportFigure, ...]
    is_paired: bool = False
    """Whether two figures stand side by side if the page is wide enough."""
    has_arrays: bool = False
    """Whether the data are arrays in the file beside the page."""


def draw_sections(evaluation: Evaluation) -> list[Section]:
    """The sections for which the evaluation has data."""
    styles = styles_of(evaluation.rows)
    windows = ordered_windows(evaluation)
    maps = windows[:MAX_MAPS]
    with report_style():
        sections = [
            Section("methods", "Methods side by side", "", tuple(_overview(evaluation, styles))),
            Section("wavelengths", "Error by wavelength", "", tuple(_curves(evaluation, styles))),
            _examples(evaluation, styles),
            _bands(windows),
            Section("maps", "Maps of error", _shown_of(windows, maps).strip(), tuple(_maps(maps)), has_arrays=True),
            Section("reliability", "Reliability of the intervals", "", tuple(_reliability(evaluation, styles)), True),
        ]
    return [section for section in sections if section.figures]


def ordered_windows(evaluation: Evaluation) -> list[ExampleWindow]:
    """The windows in the order of the page: the worst first, numbered from 1."""
    return sorted(evaluation.windows, key=lambda window: (not window.is_worst, -window.rmse))


def _figure(figure: Figure, alt: str, caption: str, **more: Any) -> ReportFigure:  # noqa: ANN401  other fields
    return ReportFigure(data_uri(figure), round(figure.get_figwidth() * 72), alt, caption, **more)


def _overview(evaluation: Evaluation, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    if shown := [row for row in evaluation.rows if np.isfinite(row.overall["rmse"])]:
        alt = "RMSE by method: " + ", ".join(f"{row.method} {row.overall['rmse']:.4f}" for row in shown)
        caption = (
            "RMSE of each method. Dot: mean over scenes; bar: 90 % bootstrap interval over scenes; ticks: scenes; "
            "vertical line: the prior. Intervals overlap where scenes differ, even if one method is better in every "
            "scene."
        )
        yield _figure(figures.draw_overview(shown, styles), alt, caption, csv=csv_uri(csv_of(evaluation)))


def _curves(evaluation: Evaluation, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    if evaluation.curves:
        alt = "RMSE, spectral angle and bias by wavelength. Median RMSE over bands: " + ", ".join(
            f"{method} {_median(curve.rmse)}" for method, curve in evaluation.curves.items()
        )
        caption = (
            "Error by wavelength, mean over scenes. RMSE and spectral angle have logarithmic axes. The axis of the "
            "bias (reconstructed minus true) fits the prior and the models; baselines may leave it. Lines break where "
            "the target has no bands (water vapour) or the truth is unknown."
        )
        data = {"chart": curves_chart(evaluation, styles), "csv": csv_uri(curves_csv(evaluation))}
        yield _figure(figures.draw_curves(evaluation, styles), alt, caption, **data)


def _examples(evaluation: Evaluation, styles: Mapping[str, LineStyle]) -> Section:
    examples = [example for example in evaluation.examples if example.predicted][:MAX_EXAMPLES]
    lead = (
        "Above: reflectance, true and predicted by the best method that has an interval. Below: every method minus the "
        "truth; the axis fits the method above, and lines of other methods may leave it. Grey ranges are not measured; "
        "bars at the top are the bands of the source. Charts show values under the pointer, or with the arrow keys; "
        "drag to zoom, double-click to show all."
    )
    drawn = tuple(_example(example, evaluation, styles) for example in examples)
    return Section("spectra", "Spectra of single pixels", lead + _shown_of(evaluation.examples, examples), drawn, True)


def _example(example: Example, evaluation: Evaluation, styles: Mapping[str, LineStyle]) -> ReportFigure:
    shown = _shown_method(example, evaluation.rows)
    errors = ", ".join(f"{method} {_rms(values - example.truth)}" for method, values in example.predicted.items())
    interval = " with its 90 % interval" if shown in example.sigma else ""
    return _figure(
        figures.draw_example(example, evaluation, shown, styles),
        f"Spectrum of one pixel, true and predicted by {shown}, with the errors of all methods. RMSE: {errors}",
        f"Spectrum, true and predicted by {shown}{interval}. RMSE of this pixel: {errors}.",
        title=example.title,
        chart=example_chart(example, evaluation, shown, styles),
        csv=csv_uri(example_csv(example, evaluation)),
    )


def _shown_method(example: Example, rows: Sequence[MethodScores]) -> str:
    """The best method with an interval, or the best of all methods."""
    known = [row for row in rows if row.method in example.predicted]
    best = best_of([row for row in known if row.method in example.sigma]) or best_of(known)
    return best.method if best else next(iter(example.predicted))


def _bands(windows: Sequence[ExampleWindow]) -> Section:
    shown = windows[:MAX_WINDOWS]
    lead = (
        "One row per band. True and reconstructed share a scale, from the 1st to the 99th percentile of the truth. The "
        "difference (reconstructed minus true) has one scale for all bands of a window. Beige pixels are unknown. "
        "Worst windows first."
    )
    drawn = tuple(_window(window, number) for number, window in enumerate(shown, 1))
    return Section("bands", "Bands, true and reconstructed", lead + _shown_of(windows, shown), drawn, True, True)


def _window(window: ExampleWindow, number: int) -> ReportFigure:
    bands = ", ".join(f"{nm:.0f}" for nm in window.wavelength_nm)
    rows, cols = window.error.shape
    caption = f"Bands at {bands} nm, predicted by {window.method}; RMSE over all known bands {window.rmse:.4f}."
    if max(rows, cols) > figures.IMAGE_PIXELS:
        caption += f" {rows} × {cols} pixels, subsampled."
    return _figure(
        figures.draw_bands(window),
        f"Maps of bands at {bands} nm: true, reconstructed by {window.method}, and difference",
        caption,
        title=f"Window {number}: {window.title}",
        badge="worst window" if window.is_worst else "",
    )


def _maps(windows: Sequence[ExampleWindow]) -> Iterator[ReportFigure]:
    if windows:
        items = tuple(
            f"{window.title}: {window.method}, RMSE {window.rmse:.4f}{' (worst window)' if window.is_worst else ''}"
            for window in windows
        )
        errors = f"RMSE from {windows[-1].rmse:.4f} to {windows[0].rmse:.4f}"
        alt = f"Maps of error of {len(windows)} windows on one scale; {errors}"
        caption = (
            "RMSE of each pixel over all known bands, every window on one scale, numbered as listed; beige pixels are "
            "unknown:"
        )
        yield _figure(figures.draw_error_maps(windows), alt, caption, items=items)


def _reliability(evaluation: Evaluation, styles: Mapping[str, LineStyle]) -> Iterator[ReportFigure]:
    curves = {method: curve.reliability for method, curve in evaluation.curves.items() if curve.reliability is not None}
    if curves and evaluation.levels:
        shares = (f"{method} {_share_pairs(evaluation.levels, inside)}" for method, inside in curves.items())
        alt = "Share of values inside the intervals, by nominal share: " + "; ".join(shares)
        caption = (
            "Share of true values inside the intervals, by nominal share. On the diagonal the intervals are right; "
            "below, they are too narrow; above, too wide."
        )
        yield _figure(
            figures.draw_reliability(evaluation, styles), alt, caption, csv=csv_uri(reliability_csv(evaluation))
        )


def _shown_of(available: Sequence[object], shown: Sequence[object]) -> str:
    return f" {len(shown)} of {len(available)} are shown." if len(shown) < len(available) else ""


def _median(values: FloatArray) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.4f}" if len(known) else "unknown"


def _rms(values: FloatArray) -> str:
    known = np.asarray(values, float)[np.isfinite(values)]
    return f"{np.sqrt(np.mean(known**2)):.4f}" if len(known) else "unknown"


def _share_pairs(levels: Sequence[float], shares: FloatArray) -> str:
    return ", ".join(f"{share:.0%} for {level:.0%}" for level, share in zip(levels, shares, strict=True))
