"""Servers of scenes: where they are asked, which collections they have, and how one gets in.

To add one, add an entry to `PROVIDERS`.

How one gets at the files of items: which addresses are followed, who signs them, what is sent along.
"""

import base64
import netrc
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ms2hs.errors import CredentialsError, QueryError, RemoteError, UnknownName
from ms2hs.remote.client import Access
from ms2hs.remote.s3_signing import Keys, Store, presigned, public
from ms2hs.remote.url_policy import check_address, shown

DEFAULT = "earth-search"


def _as_it_is(address: str, *, fresh: bool = False) -> str:  # noqa: ARG001 - as every `sign`
    return address


def _no_headers(_address: str) -> Mapping[str, str]:
    return {}


def _nothing_needed() -> None:
    return


@dataclass(frozen=True)
class Provider:
    """One server of a catalogue, and the archive behind it."""

    name: str
    title: str
    url: str
    """Of the STAC API."""
    rules: Mapping[str, str]
    """Its collections, the default first, and by which of `radiometry.ITEM_RULES` stored numbers become reflectance."""
    hosts: tuple[str, ...] = ()
    """Of its API and its files; items that name one are its."""
    sign: Callable[..., str] = _as_it_is
    """`sign(address, fresh=False)`: the address with what lets one in, just before it is opened; a new one if fresh."""
    headers: Callable[[str], Mapping[str, str]] = _no_headers
    """What to send to the host of an address, and to no other."""
    check_credentials: Callable[[], None] = _nothing_needed
    """Raises CredentialsError where files cannot be read without a login that is not there. No request is made."""
    store: Store | None = None
    """Of its buckets, which `hosts` names too."""

    def collection(self, name: str | None = None) -> str:
        """A collection of this name, or the default one; QueryError lists those that are known."""
        if name is None and not self.rules:
            raise QueryError(
                f"--stac {shown(self.url)}: no collection was named; one is needed. Give --collection NAME."
            )
        if name is not None and self.rules and name not in self.rules:
            known = ", ".join(self.rules)
            raise QueryError(
                f"{self.name} is not known to have the collection {name!r}; known: {known}. Give one of these, or ask "
                f"the server itself with --stac {self.url} --collection {name}."
            )
        return name or next(iter(self.rules))


# Planetary Computer: files in Azure blob storage, behind signatures that anyone may ask for and that last an hour.
BLOBS = ".blob.core.windows.net"


def _sign_blob(address: str, *, fresh: bool = False) -> str:
    if not (urlsplit(address).hostname or "").endswith(BLOBS):
        return address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic's, about how this package is written
        import planetary_computer  # noqa: PLC0415  a second to import, and only its files need it
        import requests  # noqa: PLC0415

        if fresh:
            planetary_computer.sas.TOKEN_CACHE.clear()
        try:
            return str(planetary_computer.sign_url(address))
        except (requests.RequestException, ValueError, KeyError) as error:
            # Its message may hold a key of the environment: the kind of error is enough.
            raise RemoteError(
                f"{shown(address)}: Planetary Computer gave no signature for it ({type(error).__name__}); one is "
                "needed to read it. Try again later."
            ) from None


# NASA Earthdata: a token that is sent to NASA's hosts only, or a user and a password that only its login page gets.
EARTHDATA_LOGIN = "urs.earthdata.nasa.gov"

EARTHDATA_HOSTS = (".earthdata.nasa.gov", ".earthdatacloud.nasa.gov")


