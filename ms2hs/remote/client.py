"""The HTTP client of the package: retries (`RetryPolicy`), redirects, address checks, and a count of bytes.

All requests go through `WebClient.send`: searches, items, and byte ranges of rasters. A request is repeated after
network errors, after the status codes in RETRY_STATUS, and after an answer that its reader rejects by `TransientError`.
After a refusal (REFUSED_STATUS) the address is signed again. Every redirect is checked like the first address. The
time for a request is limited as a whole, and a host that cannot be reached is given up: its later requests get one
attempt. Before the first wait for a host, and then every few seconds, a log record says what is waited for.
"""

import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urljoin

import requests
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from ms2hs.errors import AddressError, CredentialsError, RemoteError
from ms2hs.remote.connections import WATCH, Attempt, CheckedAdapter
from ms2hs.remote.url_policy import Access, host_of, shown

LOGGER = logging.getLogger(__name__)
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
REFUSED_STATUS = {401, 403}
MISSING_STATUS = {404, 410}
REDIRECT_STATUS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 6
# Attempts for a search page or an item, while a user waits.
DOCUMENT_ATTEMPTS = 6
MAX_DOCUMENT_BYTES = 20_000_000
# Seconds between two log records about waits for the same host.
LOG_STEP_S = 10.0
# Seconds for a request to a host that was given up before.
GIVEN_UP_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, waits between them, and timeouts of a request."""

    attempts: int = 8
    """Maximum number of attempts for one request."""
    refusals: int = 4
    """Maximum number of attempts that end in a refusal; the address is signed again after each."""
    first_s: float = 0.5
    """Wait after the first failure; doubles with each further failure, minus a random part of up to a half."""
    longest_s: float = 30.0
    """Longest wait."""
    connect_s: float = 20.0
    """Timeout for a connection."""
    read_s: float = 30.0
    """Timeout for the next bytes of an answer."""
    total_s: float = 70.0
    """Longest time for all attempts of one request, besides waits and the time of its bytes at MIN_BYTES_PER_S."""
    unreachable_s: float = 25.0
    """Longest time for attempts to connect to a host that refuses, or does not answer."""
    max_retry_after_s: float = 300.0
    """Longest sum of the waits by Retry-After of one request; a longer wait is an error."""

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after this number of failures."""
        wait_s: float = min(self.longest_s, self.first_s * 2.0 ** (failures - 1))
        return wait_s * (0.5 + 0.5 * random.random())  # noqa: S311 - no secret


@dataclass(frozen=True)
class HttpRequest:
    """One request."""

    address: str
    access: Access
    headers: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None
    """Sent as JSON by POST; None sends a GET."""
    attempts: int | None = None
    """Instead of the attempts of the retry policy."""


