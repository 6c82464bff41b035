"""Sensors and levels of products by file names, tags and descriptions of bands."""

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster

from ms2hs.errors import SceneError, UnknownName
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.recognition import source_named_in
from ms2hs.scenes.scene import SceneOptions
from ms2hs.scenes.stac_item import scene_of
from ms2hs.scenes.stac_metadata import bands_of, source_of

MIXED = dn_of([LEAVES, WATER, SAND])
OLI = tuple(f"SR_B{i}" for i in range(1, 8))
COUNTED = tuple(f"B{i}" for i in range(1, 8))
TM = ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7")


def write(path, names, **choices):
    values = np.resize(dn_of([LEAVES]), (len(names), 24, 30))
    return str(write_raster(path, values, descriptions=names, **choices))


# --- platform ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("S2B_MSIL2A_20240607T101559_N0510_R065_T33UUP_20240607T135859", "sentinel2b"),
        ("S2A_29RKH_20240601_0_L2A", "sentinel2a"), ("20180615_LEVEL2_SEN2A_BOA", "sentinel2a"),
        ("20240615_LEVEL2_SEN2C_BOA", "sentinel2c"), ("SENTINEL2B_20180615-101031-027_L2A_T33UUP_C_V2-2", "sentinel2b"),
        ("sentinel-2a_crop", "sentinel2a"), ("Sentinel-2 C", None), ("MSIL2A", None), ("S2_L2A", None),
        ("LC08_L2SP_193024_20220615_20220627_02_T1_stack", "landsat8"), ("LC09_L2SR_193024_20220615", "landsat9"),
        ("LC08_193024_20220615", "landsat8"), ("LO08_L2SP_193024", "landsat8"), ("LC81930242014166LGN01", "landsat8"),
        ("20180615_LEVEL2_LND08_BOA", "landsat8"), ("20230615_LEVEL2_LND09_BOA", "landsat9"),
        ("LANDSAT_8", "landsat8"), ("landsat-9", "landsat9"), ("Landsat 8", "landsat8"), ("LC08_LC09_median", None),
        ("HLS.L30.T32TNT.2024153T102021.v2.0.B02", "hls_l30"), ("HLSS30.020_B02_doy2024159_aid0001_33N", "hls_s30"),
        ("HLS.S30.T32TNT.2024153T102021.v2.0.S2A", "hls_s30"), ("HLSL30_v002", "hls_l30"),
        ("LC80", None), ("BLC08", None),
    ],
)  # fmt: skip
def test_names_of_files_name_the_sensor(name, source):
    assert source_named_in([name]) == source


@pytest.mark.parametrize(
    ("tags", "source"),
    [
        ({"SPACECRAFT_ID": "LANDSAT_8"}, "landsat8"), ({"PLATFORM": "Landsat-9"}, "landsat9"),
        ({"LANDSAT_PRODUCT_ID": "LC08_L2SP_193024_20220615_20220627_02_T1"}, "landsat8"),
        ({"SPACECRAFT_NAME": "Sentinel-2C"}, "sentinel2c"),
    ],
)  # fmt: skip
def test_tags_name_the_sensor(tmp_path, tags, source):
    names = OLI if source.startswith("landsat") else S2_BANDS
    assert open_scene(write(tmp_path / "x.tif", names, tags=tags)).source == source


def test_descriptions_of_bands_name_the_sensor(tmp_path):
    names = [f"LC09_L2SP_193024_20220615_02_T1_{name}" for name in OLI]
    assert open_scene(write(tmp_path / "x.tif", names)).source == "landsat9"


