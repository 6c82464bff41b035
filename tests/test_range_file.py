"""range_file, client and s3_signing: signatures, waits, cached ranges."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.remote import range_file
from ms2hs.remote.byte_cache import ByteCache, KeptBytes
from ms2hs.remote.byte_range import ByteRange
from ms2hs.remote.client import RetryPolicy, parse_retry_after
from ms2hs.remote.range_file import (
    BLOCK_MARGIN_BYTES,
    MAX_REQUEST_BYTES,
    RangedFile,
    _FileHandle,
    _merge_ranges,
)
from ms2hs.remote.s3_signing import Keys, Store, presigned, public, signed_query


def test_signed_query_matches_the_s3_reference():
    """The example of the Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters"."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    at = datetime(2013, 5, 24, tzinfo=UTC)
    query = signed_query("examplebucket.s3.amazonaws.com", "/test.txt", "us-east-1", keys, at, 86400)
    assert query.startswith("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-")
    assert query.endswith("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    assert "wJalr" not in repr(keys)


def test_presigned_and_public_addresses():
    address = presigned("s3://eodata/Sentinel-2/a b.jp2", Store("eodata.example.org"), Keys("id", "secret"))
    assert address.startswith("https://eodata.example.org/eodata/Sentinel-2/a%20b.jp2?X-Amz-Algorithm=")
    assert "secret" not in address
    assert public("s3://sentinel-cogs/x/B02.tif") == "https://sentinel-cogs.s3.amazonaws.com/x/B02.tif"


def test_parse_retry_after_accepts_seconds_and_dates():
    assert parse_retry_after("3") == 3
    assert parse_retry_after("soon") is None
    assert 50 < parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert parse_retry_after(format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True)) == 0


def test_retry_policy_waits_grow_to_a_limit():
    patience = RetryPolicy()
    waits = [patience.wait_s(failed) for failed in range(1, 12)]
    assert 0.25 <= waits[0] <= 0.5
    assert 15 <= waits[-1] <= 30


blocks = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 600)), min_size=1, max_size=12)


@given(blocks)
def test_merge_ranges_covers_every_block_without_overlap(ranges):
    content = bytes(number % 251 for number in range(6000))
    requested = _merge_ranges(ranges, len(content))
    for (begin, end), (following, _) in pairwise(requested):
        assert begin < end <= following
    pieces = ByteCache()
    for begin, end in requested:
        assert end - begin <= MAX_REQUEST_BYTES
        pieces.add(begin, content[begin:end])
    for begin, size in ranges:
        assert pieces.find(begin, size) == content[begin : begin + size]
    assert sum(end - begin for begin, end in requested) <= sum(size + 2 * BLOCK_MARGIN_BYTES for _, size in ranges)


def test_byte_cache_finds_only_cached_bytes():
    pieces = ByteCache()
    pieces.add(10, b"abc")
    pieces.add(14, b"e")
    assert pieces.find(9, 2) is None
    assert pieces.find(12, 3) is None
    assert pieces.find(11, 2) == b"bc"


def served(monkeypatch, content, requested):
    """A handle of a remote file; its requests are appended to `requested`."""

    def read(_client, _address, _access, begin, size):
        requested.append((begin, size))
        return ByteRange(content[begin : begin + size], len(content), "")

    monkeypatch.setattr(range_file, "read_range", read)
    return _FileHandle(RangedFile(None, "https://h.org/a.jp2", None))


def test_file_handle_reads_ahead_in_growing_steps(monkeypatch):
    content, requested = bytes(4_000_000), []
    handle = served(monkeypatch, content, requested)
    handle.seek(1000)
    read = b"".join(iter(lambda: handle.read(1024), b""))
    assert read == content[1000:]
    assert len(requested) <= 9
    assert sum(min(size, len(content) - begin) for begin, size in requested) < 1.05 * len(content)


@given(st.lists(st.tuples(st.integers(0, 260_000), st.integers(1, 30_000), st.integers(1, 4)), min_size=1, max_size=40))
def test_file_handle_returns_the_content_in_any_order(places):
    content = b"".join(number.to_bytes(4) for number in range(65_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_file, "CACHE_BYTES", 50_000)  # so that much is dropped
        handle = served(patch, content, [])
        for begin, size, times in places:
            handle.seek(begin)
            for turn in range(times):
                at = begin + turn * size
                assert handle.read(size) == content[at : at + size]
            ranges = [(max(0, begin - size), size), (begin, size)]
            known = [(first, min(length, len(content) - first)) for first, length in ranges if first < len(content)]
            contents = handle.get_byte_ranges(*zip(*known, strict=True)) if known else []
            assert contents == [content[first : first + length] for first, length in known]


places = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 200)), min_size=1, max_size=10)


@given(places, places)
def test_kept_bytes_outlast_a_restart_and_drop_damage(tmp_path_factory, added, asked):
    content = bytes(number % 251 for number in range(1200))
    path = tmp_path_factory.mktemp("kept") / "granule.nc"
    known = np.zeros(len(content), bool)
    with closing(KeptBytes(path, len(content), "v1")) as kept:
        for begin, size in added:
            kept.add(begin, content[begin : begin + size])
            known[begin : begin + size] = True
    for _ in range(2):
        with closing(KeptBytes(path, len(content), "v1")) as kept:
            for begin, size in asked:
                is_known = known[begin : begin + size].all()
                assert kept.find(begin, size) == (content[begin : begin + size] if is_known else None)
    begin = added[0][0]
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(bytes([content[begin] ^ 1]))
    with closing(KeptBytes(path, len(content), "v1")) as kept:
        assert kept.find(begin, 1) is None


@pytest.mark.parametrize(("size", "version"), [(9, "v2"), (8, "v1"), (9, "")])
def test_kept_bytes_of_another_version_are_dropped(tmp_path, size, version):
    for known_size, known_version, expected in ((9, "v1", None), (9, "v1", b"abc"), (size, version, None)):
        with closing(KeptBytes(tmp_path / "a.nc", known_size, known_version)) as kept:
            assert kept.find(0, 3) == expected
            kept.add(0, b"abc")
