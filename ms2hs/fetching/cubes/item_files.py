"""The files of a hyperspectral item, found by name: the names of assets differ between servers."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ms2hs.datasets.hdf5_file import Source
from ms2hs.remote.client import WebClient
from ms2hs.remote.hdf5_handle import open_hdf5
from ms2hs.remote.url_policy import Access, resolved, web_address
from ms2hs.scenes.stac_item import base_of


def file_name_of(asset: Mapping[str, Any]) -> str:
    """The file name in the address of an asset."""
    return PurePosixPath(unquote(urlsplit(str(asset.get("href", ""))).path)).name


def addresses_of(item: Mapping[str, Any], pattern: re.Pattern[str]) -> list[str]:
    """The addresses of the item's files whose names match; the caller checks them.

    Web addresses come before S3 addresses, and services that compute an answer (OPeNDAP) last: they send no ranges.
    """
    base = base_of(dict(item))
    hrefs = [
        resolved(str(asset["href"]), base)
        for asset in item["assets"].values()
        if asset.get("href") and pattern.fullmatch(file_name_of(asset))
    ]

    def rank(href: str) -> tuple[bool, bool]:
        parts = urlsplit(href)
        return "opendap" in parts.netloc, parts.scheme not in {"https", "http"}

    return sorted(dict.fromkeys(hrefs), key=rank)


def kept_path(folder: Path | None, address: str) -> Path | None:
    """Where the bytes of a file are kept in a folder; None: in memory. No reader takes the name for a product's."""
    return folder and folder / f"{file_name_of({'href': address})}.bytes"


def open_source(client: WebClient, address: str, access: Access, folder: Path | None) -> Source:
    """An HDF5 file of an item: a file object that reads byte ranges, or the path of a file on this machine.

    Errors as in `hdf5_handle.open_hdf5`.
    """
    access.check(address)
    remote = web_address(address)
    return Path(address) if remote is None else open_hdf5(client, remote, access, kept_path(folder, remote))
