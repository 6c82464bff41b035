"""The area and the period of a search, parsed and checked before any request is sent."""

import math
import re
from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ms2hs.errors import QueryError
from ms2hs.files import read_json
from ms2hs.raster.pixel_grid import WIDEST_CROSSING, Box
from ms2hs.remote.client import MAX_DOCUMENT_BYTES


@dataclass(frozen=True)
class SearchArea:
    """The area of a search."""

    bbox: Box
    """In degrees; west > east if the box crosses the antimeridian."""
    geometry: dict[str, Any] | None = None
    """GeoJSON Polygon or MultiPolygon; None is the whole box."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box, or the two on either side of the antimeridian; west < east in each box."""
        west, south, east, north = self.bbox
        if west < east:
            return (self.bbox,)
        sides = (west, south, 180.0, north), (-180.0, south, east, north)
        return tuple(side for side in sides if side[0] < side[2])


@dataclass(frozen=True)
class Period:
    """First and last second of a search, in UTC; None is an open end."""

    start: datetime | None
    end: datetime | None

    @property
    def text(self) -> str:
        """The period in STAC's notation: `2024-06-01T00:00:00Z/..`."""
        return "/".join(".." if end is None else end.strftime("%Y-%m-%dT%H:%M:%SZ") for end in (self.start, self.end))

    def overlaps(self, start: datetime | None, end: datetime | None) -> bool:
        """Whether another period, open at an end that is None, has a second in common."""
        return not (start and self.end and start > self.end) and not (end and self.start and end < self.start)

    def contains(self, time: datetime | None) -> bool:
        """Whether a time is in the period; an unknown time is not."""
        return time is not None and self.overlaps(time, time)


def parse_bbox(numbers: Sequence[float]) -> SearchArea:
    """The area of a box: west, south, east, north in degrees.

    Raises
    ------
    QueryError : the numbers are not a box on the Earth.
    """
    text = ",".join(f"{number:g}" for number in numbers)
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise QueryError(
            f"the box {text} does not have four numbers; W,S,E,N in degrees are needed. Use --bbox 12,52,13,53."
        )
    west, south, east, north = numbers
    if not (-90 <= south < north <= 90):
        raise QueryError(
            f"the box {text} reaches from {south:g} to {north:g} degrees north; south < north within -90 to 90 are "
            "needed. Give it as W,S,E,N: longitude comes first."
        )
    if not (-180 <= west <= 180 and -180 <= east <= 180) or west == east:
        raise QueryError(
            f"the box {text} reaches from {west:g} to {east:g} degrees east; two different longitudes within -180 to "
            "180 are needed. Give it as W,S,E,N, and 190 degrees east as -170."
        )
    if west > east and west - east < 360 - WIDEST_CROSSING:
        raise QueryError(
            f"the box {text} has its west at {west:g} and its east at {east:g} degrees; west < east is needed, unless "
            f"it crosses the antimeridian and is less than {WIDEST_CROSSING:g} degrees wide. Swap the two."
        )
    return SearchArea((west, south, east, north))


def read_geojson(path: Path) -> SearchArea:
    """The area of a GeoJSON file: all polygons of its geometry, feature or feature collection.

    Raises
    ------
    QueryError : the file cannot be read, is not GeoJSON, has no polygon, or has positions that are not on the Earth.
    """
    try:
        document = read_json(path, MAX_DOCUMENT_BYTES)
    except (OSError, ValueError, RecursionError) as error:
        raise QueryError(f"{path}: cannot be read as JSON ({error}); a GeoJSON file is needed. Check it.") from error
    try:
        return polygon_area(document)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise QueryError(f"{path}: invalid GeoJSON ({error!r}); RFC 7946 is required. Correct it.") from error
    except QueryError as error:
        raise QueryError(f"{path}: {error}") from error


def polygon_area(document: Mapping[str, Any]) -> SearchArea:
    """The area of all polygons in a GeoJSON object; QueryError if it has none, other errors if it is invalid."""
    polygons = polygons_of(document)
    positions = [(float(lon), float(lat)) for rings in polygons for lon, lat, *_ in rings[0]]
    if not positions:
        raise QueryError("has no polygon; a GeoJSON Polygon or MultiPolygon is needed. Draw an area.")
    lons, lats = zip(*positions, strict=True)
    box = parse_bbox((min(lons), min(lats), max(lons), max(lats))).bbox
    # RFC 7946 cuts an area at the antimeridian into parts on both sides.
    if max(lons) - min(lons) > WIDEST_CROSSING and len(polygons) > 1:
        box = (min(lon for lon in lons if lon > 0), box[1], max(lon for lon in lons if lon < 0), box[3])
    return SearchArea(box, {"type": "MultiPolygon", "coordinates": polygons})


def polygons_of(document: Mapping[str, Any]) -> list[Any]:
    """The coordinates of every polygon in a GeoJSON object."""
    kind = document["type"]
    if kind == "Feature":
        return polygons_of(document["geometry"])
    if kind in {"FeatureCollection", "GeometryCollection"}:
        members = document["features" if kind == "FeatureCollection" else "geometries"]
        return [polygon for member in members for polygon in polygons_of(member)]
    if kind == "Polygon":
        return [document["coordinates"]]
    return list(document["coordinates"]) if kind == "MultiPolygon" else []


# A year, month, day, or time with an optional zone.
DATE_PATTERN = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?)?)?)?")
ALLOWED_DATES = "a day (2024-06-01), a month (2024-06), a year, or a range of these (2024-06-01/2024-06-30, 2024-06/..)"


def parse_period(text: str) -> Period:
    """The period of a day, month, year or time, or of a range `a/b` of these, with `..` for an open end.

    Raises
    ------
    QueryError : the text has another form, or its end is before its start.
    """
    first, slash, last = text.strip().partition("/")
    if not slash:
        return Period(*_span(text, first))
    start = None if first.strip() in {"", ".."} else _span(text, first)[0]
    end = None if last.strip() in {"", ".."} else _span(text, last)[1]
    if start is None and end is None:
        raise QueryError(f"the date {text!r} is open at both ends; {ALLOWED_DATES} is needed. Give one end.")
    if start is not None and end is not None and end < start:
        raise QueryError(f"the date {text!r} ends before it starts; {ALLOWED_DATES} is needed. Swap the two.")
    return Period(start, end)


def _span(text: str, date: str) -> tuple[datetime, datetime]:
    """First and last second of a year, month, day or time; `text` is the whole argument, for messages."""
    match = DATE_PATTERN.fullmatch(date.strip())
    if match is None:
        raise QueryError(f"{text!r} is not a date; {ALLOWED_DATES} is needed. Correct --date.")
    year, month, day, time, zone = match.groups()
    try:
        if time:
            moment = datetime.fromisoformat(f"{year}-{month}-{day}T{time}{(zone or 'Z').replace('Z', '+00:00')}")
            return moment.astimezone(UTC), moment.astimezone(UTC)
        start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        last_month = int(month or 12)
        last_day = int(day) if day else monthrange(int(year), last_month)[1]
        end = datetime(int(year), last_month, last_day, tzinfo=UTC) + timedelta(days=1, seconds=-1)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"{text!r} is not a date ({error}); {ALLOWED_DATES} is needed. Correct --date.") from error
    return start, end
