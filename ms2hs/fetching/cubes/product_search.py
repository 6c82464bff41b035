"""The search of a hyperspectral product, and the order of its passes.

A pass of the same season helps more than one of a near date, and a clear one more than both. Cloud cover and season are
compared in steps: the next criterion decides between passes that are nearly equal.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

from ms2hs.errors import NothingFound, QueryError
from ms2hs.fetching.cubes.products import Product
from ms2hs.fetching.selection import DEFAULT_LIMIT, SearchRequest, Selection, search_provider, select
from ms2hs.fetching.stac_search import Candidate
from ms2hs.remote.providers import provider_named
from ms2hs.scenes.stac_metadata import sensing_time

# EMIT and EnMAP began in 2022; Tanager followed.
EVERY_DATE = "2022/.."
CLOUD_STEP = 10.0
"""Cloud cover in percent."""
SEASON_STEP_DAYS = 30
YEAR_DAYS = 365.25


def select_passes(request: SearchRequest, product: Product, near: date | None = None, *, to_fetch: bool) -> Selection:
    """The passes of a product that match a request, best first.

    Parameters
    ----------
    request : as for `selection.select`; without a date every pass since 2022.
    near : order by cloud cover, then by season and distance of this day (`pass_order`); None: by `request.sort`.

    Raises
    ------
    QueryError, UnknownName, CredentialsError, NothingFound, RemoteError, AddressError : as `selection.select`.
    """
    if request.items is not None:
        return select(request, to_fetch=to_fetch)
    if not (request.stac or request.provider or product.provider):
        raise QueryError(
            f"--product {product.name} without a server; one is needed. Use --stac URL and --collection NAME."
        )
    own = None if request.stac or request.provider else product.provider
    provider = provider_named(request.provider or own, request.stac)
    collection = request.collection or product.collection or provider.collection()
    limit = DEFAULT_LIMIT if request.limit is None else request.limit
    request = replace(request, date=request.date or EVERY_DATE, limit=None if near else limit)
    try:
        found = search_provider(request, provider, collection, to_fetch=to_fetch)
    except NothingFound as error:
        hint = (
            ""
            if request.date == EVERY_DATE
            else " Without --date, every pass since 2022 counts; --near DAY sorts them."
        )
        raise NothingFound(f"{error}{hint}") from error
    if near is None:
        return found
    return replace(found, candidates=tuple(sorted(found.candidates, key=pass_order(near))[:limit]))


def pass_order(near: date) -> Callable[[Candidate], tuple[Any, ...]]:
    """The sort key of passes: clearest, then nearest in season, then nearest in date, then with the largest coverage.

    A pass without a cloud cover or a time comes after the passes that have one.
    """

    def key(candidate: Candidate) -> tuple[Any, ...]:
        time = sensing_time(candidate.item)
        days = abs((date.fromisoformat(time[:10]) - near).days) if time else 10**6
        season_days = min(days % YEAR_DAYS, YEAR_DAYS - days % YEAR_DAYS)
        cloud = 100 + CLOUD_STEP if candidate.cloud is None else candidate.cloud
        return cloud // CLOUD_STEP, season_days // SEASON_STEP_DAYS, days, -candidate.coverage, candidate.item["id"]

    return key
