"""The server of a page: its answers equal the file, and only this computer gets them."""

import http.client
from threading import Thread
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from conftest import allow_sockets
from cube_files import BANDS, COLS, ROWS, make_cube, numbers_of

from ms2hs.errors import OutputError
from ms2hs.viewing.server import CubeServer


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("served") / "cube.tif")


@pytest.fixture(scope="module")
def server(cube):
    with CubeServer(cube) as running:
        thread = Thread(target=running.run)
        thread.start()
        yield running
        running.stop()
        thread.join()


@pytest.fixture
def ask(server, monkeypatch):
    """Status and content of a request; `path` is relative to the page."""
    allow_sockets(monkeypatch, "127.")
    address = urlsplit(server.url)

    def request(path="", host=None, method="GET", **query):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        path = f"{path if path.startswith('/') else address.path + path}?{urlencode(query)}"
        connection.request(method, path, headers={"Host": host or address.netloc})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    return request


def test_server_answers_with_the_numbers_of_the_file(ask, cube):
    whole = {"row": 0, "col": 0, "height": ROWS, "width": COLS, "rows": ROWS, "cols": COLS}
    status, content = ask("planes", layer=0, bands="5,2,50", **whole)
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(content, "<i2").reshape(3, ROWS, COLS), numbers_of(cube)[[5, 2, 50]])
    status, content = ask("spectrum", layer=0, row=9, col=7)
    both = np.stack([numbers_of(path)[:, 9, 7] for path in (cube, cube.with_name("cube_sigma.tif"))])
    np.testing.assert_array_equal(np.frombuffer(content, "<i2").reshape(2, BANDS), both)
    status, content = ask()
    assert (status, b"ms2hs" in content) == (200, True)


def test_server_is_on_this_computer_only(server, ask):
    address = urlsplit(server.url)
    assert server._http.server_address == ("127.0.0.1", address.port)
    assert len(address.path) > 12
    for host in ("evil.example", f"evil.example:{address.port}", "127.0.0.1.evil.example", ""):
        assert ask(host=host or " ")[0] == 403
    assert ask(host=f"localhost:{address.port}")[0] == 200
    for path in ("/", "/planes", "/favicon.ico", "/../etc/passwd"):
        assert ask(path)[0] == 404
    assert ask(method="POST")[0] == 501


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"layer": 1, "row": 0, "col": 0},
        {"layer": 0, "row": ROWS, "col": 0},
        {"layer": 0, "row": -1, "col": 0},
        {"layer": 0, "row": "x", "col": 0},
        {"layer": 0, "row": "1,2", "col": 0},
    ],
)
def test_server_refuses_wrong_numbers(ask, query):
    status, content = ask("spectrum", **query)
    assert status == 400
    assert content
    window = {"row": 0, "col": 0, "height": ROWS, "width": COLS, "rows": ROWS, "cols": COLS}
    for wrong in ({"rows": ROWS + 1}, {"bands": "60"}, {"bands": "1,2,3,4"}, {"height": 99}, {"cols": 0}):
        assert ask("planes", **{"layer": 0, "bands": "1", **window, **wrong})[0] == 400


def test_server_reports_a_port_in_use(server, cube):
    with pytest.raises(OutputError, match="cannot be opened"):
        CubeServer(cube, port=urlsplit(server.url).port)
