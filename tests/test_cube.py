"""open_cube: a lazy dataset with wavelengths, of our COGs and of ENVI, Zarr and NetCDF files."""

import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from ms2hs.errors import GridError, SceneError
from ms2hs.raster import cube as module
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE, open_cube, pixel_grid_of, sigma_beside, spectral_of
from ms2hs.raster.pixel_grid import PixelGrid, position
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
    assert cube.reflectance.dims == ("wavelength", "y", "x")
    assert cube.reflectance.dtype == np.float32
    assert np.array_equal(cube.reflectance.values, expected, equal_nan=True)
    assert list(cube.band.values) == list(NAMES)
    assert np.allclose(cube.wavelength, SPECTRAL.wavelength_nm, atol=1e-3)
    assert np.allclose(cube.fwhm, SPECTRAL.fwhm_nm, atol=1e-3)
    assert np.array_equal(cube.good, GOOD)
    assert cube.x[:2].values.tolist() == [500_015, 500_045]
    assert cube.y[:2].values.tolist() == [4_999_990, 4_999_970]
    assert pixel_grid_of(cube) == GRID
    assert cube.attrs["MS2HS_SOURCE"] == "sentinel2a"


def part(size):
    whole = st.integers(-size, size - 1)
    # xarray fails on empty slices with a negative step
    slices = st.slices(size).filter(lambda part: len(range(size)[part]) > 0)
    return whole | slices | st.lists(whole, min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(band=part(BANDS), y=part(40), x=part(50))
def test_indexing_equals_indexing_the_whole_array(written, band, y, x):
    path, expected = written
    found = open_cube(path).reflectance.isel(wavelength=band, y=y, x=x).values
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
    spectrum = cube.reflectance.sel(x=500_100, y=4_999_888, method="nearest")
    assert repr(cube)
    assert cube._repr_html_()
    assert not reads
    assert np.array_equal(spectrum.values, expected[:, 5, 3], equal_nan=True)
    assert reads == [(slice(None), 5, 3)]


def test_open_cube_can_be_pickled(written):
    path, expected = written
    cube = pickle.loads(pickle.dumps(open_cube(path)))  # noqa: S301  written by the test
    assert np.array_equal(cube.reflectance[2].values, expected[2], equal_nan=True)


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
    assert np.allclose(cube.wavelength, [500, 600, 700])
    assert np.allclose(cube.fwhm, [10, 11, 12])
    assert cube.good.values.tolist() == [True, False, True]
    assert np.array_equal(cube.reflectance.values, values)


def test_open_cube_reads_wavelength_tags_and_unscaled_integers(tmp_path):
    path = tmp_path / "cube.tif"
    profile = {"driver": "GTiff", "count": 2, "height": 2, "width": 2, "dtype": "int16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=Affine(30, 0, 0, 0, -30, 0)) as file:
        file.write(np.full((2, 2, 2), 2500, np.int16))
        for band, centre in ((1, "0.65"), (2, "0.85")):
            file.update_tags(band, wavelength=centre, wavelength_units="Micrometers")
    cube = open_cube(path)
    assert np.allclose(cube.wavelength, [650, 850])
    assert np.allclose(cube.reflectance.values, 0.25)
    assert cube.good.all()


def test_open_cube_has_no_axes_for_a_rotated_grid(tmp_path):
    path, grid = tmp_path / "cube.tif", PixelGrid("EPSG:32633", (30.0, 5.0, 0.0, 5.0, -30.0, 0.0), 4, 4)
    with CogWriter(path, grid, SPECTRAL, {}) as writer:
        writer.write(0, np.zeros((BANDS, 4, 4), np.int16))
    cube = open_cube(path)
    assert "x" not in cube.coords
    assert pixel_grid_of(cube) == grid


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


@pytest.fixture(scope="module")
def with_sigma(tmp_path_factory):
    """A cube of Sentinel-2 bands and its uncertainty."""
    folder = tmp_path_factory.mktemp("sigma")
    dn = np.random.default_rng(1).integers(0, 5000, (2, 3, 4, 5)).astype(np.int16)
    dn[:, :, 1, 2] = NODATA
    spectral = SpectralGrid(
        ("B1", "B2", "B3"), np.array([665.0, 560.0, 490.0]), np.array([9.0, 8.0, 7.0]), np.array([True, False, True])
    )
    for name, values in zip(("a", "a_sigma"), dn, strict=True):
        with CogWriter(
            folder / f"{name}.tif", PixelGrid(GRID.crs, GRID.transform, 4, 5), spectral, {"MS2HS_SOURCE": "sentinel2a"}
        ) as writer:
            writer.write(0, values)
    return folder / "a.tif", np.where(dn == NODATA, np.nan, dn * np.float32(SCALE))


def test_open_cube_joins_the_uncertainty_beside_the_cube(with_sigma):
    path, (reflectance, sigma) = with_sigma
    cube = open_cube(path)
    assert np.array_equal(cube.reflectance.values, reflectance, equal_nan=True)
    assert np.array_equal(cube.sigma.values, sigma, equal_nan=True)
    assert cube.support.values.tolist() == ["measured"] * 3
    assert set(open_cube(sigma_beside(path))) == {"reflectance"}


def test_open_cube_refuses_an_uncertainty_of_another_size(with_sigma, tmp_path):
    path, _ = with_sigma
    (tmp_path / "a.tif").write_bytes(path.read_bytes())
    with CogWriter(tmp_path / "a_sigma.tif", GRID, SPECTRAL, {}) as writer:
        writer.write(0, np.zeros((BANDS, 40, 50), np.int16))
    with pytest.raises(GridError, match="--uncertainty"):
        open_cube(tmp_path / "a.tif")


def test_open_cube_reads_the_support_of_tags_and_nothing_else(tmp_path):
    path = tmp_path / "cube.tif"
    for tags, expected in ((("measured", "inferred"), ["measured", "inferred"]), (("measured", "<b>"), None)):
        profile = {"driver": "GTiff", "count": 2, "height": 2, "width": 2, "dtype": "int16", "crs": "EPSG:32633"}
        with rasterio.open(path, "w", **profile, transform=Affine(30, 0, 0, 0, -30, 0)) as file:
            for band, how in enumerate(tags, 1):
                file.update_tags(band, wavelength=str(500 + band), ms2hs_support=how)
        cube = open_cube(path)
        assert ("support" in cube.coords) == (expected is not None)
        assert expected is None or cube.support.values.tolist() == expected


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_open_cube_reads_what_it_returned_from_zarr_and_netcdf(with_sigma, tmp_path, suffix):
    path, (reflectance, sigma) = with_sigma
    cube = open_cube(path)
    encoding = {"dtype": "int16", "scale_factor": SCALE, "_FillValue": NODATA}
    stored = tmp_path / f"b{suffix}"
    for target, values in ((stored, cube.reflectance), (sigma_beside(stored), cube.sigma)):
        dataset = values.to_dataset().load()
        if suffix == ".nc":
            dataset.to_netcdf(target, engine="h5netcdf", encoding={values.name: encoding})
        else:
            dataset.to_zarr(target, zarr_format=3, encoding={values.name: encoding}, consolidated=False)
    found = open_cube(stored)
    assert found.reflectance.dtype == np.float32
    assert np.array_equal(found.reflectance.values, reflectance, equal_nan=True)
    assert np.array_equal(found.sigma.values, sigma, equal_nan=True)
    assert pixel_grid_of(found) == pixel_grid_of(cube)
    for name in ("wavelength", "fwhm", "band", "good", "support", "x", "y"):
        assert found[name].values.tolist() == cube[name].values.tolist(), name


def test_open_cube_returns_dask_chunks_on_request(with_sigma):
    path, (reflectance, _) = with_sigma
    cube = open_cube(path, chunks={"y": 2, "x": 2})
    assert cube.reflectance.chunks == ((3,), (2, 2), (2, 2, 1))
    assert np.array_equal(cube.reflectance.compute(), reflectance, equal_nan=True)


def test_accessor_returns_a_picture_and_spectra(with_sigma):
    path, (reflectance, sigma) = with_sigma
    cube = open_cube(path)
    picture = cube.ms2hs.rgb()
    assert picture.dims == ("y", "x", "rgb")
    assert np.isnan(picture[1, 2]).all()
    assert (float(picture.min()), float(picture.max())) == (0, 1)
    order = np.argsort(reflectance[:, 0, 0])
    assert np.all(np.diff(picture[0, 0].values[order]) >= 0)
    assert cube.ms2hs.rgb(side=2).sizes == {"y": 2, "x": 2, "rgb": 3}
    lon, lat = position(GRID.crs, float(cube.x[3]), float(cube.y[2]))
    spectrum = cube.ms2hs.spectrum(lon, lat)
    assert np.array_equal(spectrum.reflectance, reflectance[:, 2, 3])
    assert np.array_equal(spectrum.sigma, sigma[:, 2, 3])
    with pytest.raises(SceneError, match="outside"):
        cube.ms2hs.spectrum(0, 0)
    with pytest.raises(SceneError, match="no band within"):
        cube.ms2hs.rgb((2200, 1600, 800))
