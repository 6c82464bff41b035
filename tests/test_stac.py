"""stac_item: items of every archive become scenes with the right assets and offsets."""

import copy
import json
import re
from contextlib import nullcontext

import pytest
from conftest import LEAVES, write_raster
from stac_items import (
    CENTRES,
    S2_SIZES,
    S30,
    copernicus,
    dn_image,
    earth_search,
    hls,
    placed,
    planetary_computer,
    real,
    recorded,
    stac_item,
)

from ms2hs.errors import AddressError, SceneError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.providers import PROVIDERS, provider_of
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.scenes.stac_item import ORIGIN, open_item
from ms2hs.scenes.stac_item import scene_of as scene_by
from ms2hs.scenes.stac_metadata import bands_of, baseline, source_of, tile_of

WEB = "https://files.example.org/a/{}".format
BASE = "https://stac.example.org/v1"
S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
HLS_S30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
HLS_L30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07")
GRID = PixelGrid("EPSG:32632", (30.0, 0.0, 600_000.0, 0.0, -30.0, 5_100_000.0), 32, 32)


def scene_of(item, base, options=None, grid_at=lambda _href: GRID):
    """The scene of an item whose files have the grid GRID."""
    return scene_by(item, base, options, grid_at)


def from_provider(stac_item, name):
    """The item as `search` returns it."""
    return stac_item | {ORIGIN: {"provider": name, "url": BASE}}


# What an archive does with ESA's 1000, and hence what is to be added to its stored numbers.
TABLE = [
    # Collection 1 on Earth Search: passed on, and declared truthfully (Element84/earth-search #41)
    ("earth-search", earth_search("sentinel-2-c1-l2a", "05.10", address=WEB), -1000, "item's own"),
    ("earth-search", earth_search("sentinel-2-c1-l2a", "05.00", address=WEB), -1000, "item's own"),
    # sentinel-2-l2a there: taken out, though raster:bands still declares -0.1 (#71)
    ("earth-search", earth_search("sentinel-2-l2a", "05.09", True, WEB), 0, "subtracted the offset"),
    ("earth-search", earth_search("sentinel-2-l2a", "04.00", True, WEB), 0, "subtracted the offset"),
    # before 04.00 there was nothing to take out
    ("earth-search", earth_search("sentinel-2-l2a", "02.14", False, WEB), 0, "before 04.00"),
    # the flag says that it is still in: true of S2B_52SFA_20220126 (#66), wrong of others, so there is a warning
    ("earth-search", earth_search("sentinel-2-l2a", "04.00", False, WEB), -1000, "is false"),
    ("earth-search", earth_search("sentinel-2-l2a", "04.00", None, WEB), -1000, "is missing"),
    # Planetary Computer passes ESA's numbers on and declares nothing (microsoft/PlanetaryComputer #134)
    ("planetary-computer", planetary_computer("02.12", WEB), 0, "02.12"),
    ("planetary-computer", planetary_computer("03.01", WEB), 0, "03.01"),
    ("planetary-computer", planetary_computer("04.00", WEB), -1000, "04.00"),
    ("planetary-computer", planetary_computer("05.11", WEB), -1000, "05.11"),
    # Sen2Cor at home adds nothing
    ("planetary-computer", planetary_computer("99.99", WEB), 0, "99.99"),
    # Copernicus declares -0.1 of every asset, so the baseline decides
    ("copernicus", copernicus("05.00"), -1000, "05.00"),
    ("copernicus", copernicus("02.14"), 0, "02.14"),
    # HLS never has an offset
    ("lpdaac", hls("S30", address=WEB), 0, "HLS User Guide"),
    ("lpdaac", hls("L30", "HLSL30_2.0", WEB), 0, "HLS User Guide"),
    ("planetary-computer", hls("S30", "hls2-s30", WEB), 0, "HLS User Guide"),
]


