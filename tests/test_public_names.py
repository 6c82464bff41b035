"""What `import ms2hs` offers."""

import subprocess
import sys

import pytest

import ms2hs


def test_every_public_name_is_there_and_documented():
    for name in ms2hs.__all__:
        assert getattr(ms2hs, name).__doc__
    assert dir(ms2hs) == ms2hs.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'konvert'"):
        _ = ms2hs.konvert


@pytest.mark.parametrize("statement", ["import ms2hs", "import ms2hs.cli"])
def test_importing_loads_nothing_heavy(statement):
    heavy = "{'torch', 'rasterio', 'xarray', 'pystac_client', 'numpy'}"
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
