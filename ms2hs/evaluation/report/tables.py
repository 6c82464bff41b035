"""Scores as tables for people: units, few digits, the best of each column marked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ms2hs.evaluation.results import FEATURES_NM, Row, Scores

UNKNOWN = "–"
Read = Callable[[Scores], float]


@dataclass(frozen=True)
class Column:
    """One of the scores."""

    head: str
    unit: str
    read: Read
    digits: int = 4
    factor: float = 1.0
    best: Literal["low", "high", "zero", "none"] = "low"
    key: str = ""
    """Of `Row.interval`, where it may have one."""
    is_signed: bool = False

    def text(self, value: float) -> str:
        """A number for people; a dash where it is unknown."""
        if math.isnan(value):
            return UNKNOWN
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        number = round(self.factor * value, self.digits) or 0.0  # no negative zero
        sign = "+" if self.is_signed and number else ""
        return f"{number:{sign}.{self.digits}f}".replace("-", "−")

    def merit(self, value: float) -> float:
        """The lower, the better; NaN where nothing is better than anything."""
        return {"low": value, "high": -value, "zero": abs(value), "none": math.nan}[self.best]


@dataclass(frozen=True)
class Cell:
    """A number of a table."""

    text: str
    interval: str = ""
    is_best: bool = False
    is_bad: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table: what it is of, and its numbers."""

    name: str
    cells: tuple[Cell, ...]
    kind: str = ""
    loses: bool = False


@dataclass(frozen=True)
class Table:
    """A table, its columns' heads and units, and its lines."""

    title: str
    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    of: str = "method"
    """What its lines are of."""


RMSE = Column("RMSE", "", lambda one: one.rmse, key="rmse")

ERRORS = (
    RMSE,
    Column("SAM, median", "°", lambda one: one.sam_median, 2, key="sam_median"),
    Column("SAM, mean", "°", lambda one: one.sam_mean, 2),
    Column("Bias", "", lambda one: one.bias, best="zero", is_signed=True),
    Column("R²", "", lambda one: one.r2, 3, best="high"),
    Column("PSNR", "dB", lambda one: one.psnr, 1, best="high"),
    Column("ERGAS", "", lambda one: one.ergas, 2),
    Column("Time", "s/Mpx", lambda one: one.seconds, 1, best="none"),
)

SQUARES = (
    Column("MSE, all bands", "× 10⁻⁴", lambda one: one.mse, 3, 1e4, key="mse"),
    Column("MSE, masked", "× 10⁻⁴", lambda one: one.masked_mse, 3, 1e4),
    Column("MSE, unmasked", "× 10⁻⁴", lambda one: one.unmasked_mse, 3, 1e4),
    Column("SSIM", "", lambda one: one.ssim, 4, best="high"),
)


def _depth(nm: int) -> Read:
    return lambda one: one.depth.get(nm, math.nan)


DEPTHS = tuple(Column(str(nm), "nm", _depth(nm), 3) for nm in FEATURES_NM)

COVERAGES = (
    Column("in\N{NO-BREAK SPACE}68\N{NO-BREAK SPACE}%", "%", lambda one: one.coverage_68, 1, 100, "none"),
    Column("in\N{NO-BREAK SPACE}90\N{NO-BREAK SPACE}%", "%", lambda one: one.coverage_90, 1, 100, "none"),
)

ALL = (*ERRORS, *SQUARES, *DEPTHS, *COVERAGES)

TRAINING = Column("MSE, training", "× 10⁻⁴", lambda _one: math.nan, 3, 1e4, "none")

TO_PRIOR = Column("÷\N{NO-BREAK SPACE}prior", "", lambda _one: math.nan, 3, best="low")


def overall_tables(rows: Sequence[Row]) -> list[Table]:
    """Every score of every method, mean over scenes, in three tables."""
    ratio = [_cells(TO_PRIOR, [row.to_prior for row in rows], [row.loses for row in rows])]
    training = [_cells(TRAINING, [row.train_mse for row in rows])]
    return [
        _table("Error, angle and time", rows, ERRORS, (1, TO_PRIOR, ratio)),
        _table(
            "Squared error and structure, as in Table 2 of arXiv 2502.19451", rows, SQUARES, (0, TRAINING, training)
        ),
        _table("Band depth (RMSE), and share of values within the intervals", rows, (*DEPTHS, *COVERAGES)),
    ]


def scene_table(rows: Sequence[Row], places: Sequence[str], of: str) -> Table:
    """RMSE of every method (across) in every scene or land cover (down); what is worse than the prior is marked."""
    found = [[_of(row, of).get(place) for row in rows] for place in places]
    prior = next((at for at, row in enumerate(rows) if row.kind == "prior"), None)
    lines = []
    for place, scores in zip(places, found, strict=True):
        values = [math.nan if one is None else one.rmse for one in scores]
        to_beat = math.nan if prior is None else values[prior]
        worse = [row.kind == "model" and value > to_beat for row, value in zip(rows, values, strict=True)]
        lines.append(Line(place, tuple(_cells(RMSE, values, worse))))
    return Table(f"RMSE by {of}", tuple((row.method, "") for row in rows), tuple(lines), of)


def detail_tables(rows: Sequence[Row], of: str) -> list[Table]:
    """Every score in every scene or land cover, a table a method."""
    heads = tuple((column.head, column.unit) for column in ALL)
    return [
        Table(
            row.method,
            heads,
            tuple(
                Line(place, tuple(Cell(column.text(column.read(scores))) for column in ALL))
                for place, scores in _of(row, of).items()
            ),
            of,
        )
        for row in rows
        if _of(row, of)
    ]


def _of(row: Row, of: str) -> Mapping[str, Scores]:
    return row.scenes if of == "scene" else row.covers


def _table(
    title: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    extra: tuple[int, Column, list[list[Cell]]] | None = None,
) -> Table:
    cells = [
        _cells(
            column, [column.read(row.overall) for row in rows], intervals=[row.interval.get(column.key) for row in rows]
        )
        for column in columns
    ]
    heads = [(column.head, column.unit) for column in columns]
    if extra:
        at, column, more = extra
        heads.insert(at, (column.head, column.unit))
        cells[at:at] = more
    lines = [
        Line(row.method, own, row.kind, row.loses) for row, own in zip(rows, zip(*cells, strict=True), strict=True)
    ]
    return Table(title, tuple(heads), tuple(lines))


def _cells(
    column: Column,
    values: Sequence[float],
    bad: Sequence[bool] = (),
    intervals: Sequence[tuple[float, float] | None] = (),
) -> list[Cell]:
    """A column's cells; the best one as it is printed, and what prints the same, are marked unless all are."""
    merits = [column.merit(value) for value in values]
    known = [merit for merit in merits if not math.isnan(merit)]
    printed = {column.text(value) for value, merit in zip(values, merits, strict=True) if not math.isnan(merit)}
    best = column.text(values[merits.index(min(known))]) if len(printed) > 1 else None
    bad = bad or [False] * len(values)
    ranges = intervals or [None] * len(values)
    return [
        Cell(
            column.text(value),
            "" if ends is None or any(map(math.isnan, ends)) else "–".join(column.text(end) for end in ends),
            column.text(value) == best,
            is_bad,
        )
        for value, is_bad, ends in zip(values, bad, ranges, strict=True)
    ]
