"""Properties of the masked autoencoder that hold for any weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from ms2hs.errors import UnknownName
from ms2hs.models.config import PRESETS, TARGETS, ModelConfig, preset
from ms2hs.models.layers import BandView, patchify, unpatchify
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.masking import hide, visible_index
from ms2hs.models.prior_tensors import LARGEST_CONTENT, CommonErrors
from ms2hs.models.weights import load_weights
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, InputError
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import grid_of

SMALL = {"width": 24, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2, "window": 16}
PLAIN = ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "s2mae", "general"]
OURS = ["spectral", "spatial-spectral"]
ERROR = replace(TYPICAL_INPUT_ERROR, pixel=0.0)


def small(name, **changes) -> SpectralMAE:
    """A preset's configuration, but small, with perturbed initial weights."""
    torch.manual_seed(0)
    config = replace(preset(name), **({**SMALL, "patch": min(preset(name).patch, 4)} | changes))
    network = SpectralMAE(config, load_weights("linear").prior if config.rank else None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def window(bands, windows=2, seed=1, side=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(windows, bands, side, side, generator=generator)


def visible_of(network, strategy, windows, bands, seed=0):
    c = network.config
    shape = (windows, (16 // c.patch) ** 2, -(-bands // c.group))
    hidden = hide(strategy, shape, 0.75, np.random.default_rng(seed))
    return hidden, torch.from_numpy(visible_index(hidden, per_patch=c.per_patch))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("target", ["enmap", "emit-285", "desis"])
def test_untrained_network_predicts_the_prior(name, target):
    prior = load_weights("linear").prior
    network = SpectralMAE(preset(name), prior)
    for source in sensor_names("source"):
        grids = load_sensor(source).grid, load_sensor(target).grid
        x = window(len(grids[0]))
        with torch.no_grad():
            made = network(x, network.band_view(grids[0]), network.band_view(grids[1])).numpy()
        for values, found in zip(x.numpy(), made, strict=True):
            np.testing.assert_allclose(found, prior.condition(*grids).reconstruct(values), atol=2e-6)


@pytest.mark.parametrize("name", OURS)
def test_trained_network_differs_from_the_prior(name):
    network = small(name)
    source, target = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
    x = window(12)
    with torch.no_grad():
        made = network(x, network.band_view(source, ERROR), network.band_view(target)).numpy()
    assert np.abs(made[0] - network.prior.condition(source, target).reconstruct(x[0].numpy())).max() > 1e-3


@pytest.mark.parametrize("name", OURS)
def test_share_scales_the_correction_of_the_prior(name):
    network = small(name)
    x, source, target = window(12), load_sensor("sentinel2a").grid, load_sensor("enmap").grid
    given = ERROR if network.config.by_patch else None
    expected = network.prior.condition(source, target, given).reconstruct(x.numpy()[0])
    added = []
    for share in (None, 1.0, 0.5, 0.0):
        network.set_share(None if share is None else np.full(len(network.prior.wavelength_nm), share))
        with torch.no_grad():
            made = network(x, network.band_view(source, given), network.band_view(target))[0].numpy()
        added.append(made - expected)
    assert np.abs(added[0]).max() > 1e-3
    for found, part in zip(added[1:], (1, 0.5, 0), strict=True):
        np.testing.assert_allclose(found, part * added[0], atol=1e-5)
    with pytest.raises(ValueError, match="without a prior"):
        small("general").set_share(None)


@pytest.mark.parametrize("name", OURS)
def test_untrained_network_is_linear_in_brightness(name):
    # an untrained network: a trained one also depends on the brightness
    network = SpectralMAE(preset(name), load_weights("linear").prior)
    source, target = network.band_view(load_sensor("sentinel2a").grid), network.band_view(load_sensor("enmap").grid)
    x = 0.2 + 0.2 * window(12)  # no water or snow: their limits are absolute
    with torch.no_grad():
        torch.testing.assert_close(network(2 * x, source, target), 2 * network(x, source, target))


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("dlr-ibm-spectral", "spectral"),
        ("dlr-ibm-spectral", "place-spectral"),
        ("dlr-ibm-spatial-spectral", "spatial-spectral"),
        ("s2mae", "spatial-spectral"),
        ("general", "spatial"),
        ("general", "spatial-spectral"),
    ],
)
def test_output_does_not_depend_on_hidden_values(name, strategy):
    network = small(name)
    view = network.band_view(load_sensor("enmap").grid)
    x = window(202)
    hidden, visible = visible_of(network, strategy, 2, 202)
    other = x.clone()
    c = network.config
    pixels = torch.from_numpy(hidden).repeat_interleave(c.group, 2)[:, :, :202].transpose(1, 2)
    side = 16 // c.patch
    image = pixels.unflatten(2, (side, side)).repeat_interleave(c.patch, 2).repeat_interleave(c.patch, 3)
    other[image] = torch.rand(int(image.sum()))
    assert not torch.equal(x, other)
    with torch.no_grad():
        first, second = (network.encode(v, view, visible, None, c.group).tokens for v in (x, other))
        assert torch.equal(first, second)
        assert torch.equal(network(x, view, visible=visible), network(other, view, visible=visible))
        other[~image] += 0.1
        assert not torch.equal(network(x, view, visible=visible), network(other, view, visible=visible))


@pytest.mark.parametrize("name", PLAIN)
def test_permuted_tokens_give_permuted_encodings(name):
    network = small(name)
    view = network.band_view(load_sensor("enmap").grid)
    _, visible = visible_of(network, "spectral", 2, 202)
    order = torch.randperm(visible.shape[2])
    x = window(202)
    with torch.no_grad():
        straight = network.encode(x, view, visible, None, network.config.group).tokens
        turned = network.encode(x, view, visible[:, :, order], None, network.config.group).tokens
        torch.testing.assert_close(turned, straight[:, :, order], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            network(x, view, visible=visible[:, :, order]), network(x, view, visible=visible), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", OURS)
def test_output_does_not_depend_on_the_order_of_measured_bands(name):
    network = small(name)
    source, target = network.band_view(load_sensor("sentinel2a").grid), network.band_view(load_sensor("enmap").grid)
    order = np.random.default_rng(0).permutation(12)
    x = window(12)
    with torch.no_grad():
        torch.testing.assert_close(
            network(x[:, order], source.select(order), target), network(x, source, target), atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("name", [*PLAIN, *OURS])
@pytest.mark.parametrize("sensor", ["enmap", "enmap-224", "emit", "emit-285"])
def test_weights_accept_any_number_of_bands(name, sensor):
    network = small(name)
    grid = load_sensor(sensor).grid
    grid = grid.select(np.argsort(grid.wavelength_nm))
    view = network.band_view(grid)
    x = window(len(grid), windows=1)
    with torch.no_grad():
        if network.config.rank:
            made = network(x[:, ::20], view.select(np.arange(0, len(grid), 20)), view)
        else:
            _, visible = visible_of(network, "spectral", 1, len(grid))
            made = network(x, view, visible=visible)
    assert made.shape == x.shape
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("group", [5, 8, 64])
def test_padding_of_the_last_group_does_not_change_the_output(group):
    # 202 bands leave 2, 2 and 10 in the last group, whose token depends on these bands alone
    network = small("dlr-ibm-spectral", group=group, patch=4)
    grid = load_sensor("enmap").grid
    view = network.band_view(grid)
    x = window(202)
    tokens = patchify(x, 4, group)
    left = 202 % group
    assert tokens.shape[2] == -(-202 // group)
    assert (tokens[:, :, -1, left * 16 :] == 0).all()
    centre, width = view.groups(group)
    assert centre[-1] == pytest.approx(grid.wavelength_nm[-left:].mean())
    assert width[-1] == pytest.approx(grid.range_nm[1] - (grid.wavelength_nm - grid.fwhm_nm / 2)[-left])
    with torch.no_grad():
        groups = tokens.shape[2]
        visible = torch.arange(groups - 1).expand(2, 16, -1) + groups * torch.arange(16)[:, None]
        before = network(x, view, visible=visible)
        network.head.weight.view(group, 16, -1)[left:] += 1  # output of the padding
        after = network(x, view, visible=visible)
    torch.testing.assert_close(before[:, -left:], after[:, -left:])


def test_unpatchify_inverts_patchify():
    x = window(20)
    torch.testing.assert_close(unpatchify(patchify(x, 4, 8), (4, 4), 4, 8)[:, :20], x)
    token = patchify(x, 4, 8)[1, 6, 1]  # second row of patches, third column, second group
    torch.testing.assert_close(token, x[1, 8:16, 4:8, 8:12].flatten())


@pytest.mark.parametrize("name", ["general", *OURS])
def test_output_does_not_depend_on_invalid_pixels(name):
    network = small(name, patch=1) if name == "spectral" else small(name)
    source, target = network.band_view(load_sensor("sentinel2a").grid), network.band_view(load_sensor("enmap").grid)
    x = window(12, windows=1)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, 3:5, 7] = False
    garbage = torch.where(valid[:, None], x, torch.full_like(x, 1e6))
    with torch.no_grad():
        torch.testing.assert_close(
            network(x, source, target, valid=valid), network(garbage, source, target, valid=valid)
        )


def test_invalid_pixel_counts_as_the_mean_of_its_patch():
    network = small("spectral", patch=4)
    source, target = network.band_view(load_sensor("sentinel2a").grid), network.band_view(load_sensor("enmap").grid)
    x = window(12, windows=1)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, 5, 6] = False
    place = x[:, :, 4:8, 4:8].flatten(2)
    others = torch.cat([place[:, :, :6], place[:, :, 7:]], dim=2).mean(dim=2)
    filled = x.clone()
    filled[:, :, 5, 6] = others
    with torch.no_grad():
        torch.testing.assert_close(network(x, source, target, valid=valid), network(filled, source, target))


@pytest.mark.parametrize("error", [None, InputError(pixel=0.01)])
def test_network_of_patches_is_the_prior_without_common_errors(error):
    network = small("spatial-spectral")
    source, target = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
    x = window(12)
    with torch.no_grad():
        made = network(x, network.band_view(source, error), network.band_view(target))[0].numpy()
    expected = network.prior.condition(source, target, error).reconstruct(x.numpy()[0])
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize(("error", "kind"), [(InputError(gain=0.05), 0), (InputError(offset=0.01), 1)])
def test_common_errors_are_found_in_spectra_of_the_prior(error, kind):
    # soil and vegetation of average places, with an error in one band
    prior = load_weights("linear").prior
    source = SpectralMAE(preset("spatial-spectral"), prior).band_view(load_sensor("sentinel2a").grid, error)
    common = CommonErrors.of(prior, source, torch.device("cpu"), 32)
    spectra = common.mean.repeat_interleave(4, 0)[None].repeat(2, 1, 1)  # (window, patch, band)
    inverse = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(3)[None].repeat(2, 1)
    shares = F.pad(torch.eye(3), (2, 0)).repeat_interleave(4, 0)[None].repeat(2, 1, 1)
    size = 2 * common.deviation[0, kind]
    spectra[1, :, 3] += size * (spectra[1, :, 3] if kind == 0 else inverse[1])
    expected, _ = common.estimate(spectra, inverse, shares)
    torch.testing.assert_close(expected[0], torch.zeros_like(expected[0]), atol=1e-3, rtol=0)
    assert expected[1, :, kind].argmax() == 3
    assert 0.5 < expected[1, 3, kind] < 2
    before, after = (
        common.corrections(part, spectra[1:], inverse[1:], shares[1:]) for part in (0 * expected[1:], expected[1:])
    )
    assert (before == 0).all()
    assert after.abs().max() > 0


def test_content_is_proportional_to_the_coefficients_of_the_prior():
    prior = load_weights("linear").prior
    network = SpectralMAE(preset("spatial-spectral"), prior)
    nm = prior.wavelength_nm.astype(float)
    measured = np.flatnonzero((nm > 500) & (nm < 900))[::4]
    view = BandView(nm[measured], np.full(len(measured), 10.0), np.eye(len(nm))[measured])
    of_bands = network.prior_between(view, view, torch.device("cpu"))
    coefficients = np.random.default_rng(0).normal(size=(64, prior.factors.shape[1])).astype(np.float32)
    coefficients[:, 0] += 4
    spectra = coefficients @ prior.factors.T
    image = torch.from_numpy(spectra[:, measured].T.reshape(1, -1, 8, 8).copy())
    content = of_bands.content(image, 1)[0].flatten(0, 1)[:, :32].numpy()
    known = np.full_like(spectra, np.nan)
    known[:, measured] = spectra[:, measured] / of_bands.scale(image).numpy().reshape(-1, 1)
    with pytest.MonkeyPatch.context() as patch:  # the spectra are scaled already
        patch.setattr("ms2hs.models.prior.brightness_of", lambda spectra, _: np.ones(len(spectra)))
        expected = replace(prior, floor=0.0).coefficients(known)[:, :32]
    found = content + of_bands.offset.numpy()
    slopes = (found * expected).sum(axis=0) / np.square(expected).sum(axis=0)
    inside = np.abs(content).max(axis=0) < LARGEST_CONTENT
    assert inside.sum() > 16
    np.testing.assert_allclose(found[:, inside], (expected * slopes)[:, inside], atol=2e-2)


def test_patches_of_a_local_network_are_independent():
    network = small("spectral")
    source, target = network.band_view(load_sensor("sentinel2a").grid), network.band_view(load_sensor("enmap").grid)
    x = window(12, windows=1)
    other = x.clone()
    other[:, :, 8:] = 0.7
    with torch.no_grad():
        torch.testing.assert_close(network(x, source, target)[:, :, :8], network(other, source, target)[:, :, :8])
        wide, source = small("spatial-spectral"), network.band_view(load_sensor("sentinel2a").grid, ERROR)
        assert not torch.allclose(wide(x, source, target)[:, :, :8], wide(other, source, target)[:, :, :8])


@pytest.mark.parametrize("name", PLAIN)
def test_network_accepts_windows_of_any_multiple_of_the_patch(name):
    network = small(name)
    view = network.band_view(load_sensor("enmap").grid)
    x = torch.rand(1, 202, 8, 24)
    with torch.no_grad():
        assert network(x, view).shape == x.shape


def test_learnt_positions_follow_wavelength_and_not_band_number():
    network = small("s2mae")
    fine = network.spectral(np.array([500.0, 505.0, 510.0, 600.0]), np.full(4, 10.0))
    assert torch.linalg.norm(fine[1] - fine[0]) < torch.linalg.norm(fine[3] - fine[0])
    torch.testing.assert_close(fine[1], (fine[0] + fine[2]) / 2, atol=0.05, rtol=0.1)


@pytest.mark.parametrize("positions", ["sin-cos", "spatial-spectral-sin-cos"])
def test_fixed_positions_have_no_parameters_and_distinguish_tokens(positions):
    network = small("s2mae", positions=positions)
    assert not [name for name, _ in network.named_parameters() if name.startswith(("spectral", "spatial"))]
    spectral = network.spectral(np.linspace(400.0, 2500.0, 50), np.full(50, 10.0))
    spatial = network.spatial(4, 4, spectral)
    tokens = (spectral[:, None] + spatial).flatten(0, 1)
    assert torch.pdist(tokens).min() > 1e-3
    shared = ((spectral.abs().max(dim=0)[0] > 0) & (spatial.abs().max(dim=0)[0] > 0)).any()
    assert shared == (positions == "sin-cos")


@pytest.mark.parametrize("targets", TARGETS)
def test_output_is_reflectance_with_every_scale_of_the_targets(targets):
    network = small("s2mae", targets=targets)
    middle, spread, limits = TARGETS[targets]
    view = network.band_view(load_sensor("enmap").grid)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(1.0)
        output = network(torch.rand(1, 202, 8, 8), view)
    torch.testing.assert_close(output, torch.full_like(output, middle + spread))
    if targets == "signed":
        assert (middle - spread, middle + spread) == limits


def test_config_of_an_earlier_version_keeps_its_targets():
    stored = {name: value for name, value in preset("s2mae").to_dict().items() if name not in {"targets", "uncovered"}}
    assert ModelConfig.from_dict(stored | {"unit_targets": True}) == preset("s2mae")
    assert ModelConfig.from_dict(stored | {"unit_targets": False}).targets == "reflectance"
    with pytest.raises(ValueError, match="unknown: unit_targets"):
        ModelConfig.from_dict(stored | {"unit_targets": 3})


def test_config_round_trips_through_a_header():
    for config in PRESETS.values():
        stored = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
        assert ModelConfig.from_dict(stored) == config
        assert ModelConfig.from_dict(stored | {"context": False}) == config  # of an earlier version
    with pytest.raises(ValueError, match="unknown: context"):
        ModelConfig.from_dict(stored | {"context": True})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reach": "far"}, "window, place"),
        ({"masking": ("all",)}, "spectral"),
        ({"width": 25}, "multiple"),
        ({"heads": 5}, "heads"),
        ({"patch": 3}, "multiple of patches"),
        ({"depth": 0}, "1 or more"),
        ({"hidden": (0.5, 1.0)}, "between 0 and 1"),
        ({"reach": "place", "masking": ("spatial",)}, "reach"),
        ({"rank": 8, "masking": ("spatial",)}, "prior"),
        ({"rank": 8, "targets": "signed"}, "prior"),
        ({"targets": "percent"}, "reflectance, unit, signed"),
        ({"positions": "random"}, "spatial-spectral-sin-cos"),
        ({"uncovered": "zero"}, "nearest, neutral"),
        ({"measured": "coefficients"}, "rank above 0"),
        ({"measured": "coefficients", "rank": 8, "masking": ("spectral",), "reach": "place"}, "reach"),
        ({"measured": "coefficients", "rank": 8, "masking": ("spectral",), "patch": 12, "window": 120}, "256"),
    ],
)
def test_config_rejects_inconsistent_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(preset("dlr-ibm-spatial-spectral"), **changes)


def test_unknown_preset_lists_the_presets():
    with pytest.raises(UnknownName, match="dlr-ibm-spectral"):
        preset("dlr")


def test_presets_have_the_published_sizes():
    for name in ("dlr-ibm-spectral", "dlr-ibm-spatial-spectral"):
        c = preset(name)
        assert (c.depth, c.width, c.heads, c.decoder_depth, c.decoder_width, c.decoder_heads) == (4, 768, 8, 2, 512, 8)
        assert c.hidden == (0.75, 0.75)
        assert c.window == 128
    assert preset("s2mae").hidden == (0.9, 0.9)
    assert preset("s2mae").decoder_depth == 4


def test_band_view_gives_centre_and_width_of_groups():
    view = BandView(np.array([400.0, 410.0, 420.0, 500.0]), np.array([10.0, 10.0, 10.0, 20.0]))
    centre, width = view.groups(3)
    np.testing.assert_allclose(centre, [410, 500])
    np.testing.assert_allclose(width, [30, 20])
    assert len(grid_of(view.wavelength_nm)) == 4