@pytest.mark.parametrize(("provider", "stac_item", "offset", "reason"), TABLE)
def test_offset_rule_matches_the_archive(provider, stac_item, offset, reason):
    scene = scene_of(from_provider(stac_item, provider), BASE)
    assert {asset.dn_offset for asset in scene.assets} == {offset}
    assert {asset.dn_scale for asset in scene.assets} == {1e-4}
    # Without an offset, an undeclared 0 is a value.
    fill = -9999 if stac_item["id"].startswith("HLS") else 0 if offset or provider != "planetary-computer" else None
    assert {asset.nodata for asset in scene.assets} == {fill}
    assert reason in scene.offset_rule
    assert stac_item["collection"] in scene.offset_rule
    assert any("warning" in note for note in scene.notes) == reason.startswith("is ")


@pytest.mark.parametrize(("provider", "stac_item", "offset", "reason"), TABLE)
def test_item_of_unknown_origin_uses_its_own_metadata(provider, stac_item, offset, reason):
    assert ORIGIN not in stac_item
    assert {asset.dn_offset for asset in scene_of(stac_item, BASE).assets} == {offset}, (provider, reason)


def test_missing_offset_metadata_gives_a_warning():
    stac_item = planetary_computer("05.11", WEB)
    del stac_item["properties"]["s2:processing_baseline"]
    scene = scene_of(stac_item, BASE)
    assert {asset.dn_offset for asset in scene.assets} == {0}
    assert any("warning" in note and "--offset -0.1" in note for note in scene.notes)


@pytest.mark.parametrize(("provider", "stac_item"), [(row[0], row[1]) for row in TABLE])
def test_assets_are_matched_to_bands(provider, stac_item):
    scene = scene_of(from_provider(stac_item, provider), BASE)
    names = {"sentinel2a": S2, "hls_s30": HLS_S30, "hls_l30": HLS_L30}[scene.source]
    assert tuple(asset.name for asset in scene.assets) == names
    for asset in scene.assets:
        assert re.search(rf"[._/]{asset.name}[._]", asset.href), asset
    assert scene.grid == GRID
    assert [layer.name for layer in scene.quality] == ["Fmask" if stac_item["id"].startswith("HLS") else "SCL"]
    assert scene.datetime == "2024-06-01T10:20:30Z"
    assert tile_of(stac_item) == "32TNT"


def test_hls_s30_drops_the_two_atmospheric_bands():
    assert set(bands_of(hls("S30"), "hls_s30")) == set(S30)
    assert {"B10", "B11"} <= set(bands_of(hls("L30"), "hls_l30"))  # thermal there
    assert [asset.name for asset in scene_of(hls("L30", address=WEB), BASE).assets] == list(HLS_L30)


def test_asset_choice_prefers_original_size_and_cog():
    hrefs = {asset.name: asset.href for asset in scene_of(copernicus("05.00"), BASE).assets}
    assert hrefs["B01"].endswith("_B01_60m.jp2")  # its 20 m were interpolated
    assert hrefs["B02"].endswith("_B02_10m.jp2")
    assert hrefs["B12"].endswith("_B12_20m.jp2")
    assert all(href.startswith("s3://eodata/") for href in hrefs.values())
    both = scene_of(earth_search("sentinel-2-l2a", "05.09", True, WEB), BASE)
    assert all(asset.href.startswith("https://files.example.org/") for asset in both.assets)


def test_band_names_take_precedence_over_wavelengths():
    stac_item = hls("L30", "hls2-l30", WEB)
    stac_item["assets"]["B01"]["eo:bands"][0] |= {"common_name": "coastal", "center_wavelength": 0.48}
    stac_item["assets"]["B02"]["eo:bands"][0] |= {"common_name": "blue", "center_wavelength": 0.44}
    assert [asset.href[-7:-4] for asset in scene_of(stac_item, BASE).assets] == list(HLS_L30)


