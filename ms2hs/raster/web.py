"""Addresses on the web, followed step by step: every place that a server leads to is checked before it is asked.

GDAL follows redirects wherever they lead. So an address is followed here first, with what lets one in, and GDAL opens
where it ends, which needs neither token nor password.
"""

import time
from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.response import BaseHTTPResponse

from ms2hs.errors import CredentialsError, RemoteError
from ms2hs.raster.addresses import check_address, shown, without_secrets
from ms2hs.raster.providers import PROVIDERS

CONNECT_S, READ_S = 20.0, 60.0
# Tries after the first, and what is waited before the second of these, in s; it doubles with each.
ATTEMPTS, FIRST_WAIT_S = 5, 0.5
PASSING = (408, 425, 429, 500, 502, 503, 504)
# The longest Retry-After that is waited for, in s.
LONGEST_WAIT_S = 120.0
MOST_REDIRECTS = 6
REFUSED = {401, 403}
# No item is longer, in bytes.
LONGEST = 20_000_000
# Bytes that tell a format.
START = 16
# How long the end of a redirect is used again, in s: signatures last longer.
FRESH_S = 300.0


class Patience(Retry):
    """Tries again what may pass, and waits as a server asks, but not for hours."""

    @classmethod
    def usual(cls) -> "Patience":
        """For searches, items and headers."""
        return cls(
            total=ATTEMPTS,
            redirect=False,
            allowed_methods=None,
            status_forcelist=PASSING,
            backoff_factor=FIRST_WAIT_S,
            raise_on_status=False,
        )

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds."""
        asked = super().get_retry_after(response)
        return None if asked is None else min(asked, LONGEST_WAIT_S)


def session() -> requests.Session:
    """One that is patient and sends no password of ~/.netrc, which may hold one for any host."""
    made = requests.Session()
    made.auth = lambda request: request
    for scheme in ("https://", "http://"):
        made.mount(scheme, HTTPAdapter(max_retries=Patience.usual()))
    return made


def document(address: str) -> bytes:
    """What is at an address that the user gave, such as an item.

    Raises
    ------
    RemoteError, CredentialsError, AddressError : it cannot be read, or leads where it must not.
    """
    with session() as asking, _answer(asking, address, address, {}) as answer:
        body = answer.raw.read(LONGEST + 1, decode_content=True)
    if len(body) > LONGEST:
        raise RemoteError(f"{shown(address)}: is longer than {LONGEST // 10**6} MB; an item is shorter. Check it.")
    return bytes(body)


def sign(address: str) -> str:
    """The address with the signature that its archive wants, just before it is opened; as it is where none does."""
    for provider in PROVIDERS.values():
        address = provider.sign(address)
    return address


def headers(address: str) -> dict[str, str]:
    """What lets one in at the host of this address, and is sent to no other."""
    return {key: value for provider in PROVIDERS.values() for key, value in provider.headers(address).items()}


class End(NamedTuple):
    """Where an address leads."""

    address: str
    """Signed, after all redirects."""
    start: bytes
    """The first bytes of what is there, which tell what it is."""


_ENDS: dict[str, tuple[float, End]] = {}
_LOCK = Lock()


def end_of(address: str) -> End:
    """Where a checked address of a file leads: signed, after all redirects, each of which is checked.

    Raises
    ------
    RemoteError, CredentialsError, AddressError : it cannot be read, or leads where it must not.
    """
    with _LOCK:
        known = _ENDS.get(address)
    if known and time.monotonic() - known[0] < FRESH_S:
        return known[1]
    asked = {"Range": f"bytes=0-{START - 1}", "Accept-Encoding": "identity"}
    with session() as asking, _answer(asking, sign(address), address, asked) as answer:
        end = End(str(answer.url), bytes(answer.raw.read(START)))
    with _LOCK:
        _ENDS[address] = time.monotonic(), end
    return end


def _answer(asking: requests.Session, address: str, base: str, asked: Mapping[str, str]) -> requests.Response:
    """The answer at the end of all redirects, not read yet; the caller closes it."""
    first = address
    for _ in range(MOST_REDIRECTS):
        try:
            answer = asking.get(
                address,
                headers=dict(asked) | headers(address),
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_S, READ_S),
            )
        except (requests.RequestException, OSError) as error:
            raise RemoteError(
                f"{shown(first)}: cannot be reached ({without_secrets(str(error))[:200]}); a server that answers is "
                "needed. Check the address and the network, and try again."
            ) from None
        if not answer.is_redirect:
            _check_status(answer, first)
            return answer
        answer.close()
        address = urljoin(address, answer.headers["location"])
        check_address(address, base)
    raise RemoteError(
        f"{shown(first)}: leads through more than {MOST_REDIRECTS} redirects; fewer are followed. Check it."
    )


def _check_status(answer: requests.Response, first: str) -> None:
    status = answer.status_code
    if status in {200, 206}:
        return
    answer.close()
    if status in REFUSED:
        host = urlsplit(str(answer.url)).hostname
        raise CredentialsError(
            f"{shown(first)}: {host} refuses access (status {status}); a login that it takes is needed. Check the "
            "credentials of its provider in the environment."
        )
    raise RemoteError(
        f"{shown(first)}: the server answers with status {status}; a file that is there is needed. Try again later, or "
        "search again: the catalogue may be older than the archive."
    )
