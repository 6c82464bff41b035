"""Metadata of a STAC item: its sensor, each band's asset, scale, offset, baseline; and what items of ms2hs share."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from ms2hs.errors import SceneError
from ms2hs.files import file_name
from ms2hs.raster.header import Declared, Wavelength, number_of
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.bands import canonical, match_wavelengths
from ms2hs.scenes.quality import layer_named
from ms2hs.scenes.radiometry import ItemDeclaration
from ms2hs.scenes.recognition import (
    baseline_of,
    level_1_error,
    level_1c_error,
    platform_note,
    refuse_other_missions,
    source_named_in,
)
from ms2hs.spectra.sensors import load_sensor

UNKNOWN_TIME = "ms2hs:datetime"
"""Property of an item of ms2hs whose `datetime` is not the time of acquisition, which is unknown."""
PROJECTION_EXTENSION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
Item = dict[str, Any]
# Properties with the product's name, which contains its level and, as `_N0510_`, its processing baseline.
PRODUCT_NAME_KEYS = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "eopf:datatake_id")
# Properties with the processing baseline, which some catalogues have in the product's name only.
BASELINE_KEYS = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
# Flags that the archive subtracted ESA's offset: Earth Search v1, and v0 before it.
OFFSET_REMOVED_KEYS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
# A tile of the military grid, in names (`_T32TNT_`, `.T32TNT.`) and codes (`MGRS-32TNT`).
MGRS_TILE = re.compile(r"(?:^|[_.-]|MGRS-)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?=$|[_.])")
# The name of a band or the key of its asset: `B02`, `SR_B2`, `OLI_B2`.
BAND_IN_ITEM = re.compile(r"(?:SR_|OLI_)?B\d{1,2}A?", re.IGNORECASE)
# In items of Landsat: `LC08_L1TP_...`, `landsat-c2-l1`, `landsat-c2l1`.
LANDSAT_LEVEL_1 = re.compile(r"L[CETMO]0\d_L1|landsat[-_]?(?:8-)?c\d-?l1", re.IGNORECASE)
# In the name of a band's file: `T32TNT_20240601T102021_B02_10m.jp2`, `B04.tif`, `HLS….v2.0.B8A.tif`.
BAND_IN_FILE = re.compile(r"(?:^|[._/])(B\d[\dA]|B\d(?=\.))(?:_\d\dm)?\.(?:tiff?|jp2)$", re.IGNORECASE)
# Assets with fewer bands than this, and more than one, are pictures.
MIN_BANDS_IN_STACK = 5
# STAC's names of data types that are also numpy's.
DATA_TYPES = {"int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32", "float64"}
PICTURE_ROLES = {"visual", "overview", "thumbnail", "metadata"}


@dataclass(frozen=True)
class Band:
    """One band in one asset of an item."""

    key: str
    asset: Mapping[str, Any]
    position: int
    """0-based position of the band in its file."""

    @property
    def declared(self) -> Declared:
        """Scale, offset and nodata by the raster extension 1.x or 2.0."""
        fields = dict(self.asset)
        for listed in ("raster:bands", "bands"):
            rows = fields.get(listed) or ()
            if len(rows) > self.position and isinstance(rows[self.position], dict):
                fields |= rows[self.position]
        scale = fields.get("raster:scale", fields.get("scale"))
        offset = fields.get("raster:offset", fields.get("offset"))
        dtype = str(fields.get("data_type") or "")
        scale, offset = (None if number is None else number_of(number) for number in (scale, offset))
        return Declared(scale, offset, _number(fields.get("nodata")), dtype=dtype if dtype in DATA_TYPES else "")

    @property
    def facts(self) -> Mapping[str, Any]:
        """`name`, `common_name` and `center_wavelength` of the band, without their prefix `eo:`."""
        rows = self.asset.get("eo:bands") or self.asset.get("bands") or ()
        row = rows[self.position] if len(rows) > self.position else {}
        return {str(key).removeprefix("eo:"): value for key, value in row.items()} if isinstance(row, dict) else {}

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sort key of several assets of one band: COG before JPEG 2000, original before upsampled, then the finest."""
        roles = self.asset.get("roles") or ()
        is_jp2 = "jp2" in str(self.asset.get("type", "")) or str(self.asset.get("href", "")).endswith(".jp2")
        return is_jp2, "sampling:upsampled" in roles, pixel_size(self.asset) or 1e9


