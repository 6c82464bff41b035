"""Completion of cubes with hidden bands: the scores against oracles, and the command."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from cubes_of_arrays import smooth_cubes
from test_pretraining import SIZES, assert_clear, save_cube

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.errors import DataError
from ms2hs.evaluation import completion, metric_table
from ms2hs.evaluation.completion import GROUP, CompletionOptions, complete_cubes
from ms2hs.evaluation.masked_completion import Masking
from ms2hs.evaluation.report.numbers import json_values
from ms2hs.evaluation.report.terminal import print_completion, print_ratios
from ms2hs.evaluation.results import RatioScores
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.spectra.metrics import ssim
from ms2hs.spectra.spectral_grid import grid_of

BANDS, SIDE = 60, 12


def make_corpus(folder, count=5, bands=BANDS, side=SIDE, hole=True):
    for number, cube in enumerate(smooth_cubes(count, bands, side)):
        values = cube.values.copy()
        if hole and number % 2:
            values[:, : number + 1, 2:5] = np.nan
        save_cube(folder / f"place{number}.npz", values, cube.grid.wavelength_nm)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def make_weights(path, name, card=None, shake=0.0, **changes):
    """The weights of an untrained network; noise of size `shake` makes it differ from the prior."""
    torch.manual_seed(0)
    prior = load_weights().prior
    network = SpectralMAE(replace(preset(name), **(SIZES | changes)), prior)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(shake * torch.randn_like(parameter))
    save_weights(path, prior, card or {}, network)
    return str(path)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    card = {"scores": {"train": {"mse": 0.5}}}
    return make_weights(tmp_path_factory.mktemp("w") / "shaken.safetensors", "dlr-ibm-spatial-spectral", card, 0.02)


def options_of(corpus, **changes):
    return CompletionOptions(corpus, **({"windows": 8, "size": SIDE} | changes))


@pytest.fixture
def windows(monkeypatch):
    """A list that receives the windows of each completion."""
    seen = []
    make = completion.completion_windows

    def spy(options):
        seen.append(make(options))
        return seen[-1]

    monkeypatch.setattr(completion, "completion_windows", spy)
    return seen


def test_mse_is_the_weighted_mean_of_hidden_and_visible_mse(corpus, network, windows):
    calls = []
    rows = complete_cubes(["linear", network], options_of(corpus), lambda *call: calls.append(call))
    (seen,) = windows
    assert calls[-1] == ("shaken", len(seen), len(seen))
    assert len(calls) == 4 * len(seen)
    hidden = sum(window.hidden.sum() * window.valid.sum() for window in seen)
    everything = sum(len(window.hidden) * window.valid.sum() for window in seen)
    assert 0 < hidden < everything
    assert sum((~window.valid).sum() for window in seen) > 0
    for row in rows:
        total = (hidden * row.masked_mse + (everything - hidden) * row.unmasked_mse) / everything
        assert row.mse == pytest.approx(total, rel=1e-9), row.model
    assert [row.model for row in rows] == ["mean spectrum", "interpolation", "linear", "shaken"]
    assert [row.train_mse for row in rows][3] == 0.5
    assert all(math.isnan(row.train_mse) for row in rows[:3])


def scored(made, windows):
    """MSE over all, hidden and visible bands, and SSIM, of arrays (band, row, col), by another computation."""
    all_of, hidden, seen, similar = [], [], [], []
    for estimate, window in zip(made, windows, strict=True):
        for band, covered in enumerate(window.hidden):
            errors = (estimate[band].astype(float) - window.truth[band])[window.valid] ** 2
            all_of.append(errors)
            (hidden if covered else seen).append(errors)
        similar.append(ssim(estimate, window.truth, window.valid))
    return *(np.concatenate(part).mean() for part in (all_of, hidden, seen)), np.nanmean(similar)


def numbers(row):
    return row.mse, row.masked_mse, row.unmasked_mse, row.ssim


def test_linear_weights_predict_the_expectation_of_the_prior(corpus, windows):
    mean, _, row = complete_cubes(["linear"], options_of(corpus, hidden=0.5))
    prior = load_weights("linear").prior
    made = []
    for window in windows[0]:
        seen = np.flatnonzero(~window.hidden)
        source = grid_of(window.grid.wavelength_nm[seen], window.grid.fwhm_nm[seen])
        made.append(prior.condition(source, window.grid).reconstruct(window.truth[seen]))
    np.testing.assert_allclose(numbers(row), scored(made, windows[0]), rtol=1e-5)
    assert row.masked_mse < mean.masked_mse


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral"])
def test_untrained_network_predicts_as_the_prior(name, corpus, tmp_path):
    model = make_weights(tmp_path / "untrained.safetensors", name)
    *_, prior, untrained = complete_cubes(["linear", model], options_of(corpus))
    np.testing.assert_allclose(numbers(untrained), numbers(prior), rtol=2e-3)


def test_baselines_are_mean_and_interpolation(corpus, windows):
    mean, between = complete_cubes([], options_of(corpus))
    flat, lines = [], []
    for window in windows[0]:
        values = window.truth[:, window.valid]
        flat.append(np.zeros_like(window.truth) + values.mean(axis=1)[:, None, None])
        seen = ~window.hidden
        made = np.empty_like(window.truth)
        for row, col in np.ndindex(*window.valid.shape):
            nm = window.grid.wavelength_nm
            made[:, row, col] = np.interp(nm, nm[seen], window.truth[seen, row, col])
        lines.append(made)
    np.testing.assert_allclose(numbers(mean), scored(flat, windows[0]), rtol=1e-4)
    np.testing.assert_allclose(numbers(between), scored(lines, windows[0]), rtol=1e-4)
    assert between.unmasked_mse < 1e-12  # what is seen is kept


@pytest.mark.parametrize(("name", "group"), [("dlr-ibm-spectral", 8), ("dlr-ibm-spatial-spectral", 8), ("s2mae", 4)])
def test_network_sees_only_visible_bands(name, group, corpus, tmp_path):
    weights = load_weights(make_weights(tmp_path / "w.safetensors", name, shake=0.02, patch=4, group=group))
    (window, *_) = completion.completion_windows(options_of(corpus))
    made = completion.completed(weights, window)
    assert made.shape == window.truth.shape
    other = replace(window, truth=np.where(window.hidden[:, None, None], 7, window.truth).astype(np.float32))
    np.testing.assert_array_equal(completion.completed(weights, other), made)
    seen = np.flatnonzero(~window.hidden)[0]
    changed = window.truth.copy()
    changed[seen] += 0.1
    assert np.abs(completion.completed(weights, replace(window, truth=changed)) - made).max() > 1e-5


def test_windows_that_patches_do_not_divide_are_completed(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 2, side=11, hole=False)
    model = make_weights(tmp_path / "w.safetensors", "dlr-ibm-spectral", shake=0.02, patch=4)
    *_, row = complete_cubes([model], options_of(corpus, size=11))
    assert 0 < row.mse < 1
    assert -1 < row.ssim < 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
def test_windows_hide_the_share_of_groups(share, corpus):
    groups = -(-BANDS // GROUP)
    hidden = [window.hidden for window in completion.completion_windows(options_of(corpus, hidden=share))]
    for bands in hidden:
        by_group = np.append(bands, np.full(-BANDS % GROUP, bands[-1])).reshape(-1, GROUP)
        assert (by_group == by_group[:, :1]).all()
        assert by_group[:, 0].sum() == min(max(round(share * groups), 1), groups - 1)
    assert len({bands.tobytes() for bands in hidden}) > 1  # not the same ones everywhere


def test_windows_do_not_depend_on_the_models(corpus, network, windows):
    (*_, alone) = complete_cubes([network], options_of(corpus))
    (*_, linear, beside) = complete_cubes(["linear", network], options_of(corpus))
    assert beside == alone
    assert numbers(linear) == numbers(complete_cubes(["linear"], options_of(corpus))[2])
    for one, other in zip(*windows[:2], strict=True):
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_array_equal(one.hidden, other.hidden)
    assert numbers(complete_cubes(["linear"], options_of(corpus, seed=1))[2]) != numbers(linear)


def test_every_scene_is_drawn_before_any_is_drawn_again(corpus):
    cubes = open_cubes(corpus)
    order = completion._spread([*cubes, *cubes], np.random.default_rng(0))
    for start in range(0, len(order), 5):
        assert len({cube.scene for cube in order[start : start + 5]}) == 5


def test_only_the_requested_scenes_or_split_are_read(tmp_path, windows):
    corpus = make_corpus(tmp_path / "corpus", 3, hole=False)
    (corpus / "splits").mkdir()
    (corpus / "splits" / "test.csv").write_text("place1\n")
    truth = [cube.read(0, 0, SIDE, SIDE) for cube in open_cubes(corpus)]
    for options, expected in (
        (options_of(corpus, scenes=("place0", "place2")), {0, 2}),
        (options_of(corpus, split="test"), {1}),
        (options_of(corpus), {0, 1, 2}),
    ):
        complete_cubes([], options)
        seen = {
            index for window in windows[-1] for index, whole in enumerate(truth) if np.array_equal(window.truth, whole)
        }
        assert seen == expected
        assert len(windows[-1]) == min(8, 4 * len(expected))


def test_ssim_of_small_cubes_is_undefined(tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", 2, side=5, hole=False)
    rows = complete_cubes([], options_of(corpus))
    assert all(math.isnan(row.ssim) for row in rows)
    assert json_values(rows)[0]["ssim"] is None
    print_completion(rows)
    lines = capsys.readouterr().out.splitlines()
    for name in ("mean spectrum", "interpolation"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.split()[-1] == "-"
        assert line.split()[-5] == "-"


def test_command_prints_one_line_per_model(corpus, network, ms2hs, capsys):
    words = ["--corpus", corpus, "--hidden", 0.75, "--size", SIDE, "--windows", 8]
    words += ["--model", "linear", "--model", network]
    code, out, err = ms2hs("evaluate", *words)
    assert (code, err) == (0, "")
    rows = complete_cubes(["linear", network], options_of(corpus))
    print_completion(rows)
    assert out == capsys.readouterr().out
    lines = out.splitlines()
    assert lines[2].split() == ["model", "1e-4", "1e-4", "1e-4", "1e-4", "SSIM"]
    assert len({len(line) for line in lines[:8]}) == 1
    for line, row in zip(lines[4:8], rows, strict=True):
        assert line.startswith(row.model)
        printed = [float(cell) for cell in line.split()[-4:]]
        expected = [1e4 * value for value in numbers(row)[:3]] + [row.ssim]
        np.testing.assert_allclose(printed, expected, atol=6e-4)
    assert lines[7].split()[1] == "5000.000"


def test_command_writes_valid_json(corpus, network, ms2hs):
    words = ["--corpus", corpus, "--hidden", 0.75, "--size", SIDE, "--windows", 4, "--model", network, "--json"]
    code, out, _ = ms2hs("evaluate", *words)
    assert code == 0

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    rows = json.loads(out, parse_constant=refuse)
    assert [row["train_mse"] for row in rows] == [None, None, 0.5]
    assert set(rows[0]) == {"model", "train_mse", "mse", "masked_mse", "unmasked_mse", "ssim"}


def _unknown(folder):
    return ["--corpus", folder, "--scene", "place0", "--scene", "elsewhere"], "unknown scene 'elsewhere'; known: place0"


def _no_split(folder):
    return ["--corpus", folder, "--split", "test"], "no split 'test'; "


def _empty(folder):
    (folder / "empty").mkdir()
    return ["--corpus", folder / "empty"], "is empty; known: "


def _nowhere(folder):
    return ["--corpus", folder / "nowhere"], "no such folder; "


def _all_unknown(folder):
    for path in folder.glob("*.npz"):
        save_cube(path, np.full((20, 8, 8), np.nan), np.linspace(420, 2400, 20))
    return ["--corpus", folder], "none of 2 cubes has a window with known pixels in more than 8 bands; "


def _few_bands(folder):
    make_corpus(folder, 2, bands=8)
    return ["--corpus", folder], "none of 2 cubes has a window with known pixels in more than 8 bands; "


def _wide_groups(folder):
    model = make_weights(folder.parent / "wide.safetensors", "dlr-ibm-spectral", group=64)
    return ["--corpus", folder, "--model", model], r"wide\.safetensors: every group of 64 bands has hidden bands"


def _no_weights(folder):
    return ["--corpus", folder, "--model", folder / "no.safetensors"], r"no\.safetensors: no such weights file; "


def _unknown_weights(folder):
    return ["--corpus", folder, "--model", "quadratic"], "unknown weights 'quadratic'; known: "


CASES = [
    _unknown, _no_split, _empty, _nowhere, _all_unknown, _few_bands, _wide_groups, _no_weights, _unknown_weights
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.strip("_"))
def test_wrong_input_gives_one_clear_message(case, ms2hs, tmp_path):
    words, message = case(make_corpus(tmp_path / "corpus", 2))
    code, out, err = ms2hs("evaluate", "--hidden", 0.75, *words)
    assert out == ""
    assert_clear(code, err, message)


@pytest.mark.parametrize(
    "words", [["--hidden", "0"], ["--hidden", "1"], ["--hidden", "nan"], ["--hidden", "0.5", "--size", "6"]]
)
def test_wrong_usage_gives_exit_code_2(words, ms2hs, corpus):
    code, out, err = ms2hs("evaluate", "--corpus", corpus, *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_missing_scikit_image_is_named_with_its_extra(corpus, monkeypatch):
    monkeypatch.setattr(metric_table, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"scikit-image is not installed; .* `pip install 'ms2hs\[train\]'`"):
        complete_cubes([], options_of(corpus))


def test_prior_completes_real_cubes_best(real_data):
    # it was estimated from these scenes among others: this says that the numbers make sense, not how good it is
    mean, between, prior = complete_cubes(["linear"], CompletionOptions(real_data, windows=12, size=32))
    assert prior.masked_mse < min(between.masked_mse, mean.masked_mse)
    assert prior.ssim > 0.8


# Completion at several ratios


def test_each_model_loses_its_own_tokens(corpus, tmp_path):
    (window, *_) = completion.completion_windows(options_of(corpus))
    cases = (
        ("s2mae", {"patch": 4, "group": 4}, "spatial-spectral, 4 x 4 pixels by 4 bands", 9 * 15),
        ("dlr-ibm-spectral", {"patch": 4}, "spectral, 8 bands", 8),
        ("dlr-ibm-spatial-spectral", {}, "spatial-spectral, 8 x 8 pixels by 8 bands", 4 * 8),
        ("general", {"patch": 4}, "spatial-spectral, 4 x 4 pixels by 1 band", 9 * 60),
        ("spectral", {}, "spectral, 1 band", 60),
    )
    for name, changes, words, tokens in cases:
        weights = load_weights(make_weights(tmp_path / f"{name}.safetensors", name, shake=0.02, **changes))
        masking = Masking.of(weights)
        assert str(masking) == words
        own = masking.applied(window, 0.75, np.random.default_rng(0))
        hidden = own.hidden_values
        blocks = hidden[:: masking.group, :: masking.patch, :: masking.patch]
        blocks = blocks if masking.patch > 1 else blocks[:, :1, :1]
        assert blocks.sum() in {math.floor(0.75 * tokens), math.ceil(0.75 * tokens)}
        repeated = (
            blocks.repeat(masking.group, 0).repeat(masking.patch, 1).repeat(masking.patch, 2)[:BANDS, :SIDE, :SIDE]
        )
        np.testing.assert_array_equal(hidden, np.broadcast_to(repeated, hidden.shape))
        made = completion.completed(weights, own)
        changed = replace(own, truth=np.where(hidden, 7, own.truth).astype(np.float32))
        np.testing.assert_array_equal(completion.completed(weights, changed), made)  # hidden values are not seen


def test_interpolation_of_cubes_uses_the_visible_bands_of_each_patch():
    nm = np.array([500.0, 600.0, 700.0])
    truth = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    hidden = np.zeros((3, 2, 2), bool)
    hidden[1, 0, 0] = hidden[:, 1, 1] = True
    valid = np.array([[True, True], [False, True]])
    window = completion.CompletionWindow(truth, valid, grid_of(nm, np.full(3, 10.0)), hidden)
    made = completion.interpolated_window(window)
    np.testing.assert_allclose(made[:, 0], truth[:, 0])  # 4 lies between 0 and 8
    np.testing.assert_allclose(made[:, 1, 1], [0.5, 5, 8.5])  # no visible band: means of the valid visible pixels


def test_command_scores_and_draws_ratios(corpus, network, ms2hs, tmp_path, capsys):
    path = tmp_path / "panel.png"
    words = ["evaluate", "--corpus", corpus, "--ratio", "0.9,0.5", "--size", SIDE, "--windows", 2, "--model", network]
    code, out, err = ms2hs(*words, "--report", path, "--json")
    assert (code, err) == (0, f"{path}\n")
    rows = json.loads(out)
    assert [(row["ratio"], row["model"]) for row in rows] == [
        (ratio, model) for ratio in (0.5, 0.9) for model in ("mean spectrum", "interpolation", "shaken")
    ]
    assert {row["masking"] for row in rows} == {"spatial-spectral, 8 x 8 pixels by 8 bands"}
    assert all(0 < row["masked_mse"] < 1 for row in rows)
    assert path.read_bytes()[:4] == b"\x89PNG"
    print_ratios([RatioScores(**(row | {"train_mse": math.nan})) for row in rows])
    titles = [line.strip() for line in capsys.readouterr().out.splitlines() if "hidden (" in line]
    assert titles == [f"{ratio}% hidden (spatial-spectral, 8 x 8 pixels by 8 bands)" for ratio in (50, 90)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ratio", "0.5", "--hidden", "0.75"], "--hidden does not apply: --ratio gives the hidden shares"),
        (["-o", "panel.png"], "--report does not apply: the picture needs --ratio"),
        (["--ratio", "0.5,1"], "'0.5,1' are not shares"),
        (["--ratio", "half"], "'half' are not shares"),
        (["--ratio", "0.5", "-o", "panel.jpg"], "panel.jpg is no PNG file"),
    ],
)
def test_contradicting_ratio_options_are_refused(words, said, corpus, ms2hs):
    code, _, err = ms2hs("evaluate", "completion", corpus, *words)
    assert code == 2
    assert re.search(said, " ".join(err.replace("│", " ").split()))
