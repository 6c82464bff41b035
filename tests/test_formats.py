"""Formats of cubes: files of every format hold the same dataset, as the libraries of their users read it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from imagecodecs import png_decode
from rasterio.errors import NotGeoreferencedWarning
from spectral.io import envi as spy

import ms2hs
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import OutputError, SceneError
from ms2hs.raster.cog.encoding import BLOCK_SIZES, Encoding
from ms2hs.raster.cube import NODATA, SCALE, open_cube, pixel_grid_of, spectral_grid_of
from ms2hs.raster.cube_writer import cube_names, cube_path, sigma_name
from ms2hs.raster.formats import FORMATS, format_of
from ms2hs.raster.formats.strip_writer import disk_bytes
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.object_store import CUBE_SUFFIXES, RemotePath
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.viewing import format_export

BANDS = 18  # more than one chunk of bands
SPECTRAL = replace(
    grid_of(np.linspace(450.2345, 2200, BANDS), np.linspace(5.125, 12, BANDS)),
    good=np.arange(BANDS) != 3,
    support=("measured", "interpolated", "inferred") * 6,
)
TAGS = {"MS2HS_SYNTHETIC": "YES", "MS2HS_SCENE": "a {scene} = 1, β", "LINES": "7"}
UTM = PixelGrid("EPSG:32633", (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0), 140, 90)
WITHOUT_LEVELS = [".dat", ".zarr", ".nc"]
EVERY = [".tif", *WITHOUT_LEVELS]
SLOW_NETCDF = pytest.param(".nc", marks=pytest.mark.slow)
LINEAR = ConvertOptions(model="linear", uncertainty=True, window=(0, 0, 130, 150), wavelengths_nm=((450, 680),))


def cube_of(grid=UTM, seed=0):
    rng = np.random.default_rng(seed)
    cube = rng.integers(-300, 10_000, (BANDS, grid.height, grid.width)).astype(np.int16)
    cube[:, rng.random((grid.height, grid.width)) < 0.2] = NODATA
    cube[1, 2, 3] = NODATA
    return cube


def write(path, grid=UTM, cube=None, encoding=None):
    """Write a cube by both ways of the protocol: rows, then a row of blocks."""
    cube, encoding = cube_of(grid) if cube is None else cube, encoding or format_of(path).encoding(None, None)
    with format_of(path).writer(path, grid, SPECTRAL, TAGS, encoding=encoding) as writer:
        assert writer.kept_rows == 0
        for row in range(0, min(writer.block, grid.height), 37):
            writer.write(row, cube[:, row : min(row + 37, writer.block)])

        def fill(bands, cols, target):
            target[:] = cube[bands, writer.block :, cols]

        if grid.height > writer.block:
            writer.write_blocks(writer.block, grid.height - writer.block, fill)
        writer.wait()
        assert not path.exists()
        writer.finish()
        assert path.exists()
    assert {"model", "store", "finish"} <= writer.seconds.keys()
    return cube


def reflectance(cube):
    return np.where(cube == NODATA, np.float32(np.nan), cube * np.float32(SCALE))


@pytest.mark.parametrize("suffix", EVERY)
def test_every_format_holds_the_same_dataset(tmp_path, suffix):
    cube = write(tmp_path / f"cube{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(cube_names(tmp_path / f"cube{suffix}"))
    found = open_cube(tmp_path / f"cube{suffix}")
    assert np.array_equal(found.reflectance.values, reflectance(cube), equal_nan=True)
    bands = spectral_grid_of(found)
    assert (bands.names, bands.support) == (SPECTRAL.names, SPECTRAL.support)
    np.testing.assert_allclose(bands.wavelength_nm, SPECTRAL.wavelength_nm, rtol=1e-6)
    np.testing.assert_allclose(bands.fwhm_nm, SPECTRAL.fwhm_nm, rtol=1e-6)
    assert np.array_equal(bands.good, SPECTRAL.good)
    assert pixel_grid_of(found) == UTM
    assert found.attrs["MS2HS_SYNTHETIC"] == "YES"


@pytest.mark.parametrize("suffix", EVERY)
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", (0.001, 0.0, 10.0, 0.0, -0.001, 50.0)),
        ("EPSG:3035", (30.0, 0.0, 4_000_000.0, 0.0, -30.0, 3_000_000.0)),
        (None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
        ("EPSG:32733", (30.0, 5.0, 500_000.0, 5.0, -30.0, 5_000_000.0)),
    ],
    ids=["degrees", "metres", "none", "rotated"],
)
@pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")
def test_every_format_keeps_the_georeference(tmp_path, suffix, crs, transform):
    grid = PixelGrid(crs, transform, 3, 4)
    write(tmp_path / f"cube{suffix}", grid)
    found = pixel_grid_of(open_cube(tmp_path / f"cube{suffix}"))
    assert found.crs == crs
    np.testing.assert_allclose(found.transform, transform, atol=1e-6)


@pytest.mark.parametrize("suffix", WITHOUT_LEVELS)
def test_writer_leaves_no_file_after_an_error(tmp_path, suffix):
    cube = cube_of()

    def fail(row, values, error=None):
        with FORMATS[suffix].writer(tmp_path / f"cube{suffix}", UTM, SPECTRAL, {}) as writer:
            writer.write(row, values)
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        fail(0, cube[:, :50], KeyboardInterrupt)
    with pytest.raises(ValueError, match="50 of 140 rows"):
        fail(0, cube[:, :50])
    with pytest.raises(ValueError, match="row 0 is next"):
        fail(1, cube[:, :50])
    with pytest.raises(ValueError, match="int16"):
        fail(0, cube.astype(float))
    with pytest.raises(OutputError, match="there is no directory"):
        write(tmp_path / "no" / f"cube{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", WITHOUT_LEVELS)
def test_disk_bytes_bounds_the_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(-32767, 32767, (BANDS, 140, 90)).astype(np.int16)
    write(tmp_path / f"cube{suffix}", cube=noise)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert noise.nbytes < size <= disk_bytes(UTM, BANDS, tmp_path)


def test_spy_reads_envi_with_wavelengths_and_reflectance(tmp_path):
    cube = write(tmp_path / "cube.dat")
    image = spy.open(str(tmp_path / "cube.hdr"), str(tmp_path / "cube.dat"))
    try:
        assert image.shape == (140, 90, BANDS)
        np.testing.assert_allclose(image.bands.centers, SPECTRAL.wavelength_nm, atol=1e-3)
        np.testing.assert_allclose(image.bands.bandwidths, SPECTRAL.fwhm_nm, atol=1e-3)
        assert image.bands.band_unit == "Nanometers"
        assert image.scale_factor == 1 / SCALE
        for row, col in np.argwhere((cube != NODATA).all(axis=0))[::500]:
            np.testing.assert_allclose(image.read_pixel(row, col), cube[:, row, col] * SCALE, rtol=1e-6)
        facts = image.metadata
    finally:
        image.fid.close()
    assert [int(flag) for flag in facts["bbl"]] == SPECTRAL.good.astype(int).tolist()
    assert facts["data ignore value"] == "-32768"
    assert [int(band) for band in facts["default bands"]] == [3, 2, 1]
    assert facts["map info"][:7] == ["UTM", "1", "1", "500000", "5000000", "30", "30"]
    assert facts["ms2hs_scene"] == "a  scene    1, β"


@pytest.mark.parametrize("name", ["cube.dat", "cube.nc"])
def test_gdal_reads_numbers_position_and_scale(tmp_path, name):
    cube = write(tmp_path / name)
    with rasterio.open(tmp_path / name) as file:
        assert np.array_equal(file.read(), cube)
        assert (file.crs.to_epsg(), tuple(file.transform)[:6]) == (32633, UTM.transform)
        assert set(file.scales) == {SCALE}
        assert set(file.nodatavals) == {NODATA}


def test_zarr_store_is_sharded_and_follows_geozarr(tmp_path):
    cube = write(tmp_path / "cube.zarr")
    store = zarr.open_group(tmp_path / "cube.zarr", mode="r")
    numbers = store["reflectance"]
    assert (numbers.metadata.zarr_format, numbers.dtype, numbers.fill_value) == (3, np.int16, NODATA)
    assert (numbers.chunks, numbers.shards) == ((8, 128, 128), (24, 128, 1024))
    assert np.array_equal(numbers[...], cube)
    assert numbers.metadata.dimension_names == ("wavelength", "y", "x")
    assert {one["name"] for one in store.attrs["zarr_conventions"]} == {"proj", "spatial"}
    assert store.attrs["proj:code"] == "EPSG:32633"
    assert rasterio.CRS.from_wkt(store.attrs["proj:wkt2"]).to_epsg() == 32633
    assert store.attrs["spatial:transform"] == list(UTM.transform)
    assert store.attrs["spatial:shape"] == [140, 90]
    assert store.metadata.consolidated_metadata is not None


@pytest.mark.parametrize(("name", "engine"), [("cube.zarr", "zarr"), ("cube.nc", "h5netcdf")])
def test_xarray_decodes_coordinates_and_reflectance(tmp_path, name, engine):
    cube = write(tmp_path / name)
    with xr.open_dataset(tmp_path / name, engine=engine, decode_coords="all") as found:
        np.testing.assert_allclose(found.reflectance.values, reflectance(cube), rtol=1e-6)
        assert {"wavelength", "fwhm", "good", "band", "support", "x", "y", "spatial_ref"} <= set(found.coords)
        assert found.wavelength.attrs["standard_name"] == "radiation_wavelength"
        assert found.reflectance.sel(wavelength=2190, method="nearest").wavelength == 2200
        assert found.x.values[[0, -1]].tolist() == [500_015, 500_000 + 90 * 30 - 15]
        assert found.y.attrs["standard_name"] == "projection_y_coordinate"
        assert found.spatial_ref.attrs["grid_mapping_name"] == "transverse_mercator"
        assert found.attrs["Conventions"].startswith("CF-")


def test_netcdf_is_compressed_in_chunks(tmp_path):
    write(tmp_path / "cube.nc")
    with h5netcdf.File(tmp_path / "cube.nc") as file:
        numbers = file["reflectance"]
        assert (numbers.chunks, numbers.compression, numbers.shuffle) == ((8, 128, 90), "gzip", True)


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_block_size_is_the_side_of_a_chunk(tmp_path, suffix):
    cube = write(tmp_path / f"cube{suffix}", encoding=FORMATS[suffix].encoding("deflate", 64))
    found = open_cube(tmp_path / f"cube{suffix}")
    assert found.reflectance.encoding["preferred_chunks"] == {
        "wavelength": 8,
        "y": 64,
        "x": 64,
    }
    assert np.array_equal(found.reflectance.values, reflectance(cube), equal_nan=True)


def test_encoding_refuses_what_a_format_has_not():
    assert FORMATS[".tif"].encoding("deflate", 64) == Encoding(compression="deflate", block=64)
    with pytest.raises(OutputError, match="64, 128, 256 are allowed"):
        FORMATS[".tif"].encoding(None, 100)
    with pytest.raises(OutputError, match="deflate is allowed"):
        FORMATS[".nc"].encoding("zstd", None)
    with pytest.raises(OutputError, match="plain numbers"):
        FORMATS[".hdr"].encoding(None, 64)
    with pytest.raises(OutputError, match=r"\.zarr, \.dat"):
        format_of(Path("cube.png"))
    assert {one.encoding(None, None).block for one in FORMATS.values()} <= {*BLOCK_SIZES}


def test_names_of_a_cube_are_one_rule():
    assert set(CUBE_SUFFIXES) == set(FORMATS)
    assert cube_path(Path("a/x.hdr")) == Path("a/x.dat")
    assert cube_path(RemotePath("s3://b/x.HDR")) == "s3://b/x.dat"
    assert cube_names(Path("a/x.dat")) == ["x.dat", "x.hdr"]
    assert cube_names(RemotePath("s3://b/x.zarr")) == ["x.zarr"]
    assert sigma_name(Path("a/x.y.nc")) == "x.y_sigma.nc"


@pytest.fixture(scope="module")
def converted(scene_path, tmp_path_factory):
    """A cube with its uncertainty, as a COG."""
    return ms2hs.convert(scene_path, "enmap", tmp_path_factory.mktemp("out") / "cube.tif", LINEAR)


@pytest.mark.parametrize("suffix", [".zarr", ".hdr", ".nc"])
def test_convert_writes_every_format_with_its_files(converted, scene_path, tmp_path, suffix):
    result = ms2hs.convert(scene_path, "enmap", tmp_path / f"cube{suffix}", LINEAR)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in result.paths)
    assert {"cube.png", "cube.json", "cube.qml"} < set(names)
    found, expected = open_cube(result.output), open_cube(converted.output)
    for name in ("reflectance", "sigma"):
        assert np.array_equal(found[name].values, expected[name].values, equal_nan=True)
    assets = json.loads((tmp_path / "cube.json").read_text())["assets"]
    for asset in ("data", "sigma"):
        assert assets[asset]["type"] == FORMATS[suffix].media_type
        assert (tmp_path / assets[asset]["href"]).exists()
    hrefs = {(tmp_path / asset["href"]).name for asset in assets.values()}
    assert {name for name in names if not name.endswith(".json")} == hrefs
    picture, other = (png_decode(path.read_bytes()) for path in (tmp_path / "cube.png", converted.quicklook))
    assert np.abs(picture.astype(int) - other).max() <= 1


@pytest.mark.parametrize("suffix", [".zarr", ".dat", SLOW_NETCDF])
def test_convert_replaces_only_on_request(scene_path, tmp_path, suffix):
    path, options = tmp_path / f"cube{suffix}", ConvertOptions(model="linear", window=(0, 0, 20, 20))
    ms2hs.convert(scene_path, "enmap", path, options)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(OutputError, match="--overwrite"):
        ms2hs.convert(scene_path, "enmap", path, options)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    with pytest.raises(OutputError, match="--resume is allowed for a COG"):
        ms2hs.convert(scene_path, "enmap", path, replace(options, resume=True))
    names = sorted(file.name for file in tmp_path.iterdir())
    part = replace(options, overwrite=True, window=(0, 0, 10, 12))
    assert open_cube(ms2hs.convert(scene_path, "enmap", path, part).output).reflectance.shape == (202, 10, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_convert_replaces_no_folder_that_is_no_store(scene_path, tmp_path):
    (tmp_path / "cube.zarr").mkdir()
    (tmp_path / "cube.zarr" / "letter.txt").write_text("of the user")
    options = ConvertOptions(model="linear", overwrite=True)
    with pytest.raises(OutputError, match="is a directory"):
        ms2hs.convert(scene_path, "enmap", tmp_path / "cube.zarr", options)
    with pytest.raises(OutputError, match="several scenes need a directory"):
        ms2hs.convert_all([scene_path, scene_path], "enmap", tmp_path / "many.zarr", options)
    assert (tmp_path / "cube.zarr" / "letter.txt").exists()
    (tmp_path / "file.zarr").write_text("of the user")
    with pytest.raises(OutputError, match="is a file"):
        ms2hs.convert(scene_path, "enmap", tmp_path / "file.zarr", options)
    (tmp_path / "cube.hdr").write_text("of the user")
    with pytest.raises(OutputError, match=r"cube\.hdr exists"):
        ms2hs.convert(scene_path, "enmap", tmp_path / "cube.dat", ConvertOptions(model="linear"))


@pytest.mark.parametrize("suffix", [".zarr", ".dat", SLOW_NETCDF])
def test_convert_starts_over_after_a_kill(scene_path, tmp_path, suffix):
    """Files that a killed process left in its staging folder are known by their names, and removed."""
    options = ConvertOptions(model="linear", window=(0, 0, 9, 9))
    path = tmp_path / f"cube{suffix}"
    whole = ms2hs.convert(scene_path, "enmap", path, options)
    staging = tmp_path / f".cube{suffix}.part"
    staging.mkdir()
    (staging / "cube.blocks").mkdir()
    for file in whole.paths:
        target = staging / "cube.blocks" if file.name in cube_names(path) else staging
        file.rename(target / file.name)
    shutil.copytree(staging / "cube.blocks", staging, dirs_exist_ok=True)
    ms2hs.convert(scene_path, "enmap", path, options)
    assert not staging.exists()
    staging.mkdir()
    (staging / f"other{suffix}").mkdir()
    with pytest.raises(OutputError, match="which ms2hs did not write"):
        ms2hs.convert(scene_path, "enmap", path, replace(options, overwrite=True))


@pytest.mark.parametrize("suffix", [".zarr", ".hdr", ".tif", SLOW_NETCDF])
def test_export_equals_the_cube(converted, tmp_path, suffix):
    exported = ms2hs.export(converted.output, tmp_path / f"copy{suffix}")
    expected = open_cube(converted.output)
    assert sorted(path.name for path in exported.paths) == sorted(path.name for path in tmp_path.iterdir())
    back = ms2hs.export(exported.output, tmp_path / "back.tif", compress="deflate", blocksize=64)
    for path in (exported.output, back.output):
        found = open_cube(path)
        for name in ("reflectance", "sigma"):
            assert np.array_equal(found[name].values, expected[name].values, equal_nan=True)
        assert pixel_grid_of(found) == pixel_grid_of(expected)
        assert found.attrs.items() >= {key: text for key, text in expected.attrs.items() if text.isascii()}.items()
        assert np.array_equal(found.support, expected.support)
    assert back.clipped == 0


def test_export_replaces_no_input_and_no_file_without_request(converted, tmp_path):
    stores = [ms2hs.export(converted.output, tmp_path / f"a{suffix}").output for suffix in (".zarr", ".hdr")]
    for store in stores:
        with pytest.raises(OutputError, match="--overwrite"):
            ms2hs.export(converted.output, store)
        with pytest.raises(OutputError, match="is an input"):
            ms2hs.export(store, store, overwrite=True)
        assert ms2hs.export(converted.output, store, overwrite=True).output == store
    with pytest.raises(OutputError, match="is an input"):
        ms2hs.export(tmp_path / "a.dat", tmp_path / "a.hdr", overwrite=True)
    with pytest.raises(OutputError, match="local disk"):
        ms2hs.export(converted.output, "s3://bucket/a.zarr")
    with pytest.raises(SceneError):
        ms2hs.export(converted.quicklook, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_export_counts_values_that_do_not_fit(tmp_path):
    """Other scales become steps of 1e-4, and values beyond the range of int16 are counted."""
    values = np.linspace(-5, 5, BANDS * 6, dtype=np.float32).reshape(BANDS, 2, 3)
    profile = {"driver": "GTiff", "count": BANDS, "height": 2, "width": 3, "dtype": "float32", "nodata": np.nan}
    with rasterio.open(tmp_path / "a.tif", "w", **profile, crs=UTM.crs, transform=rasterio.Affine(*UTM.transform)) as a:
        a.write(values)
        for band, centre in enumerate(SPECTRAL.wavelength_nm, 1):
            a.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000}")
    exported = format_export.export(tmp_path / "a.tif", tmp_path / "a.zarr")
    beyond = np.abs(values) > 3.27675
    assert exported.clipped == beyond.sum() > 0
    found = open_cube(exported.output).reflectance.values
    np.testing.assert_allclose(found[~beyond], values[~beyond], atol=0.51 * SCALE)
