"""What a STAC item says of its bands: which sensor took it, which asset is which band, what is written of each."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from ms2hs.errors import SceneError
from ms2hs.raster.header import Wavelength
from ms2hs.scenes.bands import COMMON, canonical, is_sentinel2, match_wavelengths

Item = dict[str, Any]
# `HLS.S30.T32TNT.2024153T102021.v2.0` of v2.0; `HLSS30_2.0`, `hls2-l30` and `HLSL30.v1.5` are collections.
HLS = re.compile(r"HLS\.?-?_?2?-?([SL])30", re.IGNORECASE)
SENTINEL2 = re.compile(r"(?:sentinel-?\s?2|S2)([ABC])(?![A-Za-z])|^S2([ABC])_", re.IGNORECASE)
# Where catalogues have the product's name, which tells its level and, as `_N0510_`, its processing baseline.
NAMES = ("s2:product_uri", "sentinel:product_id", "s2:datatake_id", "eopf:datatake_id")
# A tile of the military grid, in names (`_T32TNT_`, `.T32TNT.`) and codes (`MGRS-32TNT`).
TILE = re.compile(r"(?:^|[_.-]|MGRS-)T?(\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?=$|[_.])")
# In the name of a band's file: `T32TNT_20240601T102021_B02_10m.jp2`, `B04.tif`, `HLS….v2.0.B8A.tif`.
IN_FILE = re.compile(r"(?:^|[._/])(B\d[\dA])(?:_\d\dm)?\.(?:tiff?|jp2)$", re.IGNORECASE)
# HLS L30 by the common names of catalogues; its numbers are Landsat's.
COMMON_L30 = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "nir08": "B05", "nir": "B05", "swir16": "B06",
    "swir22": "B07",
}  # fmt: skip
# Assets with fewer bands than this, and more than one, are pictures.
FEWEST_TOGETHER = 5


@dataclass(frozen=True)
class Band:
    """One band in one asset of an item."""

    key: str
    asset: Mapping[str, Any]
    position: int
    """0-based, of the band in its file."""

    @property
    def stored(self) -> Mapping[str, float]:
        """Numbers among `scale`, `offset` (in reflectance) and `nodata` that are declared, in raster 1.x or 2.0."""
        asset = dict(self.asset)
        for listed in ("raster:bands", "bands"):
            rows = asset.get(listed) or ()
            if len(rows) > self.position and isinstance(rows[self.position], dict):
                asset |= rows[self.position]
        keys = {"scale": "raster:scale", "offset": "raster:offset"}
        found = {name: asset.get(key, asset.get(name)) for name, key in keys.items()} | {"nodata": asset.get("nodata")}
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is said of the band's light: `name`, `common_name`, `center_wavelength`, without their `eo:`."""
        rows = self.asset.get("eo:bands") or self.asset.get("bands") or ()
        row = rows[self.position] if len(rows) > self.position else {}
        return {str(key).removeprefix("eo:"): value for key, value in row.items()} if isinstance(row, dict) else {}

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Smaller is better, of several assets of one band: COGs before JPEG 2000, originals first, then the finest."""
        roles = self.asset.get("roles") or ()
        is_jp2 = "jp2" in str(self.asset.get("type", "")) or str(self.asset.get("href", "")).endswith(".jp2")
        return is_jp2, "sampling:upsampled" in roles, pixel_size(self.asset) or 1e9


def source_of(item: Item) -> tuple[str, str | None]:
    """The sensor of an item, and a note where that is a guess.

    Raises
    ------
    SceneError : neither Sentinel-2 level 2A nor HLS.
    """
    properties, name = item.get("properties") or {}, str(item.get("id", ""))
    collection = str(item.get("collection") or "")
    texts = [name, collection, str(properties.get("hls:product", ""))]
    if found := next(filter(None, (HLS.search(text) for text in texts)), None):
        return f"hls_{found[1].lower()}30", None
    told = " ".join([collection, *(str(properties.get(key, "")) for key in ("s2:product_type", *NAMES))])
    if re.search(r"l1c", f"{told} {name}", re.IGNORECASE):
        raise SceneError(
            f"{name}: is level 1C, top of atmosphere; surface reflectance (level 2A) is needed. Take the item of the "
            "same scene from a collection of level 2A."
        )
    platform = str(properties.get("platform") or properties.get("constellation") or "")
    if found := next(filter(None, (SENTINEL2.search(text) for text in (platform, name))), None):
        return f"sentinel2{(found[1] or found[2]).lower()}", None
    if re.search(r"sentinel-?\s?2", f"{platform} {collection}", re.IGNORECASE):
        return "sentinel2a", "Which Sentinel-2 took it is not said: taken as sentinel2a; give --source if not."
    raise SceneError(
        f"{name}: is of collection {collection or '(none)'} and platform {platform or '(none)'}; Sentinel-2 level 2A "
        "and HLS can be converted. Take an item of these, or say with --source what it is."
    )


def bands_of(item: Item, source: str) -> dict[str, Band]:
    """The best asset of each band that an item has, by canonical name (`B02`, `B8A`); those of no use here too.

    By the band's own name, else by the asset's key or file name, else by its common name, else by its wavelength: that
    comes last because catalogues print wrong ones (HLS L30's first two are swapped on Planetary Computer).
    """
    found: dict[str, Band] = {}
    unknown = []
    for band in _candidates(item):
        name = _name(band, source)
        if name is None:
            unknown.append(band)
        elif name not in found or band.rank < found[name].rank:
            found[name] = band
    waves = [_wavelength(band) for band in unknown]
    for name, band in zip(match_wavelengths(waves, source), unknown, strict=True):
        canonical_name = canonical(name) if name else None
        if canonical_name is not None and canonical_name not in found:
            found[canonical_name] = band
    return found


def _candidates(item: Item) -> Iterator[Band]:
    for key, asset in (item.get("assets") or {}).items():
        rows = asset.get("eo:bands") or asset.get("bands") or ()
        roles = set(asset.get("roles") or ())
        if roles & {"visual", "overview", "thumbnail", "metadata"} or not asset.get("href"):
            continue
        if len(rows) <= 1:
            yield Band(key, asset, 0)
        elif len(rows) >= FEWEST_TOGETHER:
            yield from (Band(key, asset, position) for position in range(len(rows)))


def _name(band: Band, source: str) -> str | None:
    """The canonical name of a band by all that is written of it; None where nothing tells."""
    common = COMMON if source != "hls_l30" else COMMON_L30
    own = str(band.facts.get("name", ""))
    file = IN_FILE.search(unquote(urlsplit(str(band.asset["href"])).path))
    key = re.sub(r"[_-](?:\d\dm|jp2)$", "", band.key)
    for text in (own, key) if band.position == 0 else (own,):
        if re.fullmatch(r"B\d[\dA]", text.upper()):
            return text.upper()
    if file is not None and band.position == 0:
        return file[1].upper()
    for text in (own, key, str(band.facts.get("common_name", ""))):
        if text.lower() in common:
            return common[text.lower()]
    return None


def _wavelength(band: Band) -> Wavelength | None:
    """In nm; catalogues have it in µm. Its width is left out: some print ten times the true one."""
    centre = band.facts.get("center_wavelength")
    return Wavelength(float(centre) * 1000, None) if isinstance(centre, int | float) else None


def check_item(item: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """The id of what should be an item; SceneError where it is none."""
    is_item = isinstance(item, dict) and item.get("type") == "Feature" and isinstance(item.get("assets"), dict)
    if not is_item or not all(isinstance(asset, dict) for asset in item["assets"].values()):
        kind = item.get("type", "nothing known") if isinstance(item, dict) else type(item).__name__
        raise SceneError(
            f"a JSON document of the type {kind!r}; a STAC item (a Feature with assets) is needed. Give one item; of a "
            "collection of them, `ms2hs fetch --items FILE` takes all."
        )
    # Names of files are made of it.
    return re.sub(r"[^\w.+-]", "_", str(item.get("id") or "item"))


def tile_of(item: Item) -> str:
    """The tile of the military grid, such as `32TNT`; empty where nothing tells it."""
    properties = item.get("properties") or {}
    texts = [properties.get("grid:code"), properties.get("s2:mgrs_tile"), item.get("id")]
    texts += [asset.get("href") for asset in item["assets"].values()][:1]
    found = next(filter(None, (TILE.search(str(text or "")) for text in texts)), None)
    return found[1].zfill(5) if found else ""


def quality_band(item: Item, source: str) -> Band | None:
    """The layer that tells clouds, of Sentinel-2 its SCL and of HLS its Fmask; None where there is none."""
    wanted = "scl" if is_sentinel2(source) else "fmask"
    found = [
        Band(key, asset, 0)
        for key, asset in item["assets"].items()
        if re.fullmatch(rf"{wanted}([_-]\d\dm)?([_-]jp2)?", key.lower()) and asset.get("href")
    ]
    return min(found, key=lambda band: band.rank, default=None)


def pixel_size(asset: Mapping[str, Any]) -> float | None:
    """In units of its CRS, as the asset tells it."""
    if transform := asset.get("proj:transform"):
        return abs(float(transform[0]))
    first: Mapping[str, Any] = next(iter(asset.get("raster:bands") or ()), {})
    told = asset.get("gsd") or asset.get("raster:spatial_resolution") or first.get("spatial_resolution")
    return float(told) if isinstance(told, int | float) else None
