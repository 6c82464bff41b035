"""The table of a probe for people and programs: the terminal, JSON, CSV, and one HTML page that loads nothing.

`findings` says in words whether an encoder beats raw bands: by the difference of the main score for the same split and
the same labels, mean over the seeds, beside its standard deviation over the seeds.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs._version import __version__
from ms2hs.errors import OutputError
from ms2hs.evaluation.report.numbers import json_values
from ms2hs.evaluation.report.page import typeset
from ms2hs.evaluation.report.tables import ScoreTable, TableCell, TableRow
from ms2hs.files import NO_FILES, FileIds, write_bytes
from ms2hs.tasks.label_scores import SCORES, main_score, scores_of
from ms2hs.tasks.probing import RAW, WITH_ENCODER, ProbeResult, ProbeRow, mean_and_deviation

TEMPLATE = Path(__file__).with_name("probe.html")
PAGE_SUFFIXES = (".html", ".htm")
# Classes of the largest confusion matrix on the page.
MAX_MATRIX = 40


def check_probe_page() -> None:
    """Raise OutputError unless jinja2 is installed; to be called before long work."""
    if find_spec("jinja2") is None:
        raise OutputError(
            "jinja2 is not installed; the page needs it. `pip install 'ms2hs[tasks]'` brings it, or leave out --output."
        )


def best_row(result: ProbeResult, share: float, kinds: Sequence[str] = ()) -> ProbeRow:
    """The row of some kinds, or of all, with the best mean of the main score at a share."""
    key = main_score(result.task)

    def mean(row: ProbeRow) -> float:
        value = row.of_share(share, key)[0]
        return -math.inf if math.isnan(value) else value

    return max((row for row in result.rows if not kinds or row.kind in kinds), key=mean)


def findings(result: ProbeResult) -> list[str]:
    """Sentences about the split, and for each share about the best encoder beside raw bands and a random encoder."""
    raw = next(row for row in result.rows if row.name == RAW)
    sentences = [split_in_words(result)]
    if not any(row.kind in WITH_ENCODER for row in result.rows):
        return [*sentences, "No model has an encoder for these bands; a network is needed with --model."]
    return [*sentences, *(_finding(result, share, raw) for share in result.shares)]


def split_in_words(result: ProbeResult) -> str:
    """What the split keeps on one side, and how many samples each side has."""
    train, test = result.sizes
    kept = f"{train:,} training and {test:,} test samples"
    if result.optimistic:
        return (
            f"{kept}, split at random: optimistic, since neighbours of training samples are among the test samples. "
            "Scores of new places will be lower."
        )
    how = "as the data set gives it" if result.split_by == "given" else f"by {result.split_by}"
    return f"{kept}, split {how}."


def _finding(result: ProbeResult, share: float, raw: ProbeRow) -> str:
    """Whether the best encoder beats raw bands at a share of the labels."""
    key = main_score(result.task)
    best = best_row(result, share, WITH_ENCODER)
    top = best_row(result, share)
    gain, spread = difference(result, share, best, raw)
    verdict = f"the {best.name} beats raw bands" if gain > spread else "no encoder beats raw bands"
    if 0 < gain <= spread:
        verdict += " by more than the spread over seeds"
    beside = (
        f"more than the spread over seeds, {spread:.3f}" if abs(gain) > spread else f"spread over seeds {spread:.3f}"
    )
    if math.isnan(spread):
        verdict, beside = f"the {best.name} {'beats' if gain > 0 else 'does not beat'} raw bands", "one seed"
    values = f"{best.of_share(share, key)[0]:.3f} of {best.name}, {raw.of_share(share, key)[0]:.3f} of raw bands"
    labels = f"{share_text(share)} of the labels ({result.shares[share]:,})"
    parts = [f"With {labels}, {verdict}: {SCORES[key].heading} {values}, difference {gain:+.3f} ({beside})."]
    random = [row for row in result.rows if (row.kind, row.model) == ("random", best.model)]
    if random and best.kind == "encoder":
        gain, spread = difference(result, share, best, random[0])
        parts.append(f"Pretraining changes the score of this encoder by {gain:+.3f} (spread {spread:.3f}).")
    if top not in {best, raw}:
        parts.append(f"The best feature is {top.name} with {top.of_share(share, key)[0]:.3f}.")
    return " ".join(parts)


def difference(result: ProbeResult, share: float, first: ProbeRow, second: ProbeRow) -> tuple[float, float]:
    """Mean and standard deviation over seeds of the difference of the main score, on the same samples."""
    key = main_score(result.task)
    pairs = zip(first.scores[share][key], second.scores[share][key], strict=True)
    return mean_and_deviation([one - other for one, other in pairs])


def share_text(share: float) -> str:
    """A share in per cent."""
    return f"{100 * share:g}\u00a0%"


def score_tables(result: ProbeResult) -> list[ScoreTable]:
    """A table for each score of the task, the main one first: features by shares of the labels."""
    shares = [*result.shares, *result.impossible]
    headings = (("values", ""), *((share_text(share), _labels_text(result, share)) for share in sorted(shares)))
    tables = []
    for key, score in scores_of(result.task).items():
        means = {share: [row.of_share(share, key)[0] for row in result.rows] for share in shares}
        best = {
            share: max((value for value in values if not math.isnan(value)), default=None)
            for share, values in means.items()
        }
        rows = []
        for row in result.rows:
            cells = [TableCell(str(row.size))]
            for share in sorted(shares):
                mean, deviation = row.of_share(share, key)
                cells.append(TableCell(_score_text(mean, deviation), is_best=mean == best[share]))
            rows.append(TableRow(row.name, tuple(cells), row.kind))
        tables.append(ScoreTable(f"{score.heading}: {score.definition}", headings, tuple(rows), "feature"))
    return tables


def _labels_text(result: ProbeResult, share: float) -> str:
    return f"{result.shares[share]:,} labels" if share in result.shares else "too few"


def _score_text(mean: float, deviation: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def explanations(result: ProbeResult) -> list[str]:
    """How to read the tables, the reasons of empty columns, and notes."""
    method = (
        f"Mean ± standard deviation over {result.seeds} seeds. Heads are linear, on standardised features; the "
        "regularisation is chosen by cross-validation within the labels of the share."
    )
    empty = [f"{share_text(share)} is empty: {reason}" for share, reason in result.impossible.items()]
    return [method, *empty, *(f"note: {note}" for note in result.notes)]


def probe_json(result: ProbeResult) -> dict[str, Any]:
    """All numbers as JSON values."""
    values: dict[str, Any] = json_values(
        vars(result) | {"bands": result.bands.names, "wavelength_nm": result.bands.wavelength_nm}
    )
    return values | {"findings": findings(result), "score": main_score(result.task)}


def probe_csv(result: ProbeResult) -> str:
    """One line for each feature, share and score; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["feature", "kind", "model", "values", "share", "labels", "score", "mean", "deviation", "seeds"])
    for row in result.rows:
        for share, scores in row.scores.items():
            for key, values in scores.items():
                numbers = ["" if math.isnan(value) else value for value in row.of_share(share, key)]
                count = result.shares[share]
                writer.writerow([row.name, row.kind, row.model, row.size, share, count, key, *numbers, len(values)])
    return text.getvalue()


