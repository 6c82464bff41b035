"""`ms2hs spectrum`: the printed values are the file's, for locations, pixels and files of points."""

import csv
import json

import numpy as np
import pytest
from conftest import write_raster

from ms2hs.errors import DataError
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE, sigma_beside
from ms2hs.raster.pixel_grid import PixelGrid, position
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.viewing import locations, spectrum_at, spectrum_plot
from ms2hs.viewing.locations import read_points

GRID = PixelGrid("EPSG:32633", (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0), 30, 40)
NM = np.array([490.0, 560.0, 665.0, 1240.0, 2200.0])
BANDS = SpectralGrid(tuple("abcde"), NM, np.full(5, 10.0), np.array([True, True, True, True, False]))
ROW, COL = 12, 34


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """A cube, its reflectance and its uncertainty; the first pixel is invalid."""
    path = tmp_path_factory.mktemp("spectrum") / "cube.tif"
    dn = np.random.default_rng(0).integers(100, 5000, (2, 5, 30, 40)).astype(np.int16)
    dn[:, :, 0, 0] = NODATA
    for target, values in zip((path, sigma_beside(path)), dn, strict=True):
        with CogWriter(target, GRID, BANDS, {"MS2HS_SOURCE": "sentinel2a"}) as writer:
            writer.write(0, values)
    return path, *(dn * SCALE)


def lonlat(row, col):
    a, _, c, _, e, f = GRID.transform
    return position(GRID.crs, c + a * (col + 0.5), f + e * (row + 0.5))


def check_rows(rows, reflectance, sigma):
    assert [float(row["wavelength_nm"]) for row in rows] == NM.tolist()
    assert [float(row["fwhm_nm"]) for row in rows] == [10.0] * 5
    np.testing.assert_allclose([float(row["reflectance"]) for row in rows], reflectance, atol=1e-7)
    np.testing.assert_allclose([float(row["sigma"]) for row in rows], sigma, atol=1e-7)
    assert [row["support"] for row in rows] == ["measured"] * 3 + ["inferred", "measured"]


def test_spectrum_prints_the_values_of_the_pixel(cube, ms2hs):
    path, reflectance, sigma = cube
    lon, lat = lonlat(ROW, COL)
    code, out, err = ms2hs("spectrum", path, "--at", f"{lon:.7f},{lat:.7f}")
    assert (code, err) == (0, "")
    assert out.startswith("wavelength_nm,fwhm_nm,reflectance,sigma,support,good\n")
    rows = list(csv.DictReader(out.splitlines()))
    check_rows(rows, reflectance[:, ROW, COL], sigma[:, ROW, COL])
    assert [row["good"] for row in rows] == ["true"] * 4 + ["false"]
    assert ms2hs("spectrum", path, "--row-col", f"{ROW},{COL}")[1] == out


def test_several_points_have_an_id_and_failures_do_not_stop_the_others(cube, ms2hs, tmp_path):
    path, reflectance, sigma = cube
    places = {"a": (29, 39), "b,c": (5, 7), "cloud": (0, 0)}
    lines = [f'"{name}",{lonlat(*at)[0]},{lonlat(*at)[1]}' for name, at in places.items()]
    (tmp_path / "points.csv").write_text("\n".join(["\ufeffID, Lon,lat", *lines, ",0,0"]), encoding="utf-8")
    code, out, err = ms2hs("spectrum", path, "--points", tmp_path / "points.csv", "--row-col", "3,4")
    assert code == 5
    assert "left out: cloud: the pixel at row 0, column 0 is invalid" in err
    assert "left out: 4: longitude 0, latitude 0 is outside the cube" in err
    assert "2 of 5 locations have no spectrum" in err
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["id"] for row in rows[::5]] == ["a", "b,c", "3,4"]
    for number, (row, col) in enumerate([(29, 39), (5, 7), (3, 4)]):
        check_rows(rows[5 * number : 5 * number + 5], reflectance[:, row, col], sigma[:, row, col])
    found = json.loads(ms2hs("spectrum", path, "--points", tmp_path / "points.csv", "--json")[1])
    assert [(one["id"], one["row"], one["col"]) for one in found] == [("a", 29, 39), ("b,c", 5, 7)]
    check_rows(found[1]["bands"], reflectance[:, 5, 7], sigma[:, 5, 7])
    assert found[0]["bands"][4]["good"] is False


