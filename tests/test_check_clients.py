"""docs/check_clients.py compares what a client reads with the file, and reports what it does not read."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor

SCRIPT = Path(__file__).parent.parent / "docs" / "check_clients.py"


@pytest.fixture(scope="module")
def clients():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case(clients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    bands = load_sensor("enmap").grid
    grid = PixelGrid("EPSG:32633", (30.0, 0.0, 390_000.0, 0.0, -30.0, 5_820_000.0), 8, 9)
    with CogWriter(folder / "cube.tif", grid, replace(bands, support=("inferred",) * len(bands)), {}) as writer:
        writer.write(0, np.arange(len(bands) * 72, dtype=np.int16).reshape(-1, 8, 9))
    return clients.read_case(folder, "")


def test_client_that_reads_the_file_works(clients, case):
    row = clients.run_here("rasterio", clients.check_rasterio, case)
    assert (row["works"], row["says"]) == ("yes", "spectrum, wavelengths, support of bands (202 of 202 inferred)")


@pytest.mark.parametrize(
    ("part", "says"), [("stored", "the spectrum differs by"), ("wavelength_nm", "the wavelengths")]
)
def test_client_that_reads_other_numbers_does_not_work(clients, case, part, says):
    values = getattr(case, part)
    row = clients.run_here("rasterio", clients.check_rasterio, replace(case, **{part: [values[0] + 1, *values[1:]]}))
    assert row["works"] == "no"
    assert says in row["says"]


def test_client_or_file_that_does_not_exist_is_not_tried(clients, case):
    rows = [clients.run_here(name, clients.PYTHON_CLIENTS[name], case) for name in ("EnMAP-Box", "zarr-python")]
    assert [(row["works"], row["says"]) for row in rows] == [
        ("not tried", "not installed"),
        ("not tried", "not given: cube.zarr"),
    ]
