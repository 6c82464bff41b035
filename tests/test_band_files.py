"""Scenes with one raster per band, as tools write them: HLS granules, folders, archives, NetCDF."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import NORTH, S2_BANDS, WEST, write_raster
from rasterio import Affine
from rasterio.crs import CRS
from test_safe import make_safe

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import SceneError
from ms2hs.raster.container import file_of
from ms2hs.scenes.formats import open_scene, scene_paths
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions, working_grid

S30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
ALL_S30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
L30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07")
ALL_L30 = (*L30, "B09", "B10", "B11")
SHAPE = (8, 10)


def make_hls(folder, product="S30", bands=ALL_S30, fmask=0, tile="T32TNT", **options):
    stem = f"HLS.{product}.{tile}.2024153T102021.v2.0"
    options = {"nodata": -9999, "scale": 1e-4} | options
    for i, name in enumerate(bands):
        values = np.full((1, *SHAPE), 500 + 100 * i, np.int16)
        values[0, 0, 0] = -9999 if name == "B02" else values[0, 0, 0]
        values[0, 1, 1] = 0 if name == bands[-1] else values[0, 1, 1]
        values[0, 2, 2] = -37 if name == "B03" else values[0, 2, 2]
        write_raster(folder / f"{stem}.{name}.tif", values, 30, **options)
    if fmask is not None:
        layer = np.broadcast_to(np.asarray(fmask, np.uint8), (1, *SHAPE)).copy()
        write_raster(folder / f"{stem}.Fmask.tif", layer, 30, nodata=255)
    return folder


def read_all(scene):
    grid = working_grid(scene)
    with SceneReader(scene, grid) as reader:
        return reader.read(0, 0, grid.height, grid.width)


def names_of(scene):
    return tuple(asset.name for asset in scene.assets)


@pytest.mark.parametrize(("product", "bands", "used"), [("S30", ALL_S30, S30), ("L30", ALL_L30, L30)])
def test_hls_ignores_toa_and_thermal_bands(tmp_path, product, bands, used):
    scene = open_scene(str(make_hls(tmp_path, product, bands)))
    assert scene.source == f"hls_{product.lower()}"
    assert names_of(scene) == used
    assert scene.id == f"HLS.{product}.T32TNT.2024153T102021.v2.0"
    assert scene.datetime == "2024-06-01T10:20:21Z"
    assert scene.spectral.names == used
    assert working_grid(scene) == scene.grid
    reflectance, valid = read_all(scene)
    expected = [(500 + 100 * bands.index(name)) * 1e-4 for name in used]
    assert np.allclose(reflectance[:, 4, 4], expected)
    # The declared fill is no value; 0 and small negatives are measured.
    assert not valid[0, 0]
    assert valid.sum() == valid.size - 1
    assert reflectance[2, 2, 2] == pytest.approx(-0.0037)


def test_hls_has_no_sentinel2_offset(tmp_path):
    """HLS is made from level 1C without the offset, for every date."""
    scene = open_scene(str(make_hls(tmp_path)))
    assert {asset.dn_offset for asset in scene.assets} == {0.0}
    scene = open_scene(str(tmp_path), SceneOptions(dn_offset=-50))
    assert {asset.dn_offset for asset in scene.assets} == {-50.0}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"scale": 2e-4, "offset": 0.01}, "file's own"),
        ({"scale": None, "tags": {"scale_factor": "0.0002", "add_offset": "0.01"}}, "file's tags"),
    ],
)
def test_hls_uses_the_scale_and_offset_of_the_files(tmp_path, options, rule):
    scene = open_scene(str(make_hls(tmp_path, **options)))
    assert rule in scene.offset_rule
    assert read_all(scene)[0][0, 4, 4] == pytest.approx(500 * 2e-4 + 0.01)


def test_hls_defaults_are_those_of_the_user_guide(tmp_path):
    scene = open_scene(str(make_hls(tmp_path, scale=None, nodata=None)))
    assert {(asset.dn_scale, asset.nodata) for asset in scene.assets} == {(1e-4, -9999.0)}
    assert "User Guide" in scene.offset_rule
    assert not read_all(scene)[1][0, 0]


@pytest.mark.parametrize(
    ("fmask", "is_ground"),
    [(0, True), (1, False), (2, False), (4, False), (8, False), (16, True), (32, True), (192, True), (194, False),
     (224, True), (255, False)],
)  # fmt: skip
def test_fmask_removes_cloud_and_shadow_and_keeps_water_and_snow(tmp_path, fmask, is_ground):
    make_hls(tmp_path, fmask=fmask)
    valid = read_all(open_scene(str(tmp_path)))[1]
    assert valid[4:, 4:].all() == is_ground
    assert valid[4:, 4:].any() == is_ground
    assert read_all(open_scene(str(tmp_path), SceneOptions(quality=False)))[1][4:, 4:].all()


def test_hls_without_fmask_says_that_clouds_are_kept(tmp_path):
    scene = open_scene(str(make_hls(tmp_path, fmask=None)))
    assert scene.quality == ()
    assert scene.quality_note == "clouds are kept: the scene has no cloud layer"


def test_hls_names_missing_bands(tmp_path):
    make_hls(tmp_path)
    next(tmp_path.glob("*.B8A.tif")).unlink()
    with pytest.raises(SceneError, match="no file of B8A of HLS"):
        open_scene(str(tmp_path))
    scene = open_scene(str(tmp_path), SceneOptions(bands=tuple(name for name in S30 if name != "B8A")))
    assert len(scene.assets) == 10
    with pytest.raises(SceneError, match="at least 9"):
        open_scene(str(tmp_path), SceneOptions(bands=("B02", "B03")))


def test_hls_selects_a_granule_by_its_file(tmp_path):
    make_hls(tmp_path)
    make_hls(tmp_path, tile="T33TUN")
    with pytest.raises(SceneError, match="contains 2 scenes"):
        open_scene(str(tmp_path))
    path = next(tmp_path.glob("*T33TUN*.B04.tif"))
    scene = open_scene(str(path))
    assert ".T33TUN." in scene.id
    assert all(".T33TUN." in asset.href for asset in scene.assets)


def test_hls_refuses_another_source(tmp_path):
    make_hls(tmp_path)
    with pytest.raises(SceneError, match="files are hls_s30's"):
        open_scene(str(tmp_path), SceneOptions(source="sentinel2a"))


def test_hls_names_a_truncated_file(tmp_path):
    make_hls(tmp_path)
    scene = open_scene(str(tmp_path))
    path = next(tmp_path.glob("*.B05.tif"))
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(SceneError, match=r"B05\.tif"):
        read_all(scene)
    shutil.rmtree(tmp_path)
    with pytest.raises(SceneError, match="no such file or folder"):
        open_scene(str(tmp_path))


# Bands, sensor and value of each form. The names of files are as the tools write them.
MAJA_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
COMMON = dict(
    zip(
        S2_BANDS,
        ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16",
         "swir22"),
        strict=True,
    )
)  # fmt: skip
# Names of Geoscience Australia; the last two are not in its products.
NBART = dict(
    zip(
        S2_BANDS,
        ("coastal_aerosol", "blue", "green", "red", "red_edge_1", "red_edge_2", "red_edge_3", "nir_1", "nir_2", "B09",
         "swir_2", "swir_3"),
        strict=True,
    )
)  # fmt: skip
COMMON |= {"B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "nir08", "B6": "swir16", "B7": "swir22"}
LANDSAT = ("B1", "B2", "B3", "B4", "B5", "B6", "B7")
GSD_M = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60}
BIGEARTHNET = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
MAJA = "SENTINEL2A_20180615-101031-027_L2A_T33UUP_C_V2-2"
LC08 = "LC08_L2SP_193024_20220615_20220627_02_T1"
BROWSER = "2024-06-07-00:00_2024-06-07-23:59_Sentinel-2_L2A"


@dataclass(frozen=True)
class Form:
    """Single-band files as a tool writes them."""

    folder: str
    file: str
    """Name of a band's file: `{0}` is the band, `{1}` its short form, `{2}` its common name, `{3}` its size in m."""
    source: str = "sentinel2a"
    bands: tuple[str, ...] = S2_BANDS
    datetime: str | None = None
    scale: float = 1e-4
    offset: float = 0.0
    dtype: str = "int16"
    id: str = ""
    is_mixed: bool = False
    """Whether the bands have their native resolutions."""
    options: dict[str, object] = field(default_factory=dict)


