"""The server of a page on 127.0.0.1: pixels of a cube on request, for cubes too large to embed.

Coarse planes come from the overviews of a file, so that the picture of a whole Sentinel-2 tile takes a fraction of a
second. Only this computer reaches the server: it binds to 127.0.0.1, refuses requests whose Host header has another
name (a web page elsewhere could otherwise point its own name at 127.0.0.1 and read the cube), and its paths begin with
a random key, which other users of this computer do not know.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from ms2hs.errors import Ms2hsError, OutputError, QueryError, reason
from ms2hs.viewing.page import Layer, open_inputs, served_page

LOGGER = logging.getLogger(__name__)
HOST = "127.0.0.1"
HOST_NAMES = {HOST, "localhost"}
MAX_SIDE = 4096
"""Largest side of a requested plane in pixels."""
MAX_BANDS = 3
# An idle connection is closed after this time.
IDLE_S = 60
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HTML, BYTES, TEXT = "text/html; charset=utf-8", "application/octet-stream", "text/plain; charset=utf-8"


class CubeServer:
    """A server of one page; as a context manager it closes its port at the end."""

    def __init__(
        self,
        cube: str | Path,
        compare: Sequence[str | Path] = (),
        *,
        scene: str | Path | None = None,
        port: int = 0,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Open the cubes and the port; 0 is a free port. Errors as in `view`; OutputError: the port is in use."""
        self._layers, references = open_inputs(cube, compare, scene, note)
        key = f"/{secrets.token_urlsafe(12)}/"
        self._answers = {
            key: lambda _query: (HTML, served_page(self._layers, references, key)),
            f"{key}planes": self._planes,
            f"{key}spectrum": self._spectrum,
        }
        try:
            self._http = ThreadingHTTPServer((HOST, port), _handler(self._answers))
        except OSError as error:
            raise OutputError(
                f"port {port} of {HOST} cannot be opened ({error.strerror}); a free port is needed. Leave --port out, "
                "or choose another one."
            ) from error
        self._http.daemon_threads = True
        self.url = f"http://{HOST}:{self._http.server_port}{key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.server_close()

    def run(self) -> None:
        """Answer requests until an interrupt, or until `stop` is called in another thread."""
        self._http.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """End `run`."""
        self._http.shutdown()

    def _planes(self, query: dict[str, list[int]]) -> tuple[str, bytes]:
        """(band, row, col) little-endian int16 of a window."""
        layer, bands = self._layer(query), query["bands"]
        window, shape = _numbers(query, "row", "col", "height", "width"), _numbers(query, "rows", "cols")
        _check(len(bands) <= MAX_BANDS and all(0 <= band < len(layer.spectral) for band in bands), "bands")
        _check_window(layer, window)
        _check(
            all(1 <= side <= min(size, MAX_SIDE) for side, size in zip(shape, window[2:], strict=True)), "rows, cols"
        )
        return BYTES, layer.read("reflectance", bands, window, shape).astype("<i2").tobytes()

    def _spectrum(self, query: dict[str, list[int]]) -> tuple[str, bytes]:
        """Little-endian int16 of all bands of a pixel, then of their uncertainties if the cube has them."""
        layer = self._layer(query)
        window = (*_numbers(query, "row", "col"), 1, 1)
        _check_window(layer, window)
        spectra = [layer.read(kind, range(len(layer.spectral)), window) for kind in layer.kinds]
        return BYTES, b"".join(values.astype("<i2").tobytes() for values in spectra)

    def _layer(self, query: dict[str, list[int]]) -> Layer:
        number: int = _numbers(query, "layer")[0]
        _check(0 <= number < len(self._layers), "layer")
        return self._layers[number]


def _numbers(query: dict[str, list[int]], *names: str) -> tuple[Any, ...]:
    for name in names:
        _check(len(query.get(name, ())) == 1, name)
    return tuple(query[name][0] for name in names)


def _check(is_right: bool, name: str) -> None:
    if not is_right:
        raise QueryError(f"{name}: out of range, or missing; the numbers of the page are allowed. Reload the page.")


def _check_window(layer: Layer, window: tuple[int, ...]) -> None:
    row, col, height, width = window
    grid = layer.grid
    _check(row >= 0 and height >= 1 and row + height <= grid.height, "row, height")
    _check(col >= 0 and width >= 1 and col + width <= grid.width, "col, width")


def _handler(answers: dict[str, Callable[[dict[str, list[int]]], tuple[str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_S

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOST_NAMES:
                self._answer(HTTPStatus.FORBIDDEN, TEXT, b"This server answers this computer only.")
                return
            if address.path not in answers:
                self._answer(HTTPStatus.NOT_FOUND, TEXT, b"There is no such page. Use the address that ms2hs printed.")
                return
            try:
                query = {
                    name: [int(part) for part in texts[0].split(",")] for name, texts in parse_qs(address.query).items()
                }
                self._answer(HTTPStatus.OK, *answers[address.path](query))
            except (Ms2hsError, ValueError, KeyError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, TEXT, reason(error).encode())

        def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            for name, text in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401  as http.server calls it
            """Log a request."""
            LOGGER.debug(format, *args)

    return Handler
