"""Scenes from GeoTIFFs: recognition of sensor and bands, scale and offset, and refused files."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster

from ms2hs.errors import SceneError
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions

MIXED = dn_of([LEAVES, WATER, SAND])
DATA = os.environ.get("MS2HS_DATA")


def names_of(scene):
    return tuple(asset.name for asset in scene.assets)


def reflectance_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)


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
def test_real_scenes_open():
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
        _, valid = reflectance_of(scene)
        assert valid.mean() > (0.96 if "aquileia" in path.name else 0.99)  # 1 in every band is fill
