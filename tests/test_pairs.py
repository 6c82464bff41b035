"""Folders of measured pairs: opening, reasons for leaving pairs out, reading."""

import pickle
import shutil

import numpy as np
import pytest
import rasterio
from conftest import S2_BANDS, write_raster
from hypothesis import given
from hypothesis import strategies as st

from ms2hs.datasets.pairs.pair_set import open_pairs, scene_by_name
from ms2hs.errors import DataError
from ms2hs.spectra.sensors import load_sensor

NM = np.arange(420.0, 2450.0, 40.0)
SHAPE = (12, 10)
TAGS = [{"wavelength": f"{nm}", "wavelength_units": "nm", "fwhm": "20"} for nm in NM]


def numbers(bands, seed):
    return np.random.default_rng(seed).integers(500, 4000, (bands, *SHAPE)).astype(np.int16)


def write_ms(folder, name, seed=0, **options):
    options = {"nodata": -32768, "descriptions": S2_BANDS} | options
    return write_raster(folder / f"{name}_ms.tif", numbers(12, seed), 30, **options)


def write_hs(folder, name, seed=0, **options):
    options = {"nodata": -32768, "band_tags": {"": TAGS}} | options
    return write_raster(folder / f"{name}_hs.tif", numbers(len(NM), seed + 100), 30, **options)


def write_pair(folder, name, seed=0):
    return write_ms(folder, name, seed), write_hs(folder, name, seed)


@pytest.fixture
def folder(tmp_path):
    """Two usable pairs, not written by `ms2hs pairs`."""
    for seed, name in enumerate(("north_0001", "south/0001")):
        write_pair(tmp_path, name, seed)
    return tmp_path


def test_open_pairs_reads_band_names_and_wavelengths(folder):
    first, second = open_pairs(folder).pairs
    assert (first.name, first.scene, second.name, second.scene) == ("north_0001", "north", "south/0001", "south")
    assert first.source.names == S2_BANDS
    assert first.sensor == "sentinel2a"
    assert not first.is_simulated
    np.testing.assert_array_equal(first.target.wavelength_nm, NM)
    assert first.shape == SHAPE
    measured, truth = first.read(2, 3, 4, 5)
    np.testing.assert_allclose(measured, numbers(12, 0)[:, 2:6, 3:8] * 1e-4, rtol=1e-5)
    np.testing.assert_allclose(truth, numbers(len(NM), 100)[:, 2:6, 3:8] * 1e-4, rtol=1e-5)
    again = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own
    np.testing.assert_array_equal(again.read(0, 0, *SHAPE)[1], first.read(0, 0, *SHAPE)[1])
    with pytest.raises(ValueError, match="does not lie inside"):
        first.read(0, 0, 13, 1)


def test_open_pairs_takes_the_sensor_from_tag_or_wavelengths(folder):
    write_ms(folder, "north_0001", tags={"MS2HS_SOURCE": "sentinel2c"})
    nm = (480.0, 560.0, 660.0, 830.0, 1650.0, 2200.0)
    bands = [{"wavelength": f"{x}", "fwhm": "60", "wavelength_units": "nm"} for x in nm]
    write_raster(folder / "south" / "0001_ms.tif", numbers(6, 0), 30, nodata=-32768, band_tags={"": bands})
    tagged, custom = open_pairs(folder).pairs
    assert tagged.sensor == "sentinel2c"
    np.testing.assert_array_equal(tagged.source.response.value, load_sensor("sentinel2c").grid.response.value)
    assert custom.sensor == "custom"
    np.testing.assert_allclose(custom.source.wavelength_nm, nm)


def test_stored_pair_keeps_unknown_values(folder):
    dn, truth = (values.astype(np.float32) * np.float32(1e-4) for values in (numbers(12, 0), numbers(len(NM), 100)))
    dn[3, 1, 2] = np.nan
    truth[5, 4, 4] = np.nan
    write_raster(folder / "north_0001_ms.tif", dn, 30, descriptions=S2_BANDS)
    write_raster(folder / "north_0001_hs.tif", truth, 30, band_tags={"": TAGS})
    measured, known = open_pairs(folder).pairs[0].read(0, 0, *SHAPE)
    assert np.isnan(measured[:, 1, 2]).all()
    assert np.isnan(measured).sum() == 12
    np.testing.assert_array_equal(np.argwhere(np.isnan(known)), [[5, 4, 4]])


def _without_wavelengths(folder):
    write_hs(folder, "bad_1", band_tags={})
    return "51 bands without wavelengths; each band needs a wavelength tag"


def _without_partner(folder):
    (folder / "bad_1_ms.tif").unlink()
    return "the hyperspectral file has no partner; bad_1_ms.tif is needed"


def _without_truth(folder):
    (folder / "bad_1_hs.tif").unlink()
    return "the multispectral file has no partner; bad_1_hs.tif is needed"


