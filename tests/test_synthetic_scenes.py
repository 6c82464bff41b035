"""Simulated scenes: mixtures of the given spectra, with the shapes of land, reproducible."""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import S2_BANDS, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from test_spectra_npz import write_cube

from ms2hs.datasets.simulation import materials, synthetic_scenes
from ms2hs.datasets.simulation.land_layout import draw_layout
from ms2hs.datasets.simulation.materials import CLASS_WEIGHTS, FINE_NM, Spectra, kinds_of, spectra_of, spectra_of_folder
from ms2hs.datasets.simulation.random_fields import blur, cells, fit_to_shape, line, parcels, smooth_noise
from ms2hs.datasets.simulation.spectra_mixing import view
from ms2hs.datasets.simulation.synthetic_scenes import (
    Landscape,
    SimulatedCube,
    landscape_like,
    landscape_of_layout,
    simulate,
    simulated_cubes,
)
from ms2hs.datasets.simulation.texture import find_textures
from ms2hs.errors import DataError
from ms2hs.models.moments import scale_of
from ms2hs.models.prior import SpectralPrior, brightness_of
from ms2hs.models.weights import load_weights
from ms2hs.spectra.sensors import load_sensor

SENTINEL = load_sensor("sentinel2a").grid
SHAPES = st.tuples(st.integers(16, 60), st.integers(16, 60))
# Red and near infrared, of which Sentinel-2 has pixels of 10 m: the others' detail ends at 20 m.
SLOPE_NM = (665.0, 842.0)


def made_up(count=80, seed=0):
    """Smooth spectra: leaves, soils, water and mixtures."""
    rng = np.random.default_rng(seed)
    leaf = 0.04 + 0.4 / (1 + np.exp(-(FINE_NM - 715) / 15)) * np.exp(-(((FINE_NM - 800) / 1000) ** 2))
    soil = 0.08 + 0.3 * (1 - np.exp(-(FINE_NM - 350) / 700))
    water = 0.06 * np.exp(-(FINE_NM - 400) / 250)
    ends = np.stack([leaf, soil, water])
    kind = rng.integers(0, 3, count)
    share = 0.04 * rng.dirichlet(np.ones(3), count)
    share[np.arange(count), kind] += 0.96
    wave = 1 + 0.05 * np.sin(FINE_NM / 80 + rng.uniform(0, 6, (count, 1)))
    reflectance = (share @ ends * wave * rng.uniform(0.7, 1.2, (count, 1))).astype(np.float32)
    classes = np.array(["vegetation", "soil", "water"])[kind]
    return Spectra(FINE_NM, reflectance, rng.uniform(0.5, 1, count), tuple(classes.tolist()))


SPECTRA = made_up()


def radial_slope(image):
    """Slope of log power against log frequency, for a square image with tapered edges."""
    size = min(image.shape)
    tapered = (image[:size, :size] - image.mean()) * np.outer(np.hanning(size), np.hanning(size))
    power = np.square(np.abs(np.fft.fft2(tapered)))
    frequency = size * np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    edges = np.geomspace(3, size / 2, 12)
    rings = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    rings = [ring for ring in rings if ring.sum() > 3]
    middle, mean = (np.log([values[ring].mean() for ring in rings]) for values in (frequency, power))
    return np.polyfit(middle, mean, 1)[0]


def slopes_of(scene, wavelength_nm):
    return [radial_slope(scene[np.abs(wavelength_nm - nm).argmin()]) for nm in SLOPE_NM]


