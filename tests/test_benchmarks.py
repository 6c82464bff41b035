"""The benchmarks run as the docs say, and accuracy stays as it states."""

import importlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script, *options):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, options), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_conversion_benchmark_reports_the_ratio_to_gdal(tmp_path):
    small, wide = run("conversion.py", "--size", 200, "--size", "150x300", "--repeat", 1, "--folder", tmp_path)
    assert (small["height"], small["width"], wide["height"], wide["width"]) == (200, 200, 150, 300)
    assert small["ratio"] == small["whole"] / small["plain_write"]
    assert {"read", "model", "compress", "store", "finish", "processors"} <= set(small)
    assert 0 < small["peak_bytes"] < 1.5e9
    assert not {"memory_over_height"} & (set(small) | set(wide))  # two widths
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_conversion_benchmark_compares_memory_by_height(tmp_path):
    low, high = run("conversion.py", "--size", "64x100", "--size", "192x100", "--repeat", 1, "--folder", tmp_path)
    assert high["memory_over_height"] == high["peak_bytes"] / low["peak_bytes"]
    assert "memory_over_height" not in low


@pytest.mark.slow
def test_writer_benchmark_compares_with_gdal(tmp_path):
    found = run("writer.py", "--bands", 20, "--height", 300, "--width", 280, "--repeat", 1, "--folder", tmp_path)
    assert {"ours", "plain", "prepared", "gdal cog"} <= set(found["ratios"])
    assert found["ratios"]["ours"] == 1
    assert min(found["ratios"].values()) > 0


@pytest.mark.slow
def test_pretraining_benchmark_compares_with_bare_layers():
    small = ("--window", 8, "--batch", 2, "--steps", 2, "--threads", 1, "--device", "cpu", "--eager")
    plain, ours = run("pretraining.py", "--preset", "dlr-ibm-spatial-spectral", "--preset", "spatial-spectral", *small)
    # 211 simulated bands in 27 groups, a quarter of them seen
    assert plain["tokens"] == {"encoder": [2, 7, 768], "decoder": [2, 7 + 27, 512]}
    assert ours["tokens"] == {"encoder": [2, 1, 128], "decoder": [2, 1, 128]}  # one patch
    for found in (plain, ours):
        assert set(found["seconds"]) == {"float32", "bfloat16", "bare, float32", "bare, bfloat16"}
        assert found["bare_over_step"]["float32"] > 0.2  # far below the usual: two rounds are noisy
        assert set(found["loader_over_step"]) == {
            f"{name}, {workers} workers" for name in ("simulated", "shards") for workers in (0, 1)
        }
        assert min(found["loader_windows_s"].values()) > 0
    assert ours["auto"] == "float32"


