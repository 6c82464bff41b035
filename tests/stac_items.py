"""Synthetic STAC items in the form of each archive, and real ones under $MS2HS_DATA."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, write_raster

S2_SIZES = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10, "B8A": 20, "B09": 60,
    "B11": 20, "B12": 20,
}  # fmt: skip
COMMON = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
CENTRES = {
    "B01": 0.443, "B02": 0.49, "B03": 0.56, "B04": 0.665, "B05": 0.704, "B06": 0.74, "B07": 0.783, "B08": 0.842,
    "B8A": 0.865, "B09": 0.945, "B10": 1.3735, "B11": 1.61, "B12": 2.19,
}  # fmt: skip
S30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
L30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11")
S2_REFLECTANCE = dict(zip(S2_BANDS, LEAVES, strict=True))
WEST, NORTH, SIDE_M, EPSG = 600_000, 5_100_000, 960, 32632
FOOTPRINT = (10.28, 46.03, 10.31, 46.06)
TIFF = "image/tiff; application=geotiff; profile=cloud-optimized"


def stac_item(name, collection, properties, assets):
    west, south, east, north = FOOTPRINT
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": collection, "bbox": list(FOOTPRINT),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": "2024-06-01T10:20:30Z", "eo:cloud_cover": 3.5} | properties,
        "links": [], "assets": assets,
    }  # fmt: skip


def placed(gsd_m, **facts):
    size = SIDE_M // gsd_m
    return {"proj:shape": [size, size], "proj:transform": [gsd_m, 0, WEST, 0, -gsd_m, NORTH], "gsd": gsd_m} | facts


def eo_band(name):
    common = COMMON.get(name, "x").rstrip("123") if COMMON.get(name, "").startswith("rededge") else COMMON.get(name)
    return {"name": name, "common_name": common, "center_wavelength": CENTRES[name]}


def earth_search(collection, number, applied=None, address=str):
    """An item of `sentinel-2-c1-l2a` or `sentinel-2-l2a`; both declare the offset of the baseline."""
    offset = -0.1 if float(number) >= 4 else 0
    raster = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": offset}
    assets = {}
    for name, gsd_m in S2_SIZES.items():
        facts = placed(gsd_m, **{"eo:bands": [eo_band(name)], "raster:bands": [raster], "type": TIFF})
        assets[COMMON[name]] = {"href": address(f"{name}.tif"), **facts}
        if collection == "sentinel-2-l2a":
            jp2 = {"href": f"s3://sentinel-s2-l2a/tiles/32/T/NT/{name}.jp2", "type": "image/jp2"}
            assets[f"{COMMON[name]}-jp2"] = facts | jp2
    assets["scl"] = {"href": address("SCL.tif"), "type": TIFF, **placed(20)}
    assets["visual"] = {"href": address("TCI.tif"), "eo:bands": [eo_band(name) for name in ("B04", "B03", "B02")]}
    code = number.replace(".", "")
    properties = {
        "platform": "sentinel-2a", "proj:epsg": EPSG, "grid:code": "MGRS-32TNT", "s2:processing_baseline": number,
        "s2:product_uri": f"S2A_MSIL2A_20240601T102031_N{code}_R065_T32TNT_20240601T135859.SAFE",
    }  # fmt: skip
    if applied is not None:
        properties["earthsearch:boa_offset_applied"] = applied
    return stac_item(f"S2A_32TNT_20240601_0_L2A_{code}", collection, properties, assets)


def planetary_computer(number, address=str):
    assets = {
        name: {"href": address(f"{name}_{gsd_m}m.tif"), "eo:bands": [eo_band(name)], "type": TIFF, **placed(gsd_m)}
        for name, gsd_m in S2_SIZES.items()
    }
    assets["SCL"] = {"href": address("SCL_20m.tif"), "type": TIFF, **placed(20)}
    assets["visual"] = {
        "href": address("TCI_10m.tif"),
        "eo:bands": [eo_band(name) for name in ("B04", "B03", "B02")],
    }
    properties = {
        "platform": "Sentinel-2A",
        "proj:epsg": EPSG,
        "s2:processing_baseline": number,
        "s2:mgrs_tile": "32TNT",
    }
    return stac_item("S2A_MSIL2A_20240601T102031_R065_T32TNT_20240601T135859", "sentinel-2-l2a", properties, assets)


def copernicus(number, address="s3://eodata/Sentinel-2/MSI/L2A/R/{}".format):
    """An item with every band at several sizes, the same offset for all baselines, and widths ten times too large."""
    assets = {}
    for name, finest in S2_SIZES.items():
        for gsd_m in (10, 20, 60):
            if gsd_m < finest and not (name == "B01" and gsd_m == 20):
                continue
            role = {finest: "sampling:original"}.get(gsd_m, "sampling:upsampled" if gsd_m < finest else "sampling:down")
            band = {"name": name, "eo:common_name": COMMON[name].rstrip("123"), "eo:center_wavelength": CENTRES[name]}
            facts = {"raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0, "roles": ["data", role]}
            href = address(f"T32TNT_20240601T102031_{name}_{gsd_m}m.jp2")
            width = {"eo:full_width_half_max": 0.342}
            assets[f"{name}_{gsd_m}m"] = {"href": href, "bands": [band | width], "type": "image/jp2"} | placed(
                gsd_m, **{"proj:code": f"EPSG:{EPSG}"}, **facts
            )
    assets["SCL_20m"] = {"href": address("T32TNT_SCL_20m.jp2"), **placed(20)}
    code = number.replace(".", "")
    name = f"S2A_MSIL2A_20240601T102031_N{code}_R065_T32TNT_20240601T135859"
    return stac_item(name, "sentinel-2-l2a", {"platform": "sentinel-2a", "processing:version": number}, assets)


def hls(kind, collection="HLSS30_2.0", address=str):
    """An HLS item of LP DAAC; items of Planetary Computer have other addresses."""
    name = f"HLS.{kind}.T32TNT.2024153T102021.v2.0"
    bands = S30 if kind == "S30" else L30
    assets = {band: {"href": address(f"{name}.{band}.tif"), "eo:bands": [{"name": band}]} for band in bands}
    assets["Fmask"] = {"href": address(f"{name}.Fmask.tif"), "eo:bands": [{"name": "Fmask"}]}
    properties = {"proj:epsg": EPSG, "proj:shape": [32, 32], "proj:transform": [30, 0, WEST, 0, -30, NORTH, 0, 0, 1]}
    properties["platform"] = "sentinel-2a" if kind == "S30" else "landsat-8"
    return stac_item(name, collection, properties, assets)


def serve(server, folder, item, reflectance, offset):
    """Serve an item with files of its bands: vegetation, and a strip of cloud.

    The addresses of its assets end in names such as `B04.tif`, and are on the server or relative to the item.
    """
    is_sentinel2 = item["properties"].get("proj:shape") is None
    for asset in item["assets"].values():
        name = next((name for name in [*reflectance, "SCL", "Fmask"] if asset["href"].endswith(f"{name}.tif")), None)
        if name is None or "s3://" in asset["href"]:
            continue
        gsd_m = S2_SIZES.get(name, 20) if is_sentinel2 else 30
        if name in reflectance:
            values = dn_image(gsd_m, reflectance[name], offset).astype("uint16" if is_sentinel2 else "int16")
        else:
            values = np.full((1, SIDE_M // gsd_m, SIDE_M // gsd_m), 4 if name == "SCL" else 64, "uint8")
            values[0, -4:] = 9 if name == "SCL" else 2
        options = {"nodata": 0, "tiled": True, "blockxsize": 16, "blockysize": 16}
        path = write_raster(folder / f"{name}.tif", values, gsd_m, **options)
        server.add_file(asset["href"].rpartition("files/")[2], path.read_bytes())
    return server.add_item(item)


def recorded() -> list[dict]:
    """Every item in any JSON file under `$MS2HS_DATA/stac`; none if the variable is not set."""
    folder = Path(os.environ.get("MS2HS_DATA", ".")) / "stac"
    if "MS2HS_DATA" not in os.environ or not folder.is_dir():
        return []
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".geojson"})
    return [item for path in paths for item in _items(json.loads(path.read_text(encoding="utf-8")))]


def _items(document) -> Iterator[dict]:
    inside = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    if isinstance(document, dict) and document.get("type") == "Feature" and document.get("assets"):
        yield document
        return
    for part in inside:
        yield from _items(part)


def real(kept) -> list[dict]:
    """The items for which `kept` is true; skips the test if there are none."""
    items = [item for item in recorded() if kept(item)]
    if not items:
        pytest.skip("no such items under $MS2HS_DATA/stac")
    return items


def dn_image(gsd_m, reflectance, offset):
    """(1, row, col) stored numbers of a ramp around a reflectance, with `offset` added; the corner is nodata."""
    size = SIDE_M // gsd_m
    ramp = np.linspace(0.9, 1.1, size)[None, :, None] * np.ones((1, 1, size))
    dn = np.round(reflectance * ramp * 1e4 + offset).astype("uint16")
    dn[0, : max(1, 120 // gsd_m), : max(1, 120 // gsd_m)] = 0
    return dn
