"""Scenes from small Sentinel-2 SAFE products: folders and zips, offsets, resolutions, clouds."""

import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import NORTH, S2_BANDS, WEST, write_raster

from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import offset_warnings
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Asset, Scene, SceneOptions, working_grid

NAME = "S2B_MSIL2A_20240601T102021_N0510_R065_T32TNT_20240601T140000.SAFE"
GRANULE = "GRANULE/L2A_T32TNT_A037800_20240601T102021/IMG_DATA"
# Products repeat bands at coarser resolutions; the finest of each is listed first.
RESOLUTIONS = {
    "B01": (20, 60), "B02": (10, 20, 60), "B03": (10, 20, 60), "B04": (10, 20, 60), "B05": (20, 60), "B06": (20, 60),
    "B07": (20, 60), "B08": (10,), "B8A": (20, 60), "B09": (60,), "B11": (20, 60), "B12": (20, 60),
}  # fmt: skip
SIDE_M = 360
XML = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>2024-06-01T10:20:21.024Z</PRODUCT_START_TIME>
      <PRODUCT_URI>{name}</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2B_20240601T102021_037800_N05.10">
        <SPACECRAFT_NAME>{spacecraft}</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>2024-06-01T10:20:21.024Z</DATATAKE_SENSING_START>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      {offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-2A_User_Product>
"""
IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def offsets_xml(values):
    rows = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{value}</BOA_ADD_OFFSET>' for i, value in enumerate(values))
    return f"<BOA_ADD_OFFSET_VALUES_LIST>{rows}</BOA_ADD_OFFSET_VALUES_LIST>"


def reflectance_of_band(name):
    return 0.05 + 0.02 * S2_BANDS.index(name)


def make_safe(folder: Path, *, offset=-1000, scl=4, driver="JP2OpenJPEG", **metadata) -> Path:
    """A product of 360 m by 360 m with constant bands; coarser resolutions of a band are brighter by 0.1."""
    path = folder / NAME
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    for name, sizes in {**RESOLUTIONS, "SCL": (20, 60)}.items():
        for gsd in sizes:
            side = SIDE_M // gsd
            value = scl if name == "SCL" else round(reflectance_of_band(name) * 1e4) - offset
            value = value if gsd == sizes[0] or name == "SCL" else value + 1000
            values = np.full((1, side, side), value, np.uint8 if name == "SCL" else np.uint16)
            file = path / GRANULE / f"R{gsd}m" / f"T32TNT_20240601T102021_{name}_{gsd}m.jp2"
            write_raster(file, values, gsd, driver=driver, **lossless)
    values = {
        "name": NAME, "baseline": "05.10", "spacecraft": "Sentinel-2B", "quantification": "10000",
        "offsets": offsets_xml([offset] * 13),
    }  # fmt: skip
    (path / "MTD_MSIL2A.xml").write_text(XML.format(**(values | metadata)))
    return path


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    return make_safe(tmp_path_factory.mktemp("safe"))


def read_all(scene, gsd=None):
    grid = working_grid(scene, gsd)
    with SceneReader(scene, grid) as reader:
        return reader.read(0, 0, grid.height, grid.width)


def zip_of(path, target):
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path.rglob("*")):
            archive.write(file, f"{path.name}/{file.relative_to(path).as_posix()}")
    return target


def test_safe_reads_the_metadata_of_the_product(safe):
    scene = open_scene(str(safe))
    assert scene.id == NAME.removesuffix(".SAFE")
    assert scene.source == "sentinel2b"
    assert scene.datetime == "2024-06-01T10:20:21.024Z"
    assert tuple(asset.name for asset in scene.assets) == S2_BANDS
    assert {asset.dn_offset for asset in scene.assets} == {-1000.0}
    assert {asset.dn_scale for asset in scene.assets} == {1e-4}
    assert {asset.nodata for asset in scene.assets} == {0.0}
    assert "BOA_ADD_OFFSET -1000" in scene.offset_rule
    assert "05.10" in scene.offset_rule
    assert scene.grid.transform == (10, 0, WEST, 0, -10, NORTH)
    assert scene.notes == ()


def test_safe_uses_the_finest_resolution_of_each_band(safe):
    scene = open_scene(str(safe))
    for asset in scene.assets:
        assert asset.href.endswith(f"_{asset.name}_{RESOLUTIONS[asset.name][0]}m.jp2")
    expected = np.array([reflectance_of_band(name) for name in S2_BANDS])
    for gsd, side in ((None, 12), (10, 36), (20, 18), (60, 6)):
        reflectance, valid = read_all(scene, gsd)
        assert reflectance.shape == (12, side, side)
        assert valid.all()
        assert np.allclose(reflectance, expected[:, None, None], atol=1e-6)
        assert offset_warnings(scene, reflectance[:, valid]) == ()


def test_working_grid_of_a_tile_is_the_hls_grid(safe):
    from dataclasses import replace

    scene = open_scene(str(safe))
    tile = replace(scene, grid=replace(scene.grid, height=10980, width=10980))
    grid = working_grid(tile)
    assert (grid.height, grid.width, grid.transform) == (3660, 3660, (30, 0, WEST, 0, -30, NORTH))


@pytest.mark.parametrize("how", ["zip", "metadata", "parent"])
def test_safe_opens_zip_metadata_file_and_parent_folder(safe, tmp_path, how):
    path = {"metadata": safe / "MTD_MSIL2A.xml", "parent": safe.parent}.get(how)
    path = path or zip_of(safe, tmp_path / "a product.zip")
    scene = open_scene(str(path))
    whole = open_scene(str(safe))
    assert (scene.id, scene.grid, scene.offset_rule) == (whole.id, whole.grid, whole.offset_rule)
    assert np.array_equal(read_all(scene)[0], read_all(whole)[0])


def test_safe_reads_the_offset_of_each_band(tmp_path):
    own = [-1000 - 10 * i for i in range(13)]
    scene = open_scene(str(make_safe(tmp_path, driver="GTiff", offsets=offsets_xml(own))))
    assert {asset.name: asset.dn_offset for asset in scene.assets} == {
        name: own[i] for i, name in enumerate(IDS) if name != "B10"
    }


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [("02.14", 0.0), ("03.01", 0.0), ("04.00", -1000.0), ("05.11", -1000.0), ("99.99", 0.0), ("", 0.0)],
)
def test_safe_without_listed_offsets_uses_the_baseline(tmp_path, baseline, offset):
    """Name and time are June 2024 in every case."""
    path = make_safe(tmp_path, driver="GTiff", offset=int(offset), offsets="", baseline=baseline)
    scene = open_scene(str(path))
    assert {asset.dn_offset for asset in scene.assets} == {offset}
    assert (baseline or "unknown") in scene.offset_rule


def test_safe_uses_quantification_and_the_users_offset(tmp_path):
    path = make_safe(tmp_path, driver="GTiff", quantification="20000")
    assert {asset.dn_scale for asset in open_scene(str(path)).assets} == {5e-5}
    scene = open_scene(str(path), SceneOptions(dn_offset=0))
    assert {asset.dn_offset for asset in scene.assets} == {0.0}
    assert "given by the user instead of scale 5e-05 and offset -0.05" in scene.offset_rule


@pytest.mark.parametrize(
    ("spacecraft", "name", "source"),
    [
        ("Sentinel-2A", NAME, "sentinel2a"),
        ("Sentinel-2C", NAME, "sentinel2c"),
        ("", NAME, "sentinel2b"),
        ("", "renamed", "sentinel2a"),
    ],
)
def test_safe_reads_the_platform_from_the_metadata(tmp_path, spacecraft, name, source):
    path = make_safe(tmp_path, driver="GTiff", spacecraft=spacecraft, name=name)
    scene = open_scene(str(path))
    assert scene.source == source
    assert bool(scene.notes) == (name == "renamed")
    assert open_scene(str(path), SceneOptions(source="sentinel2c")).source == "sentinel2c"
    with pytest.raises(SceneError, match="hls_s30"):
        open_scene(str(path), SceneOptions(source="hls_s30"))


@pytest.mark.parametrize("scl", range(12))
def test_cloud_shadow_and_cirrus_are_invalid_unless_kept(tmp_path, scl):
    path = make_safe(tmp_path, driver="GTiff", scl=scl)
    reflectance, valid = read_all(open_scene(str(path)))
    assert valid.all() == (scl in {2, 4, 5, 6, 7, 11})
    assert valid.any() == valid.all()
    assert (reflectance[:, ~valid] == 0).all()
    assert read_all(open_scene(str(path), SceneOptions(quality=False)))[1].all()


def test_safe_names_a_missing_band(safe, tmp_path):
    archive = zip_of(safe, tmp_path / "x.zip")
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "y.zip", "w") as part:
        for name in whole.namelist():
            if "_B09_" not in name:
                part.writestr(name, whole.read(name))
    with pytest.raises(SceneError, match="no image of B09; available: B01, B02"):
        open_scene(str(tmp_path / "y.zip"))
    scene = open_scene(str(tmp_path / "y.zip"), SceneOptions(bands=tuple(name for name in S2_BANDS if name != "B09")))
    assert len(scene.assets) == 11
    with pytest.raises(SceneError, match="at least 10"):
        open_scene(str(safe), SceneOptions(bands=("B02", "B03", "B04")))


def test_safe_without_scene_classification_says_that_clouds_are_kept(tmp_path):
    path = make_safe(tmp_path, driver="GTiff")
    for file in path.rglob("*_SCL_*"):
        file.unlink()
    scene = open_scene(str(path))
    assert scene.quality == ()
    assert scene.quality_note == "clouds are kept: the product has no cloud layer"


def test_safe_refuses_level_1c(tmp_path):
    folder = tmp_path / "S2A_MSIL1C_20240601T102021_N0510_R065_T32TNT_20240601T140000.SAFE"
    (folder / "GRANULE").mkdir(parents=True)
    (folder / "MTD_MSIL1C.xml").write_text("<x/>")
    with pytest.raises(SceneError, match=r"level 1C.*level 2A"):
        open_scene(str(folder))
    with pytest.raises(SceneError, match=r"level 1C.*level 2A"):
        open_scene(str(zip_of(folder, tmp_path / "x.zip")))
    with pytest.raises(SceneError, match=r"level 1C"):
        open_scene(str(folder / "MTD_MSIL1C.xml"))


def test_safe_reports_damaged_products(safe, tmp_path):
    archive = zip_of(safe, tmp_path / "x.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneError, match=r"x\.zip: not a readable zip"):
        open_scene(str(archive))
    (tmp_path / "a.SAFE").mkdir()
    with pytest.raises(SceneError, match=r"no MTD_MSIL2A\.xml"):
        open_scene(str(tmp_path / "a.SAFE"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(SceneError, match="a folder of unknown format"):
        open_scene(str(tmp_path / "folder"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_jpeg_2000_is_an_error(tmp_path, share):
    """GDAL reads the missing tiles as zeros, which look like the border of the image."""
    values = np.random.default_rng(0).integers(1000, 5000, (1, 256, 256)).astype(np.uint16)
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64}
    path = write_raster(tmp_path / "B02.jp2", values, **options)
    asset = Asset("B02", str(path), 1, 1e-4, 0.0, 0.0)
    scene = Scene("x", "sentinel2a", (asset,), PixelGrid("EPSG:32632", (10, 0, WEST, 0, -10, NORTH), 256, 256), "")
    assert read_all(scene)[1].all()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SceneError, match=r"B02\.jp2: the JPEG 2000 file is truncated"):
        read_all(scene)


def test_safe_reports_damaged_metadata_and_images(tmp_path):
    path = make_safe(tmp_path)
    scene = open_scene(str(path))
    image = next(path.rglob("*_B11_20m.jp2"))
    image.write_bytes(image.read_bytes()[:-60])
    with pytest.raises(SceneError, match=r"B11_20m\.jp2"):
        read_all(scene)
    metadata = path / "MTD_MSIL2A.xml"
    text = metadata.read_text()
    for damaged, message in (
        (text[: len(text) // 2], r"SAFE: MTD_MSIL2A\.xml is damaged"),
        (text.replace('band_id="3"', 'band_id="77"'), r"SAFE: MTD_MSIL2A\.xml is damaged"),
        (text.replace(">10000<", ">x<"), "SAFE: product metadata: declares the scale nan"),
    ):
        metadata.write_text(damaged)
        with pytest.raises(SceneError, match=message):
            open_scene(str(path))


def make_two_granules(folder, driver="GTiff"):
    """A product with the tiles T32TNT and T33UUP; the second is brighter by 0.1."""
    path = make_safe(folder, driver=driver)
    for file in list(path.rglob("*.jp2")):
        copy = path / str(file.relative_to(path)).replace("T32TNT", "T33UUP")
        with rasterio.open(file) as dataset:
            values, gsd = dataset.read(), dataset.transform.a
        brighter = values if "SCL" in file.name else values + np.uint16(1000)
        write_raster(copy, brighter, gsd, driver=driver, crs="EPSG:32633")
    return path


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
@pytest.mark.parametrize("is_zip", [False, True])
def test_safe_with_several_granules_needs_a_choice(tmp_path, driver, is_zip):
    path = make_two_granules(tmp_path, driver)
    path = zip_of(path, tmp_path / "a.zip") if is_zip else path
    with pytest.raises(SceneError, match=r"2 granules \(T32TNT, T33UUP\).*Use --granule T32TNT"):
        open_scene(str(path))
    for granule in ("T33UUP", "t33uup", "33UUP", "L2A_T33UUP_A037800_20240601T102021"):
        scene = open_scene(str(path), SceneOptions(granule=granule))
        assert scene.grid.crs == "EPSG:32633"
        assert scene.id.endswith("_T33UUP")
        assert all("T33UUP" in asset.href for asset in (*scene.assets, *scene.quality))
    assert read_all(scene)[0][0, 0, 0] == pytest.approx(reflectance_of_band("B01") + 0.1)
    with pytest.raises(SceneError, match=r"--granule T31ABC is no granule of the product; T32TNT, T33UUP"):
        open_scene(str(path), SceneOptions(granule="T31ABC"))


def test_safe_with_two_granules_of_one_tile_needs_a_whole_name(tmp_path):
    path = make_safe(tmp_path, driver="GTiff")
    first = path / GRANULE.removesuffix("/IMG_DATA")
    shutil.copytree(first, first.with_name(first.name[:-6] + "102135"))
    with pytest.raises(SceneError, match="2 granules") as error:
        open_scene(str(path))
    (granule,) = re.findall(r"--granule (\S+)\.", str(error.value))
    assert {Path(asset.href).parts[-4] for asset in open_scene(str(path), SceneOptions(granule=granule)).assets} == {
        first.name
    }


def test_safe_with_one_granule_accepts_its_name_only(safe):
    assert open_scene(str(safe), SceneOptions(granule="T32TNT")) == open_scene(str(safe))
    with pytest.raises(SceneError, match="T31ABC is no granule"):
        open_scene(str(safe), SceneOptions(granule="T31ABC"))


def test_safe_of_the_old_format_is_read(tmp_path):
    """Names of products before December 2016."""
    new = make_two_granules(tmp_path / "new").parent
    path = tmp_path / "S2A_USER_PRD_MSIL2A_PDMC_20160301T101559_R065_V20160301T101559_20160301T101559.SAFE"
    for file in new.rglob("*.jp2"):
        tile, gsd = ("T33UUP" if "T33UUP" in file.name else "T32TNT"), file.stem[-3:]
        layer = file.stem.split("_")[-2]
        stem = f"L2A_TL_SGS__20160301T120000_A002500_{tile}"
        name = f"S2A_USER_SCL_{stem}_{gsd}" if layer == "SCL" else f"R{gsd}/S2A_USER_MSI_{stem}_{layer}_{gsd}"
        target = path / "GRANULE" / f"S2A_USER_MSI_{stem}_N02.01" / "IMG_DATA" / f"{name}.jp2"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    xml = XML.replace("<PRODUCT_URI>{name}</PRODUCT_URI>", "<PRODUCT_URI_2A>{name}</PRODUCT_URI_2A>")
    xml = xml.replace("BOA_QUANT", "L2A_BOA_QUANT").format(
        name=path.name, baseline="02.01", spacecraft="Sentinel-2A", quantification="10000", offsets=""
    )
    (path / "S2A_USER_MTD_SAFL2A_PDMC_20160301T101559_R065_V20160301T101559_20160301T101559.xml").write_text(xml)
    for product in (path, zip_of(path, tmp_path / "old.zip")):
        with pytest.raises(SceneError, match="2 granules"):
            open_scene(str(product))
        scene = open_scene(str(product), SceneOptions(granule="T32TNT"))
        assert tuple(asset.name for asset in scene.assets) == S2_BANDS
        assert scene.id == f"{path.stem}_T32TNT"
        assert {asset.dn_offset for asset in scene.assets} == {0.0}
        assert len(scene.quality) == 1
        assert read_all(scene)[1].all()


def test_safe_images_beside_the_metadata_file_are_read(safe, tmp_path):
    """The offset stands in the metadata file only."""
    for file in safe.rglob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    scene, whole = open_scene(str(tmp_path)), open_scene(str(safe))
    assert (scene.id, scene.offset_rule, scene.grid) == (whole.id, whole.offset_rule, whole.grid)
    assert {asset.dn_offset for asset in scene.assets} == {-1000.0}


def test_open_safe_does_not_wait_for_a_pipe(tmp_path):
    root = make_safe(tmp_path)
    (root / "MTD_MSIL2A.xml").unlink()
    os.mkfifo(root / "MTD_MSIL2A.xml")
    with pytest.raises(SceneError, match=r"has no MTD_MSIL2A\.xml"):
        open_scene(str(root))
