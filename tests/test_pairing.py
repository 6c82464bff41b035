"""`ms2hs pairs` on products in their real layouts: matching, registration, windows, reports."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_raster
from sites import CRS, Site, make_emit, make_enmap, make_hls, make_hyspecnet, make_safe, make_sentinel2_tif

from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.datasets.pairs import overlap_cutting
from ms2hs.datasets.pairs.overlap_cutting import _starts
from ms2hs.datasets.pairs.pair_set import open_pairs
from ms2hs.datasets.pairs.pairing import PairOptions, facts, pair
from ms2hs.datasets.pairs.radiometric_check import compare_bands
from ms2hs.datasets.pairs.warping import is_finer
from ms2hs.datasets.pairs.writer import split_locations
from ms2hs.errors import DataError, NothingFound, OutputError, SceneError
from ms2hs.raster.dates import day_of
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor

ENMAP_SHIFT, EMIT_SHIFT = (0.4, -0.7), (-0.6, 0.3)
SMALL = PairOptions(window=24)
HERE, THERE = Site(), Site(x=650_000.0, seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two sites, with EnMAP and Sentinel-2, and with EMIT and HLS; one scene is too late, one is all cloud."""
    folder = tmp_path_factory.mktemp("world")
    make_enmap(folder / "hs", HERE, shift=ENMAP_SHIFT)
    make_emit(folder / "hs", THERE, shift=EMIT_SHIFT)
    make_safe(folder / "ms", HERE)
    make_sentinel2_tif(folder / "ms", HERE, day="20240620")
    make_hls(folder / "ms" / "hls", THERE)
    make_hls(folder / "ms" / "hls", THERE, day_of_year=153, fmask=2)
    return folder


@pytest.fixture(scope="module")
def calls():
    """Calls of the progress function."""
    return []


@pytest.fixture(scope="module")
def paired(world, calls):
    return pair([world / "hs"], [world / "ms"], world / "pairs", SMALL, lambda *call: calls.append(call))


def by_sensor(paired):
    return {match.match.dated.scene.source: match for match in paired.matches}


def test_pair_matches_products_and_leaves_out_late_and_cloudy_scenes(paired):
    found = [(match.match.cube.name[:7], match.match.dated.scene.id[:8]) for match in paired.matches]
    assert found == [("001_202", "HLS.S30."), ("ENMAP01", "S2B_MSIL")]
    assert [match.match.days_apart for match in paired.matches] == [-1, -1]
    late, cloudy = (next(name for name in paired.left_out if part in name) for part in ("20240620", "2024153"))
    assert "18 days away; at most 3 are allowed" in paired.left_out[late]
    assert "less than 80% valid pixels (the best 0%)" in paired.left_out[cloudy]
    assert len(paired.left_out) == 2


def test_pair_measures_and_corrects_planted_shifts(paired):
    for sensor, planted in (("sentinel2b", ENMAP_SHIFT), ("hls_s30", EMIT_SHIFT)):
        found = by_sensor(paired)[sensor].registration
        np.testing.assert_allclose((found.row, found.col), planted, atol=0.1)  # 0.2 is required
        assert found.residual < 0.05
        assert found.correlation > 0.99


def test_pair_files_agree_in_every_pixel(paired):
    """Without the correction of the shift, the difference would be several times as large."""
    folder = open_pairs(paired.output)
    assert not folder.left_out
    assert len(folder.pairs) == paired.pairs == sum(len(match.ids) for match in paired.matches)
    for stored in folder.pairs:
        measured, truth = stored.read(0, 0, *stored.shape)
        for name in ("B04", "B8A", "B12"):
            at = stored.source.index([name])[0]
            nearest = int(np.abs(stored.target.wavelength_nm - stored.source.wavelength_nm[at]).argmin())
            known = np.isfinite(measured[at]) & np.isfinite(truth[nearest])
            assert known.mean() >= 0.8
            assert np.abs(measured[at] - truth[nearest])[known].mean() < 0.01


