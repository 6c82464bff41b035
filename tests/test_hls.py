"""Scenes from small HLS granules: bands of S30 and L30, Fmask, scale."""

import shutil

import numpy as np
import pytest
from conftest import write_raster

from ms2hs.errors import SceneError
from ms2hs.scenes.formats import open_scene
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


def test_hls_without_fmask_has_a_note(tmp_path):
    scene = open_scene(str(make_hls(tmp_path, fmask=None)))
    assert scene.quality is None
    assert "Fmask" in scene.notes[0]


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
    with pytest.raises(SceneError, match="2 HLS granules"):
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
