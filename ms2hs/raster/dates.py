"""Acquisition dates parsed from product names and tags."""

import re
from collections.abc import Iterable, Mapping
from datetime import date

# `20240601T102021`, as in names of Sentinel-2, EnMAP and EMIT; the first time in a name is the acquisition time.
ACQUISITION_TIME = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)T\d{6}(?!\d)")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)(?!\d)")
# Tags with the acquisition time. TIFF's DateTime is not one of them: it is the time when the file was written.
TIME_TAGS = (
    *("acquisition_time", "acquisition_date", "acquisition_datetime", "datetime", "sensing_time", "sensing_date"),
    *("datatake_sensing_start", "product_start_time", "time_coverage_start", "start_time", "starttime", "date"),
)


def day_of(names: Iterable[str], tags: Mapping[str, str] | None = None) -> date | None:
    """Acquisition date from a time in a name, else from a tag, else from a date in a name; None without any of these.

    The first of `names` with a date counts. Keys of `tags` are in lower case with `_` for spaces.
    """
    names = list(names)
    times = [text[:10] for key in TIME_TAGS if (text := (tags or {}).get(key))]
    return _first_date(ACQUISITION_TIME, names) or _first_date(DAY, times) or _first_date(DAY, names)


def _first_date(pattern: re.Pattern[str], texts: Iterable[str]) -> date | None:
    for text in texts:
        for match in pattern.finditer(text):
            try:
                return date(*(int(number) for number in match.groups()))
            except ValueError:  # a number such as 20241399
                continue
    return None