def test_pair_files_name_sensor_scene_and_bands(paired):
    folder = open_pairs(paired.output)
    sensors = {"sentinel2b": 12, "hls_s30": 11}
    for stored in folder.pairs:
        assert len(stored.source) == sensors[stored.sensor]
        assert (stored.source.response is None) == (load_sensor(stored.sensor).grid.response is None)
        assert stored.shape == (24, 24)
        assert not stored.is_simulated
    assert {stored.scene for stored in folder.pairs} == {"L001", "L002"}
    for match in paired.matches:
        for row in match.bands():
            assert float(row["difference"]) == pytest.approx(0, abs=0.01)


def test_pair_splits_by_location(paired):
    assert sum(map(len, paired.splits.values())) == 2
    train, test = (open_pairs(paired.output, split).pairs for split in ("train", "test"))
    assert len(train) + len(test) == paired.pairs
    assert {stored.scene for stored in train}.isdisjoint({stored.scene for stored in test})
    with pytest.raises(DataError, match=r"val\.csv lists no pair"):
        open_pairs(paired.output, "val")
    assert "2 locations only" in paired.notes[0]


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (20, (14, 3, 3))])
def test_split_locations_shares(count, expected):
    names = [f"L{i:03d}" for i in range(count)]
    splits = split_locations(names + names, seed=3)
    assert tuple(map(len, splits.values())) == expected
    assert sorted(name for part in splits.values() for name in part) == names
    assert splits == split_locations(names[::-1], seed=3)
    assert count < 20 or splits != split_locations(names, seed=4)


def test_pair_reports_an_offset_that_was_not_applied(world, tmp_path):
    scene = make_sentinel2_tif(tmp_path, HERE, plus=1000)
    (match,) = pair([world / "hs"], [scene], tmp_path / "out", SMALL).matches
    assert match.comparison.constant_offset == pytest.approx(0.1, abs=0.01)
    assert "looks like an offset that was not applied: +0.1" in match.notes[0]
    assert "Use --scale 0.0001 --offset -0.1," in match.notes[0]
    again = pair([world / "hs"], [scene], tmp_path / "corrected", PairOptions(window=24, dn_offset=-1000))
    assert again.matches[0].comparison.constant_offset is None
    assert again.matches[0].notes == ("clouds are kept: the file has no cloud layer",)
    assert np.nanmax(np.abs(again.matches[0].comparison.difference)) < 0.01
    twice = replace(match, comparison=replace(match.comparison, difference=-match.comparison.difference))
    assert "was applied twice" in twice.notes[0]


@pytest.mark.parametrize("options", [{"offset": -0.1}, {"scale": 1e-4, "offset": -0.1}, {"dn_offset": -1000}])
def test_pair_applies_the_users_scale_and_offset(world, tmp_path, options):
    scene = make_sentinel2_tif(tmp_path, HERE, plus=1000)
    (match,) = pair([world / "hs"], [scene], tmp_path / "out", PairOptions(window=24, **options)).matches
    assert match.comparison.constant_offset is None


@pytest.mark.parametrize("options", [{"dn_offset": -3000}, {"scale": 1e-3}])
def test_pair_leaves_out_an_implausible_scene(world, tmp_path, options):
    scene = make_sentinel2_tif(tmp_path, HERE)
    with pytest.raises(NothingFound, match=r"wrong\. Use --scale 0\.0001") as error:
        pair([world / "hs"], [scene], tmp_path / "out", PairOptions(window=24, **options))
    assert "--force" not in str(error.value)  # an option of `convert` only


def test_compare_bands_fits_gain_and_offset():
    rng = np.random.default_rng(0)
    grid = load_sensor("hls_s30").grid
    expected = rng.uniform(0.05, 0.5, (len(grid), 5000))
    gain, offset = rng.uniform(0.9, 1.1, len(grid)), rng.uniform(-0.02, 0.02, len(grid))
    measured = gain[:, None] * expected + offset[:, None] + 0.003 * rng.normal(size=expected.shape)
    measured[:, :300] = 2  # undetected cloud
    expected[3] = np.nan
    found = compare_bands(measured, expected, grid)
    known = np.arange(len(grid)) != 3
    np.testing.assert_allclose(found.gain[known], gain[known], atol=0.02)
    np.testing.assert_allclose(found.offset[known], offset[known], atol=0.01)
    assert np.isnan([found.difference[3], found.gain[3], found.offset[3]]).all()
    assert found.constant_offset is None


