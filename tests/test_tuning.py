"""Heads trained on labels: what is trained, early stopping, resuming, scores, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from label_sets import label_set
from test_masked_task import config_of, network_of

from ms2hs.errors import DataError, UnknownName, WeightsError
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.tasks import sample_features, tuning
from ms2hs.tasks.label_task import LabelTask
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.splits import split
from ms2hs.tasks.task_model import TaskModel
from ms2hs.tasks.tuning import TuneOptions, tune
from ms2hs.training.engine.loop import FitSettings

FEW = FitSettings(steps=24, batch=4, lr=0.1, checkpoint_every=7, precision="float32", device="cpu")


@pytest.fixture
def network(tmp_path):
    """Weights of a small network."""
    path = tmp_path / "network.safetensors"
    save_weights(path, load_weights("linear").prior, {"trained_on": ["a"]}, network_of(config_of("spectral")))
    return path


@pytest.fixture
def given(monkeypatch):
    """Labels in memory instead of a file."""

    def give(labels):
        monkeypatch.setattr(sample_features, "open_labels", lambda _options: labels)
        return labels

    return give


def asked(network, fit=FEW, **others):
    return TuneOptions(LabelOptions(Path("toy.npz")), init=str(network), fit=fit, **others)


@pytest.mark.parametrize(
    ("task", "score"),
    [
        pytest.param("classification", "accuracy", marks=pytest.mark.slow),
        pytest.param("multilabel", "map", marks=pytest.mark.slow),
        ("segmentation", "accuracy"),
        pytest.param("regression", "r2", marks=pytest.mark.slow),
        pytest.param("change", "f1", marks=pytest.mark.slow),
    ],
)
def test_head_learns_a_separable_toy(task, score, network, given, tmp_path):
    labels = given(label_set(task))
    made = tune(asked(network), tmp_path / "tuned.safetensors")
    assert made.scores["test"][score] > 0.85
    assert made.scores["test"]["samples"] == len(split(labels, 0, guard=0).test)
    model = TaskModel.load(made.output)
    assert (model.task, model.classes, model.sensor) == (task, labels.classes, None)
    card = load_weights(str(made.output)).card
    assert card["trained_on"] == ["a"]
    assert card["task"]["scores"] == json.loads(json.dumps(made.scores))
    assert card["task"]["split"]["by"] == labels.grouped_by
    assert card["task"]["classes"] == list(labels.classes)
    assert card["task"]["command"].startswith(f"ms2hs finetune --labels toy.npz --task {task}")
    assert f"{score} {made.scores['test'][score]:.3f}" in made.notes[1].split("test ")[1]
    assert len(made.notes) == 2


@pytest.mark.parametrize("train", tuning.TRAINED)
def test_encoder_is_trained_only_with_all(train, network, given, tmp_path):
    given(label_set("segmentation"))
    made = tune(asked(network, train=train, fit=replace(FEW, steps=6, lr=1e-3)), tmp_path / "tuned.safetensors")
    before, weights = load_weights(str(network)), load_weights(str(made.output))
    kept, old = weights.network.state_dict(), before.network.state_dict()
    assert all(torch.equal(kept[name], old[name]) for name in old)
    tuned = {name.removeprefix("encoder.") for name in weights.task.arrays if name.startswith("encoder.")}
    changed = {name for name in tuned if not np.array_equal(weights.task.arrays[f"encoder.{name}"], old[name].numpy())}
    if train == "head":
        assert not tuned
    else:
        assert {"embed.weight", "encoder.0.attn.qkv.weight", "norm.weight"} <= changed
        assert not [name for name in tuned if "decode" in name or name.startswith(("head", "query"))]


@pytest.mark.parametrize("train", [pytest.param("head", marks=pytest.mark.slow), "all"])
def test_resumed_run_equals_an_uninterrupted_run(train, network, given, tmp_path, monkeypatch):
    given(label_set("segmentation"))
    options = asked(network, train=train, fit=replace(FEW, steps=12, lr=1e-3, checkpoint_every=4))
    whole = tune(options, tmp_path / "whole.safetensors")
    batch = LabelTask.batch

    def fail(self, step, rank=0, world=1):
        if step == 9 and world:
            raise DataError("for the test")
        return batch(self, step, rank, world)

    monkeypatch.setattr(LabelTask, "batch", fail)
    with pytest.raises(DataError, match="for the test"):
        tune(options, tmp_path / "parts.safetensors")
    monkeypatch.setattr(LabelTask, "batch", batch)
    parts = tune(options, tmp_path / "parts.safetensors", resume=True)
    assert parts.scores == whole.scores
    first, second = (load_weights(str(made.output)).task.arrays for made in (whole, parts))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    given(label_set("segmentation", seed=1))
    with pytest.raises(WeightsError, match="another configuration: labels"):
        tune(options, tmp_path / "parts.safetensors", resume=True, overwrite=True)


def test_best_parameters_on_the_validation_samples_are_kept(network, given, tmp_path):
    labels = given(label_set("segmentation"))
    wrong = labels.labels.copy()
    val = split(labels, 0, guard=0).val
    wrong[val] = (wrong[val] + 1) % 3  # every step makes these worse
    given(replace(labels, labels=wrong))
    made = tune(asked(network), tmp_path / "tuned.safetensors")
    assert made.fit.best.step == 1
    assert "ended at step 6 of 24; the parameters of step 1" in made.notes[0]


@pytest.mark.slow
def test_model_that_learns_nothing_is_said_to(network, given, tmp_path):
    labels = given(label_set("segmentation"))
    given(replace(labels, labels=np.random.default_rng(0).permutation(labels.labels)))
    made = tune(asked(network), tmp_path / "tuned.safetensors")
    scores = made.scores["test"]
    assert scores["miou"] > scores["miou_of_constant"] or "not better than a constant answer" in made.notes[-1]
    labels = given(label_set("regression"))
    given(replace(labels, labels=np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)))
    made = tune(asked(network), tmp_path / "other.safetensors")
    assert made.scores["test"]["r2"] < 0.05
    assert "not better than a constant answer on the test samples (r2" in made.notes[-1]


@pytest.mark.slow
def test_training_from_weights_with_a_head_starts_from_their_network(network, given, tmp_path):
    given(label_set("segmentation"))
    few = replace(FEW, steps=3)
    first = tune(asked(network, train="all", fit=few), tmp_path / "first.safetensors")
    second, same = (
        tune(asked(init, fit=few), tmp_path / f"{name}.safetensors")
        for name, init in (("second", first.output), ("same", network))
    )
    assert "without the head that it has for another task" in second.notes[0]
    assert second.scores == same.scores


def test_unusable_options_are_refused(network, given, tmp_path):
    with pytest.raises(UnknownName, match="decoder is trained on pairs"):
        asked(network, train="decoder")
    given(label_set("classification"))
    with pytest.raises(DataError, match="Leave --window out"):
        tune(asked(network, window=8), tmp_path / "a.safetensors")
    given(label_set("segmentation"))
    with pytest.raises(WeightsError, match="a linear model has no encoder"):
        tune(asked("linear"), tmp_path / "a.safetensors")
    save_weights(network, load_weights("linear").prior, {}, network_of(config_of("s2mae")))
    with pytest.raises(DataError, match="a multiple of the patch, 4"):
        tune(asked(network, window=6), tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "l.npz", "--pairs", "pairs"], "one source of pairs or labels"),
        (["--labels", "l.npz", "--rehearse", "0.5"], "--rehearse does not apply: it needs --pairs"),
        (["--labels", "l.npz", "--hold-out", "a"], "--hold-out does not apply"),
        (["--pairs", "pairs", "--task", "change"], "--task does not apply: it needs --labels"),
        (["--pairs", "pairs", "--block", "8"], "--block does not apply"),
        (["--labels", "l.npz", "--train", "none"], "part to train on labels 'none'"),
        (["--labels", "l.npz", "--task", "magic"], "magic"),
        (["--labels", "l.npz", "--lr", "0"], "not a learning rate"),
    ],
)
def test_command_refuses_options_that_do_not_fit(words, message, ms2hs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = ms2hs("finetune", *words)
    assert code == 2
    assert message in " ".join(err.split())
