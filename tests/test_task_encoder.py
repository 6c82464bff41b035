"""The encoder as a module: features for each preset and kind of bands."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_masked_task import NAMES, config_of, network_of

from ms2hs.errors import GridError, WeightsError
from ms2hs.inference.band_mapping import BandMapping
from ms2hs.models.weights import load_weights
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import grid_of
from ms2hs.tasks.task_encoder import TaskEncoder

HYPERSPECTRAL = grid_of(np.linspace(420, 2400, 30), np.full(30, 15.0))
BANDS = {"sentinel2a": load_sensor("sentinel2a").grid, None: HYPERSPECTRAL}


def weights_of(name, **changes):
    config = config_of(name, **changes)
    return replace(load_weights("linear"), name=name, network=network_of(config).eval())


def windows_of(grid, side=8, count=2):
    """Random reflectance, and a few invalid pixels."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.uniform(0.02, 0.5, (count, len(grid), side, side)).astype(np.float32))
    valid = torch.ones(count, side, side, dtype=torch.bool)
    valid[0, :3, 1] = False
    return values, valid


@pytest.mark.parametrize("sensor", BANDS)
@pytest.mark.parametrize("name", NAMES)
def test_features_of_every_preset_ignore_invalid_values_and_the_order_of_bands(name, sensor):
    grid = BANDS[sensor]
    encoder = TaskEncoder.of(weights_of(name), grid, sensor).eval()
    values, valid = windows_of(grid)
    with torch.inference_mode():
        features = encoder(values, valid)
        assert features.shape == (2, 8 // encoder.patch, 8 // encoder.patch, encoder.width)
        assert torch.isfinite(features).all()
        holed = values.masked_fill(~valid[:, None], torch.nan)
        torch.testing.assert_close(encoder(holed, valid), features)
        order = np.random.default_rng(1).permutation(len(grid))
        shuffled = TaskEncoder.of(weights_of(name), grid.select(order), sensor).eval()
        torch.testing.assert_close(shuffled(values[:, order], valid), features, rtol=1e-4, atol=1e-5)
        cut = encoder(values[:, :, :7, :5], valid[:, :7, :5])
        assert cut.shape[1:3] == (-(-7 // encoder.patch), -(-5 // encoder.patch))
        assert (features[0] - features[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "s2mae", "general", "spectral"])
def test_features_are_the_mean_of_the_visible_tokens_of_a_patch(name):
    weights, grid = weights_of(name), BANDS["sentinel2a"]
    grid = grid.select(np.argsort(grid.wavelength_nm))
    network, config = weights.network, weights.network.config
    values, _ = windows_of(grid, side=config.patch * 2)
    valid = torch.ones_like(values[:, 0], dtype=torch.bool)
    view, visible, pasted = network.band_view(grid), None, values
    if config.measured == "pasted":
        target = load_sensor("enmap").grid
        mapping = BandMapping(config, grid, target)
        assert mapping.visible(*values.shape[2:]).shape[-1] < len(target)  # hidden groups are left out
        view, pasted = network.band_view(target), mapping.paste(values)
        visible = torch.from_numpy(mapping.visible(*values.shape[2:])).expand(2, -1, -1)
    with torch.inference_mode():
        features = TaskEncoder.of(weights, grid, "sentinel2a")(values, valid).flatten(1, 2)
        scaling = network.scaling(pasted, view, view) if config.rank else None
        group = config.group if config.measured == "pasted" else 1
        encoded = network.encode(pasted, view, visible, scaling, group)
    for window in range(2):
        for patch in range(4):
            tokens = encoded.tokens[window]
            of_patch = tokens[patch] if encoded.patches is None else tokens[0][encoded.patches[window, 0] == patch]
            torch.testing.assert_close(features[window, patch], of_patch.mean(0), rtol=1e-4, atol=1e-5)


def test_network_pretrained_on_a_sensor_has_its_bands_in_groups():
    grid = BANDS["sentinel2a"].select(np.argsort(BANDS["sentinel2a"].wavelength_nm))
    weights = weights_of("s2mae")
    pretrained = replace(weights, card={"settings": {"source": "sentinel2a"}})
    values, valid = windows_of(grid)
    with torch.inference_mode():
        features = TaskEncoder.of(pretrained, grid, "sentinel2a")(values, valid)
        torch.testing.assert_close(features, TaskEncoder.of(weights, grid)(values, valid))  # known by wavelength
        assert (features - TaskEncoder.of(weights, grid, "sentinel2a")(values, valid)).abs().max() > 1e-3
        odd = replace(weights, card={"settings": ["source"]})
        assert TaskEncoder.of(odd, grid, "sentinel2a")(values, valid).shape == features.shape


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_encoder_and_not_the_decoder(name):
    encoder = TaskEncoder.of(weights_of(name), HYPERSPECTRAL)
    encoder(*windows_of(HYPERSPECTRAL)).square().sum().backward()
    reached = {name for name, one in encoder.network.named_parameters() if one.grad is not None}
    assert reached
    assert reached <= set(encoder.encoder_parameters())
    assert {"norm.weight", "encoder.0.attn.qkv.weight"} <= reached


def test_random_encoder_has_other_parameters_and_the_same_shape():
    weights = weights_of("spectral")
    values, valid = windows_of(HYPERSPECTRAL)
    trained = TaskEncoder.of(weights, HYPERSPECTRAL)
    one, same, other = (TaskEncoder.random(weights, HYPERSPECTRAL, seed=seed) for seed in (1, 1, 2))
    with torch.inference_mode():
        features = [encoder(values, valid) for encoder in (trained, one, same, other)]
    assert torch.equal(features[1], features[2])
    assert len({tuple(one.flatten().tolist()) for one in features}) == 3


def test_bands_outside_the_range_are_left_out():
    weights = weights_of("spectral")
    far = grid_of(np.append(HYPERSPECTRAL.wavelength_nm, 2600.0), np.append(HYPERSPECTRAL.fwhm_nm, 15.0))
    values, valid = windows_of(far)
    with torch.inference_mode():
        inside = TaskEncoder.of(weights, HYPERSPECTRAL)(values[:, :-1], valid)
        torch.testing.assert_close(TaskEncoder.of(weights, far)(values, valid), inside)


@pytest.mark.parametrize(
    ("name", "nm", "message"),
    [
        ("general", [3000.0, 3100.0], "none of them at wavelengths of the model"),
        ("spatial-spectral", [450.0, 700.0, 900.0], "finds the land cover from green, red, near infrared and 1610 nm"),
        ("linear", [450.0, 700.0, 900.0], "a linear model has no encoder"),
    ],
)
def test_unusable_bands_and_weights_are_refused(name, nm, message):
    weights = load_weights() if name == "linear" else weights_of(name)
    with pytest.raises((GridError, WeightsError), match=message):
        TaskEncoder.of(weights, grid_of(np.array(nm), np.full(len(nm), 20.0)))
