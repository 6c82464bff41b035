"""Early stopping in the training loop: the best parameters, the end of a run, and resuming."""

import math
from dataclasses import replace

import pytest
import torch
from test_loop import SETTINGS, arrays_of, assert_same_run, learn, step_of
from toy_task import ToyModel, ToyTask

from ms2hs.errors import Interrupted
from ms2hs.training.engine.early_stopping import EarlyStopping

SCORED = replace(SETTINGS, steps=60, checkpoint_every=7)


class Scores:
    """A score that rises to step `best` and then falls; keeps the parameters that it was given."""

    def __init__(self, best=4):
        self.best, self.given = best, []

    def __call__(self, model):
        # the moving average of the sums of a run that learns moves away from its start
        self.given.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        moved = float((model.leave.weight - ToyModel().leave.weight).norm())
        return -abs(moved - self.peak()) if self.best else math.nan

    def peak(self):
        return 0.13 * self.best


def stopping(scores, patience=9):
    return EarlyStopping(scores, every=3, patience=patience)


def test_run_ends_without_a_better_score_and_keeps_the_best_parameters(tmp_path):
    scores = Scores()
    fitted, model = learn(tmp_path, SCORED, early_stopping=stopping(scores))
    noted = {int(entry["step"]): entry["score"] for entry in fitted.history if "score" in entry}
    best = max(noted, key=noted.get)
    assert 3 < best < 48
    assert list(noted) == list(range(3, best + 10, 3))
    assert (fitted.best.step, fitted.best.score) == (best, noted[best])
    assert step_of(tmp_path) == best + 9
    for name, tensor in scores.given[best // 3 - 1].items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_resumed_run_equals_an_uninterrupted_run(tmp_path):
    learn(tmp_path / "whole", SCORED, early_stopping=stopping(Scores()))

    class Stopped(ToyTask):
        def batch(self, step, rank, world):
            if step == 23:
                raise Interrupted("for the test")
            return super().batch(step, rank, world)

    with pytest.raises(Interrupted):
        learn(tmp_path / "parts", SCORED, Stopped(), early_stopping=stopping(Scores()))
    assert step_of(tmp_path / "parts") == 21
    assert any(name.startswith("best/") for name in arrays_of(tmp_path / "parts"))
    one, first = learn(tmp_path / "parts", SCORED, early_stopping=stopping(Scores()), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    ended, again = learn(tmp_path / "parts", SCORED, early_stopping=stopping(Scores()), resume=True)
    assert ended.history == one.history
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in again.state_dict().items())


def test_run_whose_score_is_never_a_number_ends_with_its_average(tmp_path):
    fitted, model = learn(tmp_path, SCORED, early_stopping=stopping(Scores(best=0)))
    assert (fitted.best.step, step_of(tmp_path)) == (0, 9)
    assert torch.equal(model.leave.weight, torch.from_numpy(arrays_of(tmp_path)["average/leave.weight"]))
