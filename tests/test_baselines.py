"""Each baseline against its definition, and models against their own predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ms2hs.evaluation.baselines import build_methods
from ms2hs.inference.predictor import Predictor
from ms2hs.models.config import preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import TYPICAL_SCALE
from ms2hs.models.weights import load_weights, save_weights
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, pasted_bands, response_matrix

SOURCE, TARGET = load_sensor("sentinel2a").grid, grid_of(np.linspace(430, 2400, 60), np.full(60, 12.0))
PRIOR = load_weights().prior
BASELINES = ["mean spectrum", "interpolation", "nearest spectra", "pasted bands", "prior"]


def training_spectra(grid):
    """(band, spectrum) the prior's sample, of scale 1, in the bands of a grid."""
    return response_matrix(grid, PRIOR.wavelength_nm) @ PRIOR.factors.astype(float) @ PRIOR.sample.T.astype(float)


@pytest.fixture(scope="module")
def methods():
    return {method.name: method for method in build_methods(PRIOR, [load_weights()], SOURCE, TARGET)}


@pytest.fixture(scope="module")
def scene_in_source():
    """Training spectra in the source bands (source band, row, col), of one brightness, and the valid pixels."""
    spectra = training_spectra(SOURCE)[:, 7:607:20].reshape(len(SOURCE), 5, 6)
    valid = np.ones((5, 6), bool)
    valid[2, 3] = False
    return (0.3 * spectra).astype(np.float32), valid


def test_methods_are_baselines_then_prior_then_models(methods):
    assert list(methods) == [*BASELINES, "linear"]
    assert [method.kind for method in methods.values()] == ["baseline"] * 4 + ["prior", "model"]
    assert [name for name, method in methods.items() if method.sigma] == ["prior", "linear"]


@pytest.mark.parametrize("name", [*BASELINES, "linear"])
def test_every_method_predicts_every_band_of_valid_pixels(name, methods, scene_in_source):
    measured, valid = scene_in_source
    predicted = methods[name].reconstruct(measured, valid)
    assert predicted.shape == (60, 5, 6)
    assert predicted.dtype == np.float32
    assert np.isfinite(predicted[:, valid]).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_predict_each_pixel_alone(name, methods, scene_in_source):
    measured, valid = scene_in_source
    whole = methods[name].reconstruct(measured, valid)
    alone = methods[name].reconstruct(measured[:, 1:2, 2:3], valid[1:2, 2:3])
    np.testing.assert_allclose(alone[:, 0, 0], whole[:, 1, 2], rtol=1e-5, atol=1e-6)


def test_mean_spectrum_ignores_the_measurement(methods, scene_in_source):
    predicted = methods["mean spectrum"].reconstruct(*scene_in_source)
    expected = TYPICAL_SCALE * training_spectra(TARGET).mean(axis=1)
    np.testing.assert_allclose(predicted[:, 3, 3], expected, rtol=1e-4)
    assert (predicted == predicted[:, :1, :1]).all()


def test_interpolation_equals_numpy(methods, scene_in_source):
    measured, valid = scene_in_source
    order = np.argsort(SOURCE.wavelength_nm)
    expected = np.interp(TARGET.wavelength_nm, SOURCE.wavelength_nm[order], measured[order, 1, 2])
    predicted = methods["interpolation"].reconstruct(measured, valid)
    np.testing.assert_allclose(predicted[:, 1, 2], expected, rtol=1e-5)


def test_nearest_spectra_finds_the_nearest_of_all(methods, scene_in_source):
    measured, valid = scene_in_source
    predicted = methods["nearest spectra"].reconstruct(measured, valid)
    scale = PRIOR.condition(SOURCE, TARGET).scale(measured)
    library, answers = training_spectra(SOURCE), training_spectra(TARGET)
    for row, col in ((0, 0), (4, 5), (3, 1)):
        bands = measured[:, row, col].astype(float) / scale[row, col]
        nearest = np.square(library - bands[:, None]).sum(axis=0).argmin()
        np.testing.assert_allclose(predicted[:, row, col], answers[:, nearest] * scale[row, col], rtol=1e-4)


