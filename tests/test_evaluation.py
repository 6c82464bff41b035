"""Scoring whole scenes: against arrays that numpy scores, on made-up pairs, cubes and finished conversions."""

import csv
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from conftest import write_raster
from cubes_of_arrays import ArrayCube, smooth_cubes
from test_baselines import SMALL, network_weights
from test_pretraining import assert_clear, save_cube

from ms2hs.datasets.pairs import pair_set
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError, GridError
from ms2hs.evaluation.cube_evaluation import evaluate_cube
from ms2hs.evaluation.evaluator import EvaluationSettings, evaluate, spread_windows, windows_of
from ms2hs.evaluation.report import page as report
from ms2hs.evaluation.scoreboard import facts, lines_of, rows_of_csv, table
from ms2hs.models.weights import load_weights
from ms2hs.spectra.metrics import SSIM_PIXELS, rmse, sam, ssim
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, pasted_bands

SOURCE = load_sensor("sentinel2a").grid


@dataclass(frozen=True, eq=False)
class ArrayPair:
    """A real pair that holds its numbers."""

    name: str
    scene: str
    measured: np.ndarray
    truth: np.ndarray
    target: object
    source: object = SOURCE
    sensor: str = "sentinel2a"
    is_simulated: bool = False

    @property
    def shape(self):
        return self.truth.shape[1:]

    def read(self, row, col, height, width):
        part = np.s_[:, row : row + height, col : col + width]
        return self.measured[part].copy(), self.truth[part].copy()


def make_pairs(count=3, scenes=None, side=12, noise=0.01, unknown=0.0):
    """Pairs of smooth cubes, whose measured bands are off by noise."""
    rng = np.random.default_rng(5)
    pairs = []
    for cube in smooth_cubes(count, side=side, scenes=scenes):
        measured, truth = SimulatedPair(cube, "sentinel2a").read(0, 0, side, side)
        measured = (measured + noise * rng.standard_normal(measured.shape)).astype(np.float32)
        truth[rng.random(truth.shape) < unknown] = np.nan
        pairs.append(ArrayPair(cube.name, cube.scene, measured, truth, cube.grid))
    return pairs


@pytest.fixture(scope="module")
def pairs():
    """Four pairs of three scenes, some values unknown, some pixels not measured."""
    made = make_pairs(4, 3, unknown=0.02)
    made[0].measured[3, 2:4, :5] = np.nan
    return made


@pytest.fixture(scope="module")
def found(pairs):
    return evaluate(["linear"], pairs, EvaluationSettings(title="made-up pairs", command="ms2hs evaluate"))


def row_of(evaluation, method):
    (row,) = [row for row in evaluation.rows if row.method == method]
    return row


def whole(pairs, scene):
    """(band, pixel) measured and truth of the valid pixels of a scene."""
    own = [pair for pair in pairs if pair.scene == scene]
    measured = np.concatenate([pair.measured.reshape(len(SOURCE), -1) for pair in own], axis=1)
    truth = np.concatenate([pair.truth.reshape(len(pair.target), -1) for pair in own], axis=1)
    valid = np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0)
    return measured[:, valid], truth[:, valid]


def test_the_prior_is_scored_as_numpy_scores_whole_scenes(pairs, found):
    prior, target = load_weights().prior, pairs[0].target
    conditional, row = prior.condition(SOURCE, target), row_of(found, "prior")
    known = pasted_bands(SOURCE, target) >= 0
    np.testing.assert_array_equal(found.measured, known)
    scenes = sorted({pair.scene for pair in pairs})
    assert list(row.scenes) == scenes
    for scene in scenes:
        measured, truth = whole(pairs, scene)
        made = conditional.reconstruct(measured).astype(float)
        scores = row.scenes[scene]
        assert found.scenes[scene] == measured.shape[1]
        assert scores.mse == pytest.approx(np.nanmean((made - truth) ** 2), rel=1e-5)
        assert scores.masked_mse == pytest.approx(np.nanmean((made - truth)[~known] ** 2), rel=1e-5)
        assert scores.unmasked_mse == pytest.approx(np.nanmean((made - truth)[known] ** 2), rel=1e-5)
        assert scores.rmse == pytest.approx(rmse(made, truth), rel=1e-5)
        assert scores.sam_median == pytest.approx(sam(made, truth), rel=1e-4)
        inside = np.abs(made - truth) <= 1.6448536 * conditional.sigma(measured)
        assert scores.coverage_90 == pytest.approx(inside[np.isfinite(truth)].mean(), abs=1e-3)
    for number in ("mse", "rmse", "sam_mean", "ergas", "r2", "psnr"):
        expected = np.mean([getattr(row.scenes[scene], number) for scene in scenes])
        assert getattr(row.overall, number) == pytest.approx(expected)
    assert found.pixels == sum(whole(pairs, scene)[0].shape[1] for scene in scenes) == 4 * 144 - 10


