"""Connections to the addresses that were checked, with a limit for the whole answer.

Timeouts of sockets bound the silence between two bytes. A server that sends a byte a second would never reach them, in
headers or in content. One thread therefore closes the connections of attempts that are slower than MIN_BYTES_PER_S
after their grace.
"""

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from ms2hs.remote.hosts import addresses_to_try

MIN_BYTES_PER_S = 5_000
"""An answer may take its grace, and the time of its bytes at this rate."""
CHECK_S = 0.25


class Attempt:
    """One attempt to get an answer."""

    def __init__(self, grace_s: float, connect_s: float) -> None:
        self.began, self.grace_s, self.connect_s = time.monotonic(), grace_s, connect_s
        self.received = 0
        self.is_too_slow = False
        self.socket: socket.socket | None = None

    @property
    def spent_s(self) -> float:
        """Seconds of the grace that are used up."""
        return max(0.0, time.monotonic() - self.began - self.received / MIN_BYTES_PER_S)

    def end_if_slow(self) -> None:
        """Close the connection if the grace is used up, also while another thread waits for its bytes."""
        if self.spent_s > self.grace_s and self.socket is not None:
            self.is_too_slow = True
            with suppress(OSError):  # closed by the server
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class _Watch:
    """The attempts in progress, and the thread that ends those that are too slow."""

    def __init__(self) -> None:
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, attempt: Attempt) -> Iterator[None]:
        """Watch an attempt; its connection is that of this thread."""
        with self._lock:
            self._attempts.add(attempt)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()
        _CURRENT.attempt = attempt
        try:
            yield
        finally:
            _CURRENT.attempt = None
            with self._lock:
                self._attempts.discard(attempt)

    def count(self, size: int) -> None:
        """Add received bytes to the attempt of this thread."""
        if attempt := getattr(_CURRENT, "attempt", None):
            attempt.received += size

    def _run(self) -> None:
        while True:
            time.sleep(CHECK_S)
            with self._lock:
                attempts = tuple(self._attempts)
                if not attempts:
                    self._thread = None
                    return
            for attempt in attempts:
                attempt.end_if_slow()


WATCH = _Watch()
_CURRENT = threading.local()


class _Checked:
    """Connects to the checked addresses of its host; certificates and the Host header keep the name."""

    _dns_host: str
    sock: socket.socket
    timeout: float | None

    def _new_conn(self) -> socket.socket:
        name, last, began = self._dns_host, None, time.monotonic()
        for address in addresses_to_try(name):
            if last is not None and time.monotonic() - began > (self.timeout or math.inf):
                break
            self._dns_host = address
            try:
                return super()._new_conn()  # type: ignore[misc,no-any-return]
            except (NewConnectionError, ConnectTimeoutError) as error:
                last = error
            finally:
                self._dns_host = name
        raise last or NewConnectionError(self, f"{name} has no address that may be connected to")  # type: ignore[arg-type]

    def getresponse(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - of several versions of urllib3
        """The answer, watched from its first byte on."""
        if attempt := getattr(_CURRENT, "attempt", None):
            attempt.socket = self.sock
        return super().getresponse(*arguments, **options)  # type: ignore[misc]


class _CheckedHttp(_Checked, HTTPConnection):
    pass


class _CheckedHttps(_Checked, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _CheckedHttp


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedHttps


class CheckedAdapter(HTTPAdapter):
    """Sends requests to the checked addresses of hosts; a proxy resolves names itself."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as requests has it
        """Use the checked connections."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