@pytest.mark.parametrize("key", ["common_name", "center_wavelength"])
def test_common_names_or_wavelengths_replace_missing_band_names(key):
    """An item of a catalogue with other asset keys."""
    stac_item = planetary_computer("02.12", WEB)
    for i, name in enumerate(S2_SIZES):
        asset = stac_item["assets"].pop(name)
        facts = {"center_wavelength": CENTRES[name]}
        if key == "common_name" and not asset["eo:bands"][0]["common_name"].startswith("rededge"):
            facts = {"common_name": asset["eo:bands"][0]["common_name"]}
        stac_item["assets"][f"layer{i}"] = asset | {"href": WEB(f"layer_{name.lower()}x.tif"), "eo:bands": [facts]}
    scene = scene_of(stac_item, BASE)
    assert [(asset.name, asset.href[-8:-5].upper()) for asset in scene.assets] == [(name, name) for name in S2]


@pytest.mark.parametrize("change", [{}, {"proj:shape": None}, {"proj:shape": [6, 6]}, {"proj:epsg": 4326}])
def test_grid_is_read_from_the_finest_file(change):
    """What the item declares may be wrong."""
    stac_item = hls("S30", address=WEB)
    stac_item["properties"] |= change
    asked = []
    scene = scene_of(stac_item, BASE, None, lambda href: asked.append(href) or GRID)
    assert scene.grid == GRID
    assert [href[-7:] for href in asked] == ["B02.tif"]
    assert any("6 x 6 pixels instead of 32 x 32" in note for note in scene.notes) == (
        change.get("proj:shape") == [6, 6]
    )


@pytest.mark.parametrize(
    ("numbers", "is_right"),
    [
        ([30, 0, 600_000, 0, -30, 5_100_000, 0, 0, 1], True),
        ([600_000, 30, 0, 5_100_000, 0, -30], True),  # GDAL's order
        ([30, 0, 660_000, 0, -30, 5_100_000], False),
    ],
)
def test_another_corner_than_that_of_the_file_is_a_note(numbers, is_right):
    stac_item = hls("S30", address=WEB)
    stac_item["properties"]["proj:transform"] = numbers
    assert any("instead of 600000, 5.1e+06" in note for note in scene_of(stac_item, BASE).notes) != is_right


def test_user_options_override_the_item():
    stac_item = from_provider(earth_search("sentinel-2-l2a", "04.00", False, WEB), "earth-search")
    fine = PixelGrid("EPSG:32632", (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0), 96, 96)
    options = SceneOptions(source="sentinel2b", dn_offset=0, quality=False)
    scene = scene_of(stac_item, BASE, options, lambda _href: fine)
    assert scene.source == "sentinel2b"
    assert {asset.dn_offset for asset in scene.assets} == {0}
    assert (scene.quality, scene.quality_note) == ((), "clouds are kept: --no-quality")
    assert scene.notes == ()


def _without(stac_item, *keys):
    return stac_item | {"assets": {key: asset for key, asset in stac_item["assets"].items() if key not in keys}}


@pytest.mark.parametrize(
    ("stac_item", "words"),
    [
        (planetary_computer("05.11") | {"collection": "sentinel-2-l1c"}, "level 1C"),
        (
            stac_item("S1A_IW", "sentinel-1-grd", {"platform": "sentinel-1a"}, {"hh": {"href": WEB("hh.tif")}}),
            "sentinel-1a",
        ),
        (_without(planetary_computer("05.11", WEB), "B02", "B03", "B04"), "B02, B03, B04"),
        ({"type": "FeatureCollection", "features": []}, "--items"),
        ([1], "list"),
    ],
)
def test_unusable_item_is_an_error(stac_item, words):
    with pytest.raises(SceneError, match=words):
        scene_of(stac_item, BASE)


@pytest.mark.parametrize("source", ["landsat8", "hls_l30"])
@pytest.mark.parametrize("stac_item", [planetary_computer("05.11", WEB), hls("S30", address=WEB), copernicus("05.00")])
def test_item_of_sentinel2_is_refused_as_landsat(stac_item, source):
    with pytest.raises(SceneError, match=r"Sentinel-2's numbering|level 1C"):
        scene_of(stac_item, BASE, SceneOptions(source=source))