def write_probe(result: ProbeResult, path: Path, *, overwrite: bool = False, inputs: FileIds = NO_FILES) -> list[Path]:
    """Write the page, and `<stem>.csv` and `<stem>.json` beside it; their paths.

    Parameters
    ----------
    overwrite, inputs : as in `files.move_into_place`.

    Raises
    ------
    OutputError : jinja2 is not installed, or a file cannot be written.
    """
    check_probe_page()
    contents = {
        path: render(result),
        path.with_suffix(".csv"): probe_csv(result),
        path.with_suffix(".json"): json.dumps(probe_json(result), indent=1),
    }
    for file, text in contents.items():
        write_bytes(file, text.encode("utf-8", "replace"), overwrite=overwrite, inputs=inputs)
    return list(contents)


def render(result: ProbeResult) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  comes with ms2hs[tasks]

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["typeset"] = typeset
    share = max(result.shares)
    raw = next(row for row in result.rows if row.name == RAW)
    has_encoder = any(row.kind in WITH_ENCODER for row in result.rows)
    shown = [best_row(result, share, WITH_ENCODER), raw] if has_encoder else [raw]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        result=result,
        version=__version__,
        findings=findings(result),
        tables=score_tables(result),
        explanations=explanations(result),
        matrices=[
            (row.name, shares_of_truth(row.confusion), row.confusion.tolist())
            for row in shown
            if row.confusion is not None and len(row.confusion) <= MAX_MATRIX
        ],
        share=share_text(share),
        counts_are=("mean", "standard deviation") if result.task == "regression" else ("samples", "groups"),
    )


def shares_of_truth(confusion: NDArray[np.intp]) -> list[list[float]]:
    """(true class, predicted class) share of the samples of each true class, 0-1; 0 for a class without samples."""
    shares: list[list[float]] = (confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)).tolist()
    return shares
