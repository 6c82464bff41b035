"""An item of a STAC catalogue as a scene: where its bands lie, and what their numbers mean."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rasterio.crs import CRS
from rasterio.errors import CRSError

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import DOCUMENT_ATTEMPTS, HttpRequest, read_document
from ms2hs.remote.providers import PROVIDERS, provider_of
from ms2hs.remote.url_policy import Access, check_address, host_of, is_public, resolved, shown
from ms2hs.scenes import radiometry
from ms2hs.scenes.bands import CIRRUS, check_bands, check_source, choose_bands, is_sentinel2
from ms2hs.scenes.quality import FMASK_FILL
from ms2hs.scenes.radiometry import SAFE_NODATA, Calibration, overridden
from ms2hs.scenes.safe import WORKING_GSD_M
from ms2hs.scenes.scene import Asset, Scene, SceneOptions
from ms2hs.scenes.stac_metadata import Band, Item, bands_of, check_item, pixel_size, quality_band, source_of

ORIGIN = "ms2hs:from"
"""What `search` adds to an item: `{"provider": name, "url": address}` of whom it asked."""


def base_of(item: Item) -> str | None:
    """Where an item came from: whom `search` asked, else its own link to a public host; None where neither is told.

    Anyone can write a link into an item, so that gives it no right to a private host.
    """
    if url := (item.get(ORIGIN) or {}).get("url"):
        return str(url)
    links = [str(link.get("href")) for link in item.get("links") or () if link.get("rel") == "self"]
    return next((link for link in links if _is_public(link)), None)


def of_file(item: Item, server: str | None = None) -> Item:
    """An item that was read from a file, without an origin that the file alone tells.

    The origin gives a right to its host. A public host needs none; a private one is believed where it is the provider's
    own, or `server`, which the user names.
    """
    told = item.get(ORIGIN)
    if not isinstance(told, dict):
        return {key: value for key, value in item.items() if key != ORIGIN}
    provider = PROVIDERS.get(str(told.get("provider")))
    own = {host_of(address) for address in (server, provider and provider.url) if address}
    url = str(told.get("url") or "")
    if host_of(url) in own or _is_public(url):
        return item
    return item | {ORIGIN: {key: value for key, value in told.items() if key != "url"}}


def _is_public(address: str) -> bool:
    return address.startswith(("https://", "http://")) and is_public(host_of(address))


def open_item(path: str, choices: SceneOptions | None = None) -> Scene:
    """The scene of a STAC item in a file, or at an address.

    Addresses in a file may be relative to it; then, and where no server is told that it came from, they may be those of
    files on this machine.

    Raises
    ------
    SceneError, AddressError : as `scene_of`. RemoteError, CredentialsError : the item cannot be read from its server.
    """
    is_web = path.startswith(("https://", "http://"))
    try:
        item = json.loads(_downloaded(path) if is_web else Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise SceneError(
            f"{shown(path)}: not a JSON document that can be read ({error}); a STAC item is needed. Check it."
        ) from error
    check_item(item)
    if is_web:
        item.pop(ORIGIN, None)  # what a server says of itself there is not ours
        return scene_of(item, path, choices)
    return scene_of(*_placed(of_file(item), Path(path).parent), choices)


def _downloaded(address: str) -> bytes:
    return read_document(HttpRequest(address, Access.to_host_of(address), attempts=DOCUMENT_ATTEMPTS))


def _placed(item: Item, folder: Path) -> tuple[Item, str | None]:
    """An item of the disk, with paths that are relative to it made whole, and where it came from."""
    relative = {
        key: asset | {"href": str((folder / asset["href"]).absolute())}
        for key, asset in item["assets"].items()
        if not urlsplit(str(asset.get("href", "/"))).scheme and not str(asset.get("href", "/")).startswith("/")
    }
    return item | {"assets": item["assets"] | relative}, None if relative else base_of(item)


def grid_of_file(href: str) -> PixelGrid:
    """The grid in the header of a file that GDAL opens by itself."""
    with open_dataset(href) as dataset:
        return read_pixel_grid(dataset)


def scene_of(
    item: Item,
    base: str | None,
    choices: SceneOptions | None = None,
    grid_at: Callable[[str], PixelGrid] = grid_of_file,
) -> Scene:
    """The scene that an item describes. No pixel is read, and no file opened where the item tells its grid.

    Parameters
    ----------
    item : a STAC item of version 0.9 to 1.1.
    base : the address that it came from, which relative addresses begin at; None: from the user's own disk.
    grid_at : asked for the grid of a file where the item does not tell it, such as where GDAL alone does not get in.

    Raises
    ------
    SceneError : not an item, of no sensor that can be converted, or without bands that are needed.
    AddressError : an asset's address must not be followed.
    """
    choices = choices or SceneOptions()
    own = check_item(item)
    source, guess = (check_source(choices.source), None) if choices.source else source_of(item)
    there = bands_of(item, source)
    if is_sentinel2(source) and CIRRUS in there:
        check_bands(list(there), source, own)
    names = choose_bands(
        there, source, choices.bands, where=own, lacks="the item has no asset of {}",
        remedy="Take another item, or name the bands to use with --bands.",
    )  # fmt: skip
    chosen = [there[name] for name in names]
    stored = _rule(item, source)(item, chosen, source)
    numbers = overridden(Calibration(stored.dn_scale, stored.dn_offset, stored.rule), choices.dn_offset)
    assets = tuple(
        Asset(name, _opened(band, base), band.position + 1, scale, offset, nodata)
        for name, band, scale, offset, nodata in zip(
            names, chosen, numbers.dn_scale, numbers.dn_offset, stored.nodata, strict=True
        )
    )
    quality, quality_rule = _quality(item, source, base) if choices.quality else (None, None)
    notes = [guess] if guess else []
    if choices.dn_offset is None:
        notes += stored.notes
    if choices.quality and quality is None:
        notes.append("The item has no layer that tells clouds (SCL, Fmask): clouds and shadows cannot be told.")
    return Scene(
        id=own,
        source=source,
        assets=assets,
        grid=_grid(item, chosen, assets, grid_at),
        offset_rule=f"{item.get('collection') or 'item'}: {numbers.rule}",
        quality=quality,
        quality_rule=quality_rule,
        datetime=_time(item),
        working_gsd_m=WORKING_GSD_M if is_sentinel2(source) else None,
        notes=tuple(notes),
    )


def _rule(item: Item, source: str) -> radiometry.Rule:
    told = item.get(ORIGIN) or {}
    provider = PROVIDERS.get(str(told.get("provider"))) or provider_of(item)
    known = provider.rules.get(str(item.get("collection"))) if provider else None
    return radiometry.RULES[known] if known else radiometry.rule_of(item, source)


def _opened(band: Band, base: str | None) -> str:
    """The address of an asset, after a check."""
    href = resolved(str(band.asset["href"]), base)
    check_address(href, base)
    return href


def _quality(item: Item, source: str, base: str | None) -> tuple[Asset | None, str | None]:
    """The layer that tells clouds, and the name of its rule."""
    band = quality_band(item, source)
    if band is None:
        return None, None
    name, fill = ("SCL", SAFE_NODATA) if is_sentinel2(source) else ("Fmask", FMASK_FILL)
    return Asset(name, _opened(band, base), 1, 1.0, 0.0, fill), name.lower()


def _grid(item: Item, chosen: list[Band], assets: tuple[Asset, ...], grid_at: Callable[[str], PixelGrid]) -> PixelGrid:
    """The finest grid among the bands, as the item tells it; else as the header of a file does."""
    told = [_told_grid(item, band.asset) for band in chosen]
    grids = [grid for grid in told if grid is not None]
    if len(grids) == len(chosen):
        return min(grids, key=lambda grid: abs(grid.transform[0]))
    finest = min(range(len(chosen)), key=lambda i: pixel_size(chosen[i].asset) or 0.0)
    return grid_at(assets[finest].href)


def _told_grid(item: Item, asset: Mapping[str, Any]) -> PixelGrid | None:
    """The grid that the projection extension tells; None where something is missing or it is not north up."""
    properties = item.get("properties") or {}
    facts = {key: asset.get(key, properties.get(key)) for key in ("proj:shape", "proj:transform", "proj:code")}
    epsg = asset.get("proj:epsg") or properties.get("proj:epsg")
    code = facts["proj:code"] or (f"EPSG:{epsg}" if epsg else None)
    shape: Sequence[int] = facts["proj:shape"] or ()
    numbers: Sequence[float] = facts["proj:transform"] or ()
    if code is None or len(shape) != 2 or len(numbers) not in {6, 9}:
        return None
    a, b, c, d, e, f = (float(number) for number in numbers[:6])
    # A raster of these catalogues is north up; otherwise GDAL's order of the six numbers was written.
    if not a > 0 > e or b != 0 or d != 0:
        return None
    try:
        crs = CRS.from_user_input(str(code)).to_string()
    except CRSError:
        return None
    return PixelGrid(crs, (a, b, c, d, e, f), int(shape[0]), int(shape[1]))


def _time(item: Item) -> str | None:
    properties = item.get("properties") or {}
    told = properties.get("datetime") or properties.get("start_datetime")
    return str(told) if told else None
