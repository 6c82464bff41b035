"""Pixels on the working grid: positions, averages, validity, windows. Oracles: ramps and naive averages."""

import numpy as np
import pytest
from conftest import NORTH, S2_BANDS, WEST, dn_of, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import SceneError
from ms2hs.raster.dataset import read_bands
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m, subset
from ms2hs.raster.resampling import Axis, area_taps, value_taps
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Asset, Scene, working_grid

# Names and pixel sizes in m of the bands, and the extent of the scene.
ROWS_M, COLS_M = 240, 360
NAMES = ("B02", "B05", "B01")
SIZES = (10, 20, 60)


def make_scene(folder, bands, scl=None, nodata=0.0, dtype="uint16"):
    """A scene with one file per band; `bands` maps gsd to (row, col) stored numbers."""
    assets = []
    for name, (gsd, values) in zip(NAMES, bands.items(), strict=False):
        path = write_raster(folder / f"{name}.tif", values[None].astype(dtype), gsd)
        assets.append(Asset(name, str(path), 1, 1e-4, 0.0, nodata))
    quality = ()
    if scl is not None:
        path = write_raster(folder / "SCL.tif", scl[None].astype(np.uint8), ROWS_M / scl.shape[0])
        quality = (QUALITY_LAYERS["SCL"].asset(str(path)),)
    finest = min(bands)
    shape = bands[finest].shape
    grid = PixelGrid("EPSG:32632", (finest, 0, WEST, 0, -finest, NORTH), *shape)
    return Scene("x", "sentinel2a", tuple(assets), grid, "test", quality=quality)


def read_all(scene, grid):
    with SceneReader(scene, grid) as reader:
        return reader.read(0, 0, grid.height, grid.width)


