"""Resuming: a conversion that was interrupted at any point continues and writes the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import S2_BANDS, write_raster
from threadpoolctl import threadpool_info, threadpool_limits

from ms2hs.conversion import pipeline
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.dask_backend import convert_all
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.conversion.staging import staging_folder
from ms2hs.datasets.simulation.example_scene import example_dn
from ms2hs.errors import OutputError
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import InputError
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.raster.cog.block_store import BlockStore

HEIGHT = 1100


def make_scene(path, width):
    """A scene of several rows of blocks."""
    dn = example_dn()
    dn = np.concatenate([dn, dn[:, ::-1]], axis=1)
    dn = np.tile(dn, (1, -(-HEIGHT // dn.shape[1]), 1))[:, :HEIGHT, 40 : 40 + width]
    dn[3, 200:700:50, 5:7] = 65535  # impossible pixels in several rows of blocks
    return write_raster(path, dn, descriptions=S2_BANDS, nodata=0)


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("tall") / "tall.tif", 48)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small window network with calibrated uncertainty."""
    torch.manual_seed(3)
    prior = load_weights("linear").prior
    config = replace(preset("spatial-spectral"), width=24, heads=2, decoder_width=24, decoder_heads=2, window=32)
    small = SpectralMAE(config, prior)
    torch.nn.init.normal_(small.head.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, prior, {}, small, sigma_scale=2 * prior.sigma_scale)
    return str(path)


@pytest.fixture(scope="module")
def whole_of(tall, tmp_path_factory):
    """whole_of(model, input error): files of an uninterrupted conversion, which runs once for each pair."""

    @cache
    def converted(model, error=None):
        path = tmp_path_factory.mktemp("whole") / "cube.tif"
        return files_of(convert(tall, "enmap", path, options_for(model, input_error=error)))

    return converted


@pytest.fixture
def whole(whole_of):
    """Files of an uninterrupted conversion with the linear model."""
    return whole_of("linear")


def options_for(model, **more):
    return ConvertOptions(model=model, uncertainty=True, wavelengths_nm=((400, 900), (2100, 2200)), **more)


def files_of(made):
    """The files of a conversion, without times and notes in the item."""
    item = json.loads(made.item.read_text())
    for name in ("created", "ms2hs:seconds", "ms2hs:notes", "datetime"):
        item["properties"].pop(name, None)
    return [path.read_bytes() for path in (made.output, made.sigma, made.quicklook)], item


class Stop(Exception):
    """Interrupts a conversion in a test."""