@pytest.mark.parametrize("function", ["georeferenced._open", "georeferenced._georeferenced", "pairing.Overlap"])
def test_pair_continues_after_an_unexpected_error(world, tmp_path, monkeypatch, function):
    package = "ms2hs.datasets.pairs" if function.startswith("pairing") else "ms2hs.datasets.cubes"
    module, name = function.split(".")
    original, calls = getattr(sys.modules[f"{package}.{module}"], name), []

    def fail_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyError("startTime")
        return original(*arguments)

    monkeypatch.setattr(f"{package}.{function}", fail_first)
    made = pair([world / "hs"], [world / "ms"], tmp_path / "out", SMALL)
    assert made.matches
    assert any("KeyError: 'startTime'" in text for text in made.left_out.values())


def test_pair_applies_cloud_flags_of_the_product(world, tmp_path):
    cloud = np.zeros((52, 48), bool)
    cloud[:26] = True
    make_enmap(tmp_path / "half", HERE, cloud=cloud)
    made = pair([tmp_path / "half"], [world / "ms" / next((world / "ms").glob("*.SAFE")).name], tmp_path / "out", SMALL)
    assert made.pairs == made.windows_left_out == 2
    for stored in open_pairs(made.output).pairs:
        assert "r00028" in stored.name
    make_enmap(tmp_path / "all", HERE, cloud=np.ones((52, 48), bool))
    with pytest.raises(NothingFound, match="less than 80% valid pixels"):
        pair([tmp_path / "all"], [world / "ms"], tmp_path / "none", SMALL)
    assert not (tmp_path / "none").exists()


def test_pair_gives_patches_of_one_tile_one_location(world, tmp_path):
    make_hyspecnet(tmp_path / "hyspecnet-11k", HERE)
    made = pair([tmp_path], [world / "ms"], tmp_path / "out")
    assert [match.match.location for match in made.matches] == ["L001", "L001"]
    pairs = open_pairs(made.output).pairs
    assert [len(stored.target) for stored in pairs] == [202, 202]
    assert {stored.shape for stored in pairs} == {(32, 32)}


def test_pair_removes_the_files_of_a_failed_match(world, tmp_path, monkeypatch):
    original, calls = overlap_cutting.Overlap.cut, []

    def cut(self, window):
        calls.append(window)
        if self.reader.scene.source == "sentinel2b" and len(calls) > 13:
            raise SceneError("damaged further down")
        return original(self, window)

    monkeypatch.setattr(overlap_cutting.Overlap, "cut", cut)
    made = pair([world / "hs"], [world / "ms"], tmp_path / "out", SMALL)
    assert list(by_sensor(made)) == ["hls_s30"]
    assert "damaged further down" in " ".join(made.left_out.values())
    folder = open_pairs(made.output)
    assert len(folder.pairs) == made.pairs == len(made.matches[0].ids)
    assert not folder.left_out


def test_find_cubes_takes_the_day_of_enmap_from_metadata(tmp_path):
    product = make_enmap(tmp_path, HERE)
    for path in list(product.iterdir()):
        path.rename(tmp_path / path.name.replace(product.name, "ENMAP_L2A_cut"))
    product.rmdir()
    metadata = tmp_path / "ENMAP_L2A_cut-METADATA.XML"
    when = "<base><temporalCoverage><startTime>2024-06-02T10:45:26.1Z</startTime></temporalCoverage></base>"
    metadata.write_text(metadata.read_text().replace("<level_X>", f"<level_X>{when}"))
    for path in (tmp_path, metadata, tmp_path / "ENMAP_L2A_cut-SPECTRAL_IMAGE.TIF"):
        left_out = {}
        (cube,) = find_cubes([path], left_out)
        assert cube.day.isoformat() == "2024-06-02"
        assert len(cube.cube.missing_flags) == 4
        assert not left_out


