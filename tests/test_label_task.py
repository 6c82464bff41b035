"""Windows of labelled samples: what counts, where it lies, and the loss."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from label_sets import label_set
from test_task_encoder import weights_of

from ms2hs.errors import DataError
from ms2hs.tasks.label_task import LabelledWindows, LabelTask
from ms2hs.tasks.task_model import TaskFacts, TaskModel

CPU = torch.device("cpu")
OTHERS = ("classification", "multilabel", "regression", "change")
TASKS = ("segmentation", *OTHERS)


def windows_of(task, samples=None, side=8, **fields):
    labels = replace(label_set(task, images=6), **fields)
    return LabelledWindows(labels, np.arange(0, len(labels), 3) if samples is None else samples, side)


def side_of(task):
    return 6 if task in {"classification", "multilabel"} else 8


def model_of(labels, side, name="spectral"):
    torch.manual_seed(0)
    model = TaskModel.of(weights_of(name), TaskFacts.of(labels, side))
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.mark.parametrize("task", TASKS)
def test_cells_hold_every_sample_once(task):
    windows = windows_of(task, side=side_of(task))
    labels, found = windows.labels, []
    for cell in windows.cells:
        window = windows.read(cell)
        found += window.truth.transpose(1, 2, 0)[window.labelled].tolist()
    wanted = labels.labels[windows.samples].astype(np.float32).reshape(len(windows.samples), -1)
    assert sorted(found) == sorted(wanted.tolist())


@pytest.mark.parametrize("task", ["segmentation", "regression", "change"])
def test_drawn_windows_have_each_label_at_the_pixel_of_its_sample(task):
    windows = windows_of(task)
    labels = windows.labels
    stacks = np.concatenate([cube.values for cube in labels.images[0]])
    by_pixel = {stacks[:, labels.row[one], labels.col[one]].tobytes(): one for one in windows.samples}
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        window = windows.draw(rng)
        pixels = np.ascontiguousarray(window.values.reshape(-1, 8, 8).transpose(1, 2, 0))
        labelled = {(r, c) for r in range(8) for c in range(8) if pixels[r, c].tobytes() in by_pixel}
        assert labelled == set(map(tuple, np.argwhere(window.labelled)))
        for r, c in labelled:
            sample = by_pixel[pixels[r, c].tobytes()]
            np.testing.assert_array_equal(window.truth[:, r, c], np.float32(labels.labels[sample]).ravel())
            seen.add(sample)
    assert len(seen) > 0.8 * len(windows.samples)


@pytest.mark.parametrize("task", TASKS)
def test_labels_of_other_samples_and_unknown_pixels_do_not_count(task):
    windows = windows_of(task, side=side_of(task))
    labels = windows.labels
    others = np.setdiff1d(np.arange(len(labels)), windows.samples)
    changed = labels.labels.copy()
    changed[others] = changed[others][::-1]
    first, second = (LabelTask(replace(windows, labels=one), 4) for one in (labels, replace(labels, labels=changed)))
    model = model_of(labels, windows.side)
    for step in range(3):
        one, other = first.batch(step), second.batch(step)
        assert all(np.array_equal(one[name], other[name]) for name in one)
        loss = first.loss(model, one, CPU)
        assert float(loss.count) == one["labelled"].sum()
        one["truth"] = np.where(one["labelled"][:, None], one["truth"], 1.0)
        torch.testing.assert_close(first.loss(model, one, CPU).total, loss.total)


def test_pixels_without_reflectance_are_not_labelled():
    labels = label_set("segmentation")
    values = labels.images[0][0].values.copy()
    values[3, :12] = np.nan
    labels = replace(labels, images=[(replace(labels.images[0][0], values=values),)])
    windows = LabelledWindows(labels, np.arange(len(labels)), 8)
    truth, _ = LabelTask(windows, 4).predicted(model_of(labels, 8), windows, windows.cells)
    assert len(truth) == 6 * 18
    nowhere = LabelTask(replace(windows, samples=np.arange(18)), 4)
    with pytest.raises(DataError, match="no pixel known in all bands"):
        nowhere.batch(0)
    assert np.isnan(nowhere.score(model_of(labels, 8), nowhere.windows, nowhere.windows.cells))


@pytest.mark.parametrize("task", TASKS)
def test_batch_depends_on_its_step_and_is_shared_by_rank(task):
    trained = LabelTask(windows_of(task, side=side_of(task)), 6, seed=3)
    again = pickle.loads(pickle.dumps(trained))  # noqa: S301  our own
    whole, twin = trained.batch(2), again.batch(2)
    parts = [trained.batch(2, rank, 2) for rank in (0, 1)]
    for name, array in whole.items():
        np.testing.assert_array_equal(array, twin[name])
        np.testing.assert_array_equal(array[0::2], parts[0][name])
        np.testing.assert_array_equal(array[1::2], parts[1][name])
    assert not np.array_equal(whole["values"], trained.batch(3)["values"])


def test_isolated_pixels_count_once_in_a_window_that_repeats_them():
    windows = windows_of("segmentation", side=4, isolated=True)
    window = windows.read(windows.cells[5])
    assert np.argwhere(window.labelled).tolist() == [[2, 2]]
    assert (window.values == window.values[:, :, :1, :1]).all()
    assert window.truth[0, 2, 2] == windows.labels.labels[windows.samples[5]]


@pytest.mark.parametrize("task", ["segmentation", *(pytest.param(task, marks=pytest.mark.slow) for task in OTHERS)])
def test_picture_shows_labels_beside_predictions(task, tmp_path):
    windows = windows_of(task, side=side_of(task))
    with torch.no_grad():
        LabelTask(windows, 2).save_picture(model_of(windows.labels, windows.side), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_loss_is_as_defined():
    for task in TASKS:
        side, windows = side_of(task), windows_of(task, side=side_of(task))
        labels = windows.labels
        trained, model = LabelTask(windows, 3), model_of(labels, side)
        batch = trained.batch(0)
        loss = trained.loss(model, batch, CPU)
        with torch.no_grad():
            outputs = model(*(torch.from_numpy(batch[name]) for name in ("values", "valid"))).numpy().astype(float)
        chosen = outputs.transpose(0, 2, 3, 1)[batch["labelled"]]
        truth = batch["truth"].transpose(0, 2, 3, 1)[batch["labelled"]].astype(float)
        if task == "regression":
            wanted = np.square((chosen - truth) / labels.labels[windows.samples].std(axis=0)).mean()
        elif task == "multilabel":
            wanted = -np.log(1 / (1 + np.exp(np.where(truth > 0, -chosen, chosen)))).mean()
        else:
            shares = np.exp(chosen) / np.exp(chosen).sum(axis=1, keepdims=True)
            wanted = -np.log(shares[np.arange(len(shares)), truth[:, 0].astype(int)]).mean()
        assert float((loss.total / loss.count).detach()) == pytest.approx(wanted, rel=1e-3), task
