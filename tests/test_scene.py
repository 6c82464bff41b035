"""Scenes from GeoTIFFs: recognition of sensor and bands, scale and offset, and refused files."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import SceneError, UnknownName
from ms2hs.raster.header import Wavelength
from ms2hs.scenes.bands import canonical, match_wavelengths
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor

MIXED = dn_of([LEAVES, WATER, SAND])
DATA = os.environ.get("MS2HS_DATA")


def names_of(scene):
    return tuple(asset.name for asset in scene.assets)


def reflectance_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)


# --- bands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B02", "B02"), ("b2", "B02"), ("B8A", "B8A"), ("b08a", "B8A"), ("B02 490 nm", "B02"), ("Band 11", "B11"),
        ("band_4 (665 nm)", "B04"), ("T32TNT_20240601T102021_B12_20m", "B12"), ("S2A_B8A", None), ("rededge1", "B05"),
        ("NIR08", "B8A"), ("B001", None), ("B043 650.1 nm", None), ("NDVI", None), ("", None), ("SCL", None),
    ],
)  # fmt: skip
def test_canonical_finds_the_band_name_in_a_description(text, name):
    found = canonical(text, "sentinel2a")
    assert found == (name if text != "S2A_B8A" else "B8A")


@given(st.permutations(range(12)), st.sampled_from(["sentinel2a", "sentinel2b", "sentinel2c"]))
@settings(max_examples=30, deadline=None)
def test_match_wavelengths_works_in_any_order(order, source):
    grid = load_sensor(source).grid
    found = [Wavelength(float(grid.wavelength_nm[i]), float(grid.fwhm_nm[i])) for i in order]
    # Whichever of the three took the scene, sentinel2a's table finds the same bands.
    assert match_wavelengths(found, "sentinel2a") == [grid.names[i] for i in order]


def test_match_wavelengths_accepts_nominal_centres():
    nominal = [443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1610, 2190]
    assert match_wavelengths([Wavelength(nm, None) for nm in nominal], "sentinel2a") == list(S2_BANDS)


@pytest.mark.parametrize("style", ["B{}", "b{}", "Band {}", "{} reflectance of B{}"])
def test_geotiff_identifies_bands_by_description(tmp_path, style):
    short = [name[0] + name[1:].lstrip("0") for name in S2_BANDS]
    texts = [style.format(name[1:], name[1:]) for name in short]
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED, descriptions=texts)))
    assert names_of(scene) == S2_BANDS
    assert scene.spectral.names == S2_BANDS


def test_geotiff_keeps_the_band_order_of_the_file(tmp_path):
    order = [8, 2, 11, 0, 1, 3, 4, 5, 6, 7, 9, 10]
    names = tuple(S2_BANDS[i] for i in order)
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED[order], descriptions=names)))
    assert names_of(scene) == names
    assert np.array_equal(reflectance_of(scene)[0], MIXED[order].astype(np.float32) * np.float32(1e-4))


def test_geotiff_identifies_bands_by_imagery_wavelengths(tmp_path):
    grid = load_sensor("sentinel2b").grid
    tags = [
        {"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.5f}", "FWHM_UM": f"{width / 1000:.5f}"}
        for nm, width in zip(grid.wavelength_nm, grid.fwhm_nm, strict=True)
    ]
    scene = open_scene(str(write_raster(tmp_path / "S2B_x.tif", MIXED, band_tags={"IMAGERY": tags})))
    assert (scene.source, names_of(scene)) == ("sentinel2b", S2_BANDS)


def test_geotiff_takes_the_users_band_names_in_file_order(tmp_path):
    values = np.concatenate([MIXED[:1] * 0 + 7, MIXED])
    path = str(write_raster(tmp_path / "x.tif", values))
    scene = open_scene(path, SceneOptions(bands=("-", *S2_BANDS)))
    assert names_of(scene) == S2_BANDS
    assert [asset.band for asset in scene.assets] == list(range(2, 14))
    assert "not used: 1" in " ".join(scene.notes)
    with pytest.raises(SceneError, match="12 names for 13 bands"):
        open_scene(path, SceneOptions(bands=S2_BANDS))
    with pytest.raises(SceneError, match=r"red; names such as B02|has teal"):
        open_scene(path, SceneOptions(bands=("teal", *S2_BANDS)))
    with pytest.raises(SceneError, match="twice: B02"):
        open_scene(path, SceneOptions(bands=("B02", *S2_BANDS)))


def test_geotiff_requires_ten_sentinel2_bands(tmp_path):
    path = write_raster(tmp_path / "ten.tif", MIXED[:10], descriptions=S2_BANDS[:10])
    assert len(open_scene(str(path)).assets) == 10
    path = write_raster(tmp_path / "nine.tif", MIXED[:9], descriptions=S2_BANDS[:9])
    with pytest.raises(SceneError, match=r"9 of 9 bands .*at least 10 of .*missing: B09, B11, B12"):
        open_scene(str(path))
    path = write_raster(tmp_path / "rgb.tif", MIXED[:3])
    with pytest.raises(SceneError, match=r"0 of 3 bands .*\(none\).*--bands"):
        open_scene(str(path))


def test_geotiff_with_other_wavelengths_is_custom(tmp_path):
    nm = [450, 550, 660, 830, 1640, 2600]
    tags = [{"wavelength": str(value), "wavelength_units": "Nanometers"} for value in nm]
    scene = open_scene(str(write_raster(tmp_path / "x.tif", MIXED[:6], band_tags={"": tags})))
    assert scene.source == "custom"
    assert scene.wavelength_nm == (450, 550, 660, 830, 1640)
    assert len(scene.fwhm_nm) == 5
    assert all(width > 0 for width in scene.fwhm_nm)
    assert "not used: 6" in " ".join(scene.notes)
    assert len(scene.spectral) == 5


def test_geotiff_does_not_mistake_a_hyperspectral_cube_for_sentinel2(tmp_path):
    """Bands named `Band 1` ... whose wavelengths contradict the names, some near each Sentinel-2 band."""
    nm = np.linspace(420, 2450, 200)
    cube = np.full((200, 3, 4), 2000, np.uint16)
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{value / 1000:.4f}", "FWHM_UM": "0.010"} for value in nm]
    names = [f"Band {i}" for i in range(1, 201)]
    scene = open_scene(str(write_raster(tmp_path / "c.tif", cube, descriptions=names, band_tags={"IMAGERY": tags})))
    assert (scene.source, len(scene.assets)) == ("custom", 200)
    assert scene.fwhm_nm == pytest.approx([10.0] * 200)


# --- sensor -----------------------------------------------------------------------------------------------------


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


L30 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11")


def test_landsat_numbering_requires_a_source(tmp_path):
    path = str(write_raster(tmp_path / "hls_L30_chip.tif", MIXED[:10], descriptions=L30))
    with pytest.raises(SceneError, match="--source hls_l30"):
        open_scene(path)
    scene = open_scene(path, SceneOptions(source="hls_l30"))
    assert names_of(scene) == L30[:7]
    assert names_of(open_scene(path, SceneOptions(source="landsat8"))) == tuple(f"B{i}" for i in range(1, 8))
    with pytest.raises(SceneError, match="--source hls_l30"):
        open_scene(str(write_raster(tmp_path / "oli.tif", MIXED[:7], descriptions=L30[:7])))


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


# --- valid pixels ------------------------------------------------------------------------------------------------


def test_nodata_is_the_declared_value_else_zero(tmp_path):
    values = MIXED.copy()
    values[4, 0, 0] = 0
    values[:, 1, 1] = 0
    bare = open_scene(str(write_raster(tmp_path / "a.tif", values, descriptions=S2_BANDS)))
    valid = reflectance_of(bare)[1]
    assert not valid[0, 0]
    assert not valid[1, 1]
    assert valid.sum() == valid.size - 2
    declared = open_scene(str(write_raster(tmp_path / "b.tif", values, descriptions=S2_BANDS, nodata=65535)))
    valid = reflectance_of(declared)[1]
    assert valid[0, 0]  # a measured 0
    assert not valid[1, 1]  # no surface is 0 in every band
    floats = values.astype(np.float32) * 1e-4
    floats[3, 2, 2], floats[3, 3, 3] = np.nan, np.inf
    scene = open_scene(str(write_raster(tmp_path / "c.tif", floats, descriptions=S2_BANDS, nodata=np.nan)))
    reflectance, valid = reflectance_of(scene)
    assert [bool(valid[i, i]) for i in range(4)] == [True, False, False, False]
    assert np.isfinite(reflectance).all()
    assert {asset.nodata for asset in scene.assets} == {None}


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
        assert valid.mean() > 0.99
