"""Room in a file before what is in it, whichever way it is made, and whenever that is stopped."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.raster.cog import room
from ms2hs.raster.cog.room import ALIGNMENT_BYTES, aligned, forget_room, make_room, room_made

POOL = ThreadPoolExecutor(2)


class Stop(Exception):
    """What ends the making of room in a test."""


def file_of(folder, length):
    content = np.random.default_rng(length).bytes(length)
    path = Path(folder) / "file"
    path.write_bytes(content)
    return path, content


@pytest.fixture(params=["inserted where the file system can", "moved"])
def way(request, monkeypatch):
    monkeypatch.setattr(room, "SHARE_IN_MEMORY", 0)
    if request.param == "moved":
        monkeypatch.setattr(room, "_insert", lambda _path, _size: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("length", [0, 1, 4096, 5000, 70_000])
@pytest.mark.parametrize("begin", [0, 10, 4999])
@pytest.mark.parametrize("by", [0, 1, 3])
def test_what_follows_the_beginning_is_moved_and_this_is_known(tmp_path, length, begin, by):
    path, content = file_of(tmp_path, length)
    make_room(path, begin, by * ALIGNMENT_BYTES, POOL)
    made = room_made(path, begin)
    assert made == (by * ALIGNMENT_BYTES if length > begin else 0)
    assert path.read_bytes()[begin + made :] == content[begin:]
    forget_room(path)
    assert room_made(path, begin) == 0
    assert list(tmp_path.iterdir()) == [path]


@given(length=st.integers(0, 60_000), begin=st.integers(0, 9000), by=st.integers(1, 4), stop=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_move_that_was_stopped_is_brought_to_its_end(length, begin, by, stop):
    """After any piece, and with pieces moved in any order."""
    moved, move = [], room._move_piece

    def stopping(*where):
        if len(moved) == stop:
            raise Stop
        moved.append(where)
        move(*where)

    def shuffled(function, *lists):
        order = list(zip(*lists, strict=False))
        np.random.default_rng(length).shuffle(order)
        return (function(*given) for given in order)

    pool = mock.Mock(map=shuffled)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(room, "COPY_BYTES", 1000),
        mock.patch.object(room, "_insert", return_value=False),
    ):
        path, content = file_of(folder, length)
        with mock.patch.object(room, "_move_piece", stopping), suppress(Stop):
            make_room(path, begin, by * ALIGNMENT_BYTES, pool)
        made = room_made(path, begin)
        assert path.read_bytes()[begin + made :] == content[begin:]
        assert made == (by * ALIGNMENT_BYTES if length > begin else 0)


def test_sizes_are_those_that_a_file_system_can_insert():
    assert [aligned(size) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
