"""Addresses that a catalogue gives: which of them are followed, and how they are shown.

A catalogue is others' text. An address in it may name a file of this machine, a service behind this machine's firewall
or the one that hands out a cloud machine's keys: such addresses are refused, before they are opened and at every
redirect.
"""

import ipaddress
import logging
import re
import socket
from functools import lru_cache
from urllib.parse import urljoin, urlsplit, urlunsplit

from ms2hs.errors import AddressError

SCHEMES = ("https", "http", "s3")
# Names that resolvers answer with this machine or its neighbours, RFC 6761, RFC 6762, RFC 8375 and cloud platforms.
LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "localdomain")
# What IPv6 uses as a public address (RFC 4291), and how networks of IPv6 alone write those of IPv4 (RFC 6052).
UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
# A bucket's name, Amazon S3 User Guide.
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,62}")
# A host and a port that every parser of addresses reads alike: no user, no backslash, no blank.
HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
# Addresses inside other programs' messages; those with a query are signed.
IN_TEXT = re.compile(r"(?:https?|s3)://[^\s'\"<>]+", re.IGNORECASE)
QUERY = re.compile(r"\?[^\s'\"<>]+")
# Libraries that log the addresses they ask, some as warnings, which Python prints where nobody set up logging.
TALKATIVE = (
    *(f"urllib3.{name}" for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry")),
    *(f"rasterio.{name}" for name in ("_base", "_env", "_err", "_io", "_vsiopener", "_warp", "env", "io")),
    *("rasterio", "pystac_client.stac_api_io"),
)


def shown(href: str) -> str:
    """An address as messages, logs and files may have it: without user, query and fragment, where secrets stand."""
    prefix, rest = _vsi(href)
    parts = urlsplit(rest)
    if not parts.netloc:
        return href
    return prefix + urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """A message of a library, with every address in it as `shown` has it, also where only its end is written."""
    return QUERY.sub("?…", IN_TEXT.sub(lambda found: shown(found[0]), text))


class _Discreet(logging.Filter):
    """Lets every record through, without the queries of addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging` calls it."""
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


for _name in TALKATIVE:
    logging.getLogger(_name).addFilter(_Discreet())


def resolved(href: str, base: str | None) -> str:
    """An address that may be relative to `base`, an address itself or None."""
    return urljoin(base, href) if base and not urlsplit(href).scheme and not href.startswith("/vsi") else href


def check_address(href: str, base: str | None) -> None:
    """Refuse an address that an item gives and that is not to be followed.

    Call it for the address of an asset, and again for wherever a server redirects to.

    Parameters
    ----------
    href : absolute, as it would be requested.
    base : where the item came from, whose host is allowed whatever it is. None: from the user's own disk, so that
        files of this machine are allowed.

    Raises
    ------
    AddressError : a scheme other than https, http and s3; a local file; a host that is private, loopback, link-local
        or otherwise not public.
    """
    parts = urlsplit(href)
    is_file = not parts.scheme or len(parts.scheme) == 1
    if is_file and base is None and not href.startswith("/vsi"):
        return
    if is_file or parts.scheme.lower() not in SCHEMES:
        what = "a local file" if is_file or parts.scheme == "file" else f"of the scheme {parts.scheme!r}"
        raise AddressError(
            f"{shown(href)}: an item gives this address, which is {what}; {', '.join(SCHEMES)} are followed. "
            "If you trust the item, download the file yourself and give it to convert."
        )
    if parts.scheme.lower() == "s3":
        _check_bucket(href, parts.netloc)
        return
    host = host_of(href)
    is_plain = HOST.fullmatch(parts.netloc) is not None
    if is_plain and base is not None and host == host_of(base):
        return
    if not is_plain or not is_public(host):
        raise AddressError(
            f"{shown(href)}: an item gives this address, whose host {host or '(none)'} is private or not plain; public "
            "hosts and the item's own server are followed. If you trust it, name that server (fetch --stac URL), or "
            "download the file yourself and give it to convert."
        )


def _check_bucket(href: str, bucket: str) -> None:
    if not BUCKET.fullmatch(bucket):
        raise AddressError(
            f"{shown(href)}: an item gives this address, whose bucket is none; s3://bucket/key is followed. "
            "Report it to the catalogue."
        )


def host_of(href: str) -> str:
    """In lower case, without user and port; empty where there is none."""
    try:
        return (urlsplit(href).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def is_public(host: str) -> bool:
    """Whether a host lies in the public internet, by its number, or by its name and the numbers that it resolves to.

    A name that does not resolve here is taken as public: who connects to it fails, or goes through a proxy.
    """
    if not host or ("." not in host and ":" not in host and _number(host) is None):
        return False
    if any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES):
        return False
    number = _number(host)
    return all(_is_global(one) for one in ((number,) if number else _numbers(host)))


def _number(host: str) -> str | None:
    """The address that a host is written as, also in the old forms that C libraries take: 127.1, 0x7f000001."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if re.fullmatch(r"[0-9a-fx.]+", host) else None
    except OSError:
        return None


@lru_cache(maxsize=256)
def _numbers(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(sorted({str(address[0]).partition("%")[0] for *_, address in found}))


def _is_global(number: str) -> bool:
    address = ipaddress.ip_address(number)
    if isinstance(address, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
        inner = address.ipv4_mapped or address.sixtofour or translated
        if inner is None:
            return address in UNICAST and address.is_global
        address = inner
    return address.is_global and not address.is_multicast


def web_address(href: str) -> str | None:
    """The https, http or s3 address of a file on a server, also where it is written as GDAL does; None of any other."""
    rest = _vsi(href)[1]
    return rest if urlsplit(rest).scheme.lower() in SCHEMES else None


def _vsi(href: str) -> tuple[str, str]:
    prefix = "/vsicurl/"
    return (prefix, href.removeprefix(prefix)) if href.startswith(prefix) else ("", href)