def test_curves_are_means_over_scenes(pairs, found):
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    by_scene = []
    for scene in sorted({pair.scene for pair in pairs}):
        measured, truth = whole(pairs, scene)
        by_scene.append(np.sqrt(np.nanmean((conditional.reconstruct(measured).astype(float) - truth) ** 2, axis=1)))
    np.testing.assert_allclose(found.curves["prior"].rmse, np.mean(by_scene, axis=0), rtol=1e-5)
    assert found.curves["interpolation"].reliability is None
    assert (np.diff(found.curves["prior"].reliability) >= 0).all()
    assert found.curves["prior"].sam.shape == (40,)


def test_similarity_is_the_mean_over_windows():
    pairs = make_pairs(2, side=20)
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    valid = np.ones((20, 20), bool)
    row = row_of(evaluate([], pairs), "prior")
    for pair in pairs:
        expected = ssim(conditional.reconstruct(pair.measured), pair.truth, valid)
        assert row.scenes[pair.scene].ssim == pytest.approx(expected, abs=1e-6)
    small = evaluate([], make_pairs(2, side=SSIM_PIXELS - 1))
    assert np.isnan(row_of(small, "prior").overall.ssim)


def test_rows_stand_beside_the_prior(found):
    assert [row.method for row in found.rows][-2:] == ["prior", "linear"]
    prior, linear, mean = (row_of(found, name) for name in ("prior", "linear", "mean spectrum"))
    assert (prior.to_prior, linear.to_prior, linear.loses) == (1, 1, False)
    assert mean.to_prior == pytest.approx(mean.overall.rmse / prior.overall.rmse)
    assert mean.to_prior > 1
    assert not mean.loses  # it is no model
    assert linear.overall.mse == prior.overall.mse
    assert all(row.overall.seconds > 0 for row in found.rows)


def test_the_interval_is_that_of_a_bootstrap_over_scenes(found):
    row = row_of(found, "interpolation")
    values = [scores.rmse for scores in row.scenes.values()]
    low, high = row.interval["rmse"]
    assert min(values) <= low <= row.overall.rmse <= high <= max(values)
    assert set(row.interval) == {"mse", "rmse", "sam_median"}
    alone = evaluate([], make_pairs(1))
    assert row_of(alone, "prior").interval == {}


def test_covers_are_of_all_scenes_together(found):
    row = row_of(found, "prior")
    assert row.covers
    assert set(row.covers) <= {"water", "snow", "vegetation", "sparse vegetation", "bare", "unknown"}
    low, high = (limit([scores.mse for scores in row.covers.values()]) for limit in (min, max))
    total = np.average([scores.mse for scores in row.scenes.values()], weights=list(found.scenes.values()))
    assert low * 0.99 <= total <= high * 1.01


def test_the_same_seed_gives_the_same_scores(pairs):
    def numbers(seed):
        rows = evaluate([], pairs, EvaluationSettings(seed=seed, windows=1)).rows
        return [(row.overall.mse, row.overall.sam_median, row.overall.ergas, row.interval["rmse"]) for row in rows]

    assert numbers(1) == numbers(1)
    assert any(numbers(1) != numbers(seed) for seed in (2, 3, 4))


def test_windows_cover_every_pixel_once():
    rng = np.random.default_rng(0)
    for shape in ((3, 3), (128, 129), (300, 40)):
        seen = np.zeros(shape, int)
        for window in windows_of(shape, rng):
            assert max(window.height, window.width) <= 128
            seen[window.row : window.row + window.height, window.col : window.col + window.width] += 1
        assert (seen == 1).all()


