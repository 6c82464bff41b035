"""What an evaluation found, as text for people, and as CSV and JSON for programs."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from ms2hs.errors import OutputError
from ms2hs.evaluation.results import FEATURES_NM, Evaluation, Row, Scores

# Columns of the first two blocks: head, the number, its format.
Column = tuple[str, Callable[[Row], float], str]
ACCURACY: tuple[Column, ...] = (
    ("MSE", lambda row: 1e4 * row.overall.mse, ".2f"),
    ("masked", lambda row: 1e4 * row.overall.masked_mse, ".2f"),
    ("unmasked", lambda row: 1e4 * row.overall.unmasked_mse, ".2f"),
    ("SSIM", lambda row: row.overall.ssim, ".4f"),
    ("RMSE", lambda row: row.overall.rmse, ".4f"),
    ("bias", lambda row: row.overall.bias, "+.4f"),
    ("SAM", lambda row: row.overall.sam_mean, ".2f"),
    ("median", lambda row: row.overall.sam_median, ".2f"),
    ("PSNR", lambda row: row.overall.psnr, ".1f"),
    ("ERGAS", lambda row: row.overall.ergas, ".2f"),
    ("R2", lambda row: row.overall.r2, ".3f"),
    ("/prior", lambda row: row.to_prior, ".3f"),
)
FEATURES: tuple[Column, ...] = (
    *((f"{nm} nm", lambda row, nm=nm: row.overall.depth[nm], ".4f") for nm in FEATURES_NM),
    ("68 %", lambda row: 100 * row.overall.coverage_68, ".1f"),
    ("90 %", lambda row: 100 * row.overall.coverage_90, ".1f"),
    ("s/Mpx", lambda row: row.overall.seconds, ".2f"),
)
CONVENTIONS = (
    "Reflectance of 0-1. MSE in 1e-4: of all bands, of those that the source did not measure (masked: it covers less",
    "than 60 % of them), of the others. SSIM: data range 1, uniform windows of 7 pixels. SAM: mean and median angle in",
    "degrees, spectra of zeros left out. PSNR: dB, peak 1. ERGAS: 100 sqrt(mean (RMSE / mean)²), ratio 1. R2: mean",
    "over bands within a scene. /prior: RMSE over the prior's. All are means over scenes, each counting the same.",
)
WIDTH = 120
# Letters of a scene's name at the head of a column.
LONGEST_NAME = 24


class Line(NamedTuple):
    """A line of the table."""

    text: str
    loses: bool = False
    """It tells of a model that is worse than the prior."""


def lines_of(evaluation: Evaluation) -> list[Line]:
    """The table: accuracy, features and intervals, by scene, by land cover, what was left out, and the conventions."""
    rows = evaluation.rows
    found = [Line(evaluation.title), Line("")] if evaluation.title else []
    found += _block("accuracy", [name for name, *_ in ACCURACY], rows, lambda row: _cells(row, ACCURACY))
    found += _block("error of depth at", [name for name, *_ in FEATURES], rows, lambda row: _cells(row, FEATURES))
    if any(row.interval for row in rows):
        heads = ["MSE", "RMSE", "median SAM"]
        found += _block("90 % interval of the mean over scenes", heads, rows, _intervals)
    by_scene = "RMSE 1e-4 / median SAM, by scene"
    found += _wide_block(by_scene, list(evaluation.scenes), rows, lambda row: row.scenes)
    covers = sorted({cover for row in rows for cover in row.covers})
    found += _wide_block("the same, by land cover", covers, rows, lambda row: row.covers)
    found += [Line(text) for text in (*CONVENTIONS, *_told(evaluation))]
    return [*found, *_losers(rows)]


def table(evaluation: Evaluation) -> str:
    """The lines as plain text."""
    return "\n".join(line.text for line in lines_of(evaluation))


def _told(evaluation: Evaluation) -> list[str]:
    scenes = len(evaluation.scenes)
    text = f"{evaluation.pixels:,} pixels of {scenes} scene{'s' * (scenes != 1)}; {evaluation.unlike:,} unlike training"
    told = [text, *(f"note: {note}" for note in evaluation.notes)]
    told += [f"left out: {name}: {why}" for name, why in list(evaluation.left_out.items())[:10]]
    if len(evaluation.left_out) > 10:
        told.append(f"left out: {len(evaluation.left_out) - 10} more")
    return told


def _losers(rows: Sequence[Row]) -> list[Line]:
    told = "loses to the prior: its RMSE is {:.3f} times the prior's"
    return [Line(f"{row.method} {told.format(row.to_prior)}", loses=True) for row in rows if row.loses]


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return [_number(value(row), form) for _, value, form in columns]


def _intervals(row: Row) -> list[str]:
    forms = {"mse": (1e4, ".2f"), "rmse": (1, ".4f"), "sam_median": (1, ".2f")}
    cells = []
    for name, (factor, form) in forms.items():
        low, high = row.interval.get(name, (math.nan, math.nan))
        cells.append(f"{_number(factor * low, form)} to {_number(factor * high, form)}")
    return cells


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _block(title: str, heads: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> list[Line]:
    """An aligned table with a line a method, and an empty line after it."""
    texts = [(title, *heads), *((row.method, *cells(row)) for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(heads) + 1)]
    aligned = []
    for line in texts:
        name, *numbers = (
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        aligned.append("  ".join([name, *numbers]))
    return [
        Line(aligned[0]),
        *(Line(text, row.loses) for text, row in zip(aligned[1:], rows, strict=True)),
        Line(""),
    ]


def _wide_block(
    title: str, names: Sequence[str], rows: Sequence[Row], scores: Callable[[Row], Mapping[str, Scores]]
) -> list[Line]:
    """A column a name, in as many blocks as the width needs."""

    def cells(row: Row, part: Sequence[str]) -> list[str]:
        found = (scores(row)[name] for name in part)
        return [f"{_number(1e4 * one.rmse, '.0f')} / {_number(one.sam_median, '.2f')}" for one in found]

    first = max(len(title), *(len(row.method) for row in rows))
    lines: list[Line] = []
    part: list[str] = []
    for name in [*names, None]:
        if name is not None and first + sum(_column(one) for one in [*part, name]) <= WIDTH:
            part.append(name)
            continue
        if part:
            heads = [one[:LONGEST_NAME] for one in part]
            lines += _block(title, heads, rows, lambda row, part=tuple(part): cells(row, part))  # type: ignore[misc]
        part = [] if name is None else [name]
    return lines


def _column(name: str) -> int:
    return 2 + max(len(name[:LONGEST_NAME]), len("1000 / 10.00"))


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers as values for JSON, which has no NaN: None stands for it. Without pictures."""
    found: dict[str, Any] = _plain(
        {
            "title": evaluation.title,
            "command": evaluation.command,
            "source_nm": evaluation.source.wavelength_nm,
            "target_nm": evaluation.target.wavelength_nm,
            "measured": evaluation.measured,
            "rows": [asdict(row) | {"loses": row.loses} for row in evaluation.rows],
            "curves": {name: asdict(curve) for name, curve in evaluation.curves.items()},
            "levels": evaluation.levels,
            "scenes": evaluation.scenes,
            "pixels": evaluation.pixels,
            "unlike": evaluation.unlike,
            "left_out": evaluation.left_out,
            "notes": evaluation.notes,
        }
    )
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_of_csv(evaluation: Evaluation) -> str:
    """One line a method and scene; then one a method with the scene `*`, the mean over scenes. Unknown: empty."""
    names = [name.name for name in fields(Scores) if name.name != "depth"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "kind", "scene", *names, *(f"depth_{nm}" for nm in FEATURES_NM)])
    for row in evaluation.rows:
        for scene, scores in (*row.scenes.items(), ("*", row.overall)):
            values = [*(getattr(scores, name) for name in names), *(scores.depth[nm] for nm in FEATURES_NM)]
            writer.writerow([row.method, row.kind, scene, *("" if math.isnan(value) else value for value in values)])
    return text.getvalue()


def write_numbers(evaluation: Evaluation, path: Path) -> tuple[Path, Path]:
    """`<stem>.csv` and `<stem>.json` beside this path; their paths.

    Raises
    ------
    OutputError : they cannot be written.
    """
    table_path, facts_path = path.with_suffix(".csv"), path.with_suffix(".json")
    try:
        table_path.write_text(rows_of_csv(evaluation), encoding="utf-8")
        facts_path.write_text(json.dumps(facts(evaluation), indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give a writable path.") from error
    return table_path, facts_path
