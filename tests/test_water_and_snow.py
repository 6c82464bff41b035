"""Simulated water, wet soil and snow: bounds, absorption features, and the direction of every effect."""

import numpy as np
import pytest

from ms2hs.datasets.simulation.snow import ICE_ABSORBING, snow_reflectance
from ms2hs.datasets.simulation.surfaces import simulate_snow, simulate_water, simulate_wet_soils
from ms2hs.datasets.simulation.water import water_absorption_per_m, water_reflectance, wet_reflectance
from ms2hs.spectra.indices import water_and_snow
from ms2hs.spectra.spectral_grid import grid_of

pytest.importorskip("prosail")

NM = np.arange(400.0, 2501.0, 5.0)
GRID = grid_of(NM, np.full(len(NM), 5.0))
SOILS = np.linspace(0.1, 0.4, len(NM)) * np.array([[0.5], [1.0], [1.5]])
CLEAR = {"chlorophyll_mg_m3": 0.1, "sediment_g_m3": 0.1, "dissolved_per_m": 0.02}


def band(nm):
    return int(np.abs(NM - nm).argmin())


@pytest.mark.parametrize(("nm", "per_m"), [(555, 0.0596), (600, 0.2224), (650, 0.340), (675, 0.448)])
def test_water_absorption_agrees_with_pope_and_fry(nm, per_m):
    assert water_absorption_per_m(np.array([float(nm)]))[0] == pytest.approx(per_m, rel=0.1)


@pytest.mark.parametrize(
    ("simulate", "highest"), [(simulate_water, 0.9), (simulate_wet_soils, 0.7), (simulate_snow, 1.6)]
)
def test_simulated_surfaces_are_reflectance_and_reproducible(simulate, highest):
    spectra = simulate(SOILS, NM, 300, np.random.default_rng(0))
    np.testing.assert_array_equal(spectra, simulate(SOILS, NM, 300, np.random.default_rng(0)))
    assert spectra.shape == (300, len(NM))
    assert spectra.dtype == np.float32
    assert (spectra >= 0).all()
    assert (spectra < highest).all()


def test_simulate_snow_is_mostly_snow_and_simulate_water_mostly_water():
    snow, water = (simulate(SOILS, NM, 400, np.random.default_rng(1)).T for simulate in (simulate_snow, simulate_water))
    assert water_and_snow(snow, GRID)[1].mean() > 0.7  # the rest covers little of its ground
    assert water_and_snow(water, GRID)[0].mean() > 0.7  # the rest is turbid or shallow


def test_water_reflectance_rises_with_sediment_at_all_wavelengths_of_the_red():
    sediment = np.geomspace(0.1, 1000, 9)
    spectra = water_reflectance(NM, **CLEAR | {"sediment_g_m3": sediment})
    assert (np.diff(spectra[:, band(600) : band(900)], axis=0) > 0).all()
    assert water_and_snow(spectra[:5].T, GRID)[0].all()


def test_water_reflectance_of_clear_water_is_blue_and_black_in_the_infrared():
    (clear,) = water_reflectance(NM, **CLEAR)
    assert clear.argmax() < band(500)
    assert (clear[band(1000) :] < 1e-3).all()


def test_water_reflectance_falls_where_chlorophyll_and_dissolved_matter_absorb():
    water = water_reflectance(NM, chlorophyll_mg_m3=[1, 80], sediment_g_m3=5, dissolved_per_m=0.5)
    depth = water[:, band(675)] / water[:, [band(655), band(700)]].mean(axis=1)
    assert depth[1] < 0.9 < depth[0]
    dark = water_reflectance(NM, chlorophyll_mg_m3=1, sediment_g_m3=5, dissolved_per_m=[0.1, 5])
    assert dark[1, band(440)] < 0.5 * dark[0, band(440)]
    assert dark[1, band(800)] == pytest.approx(dark[0, band(800)], rel=0.05)


def test_water_reflectance_tends_to_its_bottom_and_to_deep_water():
    depth = np.array([1e-6, 0.5, 2.0, 1e3, np.inf])
    water = water_reflectance(NM, **CLEAR, depth_m=depth, bottom=np.full((5, len(NM)), 0.3))
    # through the surface: Lee et al. 1999, 0.5 r / (1 - 1.5 r)
    np.testing.assert_allclose(water[0, : band(900)], 0.15 / (1 - 0.45 / np.pi), rtol=0.01)
    np.testing.assert_allclose(water[3], water[4], rtol=1e-6)
    assert (np.diff(water[:4, band(650)]) < 0).all()


def test_wet_reflectance_darkens_most_where_water_absorbs():
    film = np.array([0.001, 0.01, 0.1])
    wet = wet_reflectance(np.repeat(SOILS[:1], 3, axis=0), NM, film, 1.0) / SOILS[0]
    assert (wet < 1).all()
    assert (np.diff(wet, axis=0) <= 0).all()
    assert (wet[:, band(1450)] < wet[:, band(1300)]).all()
    assert (wet[:, band(1940)] < wet[:, band(2200)]).all()
    np.testing.assert_allclose(wet_reflectance(SOILS, NM, 0.1, 0.0), SOILS)


@pytest.mark.parametrize("nm", [865, 1030, 1240, 1650, 2250])
def test_snow_reflectance_falls_with_grain_size(nm):
    snow = snow_reflectance(NM, grain_radius_um=np.geomspace(30, 3000, 12))
    assert (np.diff(snow[:, band(nm)]) < 0).all()
    assert (snow[:, band(450)] > 0.9).all()


def test_snow_reflectance_has_the_bands_of_ice_and_moves_them_when_wet():
    dry, wet = snow_reflectance(NM, grain_radius_um=200, liquid=[0.0, 0.25])
    around = slice(band(980), band(1080))
    assert NM[around][dry[around].argmin()] == pytest.approx(1030, abs=10)
    assert NM[around][wet[around].argmin()] < NM[around][dry[around].argmin()]
    assert dry[band(1500)] < dry[band(1800)]


@pytest.mark.parametrize("impurity", [{"soot": 1e-6}, {"dust": 3e-4}])
def test_snow_reflectance_with_impurities_is_darker_only_where_ice_is_clear(impurity):
    clean, dirty = (snow_reflectance(NM, grain_radius_um=300, **kind)[0] for kind in ({}, impurity))
    assert dirty[band(450)] < clean[band(450)] - 0.05
    assert dirty[band(1300)] == pytest.approx(clean[band(1300)], abs=0.01)


def test_snow_reflectance_agrees_with_the_asymptotic_theory_where_absorption_is_weak():
    # Kokhanovsky & Zege 2004: diffuse albedo exp(-sqrt(13 k d)) at 865 nm; the sun at 60 degrees is close to diffuse
    diameter_m = 2e-4
    index = np.exp(np.interp(865, *np.array([(nm, np.log(value)) for nm, value in ICE_ABSORBING]).T))
    expected = np.exp(-np.sqrt(13 * 4 * np.pi * index / 865e-9 * diameter_m))
    (snow,) = snow_reflectance(np.array([865.0]), grain_radius_um=diameter_m / 2 * 1e6, sun_zenith_deg=55)
    assert snow[0] == pytest.approx(expected, abs=0.03)
