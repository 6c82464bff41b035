"""A STAC server for tests: searches with pages, files by byte ranges, and faults on demand.

    with StacServer() as server:
        server.add_item(item)                      # its assets' addresses as they are
        server.files["tile/B02.tif"] = content     # at server.address("tile/B02.tif")
        server.fault = Faults(0.1, seed=0)         # each request of a file, one in ten, goes wrong somehow

It speaks what pystac-client asks of Earth Search, Planetary Computer and CMR-STAC: GET and POST, `query` and CQL2 on
cloud cover, `next` links with a token.
"""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from ms2hs.remote.s3_signing import Keys, signed_query

KINDS = ("busy", "failed", "slow", "cut", "short", "shifted", "whole", "page", "expired", "elsewhere")
CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
]


@dataclass(frozen=True)
class Asked:
    """One request and its answer."""

    method: str
    path: str
    """The path without the query."""
    query: str
    headers: dict[str, str]
    """Headers, with keys in lower case."""
    body: str
    fault: str | None


class Faults:
    """A random fault, drawn from `kinds`, for a share `rate` of the file requests; a repeated request succeeds."""

    def __init__(self, rate: float, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
        self.rate, self.kinds = rate, kinds
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._lock = threading.Lock()
        self.drawn: Counter[str] = Counter()

    def __call__(self, _path: str) -> str | None:
        """The kind of the fault; None for no fault."""
        with self._lock:
            if self._random.random() >= self.rate:
                return None
            kind = self._random.choice(self.kinds)
            self.drawn[kind] += 1
            return kind


@dataclass
class StacServer:
    """The server; a context manager. Its content may change while it runs."""

    fault: Callable[[str], str | None] | None = None
    """Called with the path of a requested file; returns one of `KINDS`, or None."""
    search_fault: Callable[[str], str | None] | None = None
    """The same for all other requests: `busy`, `failed`, `slow` and `page`."""
    retry_after: str | None = "0"
    """Retry-After header of `busy`: seconds or a date."""
    slow_s: float = 1.0
    """Delay of `slow`."""
    other_host: str = "127.0.0.2"
    """Host that `elsewhere` redirects to, with the same path."""
    elsewhere: str | None = None
    """Full address that `elsewhere` redirects to, instead."""
    signed_prefix: str = "signed/"
    """Path prefix of files that need a signature, as `signature` makes it."""
    signature_life: int = 10**9
    """Number of file requests that a signature is valid for."""
    buckets: dict[str, Keys] = field(default_factory=dict)
    """S3 stores by bucket name, at /NAME/KEY, with the keys that sign their requests."""
    page: int = 10
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    """Redirect targets, by path."""
    items: list[dict[str, Any]] = field(default_factory=list)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies sent, by path."""
    busy: int = 0
    """Number of requests in progress."""
    busiest: int = 0
    """Maximum number of simultaneous requests."""
    signatures: dict[str, int] = field(default_factory=dict)
    """Remaining requests, by signature."""

    def __enter__(self) -> Self:
        """Listen on a free local port."""
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"stac": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.server_address[1])

    @property
    def root(self) -> str:
        """URL of the landing page."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, name: str) -> str:
        """URL of a file."""
        return f"{self.root}/files/{quote(name)}"

    def add_file(self, name: str, content: bytes) -> str:
        """Serve a file; returns its URL."""
        self.files[name] = content
        return self.address(name)

    def add_item(self, item: dict[str, Any]) -> dict[str, Any]:
        """Serve an item and its collection; adds the self link."""
        name = item["collection"]
        self.collections.setdefault(name, collection_named(name))
        own = f"{self.root}/collections/{name}/items/{item['id']}"
        links = [{"rel": "self", "href": own, "type": "application/geo+json"}]
        links += [{"rel": rel, "href": f"{self.root}/collections/{name}"} for rel in ("collection", "parent")]
        item = item | {"links": [*links, {"rel": "root", "href": self.root}]}
        self.items.append(item)
        return item

    def signature(self) -> str:
        """A new signature, as a query like Planetary Computer's."""
        with self.lock:
            text = f"sig-{len(self.signatures)}-secret"
            self.signatures[text] = self.signature_life
        return urlencode({"se": "2099-01-01T00:00:00Z", "sig": text})

    def is_signed(self, query: str) -> bool:
        """Whether a query has a valid signature; counts one use."""
        with self.lock:
            text = dict(parse_qsl(query)).get("sig", "")
            left = self.signatures.get(text, 0)
            if left:
                self.signatures[text] = left - 1
            return left > 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request while it is answered."""
        with self.lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            yield
        finally:
            with self.lock:
                self.busy -= 1

    def landing(self) -> dict[str, Any]:
        """The landing page."""
        links = [
            {"rel": "self", "href": self.root},
            {"rel": "root", "href": self.root},
            {"rel": "data", "href": f"{self.root}/collections"},
            *(
                {"rel": "search", "href": f"{self.root}/search", "method": way, "type": "application/geo+json"}
                for way in ("GET", "POST")
            ),
        ]
        facts = {"type": "Catalog", "id": "test", "stac_version": "1.0.0", "description": "of a test"}
        return {**facts, "conformsTo": CONFORMS, "links": links}

    def search(self, wanted: dict[str, Any]) -> tuple[list[dict[str, Any]], int, int]:
        """One page of matching items, its offset, and the number of all matches."""
        found = [item for item in self.items if _fits(item, wanted)]
        for key in reversed(wanted.get("sortby") or []):
            name = key["field"].removeprefix("properties.")
            found.sort(key=lambda item: str(item["properties"].get(name)), reverse=key["direction"] == "desc")
        first = int(wanted.get("token") or 0)
        size = min(int(wanted.get("limit") or self.page), self.page)
        return found[first : first + size], first, len(found)


def collection_named(name: str) -> dict[str, Any]:
    """A minimal collection."""
    whole = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
    facts = {"type": "Collection", "id": name, "stac_version": "1.0.0", "license": "proprietary"}
    return {**facts, "description": name, "extent": whole, "links": []}


def _fits(item: dict[str, Any], wanted: dict[str, Any]) -> bool:
    cloud = item["properties"].get("eo:cloud_cover")
    tests = [
        not wanted.get("collections") or item["collection"] in wanted["collections"],
        not wanted.get("ids") or item["id"] in wanted["ids"],
        not wanted.get("bbox") or _touches(item["bbox"], wanted["bbox"]),
        not wanted.get("intersects") or _touches(item["bbox"], _bounds(wanted["intersects"])),
        not wanted.get("datetime") or _within(item["properties"]["datetime"], wanted["datetime"]),
        all(cloud is not None and cloud <= most for most in _most_cloud(wanted)),
    ]
    return all(tests)


def _touches(box: list[float], other: list[float]) -> bool:
    """Whether two boxes in degrees overlap; west > east crosses the antimeridian."""
    pairs = [(part, there) for part in _halves(box) for there in _halves(other)]
    return any(a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3] for a, b in pairs)


def _halves(box: list[float]) -> list[list[float]]:
    west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
    if west <= east:
        return [[west, south, east, north]]
    return [[west, south, 180.0, north], [-180.0, south, east, north]]


def _bounds(geometry: dict[str, Any]) -> list[float]:
    numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", json.dumps(geometry["coordinates"]))]
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def _within(text: str, wanted: str) -> bool:
    begin, _, end = wanted.partition("/") if "/" in wanted else (wanted, "", wanted)
    at = _time(text)
    return (begin in {"", ".."} or _time(begin) <= at) and (end in {"", ".."} or at <= _time(end))


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _most_cloud(wanted: dict[str, Any]) -> list[float]:
    """Largest cloud cover of a `query` or a CQL2 filter."""
    query = (wanted.get("query") or {}).get("eo:cloud_cover", {})
    found = [float(query[key]) for key in ("lt", "lte") if key in query]
    text = json.dumps(wanted.get("filter") or "")
    number = r"(\d+(?:\.\d+)?)"
    json_form = rf'"op": "<=?", "args": \[\{{"property": "(?:properties\.)?eo:cloud_cover"\}}, {number}'
    found += [float(match) for match in re.findall(json_form, text)]
    return found + [float(match) for match in re.findall(rf"eo:cloud_cover\W*?<=? ?{number}", text)]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests close connections early."""


class _Handler(BaseHTTPRequestHandler):
    """One persistent connection."""

    protocol_version = "HTTP/1.1"
    stac: StacServer
    # Small answers would wait for an acknowledgement otherwise.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Log nothing."""

    def do_GET(self) -> None:
        self._answer("")

    def do_HEAD(self) -> None:
        self._answer("")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _answer(self, body: str) -> None:
        try:
            parts = urlsplit(self.path)
            is_file = parts.path.startswith("/files/") or parts.path.split("/")[1] in self.stac.buckets
            path = unquote(parts.path.removeprefix("/files").removeprefix("/")) if is_file else parts.path
            draw = self.stac.fault if is_file else self.stac.search_fault
            fault = draw(path) if draw else None
            headers = {key.lower(): value for key, value in self.headers.items()}
            with self.stac.lock:
                self.stac.asked.append(Asked(self.command, path, parts.query, headers, body, fault))
            with self.stac.counted():
                if self._went_wrong(fault, parts.path):
                    return
                if is_file:
                    self._file(path, parts.query, fault)
                else:
                    self._catalogue(path.rstrip("/"), parts.query, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _went_wrong(self, fault: str | None, path: str) -> bool:
        """Answer with a fault that needs no file; False if the request is still unanswered."""
        if fault == "busy":
            after = {} if self.stac.retry_after is None else {"Retry-After": self.stac.retry_after}
            self._send(429, b"slow down", after)
        elif fault == "failed":
            self._send(random.choice((500, 502, 503, 504)), b"out of order")  # noqa: S311 - no secret
        elif fault == "page":
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif fault == "expired":
            self._send(403, b"Signature not valid in the specified time frame")
        elif fault == "elsewhere":
            other = f"http://{self.stac.other_host}:{self.stac.port}{path}"
            self._send(302, b"", {"Location": self.stac.elsewhere or other})
        else:
            if fault == "slow":
                time.sleep(self.stac.slow_s)
            return False
        return True

    def _file(self, path: str, query: str, fault: str | None) -> None:
        content = self.stac.files.get(path)
        if path in self.stac.redirects:
            self._send(302, b"", {"Location": self.stac.redirects[path]})
        elif (keys := self.stac.buckets.get(path.split("/", maxsplit=1)[0])) and not self._is_of(keys, query):
            self._send(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif path.startswith(self.stac.signed_prefix) and not self.stac.is_signed(query):
            self._send(403, b"Signature not valid in the specified time frame")
        elif content is None:
            self._send(404, b"no such file")
        else:
            self._range(path, content, fault)

    def _is_of(self, keys: Keys, query: str) -> bool:
        """Whether a request is signed with these keys for this host."""
        told = dict(parse_qsl(query))
        if "X-Amz-Date" not in told:
            return False
        at = datetime.strptime(told["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        region, life_s = told["X-Amz-Credential"].split("/")[2], int(told["X-Amz-Expires"])
        path = urlsplit(self.path).path
        return query == signed_query(self.headers["Host"], path, region, keys, at, life_s)

    def _range(self, path: str, content: bytes, fault: str | None) -> None:
        headers = {"Content-Type": "image/tiff", "Accept-Ranges": "bytes", "ETag": f'"{hash(content) & 0xFFFFFFFF:x}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or fault == "whole":
            self._send(200, content, headers, path)
            return
        begin, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        if begin >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        last = min(last, len(content) - 1)
        body = content[begin : last + 1]
        if fault == "shifted":
            begin, last = begin + 1, last + 1
        headers["Content-Range"] = f"bytes {begin}-{last}/{len(content)}"
        if fault == "short":
            body = body[: len(body) // 2]
        self._send(206, body, headers, path, cut=fault == "cut")

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, path: str = "", *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            body = body[: len(body) // 2]
            self.close_connection = True
        with self.stac.lock:
            self.stac.sent[path] += len(body)
        self.wfile.write(body)

    def _json(self, document: dict[str, Any], kind: str = "application/json") -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": kind})

    def _catalogue(self, path: str, query: str, body: str) -> None:
        stac = self.stac
        steps = path.strip("/").split("/")
        if path == "":
            self._json(stac.landing())
        elif path == "/search":
            wanted = json.loads(body or "{}") if self.command == "POST" else _of_query(query)
            self._search(wanted)
        elif path == "/collections":
            self._json({"collections": list(stac.collections.values()), "links": []})
        elif steps[0] == "collections" and len(steps) == 2 and steps[1] in stac.collections:
            self._json(stac.collections[steps[1]])
        elif steps[0] == "collections" and len(steps) == 4 and steps[2] == "items":
            found = [item for item in stac.items if (item["collection"], item["id"]) == (steps[1], unquote(steps[3]))]
            if found:
                self._json(found[0], "application/geo+json")
            else:
                self._send(404, b"{}")
        elif path.startswith("/api/sas/v1/token/"):
            self._json({"msft:expiry": "2099-01-01T00:00:00Z", "token": stac.signature()})
        else:
            self._send(404, b"{}")

    def _search(self, wanted: dict[str, Any]) -> None:
        items, first, count = self.stac.search(wanted)
        links: list[dict[str, Any]] = []
        after = first + len(items)
        if after < count:
            link: dict[str, Any] = {"rel": "next", "type": "application/geo+json", "method": self.command}
            if self.command == "POST":
                link |= {"href": f"{self.stac.root}/search", "body": wanted | {"token": str(after)}, "merge": False}
            else:
                query = urlencode([*parse_qsl(urlsplit(self.path).query), ("token", str(after))])
                link["href"] = f"{self.stac.root}/search?{query}"
            links.append(link)
        document = {"type": "FeatureCollection", "features": items, "links": links, "numberMatched": count}
        self._json(document | {"numberReturned": len(items)}, "application/geo+json")


def _of_query(query: str) -> dict[str, Any]:
    """The search parameters of a GET request."""
    given = {key: values[-1] for key, values in parse_qs(query).items()}
    wanted: dict[str, Any] = {key: given[key] for key in ("datetime", "limit", "token") if key in given}
    for key in ("collections", "ids"):
        if key in given:
            wanted[key] = given[key].split(",")
    if "bbox" in given:
        wanted["bbox"] = [float(number) for number in given["bbox"].split(",")]
    for key in ("intersects", "query"):
        if key in given:
            wanted[key] = json.loads(given[key])
    if "filter" in given:
        wanted["filter"] = given["filter"]
    if "sortby" in given:
        fields = given["sortby"].split(",")
        ways = {"-": "desc", "+": "asc"}
        wanted["sortby"] = [{"field": name.lstrip("+-"), "direction": ways.get(name[0], "asc")} for name in fields]
    return wanted
