"""Share and calibration of networks from places that they have not seen."""

from dataclasses import replace

import numpy as np
import pytest
from test_pretraining import assert_clear
from test_prior_fit import SETTINGS, folder

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_sampling import Kind, held_out_windows
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.errors import DataError
from ms2hs.models.weights import FOLDERS, load_weights
from ms2hs.spectra.metrics import coverage, rmse
from ms2hs.spectra.product_error import InputError
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training import cross_fitting
from ms2hs.training.cross_fitting import (
    HeldOutPlace,
    Predictions,
    fit_and_score,
    fit_share,
    folds_of,
    predict,
    pretrain_cross_fitted,
    read_folds,
    train_folds,
)
from ms2hs.training.engine.loop import FitSettings
from ms2hs.training.pretraining import PretrainOptions
from ms2hs.training.prior_fit import PriorSettings, fit, gather

__all__ = ["folder"]
WAVES, PIXELS, STEP_NM = 200, 300, 10.0


def place_of(seed, useful=0.5, noise=0.002):
    """A network whose correction is `1 / useful` of the prior's error in half of the bands, and noise elsewhere."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 0.5, (WAVES, PIXELS)).astype(np.float32)
    missed = rng.normal(0, 0.01, truth.shape).astype(np.float32)
    added = missed / np.float32(useful) + rng.normal(0, noise, truth.shape).astype(np.float32)
    added[WAVES // 2 :] = rng.normal(0, 0.01, (WAVES // 2, PIXELS))
    part = Predictions(truth[:3], truth, np.ones(PIXELS, np.float32), np.full(truth.shape, 0.01), truth - missed, added)
    return HeldOutPlace(f"place {seed}", {"clean": part, "noisy": part})


def changed(place, **changes):
    return replace(place, inputs={kind: replace(part, **changes) for kind, part in place.inputs.items()})


def harmful(place):
    return changed(place, correction=-place.inputs["clean"].correction)


def test_share_minimises_the_error_over_places():
    share = fit_share([place_of(seed) for seed in range(40)], STEP_NM)
    assert ((share >= 0) & (share <= 1)).all()
    assert share[:80] == pytest.approx(0.5, abs=0.05)
    assert share[120:].max() < 0.05
    few = fit_share([place_of(0)], STEP_NM)
    assert few[:80] == pytest.approx(0.25, abs=0.05)  # a single place is shrunk more


def test_harmful_correction_gets_no_share():
    assert fit_share([harmful(place_of(seed)) for seed in range(5)], STEP_NM)[:80].max() == 0


def test_unknown_truth_is_ignored():
    places = [place_of(seed) for seed in range(5)]
    every_seventh = np.arange(WAVES)[:, None] % 7 == 0
    holed = [changed(p, truth=np.where(every_seventh, np.nan, p.inputs["clean"].truth)) for p in places]
    np.testing.assert_allclose(fit_share(holed, STEP_NM), fit_share(places, STEP_NM), atol=0.05)


def test_place_is_scored_with_the_share_of_the_other_folds():
    places = [place_of(seed) for seed in range(6)]
    result = fit_and_score([places[:2], places[2:4], places[4:]], STEP_NM)
    for scores in result.scores.values():
        assert scores["blend clean"] < scores["prior clean"]
        assert 0.85 < scores["coverage"] < 0.95
    assert result.summary["ratio clean, low"] <= result.summary["ratio clean"] <= result.summary["ratio clean, high"]
    odd = [harmful(place) for place in places[:2]]
    alone = fit_and_score([odd, places[2:4], places[4:]], STEP_NM)
    for name in ("place 0", "place 1"):  # neither truth was used
        assert alone.scores[name]["blend clean"] > alone.scores[name]["prior clean"]
        np.testing.assert_array_equal(alone.without_place[name][0], result.without_place[name][0])


def test_folds_deal_places_in_turn(tmp_path):
    names = [f"p{number:02d}" for number in range(18)]
    folds = folds_of([*names, *names], 6, tmp_path)
    assert [len(fold.places) for fold in folds] == [3] * 6
    assert sorted(place for fold in folds for place in fold.places) == names
    assert [fold.places for fold in folds_of(names[:3], 6, tmp_path)] == [("p00",), ("p01",), ("p02",)]


@pytest.mark.slow
def test_network_is_trained_without_the_places_of_each_fold_and_gets_a_share(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_fitting, "PriorSettings", lambda: replace(SETTINGS, step_nm=5))
    kinds = {name: kind._replace(draws=1) for name, kind in cross_fitting.KINDS.items()}
    monkeypatch.setattr(cross_fitting, "KINDS", kinds)
    output = tmp_path / "n.safetensors"
    changes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2, "rank": 4}
    options = PretrainOptions(
        "spectral", (folder,), changes=changes, window=8, fit=FitSettings(steps=3, batch=2, seed=1), simulated=3
    )
    steps = []
    result = pretrain_cross_fitted(options, output, 2, progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(done, 9) for done in range(1, 10)]  # two folds and the training on all
    assert sorted(result.scores) == ["scene0", "scene1", "scene2", "scene3"]
    weights = load_weights(str(output))
    np.testing.assert_allclose(weights.network.share, result.share, atol=1e-6)
    np.testing.assert_array_equal(weights.sigma_scale, result.sigma_scale)
    assert weights.card["command"].endswith("--cross-fit --folds 2")
    assert "without scene0" in weights.card["scores"]
    assert weights.card["scores"]["cross-fitted"]["ratio noisy"] > 0
    folds = read_folds(output.with_suffix(".folds"))
    assert [fold.places for fold in folds] == [("scene0", "scene2"), ("scene1", "scene3")]
    for fold in folds:
        network, prior = (load_weights(str(path)) for path in (fold.network, fold.prior))
        assert not set(fold.places) & set(network.card["trained_on"])
        np.testing.assert_array_equal(network.prior.factors, prior.prior.factors)
        for place in fold.places:
            np.testing.assert_allclose(network.network.share, result.without_place[place][0], atol=1e-6)
    before = {path: path.stat() for path in output.with_suffix(".folds").rglob("*.safetensors")}
    fold, other = (path.with_suffix(".run") / "checkpoint.safetensors" for path in (folds[0].network, folds[1].network))
    folds[1].network.unlink()  # as if its training had been broken off
    again = pretrain_cross_fitted(options, output, 2, overwrite=True)
    assert fold.stat().st_mtime_ns == before[fold].st_mtime_ns  # existing folds are not trained again
    assert other.stat().st_mtime_ns >= before[other].st_mtime_ns
    assert again.scores == result.scores
    trained = []
    monkeypatch.setattr(cross_fitting, "_train", lambda _, network, *__: trained.append(network))
    train_folds(options, folds)
    assert trained == []
    train_folds(replace(options, fit=FitSettings(steps=2, batch=2, seed=1)), folds)
    assert trained == [fold.network for fold in folds]  # other settings


def test_predictions_of_a_prior_have_the_errors_of_their_kind(folder):
    evidence = gather(folder, SETTINGS)
    prior, source, target = fit(evidence, {"scene0"}), *(load_sensor(name).grid for name in ("sentinel2a", "enmap"))
    pairs = [SimulatedPair(cube, "sentinel2a", target) for cube in open_cubes(folder) if cube.scene == "scene0"]
    kinds = {
        "clean": Kind(InputError()),
        "given": Kind(InputError(gain=0.05), draws=3),
        "not given": Kind(InputError(gain=0.05), given=False, draws=3),
    }
    windows = held_out_windows(pairs, kinds, prior.condition(source, source).scale, seed=0, pixels=100)
    found = predict(windows, prior, None, (source, target))
    assert found["clean"].truth.shape == (202, 100)
    assert found["given"].truth.shape == (202, 300)
    error = {kind: rmse(part.expected, part.truth) for kind, part in found.items()}
    assert error["clean"] < error["given"] < error["not given"]
    assert not found["given"].correction.any()
    assert coverage(found["given"].expected, found["given"].sigma, found["given"].truth) > 0.8


def test_cross_fitting_needs_one_folder(folder, tmp_path):
    with pytest.raises(DataError, match="2 folders"):
        pretrain_cross_fitted(PretrainOptions("spectral", (folder, folder)), tmp_path / "n.safetensors")


def test_command_accepts_cross_fit(ms2hs, tmp_path):
    code, _, err = ms2hs("pretrain", "--preset", "spectral", "--cross-fit", "-o", tmp_path / "n.safetensors")
    assert_clear(code, err, "0 folders")
    assert PriorSettings().simulated > SETTINGS.simulated


@pytest.mark.parametrize("recipe", sorted((FOLDERS[0] / "recipes").glob("sp*.toml")), ids=lambda path: path.stem)
def test_recipes_of_shipped_weights_are_valid(recipe, ms2hs, tmp_path):
    code, _, err = ms2hs("pretrain", "--recipe", recipe, "-o", tmp_path / "n.safetensors")
    assert_clear(code, err, "0 folders")  # all options are accepted, and no data were given
