"""The check of a scene's reflectance: land covers times wrong scales, the advice, and warnings about the offset."""

import re
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, SAND, WATER, dn_of, write_raster
from test_band_files import make_hls
from test_safe import make_safe

from ms2hs.conversion.planning import ConvertOptions, plan
from ms2hs.errors import SceneError
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.plausibility import check_reflectance, fit_of, offset_warnings, stored_sample
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import SceneOptions
from ms2hs.spectra.sensors import load_sensor

SNOW = (0.9, 0.92, 0.93, 0.92, 0.91, 0.9, 0.88, 0.87, 0.85, 0.7, 0.12, 0.11)
CLOUD = (0.75, 0.72, 0.7, 0.72, 0.74, 0.75, 0.76, 0.76, 0.77, 0.7, 0.45, 0.35)
ICE = (0.7, 0.72, 0.68, 0.55, 0.48, 0.42, 0.38, 0.33, 0.28, 0.2, 0.01, 0.01)
GREY_SAND = (0.18, 0.21, 0.26, 0.32, 0.34, 0.35, 0.36, 0.36, 0.37, 0.37, 0.43, 0.4)
HAZY_LEAVES = (0.13, 0.125, 0.13, 0.11, 0.15, 0.3, 0.34, 0.35, 0.36, 0.36, 0.18, 0.06)
SPARSE = (0.095, 0.1, 0.13, 0.16, 0.2, 0.28, 0.31, 0.33, 0.34, 0.35, 0.34, 0.28)
LAVA = (0.105, 0.106, 0.108, 0.11, 0.112, 0.115, 0.118, 0.12, 0.12, 0.12, 0.15, 0.15)
BURNT = (0.025, 0.03, 0.04, 0.045, 0.055, 0.065, 0.07, 0.075, 0.08, 0.08, 0.17, 0.19)
SPRUCE = (0.015, 0.018, 0.03, 0.02, 0.045, 0.12, 0.14, 0.15, 0.16, 0.16, 0.07, 0.03)
GYPSUM = (0.5, 0.55, 0.65, 0.7, 0.72, 0.73, 0.74, 0.75, 0.76, 0.75, 0.7, 0.45)
BLACK_LAKE = (0.008, 0.007, 0.008, 0.006, 0.005, 0.004, 0.004, 0.004, 0.004, 0.004, 0.002, 0.002)
TURBID_LAKE = (0.02, 0.022, 0.028, 0.026, 0.027, 0.026, 0.027, 0.027, 0.027, 0.02, 0.008, 0.006)
DESERT, SHADED_LEAVES, SHADED_SAND = (tuple(np.multiply(*row)) for row in ((SAND, 1.3), (LEAVES, 0.3), (SAND, 0.3)))
LAND = {
    "leaves": [LEAVES], "sand": [SAND], "leaves, water, sand": [LEAVES, WATER, SAND], "grey sand": [GREY_SAND],
    "sparse": [SPARSE], "spruce": [SPRUCE], "burnt": [BURNT], "snow and spruce": [SNOW, SNOW, SPRUCE],
    "leaves under haze": [HAZY_LEAVES, LEAVES], "snow, shaded slopes": [SNOW, SHADED_LEAVES, SPRUCE],
}  # fmt: skip
OTHER = {
    "lake": [WATER], "black lake": [BLACK_LAKE], "turbid lake": [TURBID_LAKE],
    "lake with shore": [BLACK_LAKE] * 9 + [SPRUCE], "snow": [SNOW],
    "cloud": [CLOUD], "ice": [ICE], "lava": [LAVA], "gypsum": [GYPSUM], "desert": [DESERT],
    "shaded leaves": [SHADED_LEAVES], "shaded sand": [SHADED_SAND], "cloud with gaps": [CLOUD] * 9 + [LEAVES],
}  # fmt: skip
FACTORS = (10, 100, 1000, 1e4, 6.5535, 0.1, 0.01, 1e-3, 1e-4, 1 / 6.5535)
BOUNDS = ([0, 1, 2, 3, 8, 10, 11], [0, 1, 2, 3, 7], [1, 2, 3, 8, 10], list(range(12)))


def sample_of(spectra, noise=0.002):
    """(band, pixel) reflectance of Sentinel-2's bands, with noise, never negative."""
    values = dn_of(spectra, dtype="int32").reshape(12, -1) * 1e-4
    return np.maximum(values + np.random.default_rng(0).normal(0, noise, values.shape), 1e-4)


