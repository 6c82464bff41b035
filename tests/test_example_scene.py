"""The example scene has the surfaces, the detail and the size that its users rely on."""

import numpy as np
import pytest
import rasterio

from ms2hs.datasets.simulation.example_scene import SURFACES, example_dn
from ms2hs.spectra.sensors import load_sensor


def read(path):
    with rasterio.open(path) as scene:
        return scene.read() * np.float32(1e-4), scene.read_masks(1) > 0


def test_scene_is_a_small_geotiff_of_sentinel2a(scene_path):
    assert scene_path.stat().st_size < 1_500_000
    with rasterio.open(scene_path) as scene:
        assert (scene.count, scene.shape, scene.dtypes[0]) == (12, (230, 310), "uint16")
        assert scene.descriptions == load_sensor("sentinel2a").grid.names
        assert (scene.scales[0], scene.nodata, scene.res) == (1e-4, 0, (10, 10))


def test_scene_shows_water_woods_fields_bare_soil_and_roofs(scene_path):
    reflectance, valid = read(scene_path)
    blue, green, red, nir, swir = (reflectance[band][valid] for band in (1, 2, 3, 7, 10))
    ndvi = (nir - red) / (nir + red)
    shares = {
        "water": green > nir,
        "woods": (ndvi > 0.75) & (green < 0.055) & (swir < 0.17),
        "fields": ndvi > 0.6,
        "bare soil": (ndvi < 0.3) & (swir > 1.15 * nir) & (nir > 0.1),
        "roofs": blue > 0.15,
    }
    least = {"water": 0.02, "woods": 0.04, "fields": 0.4, "bare soil": 0.04, "roofs": 0.001}
    assert {name: share.mean() for name, share in shares.items() if not least[name] < share.mean() < 0.9} == {}


def test_spectra_of_surfaces_are_plausible():
    spectra = np.array(list(SURFACES.values()))
    assert spectra.shape[1] == 12
    assert ((spectra > 0) & (spectra < 0.6)).all()


def test_nodata_lies_beyond_the_edge_of_the_orbit(scene_path):
    _, valid = read(scene_path)
    assert 0.99 < valid.mean() < 1
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()  # nothing valid to the east of it


@pytest.mark.slow
def test_scene_is_the_same_each_time(scene_path):
    with rasterio.open(scene_path) as scene:
        np.testing.assert_array_equal(scene.read(), example_dn())
