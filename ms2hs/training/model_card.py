"""The model card: facts about a training run that the header of its weights holds."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ms2hs.training.engine.loop import FitResult, FitSettings

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


def command_line(command: str, options: Iterable[tuple[str, Any]], fit: FitSettings, output: Path) -> str:
    """The command of a run, without the directories of files; an option whose value is None is left out."""
    settings = [(f"--{name}", getattr(fit, name)) for name in ("steps", "batch", "lr", "seed", "precision")]
    given = [pair for pair in (*options, *settings, ("--output", output.name)) if pair[1] is not None]
    return shlex.join(["ms2hs", command, *(str(word) for pair in given for word in pair)])