def test_nearest_spectra_does_not_depend_on_the_step(methods, scene_in_source, monkeypatch):
    whole = methods["nearest spectra"].reconstruct(*scene_in_source)
    monkeypatch.setattr("ms2hs.evaluation.baselines.PIXELS_PER_SEARCH", 7)
    np.testing.assert_allclose(methods["nearest spectra"].reconstruct(*scene_in_source), whole)


def test_pasted_bands_copies_covered_bands_and_predicts_the_rest(methods, scene_in_source):
    measured, valid = scene_in_source
    predicted = methods["pasted bands"].reconstruct(measured, valid)
    pasted = pasted_bands(SOURCE, TARGET)
    there = pasted >= 0
    assert 0 < there.sum() < len(TARGET)
    np.testing.assert_array_equal(predicted[there][:, valid], measured[pasted[there]][:, valid])
    rest = PRIOR.condition(TARGET.select(there), TARGET).reconstruct(measured[pasted[there]])
    np.testing.assert_allclose(predicted[~there][:, valid], rest[~there][:, valid], rtol=1e-5)


def test_pasted_bands_is_left_out_without_covered_bands():
    far = grid_of(np.array([1000.0, 1250.0, 2350.0]), np.full(3, 5.0))
    assert [method.name for method in build_methods(PRIOR, [], SOURCE, far)] == [
        name for name in BASELINES if "pas" not in name
    ]


def test_prior_and_linear_weights_predict_the_expectation(methods, scene_in_source):
    measured, valid = scene_in_source
    conditional = PRIOR.condition(SOURCE, TARGET)
    for name in ("prior", "linear"):
        np.testing.assert_array_equal(
            methods[name].reconstruct(measured, valid), conditional.reconstruct(measured, valid)
        )
        np.testing.assert_array_equal(methods[name].sigma(measured), conditional.sigma(measured))


def network_weights(path, name, **changes):
    torch.manual_seed(0)
    network = SpectralMAE(replace(preset(name), **changes), PRIOR)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_weights(path, PRIOR, {"scores": {"train": {"mse": 0.25}}}, network)
    return load_weights(str(path))


SMALL = {"width": 16, "heads": 2, "depth": 1, "decoder_width": 16, "decoder_heads": 2, "decoder_depth": 1}


@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spatial-spectral"])
def test_network_predicts_as_in_a_predictor(name, scene_in_source, tmp_path):
    weights = network_weights(tmp_path / "mine.safetensors", name, **SMALL, window=8)
    *_, method = build_methods(PRIOR, [weights], SOURCE, TARGET)
    assert (method.name, method.kind, method.train_mse) == ("mine", "model", 0.25)
    assert method.sigma is None
    measured, valid = scene_in_source
    alone = Predictor(weights.network, SOURCE, TARGET).reconstruct(measured, valid)
    np.testing.assert_allclose(method.reconstruct(measured, valid), alone, atol=1e-6)


def test_spatial_network_gets_windows_of_its_own_size(tmp_path):
    weights = network_weights(tmp_path / "w.safetensors", "dlr-ibm-spatial-spectral", **SMALL, window=8)
    *_, method = build_methods(PRIOR, [weights], SOURCE, TARGET)
    rng = np.random.default_rng(0)
    measured = (0.3 + 0.02 * rng.standard_normal((len(SOURCE), 19, 30))).astype(np.float32)
    valid = rng.random((19, 30)) < 0.9
    predicted = method.reconstruct(measured, valid)
    assert (np.isfinite(predicted).all(axis=0) == valid).all()
    first = method.reconstruct(measured[:, :8, :8], valid[:8, :8])
    np.testing.assert_allclose(predicted[:, 0, 0], first[:, 0, 0], atol=1e-5)  # no other window reaches the corner


def test_weights_of_one_name_get_unique_names():
    names = [method.name for method in build_methods(PRIOR, [load_weights()] * 3, SOURCE, TARGET)[5:]]
    assert names[0] == "linear"
    assert len(set(names)) == 3
