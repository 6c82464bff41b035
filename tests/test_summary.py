"""What an evaluation is said to come to, and its numbers as they are printed."""

from dataclasses import replace

import numpy as np
import pytest
from evaluations import KINDS, SIZES, evaluation_of, scores_of
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.evaluation.report.summary import best_of, findings
from ms2hs.evaluation.report.tables import (
    ALL,
    ERRORS,
    RMSE,
    TO_PRIOR,
    UNKNOWN,
    detail_tables,
    overall_tables,
    scene_table,
)
from ms2hs.evaluation.results import Scores


def told(evaluation):
    return {(one.method, one.text.split(":")[0], one.tone) for one in findings(evaluation)}


def small(scenes=3, **sizes):
    return evaluation_of(scenes, SIZES | sizes, KINDS, examples=0, pictures=0)


@pytest.mark.parametrize(
    ("size", "verdict"),
    [
        (0.9, ("spectral", "loses to the prior", "bad")),
        (0.752, ("spectral", "loses to the prior", "bad")),
        (0.75, ("spectral", "is level with the prior", "plain")),
        (0.7499, ("spectral", "is level with the prior", "plain")),
        (0.5, ("spectral", "beats the prior", "good")),
    ],
)
def test_a_model_is_held_against_the_prior(size, verdict):
    evaluation = small(spectral=size)
    assert verdict in told(evaluation)
    (line,) = [one.text for one in findings(evaluation) if one.text.startswith(verdict[1])]
    ahead = {"bad": "ahead in 0 of 3", "good": "ahead in 3 of 3", "plain": "less than 0.1 %"}[verdict[2]]
    assert ahead in line


def test_the_best_is_the_simplest_of_those_that_are_level():
    assert best_of(small(spectral=0.7499).rows).method == "prior"
    assert best_of(small(spectral=0.5).rows).method == "spectral"
    assert best_of(()) is None
    lost = small(interpolation=0.1)
    assert findings(lost)[0].tone == "bad"
    assert "A baseline is best" in findings(lost)[0].text


def test_the_interval_over_scenes_is_told_and_its_lack_too():
    row = small().rows[2]
    low, high = row.interval["rmse"]
    assert f"90 % bootstrap interval over 3 scenes {low:.4f}–{high:.4f}" in findings(small())[0].text
    assert "one scene only" in findings(small(scenes=1))[0].text


def test_another_method_may_be_best_by_angle():
    evaluation = small()
    rows = list(evaluation.rows)
    rows[1] = replace(rows[1], overall=replace(rows[1].overall, sam_median=0.5))
    assert ("interpolation", "has the lowest median spectral angle", "plain") in told(
        replace(evaluation, rows=tuple(rows))
    )
    assert not any(line.startswith("has the lowest median") for _, line, _ in told(evaluation))


@pytest.mark.parametrize(("mean", "worst", "judged"), [(0.9, 0.8, "about right"), (0.9, 0.7, "too narrow"),
                                                       (0.8, 0.79, "too narrow"), (0.97, 0.9, "too wide")])  # fmt: skip
def test_intervals_are_judged(mean, worst, judged):
    evaluation = small()
    row = evaluation.rows[2]
    scenes = dict.fromkeys(row.scenes, scores_of(0.01, 0.99)) | {"scene 1": scores_of(0.01, worst)}
    row = replace(row, overall=replace(row.overall, coverage_90=mean), scenes=scenes)
    (line,) = [one.text for one in findings(replace(evaluation, rows=(row,))) if "intervals that hold" in one.text]
    assert line.endswith(f"({100 * worst:.0f} % in the worst scene): {judged}.")


def test_without_prior_or_model_that_is_said():
    evaluation = small()
    text = " ".join(one.text for one in findings(replace(evaluation, rows=evaluation.rows[:3])))
    assert "No other model" in text
    assert "No prior" in " ".join(one.text for one in findings(replace(evaluation, rows=evaluation.rows[:2])))


@given(st.floats(-1e3, 1e3))
def test_a_number_reads_back(value):
    for column in ALL:
        text = column.text(value)
        assert float(text.replace("−", "-")) == pytest.approx(value * column.factor, abs=0.5001 * 10**-column.digits)
        assert not text.startswith(("−0.0000", "+0.0000")) or float(text.replace("−", "-"))


def test_what_is_no_number():
    assert RMSE.text(float("nan")) == UNKNOWN == "–"
    assert RMSE.text(float("inf")) == "∞"
    assert RMSE.text(-np.inf) == "−∞"
    bias = next(column for column in ERRORS if column.head == "Bias")
    assert [bias.text(value) for value in (0.01, -0.01, -1e-9, 0)] == ["+0.0100", "−0.0100", "0.0000", "0.0000"]


def test_every_field_of_scores_has_a_column():
    read = []
    for column in ALL:

        class Probe:
            def __getattr__(self, name):
                read.append(name)
                return {}

        column.read(Probe())
    assert set(read) == set(Scores.__dataclass_fields__)


def test_the_best_of_a_column_is_marked():
    first, squares, depths = overall_tables(small().rows)
    rmse = [line.cells[0] for line in first.lines]
    assert [cell.is_best for cell in rmse] == [False, False, True, False]
    heads = [head for head, _ in first.heads]
    r2, psnr = (heads.index(name) for name in ("R²", "PSNR"))
    assert [line.cells[r2].is_best and line.cells[psnr].is_best for line in first.lines] == [False, False, True, False]
    ratio = [line.cells[heads.index(TO_PRIOR.head)] for line in first.lines]
    assert [cell.is_bad for cell in ratio] == [False, False, False, True]
    unmasked = [line.cells[3] for line in squares.lines]
    assert not any(cell.is_best for cell in unmasked), "all are the same"
    assert [line.cells[2].text for line in depths.lines] == [UNKNOWN] * 4
    assert rmse[2].interval.count("–") == 1


def test_places_are_tabled_and_losses_marked():
    evaluation = small()
    rows = [replace(row, scenes=dict(list(row.scenes.items())[: 3 - (row.kind == "model")])) for row in evaluation.rows]
    table = scene_table(rows, list(evaluation.scenes), "scene")
    assert [line.name for line in table.lines] == list(evaluation.scenes)
    assert [line.cells[3].is_bad for line in table.lines] == [True, True, False]
    assert table.lines[2].cells[3].text == UNKNOWN
    assert [len(one.lines) for one in detail_tables(rows, "scene")] == [3, 3, 3, 2]
    assert [line.name for line in detail_tables(rows, "land cover")[0].lines] == ["soil", "water"]