@pytest.mark.slow
def test_forward_benchmark_compares_with_the_bare_forward(tmp_path, monkeypatch, capsys):
    models = ("--model", "spatial-spectral", "--model", "dlr-ibm-spectral")
    small = ("--size", 72, "--device", "cpu", "--repeat", 1, "--folder", tmp_path)
    ours, fresh = run("forward.py", *models, *small)
    for found in (ours, fresh):
        assert found["device"] == "cpu"
        assert found["precision"] == "float32"
        assert found["callers"] >= 1
        assert found["whole_over_bare"] == found["whole"] / found["bare"]
        assert found["besides_over_bare"] == found["whole_over_bare"] - 1
        assert found["share_of_matrix_rate"] == found["operations"] / found["bare"] / found["rate_float32"]
        assert 0 < found["share_of_matrix_rate"] < 1.5  # far above the usual: one turn is noisy
        assert not {"device_seconds", "copied_in", "copied_out"} & set(found)
    assert ours["pixels"] == 72**2
    assert fresh["pixels"] == 72**2 + 8**2
    monkeypatch.syspath_prepend(BENCHMARKS)
    show = importlib.import_module("forward").show
    show(ours)
    show(fresh | dict.fromkeys(("device_seconds", "copied_in", "copied_out"), 1.0))  # as on a GPU
    table = capsys.readouterr().out
    assert f"overhead {ours['besides_over_bare']:.0%}" in table
    assert f"store {ours['store']:.2f}" in table
    assert "copied to the host" in table
    # of each 8 x 8 pixels the encoder has 9 tokens and more, in 4 blocks of 12 · 768² weights: two operations each
    assert fresh["operations"] > 9**2 * 9 * 4 * 12 * 768**2 * 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_peers_benchmark_compares_with_a_loop(tmp_path):
    found = run("peers.py", "--size", 72, "--only", "loop", "--device", "cpu", "--repeat", 1, "--folder", tmp_path)
    assert set(found["ratios"]) == {"ours", "loop"}
    assert set(found["ratios"]["ours"].values()) == {1}
    ours, loop = found["median"]["ours"], found["median"]["loop"]
    assert found["ratios"]["loop"] == {key: loop[key] / ours[key] for key in ("seconds", "peak_bytes")}
    assert 1e8 < min(ours["peak_bytes"], loop["peak_bytes"]) < 1.5e9
    assert found["difference"]["loop"]["largest_dn"] <= 1  # rounding
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_accuracy_on_left_out_scenes_is_as_the_readme_states(real_data):
    found = run("leave_one_scene_out.py", "--data", real_data)
    assert len(found) == 9

    def mean(method, what):
        return float(np.mean([scores[method][what] for scores in found.values() if method in scores]))

    assert mean("prior", "rmse") <= 0.0076
    assert mean("prior", "sam") <= 1.85
    assert mean("prior", "rmse") < 0.4 * mean("interpolation", "rmse")
    assert mean("prior", "residual") <= 0.002
    assert 0.87 <= mean("prior", "coverage") <= 0.93
    assert min(scores["prior"]["coverage"] for scores in found.values()) >= 0.78
    assert mean("prior, noise given", "rmse") < mean("prior, noise", "rmse")
    assert 0.87 <= mean("prior, noise given", "coverage") <= 0.93
    assert mean("3 references", "rmse") <= 0.0055  # the aim was 0.0050: see docs/accuracy.md
    assert mean("10 references", "rmse") <= 0.0043  # the aim was 0.0040
    images = [scores for scores in found.values() if "half, site" in scores]
    ratios = [scores["half, site"]["rmse"] / scores["half, no site"]["rmse"] for scores in images]
    assert len(images) == 6
    # Halves of other land are not used as a site: their ratio is 1. With every half used, the mean was 0.5, and 1.15 in
    # the worst half with errors of the product.
    assert np.mean(ratios) <= 0.6
    assert max(ratios) <= 1.02


def test_learning_curve_keeps_test_scenes_out_of_training(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    curve = importlib.import_module("learning_curve")
    for group in curve.GROUPS:
        sets = [set(curve.chosen(group, count)) for count in curve.COUNTS]
        assert [len(chosen) for chosen in sets] == list(curve.COUNTS)
        assert all(few <= more for few, more in pairwise(sets))
        assert not sets[-1] & set(group)


def test_interval_of_a_ratio_of_means(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    interval = importlib.import_module("cross_fitted").interval
    prior = np.arange(1.0, 10)
    np.testing.assert_allclose(interval(0.9 * prior, prior), 0.9)  # the same ratio in every scene
    low, high = interval(prior * np.tile([0.8, 1.0, 1.2], 3), prior)
    assert low < 1 < high


@pytest.mark.slow
def test_scaling_benchmark_reports_the_speed_up(tmp_path):
    small = ("--scenes", 2, "--size", 64, "--workers", 1, "--repeat", 1, "--folder", tmp_path)
    found = run("scaling.py", *small)
    assert found["rows"][0]["ratio"] == 1
    assert list(tmp_path.iterdir()) == []
