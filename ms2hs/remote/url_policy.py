"""Which addresses of STAC items are requested, and how addresses are printed without secrets.

An item is untrusted input. Its addresses may name a local file, a service behind the firewall, or the metadata service
that gives the keys of a cloud machine. Such addresses are refused before they are opened, and at every redirect.
`Access` combines the check with the signature and headers that a provider's files need.
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

from ms2hs.errors import AddressError, visible
from ms2hs.remote.hosts import addresses_of, is_public

SCHEMES = ("https", "http", "s3")
# Bucket names: Amazon S3 User Guide.
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,62}")
# A host and port that every URL parser reads alike: no user, no backslash, no space.
HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")
# Addresses in messages of libraries; a query may hold a signature.
URL_IN_TEXT = re.compile(r"(?:https?|s3)://[^\s'\"<>]+", re.IGNORECASE)
QUERY = re.compile(r"\?[^\s'\"<>]+")
# User and password before a host, with a scheme or without.
USER = re.compile(r"(?<=://)[^\s/@'\"<>]+@|(?<![\w./:@-])[^\s/@:'\"<>]+:[^\s/@'\"<>]+@(?=[\w\[])")
# Fields that hold a secret, also percent-encoded, as in GDAL's paths.
SECRET_FIELD = re.compile(
    r"(?P<key>(?:\b|%3F|%26)(?:sig|signature|token|access_token|(?:api|subscription)[_-]?key|pass(?:word|wd)|pwd|secret"
    r"|credentials?|x-(?:amz|goog)-[\w-]+|aws[_-]\w+)(?:=|%3D))[^\s&'\"<>,;)]+",
    re.IGNORECASE,
)
# Loggers of libraries that log addresses, some as warnings, which Python prints by default.
URL_LOGGERS = (
    *(f"urllib3.{name}" for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry")),
    *(f"rasterio.{name}" for name in ("_base", "_env", "_err", "_io", "_vsiopener", "_warp", "env", "io")),
    *("rasterio", "pystac_client.stac_api_io"),
)


def shown(href: str) -> str:
    """An address for messages, logs and files: without user, query and fragment, which may hold secrets."""
    prefix, rest = _vsi(href)
    try:
        parts = urlsplit(rest)
    except ValueError:
        return without_secrets(href)
    if not parts.netloc:
        return without_secrets(href) if href.startswith("/vsi") else href
    return prefix + urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """A text in which no address has a user, a password, a query, or another field with a secret."""
    text = URL_IN_TEXT.sub(lambda match: shown(match[0]) if _is_valid(match[0]) else match[0].partition("?")[0], text)
    return SECRET_FIELD.sub(r"\g<key>…", USER.sub("", QUERY.sub("?…", text)))


def _is_valid(address: str) -> bool:
    try:
        return bool(urlsplit(address).netloc)
    except ValueError:
        return False


class _SecretFilter(logging.Filter):
    """Removes secrets and control characters from the messages of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        record.msg, record.args = visible(without_secrets(record.getMessage())), ()
        return True


for _name in URL_LOGGERS:
    logging.getLogger(_name).addFilter(_SecretFilter())


def resolved(href: str, base: str | None) -> str:
    """The absolute address of an `href` that may be relative to `base`."""
    return urljoin(base, href) if base and not urlsplit(href).scheme and not href.startswith("/vsi") else href


def check_address(href: str, base: str | None) -> None:
    """Refuse an address of an item, or the target of a redirect, that must not be requested.

    Parameters
    ----------
    href : absolute.
    base : address of the item, whose host is always allowed. None: the item is a local file, and so are its assets.

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
        what = "is a local file" if is_file or parts.scheme == "file" else f"has the scheme {parts.scheme!r}"
        raise AddressError(
            f"{shown(href)}: this address of an item {what}; only {', '.join(SCHEMES)} are allowed. "
            "If you trust the item, download the file yourself and give it to convert."
        )
    if parts.scheme.lower() == "s3":
        if BUCKET.fullmatch(parts.netloc):
            return
        raise AddressError(
            f"{shown(href)}: this address of an item has no valid bucket; s3://bucket/key is allowed. "
            "Report the item to its catalogue."
        )
    host = host_of(href)
    is_plain = HOST.fullmatch(parts.netloc) is not None
    if is_plain and base is not None and host == host_of(base):
        addresses_of(host, retry=True)  # to these the connection goes
        return
    if not is_plain or not is_public(host):
        raise AddressError(
            f"{shown(href)}: this address of an item has the host {host or '(none)'}, which is private or invalid; "
            "public hosts and the item's own server are allowed. If you trust it, name that server (fetch --stac URL), "
            "or download the file yourself and give it to convert."
        )


def host_of(href: str) -> str:
    """Host name in lower case; empty if the address has none."""
    try:
        return (urlsplit(href).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def web_address(href: str) -> str | None:
    """The https, http or s3 address of a remote file, without GDAL's prefix `/vsicurl/`; None for all other files."""
    rest = _vsi(href)[1]
    return rest if rest.partition("://")[0].lower() in SCHEMES else None


def _vsi(href: str) -> tuple[str, str]:
    prefix = "/vsicurl/"
    return (prefix, href.removeprefix(prefix)) if href.startswith(prefix) else ("", href)


def unsigned(address: str, *, fresh: bool = False) -> str:  # noqa: ARG001 - the signature of `Access.sign`
    """The address itself: for files that need no signature."""
    return address


@dataclass(frozen=True)
class Access:
    """Address check, signature and headers for the files of one item or server."""

    check: Callable[[str], None]
    """Raises AddressError for an address that must not be requested."""
    sign: Callable[..., str] = unsigned
    """`sign(address, fresh=...)`: the address with its signature; `fresh` requests a new signature."""
    headers: Callable[[str], Mapping[str, str]] = lambda _address: {}
    """Headers, such as a token, for the host of this address only."""
    is_login: Callable[[str], bool] = lambda _address: False
    """Whether a redirect to this address means that the login is missing or expired."""

    @classmethod
    def to_host_of(cls, base: str) -> "Access":
        """Access without credentials to public hosts, and to the host of `base` also if it is private."""
        return cls(lambda address: check_address(address, base))
