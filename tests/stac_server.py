"""A STAC server for tests: searches with pages, files by byte ranges, and faults on demand.

    with StacServer() as server:
        server.add_item(item)                      # the addresses of its assets stay unchanged
        server.files["tile/B02.tif"] = content     # at server.address("tile/B02.tif")
        server.fault = Faults(0.1, seed=0)         # one request of a file in ten fails

The server supports the requests of pystac-client to Earth Search, Planetary Computer and CMR-STAC: GET and POST,
`query` and CQL2 on cloud cover, `next` links with a token.
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

FAULT_KINDS = ("busy", "failed", "slow", "cut", "short", "shifted", "whole", "page", "expired", "redirected")
CONFORMANCE_CLASSES = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
    "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
]


@dataclass(frozen=True)
class LoggedRequest:
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

    def __init__(self, rate: float, seed: int = 0, kinds: tuple[str, ...] = FAULT_KINDS) -> None:
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
    """Called with the path of a requested file; returns one of `FAULT_KINDS`, or None."""
    search_fault: Callable[[str], str | None] | None = None
    """The same for all other requests: `busy`, `failed`, `slow` and `page`."""
    retry_after: str | None = "0"
    """Retry-After header of `busy`: seconds or a date."""
    slow_s: float = 1.0
    """Delay of `slow`."""
    other_host: str = "127.0.0.2"
    """Host that `redirected` redirects to, with the same path."""
    redirect_target: str | None = None
    """Full address that `redirected` redirects to, instead."""
    signed_prefix: str = "signed/"
    """Path prefix of files that need a signature, as `signature` makes it."""
    signature_life: int = 10**9
    """Number of file requests that a signature is valid for."""
    buckets: dict[str, Keys] = field(default_factory=dict)
    """S3 stores by bucket name, at /NAME/KEY, with the keys that sign their requests."""
    page_size: int = 10
    """Maximum number of items in an answer to a search."""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    """Redirect targets, by path."""
    items: list[dict[str, Any]] = field(default_factory=list)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[LoggedRequest] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies sent, by path."""
    active: int = 0
    """Number of requests in progress."""
    max_active: int = 0
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
            self.active += 1
            self.max_active = max(self.max_active, self.active)
        try:
            yield
        finally:
            with self.lock:
                self.active -= 1

    def landing(self) -> dict[str, Any]:
        """The landing page."""
        links = [
            {"rel": "self", "href": self.root},
            {"rel": "root", "href": self.root},
            {"rel": "data", "href": f"{self.root}/collections"},
            *(
                {"rel": "search", "href": f"{self.root}/search", "method": method, "type": "application/geo+json"}
                for method in ("GET", "POST")
            ),
        ]
        facts = {"type": "Catalog", "id": "test", "stac_version": "1.0.0", "description": "Test catalogue"}
        return {**facts, "conformsTo": CONFORMANCE_CLASSES, "links": links}

    def search(self, parameters: dict[str, Any]) -> tuple[list[dict[str, Any]], int, int]:
        """One page of matching items, the offset of the page, and the number of all matches."""
        matches = [item for item in self.items if _matches(item, parameters)]
        for key in reversed(parameters.get("sortby") or []):
            name = key["field"].removeprefix("properties.")
            matches.sort(key=lambda item: str(item["properties"].get(name)), reverse=key["direction"] == "desc")
        first = int(parameters.get("token") or 0)
        size = min(int(parameters.get("limit") or self.page_size), self.page_size)
        return matches[first : first + size], first, len(matches)


def collection_named(name: str) -> dict[str, Any]:
    """A minimal collection."""
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
    facts = {"type": "Collection", "id": name, "stac_version": "1.0.0", "license": "proprietary"}
    return {**facts, "description": name, "extent": extent, "links": []}


def _matches(item: dict[str, Any], parameters: dict[str, Any]) -> bool:
    cloud = item["properties"].get("eo:cloud_cover")
    tests = [
        not parameters.get("collections") or item["collection"] in parameters["collections"],
        not parameters.get("ids") or item["id"] in parameters["ids"],
        not parameters.get("bbox") or _touches(item["bbox"], parameters["bbox"]),
        not parameters.get("intersects") or _touches(item["bbox"], _bounds(parameters["intersects"])),
        not parameters.get("datetime") or _within(item["properties"]["datetime"], parameters["datetime"]),
        all(cloud is not None and cloud <= limit for limit in _max_cloud_covers(parameters)),
    ]
    return all(tests)


def _touches(box: list[float], other: list[float]) -> bool:
    """Whether two boxes in degrees overlap; west > east crosses the antimeridian."""
    pairs = [(first, second) for first in _split_at_antimeridian(box) for second in _split_at_antimeridian(other)]
    return any(a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3] for a, b in pairs)


def _split_at_antimeridian(box: list[float]) -> list[list[float]]:
    west, south, east, north = box if len(box) == 4 else (box[0], box[1], box[3], box[4])
    if west <= east:
        return [[west, south, east, north]]
    return [[west, south, 180.0, north], [-180.0, south, east, north]]


