"""Batches of the fine-tuning task."""

import pickle

import numpy as np
import pytest
import torch
from pairs_of_arrays import product_pairs, simulated_pairs, with_holes
from test_masked_task import config_of, network_of

from ms2hs.datasets.simulation.sensor_errors import SensorErrors
from ms2hs.errors import DataError
from ms2hs.inference.predictor import Predictor
from ms2hs.training.paired_task import PairedTask

CPU = torch.device("cpu")
PLAIN = {"sensor_errors": SensorErrors.none()}
NAMES = ["dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "s2mae", "spectral", "spatial-spectral"]


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_the_input_in_use(name):
    config = config_of(name)
    pairs = simulated_pairs(3)
    task, network = PairedTask(config, pairs, 2, **PLAIN), network_of(config).eval()
    batch = task.batch(0)
    with torch.no_grad():
        reconstructed = task.reconstruct(network, batch, CPU).numpy()
    assert reconstructed.shape == batch["truth"].shape
    # the same windows through the predictor of a conversion
    source, target = pairs[0].source, batch["target"]
    tokens = PairedTask(config_of("spectral"), pairs, 2, **PLAIN).batch(0)["values"]
    used = Predictor(network, source, target).reconstruct_windows(list(tokens), list(batch["valid"]))
    np.testing.assert_allclose(reconstructed, used, atol=1e-5)


def test_batch_depends_on_its_step_and_is_shared_by_rank():
    task = PairedTask(config_of("spectral"), simulated_pairs(), 6, rehearsal=simulated_pairs(2, seed=5))
    again = pickle.loads(pickle.dumps(task))  # noqa: S301  our own
    for step in range(6):
        whole, twin = task.batch(step), again.batch(step)
        parts = [task.batch(step, rank, 2) for rank in (0, 1)]
        assert {part["strategy"] for part in parts} == {whole["strategy"]}
        for key in ("values", "truth", "valid"):
            np.testing.assert_array_equal(whole[key], twin[key])
            joined = np.empty_like(whole[key])
            joined[0::2], joined[1::2] = parts[0][key], parts[1][key]
            np.testing.assert_array_equal(joined, whole[key])


def test_share_of_the_steps_rehearses():
    task = PairedTask(
        config_of("spectral"), product_pairs(), 2, rehearsal=simulated_pairs(2, seed=5), rehearsal_share=0.3
    )
    shown = [task.batch(step)["strategy"] for step in range(200)]
    assert 0.2 < shown.count("rehearsal") / len(shown) < 0.4


def test_products_are_adjusted_and_simulated_sources_are_not():
    config = config_of("spectral")
    pairs = product_pairs(gain=1.25, offset=0.02)
    lines = {"sentinel2a": dict.fromkeys(pairs[0].source.names, (0.8, -0.016))}
    clean = PairedTask(config, simulated_pairs(), 2, **PLAIN).batch(0)["values"]
    message = PairedTask(config, pairs, 2, adjustments=lines, **PLAIN).batch(0)["values"]
    np.testing.assert_allclose(message, clean, atol=1e-6)
    untold = PairedTask(config, pairs, 2, **PLAIN).batch(0)["values"]
    np.testing.assert_allclose(untold, 1.25 * clean + 0.02, atol=1e-6)
    simulated = PairedTask(config, simulated_pairs(), 2, adjustments=lines, **PLAIN).batch(0)["values"]
    np.testing.assert_array_equal(simulated, clean)


def test_pixels_unknown_to_either_sensor_are_left_out():
    config = config_of("spectral")
    batch = PairedTask(config, [with_holes(pair) for pair in simulated_pairs()], 2, **PLAIN).batch(0)
    assert 0.5 < batch["valid"].mean() < 0.75
    assert np.isfinite(batch["values"]).all()
    assert np.isfinite(batch["truth"]).all()
    assert (batch["truth"][:, 0][~batch["valid"]] == 0).all()


def test_pairs_of_several_sensors_alternate():
    mixed = simulated_pairs(2) + simulated_pairs(2, sensor="hls_s30", target="emit")
    task = PairedTask(config_of("spectral"), mixed, 2)
    assert {(batch["values"].shape[1]) for batch in map(task.batch, range(12))} == {12, 11}


def test_batch_reports_pairs_without_known_pixels():
    blind = [with_holes(pair, share=1.0) for pair in simulated_pairs(2)]
    with pytest.raises(DataError, match="no pixel known"):
        PairedTask(config_of("spectral"), blind, 2).batch(0)
