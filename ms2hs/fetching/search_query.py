"""What a catalogue is asked for: a place and a time, checked before any server hears of them."""

import json
import math
import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ms2hs.errors import QueryError

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees (WGS 84)."""
# A box whose west lies east of its east crosses the antimeridian if it is narrower than this, in degrees; wider, its
# numbers are in the wrong order.
WIDEST_CROSSING = 180.0
AREAS = {"Polygon", "MultiPolygon"}


@dataclass(frozen=True)
class Place:
    """A part of the Earth."""

    bbox: Box
    """In degrees; its west is greater than its east where it crosses the antimeridian."""
    geometry: dict[str, Any] | None = None
    """GeoJSON Polygon or MultiPolygon, where it is not the whole box."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box, or the two on either side of the antimeridian; west < east in each."""
        west, south, east, north = self.bbox
        if west < east:
            return (self.bbox,)
        sides = (west, south, 180.0, north), (-180.0, south, east, north)
        return tuple(side for side in sides if side[0] < side[2])


@dataclass(frozen=True)
class Period:
    """From a second to a second, both included; None is open. In UTC."""

    start: datetime | None
    end: datetime | None

    @property
    def text(self) -> str:
        """As STAC writes it: `2024-06-01T00:00:00Z/..`."""
        return "/".join(".." if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ") for at in (self.start, self.end))


def box_place(numbers: Sequence[float]) -> Place:
    """The place in a box of west, south, east, north.

    Raises
    ------
    QueryError : no box on the Earth.
    """
    told = ",".join(f"{number:g}" for number in numbers)
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        raise QueryError(
            f"the box {told} has not four numbers; W,S,E,N in degrees are needed. Give --bbox 12,52,13,53."
        )
    west, south, east, north = numbers
    if not (-90 <= south < north <= 90):
        raise QueryError(
            f"the box {told} reaches from {south:g} to {north:g} degrees north; south < north within -90 to 90 are "
            "needed. Give it as W,S,E,N: longitude comes first."
        )
    if not (-180 <= west <= 180 and -180 <= east <= 180) or west == east:
        raise QueryError(
            f"the box {told} reaches from {west:g} to {east:g} degrees east; two different longitudes within -180 to "
            "180 are needed. Give it as W,S,E,N, and 190 degrees east as -170."
        )
    if west > east and west - east < 360 - WIDEST_CROSSING:
        raise QueryError(
            f"the box {told} has its west at {west:g} and its east at {east:g} degrees; west < east is needed, unless "
            f"it crosses the antimeridian and is less than {WIDEST_CROSSING:g} degrees wide. Swap the two."
        )
    return Place((west, south, east, north))


def file_place(path: Path) -> Place:
    """The place in a GeoJSON file: a polygon, or all the polygons of a feature or a collection of them.

    Raises
    ------
    QueryError : no such file, no GeoJSON, no polygon, or positions that are not on the Earth.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QueryError(f"{path}: not a GeoJSON file that can be read ({error}); one is needed. Check it.") from error
    try:
        polygons = [polygon for geometry in _geometries(found) for polygon in _polygons(geometry)]
        positions = [(float(lon), float(lat)) for rings in polygons for lon, lat, *_ in rings[0]]
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise QueryError(f"{path}: its GeoJSON is not well formed ({error!r}); RFC 7946 is. Correct it.") from error
    if not positions:
        raise QueryError(f"{path}: has no polygon; a GeoJSON Polygon or MultiPolygon is needed. Draw an area.")
    lons, lats = zip(*positions, strict=True)
    box = box_place((min(lons), min(lats), max(lons), max(lats))).bbox
    # Parts on both sides of the antimeridian, as RFC 7946 wants them cut.
    if max(lons) - min(lons) > WIDEST_CROSSING and len(polygons) > 1:
        box = (min(lon for lon in lons if lon > 0), box[1], max(lon for lon in lons if lon < 0), box[3])
    return Place(box, {"type": "MultiPolygon", "coordinates": polygons})


def _geometries(found: dict[str, Any]) -> list[dict[str, Any]]:
    kind = found["type"]
    if kind == "FeatureCollection":
        return [geometry for feature in found["features"] for geometry in _geometries(feature)]
    if kind == "Feature":
        return _geometries(found["geometry"])
    if kind == "GeometryCollection":
        return [inner for geometry in found["geometries"] for inner in _geometries(geometry)]
    return [found] if kind in AREAS else []


def _polygons(geometry: dict[str, Any]) -> list[Any]:
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else list(geometry["coordinates"])


# A year, a month, a day, or a time of a day with its zone.
TIME = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?)?)?)?")

ALLOWED = "a day (2024-06-01), a month (2024-06), a year, or a range of these (2024-06-01/2024-06-30, 2024-06/..)"


def period(text: str) -> Period:
    """The time that a text tells: a day, a month, a year, a moment, or a range `a/b` of these, `..` for an open end.

    Raises
    ------
    QueryError : none of these, or the end lies before the start.
    """
    first, slash, last = text.strip().partition("/")
    if not slash:
        return Period(*_span(text, first))
    start = None if first.strip() in {"", ".."} else _span(text, first)[0]
    end = None if last.strip() in {"", ".."} else _span(text, last)[1]
    if start is None and end is None:
        raise QueryError(f"the date {text!r} has no end that is not open; {ALLOWED} is needed. Give one end.")
    if start is not None and end is not None and end < start:
        raise QueryError(f"the date {text!r} ends before it starts; {ALLOWED} is needed. Swap the two.")
    return Period(start, end)


def _span(whole: str, text: str) -> tuple[datetime, datetime]:
    """First and last second of a year, a month, a day or a moment."""
    found = TIME.fullmatch(text.strip())
    if found is None:
        raise QueryError(f"the date {whole!r} is none; {ALLOWED} is needed. Write it so.")
    year, month, day, time, zone = found.groups()
    try:
        if time:
            moment = datetime.fromisoformat(f"{year}-{month}-{day}T{time}{(zone or 'Z').replace('Z', '+00:00')}")
            return moment.astimezone(UTC), moment.astimezone(UTC)
        start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
        last_month = int(month or 12)
        last_day = int(day) if day else monthrange(int(year), last_month)[1]
        end = datetime(int(year), last_month, last_day, tzinfo=UTC) + timedelta(days=1, seconds=-1)
    except (ValueError, OverflowError) as error:
        raise QueryError(f"the date {whole!r} is none ({error}); {ALLOWED} is needed. Write it so.") from error
    return start, end
