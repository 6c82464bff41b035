"""The part of each item that is requested, its output paths, and whether a previous run completed them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from ms2hs.fetching.search_query import SearchArea
from ms2hs.fetching.sidecar import is_output_complete
from ms2hs.fetching.staged_scene import check_staging, remove_staging
from ms2hs.files import file_name
from ms2hs.remote.providers import PROVIDERS, Provider, access_to, provider_of
from ms2hs.remote.url_policy import Access
from ms2hs.scenes.stac_item import ORIGIN, base_of
from ms2hs.scenes.stac_metadata import Item

Gsd = float | Literal["native"]
"""Ground sampling in m, or `native`: one file per band, with unchanged pixels."""


@dataclass(frozen=True, eq=False)
class FetchRequest:
    """One item, the part of it that is requested, and its output paths."""

    item: dict[str, Any]
    name: str
    folder: Path
    parameters: Mapping[str, Any]
    """All choices that determine the content of the output, as JSON values."""
    area: SearchArea | None
    provider: Provider | None
    base: str | None
    """Address of the item, as `check_address` takes it."""
    is_native: bool
    overwrite: bool
    is_complete: bool = False

    @property
    def staging_folder(self) -> Path:
        """Folder of the bands fetched so far, from which the next run continues."""
        return self.folder / f".{self.name}.part"

    @property
    def target_folder(self) -> Path:
        """The folder of the finished files."""
        return self.folder / self.name if self.is_native else self.folder

    @property
    def item_path(self) -> Path:
        """The STAC item beside the finished files."""
        return self.target_folder / f"{self.name}.json"

    @property
    def scene_path(self) -> Path:
        """The path to give to `convert`."""
        return self.item_path if self.is_native else self.folder / f"{self.name}.tif"

    @property
    def access(self) -> Access:
        """Address checks and credentials for the item's files."""
        return access_to(self.base, () if self.provider is None else (self.provider,))


def _names(item: Item) -> Iterator[str]:
    """Names for the output of an item: its id, then names that also depend on its collection and its version."""
    name, collection, updated = item["id"], item.get("collection"), item["properties"].get("updated")
    yield file_name(name)
    yield file_name(f"{name}_{collection}")
    yield from (file_name(f"{name}_{collection}_{updated}_{number}") for number in count())


def plan_requests(
    items: Sequence[Item], area: SearchArea | None, folder: Path, gsd_m: Gsd | None, *, overwrite: bool
) -> list[FetchRequest]:
    """One request for each distinct item; requests that a previous run completed are marked.

    Parameters
    ----------
    gsd_m : None for hyperspectral items, which become one cube on their own grid.

    Raises
    ------
    OutputError : another file has the name of an output, and `overwrite` is False.
    """
    requests: dict[str, FetchRequest] = {}
    for item in items:
        parameters = {
            "item": item["id"],
            "collection": item.get("collection"),
            "updated": item["properties"].get("updated"),
            "boxes": [list(box) for box in area.boxes] if area else None,
            "gsd_m": gsd_m,
        }
        name = next(name for name in _names(item) if name not in requests or requests[name].parameters == parameters)
        origin = item.get(ORIGIN) or {}
        provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
        is_native = gsd_m == "native"
        request = FetchRequest(
            item, name, folder, parameters, area, provider, base_of(item), is_native, overwrite=overwrite
        )
        target, staging = request.target_folder if is_native else request.scene_path, request.staging_folder
        check_staging(staging)
        if is_output_complete(target, request.item_path, staging, parameters, overwrite=overwrite):
            request = replace(request, is_complete=True)
            remove_staging(staging)
        requests[name] = request
    return list(requests.values())
