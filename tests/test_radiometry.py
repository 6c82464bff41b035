"""How stored numbers become reflectance: declarations, the user's scale and offset, names, and sensors."""

import json
import math

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from hypothesis import given
from hypothesis import strategies as st
from stac_items import planetary_computer
from test_band_files import make_hls
from test_safe import make_safe, offsets_xml

from ms2hs.errors import SceneError
from ms2hs.raster.header import Declared, declared_in, number_of
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.radiometry import rules_of_raster
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions

MIXED = dn_of([LEAVES, WATER, SAND])
LANDSAT_BANDS = [f"SR_B{i}" for i in range(1, 8)]
N0510 = "S2B_MSIL2A_20240607T101559_N0510_R065_T33UUP_20240607T135859.tif"
GAINS_AND_OFFSETS = "data gain values = {2e-4, 2e-4, 2e-4}\ndata offset values = {-0.05, -0.05, -0.05}"
IMPOSSIBLE_SCALES = ["nan", "inf", "-inf", "0", "-0.0001", "1e-300"]


def reflectance_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)


def values_of(scene):
    reflectance, valid = reflectance_of(scene)
    assert valid.all()
    return reflectance


# --- declarations -----------------------------------------------------------------------------------------------


@given(
    scale=st.sampled_from([1e-4, 2e-4, 1e-5, 0.01, 1 / 65535]),
    offset=st.floats(-0.2, 0.2),
    dtype=st.sampled_from(["uint16", "int16", "int32", "uint32", "float32", "uint8"]),
)
def test_declared_scale_and_offset_win_for_every_type(scale, offset, dtype):
    (rule,) = rules_of_raster([Declared(scale, offset, dtype=dtype)] * 3)
    assert (rule.dn_scale, rule.origin) == ((scale,) * 3, "file")
    assert rule.offset == pytest.approx((offset,) * 3, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "hdr", "scale", "offset"),
    [
        ({"scale": 2e-4, "offset": -0.05}, "", 2e-4, -0.05),
        ({"tags": {"scale_factor": "0.0002", "add_offset": "-0.05"}}, "", 2e-4, -0.05),
        ({"band_tags": {"": [{"SCALE": "0.0002", "OFFSET": "-0.05"}] * 3}}, "", 2e-4, -0.05),
        ({"band_tags": {"": [{"scale_factor": "0.0002"}] * 3}}, "", 2e-4, 0),
        ({"band_tags": {"FORCE": [{"Scale": "5000.000"}] * 3}}, "", 2e-4, 0),
        ({"driver": "ENVI"}, "reflectance scale factor = 5000", 2e-4, 0),
        ({"driver": "ENVI"}, GAINS_AND_OFFSETS, 2e-4, -0.05),
        ({"driver": "ENVI"}, "reflectance scale factor = 5000\ndata gain values = {.5, .5, .5}", 2e-4, 0),
        ({}, "", None, None),
    ],
)  # fmt: skip
def test_declared_in_reads_each_form(tmp_path, options, hdr, scale, offset):
    path = write_raster(tmp_path / "x.dat", MIXED[:3], **options)
    if hdr:
        header = tmp_path / "x.hdr"
        header.write_text(f"{header.read_text()}\n{hdr}\n")
    with rasterio.open(path) as dataset:
        found = declared_in(dataset, [1, 3])
    assert {row.scale for row in found} == {scale}
    assert {row.offset or 0 for row in found} == {offset or 0}
    assert {row.dtype for row in found} == {"uint16"}


@pytest.mark.parametrize("text", IMPOSSIBLE_SCALES)
@pytest.mark.parametrize("where", ["gdal", "file tag", "band tag", "envi", "hls", "item", "safe"])
def test_impossible_scale_is_refused_wherever_it_stands(tmp_path, where, text):
    path = scene_with(tmp_path, where, scale=text)
    with pytest.raises(SceneError, match=r"declares the scale .*finite number above 0"):
        open_scene(path)
    assert {asset.dn_scale for asset in open_scene(path, SceneOptions(scale=2e-4, offset=0)).assets} == {2e-4}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("where", ["gdal", "file tag", "band tag", "item", "safe", "safe text"])
