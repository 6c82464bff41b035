"""CogWriter: files are valid COGs with the written numbers, and interrupted writers resume."""

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from cog_rules import broken_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rio_cogeo import cog_validate
from test_overviews import naive_half

from ms2hs import files
from ms2hs.errors import OutputError
from ms2hs.files import check_output, check_space
from ms2hs.raster.cog import block_store, encoding, writer
from ms2hs.raster.cog.block_compressor import memory_bytes
from ms2hs.raster.cog.block_store import BlockStore, disk_bytes
from ms2hs.raster.cog.encoding import BLOCK_SIZES, Encoding, quantise
from ms2hs.raster.cog.overviews import Levels
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of

SPECTRAL = grid_of(np.array([470.0, 550.0, 650.0, 850.0, 1650.0, 2200.0]), np.full(6, 10.0))
TAGS = {"MS2HS_SYNTHETIC": "YES", "MS2HS_SOURCE": "sentinel2a"}


def utm(height, width):
    return PixelGrid("EPSG:32633", (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0), height, width)


def overview_factors(height, width):
    return [2**level for level in range(1, Levels(height, width).count)]


def cube_of(grid, bands, seed=0):
    rng = np.random.default_rng(seed)
    cube = rng.integers(0, 10_000, (bands, grid.height, grid.width)).astype(np.int16)
    cube[:, rng.random((grid.height, grid.width)) < 0.2] = NODATA
    return cube


def write(path, grid, cube, spectral=SPECTRAL, rows=37):
    with CogWriter(path, grid, spectral, TAGS) as writer:
        for row in range(0, grid.height, rows):
            writer.write(row, cube[:, row : row + rows])


@given(
    hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-10, 10, width=32) | st.just(np.nan)),
    hnp.arrays(bool, (3, 4)),
)
def test_quantise_rounds_to_the_nearest_number_and_marks_invalid_pixels(reflectance, valid):
    dn = quantise(reflectance, valid)
    expected_valid = valid & ~np.isnan(reflectance)
    assert dn.dtype == np.int16
    assert (dn[~expected_valid] == NODATA).all()
    expected = np.clip(reflectance[expected_valid].astype(float), -3.2767, 3.2767)
    # half a step, and the float32 spacing of 0.002 steps at 32767
    assert np.abs(dn[expected_valid] / 1e4 - expected).max(initial=0) <= 0.502 * SCALE
    out = np.empty_like(dn)
    assert quantise(reflectance, valid, out) is out
    assert np.array_equal(out, dn)


@pytest.mark.parametrize("shape", [(24, 42), (1, 1), (256, 255), (300, 700), (600, 520)])
def test_writer_produces_a_valid_cog_with_the_written_numbers(tmp_path, shape):
    grid, path = utm(*shape), tmp_path / "cube.tif"
    cube = cube_of(grid, len(SPECTRAL))
    write(path, grid, cube)
    assert cog_validate(path, strict=True) == (True, [], [])
    assert [p.name for p in tmp_path.iterdir()] == ["cube.tif"]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), cube)
        assert file.crs.to_epsg() == 32633
        assert tuple(file.transform)[:6] == grid.transform
        assert set(file.nodatavals) == {NODATA}
        assert set(file.scales) == {SCALE}
        assert set(file.offsets) == {0.0}
        assert set(file.units) == {"1"}
        assert set(file.dtypes) == {"int16"}
        assert file.overviews(1) == overview_factors(*shape)
        assert file.profile["compress"] == "zstd"
        assert file.profile["interleave"] == "band"
        assert set(file.block_shapes) == {(256, 256)}
        assert file.tags().items() >= TAGS.items()


def test_blocks_and_strips_give_the_same_file(tmp_path):
    grid = utm(300, 530)
    cube = cube_of(grid, 6)
    write(tmp_path / "strips.tif", grid, cube)
    with CogWriter(tmp_path / "blocks.tif", grid, SPECTRAL, TAGS) as writer:
        for row in (0, 256):
            for col in (0, 256, 512):
                writer.write_block(row, col, cube[:, row : row + 256, col : col + 256])
    assert (tmp_path / "blocks.tif").read_bytes() == (tmp_path / "strips.tif").read_bytes()
    with pytest.raises(ValueError, match="column 0"), CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}) as writer:
        writer.write_block(0, 256, cube[:, :256, 256:512])


