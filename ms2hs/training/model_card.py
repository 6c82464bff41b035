"""The model card: facts about a training run that the header of its weights holds."""

import shlex
from collections.abc import Iterable
from typing import Any

from ms2hs.training.engine.loop import FitResult

# Scenes that a card names.
MAX_NAMED = 60


def named_scenes(scenes: Iterable[str]) -> list[str]:
    """Sorted names of scenes, at most `MAX_NAMED`, and the number of the others."""
    names = sorted(set(scenes))
    return names if len(names) <= MAX_NAMED else [*names[:MAX_NAMED], f"and {len(names) - MAX_NAMED} more"]


def training_scores(fit: FitResult | None) -> dict[str, Any]:
    """Mean squared error over the last tenth of the steps, as a card holds it; empty where nothing was trained."""
    late = [entry["all_mse"] for entry in fit.history if (entry["step"] or 0) > 0.9 * fit.steps] if fit else []
    known = [value for value in late if value is not None]
    return {"train": {"mse": sum(known) / len(known)}} if known else {}


def command_line(command: str, options: Iterable[tuple[str, Any]]) -> str:
    """A command of ms2hs with its options, without the options whose value is None."""
    words = [str(word) for option, value in options if value is not None for word in (option, value)]
    return shlex.join(["ms2hs", command, *words])
