"""The table of metrics: what is generated from it."""

import csv

import numpy as np
from evaluations import evaluation_of
from test_evaluation import evaluate, make_pairs, printed

from ms2hs.evaluation.metric_table import ERROR, METRICS, Metric
from ms2hs.evaluation.report.numbers import csv_of, evaluation_json
from ms2hs.evaluation.report.tables import conventions, detail_tables, overall_tables

COLUMNS = [
    "method", "kind", "scene", "mse", "masked_mse", "unmasked_mse", "ssim", "rmse", "bias", "sam_mean", "sam_median",
    "psnr", "ergas", "r2", "coverage_68", "coverage_90", "seconds", "depth_670", "depth_1200", "depth_1730",
    "depth_2100", "depth_2205", "depth_2330",
]  # fmt: skip


def test_csv_columns_and_json_keys_are_stable():
    assert csv_of(evaluation_of()).splitlines()[0].split(",") == COLUMNS
    row = evaluation_json(evaluation_of())["rows"][0]
    assert set(row) == {
        "method", "kind", "overall", "interval", "scenes", "covers", "to_prior", "train_mse", "loses",
    }  # fmt: skip
    assert set(row["overall"]) == {"depth", *COLUMNS[3:-6]}
    assert set(row["overall"]["depth"]) == {"670", "1200", "1730", "2100", "2205", "2330"}
    assert row["scenes"]["scene 0"].keys() == row["covers"]["soil"].keys() == row["overall"].keys()


def test_new_metric_is_computed_and_shown_everywhere(monkeypatch, capsys):
    new = Metric(
        "worst_band", "Worst band", "", lambda sums: float(np.nanmax(sums.rmse)), ERROR, 5, has_interval=True,
        definition="RMSE of the worst band",
    )  # fmt: skip
    monkeypatch.setitem(METRICS, new.key, new)
    found = evaluate([], make_pairs(3))
    (prior,) = [row for row in found.rows if row.kind == "prior"]
    expected = np.mean([scores["worst_band"] for scores in prior.scenes.values()])
    assert prior.overall["worst_band"] == expected > prior.overall["rmse"]
    assert set(prior.interval) == {"mse", "rmse", "sam_median", "worst_band"}
    (line,) = [
        line
        for line in csv.DictReader(csv_of(found).splitlines())
        if line["method"] == "prior" and line["scene"] == "*"
    ]
    assert float(line["worst_band"]) == expected
    assert evaluation_json(found)["rows"][-1]["overall"]["worst_band"] == expected
    assert ("Worst band", "") in overall_tables(found.rows)[0].headings
    assert ("Worst band", "") in detail_tables(found.rows, "scene")[0].headings
    assert "Worst band: RMSE of the worst band" in conventions()
    text = printed(found, capsys)
    assert f"{expected:.5f}" in text
    assert "Worst band: RMSE of the worst band" in text