def test_writer_tags_every_band_with_its_wavelength(tmp_path):
    grid, path, spectral = utm(20, 20), tmp_path / "cube.tif", load_sensor("enmap").grid
    write(path, grid, cube_of(grid, len(spectral)), spectral)
    with rasterio.open(path) as file:
        assert file.descriptions[0] == f"{spectral.names[0]} {spectral.wavelength_nm[0]:.1f} nm"
        for band, centre, width in zip(file.indexes, spectral.wavelength_nm, spectral.fwhm_nm, strict=True):
            tags = file.tags(band, ns="IMAGERY")
            assert float(tags["CENTRAL_WAVELENGTH_UM"]) * 1000 == pytest.approx(centre, abs=1e-3)
            assert float(tags["FWHM_UM"]) * 1000 == pytest.approx(width, abs=1e-3)


def default_tags(copy):
    """Wavelength and FWHM in nm, and support, of each band by its tags in the default domain."""
    with rasterio.open(copy) as file:
        tags = [file.tags(band) for band in file.indexes]
    assert {one["wavelength_units"] for one in tags} == {"Nanometers"}
    return [(float(one["wavelength"]), float(one["fwhm"]), one["ms2hs_support"]) for one in tags]


def warped(source, copy):
    with rasterio.open(source) as file, WarpedVRT(file, crs="EPSG:4326") as view:
        rasterio.shutil.copy(view, copy, driver="GTiff")


COPIES = {
    "rasterio copy": lambda source, copy: rasterio.shutil.copy(source, copy, driver="GTiff"),
    "rasterio warp": warped,
    "gdal_translate": lambda source, copy: gdal("gdal_translate", "-q", "-b", "3", "-b", "1", source, copy),
    "gdalwarp": lambda source, copy: gdal("gdalwarp", "-q", "-t_srs", "EPSG:4326", source, copy),
}


def gdal(command, *arguments):
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    subprocess.run([command, *arguments], check=True)


@pytest.mark.parametrize("way", COPIES)
def test_copies_keep_wavelengths_and_support(tmp_path, way):
    spectral = replace(load_sensor("enmap").grid.select([3, 50, 200]), support=("interpolated", "measured", "inferred"))
    source, copy = tmp_path / "cube.tif", tmp_path / "copy.tif"
    write(source, utm(20, 20), cube_of(utm(20, 20), 3), spectral)
    COPIES[way](source, copy)
    rows = zip(spectral.wavelength_nm, spectral.fwhm_nm, spectral.support, strict=True)
    expected = [(float(f"{centre:.7g}"), float(f"{width:.7g}"), support) for centre, width, support in rows]
    assert default_tags(copy) == ([expected[2], expected[0]] if way == "gdal_translate" else expected)


@pytest.mark.parametrize(
    ("wavelength_nm", "colours"),
    [
        ([470, 550, 650, 850], ["blue", "green", "red", "undefined"]),
        ([650, 550, 470], ["red", "green", "blue"]),
        ([2200, 640, 560, 480, 655], ["undefined", "undefined", "green", "blue", "red"]),
        ([850, 550, 470], ["undefined"] * 3),
        ([2200], ["undefined"]),
    ],
)
def test_writer_marks_red_green_and_blue_bands(tmp_path, wavelength_nm, colours):
    grid, path, spectral = utm(20, 20), tmp_path / "cube.tif", grid_of(np.array(wavelength_nm, float))
    write(path, grid, cube_of(grid, len(spectral)), spectral)
    with rasterio.open(path) as file:
        found = [colour.name for colour in file.colorinterp]
    if "red" in colours:
        assert found == colours
    else:
        assert not {"red", "green", "blue"} & set(found)
    assert [p.name for p in tmp_path.iterdir()] == ["cube.tif"]


def test_overviews_average_valid_pixels_only(tmp_path):
    grid, path = utm(512, 512), tmp_path / "cube.tif"
    cube = np.full((len(SPECTRAL), 512, 512), 1000, np.int16)
    cube[:, ::2] = 2000
    cube[:, :100, 1::2] = NODATA
    cube[:, :50] = NODATA
    write(path, grid, cube)
    with rasterio.open(path, overview_level=0) as file:
        small = file.read()
    assert (small[:, :25] == NODATA).all()
    assert (small[:, 25:] == 1500).all()


