"""Searches of STAC APIs and static catalogues, and items in files.

pystac-client pages through the results, with every request sent by our own client, so that links to further pages are
checked like all other addresses. A catalogue whose landing page offers no search is read by its links, and its items
are filtered here. Items stay JSON, which `parse_item` checks: a `pystac.Item` of an invalid item would
end the whole search.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from pystac_client import Client
from pystac_client.conformance import ConformanceClasses
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning

from ms2hs.errors import Ms2hsError, NothingFound, QueryError, RemoteError, SceneError
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import Period, SearchArea, parse_bbox, polygon_area
from ms2hs.files import NO_FILES, FileIds, read_json, write_bytes
from ms2hs.raster.dates import parse_time
from ms2hs.raster.header import number_of
from ms2hs.remote.client import DOCUMENT_ATTEMPTS, HttpRequest, WebClient, read_document
from ms2hs.remote.providers import Provider
from ms2hs.remote.static_catalogue import walk_items
from ms2hs.remote.url_policy import Access, shown, without_secrets
from ms2hs.scenes.stac_item import ORIGIN, without_untrusted_origin
from ms2hs.scenes.stac_metadata import Item, baseline, sensing_time, tile_of, valid_items

LOGGER = logging.getLogger(__name__)
PAGE_ITEMS = 100
# Limit of items read before sorting; a search of a town and a month returns some tens.
MAX_ITEMS = 2000
# Limit of a file of saved items, which holds up to MAX_ITEMS.
MAX_SAVED_BYTES = 100_000_000
CLOUD_COVER = "eo:cloud_cover"
# Planet's items have their own property.
CLOUD_KEYS = (CLOUD_COVER, "cloud_percent", "pl:cloud_percent")
AREA = "ms2hs:area"
"""Field of saved items with the area of their search."""


@dataclass(frozen=True)
class StacQuery:
    """A search of one collection."""

    provider: Provider
    collection: str
    area: SearchArea
    period: Period
    max_cloud: float | None = 20.0
    """Cloud cover of the whole scene in percent, from its metadata; None: any."""
    limit: int | None = 10
    """Maximum number of scenes, after sorting; None: all."""
    sort: str = "cloud"
    """A name in `SORT_KEYS`."""

    def __post_init__(self) -> None:
        """Raise QueryError for values that no server checks."""
        if self.sort not in SORT_KEYS:
            raise QueryError(
                f"scenes cannot be sorted by {self.sort!r}; {', '.join(SORT_KEYS)} are known. Use --sort cloud."
            )
        if self.max_cloud is not None and not 0 <= self.max_cloud <= 100:
            raise QueryError(f"a cloud cover of {self.max_cloud:g} %; 0 to 100 is needed. Use --max-cloud 20.")


@dataclass(frozen=True)
class Candidate:
    """An item, and the facts by which scenes are selected."""

    item: Item
    coverage: float
    """Share of the area that the item's footprint covers, 0 to 1."""

    @property
    def cloud(self) -> float | None:
        """Cloud cover of the whole scene in percent; None if unknown."""
        properties = self.item["properties"]
        cloud = next((properties[key] for key in CLOUD_KEYS if properties.get(key) is not None), None)
        percent = number_of(cloud)  # some of DLR's items have texts
        return percent if math.isfinite(percent) else None

    @property
    def time(self) -> str:
        """Sensing time in ISO 8601, to the second; empty if unknown."""
        return (sensing_time(self.item) or "")[:19]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that a listing shows."""
        return {
            "id": self.item["id"],
            "datetime": self.time,
            "tile": tile_of(self.item),
            "cloud_cover": self.cloud,
            "coverage": round(self.coverage, 3),
            "collection": str(self.item.get("collection") or ""),
        }


SORT_KEYS: dict[str, Callable[[Candidate], tuple[Any, ...]]] = {
    "cloud": lambda scene: (101.0 if scene.cloud is None else scene.cloud, -scene.coverage),
    "date": lambda scene: (tuple(-ord(character) for character in scene.time), -scene.coverage),  # newest first
    "coverage": lambda scene: (-scene.coverage, 101.0 if scene.cloud is None else scene.cloud),
}


def search(query: StacQuery, left_out: list[str] | None = None, client: WebClient | None = None) -> list[Candidate]:
    """The scenes that match, best first. Of a scene that was processed twice, only the newer version is returned.

    Parameters
    ----------
    left_out : receives a message for each invalid item, which does not stop the search.
    client : sends the requests; None: the default client.

    Raises
    ------
    NothingFound : no scene matches; the message says what to widen.
    RemoteError, AddressError : the server does not answer as a STAC API, or redirects to a refused address.
    """
    max_cloud = math.inf if query.max_cloud is None else query.max_cloud
    left_out = [] if left_out is None else left_out
    matches = [
        scene for scene in _read_candidates(query, left_out, client) if scene.cloud is None or scene.cloud <= max_cloud
    ]
    if not matches:
        cloud = "" if query.max_cloud is None else f" with at most {query.max_cloud:g} % cloud"
        higher = "" if query.max_cloud is None else ", give a higher --max-cloud"
        invalid = f" ({len(left_out)} invalid items, the first: {left_out[0]})" if left_out else ""
        raise NothingFound(
            f"{query.provider.name}, {query.collection}: no scene of this area within {query.period.text}{cloud}"
            f"{invalid}; at least one is needed. Widen --date or the area{higher}, or use another --provider or "
            "--collection."
        )
    ordered = sorted(_newest_versions(matches), key=lambda scene: (*SORT_KEYS[query.sort](scene), scene.item["id"]))
    LOGGER.debug(
        "%s, %s, %s: %d scenes with at most %g %% cloud, %d in their newest version, the first %s taken, by %s",
        *(query.provider.name, query.collection, query.period.text, len(matches), max_cloud, len(ordered)),
        *(query.limit or len(ordered), query.sort),
    )
    return ordered[: query.limit]


def _read_candidates(query: StacQuery, left_out: list[str] | None, client: WebClient | None) -> list[Candidate]:
    """Every item of the server whose footprint overlaps the area."""
    base = shown(query.provider.url)
    regions: list[dict[str, Any]] = [{"bbox": list(box)} for box in query.area.boxes]
    if query.area.geometry is not None:
        regions = [{"intersects": query.area.geometry}]
    try:
        # About conformance classes that we do not use. A context would also restore the filters of other threads.
        warnings.filterwarnings("ignore", category=PystacClientWarning)
        api = Client.open(query.provider.url, stac_io=_CheckedStacIO(base, client))
        is_static = api.get_search_link() is None and not api.conforms_to(ConformanceClasses.ITEM_SEARCH)
        if is_static:
            documents = walk_items(query.provider.url, query.collection, partial(_may_match, query), left_out)
        else:
            documents = [document for region in regions for document in _read_items(api, query, region)]
    except Ms2hsError:
        raise
    except Exception as error:  # noqa: BLE001 - pystac-client raises any error where a document has a wrong type
        raise RemoteError(
            f"{base}: the answer is not that of a STAC API ({_short_reason(error)}); a server with /search is needed. "
            "Try again later, or use another --provider."
        ) from None
    candidates: dict[str, Candidate] = {}
    for item in valid_items(documents, left_out):
        item[ORIGIN] = {"provider": query.provider.name, "url": base}
        candidate = Candidate(item, coverage(item, query.area))
        if candidate.coverage > 0 and (not is_static or query.period.contains(parse_time(candidate.time))):
            candidates.setdefault(item["id"], candidate)
    return list(candidates.values())


def _may_match(query: StacQuery, document: Mapping[str, Any]) -> bool:
    """Whether the extent of a catalogue or collection, where it has a valid one, reaches into the query's."""
    extent: Any = document.get("extent")
    try:
        box = extent["spatial"]["bbox"][0]
        start, end = (parse_time(str(time or "")) for time in extent["temporal"]["interval"][0])
        west, south, east, north = box if len(box) == 4 else (*box[:2], *box[3:5])
        is_near = any(
            max(west, a) <= min(east, c) and max(south, b) <= min(north, d) for a, b, c, d in query.area.boxes
        )
    except (TypeError, KeyError, IndexError, ValueError):
        return True
    return (is_near or west > east) and query.period.overlaps(start, end)


