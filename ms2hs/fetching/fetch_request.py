"""The part of each item that is requested, its output paths, and whether a previous run completed them."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ms2hs.fetching.search_query import SearchArea
from ms2hs.fetching.sidecar import is_output_complete
from ms2hs.files import file_name
from ms2hs.remote.providers import PROVIDERS, Provider, access_to, provider_of
from ms2hs.remote.url_policy import Access
from ms2hs.scenes.stac_item import ORIGIN, base_of
from ms2hs.scenes.stac_metadata import check_item

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
    is_complete: bool

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


def plan_requests(
    items: Sequence[dict[str, Any]], area: SearchArea | None, folder: Path, gsd_m: Gsd, *, overwrite: bool
) -> list[FetchRequest]:
    """One request for each distinct item; requests that a previous run completed are marked.

    Raises
    ------
    OutputError : another file has the name of an output, and `overwrite` is False.
    """
    requests: dict[str, FetchRequest] = {}
    for item in items:
        name = check_item(item)
        parameters = {
            "item": item["id"],
            "collection": item.get("collection"),
            "updated": item.get("properties", {}).get("updated"),
            "boxes": [list(box) for box in area.boxes] if area else None,
            "gsd_m": gsd_m,
        }
        if name in requests and requests[name].parameters != parameters:
            name = file_name(f"{name}_{item.get('collection')}")
        origin = item.get(ORIGIN) or {}
        provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
        is_native = gsd_m == "native"
        request = FetchRequest(
            item, name, folder, parameters, area, provider, base_of(item), is_native, is_complete=False
        )
        target, staging = request.target_folder if is_native else request.scene_path, request.staging_folder
        if is_output_complete(target, request.item_path, staging, parameters, overwrite=overwrite):
            request = replace(request, is_complete=True)
            shutil.rmtree(staging, ignore_errors=True)
        requests[name] = request
    return list(requests.values())
