"""Share and calibration of networks from scenes that they have not seen."""

from dataclasses import replace

import numpy as np
import pytest
from test_pretraining import assert_clear
from test_prior_fit import SETTINGS, folder

from ms2hs.errors import DataError
from ms2hs.models.weights import FOLDERS, load_weights
from ms2hs.training import cross_fitting
from ms2hs.training.cross_fitting import (
    HeldOutScene,
    fit_and_score,
    fit_share,
    fold_paths,
    predict_scene,
    pretrain_cross_fitted,
)
from ms2hs.training.engine.loop import FitSettings
from ms2hs.training.pretraining import PretrainOptions
from ms2hs.training.prior_fit import PriorSettings

__all__ = ["folder"]
WAVES, PIXELS, STEP_NM = 200, 300, 10.0


def scene_of(seed, useful=0.5, noise=0.002):
    """A network whose correction is `1 / useful` of the prior's error in half of the bands, and noise elsewhere."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 0.5, (WAVES, PIXELS)).astype(np.float32)
    missed = rng.normal(0, 0.01, truth.shape).astype(np.float32)
    added = missed / np.float32(useful) + rng.normal(0, noise, truth.shape).astype(np.float32)
    added[WAVES // 2 :] = rng.normal(0, 0.01, (WAVES // 2, PIXELS))
    both = {"clean": truth - missed, "noisy": truth - missed}
    ones = np.ones(PIXELS, np.float32)
    return HeldOutScene(
        f"scene {seed}", truth, ones, np.full(truth.shape, 0.01), both, {"clean": added, "noisy": added}
    )


def test_share_minimises_the_error_over_scenes():
    share = fit_share([scene_of(seed) for seed in range(40)], STEP_NM)
    assert ((share >= 0) & (share <= 1)).all()
    assert share[:80] == pytest.approx(0.5, abs=0.05)
    assert share[120:].max() < 0.05
    few = fit_share([scene_of(0)], STEP_NM)
    assert few[:80] == pytest.approx(0.25, abs=0.05)  # a single scene is shrunk more


def test_harmful_correction_gets_no_share():
    wrong = [
        replace(scene, correction={k: -v for k, v in scene.correction.items()}) for scene in map(scene_of, range(5))
    ]
    assert fit_share(wrong, STEP_NM)[:80].max() == 0


def test_unknown_truth_is_ignored():
    scenes = [scene_of(seed) for seed in range(5)]
    holed = [
        replace(scene, truth=np.where(np.arange(WAVES)[:, None] % 7 == 0, np.nan, scene.truth)) for scene in scenes
    ]
    np.testing.assert_allclose(fit_share(holed, STEP_NM), fit_share(scenes, STEP_NM), atol=0.05)


def test_scene_is_scored_with_the_share_of_the_others():
    scenes = [scene_of(seed) for seed in range(6)]
    result = fit_and_score(scenes, STEP_NM)
    for scores in result.scores.values():
        assert scores["blend clean"] < scores["prior clean"]
        assert 0.85 < scores["coverage"] < 0.95
    odd = replace(scenes[0], correction={k: -v for k, v in scenes[0].correction.items()})
    alone = fit_and_score([odd, *scenes[1:]], STEP_NM).scores["scene 0"]
    assert alone["blend clean"] > alone["prior clean"]  # its own truth was not used


def test_network_is_trained_without_each_scene_and_gets_a_share(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_fitting, "PriorSettings", lambda: replace(SETTINGS, step_nm=5))
    output = tmp_path / "n.safetensors"
    changes = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_heads": 2, "rank": 4}
    options = PretrainOptions(
        "spectral", (folder,), changes=changes, window=8, fit=FitSettings(steps=3, batch=2, seed=1), simulated=3
    )
    result = pretrain_cross_fitted(options, output)
    assert sorted(result.scores) == ["scene0", "scene1", "scene2", "scene3"]
    weights = load_weights(str(output))
    np.testing.assert_allclose(weights.network.share, result.share, atol=1e-6)
    np.testing.assert_array_equal(weights.sigma_scale, result.sigma_scale)
    assert weights.card["command"].endswith("--cross-fit")
    assert "without scene0" in weights.card["scores"]
    for scene in result.scores:
        network, prior = (load_weights(str(path)) for path in fold_paths(output.with_suffix(".folds"), scene))
        assert scene not in network.card["trained_on"]
        np.testing.assert_array_equal(network.prior.factors, prior.prior.factors)
        held_out = predict_scene(folder, scene, network, 0)
        assert held_out.truth.shape[0] == len(prior.prior.wavelength_nm)
        share = load_weights(str(network.path)).network.share
        np.testing.assert_allclose(share, result.without_scene[scene][0], atol=1e-6)
    before = {path: path.read_bytes() for path in output.with_suffix(".folds").glob("*.safetensors")}
    assert len(before) == 8
    pretrain_cross_fitted(options, output, overwrite=True)
    assert before == {path: path.read_bytes() for path in before}  # existing folds are not trained again


def test_cross_fitting_needs_one_folder(folder, tmp_path):
    with pytest.raises(DataError, match="2 folders"):
        pretrain_cross_fitted(PretrainOptions("spectral", (folder, folder)), tmp_path / "n.safetensors")


def test_command_accepts_cross_fit(ms2hs, tmp_path):
    code, _, err = ms2hs("pretrain", "--preset", "spectral", "--cross-fit", "-o", tmp_path / "n.safetensors")
    assert_clear(code, err, "0 folders")
    assert PriorSettings().simulated > SETTINGS.simulated


@pytest.mark.parametrize("recipe", sorted((FOLDERS[0] / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_of_shipped_weights_are_valid(recipe, ms2hs, tmp_path):
    code, _, err = ms2hs("pretrain", "--recipe", recipe, "-o", tmp_path / "n.safetensors")
    assert_clear(code, err, "0 folders")  # all options are accepted, and no data were given