@pytest.mark.parametrize(
    ("name", "tags", "source"),
    [
        ("S2B_MSIL2A_20170924T093019_N0205_R050_T35VPJ.tif", {}, "sentinel2b"),
        ("crop.tif", {"platform": "Sentinel-2C"}, "sentinel2c"),
        ("crop.tif", {"SPACECRAFT_NAME": "sentinel-2a"}, "sentinel2a"),
        ("HLS.S30.T32TNT.2024153T102021.v2.0.tif", {}, "hls_s30"),
        ("T32TNT_20240601.tif", {}, None),
        ("mosaic_S2A_S2B.tif", {}, None),
        ("S2_composite.tif", {}, None),
    ],
)
def test_recognition_reads_the_platform_from_name_and_tags(tmp_path, name, tags, source):
    scene = open_scene(str(write_raster(tmp_path / name, MIXED, descriptions=S2_BANDS, tags=tags)))
    assert scene.source == (source or "sentinel2a")
    assert any("taken as sentinel2a" in note for note in scene.notes) == (source is None)


def test_source_of_the_user_takes_precedence(s2_tif):
    assert open_scene(str(s2_tif), SceneOptions(source="sentinel2c")).source == "sentinel2c"
    scene = open_scene(str(s2_tif), SceneOptions(source="hls_s30"))
    assert len(scene.assets) == 11  # B09 is top of atmosphere there
    with pytest.raises(UnknownName, match=r"known: .*sentinel2a.*custom"):
        open_scene(str(s2_tif), SceneOptions(source="sentinel3"))
    with pytest.raises(UnknownName):
        open_scene(str(s2_tif), SceneOptions(source="enmap"))


@pytest.mark.parametrize(
    ("name", "tags", "bands"),
    [
        ("S2A_MSIL1C_20240601T102021_N0510_R065_T32TNT_20240601T140000.tif", {}, S2_BANDS),
        ("x.tif", {"level": "L1C"}, S2_BANDS),
        ("x.tif", {"PROCESSING_LEVEL": "Level-1C"}, S2_BANDS),
        ("x.tif", {"PRODUCT_TYPE": "S2MSI1C"}, S2_BANDS),
        ("x.tif", {}, (*S2_BANDS[:10], "B10", *S2_BANDS[10:])),
    ],
)
def test_geotiff_refuses_level_1c(tmp_path, name, tags, bands):
    values = np.resize(MIXED, (len(bands), *MIXED.shape[1:]))
    path = write_raster(tmp_path / name, values, descriptions=bands, tags=tags)
    with pytest.raises(SceneError, match=r"level 1C.*(level 2A)"):
        open_scene(str(path))


def test_geotiff_of_level_2a_may_name_its_level_1c_product(tmp_path):
    tags = {"PRODUCT_URI_1C": "S2A_MSIL1C_20170617T113321.SAFE", "PRODUCT_URI_2A": "S2A_MSIL2A_20170617T113321.SAFE"}
    path = write_raster(tmp_path / "x.tif", MIXED, descriptions=S2_BANDS, tags=tags)
    assert open_scene(str(path)).source == "sentinel2a"


def test_geotiff_refuses_output_of_ms2hs(tmp_path):
    path = write_raster(tmp_path / "x.tif", MIXED, descriptions=S2_BANDS, tags={"MS2HS_SYNTHETIC": "YES"})
    with pytest.raises(SceneError, match="written by ms2hs"):
        open_scene(str(path))


# --- top of atmosphere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tags", "bands"),
    [
        ("LC08_L1TP_193024_20220615_20220627_02_T1.tif", {}, COUNTED),
        ("LC09_L1GT_193024_20220615_20220627_02_T2.tif", {}, COUNTED),
        ("LE07_L1GS_193024_20020615_20200627_02_T1.tif", {}, COUNTED),
        ("20180615_LEVEL2_LND08_TOA.tif", {}, OLI), ("20180615_LEVEL2_SEN2A_TOA.tif", {}, S2_BANDS),
        ("x.tif", {"PROCESSING_LEVEL": "L1TP"}, OLI), ("x.tif", {"DATA_TYPE": "L1GT"}, OLI),
        ("LC08_x.tif", {}, [f"B{i}_toa" for i in range(1, 8)]),
    ],
)  # fmt: skip
def test_landsat_level_1_and_top_of_atmosphere_are_refused(tmp_path, name, tags, bands):
    with pytest.raises(SceneError, match=r"level 1, top of atmosphere \(.*level 2.* is required\. Use"):
        open_scene(write(tmp_path / name, bands, tags=tags))


