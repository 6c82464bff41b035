"""Evaluation of pairs, cubes and converted cubes, against the same scores by numpy; and its command."""

import csv
import json
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_raster
from cubes_of_arrays import ArrayCube, smooth_cubes
from test_baselines import SMALL, network_weights
from test_pretraining import assert_clear, save_cube

from ms2hs.datasets.pairs import pair_set
from ms2hs.datasets.pairs.pair_set import PairSet
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError, GridError
from ms2hs.evaluation.cube_evaluation import evaluate_cube
from ms2hs.evaluation.evaluator import EvaluationSettings, evaluate_pairs, random_windows, spread_windows
from ms2hs.evaluation.metric_table import METRICS
from ms2hs.evaluation.report import page as report
from ms2hs.evaluation.report.numbers import csv_of, evaluation_json
from ms2hs.evaluation.report.terminal import print_evaluation
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


def evaluate(models, pairs, settings=None):
    """The evaluation of a list of pairs."""
    return evaluate_pairs(models, PairSet("synthetic pairs", pairs), settings)


@pytest.fixture(scope="module")
def pairs():
    """Four pairs of three scenes, some values unknown, some pixels not measured."""
    made = make_pairs(4, 3, unknown=0.02)
    made[0].measured[3, 2:4, :5] = np.nan
    return made


@pytest.fixture(scope="module")
def evaluation(pairs):
    return evaluate(["linear"], pairs, EvaluationSettings(command="ms2hs evaluate"))


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


def test_scores_of_the_prior_equal_numpy_on_whole_scenes(pairs, evaluation):
    prior, target = load_weights().prior, pairs[0].target
    conditional, row = prior.condition(SOURCE, target), row_of(evaluation, "prior")
    known = pasted_bands(SOURCE, target) >= 0
    np.testing.assert_array_equal(evaluation.measured, known)
    scenes = sorted({pair.scene for pair in pairs})
    assert list(row.scenes) == scenes
    for scene in scenes:
        measured, truth = whole(pairs, scene)
        made = conditional.reconstruct(measured).astype(float)
        scores = row.scenes[scene]
        assert evaluation.scenes[scene] == measured.shape[1]
        assert scores["mse"] == pytest.approx(np.nanmean((made - truth) ** 2), rel=1e-5)
        assert scores["masked_mse"] == pytest.approx(np.nanmean((made - truth)[~known] ** 2), rel=1e-5)
        assert scores["unmasked_mse"] == pytest.approx(np.nanmean((made - truth)[known] ** 2), rel=1e-5)
        assert scores["rmse"] == pytest.approx(rmse(made, truth), rel=1e-5)
        assert scores["sam_median"] == pytest.approx(sam(made, truth), rel=1e-4)
        inside = np.abs(made - truth) <= 1.6448536 * conditional.sigma(measured)
        assert scores["coverage_90"] == pytest.approx(inside[np.isfinite(truth)].mean(), abs=1e-3)
    for number in ("mse", "rmse", "sam_mean", "ergas", "r2", "psnr"):
        expected = np.mean([row.scenes[scene][number] for scene in scenes])
        assert row.overall[number] == pytest.approx(expected)
    assert evaluation.pixels == sum(whole(pairs, scene)[0].shape[1] for scene in scenes) == 4 * 144 - 10


def test_curves_are_means_over_scenes(pairs, evaluation):
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    by_scene = []
    for scene in sorted({pair.scene for pair in pairs}):
        measured, truth = whole(pairs, scene)
        by_scene.append(np.sqrt(np.nanmean((conditional.reconstruct(measured).astype(float) - truth) ** 2, axis=1)))
    np.testing.assert_allclose(evaluation.curves["prior"].rmse, np.mean(by_scene, axis=0), rtol=1e-5)
    assert evaluation.curves["interpolation"].reliability is None
    assert (np.diff(evaluation.curves["prior"].reliability) >= 0).all()
    assert evaluation.curves["prior"].sam.shape == (40,)


