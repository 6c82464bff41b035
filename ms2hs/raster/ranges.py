"""Bytes of files on servers, asked for by range, checked, counted, and asked for again where something went wrong.

GDAL's own reading over HTTP does not notice everything that goes wrong: a body that is cut, a page to log in instead of
a file, a range other than the one that was asked for. So every byte that GDAL gets comes through here.
"""

import logging
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from ms2hs.errors import AddressError, CredentialsError, RemoteError
from ms2hs.raster.addresses import shown

# Kinds of content that are no raster: what a server says instead of one.
PAGES = ("text/", "application/xml", "application/json", "application/xhtml")
REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 6
# Answers that may be another one soon. 408 and 425 ask to try again by their names.
PASSING = {408, 425, 429, 500, 502, 503, 504}
REFUSED = {401, 403}
GONE = {404, 410}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Patience:
    """How long a server is given, and how often it is asked again."""

    attempts: int = 8
    """For one range, before it counts as failed."""
    refusals: int = 4
    """Of these, answers that access is denied; each is followed by a new signature."""
    first_s: float = 0.5
    """Wait after the first that failed; it doubles with each, with a random share so that not all come at once."""
    longest_s: float = 30.0
    connect_s: float = 20.0
    read_s: float = 60.0
    """For a silence in the middle of an answer."""
    longest_asked_s: float = 300.0
    """The longest Retry-After that is obeyed; a server that wants more is said to be busy."""

    def wait_s(self, failed: int) -> float:
        """After so many failures."""
        longest: float = min(self.longest_s, self.first_s * 2.0 ** (failed - 1))
        return longest * (0.5 + 0.5 * random.random())  # noqa: S311 - no secret


def _as_it_is(address: str, *, fresh: bool) -> str:  # noqa: ARG001 - as `Access.sign` wants it
    return address


@dataclass(frozen=True)
class Access:
    """What stands between a catalogue's addresses and their bytes."""

    check: Callable[[str], None]
    """Raises AddressError for an address that must not be followed."""
    sign: Callable[..., str] = _as_it_is
    """`sign(address, fresh=...)`: the address with what lets one in; a new one where `fresh`."""
    headers: Callable[[str], Mapping[str, str]] = lambda _address: {}
    """What to send to the host of this address only, such as a token."""


@dataclass
class Traffic:
    """What has come in, of several threads."""

    bytes_read: int = 0
    requests: int = 0
    failures: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, bytes_read: int = 0, requests: int = 0, failures: int = 0) -> None:
        """More of it."""
        with self._lock:
            self.bytes_read += bytes_read
            self.requests += requests
            self.failures += failures


@dataclass(frozen=True)
class Part:
    """Bytes of a file."""

    content: bytes
    size: int
    """Of the whole file."""
    version: str
    """The server's name of this state of it; empty where it gives none."""


