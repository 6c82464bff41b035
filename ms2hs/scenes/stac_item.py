"""An item of a STAC catalogue as a scene: the files of its bands, and the meaning of their numbers; bands of a cube.

The bands of a cube stand twice in an item: `bands` of STAC 1.1, and `eo:bands` of the eo extension 1.1. odc-stac reads
number, type and nodata of bands from the former, and takes names and common names from the latter only.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ms2hs.errors import SceneError
from ms2hs.files import read_json
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.client import DOCUMENT_ATTEMPTS, MAX_DOCUMENT_BYTES, HttpRequest, read_document
from ms2hs.remote.hosts import is_public
from ms2hs.remote.providers import PROVIDERS, provider_of
from ms2hs.remote.url_policy import Access, check_address, host_of, resolved, shown
from ms2hs.scenes.bands import check_bands, choose_bands, match_names
from ms2hs.scenes.quality import QUALITY_LAYERS, quality_note
from ms2hs.scenes.radiometry import rule_of_item
from ms2hs.scenes.scene import Asset, Scene, SceneOptions
from ms2hs.scenes.stac_metadata import (
    Band,
    Item,
    bands_of,
    declaration,
    parse_item,
    pixel_size,
    quality_of,
    scene_name,
    sensing_time,
    source_of,
)
from ms2hs.spectra.sensors import COMMON_NAMES_NM, RGB_REACH_NM, load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

ORIGIN = "ms2hs:from"
"""Field that the search adds to an item, with its server: `{"provider": name, "url": address}`."""
WEB = ("https://", "http://")
# One of these bands gives the grid of a scene: they are the finest bands of Sentinel-2.
FINEST_BANDS = ("B02", "B03", "B04")


def base_of(item: Item) -> str | None:
    """The address of an item: the server of the search, else its own link to a public host; None if neither is known.

    Anyone can write a link into an item, so a link gives no access to a private host.
    """
    if url := (item.get(ORIGIN) or {}).get("url"):
        return str(url)
    links = [str(link.get("href")) for link in item.get("links") or () if link.get("rel") == "self"]
    return next((link for link in links if _is_public(link)), None)


def without_untrusted_origin(item: Item, server: str | None = None) -> Item:
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
            text = read_document(HttpRequest(path, Access.to_host_of(path), attempts=DOCUMENT_ATTEMPTS))
            document = json.loads(text)
        else:
            document = read_json(Path(path), MAX_DOCUMENT_BYTES)
    except (OSError, ValueError, RecursionError) as error:
        raise SceneError(
            f"{shown(path)}: not a readable JSON document ({error}); a STAC item is required. Check the path."
        ) from error
    try:
        item = parse_item(document)
    except SceneError as error:
        raise SceneError(f"{shown(path)}: {error}") from error
    if is_web:
        item.pop(ORIGIN, None)  # only the search of ms2hs may set the origin
        scene = scene_of(item, path, options)
    else:
        scene = scene_of(*_with_local_paths(without_untrusted_origin(item), Path(path).parent), options)
    return replace(scene, item=path)


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
    """The scene that an item describes. Reads no pixel, and of one file the header.

    The header gives the pixel grid: what the item declares may be wrong, and its CRS may be an address.

    Parameters
    ----------
    item : a STAC item of version 0.9 to 1.1.
    base : the item's address, from which relative addresses start; None for an item on the user's own disk.
    grid_at : reads the pixel grid of a file; for servers that GDAL alone cannot read.

    Raises
    ------
    SceneError : not an item, not of a convertible sensor, or without required bands.
    AddressError : the address of an asset is not allowed.
    """
    options = options or SceneOptions()
    item = parse_item(item)
    item_id = scene_name(item)
    source, note = (options.source, None) if options.source else source_of(item)
    found = bands_of(item, source)
    sensor = load_sensor(source)
    if sensor.toa_band is not None and sensor.toa_band[0] in found:
        check_bands(list(found), source, item_id)
    own = match_names(list(found), source)
    available = {name or other: band for name, (other, band) in zip(own, found.items(), strict=True)}
    names = choose_bands(
        available, source, options.bands, where=item_id, lacks="the item has no asset of {}",
        remedy="Use another item, or give the bands to use with --bands of `ms2hs convert`.",
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
    finest = _finest(chosen, assets)
    grid = grid_at(assets[finest].href)
    notes = [*filter(None, [note, _contradiction(item, chosen[finest], grid)]), *rule.notes]
    return Scene(
        id=item_id,
        source=source,
        assets=assets,
        grid=grid,
        offset_rule=f"{item.get('collection') or 'item'}: {rule.description}",
        rule_origin=rule.origin,
        quality=tuple(layers) if options.quality else (),
        quality_note=quality_note(next(iter(layers), None), "the item", wanted=options.quality),
        datetime=sensing_time(item),
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


def _finest(bands: Sequence[Band], assets: Sequence[Asset]) -> int:
    """Position of the band with the finest pixels: by its name, else by what the item declares."""
    named = [position for position, asset in enumerate(assets) if asset.name in FINEST_BANDS]
    return named[0] if named else min(range(len(bands)), key=lambda i: pixel_size(bands[i].asset) or 0.0)


def _contradiction(item: Item, band: Band, grid: PixelGrid) -> str | None:
    """A note if the item declares another shape or corner than the file has; None if they agree."""
    fields = item["properties"] | dict(band.asset)
    shape, numbers = fields.get("proj:shape"), fields.get("proj:transform")
    (col_size, _, west, _, row_size, north), found = grid.transform, []
    if shape and shape != [grid.height, grid.width]:
        found.append(f"{shape[0]} x {shape[1]} pixels instead of {grid.height} x {grid.width}")
    # The corner in the order of STAC, or in GDAL's order.
    corners = [(numbers[i], numbers[j]) for i, j in ((2, 5), (0, 3))] if numbers else [(west, north)]
    if not any(abs(x - west) <= abs(col_size) and abs(y - north) <= abs(row_size) for x, y in corners):
        found.append(f"the corner {corners[0][0]:g}, {corners[0][1]:g} instead of {west:g}, {north:g}")
    if not found:
        return None
    return f"The item declares {' and '.join(found)} for its asset {band.key}: the pixels are placed by the file."


def cube_bands(bands: SpectralGrid, *, common_names: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The bands of a cube as fields of its asset; a common name belongs to the nearest band only."""
    common: dict[int | None, str] = {}
    for name, centre in COMMON_NAMES_NM.items() if common_names else ():
        common.setdefault(nearest_band(bands.wavelength_nm, centre, RGB_REACH_NM), name)
    stored = {"data_type": "int16", "nodata": NODATA, "unit": "1", "raster:scale": SCALE, "raster:offset": 0}
    core, eo = [], []
    for band, (name, centre, width) in enumerate(zip(bands.names, bands.wavelength_nm, bands.fwhm_nm, strict=True)):
        facts: dict[str, Any] = {"common_name": common[band]} if band in common else {}
        facts |= {
            "center_wavelength": round(float(centre) / 1000, 7),
            "full_width_half_max": round(float(width) / 1000, 7),
        }
        support = {"ms2hs:support": bands.support[band]} if bands.support else {}
        core.append({"name": name} | {f"eo:{key}": value for key, value in facts.items()} | stored | support)
        eo.append({"name": name} | facts)
    return {"bands": core, "eo:bands": eo}