def test_every_pair_comes_before_any_comes_again():
    sizes = [SimpleNamespace(shape=(rows, 130)) for rows in (100, 260, 300)]
    order = [pair for pair, _ in spread_windows(sizes, np.random.default_rng(0))]
    assert len(order) == 2 + 6 + 6
    assert len({id(pair) for pair in order[:3]}) == 3


def test_a_scene_has_at_most_so_many_windows():
    pairs = make_pairs(6, 2)
    assert list(evaluate([], pairs, EvaluationSettings(windows=2)).scenes.values()) == [288, 288]


def broken(pair):
    class Broken(ArrayPair):
        def read(self, *_):
            raise DataError(f"{self.name}: damaged")

    return Broken(**vars(pair))


def test_what_cannot_be_scored_is_left_out_and_told():
    good, gone, blank, odd, other = make_pairs(5)
    gone = broken(gone)
    blank = replace(blank, measured=np.full_like(blank.measured, np.nan))
    odd = replace(odd, truth=odd.truth[:30], target=odd.target.select(range(30)))
    found = evaluate([], [good, gone, blank, odd, other], left_out={"elsewhere": "no partner"})
    assert set(found.scenes) == {good.scene, other.scene}
    assert set(found.left_out) == {"elsewhere", gone.name, gone.scene, blank.scene, odd.name}
    assert found.left_out[gone.name] == f"{gone.name}: damaged"
    assert "its bands are not the 12 and 40" in found.left_out[odd.name]
    assert "no pixel known to both" in found.left_out[blank.scene]
    assert "left out: elsewhere: no partner" in table(found)


def test_nothing_to_score_is_an_error():
    (pair,) = make_pairs(1)
    with pytest.raises(
        DataError, match=r"nothing can be scored \(scene 0: no pixel known to both\); .* Give other pairs"
    ):
        evaluate([], [replace(pair, truth=np.full_like(pair.truth, np.nan))])
    with pytest.raises(DataError, match="there are no pairs; at least one is needed"):
        evaluate([], [])


def test_sentinel_2a_and_2b_are_scored_together_each_by_its_own_bands():
    first, second = make_pairs(2)
    other = load_sensor("sentinel2b").grid
    found = evaluate([], [first, replace(second, source=other)])
    made = load_weights().prior.condition(other, second.target).reconstruct(second.measured)
    assert row_of(found, "prior").scenes[second.scene].rmse == pytest.approx(rmse(made, second.truth), rel=1e-5)


def test_bands_that_the_prior_does_not_know_are_not_scored():
    (pair,) = make_pairs(1)
    wide = grid_of(np.append(pair.target.wavelength_nm, 2600.0))
    found = evaluate([], [replace(pair, truth=np.concatenate([pair.truth, pair.truth[:1]]), target=wide)])
    assert len(found.target) == 40
    assert any("1 true bands outside 370-2510 nm" in note for note in found.notes)


def test_examples_and_pictures_are_of_the_truth(pairs):
    pairs = make_pairs(5, side=20)
    found = evaluate(["linear"], pairs)
    titles = [example.title for example in found.examples]
    assert 3 <= len(found.examples) <= 8
    assert any("worst of linear" in title for title in titles)
    assert any("median error of linear" in title for title in titles)
    assert any("typical of " in title for title in titles)
    for example in found.examples:
        assert example.truth.shape == (40,)
        assert example.measured.shape == (12,)
        assert set(example.made) == {row.method for row in found.rows}
        assert set(example.sigma) == {"prior", "linear"}
        assert any((pair.truth.reshape(40, -1) == example.truth[:, None]).all(axis=0).any() for pair in pairs)
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    errors = [np.square(conditional.reconstruct(pair.measured) - pair.truth).mean(axis=0).max() for pair in pairs]
    worst = np.sqrt(max(errors))
    shown = found.examples[-1]
    assert np.sqrt(np.mean((shown.made["linear"] - shown.truth) ** 2)) == pytest.approx(worst, rel=1e-4)
    assert [picture.is_worst for picture in found.pictures] == [True] * 3 + [False] * 4
    assert [picture.rmse for picture in found.pictures[:3]] == sorted(
        (picture.rmse for picture in found.pictures[:3]), reverse=True
    )
    for picture in found.pictures:
        assert picture.method == "linear"
        assert picture.truth.shape == picture.made.shape == (3, 20, 20)
        assert np.sqrt(np.mean(picture.error**2)) == pytest.approx(picture.rmse, rel=1e-5)