def _elsewhere(folder):
    place = rasterio.Affine(30, 0, 600_030, 0, -30, 5_100_000)
    write_hs(folder, "bad_1", transform=place)
    return "the files have different pixel grids"


def _other_crs(folder):
    write_hs(folder, "bad_1", crs="EPSG:32633")
    return "the files have different pixel grids"


def _other_size(folder):
    write_raster(folder / "bad_1_ms.tif", numbers(12, 0)[:, :8], 30, descriptions=S2_BANDS)
    return "the files have different pixel grids (8 x 10"


def _all_cloud(folder):
    write_raster(folder / "bad_1_ms.tif", np.full((12, *SHAPE), -32768, np.int16), 30, nodata=-32768,
                 descriptions=S2_BANDS)  # fmt: skip
    return "no pixel is known to both sensors"


def _never_both(folder):
    dn, truth = numbers(12, 0), numbers(len(NM), 0)
    dn[:, :6], truth[:, 6:] = -32768, -32768
    write_raster(folder / "bad_1_ms.tif", dn, 30, nodata=-32768, descriptions=S2_BANDS)
    write_raster(folder / "bad_1_hs.tif", truth, 30, nodata=-32768, band_tags={"": TAGS})
    return "no pixel is known to both sensors"


def _nothing_but_nan(folder):
    write_raster(folder / "bad_1_hs.tif", np.full((len(NM), *SHAPE), np.nan, np.float32), 30, band_tags={"": TAGS})
    return "no pixel is known to both sensors"


def _damaged(folder):
    (folder / "bad_1_hs.tif").write_bytes(b"II*\0 not much of a file")
    return "not a raster that can be read"


def _nameless(folder):
    write_ms(folder, "bad_1", descriptions=())
    return "its 12 bands have no names"


BAD = [
    *(_without_wavelengths, _without_partner, _without_truth, _elsewhere, _other_crs, _other_size),
    *(_all_cloud, _never_both, _nothing_but_nan, _damaged, _nameless),
]


@pytest.mark.parametrize("spoil", BAD)
def test_open_pairs_leaves_out_unusable_pairs(folder, spoil):
    write_pair(folder, "bad_1")
    expected = spoil(folder)
    found = open_pairs(folder)
    assert [pair.name for pair in found.pairs] == ["north_0001", "south/0001"]
    assert list(found.left_out) == ["bad_1"]
    assert expected in found.left_out["bad_1"]


@pytest.mark.parametrize("spoil", BAD[:3])
def test_open_pairs_reports_a_folder_without_usable_pairs(tmp_path, spoil):
    write_pair(tmp_path, "bad_1")
    expected = spoil(tmp_path)
    with pytest.raises(DataError, match="none of its 1 pairs can be used; at least one is needed. The first") as raised:
        open_pairs(tmp_path)
    assert expected in str(raised.value)


def test_open_pairs_reports_missing_folder_and_pairs(tmp_path):
    with pytest.raises(DataError, match="holds no pairs; files <id>_ms.tif and <id>_hs.tif are needed"):
        open_pairs(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_pairs(tmp_path / "nowhere")


def test_open_pairs_takes_splits_and_scenes_from_tables(folder):
    (folder / "pairs.csv").write_text("id,scene,more\nnorth_0001,L001,x\nsouth/0001,L002,x\n")
    (folder / "splits").mkdir()
    (folder / "splits" / "train.csv").write_text("id\nnorth_0001\n")
    (folder / "splits" / "test.csv").write_text("south/0001_ms.tif\nsouth/0001_hs.tif\n")
    (folder / "splits" / "val.csv").write_text("north_0001\ngone\n")
    (train,), (test,) = (open_pairs(folder, split).pairs for split in ("train", "test"))
    assert (train.scene, test.scene) == ("L001", "L002")
    assert list(open_pairs(folder, "val").left_out) == ["gone"]
    with pytest.raises(DataError, match="no split 'easy'; known: test, train, val"):
        open_pairs(folder, "easy")
    shutil.rmtree(folder / "splits")
    with pytest.raises(DataError, match=r"no split 'train'; known: none \(no splits/\*\.csv\)"):
        open_pairs(folder, "train")


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("a_1", "a"),
        ("a_12_34", "a"),
        ("a-r0001-c0002", "a"),
        ("S2A_20240601_12_3", "S2A_20240601"),
        ("0001", "0001"),
        ("site/0001", "site"),
        ("site/2024/a_1", "site"),
    ],
)
def test_scene_by_name_drops_window_numbers(name, scene):
    assert scene_by_name(name) == scene


@given(st.text("ab_-0123", min_size=1), st.integers(0, 99_999))
def test_scene_by_name_is_the_same_for_all_windows(stem, number):
    assert scene_by_name(f"{stem}_{number}") == scene_by_name(f"{stem}_{number}_0")