def test_impossible_offset_is_refused_wherever_it_stands(tmp_path, where, text):
    path = scene_with(
        tmp_path, where.split()[0] if "safe" in where else where, offset="abc" if "text" in where else text
    )
    with pytest.raises(SceneError, match=r"declares the offset .*finite number"):
        open_scene(path)
    scene = open_scene(path, SceneOptions(offset=-0.1))
    assert {round(asset.dn_offset * asset.dn_scale, 9) for asset in scene.assets} == {-0.1}


def scene_with(folder, where, scale="0.0002", offset="0"):
    """A scene that declares this scale and offset in one form."""
    number = number_of(scale)
    if where == "safe":
        quantification = {"nan": "nan", "inf": "0", "0": "inf"}.get(scale, f"{1 / number:g}" if number else "0")
        return str(make_safe(folder, driver="GTiff", quantification=quantification, offsets=offsets_xml([offset] * 13)))
    if where == "hls":
        return str(make_hls(folder, scale=None, tags={"scale_factor": scale, "add_offset": offset}))
    if where == "item":
        item = planetary_computer("05.10", lambda name: str(folder / name))
        for asset in item["assets"].values():
            asset["raster:bands"] = [{"scale": number, "offset": float(offset)}]
        (folder / "item.json").write_text(json.dumps(item))
        write_raster(folder / "B02_10m.tif", MIXED[:1])
        return str(folder / "item.json")
    if where == "envi":
        path = write_raster(folder / "x.dat", MIXED, descriptions=S2_BANDS, driver="ENVI")
        header = folder / "x.hdr"
        factor = {"inf": "0", "0": "inf"}.get(scale, scale if not number > 0 else f"{1 / number:g}")
        header.write_text(f"{header.read_text()}\nreflectance scale factor = {factor}\n")
        return str(path)
    tags = {"scale_factor": scale, "add_offset": offset}
    forms = {
        "gdal": {"scale": number, "offset": float(offset)},
        "file tag": {"tags": tags},
        "band tag": {"band_tags": {"": [tags] * 12}},
    }
    return str(write_raster(folder / "x.tif", MIXED, descriptions=S2_BANDS, **forms[where]))


def test_safe_with_several_quantification_values_is_refused(tmp_path):
    twice = "10000</BOA_QUANTIFICATION_VALUE><BOA_QUANTIFICATION_VALUE>1000"
    with pytest.raises(SceneError, match=r"2 values BOA_QUANTIFICATION_VALUE \(1000, 10000\)"):
        open_scene(str(make_safe(tmp_path, driver="GTiff", quantification=twice)))


@pytest.mark.parametrize(("dtype", "factor", "scale"), [("float32", 1, 1.0), ("int16", 1e4, 1e-4)])
def test_offset_without_scale_is_in_reflectance(tmp_path, dtype, factor, scale):
    values = ((MIXED * 1e-4 + 0.1) * factor).astype(dtype)
    path = write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS, offset=-0.1)
    scene = open_scene(str(path))
    assert {asset.dn_scale for asset in scene.assets} == {scale}
    np.testing.assert_allclose(values_of(scene), MIXED * 1e-4, atol=1.1e-4)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "text"),
    [
        ("uint8", [None, None], [None, None], "8-bit"),
        ("complex64", [None, None], [None, None], "complex64"),
        ("uint16", [1e-4, None], [None, None], "every band, or for none"),
        ("uint16", [None, None], [-1000, -1000], "offset -1000"),
    ],
)
def test_numbers_that_may_not_be_reflectance_are_refused(dtype, scale, offset, text):
    bands = [Declared(*both, dtype=dtype) for both in zip(scale, offset, strict=True)]
    with pytest.raises(SceneError, match=text):
        rules_of_raster(bands)
    if "complex" not in dtype:
        rules_of_raster(bands, options=SceneOptions(scale=1e-4, offset=-0.1))


