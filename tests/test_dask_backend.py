"""Several scenes: what is wrong with one does not keep the others, and who converts them makes no difference."""

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
from ms2hs.conversion.batch import share_of
from ms2hs.conversion.dask_backend import Executor, convert_all
from ms2hs.errors import ClusterError, OutputError, PartlyDone, SceneError

QUICK = ConvertOptions(model="linear")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    allow_sockets(monkeypatch, "127.")


@pytest.fixture(scope="module")
def scheduler():
    """Two processes with one thread each, and the address of who tells them what to do."""
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
    """The bytes of every cube and picture by name; the JSONs tell the time."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".json"}


def test_one_broken_scene_keeps_no_other(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path / "in", 6)
    break_scene(scenes[3])
    code, out, err = ms2hs("convert", *scenes, "-o", tmp_path / "out", "--model", "linear", "--uncertainty")
    assert code == 5
    assert [Path(line).name for line in out.splitlines()] == [
        f"s{number:02}_enmap{end}" for number in (0, 1, 2, 4, 5) for end in (".tif", "_sigma.tif", ".png", ".json")
    ]
    assert all(Path(line).is_file() for line in out.splitlines())
    note, entry, summary, message = err.splitlines()
    assert note.startswith("note: 5 scenes: ")
    assert entry.startswith("failed: ")
    assert "s03.tif" in entry
    assert "Check that it was copied" in entry
    assert summary.startswith("5 of 6 scenes converted")
    assert message.startswith("ms2hs: 1 of 6 scenes")


def test_a_cluster_makes_the_same_files(ms2hs, scheduler, tmp_path):
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


def test_workers_find_relative_paths(ms2hs, scheduler, tmp_path, monkeypatch):
    make_scenes(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    code, out, err = ms2hs("convert", "s00.tif", "--model", "linear", "--scheduler", scheduler)
    assert code == 0, err
    assert out.splitlines() == ["s00_enmap.tif", "s00_enmap.png", "s00_enmap.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "s00.tif",
        "s00_enmap.json",
        "s00_enmap.png",
        "s00_enmap.tif",
    ]


class Killer(threading.Thread):
    """Kills the process that converts a scene, once, in the middle of it; then counts who converts what."""

    def __init__(self, folder, stem):
        super().__init__(daemon=True)
        self.folder, self.stem = folder, stem
        self.begun, self.done_before, self.ended = set(), {}, threading.Event()
        self.killed = None

    def run(self):
        while not self.ended.wait(0.005):
            self.begun |= {path.name for path in self.folder.glob(".s*")}
            if self.killed is None:
                self.killed = next((child for child in psutil.Process().children() if self.is_at_it(child)), None)
                if self.killed:
                    self.done_before = {path: path.stat().st_mtime_ns for path in self.folder.glob("s*")}
                    self.killed.send_signal(signal.SIGKILL)

    def is_at_it(self, process):
        try:
            return any(f".{self.stem}_enmap." in file.path for file in process.open_files())
        except psutil.Error:
            return False


@pytest.mark.slow
def test_a_killed_worker_costs_a_retry_and_nothing_else(tmp_path):
    scenes = make_scenes(tmp_path / "in", 5)
    large = write_raster(tmp_path / "in" / "s99.tif", dn_of([SAND, LEAVES], (400, 500)), descriptions=S2_BANDS)
    scenes.insert(3, str(large))
    convert_all(scenes, folder=tmp_path / "here", choices=QUICK).check()
    there = tmp_path / "there"
    there.mkdir()
    killer = Killer(there, "s99")
    killer.start()
    made = convert_all(scenes, folder=there, choices=QUICK, crew=Executor(workers=2))
    killer.ended.set()
    killer.join()
    assert killer.killed is not None
    assert made.failed == {}
    assert list(made.made) == scenes
    assert cubes(there) == cubes(tmp_path / "here")
    assert [path for path in there.iterdir() if path.name.startswith(".")] == []
    attempts = Counter(name.split("_")[0] for name in killer.begun)
    assert attempts[".s99"] == 2
    # the other worker's scene may have ended just then, unnoticed
    assert sum(attempts.values()) <= len(scenes) + 1
    assert killer.done_before == {path: path.stat().st_mtime_ns for path in killer.done_before}


@pytest.mark.slow
def test_an_interrupt_leaves_whole_results_only(tmp_path):
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
    told, errors = run.communicate(timeout=60)
    assert (run.returncode, told, errors) == (130, "", "")
    stems = {path.stem for path in out.iterdir()}
    assert {path.name for path in out.iterdir()} == {
        f"{stem}{end}" for stem in stems for end in (".tif", ".png", ".json")
    }


def end_process(_task):
    os._exit(1)


def fail(_task):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("instead", "said"),
    [(end_process, "every process that tried"), (fail, "RuntimeError: out of memory; nothing that")],
)
def test_what_no_message_is_meant_for_is_told_too(instead, said, scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_backend, "_convert_apart", instead)
    scenes = make_scenes(tmp_path, 1)
    made = convert_all(scenes, folder=tmp_path / "out", choices=QUICK, crew=Executor(scheduler=scheduler))
    assert made.failed[scenes[0]].startswith(f"{scenes[0]}: ")
    assert said in made.failed[scenes[0]]
    assert list((tmp_path / "out").iterdir()) == []


def test_results_of_one_name_are_refused_before_anything_is_done(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path / "a", 2) + make_scenes(tmp_path / "b", 1)
    for more in ([], ["--shard", "1/2"], ["--workers", "2"]):
        code, out, err = ms2hs("convert", *scenes, "-o", tmp_path / "out", "--model", "linear", *more)
        assert (code, out) == (1, "")
        assert f"{scenes[0]} and {scenes[2]} would both give" in err
        assert list((tmp_path / "out").iterdir()) == []


def test_a_scene_is_not_replaced_by_a_result(tmp_path):
    folder = tmp_path / "in"
    scenes = make_scenes(folder, 1)
    Path(scenes[0]).rename(folder / "a.tif")
    write_raster(folder / "a_enmap.tif", dn_of([SAND]), descriptions=S2_BANDS)
    with pytest.raises(OutputError, match="itself to be converted"):
        convert_all(
            [folder / "a.tif", folder / "a_enmap.tif"],
            folder=folder,
            choices=ConvertOptions(model="linear", overwrite=True),
        )


def test_results_that_are_there_are_kept_unless_asked(scheduler, tmp_path):
    scenes = make_scenes(tmp_path, 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "s01_enmap.tif").write_text("mine")
    for crew in (None, Executor(scheduler=scheduler)):
        made = convert_all(scenes, folder=out, choices=QUICK, crew=crew)
        assert "--overwrite" in made.failed[scenes[1]]
        assert (out / "s01_enmap.tif").read_text() == "mine"
        (out / "s00_enmap.tif").unlink()
    asked = ConvertOptions(model="linear", overwrite=True)
    assert convert_all(scenes, folder=out, choices=asked, crew=Executor(scheduler=scheduler)).failed == {}


def test_if_none_can_be_converted_it_is_no_part_of_the_work(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path, 2)
    for scene in scenes:
        break_scene(scene)
    code, out, err = ms2hs("convert", *scenes, "--workers", 2, "-o", tmp_path / "out", "--model", "linear")
    assert (code, out) == (1, "")
    assert err.count("failed: ") == 2
    made = convert_all(scenes, folder=tmp_path / "out", choices=QUICK)
    with pytest.raises(SceneError):
        made.check()
    made.made["one"] = None
    with pytest.raises(PartlyDone):
        made.check()


@given(st.lists(st.text(max_size=3), unique=True), st.integers(1, 9), st.randoms())
def test_shares_are_a_partition_whatever_the_order(scenes, count, random):
    shares = []
    for number in range(1, count + 1):
        random.shuffle(scenes)
        shares.append(share_of(scenes, (number, count)))
    assert sorted(scene for share in shares for scene in share) == sorted(scenes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_shard_converts_its_part_of_the_sorted_scenes(ms2hs, tmp_path):
    scenes = make_scenes(tmp_path, 3)
    words = ("convert", *reversed(scenes), "-o", tmp_path / "out", "--model", "linear", "-q", "--shard")
    names = []
    for number in (1, 2):
        code, out, err = ms2hs(*words, f"{number}/2")
        assert (code, err) == (0, "")
        names.append([Path(line).stem[:3] for line in out.splitlines() if line.endswith(".tif")])
    assert names == [["s00", "s02"], ["s01"]]
    assert ms2hs(*words, "9/9") == (0, "", "")  # more shards than scenes: nothing to do is no failure


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "²/3", ""])
def test_a_bad_shard_is_a_usage_error(ms2hs, shard):
    code, _, err = ms2hs("convert", "a.tif", f"--shard={shard}")
    assert code == 2
    assert "1/8." in err.split()


@pytest.mark.parametrize("more", [["--workers", "0"], ["--workers", "2", "--scheduler", "tcp://a:1"], ["--dry-run"]])
def test_options_that_do_not_go_together_are_usage_errors(ms2hs, scene_path, more):
    code, out, _ = ms2hs("convert", scene_path, "b.tif", *more)
    assert (code, out) == (2, "")


def test_a_scheduler_that_is_not_there_is_told_soon(ms2hs, tmp_path, monkeypatch):
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
        convert_all(scenes, folder=tmp_path / "out", choices=QUICK, crew=Executor(scheduler=scheduler))
    # one that comes later
    monkeypatch.setattr(dask_backend, "_check_workers", lambda *_: None)
    made = convert_all(scenes, folder=tmp_path / "out", choices=QUICK, crew=Executor(scheduler=scheduler))
    assert all("as here" in message for message in made.failed.values())
    assert len(made.failed) == 2


def test_workers_that_do_not_see_the_weights_are_refused(scheduler, tmp_path):
    with (
        Client(scheduler) as client,
        pytest.raises(ClusterError, match=r"does not see .*mine\.safetensors; scenes, weights"),
    ):
        dask_backend._check_workers(client, [str(tmp_path), str(tmp_path / "mine.safetensors")])


def test_what_each_worker_must_see_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.safetensors").touch()
    absolute = dask_backend._absolute(ConvertOptions(model="mine.safetensors", site=Path("site.tif")))
    needed = dask_backend._needed(absolute, tmp_path / "out")
    assert needed == [str(tmp_path / name) for name in ("out", "mine.safetensors", "site.tif")]
    assert dask_backend._needed(QUICK, tmp_path) == [str(tmp_path)]


def test_without_dask_one_message_names_the_extra(ms2hs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = ms2hs("convert", *make_scenes(tmp_path, 2), "--workers", 2)
    assert code == 1
    assert "pip install 'ms2hs[dask]'" in err
    assert len(err.splitlines()) == 1


def test_dask_is_loaded_for_several_processes_only(ms2hs, tmp_path, monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)  # an import fails now
    monkeypatch.setattr("ms2hs.conversion.dask_backend", dask_backend)  # comes back
    monkeypatch.delitem(sys.modules, "ms2hs.conversion.dask_backend")
    code, _, err = ms2hs("convert", *make_scenes(tmp_path, 2), "--model", "linear", "-o", tmp_path / "out")
    assert code == 0, err
    assert sys.modules["ms2hs.conversion.dask_backend"] is not dask_backend


def test_a_crew_is_one_or_the_other():
    for wrong in ({}, {"workers": 0}, {"workers": 1, "scheduler": "tcp://a:1"}):
        with pytest.raises(ValueError, match="one of both"):
            Executor(**wrong)
    with pytest.raises(ValueError, match="share 3 of 2"):
        share_of(["a"], (3, 2))