def test_pair_refuses_shifted_and_unrelated_products(world, tmp_path):
    make_enmap(tmp_path / "far", HERE, shift=(3.0, 0.5))
    other = make_enmap(tmp_path / "else", Site(seed=9), tile="009")
    with pytest.raises(NothingFound, match=r"(?s)no pairs: .*is shifted by \+3\.\d\d rows"):
        pair([tmp_path / "far"], [world / "ms"], tmp_path / "out", SMALL)
    with pytest.raises(NothingFound, match="do not match: correlation|rows and"):
        pair([other], [world / "ms"], tmp_path / "out", SMALL)


def test_pair_continues_after_damaged_files(world, tmp_path):
    folder = tmp_path / "hs"
    make_enmap(folder, HERE)
    (folder / "EMIT_L2A_RFL_001_20240601T000000_1_1.nc").write_bytes(b"damaged")
    (tmp_path / "ms").mkdir()
    (tmp_path / "ms" / "S2B_MSIL2A_20240602T102021.tif").write_bytes(b"damaged")
    np.savez(tmp_path / "unplaced_20240601.npz", dn=np.ones((4, 4, 3), np.int16), scale=1e-4, nodata=-1,
             wavelength_nm=np.array([500.0, 510, 520]))  # fmt: skip
    made = pair([folder, folder, tmp_path], [world / "ms", tmp_path / "ms"], tmp_path / "out", SMALL)
    assert len(made.matches) == 1  # given three times
    reasons = " ".join(made.left_out.values())
    assert "not a whole EMIT L2A file" in reasons
    assert "not a raster that can be read" in reasons


def test_pair_leaves_out_cubes_without_georeference_or_day(world, tmp_path):
    scenes = [world / "ms"]
    np.savez(tmp_path / "unplaced_20240601.npz", dn=np.arange(48, dtype=np.int16).reshape(4, 4, 3), scale=1e-4,
             nodata=-1, wavelength_nm=np.array([500.0, 510, 520]))  # fmt: skip
    with pytest.raises(NothingFound, match="the file has no georeference"):
        pair([tmp_path], scenes, tmp_path / "out", SMALL)
    tags = [{"wavelength": str(nm), "wavelength_units": "nm"} for nm in (640, 660, 680)]
    dn = np.random.default_rng(0).integers(1000, 3000, (3, 30, 30)).astype(np.int16)
    path = write_raster(tmp_path / "a" / "flight.tif", dn, 30, band_tags={"": tags})
    with pytest.raises(NothingFound, match=r"flight: no acquisition date; a date"):
        pair([path], scenes, tmp_path / "out", SMALL)
    write_raster(path, dn, 30, band_tags={"": tags}, tags={"acquisition_time": "2024-06-02"}, crs=None)
    with pytest.raises(NothingFound, match="no coordinate reference system"):
        pair([path.parent], scenes, tmp_path / "out", SMALL)
    for wrong, error in (([tmp_path / "nowhere"], DataError), ([], None)):
        with pytest.raises(error or NothingFound):
            pair(wrong, scenes, tmp_path / "out", SMALL)
    with pytest.raises(SceneError, match="no such file or folder"):
        pair([world / "hs"], [tmp_path / "nowhere"], tmp_path / "out", SMALL)


def test_pair_notes_cubes_finer_than_the_scene(tmp_path):
    """A flight at 15 m, dated by a tag, beside an HLS granule of 30 m."""
    from sites import ENMAP_NM

    from ms2hs.spectra.spectral_grid import grid_of

    values = HERE.seen(grid_of(ENMAP_NM), HERE.place(15, 20, 20), (80, 80))
    tags = [{"wavelength": str(nm), "wavelength_units": "nm"} for nm in ENMAP_NM]
    dn = np.round(values * 1e4).astype(np.int16)
    write_raster(tmp_path / "flight_a.tif", dn, transform=HERE.place(15, 20, 20), crs=CRS, band_tags={"": tags},
                 tags={"acquisition_time": "2024-06-02T10:00:00Z"}, nodata=-32768)  # fmt: skip
    granule = make_hls(tmp_path / "ms", HERE, side_m=2400)
    made = pair([tmp_path / "flight_a.tif"], [granule], tmp_path / "out", PairOptions(window=40))
    (match,) = made.matches
    assert "finer than the scene's" in match.notes[0]
    assert match.registration.residual < 0.1
    assert "1 location only: all pairs are in train" in made.notes[0]
    grid = PixelGrid(CRS, (30, 0, 0, 0, -30, 0), 9, 9)
    assert not is_finer(grid, grid)