def scene_of(tmp_path, values, *, options=None, name="x.tif", **raster):
    shape = values.shape if values.ndim == 3 else (len(values), 1, -1)
    path = write_raster(tmp_path / name, values.reshape(shape), **({"descriptions": S2_BANDS} | raster))
    return open_scene(str(path), options)


def refusal_of(scene):
    """The text of the refusal; empty if the scene passes."""
    try:
        check_reflectance(scene, scene.grid)
    except SceneError as error:
        return str(error)
    return ""


def advised(text):
    """The options that a message advises."""
    found = re.search(r"Use ((?:--scale \S+)?(?: ?--offset \S+)?), which", text)
    words = found[1].split() if found else []
    return SceneOptions(**{key[2:]: float(number) for key, number in zip(words[::2], words[1::2], strict=True)})


# --- land covers times scales -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", BOUNDS, ids=["landsat", "vnir", "five bands", "all"])
@pytest.mark.parametrize("cover", [*LAND, *OTHER])
def test_any_land_cover_at_the_right_scale_passes(cover, bands):
    grid = load_sensor("sentinel2a").grid
    reflectance = sample_of((LAND | OTHER)[cover])
    assert not fit_of(reflectance[bands], grid.select(np.array(bands))).problem


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("cover", LAND)
def test_land_at_a_wrong_scale_is_refused_with_the_right_one(tmp_path, cover, factor):
    """The advice is tried."""
    values = np.round(sample_of(LAND[cover]) * 1e4).astype("uint16")
    text = refusal_of(scene_of(tmp_path, values, options=SceneOptions(scale=1e-4 * factor)))
    assert "Use --scale 0.0001," in text, text
    assert not refusal_of(scene_of(tmp_path, values, options=advised(text)))


CONVENTIONS = ((0.01, 0), (1e-3, 0), (1e-4, 0), (1, 0), (1 / 65535, 0), (1e-4, -0.1), (2.75e-5, -0.2))


