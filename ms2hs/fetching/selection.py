"""The selection of scenes by a user's request or by hyperspectral products, and its table for the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.errors import NothingFound, QueryError, visible
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import SearchArea, parse_bbox, parse_period, read_geojson
from ms2hs.fetching.stac_search import MAX_ITEMS, Candidate, StacQuery, read_items, search
from ms2hs.files import file_name
from ms2hs.raster.pixel_grid import lonlat_bounds
from ms2hs.remote.providers import Provider, provider_named, provider_of
from ms2hs.scenes.stac_metadata import Item

DEFAULT_MAX_CLOUD, DEFAULT_LIMIT = 20.0, 10
# Share of an area from which a footprint covers it; shares are accurate to about 1 %.
COVERING = 0.99


@dataclass(frozen=True)
class SearchRequest:
    """A search as the user wrote it; None for options that were not given."""

    bbox: Sequence[float] | None = None
    """West, south, east, north in degrees."""
    intersects: Path | None = None
    """GeoJSON file of an area."""
    date: str | None = None
    """As `search_query.parse_period` takes it."""
    provider: str | None = None
    stac: str | None = None
    """URL of another STAC API; with `items`, the API that they came from, whose host may be private."""
    collection: str | None = None
    max_cloud: float | None = None
    """In percent; the default is 20."""
    limit: int | None = None
    """The default is 10."""
    sort: str = "cloud"
    items: Path | None = None
    """A file of saved items, used instead of a search."""

    @property
    def given_area(self) -> SearchArea | None:
        """The area of `bbox` or `intersects`; QueryError if both are given or the area is invalid."""
        if self.bbox is not None and self.intersects is not None:
            raise QueryError("both --bbox and --intersects were given; one area is allowed. Leave one out.")
        if self.intersects is not None:
            return read_geojson(self.intersects)
        return None if self.bbox is None else parse_bbox(self.bbox)


@dataclass(frozen=True)
class Selection:
    """The scenes that match a request."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    area: SearchArea | None
    """The requested area, else the area of the search that found the saved items; None: whole scenes."""
    left_out: tuple[str, ...] = ()
    """One message for each invalid item."""

    @property
    def items(self) -> list[Item]:
        """The STAC items of the scenes."""
        return [candidate.item for candidate in self.candidates]


def select(request: SearchRequest, *, to_fetch: bool) -> Selection:
    """The scenes that match a request. Everything is checked before the first HTTP request.

    Parameters
    ----------
    to_fetch : whether files will be read, which needs credentials at some providers.

    Raises
    ------
    QueryError, UnknownName, CredentialsError : an invalid request; no server was contacted.
    NothingFound, RemoteError, AddressError : as `stac_search.search`.
    """
    if request.items is not None:
        return _select_saved(request, request.items, request.given_area, to_fetch=to_fetch)
    if request.date is None:
        _check_area(request.given_area)
        raise QueryError("no date was given; one is needed. Use for example --date 2024-06 or 2024-06-01/2024-06-30.")
    provider = provider_named(request.provider, request.stac)
    limited = replace(request, limit=DEFAULT_LIMIT if request.limit is None else request.limit)
    return search_provider(limited, provider, provider.collection(request.collection), to_fetch=to_fetch)


def search_provider(request: SearchRequest, provider: Provider, collection: str, *, to_fetch: bool) -> Selection:
    """The scenes of a collection that match a request with an area and a date; the rest as in `select`.

    Without a limit all of them.
    """
    area = _check_area(request.given_area)
    query = StacQuery(
        provider,
        collection,
        area,
        parse_period(request.date or ""),
        DEFAULT_MAX_CLOUD if request.max_cloud is None else request.max_cloud,
        request.limit,
        request.sort,
    )
    if to_fetch:
        provider.check_credentials()
    left_out: list[str] = []
    return Selection(tuple(search(query, left_out)), area, tuple(left_out))


