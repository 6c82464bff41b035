"""Weights files: round trips, and errors for wrong contents."""

import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ms2hs.errors import OutputError, UnknownName, WeightsError
from ms2hs.models import weights
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import load_weights, save_weights, weights_names

COUNT, RANK = 429, 4


def make_prior():
    rng = np.random.default_rng(0)
    values = {
        name: rng.uniform(0, 1, COUNT).astype(np.float32) for name in ("residual", "reach", "sigma_scale", "shift")
    }
    return SpectralPrior(
        wavelength_nm=np.linspace(370, 2510, COUNT, dtype=np.float32),
        factors=rng.standard_normal((COUNT, RANK)).astype(np.float32),
        sample=rng.standard_normal((7, RANK)).astype(np.float32),
        floor=0.1,
        noise=0.01,
        **values,
    )


def test_linear_weights_round_trip(tmp_path):
    path, prior, card = tmp_path / "mine.safetensors", make_prior(), {"trained_on": ["a"], "scores": {"rmse": 0.01}}
    digest = save_weights(path, prior, card)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_weights(str(path))
    assert (loaded.name, loaded.kind, loaded.sha256, loaded.card) == ("mine", "linear", digest, card)
    assert loaded.range_nm == (370, 2510)
    np.testing.assert_array_equal(loaded.prior.factors, prior.factors)
    assert loaded.prior.floor == pytest.approx(0.1)
    assert save_weights(tmp_path / "again.safetensors", prior, card) == digest


def test_names_are_found_in_the_first_folder_with_the_file(tmp_path, monkeypatch):
    folders = (tmp_path / "checkout", tmp_path / "package")
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(weights, "FOLDERS", folders)
    save_weights(folders[1] / "linear.safetensors", make_prior(), {"from": "package"})
    assert load_weights("linear").card["from"] == "package"
    save_weights(folders[0] / "linear.safetensors", make_prior(), {"from": "checkout"})
    assert load_weights("linear").card["from"] == "checkout"
    assert weights_names() == ["linear"]
    with pytest.raises(UnknownName, match="known: linear"):
        load_weights("quadratic")
    with pytest.raises(WeightsError, match="no such weights file"):
        load_weights(str(tmp_path / "linear.safetensors"))


def rewritten(path, metadata=None, **arrays):
    """The file with some arrays replaced (None: removed) and metadata changed."""
    content = load_file(path) | arrays
    header = {"format": "1", "kind": "linear", "card": "{}"} | (metadata or {})
    save_file({name: array for name, array in content.items() if array is not None}, path, header)
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"format": "2"}}, "format '2'"),
        ({"metadata": {"kind": "spectral"}}, "kind 'spectral'"),
        ({"metadata": {"card": "{"}}, "cannot read 'card'"),
        ({"factors": None}, "no array 'factors'"),
        ({"factors": np.zeros((COUNT, RANK))}, "float64"),
        ({"factors": np.zeros((COUNT + 1, RANK), np.float32)}, "429 is needed"),
        ({"sample": np.zeros((7, RANK + 1), np.float32)}, "4 is needed"),
        ({"residual": np.zeros((COUNT, 1), np.float32)}, "2 axes"),
        ({"noise": np.zeros(2, np.float32)}, "1 is needed"),
        ({"reach": np.full(COUNT, np.nan, np.float32)}, "not finite"),
        ({"wavelength_nm": np.linspace(2510, 370, COUNT, dtype=np.float32)}, "ascend"),
    ],
)
def test_load_rejects_wrong_contents(tmp_path, changes, message):
    path = tmp_path / "a.safetensors"
    save_weights(path, make_prior(), {})
    with pytest.raises(WeightsError, match=message):
        load_weights(rewritten(path, **changes))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle", b"\xff" * 100, json.dumps({}).encode()])
def test_load_rejects_files_that_are_not_safetensors(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        load_weights(str(path))


def test_load_rejects_a_truncated_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, make_prior(), {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        load_weights(str(path))


def test_save_needs_an_existing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"a\.safetensors .*written"):
        save_weights(tmp_path / "missing" / "a.safetensors", make_prior(), {})


def test_shipped_weights_serve_every_sensor():
    from ms2hs.spectra.sensors import load_sensor

    shipped = load_weights()
    assert shipped.path.stat().st_size < 2_000_000
    assert shipped.card["trained_on"]
    assert len(shipped.card["scores"]) == 18
    source = load_sensor("sentinel2a").grid
    for target in ("enmap", "emit", "emit-285", "prisma"):
        conditional = shipped.prior.condition(source, load_sensor(target).grid)
        assert np.isfinite(conditional.gain).all()
        assert (conditional.relative_sigma > 0).all()
    assert not conditional.known.all()
    assert (conditional.relative_sigma[~conditional.known]).min() > np.median(conditional.relative_sigma)


def test_preset_without_weights_names_the_training_command():
    with pytest.raises(UnknownName, match="pretrain --preset s2mae"):
        load_weights("s2mae")


def small_network(name="spectral", **changes):
    import torch

    from ms2hs.models.config import preset
    from ms2hs.models.mae import SpectralMAE

    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_heads": 2, "window": 16}
    return SpectralMAE(replace(preset(name), **(sizes | changes)), load_weights("linear").prior)


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral", "dlr-ibm-spectral", "s2mae"])
def test_network_weights_round_trip(tmp_path, name):
    import torch

    network = small_network(name)
    path = tmp_path / "n.safetensors"
    digest = save_weights(path, load_weights("linear").prior, {"trained_on": ["a"]}, network)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == save_weights(path, load_weights("linear").prior, {"trained_on": ["a"]}, network)
    loaded = load_weights(str(path))
    assert loaded.kind == "mae"
    assert loaded.card["trained_on"] == ["a"]
    assert loaded.network.config == network.config
    for parameter, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[parameter], tensor)
    np.testing.assert_array_equal(loaded.prior.factors, load_weights("linear").prior.factors)


