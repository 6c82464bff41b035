"""The optimizer: AdamW, its learning rate and weight decay, and the moving average of the parameters."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ms2hs.training.engine.early_stopping import Best

# Betas of AdamW for masked autoencoders (He et al. 2022, arXiv 2111.06377, table 8).
BETAS = (0.9, 0.95)
# Layers whose matrices get weight decay; norms, biases, embeddings and single parameters (tokens, positions) get none.
DECAYING = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Model, moving average and optimizer: everything that a step changes."""

    model: nn.Module
    averaged: AveragedModel
    """The moving average of the model's parameters."""
    optimizer: torch.optim.AdamW
    best: Best = field(default_factory=Best)


def initial_state(model: nn.Module, weight_decay: float, ema: float) -> TrainingState:
    """The state before the first step, for the parameters that require a gradient; `ema` as in `average_decay`."""

    def update(averaged: Any, current: Any, updates: Any) -> None:  # noqa: ANN401  as torch declares it
        get_ema_multi_avg_fn(average_decay(int(updates), ema))(averaged, current, updates)  # type: ignore[no-untyped-call]

    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.eval()
    # fused: one pass over memory; on a CPU a fifth of the time (35 million parameters, 1 thread, torch 2.13)
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay), betas=BETAS, fused=True)
    return TrainingState(model, averaged, optimizer)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for the optimizer: matrices of layers with weight decay, and the rest without."""
    decaying = {
        parameter
        for layer in model.modules()
        if isinstance(layer, DECAYING)
        for parameter in layer.parameters(recurse=False)
        if parameter.ndim > 1
    }
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if parameter in decaying], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter not in decaying], "weight_decay": 0.0},
    ]


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Learning rate of a step, from 0: linear up to `peak` in the share `warmup` of the steps, then a cosine to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def average_decay(updates: int, ema: float) -> float:
    """Decay of the moving average after some updates: small at first, so that it soon forgets early parameters.

    `min(ema, (1 + n) / (10 + n))`, as in TensorFlow's ExponentialMovingAverage with `num_updates`: the average covers
    about the last tenth of the steps, and never more than `1 / (1 - ema)` steps.
    """
    return min(ema, (1 + updates) / (10 + updates))
