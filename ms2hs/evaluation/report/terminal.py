"""Scores as text for the terminal, by `rich`."""

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ms2hs.evaluation.metric_table import METRICS
from ms2hs.evaluation.report.tables import (
    METHOD_COLUMNS,
    ScoreTable,
    TableCell,
    TableRow,
    conventions,
    headings_of,
    interval_table,
    overall_tables,
    scene_table,
)
from ms2hs.evaluation.results import CompletionScores, Evaluation, RatioScores

# Line width where stdout is not a terminal: no table is folded.
FILE_WIDTH = 10_000
MAX_LEFT_OUT = 10
# The name column and longer words of headings fold in a narrow terminal.
MIN_NAME_WIDTH, MAX_WORD_WIDTH = 10, 13
LOSER_STYLE = "red"
COMPLETION_UNITS = "Reflectance of 0-1; SSIM with data range 1. Masked: hidden bands."


def print_evaluation(evaluation: Evaluation) -> None:
    """Print all scores, by method, scene and land cover, with definitions and notes; models that lose are red."""
    _print(_evaluation_text(evaluation))


def print_ratios(rows: Sequence[RatioScores]) -> None:
    """Print the scores of completed cubes at each ratio and masking."""
    for ratio, masking in dict.fromkeys((row.ratio, row.masking) for row in rows):
        own = [row for row in rows if (row.ratio, row.masking) == (ratio, masking)]
        _print([_completion_table(f"{ratio:.0%} hidden ({masking})", own)])
    _print([Text(COMPLETION_UNITS)])


def print_completion(rows: Sequence[CompletionScores]) -> None:
    """Print the scores of completed cubes, one line per model."""
    _print([_completion_table("", rows), Text(COMPLETION_UNITS)])


def _completion_table(title: str, rows: Sequence[CompletionScores]) -> Table:
    train_mse = next(column for column in METHOD_COLUMNS if column.key == "train_mse")
    columns = [train_mse, *(METRICS[key] for key in ("mse", "masked_mse", "unmasked_mse", "ssim"))]
    cells = ((row.model, tuple(TableCell(column.text(getattr(row, column.key))) for column in columns)) for row in rows)
    return _rich_table(ScoreTable(title, headings_of(columns), tuple(TableRow(*row) for row in cells), "model"))


def _print(parts: Iterable[RenderableType]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    for part in parts:
        console.print(part, crop=False)
        if isinstance(part, Table):
            console.print()


def _evaluation_text(evaluation: Evaluation) -> Iterator[RenderableType]:
    rows = evaluation.rows
    yield Text(f"{evaluation.title}\n")
    yield from map(_rich_table, overall_tables(rows))
    if any(row.interval for row in rows):
        yield _rich_table(interval_table(rows))
    covers = sorted({cover for row in rows for cover in row.covers})
    for rows_are, names in (("scene", list(evaluation.scenes)), ("land cover", covers)):
        for key in ("rmse", "sam_median"):
            yield _rich_table(scene_table(rows, names, rows_are, key))
    yield Text("\n".join(["Means over scenes, each with the same weight.", *conventions(), ""]))
    scenes = len(evaluation.scenes)
    yield Text(
        f"{evaluation.pixels:,} pixels of {scenes} scene{'s' * (scenes != 1)}; {evaluation.unlike:,} unlike training"
    )
    for note in evaluation.notes:
        yield Text(f"note: {note}")
    for name, reason in list(evaluation.left_out.items())[:MAX_LEFT_OUT]:
        yield Text(f"left out: {name}: {reason}")
    if len(evaluation.left_out) > MAX_LEFT_OUT:
        yield Text(f"left out: {len(evaluation.left_out) - MAX_LEFT_OUT} more")
    for row in filter(lambda row: row.loses, rows):
        yield Text(f"{row.method} loses to the prior: its RMSE is {row.to_prior:.3f} times the prior's", LOSER_STYLE)


def _rich_table(scores: ScoreTable) -> Table:
    """A table with one line per word of a heading. Names and headings fold in a narrow terminal; numbers do not."""
    table = Table(
        title=scores.title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column(scores.rows_are, overflow="fold", vertical="bottom", min_width=MIN_NAME_WIDTH)
    for column, (heading, unit) in enumerate(scores.headings):
        words = [*heading.split(" "), *([unit] if unit else [])]
        widths = (len(row.cells[column].text) for row in scores.rows)
        width = max(min(max(map(len, words)), MAX_WORD_WIDTH), *widths, 0)
        table.add_column(Text("\n".join(words)), justify="right", overflow="fold", vertical="bottom", min_width=width)
    for row in scores.rows:
        cells = (Text(cell.text, LOSER_STYLE if cell.is_bad else "") for cell in row.cells)
        table.add_row(Text(row.name), *cells, style=LOSER_STYLE if row.loses else "")
    return table
