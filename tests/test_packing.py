"""`ms2hs prepare`: shards hold the values of the cubes, and a failed run leaves none."""

import json

import numpy as np
import pytest
from conftest import write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from test_cubes import make_hyspecnet, wavelength_tags, whole

from ms2hs.datasets.cubes import packing
from ms2hs.datasets.cubes.packing import prepare
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.errors import DataError, Ms2hsError, OutputError

NM = [450.0, 650.0, 850.0, 2200.0]


def make_corpus(folder, shapes=((7, 9), (7, 9), (3, 2)), nm=NM):
    for number, shape in enumerate(shapes):
        dn = np.random.default_rng(number).integers(1, 9000, (len(nm), *shape)).astype(np.int16)
        dn[:, 0, 0] = -32768
        path = folder / f"site{number // 2}" / f"cube{number}.tif"
        write_raster(path, dn, nodata=-32768, band_tags=wavelength_tags(nm))
    return folder


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 12), cols=st.integers(1, 12), window=st.integers(1, 14))
def test_prepare_windows_cover_the_whole_cube(tmp_path_factory, rows, cols, window):
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, [(rows, cols)])
    (cube,) = open_cubes(folder)
    built = np.full((len(NM), rows, cols), np.nan, np.float32)
    packed = prepare(folder, folder / "shards", window)
    filled_up = 0
    for part in open_cubes(folder / "shards"):
        name, _, place = part.name.rpartition("@")
        assert (name, part.scene) == (cube.name, cube.scene)
        assert part.shape == (min(window, rows), min(window, cols))
        row, col = map(int, place.split(","))
        values = whole(part)
        inside = values[:, : rows - row, : cols - col]
        built[:, row : row + part.shape[0], col : col + part.shape[1]] = inside
        filled_up += np.isfinite(values).sum() - np.isfinite(inside).sum()
    np.testing.assert_allclose(built, whole(cube), atol=1e-6)
    assert filled_up == 0
    assert packed.left_out == (min(window, rows) * min(window, cols) == 1)  # the pixel of nodata on its own


def test_prepare_separates_grids_and_sizes_and_limits_shards(tmp_path, monkeypatch):
    make_corpus(tmp_path / "corpus")
    make_corpus(tmp_path / "corpus" / "other", [(7, 9)], nm=[450.0, 500.0])
    monkeypatch.setattr(packing, "SHARD_BYTES", 2 * 2 * 4 * 5 * 5)  # two windows of four bands
    paths = prepare(tmp_path / "corpus", tmp_path / "shards", window=5).paths
    assert [path.name for path in paths] == [f"shard-{number:05d}.safetensors" for number in range(len(paths))]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [path.name for path in paths]
    shapes = []
    for path in paths:
        with safe_open(path, "numpy") as file:
            shapes.append(tuple(file.get_slice("dn").get_shape()))
            assert file.get_slice("dn").get_dtype() == "I16"
            assert file.metadata()["source"] == '"corpus"'
    assert sorted(shapes) == [(1, 4, 3, 2), *[(2, 4, 5, 5)] * 4, (4, 2, 5, 5)]
    cubes = open_cubes(tmp_path / "shards")
    assert {len(cube.grid) for cube in cubes} == {2, 4}
    assert {cube.scene for cube in cubes} == {"site0", "site1", "other"}


def test_prepare_counts_windows_with_few_known_pixels(tmp_path):
    dn = np.full((3, 8, 8), -32768, np.int16)
    dn[:, :4] = np.arange(1, 4)[:, None, None]
    dn[:, 4, 4] = (1, 2, 3)
    write_raster(tmp_path / "a.tif", dn, nodata=-32768, band_tags=wavelength_tags([450, 650, 850]))
    packed = prepare(tmp_path, tmp_path / "shards", window=4)
    assert (packed.windows, packed.left_out) == (2, 2)
    write_raster(tmp_path / "a.tif", dn[:, 4:, :], nodata=-32768, band_tags=wavelength_tags([450, 650, 850]))
    with pytest.raises(DataError, match="1 windows, all with less than 10% known pixels"):
        prepare(tmp_path, tmp_path / "none", window=128)
    assert not (tmp_path / "none").exists()


def test_prepare_packs_only_the_split(tmp_path):
    make_hyspecnet(tmp_path / "hyspecnet")
    prepare(tmp_path / "hyspecnet", tmp_path / "shards", split="hard/val")
    (cube,) = open_cubes(tmp_path / "shards")
    (patch,) = open_cubes(tmp_path / "hyspecnet", "hard/val")
    assert cube.scene == patch.scene
    np.testing.assert_array_equal(cube.grid.wavelength_nm, patch.grid.wavelength_nm)
    np.testing.assert_allclose(whole(cube), whole(patch), atol=1e-6)


