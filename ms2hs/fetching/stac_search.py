"""Catalogues: asked for the items of a place and a time, and items kept in files."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
import requests
from pystac_client import Client, ItemSearch
from pystac_client.conformance import ConformanceClasses
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from ms2hs.errors import Ms2hsError, NothingFound, QueryError, RemoteError, SceneError
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import Period, Place
from ms2hs.files import write_whole
from ms2hs.remote.client import BRIEF, Access, Request, text_of
from ms2hs.remote.providers import Provider
from ms2hs.remote.url_policy import shown, without_secrets
from ms2hs.scenes.stac_item import ORIGIN, of_file
from ms2hs.scenes.stac_metadata import Item, baseline, check_item, tile_of

PAGE = 100
# Items that are looked at before sorting; a place and a month have some tens.
MOST_ITEMS = 2000
CLOUD = "eo:cloud_cover"


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    provider: Provider
    collection: str
    place: Place
    period: Period
    max_cloud: float | None = 20.0
    """Percent of a whole scene, as its metadata have it; None: any."""
    limit: int | None = 10
    """Scenes, after sorting; None: all."""
    sort: str = "cloud"
    """A name in `ORDERS`."""

    def __post_init__(self) -> None:
        """Refuse what no search can give."""
        if self.sort not in ORDERS:
            raise QueryError(
                f"scenes cannot be sorted by {self.sort!r}; {', '.join(ORDERS)} are known. Give --sort cloud."
            )
        if self.max_cloud is not None and not 0 <= self.max_cloud <= 100:
            raise QueryError(f"a cloud cover of {self.max_cloud:g} %; 0 to 100 is needed. Give --max-cloud 20.")


@dataclass(frozen=True)
class Candidate:
    """An item, and what one chooses by."""

    item: Item
    coverage: float
    """The share of the place that its footprint covers, 0 to 1."""

    @property
    def cloud(self) -> float | None:
        """Percent of the whole scene; None where it is not told."""
        told = self.item.get("properties", {}).get(CLOUD)
        return float(told) if isinstance(told, int | float) else None

    @property
    def time(self) -> str:
        """ISO 8601, to the second; empty where it is not told."""
        properties = self.item.get("properties", {})
        return str(properties.get("datetime") or properties.get("start_datetime") or "")[:19]

    @property
    def facts(self) -> dict[str, Any]:
        """What a list shows of it."""
        return {
            "id": str(self.item["id"]),
            "datetime": self.time,
            "tile": tile_of(self.item),
            "cloud_cover": self.cloud,
            "coverage": round(self.coverage, 3),
            "collection": str(self.item.get("collection") or ""),
        }


Order = Callable[[Candidate], tuple[Any, ...]]

ORDERS: dict[str, Order] = {
    "cloud": lambda one: (101.0 if one.cloud is None else one.cloud, -one.coverage),
    "date": lambda one: (tuple(-ord(sign) for sign in one.time), -one.coverage),  # the newest first
    "coverage": lambda one: (-one.coverage, 101.0 if one.cloud is None else one.cloud),
}


def search(query: Query) -> list[Item]:
    """The items that fit, best first; of a scene that was processed twice the later one.

    Raises
    ------
    NothingFound : none fits; the message says what to widen.
    RemoteError, AddressError : the server does not answer as a STAC API, or leads elsewhere.
    """
    return [candidate.item for candidate in candidates(query)]


def candidates(query: Query) -> list[Candidate]:
    """The same as `search`, with what one chooses by."""
    found = _asked(query)
    clear = [one for one in found if query.max_cloud is None or one.cloud is None or one.cloud <= query.max_cloud]
    if not clear:
        raise NothingFound(_told_nothing(query))
    ordered = sorted(_newest(clear), key=lambda one: (*ORDERS[query.sort](one), one.item["id"]))
    return ordered[: query.limit]


def _told_nothing(query: Query) -> str:
    cloud = "" if query.max_cloud is None else f" with at most {query.max_cloud:g} % cloud"
    higher = "" if query.max_cloud is None else ", give a higher --max-cloud"
    return (
        f"{query.provider.name}, {query.collection}: there is no scene of this place within "
        f"{query.period.text}{cloud}; "
        f"at least one is needed. Widen --date or the place{higher}, or ask another --provider or --collection."
    )


def _asked(query: Query) -> list[Candidate]:
    """Every item that the server gives and that covers some of the place."""
    base = shown(query.provider.url)
    areas: list[dict[str, Any]] = [{"bbox": list(box)} for box in query.place.boxes]
    if query.place.geometry is not None:
        areas = [{"intersects": query.place.geometry}]
    found: dict[str, Candidate] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a server's conformance page lacks: we use little of it
            client = Client.open(query.provider.url, stac_io=_Asking(base))
            for area in areas:
                for item in _items(client, query, area):
                    item[ORIGIN] = {"provider": query.provider.name, "url": base}
                    one = Candidate(item, coverage(item, query.place))
                    if one.coverage > 0:
                        found.setdefault(str(item["id"]), one)
    except Ms2hsError:
        raise
    except (APIError, pystac.STACError, requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise RemoteError(
            f"{base}: does not answer as a STAC API does ({_reason(error)}); one that has /search is needed. Try again "
            "later, or ask another --provider."
        ) from None
    return list(found.values())


def _items(client: Client, query: Query, area: Mapping[str, Any]) -> Iterator[Item]:
    wanted = dict(area)
    # Not every server can; what it leaves in is left out here.
    if query.max_cloud is not None and client.conforms_to(ConformanceClasses.QUERY):
        wanted["query"] = {CLOUD: {"lte": query.max_cloud}}
    asked: ItemSearch = client.search(
        collections=[query.collection], datetime=query.period.text, limit=PAGE, max_items=MOST_ITEMS + 1, **wanted
    )
    for count, item in enumerate(asked.items_as_dicts()):
        if count == MOST_ITEMS:
            raise QueryError(
                f"{query.provider.name} has more than {MOST_ITEMS} scenes of this place within {query.period.text}; "
                "fewer can be sorted. Narrow --date or the place, or give a lower --max-cloud."
            )
        try:
            check_item(item)
        except SceneError:  # what is no item is no answer
            continue
        yield item


def _newest(found: list[Candidate]) -> list[Candidate]:
    """Of those of one satellite, tile and minute the one of the highest processing baseline."""
    best: dict[tuple[str, ...], Candidate] = {}
    for one in found:
        tile, platform = tile_of(one.item), str(one.item.get("properties", {}).get("platform", "")).lower()
        key = (platform, tile, one.time[:16]) if tile and one.time else (str(one.item["id"]),)
        if key not in best or _stac_version(one.item) > _stac_version(best[key].item):
            best[key] = one
    return list(best.values())


def _stac_version(item: Item) -> tuple[str, str, str]:
    properties = item.get("properties", {})
    made = str(properties.get("updated") or properties.get("created") or "")
    return baseline(item) or "", made, str(item["id"])


class _Asking(StacApiIO):
    """Requests of pystac-client, as all others of ours: links to further pages come from the server too."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.access = Access.near(base)

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """As pystac-client calls it."""
        posted = (parameters or {}) if (method or "GET").upper() == "POST" else None
        if posted is None and parameters:
            href = str(requests.Request("GET", href, params=parameters).prepare().url)
        return text_of(Request(href, self.access, headers or {}, posted, BRIEF)).decode()