def test_facts_and_csv_have_every_number_once(found):
    told = json.loads(json.dumps(facts(found), allow_nan=False))
    assert [row["method"] for row in told["rows"]] == [row.method for row in found.rows]
    assert told["rows"][0]["overall"]["coverage_90"] is None
    assert told["pixels"] == found.pixels
    rows = list(csv.DictReader(rows_of_csv(found).splitlines()))
    assert len(rows) == len(found.rows) * (len(found.scenes) + 1)
    for row in rows:
        scores = row_of(found, row["method"])
        scores = scores.overall if row["scene"] == "*" else scores.scenes[row["scene"]]
        assert float(row["rmse"]) == scores.rmse
        assert (row["coverage_90"] == "") == np.isnan(scores.coverage_90)


def test_the_table_fits_a_terminal_and_says_its_conventions(found):
    text = table(found)
    assert max(map(len, text.splitlines())) <= 120
    for word in ("accuracy", "2205 nm", "90 %", "s/Mpx", "by scene", "by land cover", "PSNR: dB, peak 1", "scene 2"):
        assert word in text
    line = next(line for line in text.splitlines() if line.startswith("prior"))
    assert line.split()[1] == f"{1e4 * row_of(found, 'prior').overall.mse:.2f}"


def test_many_scenes_are_told_in_more_blocks():
    text = table(evaluate([], make_pairs(12, side=7)))
    assert max(map(len, text.splitlines())) <= 120
    assert sum("by scene" in line for line in text.splitlines()) > 1
    assert all(f"scene {number}" in text for number in range(12))


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "shaken.safetensors"
    return str(network_weights(path, "dlr-ibm-spectral", **SMALL).path)


@pytest.fixture
def corpus(tmp_path):
    for cube in smooth_cubes(3, side=6, bands=120):
        save_cube(tmp_path / "corpus" / f"{cube.scene}.npz", cube.values, cube.grid.wavelength_nm)
    return tmp_path / "corpus"


def test_a_model_that_loses_is_told_in_red(corpus, worse, ms2hs, monkeypatch):
    shown = []
    monkeypatch.setattr(typer, "secho", lambda text, fg=None, **_: shown.append((text, fg)))
    code, _, _ = ms2hs("evaluate", "--corpus", corpus, "--model", worse, "--model", "linear")
    assert code == 0
    red = [text for text, color in shown if color == "red"]
    assert all(text.startswith("shaken") for text in red)
    assert "shaken loses to the prior: its RMSE is" in red[-1]
    assert sum(text.startswith("linear") for text, color in shown if color is None) >= 3


def test_the_command_scores_simulated_pairs(corpus, ms2hs):
    code, out, err = ms2hs("evaluate", "--corpus", corpus, "--target", "emit", "--model", "linear", "--seed", 3)
    assert (code, err) == (0, "")
    assert f"simulated sentinel2a to emit, from {corpus}" in out
    cubes = [SimulatedPair(cube, "sentinel2a", load_sensor("emit").grid) for cube in _cubes(corpus)]
    row = row_of(evaluate(["linear"], cubes, EvaluationSettings(seed=3)), "linear")
    line = next(line for line in out.splitlines() if line.startswith("linear"))
    assert line.split()[1] == f"{1e4 * row.overall.mse:.2f}"
    code, out, _ = ms2hs("evaluate", "--corpus", corpus, "--scene", "scene 1", "--json")
    assert code == 0
    assert list(json.loads(out)["scenes"]) == ["scene 1"]


def _cubes(corpus):
    from ms2hs.datasets.cubes.registry import open_cubes

    return open_cubes(corpus)


