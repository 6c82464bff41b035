"""STAC providers: API, collections, credentials, and the access to the files of their items.

To add a provider, add one entry to `PROVIDERS`. The help texts of the command line are made from this table. A provider
whose files need credentials sets `sign` (signed addresses), `headers` (tokens) or `store` (S3 keys).
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
from ms2hs.remote.s3_signing import Keys, Store, presigned, public
from ms2hs.remote.url_policy import Access, check_address, shown, unsigned

DEFAULT_PROVIDER = "earth-search"


@dataclass(frozen=True)
class Provider:
    """A STAC API and its archive."""

    name: str
    title: str
    url: str
    """Landing page of the STAC API."""
    rules: Mapping[str, str]
    """Collections, the default first, each with its rule for stored numbers: a name in `radiometry.ITEM_RULES`."""
    hosts: tuple[str, ...] = ()
    """Hosts and buckets of the API and the files, by which the provider of an item is recognised."""
    sign: Callable[..., str] = unsigned
    """`sign(address, fresh=False)`: the signed address, made just before opening; `fresh` requests a new signature."""
    headers: Callable[[str], Mapping[str, str]] = lambda _address: {}
    """Headers for the host of an address only."""
    check_credentials: Callable[[], None] = lambda: None
    """Raises CredentialsError if a needed login is missing. Sends no request."""
    store: Store | None = None
    """S3 store of the buckets in `hosts`."""

    def collection(self, name: str | None = None) -> str:
        """The collection of this name, or the default; QueryError lists the known collections."""
        if not name and not self.rules:
            raise QueryError(f"--stac {shown(self.url)}: no collection was given; a name is needed. Use --collection.")
        if name is not None and self.rules and name not in self.rules:
            raise QueryError(
                f"{self.name}: unknown collection {name!r}; known: {', '.join(self.rules)}. Use one of these, or any "
                f"collection of the server with --stac {self.url} --collection {name}."
            )
        return name or next(iter(self.rules))


# Planetary Computer: files in Azure blob storage, with signatures that are free for all and valid for an hour.
BLOB_HOSTS = ".blob.core.windows.net"


def _sign_blob(address: str, *, fresh: bool = False) -> str:
    if not (urlsplit(address).hostname or "").endswith(BLOB_HOSTS):
        return address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, about code of planetary_computer
        import planetary_computer  # noqa: PLC0415  takes a second to import
        import requests  # noqa: PLC0415

        if fresh:
            planetary_computer.sas.TOKEN_CACHE.clear()
        try:
            return str(planetary_computer.sign_url(address))
        except (requests.RequestException, ValueError, KeyError) as error:
            # The message of the library may contain a key.
            raise RemoteError(
                f"{shown(address)}: Planetary Computer sent no signature ({type(error).__name__}); one is needed to "
                "read the file. Try again later."
            ) from None


# NASA Earthdata: a token, sent to NASA's hosts only, or a user and a password, sent to the login host only.
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
    """User and password from the environment, else from the netrc file; None if neither has them."""
    user, password = os.environ.get("EARTHDATA_USERNAME"), os.environ.get("EARTHDATA_PASSWORD")
    if user and password:
        return user, password
    file = os.environ.get("NETRC")
    for path in [Path(file)] if file else [Path.home() / name for name in (".netrc", "_netrc")]:
        try:
            entry = netrc.netrc(path).hosts.get(EARTHDATA_LOGIN)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry:
            return entry[0], entry[2] or ""
    return None


def _check_earthdata() -> None:
    if not os.environ.get("EARTHDATA_TOKEN") and _earthdata_login() is None:
        raise CredentialsError(
            "lpdaac: no Earthdata login found; EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, in the "
            f"environment, or a line `machine {EARTHDATA_LOGIN} login … password …` in ~/.netrc is needed. "
            f"Register at https://{EARTHDATA_LOGIN} (free); for HLS, use --provider planetary-computer --collection "
            "hls2-s30, which needs no login."
        )


def _check_copernicus() -> None:
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if missing:
        raise CredentialsError(
            f"copernicus: {' and '.join(missing)} not set in the environment; the two S3 keys of a Copernicus Data "
            "Space account are needed. Create them at https://eodata-s3keysmanager.dataspace.copernicus.eu (free), or "
            "use --provider earth-search, which needs no login."
        )


def owner_of(bucket: str) -> Provider | None:
    """The provider that owns a bucket; None if unknown."""
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
            {"sentinel-2-l2a": "by_baseline", "hls2-s30": "harmonized", "hls2-l30": "harmonized"},
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
            store=Store("eodata.dataspace.copernicus.eu"),
        ),
    )
}


def provider_named(name: str | None, url: str | None = None) -> Provider:
    """The provider of this name, or a generic provider for the STAC API at `url`; the default if neither is given.

    Raises
    ------
    UnknownName : unknown provider. QueryError : both are given, or `url` is not a web address.
    """
    if name and url:
        raise QueryError(f"both --provider {name} and --stac {shown(url)} were given; one is allowed. Leave one out.")
    if url:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise QueryError(
                f"--stac {shown(url)} is not a web address; https://… is needed. Give the landing page of a STAC API."
            )
        return Provider("custom", f"the STAC API at {shown(url)}", url.rstrip("/"), {})
    if name and name not in PROVIDERS:
        raise UnknownName.of("provider", name, list(PROVIDERS), "Use one of these, or any STAC API with --stac URL.")
    return PROVIDERS[name or DEFAULT_PROVIDER]


def provider_of(item: Mapping[str, Any]) -> Provider | None:
    """The provider of an item, by the hosts in its links and assets; None if unknown."""
    links, assets = item.get("links") or [], item.get("assets") or {}
    addresses = [*(link.get("href", "") for link in links), *(asset.get("href", "") for asset in assets.values())]
    hosts = {urlsplit(str(address)).hostname for address in addresses}
    return next((provider for provider in PROVIDERS.values() if hosts & set(provider.hosts)), None)


def access_to(base: str | None, providers: Collection[Provider] | None = None) -> Access:
    """Access to the files of an item.

    Parameters
    ----------
    base : address of the item, as `check_address` takes it.
    providers : whose credentials may be used; None: all. Each provider signs addresses of its own files only.
    """
    allowed = PROVIDERS.values() if providers is None else providers

    def sign(address: str, *, fresh: bool = False) -> str:
        if address.startswith("s3://"):
            return _web_address_of_object(address)
        for provider in allowed:
            address = provider.sign(address, fresh=fresh)
        return address

    def headers(address: str) -> Mapping[str, str]:
        return {key: value for provider in allowed for key, value in provider.headers(address).items()}

    return Access(lambda address: check_address(address, base), sign, headers)


def _web_address_of_object(address: str) -> str:
    """The web address of an `s3://` object; a bucket of no provider counts as a public bucket at Amazon."""
    owner = owner_of(urlsplit(address).netloc)
    if owner is not None:
        owner.check_credentials()
    store = Store.from_environment(owner.store if owner else None)
    return presigned(address, store, Keys.from_environment()) if store else public(address)