class TransientError(Exception):
    """A failed attempt that is worth repeating."""

    def __init__(
        self, reason: str, wait_s: float | None = None, *, is_refusal: bool = False, is_unreachable: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.is_refusal = is_refusal
        self.is_unreachable = is_unreachable


class _NoAuth(AuthBase):
    """Adds no credentials; by default, requests sends passwords of ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request, unchanged."""
        return request


def new_session(connections: int = 1) -> requests.Session:
    """A session that connects to checked addresses only, and adds no credentials."""
    session = requests.Session()
    session.auth = _NoAuth()
    adapter = CheckedAdapter(pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class WebClient:
    """Sends requests, and repeats failed ones. Thread-safe; closing it ends the requests of all threads."""

    def __init__(self, retries: RetryPolicy | None = None, connections: int = 4, *, logs_waits: bool = True) -> None:
        self.retries = retries or RetryPolicy()
        self._logs_waits = logs_waits
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # The final address of earlier requests: a login takes three redirects, which every range would repeat.
        self._final_address: dict[str, str] = {}
        self._given_up: set[str] = set()
        self._logged: dict[str, float] = {}
        self._session = new_session(connections)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all requests and close the connections."""
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """Make every thread that reads or waits fail with RemoteError."""
        self._stopped.set()

    def send(self, request: HttpRequest, read: Callable[[requests.Response], T]) -> T:
        """Send a request and return `read(answer)`; `read` raises TransientError to repeat the request.

        Raises
        ------
        RemoteError : no attempt got a usable answer; the message has the address without its query.
        AddressError : the address, or the target of a redirect, must not be requested.
        CredentialsError : the server refuses access, also with new signatures.
        """
        address, access, host = request.address, request.access, host_of(request.address)
        access.check(address)
        is_given_up = host in self._given_up
        attempts = 1 if is_given_up else request.attempts or self.retries.attempts
        left_s = GIVEN_UP_S if is_given_up else self.retries.total_s
        is_refused, refusals, asked_s = False, 0, 0.0
        unreachable_from: float | None = None
        for number in range(1, attempts + 1):
            silent_s = time.monotonic() - unreachable_from if unreachable_from else 0.0
            attempt = Attempt(left_s, min(self.retries.connect_s, left_s, self.retries.unreachable_s - silent_s))
            try:
                result = self._attempt(request, read, attempt, fresh=is_refused)
            except TransientError as error:
                reason = error
                LOGGER.debug("%s: attempt %d of %d failed: %s", shown(address), number, attempts, reason)
            else:
                self._given_up.discard(host)
                return result
            is_refused = reason.is_refusal
            refusals += is_refused
            left_s -= attempt.spent_s
            wait_s = self.retries.wait_s(number) if reason.wait_s is None else reason.wait_s
            asked_s += reason.wait_s or 0.0
            self._check_retry_after(address, asked_s)
            unreachable_from = (unreachable_from or attempt.began) if reason.is_unreachable else None
            if unreachable_from and time.monotonic() + wait_s - unreachable_from > self.retries.unreachable_s:
                left_s = 0.0
            if left_s <= 0.0:
                self._given_up.add(host)
            if refusals == self.retries.refusals or number == attempts or left_s <= 0.0:
                break
            self._log_wait(host, f"waiting {wait_s:.1f} s for {host} ({reason}), attempt {number} of {attempts}")
            self._stopped.wait(wait_s)
            self._check_running()
        raise _final_error(address, reason, number)

    def _attempt(
        self, request: HttpRequest, read: Callable[[requests.Response], T], attempt: Attempt, *, fresh: bool
    ) -> T:
        """Send a request once; TransientError if the attempt failed."""
        address = request.address
        try:
            with WATCH.watching(attempt):
                if start := self._final_address.get(address, ""):
                    request.access.check(start)
                start = start or request.access.sign(address, fresh=fresh)
                result, final = self._follow_redirects(start, request, read, attempt)
        except TransientError as error:
            reason = error
        except (requests.RequestException, HTTPError, OSError, ValueError, OverflowError) as error:  # of any answer
            reason = _transient(error)
        else:
            if not attempt.is_too_slow:  # the end of a closed connection may look like the end of the answer
                if final != start:
                    self._final_address[address] = final
                return result
        self._final_address.pop(address, None)
        if attempt.is_too_slow:
            reason = TransientError(f"{attempt.received} bytes in {time.monotonic() - attempt.began:.0f} s")
        raise reason

    def _log_wait(self, host: str, text: str) -> None:
        """Log what is waited for, but not for every request to the same host."""
        now = time.monotonic()
        with self._lock:
            if not self._logs_waits or now - self._logged.get(host, -LOG_STEP_S) < LOG_STEP_S:
                return
            self._logged[host] = now
        LOGGER.info(text)

    def _check_retry_after(self, address: str, asked_s: float) -> None:
        if asked_s > self.retries.max_retry_after_s:
            raise RemoteError(
                f"{shown(address)}: the server asks to wait {asked_s:.0f} s in all; at most "
                f"{self.retries.max_retry_after_s:.0f} s are allowed. Try again later, with fewer --jobs; complete "
                "scenes are kept."
            )

    def read_body(self, response: requests.Response, limit: int) -> bytes:
        """The body of an answer; of a body longer than `limit` bytes, the first `limit + 1` bytes."""
        chunks, length = [], 0
        try:
            while length <= limit and (
                chunk := response.raw.read(min(1 << 16, limit + 1 - length), decode_content=True)
            ):
                chunks.append(chunk)
                length += len(chunk)
                WATCH.count(len(chunk))
                self._check_running()
        finally:
            with self._lock:
                self.bytes_read += length
        return b"".join(chunks)

    def _follow_redirects(
        self, address: str, request: HttpRequest, read: Callable[[requests.Response], T], attempt: Attempt
    ) -> tuple[T, str]:
        """Send one attempt; returns `read(answer)` and the final address."""
        method = "GET" if request.document is None else "POST"
        for _ in range(MAX_REDIRECTS):
            self._check_running()
            began, received = time.monotonic(), attempt.received
            with self._session.request(
                method,
                address,
                json=request.document,
                headers={**request.headers, **request.access.headers(address)},
                stream=True,
                allow_redirects=False,
                timeout=(max(0.1, attempt.connect_s), self.retries.read_s),
            ) as response:
                try:
                    if response.status_code not in REDIRECT_STATUS:
                        return self._read(response, read), address
                finally:
                    LOGGER.debug(
                        "%s %s %s: status %d, %s bytes, %.2f s",
                        *(method, shown(address), request.headers.get("Range", "")),
                        *(response.status_code, f"{attempt.received - received:,}", time.monotonic() - began),
                    )
                address = urljoin(address, response.headers.get("Location", ""))
            if request.access.is_login(address):
                raise TransientError(f"redirect to the login at {host_of(address)}", is_refusal=True)
            try:
                request.access.check(address)
            except AddressError as error:  # a server in between may fail once; the redirect is never followed
                raise TransientError(f"redirect to {shown(address)}, which is not followed: {error}") from error
        raise TransientError(f"more than {MAX_REDIRECTS} redirects")

    def _read(self, response: requests.Response, read: Callable[[requests.Response], T]) -> T:
        try:
            self._check_status(response)
            return read(response)
        except BaseException:
            response.close()  # the rest of the body must not be read as the next answer
            raise

    def _check_status(self, response: requests.Response) -> None:
        """Raise an error unless the answer has content."""
        status = response.status_code
        if status in REFUSED_STATUS:
            raise TransientError(f"status {status}", is_refusal=True)
        if status in RETRY_STATUS:
            raise TransientError(f"status {status}", parse_retry_after(response.headers.get("Retry-After", "")))
        if status in MISSING_STATUS:
            raise RemoteError(
                f"{shown(response.url)}: the server has no such file (status {status}); an existing file is needed. "
                "The catalogue may be older than the archive: search again."
            )
        if not response.ok:
            raise RemoteError(
                f"{shown(response.url)}: the server rejects the request (status {status}); status 200 or 206 is "
                "needed. Check the address."
            )

    def _check_running(self) -> None:
        if self._stopped.is_set():
            raise RemoteError("reading was stopped; an interrupted fetch can be resumed. Run the same command again.")


DEFAULT_CLIENT = WebClient()
"""The client of all callers that do not pass their own."""


def read_document(request: HttpRequest, client: WebClient | None = None) -> bytes:
    """A complete document of at most MAX_DOCUMENT_BYTES; RemoteError if longer, and the errors of `WebClient.send`."""
    client = client or DEFAULT_CLIENT
    body = client.send(request, lambda response: client.read_body(response, MAX_DOCUMENT_BYTES))
    if len(body) > MAX_DOCUMENT_BYTES:
        raise RemoteError(
            f"{shown(request.address)}: longer than {MAX_DOCUMENT_BYTES // 10**6} MB; a STAC item or page is shorter. "
            "Check the address."
        )
    return body


def _final_error(address: str, reason: TransientError, attempts: int) -> Exception:
    if isinstance(reason.__cause__, AddressError):
        return reason.__cause__
    if reason.is_refusal:
        return CredentialsError(
            f"{shown(address)}: the server refuses access ({reason}) in {attempts} attempts; a valid login or "
            "signature is needed. Check the provider's credentials, and that this account may read this collection."
        )
    return RemoteError(
        f"{shown(address)}: could not be read ({reason}) in {attempts} attempts; a server that answers is needed. Try "
        "again later; complete scenes are kept."
    )


def _transient(error: BaseException) -> TransientError:
    """The reason of a failed attempt, and whether there was no connection at all.

    The innermost error gives the words: messages of the others hold signed addresses.
    """
    chain = [error]
    while (inner := getattr(chain[-1], "reason", None) or next(iter(chain[-1].args[-1:]), None)) is not None:
        if not isinstance(inner, BaseException):
            break
        chain.append(inner)
    is_unreachable = any(isinstance(one, NewConnectionError | ConnectTimeoutError) for one in chain)
    cause = chain[-1].__cause__
    certificate = next((one for one in chain if isinstance(one, ssl.SSLCertVerificationError)), None)
    words = cause.strerror if isinstance(cause, OSError) else None
    if certificate is not None:
        words = f"invalid certificate: {certificate.verify_message}"
    words = words or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(chain[-1]).__name__)
    return TransientError(words.lower(), is_unreachable=is_unreachable)


def parse_retry_after(text: str) -> float | None:
    """Seconds to wait of a Retry-After header with seconds or a date (RFC 9110, 10.2.3); None for any other text."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