def test_prepare_replaces_all_shards_only_with_overwrite(tmp_path):
    make_corpus(tmp_path / "corpus")
    shards = tmp_path / "shards"
    many = prepare(tmp_path / "corpus", shards, window=4).paths
    with pytest.raises(OutputError, match=f"has {len(many)} .safetensors files. Use --overwrite to replace them"):
        prepare(tmp_path / "corpus", shards)
    for path in list((tmp_path / "corpus" / "site0").iterdir()):
        path.unlink()
    few = prepare(tmp_path / "corpus", shards, overwrite=True).paths
    assert len(few) < len(many)
    assert sorted(shards.iterdir()) == few


def test_prepare_keeps_old_shards_after_a_failure(tmp_path):
    make_corpus(tmp_path / "corpus")
    shards = tmp_path / "shards"
    before = {path: path.read_bytes() for path in prepare(tmp_path / "corpus", shards, window=4).paths}
    broken = tmp_path / "corpus" / "site1" / "cube2.tif"
    write_raster(broken, np.ones((4, 300, 300), np.int16), band_tags=wavelength_tags(NM))
    broken.write_bytes(broken.read_bytes()[:4000])
    with pytest.raises(Ms2hsError, match="cube2"):
        prepare(tmp_path / "corpus", shards, overwrite=True)
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_prepare_checks_the_output_before_work_starts(tmp_path):
    make_corpus(tmp_path / "corpus")
    (tmp_path / "file").write_text("-")
    for output in (tmp_path / "file", tmp_path / "no" / "where"):
        with pytest.raises(OutputError, match="cannot create this directory; its parent must exist"):
            prepare(tmp_path / "corpus", output)
    with pytest.raises(ValueError, match="below 1"):
        prepare(tmp_path / "corpus", tmp_path / "shards", window=0)


def test_prepare_progress_ends_at_all_rows(tmp_path):
    make_corpus(tmp_path / "corpus")
    calls = []
    prepare(tmp_path / "corpus", tmp_path / "shards", 4, lambda *call: calls.append(call))
    assert calls[-1] == ("prepare", 7 + 7 + 3, 7 + 7 + 3)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_prepare_command_prints_paths_and_counts(tmp_path, ms2hs):
    make_corpus(tmp_path / "corpus")
    code, out, err = ms2hs("prepare", tmp_path / "corpus", "-o", tmp_path / "shards", "--window", "4")
    assert code == 0
    assert out.split() == [str(path) for path in sorted((tmp_path / "shards").iterdir())]
    assert "13 windows in 2 shards; 0 with less than 10% known pixels left out" in err
    code, out, err = ms2hs("prepare", tmp_path / "corpus", "-o", tmp_path / "shards")
    assert (code, out) == (1, "")
    assert "--overwrite" in err
    code, _, err = ms2hs("prepare", tmp_path / "corpus", "-o", tmp_path / "shards", "--overwrite", "-q")
    assert (code, err) == (0, "")
    assert ms2hs("prepare", tmp_path / "corpus", "-o", tmp_path / "shards", "--window", "0")[0] == 2


def test_prepare_packs_real_cubes(tmp_path, real_data):
    packed = prepare(real_data, tmp_path / "shards")
    cubes = {cube.name: cube for cube in open_cubes(real_data)}
    parts = open_cubes(tmp_path / "shards")
    assert len(parts) == packed.windows
    for part in parts[:: max(1, len(parts) // 50)]:
        name, _, corner = part.name.rpartition("@")
        row, col = map(int, corner.split(","))
        truth = whole(cubes[name])[:, row : row + part.shape[0], col : col + part.shape[1]]
        found = whole(part)[:, : truth.shape[1], : truth.shape[2]]
        np.testing.assert_allclose(found, truth, atol=5.1e-5)
    assert packed.windows + packed.left_out >= len(cubes)  # large images have several windows


@pytest.mark.parametrize("key", ["wavelength_nm", "fwhm_nm", "names", "scenes"])
@pytest.mark.parametrize("value", ["", "-1", "{}", "[]", "[[]]", "[1e999]", "[{}]"])
def test_damaged_header_of_a_shard_is_one_message(tmp_path, key, value):
    (path,) = prepare(make_corpus(tmp_path / "corpus", shapes=((4, 4),)), tmp_path / "shards", window=4).paths
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"][key] = value
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])
    with pytest.raises(Ms2hsError, match=path.name):
        open_cubes(path.parent)
