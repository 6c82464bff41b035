"""Servers that lie, wait or refuse: no private host is reached, every wait ends, and nothing of the user is lost."""

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import CONNECT, allow_sockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from stac_server import StacServer
from stac_world import World

from ms2hs.errors import AddressError, Ms2hsError, OutputError, RemoteError
from ms2hs.fetching.download import ByteCounter
from ms2hs.fetching.fetcher import FetchOptions, fetch
from ms2hs.progress import RATE_PERIOD_S, _bar
from ms2hs.remote import hosts
from ms2hs.remote.byte_range import read_range
from ms2hs.remote.client import HttpRequest, RetryPolicy, WebClient, read_document
from ms2hs.remote.range_file import open_ranged
from ms2hs.remote.url_policy import Access
from ms2hs.scenes.scene import Asset, Scene

QUICK = RetryPolicy(first_s=0.002, longest_s=0.01, read_s=0.25, connect_s=0.5)
PUBLIC, PRIVATE = "93.184.216.34", "127.0.0.1"


@pytest.fixture
def server(monkeypatch):
    allow_sockets(monkeypatch, "127.0.0.")
    with StacServer() as running:
        yield running


@pytest.fixture
def world(server, tmp_path):
    return World(server, tmp_path / "making", 1200)


# ---- names that change their addresses ------------------------------------------------------------------------------


