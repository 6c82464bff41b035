"""The training loop on a toy model: results, exact resuming, and stopping."""

import importlib.util
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from toy_task import IDENTITY, ToyModel, ToyTask

from ms2hs.cli import app
from ms2hs.errors import DataError, Interrupted, OutputError, UnknownName, WeightsError
from ms2hs.inference.device import device_named
from ms2hs.training.engine import signals
from ms2hs.training.engine.checkpointing import CHECKPOINT
from ms2hs.training.engine.loader import batches
from ms2hs.training.engine.loop import LOG, FitSettings, fit
from ms2hs.training.engine.optim import BETAS, average_decay, learning_rate, parameter_groups

SETTINGS = FitSettings(
    steps=20, batch=8, lr=0.02, warmup=0.2, checkpoint_every=5, log_every=1, precision="float32", device="cpu"
)
TIMES = {"windows_per_s", "elapsed_s"}
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread, as in the subprocesses: the number of threads changes the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learn(folder, settings=SETTINGS, task=None, model=None, **options):
    """Train the toy model with dropout, which uses the model's random numbers; the result, and the model."""
    model = model or ToyModel(dropout=0.2)
    return fit(model, task or ToyTask(), settings, folder, **({"identity": IDENTITY} | options)), model


def arrays_of(folder):
    with safe_open(folder / CHECKPOINT, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping


def step_of(folder):
    with safe_open(folder / CHECKPOINT, framework="numpy") as file:
        return int(file.metadata()["step"])


def log_of(folder):
    lines = (folder / LOG).read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def assert_same_run(one, other):
    first, second = arrays_of(one), arrays_of(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    assert log_of(one) == log_of(other)


def launch(folder, *launcher, **options):
    """The toy model in a subprocess that leads its process group."""
    options = {"steps": 20, "batch": 8, "lr": 0.02, "warmup": 0.2, "precision": "float32", "device": "cpu"} | options
    command = [sys.executable, "-W", "error", *launcher, str(HERE / "toy_task.py"), str(folder), json.dumps(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(path, process):
    for _ in range(1000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    pytest.fail(f"{path} did not come")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return tmp_path_factory.mktemp("unbroken")


@pytest.fixture
def unbroken(whole_run):
    """The folder of an uninterrupted run."""
    if not (whole_run / CHECKPOINT).exists():
        learn(whole_run)
    return whole_run


def test_loss_falls_and_the_model_holds_the_average(tmp_path):
    seen = []
    settings = replace(SETTINGS, steps=400, checkpoint_every=150, log_every=10)
    fitted, model = learn(tmp_path, settings, model=ToyModel(), progress=lambda *message: seen.append(message))
    assert [entry["step"] for entry in fitted.history] == [1, *range(10, 401, 10)]
    assert fitted.history[-1]["loss"] < 0.01 * fitted.history[0]["loss"]
    assert [message[:2] for message in seen] == [(step, 400) for step in range(1, 401)]
    arrays = arrays_of(tmp_path)
    assert step_of(tmp_path) == 400
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), arrays[f"average/{name}"])
    assert (arrays["average/leave.weight"] != arrays["model/leave.weight"]).any()
    with torch.no_grad():
        loss = ToyTask().loss(model.eval(), ToyTask().batch(10**6, 0, 1), torch.device("cpu"))
    assert loss.total / loss.count < 0.01 * fitted.history[0]["loss"]


def test_fit_equals_a_plain_loop(tmp_path):
    settings = replace(SETTINGS, clip=0.5)
    fitted, averaged = learn(tmp_path, settings, model=ToyModel())
    model, average = ToyModel(), None
    decaying = [model.enter.weight, model.leave.weight, model.rare.weight]
    others = [p for p in model.parameters() if all(p is not one for one in decaying)]
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": 0.05}, {"params": others, "weight_decay": 0}])
    for step, entry in enumerate(fitted.history):
        for group in optimizer.param_groups:
            group["lr"], group["betas"] = learning_rate(step, 20, 0.02, 0.2), BETAS
        batch = ToyTask().batch(step, 0, 1)
        values, truth, weight = (torch.tensor(batch[name].copy()) for name in ("values", "truth", "weight"))
        error = weight * (model(values, torch.tensor(batch["places"]), common=True) - truth) ** 2
        (error.sum() / weight.sum()).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        now = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
        decay = average_decay(step, 0.999) if average else 0
        average = {name: decay * average[name] + (1 - decay) * now[name] if average else now[name] for name in now}
        assert entry["loss"] == pytest.approx((error.sum() / weight.sum()).item(), rel=1e-5)
        assert entry["hidden_mse"] == pytest.approx((error[:, 0].sum() / weight[:, 0].sum()).item(), rel=1e-5)
        assert entry["seen_mse"] == pytest.approx((error[:, 1:].sum() / weight[:, 1:].sum()).item(), rel=1e-5)
        assert entry["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert entry["lr"] == optimizer.param_groups[0]["lr"]
    for name, parameter in averaged.named_parameters():
        torch.testing.assert_close(parameter.double(), average[name], rtol=1e-4, atol=1e-6)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(1e-6, 1))
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(steps, warmup, peak):
    rates = [learning_rate(step, steps, peak, warmup) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    assert max(rates) == pytest.approx(peak)
    assert np.allclose(np.diff(rates[:rising]), peak / max(rising, 1))
    assert (np.diff(rates[rising:]) < 0).all()
    if rising < steps:
        assert learning_rate(steps, steps, peak, warmup) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 10**6), st.floats(0, 0.9999))
def test_average_decay_starts_small_and_stays_below_ema(updates, ema):
    decay = average_decay(updates, ema)
    assert 0 <= decay <= ema
    assert decay <= average_decay(updates + 1, ema)
    assert average_decay(10**9, ema) == ema


def test_average_of_short_runs_forgets_the_initial_parameters():
    weights = np.ones(1)  # of every step's parameters in the average of a run of 100
    for step in range(1, 100):
        decay = average_decay(step, 0.999)
        weights = np.append(weights * decay, 1 - decay)
    assert weights.sum() == pytest.approx(1)
    assert weights[:50].sum() < 0.01


def test_norms_biases_embeddings_and_single_parameters_do_not_decay():
    model = ToyModel()
    model.leave.requires_grad_(requires_grad=False)
    decaying, others = parameter_groups(model, 0.1)
    assert {id(one) for one in decaying["params"]} == {id(model.enter.weight), id(model.rare.weight)}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0)
    assert len(others["params"]) == 6  # places, shift, two biases, the norm's two


def test_parameters_without_gradient_do_not_change(tmp_path):
    model = ToyModel()
    model.enter.requires_grad_(requires_grad=False)
    before = model.enter.weight.clone()
    learn(tmp_path, model=model)
    assert (model.enter.weight == before).all()
    assert not [name for name in arrays_of(tmp_path) if name.startswith("adam/") and "enter" in name]


def test_workers_do_not_change_the_result(tmp_path, unbroken):
    learn(tmp_path, replace(SETTINGS, workers=2))
    assert_same_run(tmp_path, unbroken)


def test_fit_leaves_the_callers_random_generators(tmp_path):
    model = ToyModel(dropout=0.2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    learn(tmp_path, model=model)
    assert (torch.rand(3) == expected).all()


def test_another_seed_gives_another_run(tmp_path, unbroken):
    learn(tmp_path, replace(SETTINGS, seed=1))
    assert log_of(tmp_path)[0]["loss"] != log_of(unbroken)[0]["loss"]


@pytest.mark.parametrize("rare_every", [0, 3])
def test_resumed_run_equals_an_uninterrupted_run(tmp_path, rare_every):
    whole, parts, task = tmp_path / "whole", tmp_path / "parts", ToyTask(rare_every=rare_every)
    learn(whole, task=task)
    for refused, resume in ((8, False), (13, True)):
        with pytest.raises(DataError):
            learn(parts, task=replace(task, refused=(refused,)), resume=resume)
        assert step_of(parts) == refused // 5 * 5
    learn(parts, task=task, model=ToyModel(dropout=0.2, seed=5), resume=True)
    assert_same_run(whole, parts)
    fitted, model = learn(parts, task=task, model=ToyModel(seed=5), resume=True)  # no step is left
    assert len(fitted.history) == 20
    np.testing.assert_array_equal(model.shift.detach().numpy(), arrays_of(whole)["average/shift"])


def test_killed_and_resumed_run_equals_an_uninterrupted_run(tmp_path, unbroken):
    process = launch(tmp_path, dropout=0.2, checkpoint_every=4, log_every=1, task={"pause_s": 0.05})
    try:
        wait_for(tmp_path / CHECKPOINT, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < step_of(tmp_path) < 20
    learn(tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_finishes_the_step_and_saves(tmp_path, unbroken, number):
    handlers = [signal.getsignal(one) for one in signals.SIGNALS]

    def interrupt(done, _steps, _loss):
        if done == 7:
            signal.raise_signal(number)

    with pytest.raises(Interrupted, match=r"after step 8 of 20; .*checkpoint\.safetensors is complete"):
        learn(tmp_path, progress=interrupt)
    assert [signal.getsignal(one) for one in signals.SIGNALS] == handlers
    assert step_of(tmp_path) == 8
    learn(tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


@pytest.mark.slow
def test_terminal_interrupt_does_not_break_workers(tmp_path, unbroken):
    process = launch(tmp_path, dropout=0.2, log_every=1, checkpoint_every=5, workers=2, task={"pause_s": 0.1})
    wait_for(tmp_path / CHECKPOINT, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert len(err.strip().splitlines()) == 1, err
    assert f"interrupted after step {step_of(tmp_path)} of 20" in err
    learn(tmp_path, resume=True)
    assert_same_run(tmp_path, unbroken)


def test_loading_processes_leave_signals_to_the_training_process():
    loading = """
import signal, time
from ms2hs.training.engine import signals
signals.FINISH_S = 1.0
with signals.stop_requests() as stop_requested:
    signals.leave_signals_to_parent()
    signal.raise_signal(signal.SIGINT)
    print(stop_requested(), flush=True)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.2)
    print(stop_requested(), flush=True)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, timeout=50, check=False)
    # the process continued after both signals and ended later: a parent that ends waits for it
    assert (done.stdout, done.returncode) == ("False\nFalse\n", 0)


def slow_batch(step):
    time.sleep(60 * (step > 1))
    return {"values": np.zeros(2)}


def test_failing_run_does_not_wait_for_slow_batches():
    before = set(multiprocessing.active_children())
    loading = batches(slow_batch, range(9), workers=2)
    next(loading)
    start = time.monotonic()
    loading.close()
    assert time.monotonic() - start < 4
    assert set(multiprocessing.active_children()) <= before


def test_second_interrupt_stops_at_once(monkeypatch):
    with signals.stop_requests() as stop_requested:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # launchers send both
        assert stop_requested()
        monkeypatch.setattr(signals, "SECOND_SIGNAL_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_fit_trains_in_a_thread(tmp_path, unbroken):
    thread = threading.Thread(target=learn, args=(tmp_path,))
    thread.start()
    thread.join()
    assert_same_run(tmp_path, unbroken)


def test_interrupt_ends_the_command_with_its_message(ms2hs, monkeypatch):
    def stop():
        raise Interrupted("interrupted after step 8 of 20.")

    monkeypatch.setattr(app, "app", stop)
    code, _, err = ms2hs("pretrain")
    said = "ms2hs: interrupted after step 8 of 20. To continue from the checkpoint, run: ms2hs pretrain"
    assert (code, err) == (130, f"{said} --resume\n")
    code, _, err = ms2hs("pretrain", "--cross-fit")  # which continues by itself
    assert (code, err) == (130, f"{said} --cross-fit\n")


def test_resume_rejects_a_checkpoint_of_another_configuration(unbroken):
    with pytest.raises(
        WeightsError,
        match=r"fit\.lr is 0\.02 in the checkpoint, 0\.5 now; fit\.steps is 20 in the checkpoint, 30 now; a resumed",
    ):
        learn(unbroken, replace(SETTINGS, lr=0.5, steps=30, workers=1, checkpoint_every=7), resume=True)
    with pytest.raises(WeightsError, match=r"another configuration: model\.width is 16 in the checkpoint, 8 now"):
        learn(unbroken, identity={"model": {"name": "toy", "width": 8}}, resume=True)
    with pytest.raises(
        WeightsError, match=r"adam/exp_avg/enter.bias is \(\(16,\), torch.float32\) in the checkpoint, \(\(8,\)"
    ):
        learn(unbroken, model=ToyModel(width=8), resume=True)


def test_new_run_does_not_replace_a_checkpoint(unbroken):
    with pytest.raises(OutputError, match=r"exists; .* --resume"):
        learn(unbroken)


@pytest.mark.parametrize("content", [b"", b"no safetensors", None, (2).to_bytes(8, "little") + b"{}"])
def test_resume_rejects_a_corrupt_checkpoint(tmp_path, unbroken, content):
    whole = (unbroken / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:-100] if content is None else content)
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        learn(tmp_path, resume=True)


def test_checkpoint_is_complete_and_as_readable_as_the_log(unbroken):
    assert (unbroken / CHECKPOINT).stat().st_mode == (unbroken / LOG).stat().st_mode
    assert {path.name for path in unbroken.iterdir()} == {CHECKPOINT, LOG}


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint; .* without --resume"):
        learn(tmp_path, resume=True)


def test_fit_reports_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot create .*file/run"):
        learn(tmp_path / "file/run")


def test_fit_stops_before_saving_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(
        DataError, match=r"step 15: the loss is nan over .* \(.*checkpoint\.safetensors is of an earlier step\)"
    ):
        learn(tmp_path, task=ToyTask(broken=(14,)))
    assert step_of(tmp_path) == 10
    assert all(np.isfinite(array).all() for array in arrays_of(tmp_path).values())
    assert log_of(tmp_path)[-1]["step"] == 14


def test_fit_reports_a_batch_without_valid_values(tmp_path):
    with pytest.raises(DataError, match=r"step 4: the loss is nan over 0 values, .*no checkpoint was written"):
        learn(tmp_path, task=ToyTask(empty=(3,)))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_window_gives_one_message(tmp_path, workers):
    with pytest.raises(DataError, match=r"^window 3 cannot be read$"):
        learn(tmp_path, replace(SETTINGS, workers=workers), task=ToyTask(refused=(3,)))


def test_log_drops_entries_of_repeated_steps(tmp_path, unbroken):
    (tmp_path / CHECKPOINT).write_bytes((unbroken / CHECKPOINT).read_bytes())
    lines = (unbroken / LOG).read_text()
    (tmp_path / LOG).write_text(lines + '{"step": 21, "loss": 1}\n{"step": 22, "lo')
    learn(tmp_path, resume=True)
    assert (tmp_path / LOG).read_text() == lines


def test_pictures_show_the_average(tmp_path):
    learn(tmp_path, replace(SETTINGS, picture_every=8))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["step0000008.png", "step0000016.png"]


def test_without_matplotlib_one_warning_and_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.warns(UserWarning, match="no pictures") as message:
        learn(tmp_path, replace(SETTINGS, picture_every=8))
    assert len(message) == 1
    assert not list(tmp_path.glob("*.png"))


def test_bfloat16_keeps_float32_parameters(tmp_path):
    settings = replace(SETTINGS, steps=300, precision="bfloat16")
    fitted, model = learn(tmp_path, settings, model=ToyModel())
    assert fitted.history[-1]["loss"] < 0.02 * fitted.history[0]["loss"]
    assert fitted.history[0]["loss"] != log_of(tmp_path)[-1]["loss"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("rare_every", [0, 3])
def test_two_processes_train_as_one(tmp_path, rare_every):
    alone, together = tmp_path / "alone", tmp_path / "together"
    settings = replace(SETTINGS, checkpoint_every=500)
    history = learn(alone, settings, model=ToyModel(), task=ToyTask(rare_every=rare_every))[0].history
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = launch(together, *launcher, log_every=1, task={"rare_every": rare_every})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (line,) = out.splitlines()  # from the first process alone
    for one, two in zip(history, json.loads(line), strict=True):
        for name in one.keys() - TIMES:
            assert two[name] == pytest.approx(one[name], rel=1e-4), (one["step"], name)
    first, second = arrays_of(alone), arrays_of(together)
    assert first.keys() == second.keys()
    for name, array in first.items():
        if name.startswith("average/"):
            np.testing.assert_allclose(second[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


def test_settings_are_checked():
    for wrong in ({"steps": 0}, {"lr": 0}, {"warmup": 1.1}, {"ema": 1}, {"workers": -1}, {"clip": math.nan}):
        with pytest.raises(ValueError, match="or more|a share"):
            FitSettings(**wrong)
    with pytest.raises(UnknownName, match="unknown precision 'half'; known: auto, float32, bfloat16"):
        FitSettings(precision="half")
    with pytest.raises(UnknownName, match="unknown device 'warp'; known: auto, cpu"):
        device_named("warp")