def test_ssim_is_the_mean_over_windows():
    pairs = make_pairs(2, side=20)
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    valid = np.ones((20, 20), bool)
    row = row_of(evaluate([], pairs), "prior")
    for pair in pairs:
        expected = ssim(conditional.reconstruct(pair.measured), pair.truth, valid)
        assert row.scenes[pair.scene]["ssim"] == pytest.approx(expected, abs=1e-6)
    small = evaluate([], make_pairs(2, side=SSIM_PIXELS - 1))
    assert np.isnan(row_of(small, "prior").overall["ssim"])


def test_rows_have_their_ratio_to_the_prior(evaluation):
    assert [row.method for row in evaluation.rows][-2:] == ["prior", "linear"]
    prior, linear, mean = (row_of(evaluation, name) for name in ("prior", "linear", "mean spectrum"))
    assert (prior.to_prior, linear.to_prior, linear.loses) == (1, 1, False)
    assert mean.to_prior == pytest.approx(mean.overall["rmse"] / prior.overall["rmse"])
    assert mean.to_prior > 1
    assert not mean.loses  # it is no model
    assert linear.overall["mse"] == prior.overall["mse"]
    assert all(row.overall["seconds"] > 0 for row in evaluation.rows)


def test_interval_is_a_bootstrap_over_scenes(evaluation):
    row = row_of(evaluation, "interpolation")
    values = [scores["rmse"] for scores in row.scenes.values()]
    low, high = row.interval["rmse"]
    assert min(values) <= low <= row.overall["rmse"] <= high <= max(values)
    assert set(row.interval) == {"mse", "rmse", "sam_median"}
    alone = evaluate([], make_pairs(1))
    assert row_of(alone, "prior").interval == {}


def test_land_covers_are_scored_over_all_scenes(evaluation):
    row = row_of(evaluation, "prior")
    assert row.covers
    assert set(row.covers) <= {"water", "snow", "vegetation", "sparse vegetation", "bare", "unknown"}
    low, high = (limit([scores["mse"] for scores in row.covers.values()]) for limit in (min, max))
    total = np.average([scores["mse"] for scores in row.scenes.values()], weights=list(evaluation.scenes.values()))
    assert low * 0.99 <= total <= high * 1.01


def test_the_same_seed_gives_the_same_scores(pairs):
    def numbers(seed):
        rows = evaluate([], pairs, EvaluationSettings(seed=seed, windows=1)).rows
        return [
            (row.overall["mse"], row.overall["sam_median"], row.overall["ergas"], row.interval["rmse"]) for row in rows
        ]

    assert numbers(1) == numbers(1)
    assert any(numbers(1) != numbers(seed) for seed in (2, 3, 4))


def test_windows_cover_every_pixel_once():
    rng = np.random.default_rng(0)
    for shape in ((3, 3), (128, 129), (300, 40)):
        seen = np.zeros(shape, int)
        for window in random_windows(shape, rng):
            assert max(window.height, window.width) <= 128
            seen[window.row : window.row + window.height, window.col : window.col + window.width] += 1
        assert (seen == 1).all()


def test_every_pair_is_read_before_any_is_read_again():
    sizes = [SimpleNamespace(shape=(rows, 130)) for rows in (100, 260, 300)]
    order = [pair for pair, _ in spread_windows(sizes, np.random.default_rng(0))]
    assert len(order) == 2 + 6 + 6
    assert len({id(pair) for pair in order[:3]}) == 3


def test_windows_of_a_scene_are_limited():
    pairs = make_pairs(6, 2)
    assert list(evaluate([], pairs, EvaluationSettings(windows=2)).scenes.values()) == [288, 288]


def broken(pair):
    class Broken(ArrayPair):
        def read(self, *_):
            raise DataError(f"{self.name}: damaged")

    return Broken(**vars(pair))


