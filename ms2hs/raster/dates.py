"""The day on which a product was taken, by its name or its tags."""

import re
from collections.abc import Iterable, Mapping
from datetime import date

# `20240601T102021`, as in names of Sentinel-2, EnMAP and EMIT; the first of a name is the time of sensing.
TIME = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)T\d{6}(?!\d)")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)(?!\d)")
# Tags that say when an image was taken; TIFF's own DateTime says when the file was written.
TAGS = (
    *("acquisition_time", "acquisition_date", "acquisition_datetime", "datetime", "sensing_time", "sensing_date"),
    *("datatake_sensing_start", "product_start_time", "time_coverage_start", "start_time", "starttime", "date"),
)


def day_of(names: Iterable[str], tags: Mapping[str, str] | None = None) -> date | None:
    """The day that a time in a name tells, else a tag, else a date in a name (`20240601`); None where none does.

    Parameters
    ----------
    names : of the file, of the folder around it, and so on; the first that tells counts.
    tags : keys in lower case with `_` for spaces.
    """
    asked = list(names)
    told = [text for key in TAGS if (text := (tags or {}).get(key))]
    return _first(TIME, asked) or _first(DAY, (text[:10] for text in told)) or _first(DAY, asked)


def _first(pattern: re.Pattern[str], texts: Iterable[str]) -> date | None:
    for text in texts:
        for found in pattern.finditer(text):
            try:
                return date(*(int(number) for number in found.groups()))
            except ValueError:  # 20241399 is a number, no day
                continue
    return None
