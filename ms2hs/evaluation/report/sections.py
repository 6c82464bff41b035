"""The figures of the page with their captions: what each shows, how to read it, and words in place of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.evaluation.report import figures
from ms2hs.evaluation.report.plates import Key, Style, inline_svg, page_style, styles_of
from ms2hs.evaluation.report.summary import best_of
from ms2hs.evaluation.results import Evaluation, Example, Picture, Row

# At most so many are shown, worst windows first, so that the page stays below 15 MB.
MOST_EXAMPLES, MOST_PICTURES, MOST_MAPS = 24, 16, 48
TRUE = Key("true", "line", Style("ink", (), 1.7))
MEASURED = Key("measured by the source, as wide as its band", "dot", Style("source", (), 1.4))
SOURCE = Key("the source's bands", "bar", Style("source", (), 1.4))
HIDDEN = Key("not measured by the source", "block", Style("hidden", (), 0))
UNKNOWN = Key("not known", "block", Style("unknown", (), 0))


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the page."""

    svg: str
    """An `<svg>` element."""
    caption: str
    title: str = ""
    badge: str = ""
    """A word that marks it out."""
    items: tuple[str, ...] = ()
    """A numbered list that belongs to the caption."""


@dataclass(frozen=True)
class Section:
    """Figures that belong together, with one legend."""

    anchor: str
    title: str
    lead: str
    plates: tuple[ReportFigure, ...]
    keys: tuple[Key, ...] = ()
    is_paired: bool = False
    """Whether two figures stand side by side where there is room."""


def draw_sections(evaluation: Evaluation) -> list[Section]:
    """All sections that have something to show."""
    styles = styles_of(evaluation.rows)
    pictures = sorted(evaluation.pictures, key=lambda picture: (not picture.is_worst, -picture.rmse))
    with page_style():
        made = [
            _overview(evaluation.rows, styles),
            _curves(evaluation, styles),
            _examples(evaluation, styles),
            _bands(pictures),
            _maps(pictures),
            _reliability(evaluation, styles),
        ]
    return [section for section in made if section.plates]


def _overview(rows: Sequence[Row], styles: Mapping[str, Style]) -> Section:
    shown = [row for row in rows if np.isfinite(row.overall.rmse)]
    plates: tuple[ReportFigure, ...] = ()
    if shown:
        alt = "RMSE by method: " + ", ".join(f"{row.method} {row.overall.rmse:.4f}" for row in shown)
        caption = (
            "RMSE of each method. Dot: mean over scenes; bar: its 90 % bootstrap interval over scenes; ticks: the "
            "scenes; vertical line: the prior, which a model has to beat. Intervals overlap where scenes differ, even "
            "if one method is better in every scene."
        )
        plates = (ReportFigure(inline_svg(figures.draw_overview(shown, styles), alt, "overview-"), caption),)
    return Section("methods", "Methods side by side", "", plates)


def _curves(evaluation: Evaluation, styles: Mapping[str, Style]) -> Section:
    plates: tuple[ReportFigure, ...] = ()
    if evaluation.curves:
        alt = "RMSE, spectral angle and bias by wavelength. Median RMSE over bands: " + ", ".join(
            f"{method} {_median(curve.rmse)}" for method, curve in evaluation.curves.items()
        )
        caption = (
            "Error by wavelength over all scenes alike: RMSE and spectral angle on logarithmic axes, bias "
            "(reconstructed minus true) on one that fits the prior and the models, so that baselines may leave it. "
            "Lines break where the target has no bands (water vapour) or no scene knows the truth."
        )
        plates = (ReportFigure(inline_svg(figures.draw_curves(evaluation, styles), alt, "curves-"), caption),)
    keys = (*_lines(evaluation.curves, styles), SOURCE, HIDDEN)
    return Section("wavelengths", "Error by wavelength", "", plates, keys)


def _examples(evaluation: Evaluation, styles: Mapping[str, Style]) -> Section:
    examples = [one for one in evaluation.examples if one.made][:MOST_EXAMPLES]
    plates = tuple(_example(one, number, evaluation, styles) for number, one in enumerate(examples, 1))
    methods = dict.fromkeys(method for one in examples for method in one.made)
    bands = dict.fromkeys(_focus(one, evaluation.rows) for one in examples if _focus(one, evaluation.rows) in one.sigma)
    intervals = (Key(f"90 % interval of {method}", "faint block", styles[method]) for method in bands)
    lead = (
        "Above: reflectance, true and as the best method that has an interval makes it. Below: every method minus the "
        "truth, on an axis that fits that method; others may leave it."
    )
    keys = (TRUE, *_lines(methods, styles), *intervals, MEASURED, HIDDEN)
    return Section(
        "spectra", "Spectra of single pixels", lead + _more(evaluation.examples, examples), plates, keys, True
    )