# --- the user's options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (1e-3, -0.1), (2.75e-5, -0.2), (1 / 65535, 0.05)])
def test_scale_and_offset_of_the_user_win(tmp_path, dtype, scale, offset):
    path = write_raster(tmp_path / "x.tif", MIXED.astype(dtype), descriptions=S2_BANDS, scale=1e-4, offset=-0.3)
    scene = open_scene(str(path), SceneOptions(scale=scale, offset=offset))
    asset = scene.assets[0]
    assert (5000 + asset.dn_offset) * asset.dn_scale == pytest.approx(5000 * scale + offset, abs=1e-7)
    assert "given by the user" in scene.offset_rule


@pytest.mark.parametrize("where", ["gdal", "file tag", "item", "safe", "name"])
def test_scale_alone_is_refused_where_an_offset_is_declared(tmp_path, where):
    if where == "name":
        path = str(write_raster(tmp_path / N0510, MIXED + np.uint16(1000), descriptions=S2_BANDS))
    else:
        path = scene_with(tmp_path, where, scale="0.0001", offset="-1000" if where == "safe" else "-0.1")
    with pytest.raises(SceneError, match=r"Use --scale 0.0002 --offset -0.1 to keep it, or --scale 0.0002 --offset 0"):
        open_scene(path, SceneOptions(scale=2e-4))
    scene = open_scene(path, SceneOptions(scale=2e-4, offset=-0.1))
    assert {(asset.dn_scale, asset.dn_offset) for asset in scene.assets} == {(2e-4, -500)}


def test_scale_alone_drops_the_offset_of_the_sensor(tmp_path):
    path = write_raster(tmp_path / "LC08_L2SP_x.tif", landsat_dn("uint16"), descriptions=LANDSAT_BANDS)
    scene = open_scene(str(path), SceneOptions(scale=1e-4))
    assert {(asset.dn_scale, asset.dn_offset) for asset in scene.assets} == {(1e-4, 0)}


@pytest.mark.parametrize("where", ["gdal", "hls", "item", "safe"])
def test_offset_alone_keeps_the_scale(tmp_path, where):
    path = scene_with(tmp_path, where, scale="0.0002", offset="0")
    for options in (SceneOptions(offset=-0.1), SceneOptions(dn_offset=-500)):
        asset = open_scene(path, options).assets[0]
        assert (asset.dn_scale, asset.dn_offset) == (2e-4, -500)


def test_item_of_floats_refuses_dn_offset_and_a_text_is_a_number(tmp_path):
    item = planetary_computer("05.10", lambda name: str(tmp_path / name))
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"scale": "0.0002", "data_type": "float32"}]
    (tmp_path / "item.json").write_text(json.dumps(item))
    write_raster(tmp_path / "B02_10m.tif", MIXED[:1])
    path = str(tmp_path / "item.json")
    assert {asset.dn_scale for asset in open_scene(path).assets} == {2e-4}
    with pytest.raises(SceneError, match=r"stored numbers are floats.* Use --offset -0.1 "):
        open_scene(path, SceneOptions(dn_offset=-1000))


@pytest.mark.parametrize("where", ["raster", "hls"])
def test_dn_offset_of_floats_is_refused_with_the_offset(tmp_path, where):
    if where == "hls":
        path = make_hls(tmp_path, dtype="float32")
    else:
        path = write_raster(tmp_path / "x.tif", (MIXED * 1e-4 + 0.1).astype("float32"), descriptions=S2_BANDS)
    with pytest.raises(SceneError, match=r"--dn-offset -1000, but .*floats.* Use --offset -0.1"):
        open_scene(str(path), SceneOptions(dn_offset=-1000))
    assert open_scene(str(path), SceneOptions(offset=-0.1)).assets[0].dn_offset < 0


