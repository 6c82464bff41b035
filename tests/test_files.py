"""files: atomic writes, and the lock of a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.errors import OutputError
from ms2hs.files import MAX_NAME_BYTES, atomic_write, file_name, lock_folder, write_bytes


@pytest.mark.parametrize("durable", [False, True])
def test_atomic_write_replaces_the_file_at_the_end(tmp_path, durable):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("damaged"), KeyboardInterrupt()])
def test_atomic_write_leaves_the_old_file_after_an_error(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError
    with pytest.raises(expected), atomic_write(path, errors=(ValueError,), hint="use -o") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_error_names_the_final_path(tmp_path):
    with pytest.raises(OutputError) as caught:
        write_bytes(tmp_path / "missing" / "a.txt", b"text")
    assert str(caught.value).startswith(f"{tmp_path}/missing/a.txt could not be written (No such file or directory);")
    assert ".part" not in str(caught.value)


def test_lock_folder_names_the_process_that_holds_it(tmp_path):
    with lock_folder(tmp_path):
        with (
            pytest.raises(OutputError, match=f"is being written to by process {os.getpid()} on"),
            lock_folder(tmp_path),
        ):
            pass
        with (
            pytest.raises(OutputError, match=f"is being written to by process {os.getpid()} on"),
            lock_folder(tmp_path),
        ):
            pass
    with lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_folder_ends_with_a_killed_process(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom ms2hs.files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match=f"by process {run.pid} on"), lock_folder(tmp_path):
            pass
        run.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with lock_folder(tmp_path):
        assert time.monotonic() - began < 5


def test_lock_folder_needs_a_writable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created"), lock_folder(tmp_path / "file"):
        pass


@pytest.mark.parametrize("text", ["S2A_32TNT_20240601_0_L2A", "HLS.S30.T32TNT.2024153T102021.v2.0", "Zürich", "a+b-1"])
def test_file_name_keeps_names_of_products(text):
    assert file_name(text) == text


@given(
    st.text() | st.sampled_from(["", ".", "..", "../../x", "a/b", "C:\\x", "\x1b]0;x\x07", "é" * 200, "\udcff", "\0"])
)
def test_file_name_has_no_path_no_control_character_and_a_bound(text):
    name = file_name(text)
    assert name
    assert not name.startswith(".")
    assert Path(name).name == name
    assert name.isprintable()
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert file_name(name) == name


@given(
    st.sets(st.text(alphabet="a /:\n.", min_size=1) | st.sampled_from(["A" * 160 + "1", "A" * 160 + "2"]), min_size=2)
)
def test_file_name_differs_for_different_ids(texts):
    assert len({file_name(text) for text in texts}) == len(texts)