def select_clearest(request: SearchRequest, *, to_fetch: bool) -> Selection:
    """The scene with the lowest cloud cover that covers the whole area of a request; the rest as in `select`.

    Raises
    ------
    NothingFound : also if every scene covers only a part.
    """
    found = select(replace(request, limit=MAX_ITEMS, sort="cloud"), to_fetch=to_fetch)
    clearest = next((candidate for candidate in found.candidates if candidate.coverage >= COVERING), None)
    if clearest is None:
        most = max(candidate.coverage for candidate in found.candidates)
        raise NothingFound(
            f"none of {len(found.candidates)} scenes covers the whole area, at most {100 * most:.0f} %; one that does "
            "is needed. Give a smaller --bbox or a longer --date, or combine scenes with `ms2hs fetch … --mosaic` and "
            "convert the result."
        )
    return replace(found, candidates=(clearest,))


def _check_area(area: SearchArea | None) -> SearchArea:
    if area is None:
        raise QueryError(
            "no area was given; one is needed. Use --bbox W,S,E,N in degrees, or --intersects FILE.geojson."
        )
    return area


def _select_saved(request: SearchRequest, path: Path, area: SearchArea | None, *, to_fetch: bool) -> Selection:
    options = ("date", "provider", "collection", "max_cloud")
    _refuse_options(request, options, "--items: saved items are not searched again")
    server = provider_named(None, request.stac).url if request.stac else None
    saved = read_items(path, server)
    items, area = saved.items[: request.limit], area or saved.area
    if to_fetch:
        for provider in filter(None, map(provider_of, items)):
            provider.check_credentials()
    candidates = [Candidate(item, 1.0 if area is None else coverage(item, area)) for item in items]
    covering = tuple(candidate for candidate in candidates if candidate.coverage > 0)
    if not covering:
        raise NothingFound(
            f"{path}: none of its {len(items)} scenes covers the area; at least one is needed. Give another area "
            "with --bbox."
        )
    return Selection(covering, area, saved.left_out)


def format_table(candidates: Sequence[Candidate]) -> str:
    """The scenes as an aligned text table, one line per scene."""
    rows = [("scene", "time", "tile", "cloud %", "covers %")]
    for candidate in candidates:
        facts = candidate.facts
        cloud = "" if candidate.cloud is None else f"{candidate.cloud:.1f}"
        time = facts["datetime"].replace("T", " ")[:16]
        rows.append((visible(facts["id"]), visible(time), facts["tile"], cloud, f"{100 * candidate.coverage:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _refuse_options(request: SearchRequest, names: Iterable[str], reason: str) -> None:
    """Raise QueryError if one of these options was given."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(request, name) is not None]
    if given:
        raise QueryError(f"{', '.join(given)} with {reason}. Leave {given[0]} out.")


@dataclass(frozen=True)
class SceneMatches:
    """The scenes that match one hyperspectral product."""

    product: str
    """Name of the product, usable as a folder name."""
    area: SearchArea
    items: tuple[Item, ...]


def find_scene_matches(
    products: Sequence[Path], request: SearchRequest, days: int, left_out: dict[str, str]
) -> Iterator[SceneMatches]:
    """For each product the scenes that overlap it and were taken at most `days` calendar days (UTC) apart.

    Parameters
    ----------
    products : as `georeferenced.find_cubes` takes them.
    request : without area and date, which come from the products.
    left_out : receives products without position, day or scene, and invalid items, with the reason.

    Raises
    ------
    QueryError : the request has an area or a date. DataError : a path has no product.
    NothingFound : no product has a position and a day.
    """
    _refuse_options(request, ("bbox", "intersects", "date", "items"), "--for: the products give area and date")
    cubes = find_cubes(products, left_out)
    if not cubes:
        raise NothingFound(
            "none of the products of --for has a position and a day; at least one is needed. Give EnMAP or EMIT "
            "products." + "\n  ".join(["", *left_out.values()])
        )
    for cube in cubes:
        bounds = lonlat_bounds(cube.pixel_grid)
        assert bounds is not None  # noqa: S101 - georeferenced cubes have a CRS
        area = parse_bbox(bounds)
        first, last = cube.day - timedelta(days=days), cube.day + timedelta(days=days)
        try:
            found = select(replace(request, bbox=area.bbox, date=f"{first}/{last}"), to_fetch=True)
        except NothingFound as error:
            left_out[cube.name] = str(error)
            continue
        left_out |= {message: message for message in found.left_out}
        yield SceneMatches(file_name(cube.name), area, tuple(found.items))
