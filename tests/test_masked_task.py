"""Batches and loss of the pretraining task."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from cubes_of_arrays import ArrayCube, smooth_cubes

from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.errors import DataError
from ms2hs.models.config import TARGETS, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights
from ms2hs.spectra.spectral_grid import pasted_bands, response_matrix
from ms2hs.training.masked_task import MaskedTask

CPU = torch.device("cpu")
# Steps within which a network must overfit eight windows.
STEPS = 800
SMALL = {"width": 24, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "window": 16}
NAMES = ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "s2mae", "general", "spectral", "spatial-spectral"]


def config_of(name, **changes):
    return replace(preset(name), **(SMALL | {"patch": min(4, preset(name).patch)} | changes))


def network_of(config):
    torch.manual_seed(0)
    network = SpectralMAE(config, load_weights("linear").prior if config.rank else None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("name", NAMES)
def test_batch_depends_on_its_step_and_is_shared_by_rank(name):
    task = MaskedTask(config_of(name), smooth_cubes(), batch_windows=6, steps=10)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301  our own
    for step in range(4):
        whole, twin = task.batch(step, 0, 1), again.batch(step, 0, 1)
        parts = [task.batch(step, rank, 2) for rank in (0, 1)]
        for key in ("values", "truth", "valid"):
            np.testing.assert_array_equal(whole[key], twin[key])
            joined = np.empty_like(whole[key])
            joined[0::2], joined[1::2] = parts[0][key], parts[1][key]
            np.testing.assert_array_equal(joined, whole[key])
        if whole["visible"] is not None:
            np.testing.assert_array_equal(parts[1]["visible"], whole["visible"][1::2])
    assert not np.array_equal(task.batch(0)["truth"], task.batch(1)["truth"])


@pytest.mark.parametrize("name", NAMES)
def test_loss_over_all_is_the_weighted_sum_of_hidden_and_seen(name):
    config = config_of(name)
    task, network = MaskedTask(config, smooth_cubes(), 3, 10), network_of(config)
    for step in range(3):
        batch = task.batch(step)
        loss = task.loss(network, batch, CPU)
        sums, counts = ({key: float(part[i]) for key, part in loss.parts.items()} for i in (0, 1))
        assert sums["all"] == pytest.approx(sums["hidden"] + sums["seen"], rel=1e-4)
        assert counts["all"] == counts["hidden"] + counts["seen"] == batch["truth"].size
        assert counts["hidden"] > 0
        assert counts["seen"] > 0
        if not config.rank:
            output = task.reconstruct(network, batch, CPU)
            mse = (output - torch.from_numpy(batch["truth"]).clamp(*(TARGETS[config.targets][2] or (None, 9)))).square()
            assert float((loss.total / loss.count).detach()) == pytest.approx(float(mse.mean().detach()), rel=1e-4)
            assert float(loss.total.detach()) == pytest.approx(sums["all"], rel=1e-5)


def test_loss_uses_only_valid_pixels():
    config = config_of("dlr-ibm-spatial-spectral")
    cubes = smooth_cubes(2)
    holed = [replace_values(cube, lambda values: _with_hole(values, np.nan)) for cube in cubes]
    task, network = MaskedTask(config, holed, 2, 10), network_of(config)
    batch = task.batch(0)
    assert 0 < batch["valid"].sum() < batch["valid"].size
    before = task.loss(network, batch, CPU)
    batch["truth"] = np.where(batch["valid"][:, None], batch["truth"], 7.0).astype(np.float32)
    batch["values"] = np.where(batch["valid"][:, None], batch["values"], -3.0).astype(np.float32)
    after = task.loss(network, batch, CPU)
    assert float(before.total.detach()) == pytest.approx(float(after.total.detach()), rel=1e-6)
    assert float(before.count) == batch["valid"].sum() * batch["truth"].shape[1]


def replace_values(cube, change):
    return ArrayCube(cube.name, cube.scene, cube.grid, change(cube.values.copy()))


def _with_hole(values, what):
    values[:, 2:5, 3:9] = what
    return values


def test_simulated_source_follows_its_responses():
    config = config_of("spectral", masking=("sensors",))
    task = MaskedTask(config, smooth_cubes(), 2, 10, sensor_errors=SensorErrors.none())
    for step in range(5):
        batch = task.batch(step)
        source, target = batch["source"], batch["target"]
        expected = np.einsum("sb,nbij->nsij", response_matrix(source, target.wavelength_nm), batch["truth"])
        inside = (source.wavelength_nm > 500) & (source.wavelength_nm < 2300)  # the truth is constant beyond its ends
        np.testing.assert_allclose(batch["values"][:, inside], expected[:, inside], atol=1e-5)
        np.testing.assert_array_equal(batch["hidden"][0, :, 0], pasted_bands(source, target) < 0)


def test_sensor_errors_change_the_input_and_not_the_truth():
    config = config_of("spectral", masking=("spectral",))
    clean = MaskedTask(config, smooth_cubes(), 8, 10, sensor_errors=SensorErrors.none()).batch(0)
    noisy = MaskedTask(config, smooth_cubes(), 8, 10).batch(0)
    np.testing.assert_array_equal(clean["truth"], noisy["truth"])
    changed = [not np.array_equal(*pair) for pair in zip(clean["values"], noisy["values"], strict=True)]
    assert 0 < sum(changed) < 8


def test_stages_follow_one_another():
    task = MaskedTask(config_of("general"), smooth_cubes(), 2, steps=10)
    assert [task.batch(step)["strategy"] for step in range(10)] == ["spatial"] * 5 + ["spatial-spectral"] * 5


@pytest.mark.parametrize("targets", ["unit", "signed"])
def test_targets_are_clipped(targets):
    config = config_of("s2mae", targets=targets)
    bright = [replace_values(cube, lambda values: 10 * values) for cube in smooth_cubes(1)]
    task = MaskedTask(config, bright, 2, 10)
    batch = task.batch(0)
    assert batch["truth"].max() > 1
    output = torch.from_numpy(batch["truth"]).clamp(0, 1)
    loss_of = MaskedTask.loss.__get__(_Fixed(task, output))
    assert float(loss_of(None, batch, CPU).total) == 0


@pytest.mark.parametrize(
    "changes",
    [
        *({"positions": positions} for positions in ("sin-cos", "spatial-spectral-sin-cos", "learnt", "fourier")),
        *({"decoder_depth": depth} for depth in (2, 4, 8)),
        *({"patch": patch, "window": 32} for patch in (8, 16)),
        *({"hidden": (share, share)} for share in (0.25, 0.5, 0.75, 0.9)),
        *({"targets": targets} for targets in TARGETS),
    ],
    ids=str,
)
def test_ablation_trains(changes):
    task = MaskedTask(config_of("s2mae", **changes), smooth_cubes(2), 2, 10)
    network = network_of(task.config)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for step in range(2):
        loss = task.loss(network, task.batch(step), CPU)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    assert torch.isfinite(loss.total)
    assert all(not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


class _Fixed:
    """A task whose model returns the given output."""

    def __init__(self, task, output):
        self.config, self._hidden_pixels, self._output = task.config, task._hidden_pixels, output

    def reconstruct(self, *_):
        return self._output


def test_unknown_bands_and_pixels_are_left_out():
    def spoil(values):
        values[7] = np.nan  # a band without values
        values[:, 0, 0] = np.nan
        values[3, 1, 1] = np.nan  # a value missing: the pixel does not count
        return values

    cubes = [replace_values(cube, spoil) for cube in smooth_cubes(1)]
    batch = MaskedTask(config_of("dlr-ibm-spectral"), cubes, 2, 10).batch(0)
    assert len(batch["target"]) == 39
    assert cubes[0].grid.wavelength_nm[7] not in batch["target"].wavelength_nm
    assert (~batch["valid"]).sum() == 4
    assert np.isfinite(batch["values"]).all()


def test_network_of_patches_is_given_the_errors_of_its_input():
    task = MaskedTask(config_of("spatial-spectral"), smooth_cubes(), 2, 10)
    given = []
    for step in range(12):
        batch = task.batch(step)
        source, target = batch["source"], batch["target"]
        exact = np.einsum("sb,nbij->nsij", response_matrix(source, target.wavelength_nm), batch["truth"])
        added = (batch["values"] - exact)[:, source.wavelength_nm > 500]
        assert (np.abs(added.mean(axis=(2, 3))) > 3 * added.std(axis=(2, 3)) / added[0, 0].size ** 0.5).mean() > 0.5
        given.append(batch["error"])
    assert {bool(error.product) for error in given} == {True, False}
    assert len({error.gain for error in given}) == 4


def test_cube_without_the_bands_of_land_covers_is_refused():
    (cube,) = smooth_cubes(1)
    short = np.flatnonzero(cube.grid.wavelength_nm < 1500)
    cubes = [ArrayCube(cube.name, cube.scene, cube.grid.select(short), cube.values[short])]
    with pytest.raises(DataError, match="1610 nm are needed to find the land cover"):
        MaskedTask(config_of("spatial-spectral"), cubes, 2, 10).batch(0)


def test_batch_reports_data_without_known_pixels():
    cubes = [replace_values(cube, lambda values: np.full_like(values, np.nan)) for cube in smooth_cubes(2)]
    with pytest.raises(DataError, match="no pixel known"):
        MaskedTask(config_of("dlr-ibm-spectral"), cubes, 2, 10).batch(0)


def test_small_cubes_are_padded_and_large_cubes_are_cut():
    config = config_of("spatial-spectral")
    small = [replace_values(cube, lambda values: values[:, :6, :7]) for cube in smooth_cubes(1)]
    batch = MaskedTask(config, small, 2, 10).batch(0)
    assert batch["truth"].shape[2:] == (8, 8)
    assert batch["valid"].sum() == 2 * 6 * 7
    assert MaskedTask(config, smooth_cubes(side=40), 2, 10).batch(0)["truth"].shape[2:] == (16, 16)


def test_single_patch_cube_is_padded_where_patches_are_hidden():
    small = [replace_values(cube, lambda values: values[:, :3, :3]) for cube in smooth_cubes(1)]
    task = MaskedTask(config_of("general"), small, 2, 10)
    batch = task.batch(0)
    assert batch["truth"].shape[2:] == (8, 8)
    assert batch["valid"].sum() == 2 * 9
    assert batch["hidden"].mean() == 0.75
    with pytest.raises(DataError, match="windows of 4x4 pixels and 40 bands: 1 patches by 40 groups of bands"):
        replace(task, window=4).batch(0)


def test_single_group_of_bands_cannot_be_hidden():
    few = smooth_cubes(1, bands=8)
    with pytest.raises(DataError, match=r"16 patches by 1 groups of bands; .* Use larger windows, more bands"):
        MaskedTask(config_of("dlr-ibm-spectral"), few, 2, 10).batch(0)


def test_batch_needs_a_window_for_every_process():
    task = MaskedTask(config_of("spectral"), smooth_cubes(), 2, 10)
    with pytest.raises(DataError, match=r"batches of 2 windows for 3 processes; at least one .* Raise --batch"):
        task.batch(0, 0, 3)


@pytest.mark.parametrize("name", ["dlr-ibm-spatial-spectral", "spectral"])
def test_network_overfits_eight_windows(name):
    # with all of them in every batch, hidden bands too
    changes = {"width": 64, "decoder_width": 64, "depth": 2, "patch": 4 if preset(name).rank else 8}
    if preset(name).rank:
        changes |= {"masking": ("spectral",), "hidden": (0.75, 0.75)}
    config = config_of(name, **changes)
    task = MaskedTask(config, smooth_cubes(8), 8, 10, sensor_errors=SensorErrors.none())
    torch.manual_seed(0)
    network = SpectralMAE(config, load_weights("linear").prior if config.rank else None)
    batch = task.batch(0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        loss = task.loss(network, batch, CPU)
        (loss.total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mse = float((loss.parts["all"][0] / loss.parts["all"][1]).detach())
        if mse < 1e-5:
            break
    assert mse < 1e-5