@pytest.fixture
def connections(monkeypatch):
    """Answers of a hostile server of names, by host, the last one for ever; and the addresses that are connected to."""
    answers: dict[str, list[list[str]]] = {}
    reached: list[str] = []

    def resolve(host, *_args, **_more):
        if host.replace(".", "").isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, _args[0] or 0))]
        if host not in answers:
            raise socket.gaierror(host)
        now = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        if not now:
            raise socket.gaierror(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in now]

    def connect(self, address):
        reached.append(address[0])
        if address[0] == PRIVATE:
            return CONNECT(self, address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(hosts, "_ADDRESSES", {})
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return answers, reached


@pytest.mark.parametrize(
    "answers",
    [
        [[PUBLIC], [PRIVATE]],
        [[PUBLIC], [PUBLIC], [PRIVATE]],
        [[PUBLIC], [PUBLIC, PRIVATE]],
        [[], [PRIVATE]],  # at first, the name has no address
    ],
)
@pytest.mark.parametrize("kind", ["document", "range", "redirect"])
def test_connection_goes_to_the_checked_address(connections, answers, kind):
    answers_of, reached = connections
    answers_of["evil.example.org"] = answers
    answers_of["stac.example.org"] = [[PRIVATE]]  # the server that the user names
    with StacServer() as server, WebClient(QUICK) as client:
        server.files["a.tif"] = b"secret"
        address = f"http://evil.example.org:{server.port}/files/a.tif"
        access = Access.to_host_of("http://stac.example.org")
        if kind == "redirect":
            server.redirects["start"] = address
            address = f"http://stac.example.org:{server.port}/files/start"
        read = partial(read_range, client, address, access, 0, 100)
        if kind != "range":
            read = partial(read_document, HttpRequest(address, access), client)
        with pytest.raises((RemoteError, AddressError)):
            read()
        assert [request.path for request in server.requests if request.path == "a.tif"] == []
        assert set(reached) <= ({PUBLIC} if kind != "redirect" else {PUBLIC, PRIVATE})


def test_connection_keeps_name_in_the_host_header(connections):
    answers_of, _ = connections
    answers_of["stac.example.org"] = [[PRIVATE], [PUBLIC]]
    with StacServer() as server, WebClient(QUICK) as client:
        server.files["a.json"] = b"{}"
        address = f"http://stac.example.org:{server.port}/files/a.json"
        for _ in range(2):
            assert read_document(HttpRequest(address, Access.to_host_of(address)), client) == b"{}"
        assert server.requests[0].headers["host"] == f"stac.example.org:{server.port}"


# ---- waits ----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer):
    """A server whose requests are answered by `answer(handler)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/item"
    finally:
        server.shutdown()
        server.server_close()


def trickle(handler, text):
    for _ in range(400):
        handler.wfile.write(text)
        handler.wfile.flush()
        time.sleep(0.05)


def slow_content(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "10000000")
    handler.end_headers()
    trickle(handler, b" ")


def slow_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    trickle(handler, b"a")


def slow_chunks(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    trickle(handler, b"0")


def silent(handler):
    del handler
    time.sleep(3)


@pytest.mark.parametrize("answer", [slow_content, slow_headers, slow_chunks, silent])
def test_slow_server_is_given_up(monkeypatch, answer):
    allow_sockets(monkeypatch, "127.")
    policy = RetryPolicy(first_s=0.01, longest_s=0.01, read_s=0.4, total_s=0.7)
    with serving(answer) as address, WebClient(policy) as client:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="could not be read"):
            read_document(HttpRequest(address, Access.to_host_of(address)), client)
        assert time.monotonic() - began < 2.5


def test_slow_server_with_enough_bytes_is_read(monkeypatch):
    allow_sockets(monkeypatch, "127.")
    body = bytes(40_000)

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for begin in range(0, len(body), 4000):
            handler.wfile.write(body[begin : begin + 4000])
            time.sleep(0.1)

    with serving(answer) as address, WebClient(RetryPolicy(read_s=0.4, total_s=5)) as client:
        assert read_document(HttpRequest(address, Access.to_host_of(address)), client) == body


def test_refused_connections_are_given_up_and_reported(monkeypatch, caplog):
    allow_sockets(monkeypatch, "127.")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a.tif?sig=secret"
    policy, access = RetryPolicy(first_s=0.05, longest_s=0.2, unreachable_s=0.5), Access.to_host_of(address)
    caplog.set_level("INFO", "ms2hs")
    with WebClient(policy) as client:
        began = time.monotonic()
        for _ in range(20):  # later requests to the same host get one attempt
            with pytest.raises(RemoteError, match="connection refused"):
                read_range(client, address, access, 0, 10)
        assert time.monotonic() - began < 1.5
    assert "for 127.0.0.1 (connection refused), attempt 1 of 8" in caplog.messages[0]
    assert "secret" not in caplog.text


def test_waits_by_retry_after_are_bounded_in_total(server):
    server.fault, server.retry_after = (lambda _path: "busy"), "0.3"
    policy = RetryPolicy(first_s=0.01, max_retry_after_s=1.0)
    with WebClient(policy) as client:
        began = time.monotonic()
        with pytest.raises(RemoteError, match="asks to wait 1 s in all"):
            read_range(client, server.address("a.tif"), Access.to_host_of(server.root), 0, 10)
        assert 0.8 <= time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("kind", "is_read"), [("text/plain", True), ("text/plain; charset=x", True), ("text/html", False)]
)
def test_range_is_read_unless_its_content_type_is_a_page(monkeypatch, kind, is_read):
    allow_sockets(monkeypatch, "127.")

    def answer(handler):
        handler.send_response(206)
        for key, value in (("Content-Type", kind), ("Content-Range", "bytes 0-3/4"), ("Content-Length", "4")):
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(b"II*\0")

    with serving(answer) as address, WebClient(QUICK) as client:
        if is_read:
            assert read_range(client, address, Access.to_host_of(address), 0, 4).content == b"II*\0"
        else:
            with pytest.raises(RemoteError, match="instead of a raster"):
                read_range(client, address, Access.to_host_of(address), 0, 4)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (503, {"Retry-After": "Mon, 01 Jan 10000000000000000000 00:00:00 GMT"}),
        (503, {"Retry-After": "Mon, 01 Jan 2030 00:00:00 +9999999999"}),
        (302, {"Location": "http://["}),
        (302, {"Location": "http://a:99999999999/"}),
        (200, {"Location": "\xff\xfe"}),
        (206, {"Content-Range": f"bytes 0-3/{'9' * 5000}"}),
        (206, {"Content-Range": f"bytes 0-3/{'9' * 30}"}),
        (206, {"Content-Encoding": "gzip"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_header_is_one_message(monkeypatch, status, headers):
    allow_sockets(monkeypatch, "127.")

    def answer(handler):
        handler.send_response(status)
        for key, value in ({"Content-Range": "bytes 0-3/4", "Content-Length": "4"} | headers).items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(b"II*\0")

    policy = RetryPolicy(attempts=2, first_s=0.001, longest_s=0.001, read_s=0.25, max_retry_after_s=0)
    with serving(answer) as address, WebClient(policy) as client:
        for read in (read_document, lambda request, client: open_ranged(client, request.address, request.access)):
            with suppress(Ms2hsError):
                read(HttpRequest(address, Access.to_host_of(address)), client)


@pytest.mark.parametrize(("name", "is_trusted"), [("stac.example.org", True), ("other.example.org", False)])
def test_certificate_is_that_of_the_name(connections, monkeypatch, tmp_path, name, is_trusted):
    answers_of, reached = connections
    answers_of["stac.example.org"] = [[PRIVATE]]
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), set()
    context.load_cert_chain(certificate, private)
    context.sni_callback = lambda _socket, host, _context: asked.add(host)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with StacServer() as server, WebClient(QUICK) as client:
        server.files["a.json"] = b"{}"
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        address = f"https://stac.example.org:{server.port}/files/a.json"
        request = HttpRequest(address, Access.to_host_of(address), attempts=2)
        if is_trusted:
            assert read_document(request, client) == b"{}"
        else:
            with pytest.raises(RemoteError, match="certificate"):
                read_document(request, client)
    assert asked == {"stac.example.org"}
    assert set(reached) == {PRIVATE}


# ---- files of the user ----------------------------------------------------------------------------------------------

NAME = "S2A_32TNT_20240601_0_L2A"


def folder_with(path, name="mine.txt"):
    path.mkdir(parents=True)
    (path / name).write_text("[1]" if name.endswith(".json") else "mine")
    return path / name


# What has the name of an output or of a working folder: its folder, and a file in it.
OTHERS = {
    "an item": ("", f"{NAME}.json"),
    "a scene": ("", f"{NAME}.tif"),
    "statistics of a scene": ("", f"{NAME}.tif.aux.xml"),
    "a folder with the name of a scene": (f"{NAME}.tif", "mine.txt"),
    "a staging folder": (f".{NAME}.part", "mine.txt"),
    "a staging folder with a raster": (f".{NAME}.part", "mine.dat"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_fetch_keeps_files_of_others(world, tmp_path, kind):
    item, out = world.sentinel2(NAME), tmp_path / "out"
    folder, name = OTHERS[kind]
    mine = folder_with(out / folder, name)
    before = mine.read_bytes()
    with pytest.raises(OutputError):
        fetch([item], None, out, FetchOptions(retries=QUICK))
    assert mine.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("staged", [False, True])
def test_fetch_keeps_a_folder_of_others(world, tmp_path, overwrite, staged):
    item, out = world.sentinel2(NAME), tmp_path / "out"
    mine = folder_with(out / NAME)
    if staged:
        (out / f".{NAME}.part").mkdir()
    with pytest.raises(OutputError):
        fetch([item], None, out, FetchOptions("native", overwrite=overwrite, retries=QUICK))
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", [f".{NAME}.part", NAME])
def test_fetch_follows_no_links(world, tmp_path, name):
    item, out = world.sentinel2(NAME), tmp_path / "out"
    mine = folder_with(tmp_path / "elsewhere")
    out.mkdir()
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError):
        fetch([item], None, out, FetchOptions("native", overwrite=True, retries=QUICK))
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_fetch_replaces_its_own_folder_but_no_file_in_it(world, tmp_path):
    item, out = world.sentinel2(NAME), tmp_path / "out"
    options = FetchOptions("native", overwrite=True, retries=QUICK)
    fetch([item], None, out, options)
    assert fetch([item], None, out, options).kept == 0
    (out / NAME / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        fetch([item], None, out, options)
    assert (out / NAME / "notes.txt").read_text() == "mine"


def test_fetch_begins_again_from_a_damaged_request(world, tmp_path, caplog):
    item, out = world.sentinel2(NAME), tmp_path / "out"
    staging = out / f".{NAME}.part"
    staging.mkdir(parents=True)
    (staging / "request.json").write_bytes(b"\xff{")
    caplog.set_level("INFO", "ms2hs")
    assert len(fetch([item], None, out, FetchOptions(retries=QUICK)).paths) == 1
    assert not staging.exists()
    assert any("fetched from the beginning" in text for text in caplog.messages)


# ---- progress -------------------------------------------------------------------------------------------------------


def test_total_of_a_fetch_is_steady():
    """Ten scenes whose bands have bytes in proportion to their pixels."""
    sizes = {"B02": 100, "B03": 100, "B05": 25, "B01": 100 / 36}
    bands = tuple(Asset(name, "", 1, 1.0, 0.0, None) for name in sizes)
    scene = Scene("s", "sentinel2a", bands, None, "")  # type: ignore[arg-type]
    totals: list[int] = []
    counter = ByteCounter(10, lambda _stage, _done, total: totals.append(total))
    for number in range(10):
        counter.scene_started(str(number), scene)
        for band in bands:
            counter.file_opened(str(number), "sentinel2a", band, int(1000 * sizes[band.name]))
            counter.bytes_read(1000 * sizes[band.name])
        counter.scene_ended(str(number))
    assert max(totals) - min(totals) < 0.01 * max(totals)


def test_progress_has_a_rate_when_steps_are_minutes_apart():
    bar = _bar()
    task = bar.add_task("fetch", total=10_000_000, unit="bytes")
    now = 0.0
    bar.get_time = lambda: now
    bar.start_task(task)
    for step in range(1, 4):
        now = 300.0 * step
        bar.update(task, completed=1_000_000 * step)
    assert RATE_PERIOD_S > 600
    assert bar.tasks[0].speed == pytest.approx(1e6 / 300, rel=0.01)
    shown = "".join(str(column(bar.tasks[0])) for column in bar.columns if not isinstance(column, str))
    assert "3.0/10.0 MB" in shown


# ---- what the command line says -------------------------------------------------------------------------------------


def test_quiet_fetch_says_why_scenes_failed(world, tmp_path, ms2hs, monkeypatch):
    good, bad = world.sentinel2(NAME), world.sentinel2(f"{NAME[:-5]}1_L2A", seed=1)
    bad["assets"]["red"]["href"] += ".missing"
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [good, bad]}))
    monkeypatch.setattr("ms2hs.fetching.fetcher.RetryPolicy", lambda: QUICK)
    code, out, err = ms2hs(
        "fetch", "--items", tmp_path / "items.json", "--stac", world.server.root, "-q", "-o", tmp_path / "out"
    )
    assert code == 5
    assert len(out.splitlines()) == 1
    assert "failed:" in err
    assert "red.missing" in err or ".missing" in err
