"""A toy model and training task for `fit`; as a script, one run with FOLDER and settings as JSON."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ms2hs.errors import DataError, Interrupted
from ms2hs.training.engine.loop import FitSettings, Loss, fit

IDENTITY = {"model": {"name": "toy", "width": 16}}


class ToyModel(nn.Module):
    def __init__(self, width=16, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.places = nn.Embedding(5, width)
        self.shift = nn.Parameter(torch.zeros(1, width))
        self.enter, self.norm, self.leave = nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, 3)
        self.rare = nn.Linear(width, 3)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, values, places, *, common):
        self.calls += self.training
        hidden = self.norm(self.enter(values) + self.places(places) + self.shift)
        leave = self.leave if common else self.rare
        return leave(self.dropout(nn.functional.gelu(hidden)))


@dataclass(frozen=True)
class ToyTask:
    """Double and reverse three numbers, some of them without weight; 8 windows in a step over all processes."""

    broken: tuple[int, ...] = ()
    """Steps whose batch holds NaN."""
    refused: tuple[int, ...] = ()
    """Steps whose batch raises an error."""
    empty: tuple[int, ...] = ()
    """Steps whose values have no weight."""
    rare_every: int = 0
    """Steps between uses of the rare layer; 0: never."""
    pause_s: float = 0.0

    def batch(self, step, rank, world):
        time.sleep(self.pause_s)
        if step in self.refused:
            raise DataError(f"window {step} cannot be read")
        rng = np.random.default_rng(step)
        values = rng.normal(size=(8, 3)).astype(np.float32)
        weight = (
            rng.uniform(size=(8, 3)).astype(np.float32) * (rng.uniform(size=(8, 1)) < 0.7) * (step not in self.empty)
        )
        places = rng.integers(0, 5, 8)
        truth = 2 * values[:, ::-1] + places[:, None] / 5 + (np.nan if step in self.broken else 0)
        share = slice(rank, None, world)
        common = not self.rare_every or bool(step % self.rare_every)
        found = {
            "values": values,
            "truth": truth.astype(np.float32),
            "weight": weight.astype(np.float32),
            "places": places,
        }
        return {name: array[share] for name, array in found.items()} | {"common": common}

    def loss(self, model, batch, device):
        values, truth, weight, places = (
            torch.as_tensor(np.ascontiguousarray(batch[name]), device=device)
            for name in ("values", "truth", "weight", "places")
        )
        error = weight * (model(values, places, common=batch["common"]).float() - truth).square()
        hidden = torch.arange(3, device=device) == 0
        parts = {
            name: ((error * which).sum(), (weight * which).sum())
            for name, which in (("hidden", hidden), ("seen", ~hidden))
        }
        return Loss(error.sum(), weight.sum(), parts)

    def save_picture(self, model, path):
        assert not model.training
        assert not torch.is_grad_enabled()
        path.write_bytes(b"picture")


def main():
    """Run; the history on stdout, or the interruption on stderr with its exit code."""
    options = json.loads(sys.argv[2])
    model = ToyModel(dropout=options.pop("dropout", 0.0))
    task, resume = ToyTask(**options.pop("task", {})), options.pop("resume", False)
    try:
        fitted = fit(model, task, FitSettings(**options), Path(sys.argv[1]), identity=IDENTITY, resume=resume)
    except Interrupted as stopped:
        sys.stderr.write(f"{stopped}\n")
        raise SystemExit(stopped.exit_code) from None
    if fitted.first:
        sys.stdout.write(json.dumps(fitted.history) + "\n")


if __name__ == "__main__":
    main()
