"""Spectral grids: response matrices against numerical integration, resampling, overlap, support."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms2hs.errors import GridError
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import Response, SpectralGrid, band_overlap, band_support, grid_of, response_matrix

WAVELENGTHS = st.lists(st.floats(400, 2400), min_size=2, max_size=30)


@given(samples=WAVELENGTHS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_response_matrix_rows_sum_to_one_and_keep_a_constant(samples, seed):
    rng = np.random.default_rng(seed)
    low, high = min(samples), max(samples)
    if high - low < 1:
        return
    centres = rng.uniform(low, high, 7)
    matrix = response_matrix(grid_of(centres, np.full(7, 9.0)), np.array(samples))
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)
    assert (matrix >= 0).all()
    shuffled = rng.permutation(len(samples))
    again = response_matrix(grid_of(centres, np.full(7, 9.0)), np.array(samples)[shuffled])
    np.testing.assert_allclose(again, matrix[:, shuffled], atol=1e-9)


def test_response_matrix_equals_numerical_integration():
    from scipy.integrate import quad

    samples = np.linspace(400, 900, 23)
    spectrum = np.sin(samples / 40) ** 2
    for centre, width in ((500.0, 3.0), (613.0, 40.0), (777.7, 11.0)):
        sigma = width / 2.354820045

        def weight(nm, centre=centre, sigma=sigma):
            return np.exp(-0.5 * ((nm - centre) / sigma) ** 2)

        edges = [nm for nm in samples if abs(nm - centre) < 6 * sigma]
        low, high = centre - 6 * sigma, centre + 6 * sigma
        above, _ = quad(lambda nm, f=weight: f(nm) * np.interp(nm, samples, spectrum), low, high, points=edges)
        below, _ = quad(weight, low, high)
        found = response_matrix(grid_of(np.array([centre]), np.array([width])), samples) @ spectrum
        assert found[0] == pytest.approx(above / below, abs=3e-5)


def test_response_matrix_of_tables_reproduces_band_centres():
    fine = np.arange(370, 2511, 2.5)
    for name in ("sentinel2a", "sentinel2b", "sentinel2c", "landsat8", "landsat9", "hls_s30", "hls_l30"):
        grid = load_sensor(name).grid
        assert grid.response is not None
        np.testing.assert_allclose(response_matrix(grid, fine) @ fine, grid.wavelength_nm, atol=0.1)


def test_response_matrix_splits_weight_between_equal_samples():
    matrix = response_matrix(grid_of(np.array([500.0]), np.array([10.0])), np.array([450.0, 500.0, 500.0, 550.0]))
    assert matrix[0, 1] == pytest.approx(matrix[0, 2])


def test_response_matrix_refuses_bands_outside_the_spectrum():
    with pytest.raises(GridError, match=r"2500\.0 nm.*400\.0-2400\.0 nm is allowed"):
        response_matrix(grid_of(np.array([2500.0]), np.array([10.0])), np.linspace(400, 2400, 50))


def test_response_matrix_keeps_a_smooth_spectrum_and_is_local():
    emit = load_sensor("emit").grid
    enmap = load_sensor("enmap").grid.select(load_sensor("enmap").grid.wavelength_nm > 420)
    spectrum = (0.3 + 0.1 * np.sin(emit.wavelength_nm / 300)).astype(np.float32)
    expected = 0.3 + 0.1 * np.sin(enmap.wavelength_nm / 300)
    matrix = response_matrix(enmap, emit.wavelength_nm)
    np.testing.assert_allclose(matrix @ spectrum, expected, atol=2e-4)
    touched = matrix[:, 100] != 0
    assert touched.any()
    assert np.abs(enmap.wavelength_nm[touched] - emit.wavelength_nm[100]).max() < 40


def test_pasted_bands_of_sentinel2a_are_76_of_enmap_and_75_of_emit():
    source = load_sensor("sentinel2a").grid
    assert len(source) == 12
    for target, seen in (("enmap", 76), ("emit", 75)):
        assert (band_overlap(source, load_sensor(target).grid).max(axis=1) >= 0.6).sum() == seen


def test_band_overlap_is_a_share_of_the_target_band():
    source = grid_of(np.array([500.0]), np.array([100.0]))
    target = grid_of(np.array([500.0, 550.0, 700.0]), np.array([10.0, 20.0, 10.0]))
    np.testing.assert_allclose(band_overlap(source, target)[:, 0], [1, 0.5, 0])


def test_band_support_separates_gaps_from_neighbours():
    source = load_sensor("sentinel2a").grid
    target = grid_of(np.array([410.0, 490.0, 620.0, 1200.0, 1610.0, 2000.0, 2330.0]), np.full(7, 8.0))
    expected = ["inferred", "measured", "interpolated", "inferred", "measured", "inferred", "inferred"]
    assert band_support(source, target) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fwhm_nm": np.array([1.0])}, "fwhm_nm has shape"),
        ({"fwhm_nm": np.array([1.0, 0.0])}, "widths"),
        ({"wavelength_nm": np.array([500.0, np.nan])}, "finite wavelengths"),
        ({"names": ("a", "a")}, "twice: a"),
        ({"response": Response(np.arange(3.0), np.ones((3, 3)))}, "response has 3 bands"),
    ],
)
def test_grid_refuses_parts_that_disagree(change, words):
    fields = {
        "names": ("a", "b"),
        "wavelength_nm": np.array([500.0, 600.0]),
        "fwhm_nm": np.array([9.0, 9.0]),
        "good": np.array([True, True]),
    }
    with pytest.raises(GridError, match=words):
        SpectralGrid(**(fields | change))


def test_grid_finds_bands_by_name():
    grid = load_sensor("sentinel2a").grid
    assert grid.select(grid.index(["B8A", "B02"])).names == ("B8A", "B02")
    with pytest.raises(GridError, match="no band B10; available: B01"):
        grid.index(["B10"])
