"""Times of acquisition in tags and names."""

from datetime import date

import pytest

from ms2hs.raster.dates import acquisition_time, day_of, rfc3339

NAME = "S2A_MSIL2A_20230601T102021_N0509.tif"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-06-08T10:15:59.024Z", "2024-06-08T10:15:59.024Z"),
        ("2024:06:08 10:15:59", "2024-06-08T10:15:59Z"),
        ("20240608T101559", "2024-06-08T10:15:59Z"),
        ("2024-06-08T12:15:59+02:00", "2024-06-08T10:15:59Z"),
        ("2024-06-08 10:15:59 UTC", "2024-06-08T10:15:59Z"),
        ("08-JUN-2024 10:15:59.123456", "2024-06-08T10:15:59.123456Z"),
        ("2024-06-08", "2024-06-08"),
        ("2024/06/08", "2024-06-08"),
        ("2024-13-08T10:15:59Z", None),
        ("2024-06-08T25:15:59Z", None),
        ("0000:00:00 00:00:00", None),
        ("1600-01-01", None),
        ("1970-01-01T00:00:00Z", None),
        ("2999-01-01", None),
        ("June 2024", None),
        ("-2024-06-08", None),
        ("", None),
        (None, None),
    ],
)
def test_rfc3339_reads_times_and_nothing_else(text, expected):
    assert rfc3339(text) == expected


@pytest.mark.parametrize(
    ("tags", "expected", "noted"),
    [
        ({}, "2023-06-01T10:20:21Z", ()),
        ({"acquisition_date": "2022-06-01", "acquisition_time": "10:00:00"}, "2022-06-01T10:00:00Z", ("2023-06-01",)),
        ({"acquisition_time": "10:00:00"}, "2023-06-01T10:20:21Z", ()),
        ({"acquisition_end_time": "2022-06-01T10:00:00Z"}, "2023-06-01T10:20:21Z", ()),
        ({"tifftag_datetime": "2025:01:01", "sensing_time": "2023-06-01T10:30:00Z"}, "2023-06-01T10:30:00Z", ()),
        ({"date": "20240608"}, "2024-06-08", ("2024-06-08",)),
        ({"tifftag_datetime": "2025:01:01 00:00:00"}, "2025-01-01T00:00:00Z", ("TIFFTAG_DATETIME", "writing")),
    ],
)  # fmt: skip
def test_acquisition_time_prefers_tags_and_says_where_the_name_differs(tags, expected, noted):
    time, notes = acquisition_time(NAME, tags)
    assert time == expected
    assert len(notes) == bool(noted)
    assert all(word in notes[0] for word in noted)


def test_day_of_prefers_tags_but_not_the_time_of_writing():
    assert day_of([NAME], {"acquisition_datetime": "2022-05-04T10:00:00Z"}) == date(2022, 5, 4)
    assert day_of([NAME], {"tifftag_datetime": "2022:05:04 10:00:00"}) == date(2023, 6, 1)
