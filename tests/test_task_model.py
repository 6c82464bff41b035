"""Networks with the head of a task: outputs, files, and contents that are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_masked_task import NAMES
from test_task_encoder import BANDS, HYPERSPECTRAL, weights_of, windows_of

from ms2hs.errors import WeightsError
from ms2hs.models.layers import between_patches
from ms2hs.models.weights import load_weights
from ms2hs.tasks.task_model import ACTIVATIONS, TaskFacts, TaskModel


def facts_of(task="segmentation", sensor=None, **changes):
    images = task in {"classification", "multilabel"}
    return TaskFacts(
        **(
            {"task": task, "classes": ("a", "b & <c>", "d"), "whole_images": images, "side": 8}
            | {"sensor": sensor, "grid": BANDS[sensor]}
            | changes
        )
    )


def model_of(name="spectral", facts=None, *, trained=True):
    """A model with a random head that was scaled in training."""
    facts = facts or facts_of()
    weights = weights_of(name)
    model = TaskModel.of(weights, facts).eval()
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(requires_grad=False)
    for parameter in model.encoder.encoder_parameters().values() if trained else ():
        parameter.requires_grad_()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * parameter.requires_grad)
        model.standardise(*((torch.randn(size), 1 + torch.rand(size)) for size in model.head.weight.shape[::-1]))
    return weights, model


def given(facts):
    """(date, band, row, col) and (row, col)."""
    values, valid = windows_of(facts.grid)
    return (values if facts.task == "change" else values[:1]).numpy(), valid[0].numpy()


@pytest.mark.parametrize("sensor", BANDS)
@pytest.mark.parametrize("name", NAMES)
def test_model_predicts_probabilities_of_valid_pixels_and_equals_its_file(name, sensor, tmp_path):
    facts = facts_of(sensor=sensor)
    weights, model = model_of(name, facts)
    values, valid = given(facts)
    before = model.predict(values[0], valid)
    digest = model.save(tmp_path / "tuned.safetensors", weights, {"scores": {"accuracy": 1.0}})
    loaded = TaskModel.load(tmp_path / "tuned.safetensors")
    np.testing.assert_allclose(loaded.predict(values[0], valid), before, atol=1e-5)
    np.testing.assert_array_equal(loaded.predict(values[0], valid), model.predict(values[0], valid))
    assert before.shape == (3, 8, 8)
    assert (np.isnan(before).all(axis=0) == ~valid).all()
    np.testing.assert_allclose(before[:, valid].sum(axis=0), 1, rtol=1e-5)
    assert (loaded.task, loaded.classes, loaded.facts.sensor) == (facts.task, facts.classes, sensor)
    np.testing.assert_array_equal(loaded.facts.grid.wavelength_nm, facts.grid.wavelength_nm)
    stored = load_weights(str(tmp_path / "tuned.safetensors"))
    assert (stored.sha256, stored.card) == (digest, {"scores": {"accuracy": 1.0}})
    kept, old = stored.network.state_dict(), weights.network.state_dict()
    assert all(torch.equal(kept[name], old[name]) for name in old)  # conversions do not change


@pytest.mark.parametrize("task", ACTIVATIONS)
@pytest.mark.parametrize("name", ["spatial-spectral", "spectral"])
def test_every_task_has_outputs_of_its_kind(name, task, tmp_path):
    facts = facts_of(task)
    weights, model = model_of(name, facts, trained=False)
    values, valid = given(facts)
    outputs = model(torch.from_numpy(values)[None], torch.from_numpy(valid)[None])
    assert outputs.shape == ((1, 3, 1, 1) if facts.whole_images else (1, 3, 8, 8))
    result = model.predict(values if task == "change" else values[0], valid)
    assert result.shape == (3, 8, 8)
    known = result[:, valid]
    assert ((known >= 0) & (known <= 1)).all() or task == "regression"
    if task in {"classification", "segmentation", "change"}:
        np.testing.assert_allclose(known.sum(axis=0), 1, rtol=1e-5)
    model.save(tmp_path / "head.safetensors", weights, {})
    assert {name for name in load_file(tmp_path / "head.safetensors") if name.startswith("task.")} == {
        "task.head.weight",
        "task.head.bias",
    }
    with torch.no_grad():
        folded = model(torch.from_numpy(values)[None], torch.from_numpy(valid)[None])
    torch.testing.assert_close(folded, outputs.detach(), rtol=1e-3, atol=1e-4)


def test_outputs_of_pixels_are_the_head_on_interpolated_features_and_own_bands():
    _, model = model_of("s2mae")
    values, valid = (one[:, None] if one.ndim == 4 else one for one in windows_of(HYPERSPECTRAL))
    with torch.no_grad():
        tokens, own = model.features(values, valid)
        features = torch.cat([between_patches(tokens, model.encoder.patch), own], dim=1).movedim(1, -1)
        scaled = (features - model.feature_mean) / model.feature_deviation
        wanted = (model.head(scaled) * model.output_deviation + model.output_mean).movedim(-1, 1)
        torch.testing.assert_close(model(values, valid), wanted, rtol=1e-3, atol=1e-4)
        assert tokens.shape[2:] == (2, 2)


def test_change_sees_the_difference_of_the_dates():
    _, model = model_of("general", facts_of("change", classes=("same", "new")))
    (values, valid) = windows_of(HYPERSPECTRAL)
    both = torch.stack([values[:1], values[1:]], dim=1)
    with torch.no_grad():
        tokens, own = model.features(both, valid[1:])
        same, _ = model.features(both[:, [0, 0]], valid[1:])
    first, second, difference = tokens.chunk(3, dim=1)
    torch.testing.assert_close((second - first).abs(), difference)
    assert own.shape[1] == 3 * len(HYPERSPECTRAL)
    assert not same.chunk(3, dim=1)[2].any()


def test_pixels_of_an_image_model_have_the_result_of_the_image_around_them():
    _, model = model_of("dlr-ibm-spectral", facts_of("classification", side=8))  # patches without neighbours
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 0.5, (len(HYPERSPECTRAL), 8, 8)).astype(np.float32)
    scene, valid = np.tile(image, (1, 3, 3)), np.ones((24, 24), bool)
    with torch.no_grad():
        whole = model(torch.from_numpy(image)[None, None], torch.ones(1, 8, 8, dtype=torch.bool)).softmax(1)[0, :, 0, 0]
    np.testing.assert_allclose(model.predict(scene, valid)[:, 12, 12], whole.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "magic"}, "task 'magic'"),
        ({"classes": []}, "0 classes"),
        ({"classes": ["a", "a", "b"]}, "distinct names"),
        ({"classes": ["a", "\x1b[31m", "b"]}, "printable"),
        ({"classes": ["a", "b", "c" * 101]}, "printable"),
        ({"classes": ["a", "b"]}, r"task.head.weight is \(3, 24\); \(2, 24\) is needed"),
        ({"classes": None}, "cannot read 'task'"),
        ({"sensor": "/etc/passwd"}, "sensor of this version"),
        ({"sensor": "sentinel2a"}, "no band"),
        ({"side": 0}, "side 0"),
        ({"side": 1e9}, "side 1000000000.0"),
        ({"whole_images": "yes"}, "side 8"),
        ({"bands": ["b"] * 30}, "appear twice"),
        ({"wavelength_nm": ["far"]}, "cannot read 'task'"),
        ({"fwhm_nm": [float("nan")] * 30}, "finite"),
    ],
)
def test_load_refuses_hostile_headers(change, message, tmp_path):
    weights, model = model_of()
    path = tmp_path / "tuned.safetensors"
    model.save(path, weights, {})
    rewrite(path, task=json.dumps(model.facts.to_dict() | change))
    assert load_weights(str(path)).task  # conversions need no head
    with pytest.raises(WeightsError, match=message) as refused:
        TaskModel.load(path)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        ({"task.head.bias": None}, {}, "no array 'task.head.bias'"),
        ({"task.head.weight": None}, {}, "half a head"),
        ({"task.head.bias": np.ones(3, np.float64)}, {}, "float64"),
        ({"task.head.bias": np.ones(4, np.float32)}, {}, "finite float32"),
        ({"task.head.weight": np.full((3, 24), np.nan, np.float32)}, {}, "finite float32"),
        ({"task.head.extra": np.ones(3, np.float32)}, {}, "an unknown array"),
        ({"task.encoder.norm.weight": np.ones(3, np.float32)}, {}, "finite float32"),
        ({"task.encoder.decode.me": np.ones(3, np.float32)}, {}, "an unknown array"),
        ({}, {"task": "{"}, "cannot read 'task'"),
        ({}, {"task": "{}"}, "half a head"),
    ],
)
def test_load_weights_refuses_hostile_heads(arrays, header, message, tmp_path):
    weights, model = model_of()
    path = tmp_path / "tuned.safetensors"
    model.save(path, weights, {})
    rewrite(path, arrays, **header)
    with pytest.raises(WeightsError, match=message):
        load_weights(str(path))


def test_weights_without_a_head_are_refused():
    with pytest.raises(WeightsError, match="without the head of a task.*finetune --labels"):
        TaskModel.load("linear")


def rewrite(path, changes=None, **header):
    """Replace arrays (None: remove) and values of the header of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path) | (changes or {})
    save_file({name: array for name, array in arrays.items() if array is not None}, path, metadata | header)
