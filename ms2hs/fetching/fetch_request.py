"""What is requested of each item, where its files go, and which of them a previous run has already fetched."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ms2hs.errors import OutputError
from ms2hs.fetching.cropping import safe_name
from ms2hs.fetching.search_query import SearchArea
from ms2hs.fetching.sidecar import SceneState, scene_state
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
    """What decides the content of the output, as JSON values."""
    area: SearchArea | None
    provider: Provider | None
    base: str | None
    """Where the item came from, as `check_address` takes it."""
    is_native: bool
    is_complete: bool

    @property
    def staging_folder(self) -> Path:
        """Where bands are collected; the next run continues from its content."""
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
        name = safe_name(check_item(item))
        parameters = {
            "item": item["id"],
            "collection": item.get("collection"),
            "updated": item.get("properties", {}).get("updated"),
            "boxes": [list(box) for box in area.boxes] if area else None,
            "gsd_m": gsd_m,
        }
        if name in requests and requests[name].parameters != parameters:
            name = safe_name(f"{name}_{item.get('collection')}")
        origin = item.get(ORIGIN) or {}
        provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
        is_native = gsd_m == "native"
        request = FetchRequest(
            item, name, folder, parameters, area, provider, base_of(item), is_native, is_complete=False
        )
        requests[name] = _check_output(request, overwrite=overwrite)
    return list(requests.values())


def _check_output(request: FetchRequest, *, overwrite: bool) -> FetchRequest:
    """The request with `is_complete` set; OutputError where another file would be replaced."""
    state = scene_state(request.item_path, request.parameters)
    target = request.target_folder if request.is_native else request.scene_path
    if state is SceneState.MISSING and target.exists() and not request.staging_folder.exists():
        state = SceneState.DIFFERENT
    if state is SceneState.DIFFERENT and not overwrite:
        raise OutputError(
            f"{target} exists, with {state.value}; it is replaced only on request. Use --overwrite, or choose another "
            "directory."
        )
    is_complete = state is SceneState.COMPLETE and not overwrite
    if is_complete:
        shutil.rmtree(request.staging_folder, ignore_errors=True)
    return replace(request, is_complete=is_complete)
