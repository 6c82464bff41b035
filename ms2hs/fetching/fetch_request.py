"""What is asked of each item, where it goes, and what of it is there already."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ms2hs.errors import OutputError
from ms2hs.fetching.cropping import safe_name
from ms2hs.fetching.search_query import Place
from ms2hs.fetching.sidecar import State, state
from ms2hs.remote.client import Access
from ms2hs.remote.providers import PROVIDERS, Provider, access_to, provider_of
from ms2hs.scenes.stac_item import ORIGIN, base_of
from ms2hs.scenes.stac_metadata import check_item

Gsd = float | Literal["native"]
"""Ground sampling in m, or `native`: a file a band as it is."""


@dataclass(frozen=True, eq=False)
class Order:
    """One item, what is asked of it, and where it goes."""

    item: dict[str, Any]
    name: str
    folder: Path
    request: Mapping[str, Any]
    place: Place | None
    provider: Provider | None
    base: str | None
    is_native: bool
    is_whole: bool

    @property
    def part(self) -> Path:
        """Where it comes together; what is in it is taken up by the next run."""
        return self.folder / f".{self.name}.part"

    @property
    def home(self) -> Path:
        """The folder of the finished files."""
        return self.folder / self.name if self.is_native else self.folder

    @property
    def receipt(self) -> Path:
        """The item beside it."""
        return self.home / f"{self.name}.json"

    @property
    def path(self) -> Path:
        """What `convert` takes."""
        return self.receipt if self.is_native else self.folder / f"{self.name}.tif"

    @property
    def access(self) -> Access:
        """To its files."""
        return access_to(self.base, () if self.provider is None else (self.provider,))


def requests_for(
    items: Sequence[dict[str, Any]], place: Place | None, folder: Path, gsd_m: Gsd, *, overwrite: bool
) -> list[Order]:
    """What is to be fetched, after a look at what is there; an item that is given twice counts once."""
    found: dict[str, Order] = {}
    for item in items:
        name = safe_name(check_item(item))
        request = {
            "item": item["id"],
            "collection": item.get("collection"),
            "updated": item.get("properties", {}).get("updated"),
            "boxes": [list(box) for box in place.boxes] if place else None,
            "gsd_m": gsd_m,
        }
        if name in found and found[name].request != request:
            name = safe_name(f"{name}_{item.get('collection')}")
        origin = item.get(ORIGIN) or {}
        base = base_of(item)
        provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
        is_native = gsd_m == "native"
        one = Order(item, name, folder, request, place, provider, base, is_native, is_whole=False)
        found[name] = _looked_at(one, overwrite=overwrite)
    return list(found.values())


def _looked_at(one: Order, *, overwrite: bool) -> Order:
    """The same, knowing whether it is whole; OutputError where something else is in its place."""
    there = state(one.receipt, one.request)
    target = one.home if one.is_native else one.path
    if there is State.MISSING and target.exists() and not one.part.exists():
        there = State.OTHER
    if there is State.OTHER and not overwrite:
        raise OutputError(
            f"{target} is there, but of {there.value}; it is replaced only when asked. Pass --overwrite, or give "
            "another directory."
        )
    is_whole = there is State.WHOLE and not overwrite
    if is_whole:
        shutil.rmtree(one.part, ignore_errors=True)
    return replace(one, is_whole=is_whole)