def centres(size_m, gsd):
    return (np.arange(size_m // gsd) + 0.5) * gsd


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Stored numbers that encode the pixel's centre: 1000 + 10 x + 20 y, in m from the corner."""
    bands = {gsd: 1000 + 10 * centres(COLS_M, gsd)[None] + 20 * centres(ROWS_M, gsd)[:, None] for gsd in SIZES}
    return make_scene(tmp_path_factory.mktemp("ramps"), bands)


@pytest.mark.parametrize("gsd", [10, 15, 20, 24, 30, 40, 60, 120])
def test_reader_reproduces_a_ramp_at_pixel_centres(ramps, gsd):
    grid = working_grid(ramps, gsd)
    assert (grid.height, grid.width) == (ROWS_M // gsd, COLS_M // gsd)
    reflectance, valid = read_all(ramps, grid)
    assert valid.all()
    expected = (1000 + 10 * centres(COLS_M, gsd)[None] + 20 * centres(ROWS_M, gsd)[:, None]) * 1e-4
    for band, size in zip(reflectance, SIZES, strict=True):
        # Within half a coarser pixel of the border, the value of the last pixel continues.
        edge = int(np.ceil(size / 2 / gsd)) if gsd < size else 0
        inner = np.s_[edge : band.shape[0] - edge, edge : band.shape[1] - edge]
        assert np.allclose(band[inner], expected[inner], atol=2e-6), size
        assert np.abs(band - expected).max() <= 30 * size / 2 * 1e-4


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_reader_windows_equal_the_whole_scene(noisy, data):
    scene, wholes = noisy
    gsd = data.draw(st.sampled_from(sorted(wholes)))
    grid, (whole, whole_valid) = working_grid(scene, gsd), wholes[gsd]
    row = data.draw(st.integers(0, grid.height - 1))
    col = data.draw(st.integers(0, grid.width - 1))
    height = data.draw(st.integers(1, grid.height - row))
    width = data.draw(st.integers(1, grid.width - col))
    with SceneReader(scene, grid) as reader:
        part, valid = reader.read(row, col, height, width)
    window = np.s_[row : row + height, col : col + width]
    assert np.array_equal(valid, whole_valid[window])
    assert np.allclose(part, whole[:, *window], atol=1e-7)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Random bands with holes and clouds, and a whole read of each working grid."""
    rng = np.random.default_rng(1)
    bands = {gsd: rng.integers(1, 9000, (ROWS_M // gsd, COLS_M // gsd)) for gsd in SIZES}
    for values in bands.values():
        values[rng.random(values.shape) < 0.1] = 0
    scl = rng.choice([4, 5, 6, 9, 11], (ROWS_M // 20, COLS_M // 20), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    scene = make_scene(tmp_path_factory.mktemp("noisy"), bands, scl)
    return scene, {gsd: read_all(scene, working_grid(scene, gsd)) for gsd in (10, 20, 30, 60)}


@given(heights=st.lists(st.integers(1, 9), min_size=1, max_size=20), gsd=st.sampled_from([10, 20, 30, 60]))
@settings(max_examples=30, deadline=None)
def test_reader_strips_of_any_height_equal_the_whole_scene(noisy, heights, gsd):
    scene, wholes = noisy
    grid, (whole, whole_valid) = working_grid(scene, gsd), wholes[gsd]
    with SceneReader(scene, grid) as reader:
        row = 0
        for height in heights:
            rows = min(height, grid.height - row)
            part, valid = reader.read(row, 0, rows, grid.width)
            assert np.array_equal(valid, whole_valid[row : row + rows])
            assert np.allclose(part, whole[:, row : row + rows], atol=1e-7)
            row = (row + height - height // 3) % grid.height


def test_reader_decodes_each_block_once_in_strips(tmp_path, monkeypatch):
    from ms2hs.raster import rows_ahead as module

    values = dn_of([[0.2] * 12], (512, 300))
    path = write_raster(tmp_path / "x.tif", values, descriptions=S2_BANDS, tiled=True, blockxsize=128, blockysize=128)
    from ms2hs.scenes.formats import open_scene

    scene = open_scene(str(path))
    asked = []

    def counted(dataset, bands, window=None, shape=None):
        asked.append((window.row_off, window.row_off + window.height))
        return read_bands(dataset, bands, window, shape)

    monkeypatch.setattr(module, "read_bands", counted)
    with SceneReader(scene, scene.grid) as reader:
        strips = [reader.read(row, 0, min(50, 512 - row), 300)[0] for row in range(0, 512, 50)]
    assert asked == [(0, 128), (128, 256), (256, 384), (384, 512)]
    assert np.array_equal(np.concatenate(strips, axis=1), values.astype(np.float32) * np.float32(1e-4))


def test_reader_averages_valid_pixels_for_coarser_grids(noisy):
    """Compared with loops over 30 m pixels: 9 pixels of the 10 m band, each with the class at its centre."""
    scene, wholes = noisy
    reflectance, valid = wholes[30]
    with SceneReader(scene, scene.grid) as reader:
        dn = np.round(reader._layers[0].dataset.read(1)).astype(int)
        scl = reader._quality[0].dataset.read(1)
    for row in range(ROWS_M // 30):
        for col in range(COLS_M // 30):
            good = [
                dn[r, c] * 1e-4
                for r in range(row * 3, row * 3 + 3)
                for c in range(col * 3, col * 3 + 3)
                if dn[r, c] != 0 and scl[r // 2, c // 2] not in (0, 1, 3, 8, 9, 10)
            ]
            if valid[row, col]:
                assert len(good) >= 4.5
                assert reflectance[0, row, col] == pytest.approx(np.mean(good), abs=1e-6)
            else:
                assert (reflectance[:, row, col] == 0).all()


def test_reader_pixel_is_valid_from_half_of_its_area_in_every_band(noisy):
    """The same rule by brute force, with all layers in pixels of 5 m."""
    scene, wholes = noisy

    def fine(values, gsd):
        return np.kron(values, np.ones((gsd // 5, gsd // 5), int))

    with SceneReader(scene, scene.grid) as reader:
        stored = [layer.dataset.read(1) for layer in reader._layers]
        usable = QUALITY_LAYERS["SCL"].valid(reader._quality[0].dataset.read(1))
    for gsd, (_, valid) in wholes.items():
        expected = np.ones(valid.shape, bool)
        for size, dn in zip(SIZES, stored, strict=True):
            at = ((np.arange(n) + 0.5) * size / 20 for n in dn.shape)
            good = (dn != 0) & usable[np.ix_(*(np.floor(position).astype(int) for position in at))]
            k = gsd // 5
            share = fine(good, size).reshape(valid.shape[0], k, valid.shape[1], k).mean(axis=(1, 3))
            expected &= share >= 0.5
        assert np.array_equal(valid, expected), gsd
        assert 0.02 < valid.mean() < 0.98


def test_reader_keeps_invalid_out_of_finer_pixels(tmp_path):
    """A bright cloud in a 60 m pixel, and a hole, next to constant ground."""
    coarse = np.full((4, 6), 2000)
    coarse[1, 2] = 12000
    coarse[3, 5] = 0
    scl = np.full((12, 18), 4)
    scl[3:6, 6:9] = 9
    scene = make_scene(tmp_path, {10: np.full((24, 36), 1000), 20: np.full((12, 18), 1500), 60: coarse}, scl)
    for gsd in (10, 20, 30):
        reflectance, valid = read_all(scene, working_grid(scene, gsd))
        k = 60 // gsd
        assert not valid[k : 2 * k, 2 * k : 3 * k].any()
        assert not valid[3 * k :, 5 * k :].any()
        assert valid.sum() == valid.size - 2 * k * k
        for band, value in zip(reflectance, (0.1, 0.15, 0.2), strict=True):
            assert np.allclose(band[valid], value, atol=1e-6)
            assert (band[~valid] == 0).all()


def test_reader_keeps_a_constant_at_every_gsd(tmp_path):
    scene = make_scene(tmp_path, {gsd: np.full((ROWS_M // gsd, COLS_M // gsd), 3000) for gsd in SIZES})
    for gsd in (7, 10, 11.5, 13, 25, 30, 31, 45, 70, 100):
        reflectance, valid = read_all(scene, working_grid(scene, gsd))
        assert np.allclose(reflectance[:, valid], 0.3, atol=1e-6)
        assert valid[:-1, :-1].all()


@given(
    start=st.floats(-3, 3), step=st.floats(0.2, 7), size=st.integers(1, 60), first=st.integers(0, 5),
    count=st.integers(1, 12),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_resampling_weights_are_positive_sum_to_one_and_keep_lines(start, step, size, first, count):
    axis = Axis(start, step, size)
    value, area = value_taps(axis, first, count), area_taps(axis, first, count)
    for taps in (value, area):
        assert (taps.weight >= 0).all()
        assert ((taps.index >= 0) & (taps.index < size)).all()
    edges = axis.edges(first, count)
    inside = np.clip(np.minimum(edges[1:], size) - np.maximum(edges[:-1], 0), 0, None) / np.diff(edges)
    assert np.allclose(area.weight.sum(axis=1), inside, atol=1e-5)
    total = value.weight.sum(axis=1)
    assert np.all(np.isclose(total, 1, atol=1e-5) | (total == 0))
    assert (total[inside >= 0.5] > 0).all()
    centre = (edges[:-1] + edges[1:]) / 2
    margin = max(0.5, step / 2 + 1e-4)
    inner = (centre >= margin) & (centre <= size - margin)
    assert np.allclose((value.weight * (value.index + 0.5)).sum(axis=1)[inner], centre[inner], atol=1e-3)


def test_reader_returns_the_file_unchanged_on_its_own_grid(s2_tif):
    from ms2hs.scenes.formats import open_scene

    scene = open_scene(str(s2_tif))
    assert working_grid(scene) == scene.grid
    assert working_grid(scene, 10) == scene.grid
    reflectance, valid = read_all(scene, scene.grid)
    assert reflectance.dtype == np.float32
    assert valid.dtype == np.bool_
    assert valid.all()
    from conftest import LEAVES, SAND, WATER

    assert np.array_equal(reflectance, dn_of([LEAVES, WATER, SAND]).astype(np.float32) * np.float32(1e-4))


def test_working_grid_of_a_scene_in_degrees_is_square_in_metres(tmp_path):
    from rasterio import Affine

    from ms2hs.scenes.formats import open_scene

    place = {"crs": "EPSG:4326", "transform": Affine(1.8e-4, 0, 13.2, 0, -1.25e-4, 45.8)}
    path = write_raster(tmp_path / "x.tif", dn_of([[0.2] * 12], (50, 60)), descriptions=S2_BANDS, **place)
    scene = open_scene(str(path))
    height_m, width_m = pixel_size_m(scene.grid)
    assert height_m == pytest.approx(13.9, abs=0.05)
    assert width_m == pytest.approx(13.96, abs=0.05)
    grid = working_grid(scene, 30)
    assert pixel_size_m(grid) == pytest.approx((30, 30), rel=1e-3)
    assert (grid.height, grid.width) == (23, 28)
    assert read_all(scene, grid)[1].all()


def test_reader_keeps_the_axes_of_a_rotated_scene(tmp_path):
    from rasterio import Affine

    from ms2hs.scenes.formats import open_scene

    turned = Affine.translation(WEST, NORTH) @ Affine.rotation(20) @ Affine.scale(10, -10)
    path = write_raster(tmp_path / "x.tif", dn_of([[0.2] * 12]), descriptions=S2_BANDS, transform=turned)
    scene = open_scene(str(path))
    grid = working_grid(scene, 30)
    assert (grid.height, grid.width) == (8, 10)
    assert pixel_size_m(grid) == pytest.approx((30, 30))
    reflectance, valid = read_all(scene, grid)
    assert valid.all()
    assert np.allclose(reflectance.mean(), 0.2, atol=1e-3)


def test_reader_refuses_bands_on_another_grid(tmp_path):
    scene = make_scene(tmp_path, {10: np.full((24, 36), 1000), 20: np.full((12, 18), 1000)})
    write_raster(tmp_path / "B05.tif", np.full((1, 12, 18), 1000, np.uint16), 20, crs="EPSG:32633")
    with pytest.raises(SceneError, match="band B05 has another grid"):
        SceneReader(scene, scene.grid).__enter__()


def test_reader_marks_pixels_beyond_a_band_invalid(tmp_path):
    scene = make_scene(tmp_path, {10: np.full((24, 36), 1000), 20: np.full((6, 18), 1000)})
    _, valid = read_all(scene, scene.grid)
    assert valid[:12].all()
    assert not valid[12:].any()
    with SceneReader(scene, scene.grid) as reader:
        assert not reader.read(16, 0, 4, 4)[1].any()
        with pytest.raises(ValueError, match="beyond"):
            reader.read(20, 0, 8, 4)


def test_reader_names_a_missing_file(tmp_path):
    scene = make_scene(tmp_path, {10: np.full((24, 36), 1000), 20: np.full((12, 18), 1000)})
    (tmp_path / "B05.tif").unlink()
    with pytest.raises(SceneError, match=r"B05.tif: no such file"):
        SceneReader(scene, scene.grid).__enter__()


def test_subset_finds_the_pixels_of_a_box():
    from rasterio.warp import transform as warp

    grid = PixelGrid("EPSG:32632", (30, 0, WEST, 0, -30, NORTH), 100, 120)
    # The box around the centres of pixels (40, 50) and (59, 79).
    lon, lat = warp(
        "EPSG:32632", "EPSG:4326", [WEST + 50.5 * 30, WEST + 79.5 * 30], [NORTH - 59.5 * 30, NORTH - 40.5 * 30]
    )
    row, col, height, width = subset(grid, (lon[0], lat[0], lon[1], lat[1]))
    # A box in degrees is a little turned in UTM, so it may touch a pixel more.
    assert 39 <= row <= 40
    assert 49 <= col <= 50
    assert 20 <= height <= 22
    assert 30 <= width <= 32
    assert subset(grid, (-10, 20, 30, 70)) == (0, 0, 100, 120)
    with pytest.raises(SceneError, match=r"10,10,11,11 is outside the scene, which covers 10\.\d+,46\.\d+"):
        subset(grid, (10, 10, 11, 11))
    with pytest.raises(SceneError, match="west < east"):
        subset(grid, (11, 46, 10, 47))
    with pytest.raises(SceneError, match="no CRS"):
        subset(PixelGrid(None, grid.transform, 100, 120), (10, 46, 11, 47))


def test_working_grid_refuses_a_size_of_zero(ramps):
    with pytest.raises(SceneError, match="above 0"):
        working_grid(ramps, 0)


def test_working_grid_uses_the_default_gsd_of_the_scene(tmp_path):
    from dataclasses import replace

    scene = make_scene(tmp_path, {10: np.full((24, 36), 1000)})
    assert working_grid(scene) == scene.grid
    assert working_grid(replace(scene, working_gsd_m=30.0)).transform == (30, 0, WEST, 0, -30, NORTH)
