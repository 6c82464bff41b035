"""What the tests share: a small scene, and no network."""

import os
import socket
import sys
from pathlib import Path

import pytest

from ms2hs.cli import main
from ms2hs.data.example import write_example


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def scene_path(tmp_path_factory):
    """A made-up Sentinel-2 scene of odd size, with a nodata edge."""
    return write_example(tmp_path_factory.mktemp("scene") / "plain.tif")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data; tests that want it skip without."""
    folder = os.environ.get("MS2HS_DATA")
    if not folder:
        pytest.skip("MS2HS_DATA is not set: no real data to try")
    return Path(folder)


@pytest.fixture
def ms2hs(monkeypatch, capsys):
    """Run the command line: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ms2hs", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run