def source_of(item: Item) -> tuple[str, str | None]:
    """The sensor of an item, and a note if its platform is assumed.

    Raises
    ------
    SceneError : neither Sentinel-2 level 2A, HLS, nor level 2 of Landsat 8 or 9.
    """
    properties, name = item.get("properties") or {}, str(item.get("id", ""))
    collection = str(item.get("collection") or "")
    for text in (name, collection, str(properties.get("hls:product", ""))):
        if source := source_named_in([text], ["collection_pattern"]):
            return source, None
    refuse_other_missions([name, str(properties.get("platform") or properties.get("eo:platform") or "")], name)
    if LANDSAT_LEVEL_1.search(f"{name} {collection}"):
        raise level_1_error(name, collection or name)
    product = " ".join([collection, *(str(properties.get(key, "")) for key in ("s2:product_type", *PRODUCT_NAME_KEYS))])
    if re.search(r"l1c", f"{product} {name}", re.IGNORECASE):
        raise level_1c_error(name)
    platform = str(properties.get("platform") or properties.get("eo:platform") or properties.get("constellation") or "")
    for text in (platform, name):
        if source := source_named_in([text], ["platform_pattern"]):
            return source, None
    if source := source_named_in([f"{platform} {collection}"], ["family_pattern"]):
        return source, platform_note(source)
    raise SceneError(
        f"{name}: collection {collection or '(none)'}, platform {platform or '(none)'}; level 2 of Sentinel-2, "
        "HLS, Landsat 8 and Landsat 9 is required. Use such an item, or give `ms2hs convert` the sensor with --source."
    )


def bands_of(item: Item, source: str) -> dict[str, Band]:
    """The best asset of each band of an item, by canonical name (`B02`, `B8A`), including bands that are not used.

    A band is identified by its own name, else by the asset's key or file name, else by its common name, else by its
    wavelength. Wavelengths come last because catalogues have wrong ones (the first two of HLS L30 are swapped on
    Planetary Computer).
    """
    bands: dict[str, Band] = {}
    unknown = []
    for band in _candidates(item):
        name = _name(band, source)
        if name is None:
            unknown.append(band)
        elif name not in bands or band.rank < bands[name].rank:
            bands[name] = band
    for name, band in zip(match_wavelengths([_wavelength(band) for band in unknown], source), unknown, strict=True):
        if name is not None:
            bands.setdefault(name, band)
    return bands


def _candidates(item: Item) -> Iterator[Band]:
    for key, asset in (item.get("assets") or {}).items():
        count = len(asset.get("eo:bands") or asset.get("bands") or ())
        if PICTURE_ROLES & set(asset.get("roles") or ()) or not asset.get("href"):
            continue
        if count <= 1 or count >= MIN_BANDS_IN_STACK:
            yield from (Band(key, asset, position) for position in range(max(count, 1)))


def _name(band: Band, source: str) -> str | None:
    """The canonical name of a band by all of its names; None if none is known."""
    band_name = str(band.facts.get("name", ""))
    key = re.sub(r"[_-](?:\d\dm|jp2)$", "", band.key)
    for text in (band_name, key) if band.position == 0 else (band_name,):
        if BAND_IN_ITEM.fullmatch(text):
            return canonical(text, source)
    file = BAND_IN_FILE.search(unquote(urlsplit(str(band.asset["href"])).path))
    if file is not None and band.position == 0:
        return canonical(file[1], source)
    common = load_sensor(source).common_names
    names = (
        common.get(re.sub(r"[^a-z0-9]", "", text.lower()))
        for text in (band_name, key, str(band.facts.get("common_name", "")))
    )
    return next((canonical(name, source) for name in names if name), None)


def _wavelength(band: Band) -> Wavelength | None:
    """The centre in nm; catalogues give µm. The width is ignored, because some are ten times too large."""
    centre = _number(band.facts.get("center_wavelength"))
    return None if centre is None else Wavelength(centre * 1000, None)


# Deepest nesting of an item, and the largest number: JSON text may hold others, which no item needs.
MAX_DEPTH, MAX_NUMBER = 60, 1e300
# A check of a value, and what it asks for in words.
Rule = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(*counts: int) -> Rule:
    text = f"a list of {' or '.join(map(str, counts))} numbers"
    return lambda value: isinstance(value, list) and len(value) in counts and all(map(_is_number, value)), text


def _is_time(value: Any) -> bool:  # noqa: ANN401 - any JSON
    try:
        return datetime.fromisoformat(value) is not None
    except (TypeError, ValueError):
        return False


def _is_address(value: Any) -> bool:  # noqa: ANN401 - any JSON
    try:
        return isinstance(value, str) and value.isprintable() and urlsplit(value).port != 0
    except ValueError:
        return False