def test_pairs_that_cannot_be_scored_are_left_out_with_a_reason(capsys):
    good, gone, blank, odd, other = make_pairs(5)
    gone = broken(gone)
    blank = replace(blank, measured=np.full_like(blank.measured, np.nan))
    odd = replace(odd, truth=odd.truth[:30], target=odd.target.select(range(30)))
    evaluation = evaluate_pairs([], PairSet("", [good, gone, blank, odd, other], {"elsewhere": "no partner"}))
    text = printed(evaluation, capsys)
    assert set(evaluation.scenes) == {good.scene, other.scene}
    assert set(evaluation.left_out) == {"elsewhere", gone.name, gone.scene, blank.scene, odd.name}
    assert evaluation.left_out[gone.name] == f"{gone.name}: damaged"
    assert "its bands are not the 12 source and 40 target bands of most pairs" in evaluation.left_out[odd.name]
    assert "no pixel has all source bands and a true band" in evaluation.left_out[blank.scene]
    assert "left out: elsewhere: no partner" in text


def test_no_pixel_to_score_is_an_error():
    (pair,) = make_pairs(1)
    with pytest.raises(
        DataError, match=r"no pixel can be scored \(scene 0: no pixel has all source bands .*\); .* Use other pairs"
    ):
        evaluate([], [replace(pair, truth=np.full_like(pair.truth, np.nan))])
    with pytest.raises(DataError, match="there are no pairs to score; at least one is needed"):
        evaluate([], [])


def test_sentinel_2a_and_2b_are_scored_together_by_their_own_bands():
    first, second = make_pairs(2)
    other = load_sensor("sentinel2b").grid
    evaluation = evaluate([], [first, replace(second, source=other)])
    made = load_weights().prior.condition(other, second.target).reconstruct(second.measured)
    assert row_of(evaluation, "prior").scenes[second.scene]["rmse"] == pytest.approx(rmse(made, second.truth), rel=1e-5)


def test_bands_outside_the_weights_are_not_scored():
    (pair,) = make_pairs(1)
    wide = grid_of(np.append(pair.target.wavelength_nm, 2600.0))
    evaluation = evaluate([], [replace(pair, truth=np.concatenate([pair.truth, pair.truth[:1]]), target=wide)])
    assert len(evaluation.target) == 40
    assert any("1 true bands outside 370-2510 nm" in note for note in evaluation.notes)


def test_examples_are_pixels_and_windows_of_the_truth(pairs):
    pairs = make_pairs(5, side=20)
    evaluation = evaluate(["linear"], pairs)
    titles = [example.title for example in evaluation.examples]
    assert 3 <= len(evaluation.examples) <= 8
    assert any("worst of linear" in title for title in titles)
    assert any("median error of linear" in title for title in titles)
    assert any("typical of " in title for title in titles)
    for example in evaluation.examples:
        assert example.truth.shape == (40,)
        assert example.measured.shape == (12,)
        assert set(example.predicted) == {row.method for row in evaluation.rows}
        assert set(example.sigma) == {"prior", "linear"}
        assert any((pair.truth.reshape(40, -1) == example.truth[:, None]).all(axis=0).any() for pair in pairs)
    conditional = load_weights().prior.condition(SOURCE, pairs[0].target)
    errors = [np.square(conditional.reconstruct(pair.measured) - pair.truth).mean(axis=0).max() for pair in pairs]
    worst = np.sqrt(max(errors))
    shown = evaluation.examples[-1]
    assert np.sqrt(np.mean((shown.predicted["linear"] - shown.truth) ** 2)) == pytest.approx(worst, rel=1e-4)
    assert [picture.is_worst for picture in evaluation.windows] == [True] * 3 + [False] * (len(evaluation.windows) - 3)
    assert len({picture.title for picture in evaluation.windows}) == len(evaluation.windows) >= 4
    assert len({title.partition(":")[0] for title in titles}) == len(titles)
    assert [picture.rmse for picture in evaluation.windows[:3]] == sorted(
        (picture.rmse for picture in evaluation.windows[:3]), reverse=True
    )
    for picture in evaluation.windows:
        assert picture.method == "linear"
        assert picture.truth.shape == picture.predicted.shape == (3, 20, 20)
        assert np.sqrt(np.mean(picture.error**2)) == pytest.approx(picture.rmse, rel=1e-5)