def test_overviews_take_every_second_pixel_without_averages(tmp_path):
    grid, path = utm(600, 300), tmp_path / "cube.tif"
    cube = cube_of(grid, len(SPECTRAL))
    with CogWriter(path, grid, SPECTRAL, {}, encoding=Encoding(averages=False)) as writer:
        writer.write(0, cube)
    for level in range(2):
        with rasterio.open(path, overview_level=level) as file:
            assert np.array_equal(file.read(), cube[:, :: 2 ** (level + 1), :: 2 ** (level + 1)])


class Labels:
    """Labels of two bands, of which the second has no wavelength."""

    def __len__(self):
        return 2

    def write_to(self, file):
        file.descriptions = ("B02", "SCL")
        file.scales = (SCALE, 1.0)


@pytest.mark.parametrize("compression", ["zstd", "deflate"])
@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_block_size_and_compression_change_no_number(tmp_path, block, compression):
    """Also where an interrupted writer resumes: it expands the blocks that its overviews need."""
    grid, path = utm(333, 270), tmp_path / "cube.tif"
    cube = cube_of(grid, len(SPECTRAL))
    code = Encoding(block=block, compression=compression)
    with (
        suppress(KeyboardInterrupt),
        CogWriter(path, grid, SPECTRAL, TAGS, encoding=code, home=tmp_path / "a") as first,
    ):
        first.write(0, cube[:, :290])
        raise KeyboardInterrupt
    again = CogWriter(path, grid, SPECTRAL, TAGS, encoding=code, home=tmp_path / "a")
    assert again.kept_rows == 290 // block * block
    with again.from_row(again.kept_rows) as writer:
        writer.write(again.kept_rows, cube[:, again.kept_rows :])
    assert broken_rules(path) == []
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), cube)
        assert file.profile["compress"] == compression
        assert set(file.block_shapes) == {(block, block)}
        assert file.overviews(1) == [2**level for level in range(1, Levels(grid.height, grid.width, block).count)]
    with rasterio.open(path, overview_level=0) as file:
        assert np.array_equal(file.read(), naive_half(cube, NODATA))


def test_writer_accepts_bands_without_wavelength(tmp_path):
    grid, path = utm(30, 40), tmp_path / "cube.tif"
    cube = cube_of(grid, 2)
    with CogWriter(path, grid, Labels(), TAGS) as writer:
        writer.write(0, cube)
    assert broken_rules(path) == []
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), cube)
        assert file.descriptions == ("B02", "SCL")
        assert file.scales == (SCALE, 1.0)
        assert file.tags().items() >= TAGS.items()


@pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")
def test_writer_accepts_a_grid_without_georeference(tmp_path):
    grid, path = PixelGrid(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 30, 40), tmp_path / "cube.tif"
    cube = cube_of(grid, len(SPECTRAL))
    write(path, grid, cube)
    with rasterio.open(path) as file:
        assert file.crs is None
        assert np.array_equal(file.read(), cube)
    assert cog_validate(path, strict=True)[0]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_writer_leaves_no_file_after_an_error(tmp_path, error):
    grid = utm(100, 100)
    cube = cube_of(grid, len(SPECTRAL))

    def convert():
        with CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, {}) as writer:
            writer.write(0, cube[:, :50])
            raise error

    with pytest.raises(error):
        convert()
    assert not list(tmp_path.iterdir())