def test_level_1c_item_is_refused_by_its_cirrus_band():
    stac_item = planetary_computer("05.11", WEB)
    stac_item["assets"]["B10"] = {"href": WEB("B10.tif"), "eo:bands": [{"name": "B10"}], **placed(60)}
    with pytest.raises(SceneError, match="level 1C"):
        scene_of(stac_item, BASE)


def _on_disk(folder, stac_item, offset):
    """The item with its files beside it: leaves, stored as the archive stores them."""
    for name, reflectance in zip(S2, LEAVES, strict=True):
        gsd_m = S2_SIZES[name]
        write_raster(folder / f"{name}.tif", dn_image(gsd_m, reflectance, offset), gsd_m, nodata=0)
        for key, asset in stac_item["assets"].items():
            if re.search(rf"[_/]{name}[_.]", f"/{asset['href']}") and "jp2" not in key:
                asset["href"] = f"./{name}.tif"
    stac_item["assets"] = {key: asset for key, asset in stac_item["assets"].items() if asset["href"].startswith("./")}
    (folder / "item.json").write_text(json.dumps(stac_item))
    return str(folder / "item.json")


@pytest.mark.parametrize(
    ("stac_item", "stored"),
    [
        (earth_search("sentinel-2-l2a", "05.00", True), 0),
        (earth_search("sentinel-2-l2a", "02.14", False), 0),
        (planetary_computer("05.11"), 1000),
        (planetary_computer("02.12"), 0),
    ],
)
def test_reflectance_is_the_same_from_every_collection(stac_item, stored, tmp_path):
    first = _on_disk(tmp_path / "a", earth_search("sentinel-2-c1-l2a", "05.00"), 1000)
    scenes = [open_item(path) for path in (first, _on_disk(tmp_path / "b", copy.deepcopy(stac_item), stored))]
    read = []
    for scene in scenes:
        with SceneReader(scene, scene.grid) as reader:
            read.append(reader.read(0, 0, 96, 96))
    assert (read[0][1] == read[1][1]).all()
    assert not read[0][1][0, 0]
    assert abs(read[0][0] - read[1][0]).max() < 1e-6
    assert abs(read[0][0][1][read[0][1]].mean() - LEAVES[1]) < 0.001


def test_local_files_are_read_only_for_local_items(tmp_path, monkeypatch):
    monkeypatch.setattr("ms2hs.scenes.stac_item.open_dataset", lambda _href: nullcontext())
    monkeypatch.setattr("ms2hs.scenes.stac_item.read_pixel_grid", lambda _dataset: GRID)
    path = tmp_path / "item.json"
    stac_item = planetary_computer("05.11", lambda name: str(tmp_path / name))
    path.write_text(json.dumps(stac_item))
    assert open_item(str(path)).assets[0].href == str(tmp_path / "B01_60m.tif")
    for origin in ({ORIGIN: {"provider": "custom", "url": BASE}}, {"links": [{"rel": "self", "href": f"{BASE}/i"}]}):
        path.write_text(json.dumps(stac_item | origin))  # then a path is one of that server
        assert open_item(str(path)).assets[0].href.startswith("https://stac.example.org/")
        path.write_text(json.dumps(planetary_computer("05.11", f"file://{tmp_path}/{{}}".format) | origin))
        with pytest.raises(AddressError, match="local file"):
            open_item(str(path))


# ---- real items -----------------------------------------------------------------------------------------------------


def added_by_esa(one):
    """Oracle: whether ESA added 1000, by the product name or, in old items, by the baseline field."""
    properties = one["properties"]
    texts = [properties.get("s2:product_uri"), properties.get("sentinel:product_id"), one["id"]]
    match = next((match for text in texts if (match := re.search(r"_N(\d{4})_", text or ""))), None)
    number = match[1] if match else str(properties["s2:processing_baseline"]).replace(".", "")
    return 400 <= int(number) < 9900


