"""Valid pixels: a pixel that no surface can have is invalid, any other pixel keeps its value; zeros and nodata."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, NORTH, S2_BANDS, SAND, WATER, WEST, dn_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from test_safe import GRANULE, make_safe

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.conversion.statistics import Counts
from ms2hs.errors import SceneError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.radiometry import RadiometricRule
from ms2hs.scenes.reader import Cause, SceneReader, to_reflectance
from ms2hs.scenes.scene import Asset, Scene, SceneOptions, working_grid

BANDS = 6
SHAPE = 8, 9
# Name, data type, scale and offset in stored numbers.
FORMS = {
    "int16": ("int16", 1e-4, 0.0),
    "uint16": ("uint16", 1e-4, 0.0),
    "uint16 with offset": ("uint16", 1e-4, -1000.0),
    "int32": ("int32", 1e-4, 0.0),
    "Landsat": ("uint16", 2.75e-5, -0.2 / 2.75e-5),
    "Landsat, int32": ("int32", 2.75e-5, -0.2 / 2.75e-5),
    "reflectance": ("float32", 1.0, 0.0),
    "reflectance, float64": ("float64", 1.0, 0.0),
    "percent": ("float32", 0.01, 0.0),
    "numbers as floats": ("float32", 1e-4, -1000.0),
}
FILLS = (-9999, -32768, 32767, 65535, 65536 - 9999, 65536 - 1000, 20000, 1e20, -1e20, -3.4028234663852886e38, 1e300)
FILLS += (np.inf, -np.inf, np.nan, 1.1e38)
CONSTANTS = (-0.1, -0.2, -0.0999, 1e-4, 0.0019)


def assets_of(form, nodata=None):
    _, scale, offset = FORMS[form]
    return tuple(Asset(f"B{i}", "x", i, scale, offset, nodata) for i in range(1, BANDS + 1))


def stored_of(reflectance, form):
    """Stored numbers of plausible spectra, different in each band."""
    dtype, scale, offset = FORMS[form]
    numbers = reflectance / scale - offset
    if np.dtype(dtype).kind in "iu":
        numbers = np.round(numbers).clip(np.iinfo(dtype).min + 1, np.iinfo(dtype).max - 1)
        numbers = numbers.clip(0) if dtype == "uint16" else numbers
    return numbers.astype(dtype)


def plausible(seed):
    """(band, row, col) reflectance from dark water to snow, including small negatives."""
    rng = np.random.default_rng(seed)
    spectra = rng.uniform(-0.09, 1.4, (BANDS, *SHAPE)) * rng.choice([0.02, 0.3, 1.0], SHAPE)
    spectra[0] += 0.01  # the bands differ
    return spectra


def is_fill(form, fill):
    """Whether the type holds this number, and the number is impossible by the definition of the rule."""
    dtype, scale, offset = FORMS[form]
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= fill <= limits.max:
            return False
        if fill in {limits.min, limits.max}:
            return True
    value = (fill + offset) * scale
    return not -0.2 < value < 2.0


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.02, 0.3, 1.0]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_pixel_with_a_number_of_no_surface_is_invalid_and_others_keep_their_value(form, seed, share, data):
    fill = data.draw(st.sampled_from([fill for fill in FILLS if is_fill(form, fill)]))
    bands = data.draw(st.sampled_from([slice(None), slice(0, 1), slice(3, 4), slice(5, 6)]))
    stored = stored_of(plausible(seed), form)
    bad = np.random.default_rng(seed).random(SHAPE) < share
    expected = ((stored.astype(float) + FORMS[form][2]) * FORMS[form][1]).astype(np.float32)
    with np.errstate(over="ignore"):
        stored[bands, bad] = fill
    reflectance, cause = to_reflectance(stored, assets_of(form))
    assert np.array_equal(cause != Cause.VALID, bad)
    assert set(cause[bad]) <= {Cause.NODATA if np.isnan(fill) else Cause.IMPOSSIBLE}
    np.testing.assert_allclose(reflectance[:, ~bad], expected[:, ~bad], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "lowest", "highest"),
    [
        ("int16", -1999, 19999), ("uint16", 0, 19999), ("uint16 with offset", 0, 20999), ("Landsat", 1, 65534),
        ("int32", -1999, 19999), ("Landsat, int32", 1, 79999),
    ],
)  # fmt: skip
def test_each_number_of_an_integer_type_is_valid_between_the_limits(form, lowest, highest):
    limits = np.iinfo(FORMS[form][0])
    numbers = np.arange(max(limits.min, -70_000), min(limits.max, 90_000) + 1)
    stored = np.broadcast_to(stored_of(plausible(1)[:, :1, :1], form), (BANDS, 1, len(numbers))).copy()
    stored[2] = numbers
    _, cause = to_reflectance(stored, assets_of(form))
    assert np.array_equal(cause[0] == Cause.VALID, (numbers >= lowest) & (numbers <= highest))


def test_declared_nodata_wins_over_impossible():
    stored = stored_of(plausible(0), "int16")
    stored[:, 0, 0], stored[1, 1, 1], stored[2, 2, 2] = -9999, -9999, -32768
    _, cause = to_reflectance(stored, assets_of("int16", -9999.0))
    assert (cause[0, 0], cause[1, 1], cause[2, 2]) == (Cause.NODATA, Cause.NODATA, Cause.IMPOSSIBLE)
    assert np.count_nonzero(cause) == 3


@pytest.mark.filterwarnings("error")
def test_declared_nodata_may_lie_beyond_the_type():
    for form, nodata in (("uint16", -9999.0), ("int16", 65535.0), ("reflectance", -1.7976931348623157e308)):
        assert not to_reflectance(stored_of(plausible(2), form), assets_of(form, nodata))[1].any()


# --- files ------------------------------------------------------------------------------------------------------


def pixels_of(scene, gsd=None):
    grid = working_grid(scene, gsd)
    with SceneReader(scene, grid) as reader:
        return reader.read_pixels(0, 0, grid.height, grid.width)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_same_small_number_in_every_band_is_impossible(tmp_path, constant, dtype):
    values = dn_of([LEAVES, WATER, SAND], dtype="float32")
    values[:, 5:9, :4] = constant * 1e4
    values[:4, 20, 20], values[:11, 21, 21] = 1, 1  # not every band
    values = values.astype(dtype) if dtype == "int16" else values / np.float32(1e4)
    pixels = pixels_of(open_scene(str(write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS))))
    expected = np.ones(pixels.valid.shape, bool)
    expected[5:9, :4] = False
    assert np.array_equal(pixels.valid, expected)
    assert (pixels.cause[5:9, :4] == Cause.IMPOSSIBLE).all()


def test_same_number_of_a_bright_surface_is_a_value(tmp_path):
    values = np.full((12, 4, 5), 20, np.uint16)
    assert pixels_of(open_scene(str(write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS)))).valid.all()


def test_same_small_number_is_found_after_an_adjustment_by_band(tmp_path):
    values = dn_of([LEAVES], dtype="int16")
    values[:, 3, 3] = -1000
    scene = open_scene(str(write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS)))
    lines = {name: (1 + i / 100, i / 1000) for i, name in enumerate(S2_BANDS)}
    assert np.argwhere(~pixels_of(scene.adjusted(lines)).valid).tolist() == [[3, 3]]


def test_zero_is_a_value_unless_the_offset_is_negative(tmp_path):
    values = dn_of([LEAVES, WATER])
    values[4, 0, 0] = 0
    values[:, 1, 1] = 0
    path = str(write_raster(tmp_path / "a.tif", values, descriptions=S2_BANDS))
    scene = open_scene(path)
    pixels = pixels_of(scene)
    assert {asset.nodata for asset in scene.assets} == {None}
    assert np.argwhere(pixels.cause == Cause.NODATA).tolist() == [[1, 1]]
    assert pixels.valid.sum() == pixels.valid.size - 1
    assert pixels.reflectance[4, 0, 0] == 0
    with_offset = open_scene(path, SceneOptions(dn_offset=-100))
    assert {asset.nodata for asset in with_offset.assets} == {0.0}
    assert np.argwhere(pixels_of(with_offset).cause == Cause.NODATA).tolist() == [[0, 0], [1, 1]]
    declared = open_scene(str(write_raster(tmp_path / "b.tif", values, descriptions=S2_BANDS, nodata=0)))
    assert np.argwhere(~pixels_of(declared).valid).tolist() == [[0, 0], [1, 1]]


def test_zero_is_a_value_beside_another_declared_nodata():
    offsets = (-1000.0, -1000.0, 0.0)
    rule = RadiometricRule((1e-4,) * 3, offsets, (-9999.0, None, None), "test")
    assert [asset.nodata for asset in rule.assets("abc", "xxx", (1, 2, 3))] == [-9999.0, 0.0, None]


def test_not_a_number_is_nodata_and_infinity_is_impossible(tmp_path):
    values = dn_of([LEAVES, SAND]).astype(np.float32) * np.float32(1e-4)
    values[3, 2, 2], values[3, 3, 3], values[:, 1, 1] = np.nan, np.inf, 0
    scene = open_scene(str(write_raster(tmp_path / "c.tif", values, descriptions=S2_BANDS, nodata=np.nan)))
    pixels = pixels_of(scene)
    assert np.isfinite(pixels.reflectance).all()
    assert pixels.cause.diagonal()[:4].tolist() == [Cause.VALID, Cause.NODATA, Cause.NODATA, Cause.IMPOSSIBLE]
    assert pixels.valid.sum() == pixels.valid.size - 3


# --- scenes of several files ------------------------------------------------------------------------------------

FILES = {"B02": 10, "B03": 10, "B04": 10, "B05": 20, "B11": 20, "B01": 60}
SIDE_M = 720


def centres(gsd):
    return (np.arange(SIDE_M // gsd) + 0.5) * gsd


def is_outside(gsd):
    """Beyond the slanted edge of the image."""
    return centres(gsd)[:, None] * 0.3 + centres(gsd)[None] > 700


def is_lake(gsd):
    return (centres(gsd)[:, None] - 400) ** 2 + (centres(gsd)[None] - 250) ** 2 < 110**2


def scene_of_files(folder, change=None, nodata=None, offset=0.0):
    """A scene with a file for each band: 0 beyond the slanted edge, and `change(values, name, gsd)` applied."""
    assets = []
    for i, (name, gsd) in enumerate(FILES.items()):
        values = np.full((SIDE_M // gsd,) * 2, 1000.0 + 100 * i - offset)
        values[is_outside(gsd)] = 0
        if change:
            change(values, name, gsd)
        path = write_raster(folder / f"{name}.tif", values[None].astype(np.int16), gsd)
        assets.append(Asset(name, str(path), 1, 1e-4, offset, nodata))
    grid = PixelGrid("EPSG:32632", (10, 0, WEST, 0, -10, NORTH), SIDE_M // 10, SIDE_M // 10)
    return Scene("x", "sentinel2a", tuple(assets), grid, "test")


def clear_lake(values, name, gsd):
    if gsd > 10 or name == "B04":
        values[is_lake(gsd)] = 0


@pytest.mark.parametrize("gsd", [10, 20, 30, 60])
def test_zeros_of_a_lake_are_values_and_the_edge_is_nodata(tmp_path, gsd):
    scene = scene_of_files(tmp_path / "zeros", clear_lake)
    pixels = pixels_of(scene, gsd)
    edge = pixels_of(scene_of_files(tmp_path / "declared", nodata=0.0), gsd)
    assert np.array_equal(pixels.valid, edge.valid)
    assert set(np.unique(pixels.cause)) == {Cause.VALID, Cause.NODATA}
    middle = np.s_[400 // gsd, 250 // gsd]
    np.testing.assert_allclose(pixels.reflectance[:, *middle], [0.1, 0.11, 0, 0, 0, 0], atol=1e-6)
    away = edge.valid & (centres(gsd)[None] > 450) if gsd < 60 else edge.valid & (centres(gsd)[None] > 500)
    assert np.allclose(pixels.reflectance[:, away], edge.reflectance[:, away], atol=1e-6)


def test_zeros_of_windows_equal_the_zeros_of_the_whole_scene(tmp_path):
    scene = scene_of_files(tmp_path, clear_lake)
    for gsd in (10, 30):
        grid, whole = working_grid(scene, gsd), pixels_of(scene, gsd)
        with SceneReader(scene, grid) as reader:
            for row, col, height, width in (
                (0, 0, 7, grid.width),
                (7, 0, 9, grid.width),
                (10, 5, 6, 14),
                (3, 9, 15, 9),
            ):
                part = reader.read_pixels(row, col, height, width)
                window = np.s_[row : row + height, col : col + width]
                assert np.array_equal(part.cause, whole.cause[window])
                assert np.allclose(part.reflectance, whole.reflectance[:, *window], atol=1e-7)


@pytest.mark.parametrize("gsd", [10, 20, 30, 60])
def test_fill_of_a_file_does_not_reach_the_average(tmp_path, gsd):
    """20 m of -9999 in one file of 10 m, and a saturated pixel in the file of 60 m."""

    def spoil(values, name, _gsd):
        if name == "B03":
            values[20:22, 20:22] = -9999
        if name == "B01":
            values[5, 5] = 32767

    pixels, clean = (
        pixels_of(scene_of_files(tmp_path / "a", spoil), gsd),
        pixels_of(scene_of_files(tmp_path / "b"), gsd),
    )
    assert (pixels.cause == Cause.IMPOSSIBLE).any()
    assert np.array_equal(pixels.valid, clean.valid & (pixels.cause != Cause.IMPOSSIBLE))
    assert np.allclose(pixels.reflectance[:, pixels.valid], clean.reflectance[:, pixels.valid], atol=1e-6)


@pytest.mark.parametrize("gsd", [10, 20, 30, 60])
@pytest.mark.parametrize("constant", [-1000, 1])
@pytest.mark.parametrize("is_adjusted", [False, True])
def test_same_small_number_across_files_is_as_nodata(tmp_path, gsd, constant, is_adjusted):
    """A stripe that does not fit the working grid, and a pixel of 10 m where coarser files have another number."""

    def stripe(values, _name, gsd, number=constant):
        values[:, 120 // gsd : 240 // gsd] = number
        if gsd == 10:
            values[60, 40] = number

    def hole(values, name, gsd):
        stripe(values, name, gsd, -9999)
        if gsd == 10:
            values[60, 40] = constant

    lines = {"B03": (1.02, 0.0003), "B11": (0.95, 0.001)} if is_adjusted else {}
    found, expected = (
        pixels_of(scene_of_files(tmp_path / change.__name__, change, nodata=-9999.0).adjusted(lines), gsd)
        for change in (stripe, hole)
    )
    assert np.array_equal(found.valid, expected.valid)
    assert np.array_equal(found.reflectance, expected.reflectance)
    assert (found.cause[:2, 120 // gsd : 240 // gsd] == Cause.IMPOSSIBLE).all()


def test_cause_of_a_coarser_pixel_is_the_largest(tmp_path):
    """The quality layer excludes columns, one file has fill, and the edge is nodata; the causes add up."""
    layer = np.full((1, SIDE_M // 20, SIDE_M // 20), 4, np.uint8)
    layer[0, :, 3:9] = 9
    quality = Asset("SCL", str(write_raster(tmp_path / "SCL.tif", layer, 20)), 1, 1.0, 0.0, 0.0)

    def spoil(values, name, _gsd):
        if name == "B02":
            values[:20] = -9999

    scene = replace(scene_of_files(tmp_path, spoil, nodata=0.0), quality=(quality,))
    pixels = pixels_of(scene, 60)
    assert np.array_equal(pixels.valid, pixels.cause == Cause.VALID)
    assert pixels.cause[2].tolist() == [1, *[2] * 2, *[1] * 8, 3]
    assert pixels.cause[6].tolist() == [0, *[2] * 2, *[0] * 7, *[3] * 2]
    # at the cloud's edge less than half of a pixel is excluded, and this part does not count
    assert (pixels.cause[6:, 0] == Cause.VALID).all()


# --- counts -----------------------------------------------------------------------------------------------------


def test_counts_name_the_causes_of_invalid_pixels(tmp_path):
    values = np.concatenate([dn_of([LEAVES, SAND], (40, 50)).astype(np.int16), np.full((1, 40, 50), 4, np.int16)])
    values[:12, :, :5], values[12, :, 40:], values[3, 10:12, 20:30], values[:12, 39, 0:2] = 0, 9, -9999, -30
    path = write_raster(tmp_path / "x.tif", values, descriptions=(*S2_BANDS, "SCL"))
    made = convert(path, "enmap", tmp_path / "o.tif", ConvertOptions(model="linear"))
    counts = made.counts
    assert (counts.pixels, counts.nodata, counts.cloud, counts.impossible) == (2000, 198, 400, 22)
    assert counts.valid == 2000 - 198 - 400 - 22
    assert "1380 of 2000 pixels valid" in counts.summary()
    assert "invalid: 9.9 % nodata, 20.0 % cloud, 1.1 % impossible reflectance" in counts.summary()
    (text,) = [note for note in made.notes if "no surface" in note]
    assert text.startswith("warning: 22 pixels")
    assert "-0.9999 to " in text


def test_counts_without_invalid_pixels_name_no_cause(s2_tif, tmp_path):
    made = convert(s2_tif, "enmap", tmp_path / "o.tif", ConvertOptions(model="linear"))
    assert made.counts.valid == made.counts.pixels
    assert "invalid" not in made.counts.summary()
    assert not any("no surface" in note for note in made.notes)


def test_scene_without_valid_pixels_names_the_cause(tmp_path):
    path = write_raster(tmp_path / "x.tif", np.full((12, 20, 20), 65535, np.uint16), descriptions=S2_BANDS)
    with pytest.raises(SceneError, match=r"100\.0 % impossible reflectance"):
        convert(path, "enmap", tmp_path / "o.tif", ConvertOptions(model="linear"))


@pytest.mark.parametrize(
    ("seen", "text"), [((-0.1, -0.1), " (-0.1)."), ((-1, 6.5), " (-1 to 6.5)."), ((np.inf, -np.inf), ".")]
)
def test_counts_warn_of_impossible_reflectance(seen, text):
    (warning,) = Counts(10, 5, impossible=2).warnings(*seen)
    assert f"their reflectance{text}" in warning
    assert Counts(10, 10).warnings(*seen) == ()


def test_counts_add_each_class():
    total = Counts(10, 5, 2, 1, 2)
    total.add(Counts(4, 1, 1, 1, 1, 1, 0, 0))
    assert total == Counts(14, 6, 3, 2, 3, 1, 0, 0)
    assert total.pixels == total.valid + total.nodata + total.cloud + total.impossible


def test_reader_keeps_the_range_of_impossible_reflectance(tmp_path):
    values = dn_of([SAND], dtype="int16")
    values[2, 3, 3], values[5, 9, 9] = -9999, 32000
    scene = open_scene(str(write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS)))
    with SceneReader(scene, scene.grid) as reader:
        reader.read(0, 0, 5, 5)
        reader.read(5, 0, 10, 20)
        assert reader.impossible_range == pytest.approx((-0.9999, 3.2))


@pytest.mark.parametrize(("baseline", "offset", "is_value"), [("02.14", 0, True), ("05.10", -1000, False)])
def test_zero_of_a_band_is_a_value_in_a_safe_without_offset(tmp_path, baseline, offset, is_value):
    offsets = {"offsets": ""} if is_value else {}
    path = make_safe(tmp_path, offset=offset, baseline=baseline, driver="GTiff", **offsets)
    (band,) = path.glob(f"{GRANULE}/R20m/*_B11_20m.jp2")
    with rasterio.open(band, "r+") as dataset:
        values = dataset.read(1)
        values[6:9, 6:9] = 0
        dataset.write(values, 1)
    for gsd in (10, 20, 60):
        pixels = pixels_of(open_scene(str(path)), gsd)
        lake = np.s_[120 // gsd : 180 // gsd, 120 // gsd : 180 // gsd]
        assert (pixels.cause[lake] == (Cause.VALID if is_value else Cause.NODATA)).all()
        if is_value:
            assert pixels.valid.all()
            assert pixels.reflectance[10][lake].min() == 0
