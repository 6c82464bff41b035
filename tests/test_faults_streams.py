"""Faults of the process: closed and full streams, other encodings, signals, names that are not UTF-8."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, allow_sockets, dn_of, write_raster

from ms2hs.cli import process
from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.dask_backend import Executor, convert_all
from ms2hs.conversion.planning import ConvertOptions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams and signals")
COMMAND = [sys.executable, "-m", "ms2hs.cli"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A small scene, and a large one that takes seconds."""
    folder = tmp_path_factory.mktemp("scenes")
    small = write_raster(folder / "small.tif", dn_of([LEAVES], (8, 8)), descriptions=S2_BANDS)
    return small, write_raster(folder / "large.tif", dn_of([LEAVES], (1500, 600)), descriptions=S2_BANDS)


def shell(script, folder, **environment):
    """Run a shell script in which $M is the command: (exit code, stdout, stderr)."""
    variables = ENVIRONMENT | {"M": " ".join(COMMAND)} | environment
    ended = subprocess.run(["bash", "-c", script], capture_output=True, cwd=folder, env=variables, check=False)
    return ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")


CONVERT = "$M convert {scene} --model linear -o x.tif"
STREAMS = {
    "all closed": (f"{CONVERT} <&- >&- 2>&-", 0, ""),
    "stderr closed": ("$M example x.tif 2>&-", 0, ""),
    "stdout full": ("$M example x.tif > /dev/full", 1, "ms2hs: stdout could not be written"),
    "stderr full": (f"{CONVERT} 2> /dev/full", 0, ""),
    "reader gone": ("$M info sentinel2a | true; exit ${{PIPESTATUS[0]}}", 0, ""),
    "message lost": ("$M info nothing 2> /dev/full", 2, ""),
}


@pytest.mark.parametrize("label", STREAMS)
def test_stream_that_cannot_be_written_loses_no_result(scenes, tmp_path, label):
    script, expected, message = STREAMS[label]
    code, _, err = shell(script.format(scene=scenes[0]), tmp_path)
    assert code == expected, err
    assert (err.count("ms2hs: "), err[: len(message)]) == (bool(message), message)
    made = {"convert": ["x.json", "x.png", "x.qml", "x.tif"], "example": ["x.tif"]}.get(script.split()[1], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == made


def test_terminal_without_the_letters_of_a_name_gets_escapes(scenes, tmp_path):
    (tmp_path / "š🛰.tif").write_bytes(scenes[0].read_bytes())
    words = "$M convert 'š🛰.tif' --model linear -o ."
    code, out, err = shell(words, tmp_path, PYTHONIOENCODING="latin-1")
    assert code == 0, err
    assert out.splitlines()[0] == r"\u0161\U0001f6f0_enmap.tif"
    assert (tmp_path / "š🛰_enmap.tif").is_file()


@pytest.mark.parametrize(
    "words", ["convert {0}", "convert a.tif -o {0}", "evaluate cube {0} --truth a.tif", "info {0}"]
)
def test_name_that_is_not_utf8_is_one_message(ms2hs, words):
    code, out, err = ms2hs(*words.format("a\udcff.tif").split())
    assert (code, out) == (2, "")
    assert r"'a\udcff.tif' is not UTF-8" in err


def start(*words, folder, **more):
    return subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=ENVIRONMENT | {"TMPDIR": str(folder / "tmp")}, start_new_session=True, **more,
    )  # fmt: skip


def stopped(running, number, *, group=False):
    """The message after a signal; checks exit code 130 and one line."""
    (os.killpg if group else os.kill)(running.pid, number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, ""), err
    assert len(err.splitlines()) == 1, err
    return err


def wait_until_signals_are_caught(running):
    """Python itself catches SIGINT only; before that a process ends as its interpreter does."""
    status = Path(f"/proc/{running.pid}/status")
    while running.poll() is None:  # also ends with a process that catches none
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1:
            return
        time.sleep(0.001)
    time.sleep(0.3)


NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


