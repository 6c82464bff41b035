"""Scenes from GeoTIFFs: recognition of sensor and bands, scale and offset, and refused files."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.errors import SceneError
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import offset_warnings
from ms2hs.scenes.radiometry import rule_of_raster
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions

MIXED = dn_of([LEAVES, WATER, SAND])
DATA = os.environ.get("MS2HS_DATA")


def names_of(scene):
    return tuple(asset.name for asset in scene.assets)


def reflectance_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)


# --- scale and offset -------------------------------------------------------------------------------------------


@given(scale=st.sampled_from([1e-4, 2e-4, 1e-5, 0.01]), dn_offset=st.integers(-2000, 2000))
def test_radiometry_uses_the_scale_and_offset_of_the_file(scale, dn_offset):
    found = rule_of_raster(["uint16"] * 3, [scale] * 3, [dn_offset * scale] * 3)
    assert found.dn_scale == (scale,) * 3
    assert found.dn_offset == pytest.approx((dn_offset,) * 3, abs=1e-5)
    assert "own scale" in found.description


def test_reader_applies_each_offset_rule(tmp_path):
    plain = reflectance_of(open_scene(str(write_raster(tmp_path / "a.tif", MIXED, descriptions=S2_BANDS))))[0]
    own = write_raster(tmp_path / "b.tif", MIXED + np.uint16(1000), descriptions=S2_BANDS, scale=1e-4, offset=-0.1)
    scene = open_scene(str(own))
    assert scene.assets[0].dn_offset == pytest.approx(-1000)
    assert np.allclose(reflectance_of(scene)[0], plain, atol=1e-7)
    raw = write_raster(tmp_path / "c.tif", MIXED + np.uint16(1000), descriptions=S2_BANDS)
    scene = open_scene(str(raw), SceneOptions(dn_offset=-1000))
    assert np.allclose(reflectance_of(scene)[0], plain, atol=1e-7)
    assert "given by the user" in scene.offset_rule
    floats = write_raster(tmp_path / "d.tif", plain, descriptions=S2_BANDS)
    assert np.array_equal(reflectance_of(open_scene(str(floats)))[0], plain)


def test_radiometry_ignores_the_date(tmp_path):
    """Old scenes of Collection 1 have the offset, and some archives subtract it from new scenes."""
    tags = {"DATATAKE_SENSING_START": "2024-06-01T10:20:21Z"}
    path = write_raster(tmp_path / "S2A_MSIL2A_20240601T102021.tif", MIXED, descriptions=S2_BANDS, tags=tags)
    assert {asset.dn_offset for asset in open_scene(str(path)).assets} == {0.0}
    tags = {"PROCESSING_BASELINE": "05.10"}
    path = write_raster(tmp_path / "b.tif", MIXED, descriptions=S2_BANDS, tags=tags)
    assert any("05.10" in note and "--dn-offset -1000" in note for note in open_scene(str(path)).notes)


@pytest.mark.parametrize(
    ("dtype", "scales", "offsets", "p99", "text"),
    [
        ("float32", [1, 1], [0, 0], 3700.0, "99th percentile 3700 .*--dn-offset"),
        ("uint8", [1, 1], [0, 0], None, "8-bit"),
        ("complex64", [1, 1], [0, 0], None, "complex64"),
        ("uint16", [1e-4, 1], [0, 0], None, "every band, or for none"),
        ("uint16", [1, 1], [-1000, -1000], None, "offset -1000"),
    ],
)
def test_radiometry_refuses_numbers_that_may_not_be_reflectance(dtype, scales, offsets, p99, text):
    with pytest.raises(SceneError, match=text):
        rule_of_raster([dtype] * 2, scales, offsets, p99=p99)


def test_radiometry_takes_large_floats_only_with_an_offset(tmp_path):
    path = str(write_raster(tmp_path / "x.tif", MIXED.astype(np.float32), descriptions=S2_BANDS))
    with pytest.raises(SceneError, match=r"x.tif: floats"):
        open_scene(path)
    scene = open_scene(path, SceneOptions(dn_offset=0))
    assert np.allclose(reflectance_of(scene)[0], MIXED * 1e-4)


def test_reader_applies_the_mask_of_the_file(tmp_path):
    path = write_raster(tmp_path / "x.tif", MIXED, descriptions=S2_BANDS, nodata=None)
    drawn = np.full(MIXED.shape[1:], 255, np.uint8)
    drawn[3:5, 6:] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(drawn)
    scene = open_scene(str(path))
    reflectance, valid = reflectance_of(scene)
    assert np.array_equal(valid, drawn > 0)
    assert (reflectance[:, ~valid] == 0).all()


def test_radiometry_uses_the_scale_of_landsat(tmp_path):
    """USGS files do not declare it: with 1e-4 they would be four times too bright."""
    names = [f"SR_B{i}" for i in range(1, 8)]
    path = write_raster(tmp_path / "LC08_L2SP_193027_20240601_20240611_02_T1.tif", MIXED[:7], descriptions=names)
    scene = open_scene(str(path))
    assert scene.source == "landsat8"
    assert names_of(scene) == tuple(f"B{i}" for i in range(1, 8))
    assert np.allclose(reflectance_of(scene)[0], MIXED[:7] * 2.75e-5 - 0.2, atol=1e-6)
    assert "Collection 2" in scene.offset_rule


# --- warnings about the offset ----------------------------------------------------------------------------------


def warned_of(scene):
    reflectance, valid = reflectance_of(scene)
    return offset_warnings(scene, reflectance[:, valid])


def warnings_of(tmp_path, spectra, constant=0.0, **choices):
    values = (dn_of(spectra, dtype="int32") + round(constant * 1e4)).clip(-30000, 65535)
    path = write_raster(tmp_path / "w.tif", values, descriptions=S2_BANDS, nodata=-32768)
    return " ".join(warned_of(open_scene(str(path), SceneOptions(**choices))))


SNOW = (0.9, 0.92, 0.93, 0.92, 0.91, 0.9, 0.88, 0.87, 0.85, 0.7, 0.12, 0.11)
GREY_SAND = (0.18, 0.21, 0.26, 0.32, 0.34, 0.35, 0.36, 0.36, 0.37, 0.37, 0.43, 0.4)
HAZY_LEAVES = (0.13, 0.125, 0.13, 0.11, 0.15, 0.3, 0.34, 0.35, 0.36, 0.36, 0.18, 0.06)
SPARSE = (0.095, 0.1, 0.13, 0.16, 0.2, 0.28, 0.31, 0.33, 0.34, 0.35, 0.34, 0.28)
LAVA = (0.105, 0.106, 0.108, 0.11, 0.112, 0.115, 0.118, 0.12, 0.12, 0.12, 0.15, 0.15)


@pytest.mark.parametrize("spectra", [[LEAVES], [WATER], [LEAVES, WATER, SAND], [LEAVES, SAND]])
def test_offset_warnings_find_a_remaining_offset(tmp_path, spectra):
    assert "constant of +0.1" in warnings_of(tmp_path, spectra, 0.1)
    assert not warnings_of(tmp_path, spectra, 0.1, dn_offset=-1000)
    assert not warnings_of(tmp_path, spectra)


@pytest.mark.parametrize(
    "spectra", [[SAND], [SNOW], [GREY_SAND], [SPARSE], [HAZY_LEAVES], [LAVA], [LEAVES, SNOW], [GREY_SAND, SPARSE]]
)
def test_offset_warnings_accept_bright_and_hazy_scenes(tmp_path, spectra):
    assert "constant" not in warnings_of(tmp_path, spectra)


def test_offset_warnings_find_negative_reflectance(tmp_path):
    assert "negative" in warnings_of(tmp_path, [LEAVES], dn_offset=-1000)
    assert "negative" not in warnings_of(tmp_path, [LEAVES] * 25 + [tuple(np.subtract(WATER, 0.01))])


def test_offset_warnings_of_an_empty_scene_are_empty(tmp_path):
    path = write_raster(tmp_path / "x.tif", MIXED * 0, descriptions=S2_BANDS)
    assert warned_of(open_scene(str(path))) == ()


# --- the file and its grid --------------------------------------------------------------------------------------


def test_scene_adjusted_changes_scale_and_offset_only(s2_tif):
    scene = open_scene(str(s2_tif))
    other = scene.adjusted({"B03": (1.1, -0.02), "B99": (3.0, 1.0)})
    dn = np.arange(0.0, 10_000, 7)
    for before, after in zip(scene.assets, other.assets, strict=True):
        plain, made = ((dn + asset.dn_offset) * asset.dn_scale for asset in (before, after))
        np.testing.assert_allclose(made, 1.1 * plain - 0.02 if before.name == "B03" else plain, atol=1e-9)
    assert replace(other, assets=scene.assets) == scene


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_missing_georeference_is_a_note(tmp_path):
    path = write_raster(tmp_path / "x.tif", MIXED, descriptions=S2_BANDS, crs=None, transform=None)
    with warnings.catch_warnings(action="error"):
        scene = open_scene(str(path))
        valid = reflectance_of(scene)[1]
    assert scene.grid.crs is None
    assert any("coordinate reference" in note for note in scene.notes)
    assert valid.all()


def test_open_scene_names_missing_and_unreadable_files(tmp_path):
    with pytest.raises(SceneError, match="no such file"):
        open_scene(str(tmp_path / "none.tif"))
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(SceneError, match=r"text.tif: not a raster"):
        open_scene(str(tmp_path / "text.tif"))


TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}, TILED, {"driver": "COG"}])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_truncated_tiff_is_an_error(tmp_path, options, interleave):
    rng = np.random.default_rng(0)
    values = rng.integers(100, 5000, (12, 192, 200)).astype(np.uint16)
    path = write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS, interleave=interleave, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SceneError, match=r"x.tif: (band .* cannot be read|not a raster)"):  # noqa: PT012
        scene = open_scene(str(path))
        reflectance_of(scene)


# --- real files -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA, reason="MS2HS_DATA is not set: no real scenes")
def test_real_scenes_open_and_only_the_raw_scene_warns():
    files = sorted(Path(DATA, "sentinel2").glob("*.tif"))
    assert len(files) == 12
    for path in files:
        choices = SceneOptions()
        if "hls_L30" in path.name:
            with pytest.raises(SceneError, match="--source hls_l30"):
                open_scene(str(path))
            choices = SceneOptions(source="hls_l30")
        scene = open_scene(str(path), choices)
        assert len(scene.assets) == (7 if "L30" in path.name else 11 if "barbellino" in path.name else 12)
        if path.name.startswith(("ben_S2", "S2A")):
            assert scene.source == ("sentinel2b" if "S2B" in path.name else "sentinel2a")
        found = warned_of(scene)
        assert len(found) == ("rstoolbox" in path.name), (path.name, found)
        _, valid = reflectance_of(scene)
        assert valid.mean() > (0.96 if "aquileia" in path.name else 0.99)  # 1 in every band is fill
        if "rstoolbox" in path.name:
            assert "constant of +0.1" in found[0]
            assert warned_of(open_scene(str(path), SceneOptions(dn_offset=-1000))) == ()