def _earthdata_headers(address: str) -> Mapping[str, str]:
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https" or not host.endswith(EARTHDATA_HOSTS):
        return {}
    if token := os.environ.get("EARTHDATA_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    login = _earthdata_login()
    if host == EARTHDATA_LOGIN and login:
        return {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()}
    return {}


def _earthdata_login() -> tuple[str, str] | None:
    """User and password from the environment, else from the netrc file."""
    user, password = os.environ.get("EARTHDATA_USERNAME"), os.environ.get("EARTHDATA_PASSWORD")
    if user and password:
        return user, password
    for path in _netrc_files():
        try:
            found = netrc.netrc(path).hosts.get(EARTHDATA_LOGIN)
        except (OSError, netrc.NetrcParseError):
            continue
        if found:
            return found[0], found[2] or ""
    return None


def _netrc_files() -> list[Path]:
    own = os.environ.get("NETRC")
    return [Path(own)] if own else [Path.home() / name for name in (".netrc", "_netrc")]


def _check_earthdata() -> None:
    if not os.environ.get("EARTHDATA_TOKEN") and _earthdata_login() is None:
        raise CredentialsError(
            "lpdaac: there is no Earthdata login; EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, in "
            f"the environment, or a line `machine {EARTHDATA_LOGIN} login … password …` in ~/.netrc are taken. "
            f"Register at https://{EARTHDATA_LOGIN} (free), or use --provider planetary-computer --collection "
            "hls2-s30, which needs none."
        )


# Copernicus Data Space: an S3 server of its own, with keys of its own.
EODATA = Store("eodata.dataspace.copernicus.eu")

S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def _check_copernicus() -> None:
    missing = [name for name in S3_KEYS if not os.environ.get(name)]
    if missing:
        raise CredentialsError(
            f"copernicus: {' and '.join(missing)} not set in the environment; the two S3 keys of a Copernicus Data "
            "Space account are needed. Make them at https://eodata-s3keysmanager.dataspace.copernicus.eu (free), or "
            "use --provider earth-search, which needs none."
        )


def owner_of(bucket: str) -> Provider | None:
    """The provider whose bucket of this name it is; None of any other."""
    return next((provider for provider in PROVIDERS.values() if provider.store and bucket in provider.hosts), None)


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "earth-search",
            "Element84 Earth Search v1: Sentinel-2 L2A as COGs on AWS, no login",
            "https://earth-search.aws.element84.com/v1",
            {"sentinel-2-c1-l2a": "declared", "sentinel-2-l2a": "flagged"},
            (
                "earth-search.aws.element84.com",
                "sentinel-cogs.s3.us-west-2.amazonaws.com",
                "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com",
            ),
        ),
        Provider(
            "planetary-computer",
            "Microsoft Planetary Computer: Sentinel-2 L2A and HLS as COGs, no login",
            "https://planetarycomputer.microsoft.com/api/stac/v1",
            {
                "sentinel-2-l2a": "by_baseline",
                "hls2-s30": "harmonized",
                "hls2-l30": "harmonized",
            },
            ("planetarycomputer.microsoft.com", "sentinel2l2a01.blob.core.windows.net"),
            sign=_sign_blob,
        ),
        Provider(
            "lpdaac",
            "NASA LP DAAC through CMR-STAC: HLS v2.0 as COGs, with an Earthdata login",
            "https://cmr.earthdata.nasa.gov/stac/LPCLOUD",
            {"HLSS30_2.0": "harmonized", "HLSL30_2.0": "harmonized"},
            ("cmr.earthdata.nasa.gov", "data.lpdaac.earthdatacloud.nasa.gov", "lpdaac.earthdata.nasa.gov"),
            headers=_earthdata_headers,
            check_credentials=_check_earthdata,
        ),
        Provider(
            "copernicus",
            "Copernicus Data Space: Sentinel-2 L2A as ESA delivers it (JPEG 2000), with S3 keys",
            "https://stac.dataspace.copernicus.eu/v1",
            {"sentinel-2-l2a": "by_baseline"},
            ("stac.dataspace.copernicus.eu", "eodata"),
            check_credentials=_check_copernicus,
            store=EODATA,
        ),
    )
}


def provider_named(name: str | None, url: str | None = None) -> Provider:
    """The provider of this name, or one of no special kind at `url`; the default where neither is given.

    Raises
    ------
    UnknownName : no such provider. QueryError : both are given, or `url` is no address.
    """
    if name and url:
        raise QueryError(f"both --provider {name} and --stac {shown(url)} were given; one is allowed. Leave one out.")
    if url:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise QueryError(f"--stac {shown(url)} is no address; https://… is needed. Give a STAC API's landing page.")
        return Provider("custom", f"the STAC API at {shown(url)}", url.rstrip("/"), {})
    if name and name not in PROVIDERS:
        raise UnknownName.of("provider", name, list(PROVIDERS), "Give one of these, or another's API with --stac URL.")
    return PROVIDERS[name or DEFAULT]


def provider_of(item: Mapping[str, Any]) -> Provider | None:
    """The provider that an item comes from, by the hosts in its links and assets; None where it is no known one."""
    links, assets = item.get("links") or [], item.get("assets") or {}
    addresses = [*(link.get("href", "") for link in links), *(asset.get("href", "") for asset in assets.values())]
    hosts = {urlsplit(str(address)).hostname for address in addresses}
    return next((provider for provider in PROVIDERS.values() if hosts & set(provider.hosts)), None)


def access_to(base: str | None, archives: Collection[Provider] | None = None) -> Access:
    """To the files of an item.

    Parameters
    ----------
    base : where the item came from, as `check_address` takes it.
    archives : of which the files may be; None: of any. Each signs and sends only where its own files are.
    """
    known = PROVIDERS.values() if archives is None else archives

    def sign(address: str, *, fresh: bool = False) -> str:
        if address.startswith("s3://"):
            return _in_store(address)
        for provider in known:
            address = provider.sign(address, fresh=fresh)
        return address

    def headers(address: str) -> Mapping[str, str]:
        return {key: value for provider in known for key, value in provider.headers(address).items()}

    return Access(lambda address: check_address(address, base), sign, headers)


def _in_store(address: str) -> str:
    """The address on the web of an object; a bucket that is no provider's is taken as Amazon's, open to all."""
    owner = owner_of(urlsplit(address).netloc)
    if owner is not None:
        owner.check_credentials()
    store = Store.of_environment(owner.store if owner else None)
    return presigned(address, store, Keys.of_environment()) if store else public(address)