@pytest.mark.parametrize("name", ["COPERNICUS_S2_20240601.tif", "COPERNICUS_S2_HARMONIZED_20240601.tif"])
def test_level_1c_of_earth_engine_is_refused(tmp_path, name):
    with pytest.raises(SceneError, match="level 1C"):
        open_scene(write(tmp_path / name, S2_BANDS))
    open_scene(write(tmp_path / name.replace("S2", "S2_SR"), S2_BANDS))


@pytest.mark.parametrize(
    ("name", "tags", "bands"),
    [
        ("LC08_L1TP_193024_20170615_20170627_01_T1_sr.tif", {}, OLI),
        ("LC08_L1TP_193024_20170615_20170627_01_T1.tif", {}, [f"sr_band{i}" for i in range(1, 8)]),
        ("HLS.L30.T32TNT.2024153T102021.v2.0.tif", {"LANDSAT_PRODUCT_ID": "LC08_L1TP_193024"},
         [f"B{i:02d}" for i in range(1, 8)]),
        ("atoall_S2A.tif", {}, S2_BANDS),
    ],
)  # fmt: skip
def test_surface_reflectance_may_name_its_product_of_level_1(tmp_path, name, tags, bands):
    assert len(open_scene(write(tmp_path / name, bands, tags=tags)).assets) == len(bands)


