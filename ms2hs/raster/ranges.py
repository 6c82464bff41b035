"""Bytes of files on servers, asked for by range, and checked.

GDAL's own reading over HTTP does not notice everything that goes wrong: a body that is cut, a page to log in instead of
a file, a range other than the one that was asked for. So every byte that GDAL gets comes through here.
"""

import re
from dataclasses import dataclass

import requests

from ms2hs.raster.web import Access, PassingError, Request, WebClient

# Kinds of content that are no raster: what a server says instead of one.
PAGES = ("text/", "application/xml", "application/json", "application/xhtml")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Part:
    """Bytes of a file."""

    content: bytes
    size: int
    """Of the whole file."""
    version: str
    """The server's name of this state of it; empty where it gives none."""


def read_range(client: WebClient, address: str, access: Access, begin: int, size: int) -> Part:
    """`size` bytes of a file from `begin` on, fewer only where it ends.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `WebClient.ask`.
    """
    if begin < 0 or size < 1:
        raise ValueError(f"{size} bytes from {begin}: from 1 and from 0 on are allowed")

    def take(answer: requests.Response) -> Part:
        whole = _checked_size(answer, begin, size)
        wanted = min(begin + size, whole) - begin
        body = client.body(answer, wanted)
        if len(body) != wanted:
            more = " and more" if len(body) > wanted else ""
            raise PassingError(f"{len(body)} bytes{more} instead of {wanted}")
        return Part(body, whole, answer.headers.get("ETag", "") or answer.headers.get("Last-Modified", ""))

    headers = {"Range": f"bytes={begin}-{begin + size - 1}", "Accept-Encoding": "identity"}
    return client.ask(Request(address, access, headers), take)


def _checked_size(answer: requests.Response, begin: int, size: int) -> int:
    """Of the whole file, once it is plain that the answer is the range that was asked for."""
    kind = answer.headers.get("Content-Type", "").lower()
    if kind.startswith(PAGES):
        raise PassingError(f"{kind.split(';')[0]} instead of a raster")
    found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status_code != requests.codes.partial_content or found is None:
        raise PassingError(f"status {answer.status_code} with something else than a range")
    first, last, whole = (int(number) for number in found.groups())
    if (first, last) != (begin, min(begin + size, whole) - 1):
        raise PassingError(f"bytes {first} to {last} of {whole} instead of {size} from {begin}")
    return whole
