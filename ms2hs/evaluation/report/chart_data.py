"""The data of the report's pictures: charts that show values under the pointer, CSV tables, and arrays of windows.

A chart is drawn by `static/report.js` with uPlot in the place of its static picture, which stays for readers without
JavaScript and for print. Both have the same values. Wavelengths ascend, and a row of unknown values stands in every gap
between bands, so that lines break there.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.evaluation.report.figure_style import INK, SOURCE, LineStyle
from ms2hs.evaluation.report.figures import bias_limit, error_limit, gaps, unmeasured_ranges
from ms2hs.evaluation.results import Evaluation, Example, ExampleWindow
from ms2hs.spectra.metrics import NORMAL_90

Styles = Mapping[str, LineStyle]
Series = dict[str, Any]
# Significant digits of the values in a chart; CSV files have all.
DIGITS = 4


def example_chart(example: Example, evaluation: Evaluation, shown: str, styles: Styles) -> str:
    """The chart of one pixel as JSON: its spectrum, and below it the errors of all methods."""
    nm = evaluation.target.wavelength_nm
    truth, predicted = example.truth, example.predicted[shown]
    spectra = [_series("true", nm, truth, LineStyle(INK, (), 1.7)), _series(shown, nm, predicted, styles[shown])]
    errors = [_series(method, nm, values - truth, styles[method]) for method, values in example.predicted.items()]
    if has_interval := shown in example.sigma:
        half, edge = NORMAL_90 * example.sigma[shown], LineStyle(styles[shown].colour, (), 0)
        for lines, centre in ((spectra, predicted), (errors, np.zeros_like(half))):
            ends = ("90 % low", centre - half), ("90 % high", centre + half)
            lines[:0] = [_series(name, nm, end, edge) for name, end in ends]
    measured = [_number(value) for value in example.measured]
    panels: list[Series] = [
        {"label": "reflectance", "series": spectra, "measured": measured, "height": 300},
        {"label": "error (reflectance)", "series": errors, "height": 200, "limit": error_limit(example, shown)},
    ]
    for panel in panels:
        panel["has_interval"] = has_interval
    return _chart(evaluation, panels)


def curves_chart(evaluation: Evaluation, styles: Styles) -> str:
    """The chart of RMSE, spectral angle and bias by wavelength as JSON."""
    nm = evaluation.target.wavelength_nm
    panels: list[Series] = [
        {
            "label": label,
            "series": [
                _series(method, nm, getattr(curve, field), styles[method])
                for method, curve in evaluation.curves.items()
            ],
            "height": 260,
            **axis,
        }
        for label, field, axis in (
            ("RMSE (reflectance)", "rmse", {"is_logarithmic": True}),
            ("SAM within ±100 nm (°)", "sam", {"is_logarithmic": True}),
            ("bias (reflectance)", "bias", {"limit": bias_limit(evaluation)}),
        )
    ]
    return _chart(evaluation, panels)


def _chart(evaluation: Evaluation, panels: Sequence[Series]) -> str:
    source = evaluation.source
    edges = zip(source.wavelength_nm - source.fwhm_nm / 2, source.wavelength_nm + source.fwhm_nm / 2, strict=True)
    nm = evaluation.target.wavelength_nm
    content = {
        "nm": _broken(nm, nm, between=True),
        "source_nm": [_number(value, 6) for value in source.wavelength_nm],
        "source_bands": [[_number(low, 6), _number(high, 6)] for low, high in edges],
        "unmeasured": [
            [_number(low, 6), _number(high, 6)]
            for low, high in unmeasured_ranges(evaluation.target, evaluation.measured)
        ],
        "colour": SOURCE,
        "panels": panels,
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _series(name: str, nm: FloatArray, values: FloatArray, style: LineStyle) -> Series:
    dashes = [length * style.width for length in style.dashes]
    return {
        "name": name,
        "values": _broken(nm, values),
        "colour": style.colour,
        "width": style.width,
        "dashes": dashes,
    }


def _broken(nm: FloatArray, values: FloatArray, *, between: bool = False) -> list[float | None]:
    """Values by ascending wavelength, with None in every gap; with `between` wavelengths, also those in the gaps."""
    order = np.argsort(nm)
    ordered = np.asarray(values, float)[order]
    breaks = gaps(nm[order])
    added = (ordered[breaks] + ordered[np.array(breaks, int) - 1]) / 2 if between else np.nan
    return [_number(value, 6 if between else DIGITS) for value in np.insert(ordered, breaks, added)]


def _number(value: float, digits: int = DIGITS) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def example_csv(example: Example, evaluation: Evaluation) -> str:
    """A row for each target band, with the truth and every method, and one for each source band."""
    columns: dict[str, FloatArray] = {"true": example.truth}
    for method, values in example.predicted.items():
        columns[method] = values
        if method in example.sigma:
            columns[f"{method} sigma"] = example.sigma[method]
    source, target = evaluation.source, evaluation.target
    rows = [["band", "wavelength_nm", "fwhm_nm", "measured", *columns]]
    rows += [
        ["source", *map(_text, (nm, fwhm, value)), *[""] * len(columns)]
        for nm, fwhm, value in zip(source.wavelength_nm, source.fwhm_nm, example.measured, strict=True)
    ]
    rows += [
        ["target", _text(nm), _text(fwhm), "", *map(_text, values)]
        for nm, fwhm, *values in zip(target.wavelength_nm, target.fwhm_nm, *columns.values(), strict=True)
    ]
    return _csv(rows)


def curves_csv(evaluation: Evaluation) -> str:
    """A row for each target band, with RMSE, SAM and bias of every method."""
    fields = ("rmse", "sam", "bias")
    columns = {
        f"{method} {field}": getattr(curve, field) for method, curve in evaluation.curves.items() for field in fields
    }
    bands = zip(evaluation.target.wavelength_nm, *columns.values(), strict=True)
    return _csv([["wavelength_nm", *columns], *(list(map(_text, band)) for band in bands)])


def reliability_csv(evaluation: Evaluation) -> str:
    """A row for each nominal share, with the share inside the intervals of every method."""
    columns = {
        method: curve.reliability for method, curve in evaluation.curves.items() if curve.reliability is not None
    }
    rows = zip(evaluation.levels, *columns.values(), strict=True)
    return _csv([["nominal", *columns], *(list(map(_text, row)) for row in rows)])


def window_arrays(windows: Sequence[ExampleWindow]) -> bytes:
    """An NPZ file with `window<number>_<name>` for each array of each window, numbered from 1; float32 reflectance."""
    arrays: dict[str, Any] = {"titles": np.array([window.title for window in windows])}
    for number, window in enumerate(windows, 1):
        for name in ("wavelength_nm", "truth", "predicted", "error"):
            arrays[f"window{number}_{name}"] = np.asarray(getattr(window, name), np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def csv_uri(text: str) -> str:
    """A table as the `href` of a link."""
    return f"data:text/csv;charset=utf-8,{quote(text, safe=',+', errors='replace')}"


def _text(value: float) -> str:
    """A number with the digits of float32; empty for an unknown value."""
    return f"{value:.8g}" if np.isfinite(value) else ""


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