def test_the_command_scores_pairs_of_a_folder(pairs, ms2hs, monkeypatch, tmp_path):
    asked = []

    def open_usable(folder, split):
        asked.append((folder, split))
        return pairs, {"lonely": "no partner"}

    monkeypatch.setattr(pair_set, "_open_usable", open_usable)
    code, out, err = ms2hs("evaluate", "--pairs", tmp_path, "--split", "test")
    assert (code, err) == (0, "")
    assert asked == [(tmp_path, "test")]
    assert "left out: lonely: no partner" in out
    assert "note: the source is simulated" not in out
    assert out.startswith(f"pairs of {tmp_path}, split test\n")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.csv").write_text("cube 0\n")
    _, out, _ = ms2hs("evaluate", "--pairs", tmp_path)
    assert out.startswith(f"pairs of {tmp_path}, the training split included\n")
    code, _, err = ms2hs("evaluate", "--pairs", tmp_path, "--scene", "scene 9")
    assert_clear(code, err, "unknown scene 'scene 9'; known: scene 0")


def test_the_report_and_its_numbers_are_written(corpus, ms2hs, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "write_report", lambda evaluation, path: path.write_text(evaluation.title))
    page = tmp_path / "page.html"
    code, out, _ = ms2hs("evaluate", "--corpus", corpus, "--report", page)
    assert code == 0
    assert out.splitlines()[-3:] == [str(page.with_suffix(suffix)) for suffix in (".html", ".csv", ".json")]
    assert "simulated" in page.read_text()
    told = json.loads(page.with_suffix(".json").read_text())
    assert told["command"].startswith("ms2hs evaluate --corpus")
    code, _, err = ms2hs("evaluate", "--corpus", corpus, "--report", page)
    assert_clear(code, err, "page.html")
    assert ms2hs("evaluate", "--corpus", corpus, "--report", page, "--overwrite")[0] == 0