def _reason(error: BaseException) -> str:
    """What went wrong, short, and without addresses that may hold secrets; never the body of an answer."""
    status = getattr(error, "status_code", None)
    if status is not None:
        return f"status {status}"
    return without_secrets(str(error).splitlines()[0] if str(error) else type(error).__name__)[:200]


def save_items(path: Path, items: list[Item]) -> None:
    """Write items as a STAC ItemCollection, for `read_items`; OutputError if that fails."""
    write_whole(path, (json.dumps({"type": "FeatureCollection", "features": items}, indent=1) + "\n").encode())


def read_items(path: Path, server: str | None = None) -> list[Item]:
    """The items in a file: a collection of them, or one.

    Parameters
    ----------
    server : which the user says that they came from, as `stac.of_file` takes it.

    Raises
    ------
    QueryError : no such file, or something else is in it. SceneError : one of them is no item.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QueryError(
            f"{path}: not a file of items that can be read ({error}); JSON is needed. Check it."
        ) from error
    items = found.get("features") if isinstance(found, dict) and found.get("type") == "FeatureCollection" else [found]
    if not isinstance(items, list) or not items:
        raise QueryError(f"{path}: holds no items; at least one is needed. Save some with `ms2hs fetch … --save FILE`.")
    for item in items:
        check_item(item)
    return [of_file(item, server) for item in items]
