"""Requests of servers: tried again where that may help, led nowhere that is not checked, and counted.

Everything that comes over a network comes through here: searches, items, and the byte ranges of rasters.
"""

import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from ms2hs.errors import AddressError, CredentialsError, RemoteError
from ms2hs.remote.url_policy import check_address, shown

REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 6
# Answers that may be another one soon. 408 and 425 ask to try again by their names.
PASSING = {408, 425, 429, 500, 502, 503, 504}
REFUSED = {401, 403}
GONE = {404, 410}
# Attempts at a search or an item, for which a person waits.
BRIEF = 6
# No item and no page of a search is longer, in bytes.
LONGEST = 20_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is given, and how often it is asked again."""

    attempts: int = 8
    """For one request, before it counts as failed."""
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
    """What stands between an address and what is there."""

    check: Callable[[str], None]
    """Raises AddressError for an address that must not be followed."""
    sign: Callable[..., str] = _as_it_is
    """`sign(address, fresh=...)`: the address with what lets one in; a new one where `fresh`."""
    headers: Callable[[str], Mapping[str, str]] = lambda _address: {}
    """What to send to the host of this address only, such as a token."""

    @classmethod
    def near(cls, base: str) -> "Access":
        """To the public, and to the host of `base` whatever it is; with no login."""
        return cls(lambda address: check_address(address, base))


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    address: str
    access: Access
    headers: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None
    """Sent as JSON by POST; None: nothing, by GET."""
    attempts: int | None = None
    """Fewer than patience has."""


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


class PassingError(Exception):
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


class WebClient:
    """Asks servers. For several threads; closing it ends those that wait."""

    def __init__(self, patience: RetryPolicy | None = None, connections: int = 4) -> None:
        self.patience = patience or RetryPolicy()
        self.traffic = Traffic()
        self._stopped = threading.Event()
        # Where an address led to the last time: a login takes three redirects, and every range would take them again.
        self._led: dict[str, str] = {}
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

    def ask(self, wanted: Request, take: Callable[[requests.Response], T]) -> T:
        """What `take` makes of the answer, which raises PassingError where it is not what was asked for.

        Raises
        ------
        RemoteError : the server did not give it; the message has the address without its query.
        AddressError : the address, or where it leads to, must not be followed.
        CredentialsError : the server refuses, with new signatures too.
        """
        address, access = wanted.address, wanted.access
        access.check(address)
        refusals, is_refused, attempts = 0, False, wanted.attempts or self.patience.attempts
        for attempt in range(1, attempts + 1):
            try:
                start = self._led.get(address) or access.sign(address, fresh=is_refused)
                taken, end = self._follow(start, wanted, take)
            except PassingError as error:
                reason = error
            except (requests.RequestException, HTTPError, OSError) as error:
                reason = PassingError(_cause(error))
            else:
                if end != start:
                    self._led[address] = end
                return taken
            self.traffic.add(failures=1)
            self._led.pop(address, None)
            is_refused = reason.is_refusal
            refusals += is_refused
            if refusals == self.patience.refusals or attempt == attempts:
                break
            self._wait(reason, attempt)
        raise _given_up(address, reason, attempt)

    def body(self, answer: requests.Response, most: int) -> bytes:
        """What an answer brings, up to so many bytes and one more."""
        chunks, length = [], 0
        try:
            while length <= most and (chunk := answer.raw.read(min(1 << 16, most + 1 - length), decode_content=True)):
                chunks.append(chunk)
                length += len(chunk)
                self._check_running()
        finally:
            self.traffic.add(bytes_read=length)
        return b"".join(chunks)

    def _follow(self, address: str, wanted: Request, take: Callable[[requests.Response], T]) -> tuple[T, str]:
        """One attempt: what was taken, and the address that gave it; redirects are followed where they may be."""
        for _ in range(MOST_REDIRECTS):
            self._check_running()
            with self._session.request(
                "GET" if wanted.document is None else "POST",
                address,
                json=wanted.document,
                headers={**wanted.headers, **wanted.access.headers(address)},
                stream=True,
                allow_redirects=False,
                timeout=(self.patience.connect_s, self.patience.read_s),
            ) as answer:
                self.traffic.add(requests=1)
                if answer.status_code not in REDIRECTS:
                    return self._taken(answer, take), address
                address = urljoin(address, answer.headers.get("Location", ""))
            try:
                wanted.access.check(address)
            except AddressError as error:  # once may be a fault of a server between; it is never followed
                raise PassingError(f"it leads to {shown(address)}, which is not followed: {error}") from error
        raise PassingError(f"more than {MOST_REDIRECTS} redirects")

    def _taken(self, answer: requests.Response, take: Callable[[requests.Response], T]) -> T:
        try:
            self._check_status(answer)
            return take(answer)
        except BaseException:
            answer.close()  # what is left of the body must not be taken for the next answer
            raise

    def _check_status(self, answer: requests.Response) -> None:
        """Refuse an answer that is none."""
        status = answer.status_code
        if status in REFUSED:
            raise PassingError(f"status {status}", is_refusal=True)
        if status in PASSING:
            raise PassingError(f"status {status}", self._asked_wait(answer))
        if status in GONE:
            raise RemoteError(
                f"{shown(answer.url)}: the server has no such file (status {status}); one that is there is needed. "
                "The catalogue may be older than the archive: search again."
            )
        if not answer.ok:
            raise RemoteError(
                f"{shown(answer.url)}: the server does not do what it is asked (status {status}); one that does is "
                "needed. Check the address."
            )

    def _asked_wait(self, answer: requests.Response) -> float | None:
        """Seconds that a Retry-After header asks for, None without one."""
        wait_s = seconds_of(answer.headers.get("Retry-After", ""))
        if wait_s is not None and wait_s > self.patience.longest_asked_s:
            longest_s = self.patience.longest_asked_s
            raise RemoteError(
                f"{shown(answer.url)}: the server asks to wait {wait_s:.0f} s; at most {longest_s:.0f} s are waited. "
                "Try again later, with fewer --jobs: what is whole is kept."
            )
        return wait_s

    def _wait(self, reason: PassingError, attempt: int) -> None:
        self._stopped.wait(self.patience.wait_s(attempt) if reason.wait_s is None else reason.wait_s)
        self._check_running()

    def _check_running(self) -> None:
        if self._stopped.is_set():
            raise RemoteError("reading was stopped; it goes on where it was when it is started again. Start it again.")


USUAL = WebClient()

"""For whoever has none of their own."""


def text_of(wanted: Request, client: WebClient | None = None) -> bytes:
    """A short document, whole; RemoteError and the like as of `WebClient.ask`."""
    client = client or USUAL
    body = client.ask(wanted, lambda answer: client.body(answer, LONGEST))
    if len(body) > LONGEST:
        raise RemoteError(
            f"{shown(wanted.address)}: is longer than {LONGEST // 10**6} MB; an item is shorter. Check it."
        )
    return body


def _given_up(address: str, reason: PassingError, attempts: int) -> Exception:
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


def _cause(error: BaseException) -> str:
    """What went wrong, by its kind alone: messages of connections hold addresses, with their signatures."""
    inner = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    name = type(reason if isinstance(reason, BaseException) else inner).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def seconds_of(text: str) -> float | None:
    """Of a Retry-After header: seconds, or a date (RFC 9110, 10.2.3)."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