def is_level_2a(one):
    origin = f"{one['collection']} {one['id']} {one['properties'].get('platform')}".lower()
    return (
        re.search("sentinel-?s?-?2", origin)
        and not re.search("l1c|hls", origin)
        and "mosaic" not in origin
        and len(one["assets"]) > 12
    )


@pytest.mark.parametrize("provider", [*PROVIDERS, None])
def test_real_sentinel2_items(provider):
    wanted = None if provider is None else PROVIDERS[provider]
    items = real(lambda one: one.get("collection") and is_level_2a(one) and provider_of(one) is wanted)
    for one in items:
        scene = scene_of(one, BASE, None, lambda _href: GRID)
        assert tuple(asset.name for asset in scene.assets) == S2, one["id"]
        for asset in scene.assets:
            assert re.search(rf"[_/]{asset.name}[_.]", asset.href), (one["id"], asset)
            assert asset.nodata == 0 or asset.dn_offset == 0
        applied = one["properties"].get("earthsearch:boa_offset_applied", False)
        expected = -1000 if added_by_esa(one) and not applied else 0
        assert {asset.dn_offset for asset in scene.assets} == {expected}, one["id"]
        assert [layer.name for layer in scene.quality] == ["SCL"]
        assert scene.source == source_of(one)[0]
        assert scene.source[-1] == re.search(r"S2([ABC])_|sentinel-2([abc])", one["id"])[1].lower()
        assert len(tile_of(one)) == 5


def test_real_hls_items():
    items = real(lambda one: re.search(r"HLS\.?[SL]30", f"{one['id']} {one.get('collection')}"))
    for one in items:
        scene = scene_of(one, BASE, None, lambda _href: GRID)
        kind = "S30" if re.search(r"HLS\.?S30", f"{one['id']} {one['collection']}") else "L30"
        names = HLS_S30 if kind == "S30" else HLS_L30
        assert tuple(asset.name for asset in scene.assets) == names, one["id"]
        assert all(f".{asset.name}.tif" in asset.href for asset in scene.assets)
        assert {(asset.dn_scale, asset.dn_offset, asset.nodata) for asset in scene.assets} == {(1e-4, 0, -9999)}
        assert scene.quality[0].href.endswith(".Fmask.tif")
        assert set(bands_of(one, f"hls_{kind.lower()}")) >= set(S30 if kind == "S30" else HLS_L30)


def test_real_items_of_one_scene_have_the_same_reflectance():
    """A pixel of reflectance 0.1234, stored as each archive stores it, is 0.1234 from all of them."""
    scenes = {}
    for one in real(lambda one: one.get("collection") and is_level_2a(one)):
        key = (source_of(one)[0], tile_of(one), one["properties"]["datetime"][:16])
        scenes.setdefault(key, {})[one["id"], one["collection"], baseline(one)] = one
    shared = [list(group.values()) for group in scenes.values() if len(group) > 1]
    if not shared:
        pytest.skip("no scene is there twice")
    for group in shared:
        for one in group:
            taken_out = one["properties"].get("earthsearch:boa_offset_applied", False)
            stored = 1234 + (1000 if added_by_esa(one) and not taken_out else 0)
            asset = scene_of(one, BASE, None, lambda _href: GRID).assets[3]
            assert (stored + asset.dn_offset) * asset.dn_scale == pytest.approx(0.1234)


def test_real_unusable_items_are_errors():
    others = [
        one
        for one in recorded()
        if re.search(
            r"l1c|sentinel-1|landsat-c2-?l1|L[ET]0|HLS-VI|mosaic", f"{one['id']} {one.get('collection')}", re.IGNORECASE
        )
    ]
    if not others:
        pytest.skip("no such items under $MS2HS_DATA/stac")
    for one in others:
        with pytest.raises(SceneError):
            scene_of(one, BASE, None, lambda _href: GRID)