def test_json_and_csv_have_every_score(evaluation):
    written = json.loads(json.dumps(evaluation_json(evaluation), allow_nan=False))
    assert [row["method"] for row in written["rows"]] == [row.method for row in evaluation.rows]
    assert written["rows"][0]["overall"]["coverage_90"] is None
    assert written["pixels"] == evaluation.pixels
    rows = list(csv.DictReader(csv_of(evaluation).splitlines()))
    assert len(rows) == len(evaluation.rows) * (len(evaluation.scenes) + 1)
    for row in rows:
        scores = row_of(evaluation, row["method"])
        scores = scores.overall if row["scene"] == "*" else scores.scenes[row["scene"]]
        assert float(row["rmse"]) == scores["rmse"]
        assert (row["coverage_90"] == "") == np.isnan(scores["coverage_90"])


def printed(evaluation, capsys, monkeypatch=None, width=None):
    """What is printed, to a file or to a terminal of a width."""
    if width:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    print_evaluation(evaluation)
    return capsys.readouterr().out


def lines_of_method(text, method):
    return [line for line in plain(text).splitlines() if line.split(" ")[0] == method]


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_text_has_every_table_and_definition(evaluation, capsys):
    text = printed(evaluation, capsys)
    for word in (
        "Error, angle",
        "2205",
        "90 %",
        "s/Mpx",
        "by scene",
        "by land cover",
        "PSNR: -10 log10(MSE)",
        "scene 2",
    ):
        assert word in text
    scores = row_of(evaluation, "prior").overall
    error, squared, depth, *_ = lines_of_method(text, "prior")
    assert error.split()[1:3] == [f"{scores['rmse']:.4f}", f"{scores['bias']:+.4f}"]
    assert squared.split()[1] == f"{1e4 * scores['mse']:.3f}"
    assert depth.split()[3] == f"{scores['depth_670']:.4f}"
    assert "\x1b" not in text, "no colours in a file"


def test_text_has_a_line_for_every_scene(capsys):
    evaluation = evaluate([], make_pairs(12, side=7))
    lines = printed(evaluation, capsys).splitlines()
    assert max(map(len, lines)) <= 120
    prior = row_of(evaluation, "prior").scenes
    for number in range(12):
        by_rmse, by_angle = (line.split() for line in lines if line.startswith(f"scene {number} "))
        assert by_rmse[-1] == f"{prior[f'scene {number}']['rmse']:.4f}"
        assert by_angle[-1] == f"{prior[f'scene {number}']['sam_median']:.2f}"


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_text_never_cuts_a_number(evaluation, width, capsys, monkeypatch):
    text = plain(printed(evaluation, capsys, monkeypatch, width))
    if width >= 80:
        tables = text[: text.index("Means over scenes")]
        assert max(map(len, tables.splitlines())) <= width
    for row in evaluation.rows:
        for key in ("rmse", "mse", "sam_median", "depth_2205"):
            assert re.search(rf"(?<!\S){re.escape(METRICS[key].text(row.overall[key]))}(?!\S)", text), (row.method, key)


def test_text_marks_models_that_lose_in_red(evaluation, capsys, monkeypatch):
    worse = replace(row_of(evaluation, "linear"), method="worse", to_prior=1.5)
    rows = (*evaluation.rows, worse)
    text = printed(replace(evaluation, rows=rows), capsys, monkeypatch, 100)
    red = [line for line in text.splitlines() if "\x1b[31m" in line]
    assert {plain(line).split()[0] for line in red} == {"worse"}
    assert plain(red[-1]).startswith("worse loses to the prior: its RMSE is 1.500 times the prior's")
    monkeypatch.setenv("NO_COLOR", "1")
    capsys.readouterr()
    print_evaluation(replace(evaluation, rows=rows))
    text = capsys.readouterr().out
    assert "\x1b[31m" not in text
    assert "worse loses to the prior" in text


def test_pair_set_gives_title_and_pairs_left_out(pairs):
    evaluation = evaluate_pairs([], PairSet("invented pairs", pairs[:1], {"lonely": "no partner"}))
    assert evaluation.title == "invented pairs"
    assert evaluation.left_out == {"lonely": "no partner"}
    assert list(evaluation.scenes) == [pairs[0].scene]


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "shaken.safetensors"
    return str(network_weights(path, "dlr-ibm-spectral", **SMALL).path)