@pytest.mark.parametrize(("number", "after_s"), [(signal.SIGINT, 0), (signal.SIGTERM, 0.1), (signal.SIGHUP, 0.3)])
def test_signal_during_imports_is_one_message(scenes, tmp_path, number, after_s):
    (tmp_path / "tmp").mkdir()
    running = start("convert", scenes[1], "--model", "linear", "-q", "-o", "x.tif", folder=tmp_path)
    wait_until_signals_are_caught(running)
    time.sleep(after_s)
    err = stopped(running, number)
    assert err.startswith(f"ms2hs: stopped by {NAMES[number]}; complete files are kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


CALLBACK = """
import os, time, weakref
from ms2hs.cli.process import run_process
def start():
    thing, wait = type("Thing", (), {})(), lambda _: (os.kill(os.getpid(), 15), time.sleep(0.1))
    watch = weakref.ref(thing, wait)
    del thing
    time.sleep(20)
run_process(start)
"""


def test_signal_in_a_callback_whose_errors_python_ignores_is_not_lost():
    ended = subprocess.run(
        [sys.executable, "-c", CALLBACK], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1), ended.stderr
    assert ended.stderr.startswith("ms2hs: stopped by SIGTERM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_the_work_leaves_nothing(scenes, tmp_path, number):
    (tmp_path / "tmp").mkdir()
    running = start("convert", scenes[1], "--model", "linear", "--uncertainty", "-q", "-o", "x.tif", folder=tmp_path)
    while not list(tmp_path.rglob("*.part")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    assert "run: ms2hs convert --resume " in stopped(running, number)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


def test_signal_with_resume_keeps_finished_rows_and_says_so(scenes, tmp_path):
    (tmp_path / "tmp").mkdir()
    words = ("convert", scenes[1], "--model", "linear", "-q", "--resume", "-o", tmp_path / "x.tif")
    running = start(*words, folder=tmp_path)
    journal = tmp_path / ".x.tif.part" / "journal.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        assert running.poll() is None, running.communicate()
        time.sleep(0.001)
    assert "To continue after the finished rows, run: ms2hs convert " in stopped(running, signal.SIGTERM)
    assert journal.stat().st_size
    resumed = convert(scenes[1], "enmap", tmp_path / "x.tif", ConvertOptions(model="linear", resume=True))
    assert any("resuming an interrupted conversion at row" in note for note in resumed.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp", "x.json", "x.png", "x.qml", "x.tif"]


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_signal_while_workers_start_leaves_nothing(scenes, tmp_path, group):
    (tmp_path / "tmp").mkdir()
    running = start("convert", *scenes, "--model", "linear", "-q", "--workers", 2, "-o", tmp_path, folder=tmp_path)
    while not list((tmp_path / "tmp").glob("ms2hs.*")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    time.sleep(0.3)
    assert "stopped by" in stopped(running, signal.SIGINT if group else signal.SIGTERM, group=group)
    assert [path.name for path in tmp_path.rglob("*")] == ["tmp"]


@pytest.mark.slow
def test_workers_are_capped_and_closed_to_others(scenes, tmp_path, monkeypatch):
    """One scene starts one process whatever --workers is; a client without its key is refused."""
    import distributed

    allow_sockets(monkeypatch, "127.")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = []

    class Watched(distributed.LocalCluster):
        def __init__(self, **named):
            super().__init__(**named)
            address = self.scheduler_address
            found.append((named["n_workers"], address.partition("://")[0]))
            for security in (None, distributed.Security.temporary()):
                with pytest.raises((OSError, TypeError, ValueError)):
                    distributed.Client(address, timeout=1, security=security).close()
                # A refused client closes itself when it is collected, which waits for the lock that a
                # start holds: collect it here, not in a thread that is starting.
                gc.collect()

    monkeypatch.setattr(distributed, "LocalCluster", Watched)
    options = ConvertOptions(model="linear")
    convert_all([scenes[0]], folder=tmp_path / "out", options=options, executor=Executor(workers=40)).check()
    assert found == [(1, "tls")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stream_never_raises_and_keeps_its_first_error(tmp_path):
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        stream = process._Stream(file)
        stream.write("š\udcff\n")
        stream.flush()
        assert stream.error is None
    stream = process._Stream(open("/dev/full", "w", encoding="ascii"))  # noqa: PTH123, SIM115
    stream.write("lost\n")
    stream.flush()
    stream.write("ignored\n")
    assert stream.error.errno == 28
    assert (tmp_path / "log").read_text() == "\\u0161\\udcff\n"
    stream.close()


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (
            ["convert", "a b.tif", "-q"],
            "To keep the finished rows if it is stopped again, run: ms2hs convert --resume 'a b.tif' -q",
        ),
        (["convert", "a.tif", "--resume"], "To continue after the finished rows, run: ms2hs convert a.tif --resume"),
        (["convert", "https://host/item?key=s"], "run: the same command with --resume"),
        (["fetch", "--date", "2024"], "fetch the others, run: ms2hs fetch --date 2024"),
        (["fetch", "--date", "2024", "--stac", "https://user:key@host/"], "run: the same command"),
        (["evaluate", "pairs", "p"], "To start again, run: ms2hs evaluate pairs p"),
        (
            ["convert", *(f"scene{number}.tif" for number in range(100)), "-o", "x"],
            "run: the same command with --resume",
        ),
        ([], "To start again, run: ms2hs"),
    ],
)
def test_stop_message_ends_with_the_command_that_continues(monkeypatch, words, end):
    monkeypatch.setattr(process, "_received", [(signal.SIGTERM, 0.0)])
    assert process.stop_message(words).endswith(end)


ERRORS = [
    FileNotFoundError(2, "No such file or directory", "x"),
    PermissionError(13, "Permission denied", "x" * 5000),
    OSError(5, "Input/output error"),
    EOFError("no more"),
    MemoryError("cannot allocate"),
    RecursionError("too deep"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
    KeyError("datetime"),
    np.linalg.LinAlgError("Singular matrix"),
    ValueError("line one\nline two\x1b[2J"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_unexpected_error_is_one_line(ms2hs, scenes, monkeypatch, error):
    def broken(*_arguments):
        raise error

    monkeypatch.setattr("ms2hs.conversion.planning.plan", broken)
    code, out, err = ms2hs("convert", scenes[0])
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith("ms2hs: ")
    assert len(err) < 1000
    assert err.isprintable() or err[:-1].isprintable()