def test_adjustments_calibration_and_share_round_trip(tmp_path):
    prior = load_weights("linear").prior
    scale = np.linspace(1, 2, len(prior.wavelength_nm)).astype(np.float32)
    lines = {"sentinel2a": {"B02": (0.9, 0.01), "B8A": (1.1, -0.02)}}
    save_weights(tmp_path / "n.safetensors", prior, {}, small_network(), sigma_scale=scale, adjustments=lines)
    loaded = load_weights(str(tmp_path / "n.safetensors"))
    assert loaded.adjustments == lines
    np.testing.assert_array_equal(loaded.calibrated_prior.sigma_scale, scale)
    np.testing.assert_array_equal(loaded.calibrated_prior.factors, prior.factors)
    assert loaded.network.share is None
    network = small_network()
    network.set_share(scale - 1.0)
    save_weights(tmp_path / "b.safetensors", prior, {}, network)
    np.testing.assert_allclose(load_weights(str(tmp_path / "b.safetensors")).network.share, scale - 1, atol=1e-6)
    save_weights(tmp_path / "l.safetensors", prior, {}, adjustments=lines)
    linear = load_weights(str(tmp_path / "l.safetensors"))
    assert linear.adjustments == lines
    assert linear.calibrated_prior is linear.prior


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        ({"sigma_scale": np.ones(3, np.float32)}, {}, "sigma_scale"),
        ({"sigma_scale": -np.ones(429, np.float32)}, {}, "0 or more"),
        ({"share": np.full(429, np.nan, np.float32)}, {}, "share"),
        ({}, {"adjustments": "nothing"}, "cannot read 'adjustments'"),
        ({}, {"adjustments": '{"sentinel2a": {"B02": [1]}}'}, "adjustments"),
        ({}, {"adjustments": '{"sentinel2a": {"B02": [1, NaN]}}'}, "finite"),
        ({}, {"adjustments": "[]"}, "cannot read 'adjustments'"),
    ],
)
def test_load_rejects_a_broken_calibration(tmp_path, arrays, header, message):
    path = tmp_path / "n.safetensors"
    save_weights(path, load_weights("linear").prior, {}, small_network())
    with safe_open(path, framework="numpy") as file:
        whole = dict(file.metadata()) | header
    save_file(load_file(path) | arrays, path, whole)
    with pytest.raises(WeightsError, match=message):
        load_weights(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": "network.head.bias"}, "1 missing"),
        ({"add": "network.extra"}, "1 unknown"),
        ({"nan": "network.head.bias"}, "finite float32"),
        ({"shape": "network.head.bias"}, "is float32"),
        ({"dtype": "network.head.bias"}, "float64"),
        ({"config": '{"patch": 1}'}, "cannot read 'config'"),
        ({"config": "nothing"}, "cannot read 'config'"),
        ({"config_change": {"width": 24}}, "needed"),
        ({"config_change": {"colour": "blue"}}, "colour"),
        ({"drop": "prior.factors"}, "factors"),
    ],
)
def test_load_rejects_a_broken_network(tmp_path, changes, message):
    path = tmp_path / "n.safetensors"
    save_weights(path, load_weights("linear").prior, {}, small_network())
    arrays = load_file(path)
    with safe_open(path, framework="numpy") as file:
        header = dict(file.metadata())
    for kind, what in changes.items():
        if kind == "drop":
            del arrays[what]
        elif kind == "add":
            arrays[what] = np.zeros(3, np.float32)
        elif kind == "nan":
            arrays[what] = np.full_like(arrays[what], np.nan)
        elif kind == "shape":
            arrays[what] = np.zeros(3, np.float32)
        elif kind == "dtype":
            arrays[what] = arrays[what].astype(float)
        elif kind == "config":
            header["config"] = what
        else:
            header["config"] = json.dumps(json.loads(header["config"]) | what)
    save_file(arrays, path, header)
    with pytest.raises(WeightsError, match=message):
        load_weights(str(path))


def test_load_never_unpickles(tmp_path):
    path = tmp_path / "n.safetensors"
    path.write_bytes(pickle.dumps({"network": 1}))
    with pytest.raises(WeightsError, match="not a readable"):
        load_weights(str(path))


def test_default_is_a_calibrated_network_with_a_share(monkeypatch):
    default = load_weights("default")
    assert default.network is not None
    assert default.calibrated_prior is not None
    share = default.network.share
    assert ((share >= 0) & (share <= 1)).all()
    assert 0.2 < share.mean() < 1
    assert default.range_nm[0] <= 400
    assert default.range_nm[1] >= 2500
    monkeypatch.setattr(weights, "BEST_FIRST", ("nothing", "linear"))
    assert load_weights("default").kind == "linear"  # without a network


@pytest.mark.parametrize("path", sorted(weights.FOLDERS[0].glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_files_match_the_checksums_and_are_small(path):
    listed = dict(reversed(line.split()) for line in (path.parent / "SHA256SUMS").read_text().splitlines())
    assert listed[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size < 50e6
    assert set(listed) == {one.name for one in path.parent.glob("*.safetensors")}