@pytest.fixture
def corpus(tmp_path):
    for cube in smooth_cubes(3, side=6, bands=120):
        save_cube(tmp_path / "corpus" / f"{cube.scene}.npz", cube.values, cube.grid.wavelength_nm)
    return tmp_path / "corpus"


def test_command_marks_models_that_lose_in_red(corpus, worse, ms2hs, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, _ = ms2hs("evaluate", "--corpus", corpus, "--model", worse, "--model", "linear")
    assert code == 0
    *rows, loss = lines_of_method(out, "shaken")
    assert len(rows) == 4
    assert loss.startswith("shaken loses to the prior: its RMSE is")
    lines = {plain(line): line for line in out.splitlines()}
    assert all("\x1b[31m" in lines[line] for line in (*rows, loss))
    assert len(lines_of_method(out, "linear")) == 4
    assert not any("\x1b[31m" in lines[line] for line in lines_of_method(out, "linear"))


def test_command_scores_simulated_pairs(corpus, ms2hs):
    code, out, err = ms2hs("evaluate", "--corpus", corpus, "--target", "emit", "--model", "linear", "--seed", 3)
    assert (code, err) == (0, "")
    assert f"simulated sentinel2a to emit, from {corpus}" in out
    cubes = [SimulatedPair(cube, "sentinel2a", load_sensor("emit").grid) for cube in _cubes(corpus)]
    row = row_of(evaluate(["linear"], cubes, EvaluationSettings(seed=3)), "linear")
    error, squared, *_ = lines_of_method(out, "linear")
    assert error.split()[1] == f"{row.overall['rmse']:.4f}"
    assert squared.split()[1] == f"{1e4 * row.overall['mse']:.3f}"
    code, out, _ = ms2hs("evaluate", "--corpus", corpus, "--scene", "scene 1", "--json")
    assert code == 0
    assert list(json.loads(out)["scenes"]) == ["scene 1"]


def _cubes(corpus):
    from ms2hs.datasets.cubes.registry import open_cubes

    return open_cubes(corpus)


def test_command_scores_pairs_of_a_folder(pairs, ms2hs, monkeypatch, tmp_path):
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


def test_command_writes_report_csv_and_json(corpus, ms2hs, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "write_report", lambda run, path, **_: path.write_text(run.title) and path)
    page = tmp_path / "page.html"
    code, out, _ = ms2hs("evaluate", "--corpus", corpus, "--report", page)
    assert code == 0
    assert out.splitlines()[-3:] == [str(page.with_suffix(suffix)) for suffix in (".npz", ".csv", ".json")]
    assert "simulated" in page.read_text()
    written = json.loads(page.with_suffix(".json").read_text())
    assert written["command"].startswith("ms2hs evaluate corpus")
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
def test_wrong_usage_gives_exit_code_2(words, ms2hs):
    code, out, err = ms2hs("evaluate", *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_unknown_names_give_one_clear_message(corpus, ms2hs):
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


def test_perfect_cube_has_no_error(cubes):
    cube, folder = cubes
    path = write_cube(folder / "same.tif", cube.values, cube.grid)
    (row,) = evaluate_cube(path, path).rows
    assert (row.method, row.kind, row.loses) == ("same", "model", False)
    scores = row.overall
    assert (scores["rmse"], scores["bias"], scores["sam_median"], scores["mse"]) == (0, 0, 0, 0)
    assert scores["ssim"] == pytest.approx(1)
    assert np.isnan(scores["coverage_90"])
    assert np.isnan(scores["unmasked_mse"])  # the file does not say what it was converted from


def test_constant_error_of_a_cube_is_its_bias(cubes, capsys):
    cube, folder = cubes
    truth = write_cube(folder / "true.tif", cube.values, cube.grid)
    values = cube.values + np.float32(0.02)
    values[:, :3] = np.nan
    made = write_cube(folder / "made.tif", values, cube.grid, {"MS2HS_SOURCE": "sentinel2a"})
    write_cube(
        folder / "made_sigma.tif", np.where(np.arange(200) < 100, 0.011, 0.013)[:, None, None] + 0 * values, cube.grid
    )
    calls = []
    evaluation = evaluate_cube(made, truth, progress=lambda *call: calls.append(call))
    assert calls == [("windows", 1, 1)]
    scores = evaluation.rows[0].overall
    assert scores["bias"] == pytest.approx(0.02, abs=1e-6)
    assert scores["rmse"] == pytest.approx(0.02, abs=1e-6)
    assert scores["unmasked_mse"] == pytest.approx(scores["masked_mse"], rel=1e-4)
    assert scores["coverage_90"] == pytest.approx(0.5)  # 0.02 lies within 1.645 times 0.013, not 0.011
    assert evaluation.pixels == 17 * 20
    assert len(evaluation.source) == 12
    assert evaluation.measured.any()
    assert evaluation.examples
    assert max(map(len, printed(evaluation, capsys).splitlines())) <= 120


def test_truth_is_converted_to_the_bands_of_the_cube(cubes):
    cube, folder = cubes
    truth = write_cube(folder / "true.tif", cube.values, cube.grid)
    wide = grid_of(np.array([2600.0, 660.0, 1600.0, 860.0]), np.array([20.0, 30.0, 80.0, 40.0]))
    inner = wide.select([1, 2, 3])
    _, seen = SimulatedPair(cube, "sentinel2a", inner.select(np.argsort(inner.wavelength_nm))).read(0, 0, 20, 20)
    values = np.stack([np.full((20, 20), 0.5, np.float32), seen[0], seen[2], seen[1]])
    evaluation = evaluate_cube(write_cube(folder / "wide.tif", values, wide), truth)
    assert evaluation.target.wavelength_nm.tolist() == [660, 860, 1600, 2600]
    assert evaluation.rows[0].overall["rmse"] == pytest.approx(0, abs=1e-6)  # the truth does not reach 2600 nm
    assert np.isnan(evaluation.curves["wide"].rmse).tolist() == [False, False, False, True]


def test_cubes_that_do_not_fit_give_one_clear_message(cubes, ms2hs):
    cube, folder = cubes
    good = write_cube(folder / "good.tif", cube.values, cube.grid)
    small = write_cube(folder / "small.tif", cube.values[:, :9], cube.grid)
    moved = write_cube(folder / "moved.tif", cube.values, cube.grid, gsd_m=20.0)
    bare = write_raster(folder / "bare.tif", cube.values, 30.0)
    blank = write_cube(folder / "blank.tif", np.full_like(cube.values, np.nan), cube.grid)
    far = write_cube(folder / "far.tif", cube.values[:5], grid_of(np.linspace(2450, 2500, 5)))
    messages = {
        small: r"is 20x20 pixels of 30x30 .* is 9x20 pixels .* Warp one onto the other",
        moved: "pixels of 20x20",
        bare: "bands without a wavelength",
        blank: "have no known pixel in common",
        far: r"has no band within \d+-\d+ nm, the range of",
        folder / "nowhere.tif": r"nowhere\.tif",
    }
    for truth, message in messages.items():
        code, out, err = ms2hs("evaluate", "--cube", good, "--truth", truth)
        assert out == "", truth
        assert_clear(code, err, message)
    write_cube(folder / "good_sigma.tif", cube.values[:5], cube.grid.select(range(5)))
    with pytest.raises(GridError, match="convert again with --uncertainty"):
        evaluate_cube(good, good)


def test_prior_scores_best_on_real_cubes(real_data):
    # it was estimated from these scenes among others: this says that the numbers make sense, not how good it is
    target = load_sensor("enmap").grid
    chosen = [cube for cube in _cubes(real_data) if cube.scene in {"sjer", "franschhoek"}]
    pairs = [SimulatedPair(cube, "sentinel2a", target) for cube in chosen]
    evaluation = evaluate(["linear"], pairs, EvaluationSettings(windows=8))
    best = row_of(evaluation, "prior")
    assert all(row.overall["rmse"] >= best.overall["rmse"] for row in evaluation.rows)
    assert best.overall["rmse"] < 0.01
    assert 0.7 < best.overall["coverage_90"] <= 1
