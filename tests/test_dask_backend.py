"""convert_all: a failing scene does not stop the others, and results do not depend on the executor."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import LEAVES, S2_BANDS, SAND, WATER, allow_sockets, dn_of, write_raster
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from ms2hs import ConvertOptions
from ms2hs.conversion import dask_backend
from ms2hs.conversion.batch import select_shard
from ms2hs.conversion.dask_backend import Executor, convert_all
from ms2hs.errors import ClusterError, OutputError, PartlyDone, SceneError

QUICK = ConvertOptions(model="linear")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    allow_sockets(monkeypatch, "127.")


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler with two workers of one thread each."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as local:
        yield local.scheduler_address


def make_scenes(folder, count, shape=(24, 30)):
    spectra = [LEAVES, WATER, SAND]
    made = [
        write_raster(folder / f"s{number:02}.tif", dn_of(spectra[number % 3 :], shape), descriptions=S2_BANDS)
        for number in range(count)
    ]
    return list(map(str, made))


def break_scene(path):
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])


def cubes(folder):
    """The bytes of every cube and quicklook by name; items contain the time."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".json"}


def test_broken_scene_does_not_stop_the_others(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path / "in", 6)
    break_scene(scenes[3])
    code, out, err = ms2hs("convert", *scenes, "-o", tmp_path / "out", "--model", "linear", "--uncertainty")
    assert code == 5
    assert [Path(line).name for line in out.splitlines()] == [
        f"s{number:02}_enmap{end}"
        for number in (0, 1, 2, 4, 5)
        for end in (".tif", "_sigma.tif", ".png", ".qml", ".json")
    ]
    assert all(Path(line).is_file() for line in out.splitlines())
    note, assumed, clouds, entry, summary, message = err.splitlines()
    assert note.startswith("note: 5 scenes: ")
    assert assumed.startswith("note: 5 scenes: input errors sentinel2 are assumed")
    assert clouds == "note: 5 scenes: clouds are kept: the file has no cloud layer"
    assert entry.startswith("failed: ")
    assert "s03.tif" in entry
    assert "Check that it was copied" in entry
    assert summary.startswith("note: 5 of 6 scenes converted")
    assert message.startswith("ms2hs: 1 of 6 scenes")


def test_scheduler_writes_the_same_files(ms2hs, scheduler, tmp_path):
    scenes = make_scenes(tmp_path / "in", 5)
    break_scene(scenes[1])
    words = ("convert", *scenes, "--model", "linear", "--json", "-q", "-o")
    here = ms2hs(*words, tmp_path / "here")
    there = ms2hs(*words, tmp_path / "there", "--scheduler", scheduler)
    assert (here[0], there[0]) == (5, 5)
    assert cubes(tmp_path / "here") == cubes(tmp_path / "there")
    made = json.loads(there[1])
    assert list(made["made"]) == [scenes[number] for number in (0, 2, 3, 4)]
    assert made["made"][scenes[0]]["output"] == str(tmp_path / "there" / "s00_enmap.tif")
    assert made["failed"] == json.loads(here[1])["failed"]
    assert here[2] == there[2]