def edges_of(scene):
    """(row, col) gradient of the first principal component of (band, row, col)."""
    flat = scene.reshape(len(scene), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    component = np.linalg.svd(flat @ flat.T)[0][:, 0] @ flat
    return np.hypot(*np.gradient(component.reshape(scene.shape[1:])))


def window_of(shape=(96, 80), seed=3):
    """(band, row, col) Sentinel-2 view of a simulated scene, and its grid: stands for a real window."""
    scene = simulate(SPECTRA, shape, np.random.default_rng(seed))
    grid = SENTINEL.select(SENTINEL.index(["B02", "B03", "B04", "B08", "B11", "B12"]))
    seen = view(scene.reshape(len(scene), -1).T, FINE_NM, grid).T.reshape(-1, *shape)
    return np.clip(seen, 1e-4, None).astype(np.float32), grid


def landscapes_of(seed, shape=(40, 50)):
    """A landscape by layout and one like a window."""
    window, grid = window_of((40, 50))
    rng = np.random.default_rng(seed)
    window = fit_to_shape(window, shape, rng)
    return landscape_of_layout(SPECTRA, draw_layout(shape, rng), rng), landscape_like(SPECTRA, window, grid, rng)


# --- the spectra ---------------------------------------------------------------------------------------------------


def test_spectra_refuse_disagreeing_arrays():
    with pytest.raises(ValueError, match=r"weights and classes \(spectrum,\)"):
        replace(SPECTRA, weights=SPECTRA.weights[1:])
    with pytest.raises(ValueError, match="finite"):
        replace(SPECTRA, reflectance=np.full_like(SPECTRA.reflectance, np.nan))


def test_kinds_are_estimated_if_classes_are_unknown():
    kinds = kinds_of(SPECTRA.reflectance, SPECTRA.grid)
    assert (kinds == np.array(SPECTRA.classes)).mean() > 0.95
    np.testing.assert_array_equal(replace(SPECTRA, classes=()).kinds, kinds)
    odd = tuple("water" if kind == "soil" else "glass" for kind in kinds)
    np.testing.assert_array_equal(replace(SPECTRA, classes=odd).kinds, kinds)


def test_spectra_of_prior_have_their_original_brightness():
    fine = np.arange(370.0, 2511.0, 10.0)
    own = np.stack([np.interp(fine, FINE_NM, row) for row in SPECTRA.reflectance]).astype(np.float32)
    scaled = own / scale_of(brightness_of(own, fine), 0.2)[:, None]
    sides, strengths, directions = np.linalg.svd(scaled, full_matrices=False)
    ones = np.ones(len(fine), np.float32)
    prior = SpectralPrior(
        wavelength_nm=fine.astype(np.float32),
        factors=directions.T.astype(np.float32),
        residual=0 * ones,
        reach=ones,
        sigma_scale=ones,
        shift=ones,
        sample=(sides * strengths).astype(np.float32),
        floor=0.2,
        noise=0.01,
    )
    np.testing.assert_allclose(spectra_of(prior).reflectance, SPECTRA.reflectance, atol=2e-4)


def test_simulated_cubes_from_the_shipped_prior():
    cubes = simulated_cubes(2, 0, prior=load_weights("linear").prior, shape=(48, 48))
    assert all(cube.texture is None for cube in cubes)
    first, second = (cube.read(0, 0, 48, 48) for cube in cubes)
    assert np.isfinite(first).all()
    assert -0.001 < first.min() < first.max() < 1.5
    assert (first != second).any()
    counts = {kind: int((cubes[0].spectra.kinds == kind).sum()) for kind in CLASS_WEIGHTS}
    assert min(counts["vegetation"], counts["soil"], counts["water"]) > 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cubes, one without a water-vapour band, a library of soils with a gap, and a Sentinel-2 file."""
    path = tmp_path_factory.mktemp("land")
    for part in ("hyperspectral", "spectra", "sentinel2"):
        (path / part).mkdir()
    for number in range(2):
        cube = made_up(300, number).reflectance.reshape(15, 20, -1)
        good = np.ones(len(FINE_NM), bool)
        good[(FINE_NM > 1340) & (FINE_NM < 1460)] = number == 0
        write_cube(path / f"hyperspectral/scene{number}.npz", FINE_NM, cube, good=good)
    library = made_up(60, 7)
    reflectance = library.reflectance.copy()
    reflectance[::2, (FINE_NM > 1800) & (FINE_NM < 1960)] = np.nan
    reflectance[0] = np.nan
    names = np.array(library.classes)
    np.savez(path / "spectra/lab.npz", wavelength_nm=FINE_NM, reflectance=reflectance, names=names, **{"class": names})
    scene = simulate(SPECTRA, (150, 260), np.random.default_rng(1))
    seen = view(scene.reshape(len(scene), -1).T, FINE_NM, SENTINEL).T.reshape(-1, 150, 260)
    dn = np.clip(np.round(seen * 1e4), 1, None).astype(np.uint16)
    dn[:, 60, 200] = 0
    write_raster(path / "sentinel2/S2A_MSIL2A_land.tif", dn, descriptions=S2_BANDS, nodata=0)
    write_raster(path / "sentinel2/small.tif", dn[:, :40, :40], descriptions=S2_BANDS)
    write_raster(path / "sentinel2/height.tif", dn[:1])
    return path


@pytest.fixture(autouse=True)
def _few_canopies(monkeypatch):
    monkeypatch.setattr(materials, "CANOPY_COUNT", 100)


def test_spectra_of_folder_fills_gaps(folder):
    pytest.importorskip("prosail")
    spectra = spectra_of_folder(folder, np.random.default_rng(0))
    assert spectra.reflectance.shape == (len(spectra.weights), len(FINE_NM))
    assert np.isfinite(spectra.reflectance).all()
    assert spectra.reflectance.min() >= 0
    soil = np.array(spectra.classes) == "soil"
    assert {"soil", "water", "vegetation"} <= set(spectra.classes)
    gap = (FINE_NM > 1340) & (FINE_NM < 1460)
    truth = np.interp(FINE_NM[gap], FINE_NM[~gap], spectra.reflectance[soil][:, ~gap].mean(axis=0))
    assert np.abs(spectra.reflectance[soil][:, gap].mean(axis=0) / truth - 1).max() < 0.1


def test_spectra_of_folder_leaves_out_places(folder):
    pytest.importorskip("prosail")
    whole = spectra_of_folder(folder, np.random.default_rng(0))
    without = spectra_of_folder(folder, np.random.default_rng(0), leave_out={"scene1"})
    assert len(whole.weights) - len(without.weights) > 200
    everything = {"scene0", "scene1", "lab"}
    with pytest.raises(DataError, match="at least one is needed"):
        spectra_of_folder(folder, np.random.default_rng(0), leave_out=everything)


# --- the shapes ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), shape=SHAPES)
@settings(max_examples=40, deadline=None)
def test_draw_layout_shares_sum_to_one(seed, shape):
    layout = draw_layout(shape, np.random.default_rng(seed))
    assert layout.share.shape == (len(layout.kinds), *shape)
    assert layout.share.min() >= -1e-6
    np.testing.assert_allclose(layout.share.sum(axis=0), 1, atol=1e-4)
    assert layout.brightness.min() > 0
    assert set(layout.kinds) <= set(CLASS_WEIGHTS)


@given(seed=st.integers(0, 10_000), shape=SHAPES)
@settings(max_examples=20, deadline=None)
def test_parcels_cells_and_lines_cover_the_shape(seed, shape):
    rng = np.random.default_rng(seed)
    for number in (parcels(shape, 9, rng), cells(shape, 6, rng)):
        assert number.shape == shape
        assert number.min() >= 0
    assert len(np.unique(parcels(shape, 5, rng))) > 3
    cover = line(shape, 2.5, 3, rng)
    assert 0 <= cover.min() <= cover.max() <= 1


def test_blur_keeps_the_mean():
    values = np.random.default_rng(0).uniform(size=(2, 20, 30)).astype(np.float32)
    found = blur(values, 0.8)
    assert found.std() < 0.7 * values.std()
    assert found.mean() == pytest.approx(values.mean(), rel=1e-4)
    np.testing.assert_allclose(blur(np.ones((1, 8, 9), np.float32), 0.6), 1, rtol=1e-6)


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.5])
def test_smooth_noise_has_the_given_slope(slope):
    found = [radial_slope(smooth_noise((128, 128), slope, np.random.default_rng(seed))) for seed in range(5)]
    assert np.mean(found) == pytest.approx(-2 * slope, abs=0.15)


@given(seed=st.integers(0, 1000), shape=SHAPES)
@settings(max_examples=30, deadline=None)
def test_fit_to_shape_adds_no_values(seed, shape):
    window = np.arange(2 * 20 * 33, dtype=np.float32).reshape(2, 20, 33)
    found = fit_to_shape(window, shape, np.random.default_rng(seed))
    assert found.shape == (2, *shape)
    np.testing.assert_array_equal(found[1] - found[0], 660)


# --- the scenes ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_landscape_in_even_light_is_a_mixture_of_its_spectra(seed):
    for land in landscapes_of(seed):
        np.testing.assert_allclose(land.share.sum(axis=0), 1, atol=1e-4)
        assert land.share.min() >= -1e-6
        found = replace(land, sunlit=np.ones_like(land.sunlit)).reflectance().reshape(len(FINE_NM), -1)
        mixed = found / land.brightness.reshape(1, -1)
        assert (mixed <= land.members.max(axis=0)[:, None] + 1e-4).all()
        assert (mixed >= land.members.min(axis=0)[:, None] - 1e-4).all()
        basis = np.linalg.svd(SPECTRA.reflectance.astype(float), full_matrices=False)[2]
        np.testing.assert_allclose(basis.T @ (basis @ found), found, atol=1e-4)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_landscape_reflectance_is_plausible(seed):
    for land in landscapes_of(seed):
        scene = land.reflectance()
        assert scene.dtype == np.float32
        assert np.isfinite(scene).all()
        assert -1e-4 < scene.min() < scene.max() < 1.2
        assert scene.std(axis=(1, 2)).max() > 0.002


def test_landscape_shadow_has_diffuse_light():
    ones = np.ones((1, 3, 4), np.float32)
    diffuse = 0.2 * (FINE_NM / 550) ** -2.0
    flat = Landscape(np.full((1, len(FINE_NM)), 0.4, np.float32), ones, ones[0], ones[0] * 0, diffuse)
    np.testing.assert_allclose(flat.reflectance()[:, 1, 2], 0.4 * diffuse, rtol=1e-5)
    np.testing.assert_array_equal(replace(flat, sunlit=ones[0]).reflectance(), np.float32(0.4))
    shaded = [land for seed in range(20) for land in landscapes_of(seed) if land.sunlit.min() < 0.9]
    assert 5 < len(shaded) < 38
    for land in shaded:
        row, col = np.unravel_index(land.sunlit.argmin(), land.sunlit.shape)
        ratio = (land.reflectance() / replace(land, sunlit=np.ones_like(land.sunlit)).reflectance())[:, row, col]
        assert np.all(np.diff(ratio) < 1e-6)


def test_simulate_is_reproducible():
    first, again, other = (simulate(SPECTRA, (32, 40), np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (len(FINE_NM), 32, 40)
    assert (first != other).any()


def test_landscape_like_a_window_has_its_edges():
    window, grid = window_of()
    own, others = [], []
    for seed in range(6):
        land = landscape_like(SPECTRA, window, grid, np.random.default_rng(seed))
        scene = replace(land, sunlit=np.ones_like(land.sunlit)).reflectance()
        own.append(np.corrcoef(edges_of(window).ravel(), edges_of(scene).ravel())[0, 1])
        chance = simulate(SPECTRA, window.shape[1:], np.random.default_rng(seed))
        others.append(np.corrcoef(edges_of(window).ravel(), edges_of(chance).ravel())[0, 1])
    assert np.median(own) > 0.6, own
    assert np.median(own) > np.median(others) + 0.4, (own, others)


def test_landscape_like_a_window_keeps_residual_brightness():
    window, grid = window_of()
    smooth = blur(window, 2.0)
    fine = 0.1 * np.random.default_rng(0).normal(size=window.shape[1:])
    expected = (fine - blur(fine[None], 1.5)[0]).ravel()
    found = []
    for seed in range(6):
        land = landscape_like(SPECTRA, smooth * np.exp(fine).astype(np.float32), grid, np.random.default_rng(seed))
        bright = np.log(replace(land, sunlit=np.ones_like(land.sunlit)).reflectance().mean(axis=0))
        found.append((bright - blur(bright[None], 1.5)[0]).ravel())
    assert np.median([np.corrcoef(one, expected)[0, 1] for one in found]) > 0.85
    assert np.median([one @ expected / (expected @ expected) for one in found]) == pytest.approx(0.95, abs=0.15)


def test_landscape_like_an_even_window_is_even():
    window, grid = window_of()
    even = np.broadcast_to(window[:, :1, :1], window.shape).copy()
    land = landscape_like(SPECTRA, even, grid, np.random.default_rng(0))
    np.testing.assert_allclose(land.share.sum(axis=0), 1, atol=1e-4)
    np.testing.assert_allclose(land.brightness, 1, rtol=1e-4)


def test_simulate_has_the_power_spectrum_of_land():
    scenes = [simulate(SPECTRA, (128, 128), np.random.default_rng(seed)) for seed in range(12)]
    found = np.median([slopes_of(scene, FINE_NM) for scene in scenes], axis=0)
    assert np.all((found > -3.2) & (found < -1.9)), found


@pytest.mark.slow
def test_simulate_has_the_power_spectrum_of_real_scenes(real_data):
    windows = find_textures(real_data)
    rng = np.random.default_rng(0)
    some = [synthetic_scenes._draw_window(windows, rng) for _ in range(40)]
    real = np.median([slopes_of(window.read(), window.grid.wavelength_nm) for window in some], axis=0)
    spectra = spectra_of(load_weights("linear").prior)
    shaped = [simulate(spectra, (128, 128), np.random.default_rng(i), window) for i, window in enumerate(some)]
    chance = [simulate(spectra, (128, 128), np.random.default_rng([7, i])) for i in range(40)]
    for scenes in (shaped, chance):
        found = np.median([slopes_of(scene, FINE_NM) for scene in scenes], axis=0)
        np.testing.assert_allclose(found, real, atol=0.3)


# --- real windows and cubes ----------------------------------------------------------------------------------------


def test_find_textures_returns_windows_without_nodata(folder):
    found = find_textures(folder, 64)
    assert {window.scene.id for window in found} == {"S2A_MSIL2A_land"}
    corners = {(window.row, window.col) for window in found}
    assert corners == {(0, 0), (0, 64), (0, 128), (64, 0), (64, 64), (64, 128), (64, 192)}  # (0, 192) has nodata
    window = found[0]
    assert window.grid.names == ("B02", "B03", "B04", "B08", "B11", "B12")
    pixels = window.read()
    assert pixels.shape == (6, 64, 64)
    assert np.isfinite(pixels).all()
    assert pixels.min() > 0
    assert [(window.height, window.width) for window in find_textures(folder, 400)] == []
    scene = simulate(SPECTRA, (80, 64), np.random.default_rng(0), window)
    assert scene.shape == (len(FINE_NM), 80, 64)


def test_simulated_cubes_are_separate_scenes(folder):
    pytest.importorskip("prosail")
    cubes = simulated_cubes(4, 3, folder=folder, shape=(64, 64))
    assert [cube.texture is None for cube in cubes] == [True, False, True, False]
    assert len({cube.scene for cube in cubes}) == 4
    for cube in cubes:
        assert cube.shape == (64, 64)
        assert len(cube.grid) == len(FINE_NM)
        assert np.all(np.diff(cube.grid.wavelength_nm) > 0)
        whole = cube.read(0, 0, 64, 64)
        np.testing.assert_array_equal(whole[:, 5:25, 7:17], cube.read(5, 7, 20, 10))
        copied = pickle.loads(pickle.dumps(cube))  # noqa: S301  as a loader's workers get it
        np.testing.assert_array_equal(copied.read(0, 0, 64, 64), whole)
    again = simulated_cubes(4, 3, folder=folder, shape=(64, 64))
    np.testing.assert_array_equal(again[3].read(0, 0, 64, 64), cubes[3].read(0, 0, 64, 64))


def test_simulated_cube_cache_is_bounded():
    cubes = [SimulatedCube(SPECTRA, (9, number), (16, 16)) for number in range(20)]
    synthetic_scenes._simulate_cube.cache_clear()
    for _ in range(2):
        for cube in cubes[:4]:
            cube.read(0, 0, 16, 16)[:] = 0  # what is read belongs to the reader
    assert synthetic_scenes._simulate_cube.cache_info().misses == 4
    assert cubes[0].read(0, 0, 16, 16).max() > 0
    for cube in cubes:
        cube.read(0, 0, 8, 8)
    assert synthetic_scenes._simulate_cube.cache_info().currsize == synthetic_scenes.MAX_CACHED_SCENES


@pytest.mark.parametrize("window", [(-1, 0, 4, 4), (0, 0, 0, 4), (0, 0, 17, 4), (13, 13, 4, 4)])
def test_simulated_cube_refuses_windows_outside(window):
    with pytest.raises(ValueError, match="does not lie inside"):
        SimulatedCube(SPECTRA, (1,), (16, 16)).read(*window)


def test_simulated_cubes_need_spectra():
    with pytest.raises(ValueError, match="folder of spectra or a prior"):
        simulated_cubes(1, 0)
