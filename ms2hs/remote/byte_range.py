"""One byte range of a remote file, with every answer checked."""

import re
from dataclasses import dataclass

import requests

from ms2hs.remote.client import HttpRequest, TransientError, WebClient
from ms2hs.remote.url_policy import Access

# Content types of pages that servers send instead of a raster. Some servers call a raster `text/plain`.
PAGE_TYPES = ("text/html", "text/xml", "application/xml", "application/json", "application/xhtml")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class ByteRange:
    """The answer to a range request."""

    content: bytes
    size: int
    """Size of the whole file."""
    version: str
    """ETag or Last-Modified; empty if the server sends neither."""


def read_range(client: WebClient, address: str, access: Access, begin: int, size: int) -> ByteRange:
    """`size` bytes of a file from offset `begin`; fewer only at the end of the file.

    Raises
    ------
    RemoteError, AddressError, CredentialsError : as `WebClient.send`.
    """
    if begin < 0 or size < 1:
        raise ValueError(f"{size} bytes from {begin}: at least 1 byte, from 0, is allowed")

    def read(response: requests.Response) -> ByteRange:
        file_size = _check_range(response, begin, size)
        expected = min(begin + size, file_size) - begin
        body = client.read_body(response, expected)
        if len(body) != expected:
            more = " and more" if len(body) > expected else ""
            raise TransientError(f"{len(body)} bytes{more} instead of {expected}")
        return ByteRange(body, file_size, response.headers.get("ETag", "") or response.headers.get("Last-Modified", ""))

    headers = {"Range": f"bytes={begin}-{begin + size - 1}", "Accept-Encoding": "identity"}
    return client.send(HttpRequest(address, access, headers), read)


def _check_range(response: requests.Response, begin: int, size: int) -> int:
    """Size of the whole file; TransientError unless the answer is the requested range."""
    content_type = response.headers.get("Content-Type", "").lower()
    if content_type.startswith(PAGE_TYPES):
        raise TransientError(f"{content_type.split(';')[0]} instead of a raster")
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != requests.codes.partial_content or match is None:
        raise TransientError(f"status {response.status_code} without the requested range")
    first, last, file_size = (int(number) for number in match.groups())
    if (first, last) != (begin, min(begin + size, file_size) - 1):
        raise TransientError(f"bytes {first} to {last} of {file_size} instead of {size} from {begin}")
    return file_size