def test_writer_keeps_the_existing_file_after_an_error(tmp_path):
    path, grid = tmp_path / "cube.tif", utm(30, 30)
    cube = cube_of(grid, len(SPECTRAL))
    write(path, grid, cube)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="10 of 30 rows"):
        write(path, grid, cube[:, :10])
    assert path.read_bytes() == before
    path.with_name("cube.tif.aux.xml").write_text("<PAMDataset/>")
    write(path, grid, cube[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["cube.tif"]
    with rasterio.open(path) as file:
        assert np.array_equal(file.read(), cube[::-1])


def test_writers_in_one_directory_do_not_interfere(tmp_path):
    grid = utm(60, 60)
    one, two = cube_of(grid, len(SPECTRAL), 1), cube_of(grid, len(SPECTRAL), 2)
    with (
        CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}) as first,
        CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}) as same,
        CogWriter(tmp_path / "a_sigma.tif", grid, SPECTRAL, {}) as second,
    ):
        for row in (0, 30):
            first.write(row, one[:, row : row + 30])
            same.write(row, one[:, row : row + 30])
            second.write(row, two[:, row : row + 30])
    for name, cube in (("a.tif", one), ("a_sigma.tif", two)):
        with rasterio.open(tmp_path / name) as file:
            assert np.array_equal(file.read(), cube)
    assert len(list(tmp_path.iterdir())) == 2


def test_writer_refuses_rows_out_of_order(tmp_path):
    grid = utm(30, 30)
    cube = cube_of(grid, len(SPECTRAL))
    with pytest.raises(ValueError, match="row 0 is next"), CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}) as writer:
        writer.write(5, cube)
    with pytest.raises(ValueError, match="int16"), CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}) as writer:
        writer.write(0, cube.astype(np.int32))
    assert not list(tmp_path.iterdir())


