"""Sensor tables: counts, order, citations, product facts, and tables of users."""

import shutil

import numpy as np
import pytest
from conftest import LEAVES, S2_BANDS, dn_of, write_raster
from stac_items import planetary_computer

from ms2hs.errors import GridError, UnknownName
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.radiometry import ITEM_RULES
from ms2hs.scenes.stac_item import scene_of
from ms2hs.spectra import sensors
from ms2hs.spectra.sensors import RANGE_NM, load_sensor, sensor_names, shipped_sensor

BANDS = {
    "sentinel2a": 12,
    "sentinel2b": 12,
    "sentinel2c": 12,
    "hls_s30": 11,
    "hls_l30": 7,
    "landsat8": 7,
    "landsat9": 7,
    "enmap": 202,
    "enmap-224": 224,
    "emit": 240,
    "emit-285": 285,
    "prisma": 233,
    "desis": 235,
    "tanager": 426,
    "specim-iq": 204,
    "specim-fx10": 224,
    "specim-fx17": 224,
    "asd-fieldspec": 615,
}


def test_sensor_names_list_each_sensor_once():
    assert sensor_names() == sorted(BANDS)
    assert sorted(name for role in ("source", "target", "camera") for name in sensor_names(role)) == sorted(BANDS)


@pytest.mark.parametrize("name", sorted(BANDS))
def test_sensor_table_is_complete_and_cites_its_source(name):
    sensor = load_sensor(name)
    assert len(sensor.grid) == BANDS[name]
    assert sensor.title != name
    assert not sensor.citation.endswith(".csv")
    assert (sensor.grid.wavelength_nm > RANGE_NM[0]).all()
    assert (sensor.grid.wavelength_nm < RANGE_NM[1]).all()
    assert (sensor.grid.response is not None) == (sensor.role == "source")


def test_enmap_omits_the_water_bands_of_hyspecnet():
    full, kept = load_sensor("enmap-224").grid, load_sensor("enmap").grid
    dropped = np.flatnonzero(~full.good)
    assert dropped.tolist() == [*range(126, 141), *range(160, 167)]
    np.testing.assert_array_equal(full.wavelength_nm[full.good], kept.wavelength_nm)
    assert (np.diff(full.wavelength_nm) > 0).all()  # not in detector order: that table would be wrong on 21 bands


def test_emit_has_244_good_bands_and_240_from_410_nm():
    full, kept = load_sensor("emit-285").grid, load_sensor("emit").grid
    assert full.good.sum() == 244
    np.testing.assert_array_equal(full.wavelength_nm[full.good][4:], kept.wavelength_nm)


def test_hls_s30_uses_olis_responses_where_it_is_adjusted_to_oli():
    s30, oli, msi = load_sensor("hls_s30").grid, load_sensor("landsat8").grid, load_sensor("sentinel2a").grid
    centre = dict(zip(s30.names, s30.wavelength_nm, strict=True))
    assert centre["B02"] == oli.wavelength_nm[oli.index(["B2"])[0]]
    assert centre["B8A"] == oli.wavelength_nm[oli.index(["B5"])[0]]
    assert centre["B08"] == msi.wavelength_nm[msi.index(["B08"])[0]]
    assert {"B09", "B10"}.isdisjoint(centre)  # top-of-atmosphere in HLS


def test_load_sensor_reads_a_users_table_as_target(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("center_nm,fwhm_nm\n500,10\n2200,12\n")
    sensor = load_sensor(str(table))
    assert sensor.grid.names == ("B001", "B002")
    assert sensor.role == "target"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("center_nm,fwhm_nm\n0.5,0.01\n", r"0\.5 nm; 370-2510 nm is allowed"),
        ("center_nm,fwhm_nm\n2600,10\n", "2600 nm"),
        ("wavelength,fwhm\n500,10\n", "columns center_nm and fwhm_nm"),
        ("center_nm,fwhm_nm\nred,10\n", "not a table of bands"),
    ],
)
def test_load_sensor_reports_errors_in_a_table(tmp_path, text, words):
    table = tmp_path / "mine.csv"
    table.write_text(text)
    with pytest.raises(GridError, match=words):
        load_sensor(str(table))


def test_load_sensor_lists_known_sensors():
    with pytest.raises(UnknownName, match="unknown sensor 'hyperion'; known: asd-fieldspec, desis"):
        load_sensor("hyperion")


def test_sensor_requires_a_table_and_nothing_else(tmp_path, monkeypatch):
    """A copy of Sentinel-2C's table for Sentinel-2D: its files are recognised, read and checked as Sentinel-2's."""
    shutil.copytree(sensors.TABLES, tmp_path / "tables")
    table = (tmp_path / "tables" / "sentinel2c.csv").read_text()
    (tmp_path / "tables" / "sentinel2d.csv").write_text(table.replace("2C", "2D"))
    monkeypatch.setattr(sensors, "TABLES", tmp_path / "tables")
    load_sensor.cache_clear()
    try:
        path = write_raster(tmp_path / "S2D_MSIL2A.tif", dn_of([LEAVES]), descriptions=S2_BANDS)
        scene = open_scene(str(path))
        assert (scene.source, scene.notes) == ("sentinel2d", ())
        assert {asset.nodata for asset in scene.assets} == {None}
        item = planetary_computer("05.11", "https://files.example.org/a/{}".format)
        grid = PixelGrid(None, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 1, 1)
        item["properties"]["platform"] = "Sentinel-2D"
        made = scene_of(item, None, None, lambda _href: grid)
        assert (made.source, made.quality[0].name, made.working_gsd_m) == ("sentinel2d", "SCL", 30.0)
    finally:
        load_sensor.cache_clear()


def test_source_tables_name_known_rules_and_quality_layers():
    for name in sensor_names("source"):
        sensor = load_sensor(name)
        assert sensor.item_rule in ITEM_RULES
        assert sensor.quality in {"", *QUALITY_LAYERS}
        assert 1 < sensor.min_bands <= len(sensor.grid)
        assert set(sensor.common_names.values()) == set(sensor.grid.names)


def test_shipped_sensor_reads_tables_only(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("center_nm,fwhm_nm\n500,10\n600,10\n")
    assert len(load_sensor(str(path)).grid) == 2
    assert shipped_sensor(str(path)) is None
    assert shipped_sensor("../tables/enmap") is None
    assert shipped_sensor("enmap") is load_sensor("enmap")
    assert shipped_sensor("enmap", "source") is None
