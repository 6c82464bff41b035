"""Tables of scores for people, generated from METRICS: units, few digits, the best value of each column marked.

The terminal listing and the HTML page show the same tables.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ms2hs.evaluation.metric_table import DEPTH, ERROR, METRICS, SQUARED, Metric, Scores, definitions
from ms2hs.evaluation.results import MethodScores


@dataclass(frozen=True)
class TableCell:
    """A number of a table, as text."""

    text: str
    interval: str = ""
    is_best: bool = False
    is_bad: bool = False


@dataclass(frozen=True)
class TableRow:
    """A method, scene or land cover, and its numbers."""

    name: str
    cells: tuple[TableCell, ...]
    kind: str = ""
    loses: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """A column of names and columns of numbers; `rows_are` is the heading of the names."""

    title: str
    headings: tuple[tuple[str, str], ...]
    """Heading and unit of each column of numbers."""
    rows: tuple[TableRow, ...]
    rows_are: str = "method"


# Columns that belong to a method and not to its scenes; their keys are attributes of `MethodScores`.
METHOD_COLUMNS = (
    Metric("to_prior", "÷ prior", "", lambda _: math.nan, ERROR, 3, definition="RMSE divided by the prior's RMSE"),
    Metric("train_mse", "MSE training", "1e-4", lambda _: math.nan, SQUARED, 3, 1e4, "none"),
)


def conventions() -> list[str]:
    """How the metrics are defined, one line each."""
    return ["Reflectance of 0-1, over known values of valid pixels", *definitions((*METRICS.values(), *METHOD_COLUMNS))]


def headings_of(metrics: Iterable[Metric]) -> tuple[tuple[str, str], ...]:
    """Heading and unit of each metric."""
    return tuple((metric.heading, metric.unit) for metric in metrics)


def overall_tables(rows: Sequence[MethodScores]) -> list[ScoreTable]:
    """All metrics of every method, mean over scenes, in three tables."""
    return [_overall_table(title, rows) for title in (ERROR, SQUARED, DEPTH)]


def scene_table(rows: Sequence[MethodScores], names: Sequence[str], rows_are: str, key: str = "rmse") -> ScoreTable:
    """One metric of every method (columns) in every scene or land cover (rows); worse than the prior is marked."""
    metric = METRICS[key]
    prior = next((column for column, row in enumerate(rows) if row.kind == "prior"), None)
    table_rows = []
    for name in names:
        values = [_by_name(row, rows_are).get(name, {}).get(key, math.nan) for row in rows]
        limit = math.nan if prior is None else values[prior]
        worse = [
            row.kind == "model" and metric.cost(value) > metric.cost(limit)
            for row, value in zip(rows, values, strict=True)
        ]
        table_rows.append(TableRow(name, tuple(_cells(metric, values, worse))))
    unit = f" ({metric.unit})" if metric.unit else ""
    headings = tuple((row.method, "") for row in rows)
    return ScoreTable(f"{metric.heading}{unit} by {rows_are}", headings, tuple(table_rows), rows_are)


def interval_table(rows: Sequence[MethodScores]) -> ScoreTable:
    """The bootstrap intervals of the mean over scenes."""
    metrics = [metric for metric in METRICS.values() if metric.has_interval]
    table_rows = []
    for row in rows:
        cells = (TableCell(_interval(metric, row.interval.get(metric.key)) or "-") for metric in metrics)
        table_rows.append(TableRow(row.method, tuple(cells), row.kind, row.loses))
    return ScoreTable("90 % bootstrap interval of the mean over scenes", headings_of(metrics), tuple(table_rows))


def detail_tables(rows: Sequence[MethodScores], rows_are: str) -> list[ScoreTable]:
    """All metrics in every scene or land cover, one table per method."""
    tables = []
    for row in rows:
        if by_name := _by_name(row, rows_are):
            table_rows = (
                TableRow(name, tuple(TableCell(metric.text(scores[key])) for key, metric in METRICS.items()))
                for name, scores in by_name.items()
            )
            tables.append(ScoreTable(row.method, headings_of(METRICS.values()), tuple(table_rows), rows_are))
    return tables


def _by_name(row: MethodScores, rows_are: str) -> Mapping[str, Scores]:
    return row.scenes if rows_are == "scene" else row.covers


def _overall_table(title: str, rows: Sequence[MethodScores]) -> ScoreTable:
    metrics = [metric for metric in (*METRICS.values(), *METHOD_COLUMNS) if metric.table == title]
    columns = []
    for metric in metrics:
        of_method = metric in METHOD_COLUMNS
        values = [getattr(row, metric.key) if of_method else row.overall[metric.key] for row in rows]
        bad = [row.loses and metric.key == "to_prior" for row in rows]
        columns.append(_cells(metric, values, bad, [row.interval.get(metric.key) for row in rows]))
    by_row = zip(rows, zip(*columns, strict=True), strict=True)
    table_rows = (TableRow(row.method, cells, row.kind, row.loses) for row, cells in by_row)
    return ScoreTable(title, headings_of(metrics), tuple(table_rows))


def _cells(
    metric: Metric, values: Sequence[float], bad: Sequence[bool], intervals: Sequence[tuple[float, float] | None] = ()
) -> list[TableCell]:
    """The cells of a column. Cells with the text of the best value are marked, unless all cells are equal."""
    costs = [metric.cost(value) for value in values]
    known = [cost for cost in costs if not math.isnan(cost)]
    shown = {metric.text(value) for value, cost in zip(values, costs, strict=True) if not math.isnan(cost)}
    best = metric.text(values[costs.index(min(known))]) if len(shown) > 1 else None
    return [
        TableCell(metric.text(value), _interval(metric, ends), metric.text(value) == best, is_bad)
        for value, is_bad, ends in zip(values, bad, intervals or [None] * len(values), strict=True)
    ]


def _interval(metric: Metric, ends: tuple[float, float] | None) -> str:
    return "" if ends is None or any(map(math.isnan, ends)) else " to ".join(metric.text(end) for end in ends)
