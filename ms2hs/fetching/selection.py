"""Which scenes are fetched: what a person asks for, checked, searched for, listed.

Scenes to pair with hyperspectral products: of the same places, within a few days.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube, find_cubes
from ms2hs.errors import NothingFound, QueryError
from ms2hs.fetching.cropping import safe_name
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import Place, box_place, file_place, period
from ms2hs.fetching.stac_search import Candidate, Query, candidates, read_items, save_items
from ms2hs.raster.pixel_grid import lonlat_bounds
from ms2hs.remote.providers import provider_named, provider_of
from ms2hs.scenes.stac_metadata import Item

MAX_CLOUD, LIMIT = 20.0, 10
HEADINGS = ("scene", "time", "tile", "cloud %", "covers %")


@dataclass(frozen=True)
class SearchRequest:
    """What is asked for, as it was written; None where it was not."""

    bbox: Sequence[float] | None = None
    """West, south, east, north in degrees."""
    intersects: Path | None = None
    """GeoJSON of an area."""
    date: str | None = None
    """As `raster.query.period` takes it."""
    provider: str | None = None
    stac: str | None = None
    """Address of another STAC API; with `items`, of the one that they came from, whose host may be private then."""
    collection: str | None = None
    max_cloud: float | None = None
    """In percent; None: 20."""
    limit: int | None = None
    """None: 10."""
    sort: str = "cloud"
    items: Path | None = None
    """What was saved before, instead of a search."""

    @property
    def place(self) -> Place | None:
        """Where; QueryError where that is told twice or is no place."""
        if self.bbox is not None and self.intersects is not None:
            raise QueryError("both --bbox and --intersects were given; one place is allowed. Leave one out.")
        if self.intersects is not None:
            return file_place(self.intersects)
        return None if self.bbox is None else box_place(self.bbox)


def select(wish: SearchRequest, *, to_fetch: bool) -> list[Candidate]:
    """The scenes that are wished for, best first. All that can be checked is checked before any request.

    Parameters
    ----------
    to_fetch : they are to be read too, for which some providers want a login.

    Raises
    ------
    QueryError, UnknownName, CredentialsError : a wish that cannot be met; no server was asked.
    NothingFound, RemoteError, AddressError : as `raster.catalogues.candidates`.
    """
    place = wish.place
    if wish.items is not None:
        return _saved(wish, wish.items, place, to_fetch=to_fetch)
    if place is None:
        raise QueryError(
            "no place was given; one is needed. Give --bbox W,S,E,N in degrees, or --intersects FILE.geojson."
        )
    if wish.date is None:
        raise QueryError("no date was given; one is needed. Give for example --date 2024-06 or 2024-06-01/2024-06-30.")
    provider = provider_named(wish.provider, wish.stac)
    query = Query(
        provider,
        provider.collection(wish.collection),
        place,
        period(wish.date),
        MAX_CLOUD if wish.max_cloud is None else wish.max_cloud,
        LIMIT if wish.limit is None else wish.limit,
        wish.sort,
    )
    if to_fetch:
        provider.check_credentials()
    return candidates(query)


def _saved(wish: SearchRequest, path: Path, place: Place | None, *, to_fetch: bool) -> list[Candidate]:
    searching = {
        "--date": wish.date,
        "--provider": wish.provider,
        "--collection": wish.collection,
        "--max-cloud": wish.max_cloud,
    }
    given = [option for option, value in searching.items() if value is not None]
    if given:
        raise QueryError(f"{', '.join(given)} with --items: what was saved is taken as it is. Leave {given[0]} out.")
    server = provider_named(None, wish.stac).url if wish.stac else None
    items = read_items(path, server)[: wish.limit]
    if to_fetch:
        for provider in {one.name: one for item in items if (one := provider_of(item))}.values():
            provider.check_credentials()
    found = [Candidate(item, 1.0 if place is None else coverage(item, place)) for item in items]
    inside = [one for one in found if one.coverage > 0]
    if not inside:
        raise NothingFound(
            f"{path}: none of its {len(items)} scenes covers any of the place; one is needed. Give another "
            "place, or none."
        )
    return inside


def table(found: Sequence[Candidate]) -> str:
    """The scenes as lines for people."""
    rows = [HEADINGS, *(_row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(one: Candidate) -> tuple[str, ...]:
    facts = one.facts
    cloud = "" if one.cloud is None else f"{one.cloud:.1f}"
    return facts["id"], facts["datetime"].replace("T", " ")[:16], facts["tile"], cloud, f"{100 * one.coverage:.0f}"


def as_json(found: Sequence[Candidate]) -> str:
    """The same as JSON."""
    return json.dumps([one.facts for one in found], indent=1)


def save(found: Sequence[Candidate], path: Path) -> None:
    """Keep the items for `--items`; OutputError if they cannot be written."""
    save_items(path, items_of(found))


def items_of(found: Sequence[Candidate]) -> list[Item]:
    """The items, in this order."""
    return [one.item for one in found]


@dataclass(frozen=True)
class SceneMatches:
    """The scenes of one product."""

    product: str
    """Its name, as that of a folder."""
    place: Place
    items: tuple[Item, ...]


def find_scene_matches(
    products: Sequence[Path], wish: SearchRequest, days: int, left_out: dict[str, str]
) -> Iterator[SceneMatches]:
    """For each product the scenes that cover some of it and were taken at most `days` calendar days (UTC) apart.

    Parameters
    ----------
    products : as `georeferenced.find_cubes` takes them.
    wish : all but place and date, which are the products'.
    left_out : takes up products without place, day or scene, by name, and why.

    Raises
    ------
    QueryError : a place or date was asked for too. DataError : nothing is at a path.
    NothingFound : none of the products has a place and a day.
    """
    given = {"--bbox": wish.bbox, "--intersects": wish.intersects, "--date": wish.date, "--items": wish.items}
    if told := [option for option, value in given.items() if value is not None]:
        raise QueryError(f"{', '.join(told)} with --for: the products tell place and day. Leave {told[0]} out.")
    cubes = find_cubes(products, left_out)
    if not cubes:
        raise NothingFound(
            "none of the products of --for tells its place and day; one is needed. Give EnMAP or EMIT products."
            + "\n  ".join(["", *left_out.values()])
        )
    for cube in cubes:
        place = _place(cube)
        first, last = cube.day - timedelta(days=days), cube.day + timedelta(days=days)
        try:
            found = select(replace(wish, bbox=place.bbox, date=f"{first}/{last}"), to_fetch=True)
        except NothingFound as error:
            left_out[cube.name] = str(error)
            continue
        yield SceneMatches(safe_name(cube.name), place, tuple(items_of(found)))


def _place(cube: GeoreferencedCube) -> Place:
    bounds = lonlat_bounds(cube.pixel_grid)
    assert bounds is not None  # noqa: S101 - placed cubes have a CRS
    return box_place(bounds)
