"""What `import ms2hs` offers."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ms2hs

API_PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_public_name_exists_and_is_documented():
    for name in ms2hs.__all__:
        assert getattr(ms2hs, name).__doc__, name
        assert f"`{name}" in API_PAGE, f"docs/api.md does not name {name}"
    assert dir(ms2hs) == ms2hs.__all__


def test_the_api_page_names_only_public_names():
    assert set(re.findall(r"(?<!\.)\bms2hs\.(\w+)", API_PAGE)) <= {*ms2hs.__all__, "__version__"}


def test_the_verbs_are_public():
    verbs = (
        "convert fetch search pair prepare pretrain finetune evaluate open_cube spectrum open_scene load_sensor plan"
    )
    verbs += " index convert_all write_report ConvertOptions ConversionResult InputError Executor Ms2hsError"
    assert set(verbs.split()) <= set(ms2hs.__all__)


def test_every_error_is_public():
    from ms2hs import errors

    found = [name for name, one in vars(errors).items() if inspect.isclass(one) and one.__module__ == errors.__name__]
    assert set(found) <= set(ms2hs.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'konvert'"):
        _ = ms2hs.konvert


@pytest.mark.parametrize("statement", ["import ms2hs", "import ms2hs.cli"])
def test_importing_loads_nothing_heavy(statement):
    heavy = "{'torch', 'rasterio', 'xarray', 'pystac_client', 'numpy'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_old_names_work_with_a_warning():
    with pytest.warns(DeprecationWarning, match="use ms2hs.ConvertOptions"):
        assert ms2hs.Choices is ms2hs.ConvertOptions
    from ms2hs import cluster

    with pytest.warns(DeprecationWarning, match="use ms2hs.Executor"):
        assert cluster.Crew is ms2hs.Executor
    with pytest.warns(DeprecationWarning, match="use ms2hs.convert_all"):
        assert cluster.convert_all is ms2hs.convert_all
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = cluster.other


def test_old_parameters_work_with_a_warning(scene_path, tmp_path):
    options = ms2hs.ConvertOptions(model="linear", window=(0, 0, 64, 64))
    with pytest.warns(DeprecationWarning, match="use options"):
        result = ms2hs.convert(scene_path, output=tmp_path / "cube.tif", choices=options)
    assert result.output == tmp_path / "cube.tif"


def test_a_spectrum_is_that_of_the_pixel_at_the_location(scene_path, tmp_path):
    options = ms2hs.ConvertOptions(model="linear", window=(0, 0, 64, 64))
    result = ms2hs.convert(scene_path, output=tmp_path / "cube.tif", options=options)
    cube = ms2hs.open_cube(result.output)
    row, col = 20, 30
    from rasterio.warp import transform

    x, y = float(cube.x[col]), float(cube.y[row])
    (lon,), (lat,) = transform(cube.spatial_ref.attrs["crs_wkt"], "EPSG:4326", [x], [y])
    found = ms2hs.spectrum(result.output, lon, lat)
    np.testing.assert_array_equal(found.reflectance.values, cube.reflectance.values[:, row, col])
    assert found.wavelength.size == 202
    with pytest.raises(ms2hs.SceneError, match="outside"):
        ms2hs.spectrum(result.output, 0.0, 0.0)


def test_convert_all_converts_and_names_what_failed(scene_path, tmp_path):
    options = ms2hs.ConvertOptions(model="linear", window=(0, 0, 64, 64))
    batch = ms2hs.convert_all([scene_path, tmp_path / "missing.tif"], folder=tmp_path / "out", options=options)
    assert list(batch.failed) == [str(tmp_path / "missing.tif")]
    assert len(list((tmp_path / "out").glob("*_enmap.tif"))) == 1


def test_evaluate_takes_one_source_of_pairs():
    with pytest.raises(ValueError, match="either pairs or corpus"):
        ms2hs.evaluate(["linear"])
