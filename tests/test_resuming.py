"""A conversion that was stopped, by an error or in the middle of anything, goes on and gives the same files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import S2_BANDS, write_raster
from threadpoolctl import threadpool_info

from ms2hs.conversion import pipeline
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.dask_backend import convert_all
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.conversion.staging import directory_of
from ms2hs.datasets.simulation.example_scene import example_dn
from ms2hs.errors import OutputError
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import InputError
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.raster.cog.block_store import BlockStore

HEIGHT, WIDTH = 1100, 90


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """A scene of several rows of blocks."""
    dn = example_dn()
    dn = np.concatenate([dn, dn[:, ::-1]], axis=1)
    dn = np.tile(dn, (1, -(-HEIGHT // dn.shape[1]), 1))[:, :HEIGHT, 40 : 40 + WIDTH]
    return write_raster(tmp_path_factory.mktemp("tall") / "tall.tif", dn, descriptions=S2_BANDS, nodata=0)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small one that looks at windows, and whose uncertainty is known."""
    torch.manual_seed(3)
    prior = load_weights("linear").prior
    config = replace(preset("spatial-spectral"), width=24, heads=2, decoder_width=24, decoder_heads=2, window=32)
    small = SpectralMAE(config, prior)
    torch.nn.init.normal_(small.head.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, prior, {}, small, sigma_scale=2 * prior.sigma_scale)
    return str(path)


@pytest.fixture(scope="module")
def whole(tall, tmp_path_factory):
    """What the linear model makes when nothing stops it."""
    return files_of(convert(tall, "enmap", tmp_path_factory.mktemp("whole") / "cube.tif", choices_of("linear")))


def choices_of(model, **more):
    return ConvertOptions(model=model, uncertainty=True, wavelengths_nm=((400, 900), (2100, 2200)), **more)


def files_of(made):
    """All that a conversion left, but when and how long."""
    item = json.loads(made.item.read_text())
    for name in ("created", "ms2hs:seconds", "ms2hs:notes", "end_datetime"):
        item["properties"].pop(name, None)
    return [path.read_bytes() for path in (made.output, made.sigma, made.quicklook)], item


class Stop(Exception):
    """What ends a conversion in a test."""