FULL = """
import resource, signal, sys
import numpy as np
from ms2hs.errors import OutputError
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import grid_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
grid = PixelGrid("EPSG:32633", (30.0, 0.0, 5e5, 0.0, -30.0, 5e6), 700, 700)
cube = np.random.default_rng(0).integers(-32767, 32767, (6, 700, 700)).astype(np.int16)
spectral = grid_of(np.linspace(400, 2400, 6))
try:
    with CogWriter(sys.argv[1], grid, spectral, {}) as writer:
        for row in range(0, 700, 50):
            writer.write(row, cube[:, row : row + 50])
except OutputError as error:
    print("refused:", error)
else:
    print("written")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("limit_bytes", [2_000_000, 5_870_000, 7_000_000, "whole"])
def test_writer_reports_a_full_disk_and_leaves_no_file(tmp_path, limit_bytes):
    path = tmp_path / "cube.tif"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    limit = "1000000000" if limit_bytes == "whole" else str(limit_bytes)
    command = [sys.executable, "-c", FULL, str(path), limit]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    if limit_bytes == "whole":
        assert done.stdout == "written\n"
        return
    assert done.stdout.startswith(f"refused: {path} could not be written")
    assert not list(tmp_path.iterdir())


def test_check_output_refuses_impossible_paths(tmp_path):
    path = tmp_path / "cube.tif"
    check_output(path)
    path.touch()
    with pytest.raises(OutputError, match="--overwrite"):
        check_output(path)
    check_output(path, overwrite=True)
    with pytest.raises(OutputError, match="no directory"):
        check_output(tmp_path / "missing" / "cube.tif")
    with pytest.raises(OutputError, match="is a directory"):
        check_output(tmp_path, overwrite=True)


def test_check_output_refuses_a_directory_that_is_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "cube.tif")


def test_writer_reports_a_missing_or_protected_directory(tmp_path, monkeypatch):
    grid = utm(10, 10)
    with pytest.raises(OutputError, match="no directory"), CogWriter(tmp_path / "no" / "a.tif", grid, SPECTRAL, {}):
        pass

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writer.tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match="Permission denied"), CogWriter(tmp_path / "a.tif", grid, SPECTRAL, {}):
        pass


def test_writer_refuses_too_little_space_before_work(tmp_path, monkeypatch):
    grid = utm(100, 100)
    needed = disk_bytes(grid, len(SPECTRAL), tmp_path)
    check_space(tmp_path, needed)
    usage = type("Usage", (), {"free": needed - 1})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="GB free"), CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, {}):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(24, 42), (257, 700), (700, 700), (300, 2000)])
@pytest.mark.parametrize("content", ["noise", "a ramp"])
@pytest.mark.parametrize("way", ["copied", "inserted"])
def test_disk_bytes_bounds_the_peak(tmp_path, monkeypatch, shape, content, way):
    grid = utm(*shape)
    numbers = np.random.default_rng(0).integers(-32767, 32767, (len(SPECTRAL), *shape))
    if content == "a ramp":
        numbers[:] = np.arange(shape[1]) * 3
    peaks = []
    join = BlockStore.join

    def measure(store, head):
        path = join(store, head)
        peaks.append(sum(part.stat().st_size for part in path.parent.iterdir()))
        return path

    monkeypatch.setattr(BlockStore, "join", measure)
    if way == "inserted":
        monkeypatch.setattr(block_store, "MAX_COPY_BYTES", 0)
        monkeypatch.setattr(block_store, "_insert", insert_space)
    path = tmp_path / "cube.tif"
    write(path, grid, numbers.astype(np.int16))
    assert len(peaks) == 1
    size = path.stat().st_size
    assert peaks[0] <= (2 * size if way == "copied" else max(1.4 * size, size + 100_000))
    needed = disk_bytes(grid, len(SPECTRAL), tmp_path)
    assert peaks[0] <= needed
    if content == "noise":
        assert needed <= 2 * peaks[0] + 50_000


def test_disk_bytes_counts_no_copy_where_space_can_be_inserted(tmp_path, monkeypatch):
    grid = utm(3000, 3000)
    monkeypatch.setattr(block_store, "MAX_COPY_BYTES", 0)
    monkeypatch.setattr(block_store, "_insert", lambda *_: False)
    copied = disk_bytes(grid, len(SPECTRAL), tmp_path)
    monkeypatch.setattr(block_store, "_insert", lambda *_: True)
    assert 1.5 < copied / disk_bytes(grid, len(SPECTRAL), tmp_path) < 1.7
    assert list(tmp_path.iterdir()) == []


def test_memory_bytes_bounds_the_memory_and_does_not_grow_with_height(tmp_path, monkeypatch):
    def peak(height):
        grid = utm(height, 700)
        strip = np.full((len(SPECTRAL), 64, 700), 77, np.int16)
        tracemalloc.start()
        with CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, {}, threads=1) as writer:
            for row in range(0, height, 64):
                writer.write(row, strip[:, : height - row])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    monkeypatch.setattr(block_store, "COPY_BYTES", 1 << 16)
    peak(64)  # one-time allocations
    low, high = peak(2100), peak(4000)  # the same number of overviews
    estimates = [memory_bytes(utm(height, 700), len(SPECTRAL)) for height in (2100, 4000)]
    assert estimates[0] == estimates[1]
    assert high <= low + 200_000  # the list of block sizes
    assert high <= estimates[1]


ENCODINGS = st.sampled_from([
    Encoding(),
    Encoding("int16", None, None),
    Encoding("uint8", 0, None),
    Encoding("uint16", 65535, 1e-4),
    Encoding("int32", -1, 0.5),
    Encoding("uint32", None, None),
    Encoding("float32", float("nan"), None),
    Encoding("float32", -9999.0, 1.0),
])  # fmt: skip


@given(
    shape=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    bands=st.integers(1, 300),
    encoding=ENCODINGS,
    rows=st.integers(1, 300),
    seed=st.integers(0, 999),
)
@settings(max_examples=30, deadline=None)
def test_every_level_of_every_encoding_has_the_expected_numbers(shape, bands, encoding, rows, seed):
    bands = max(1, min(bands, 1_500_000 // (shape[0] * shape[1])))
    rng = np.random.default_rng(seed)
    cube = numbers_of(rng, encoding, (bands, *shape))
    spectral, grid = grid_of(np.linspace(400, 2400, bands) if bands > 1 else np.array([700.0])), utm(*shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.tif"
        with CogWriter(path, grid, spectral, TAGS, encoding=encoding) as writer:
            for row in range(0, shape[0], rows):
                writer.write(row, cube[:, row : row + rows])
        if shape[1] > 1:  # rio-cogeo takes the factors of overviews from the width
            assert cog_validate(path, strict=True) == (True, [], [])
        assert broken_rules(path) == []
        with rasterio.open(path) as file:
            assert file.dtypes[0] == encoding.dtype
            assert len(file.overviews(1)) == len(overview_factors(*shape))
        for level in range(len(overview_factors(*shape)) + 1):
            with rasterio.open(path, **({"overview_level": level - 1} if level else {})) as file:
                np.testing.assert_array_equal(file.read(), cube)
                np.testing.assert_equal(file.nodata, encoding.nodata)
            cube = naive_half(cube, encoding.nodata)


def numbers_of(rng, encoding, shape):
    if encoding.dtype == "float32":
        cube = rng.normal(0, 100, shape).astype(np.float32)
    else:
        low, high = np.iinfo(encoding.dtype).min, np.iinfo(encoding.dtype).max
        narrow = rng.random() < 0.5
        cube = rng.integers(max(low, -500) if narrow else low, min(high, 9000) if narrow else high, shape)
        cube = cube.astype(encoding.dtype)
    if encoding.nodata is not None:
        cube[:, rng.random(shape[1:]) < rng.choice([0, 0.2, 0.9])] = encoding.nodata
        cube[:, : shape[1] // 3, : shape[2] // 2] = encoding.nodata
    return cube


def test_blocks_of_all_bands_of_a_location_are_contiguous(tmp_path):
    grid, path = utm(600, 300), tmp_path / "cube.tif"
    write(path, grid, cube_of(grid, len(SPECTRAL)))
    with rasterio.open(path) as file:
        for ovr, locations in ((None, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]), (0, [(0, 0), (0, 1)])):
            end = None
            for x, y in locations:
                for band in file.indexes:
                    start, size = (
                        int(file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=band, ovr=ovr))
                        for what in ("OFFSET", "SIZE")
                    )
                    assert end is None or start == end + 4 + 4  # the trailer of one, the leader of the next
                    end = start + size
            assert ovr is not None or end + 4 == path.stat().st_size
    # GDAL reports it from 3.11 on
    assert b'<Item name="INTERLEAVE" domain="IMAGE_STRUCTURE">TILE</Item>' in path.read_bytes()


@given(
    shape=st.tuples(st.integers(1, 2400), st.integers(1, 600)),
    encoding=ENCODINGS,
    rows=st.integers(1, 300),
    stop=st.floats(0, 1),
    lost=st.integers(0, 5000),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_writer_resumes_an_interrupted_writer_bit_for_bit(shape, encoding, rows, stop, lost, seed):
    """The writer is interrupted after any row, and the last bytes of any level are lost."""
    rng, grid = np.random.default_rng(seed), utm(*shape)
    spectral = grid_of(np.linspace(400, 2400, 3))
    cube = numbers_of(rng, encoding, (3, *shape))
    with tempfile.TemporaryDirectory() as folder:
        whole, path, home = Path(folder) / "whole.tif", Path(folder) / "cube.tif", Path(folder) / "home"

        def writer_of(output):
            return CogWriter(output, grid, spectral, TAGS, encoding=encoding, home=home if output == path else None)

        def fill(writer, first, last):
            for row in range(first, last, rows):
                writer.write(row, cube[:, row : min(row + rows, last)])

        with writer_of(whole) as writer:
            fill(writer, 0, shape[0])
        stopped = int(stop * shape[0])
        with suppress(KeyboardInterrupt), writer_of(path) as writer:
            fill(writer, 0, stopped)
            raise KeyboardInterrupt
        kept = writer_of(path).kept_rows
        assert kept <= stopped
        level = rng.choice(sorted(home.iterdir()))
        with level.open("r+b") as file:
            file.truncate(max(0, level.stat().st_size - lost))
        second = writer_of(path)
        assert kept - 256 * 2 ** int(level.name[-1]) <= second.kept_rows <= kept
        with second.from_row(second.kept_rows):
            fill(second, second.kept_rows, shape[0])
        assert path.read_bytes() == whole.read_bytes()


def insert_space(file, size):
    """Insert space like `fallocate`, also on file systems that do not support it."""
    if INSERT(file, size):
        return True
    file.seek(0)
    content = file.read()
    file.seek(0)
    file.write(bytes(size) + content)
    return True


@pytest.mark.parametrize(
    "way",
    ["copied in the kernel", "copied by reading and writing", pytest.param("inserted", marks=pytest.mark.slow)],
)
def test_writer_resumes_after_an_interruption_while_joining(tmp_path, monkeypatch, way):
    """Interruptions before and after every step of the join: level files stay complete until the COG is renamed."""
    grid = utm(1100, 300)
    cube = cube_of(grid, len(SPECTRAL))
    write(tmp_path / "whole.tif", grid, cube)
    whole = (tmp_path / "whole.tif").read_bytes()
    path, home, write_pieces, copy_range = tmp_path / "cube.tif", tmp_path / "home", block_store._write, COPY_RANGE
    steps, is_joining = [], False

    def stopping(step, last, *given):
        for after in (False, True):
            if is_joining and len(steps) == last:
                raise KeyboardInterrupt
            steps.extend([step] * is_joining)
            if not after:
                result = step(*given)
        return result

    def joining(store, *given):
        nonlocal is_joining
        is_joining = True
        try:
            return join(store, *given)
        finally:
            is_joining = False

    join = BlockStore.join
    monkeypatch.setattr(block_store, "COPY_BYTES", 1 << (15 if way == "inserted" else 18))
    for last in range(100):
        steps.clear()
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(BlockStore, "join", joining)
            patch.setattr(block_store, "_write", partial(stopping, write_pieces, last))
            way_to_copy = partial(stopping, copy_range, last) if way == "copied in the kernel" else refuse
            patch.setattr(block_store.os, "copy_file_range", way_to_copy, raising=False)
            patch.setattr(block_store, "MAX_COPY_BYTES", 0 if way == "inserted" else 1 << 30)
            patch.setattr(block_store, "_insert", partial(stopping, insert_space, last))
            with CogWriter(path, grid, SPECTRAL, TAGS, home=home, threads=1) as writer:
                writer.write(0, cube)
        if path.exists():
            break
        again = CogWriter(path, grid, SPECTRAL, TAGS, home=home)
        assert again.kept_rows == grid.height
        with again.from_row(grid.height):
            pass
        assert path.read_bytes() == whole
        path.unlink()
        shutil.rmtree(home)
    assert last > 10
    assert not list(home.iterdir())


INSERT = block_store._insert
COPY_RANGE = getattr(os, "copy_file_range", None)


def refuse(*_):
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("done", [0, 3])
def test_writer_joins_where_the_file_system_refuses_to_copy_ranges(tmp_path, monkeypatch, done):
    """The system call is refused the first time, or after some calls."""
    grid, calls = utm(700, 600), []
    cube = cube_of(grid, len(SPECTRAL))
    write(tmp_path / "whole.tif", grid, cube)

    def copy_some(*given):
        calls.append(given)
        return COPY_RANGE(*given) if len(calls) <= done else refuse()

    monkeypatch.setattr(block_store, "COPY_BYTES", 1 << 18)
    monkeypatch.setattr(block_store.os, "copy_file_range", copy_some, raising=False)
    write(tmp_path / "cube.tif", grid, cube)
    assert len(calls) > done
    assert (tmp_path / "cube.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_kept_rows_counts_complete_rows_of_blocks(tmp_path):
    grid = utm(1500, 300)
    cube = cube_of(grid, len(SPECTRAL))
    with (
        suppress(KeyboardInterrupt),
        CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, {}, home=tmp_path / "home") as writer,
    ):
        writer.write(0, cube[:, :1400])
        writer.wait()
        raise KeyboardInterrupt
    again = CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, {}, home=tmp_path / "home")
    assert again.kept_rows == 1280
    with pytest.raises(ValueError, match="row 1400"):
        again.from_row(1400)
    with pytest.raises(ValueError, match="row 1281"):
        again.from_row(1281)


def test_number_of_threads_does_not_change_the_file(tmp_path):
    grid = utm(300, 520)
    cube = cube_of(grid, len(SPECTRAL))
    found = []
    for threads in (1, 2, 5):
        with CogWriter(tmp_path / "cube.tif", grid, SPECTRAL, TAGS, threads=threads) as writer:
            writer.write(0, cube)
        found.append((tmp_path / "cube.tif").read_bytes())
    assert found[0] == found[1] == found[2]


def test_writer_raises_the_error_of_a_thread_and_leaves_no_file(tmp_path, monkeypatch):
    grid = utm(300, 300)

    def fail(_self, _blocks):
        raise MemoryError

    monkeypatch.setattr(encoding.Encoding, "compress", fail)
    with pytest.raises(MemoryError):
        write(tmp_path / "cube.tif", grid, cube_of(grid, len(SPECTRAL)))
    assert not list(tmp_path.iterdir())