@pytest.mark.parametrize("which", ["linear", "network", "linear, noise"])
@pytest.mark.parametrize("notes", [1, 3, 5])
def test_interrupted_conversion_resumes_with_the_same_files(
    tall, network, whole_of, tmp_path, monkeypatch, which, notes
):
    """A conversion interrupted after this many counted rows of blocks, up to the last row."""
    error = InputError(0.02, 0.005, 0.003) if "noise" in which else None
    model = network if which == "network" else "linear"
    expected = whole_of(model, error)
    counted, count = [], pipeline.Statistics.sample_rows

    def stop(statistics, row, *arrays):
        counted.append(row)
        if len({row // 256 for row in counted}) >= notes:
            raise Stop
        return count(statistics, row, *arrays)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(pipeline.Statistics, "sample_rows", stop)
        convert(tall, "enmap", tmp_path / "cube.tif", options_for(model, input_error=error, resume=True))
    left = staging_folder(tmp_path / "cube.tif")
    assert [path.name for path in tmp_path.iterdir()] == ([left.name] if notes > 1 else [])
    made = convert(tall, "enmap", tmp_path / "cube.tif", options_for(model, input_error=error, resume=True))
    assert any("resuming an interrupted conversion at row" in note for note in made.notes) == (notes > 1)
    assert files_of(made) == expected
    assert not left.exists()
    counts = made.counts
    assert counts.impossible == 20
    assert counts.valid + counts.nodata + counts.cloud + counts.impossible == counts.pixels == HEIGHT * 48


@pytest.mark.parametrize("placed", range(5))
def test_interruption_while_files_are_moved_resumes_with_the_same_files(tall, whole, tmp_path, monkeypatch, placed):
    """Interruptions after no file, some files, or all files; after all files, only the staging folder remains."""
    moved, link = [], Path.hardlink_to

    def stop(path, other):
        if len(moved) == placed:
            raise Stop
        moved.append(path.name)
        return link(path, other)

    def stop_before_removing(_staging):
        raise Stop

    left, names = (
        staging_folder(tmp_path / "cube.tif"),
        {"cube.tif", "cube_sigma.tif", "cube.png", "cube.qml", "cube.json"},
    )
    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(Path, "hardlink_to", stop)
        patch.setattr("ms2hs.files._take_back", lambda _placed: None)  # a killed process takes nothing back
        patch.setattr("ms2hs.conversion.staging.Staging._remove_folder", stop_before_removing)
        convert(tall, "enmap", tmp_path / "cube.tif", options_for("linear", resume=True))
    assert left.is_dir()
    assert len(moved) == placed
    assert files_of(convert(tall, "enmap", tmp_path / "cube.tif", options_for("linear", resume=True))) == whole
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("joined", [0, 1])
def test_interruption_after_the_last_row_converts_nothing_again(tall, whole, tmp_path, monkeypatch, joined):
    """The interruption comes before the file of the uncertainty is complete, or between that file and the cube."""
    paths, join = [], BlockStore.join

    def stop(store, *given):
        if len(paths) == joined:
            raise Stop
        paths.append(given)
        return join(store, *given)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(BlockStore, "join", stop)
        convert(tall, "enmap", tmp_path / "cube.tif", options_for("linear", resume=True))
    assert len(paths) == joined
    monkeypatch.setattr(pipeline, "_fill_block", None)
    made = convert(tall, "enmap", tmp_path / "cube.tif", options_for("linear", resume=True))
    assert f"resuming an interrupted conversion at row {HEIGHT} of {HEIGHT}" in made.notes
    assert files_of(made) == whole


def test_linear_pipeline_uses_one_blas_thread_until_the_end(tall, tmp_path, monkeypatch):
    """Blocks that are computed while the writers close are rounded like all other blocks."""
    threads, fill = set(), pipeline._fill_block

    def slow(*arguments):
        time.sleep(0.05)
        threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        fill(*arguments)

    monkeypatch.setattr(pipeline, "_fill_block", slow)
    with threadpool_limits(3, user_api="blas"):  # the tests themselves run with one
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {3}
        convert(tall, "enmap", tmp_path / "cube.tif", options_for("linear"))
    assert threads == {1}


def test_changed_options_start_over(tall, tmp_path, monkeypatch):
    path = tmp_path / "cube.tif"
    looked, count = [], pipeline.LinearPipeline._count

    def stop(flow, block):
        looked.append(block)
        if len(looked) == 3:
            raise Stop
        count(flow, block)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(pipeline.LinearPipeline, "_count", stop)
        convert(tall, "enmap", path, ConvertOptions(model="linear", resume=True))
    assert staging_folder(path).exists()
    made = convert(tall, "enmap", path, ConvertOptions(model="linear", resume=True, dn_offset=10))
    assert any("cannot resume: inputs or options changed. Starting over." in note for note in made.notes)
    with rasterio.open(
        convert(tall, "enmap", tmp_path / "b.tif", ConvertOptions(model="linear", dn_offset=10)).output
    ) as cube:
        expected = cube.read()
    with rasterio.open(path) as cube:
        np.testing.assert_array_equal(cube.read(), expected)


RUN = "import sys; from ms2hs.cli.app import main; sys.argv[0] = 'ms2hs'; main()"


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_process_resumes_with_the_same_files(tmp_path):
    scene = make_scene(tmp_path / "scene.tif", 90)  # wide enough to take a while
    words = ["convert", str(scene), "--model", "linear", "--uncertainty"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start(output, *more):
        command = [sys.executable, "-c", RUN, *words, "-o", str(output), *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    assert start(tmp_path / "whole.tif").wait() == 0
    path, draw, killed, done = tmp_path / "cube.tif", np.random.default_rng(4), 0, False
    for _ in range(10):
        running = start(path, "--resume")
        journal = staging_folder(path) / "journal.jsonl"
        before = journal.stat().st_size if journal.exists() else 0
        while running.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            time.sleep(0.005)  # until it has started; then soon after
        time.sleep(draw.uniform(0, 0.15))
        if running.poll() is None:  # paused, it cannot move its cube between the check and the kill
            running.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        done = path.exists()
        if done:
            running.send_signal(signal.SIGCONT)
            assert running.wait() == 0
            break
        assert running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.wait()
        killed += 1
        assert not path.exists()
    if not done:
        assert start(path, "--resume").wait() == 0
    assert killed > 0
    for ending in (".tif", "_sigma.tif", ".png", ".qml"):
        assert (tmp_path / f"cube{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert not staging_folder(path).exists()


def test_resume_keeps_existing_outputs_of_several_scenes(tall, tmp_path):
    other = tmp_path / "other.tif"
    other.write_bytes(tall.read_bytes())
    scenes, folder = [str(tall), str(other)], tmp_path / "cubes"
    options = ConvertOptions(model="linear", wavelengths_nm=((400, 500),))
    convert_all(scenes[:1], folder=folder, options=options).check()
    before = (folder / "tall_enmap.tif").stat().st_mtime_ns
    found = convert_all(scenes, folder=folder, options=replace(options, resume=True))
    found.check()
    assert (list(found.made), list(found.there)) == ([str(other)], [str(tall)])
    assert (folder / "tall_enmap.tif").stat().st_mtime_ns == before


def test_resume_is_refused_for_object_stores(tall):
    with pytest.raises(OutputError, match="--resume"):
        convert(tall, "enmap", "memory://bucket/cube.tif", ConvertOptions(model="linear", resume=True))