def _example(example: Example, number: int, evaluation: Evaluation, styles: Mapping[str, Style]) -> ReportFigure:
    focus = _focus(example, evaluation.rows)
    errors = ", ".join(f"{method} {_rms(made - example.truth)}" for method, made in example.made.items())
    alt = f"Spectrum of one pixel, true and made by {focus}, with the errors of all methods. RMSE: {errors}"
    drawn = figures.draw_example(example, evaluation, focus, styles)
    interval = " with its 90 % interval" if focus in example.sigma else ""
    caption = f"True spectrum, and made by {focus}{interval}. RMSE of this pixel: {errors}."
    return ReportFigure(inline_svg(drawn, alt, f"example-{number}-"), caption, example.title)


def _focus(example: Example, rows: Sequence[Row]) -> str:
    """The best method with an interval, or the best of all."""
    there = [row for row in rows if row.method in example.made]
    best = best_of([row for row in there if row.method in example.sigma]) or best_of(there)
    return best.method if best else next(iter(example.made))


def _bands(pictures: Sequence[Picture]) -> Section:
    shown = pictures[:MOST_PICTURES]
    plates = tuple(_picture(one, number) for number, one in enumerate(shown, 1))
    lead = (
        "A row a band. True and reconstructed share one scale, from the 1st to the 99th percentile of the truth; the "
        "difference (reconstructed minus true) has its own, common to all bands of a window. Worst windows first."
    )
    return Section("bands", "Bands, true and reconstructed", lead + _more(pictures, shown), plates, (UNKNOWN,), True)


def _picture(picture: Picture, number: int) -> ReportFigure:
    bands = ", ".join(f"{nm:.0f}" for nm in picture.wavelength_nm)
    rows, cols = picture.error.shape
    caption = f"Bands at {bands} nm, made by {picture.method}; RMSE over all known bands {picture.rmse:.4f}."
    if max(rows, cols) > figures.IMAGE_PIXELS:
        caption += f" {rows} × {cols} pixels, thinned out."
    alt = f"Maps of bands at {bands} nm: true, reconstructed by {picture.method}, and difference"
    svg = inline_svg(figures.draw_bands(picture), alt, f"bands-{number}-")
    return ReportFigure(svg, caption, f"Window {number}: {picture.title}", "worst window" if picture.is_worst else "")


def _maps(pictures: Sequence[Picture]) -> Section:
    shown = pictures[:MOST_MAPS]
    plates: tuple[ReportFigure, ...] = ()
    if shown:
        items = tuple(
            f"{one.title}: {one.method}, RMSE {one.rmse:.4f}{' (worst window)' if one.is_worst else ''}"
            for one in shown
        )
        alt = (
            f"Maps of error of {len(shown)} windows on one scale; RMSE from {shown[-1].rmse:.4f} to {shown[0].rmse:.4f}"
        )
        caption = "RMSE of each pixel over all known bands, every window on one scale, numbered as listed:"
        plates = (ReportFigure(inline_svg(figures.draw_error_maps(shown), alt, "maps-"), caption, items=items),)
    return Section("maps", "Maps of error", _more(pictures, shown).strip(), plates, (UNKNOWN,))


def _reliability(evaluation: Evaluation, styles: Mapping[str, Style]) -> Section:
    curves = {method: one.reliability for method, one in evaluation.curves.items() if one.reliability is not None}
    plates: tuple[ReportFigure, ...] = ()
    if curves and evaluation.levels:
        held = (f"{method} {_pairs(evaluation.levels, shares)}" for method, shares in curves.items())
        alt = "Share of values within intervals beside the share promised: " + "; ".join(held)
        caption = (
            "Share of true values that the intervals hold, beside the share that they promise. On the diagonal they "
            "are right; below it they are too narrow (too sure), above it too wide."
        )
        plates = (ReportFigure(inline_svg(figures.draw_reliability(evaluation, styles), alt, "reliability-"), caption),)
    return Section("reliability", "Whether the intervals are right", "", plates, tuple(_lines(curves, styles)), True)


def _lines(methods: Mapping[str, object], styles: Mapping[str, Style]) -> Iterator[Key]:
    yield from (Key(method, "line", styles[method]) for method in methods)


def _more(there: Sequence[object], shown: Sequence[object]) -> str:
    return f" {len(shown)} of {len(there)} are shown." if len(shown) < len(there) else ""


def _median(values: FloatArray) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):.4f}" if len(known) else "unknown"


def _rms(values: FloatArray) -> str:
    known = np.asarray(values, float)[np.isfinite(values)]
    return f"{np.sqrt(np.mean(known**2)):.4f}" if len(known) else "unknown"


def _pairs(levels: Sequence[float], shares: FloatArray) -> str:
    return ", ".join(f"{share:.0%} of {level:.0%}" for level, share in zip(levels, shares, strict=True))
