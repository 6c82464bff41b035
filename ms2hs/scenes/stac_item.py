"""An item of a STAC catalogue as a scene: the files of its bands, and the meaning of their numbers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from ms2hs.scenes.bands import check_bands, choose_bands, match_names
from ms2hs.scenes.quality import QUALITY_LAYERS, quality_note
from ms2hs.scenes.radiometry import rule_of_item
from ms2hs.scenes.scene import Asset, Scene, SceneOptions
from ms2hs.scenes.stac_metadata import Band, Item, bands_of, check_item, declaration, pixel_size, quality_of, source_of
from ms2hs.spectra.sensors import load_sensor

ORIGIN = "ms2hs:from"
"""Field that the search adds to an item, with its server: `{"provider": name, "url": address}`."""
WEB = ("https://", "http://")


def base_of(item: Item) -> str | None:
    """The address of an item: the server of the search, else its own link to a public host; None if neither is known.

    Anyone can write a link into an item, so a link gives no access to a private host.
    """
    if url := (item.get(ORIGIN) or {}).get("url"):
        return str(url)
    links = [str(link.get("href")) for link in item.get("links") or () if link.get("rel") == "self"]
    return next((link for link in links if _is_public(link)), None)


def of_file(item: Item, server: str | None = None) -> Item:
    """An item read from a file, without an origin that is not trusted.

    The origin gives access to its host, and any file can claim an origin. A private host is therefore accepted only if
    it is the provider's own, or the host of `server`, which the user gives.
    """
    origin = item.get(ORIGIN)
    if not isinstance(origin, dict):
        return {key: value for key, value in item.items() if key != ORIGIN}
    provider = PROVIDERS.get(str(origin.get("provider")))
    trusted = {host_of(address) for address in (server, provider and provider.url) if address}
    url = str(origin.get("url") or "")
    if host_of(url) in trusted or _is_public(url):
        return item
    return item | {ORIGIN: {key: value for key, value in origin.items() if key != "url"}}


def _is_public(address: str) -> bool:
    return address.startswith(WEB) and is_public(host_of(address))


def open_item(path: str, options: SceneOptions | None = None) -> Scene:
    """The scene of a STAC item in a file, or at a web address.

    Asset addresses in a file may be relative to the file. Only then, or if the item's server is unknown, may they be
    files on this machine.

    Raises
    ------
    SceneError, AddressError : as `scene_of`. RemoteError, CredentialsError : the server does not deliver the item.
    """
    if options is not None and options.granule is not None:
        raise SceneError(
            f"{shown(path)}: --granule {options.granule}, but an item is one scene; a product with several granules is "
            "required. Remove --granule."
        )
    is_web = path.startswith(WEB)
    try:
        if is_web:
            item = json.loads(read_document(HttpRequest(path, Access.to_host_of(path), attempts=DOCUMENT_ATTEMPTS)))
        else:
            item = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise SceneError(
            f"{shown(path)}: not a readable JSON document ({error}); a STAC item is required. Check the path."
        ) from error
    check_item(item)
    if is_web:
        item.pop(ORIGIN, None)  # only the search of ms2hs may set the origin
        return scene_of(item, path, options)
    return scene_of(*_with_local_paths(of_file(item), Path(path).parent), options)


def _with_local_paths(item: Item, folder: Path) -> tuple[Item, str | None]:
    """An item with absolute paths instead of relative ones, and its address; None if it had relative paths."""
    relative = {
        key: asset | {"href": str((folder / asset["href"]).absolute())}
        for key, asset in item["assets"].items()
        if not urlsplit(str(asset.get("href", "/"))).scheme and not str(asset.get("href", "/")).startswith("/")
    }
    return item | {"assets": item["assets"] | relative}, None if relative else base_of(item)


def grid_of_file(href: str) -> PixelGrid:
    """The pixel grid in the header of a file that GDAL opens."""
    with open_dataset(href) as dataset:
        return read_pixel_grid(dataset)


def scene_of(
    item: Item,
    base: str | None,
    options: SceneOptions | None = None,
    grid_at: Callable[[str], PixelGrid] = grid_of_file,
) -> Scene:
    """The scene that an item describes. Reads no pixel, and opens no file if the item contains its pixel grid.

    Parameters
    ----------
    item : a STAC item of version 0.9 to 1.1.
    base : the item's address, from which relative addresses start; None for an item on the user's own disk.
    grid_at : reads the pixel grid of a file if the item lacks it; for servers that GDAL alone cannot read.

    Raises
    ------
    SceneError : not an item, not of a convertible sensor, or without required bands.
    AddressError : the address of an asset is not allowed.
    """
    options = options or SceneOptions()
    item_id = check_item(item)
    source, note = (options.source, None) if options.source else source_of(item)
    found = bands_of(item, source)
    sensor = load_sensor(source)
    if sensor.toa_band is not None and sensor.toa_band[0] in found:
        check_bands(list(found), source, item_id)
    own = match_names(list(found), source)
    available = {name: band for name, band in zip(own, found.values(), strict=True) if name is not None}
    names = choose_bands(
        available, source, options.bands, where=item_id, lacks="the item has no asset of {}",
        remedy="Use another item, or give the bands to use with --bands.",
    )  # fmt: skip
    chosen = [available[name] for name in names]
    rule = rule_of_item(declaration(item, chosen, source), _archive_rule(item), options, item_id)
    hrefs = [_checked_href(band, base) for band in chosen]
    assets = rule.assets(names, hrefs, [band.position + 1 for band in chosen])
    assets = tuple(replace(asset, label=band.key) for asset, band in zip(assets, chosen, strict=True))
    layers = [
        QUALITY_LAYERS[name].asset(_checked_href(band, base), band.position + 1)
        for name, band in quality_of(item, source)[:1]
    ]
    properties = item.get("properties") or {}
    time = properties.get("datetime") or properties.get("start_datetime")
    notes = [*filter(None, [note]), *rule.notes]
    return Scene(
        id=item_id,
        source=source,
        assets=assets,
        grid=_grid(item, chosen, assets, grid_at),
        offset_rule=f"{item.get('collection') or 'item'}: {rule.description}",
        rule_origin=rule.origin,
        quality=tuple(layers) if options.quality else (),
        quality_note=quality_note(next(iter(layers), None), "the item", wanted=options.quality),
        datetime=str(time) if time else None,
        working_gsd_m=sensor.working_gsd_m,
        notes=tuple(notes),
    )


def _archive_rule(item: Item) -> str | None:
    """The radiometric rule of the item's collection; None for an unknown archive or collection."""
    origin = item.get(ORIGIN) or {}
    provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
    return provider.rules.get(str(item.get("collection"))) if provider else None


