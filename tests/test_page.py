"""The page of a cube as a file: the embedded numbers, thinning, other grids, references, and the command."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from conftest import write_raster
from cube_files import BANDS, NODATA, ROWS, make_cube, numbers_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

import ms2hs
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import DataError, OutputError, SceneError
from ms2hs.raster.dataset import open_dataset
from ms2hs.viewing import page
from ms2hs.viewing.cube_layers import open_layers
from ms2hs.viewing.scene_layer import SceneLayer


def meta_of(path):
    return json.loads(re.search(r'id="meta">(.*?)</script>', path.read_text("utf-8"))[1])


def decoded(text, coefficients, shape):
    """The inverse of the page's encoding, as the script of the page computes it."""
    cube = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i2").astype(np.int64).reshape(len(coefficients), -1)
    for band, of_band in enumerate(coefficients):
        predicted = sum((value * cube[band - 1 - j] for j, value in enumerate(of_band)), np.int64(32768)) // 65536
        cube[band] += predicted
        cube[band] = cube[band].astype(np.int16)
    return cube.reshape(shape)


def embedded(path, kind="reflectance", layer=0):
    """(band, row, col) numbers in a page."""
    meta = meta_of(path)
    text = re.search(rf'id="{kind}-{layer}">(.*?)</script>', path.read_text("utf-8"))[1]
    shape = [-(-meta[side] // meta["step"]) for side in ("height", "width")]
    coefficients = meta["layers"][layer]["coefficients"][kind]
    return decoded(text, coefficients, (len(coefficients), *shape))


@settings(max_examples=30)
@given(arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))))
def test_encoding_keeps_every_int16(cube):
    coefficients, text = page._encode(cube)
    np.testing.assert_array_equal(decoded(text, coefficients, cube.shape), cube)


def test_page_holds_the_numbers_of_the_file(tmp_path):
    cube = make_cube(tmp_path / "cube.tif")
    path = ms2hs.view(cube)
    assert path == tmp_path / "cube.html"
    np.testing.assert_array_equal(embedded(path), numbers_of(cube))
    np.testing.assert_array_equal(embedded(path, "sigma"), numbers_of(tmp_path / "cube_sigma.tif"))
    assert "https:" not in path.read_text("utf-8").replace("https://github.com/leeoniya/uPlot", "")
    with pytest.raises(OutputError, match="--overwrite"):
        ms2hs.view(cube)