def _bounds(geometry: dict[str, Any]) -> list[float]:
    numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", json.dumps(geometry["coordinates"]))]
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def _within(text: str, period: str) -> bool:
    begin, _, end = period.partition("/") if "/" in period else (period, "", period)
    at = _time(text)
    return (begin in {"", ".."} or _time(begin) <= at) and (end in {"", ".."} or at <= _time(end))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _max_cloud_covers(parameters: dict[str, Any]) -> list[float]:
    """Limits of cloud cover, in percent, in a `query` or a CQL2 filter."""
    query = (parameters.get("query") or {}).get("eo:cloud_cover", {})
    limits = [float(query[key]) for key in ("lt", "lte") if key in query]
    text = json.dumps(parameters.get("filter") or "")
    number = r"(\d+(?:\.\d+)?)"
    json_form = rf'"op": "<=?", "args": \[\{{"property": "(?:properties\.)?eo:cloud_cover"\}}, {number}'
    limits += [float(match) for match in re.findall(json_form, text)]
    return limits + [float(match) for match in re.findall(rf"eo:cloud_cover\W*?<=? ?{number}", text)]


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
                self.stac.requests.append(LoggedRequest(self.command, path, parts.query, headers, body, fault))
            with self.stac.counted():
                if self._send_fault(fault, parts.path):
                    return
                if is_file:
                    self._file(path, parts.query, fault)
                else:
                    self._catalogue(path.rstrip("/"), parts.query, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send_fault(self, fault: str | None, path: str) -> bool:
        """Answer with a fault that needs no file; False if no answer was sent."""
        if fault == "busy":
            after = {} if self.stac.retry_after is None else {"Retry-After": self.stac.retry_after}
            self._send(429, b"slow down", after)
        elif fault == "failed":
            self._send(random.choice((500, 502, 503, 504)), b"out of order")  # noqa: S311 - no secret
        elif fault == "page":
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif fault == "expired":
            self._send(403, b"Signature not valid in the specified time frame")
        elif fault == "redirected":
            other = f"http://{self.stac.other_host}:{self.stac.port}{path}"
            self._send(302, b"", {"Location": self.stac.redirect_target or other})
        else:
            if fault == "slow":
                time.sleep(self.stac.slow_s)
            return False
        return True

    def _file(self, path: str, query: str, fault: str | None) -> None:
        content = self.stac.files.get(path)
        if path in self.stac.redirects:
            self._send(302, b"", {"Location": self.stac.redirects[path]})
        elif (keys := self.stac.buckets.get(path.split("/", maxsplit=1)[0])) and not self._is_signed_by(keys, query):
            self._send(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        elif path.startswith(self.stac.signed_prefix) and not self.stac.is_signed(query):
            self._send(403, b"Signature not valid in the specified time frame")
        elif content is None:
            self._send(404, b"no such file")
        else:
            self._range(path, content, fault)

    def _is_signed_by(self, keys: Keys, query: str) -> bool:
        """Whether a request is signed with these keys for this host."""
        fields = dict(parse_qsl(query))
        if "X-Amz-Date" not in fields:
            return False
        at = datetime.strptime(fields["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        region, life_s = fields["X-Amz-Credential"].split("/")[2], int(fields["X-Amz-Expires"])
        path = urlsplit(self.path).path
        return query == signed_query(self.headers["Host"], path, region, keys, at, life_s)

    def _range(self, path: str, content: bytes, fault: str | None) -> None:
        headers = {"Content-Type": "image/tiff", "Accept-Ranges": "bytes", "ETag": f'"{hash(content) & 0xFFFFFFFF:x}"'}
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if requested is None or fault == "whole":
            self._send(200, content, headers, path)
            return
        begin, last = int(requested[1]), int(requested[2] or len(content) - 1)
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
            parameters = json.loads(body or "{}") if self.command == "POST" else _search_parameters(query)
            self._search(parameters)
        elif path == "/collections":
            self._json({"collections": list(stac.collections.values()), "links": []})
        elif steps[0] == "collections" and len(steps) == 2 and steps[1] in stac.collections:
            self._json(stac.collections[steps[1]])
        elif steps[0] == "collections" and len(steps) == 4 and steps[2] == "items":
            matches = [item for item in stac.items if (item["collection"], item["id"]) == (steps[1], unquote(steps[3]))]
            if matches:
                self._json(matches[0], "application/geo+json")
            else:
                self._send(404, b"{}")
        elif path.startswith("/api/sas/v1/token/"):
            self._json({"msft:expiry": "2099-01-01T00:00:00Z", "token": stac.signature()})
        else:
            self._send(404, b"{}")

    def _search(self, parameters: dict[str, Any]) -> None:
        items, first, count = self.stac.search(parameters)
        links: list[dict[str, Any]] = []
        after = first + len(items)
        if after < count:
            link: dict[str, Any] = {"rel": "next", "type": "application/geo+json", "method": self.command}
            if self.command == "POST":
                link |= {"href": f"{self.stac.root}/search", "body": parameters | {"token": str(after)}, "merge": False}
            else:
                query = urlencode([*parse_qsl(urlsplit(self.path).query), ("token", str(after))])
                link["href"] = f"{self.stac.root}/search?{query}"
            links.append(link)
        document = {"type": "FeatureCollection", "features": items, "links": links, "numberMatched": count}
        self._json(document | {"numberReturned": len(items)}, "application/geo+json")


def _search_parameters(query: str) -> dict[str, Any]:
    """The search parameters of a GET request."""
    given = {key: values[-1] for key, values in parse_qs(query).items()}
    parameters: dict[str, Any] = {key: given[key] for key in ("datetime", "limit", "token") if key in given}
    for key in ("collections", "ids"):
        if key in given:
            parameters[key] = given[key].split(",")
    if "bbox" in given:
        parameters["bbox"] = [float(number) for number in given["bbox"].split(",")]
    for key in ("intersects", "query"):
        if key in given:
            parameters[key] = json.loads(given[key])
    if "filter" in given:
        parameters["filter"] = given["filter"]
    if "sortby" in given:
        names = given["sortby"].split(",")
        parameters["sortby"] = [
            {"field": name.lstrip("+-"), "direction": "desc" if name[0] == "-" else "asc"} for name in names
        ]
    return parameters