class _PassingError(Exception):
    """An answer that may be another one soon."""

    def __init__(self, reason: str, wait_s: float | None = None, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.is_refusal = is_refusal


class _Nobody(AuthBase):
    """Sends nothing of its own: requests would take passwords from ~/.netrc, for any host where there is a default."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As it was."""
        return request


class RangeClient:
    """Asks servers for byte ranges. For several threads; closing it ends those that wait."""

    def __init__(self, patience: Patience | None = None, connections: int = 4) -> None:
        self.patience = patience or Patience()
        self.traffic = Traffic()
        self._stopped = threading.Event()
        # Where an address led to the last time: a login takes three redirects, and every range would take them again.
        self._led: dict[str, str] = {}
        logging.getLogger("urllib3.connectionpool").addFilter(_without_queries)
        self._session = requests.Session()
        self._session.auth = _Nobody()
        adapter = HTTPAdapter(pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def __enter__(self) -> Self:
        """Nothing to open yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """Let every thread that asks or waits fail with RemoteError soon."""
        self._stopped.set()

    def read(self, address: str, access: Access, begin: int, size: int) -> Part:
        """`size` bytes from `begin` on, fewer only where the file ends.

        Raises
        ------
        RemoteError : the server did not give them; the message has the address without its query.
        AddressError : the address, or where it leads to, must not be followed.
        CredentialsError : the server refuses, with new signatures too.
        """
        if begin < 0 or size < 1:
            raise ValueError(f"{size} bytes from {begin}: from 1 and from 0 on are allowed")
        access.check(address)
        refusals, is_refused = 0, False
        for attempt in range(1, self.patience.attempts + 1):
            try:
                start = self._led.get(address) or access.sign(address, fresh=is_refused)
                part, end = self._ask(start, access, begin, size)
            except _PassingError as error:
                reason = error
            except (requests.RequestException, HTTPError, OSError) as error:
                reason = _PassingError(_cause(error))
            else:
                if end != start:
                    self._led[address] = end
                return part
            self.traffic.add(failures=1)
            self._led.pop(address, None)
            is_refused = reason.is_refusal
            refusals += is_refused
            if refusals == self.patience.refusals or attempt == self.patience.attempts:
                break
            self._wait(reason, attempt)
        raise self._given_up(address, reason, attempt)

    def _wait(self, reason: _PassingError, attempt: int) -> None:
        pause = self.patience.wait_s(attempt) if reason.wait_s is None else reason.wait_s
        if self._stopped.wait(pause):
            raise RemoteError("reading was stopped; it goes on where it was when it is started again. Start it again.")

    @staticmethod
    def _given_up(address: str, reason: _PassingError, attempts: int) -> Exception:
        told = shown(address)
        if isinstance(reason.__cause__, AddressError):
            return reason.__cause__
        if reason.is_refusal:
            return CredentialsError(
                f"{told}: the server refuses access ({reason}), {attempts} times; a login or signature that it takes "
                "is needed. Check the provider's credentials, and that this account may read this collection."
            )
        return RemoteError(
            f"{told}: could not be read ({reason}), {attempts} times; a server that answers is needed. Try again "
            "later: what is whole is kept."
        )

    def _ask(self, address: str, access: Access, begin: int, size: int) -> tuple[Part, str]:
        """One attempt, and the address that answered it; redirects are followed where they may be."""
        for _ in range(MOST_REDIRECTS):
            if self._stopped.is_set():
                self._wait(_PassingError("stopped", 0.0), 1)
            headers = {"Range": f"bytes={begin}-{begin + size - 1}", "Accept-Encoding": "identity"}
            with self._session.get(
                address,
                headers=headers | dict(access.headers(address)),
                stream=True,
                allow_redirects=False,
                timeout=(self.patience.connect_s, self.patience.read_s),
            ) as answer:
                self.traffic.add(requests=1)
                if answer.status_code not in REDIRECTS:
                    return self._taken(answer, begin, size), address
                address = urljoin(address, answer.headers.get("Location", ""))
            try:
                access.check(address)
            except AddressError as error:  # once may be a fault of a server between; it is never followed
                raise _PassingError(f"it leads to {shown(address)}, which is not followed: {error}") from error
        raise _PassingError(f"more than {MOST_REDIRECTS} redirects")

    def _taken(self, answer: requests.Response, begin: int, size: int) -> Part:
        """The bytes of an answer, if they are what was asked for."""
        try:
            self._check(answer)
            whole = _checked_size(answer, begin, size)
            body = self._body(answer, min(begin + size, whole) - begin)
        except BaseException:
            answer.close()  # what is left of the body must not be taken for the next answer
            raise
        version = answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", "")
        return Part(body, whole, version)

    def _check(self, answer: requests.Response) -> None:
        """Refuse an answer that brings no bytes of a file."""
        status = answer.status_code
        if status in GONE:
            raise RemoteError(
                f"{shown(answer.url)}: the server has no such file (status {status}); one that is there is needed. "
                "The catalogue may be older than the archive: search again."
            )
        reason = None
        if status in REFUSED:
            reason = _PassingError(f"status {status}", is_refusal=True)
        elif status in PASSING:
            reason = _PassingError(f"status {status}", self._asked_wait(answer))
        elif answer.headers.get("Content-Type", "").lower().startswith(PAGES):
            reason = _PassingError(f"{answer.headers['Content-Type'].split(';')[0]} instead of a raster")
        if reason is not None:
            raise reason

    def _asked_wait(self, answer: requests.Response) -> float | None:
        """Seconds that a Retry-After header asks for, None without one."""
        wait_s = _seconds(answer.headers.get("Retry-After", ""))
        if wait_s is not None and wait_s > self.patience.longest_asked_s:
            longest_s = self.patience.longest_asked_s
            raise RemoteError(
                f"{shown(answer.url)}: the server asks to wait {wait_s:.0f} s; at most {longest_s:.0f} s are waited. "
                "Try again later, with fewer --jobs: what is whole is kept."
            )
        return wait_s

    def _body(self, answer: requests.Response, size: int) -> bytes:
        """A body of exactly `size` bytes."""
        chunks, length = [], 0
        try:
            while length <= size and (chunk := answer.raw.read(min(1 << 16, size + 1 - length))):
                chunks.append(chunk)
                length += len(chunk)
                if self._stopped.is_set():
                    raise _PassingError("stopped")
        finally:
            self.traffic.add(bytes_read=length)
        if length != size:
            raise _PassingError(f"{length} bytes{' and more' if length > size else ''} instead of {size}")
        return b"".join(chunks)


def _checked_size(answer: requests.Response, begin: int, size: int) -> int:
    """Of the whole file, once it is plain that the answer is the range that was asked for."""
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code != requests.codes.partial_content or found is None:
        raise _PassingError(f"status {answer.status_code} with something else than a range")
    first, last, whole = (int(number) for number in found.groups())
    if (first, last) != (begin, min(begin + size, whole) - 1):
        raise _PassingError(f"bytes {first} to {last} of {whole} instead of {size} from {begin}")
    return whole


def _without_queries(record: logging.LogRecord) -> bool:
    """Take the queries out of what urllib3 logs: signatures stand there."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            argument.partition("?")[0] if isinstance(argument, str) else argument for argument in record.args
        )
    return True


def _cause(error: BaseException) -> str:
    """What went wrong, by its kind alone: messages of connections hold addresses, with their signatures."""
    inner = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    name = type(reason if isinstance(reason, BaseException) else inner).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _seconds(text: str) -> float | None:
    """Of a Retry-After header: seconds, or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
