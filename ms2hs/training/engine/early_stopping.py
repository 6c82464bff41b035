"""Early stopping: scores on held-out data between steps, the best parameters, and the end of a run without progress."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class EarlyStopping:
    """When a run is scored, and when it ends before its last step."""

    score: Callable[[nn.Module], float]
    """Score of the averaged model on held-out data, higher is better; the same parameters must give the same score."""
    every: int
    """Steps between two scores."""
    patience: int
    """Steps without a better score after which the run ends."""


@dataclass(eq=False)
class Best:
    """The best score of a run so far, and the averaged parameters that reached it."""

    step: int = 0
    """0 before the first score."""
    score: float = -math.inf
    parameters: dict[str, Tensor] = field(default_factory=dict)
    """By the names of the model's state dict, on the CPU."""

    def update(self, step: int, score: float, model: nn.Module) -> None:
        """Keep a copy of the parameters where the score is better than all before; NaN never is."""
        if score > self.score:
            self.step, self.score = step, score
            self.parameters = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
