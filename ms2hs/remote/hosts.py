"""Host names: which are public, and to which IP addresses a connection goes.

A connection goes to the addresses that were checked: a name keeps its addresses for the whole process. Otherwise a
server of names could give a public address to the check, and a private one to the connection.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator

# Host names of this machine or its local network: RFC 6761, RFC 6762, RFC 8375, and cloud platforms.
LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "localdomain")
# Public addresses of IPv6 (RFC 4291), and the prefix of IPv4 addresses in networks without IPv4 (RFC 6052).
UNICAST, NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
# The addresses of every name that was resolved.
_ADDRESSES: dict[str, tuple[str, ...]] = {}


def is_public(host: str) -> bool:
    """Whether a host is on the public internet, by its IP address, or by its name and all IP addresses of the name.

    A name that cannot be resolved counts as public: a connection to it fails, or goes through a proxy.
    """
    if not host or ("." not in host and ":" not in host and _parse_ip(host) is None):
        return False
    if any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES):
        return False
    return all(map(_is_global, addresses_of(host)))


def addresses_of(host: str, *, retry: bool = False) -> tuple[str, ...]:
    """The IP addresses of a host, from the first time that it was resolved; empty if it cannot be resolved.

    Parameters
    ----------
    retry : resolve a name again that had no address.
    """
    if ip := _parse_ip(host):
        return (ip,)
    name = _normal(host)
    if name not in _ADDRESSES:
        _ADDRESSES.setdefault(name, _resolve(name))  # the first answer counts, also of several threads
    elif retry and not _ADDRESSES[name]:
        _ADDRESSES[name] = _resolve(name)
    return _ADDRESSES[name]


def addresses_to_try(host: str) -> Iterator[str]:
    """The IP addresses of a host for a connection, first those that were checked.

    After these the name is resolved again, as addresses change in a long run. New addresses must be public, and never
    replace private ones.
    """
    if ip := _parse_ip(host):
        yield ip
        return
    known = _ADDRESSES.get(_normal(host), ())
    yield from known
    if not all(map(_is_global, known)):
        return
    fresh = _resolve(_normal(host))
    if fresh and all(map(_is_global, fresh)):
        _ADDRESSES[_normal(host)] = fresh
        yield from (address for address in fresh if address not in known)


def _normal(host: str) -> str:
    return host.rstrip(".").lower()


def _parse_ip(host: str) -> str | None:
    """The IP address of a host that is written as one, also in old forms that C libraries accept: 127.1, 0x7f000001."""
    try:
        return str(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) if re.fullmatch(r"[0-9a-fx.]+", host) else None
    except OSError:
        return None


def _resolve(host: str) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in answers))


def _is_global(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
        inner = address.ipv4_mapped or address.sixtofour or translated
        if inner is None:
            return address in UNICAST and address.is_global
        address = inner
    return address.is_global and not address.is_multicast
