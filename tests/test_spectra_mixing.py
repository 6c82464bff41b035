"""Simulated spectra: physically plausible and reproducible."""

import sys

import numpy as np
import pytest

from ms2hs.datasets.simulation.spectra_mixing import CANOPY_WAVELENGTH_NM, mix, simulate_canopies, view
from ms2hs.errors import DataError
from ms2hs.spectra.sensors import load_sensor

SOIL = np.linspace(0.1, 0.4, len(CANOPY_WAVELENGTH_NM))[None]


def test_simulate_canopies_is_green_and_reproducible():
    pytest.importorskip("prosail")
    canopies = simulate_canopies(SOIL, 40, np.random.default_rng(3))
    np.testing.assert_array_equal(canopies, simulate_canopies(SOIL, 40, np.random.default_rng(3)))
    assert canopies.shape == (40, 2101)
    assert canopies.dtype == np.float32
    assert (canopies > 0).all()
    assert (canopies < 0.9).all()
    red, infrared = canopies[:, 670 - 400], canopies[:, 860 - 400]
    index = (infrared - red) / (infrared + red)
    assert np.median(index) > 0.5
    assert index.min() < 0.4  # sparse canopies are among them


def test_simulate_canopies_without_prosail_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prosail", None)
    with pytest.raises(DataError, match="ms2hs\\[train\\]"):
        simulate_canopies(SOIL, 1, np.random.default_rng(0))


def test_mix_lies_between_members_drawn_by_weight():
    spectra = np.array([[0.0, 0.0], [1.0, 0.2], [0.5, np.nan]], np.float32)
    mixtures = mix(spectra, np.array([1.0, 1.0, 0.0]), 500, np.random.default_rng(0))
    assert np.isfinite(mixtures).all()
    assert (mixtures >= -1e-6).all()
    assert (mixtures[:, 0] <= 1 + 1e-6).all()
    np.testing.assert_allclose(mixtures[:, 1], 0.2 * mixtures[:, 0], atol=1e-6)
    assert mixtures[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    some = mix(spectra, np.array([1.0, 1.0, 1.0]), 500, np.random.default_rng(0))
    assert 0.3 < np.isnan(some[:, 1]).mean() < 0.9


def test_view_keeps_a_flat_spectrum():
    flat = np.full((2, len(CANOPY_WAVELENGTH_NM)), 0.25)
    np.testing.assert_allclose(view(flat, CANOPY_WAVELENGTH_NM, load_sensor("sentinel2a").grid), 0.25)