@pytest.mark.parametrize("which", ["linear", "network", "linear, noise told"])
@pytest.mark.parametrize("notes", [1, 3, 5])
def test_what_was_stopped_goes_on_and_gives_the_same(tall, network, tmp_path, monkeypatch, which, notes):
    """Stopped when so many rows of blocks are counted, which a full last one is too."""
    error = InputError(0.02, 0.005, 0.003) if "noise" in which else None
    model = network if which == "network" else "linear"
    whole = files_of(convert(tall, "enmap", tmp_path / "cube.tif", choices_of(model, input_error=error)))
    for path in tmp_path.iterdir():
        path.unlink()
    counted, count = [], pipeline.Statistics.keep

    def stop(census, row, *arrays):
        counted.append(row)
        if len({row // 256 for row in counted}) >= notes:
            raise Stop
        return count(census, row, *arrays)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(pipeline.Statistics, "keep", stop)
        convert(tall, "enmap", tmp_path / "cube.tif", choices_of(model, input_error=error, resume=True))
    left = directory_of(tmp_path / "cube.tif")
    assert [path.name for path in tmp_path.iterdir()] == ([left.name] if notes > 1 else [])
    made = convert(tall, "enmap", tmp_path / "cube.tif", choices_of(model, input_error=error, resume=True))
    assert any("went on at row" in note for note in made.notes) == (notes > 1)
    assert files_of(made) == whole
    assert not left.exists()


@pytest.mark.parametrize("placed", range(5))
def test_stopped_while_files_are_put_in_place_it_gives_the_same(tall, whole, tmp_path, monkeypatch, placed):
    """After none of them, some, or all: then only the directory that they were made in is left to remove."""
    moved, replace_file, remove = [], Path.replace, shutil.rmtree

    def stop(path, other):
        if path.parent == left and path.name in names:
            if len(moved) == placed:
                raise Stop
            moved.append(path.name)
        return replace_file(path, other)

    def stop_before_removing(folder, **how):
        if folder == left:
            raise Stop
        return remove(folder, **how)

    left, names = directory_of(tmp_path / "cube.tif"), {"cube.tif", "cube_sigma.tif", "cube.png", "cube.json"}
    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(Path, "replace", stop)
        patch.setattr("ms2hs.conversion.staging.shutil.rmtree", stop_before_removing)
        convert(tall, "enmap", tmp_path / "cube.tif", choices_of("linear", resume=True))
    assert left.is_dir()
    assert len(moved) == placed
    assert files_of(convert(tall, "enmap", tmp_path / "cube.tif", choices_of("linear", resume=True))) == whole
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("joined", [0, 1])
def test_stopped_when_all_is_made_nothing_is_made_again(tall, whole, tmp_path, monkeypatch, joined):
    """Before the uncertainty's file is whole, or after it and before the cube's."""
    paths, join = [], BlockStore.join

    def stop(spool, *given):
        if len(paths) == joined:
            raise Stop
        paths.append(spool.path)
        return join(spool, *given)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(BlockStore, "join", stop)
        convert(tall, "enmap", tmp_path / "cube.tif", choices_of("linear", resume=True))
    assert len(paths) == joined
    monkeypatch.setattr(pipeline, "_fill", None)
    made = convert(tall, "enmap", tmp_path / "cube.tif", choices_of("linear", resume=True))
    assert f"went on at row {HEIGHT} of {HEIGHT}, where it was stopped" in made.notes
    assert files_of(made) == whole


def test_each_thread_multiplies_alone_to_the_end(tall, tmp_path, monkeypatch):
    """What is still made when a conversion ends, or is stopped, is rounded as all the rest."""
    threads, fill = set(), pipeline._fill

    def slow(*arguments):
        time.sleep(0.05)
        threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        fill(*arguments)

    monkeypatch.setattr(pipeline, "_fill", slow)
    convert(tall, "enmap", tmp_path / "cube.tif", choices_of("linear"))
    assert threads == {1}


def test_another_choice_begins_again(tall, tmp_path, monkeypatch):
    path = tmp_path / "cube.tif"
    looked, count = [], pipeline.PixelFlow._look

    def stop(flow, block):
        looked.append(block)
        if len(looked) == 3:
            raise Stop
        count(flow, block)

    with monkeypatch.context() as patch, suppress(Stop):
        patch.setattr(pipeline.PixelFlow, "_look", stop)
        convert(tall, "enmap", path, ConvertOptions(model="linear", resume=True))
    assert directory_of(path).exists()
    made = convert(tall, "enmap", path, ConvertOptions(model="linear", resume=True, dn_offset=10))
    assert any("begun again" in note for note in made.notes)
    with rasterio.open(
        convert(tall, "enmap", tmp_path / "b.tif", ConvertOptions(model="linear", dn_offset=10)).output
    ) as cube:
        expected = cube.read()
    with rasterio.open(path) as cube:
        np.testing.assert_array_equal(cube.read(), expected)


RUN = "import sys; from ms2hs.cli.app import main; sys.argv[0] = 'ms2hs'; main()"


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_at_any_moment_it_goes_on_and_gives_the_same(tall, tmp_path):
    words = ["convert", str(tall), "--model", "linear", "--uncertainty"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start(output, *more):
        command = [sys.executable, "-c", RUN, *words, "-o", str(output), *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    assert start(tmp_path / "whole.tif").wait() == 0
    path, draw, killed, done = tmp_path / "cube.tif", np.random.default_rng(4), 0, False
    for _ in range(10):
        running = start(path, "--resume")
        journal = directory_of(path) / "journal.jsonl"
        before = journal.stat().st_size if journal.exists() else 0
        while running.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            time.sleep(0.005)  # until it is under way; then soon
        time.sleep(draw.uniform(0, 0.15))
        if running.poll() is None:  # it cannot put its cube in place between a look and the kill then
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
    for ending in (".tif", "_sigma.tif", ".png"):
        assert (tmp_path / f"cube{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert not directory_of(path).exists()


def test_of_several_scenes_those_that_are_there_are_kept(tall, tmp_path):
    other = tmp_path / "other.tif"
    other.write_bytes(tall.read_bytes())
    scenes, folder = [str(tall), str(other)], tmp_path / "cubes"
    choices = ConvertOptions(model="linear", wavelengths_nm=((400, 500),))
    convert_all(scenes[:1], folder=folder, choices=choices).check()
    before = (folder / "tall_enmap.tif").stat().st_mtime_ns
    found = convert_all(scenes, folder=folder, choices=replace(choices, resume=True))
    found.check()
    assert (list(found.made), list(found.there)) == ([str(other)], [str(tall)])
    assert (folder / "tall_enmap.tif").stat().st_mtime_ns == before


def test_results_in_stores_cannot_be_gone_on_with(tall):
    with pytest.raises(OutputError, match="--resume"):
        convert(tall, "enmap", "memory://bucket/cube.tif", ConvertOptions(model="linear", resume=True))