def test_pair_writes_the_whole_folder_or_nothing(world, paired, tmp_path):
    hs, ms = [world / "hs"], [world / "ms"]
    with pytest.raises(OutputError, match=r"holds pairs\. Use --overwrite to replace them"):
        pair(hs, ms, paired.output, SMALL)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("do not lose me")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"files other than pairs \(notes\.txt\)"):
            pair(hs, ms, mine, SMALL, overwrite=overwrite)
    with pytest.raises(OutputError, match="its parent must exist"):
        pair(hs, ms, tmp_path / "no" / "where", SMALL)
    (mine / "notes.txt").unlink()
    only = [next((world / "hs").glob("ENMAP*"))]
    first = pair(only, ms, mine, SMALL)
    old = sorted(path.name for path in mine.iterdir())
    second = pair(only, ms, mine, PairOptions(window=26), overwrite=True)
    new = sorted(path.name for path in mine.iterdir())
    assert old != new
    assert len(open_pairs(mine).pairs) == second.pairs
    assert first.pairs == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]  # no temporary files


def test_pairs_command_prints_and_reports(ms2hs, world, tmp_path):
    (product,) = (world / "hs").glob("ENMAP*")
    words = ("pairs", product, "--scenes", world / "ms", "-o", tmp_path / "out", "--window", 24)
    code, out, err = ms2hs(*words, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["pairs"] == sum(match["pairs"] for match in facts["matches"]) > 0
    assert any("days away" in reason for reason in facts["left_out"].values())
    assert "left out: " in err
    assert "moved by +0.40 rows and -0.70 columns" in err
    code, out, err = ms2hs(*words, "--overwrite", "-q")
    assert (code, out.strip(), err) == (0, str(tmp_path / "out"), "")
    code, out, err = ms2hs("pairs", world / "hs" / "EMIT_L2A_RFL_001_20240603T092122_2315006_042.nc",
                           "--scenes", world / "ms" / "hls", "--days", 0, "-o", tmp_path / "none")  # fmt: skip
    assert code == 3
    assert "days away; at most 0 are allowed" in err


def test_pair_progress_ends_at_all_rows(paired, calls):
    assert {call[0] for call in calls} == {"pairs"}
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert 0 < calls[-1][1] <= calls[-1][2]
    assert facts(paired)["matches"][0]["registration"]["estimates"] > 1


@pytest.mark.parametrize(
    ("names", "tags", "expected"),
    [
        (["ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"], {}, "2022-07-24"),
        (["cube.tif", "EMIT_L2A_RFL_001_20230530T092122_2315006_042"], {}, "2023-05-30"),
        (["flight_20230102.tif"], {"acquisition_time": "2023-04-05T06:07:08Z"}, "2023-04-05"),
        (["flight_2023-01-02.tif"], {}, "2023-01-02"),
        (["flight_20231399.tif", "20230102"], {}, "2023-01-02"),
        (["0000823"], {"tifftag_datetime": "2024:01:01"}, None),
    ],
)
def test_day_of_reads_names_and_tags(names, tags, expected):
    found = day_of(names, tags)
    assert (found and found.isoformat()) == expected


@pytest.mark.parametrize(("length", "expected"), [(128, [0]), (100, [0]), (1000, 8), (300, [0, 172]), (130, [0])])
def test_windows_cover_the_overlap_evenly(length, expected):
    starts = _starts(length, 128)
    assert starts == expected or len(starts) == expected
    assert starts[0] == 0
    assert starts[-1] <= max(0, length - 128)
