"""Acquisition times parsed from tags and product names.

A tag of the file wins over a time in its name. Texts that are no date, and dates before the first land satellite or in
the future, are ignored: other programs write anything into tags.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone

# `20240601T102021`, as in names of Sentinel-2, EnMAP and EMIT; the first time in a name is the acquisition time.
TIME_IN_NAME = re.compile(r"(?<!\d)(?:19|20)\d{6}T\d{6}(?!\d)")
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)(?!\d)")
# Keys of tags with the acquisition time, the surest first, in lower case with `_` for spaces. TIFF's DateTime is the
# last: some programs write the time of writing there.
WRITTEN_TAG = "tifftag_datetime"
TIME_TAGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"acquisition(?!\w*(end|stop))\w*",
        r"datetime|sensing_(time|date|start\w*)|date_acquired",
        r"datatake\w*sensing_start|product_start_time|time_coverage_start|start_(date)?time|starttime|date",
        WRITTEN_TAG,
    )
)
# `2024-06-08T10:15:59.024Z`, `2024:06:08 10:15:59` (TIFF), `20240608T101559`, `2024-06-08`, and `08-JUN-2024 10:15:59`.
TIME_TEXT = re.compile(
    r"(?:(?P<year>\d{4})([-:/]?)(?P<month>\d\d)\2(?P<day>\d\d)|(?P<d>\d\d)-(?P<name>[A-Z]{3})-(?P<y>\d{4}))"
    r"(?:[T ]?(?P<clock>\d\d:?\d\d(?::?\d\d)?)(?:[.,](?P<fraction>\d{1,9}))? ?(?P<zone>Z|UTC|[+-]\d\d:?\d\d)?)?",
    re.IGNORECASE,
)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
# Times and days in names of products, the surest first: ESA and USGS, MAJA, HLS, AppEEARS, ISO 8601.
NAMED_TIMES = (
    (re.compile(r"(?<!\d)\d{8}T\d{6}(?!\d)"), "%Y%m%dT%H%M%S"),
    (re.compile(r"(?<!\d)\d{8}-\d{6}(?!\d)"), "%Y%m%d-%H%M%S"),
    (re.compile(r"(?<!\d)\d{7}T\d{6}(?!\d)"), "%Y%jT%H%M%S"),
    (re.compile(r"doy\d{13}(?!\d)"), "doy%Y%j%H%M%S"),
    (re.compile(r"(?<!\d)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"), "%Y-%m-%dT%H:%M:%S"),
    (re.compile(r"doy\d{7}(?!\d)"), "doy%Y%j"),
    (re.compile(r"(?<!\d)\d{4}-\d\d-\d\d(?!\d)"), "%Y-%m-%d"),
    (re.compile(r"(?<!\d)20\d{6}(?!\d)"), "%Y%m%d"),
)
# Launch of Landsat 1.
FIRST_YEAR = 1972


def parse_time(text: str) -> datetime | None:
    """The time in a text, in UTC, midnight for a day; None if it is no time. Without a zone, times are UTC."""
    found = TIME_TEXT.fullmatch(text.strip())
    if found is None or (found["name"] and found["name"].upper() not in MONTHS):
        return None
    month = MONTHS.index(found["name"].upper()) + 1 if found["name"] else int(found["month"])
    digits = (found["clock"] or "").replace(":", "").ljust(6, "0")
    hour, minute, second = (int(digits[i : i + 2]) for i in (0, 2, 4))
    zone = (found["zone"] or "").replace(":", "")
    away = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:])) if zone[:1] in {"+", "-"} and zone else timedelta()
    micro = int((found["fraction"] or "").ljust(6, "0")[:6])
    try:
        zoned = timezone(-away if zone.startswith("-") else away)
        year, day = int(found["year"] or found["y"]), int(found["day"] or found["d"])
        time = datetime(year, month, day, hour, minute, second, micro, zoned).astimezone(UTC)
    except (ValueError, OverflowError):  # a number such as 20241399
        return None
    return time if time.year >= FIRST_YEAR and time <= datetime.now(UTC) + timedelta(days=1) else None


def rfc3339(text: str | None) -> str | None:
    """A time such as `2024-06-08T10:15:59Z`, or a day such as `2024-06-08`; None if the text is neither."""
    time = parse_time(text or "")
    if time is None or text is None:
        return None
    if _is_day(text):
        return f"{time:%Y-%m-%d}"
    return text if RFC_3339.fullmatch(text) else time.isoformat().replace("+00:00", "Z")


def acquisition_time(name: str, tags: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """The acquisition time of a file by its tags, else by its name; and a note if they differ by more than a day.

    Keys of `tags` are in lower case with `_` for spaces. In a day without a time of day, a time in the name counts.
    """
    named = next(_times_in_names([name]), None)
    key, text = _tagged_time(tags) or ("", "")
    tagged = parse_time(text)
    if tagged is None or named is None:
        return rfc3339(text or (named.isoformat() if named else None)), []
    if abs(tagged - named) > timedelta(days=1):
        remedy = " It may be the time of writing: remove the tag if so." if key == WRITTEN_TAG else ""
        difference = (
            f"The tag {key.upper()} gives {tagged:%Y-%m-%d} as the day of acquisition, the name {named:%Y-%m-%d}"
        )
        return rfc3339(text), [f"{difference}; the tag is used.{remedy}"]
    is_day = _is_day(text) and tagged.date() == named.date()
    return rfc3339(named.isoformat() if is_day else text), []


def named_time(texts: Sequence[str]) -> str | None:
    """The ISO 8601 time or day in the first of these names with one; None without any."""
    for text in texts:
        for pattern, form in NAMED_TIMES:
            for match in pattern.finditer(text):
                try:
                    time = datetime.strptime(match[0], form).replace(tzinfo=UTC)
                except ValueError:  # a number such as 20241399
                    continue
                return time.strftime("%Y-%m-%dT%H:%M:%SZ" if "%H" in form else "%Y-%m-%d")
    return None


def day_of(names: Iterable[str], tags: Mapping[str, str] | None = None) -> date | None:
    """Acquisition date from a tag, else from a time in a name, else from a date in a name; None without any of these.

    The first of `names` with a date counts. Keys of `tags` are in lower case with `_` for spaces. TIFF's DateTime does
    not count: a day of writing would give wrong pairs without a word.
    """
    known = {key: text for key, text in (tags or {}).items() if key != WRITTEN_TAG}
    names, found = list(names), _tagged_time(known)
    tagged = [] if found is None else [parse_time(found[1])]
    times = (time.date() for time in (*tagged, *_times_in_names(names)) if time)
    return next(times, None) or next(_days_in_names(names), None)


def _tagged_time(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """Key and text of the surest tag with a time; of several, one with a time of day comes first."""
    for pattern in TIME_TAGS:
        texts = {}
        for key in filter(pattern.fullmatch, tags):
            day = tags[key].strip()
            clock = tags.get(key.replace("date", "time"), "").strip()
            for text in (f"{day}T{clock}", day):
                if parse_time(text):
                    texts[key] = text
                    break
        if texts:
            return min(texts.items(), key=lambda entry: _is_day(entry[1]))
    return None


def _is_day(text: str) -> bool:
    """Whether a time has no time of day."""
    found = TIME_TEXT.fullmatch(text.strip())
    return found is not None and found["clock"] is None


def _times_in_names(names: Iterable[str]) -> Iterator[datetime]:
    texts = (text for name in names for text in TIME_IN_NAME.findall(name))
    return filter(None, map(parse_time, texts))


def _days_in_names(names: Iterable[str]) -> Iterator[date]:
    days = (parse_time("".join(numbers)) for name in names for numbers in DAY.findall(name))
    return (day.date() for day in days if day)