TEXT: Rule = (lambda value: isinstance(value, str), "a text")
ADDRESS: Rule = (_is_address, "a valid address without control characters")
TIME: Rule = (_is_time, "a time such as 2024-06-01T10:20:30Z")
NUMBER: Rule = (_is_number, "a number")
FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
OBJECT: Rule = (lambda value: isinstance(value, dict), "an object")
LIST: Rule = (lambda value: isinstance(value, list), "a list")
OBJECTS: Rule = (
    lambda value: isinstance(value, list) and all(isinstance(row, dict) for row in value),
    "a list of objects",
)
TEXTS: Rule = (
    lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    "a list of texts",
)
GRID_RULES = {"proj:shape": _numbers(2), "proj:transform": _numbers(6, 9)}
ITEM_RULES = {"id": TEXT, "collection": TEXT, "properties": OBJECT, "links": OBJECTS, "assets": OBJECT}
PROPERTY_RULES = dict.fromkeys(("datetime", "start_datetime", "end_datetime"), TIME)
PROPERTY_RULES |= (
    dict.fromkeys(("platform", "constellation"), TEXT) | dict.fromkeys(OFFSET_REMOVED_KEYS, FLAG) | GRID_RULES
)
LINK_RULES = {"rel": TEXT, "href": ADDRESS}
ASSET_RULES = {
    "href": ADDRESS, "roles": TEXTS, "eo:bands": LIST, "bands": LIST, "raster:bands": OBJECTS, "gsd": NUMBER,
}  # fmt: skip


def parse_item(document: Any) -> Item:  # noqa: ANN401 - any JSON
    """A JSON document as an item: every field that ms2hs reads has its type, or is absent instead of null.

    Raises
    ------
    SceneError : not an item; the message names the first field of another type.
    """
    item = _plain(document)
    if not isinstance(item, dict) or item.get("type") != "Feature" or not isinstance(item.get("assets"), dict):
        kind = str(item.get("type", "unknown"))[:40] if isinstance(item, dict) else type(item).__name__
        raise SceneError(
            f"a JSON document of type {kind!r}; a STAC item (a Feature with assets) is required. Give one item, or a "
            "collection of items to `ms2hs fetch --items FILE`."
        )
    name = str(item.get("id") or "an item")[:100]
    for key in ("id", "properties"):
        if item.get(key) in (None, ""):
            raise SceneError(f"{name}: has no {key}; a STAC item has one. Report it to its catalogue, or use another.")
    item = {"links": [], **_checked(item, ITEM_RULES, name)}
    item["properties"] = _checked(item["properties"], PROPERTY_RULES, name)
    item["links"] = [_checked(link, LINK_RULES, f"{name}, link") for link in item["links"]]
    item["assets"] = {key: _checked_asset(asset, f"{name}, asset {key[:40]}") for key, asset in item["assets"].items()}
    return item


def valid_items(documents: Iterable[Any], left_out: list[str] | None = None) -> list[Item]:
    """The documents that are items; `left_out` receives a message for each of the others."""
    items, messages = [], dict.fromkeys(left_out or ())
    for document in documents:
        try:
            items.append(parse_item(document))
        except SceneError as error:
            messages[str(error)] = None
    if left_out is not None:
        left_out[:] = messages
    return items


