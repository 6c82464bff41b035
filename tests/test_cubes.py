"""Cubes of every format, from small files with the layout and the known traps of the real products."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from conftest import write_raster
from enmap_world import GAIN, OFFSET, enmap_metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from test_spectra_npz import write_cube

from ms2hs.datasets.cubes import emit
from ms2hs.datasets.cubes.emit import open_emit, orthorectify
from ms2hs.datasets.cubes.enmap import open_enmap
from ms2hs.datasets.cubes.npz import arrange
from ms2hs.datasets.cubes.plausibility import reflectance_of, usable_bands
from ms2hs.datasets.cubes.raster_cube import RasterCube
from ms2hs.datasets.cubes.registry import FORMATS, hold_out, open_cubes
from ms2hs.datasets.cubes.shards import decode, encode, write_shard
from ms2hs.datasets.cubes.spectra_npz import read_spectra
from ms2hs.errors import DataError, Ms2hsError, UnknownName
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of

ENMAP = load_sensor("enmap-224").grid
# The rule of HySpecNet-11k as its authors give it, 1-based: without 127-141 and 161-167.
KEPT = [band for band in range(1, 225) if not (127 <= band <= 141 or 161 <= band <= 167)]
TILE = "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001_V010110_20221118T145147Z"
PRODUCT = "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"
GRANULE = "001_20230530T092122_2315006_042"


def stored(bands, shape=(6, 5), seed=0):
    """(band, row, col) ten-thousandths that identify their band: 1000 + 10 band + noise below 10."""
    noise = np.random.default_rng(seed).integers(0, 10, (bands, *shape))
    return (1000 + 10 * np.arange(bands)[:, None, None] + noise).astype(np.int16)


def whole(cube):
    return cube.read(0, 0, *cube.shape)


FLAGS = ("QL_QUALITY_CLOUD", "QL_QUALITY_CLOUDSHADOW", "QL_QUALITY_CIRRUS", "QL_QUALITY_CLASSES", "QL_PIXELMASK")


def write_flags(folder, product, ending, bands, marks=(), names=FLAGS):
    """The flag layers of an EnMAP product of 6 x 5 pixels; `marks` are (layer, band, row, col, number)."""
    layers = {name: np.zeros((bands if name == "QL_PIXELMASK" else 1, 6, 5), np.uint8) for name in names}
    for name, *place, number in marks:
        layers.setdefault(name, np.zeros((1, 6, 5), np.uint8))[tuple(place)] = number
    for name, values in layers.items():
        write_raster(folder / f"{product}-{name}{ending}", values)


# HySpecNet-11k and SpectralEarth


def make_hyspecnet(folder, patches=("Y00010128_X00010128", "Y01380265_X04330560"), tiles=(TILE,)):
    lines = []
    for number, (tile, patch) in enumerate((tile, f"{tile}-{patch}") for tile in tiles for patch in patches):
        place = folder / "patches" / tile / patch
        write_raster(place / f"{patch}-SPECTRAL_IMAGE.TIF", stored(224, seed=number), nodata=-32768)
        write_flags(place, patch, ".TIF", 224)
        lines.append(f"{tile}/{patch}/{patch}-DATA.npy")
    for kind in ("easy", "hard"):
        for part, names in (("train", lines[:1]), ("val", lines[1:2]), ("test", lines[2:])):
            path = folder / "splits" / kind / f"{part}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names) + "\n")
    return folder


def test_hyspecnet_reads_the_202_documented_bands(tmp_path):
    folder = make_hyspecnet(tmp_path / "hyspecnet-11k")
    path = next(folder.rglob("*SPECTRAL_IMAGE.TIF"))
    dn = stored(224)
    dn[129:135] = -32768  # all that is empty in one real file; the rule drops 22
    dn[:, 0, 0] = -32768
    dn[5, 1, 1] = -32768
    write_raster(path, dn, nodata=-32768)
    cube = open_cubes(tmp_path)[0]  # the folder that holds it serves too
    values = whole(cube)
    assert values.shape == (202, 6, 5)
    expected = dn[[band - 1 for band in KEPT]] * np.float32(1e-4)
    expected[:, 0, 0] = expected[5, 1, 1] = np.nan
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_array_equal(cube.grid.wavelength_nm, ENMAP.wavelength_nm[[band - 1 for band in KEPT]])
    assert cube.scene == TILE


# Marks of each layer, and whether the pixel becomes unknown: in all bands, or in one.
MARKS = [
    ("QL_QUALITY_CLOUD", 0, 1, "all"), ("QL_QUALITY_CLOUD", 0, 255, "all"), ("QL_QUALITY_CLOUDSHADOW", 0, 1, "all"),
    ("QL_QUALITY_CIRRUS", 0, 1, "all"), ("QL_QUALITY_CIRRUS", 0, 2, "all"), ("QL_QUALITY_CIRRUS", 0, 3, "all"),
    ("QL_QUALITY_CLASSES", 0, 1, "none"), ("QL_QUALITY_CLASSES", 0, 2, "none"), ("QL_QUALITY_CLASSES", 0, 3, "all"),
    ("QL_QUALITY_SNOW", 0, 1, "none"), ("QL_QUALITY_HAZE", 0, 1, "none"), ("QL_QUALITY_TESTFLAGS", 0, 7, "none"),
    ("QL_PIXELMASK", 9, 1, "band"), ("QL_PIXELMASK", 9, 255, "band"), ("QL_PIXELMASK", 130, 1, "none"),
]  # fmt: skip


@pytest.mark.parametrize("ending", [".TIF", ".tif", "_COG.TIF"])
def test_hyspecnet_pixels_under_flags_are_unknown(tmp_path, ending):
    folder = make_hyspecnet(tmp_path)
    image = min(folder.rglob("*SPECTRAL_IMAGE.TIF"))
    for path in image.parent.glob("*-QL_*"):
        path.unlink()
    places = [(1 + i // 5, i % 5) for i in range(len(MARKS))]
    product = image.name.removesuffix("-SPECTRAL_IMAGE.TIF")
    marks = [(name, band, *at, number) for (name, band, number, _), at in zip(MARKS, places, strict=True)]
    write_flags(image.parent, product, ending, 224, marks)
    expected = stored(224)[[band - 1 for band in KEPT]] * np.float32(1e-4)
    for (_, band, _, hidden), (row, col) in zip(MARKS, places, strict=True):
        if hidden != "none":
            expected[slice(None) if hidden == "all" else band, row, col] = np.nan
    np.testing.assert_allclose(open_cubes(folder)[0].read(1, 0, 5, 4), expected[:, 1:, :4], rtol=1e-6)


def test_enmap_defects_are_unknown_in_their_bands(tmp_path):
    make_enmap(tmp_path)
    write_flags(tmp_path, PRODUCT, ".TIF", 14, [("QL_PIXELMASK", 4, 2, 3, 1), ("QL_QUALITY_CIRRUS", 0, 5, 4, 3)])
    unknown = np.isnan(whole(open_enmap(tmp_path)))
    unknown[:, 0, 0] = False  # nodata in the image
    # Of the 14 bands, 904 nm of VNIR and two without data or in water vapour are left out.
    assert [tuple(place) for place in np.argwhere(unknown) if place[1] == 2] == [(3, 2, 3)]
    assert unknown[:, 5, 4].all()
    assert unknown.sum() == 1 + 8
    # An average is unknown where one of its three bands is.
    averaged = np.isnan(whole(open_enmap(tmp_path, "average")))
    assert averaged[:, 2, 3].tolist() == [nm == 912 for nm in (800, 890, 902, 912, 921, 994, 1010, 2200)]


def test_open_cubes_notes_cubes_without_flags(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = make_hyspecnet(tmp_path)
    open_cubes(folder)
    assert not caplog.records
    for path in folder.rglob("*Y0138*-QL_QUALITY_C[IL]*"):
        path.unlink()
    open_cubes(folder)
    (record,) = caplog.records
    said = f"1 of 2 cubes lack flag layers, .*the first: {TILE}-Y01380265_X04330560 lacks QL_QUALITY_CLOUD, .*CLASSES"
    assert re.match(said, record.getMessage())


def test_flags_of_other_pixels_are_refused(tmp_path):
    folder = make_hyspecnet(tmp_path)
    (image, cloud, defects) = (min(folder.rglob(f"*{name}.TIF")) for name in ("_IMAGE", "_CLOUD", "_PIXELMASK"))
    write_raster(defects, np.zeros((2, 6, 5), np.uint8))
    with pytest.raises(DataError, match=rf"{defects.name}: 2 bands of \(6, 5\) pixels; 224 of \(6, 5\) are needed"):
        whole(open_cubes(folder)[0])
    write_raster(cloud, np.zeros((1, 6, 9), np.uint8))
    with pytest.raises(DataError, match=rf"{cloud.name}: 1 bands of \(6, 9\) pixels; .*as in {image.name}"):
        whole(open_cubes(folder)[0])
    cloud.write_bytes(b"II*")
    with pytest.raises(Ms2hsError, match=f"{cloud.name}: not a raster"):
        whole(open_cubes(folder)[0])


def test_enmap_grid_ascends_in_wavelength():
    """One public table is in detector order (993 nm before 902); another drops 0-based 145-151."""
    for name in ("enmap", "enmap-224"):
        assert (np.diff(load_sensor(name).grid.wavelength_nm) > 0).all()
    np.testing.assert_array_equal(np.flatnonzero(ENMAP.good) + 1, KEPT)
    np.testing.assert_array_equal(load_sensor("enmap").grid.wavelength_nm, ENMAP.wavelength_nm[ENMAP.good])
    dropped = ENMAP.wavelength_nm[~ENMAP.good]
    ends = [dropped[0], dropped[14], dropped[15], dropped[-1]]
    np.testing.assert_allclose(ends, [1295, 1519, 1739, 1968], atol=1)  # nm, as its authors give them


def test_hyspecnet_split_accepts_names_of_undistributed_arrays(tmp_path):
    folder = make_hyspecnet(tmp_path)
    assert len(open_cubes(folder)) == 2
    (train,) = open_cubes(folder, "easy/train")
    (val,) = open_cubes(folder, "hard/val")
    assert train.name == f"{TILE}-Y00010128_X00010128"
    assert val.name == f"{TILE}-Y01380265_X04330560"
    with pytest.raises(DataError, match=r"no split 'train'; known: easy/test, easy/train, .*hard/val"):
        open_cubes(folder, "train")


def test_hyspecnet_missing_patches_are_counted_in_one_error(tmp_path):
    folder = make_hyspecnet(tmp_path, tiles=(TILE, TILE.replace("_001_", "_002_")))
    listing = folder / "splits" / "easy" / "train.csv"
    listing.write_text("a/a-1/a-1-DATA.npy\na/a-2/a-2-DATA.npy\n" + listing.read_text())
    with pytest.raises(DataError, match=r"2 of 3 cubes in the split easy/train are missing \(the first: a-1\)"):
        open_cubes(folder, "easy/train")
    for path in list(folder.rglob("*X00010128-SPECTRAL_IMAGE.TIF")):
        path.unlink()
    with pytest.raises(DataError, match=r"2 of 4 patches have no SPECTRAL_IMAGE\.TIF"):
        open_cubes(folder)


def test_hyspecnet_refuses_a_patch_of_202_bands(tmp_path):
    folder = make_hyspecnet(tmp_path)
    write_raster(next(folder.rglob("*SPECTRAL_IMAGE.TIF")), stored(202))
    with pytest.raises(DataError, match="202 bands; 224 are needed"):
        whole(open_cubes(folder)[0])


def test_formats_are_not_recognised_by_folder_names_alone(tmp_path):
    for place in ("patches/site/a", "enmap/site"):
        write_raster(tmp_path / place / "a.tif", stored(2), band_tags=wavelength_tags([500, 600]))
    make_enmap(tmp_path / "enmap" / "product")
    (cube,) = open_cubes(tmp_path)
    assert cube.name == PRODUCT


def test_spectral_earth_scene_is_the_location(tmp_path):
    for location, scene in (("0000823", "04138"), ("0000823", "04139"), ("0000900", "04138")):
        write_raster(tmp_path / "enmap" / location / f"{scene}.tif", stored(202, seed=int(scene)))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.csv").write_text("enmap/0000823/04138.tif\n0000900/04138.tif\n")
    cubes = open_cubes(tmp_path)
    assert [cube.name for cube in cubes] == ["0000823/04138", "0000823/04139", "0000900/04138"]
    assert [cube.scene for cube in cubes] == ["0000823", "0000823", "0000900"]
    np.testing.assert_allclose(whole(cubes[0]), stored(202, seed=4138) * 1e-4, rtol=1e-6)
    assert [cube.name for cube in open_cubes(tmp_path, "train")] == ["0000823/04138", "0000900/04138"]
    # The lists in the repository of SpectralEarth: one path a line, without `enmap/`.
    (tmp_path / "splits" / "enmap_nlcd").mkdir()
    (tmp_path / "splits" / "enmap_nlcd" / "val.txt").write_text("0000823/04139.tif\n0000900/04138.tif")
    assert [cube.name for cube in open_cubes(tmp_path, "enmap_nlcd/val")] == ["0000823/04139", "0000900/04138"]
    with pytest.raises(DataError, match="no split 'val'; known: enmap_nlcd/val, train"):
        open_cubes(tmp_path, "val")


# EMIT


def make_emit(folder, flipped=False, build="010619", orientation="as seen on ground", rows=20, cols=70, flags=None):
    """A granule in the layout of the product, whose values identify the pixel: 0.1 + row / 1e3 + col / 1e5.

    The swath is turned by 30 degrees, so that the box of sensor pixels differs from the window.
    """
    bands = 30
    rng = np.random.default_rng(0)
    wavelength = np.linspace(410.0, 2493.0, bands).astype(np.float32)
    good = np.ones(bands, np.uint8)
    good[10:13] = 0
    row, col = np.indices((rows, cols))
    rfl = np.float32(0.1 + row / 1e3 + col / 1e5)[..., None] + np.float32(1e-6) * rng.random(bands, np.float32)
    rfl[..., 10:13] = -0.1
    rfl[3, 4 % cols] = -9999
    rfl[5, 6 % cols, 2] = -0.1
    step = 0.000542232520256367
    turn = np.deg2rad(30)
    lon = 13 + step * (np.cos(turn) * col + np.sin(turn) * row)
    lat = 52 - step * (-np.sin(turn) * col + np.cos(turn) * row)
    west, north = lon.min() - step, lat.max() + step
    height, width = int((north - lat.min()) / step) + 2, int((lon.max() - west) / step) + 2
    glt = np.zeros((2, height, width), np.int32)
    for y in range(height):
        for x in range(width):
            distance = (west + (x + 0.5) * step - lon) ** 2 + (north - (y + 0.5) * step - lat) ** 2
            if distance.min() < step**2 / 2:
                glt[:, y, x] = np.array(np.unravel_index(distance.argmin(), distance.shape)) + 1
    path = folder / f"EMIT_L2A_RFL_{GRANULE}.nc"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("reflectance", data=rfl, fillvalue=-9999.0)
        file["sensor_band_parameters/wavelengths"] = wavelength
        file["sensor_band_parameters/fwhm"] = np.full(bands, 8.5, np.float32)
        file["sensor_band_parameters/good_wavelengths"] = good
        file["location/lon"], file["location/lat"] = lon, lat
        file["location/glt_y"] = glt[0]
        file["location/glt_x"] = np.where(glt[1] > 0, cols + 1 - glt[1], 0) if flipped else glt[1]
        file.attrs["geotransform"] = np.array([west, step, -0.0, north, -0.0, -step])
        file.attrs["software_build_version"] = build
        if orientation:
            file.attrs["crosstrack_orientation"] = orientation
    if flags is not None:
        with h5py.File(folder / f"EMIT_L2A_MASK_{GRANULE}.nc", "w") as file:
            file["mask"] = flags.astype(np.float32)
            file["band_mask"] = np.zeros((rows, cols, 36), np.uint8)
    return path, rfl, glt


@pytest.fixture(scope="module")
def granule(tmp_path_factory):
    return make_emit(tmp_path_factory.mktemp("emit"))


def test_emit_reads_sensor_geometry(granule):
    path, rfl, _ = granule
    (cube,) = open_cubes(path.parent)
    good = np.r_[0:10, 13:30]
    values = whole(cube)
    expected = np.moveaxis(rfl[..., good], -1, 0).copy()
    expected[:, 3, 4] = expected[2, 5, 6] = np.nan  # the fill, and -0.1 in a band that is good elsewhere
    np.testing.assert_array_equal(values, expected)
    assert cube.shape == (20, 70)
    assert (cube.grid.fwhm_nm == 8.5).all()
    assert cube.name == cube.scene == GRANULE


@pytest.mark.parametrize(
    ("flipped", "build", "orientation"),
    [
        (False, "010619", "as seen on ground"),
        (True, "010613", None),
        (False, "010613", None),  # of that build, but its table is right: lon and lat decide
        (True, "010611", "as seen by fpa"),
    ],
)
def test_emit_orthorectifies_plain_and_mirrored_tables(tmp_path, granule, flipped, build, orientation):
    _, rfl, glt = granule
    path = make_emit(tmp_path, flipped, build, orientation)[0]
    cube = orthorectify(open_emit(path))
    assert cube.flipped is flipped
    assert cube.shape == glt.shape[1:]
    values = whole(cube)
    known = glt[0] > 0
    assert np.isnan(values[:, ~known]).all()
    expected = np.moveaxis(rfl[..., np.r_[0:10, 13:30]], -1, 0)[:, glt[0][known] - 1, glt[1][known] - 1]
    expected = np.where(expected < -0.05, np.nan, expected)
    np.testing.assert_array_equal(values[:, known], expected)
    # Position of the pixels: centres, half a pixel from the corner that the transform gives.
    with h5py.File(path) as file:
        lon, lat = file["location/lon"][10, 20], file["location/lat"][10, 20]
    a, _, c, _, e, f = cube.transform
    row, col = int((lat - f) / e), int((lon - c) / a)
    np.testing.assert_allclose(values[0, row, col], rfl[10, 20, 0], atol=1.1e-3)


def test_emit_ortho_read_is_repeatable(granule):
    """One tool subtracts 1 from the table in place, and so twice."""
    cube = orthorectify(open_emit(granule[0]))
    first = cube.read(5, 5, 20, 20)
    np.testing.assert_array_equal(first, cube.read(5, 5, 20, 20))


def test_emit_refuses_a_table_that_misses_lon_lat(tmp_path):
    path = make_emit(tmp_path)[0]
    with h5py.File(path, "r+") as file:
        file["location/lon"][...] += 1
    with pytest.raises(DataError, match="misses lon and lat by"):
        orthorectify(open_emit(path))
    assert open_emit(path).shape == (20, 70)


def test_emit_narrow_granule_follows_the_software_build(tmp_path):
    assert not orthorectify(open_emit(make_emit(tmp_path / "a", cols=3)[0])).flipped
    assert orthorectify(open_emit(make_emit(tmp_path / "b", cols=3, build="010613", orientation=None)[0])).flipped


@pytest.mark.parametrize(("layer", "unknown"), [(0, 1), (1, 1), (2, 0), (3, 1), (4, 1), (5, 0), (6, 0), (7, 0)])
def test_emit_mask_flags_make_pixels_unknown(tmp_path, layer, unknown):
    flags = np.zeros((20, 70, 8))
    flags[7, 8, layer] = 1
    cube = open_emit(make_emit(tmp_path, flags=flags)[0])
    values = cube.read(6, 7, 3, 3)
    assert np.isnan(values).all(axis=0).sum() == unknown
    assert np.isnan(values[:, 1, 1]).all() == bool(unknown)


def test_emit_granule_has_the_240_bands_of_the_table(tmp_path):
    full, path = load_sensor("emit-285").grid, tmp_path / f"EMIT_L2A_RFL_{GRANULE}.nc"
    with h5py.File(path, "w") as file:
        file["reflectance"] = np.linspace(0.1, 0.4, 285, dtype=np.float32) + np.zeros((2, 3, 1), np.float32)
        file["sensor_band_parameters/wavelengths"] = full.wavelength_nm
        file["sensor_band_parameters/fwhm"] = full.fwhm_nm
        file["sensor_band_parameters/good_wavelengths"] = full.good.astype(np.uint8)
        file["location/lon"] = np.zeros((2, 3))
    cube = open_emit(path)
    np.testing.assert_array_equal(cube.grid.wavelength_nm, load_sensor("emit").grid.wavelength_nm)
    position = np.searchsorted(full.wavelength_nm, cube.grid.wavelength_nm)
    np.testing.assert_allclose(whole(cube)[:, 1, 2], np.linspace(0.1, 0.4, 285)[position], rtol=1e-6)


def test_emit_takes_the_newest_flags_of_the_granule(tmp_path, caplog):
    """From version 2 on, flags are a product of their own, with a version of its own."""
    caplog.set_level("INFO")
    first = make_emit(tmp_path)[0]
    assert open_emit(first).flags is None
    open_cubes(tmp_path)
    assert "1 of 1 cubes lack flag layers" in caplog.text
    for version, time in (("001", "20230530T092122"), ("002", "20230530T092122"), ("003", "20230530T092133")):
        with h5py.File(tmp_path / f"EMIT_L2A_MASK_{version}_{time}_2315006_042.nc", "w") as file:
            file["mask"] = np.zeros((20, 70, 11), np.float32)
    assert open_emit(first).flags.name == "EMIT_L2A_MASK_002_20230530T092122_2315006_042.nc"


def test_emit_refuses_foreign_flags_and_damaged_granules(tmp_path):
    path = make_emit(tmp_path, flags=np.zeros((9, 9, 8)))[0]
    with pytest.raises(DataError, match="belongs to another granule"):
        open_emit(path)
    path.with_name(path.name.replace("_RFL_", "_MASK_")).unlink()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="not a whole EMIT L2A file"):
        open_cubes(tmp_path)


@pytest.fixture
def read(monkeypatch):
    """Number of values in each read of `reflectance`."""
    sizes = []
    original = h5py.Dataset.__getitem__

    def watched(self, key, *rest, **options):
        result = original(self, key, *rest, **options)
        if self.name == "/reflectance":
            sizes.append(result.size)
        return result

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    return sizes


def test_emit_reads_only_the_window(granule, read):
    open_emit(granule[0]).read(2, 3, 4, 5)
    assert read == [4 * 5 * 10, 4 * 5 * 17]  # the good bands, in two runs


def test_emit_orthorectifies_in_blocks_by_rows_of_the_sensor(granule, read, monkeypatch):
    cube = orthorectify(open_emit(granule[0]))
    at_once = whole(cube)
    monkeypatch.setattr(emit, "ORTHO_BLOCK", 8)
    read.clear()
    np.testing.assert_array_equal(whole(cube), at_once)
    # A row of the sensor crosses a turned square of 8 pixels in at most 8 / cos 30 = 9.2 pixels, plus rounding.
    assert max(read) <= 11 * 30


# EnMAP products

WAVELENGTH = np.array([800.0, 890, 902, 904, 912, 915, 921, 928, 993, 994, 1010, 1400, 1650, 2200])
# Of those, by channel from 1: the VNIR detector ends at 993 nm, the SWIR one begins at 902.
VNIR, SWIR = (1, 2, 4, 6, 8, 9), (3, 5, 7, 10, 11, 12, 13, 14)


def make_enmap(folder, suffix=".TIF", metadata="-METADATA.XML", image="-SPECTRAL_IMAGE", name=PRODUCT, empty=(13,)):
    text = enmap_metadata(WAVELENGTH, VNIR, SWIR, empty)
    dn = stored(len(WAVELENGTH))
    dn[12] = -32768
    dn[:, 0, 0] = -32768
    write_raster(folder / f"{name}{image}{suffix}", dn, nodata=-32768)
    (folder / f"{name}{metadata}").write_text(text)
    write_flags(folder, name, suffix, len(WAVELENGTH))
    return dn


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        # 1400 nm lies in water vapour, and the statistics say that 1650 nm holds nothing.
        ("swir", [800, 890, 902, 912, 921, 994, 1010, 2200]),
        ("vnir", [800, 890, 904, 915, 928, 993, 994, 1010, 2200]),
        ("keep", [800, 890, 902, 904, 912, 915, 921, 928, 993, 994, 1010, 2200]),
        ("average", [800, 890, 902, 912, 921, 994, 1010, 2200]),
    ],
)
def test_enmap_takes_bands_from_the_metadata(tmp_path, overlap, expected):
    dn = make_enmap(tmp_path)
    cube = open_enmap(tmp_path, overlap)
    np.testing.assert_array_equal(cube.grid.wavelength_nm, expected)
    at = [int(np.flatnonzero(expected_nm == WAVELENGTH)[0]) for expected_nm in expected]
    np.testing.assert_allclose(cube.grid.fwhm_nm, 6 + (np.array(at) + 1) / 10)
    values = whole(cube)
    assert np.isnan(values[:, 0, 0]).all()
    truth = dn[at] * GAIN + OFFSET
    if overlap == "average":
        every = {nm: dn[i] * GAIN + OFFSET for i, nm in enumerate(WAVELENGTH)}
        for nm, below, above in ((902, 890, 904), (912, 904, 915), (921, 915, 928)):
            line = every[below] + (nm - below) / (above - below) * (every[above] - every[below])
            truth[expected.index(nm)] = (every[nm] + line) / 2
    np.testing.assert_allclose(values[:, 1:], truth[:, 1:], rtol=1e-6)


def test_enmap_average_removes_the_detector_sawtooth(tmp_path):
    make_enmap(tmp_path)
    dn = np.repeat((2000 + 2 * WAVELENGTH)[:, None, None], 6, axis=1).repeat(5, axis=2)
    dn[[channel - 1 for channel in SWIR if WAVELENGTH[channel - 1] < 993]] += 100  # the detectors disagree
    write_raster(tmp_path / f"{PRODUCT}-SPECTRAL_IMAGE.TIF", dn.astype(np.int16), nodata=-32768)
    jumps = {}
    for overlap in ("keep", "average"):
        cube = open_enmap(tmp_path, overlap)
        off = whole(cube)[:, 2, 2] - ((2000 + 2 * cube.grid.wavelength_nm) * GAIN + OFFSET)
        jumps[overlap] = np.diff(off)[np.abs(np.diff(off)) > 1e-4]
    assert len(jumps["keep"]) == 6
    np.testing.assert_allclose(jumps["average"], [50 * GAIN, -50 * GAIN], atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "metadata", "image"),
    [(".tif", "-METADATA.xml", "-SPECTRAL_IMAGE"), (".TIF", "-METADATA.XML.XML", "-SPECTRAL_IMAGE_COG")],
)
def test_enmap_accepts_all_file_name_variants(tmp_path, suffix, metadata, image):
    make_enmap(tmp_path / PRODUCT, suffix, metadata, image)
    again = PRODUCT.replace("V010302_20230628T165614Z", "V010501_20250101T000000Z")
    make_enmap(tmp_path / "again", name=again)
    first, second = open_cubes(tmp_path)
    assert (first.name, second.name) == (PRODUCT, again)
    # The same tile, processed twice: no split may part it.
    assert first.scene == second.scene == "DT0000001867_20220724T104526Z_008"
    assert len(first.grid) == 8  # SWIR's alone in the overlap


def test_enmap_reports_damaged_products(tmp_path):
    make_enmap(tmp_path)
    with pytest.raises(UnknownName, match="unknown overlap 'both'; known: swir, vnir, keep, average"):
        open_enmap(tmp_path, "both")
    image = tmp_path / f"{PRODUCT}-SPECTRAL_IMAGE.TIF"
    write_raster(image, stored(9))
    with pytest.raises(DataError, match="9 bands; 14 are needed"):
        whole(open_enmap(tmp_path))
    image.unlink()
    with pytest.raises(DataError, match=r"no .*SPECTRAL_IMAGE\.TIF beside it"):
        open_cubes(tmp_path)
    metadata = tmp_path / f"{PRODUCT}-METADATA.XML"
    metadata.write_text(metadata.read_text().replace("<expectedChannelsList>3,", "<expectedChannelsList>99,"))
    with pytest.raises(DataError, match="swir channels 5-99 of 14"):
        open_enmap(metadata)
    metadata.write_text("<level_X>")
    with pytest.raises(DataError, match="cannot be read"):
        open_enmap(metadata)
    with pytest.raises(DataError, match="0 files of EnMAP L2A metadata"):
        open_enmap(image.parent.parent)


# GeoTIFF and ENVI


def make_envi(path, dn, **fields):
    write_raster(path, dn, driver="ENVI")
    header = path.with_suffix(".hdr")
    lines = [line for line in header.read_text().splitlines() if not line.startswith("band names")]
    header.write_text("\n".join(lines + [f"{key.replace('_', ' ')} = {value}" for key, value in fields.items()]) + "\n")


def test_envi_cube_follows_its_header(tmp_path):
    dn = stored(4)
    dn[1, 2, 3] = -9999
    make_envi(
        tmp_path / "flight" / "a.img", dn, wavelength_units="Micrometers", wavelength="{0.9, 0.5, 0.6, 0.7}",
        fwhm="{0.01, 0.02, 0.03, 0.04}", bbl="{1, 1.0, 0.0, 1}", reflectance_scale_factor="5000",
        data_ignore_value="-9999",
    )  # fmt: skip
    (tmp_path / "library.hdr").write_text("ENVI\nfile type = ENVI Spectral Library\n")
    (cube,) = open_cubes(tmp_path)
    np.testing.assert_allclose(cube.grid.wavelength_nm, [500, 700, 900])
    np.testing.assert_allclose(cube.grid.fwhm_nm, [20, 40, 10])
    expected = dn[[1, 3, 0]] / np.float32(5000)
    expected[0, 2, 3] = np.nan
    np.testing.assert_allclose(whole(cube), expected, rtol=1e-6)
    assert (cube.name, cube.scene) == ("flight/a", "flight")


def wavelength_tags(wavelengths, fwhm=10.0):
    return {"IMAGERY": [{"CENTRAL_WAVELENGTH_UM": str(nm / 1e3), "FWHM_UM": str(fwhm / 1e3)} for nm in wavelengths]}


def test_geotiff_bands_are_sorted_by_wavelength(tmp_path):
    dn = stored(3)
    path = write_raster(tmp_path / "a.tif", dn, band_tags=wavelength_tags([2200, 450, 850]), nodata=1010)
    scale, offset = np.array([1e-4, 2e-4, 3e-4]), np.array([0.1, 0.2, -0.1])
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = scale, offset
    write_raster(tmp_path / "dem.tif", stored(1))  # one band is no cube
    (cube,) = open_cubes(tmp_path)
    np.testing.assert_allclose(cube.grid.wavelength_nm, [450, 850, 2200])
    expected = np.where(dn == 1010, np.nan, dn * scale[:, None, None] + offset[:, None, None])[[1, 2, 0]]
    np.testing.assert_allclose(whole(cube), expected, rtol=1e-6)
    assert cube.scene == "a"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: None, r"is empty; known: shards .*HySpecNet.*EMIT.*Give another folder"),
        (lambda folder: (folder / "notes.txt").write_text("-"), "holds no cubes of a known format"),
        (
            lambda folder: [write_raster(folder / f"{n}.tif", stored(n)) for n in (202, 224)],
            r"rasters without wavelengths .*202\.tif",
        ),
        (
            lambda folder: [
                write_raster(folder / "a.tif", stored(202)),
                write_raster(folder / "b.tif", stored(2), band_tags=wavelength_tags([500, 600])),
            ],
            "1 of 2 rasters have no wavelengths, and 202 bands",
        ),
        (
            lambda folder: write_raster(
                folder / "a.tif", stored(2), tags={"MS2HS_SYNTHETIC": "YES"}, band_tags=wavelength_tags([500, 600])
            ),
            "output of a conversion, not a measurement",
        ),
        (
            lambda folder: write_raster(
                folder / "a.tif", stored(2).astype("float32"), band_tags=wavelength_tags([500, 600])
            ),
            "floats with 99th percentile",
        ),
        (
            lambda folder: write_raster(folder / "a.tif", stored(2), band_tags={"": [{"wavelength": "5"}] * 2}),
            "nm are needed",
        ),
        (
            lambda folder: write_raster(
                folder / "a.tif", stored(2).astype("uint8"), band_tags=wavelength_tags([500, 600])
            ),
            r"a\.tif: .*8-bit",
        ),
    ],
)
def test_open_cubes_reports_unusable_folders(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        open_cubes(tmp_path)


def test_open_cubes_lists_every_format(tmp_path):
    with pytest.raises(DataError) as raised:
        open_cubes(tmp_path, multispectral=True)
    assert [known for known in FORMATS if f"{known.name} ({known.layout})" not in str(raised.value)] == []


def test_open_cubes_reports_missing_folders_and_splits(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_cubes(tmp_path / "nowhere")
    write_raster(tmp_path / "a.tif", stored(2), band_tags=wavelength_tags([500, 600]))
    with pytest.raises(DataError, match=r"no split 'train'; known: none \(no splits/\*\.csv\)"):
        open_cubes(tmp_path, "train")


def test_raster_cube_reports_a_truncated_file(tmp_path):
    path = write_raster(tmp_path / "a.tif", stored(2, (300, 300)), band_tags=wavelength_tags([500, 600]))
    (cube,) = open_cubes(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Ms2hsError, match=r"a\.tif"):
        whole(cube)


# Archives


def test_npz_images_are_read_as_stored(tmp_path):
    wavelength = np.array([700.0, 500, 600, 1400])
    values = np.random.default_rng(0).uniform(0.1, 0.4, (4, 5, 4))
    good = np.array([True, True, True, False])
    write_cube(tmp_path / "a.npz", wavelength, values, good=good, fwhm_nm=np.array([7.0, 5, 6, 14]), place="berlin")
    np.savez(tmp_path / "library.npz", wavelength_nm=wavelength, reflectance=values[0])
    (cube,) = open_cubes(tmp_path)
    assert (cube.name, cube.scene, cube.shape) == ("a", "berlin", (4, 5))
    np.testing.assert_array_equal(cube.grid.fwhm_nm, [5, 6, 7])
    np.testing.assert_allclose(whole(cube), np.moveaxis(values[..., [1, 2, 0]], -1, 0), atol=1e-4)


def test_npz_plots_and_points_of_a_place_become_one_image(tmp_path):
    rng, wavelength = np.random.default_rng(0), np.array([500.0, 600, 700])
    for part in ("hyperspectral", "points"):
        (tmp_path / part).mkdir()
    plots = rng.uniform(0.1, 0.4, (5, 2, 3, 3))
    plots[1, 0, 0] = -3.2768  # nodata
    write_cube(tmp_path / "hyperspectral/plots.npz", wavelength, plots)
    points, places = rng.uniform(0.1, 0.4, (11, 3)), np.repeat(["a", "b"], [7, 4])
    write_cube(tmp_path / "points/crowns.npz", wavelength, points, place=places)
    first, second, image = open_cubes(tmp_path)
    assert [cube.name for cube in (first, second, image)] == ["crowns/a", "crowns/b", "plots"]
    assert [cube.scene for cube in (first, second, image)] == ["a", "b", "plots"]
    assert [cube.shape for cube in (first, second, image)] == [(3, 3), (2, 2), (6, 6)]
    for cube, expected in ((first, points[:7]), (second, points[7:]), (image, plots.reshape(-1, 3))):
        spectra = whole(cube).reshape(3, -1).T
        known = [np.unique(part[(part > 0).all(axis=1)].round(4), axis=0) for part in (spectra, expected)]
        np.testing.assert_allclose(*known, atol=1e-4)
    plots[1, 0, 0] = np.nan
    pixels = whole(image)  # each plot is whole
    places = [pixels[0, row : row + 2, col : col + 3] for row in (0, 2, 4) for col in (0, 3)]
    for plot in plots[..., 0]:
        assert any(np.allclose(plot, place, atol=1e-4, equal_nan=True) for place in places)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 9))
def test_arrangement_has_each_item_once(count, features, seed):
    order = arrange(np.random.default_rng(seed).uniform(0, 1, (count, features)))
    np.testing.assert_array_equal(np.sort(order[order >= 0]), np.arange(count))
    assert order.size < count + order.shape[0]


def test_arrangement_puts_like_items_beside_each_other():
    rows, cols = np.mgrid[:8, :8].reshape(2, -1)
    shuffled = np.random.default_rng(0).permutation(64)
    features = np.stack([10 * cols, rows, 0.01 * rows], axis=1)[shuffled].astype(float)
    values = features[arrange(features)]
    assert np.unique(np.abs(np.diff(values[..., 0], axis=1))).tolist() == [10]
    assert np.unique(np.abs(np.diff(values[..., 1], axis=0))).tolist() == [1]


def test_npz_cubes_equal_their_spectra_in_real_files(real_data):
    names = set()
    for cube in open_cubes(real_data):
        corpus = read_spectra(cube.path)
        np.testing.assert_array_equal(cube.grid.wavelength_nm, corpus.wavelength_nm)
        top, left = cube.shape[0] // 3, cube.shape[1] // 2
        found = cube.read(top, left, cube.shape[0] - top, 1)[:, :, 0].T
        index = cube.layout[top:, left]
        np.testing.assert_array_equal(found[index >= 0], corpus.reflectance[index[index >= 0]])
        assert (cube.grid.fwhm_nm < 30).all()
        names.add(cube.path.name)
    assert names == {path.name for part in ("hyperspectral", "points") for path in (real_data / part).glob("*.npz")}


# Shards


def make_shard(path, windows=3):
    grid = grid_of(np.array([450.0, 650.0, 2200.0]), np.array([5.0, 6.0, 9.0]))
    dn = [stored(3, (4, 5), seed) for seed in range(windows)]
    dn[0][:, 1, 1] = -32768
    write_shard(path, dn, grid, [(f"cube{i}@0,0", f"scene{i // 2}") for i in range(windows)], "made up")
    return dn


def test_shards_return_the_packed_windows(tmp_path):
    dn = make_shard(tmp_path / "shard-00000.safetensors")
    cubes = open_cubes(tmp_path)
    assert [cube.scene for cube in cubes] == ["scene0", "scene0", "scene1"]
    np.testing.assert_array_equal(cubes[0].grid.fwhm_nm, [5, 6, 9])
    for cube, packed in zip(cubes, dn, strict=True):
        np.testing.assert_array_equal(encode(whole(cube)), packed)
    assert np.isnan(whole(cubes[0])[:, 1, 1]).all()


@given(st.lists(st.floats(-3, 3, width=32) | st.just(np.nan), min_size=1, max_size=20))
def test_shard_encoding_is_exact_to_half_a_step(values):
    values = np.array(values, np.float32)
    np.testing.assert_allclose(decode(encode(values)), values, atol=5.1e-5)


def test_shards_report_damaged_files(tmp_path):
    path = tmp_path / "shard-00000.safetensors"
    make_shard(path)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    def write(**changes):
        text = json.dumps({"__metadata__": header["__metadata__"] | changes, "dn": header["dn"]}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[-3 * 3 * 4 * 5 * 2 :])

    broken = {
        "truncated": lambda: path.write_bytes(content[:-10]),
        "damaged": lambda: path.write_bytes(b"x" * 100),
        "format '2'": lambda: write(format="2"),
        "must agree": lambda: write(wavelength_nm="[1, 2]"),
        r"not a whole shard": lambda: write(scenes="[1, "),
    }
    for said, damage in broken.items():
        damage()
        with pytest.raises(DataError, match=rf"shard-00000\.safetensors: .*{said}"):
            open_cubes(tmp_path)


# All formats


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory, granule):
    folder = tmp_path_factory.mktemp("layouts")
    make_hyspecnet(folder / "hyspecnet")
    make_enmap(folder / "enmap_product")
    write_raster(folder / "tiffs" / "a.tif", stored(3), band_tags=wavelength_tags([450, 650, 2200]))
    (folder / "archives").mkdir()
    write_cube(
        folder / "archives" / "a.npz", np.array([450.0, 650, 2200]), np.linspace(0.1, 0.5, 180).reshape(2, 6, 5, 3)
    )
    (folder / "shards").mkdir()
    make_shard(folder / "shards" / "shard-00000.safetensors")
    cubes = [open_cubes(path)[0] for path in sorted(folder.iterdir())]
    return [
        *cubes,
        open_emit(granule[0]),
        orthorectify(open_emit(granule[0])),
        open_enmap(folder / "enmap_product", "average"),
    ]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_read_of_a_window_equals_the_crop_of_a_full_read(one_of_each, data):
    cube = data.draw(st.sampled_from(one_of_each))
    rows, cols = cube.shape
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    height, width = data.draw(st.integers(1, rows - row)), data.draw(st.integers(1, cols - col))
    values = cube.read(row, col, height, width)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, whole(cube)[:, row : row + height, col : col + width])


def test_cubes_pickle_ascend_and_refuse_windows_outside(one_of_each):
    for cube in one_of_each:
        again = pickle.loads(pickle.dumps(cube))  # noqa: S301 - our own
        np.testing.assert_array_equal(whole(again), whole(cube))
        assert len(whole(cube)) == len(cube.grid)
        assert (np.diff(cube.grid.wavelength_nm) > 0).all()
        rows, cols = cube.shape
        for window in ((0, 0, rows + 1, 1), (0, -1, 1, 1), (rows, 0, 1, 1), (0, 0, 0, 1), (0, 0, 1, cols + 1)):
            with pytest.raises(ValueError, match="does not lie inside"):
                cube.read(*window)


def test_shards_open_without_rasterio_and_h5py(tmp_path):
    make_shard(tmp_path / "shard-00000.safetensors")
    code = (
        "import sys; from pathlib import Path; sys.modules['rasterio'] = sys.modules['h5py'] = None\n"
        "from ms2hs.datasets.cubes.registry import open_cubes\n"
        f"print(open_cubes(Path({str(tmp_path)!r}))[0].read(0, 0, 4, 5).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(3, 4, 5)"


@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_hold_out_keeps_scenes_on_one_side(scenes, share, seed, random):
    cubes = [RasterCube(f"{s}/{n}", f"s{s}", Path(), ENMAP, None) for s in range(scenes) for n in range(1 + s % 3)]
    kept, held = hold_out(cubes, share, seed)
    assert {cube.scene for cube in kept}.isdisjoint(cube.scene for cube in held)
    assert {*kept, *held} == set(cubes)
    assert kept
    assert abs(len({cube.scene for cube in held}) - share * scenes) <= 1
    random.shuffle(cubes)
    assert {cube.name for cube in hold_out(cubes, share, seed)[1]} == {cube.name for cube in held}


def test_hold_out_refuses_a_single_scene(one_of_each):
    with pytest.raises(DataError, match="at least 2 scenes"):
        hold_out(one_of_each[:1], 0.2, 0)
    assert hold_out(one_of_each[:1], 0, 0) == (one_of_each[:1], [])
    with pytest.raises(ValueError, match="not in"):
        hold_out(one_of_each, 1.0, 0)


def test_usable_bands_fills_unknown_widths_with_the_median_step():
    centre = np.concatenate([np.arange(400.0, 450, 5), [445.2], np.arange(600.0, 650, 10)])
    grid, order = usable_bands("x", centre, good=centre != 410)
    assert (np.diff(centre[order]) > 0).all()
    assert grid.fwhm_nm[grid.wavelength_nm < 500].max() <= 10
    assert grid.fwhm_nm[grid.wavelength_nm > 500].max() <= 10
    assert grid.fwhm_nm.min() > 2
    with pytest.raises(DataError, match="nm are needed"):
        usable_bands("x", np.array([0.4, 0.5]))
    with pytest.raises(DataError, match="at least 2 good bands"):
        usable_bands("x", centre, good=np.zeros(len(centre), bool))


def test_reflectance_of_makes_fill_and_implausible_values_unknown():
    dn = np.array([[[1000, 0, -600, 5, 1]], [[1100, 0, 900, 20000, 2]], [[1200, 0, 900, 30, -9]]], np.int16)
    values = reflectance_of(dn, 1e-4, nodata=-9)
    assert np.isnan(values[:, 0]).tolist() == [
        [False, True, True, False, False],
        [False, True, False, True, False],
        [False, True, False, False, True],
    ]
