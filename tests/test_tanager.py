"""tanager: products in Planet's layout, read by window from paths and files, against the arrays they were made from."""

import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tanager_world import CORNER, FWHM, GSD_M, KEPT, SCENE, WAVELENGTH, make_tanager, truth

from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.cubes.tanager import GriddedTanager, open_tanager
from ms2hs.errors import DataError

NAME = f"{SCENE}_ortho_sr_hdf5"
FIELDS = "HDFEOS/GRIDS/HYP/Data Fields"


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    path = tmp_path_factory.mktemp("tanager") / f"{NAME}.h5"
    return path, truth(*make_tanager(path))


@given(st.integers(0, 59), st.integers(0, 79), st.integers(1, 60), st.integers(1, 80))
def test_tanager_reads_any_window(product, row, col, height, width):
    path, expected = product
    height, width = min(height, 60 - row), min(width, 80 - col)
    values = open_tanager(path).read(row, col, height, width)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected[:, row : row + height, col : col + width])


def test_tanager_takes_bands_and_grid_from_the_file(product):
    cube = pickle.loads(pickle.dumps(open_tanager(product[0])))  # noqa: S301 - its own bytes
    assert isinstance(cube, GriddedTanager)
    assert (cube.name, cube.scene, cube.shape, cube.block_shape) == (NAME, SCENE, (60, 80), (16, 20))
    assert cube.crs == "EPSG:32639"
    assert cube.transform == (GSD_M, 0.0, CORNER[0], 0.0, -GSD_M, CORNER[1])
    np.testing.assert_allclose(cube.grid.wavelength_nm, WAVELENGTH[KEPT], rtol=1e-6)
    np.testing.assert_allclose(cube.grid.fwhm_nm, FWHM[KEPT], rtol=1e-6)
    with pytest.raises(ValueError, match="does not lie inside"):
        cube.read(0, 70, 1, 11)


def test_tanager_reads_an_open_file(product):
    path, expected = product
    with path.open("rb") as file:
        cube = open_tanager(file)
        assert cube.name == NAME
        np.testing.assert_array_equal(cube.read(0, 0, 60, 80), expected)


@pytest.mark.parametrize(("zone", "epsg", "crs"), [(39, None, "EPSG:32639"), (-34, None, "EPSG:32734")])
def test_tanager_zone_of_the_structure_counts_without_epsg_code(tmp_path, zone, epsg, crs):
    make_tanager(tmp_path / "a.h5", zone=zone, epsg=epsg)
    assert open_tanager(tmp_path / "a.h5").crs == crs


def test_tanager_without_chunks_is_read(tmp_path):
    values = truth(*make_tanager(tmp_path / "a.h5", layout="SWATHS", chunks=None))
    cube = open_tanager(tmp_path / "a.h5")
    np.testing.assert_array_equal(cube.read(5, 6, 30, 40), values[:, 5:35, 6:46])


def test_ranges_are_the_chunks_of_a_window(product):
    """A file in which all other bytes are destroyed gives the same window."""
    path, expected = product
    cube = open_tanager(path)
    window = (17, 21, 10, 30)
    content = bytearray(path.read_bytes())
    kept = {(begin, size) for begin, size in cube.ranges(*window)}
    for begin, size in set(cube.ranges(0, 0, 60, 80)) - kept:
        content[begin : begin + size] = bytes(size)
    damaged = path.with_name("damaged.h5")
    damaged.write_bytes(content)
    row, col, height, width = window
    np.testing.assert_array_equal(
        open_tanager(damaged).read(*window), expected[:, row : row + height, col : col + width]
    )
    with pytest.raises(DataError, match="not a whole Tanager surface reflectance file"):
        open_tanager(damaged).read(0, 0, 60, 80)


def test_registry_and_pairs_find_tanager_products(tmp_path):
    values = truth(*make_tanager(tmp_path / f"{NAME}.h5"))
    make_tanager(tmp_path / f"{SCENE}_basic_sr_hdf5.h5", layout="SWATHS")
    cubes = open_cubes(tmp_path)
    assert [cube.name for cube in cubes] == [f"{SCENE}_basic_sr_hdf5", NAME]
    assert {cube.scene for cube in cubes} == {SCENE}
    left_out = {}
    (found,) = find_cubes([tmp_path], left_out)
    assert (found.pixel_grid.crs, str(found.day)) == ("EPSG:32639", "2025-05-11")
    np.testing.assert_array_equal(found.read(0, 0, 60, 80), values)
    assert "Tanager ortho product" in left_out[f"{SCENE}_basic_sr_hdf5"]


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def external(file):
    del file[f"{FIELDS}/surface_reflectance"]
    file[f"{FIELDS}/surface_reflectance"] = h5py.ExternalLink("/etc/passwd", "/x")


def structure(text):
    def change(file):
        del file["HDFEOS INFORMATION/StructMetadata.0"]
        file["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_(text)

    return change


def smaller_flags(file):
    del file[f"{FIELDS}/beta_cloud_mask"]
    file[f"{FIELDS}/beta_cloud_mask"] = np.zeros((5, 5))


def attribute(name, value):
    return lambda file: file[f"{FIELDS}/surface_reflectance"].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.move(f"{FIELDS}/surface_reflectance", f"{FIELDS}/toa_radiance"), "no surface_reflectance"),
        (external, "no surface_reflectance"),
        (lambda file: file.__delitem__(f"{FIELDS}/beta_cirrus_mask"), "beta_cirrus_mask"),
        (smaller_flags, r"flags of shape \(5, 5\), \(60, 80\)"),
        (attribute("wavelengths", np.arange(5.0)), "5 wavelengths"),
        (attribute("wavelengths", WAVELENGTH / 1000), "different values in nm"),
        (attribute("good_wavelengths", np.zeros(9)), "0 are good"),
        (attribute("fwhm", "wide"), "not a whole Tanager"),
        (lambda file: file[f"{FIELDS}/surface_reflectance"].attrs.__delitem__("fwhm"), "fwhm"),
        (structure("GROUP=GridStructure"), "pixels of nan x nan m"),
        (structure("UpperLeftPointMtrs=(0,60)\nLowerRightMtrs=(80,0)"), None),
        (structure("UpperLeftPointMtrs=(0,0)\nLowerRightMtrs=(80,60)"), "pixels of 1 x -1 m"),
        (structure("UpperLeftPointMtrs=(-.-,0)\nLowerRightMtrs=(80,60)"), "not a whole Tanager"),
        (lambda file: file["HDFEOS/GRIDS/HYP"].attrs.__setitem__("epsg_code", 4326), "EPSG code 4326"),
        (lambda file: file["HDFEOS/GRIDS/HYP"].attrs.__setitem__("epsg_code", "north"), "not a whole Tanager"),
    ],
)
def test_tanager_reports_damaged_products(tmp_path, change, expected):
    path = tmp_path / f"{NAME}.h5"
    make_tanager(path)
    edit(path, change)
    if expected is None:
        assert open_tanager(path).transform == (1.0, 0.0, 0.0, 0.0, -1.0, 60.0)
        return
    with pytest.raises(DataError, match=expected) as error:
        open_tanager(path)
    assert str(path) in str(error.value)


def test_tanager_reports_truncated_and_foreign_files(tmp_path):
    path = tmp_path / f"{NAME}.h5"
    make_tanager(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"<html>", content[:600]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"not a whole Tanager|Install"):
            open_tanager(path)