@pytest.mark.parametrize("limit", ["MAX_VALUES", "MAX_PAGE_BYTES"])
def test_large_cube_is_thinned_with_a_word(tmp_path, monkeypatch, limit):
    cube = make_cube(tmp_path / "cube.tif")
    allowed = {"MAX_VALUES": BANDS * 200, "MAX_PAGE_BYTES": len(ms2hs.view(cube).read_bytes()) - 40_000}
    monkeypatch.setattr(page, limit, allowed[limit])
    notes = []
    path = ms2hs.view(cube, tmp_path / "thin.html", note=notes.append)
    step = meta_of(path)["step"]
    assert step == {"MAX_VALUES": 4, "MAX_PAGE_BYTES": 2}[limit]
    values = numbers_of(cube).astype(float)
    values[values == NODATA] = np.nan
    blocks = np.nanmean(values.reshape(BANDS, ROWS // step, step, -1, step), axis=(2, 4))
    assert np.abs(embedded(path) - blocks).max() <= 0.51
    assert f"{step} × {step} pixels" in meta_of(path)["notice"]
    assert notes == [meta_of(path)["notice"]]


def test_second_cube_is_read_at_the_nearest_pixels_of_the_first(tmp_path):
    first = make_cube(tmp_path / "first.tif", sigma=False)
    second = make_cube(tmp_path / "second.tif", 1, sigma=False, shape=(20, 24))
    with open_dataset(str(first)) as file:
        west, _, east, north = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        options = {"crs": file.crs, "transform": file.transform, "width": file.width, "height": file.height}
    with open_dataset(str(second)) as file:
        profile, tags = file.profile, [file.tags(band, ns="IMAGERY") for band in file.indexes]
        values = file.read()
    step = (east - west) / 30
    profile["crs"] = "EPSG:4326"
    profile["transform"] = Affine(step, 0, west + 3.3 * step, 0, -step, north + 2.4 * step) @ Affine.rotation(2)
    write_raster(second, values, band_tags={"IMAGERY": tags}, scale=1e-4, **profile)
    layer = open_layers([first, second])[1]
    read = layer.read("reflectance", range(BANDS), (0, 0, ROWS, options["width"]))
    with open_dataset(str(second)) as file, WarpedVRT(file, resampling=Resampling.nearest, **options) as warped:
        expected = warped.read()
    assert 0.2 < (expected != NODATA).mean() < 0.99
    assert (read != expected).mean() < 0.01  # pixels whose centres lie on an edge


@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".hdr"])
def test_layer_reads_every_format_alike(tmp_path, suffix):
    cube = make_cube(tmp_path / "cube.tif")
    copy = ms2hs.export(cube, tmp_path / f"copy{suffix}").output
    layers = open_layers([cube, copy])
    for window, shape in (((2, 3, 8, 12), None), ((0, 0, ROWS, 40), (ROWS // 4, 10))):
        first, second = (layer.read("reflectance", [3, 40], window, shape) for layer in layers)
        assert np.abs(first.astype(int) - second).max() <= (shape is not None)
    assert layers[1].support == layers[0].support


def test_page_of_a_cube_without_position_has_no_coordinates(tmp_path):
    cube = make_cube(tmp_path / "cube.tif", crs=None, transform=Affine(3, 0, 0, 0, -1, 0))
    meta = meta_of(ms2hs.view(cube))
    assert (meta["lonlat"], meta["pixel_m"], meta["aspect"]) == (None, None, 3)


def test_scene_is_a_layer_of_its_measured_values(s2_tif, tmp_path):
    converted = ms2hs.convert(s2_tif, output=tmp_path / "cube.tif", options=ConvertOptions(model="linear"))
    layers, _ = page.open_inputs(converted.output, [], s2_tif, print)
    assert isinstance(layers[1], SceneLayer)
    np.testing.assert_array_equal(layers[1].read("reflectance", range(12), (0, 0, 24, 30)), numbers_of(s2_tif))
    coarse = layers[1].read("reflectance", [3], (4, 6, 8, 10), (4, 5))
    blocks = numbers_of(s2_tif)[3, 4:12, 6:16].reshape(4, 2, 5, 2).mean(axis=(1, 3))
    assert np.abs(coarse[0] - blocks).max() <= 0.51


def test_cube_elsewhere_is_refused(tmp_path):
    first = make_cube(tmp_path / "first.tif", sigma=False)
    far = make_cube(tmp_path / "far.tif", sigma=False)
    with open_dataset(str(far)) as file:
        profile, values = file.profile, file.read()
        tags = [file.tags(band, ns="IMAGERY") for band in file.indexes]
    write_raster(far, values, band_tags={"IMAGERY": tags}, **profile | {"transform": Affine(10, 0, 0, 0, -10, 100)})
    with pytest.raises(SceneError, match="shows no place of"):
        ms2hs.view(first, tmp_path / "page.html", [far])


def test_references_have_known_values_in_ascending_order(tmp_path):
    (tmp_path / "one.csv").write_text("band,wavelength_nm,reflectance\nb,900,0.4\na,500,0.1\nc,950,\n")
    (tmp_path / "many.csv").write_text("id,lon,lat,900,500\nleaf,,,0.4,0.1\nsoil,,,0.3,\n")
    assert page.read_references(tmp_path / "one.csv") == [{"name": "one", "nm": [500, 900], "values": [0.1, 0.4]}]
    assert page.read_references(tmp_path / "many.csv") == [
        {"name": "leaf", "nm": [500, 900], "values": [0.1, 0.4]},
        {"name": "soil", "nm": [900], "values": [0.3]},
    ]
    (tmp_path / "points.csv").write_text("id,wavelength_nm,reflectance\na,500,0.1\nb,500,0.2\na,600,0.3\n")
    assert page.read_references(tmp_path / "points.csv") == [
        {"name": "a", "nm": [500, 600], "values": [0.1, 0.3]},
        {"name": "b", "nm": [500], "values": [0.2]},
    ]
    (tmp_path / "bad.csv").write_text("wavelength_nm,reflectance\n500,high\n")
    with pytest.raises(DataError, match=r"bad\.csv"):
        page.read_references(tmp_path / "bad.csv")


def test_view_command_prints_the_path(ms2hs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_cube(tmp_path / "cube.tif")
    assert ms2hs("view", "cube.tif", "-o", "page.html") == (0, "page.html\n", "")
    code, _, err = ms2hs("view", "cube.tif", "-o", "page.html")
    assert (code, "page.html exists" in err) == (1, True)
    code, _, err = ms2hs("view", "cube.tif", "--serve", "-o", "page.html")
    assert (code, "--serve writes no file" in err) == (2, True)
    code, _, err = ms2hs("view", "missing.tif")
    assert (code, "missing.tif: no such file" in err) == (1, True)


@pytest.mark.slow
def test_page_of_a_real_scene_of_250_pixels_takes_at_most_15_mb(tmp_path, real_data):
    scene = real_data / "sentinel2" / "aquileia_L2A_20190416.tif"
    options = ConvertOptions(model="linear", uncertainty=True, window=(200, 500, 250, 250))
    cube = ms2hs.convert(scene, output=tmp_path / "cube.tif", options=options).output
    path = ms2hs.view(cube)
    assert meta_of(path)["step"] == 1
    assert path.stat().st_size <= 15e6
    np.testing.assert_array_equal(embedded(path), numbers_of(cube))