# --- other missions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tags", "bands", "mission"),
    [
        ("LE07_L2SP_193024_20020615_20200627_02_T1.tif", {}, TM, "LE07"),
        ("LT05_193024_19990615.tif", {}, TM, "LT05"), ("LT04_L2SP_193024_19890615.tif", {}, TM, "LT04"),
        ("LE71930242002166EDC00.tif", {}, TM, "LE7"), ("20000615_LEVEL2_LND07_BOA.tif", {}, TM, "LND07"),
        ("x.tif", {"SPACECRAFT_ID": "LANDSAT_5"}, TM, "LANDSAT_5"),
        ("x.tif", {"platform": "landsat-7"}, TM, "landsat-7"),
        ("x.tif", {}, [f"LE07_L2SP_{name}" for name in TM], "LE07"), ("LM05_L1TP_x_sr.tif", {}, TM[:4], "LM05"),
        ("MOD09A1.A2024153.h18v04.061.tif", {}, [f"sur_refl_b0{i}" for i in range(1, 8)], "MODIS"),
        ("x.tif", {}, [f"sur_refl_b0{i}" for i in range(1, 8)], "MODIS"), ("VNP09GA_x.tif", {}, TM, "VIIRS"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", [None, "landsat8"])
def test_missions_without_a_table_are_refused_by_name(tmp_path, name, tags, bands, mission, source):
    path = write(tmp_path / name, bands, tags=tags)
    with pytest.raises(SceneError, match=rf"is a (scene|product) of .*{mission}.* Use") as error:
        open_scene(path, SceneOptions(source=source))
    assert "--source" not in str(error.value)


@pytest.mark.parametrize("source", [None, "landsat8", "hls_l30"])
@pytest.mark.parametrize("style", ["SR_B{}", "B{}", "sr_band{}"])
@pytest.mark.parametrize("thermal", [[], ["ST_B6", "QA_PIXEL"], ["B6_VCID_1", "B6_VCID_2"]])
def test_numbers_of_landsat_4_to_7_are_refused(tmp_path, style, thermal, source):
    path = write(tmp_path / "x.tif", [*(style.format(i) for i in (1, 2, 3, 4, 5, 7)), *thermal])
    with pytest.raises(SceneError, match=r"Landsat 4 to 7.* are required\. Use"):
        open_scene(path, SceneOptions(source=source))


def test_missions_without_a_table_are_read_by_wavelength(tmp_path):
    nm = [483, 560, 662, 835, 1648, 2206]
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{value / 1000}", "FWHM_UM": "0.08"} for value in nm]
    scene = open_scene(write(tmp_path / "LE07_L2SP_193024.tif", TM, band_tags={"IMAGERY": tags}))
    assert (scene.source, scene.wavelength_nm) == ("custom", tuple(nm))


# --- STAC items -------------------------------------------------------------------------------------------------

ASSETS = dict(zip(["coastal", "blue", "green", "red", "nir08", "swir16", "swir22"], OLI, strict=True))


def landsat_item(platform="landsat-8", name="LC08_L2SP_193024_20220615_02_T1", collection="landsat-c2-l2", keys=ASSETS):
    assets = {
        key: {"href": f"https://x.org/{name}_{band}.TIF", "eo:bands": [{"name": f"OLI_{band[3:]}", "common_name": key}]}
        for key, band in keys.items()
    }
    assets["qa_pixel"] = {"href": f"https://x.org/{name}_QA_PIXEL.TIF"}
    return {
        "type": "Feature",
        "id": name,
        "collection": collection,
        "properties": {"platform": platform},
        "assets": assets,
    }


@pytest.mark.parametrize("remove", [(), ("name",), ("common_name",), ("name", "common_name")])
@pytest.mark.parametrize("platform", ["landsat-8", "LANDSAT_8", ""])
def test_items_of_landsat_are_recognised(remove, platform):
    item = landsat_item(platform)
    for asset in item["assets"].values():
        for key in remove:
            asset.get("eo:bands", [{}])[0].pop(key, None)
    assert source_of(item) == ("landsat8", None)
    bands = bands_of(item, "landsat8")
    assert {name: band.key for name, band in bands.items()} == {f"B0{i}": key for i, key in enumerate(ASSETS, 1)}


def test_items_of_landsat_with_file_names_for_keys_are_recognised():
    item = landsat_item("landsat-9", "LC09_L2SP_193024_20220615_02_T1", keys={band: band for band in OLI})
    assert source_of(item)[0] == "landsat9"
    assert list(bands_of(item, "landsat9")) == [f"B0{i}" for i in range(1, 8)]


@pytest.mark.parametrize(
    ("platform", "name", "collection", "text"),
    [
        ("landsat-7", "LE07_L2SP_193024_20020615_02_T1", "landsat-c2-l2", "Landsat 4, 5 or 7"),
        ("landsat-5", "LT05_L2SP_193024_19990615_02_T1", "landsat-c2-l2", "Landsat 4, 5 or 7"),
        ("landsat-8", "LC08_L1TP_193024_20220615_02_T1", "landsat-c2-l1", "level 1"),
        ("landsat-8", "LC08_L1TP_193024_20220615_02_T1", "x", "level 1"),
        ("LANDSAT_9", "x", "landsat-c2l1", "level 1"),
        ("sentinel-1a", "x", "sentinel-1-grd", "--source"),
    ],
)
def test_other_items_are_refused_by_name(platform, name, collection, text):
    with pytest.raises(SceneError, match=text):
        source_of(landsat_item(platform, name, collection))


@pytest.mark.parametrize(
    ("declared", "scale", "offset"),
    [({}, 2.75e-5, -0.2), ({"scale": 2.75e-5, "offset": -0.2}, 2.75e-5, -0.2), ({"scale": 1e-4}, 1e-4, 0.0),
     ({"scale": 1e-4, "offset": -0.1}, 1e-4, -0.1)],
)  # fmt: skip
def test_items_of_landsat_have_declared_or_known_scale_and_offset(declared, scale, offset):
    item = landsat_item()
    for asset in item["assets"].values():
        asset["raster:bands"] = [declared]
    grid = PixelGrid("EPSG:32633", (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), 8, 8)
    scene = scene_of(item, None, None, lambda _href: grid)
    assert (scene.source, len(scene.assets)) == ("landsat8", 7)
    for asset, key in zip(scene.assets, ASSETS.values(), strict=True):
        assert (asset.name, asset.href.endswith(f"_{key}.TIF")) == (key[3:], True)
        assert (asset.dn_scale, asset.dn_scale * asset.dn_offset) == pytest.approx((scale, offset))