def _checked_asset(asset: Any, where: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    if not isinstance(asset, dict):
        raise _wrong_field(where, "the asset", asset, OBJECT[1])
    return _checked(asset, ASSET_RULES | GRID_RULES, where)  # `scenes.radiometry` checks scale and offset


def _checked(fields: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The fields without those that are null; SceneError if a field breaks its rule."""
    for key, (is_right, allowed) in rules.items():
        if fields.get(key) is not None and not is_right(fields[key]):
            raise _wrong_field(where, key, fields[key], allowed)
    return {key: value for key, value in fields.items() if value is not None or key not in rules}


def _wrong_field(where: str, key: str, value: Any, allowed: str) -> SceneError:  # noqa: ANN401 - any JSON
    return SceneError(
        f"{where}: {key} is {repr(value)[:60]}; {allowed} is needed. Report the item to its catalogue, or use another."
    )


def _plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON
    """A copy of a JSON value in which texts are Unicode, and numbers that JSON does not allow are texts."""
    if depth > MAX_DEPTH:
        raise SceneError(
            f"a JSON document with more than {MAX_DEPTH} levels; a STAC item has fewer. Check that it is an item."
        )
    if isinstance(value, dict):
        return {_plain(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    return str(value) if _is_number(value) and not abs(value) < MAX_NUMBER else value


def scene_name(item: Item) -> str:
    """The id of an item as a file name."""
    return file_name(str(item["id"]))


def sensing_time(item: Item) -> str | None:
    """The time of acquisition, ISO 8601 in UTC; None if unknown."""
    properties = item["properties"]
    text = None if UNKNOWN_TIME in properties else properties.get("datetime") or properties.get("start_datetime")
    if not text:
        return None
    time = datetime.fromisoformat(text)
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    is_utc = str(text).endswith(("Z", "+00:00"))
    return str(text) if is_utc else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def declaration(item: Item, bands: list[Band], source: str) -> ItemDeclaration:
    """The item's scale, offset, nodata, processing baseline and offset flag for these bands."""
    properties = item.get("properties", {})
    removed = next((bool(properties[key]) for key in OFFSET_REMOVED_KEYS if key in properties), None)
    return ItemDeclaration(load_sensor(source), tuple(band.declared for band in bands), baseline(item), removed)


def baseline(item: Item) -> str | None:
    """The processing baseline of a Sentinel-2 item, such as `05.10`; None if unknown."""
    properties = item.get("properties", {})
    declared, names = ([str(properties.get(key, "")) for key in keys] for keys in (BASELINE_KEYS, PRODUCT_NAME_KEYS))
    return baseline_of(declared, [*names, str(item.get("id", ""))])


def tile_of(item: Item) -> str:
    """The tile of the military grid, such as `32TNT`; empty if unknown."""
    properties = item.get("properties") or {}
    texts = [properties.get("grid:code"), properties.get("s2:mgrs_tile"), item.get("id")]
    texts += [asset.get("href") for asset in item["assets"].values()][:1]
    tile = next(filter(None, (MGRS_TILE.search(str(text or "")) for text in texts)), None)
    return tile[1].zfill(5) if tile else ""


def quality_of(item: Item, source: str) -> list[tuple[str, Band]]:
    """The name and band of each quality layer of an item that marks clouds, the best first.

    An Fmask counts only for the sensors that have one: other programs write classes into a layer of this name.
    """
    own_layer, found = load_sensor(source).quality, []
    for key, asset in item["assets"].items():
        rows = asset.get("eo:bands") or asset.get("bands") or ()
        for position in range(max(len(rows), 1) if asset.get("href") else 0):
            band = Band(key, asset, position)
            layer = layer_named(str(band.facts.get("name", "")) if len(rows) > 1 else key, own_layer)
            if layer is not None and layer.rank > 0 and not layer.name == "Fmask" != own_layer:
                found.append((layer, band))
    found.sort(key=lambda pair: (pair[0].rank, pair[1].rank))
    return [(layer.name, band) for layer, band in found]


def pixel_size(asset: Mapping[str, Any]) -> float | None:
    """The pixel size that an asset declares, in units of its CRS; None if it declares none."""
    if transform := asset.get("proj:transform"):
        return abs(float(transform[0]))
    first: Mapping[str, Any] = next(iter(asset.get("raster:bands") or ()), {})
    return _number(asset.get("gsd") or asset.get("raster:spatial_resolution") or first.get("spatial_resolution"))


def _number(value: Any) -> float | None:  # noqa: ANN401 - any JSON
    return float(value) if isinstance(value, int | float) else None


def projection_properties(grid: PixelGrid) -> dict[str, Any]:
    """The properties of STAC's projection extension for the items that ms2hs writes."""
    properties: dict[str, Any] = {"proj:shape": [grid.height, grid.width], "proj:transform": list(grid.transform)}
    if grid.crs:
        properties["proj:code" if grid.crs.startswith("EPSG:") else "proj:wkt2"] = grid.crs
    return properties


def time_properties(time: str | None, created: str) -> dict[str, Any]:
    """The time properties of the items that ms2hs writes: an instant, or the interval of a day.

    STAC requires a time, and allows null only with an interval. Without a known time, the item has the time at which it
    was `created`, and says so: an interval of years would be found by every search.
    """
    if time is None:
        return {"datetime": created, UNKNOWN_TIME: "acquisition time unknown: datetime is the time of processing"}
    if "T" not in time:
        return {"datetime": None, "start_datetime": f"{time}T00:00:00Z", "end_datetime": f"{time}T23:59:59Z"}
    return {"datetime": time}


def utc_now() -> str:
    """The time now, as STAC writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