@pytest.mark.parametrize("declared", [None, 1e-4, 1e-3, 1 / 65535])
@pytest.mark.parametrize(("scale", "offset"), CONVENTIONS)
@pytest.mark.parametrize("source", ["sentinel2a", "landsat8"])
def test_numbers_of_each_convention_are_right_or_refused_with_the_rule(tmp_path, source, scale, offset, declared):
    """Whatever the file declares: following the advice gives the true reflectance."""
    if declared == 1 / 65535 and offset:
        pytest.skip("looks like dark land")
    names, bands = (S2_BANDS, BOUNDS[3]) if source == "sentinel2a" else ([f"SR_B{i}" for i in range(1, 8)], BOUNDS[0])
    truth = (dn_of([LEAVES, WATER, SAND]).reshape(12, -1) * 1e-4)[bands]
    stored = (truth - offset) / scale
    for dtype in ("uint16", "int16", "int32", "float32"):
        is_float = dtype == "float32"
        if not is_float and (scale == 1 or stored.max() > np.iinfo(dtype).max):
            continue
        values = (stored if is_float else np.round(stored)).astype(dtype)
        options = SceneOptions(source)
        for _ in range(2):
            scene = scene_of(tmp_path, values, descriptions=names, scale=declared, options=options)
            text = refusal_of(scene) or " ".join(warned_of(scene))
            if text:
                options = replace(advised(text), source=source)
        assert not text, (dtype, text)
        with SceneReader(scene, scene.grid) as reader:
            found, valid = reader.read(0, 0, scene.grid.height, scene.grid.width)[:2]
        np.testing.assert_allclose(found[:, valid], truth[:, valid.ravel()], atol=max(scale, 1e-4) * 0.6 + 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_landsat_floats_of_collection_2_are_refused_with_scale_and_offset(tmp_path, dtype):
    reflectance = sample_of([LEAVES, WATER, SAND])[[0, 1, 2, 3, 8, 10, 11]]
    stored = ((reflectance + 0.2) / 2.75e-5).astype(dtype)
    names = [f"SR_B{i}" for i in range(1, 8)]
    scene = scene_of(tmp_path, stored, descriptions=names, options=SceneOptions("landsat8"))
    assert "Use --scale 2.75e-05 --offset -0.2," in refusal_of(scene)


DARK = {
    "snow": [SNOW],
    "cloud": [CLOUD],
    "gypsum": [GYPSUM],
    "desert": [DESERT],
    "cloud with gaps": [CLOUD] * 9 + [LEAVES],
}
CLEAR_SEA = (0.035, 0.03, 0.014, 0.005, 0.003, 0.002, 0.002, 0.002, 0.002, 0.002, 0.001, 0.001)
# Shallow water over white sand, which is no clear sea of ten times its brightness.
LAGOON = (0.25, 0.33, 0.36, 0.12, 0.06, 0.03, 0.03, 0.02, 0.02, 0.01, 0.005, 0.004)
BRIGHT = {"cloud over sea": [CLOUD, CLEAR_SEA]}


def test_a_bright_lagoon_passes(tmp_path):
    assert refusal_of(scene_of(tmp_path, dn_of([LAGOON], (20, 36)))) == ""


@pytest.mark.parametrize(("cover", "factor"), [*((name, 0.01) for name in DARK), *((name, 10) for name in BRIGHT)])
def test_scenes_of_one_cover_at_a_wrong_scale_are_refused(tmp_path, cover, factor):
    """Only water is as dark as percent that are read as hundredths of percent, and not as bright as ten times water."""
    values = np.round(sample_of((DARK | BRIGHT)[cover]) * 1e4).astype("uint16")
    assert not refusal_of(scene_of(tmp_path, values))
    assert "scale or offset is wrong" in refusal_of(
        scene_of(tmp_path, values, options=SceneOptions(scale=1e-4 * factor))
    )


@pytest.mark.parametrize("cover", ["cloud", "gypsum", "snow", "lake", "desert"])
@pytest.mark.parametrize("factor", [100, 1e4])
def test_advice_for_scenes_of_one_cover_is_right(tmp_path, cover, factor):
    """Percent, not thousandths nor 8 bits, whose spectra have the same shape."""
    text = refusal_of(scene_of(tmp_path, (sample_of((LAND | OTHER)[cover]) * factor).astype("float32")))
    assert not text or f"Use --scale {1 / factor:g}," in text, text


@pytest.mark.parametrize("factor", [10, 100, 0.1, 0.01])
@pytest.mark.parametrize("band", [0, 1, 3, 7, 8, 11])
def test_one_band_with_another_scale_is_refused(tmp_path, band, factor):
    values = dn_of([LEAVES, WATER, SAND], (20, 20))
    scales = [1e-4 * (factor if i == band else 1) for i in range(12)]
    text = refusal_of(scene_of(tmp_path, values, scale=scales))
    assert "Use --scale 0.0001," in text, text
    stored = np.round(values / np.array(scales)[:, None, None] * 1e-4).astype("uint32")
    assert not refusal_of(scene_of(tmp_path, stored, scale=scales)), "stored with these scales"


@pytest.mark.parametrize("band", [1, 3, 7, 10])
@pytest.mark.parametrize("offset", [-0.1, -1000])
def test_one_band_with_another_offset_is_refused(tmp_path, band, offset):
    values = dn_of([LEAVES, WATER, SAND], (20, 20)) + (1000 if offset == -1000 else 0)
    usual = -0.1 if offset == -1000 else 0
    offsets = [offset if i == band else usual for i in range(12)]
    assert f"Use --scale 0.0001 --offset {usual:g}," in refusal_of(
        scene_of(tmp_path, values, scale=1e-4, offset=offsets)
    )


def test_bands_packed_by_their_own_ranges_pass(tmp_path):
    """Scale and offset of each band differ, as xarray and CF tools pack."""
    reflectance = dn_of([LEAVES, WATER, SAND], (20, 20)) * 1e-4
    low, high = reflectance.min(axis=(1, 2)), reflectance.max(axis=(1, 2))
    scales = (high - low) / 60000
    stored = np.round((reflectance - low[:, None, None]) / scales[:, None, None] + 1).astype("uint16")
    assert not refusal_of(scene_of(tmp_path, stored, scale=[*scales], offset=[*(low - scales)]))


def test_scale_applied_twice_is_refused(tmp_path):
    stored = sample_of([LEAVES, WATER, SAND]).astype("float32")
    text = refusal_of(scene_of(tmp_path, stored, scale=1e-4, offset=-0.1))
    assert "Use --scale 1 --offset 0," in text
    assert not refusal_of(scene_of(tmp_path, stored, scale=1e-4, offset=-0.1, options=advised(text)))


def test_custom_bands_are_checked(tmp_path):
    grid = load_sensor("sentinel2a").grid
    tags = [{"CENTRAL_WAVELENGTH_UM": f"{nm / 1000:.4f}"} for nm in grid.wavelength_nm[[1, 2, 3, 7]]]
    stored = np.round(sample_of([LEAVES, SAND])[[1, 2, 3, 7]] * 1e3).astype("uint16")
    raster = {"descriptions": (), "band_tags": {"IMAGERY": tags}}
    scene = scene_of(tmp_path, stored, options=SceneOptions("custom"), **raster)
    assert "Use --scale 0.001," in refusal_of(scene)
    assert not refusal_of(scene_of(tmp_path, stored, options=SceneOptions("custom", scale=1e-3), **raster))


@pytest.mark.parametrize("values", [np.zeros((12, 9, 9), "uint16"), dn_of([LEAVES], (3, 3)) // 1000])
def test_too_little_evidence_is_no_refusal(tmp_path, values):
    assert not refusal_of(scene_of(tmp_path, values))


@pytest.mark.parametrize("fill", [-9999.0, 65535.0, np.nan, np.inf, -3.4e38, 1e20])
def test_fill_does_not_count(tmp_path, fill):
    values = sample_of([LEAVES, WATER, SAND]).astype("float32")
    values[:, ::2] = fill
    assert not refusal_of(scene_of(tmp_path, values))
    values[:, 1::2] *= 100
    assert "Use --scale 0.01," in refusal_of(scene_of(tmp_path, values))


@pytest.mark.parametrize("fill", [64536, 55537, 20000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_fill_in_one_band_does_not_count(tmp_path, fill, share):
    """Wrapped and saturated numbers that no list of fills contains."""
    values = dn_of([LEAVES, WATER, SAND], (40, 50))
    values[3, :, : round(50 * share)] = fill
    assert refusal_of(scene_of(tmp_path, values)) == ""


def test_numbers_ten_times_too_large_are_refused_with_the_scale(tmp_path):
    """Not with 1/65535, although that scale is more usual."""
    text = refusal_of(scene_of(tmp_path, dn_of([LEAVES, WATER, SAND], (40, 50), dtype="int32") * 10))
    assert "Use --scale 1e-05," in text


def test_force_turns_the_refusal_into_a_warning(tmp_path, ms2hs):
    path = write_raster(tmp_path / "x.tif", dn_of([LEAVES, SAND]) // 10, descriptions=S2_BANDS)
    planned = plan(path, "enmap", tmp_path / "o.tif", ConvertOptions(force=True, model="linear"))
    (warning,) = [note for note in planned.scene.notes if note.startswith("warning")]
    assert "Use --scale 0.001," in warning
    code, _, err = ms2hs("convert", path, "-o", tmp_path / "o.tif", "--model", "linear", "--dry-run")
    assert (code, "Use --scale 0.001," in err.replace("\n", " "), "--force" in err) == (1, True, True)
    assert not (tmp_path / "o.tif").exists()


# --- the sample -------------------------------------------------------------------------------------------------


def test_check_concerns_the_requested_part_only(tmp_path):
    values = dn_of([LEAVES, WATER, SAND], (60, 60))
    values[:, 30:] //= 100
    path = str(write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS))
    plan(path, "enmap", tmp_path / "o.tif", ConvertOptions(window=(0, 0, 30, 60), model="linear"))
    with pytest.raises(SceneError, match=r"Use --scale 0.01,"):
        plan(path, "enmap", tmp_path / "o.tif", ConvertOptions(window=(30, 0, 30, 60), model="linear"))


@pytest.mark.parametrize("make", [make_safe, make_hls])
def test_bands_in_many_files_are_sampled_at_one_place(tmp_path, make):
    """Both products are constant, so each pixel of the sample has the same spectrum."""
    scene = open_scene(str(make(tmp_path, **({"driver": "GTiff"} if make is make_safe else {}))))
    assert not refusal_of(scene)
    wrong = replace(scene, assets=tuple(replace(asset, dn_scale=asset.dn_scale * 100) for asset in scene.assets))
    assert "so the scale or offset is wrong" in refusal_of(wrong)


def test_a_large_file_without_overviews_is_read_in_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("ms2hs.raster.sample.MAX_WHOLE_READ", 1000)
    values = dn_of([LEAVES, WATER, SAND], (300, 400))
    path = write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS, tiled=True, blockxsize=64, blockysize=64)
    scene = open_scene(str(path))
    sample = stored_sample(scene.assets, scene.grid)
    assert sample.shape == (12, 36 * 16 * 16)
    assert {tuple(pixel) for pixel in sample.T} <= {tuple(pixel) for pixel in values.reshape(12, -1).T}


# --- warnings about the offset ----------------------------------------------------------------------------------


def warned_of(scene):
    with SceneReader(scene, scene.grid) as reader:
        reflectance, valid = reader.read(0, 0, scene.grid.height, scene.grid.width)
    return offset_warnings(scene, reflectance[:, valid])


def warnings_of(tmp_path, spectra, constant=0.0, *, dtype="int32", **choices):
    values = (dn_of(spectra, dtype="int32") + round(constant * 1e4)).clip(-30000, 65535)
    values = values * np.float32(1e-4) if dtype == "float32" else values
    return " ".join(warned_of(scene_of(tmp_path, values, nodata=-32768, options=SceneOptions(**choices))))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize("spectra", [[LEAVES], [WATER], [LEAVES, WATER, SAND], [LEAVES, SAND]])
def test_offset_warnings_find_a_remaining_offset(tmp_path, spectra, dtype):
    text = warnings_of(tmp_path, spectra, 0.1, dtype=dtype)
    assert "constant of +0.1" in text
    assert "--offset -0.1," in text
    assert not warnings_of(tmp_path, spectra, 0.1, dtype=dtype, **vars(advised(text)))
    assert not warnings_of(tmp_path, spectra, dtype=dtype)


@pytest.mark.parametrize(
    "spectra", [[SAND], [SNOW], [GREY_SAND], [SPARSE], [HAZY_LEAVES], [LAVA], [LEAVES, SNOW], [GREY_SAND, SPARSE]]
)
def test_offset_warnings_accept_bright_and_hazy_scenes(tmp_path, spectra):
    assert "constant" not in warnings_of(tmp_path, spectra)


@pytest.mark.parametrize("spectra", [[LEAVES], [LEAVES, SAND]])
def test_offset_warnings_find_an_offset_of_the_wrong_sign(tmp_path, spectra):
    text = warnings_of(tmp_path, spectra, 0.1, offset=0.1)
    assert "constant of +0.2" in text
    assert "Use --scale 0.0001 --offset -0.1," in text


def test_offset_warnings_find_negative_reflectance(tmp_path):
    assert "Use --scale 0.0001 --offset 0," in warnings_of(tmp_path, [LEAVES], dn_offset=-1000)
    assert "negative" not in warnings_of(tmp_path, [LEAVES] * 25 + [tuple(np.subtract(WATER, 0.01))])


def test_offset_warnings_advise_only_what_holds(tmp_path):
    """An offset of +0.1 would not make a scene with -0.2 plausible."""
    text = warnings_of(tmp_path, [LEAVES], offset=-0.2)
    assert "negative" in text
    assert "Use" not in text


def test_offset_warnings_of_an_empty_scene_are_empty(tmp_path):
    assert warned_of(scene_of(tmp_path, np.zeros((12, 5, 5), "uint16"))) == ()


# --- real files -------------------------------------------------------------------------------------------------


def real_scenes(folder):
    for path in sorted(Path(folder, "sentinel2").glob("*.tif")):
        options = SceneOptions("hls_l30") if "hls_L30" in path.name else SceneOptions()
        yield path, replace(options, offset=-0.1) if "rawDN" in path.name else options


def test_real_scenes_pass_and_only_the_raw_scene_warns(real_data):
    for path, options in real_scenes(real_data):
        scene = open_scene(str(path), options)
        assert not refusal_of(scene), path.name
        assert warned_of(scene) == ()
        if "rawDN" in path.name:
            raw = open_scene(str(path))
            assert not refusal_of(raw)
            assert "Use --scale 0.0001 --offset -0.1," in warned_of(raw)[0]


def test_no_part_of_a_real_scene_is_refused(real_data):
    for path, options in real_scenes(real_data):
        scene = open_scene(str(path), options)
        with SceneReader(scene, scene.grid) as reader:
            reflectance, valid = reader.read(0, 0, scene.grid.height, scene.grid.width)[:2]
        reflectance[:, ~valid] = np.nan
        for side in (8, 20):
            for row in range(0, scene.grid.height - side, 5 * side):
                for col in range(0, scene.grid.width - side, 5 * side):
                    part = reflectance[:, row : row + side, col : col + side].reshape(len(reflectance), -1)
                    found = fit_of(part[:, np.isfinite(part).all(axis=0)], scene.spectral)
                    assert not found.problem, (path.name, row, col, found.problem)


def test_real_scenes_at_a_wrong_scale_are_refused_with_the_right_one(real_data):
    for (path, options), factor in zip(real_scenes(real_data), cycle(FACTORS), strict=False):
        scene = open_scene(str(path), options)
        assets = tuple(replace(asset, dn_scale=asset.dn_scale * factor) for asset in scene.assets)
        text = refusal_of(replace(scene, assets=assets))
        assert "Use --scale 0.0001" in text, (path.name, factor, text)
