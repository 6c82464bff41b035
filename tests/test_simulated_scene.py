"""The statistics of benchmarks/simulated_scene.py tell a blur, a grid and a seam where they are planted."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import S2_BANDS, write_raster

from ms2hs.datasets.simulation.example_scene import example_dn
from ms2hs.datasets.simulation.random_fields import blur, smooth_noise
from ms2hs.raster.tiling import Tiling

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "simulated_scene.py"
SIDE = 256


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def land():
    """Of as much detail as land has, with reflectance of 0.3 ± 0.05."""
    return (0.3 + 0.05 * smooth_noise((SIDE, SIDE), 1.2, np.random.default_rng(0))).astype(np.float32)


@pytest.fixture(scope="module")
def error():
    """(band, row, col) an error of a conversion: some that follows the land, and noise."""
    rng = np.random.default_rng(1)
    return np.stack([smooth_noise((SIDE, SIDE), 1.5, rng) + 0.05 * rng.normal(size=(SIDE, SIDE)) for _ in range(3)])


def test_white_noise_has_its_variance_as_power(bench):
    noise = 0.1 * np.random.default_rng(2).normal(size=(SIDE, SIDE))
    np.testing.assert_allclose(bench["power"](noise)[2:], 0.01, rtol=0.15)


def test_a_blur_shows_in_both_ratios_at_high_frequency(bench, land):
    rings = bench["rings_of"](blur(land, 0.6), land, land, 0.0)
    # the kernel is separable and of unit sum: its transfer, squared, is the ratio of the power
    offsets = np.arange(-2, 3)
    kernel = np.exp(-0.5 * (offsets / 0.6) ** 2) / np.exp(-0.5 * (offsets / 0.6) ** 2).sum()
    along = kernel @ np.cos(2 * np.pi * np.outer(offsets, np.arange(0.5, bench["RINGS"]) / bench["RINGS"] / 2))
    # between what it is along an axis and along a diagonal
    diagonal = kernel @ np.cos(2 * np.pi * np.outer(offsets, np.arange(0.5, bench["RINGS"]) / bench["RINGS"] / 2**1.5))
    low, high = np.sort([along, diagonal**2], axis=0)
    common = np.array(rings["common"])
    assert (common[1:] > low[1:] - 0.02).all()
    assert (common[1:] < high[1:] + 0.02).all()
    assert bench["worst"](rings["power"]) == rings["power"][-1] < 0.5
    assert bench["sharpness"](rings["common"]) < 0.75


def test_a_band_of_too_little_contrast_is_not_blurred(bench, land):
    rings = bench["rings_of"](0.3 + 0.9 * (land - 0.3), land, land, 0.0)
    np.testing.assert_allclose(rings["power"], 0.81, rtol=1e-3)
    assert bench["sharpness"](rings["common"]) == pytest.approx(1, abs=1e-3)


def test_noise_raises_power_where_it_counts_little_and_leaves_what_is_common(bench, land):
    noise = 0.003 * np.random.default_rng(3).normal(size=land.shape).astype(np.float32)
    rings = bench["rings_of"](land + noise, land, land, 0.003)
    counted = np.isfinite(rings["power"])
    assert 0 < counted.sum() < bench["RINGS"]  # not where noise is more than a tenth
    expected = 1 + 1 / np.array(rings["signal_to_noise"])
    np.testing.assert_allclose(np.array(rings["power"])[counted], expected[counted], rtol=0.05)
    np.testing.assert_allclose(rings["common"], 1, atol=0.05)


def test_a_result_that_is_the_truth_is_perfect(bench, land):
    rings = bench["rings_of"](land, land, land, 0.0)
    assert bench["worst"](rings["power"]) == pytest.approx(1)
    assert bench["worst"](rings["common"]) == pytest.approx(1)
    assert np.isnan(bench["worst"]([float("nan"), None]))


def layout(bench, patch=4):
    return bench["Layout"](patch, Tiling(SIDE, SIDE, 64, 16))


def plant(values, amplitude, edges):
    """Steps, up and down in turn, across rows and columns."""
    rows, cols = (amplitude * (-1.0) ** np.searchsorted(own, np.arange(SIDE)) for own in edges)
    return values + rows[:, None] + cols


def test_where_nothing_is_planted_no_edge_shows(bench, error):
    for edges in bench["edges_of"](layout(bench)).values():
        ratio, deviation = bench["excess"](error, edges)
        assert deviation < 0.05
        assert abs(ratio - 1) < 3 * deviation


@pytest.mark.parametrize(("planted", "other"), [("patches", "windows"), ("windows", "patches")])
def test_planted_edges_show_as_what_they_are(bench, error, planted, other):
    edges = bench["edges_of"](layout(bench))
    worse = plant(error, 0.05, edges[planted])
    ratio, deviation = bench["excess"](worse, edges[planted])
    assert ratio > 1 + 5 * deviation
    # the other is where it was, or below: what lies beside its edges may be a planted one
    assert bench["excess"](worse, edges[other])[0] < 1.05


def test_edges_lie_where_patches_and_windows_end(bench):
    tiling = Tiling(128, 128, 64, 16)  # windows begin at 0, 32, 64
    patches, windows = (bench["edges_of"](bench["Layout"](4, tiling))[name][1] for name in ("patches", "windows"))
    assert windows == [31, 63, 95]
    assert set(patches) == set(range(3, 31, 4)) | set(range(99, 127, 4))  # elsewhere two windows count


@pytest.mark.slow
def test_a_small_scene_goes_the_whole_way(bench, tmp_path):
    write_raster(tmp_path / "place.tif", example_dn()[:, :200, :200], descriptions=S2_BANDS, nodata=0, scale=1e-4)
    picture = tmp_path / "scene.png"
    options = ("--sentinel2", tmp_path, "--weights", "spatial-spectral", "--side", 160, "--output", picture, "--json")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scene"].startswith("shapes of place at ")
    scores = found["scores"]
    assert set(scores) == {"prior", "spatial-spectral"}
    for by_input in scores.values():
        assert set(by_input) == set(bench["INPUTS"])
        assert 0 < by_input["clean"]["rmse"] < by_input["product"]["rmse"] < 0.05
        assert 0.7 < bench["worst"](by_input["clean"]["rings"]["865"]["common"]) < 1.3
        assert 0.5 < by_input["clean"]["patches"][0] < 2
        assert 0.5 < by_input["clean"]["windows"][0] < 2
        # where noise is more than a tenth of the signal, the ratio of power is not given
        assert any(None in band["power"] for band in by_input["product"]["rings"].values())
    assert picture.read_bytes().startswith(b"\x89PNG")