FORMS = {
    "BigEarthNet v2": Form(BIGEARTHNET, BIGEARTHNET + "_{0}.tif", datetime="2017-06-13T10:10:31Z", is_mixed=True),
    "BigEarthNet v1": Form("S2B_MSIL2A_20170808T094029_71_54", "S2B_MSIL2A_20170808T094029_71_54_{0}.tif", "sentinel2b",
                           datetime="2017-08-08T09:40:29Z", is_mixed=True),
    "MAJA FRE": Form(MAJA, MAJA + "_FRE_{1}.tif", bands=MAJA_BANDS, datetime="2018-06-15T10:10:31Z", is_mixed=True),
    "MAJA SRE": Form(MAJA, MAJA + "_SRE_{1}.tif", bands=MAJA_BANDS, datetime="2018-06-15T10:10:31Z", id=MAJA),
    "Landsat 8": Form(LC08, LC08 + "_SR_{1}.TIF", "landsat8", LANDSAT, "2022-06-15", 2.75e-5, -0.2, "uint16", LC08),
    "Landsat 9": Form("x", LC08.replace("LC08", "LC09") + "_SR_{1}.TIF", "landsat9", LANDSAT, "2022-06-15", 2.75e-5,
                      -0.2, "uint16", LC08.replace("LC08", "LC09")),
    "Earth Search": Form("S2B_33UUP_20240607_0_L2A", "{2}.tif", "sentinel2b", datetime="2024-06-07", is_mixed=True),
    "Earth Search C1": Form("S2C_T33UUP_20250607T101559_L2A", "{2}.tif", "sentinel2c", offset=-0.1, dtype="uint16",
                            datetime="2025-06-07T10:15:59Z", is_mixed=True),
    "AppEEARS S30": Form("appeears", "HLSS30.020_{0}_doy2024159_aid0001_33N.tif", "hls_s30", S30,
                         "2024-06-07", id="HLSS30.020_doy2024159_aid0001_33N"),
    "AppEEARS L30": Form("appeears", "HLSL30.020_{0}_doy2024159101559_aid0001_33N.tif", "hls_l30", L30,
                         "2024-06-07T10:15:59Z", id="HLSL30.020_doy2024159101559_aid0001_33N"),
    "Copernicus Browser": Form("browser", BROWSER + "_{0}_(Raw).tiff", scale=1.0, dtype="float32",
                               datetime="2024-06-07", id=BROWSER),
    "Earth Engine": Form("gee", "20240607T101559_20240607T102113_T33UUP.{1}.tif",
                         datetime="2024-06-07T10:15:59Z", id="20240607T101559_20240607T102113_T33UUP"),
    "Earth Engine, two digits": Form("gee", "download.{0}.tif", id="download"),
    "ESA images": Form("flat", "T33UUP_20240607T101559_{0}_{3}m.jp2", datetime="2024-06-07T10:15:59Z", dtype="uint16",
                       id="T33UUP_20240607T101559", is_mixed=True, options={"driver": "JP2OpenJPEG", "QUALITY": "100",
                                                                             "REVERSIBLE": "YES"}),
    "AWS": Form("aws", "R{3}m/{0}.jp2", id="aws", is_mixed=True, dtype="uint16",
                options={"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}),
    "baseline in the folder": Form("S2B_MSIL2A_20240607T101559_N0510_R065_T33UUP_20240607T120000", "{0}.tif",
                                   "sentinel2b",
                                   datetime="2024-06-07T10:15:59Z", offset=-0.1, dtype="uint16"),
    "Planetary Computer": Form("x", "T33UUP_20240607T101559_{0}_{3}m.tif", datetime="2024-06-07T10:15:59Z",
                               dtype="uint16", id="T33UUP_20240607T101559", is_mixed=True),
    "openEO": Form("x", "openEO_2024-06-07Z_{0}.tif", datetime="2024-06-07", id="openEO_2024-06-07Z"),
    "Sentinel Hub": Form("1f2e3d", "{0}.tif", dtype="float32", scale=1.0, id="1f2e3d"),
    "dots in the folder": Form("S2B_33UUP_20240607.v1.0", "{2}.tif", "sentinel2b", datetime="2024-06-07"),
    "stackstac": Form("x", "{2}_2024-06-07.tif", datetime="2024-06-07", id="2024-06-07"),
    "AppEEARS Landsat": Form("aid0001", "L09.002_SR_{1}_CU_doy2022166_aid0001.tif", "landsat9", LANDSAT, "2022-06-15",
                             2.75e-5, -0.2, "uint16", "L09.002_CU_doy2022166_aid0001"),
    "Landsat ARD": Form("x", "LC08_CU_003010_20220615_20220701_02_SR_{1}.TIF", "landsat8", LANDSAT, "2022-06-15",
                        2.75e-5,
                        -0.2, "uint16", "LC08_CU_003010_20220615_20220701_02"),
    "Landsat 8 by common name": Form(LC08, "{2}.tif", "landsat8", LANDSAT, "2022-06-15", 2.75e-5, -0.2, "uint16", LC08),
    "MAJA of Landsat 8": Form("x", "LANDSAT8-OLITIRS-XS_20160315-104812-000_L2A_T31TCJ_C_V2-2_FRE_{1}.tif", "landsat8",
                              LANDSAT, "2016-03-15T10:48:12Z",
                              id="LANDSAT8-OLITIRS-XS_20160315-104812-000_L2A_T31TCJ_C_V2-2"),
    "Geoscience Australia": Form("x", "ga_s2bm_nbart_3-2-1_56JKT_2018-02-10_final_nbart_{4}.tif", "sentinel2b",
                                 S2_BANDS, "2018-02-10", id="ga_s2bm_nbart_3-2-1_56JKT_2018-02-10_final_nbart"),
    "SNAP ENVI": Form("x", "subset_S2A_{1}.img", datetime=None, id="subset_S2A", options={"driver": "ENVI"}),
    "band within the name": Form("x", "site_20240607_{0}_clip.tif", datetime="2024-06-07", id="site_20240607_clip"),
}  # fmt: skip


def write_form(folder, form, file=None):
    """The files of a form, 240 m by 240 m; each band is constant."""
    folder = folder / form.folder
    for i, name in enumerate(form.bands):
        gsd = GSD_M.get(name, 20) if form.is_mixed else 30
        short = name if name[1] != "0" else f"B{name[2]}"
        path = (file or form.file).format(name, short, COMMON.get(name, ""), gsd, NBART.get(name, ""))
        stored = (0.05 + 0.02 * i - form.offset) / form.scale
        stored = stored if form.dtype.startswith("float") else round(stored)
        side = 240 // gsd
        write_raster(folder / path, np.full((1, side, side), stored, form.dtype), gsd, **form.options)
    return folder


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_band_files_of_every_tool_are_one_scene(tmp_path, form):
    folder = write_form(tmp_path, form)
    scene = open_scene(str(folder))
    assert scene.source == form.source
    assert names_of(scene) == form.bands
    assert scene.id == (form.id or form.folder)
    assert scene.datetime == form.datetime
    assert scene.grid.transform[0] == (10 if form.is_mixed else 30)
    reflectance, valid = read_all(scene)
    assert valid.all()
    expected = 0.05 + 0.02 * np.arange(len(form.bands))
    assert np.allclose(reflectance.transpose(1, 2, 0), expected, atol=2 * form.scale if form.scale < 1 else 1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_band_file_opens_the_scene_of_its_folder(tmp_path, form):
    folder = write_form(tmp_path, form)
    whole = open_scene(str(folder))
    for asset in whole.assets[:2]:
        assert open_scene(asset.href) == whole


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", ["zip", "zip of a folder", "tar", "tar of ./"])
def test_archives_of_band_files_are_scenes(tmp_path, form, kind):
    folder = write_form(tmp_path, form)
    archive = tmp_path / f"{form.folder}.{kind.split()[0]}"
    prefix = {"zip of a folder": f"{form.folder}/", "tar of ./": "./"}.get(kind, "")
    files = {f"{prefix}{file.relative_to(folder).as_posix()}": file for file in folder.rglob("*.*")}
    if kind.startswith("zip"):
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, file in files.items():
                zipped.write(file, name)
    else:
        with tarfile.open(archive, "w") as tar:
            for name, file in files.items():
                tar.add(file, name)
    scene, whole = open_scene(str(archive)), open_scene(str(folder))
    shutil.rmtree(folder)
    assert (scene.id, scene.source, scene.grid, scene.datetime) == (whole.id, whole.source, whole.grid, whole.datetime)
    reflectance, valid = read_all(scene)
    assert valid.all()
    assert np.allclose(reflectance[:, 0, 0], 0.05 + 0.02 * np.arange(len(form.bands)), atol=1e-4)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_files_in_a_zip_are_refused(tmp_path, compression):
    """GDAL reads the pixels of a file with a wrong checksum."""
    folder, archive = write_form(tmp_path, GEE), tmp_path / "scene.zip"
    with zipfile.ZipFile(archive, "w", compression) as zipped:
        for file in folder.iterdir():
            zipped.write(file, file.name)
    damaged = bytearray(archive.read_bytes())
    name = zipfile.ZipFile(archive).namelist()[0].encode()
    for at, before in ((damaged.index(name), 16), (damaged.rindex(name), 30)):  # the checksum before both names
        damaged[at - before] ^= 0xFF
    archive.write_bytes(damaged)
    assert f"{name.decode()} is damaged (Bad CRC-32" in refusal(archive)


GEE = FORMS["Earth Engine"]


def refusal(path, **options):
    with pytest.raises(SceneError) as caught:
        open_scene(str(path), SceneOptions(**options))
    return str(caught.value)


@pytest.mark.parametrize("name", ["AppEEARS S30", "Landsat 8", "Earth Engine"])
def test_several_scenes_are_refused_and_chosen_by_granule_or_file(tmp_path, name):
    form = FORMS[name]
    later = {"AppEEARS S30": ("159", "164"), "Landsat 8": ("20220615", "20220631"), "Earth Engine": ("0607", "0612")}
    file = form.file.replace(*later[name])
    folder = write_form(tmp_path, form)
    write_form(tmp_path, form, file)
    ids = {form.id, form.id.replace(*later[name])}
    text = refusal(folder)
    assert "contains 2 scenes" in text
    assert all(title in text for title in ids)
    for title in ids:
        scene = open_scene(str(folder), SceneOptions(granule=title.lower()))
        assert scene.id == title
        assert open_scene(scene.assets[3].href) == scene
    assert {open_scene(str(path)).id for path in scene_paths(folder)} == ids
    assert "--granule X fits 0 scenes" in refusal(folder, granule="X")


def test_granule_is_refused_for_products_of_one_granule(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.full((12, 4, 4), 1000, np.uint16), descriptions=S2_BANDS)
    (tmp_path / "item.json").write_text("{}")
    for scene in (path, tmp_path / "item.json"):
        assert "Remove --granule" in refusal(scene, granule="T33UUP")
    assert "--granule T33UUP fits 0 scenes" in refusal(write_form(tmp_path, FORMS["BigEarthNet v1"]), granule="T33UUP")


def test_finest_resolution_and_slope_correction_are_preferred(tmp_path):
    folder = write_form(tmp_path, FORMS["ESA images"])
    for file in list(folder.iterdir()):
        for size in (20, 60):
            if size > int(file.name[-7:-5]):
                shutil.copy(file, file.with_name(f"{file.name[:-7]}{size}m.jp2"))
    scene = open_scene(str(folder))
    assert [int(asset.href[-7:-5]) for asset in scene.assets] == [GSD_M.get(name, 20) for name in S2_BANDS]
    maja = write_form(tmp_path, FORMS["MAJA SRE"])
    write_form(tmp_path, FORMS["MAJA FRE"])
    scene = open_scene(str(maja))
    assert all("_FRE_" in asset.href for asset in scene.assets)
    assert any("FRE" in note and "SRE" in note for note in scene.notes)


def test_maja_fill_is_invalid_although_undeclared(tmp_path):
    form = FORMS["MAJA SRE"]
    folder = write_form(tmp_path, form)
    for file in folder.iterdir():
        values = np.full((1, 8, 8), 1200, np.int16)
        values[0, 2, 3] = -10000
        write_raster(file, values, 30)
    scene = open_scene(str(folder))
    assert {asset.nodata for asset in scene.assets} == {-10000.0}
    valid = read_all(scene)[1]
    assert not valid[2, 3]
    assert valid.sum() == 63


def test_two_files_of_a_band_are_refused(tmp_path):
    folder = write_form(tmp_path, FORMS["AWS"])
    folder = write_form(tmp_path, Form("aws", "{0}.tif"))
    text = refusal(folder)
    assert "are both B" in text


@pytest.mark.parametrize(
    "options",
    [
        {"crs": "EPSG:32633"},
        {"transform": Affine(30, 0, WEST + 15, 0, -30, NORTH)},
        {"transform": Affine(45, 0, WEST, 0, -45, NORTH)},
        {"transform": Affine(30, 0, WEST, 0, 30, NORTH)},
        {"transform": Affine(60, 0, WEST, 0, -60, NORTH)},
        {"transform": Affine(30, 1, WEST, 1, -30, NORTH)},
    ],
)
def test_bands_on_other_grids_are_refused(tmp_path, options):
    folder = write_form(tmp_path, GEE)
    file = next(folder.glob("*.B11.tif"))
    write_raster(file, np.full((1, 8, 8), 1000, np.int16), 30, **options)
    text = refusal(folder)
    assert file.name in text
    assert "another grid" in text


def test_bands_cut_from_a_tile_one_by_one_are_one_scene(tmp_path):
    """Earth Engine cuts each band at its own pixels, so that extents differ by parts of the largest pixel."""
    folder = write_form(tmp_path, replace(FORMS["Earth Engine"], is_mixed=True))
    transform = Affine(60, 0, WEST - 20, 0, -60, NORTH + 40)
    write_raster(next(folder.glob("*.B1.tif")), np.full((1, 5, 5), 500, np.int16), 60, transform=transform)
    scene = open_scene(str(folder))
    assert scene.grid.transform[0] == 10
    reflectance, valid = read_all(scene)
    assert valid.all()
    assert np.allclose(reflectance[0], 0.05)


@pytest.mark.parametrize(
    "name", ["LE07_L2SP_193024_20010615_20220627_02_T1", "LT05_L2SP_193024_20010615_20220627_02_T1"]
)
def test_landsat_5_and_7_are_refused_by_name(tmp_path, name):
    folder = write_form(tmp_path, Form(name, name + "_SR_{1}.TIF", bands=("B1", "B2", "B3", "B4", "B5", "B7")))
    assert "Landsat 4, 5 or 7" in refusal(folder)
    assert "Landsat 4, 5 or 7" in refusal(next(folder.iterdir()))


def test_a_file_of_several_bands_among_band_files_is_refused(tmp_path):
    folder = write_form(tmp_path, GEE)
    write_raster(next(folder.glob("*.B11.tif")), np.full((3, 8, 8), 1000, np.int16), 30)
    assert "B11.tif has 3 bands; one per file is required" in refusal(folder)


def test_missing_bands_are_named(tmp_path):
    folder = write_form(tmp_path, GEE)
    for name in ("B1", "B9"):
        next(folder.glob(f"*.{name}.tif")).unlink()
    scene = open_scene(str(folder))
    assert names_of(scene) == MAJA_BANDS
    assert any("no file of B01, B09" in note for note in scene.notes)
    next(folder.glob("*.B8A.tif")).unlink()
    text = refusal(next(folder.glob("*.B2.tif")))
    assert "has no file of B8A" in text
    assert "VRT" not in text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("T33UUP_20240607T101559_{0}.jp2", "level 1C"),
        (BROWSER.replace("L2A", "L1C") + "_{0}_(Raw).tiff", "level 1C"),
        ("LC08_L1TP_193024_20220615_20220627_02_T1_{1}.TIF", "level 1, top of atmosphere"),
        ("LC09_L1GT_193024_20220615_20220627_02_T2_{1}.TIF", "level 1, top of atmosphere"),
    ],
)
def test_top_of_atmosphere_files_are_refused(tmp_path, file, words):
    folder = write_form(tmp_path, Form("x", file, bands=LANDSAT if file.startswith("LC") else S2_BANDS))
    assert words in refusal(folder)
    assert words in refusal(next(folder.iterdir()))


@pytest.mark.parametrize("source", ["landsat8", "landsat9", "hls_l30"])
def test_files_of_sentinel2_are_refused_as_landsat(tmp_path, source):
    assert "have Sentinel-2's numbering" in refusal(write_form(tmp_path, GEE), source=source)


@pytest.mark.parametrize("file", ["x_{1}.tif", "x_{2}.tif"])
def test_files_of_landsat_without_its_name_are_refused_with_the_sources(tmp_path, file):
    text = refusal(write_form(tmp_path, Form("x", file, bands=LANDSAT)))
    assert re.search(r"--source hls_l30(,| or) landsat8 or landsat9\.", text)


@pytest.mark.parametrize("site", ["green_valley", "site_B12", "red sea"])
def test_last_layer_of_a_name_counts_for_quality_too(tmp_path, site):
    folder = write_form(tmp_path, Form("x", site + "_{0}.tif"))
    write_raster(folder / f"{site}_SCL.tif", np.full((1, 8, 8), 4, "uint8"), 30)
    scene = open_scene(str(folder))
    assert names_of(scene) == S2_BANDS
    assert "SCL" in scene.quality_note


@pytest.mark.parametrize(
    "name", ["L2F_T31TFJ_20171030T102100_LS8_R197_{0}_10m.TIF", "L2H_T31TFJ_20171023T102100_S2A_R008_{0}_10m.TIF"]
)
def test_sen2like_files_are_refused_by_name(tmp_path, name):
    folder = write_form(tmp_path, Form("IMG_DATA", name))
    assert "Sen2Like" in refusal(folder)
    assert "Sen2Like" in refusal(next(folder.iterdir()))


@pytest.mark.parametrize("name", ["ü" * 3, "long" * 26])
def test_tar_names_that_gdal_cannot_read_are_refused_with_the_command(tmp_path, name):
    folder = write_form(tmp_path, Form(name, "x_{0}.tif"))
    with tarfile.open(tmp_path / "x y.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, name)
    subprocess.run(["bash", "-c", refusal(tmp_path / "x y.tar").split("`")[1]], check=True)
    assert names_of(open_scene(str(tmp_path / "x y"))) == S2_BANDS


def test_integers_and_floats_without_scale_are_refused(tmp_path):
    folder = write_form(tmp_path, GEE)
    write_raster(next(folder.glob("*.B8A.tif")), np.full((1, 8, 8), 0.3, "float32"), 30)
    assert "integers and floats" in refusal(folder)
    assert {asset.dn_scale for asset in open_scene(str(folder), SceneOptions(scale=1e-4)).assets} == {1e-4}


def test_level_1c_of_sentinel2_is_known_by_its_cirrus_band(tmp_path):
    assert "level 1C" in refusal(write_form(tmp_path, Form("x", "scene_{0}.tif", bands=(*S2_BANDS, "B10"))))


def test_single_band_without_a_name_is_refused_with_its_cause(tmp_path):
    path = write_raster(tmp_path / "elevation.tif", np.full((1, 8, 8), 1000, np.int16))
    text = refusal(path)
    assert "has one band, and its name contains no band" in text
    assert "--bands" not in text


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_folder_or_archive_with_one_raster_is_this_scene(tmp_path, kind):
    folder = tmp_path / "1f2e3d"
    path = write_raster(folder / "response.tiff", np.full((12, 4, 4), 1000, np.uint16), descriptions=S2_BANDS)
    (folder / "request.json").write_text("{}")
    assert "Remove --granule" in refusal(folder, granule="T33UUP")
    whole = open_scene(str(path))
    if kind != "folder":
        shutil.make_archive(str(tmp_path / "a"), kind, folder)
        folder = tmp_path / f"a.{kind}"
    scene = open_scene(str(folder))
    assert (scene.id, scene.grid, names_of(scene)) == (whole.id, whole.grid, names_of(whole))
    assert read_all(scene)[1].all()


def test_folder_of_force_with_one_date_is_a_scene(tmp_path):
    folder = tmp_path / "X0055_Y0053"
    write_raster(folder / "20180615_LEVEL2_SEN2A_BOA.tif", np.full((12, 4, 4), 1000, np.int16), descriptions=S2_BANDS)
    write_raster(folder / "20180615_LEVEL2_SEN2A_QAI.tif", np.full((1, 4, 4), 1 << 3, np.int16))
    scene = open_scene(str(folder))
    assert scene.id == "20180615_LEVEL2_SEN2A_BOA"
    assert "QAI" in scene.quality_note
    write_raster(folder / "20180620_LEVEL2_SEN2B_BOA.tif", np.full((12, 4, 4), 1000, np.int16), descriptions=S2_BANDS)
    assert "20180620_LEVEL2_SEN2B_BOA.tif" in refusal(folder)


def test_unknown_folders_and_archives_say_what_they_contain(tmp_path):
    folder = tmp_path / "tile"
    for name in ("20180615_LEVEL2_SEN2A_BOA.tif", "20180620_LEVEL2_SEN2A_BOA.tif", "readme.txt"):
        folder.mkdir(exist_ok=True)
        (folder / name).touch()
    text = refusal(folder)
    assert "20180615_LEVEL2_SEN2A_BOA.tif" in text
    assert "a .SAFE folder" in text
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    assert "an archive of unknown format that contains readme.txt" in refusal(tmp_path / "a.zip")
    (tmp_path / "a.tar").write_bytes(b"no tar")
    assert "not a readable tar" in refusal(tmp_path / "a.tar")


def test_compressed_tar_is_refused_with_a_command_that_unpacks_it(tmp_path):
    folder = write_form(tmp_path, FORMS["Landsat 8"])
    for kind in ("gztar", "bztar"):
        path = shutil.make_archive(str(tmp_path / kind / LC08), kind, folder)
        text = refusal(path)
        command = re.search(r"`(.*)`", text)[1]
        subprocess.run(["bash", "-c", command], check=True)
        unpacked = re.search(r"give (\S+)\.$", text)[1]
        assert open_scene(unpacked).id == LC08


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("S2A_MSIL2F_20180615T101031_N9999_R022_T33UUP_20180615T000000.SAFE", "Sen2Like"),
        ("S2A_MSIL2H_20180615T101031_N9999_R022_T33UUP_20180615T000000.SAFE", "Sen2Like"),
        ("ENMAP01-____L2A-DT0000001_20220601T000000Z_001_V010000_20220701T000000Z-SPECTRAL_IMAGE.TIF", "EnMAP"),
        ("PRS_L2D_STD_20220601101010_20220601101014_0001.he5", "PRISMA"),
        ("EMIT_L2A_RFL_001_20220814T183137_2222612_005.nc", "EMIT"),
        ("DESIS-HSI-L2A-DT0000001-20220601T000000-V0210-SPECTRAL_IMAGE.tif", "DESIS"),
        ("cube.zarr", "Zarr"),
        ("scene.dim", "BEAM-DIMAP"),
        ("scene.7z", "7z"),
        ("scene.tif.gz", "gunzip"),
        ("S3A_OL_2_LFR____20240607T095558.SEN3", "Sentinel-3"),
        ("MOD09GA.A2024159.h18v03.061.hdf", "MODIS"),
    ],
)
def test_products_that_are_not_read_are_refused_by_their_own_name(tmp_path, name, words):
    (tmp_path / name).touch()
    assert words in refusal(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert words in refusal(tmp_path / name)


def test_band_file_of_a_safe_product_names_the_product(tmp_path, monkeypatch):
    safe = tmp_path / "S2A_MSIL2A_20240607T101559_N0510_R065_T33UUP_20240607T000000.SAFE"
    folder = write_form(safe / "GRANULE" / "L2A_T33UUP", replace(FORMS["ESA images"], folder="IMG_DATA/R10m"))
    renamed = tmp_path / "renamed"
    shutil.copytree(safe, renamed)
    flat = write_form(tmp_path / "flat", FORMS["ESA images"])
    (flat / "MTD_MSIL2A.xml").touch()
    for product, path in [
        (safe, folder), (safe, next(folder.iterdir())), (renamed, next(renamed.rglob("*.jp2"))),
        (flat, next(flat.glob("*.jp2"))),
    ]:  # fmt: skip
        text = refusal(path)
        assert "part of a product" in text
        assert f"Use {product}." in text
    monkeypatch.chdir(folder)
    assert f"Use {safe}." in refusal(next(Path().glob("*.jp2")))


def test_metadata_of_another_product_beside_a_folder_do_not_matter(tmp_path):
    folder = write_form(tmp_path, FORMS["BigEarthNet v1"])
    (tmp_path / "MTD_MSIL2A.xml").touch()
    assert open_scene(str(folder)) == open_scene(str(next(folder.iterdir())))


def test_folders_with_thousands_of_files_are_refused_fast(tmp_path):
    for day in range(2000):
        for name in ("B02", "B03", "B04", "B05"):
            (tmp_path / f"HLS.S30.T33UUP.{2015000 + day}T101559.v2.0.{name}.tif").touch()
    begin = time.monotonic()
    assert "contains 2000 scenes" in refusal(tmp_path)
    assert time.monotonic() - begin < 5


def test_scene_paths_lists_each_scene_of_a_folder_once(tmp_path):
    for name in ("BigEarthNet v1", "Landsat 8", "MAJA FRE", "AppEEARS S30", "Earth Engine"):
        write_form(tmp_path, FORMS[name])
    (tmp_path / MAJA / "MASKS").mkdir()
    for extra in (f"{MAJA}/MASKS/{MAJA}_CLM_R1.tif", f"{LC08}/{LC08}_ST_B10.TIF", f"{LC08}/{LC08}_SR_QA_AEROSOL.TIF"):
        write_raster(tmp_path / extra, np.zeros((1, 8, 8), np.uint8), 30)
    scenes = [open_scene(str(path)).id for path in scene_paths(tmp_path)]
    assert sorted(scenes) == sorted(
        [FORMS["BigEarthNet v1"].folder, LC08, MAJA, FORMS["AppEEARS S30"].id, FORMS["Earth Engine"].id]
    )


def write_netcdf(path, days=("2024-06-07",), has_names=True, dims=("t", "y", "x"), **encoding):
    """A file with one variable per band, as openEO and xarray write them."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    y, x = NORTH - 15 - 30.0 * np.arange(5), WEST + 15 + 30.0 * np.arange(6)
    shape = {"t": len(days), "y": 5, "x": 6, "band": 2}
    data = xarray.Dataset(coords={"t": np.array(days, "M8[ns]"), "y": y, "x": x})
    for i, name in enumerate((*S2_BANDS, "SCL")):
        values = np.full([shape[dim] for dim in dims], 4 if name == "SCL" else 500 + 200 * i, np.int16)
        values[-1] += 100 * (len(days) > 1 and name != "SCL")
        data[name] = xarray.DataArray(values, dims=dims, attrs={"grid_mapping": "crs"})
        data[name].attrs |= {} if name == "SCL" else encoding
    data["crs"] = xarray.DataArray("", attrs={"crs_wkt": CRS.from_epsg(32632).to_wkt()})
    if has_names:
        data.x.attrs |= {"standard_name": "projection_x_coordinate", "units": "m"}
        data.y.attrs |= {"standard_name": "projection_y_coordinate", "units": "m"}
    data.to_netcdf(path, engine="scipy")
    return path


@pytest.mark.parametrize(("scale", "offset"), [(None, None), (1e-4, 0.0), (1e-4, -0.1), (2e-4, 0.05)])
def test_netcdf_variables_are_bands_with_their_own_scale(tmp_path, scale, offset):
    encoding = {} if scale is None else {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-1)}
    scene = open_scene(str(write_netcdf(tmp_path / "openEO.nc", **encoding)))
    assert names_of(scene) == S2_BANDS
    assert (scene.datetime, scene.id) == ("2024-06-07", "openEO_2024-06-07")
    assert scene.grid.transform == (30, 0, WEST, 0, -30, NORTH)
    reflectance, valid = read_all(scene)
    assert valid.all()
    stored = 500 + 200 * np.arange(12)
    assert np.allclose(reflectance[:, 0, 0], stored * (scale or 1e-4) + (offset or 0.0), atol=1e-6)


def test_netcdf_with_several_times_needs_a_choice(tmp_path):
    path = write_netcdf(tmp_path / "a.nc", days=("2024-06-07", "2024-06-12"))
    text = refusal(path)
    assert "2024-06-07" in text
    assert "2024-06-12" in text
    first, second = (open_scene(str(path), SceneOptions(granule=day)) for day in ("2024-06-07", "2024-06-12"))
    assert read_all(second)[0][0, 0, 0] - read_all(first)[0][0, 0, 0] == pytest.approx(0.01)


def test_netcdf_without_position_is_refused_with_a_working_command(tmp_path):
    text = refusal(write_netcdf(tmp_path / "a.nc", has_names=False))
    command = re.search(r"`(.*)`", text)[1].replace("python", sys.executable, 1)
    subprocess.run(["bash", "-c", command], check=True)
    assert names_of(open_scene(str(tmp_path / "a.named.nc"))) == S2_BANDS


def test_netcdf_with_more_dimensions_is_refused(tmp_path):
    assert "dimensions t,band" in refusal(write_netcdf(tmp_path / "a.nc", dims=("t", "band", "y", "x")))


@pytest.mark.parametrize(
    ("form", "file", "cloud", "clear"),
    [
        ("Landsat 8", LC08 + "_QA_PIXEL.TIF", 1 << 3, 1 << 6),
        ("AppEEARS S30", "HLSS30.020_Fmask_doy2024159_aid0001_33N.tif", 2, 64),
        ("MAJA FRE", f"MASKS/{MAJA}_CLM_R1.tif", 2, 0),
        ("Earth Search", "scl.tif", 9, 4),
        ("AWS", "R20m/SCL.jp2", 9, 4),
        ("ESA images", "T33UUP_20240607T101559_SCL_20m.jp2", 9, 4),
        ("Earth Engine", "20240607T101559_20240607T102113_T33UUP.SCL.tif", 9, 4),
        ("Earth Engine", "20240607T101559_20240607T102113_T33UUP.MSK_CLDPRB.tif", 90, 10),
        ("Copernicus Browser", BROWSER + "_SCL_(Raw).tiff", 9, 4),
    ],
)
def test_quality_layers_beside_the_bands_remove_clouds(tmp_path, form, file, cloud, clear):
    form = FORMS[form]
    folder = write_form(tmp_path, form)
    side = 24 if "R1" in file else 12
    layer = np.full((1, side, side), clear, np.uint16)
    layer[0, : side // 2] = cloud
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"} if file.endswith("jp2") else {}
    write_raster(folder / file, layer, 240 / side, **options)
    scene = open_scene(str(folder))
    assert len(scene.quality) == 1
    assert Path(file).name in scene.quality_note
    valid = read_all(scene)[1]
    assert not valid[: len(valid) // 2 - 1].any()
    assert valid[len(valid) // 2 + 1 :].all()
    scene = open_scene(str(folder), SceneOptions(quality=False))
    assert read_all(scene)[1].all()
    assert "--no-quality" in scene.quality_note


def test_unknown_cloud_masks_are_named(tmp_path):
    form = FORMS["Earth Engine"]
    folder = write_form(tmp_path, form)
    write_raster(folder / f"{form.id}.my_cloudmask.tif", np.ones((1, 8, 8), np.uint8), 30)
    assert "my_cloudmask.tif" in open_scene(str(folder)).quality_note


@pytest.mark.parametrize(
    ("form", "tags", "expected"),
    [
        ("Earth Search", {"ACQUISITION_DATETIME": "2024-06-07T10:15:59Z"}, "2024-06-07T10:15:59Z"),
        ("Earth Search", {"TIFFTAG_DATETIME": "2024:06:07 12:00:00"}, "2024-06-07"),
        ("Earth Engine", {"ACQUISITION_DATETIME": "2024-06-07"}, "2024-06-07T10:15:59Z"),
        ("Sentinel Hub", {"ACQUISITION_DATETIME": "2024-06-07T10:15:59Z"}, "2024-06-07T10:15:59Z"),
        ("Sentinel Hub", {}, None),
    ],
)
def test_acquisition_time_comes_from_names_then_tags(tmp_path, form, tags, expected):
    folder = write_form(tmp_path, replace(FORMS[form], is_mixed=False, options={"tags": tags}))
    assert open_scene(str(folder)).datetime == expected


def test_a_folder_in_a_folder_is_opened(tmp_path):
    form = FORMS["MAJA FRE"]
    write_form(tmp_path / "unpacked", form)
    (tmp_path / "unpacked" / "readme.txt").touch()
    assert open_scene(str(tmp_path / "unpacked")) == open_scene(str(tmp_path / "unpacked" / form.folder))


def test_tar_with_a_safe_product_is_refused_with_a_command_that_unpacks_it(tmp_path):
    product = make_safe(tmp_path, driver="GTiff")
    path = shutil.make_archive(str(tmp_path / "a.b" / "product"), "tar", tmp_path, product.name)
    text = refusal(path)
    assert "SAFE" in text
    subprocess.run(["bash", "-c", re.search(r"`(.*)`", text)[1]], check=True)
    assert open_scene(re.search(r"give (\S+)\.$", text)[1]).id == product.stem


def test_files_of_archives_and_netcdf_are_known_to_resume(tmp_path):
    form = FORMS["BigEarthNet v1"]
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", write_form(tmp_path, form))
    path = write_netcdf(tmp_path / "a.nc")
    for container in (archive, path):
        assert {file_of(asset.href) for asset in open_scene(str(container)).assets} == {Path(container)}
    assert file_of(str(tmp_path / "B02.tif")) == tmp_path / "B02.tif"


def test_item_of_a_scene_with_a_day_covers_this_day(tmp_path):
    form = FORMS["Landsat 8"]
    folder = write_form(tmp_path, form)
    convert(str(folder), "enmap", tmp_path / "o.tif", ConvertOptions(model="linear", force=True))
    properties = json.loads((tmp_path / "o.json").read_text())["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "2022-06-15T00:00:00Z"
    assert properties["end_datetime"] == "2022-06-15T23:59:59Z"


def test_scene_paths_lists_a_folder_once(tmp_path):
    folders = [tmp_path / "scenes" / f"{number}" for number in range(30)]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder, target in zip(folders, [*folders[1:], tmp_path], strict=True):
        for name in "ab":
            (folder / name).symlink_to(target)
    scene = folders[-1] / "scene.tif"
    scene.touch()
    assert [path.resolve() for path in scene_paths(tmp_path)] == [scene]