def test_workers_accept_relative_paths(ms2hs, scheduler, tmp_path, monkeypatch):
    make_scenes(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    code, out, err = ms2hs("convert", "s00.tif", "--model", "linear", "--scheduler", scheduler)
    assert code == 0, err
    assert out.splitlines() == ["s00_enmap.tif", "s00_enmap.png", "s00_enmap.qml", "s00_enmap.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "s00.tif",
        "s00_enmap.json",
        "s00_enmap.png",
        "s00_enmap.qml",
        "s00_enmap.tif",
    ]


class Killer(threading.Thread):
    """Kills the process that converts a scene, once, and counts the attempts of every scene."""

    def __init__(self, folder, stem):
        super().__init__(daemon=True)
        self.folder, self.stem = folder, stem
        self.begun, self.done_before, self.ended = set(), {}, threading.Event()
        self.killed = None

    def run(self):
        while not self.ended.wait(0.005):
            self.begun |= {path.name for path in self.folder.glob(".s*")}
            if self.killed is None:
                self.killed = next((child for child in psutil.Process().children() if self.converts(child)), None)
                if self.killed:
                    self.done_before = {path: path.stat().st_mtime_ns for path in self.folder.glob("s*")}
                    self.killed.send_signal(signal.SIGKILL)

    def converts(self, process):
        try:
            return any(f".{self.stem}_enmap." in file.path for file in process.open_files())
        except psutil.Error:
            return False


@pytest.mark.alone
@pytest.mark.slow
def test_killed_worker_costs_one_retry(tmp_path):
    scenes = make_scenes(tmp_path / "in", 5)
    large = write_raster(tmp_path / "in" / "s99.tif", dn_of([SAND, LEAVES], (400, 500)), descriptions=S2_BANDS)
    scenes.insert(3, str(large))
    convert_all(scenes, folder=tmp_path / "here", options=QUICK).check()
    there = tmp_path / "there"
    there.mkdir()
    killer = Killer(there, "s99")
    killer.start()
    made = convert_all(scenes, folder=there, options=QUICK, executor=Executor(workers=2))
    killer.ended.set()
    killer.join()
    assert killer.killed is not None
    assert made.failed == {}
    assert list(made.made) == scenes
    assert cubes(there) == cubes(tmp_path / "here")
    assert [path for path in there.iterdir() if path.name.startswith(".")] == []
    attempts = Counter(name.split("_")[0] for name in killer.begun)
    assert attempts[".s99"] == 2
    # the other worker's scene may have ended at that moment
    assert sum(attempts.values()) <= len(scenes) + 1
    assert killer.done_before == {path: path.stat().st_mtime_ns for path in killer.done_before}


@pytest.mark.alone
@pytest.mark.slow
def test_interrupt_leaves_complete_outputs_only(tmp_path):
    scenes = make_scenes(tmp_path / "in", 3, (400, 500))
    out = tmp_path / "out"
    words = ["convert", *scenes, "-o", out, "--model", "linear", "--workers", 2]
    run = subprocess.Popen(
        [sys.executable, "-m", "ms2hs.cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not list(out.glob(".s*")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    output, errors = run.communicate(timeout=60)
    assert (run.returncode, output) == (130, "")
    assert errors.startswith("ms2hs: stopped by Ctrl-C; complete files are kept")
    stems = {path.stem for path in out.iterdir()}
    assert {path.name for path in out.iterdir()} == {
        f"{stem}{end}" for stem in stems for end in (".tif", ".png", ".qml", ".json")
    }


def end_process(_task):
    os._exit(1)


def fail(_task):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        pytest.param(end_process, "every process that tried", marks=pytest.mark.slow),
        (fail, "RuntimeError: out of memory; an unexpected error"),
    ],
)
def test_unexpected_errors_of_workers_are_reported(instead, said, scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "_convert_task", instead)
    scenes = make_scenes(tmp_path, 1)
    made = convert_all(scenes, folder=tmp_path / "out", options=QUICK, executor=Executor(scheduler=scheduler))
    assert made.failed[scenes[0]].startswith(f"{scenes[0]}: ")
    assert said in made.failed[scenes[0]]
    assert list((tmp_path / "out").iterdir()) == []


def test_equal_outputs_are_refused_before_the_work(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path / "a", 2) + make_scenes(tmp_path / "b", 1)
    for more in ([], ["--shard", "1/2"], ["--workers", "2"]):
        code, out, err = ms2hs("convert", *scenes, "-o", tmp_path / "out", "--model", "linear", *more)
        assert (code, out) == (1, "")
        assert f"{scenes[0]} and {scenes[2]} have the same output" in err
        assert list((tmp_path / "out").iterdir()) == []


def test_output_does_not_replace_an_input_scene(tmp_path):
    folder = tmp_path / "in"
    scenes = make_scenes(folder, 1)
    Path(scenes[0]).rename(folder / "a.tif")
    write_raster(folder / "a_enmap.tif", dn_of([SAND]), descriptions=S2_BANDS)
    with pytest.raises(OutputError, match="which is an input scene"):
        convert_all(
            [folder / "a.tif", folder / "a_enmap.tif"],
            folder=folder,
            options=ConvertOptions(model="linear", overwrite=True),
        )


def test_existing_outputs_are_kept_without_overwrite(scheduler, tmp_path):
    scenes = make_scenes(tmp_path, 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "s01_enmap.tif").write_text("mine")
    for executor in (None, Executor(scheduler=scheduler)):
        made = convert_all(scenes, folder=out, options=QUICK, executor=executor)
        assert "--overwrite" in made.failed[scenes[1]]
        assert (out / "s01_enmap.tif").read_text() == "mine"
        for path in out.glob("s00_enmap.*"):
            path.unlink()
    replacing = ConvertOptions(model="linear", overwrite=True)
    assert convert_all(scenes, folder=out, options=replacing, executor=Executor(scheduler=scheduler)).failed == {}


def test_check_raises_scene_error_if_all_scenes_failed(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path, 2)
    for scene in scenes:
        break_scene(scene)
    code, out, err = ms2hs("convert", *scenes, "--workers", 2, "-o", tmp_path / "out", "--model", "linear")
    assert (code, out) == (1, "")
    assert err.count("failed: ") == 2
    made = convert_all(scenes, folder=tmp_path / "out", options=QUICK)
    with pytest.raises(SceneError):
        made.check()
    made.made["one"] = None
    with pytest.raises(PartlyDone):
        made.check()


@given(st.lists(st.text(max_size=3), unique=True), st.integers(1, 9), st.randoms())
def test_select_shard_partitions_scenes_in_any_order(scenes, count, random):
    shares = []
    for number in range(1, count + 1):
        random.shuffle(scenes)
        shares.append(select_shard(scenes, (number, count)))
    assert sorted(scene for share in shares for scene in share) == sorted(scenes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shard_converts_its_part_of_the_sorted_scenes(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path, 3)
    words = ("convert", *reversed(scenes), "-o", tmp_path / "out", "--model", "linear", "-q", "--shard")
    names = []
    for number in (1, 2):
        code, out, err = ms2hs(*words, f"{number}/2")
        assert (code, err) == (0, "")
        names.append([Path(line).stem[:3] for line in out.splitlines() if line.endswith(".tif")])
    assert names == [["s00", "s02"], ["s01"]]
    assert ms2hs(*words, "9/9") == (0, "", "")  # more shards than scenes: no work is no failure


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "²/3", ""])
def test_invalid_shard_is_a_usage_error(ms2hs, shard):
    code, _, err = ms2hs("convert", "a.tif", f"--shard={shard}")
    assert code == 2
    assert "1/8." in err.split()