def _checked_href(band: Band, base: str | None) -> str:
    """The absolute address of an asset; AddressError if it is not allowed."""
    href = resolved(str(band.asset["href"]), base)
    check_address(href, base)
    return href


def _grid(item: Item, bands: list[Band], assets: tuple[Asset, ...], grid_at: Callable[[str], PixelGrid]) -> PixelGrid:
    """The finest grid among the bands, by the item; else by the header of a file."""
    grids = [grid for band in bands if (grid := _declared_grid(item, band.asset)) is not None]
    if len(grids) == len(bands):
        return min(grids, key=lambda grid: abs(grid.transform[0]))
    finest = min(range(len(bands)), key=lambda i: pixel_size(bands[i].asset) or 0.0)
    return grid_at(assets[finest].href)


def _declared_grid(item: Item, asset: Mapping[str, Any]) -> PixelGrid | None:
    """The grid by the projection extension; None if it is incomplete or not north up."""
    properties = item.get("properties") or {}
    fields = {**properties, **asset}
    epsg = asset.get("proj:epsg") or properties.get("proj:epsg")
    code = fields.get("proj:code") or (f"EPSG:{epsg}" if epsg else None)
    shape: Sequence[int] = fields.get("proj:shape") or ()
    numbers: Sequence[float] = fields.get("proj:transform") or ()
    if code is None or len(shape) != 2 or len(numbers) not in {6, 9}:
        return None
    a, b, c, d, e, f = (float(number) for number in numbers[:6])
    # These rasters are north up. Another order means that the item has GDAL's order of the six numbers.
    if not a > 0 > e or b != 0 or d != 0:
        return None
    try:
        crs = CRS.from_user_input(str(code)).to_string()
    except CRSError:
        return None
    return PixelGrid(crs, (a, b, c, d, e, f), int(shape[0]), int(shape[1]))