# --- names and sensors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tags", "spectra", "plus", "offset", "note"),
    [
        (N0510, {}, [LEAVES, SAND], 1000, -1000, "by the processing baseline 05.10"),
        (N0510, {}, [SAND], 1000, -1000, "by the processing baseline 05.10"),
        (N0510, {}, [LEAVES, WATER, SAND], 0, 0, "already subtracted"),
        ("x.tif", {"PROCESSING_BASELINE": "05.10"}, [LEAVES, SAND], 1000, -1000, "05.10"),
        ("x.tif", {"PRODUCT_URI": N0510}, [SAND], 1000, -1000, "05.10"),
        ("x.tif", {"PROCESSING_BASELINE": "05.10"}, [LEAVES, SAND], 0, 0, "already subtracted"),
        (N0510.replace("N0510", "N0214"), {}, [SAND], 0, 0, ""),
        (N0510.replace("N0510", "N9999"), {}, [SAND], 0, 0, ""),
        # The date is no evidence: archives reprocess old scenes, and others subtract the offset.
        ("S2A_MSIL2A_20240601T102021.tif", {}, [SAND], 0, 0, ""),
    ],
)
def test_baseline_in_name_or_tags_gives_the_offset(tmp_path, name, tags, spectra, plus, offset, note):
    values = dn_of(spectra) + np.uint16(plus)
    scene = open_scene(str(write_raster(tmp_path / name, values, descriptions=S2_BANDS, tags=tags)))
    assert {asset.dn_offset for asset in scene.assets} == {offset}
    assert note in " ".join(scene.notes)
    assert bool(note) == ("baseline" in " ".join(scene.notes))


@pytest.mark.parametrize(("plus", "offset"), [(1000, -1000), (0, 0)])
def test_baseline_in_the_name_adds_to_a_declared_scale_only_what_the_pixels_show(tmp_path, plus, offset):
    values = dn_of([LEAVES, SAND]) + np.uint16(plus)
    scene = open_scene(str(write_raster(tmp_path / N0510, values, descriptions=S2_BANDS, scale=1e-4)))
    assert {(asset.dn_scale, asset.dn_offset) for asset in scene.assets} == {(1e-4, offset)}


def landsat_dn(dtype, scale=2.75e-5, offset=-0.2):
    reflectance = dn_of([LEAVES, WATER, SAND])[[0, 1, 2, 3, 8, 10, 11]] * 1e-4
    stored = (reflectance - offset) / scale
    return stored.astype(dtype) if dtype.startswith("f") else np.round(stored).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint32"])
@pytest.mark.parametrize(("scale", "offset"), [(2.75e-5, -0.2), (1e-4, 0.0)])
def test_landsat_integers_are_collection_2_or_ten_thousandths(tmp_path, dtype, scale, offset):
    """USGS files do not declare the scale; other tools write ten-thousandths."""
    values = landsat_dn(dtype, scale, offset)
    path = write_raster(tmp_path / "x.tif", values, descriptions=LANDSAT_BANDS)
    scene = open_scene(str(path), SceneOptions(source="landsat8"))
    np.testing.assert_allclose(values_of(scene), landsat_dn("float32", 1.0, 0.0), atol=1e-4)
    assert ("Collection 2" in scene.offset_rule) == (scale < 1e-4)


def test_landsat_water_is_collection_2(tmp_path):
    values = np.round((dn_of([WATER])[[0, 1, 2, 3, 8, 10, 11]] * 1e-4 + 0.2) / 2.75e-5).astype("int16")
    scene = open_scene(
        str(write_raster(tmp_path / "x.tif", values, descriptions=LANDSAT_BANDS)), SceneOptions("landsat8")
    )
    assert {asset.dn_scale for asset in scene.assets} == {2.75e-5}


def test_landsat_floats_are_reflectance(tmp_path):
    values = landsat_dn("float32", 1.0, 0.0)
    scene = open_scene(
        str(write_raster(tmp_path / "x.tif", values, descriptions=LANDSAT_BANDS)), SceneOptions("landsat9")
    )
    np.testing.assert_array_equal(values_of(scene), values)


def test_number_of_is_nan_for_other_texts():
    assert [number_of(text) for text in ("1e-4", " 2 ", 3)] == [1e-4, 2, 3]
    assert all(math.isnan(number_of(text)) for text in ("abc", "", None, "1,5"))