@pytest.mark.parametrize("more", [["--workers", "0"], ["--workers", "2", "--scheduler", "tcp://a:1"], ["--dry-run"]])
def test_conflicting_options_are_usage_errors(ms2hs, scene_path, more):
    code, out, _ = ms2hs("convert", scene_path, "b.tif", *more)
    assert (code, out) == (2, "")


@pytest.mark.slow
def test_unreachable_scheduler_is_reported_soon(ms2hs, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "CONNECT_S", 2)
    scenes = make_scenes(tmp_path / "in", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address in (f"tcp://127.0.0.1:{silent.getsockname()[1]}", "tcp://127.0.0.1:1", "nonsense"):
            began = time.monotonic()
            code, out, err = ms2hs("convert", *scenes, "--scheduler", address, "-o", tmp_path / "out")
            assert (code, out) == (1, "")
            assert f"no dask scheduler answers at {address}" in err
            assert len(err.splitlines()) == 1
            assert time.monotonic() - began < 6
    assert not (tmp_path / "out").exists()


def test_workers_of_another_version_are_refused(scheduler, tmp_path, monkeypatch):
    scenes = make_scenes(tmp_path, 2)
    monkeypatch.setattr(dask_backend, "__version__", "99.9")
    with pytest.raises(ClusterError, match=r"runs ms2hs 0\.\d+\.\d+; 99\.9, as here"):
        convert_all(scenes, folder=tmp_path / "out", options=QUICK, executor=Executor(scheduler=scheduler))
    # a worker that joins after the check
    monkeypatch.setattr(dask_backend, "_check_workers", lambda *_: None)
    made = convert_all(scenes, folder=tmp_path / "out", options=QUICK, executor=Executor(scheduler=scheduler))
    assert all("as here" in message for message in made.failed.values())
    assert len(made.failed) == 2


def test_workers_that_do_not_see_the_weights_are_refused(scheduler, tmp_path):
    with (
        Client(scheduler) as client,
        pytest.raises(ClusterError, match=r"does not see .*mine\.safetensors; scenes, weights"),
    ):
        dask_backend._check_workers(client, [str(tmp_path), str(tmp_path / "mine.safetensors")])


def test_shared_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.safetensors").touch()
    absolute = dask_backend._absolute_options(ConvertOptions(model="mine.safetensors", site=("a.tif", "b.tif")))
    needed = dask_backend._shared_paths(absolute, tmp_path / "out")
    assert needed == [str(tmp_path / name) for name in ("out", "mine.safetensors", "a.tif", "b.tif")]
    assert dask_backend._shared_paths(QUICK, tmp_path) == [str(tmp_path)]


def test_missing_dask_is_reported_with_the_extra(ms2hs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = ms2hs("convert", *make_scenes(tmp_path, 2), "--workers", 2)
    assert code == 1
    assert "pip install 'ms2hs[dask]'" in err
    assert len(err.splitlines()) == 1


def test_dask_is_imported_for_several_processes_only(ms2hs, tmp_path, monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    monkeypatch.setattr("ms2hs.conversion.dask_backend", dask_backend)  # restored after the test
    monkeypatch.delitem(sys.modules, "ms2hs.conversion.dask_backend")
    code, _, err = ms2hs("convert", *make_scenes(tmp_path, 2), "--model", "linear", "-o", tmp_path / "out")
    assert code == 0, err
    assert sys.modules["ms2hs.conversion.dask_backend"] is not dask_backend


def test_executor_takes_workers_or_scheduler():
    for wrong in ({}, {"workers": 0}, {"workers": 1, "scheduler": "tcp://a:1"}):
        with pytest.raises(ValueError, match="exactly one"):
            Executor(**wrong)
    with pytest.raises(ValueError, match="shard 3 of 2"):
        select_shard(["a"], (3, 2))