USAGE = [
    [],
    ["--pairs", "a", "--corpus", "b"],
    ["--cube", "a.tif"],
    ["--corpus", "b", "--truth", "a.tif"],
    ["--pairs", "a", "--hidden", "0.5"],
    ["--corpus", "a", "--hidden", "0.5", "--report", "r.html"],
    ["--corpus", "a", "--windows", "0"],
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_usage_is_explained(words, ms2hs):
    code, out, err = ms2hs("evaluate", *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_unknown_names_are_one_clear_message(corpus, ms2hs):
    for option, name in (("--target", "pluto"), ("--source", "pluto"), ("--model", "pluto"), ("--prior", "pluto")):
        code, out, err = ms2hs("evaluate", "--corpus", corpus, option, name)
        assert out == ""
        assert_clear(code, err, "unknown (sensor|weights) 'pluto'; known: ")


def write_cube(path, values, grid, tags=None, gsd_m=30.0):
    """A float GeoTIFF with wavelengths."""
    band_tags = {
        "IMAGERY": [
            {"CENTRAL_WAVELENGTH_UM": str(centre / 1000), "FWHM_UM": str(width / 1000)}
            for centre, width in zip(grid.wavelength_nm, grid.fwhm_nm, strict=True)
        ]
    }
    return write_raster(path, values.astype(np.float32), gsd_m, band_tags=band_tags, nodata=np.nan, tags=tags or {})


@pytest.fixture
def cubes(tmp_path):
    """A true cube of fine bands; its folder."""
    (cube,) = smooth_cubes(1, bands=200, side=20)
    return ArrayCube(cube.name, cube.scene, cube.grid, cube.values), tmp_path


def test_a_perfect_conversion_has_no_error(cubes):
    cube, folder = cubes
    path = write_cube(folder / "same.tif", cube.values, cube.grid)
    (row,) = evaluate_cube(path, path).rows
    assert (row.method, row.kind, row.loses) == ("same", "model", False)
    scores = row.overall
    assert (scores.rmse, scores.bias, scores.sam_median, scores.mse) == (0, 0, 0, 0)
    assert scores.ssim == pytest.approx(1)
    assert np.isnan(scores.coverage_90)
    assert np.isnan(scores.unmasked_mse)  # the file does not say what it was converted from


def test_a_conversion_that_is_off_is_off_by_that(cubes):
    cube, folder = cubes
    truth = write_cube(folder / "true.tif", cube.values, cube.grid)
    values = cube.values + np.float32(0.02)
    values[:, :3] = np.nan
    made = write_cube(folder / "made.tif", values, cube.grid, {"MS2HS_SOURCE": "sentinel2a"})
    write_cube(
        folder / "made_sigma.tif", np.where(np.arange(200) < 100, 0.011, 0.013)[:, None, None] + 0 * values, cube.grid
    )
    found = evaluate_cube(made, truth)
    scores = found.rows[0].overall
    assert scores.bias == pytest.approx(0.02, abs=1e-6)
    assert scores.rmse == pytest.approx(0.02, abs=1e-6)
    assert scores.unmasked_mse == pytest.approx(scores.masked_mse, rel=1e-4)
    assert scores.coverage_90 == pytest.approx(0.5)  # 0.02 lies within 1.645 times 0.013, not 0.011
    assert found.pixels == 17 * 20
    assert len(found.source) == 12
    assert found.measured.any()
    assert found.examples
    assert max(map(len, table(found).splitlines())) <= 120


def test_the_truth_is_seen_through_the_cubes_bands(cubes):
    cube, folder = cubes
    truth = write_cube(folder / "true.tif", cube.values, cube.grid)
    wide = grid_of(np.array([2600.0, 660.0, 1600.0, 860.0]), np.array([20.0, 30.0, 80.0, 40.0]))
    inner = wide.select([1, 2, 3])
    _, seen = SimulatedPair(cube, "sentinel2a", inner.select(np.argsort(inner.wavelength_nm))).read(0, 0, 20, 20)
    values = np.stack([np.full((20, 20), 0.5, np.float32), seen[0], seen[2], seen[1]])
    found = evaluate_cube(write_cube(folder / "wide.tif", values, wide), truth)
    assert found.target.wavelength_nm.tolist() == [660, 860, 1600, 2600]
    assert found.rows[0].overall.rmse == pytest.approx(0, abs=1e-6)  # the truth does not reach 2600 nm
    assert np.isnan(found.curves["wide"].rmse).tolist() == [False, False, False, True]


def test_cubes_that_do_not_fit_are_one_clear_message(cubes, ms2hs):
    cube, folder = cubes
    good = write_cube(folder / "good.tif", cube.values, cube.grid)
    small = write_cube(folder / "small.tif", cube.values[:, :9], cube.grid)
    moved = write_cube(folder / "moved.tif", cube.values, cube.grid, gsd_m=20.0)
    bare = write_raster(folder / "bare.tif", cube.values, 30.0)
    blank = write_cube(folder / "blank.tif", np.full_like(cube.values, np.nan), cube.grid)
    far = write_cube(folder / "far.tif", cube.values[:5], grid_of(np.linspace(2450, 2500, 5)))
    told = {
        small: r"is 20x20 pixels of 30x30 .* is 9x20 pixels .* Warp one onto the other",
        moved: "pixels of 20x20",
        bare: "bands without a wavelength",
        blank: "no pixel is known both in it and in",
        far: "tells none of the bands of",
        folder / "nowhere.tif": r"nowhere\.tif",
    }
    for truth, message in told.items():
        code, out, err = ms2hs("evaluate", "--cube", good, "--truth", truth)
        assert out == "", truth
        assert_clear(code, err, message)
    write_cube(folder / "good_sigma.tif", cube.values[:5], cube.grid.select(range(5)))
    with pytest.raises(GridError, match="convert again with --uncertainty"):
        evaluate_cube(good, good)


def test_lines_that_lose_are_marked(corpus, worse):
    cubes = [SimulatedPair(cube, "sentinel2a", load_sensor("enmap").grid) for cube in _cubes(corpus)]
    lines = lines_of(evaluate([worse], cubes))
    assert {line.text.split()[0] for line in lines if line.loses} == {"shaken"}


def test_real_cubes_are_made_best_by_the_prior(real_data):
    # it was estimated from these scenes among others: this says that the numbers make sense, not how good it is
    target = load_sensor("enmap").grid
    chosen = [cube for cube in _cubes(real_data) if cube.scene in {"sjer", "franschhoek"}]
    pairs = [SimulatedPair(cube, "sentinel2a", target) for cube in chosen]
    found = evaluate(["linear"], pairs, EvaluationSettings(windows=8))
    best = row_of(found, "prior")
    assert all(row.overall.rmse >= best.overall.rmse for row in found.rows)
    assert best.overall.rmse < 0.01
    assert 0.7 < best.overall.coverage_90 <= 1
