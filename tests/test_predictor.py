"""Predictor: a network applied to numpy arrays and tensors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ms2hs.errors import GridError, UnknownName
from ms2hs.inference import predictor
from ms2hs.inference.band_mapping import BandMapping, _fill_groups
from ms2hs.inference.device import device_named
from ms2hs.inference.predictor import TOKENS_PER_BATCH, Predictor
from ms2hs.models.config import preset
from ms2hs.models.mae import MIDDLE, SpectralMAE
from ms2hs.models.weights import load_weights
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of, pasted_bands

SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
SMALL = {"width": 24, "heads": 2, "decoder_width": 16, "decoder_heads": 2, "window": 16}


def network_of(name, **changes):
    torch.manual_seed(0)
    config = replace(preset(name), **(SMALL | {"patch": min(preset(name).patch, 4)} | changes))
    network = SpectralMAE(config, load_weights("linear").prior if config.rank else None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def scene(rows=20, cols=22):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.5, (12, rows, cols)).astype(np.float32)
    valid = rng.random((rows, cols)) > 0.1
    x[:, ~valid] = np.nan
    return x, valid


@pytest.mark.parametrize("name", ["spectral", "spatial-spectral", "dlr-ibm-spectral", "s2mae", "general"])
def test_reconstruct_takes_any_size_and_keeps_invalid_pixels_nan(name):
    applied = Predictor(network_of(name), SOURCE, TARGET)
    x, valid = scene()
    result = applied.reconstruct(x, valid)
    assert result.shape == (202, 20, 22)
    assert result.dtype == np.float32
    assert np.isnan(result[:, ~valid]).all()
    assert np.isfinite(result[:, valid]).all()


@pytest.mark.parametrize("name", ["spectral", "dlr-ibm-spectral"])
@pytest.mark.parametrize("places", [1, 4, 13])
def test_reconstruct_of_local_network_does_not_depend_on_parts(monkeypatch, name, places):
    applied = Predictor(network_of(name), SOURCE, TARGET)
    x, valid = scene()
    whole = applied.reconstruct(x, valid)
    monkeypatch.setitem(TOKENS_PER_BATCH, "cpu", 12 * places)
    np.testing.assert_allclose(applied.reconstruct(x, valid)[:, valid], whole[:, valid], atol=1e-5)


def test_reconstruct_returns_bands_in_the_order_of_the_target():
    network = network_of("dlr-ibm-spectral")
    order = np.random.default_rng(0).permutation(202)
    x, valid = scene()
    straight = Predictor(network, SOURCE, TARGET).reconstruct(x, valid)
    turned = Predictor(network, SOURCE, TARGET.select(order)).reconstruct(x, valid)
    np.testing.assert_allclose(turned[:, valid], straight[order][:, valid], atol=1e-5)


@pytest.mark.parametrize("name", ["spatial-spectral", "dlr-ibm-spatial-spectral"])
@pytest.mark.parametrize("size", [(16, 16), (14, 15)])
def test_reconstruct_tensor_equals_reconstruct_windows(name, size):
    order = np.random.default_rng(0).permutation(202)
    applied = Predictor(network_of(name), SOURCE, TARGET.select(order))
    pieces = [scene(*size), scene(*size)]
    pieces[1][0][...] = 0.3
    pieces[1][1][...] = True
    expected = applied.reconstruct_windows(*zip(*pieces, strict=True))
    x = torch.from_numpy(np.stack([np.nan_to_num(values) for values, _ in pieces]))
    valid = torch.from_numpy(np.stack([valid for _, valid in pieces]))
    found = applied.reconstruct_tensor(x, valid)
    assert (found.dtype, found.shape) == (torch.float32, (2, 202, *size))
    known = np.broadcast_to(valid[:, None], found.shape)
    np.testing.assert_array_equal(found.numpy()[known], expected[known])
    (alone,) = applied.reconstruct_tensor(x[1:]).numpy()
    np.testing.assert_allclose(alone, expected[1], atol=1e-5)


def test_windows_per_batch_fills_half_of_the_free_gpu_memory(monkeypatch):
    applied = Predictor(network_of("spatial-spectral", measured="tokens"), SOURCE, TARGET)
    assert applied.windows_per_batch(16, 16) == 1
    applied.device = torch.device("cuda", 0)
    free = {"bytes": 0}
    monkeypatch.setattr(predictor, "free_bytes", lambda _: free["bytes"])
    assert applied.windows_per_batch(16, 16) == applied.patches_per_batch == 1
    # 13 tokens of width 24, and 202 bands of 16 pixels, in 4 bytes each; 16 places a window
    window = 16 * 4 * (12 * 24 * 13 + 5 * 202 * 16)
    free["bytes"] = 2 * 7 * window
    assert applied.windows_per_batch(16, 16) == 7
    assert applied.windows_per_batch(14, 15) == 7
    assert applied.windows_per_batch(32, 16) == 3
    free["bytes"] = 10**15
    assert applied.windows_per_batch(16, 16) == TOKENS_PER_BATCH["cuda"] // 12 // 16


def test_frozen_model_sees_only_mapped_bands():
    network = network_of("dlr-ibm-spatial-spectral", group=4)
    applied = Predictor(network, SOURCE, TARGET)
    seen = pasted_bands(SOURCE, TARGET)
    visible = torch.as_tensor(applied._band_mapping.visible(8, 8))
    groups = -(-202 // 4)
    by_group = np.append(seen, [-1, -1]).reshape(groups, 4).max(axis=1) >= 0
    assert visible.shape == (1, 1, 4 * by_group.sum())
    unused = [i for i in range(12) if i not in seen]
    x, valid = scene(8, 8)
    valid[:] = True
    x = np.nan_to_num(x, nan=0.2)
    other = x.copy()
    other[unused] = 0.9
    np.testing.assert_array_equal(applied.reconstruct(x, valid), applied.reconstruct(other, valid))


@pytest.mark.parametrize(("sensor", "target", "covered"), [("sentinel2a", "enmap", 76), ("hls_s30", "emit", 77)])
@pytest.mark.parametrize("name", ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral"])
def test_exact_rule_shows_the_covered_bands_only(name, sensor, target, covered):
    source, grid = load_sensor(sensor).grid, load_sensor(target).grid
    pasted = pasted_bands(source, grid)
    reflectance = 0.3 + 0.5 * torch.rand(2, len(source), 8, 8)
    exact, filled = (
        BandMapping(replace(preset(name), uncovered=uncovered), source, grid) for uncovered in ("neutral", "nearest")
    )
    shown = exact.paste(reflectance)
    is_shown = (shown != MIDDLE).all(dim=(0, 2, 3)).numpy()
    np.testing.assert_array_equal(is_shown, pasted >= 0)
    assert is_shown.sum() == covered
    torch.testing.assert_close(shown[:, is_shown], reflectance[:, pasted[is_shown]])
    torch.testing.assert_close(filled.paste(reflectance)[:, is_shown], shown[:, is_shown])
    assert (filled.paste(reflectance) != MIDDLE).all()
    np.testing.assert_array_equal(exact.visible(8, 8), filled.visible(8, 8))


def test_predictor_refuses_target_without_mapped_band():
    far = grid_of(np.array([1750.0, 1760.0, 1770.0]), np.full(3, 5.0))
    with pytest.raises(GridError, match="60 %"):
        Predictor(network_of("dlr-ibm-spectral"), SOURCE, far)


def test_fill_groups_takes_the_nearest_mapped_band_of_the_group():
    pasted = np.array([-1, -1, 3, -1, 4, -1, -1, -1, -1])
    np.testing.assert_array_equal(_fill_groups(pasted, 4), [3, 3, 3, 3, 4, 4, 4, 4, -1])


def test_device_named_knows_cpu_and_auto():
    assert device_named("cpu").type == "cpu"
    assert device_named("auto").type in {"cpu", "cuda"}
    with pytest.raises(UnknownName, match="auto, cpu"):
        device_named("tpu")