def _read_items(api: Client, query: StacQuery, region: Mapping[str, Any]) -> Iterator[Any]:
    options = dict(region)
    # Servers that do not support queries return clouded scenes too; `search` drops these.
    if query.max_cloud is not None and api.conforms_to(ConformanceClasses.QUERY):
        options["query"] = {CLOUD_COVER: {"lte": query.max_cloud}}
    results = api.search(
        collections=[query.collection], datetime=query.period.text, limit=PAGE_ITEMS, max_items=MAX_ITEMS + 1, **options
    )
    for count, item in enumerate(results.items_as_dicts()):
        if count == MAX_ITEMS:
            raise QueryError(
                f"{query.provider.name} has more than {MAX_ITEMS} scenes of this area within {query.period.text}; at "
                f"most {MAX_ITEMS} can be sorted. Narrow --date or the area, or give a lower --max-cloud."
            )
        yield item


def _newest_versions(candidates: list[Candidate]) -> list[Candidate]:
    """For each satellite, tile and minute the scene with the highest processing baseline."""
    newest: dict[tuple[str, ...], Candidate] = {}
    for scene in candidates:
        tile, platform = tile_of(scene.item), str(scene.item["properties"].get("platform", "")).lower()
        key = (platform, tile, scene.time[:16]) if tile and scene.time else (scene.item["id"],)
        if key not in newest or _version_key(scene.item) > _version_key(newest[key].item):
            newest[key] = scene
    return list(newest.values())


