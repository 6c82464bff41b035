"""The HTTP client of the package: retries (`RetryPolicy`), redirects, address checks, and a count of bytes.

All requests go through `WebClient.send`: searches, items, and byte ranges of rasters. A request is repeated after
network errors, after the status codes in RETRY_STATUS, and after an answer that its reader rejects by `TransientError`.
After a refusal (REFUSED_STATUS) the address is signed again. Every redirect is checked like the first address.
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
from ms2hs.remote.url_policy import Access, shown

RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
REFUSED_STATUS = {401, 403}
MISSING_STATUS = {404, 410}
REDIRECT_STATUS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 6
# Attempts for a search page or an item, while a user waits.
DOCUMENT_ATTEMPTS = 6
MAX_DOCUMENT_BYTES = 20_000_000
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
    read_s: float = 60.0
    """Timeout for the next bytes of an answer."""
    max_retry_after_s: float = 300.0
    """Longest Retry-After that is obeyed; a longer wait is an error."""

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

    def __init__(self, reason: str, wait_s: float | None = None, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.is_refusal = is_refusal


class _NoAuth(AuthBase):
    """Adds no credentials; by default, requests sends passwords of ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request, unchanged."""
        return request


class WebClient:
    """Sends requests, and repeats failed ones. Thread-safe; closing it ends the requests of all threads."""

    def __init__(self, retries: RetryPolicy | None = None, connections: int = 4) -> None:
        self.retries = retries or RetryPolicy()
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # The final address of earlier requests: a login takes three redirects, which every range would repeat.
        self._final_address: dict[str, str] = {}
        self._session = requests.Session()
        self._session.auth = _NoAuth()
        adapter = HTTPAdapter(pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

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
        address, access = request.address, request.access
        access.check(address)
        refusals, is_refused, attempts = 0, False, request.attempts or self.retries.attempts
        for attempt in range(1, attempts + 1):
            try:
                start = self._final_address.get(address) or access.sign(address, fresh=is_refused)
                result, final = self._follow_redirects(start, request, read)
            except TransientError as error:
                reason = error
            except (requests.RequestException, HTTPError, OSError) as error:
                reason = TransientError(_kind_of(error))
            else:
                if final != start:
                    self._final_address[address] = final
                return result
            self._final_address.pop(address, None)
            is_refused = reason.is_refusal
            refusals += is_refused
            if refusals == self.retries.refusals or attempt == attempts:
                break
            self._stopped.wait(self.retries.wait_s(attempt) if reason.wait_s is None else reason.wait_s)
            self._check_running()
        raise _final_error(address, reason, attempt)

    def read_body(self, response: requests.Response, limit: int) -> bytes:
        """The body of an answer; of a body longer than `limit` bytes, the first `limit + 1` bytes."""
        chunks, length = [], 0
        try:
            while length <= limit and (
                chunk := response.raw.read(min(1 << 16, limit + 1 - length), decode_content=True)
            ):
                chunks.append(chunk)
                length += len(chunk)
                self._check_running()
        finally:
            with self._lock:
                self.bytes_read += length
        return b"".join(chunks)

    def _follow_redirects(
        self, address: str, request: HttpRequest, read: Callable[[requests.Response], T]
    ) -> tuple[T, str]:
        """Send one attempt; returns `read(answer)` and the final address."""
        for _ in range(MAX_REDIRECTS):
            self._check_running()
            with self._session.request(
                "GET" if request.document is None else "POST",
                address,
                json=request.document,
                headers={**request.headers, **request.access.headers(address)},
                stream=True,
                allow_redirects=False,
                timeout=(self.retries.connect_s, self.retries.read_s),
            ) as response:
                if response.status_code not in REDIRECT_STATUS:
                    return self._read(response, read), address
                address = urljoin(address, response.headers.get("Location", ""))
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
            raise TransientError(f"status {status}", self._retry_after(response))
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

    def _retry_after(self, response: requests.Response) -> float | None:
        """Seconds of the Retry-After header; None without one."""
        wait_s = parse_retry_after(response.headers.get("Retry-After", ""))
        if wait_s is not None and wait_s > self.retries.max_retry_after_s:
            raise RemoteError(
                f"{shown(response.url)}: the server asks to wait {wait_s:.0f} s; at most "
                f"{self.retries.max_retry_after_s:.0f} s are allowed. Try again later, with fewer --jobs; complete "
                "scenes are kept."
            )
        return wait_s

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


def _kind_of(error: BaseException) -> str:
    """The class name of the innermost error in words: messages of connection errors hold signed addresses."""
    inner = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    reason = getattr(inner, "reason", None)
    name = type(reason if isinstance(reason, BaseException) else inner).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def parse_retry_after(text: str) -> float | None:
    """Seconds to wait of a Retry-After header with seconds or a date (RFC 9110, 10.2.3); None for any other text."""
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
