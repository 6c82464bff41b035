"""The summary of an evaluation in sentences, and its tables of scores."""

from dataclasses import replace

import numpy as np
import pytest
from evaluations import KINDS, SIZES, evaluation_of, scores_of
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.evaluation.metric_table import METRICS
from ms2hs.evaluation.report.page import typeset
from ms2hs.evaluation.report.summary import best_of, findings
from ms2hs.evaluation.report.tables import detail_tables, interval_table, overall_tables, scene_table


def sentences(evaluation):
    return {(one.method, one.text.split(":")[0], one.tone) for one in findings(evaluation)}


def small(scenes=3, **sizes):
    return evaluation_of(scenes, SIZES | sizes, KINDS, examples=0, windows=0)


@pytest.mark.parametrize(
    ("size", "finding"),
    [
        (0.9, ("spectral", "loses to the prior", "bad")),
        (0.752, ("spectral", "loses to the prior", "bad")),
        (0.75, ("spectral", "is level with the prior", "plain")),
        (0.7499, ("spectral", "is level with the prior", "plain")),
        (0.5, ("spectral", "beats the prior", "good")),
    ],
)
def test_findings_compare_each_model_with_the_prior(size, finding):
    evaluation = small(spectral=size)
    assert finding in sentences(evaluation)
    (line,) = [one.text for one in findings(evaluation) if one.text.startswith(finding[1])]
    ahead = {"bad": "ahead in 0 of 3", "good": "ahead in 3 of 3", "plain": "less than 0.1 %"}[finding[2]]
    assert ahead in line


def test_best_is_the_simplest_of_level_methods():
    assert best_of(small(spectral=0.7499).rows).method == "prior"
    assert best_of(small(spectral=0.5).rows).method == "spectral"
    assert best_of(()) is None
    lost = small(interpolation=0.1)
    assert findings(lost)[0].tone == "bad"
    assert "A baseline is best" in findings(lost)[0].text


def test_findings_give_the_interval_over_scenes():
    row = small().rows[2]
    low, high = row.interval["rmse"]
    assert f"90 % bootstrap interval over 3 scenes {low:.4f}–{high:.4f}" in findings(small())[0].text
    assert "one scene only" in findings(small(scenes=1))[0].text


def test_findings_name_the_best_method_by_angle():
    evaluation = small()
    rows = list(evaluation.rows)
    rows[1] = replace(rows[1], overall={**rows[1].overall, "sam_median": 0.5})
    assert ("interpolation", "has the lowest median spectral angle", "plain") in sentences(
        replace(evaluation, rows=tuple(rows))
    )
    assert not any(line.startswith("has the lowest median") for _, line, _ in sentences(evaluation))


@pytest.mark.parametrize(("mean", "worst", "expected"), [(0.9, 0.8, "about right"), (0.9, 0.7, "too narrow"),
                                                       (0.8, 0.79, "too narrow"), (0.97, 0.9, "too wide")])  # fmt: skip
def test_findings_judge_the_intervals(mean, worst, expected):
    evaluation = small()
    row = evaluation.rows[2]
    scenes = dict.fromkeys(row.scenes, scores_of(0.01, 0.99)) | {"scene 1": scores_of(0.01, worst)}
    row = replace(row, overall={**row.overall, "coverage_90": mean}, scenes=scenes)
    (line,) = [one.text for one in findings(replace(evaluation, rows=(row,))) if "intervals that hold" in one.text]
    assert line.endswith(f"({100 * worst:.0f} % in the worst scene): {expected}.")


def test_findings_name_a_missing_prior_or_model():
    evaluation = small()
    text = " ".join(one.text for one in findings(replace(evaluation, rows=evaluation.rows[:3])))
    assert "No other model" in text
    assert "No prior" in " ".join(one.text for one in findings(replace(evaluation, rows=evaluation.rows[:2])))


@given(st.floats(-1e3, 1e3))
def test_text_of_a_value_reads_back(value):
    for metric in METRICS.values():
        text = metric.text(value)
        assert float(text) == pytest.approx(value * metric.factor, abs=0.5001 * 10**-metric.digits)
        assert not text.startswith(("-0.0000", "+0.0000")) or float(text)
        assert float(typeset(text).replace("−", "-")) == float(text)


def test_text_of_special_values():
    rmse, bias = METRICS["rmse"], METRICS["bias"]
    assert [rmse.text(value) for value in (np.nan, np.inf, -np.inf)] == ["-", "inf", "-inf"]
    assert [typeset(text) for text in ("-", "inf", "-inf", "0.1 to 0.2")] == ["–", "∞", "−∞", "0.1–0.2"]
    texts = [typeset(bias.text(value)) for value in (0.01, -0.01, -1e-9, 0)]
    assert texts == ["+0.0100", "−0.0100", "0.0000", "0.0000"]


def test_every_metric_is_in_a_table():
    headings = [heading for table in overall_tables(small().rows) for heading in table.headings]
    assert {(metric.heading, metric.unit) for metric in METRICS.values()} <= set(headings)
    assert len(headings) == len(METRICS) + 2  # and the ratio to the prior, and the training MSE
    for table in detail_tables(small().rows, "scene"):
        assert table.headings == tuple((metric.heading, metric.unit) for metric in METRICS.values())


def column_of(table, heading):
    at = [name for name, _ in table.headings].index(heading)
    return [row.cells[at] for row in table.rows]


def test_best_value_of_a_column_is_marked():
    error, squared, depths = overall_tables(small().rows)
    rmse = column_of(error, "RMSE")
    assert [cell.is_best for cell in rmse] == [False, False, True, False]
    for cells in (column_of(error, "R²"), column_of(squared, "PSNR")):
        assert [cell.is_best for cell in cells] == [False, False, True, False]
    assert [cell.is_bad for cell in column_of(error, "÷ prior")] == [False, False, False, True]
    assert not any(cell.is_best for cell in column_of(squared, "MSE unmasked")), "all are the same"
    assert [cell.text for cell in column_of(depths, "depth 1730")] == ["-"] * 4
    assert [cell.text for cell in column_of(squared, "MSE training")] == ["-", "-", "-", "0.700"]
    assert rmse[2].interval.count(" to ") == 1
    assert [cell.text for cell in column_of(interval_table(small().rows), "RMSE")] == [cell.interval for cell in rmse]


def test_scene_table_marks_models_worse_than_the_prior():
    evaluation = small()
    rows = [replace(row, scenes=dict(list(row.scenes.items())[: 3 - (row.kind == "model")])) for row in evaluation.rows]
    table = scene_table(rows, list(evaluation.scenes), "scene")
    assert [row.name for row in table.rows] == list(evaluation.scenes)
    assert [row.cells[3].is_bad for row in table.rows] == [True, True, False]
    assert table.rows[2].cells[3].text == "-"
    assert [len(table.rows) for table in detail_tables(rows, "scene")] == [3, 3, 3, 2]
    assert [row.name for row in detail_tables(rows, "land cover")[0].rows] == ["soil", "water"]