def test_spectrum_without_uncertainty_leaves_its_column_empty(ms2hs, tmp_path):
    path = tmp_path / "bare.tif"
    with CogWriter(path, GRID, BANDS, {}) as writer:
        writer.write(0, np.full((5, 30, 40), 1000, np.int16))
    code, out, err = ms2hs("spectrum", path, "--row-col", "1,1")
    assert code == 0
    assert "note:" in err
    assert "--uncertainty" in err
    assert out.splitlines()[1] == "490.0,10.0,0.1,,,true"


@pytest.mark.parametrize(
    ("words", "code", "messages"),
    [
        (["--at", "0,0"], 1, ["outside the cube", "west,south,east,north", "Choose a location"]),
        (["--row-col", "0,0"], 1, ["is invalid", "a valid pixel is needed", "Choose another"]),
        (["--row-col", "30,0"], 1, ["outside the cube", "rows 0 to 29", "Choose a pixel"]),
        (["--row-col", "1.5,0"], 2, ["whole numbers"]),
        (["--at", "0,91"], 2, ["-90 to 90"]),
        (["--at", "north"], 2, ["LON,LAT"]),
        ([], 2, ["no location", "--row-col"]),
        (["--points", "missing.csv"], 1, ["no such file"]),
        (["--row-col", "1,1", "--plot", "a.pdf"], 2, ["is no PNG"]),
        (["--row-col", "0,0", "--row-col", "0,-1"], 3, ["none of 2 locations"]),
    ],
)
def test_locations_without_a_spectrum_give_one_message(cube, ms2hs, words, code, messages):
    found, out, err = ms2hs("spectrum", cube[0], *words)
    assert (found, out) == (code, "")
    for message in messages:
        assert message in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "message"),
    [("id,x,y\n1,2,3\n", "lon and lat"), ("lon,lat\n1,2\n1,x\n", "line 3"), ("lon,lat\n", "0 points"), ("", "lon")],
)
def test_files_of_points_are_checked(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_points(tmp_path / "points.csv")


def test_points_of_vector_files_are_read_in_degrees(tmp_path, monkeypatch):
    write = pytest.importorskip("pyogrio.raw").write
    shapes = np.array([np.array([1], "u1").tobytes() + np.array([1], "<u4").tobytes() + np.array(xy, "<f8").tobytes()
                       for xy in ((500_015.0, 4_999_985.0), (501_000.0, 4_999_100.0))], object)  # fmt: skip
    names = np.array(["plot 1", None], object)
    write(tmp_path / "p.gpkg", shapes, [names], ["Name"], geometry_type="Point", crs=GRID.crs)
    points = read_points(tmp_path / "p.gpkg")
    assert [point.id for point in points] == ["plot 1", "2"]
    np.testing.assert_allclose(points[0][1:], lonlat(0, 0), atol=1e-9)
    monkeypatch.setattr(locations, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"not installed.*pip install 'ms2hs\[vector\]'"):
        read_points(tmp_path / "p.gpkg")


def test_points_are_read_block_by_block(tmp_path, monkeypatch):
    path = tmp_path / "wide.tif"
    tags = {"IMAGERY": [{"CENTRAL_WAVELENGTH_UM": "0.5"}]}
    write_raster(path, np.arange(600, dtype=np.float32).reshape(1, 2, 300), band_tags=tags)
    from ms2hs.raster.cube import _LazyReflectance, open_cube

    reads, real = [], _LazyReflectance._read
    monkeypatch.setattr(_LazyReflectance, "_read", lambda self, key: reads.append(key) or real(self, key))
    pixels = [locations.Pixel(str(col), row, col) for row, col in ((0, 3), (1, 299), (1, 2), (0, 3))]
    spectra, _ = spectrum_at.read_spectra(open_cube(path), pixels)
    assert len(reads) == 2
    assert spectra.reflectance.values[:, 0].tolist() == [3.0, 599.0, 302.0, 3.0]


def test_plot_is_a_picture_and_replaces_nothing(cube, ms2hs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    words = ("spectrum", cube[0], "--row-col", "3,4", "--row-col", "5,6", "--plot", plot)
    assert ms2hs(*words)[0] == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, _, err = ms2hs(*words)
    assert code == 1
    assert "--overwrite" in err
    monkeypatch.setattr(spectrum_plot, "find_spec", lambda _: None)
    code, _, err = ms2hs(*words[:-1], tmp_path / "b.png")
    assert code == 1
    assert "pip install 'ms2hs[report]'" in err
