"""url_policy: which addresses are allowed, and how addresses are printed."""

import ipaddress
import logging
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.errors import AddressError
from ms2hs.remote import hosts, url_policy
from ms2hs.remote.hosts import is_public
from ms2hs.remote.url_policy import check_address, resolved, shown, web_address, without_secrets

BASE = "https://stac.example.org/v1/collections/c/items/i"


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    """A fake resolver: tests send no DNS queries."""
    known = {"inside.example.org": "10.1.2.3", "both.example.org": "8.8.8.8", "six.example.org": "fd00::1"}

    def resolve(host, *_args, **_more):
        if host not in known:
            raise socket.gaierror(host)
        both = [known[host], "192.168.0.1"] if host.startswith("both") else [known[host]]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (number, 0)) for number in both]

    monkeypatch.setattr(hosts, "_ADDRESSES", {})
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    "href",
    [
        "/etc/passwd", "etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "C:/secret.tif", "/vsizip/a.zip/b.tif",
        "/vsicurl/https://files.example.org/a.tif", "ftp://files.example.org/a.tif", "gs://bucket/a.tif",
        "data:image/tiff;base64,AAAA", "/vsimem/a.tif", "javascript:1", "",
        "http://localhost/a.tif", "http://sub.localhost/a.tif", "http://printer.local/a.tif", "http://printer/a.tif",
        "http://metadata.google.internal/a", "http://127.0.0.1/a.tif", "http://127.1/a.tif", "http://2130706433/a.tif",
        "http://0x7f000001/a.tif", "http://0177.0.0.1/a.tif", "http://0.0.0.0/a.tif", "http://10.0.0.1/a.tif",
        "http://172.16.3.4/a.tif", "http://192.168.1.1:8080/a.tif", "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/a.tif", "http://224.0.0.1/a.tif", "http://[::1]/a.tif", "http://[fe80::1]/a.tif",
        "http://[fd00::1]/a.tif", "http://[::ffff:10.0.0.1]/a.tif", "http://[64:ff9b::a00:1]/a.tif",
        "http://inside.example.org/a.tif", "http://both.example.org/a.tif", "http://six.example.org/a.tif",
        "http://user:word@files.example.org/a.tif", "http://files.example.org\\@127.0.0.1/a.tif",
        "http://files.example.org%00.evil/a.tif", "http:///a.tif", "s3:///key", "s3://../key", "s3://a b/key",
    ],
)  # fmt: skip
def test_check_address_refuses_local_and_private_targets(href):
    with pytest.raises(AddressError):
        check_address(href, BASE)


@pytest.mark.parametrize(
    "href",
    [
        "https://files.example.org/a.tif", "http://files.example.org:8080/a.tif?sig=1", "https://8.8.8.8/a.tif",
        "s3://eodata/Sentinel-2/a.jp2", "HTTPS://FILES.example.org/a.tif", "https://[2001:4860:4860::8888]/a.tif",
    ],
)  # fmt: skip
def test_check_address_allows_public_hosts(href):
    check_address(href, BASE)
    check_address(href, None)


@pytest.mark.parametrize("own", ["127.0.0.1:8080", "localhost", "10.0.0.7", "[::1]:80", "inside.example.org"])
def test_check_address_allows_only_the_items_own_private_host(own):
    check_address(f"http://{own}/a.tif", f"http://{own}/items/i")
    for other in ("127.0.0.2", "192.168.0.9", "[::2]", "neighbour"):
        with pytest.raises(AddressError, match="private"):
            check_address(f"http://{other}/a.tif", f"http://{own}/items/i")


def test_check_address_allows_local_files_only_for_local_items():
    check_address("/data/a.tif", None)
    check_address("a.tif", None)
    for href in ("http://127.0.0.1/a.tif", "ftp://files.example.org/a", "/vsizip/x.zip"):
        with pytest.raises(AddressError):
            check_address(href, None)


@given(st.ip_addresses(v=4))
def test_is_public_ignores_how_an_ip_address_is_written(number):
    as_integer = int(number)
    forms = [str(number), str(as_integer), hex(as_integer), ".".join(hex(part) for part in number.packed)]
    assert {is_public(form) for form in forms} == {number.is_global and not number.is_multicast}


@given(st.ip_addresses(v=6))
def test_is_public_refuses_private_ipv6(number):
    if not number.is_global:
        assert not is_public(str(number)) or ipaddress.ip_address(number).sixtofour
    if (four := number.ipv4_mapped) is not None:
        assert is_public(str(number)) == (four.is_global and not four.is_multicast)


@given(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=6, max_size=20))
def test_shown_removes_secrets(secret):
    href = f"https://user:{secret}Q@files.example.org/a.tif?sig={secret}Q&x=1#{secret}Q"
    assert shown(href) == "https://files.example.org/a.tif"
    assert shown(f"/vsicurl/{href}") == "/vsicurl/https://files.example.org/a.tif"
    assert f"{secret}Q" not in without_secrets(f"GDAL: '{href}' and (/vsicurl/{href}) failed")
    assert f"{secret}Q" not in without_secrets(f"a.tif?sig={secret}Q: TIFFReadDirectory failed")  # as GDAL writes it


def test_library_logs_have_no_query(caplog):
    for name in url_policy.URL_LOGGERS:
        with caplog.at_level(logging.DEBUG, logger=name):
            logging.getLogger(name).warning(
                "retrying %s and %s", "/a.tif?sig=PLANTED", "https://u:PLANTED@h.org/b?c=PLANTED"
            )
    assert len(caplog.records) == len(url_policy.URL_LOGGERS)
    assert "PLANTED" not in caplog.text


def test_web_address_and_resolved():
    assert web_address("https://h.org/a.tif?x=1") == "https://h.org/a.tif?x=1"
    assert web_address("/vsicurl/https://h.org/a.tif") == "https://h.org/a.tif"
    assert web_address("s3://eodata/a/b.jp2") == "s3://eodata/a/b.jp2"
    assert web_address("/data/a.tif") is web_address("/vsis3/eodata/b") is web_address("file:///a") is None
    assert resolved("./a.tif", BASE) == "https://stac.example.org/v1/collections/c/items/a.tif"
    assert resolved("https://h.org/a.tif", BASE) == "https://h.org/a.tif"
    assert resolved("/data/a.tif", None) == "/data/a.tif"