def _version_key(item: Item) -> tuple[str, str, str]:
    updated = str(item["properties"].get("updated") or item["properties"].get("created") or "")
    return baseline(item) or "", updated, item["id"]


class _CheckedStacIO(StacApiIO):
    """Sends the requests of pystac-client through our own client, which checks addresses and retries."""

    def __init__(self, base: str, client: WebClient | None) -> None:
        super().__init__()
        self.access, self.client = Access.to_host_of(base), client

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Send a request and return the text of the answer."""
        body = (parameters or {}) if (method or "GET").upper() == "POST" else None
        if body is None and parameters:
            href = str(requests.Request("GET", href, params=parameters).prepare().url)
        request = HttpRequest(href, self.access, headers or {}, body, DOCUMENT_ATTEMPTS)
        return read_document(request, self.client).decode()


def _short_reason(error: BaseException) -> str:
    """The first line of an error, without secrets and without the body of an answer."""
    status = getattr(error, "status_code", None)
    if status is not None:
        return f"status {status}"
    return without_secrets(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]


def write_items(
    path: Path,
    items: list[Item],
    area: SearchArea | None = None,
    *,
    overwrite: bool = True,
    inputs: FileIds = NO_FILES,
) -> None:
    """Write items and the area of their search as a STAC ItemCollection; the rest as in `files.move_into_place`."""
    place = {AREA: {"bbox": list(area.bbox), "geometry": area.geometry}} if area else {}
    document = {"type": "FeatureCollection", **place, "features": items}
    write_bytes(path, (json.dumps(document, indent=1) + "\n").encode(), overwrite=overwrite, inputs=inputs)


@dataclass(frozen=True)
class SavedItems:
    """The items in a file."""

    items: tuple[Item, ...]
    area: SearchArea | None
    """The area of the search that found them; None if the file has none."""
    left_out: tuple[str, ...]
    """One message for each invalid item."""


def read_items(path: Path, server: str | None = None) -> SavedItems:
    """The items in a file that holds an ItemCollection or one item.

    Parameters
    ----------
    server : the URL of the API that the items came from, as the user gives it. Its host may be private.

    Raises
    ------
    QueryError : the file cannot be read, or its area is invalid. SceneError : the file has no valid item.
    """
    try:
        document = read_json(path, MAX_SAVED_BYTES)
    except (OSError, ValueError, RecursionError) as error:
        raise QueryError(
            f"{path}: cannot be read as JSON ({error}); a file of STAC items is needed. Check it."
        ) from error
    is_collection = isinstance(document, dict) and document.get("type") == "FeatureCollection"
    documents = document.get("features") if is_collection else [document]
    if not isinstance(documents, list) or not documents:
        raise QueryError(f"{path}: has no items; at least one is needed. Write some with `ms2hs fetch … --save FILE`.")
    left_out: list[str] = []
    items = valid_items(documents, left_out)
    if not items:
        raise SceneError(f"{path}: {left_out[0]}")
    area = _saved_area(path, document.get(AREA)) if is_collection else None
    return SavedItems(tuple(without_untrusted_origin(item, server) for item in items), area, tuple(left_out))


def _saved_area(path: Path, place: Any) -> SearchArea | None:  # noqa: ANN401 - any JSON
    if place is None:
        return None
    try:
        area, geometry = parse_bbox([float(number) for number in place["bbox"]]), place.get("geometry")
        return SearchArea(area.bbox, geometry and polygon_area(geometry).geometry)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, QueryError) as error:
        raise QueryError(
            f"{path}: its area {AREA} is invalid ({error}); the area of a search is needed. Write the file again with "
            "`ms2hs fetch … --save FILE`, or give --bbox."
        ) from error
