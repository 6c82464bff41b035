"""Reading by ranges: what is signed, what is asked for again, what GDAL gets."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ms2hs.raster.ranged import BESIDE_BYTES, REQUEST_BYTES, _joined, _Pieces
from ms2hs.raster.signing import Keys, Store, presigned, public, signed_query
from ms2hs.raster.web import Patience, seconds_of


def test_signature_is_that_of_the_reference():
    """The example of the Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters"."""
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    at = datetime(2013, 5, 24, tzinfo=UTC)
    query = signed_query("examplebucket.s3.amazonaws.com", "/test.txt", "us-east-1", keys, at, 86400)
    assert query.startswith("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-")
    assert query.endswith("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    assert "wJalr" not in repr(keys)


def test_addresses_of_stores():
    address = presigned("s3://eodata/Sentinel-2/a b.jp2", Store("eodata.example.org"), Keys("id", "secret"))
    assert address.startswith("https://eodata.example.org/eodata/Sentinel-2/a%20b.jp2?X-Amz-Algorithm=")
    assert "secret" not in address
    assert public("s3://sentinel-cogs/x/B02.tif") == "https://sentinel-cogs.s3.amazonaws.com/x/B02.tif"


def test_retry_after_is_seconds_or_a_date():
    assert seconds_of("3") == 3
    assert seconds_of("soon") is None
    assert 50 < seconds_of(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert seconds_of(format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True)) == 0


def test_waits_grow_and_end():
    patience = Patience()
    waits = [patience.wait_s(failed) for failed in range(1, 12)]
    assert 0.25 <= waits[0] <= 0.5
    assert 15 <= waits[-1] <= 30


blocks = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 600)), min_size=1, max_size=12)


@given(blocks)
def test_what_is_asked_for_ahead_holds_every_block_and_no_byte_twice(ranges):
    content = bytes(number % 251 for number in range(6000))
    asked = _joined(ranges, len(content))
    for (begin, end), (following, _) in pairwise(asked):
        assert begin < end <= following
    pieces = _Pieces()
    for begin, end in asked:
        assert end - begin <= REQUEST_BYTES
        pieces.add(begin, content[begin:end])
    for begin, size in ranges:
        assert pieces.find(begin, size) == content[begin : begin + size]
    assert sum(end - begin for begin, end in asked) <= sum(size + 2 * BESIDE_BYTES for _, size in ranges)


def test_pieces_that_have_not_come_are_not_made_up():
    pieces = _Pieces()
    pieces.add(10, b"abc")
    pieces.add(14, b"e")
    assert pieces.find(9, 2) is None
    assert pieces.find(12, 3) is None
    assert pieces.find(11, 2) == b"bc"
