"""Fine-tuning on pairs: corrections of products, the prior, networks, and their uncertainty."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs_of_arrays import product_pairs, simulated_pairs, with_holes
from test_masked_task import config_of
from test_pretraining import assert_clear

from ms2hs.datasets.pairs.pair_sampling import sample_pixels
from ms2hs.errors import DataError, UnknownName, WeightsError
from ms2hs.inference.predictor import Predictor
from ms2hs.models.harmonization import adjusted
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import refit
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.spectra.metrics import coverage, rmse
from ms2hs.training import finetuning
from ms2hs.training.conformal import fit_sigma_scale
from ms2hs.training.engine.loop import FitSettings
from ms2hs.training.finetuning import FinetuneOptions, finetune
from ms2hs.training.product_bias import adjustments_of, noise_of

GAIN, OFFSET = 1.05, 0.01
FEW = FitSettings(steps=12, batch=2, lr=1e-4)


@pytest.fixture
def network(tmp_path):
    """A small untrained network with a small correction of the prior."""
    torch.manual_seed(0)
    prior = load_weights().prior
    config = replace(config_of("spectral"), rank=8)
    model = SpectralMAE(config, prior)
    with torch.no_grad():
        model.head.weight.add_(2e-3 * torch.randn_like(model.head.weight))
    path = tmp_path / "network.safetensors"
    save_weights(path, prior, {}, model)
    return path


@pytest.fixture
def given(monkeypatch):
    """Pairs in memory instead of a folder: given(learnt, held)."""

    def give(learnt, held=()):
        monkeypatch.setattr(finetuning, "_read_pairs", lambda _options, _note: (list(learnt), list(held)))

    return give


def asked(init, **others):
    return FinetuneOptions(init=str(init), pairs=Path("pairs"), fit=FEW, **others)


def error_of(path, pairs):
    """RMSE of a model on pairs, applied as in a conversion."""
    weights = load_weights(str(path))
    found = []
    for pair in pairs:
        measured, truth = pair.read(0, 0, *pair.shape)
        lines = None if pair.is_simulated else weights.adjustments.get(pair.sensor)
        seen = adjusted(measured, pair.source.names, lines)
        if weights.network is None:
            made = weights.prior.condition(pair.source, pair.target).reconstruct(seen)
        else:
            made = Predictor(weights.network, pair.source, pair.target).reconstruct(seen, np.ones(pair.shape, bool))
        found.append(rmse(made, truth))
    return float(np.mean(found))


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_finetune_recovers_a_planted_gain_and_offset(kind, network, given, tmp_path):
    init = network if kind == "network" else "linear"
    given(product_pairs(5, GAIN, OFFSET), product_pairs(2, GAIN, OFFSET, seed=7))
    made = finetune(asked(init), tmp_path / "new.safetensors")
    unplanted, planted = simulated_pairs(4, seed=9), product_pairs(4, GAIN, OFFSET, seed=9)
    clean, spoilt, mended = error_of(init, unplanted), error_of(init, planted), error_of(made.output, planted)
    assert spoilt > 1.5 * clean
    assert (spoilt - mended) / (spoilt - clean) >= 0.8
    assert error_of(made.output, unplanted) <= 1.1 * clean  # a network is trained for a few steps only
    for gain, offset in made.adjustments["sentinel2a"].values():
        assert gain == pytest.approx(1 / GAIN, abs=0.01)
        assert offset == pytest.approx(-OFFSET / GAIN, abs=0.002)


def test_finetune_refits_the_prior_of_the_default_network(given, tmp_path):
    given(product_pairs(5, GAIN, OFFSET), product_pairs(2, GAIN, OFFSET, seed=7))
    made, linear = (finetune(asked(init), tmp_path / f"{init}.safetensors") for init in ("default", "linear"))
    before, after, refitted = (load_weights(str(path)) for path in ("default", made.output, linear.output))
    assert made.fit is None
    assert "its spectral prior is refitted" in "".join(made.notes)
    np.testing.assert_allclose(after.prior.factors, refitted.prior.factors)
    assert after.network.prior is after.prior
    stored, kept = before.network.state_dict(), after.network.state_dict()
    assert all(torch.equal(stored[name], kept[name]) for name in stored)


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_pairs_without_a_difference_give_no_correction(kind, network, given, tmp_path):
    init = network if kind == "network" else "linear"
    given(product_pairs(5), product_pairs(2, seed=7))
    made = finetune(asked(init), tmp_path / "new.safetensors")
    others = product_pairs(4, seed=9)
    assert error_of(made.output, others) <= 1.1 * error_of(init, others)


@pytest.mark.parametrize(("train", "learning"), [("head", {"head"}), ("decoder", None), ("all", None), ("none", set())])
def test_only_the_chosen_parts_are_trained(train, learning, network, given, tmp_path):
    given(product_pairs(3), product_pairs(1, seed=7))
    made = finetune(asked(network, train=train), tmp_path / "new.safetensors")
    before, after = (load_weights(str(path)).network.state_dict() for path in (network, made.output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {name.split(".")[0] for name in changed}
    if learning is not None:
        assert parts == learning
    elif train == "decoder":
        assert "head" in parts
        assert not parts & {"embed", "encoder", "norm", "spectral"}
    else:
        assert {"embed", "encoder", "head"} <= parts
    assert (made.fit is None) == (train == "none")


def test_intervals_hold_on_held_out_scenes(network, given, tmp_path):
    given(product_pairs(8, GAIN, OFFSET), product_pairs(4, GAIN, OFFSET, seed=7))
    made = finetune(asked(network), tmp_path / "new.safetensors")
    weights = load_weights(str(made.output))
    assert weights.sigma_scale is not None
    assert load_weights(str(network)).calibrated_prior is None
    shares = []
    for pair in simulated_pairs(6, seed=21):
        measured, truth = pair.read(0, 0, *pair.shape)
        valid = np.ones(pair.shape, bool)
        estimate = Predictor(weights.network, pair.source, pair.target).reconstruct(measured, valid)
        sigma = weights.calibrated_prior.condition(pair.source, pair.target).sigma(measured)
        shares.append(coverage(estimate, sigma, truth))
    assert 0.8 < np.mean(shares) < 0.99


def test_sigma_scale_matches_the_errors():
    weights = load_weights()
    wide = replace(weights, prior=weights.prior.with_sigma_scale(7 * weights.prior.sigma_scale))
    pairs = simulated_pairs(4, seed=7)
    scale = fit_sigma_scale(weights, pairs)
    np.testing.assert_allclose(fit_sigma_scale(wide, pairs), scale, rtol=1e-5)  # independent of the earlier calibration
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert fit_sigma_scale(weights, []) is None


def test_refit_learns_spectra_unknown_to_the_prior():
    weights = load_weights()
    prior, fine = weights.prior, weights.prior.wavelength_nm
    bump = np.exp(-0.5 * ((fine - 1200) / 30) ** 2)
    rng = np.random.default_rng(0)
    strange = (0.2 + rng.uniform(0, 0.3, (300, 1)) * (1 + 0.8 * bump)).astype(np.float32)
    learnt = refit(prior, [strange], 0.0)
    pair = simulated_pairs(1)[0]
    errors = []
    for model in (prior, learnt):
        condition = model.condition(pair.source, pair.target)
        shown = strange @ _response(pair.source, fine).T
        made = condition.reconstruct(shown.T.astype(np.float32))
        errors.append(rmse(made, (strange @ _response(pair.target, fine).T).T))
    assert errors[1] < 0.8 * errors[0]
    same = refit(prior, [], 0.0)
    np.testing.assert_allclose(same.second_moment(), prior.second_moment(), atol=2e-4)
    assert same.noise == pytest.approx(prior.noise)


def _response(grid, fine):
    from ms2hs.spectra.spectral_grid import response_matrix

    return response_matrix(grid, fine)


def test_noise_of_products_is_the_residual_of_the_line():
    weights = load_weights()
    rng = np.random.default_rng(0)
    samples = sample_pixels(product_pairs(4, GAIN, OFFSET))
    noisy = [
        replace(one, measured=one.measured + rng.normal(0, 0.01, one.measured.shape).astype(np.float32))
        for one in samples
    ]
    for given_samples, low, high in ((samples, 0, 0.002), (noisy, 0.02, 0.07)):
        message = replace(weights, adjustments=adjustments_of(given_samples, lambda _text: None))
        assert low <= noise_of(message, given_samples) <= high
    assert noise_of(weights, sample_pixels(simulated_pairs(2))) == 0


def test_samples_are_known_to_the_source_and_reproducible():
    pairs = [with_holes(pair) for pair in simulated_pairs(3)] + simulated_pairs(1, seed=3, side=3)
    first, again = sample_pixels(pairs), sample_pixels(pairs)
    assert [one.scene for one in first] == sorted(one.scene for one in first)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.measured, other.measured)
        assert np.isfinite(one.measured).all()
        assert np.isfinite(one.truth).any(axis=0).all()


def test_resumed_run_is_exact(network, given, tmp_path):
    given(product_pairs(3))
    whole = finetune(asked(network), tmp_path / "whole.safetensors")
    half = replace(FEW, checkpoint_every=5)

    class Stop(Exception):
        pass

    def stop(done, _steps, _loss):
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        finetune(replace(asked(network), fit=half), tmp_path / "other.safetensors", progress=stop)
    resumed = finetune(replace(asked(network), fit=half), tmp_path / "other.safetensors", resume=True)
    first, second = (load_weights(str(made.output)).network.state_dict() for made in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_card_lists_the_training_scenes(network, given, tmp_path):
    given(product_pairs(3), product_pairs(1, seed=7, scenes=1))
    made = finetune(asked(network, train="head"), tmp_path / "new.safetensors")
    card = load_weights(str(made.output)).card
    assert card["settings"]["train"] == "head"
    assert "scene 1" in card["trained_on"]
    assert card["calibrated_on"] == ["scene 0"]
    assert "ms2hs finetune --init network.safetensors --pairs pairs" in card["command"]
    assert str(tmp_path) not in str(card)


def test_finetune_rejects_unusable_input(network, given, tmp_path):
    output = tmp_path / "new.safetensors"
    given([with_holes(pair, share=1.0) for pair in product_pairs(2)])
    with pytest.raises(DataError, match="no pixel"):
        finetune(asked(network), output)
    given(product_pairs(2))
    with pytest.raises(UnknownName, match="scene 9"):
        finetune(asked(network, leave_out=("scene 9",)), output)
    with pytest.raises(DataError, match="every scene"):
        finetune(asked(network, leave_out=("scene 0", "scene 1")), output)
    with pytest.raises(UnknownName, match="part to train"):
        asked(network, train="encoder")
    with pytest.raises(ValueError, match="either"):
        FinetuneOptions()
    with pytest.raises(WeightsError):
        finetune(asked(tmp_path / "none.safetensors"), output)
    assert not output.exists()


def test_corpus_is_split_by_scene(tmp_path, make_corpus):
    made = finetune(
        FinetuneOptions(corpus=make_corpus, target="enmap", leave_out=("scene_0",), fit=FEW),
        tmp_path / "new.safetensors",
    )
    card = load_weights(str(made.output)).card
    assert len(made.calibrated_on) == 1
    own = set(card["trained_on"]) & {f"scene_{number}" for number in range(5)}
    assert len(own) == 3
    assert not own & {"scene_0", *made.calibrated_on}
    assert made.adjustments == {}  # simulated sources need no correction


@pytest.fixture
def make_corpus(tmp_path):
    from cubes_of_arrays import smooth_cubes

    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, cube in enumerate(smooth_cubes(5, bands=150)):
        np.savez(
            folder / f"scene_{number}.npz",
            dn=np.moveaxis(np.round(cube.values * 1e4), 0, -1).astype(np.int16),
            scale=1e-4,
            nodata=-32768,
            wavelength_nm=cube.grid.wavelength_nm,
            fwhm_nm=cube.grid.fwhm_nm,
        )
    return folder


def test_command_trains_and_prints_the_path(ms2hs, network, make_corpus, tmp_path):
    output = tmp_path / "new.safetensors"
    words = ("--corpus", make_corpus, "--target", "enmap", "-o", output)
    code, out, err = ms2hs("finetune", "--init", network, "--train", "head", "--steps", 2, "--batch", 1, *words)
    assert code == 0, err
    assert out == f"{output}\n"
    assert load_weights(str(output)).sigma_scale is not None
    code, _, err = ms2hs("finetune", *words)
    assert_clear(code, err, "new.safetensors")
    code, out, err = ms2hs("finetune", *words, "--overwrite")
    assert code == 0, err
    assert load_weights(str(output)).network is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init", "pluto"], "pluto"),
        (["--source", "pluto"], "pluto"),
        (["--target", "pluto"], "pluto"),
        (["--leave-out", "pluto"], "pluto"),
        (["--hold-out", "pluto"], "pluto"),
    ],
    ids=" ".join,
)
def test_unknown_names_give_one_clear_message(words, message, ms2hs, make_corpus, tmp_path):
    output = tmp_path / "new.safetensors"
    code, out, err = ms2hs("finetune", "--corpus", make_corpus, "-o", output, *words)
    assert_clear(code, err, message)
    assert out == ""
    assert not output.exists()


def test_missing_data_give_one_clear_message(ms2hs, tmp_path):
    (tmp_path / "empty").mkdir()
    for words in (["--pairs", tmp_path / "empty"], ["--corpus", tmp_path / "empty"], ["--pairs", tmp_path / "none"]):
        code, _, err = ms2hs("finetune", *words, "-o", tmp_path / "new.safetensors")
        assert_clear(code, err, str(words[1]))
    for words in ([], ["--pairs", "a", "--corpus", "b"], ["--pairs", "a", "--lr", "0"]):
        code, _, err = ms2hs("finetune", *words)
        assert code == 2
        assert "Traceback" not in err
