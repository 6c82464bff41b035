"""open_cube: lazy reflectance with wavelengths, of our COGs and of ENVI files."""

import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from ms2hs.errors import SceneError
from ms2hs.raster import cube as module
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE, open_cube, spectral_of
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

GRID = PixelGrid("EPSG:32633", (30.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0), 40, 50)
BANDS = 7
GOOD = np.arange(BANDS) % 3 > 0
NAMES = tuple(f"B{i:03d}" for i in range(7, 7 + BANDS))
SPECTRAL = SpectralGrid(NAMES, np.linspace(2400, 450, BANDS), np.linspace(5, 11, BANDS), GOOD)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    rng = np.random.default_rng(0)
    dn = rng.integers(-100, 10_000, (BANDS, 40, 50)).astype(np.int16)
    dn[:, rng.random((40, 50)) < 0.3] = NODATA
    path = tmp_path_factory.mktemp("cube") / "cube.tif"
    with CogWriter(path, GRID, SPECTRAL, {"MS2HS_SOURCE": "sentinel2a"}) as writer:
        writer.write(0, dn)
    return path, np.where(dn == NODATA, np.nan, dn * np.float32(SCALE))


def test_open_cube_returns_what_was_written(written):
    path, expected = written
    cube = open_cube(path)
    assert cube.dims == ("band", "y", "x")
    assert cube.dtype == np.float32
    assert np.array_equal(cube.values, expected, equal_nan=True)
    assert list(cube.band.values) == list(NAMES)
    assert np.allclose(cube.wavelength_nm, SPECTRAL.wavelength_nm, atol=1e-3)
    assert np.allclose(cube.fwhm_nm, SPECTRAL.fwhm_nm, atol=1e-3)
    assert np.array_equal(cube.good, GOOD)
    assert cube.x[:2].values.tolist() == [500_015, 500_045]
    assert cube.y[:2].values.tolist() == [4_999_990, 4_999_970]
    assert cube.attrs["crs"] == "EPSG:32633"
    assert cube.attrs["transform"] == GRID.transform
    assert cube.attrs["MS2HS_SOURCE"] == "sentinel2a"


def part(size):
    whole = st.integers(-size, size - 1)
    # xarray fails on empty slices with a negative step
    slices = st.slices(size).filter(lambda part: len(range(size)[part]) > 0)
    return whole | slices | st.lists(whole, min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(band=part(BANDS), y=part(40), x=part(50))
def test_indexing_equals_indexing_the_whole_array(written, band, y, x):
    path, expected = written
    found = open_cube(path).isel(band=band, y=y, x=x).values
    whole = expected[band]
    whole = whole[..., y, :] if not isinstance(y, list) else np.take(whole, y, axis=-2)
    whole = whole[..., x] if not isinstance(x, list) else np.take(whole, x, axis=-1)
    assert np.array_equal(found, whole, equal_nan=True)


def test_open_cube_reads_pixels_on_access_only(written, monkeypatch):
    path, expected = written
    reads = []
    real = module._LazyReflectance._read

    def read(self, key):
        reads.append(key)
        return real(self, key)

    monkeypatch.setattr(module._LazyReflectance, "_read", read)
    cube = open_cube(path)
    spectrum = cube.sel(x=500_100, y=4_999_888, method="nearest")
    repr(cube.coords)
    assert not reads
    assert np.array_equal(spectrum.values, expected[:, 5, 3], equal_nan=True)
    assert reads == [(slice(None), 5, 3)]


def test_open_cube_can_be_pickled(written):
    path, expected = written
    cube = pickle.loads(pickle.dumps(open_cube(path)))  # noqa: S301  written by the test
    assert np.array_equal(cube[2].values, expected[2], equal_nan=True)


def envi(tmp_path, units, wavelength, fwhm):
    path = tmp_path / "cube.img"
    values = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5) / 100
    values.tofile(path)
    path.with_suffix(".hdr").write_text(
        "ENVI\nsamples = 5\nlines = 4\nbands = 3\nheader offset = 0\ndata type = 4\ninterleave = bsq\nbyte order = 0\n"
        f"wavelength units = {units}\nwavelength = {{{wavelength}}}\nfwhm = {{{fwhm}}}\nbbl = {{1, 0, 1}}\n"
        "map info = {UTM, 1, 1, 500000, 5000000, 30, 30, 33, North, WGS-84}\n"
    )
    return path, values


@pytest.mark.parametrize(
    ("units", "wavelength", "fwhm"),
    [("Nanometers", "500, 600, 700", "10, 11, 12"), ("Micrometers", "0.5, 0.6, 0.7", "0.010, 0.011, 0.012")],
)
def test_open_cube_reads_envi_files(tmp_path, units, wavelength, fwhm):
    path, values = envi(tmp_path, units, wavelength, fwhm)
    cube = open_cube(path)
    assert np.allclose(cube.wavelength_nm, [500, 600, 700])
    assert np.allclose(cube.fwhm_nm, [10, 11, 12])
    assert cube.good.values.tolist() == [True, False, True]
    assert np.array_equal(cube.values, values)


def test_open_cube_reads_wavelength_tags_and_unscaled_integers(tmp_path):
    path = tmp_path / "cube.tif"
    profile = {"driver": "GTiff", "count": 2, "height": 2, "width": 2, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=Affine(30, 0, 0, 0, -30, 0)) as file:
        file.write(np.full((2, 2, 2), 2500, np.int16))
        for band, centre in ((1, "0.65"), (2, "0.85")):
            file.update_tags(band, wavelength=centre, wavelength_units="Micrometers")
    cube = open_cube(path)
    assert np.allclose(cube.wavelength_nm, [650, 850])
    assert np.allclose(cube.values, 0.25)
    assert cube.good.all()


def test_open_cube_has_no_axes_for_a_rotated_grid(tmp_path):
    path, grid = tmp_path / "cube.tif", PixelGrid("EPSG:32633", (30.0, 5.0, 0.0, 5.0, -30.0, 0.0), 4, 4)
    with CogWriter(path, grid, SPECTRAL, {}) as writer:
        writer.write(0, np.zeros((BANDS, 4, 4), np.int16))
    cube = open_cube(path)
    assert "x" not in cube.coords
    assert cube.attrs["transform"] == grid.transform


def test_open_cube_refuses_other_files(tmp_path):
    text = tmp_path / "cube.tif"
    text.write_text("no raster")
    with pytest.raises(SceneError, match="not a raster"):
        open_cube(text)
    with pytest.raises(SceneError, match="no such file"):
        open_cube(tmp_path / "missing.tif")
    profile = {"driver": "GTiff", "count": 1, "height": 2, "width": 2, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(text, "w", **profile, transform=Affine(30, 0, 0, 0, -30, 0)) as file:
        file.write(np.zeros((1, 2, 2), np.int16))
    with pytest.raises(SceneError, match="without a wavelength"):
        open_cube(text)


def test_spectral_of_returns_the_written_enmap_grid(tmp_path):
    path, grid, spectral = (
        tmp_path / "cube.tif",
        PixelGrid("EPSG:32633", GRID.transform, 2, 2),
        load_sensor("enmap").grid,
    )
    with CogWriter(path, grid, spectral, {}) as writer:
        writer.write(0, np.zeros((len(spectral), 2, 2), np.int16))
    with rasterio.open(path) as file:
        found = spectral_of(file)
    assert found.names == spectral.names
    assert np.allclose(found.wavelength_nm, spectral.wavelength_nm, atol=1e-3)
    assert np.array_equal(found.good, spectral.good)
