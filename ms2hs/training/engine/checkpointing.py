"""Checkpoints: the complete state of a training run in one safetensors file. Loading runs no code.

Arrays are `model/<name>`, `average/<name>` and `adam/<quantity>/<name>`, with the names of the model's state dict, and
`best/<name>` where a run was scored. The header holds `format`, `kind` = checkpoint, `step` (steps taken), `identity`
(JSON: model, data and settings) and `best` (JSON: step and score).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ms2hs.errors import WeightsError
from ms2hs.files import atomic_write
from ms2hs.training.engine.optim import TrainingState

FORMAT = "1"
KIND = "checkpoint"
CHECKPOINT = "checkpoint.safetensors"
# Differences between two configurations that an error message lists.
MAX_DIFFERENCES = 5


def save_checkpoint(path: Path, state: TrainingState, step: int, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint after `step` steps. It replaces the previous checkpoint only when complete.

    Parameters
    ----------
    identity : JSON values that a resumed run must share.

    Raises
    ------
    OutputError : the file cannot be written; the previous checkpoint stays.
    """
    header = {"format": FORMAT, "kind": KIND, "step": str(step), "identity": json.dumps(identity, sort_keys=True)}
    if state.best.parameters:
        header["best"] = json.dumps([state.best.step, state.best.score])
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(state).items()}
    hint = "continue from the last checkpoint with --resume; a checkpoint is about four times as large as the weights"
    with atomic_write(path, errors=(SafetensorError,), hint=hint) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(arrays, temporary, header)
        temporary.chmod(mode)  # safetensors writes files that only their owner can read


def restore_checkpoint(path: Path, state: TrainingState, identity: Mapping[str, Any]) -> int:
    """Load a checkpoint into `state`; the number of steps taken.

    Raises
    ------
    WeightsError : no checkpoint, an unreadable checkpoint, or a checkpoint of another configuration.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such checkpoint; --resume needs the checkpoint of an earlier run. Check the folder, or start "
            "again without --resume."
        )
    header, arrays = _read(path)
    try:
        step, stored = int(header["step"]), json.loads(header["identity"])
        best_step, best_score = json.loads(header.get("best", "[0, -Infinity]"))
        state.best.step, state.best.score = int(best_step), float(best_score)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable(path, f"its header lacks a step or an identity: {error}") from error
    current = json.loads(json.dumps(identity))
    if different := _differences(stored, current) or _misfits(arrays, state):
        raise WeightsError(
            f"{path}: a checkpoint of another configuration: {'; '.join(different[:MAX_DIFFERENCES])}; a resumed run "
            "needs the same settings. Use the settings of the first run, or another folder."
        )
    _load(state, arrays, step)
    return step


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if header.get("format") != FORMAT or header.get("kind") != KIND:
        raise _unreadable(path, f"format {header.get('format')!r}, kind {header.get('kind')!r}")
    return header, arrays


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path}: not a readable checkpoint ({why}); format {FORMAT!r}, kind {KIND!r} is needed. Restore it from a "
        "copy, or delete it and start again without --resume."
    )


def _state(state: TrainingState) -> dict[str, Tensor]:
    """Every array of the state, by its name in the file."""
    arrays = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    arrays |= {f"average/{name}": tensor for name, tensor in state.averaged.module.state_dict().items()}
    arrays |= {f"best/{name}": tensor for name, tensor in state.best.parameters.items()}
    for name, parameter in state.model.named_parameters():
        for quantity, tensor in state.optimizer.state.get(parameter, {}).items():
            arrays[f"adam/{quantity}/{name}"] = tensor
    return arrays


def _misfits(arrays: Mapping[str, Tensor], state: TrainingState) -> list[str]:
    """Arrays of the file that do not match the model, or are missing or unknown."""
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _state(state).items()}
    if any(name.startswith("best/") for name in arrays):
        averaged = {name: one for name, one in expected.items() if name.startswith("average/")}
        expected |= {name.replace("average/", "best/", 1): one for name, one in averaged.items()}
    stored = {name: (tuple(t.shape), t.dtype) for name, t in arrays.items() if not name.startswith("adam/")}
    for name, parameter in state.model.named_parameters():
        for quantity in ("exp_avg", "exp_avg_sq"):
            key = f"adam/{quantity}/{name}"
            if key in arrays:  # parameters that no step has used have no such array
                stored[key] = (tuple(arrays[key].shape), arrays[key].dtype)
                expected[key] = (tuple(parameter.shape), parameter.dtype)
    return _differences(stored, expected)


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences of two nested mappings, as text."""
    result = []
    for key in sorted(stored.keys() | current.keys()):
        before, now = stored.get(key), current.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            result += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            result.append(f"{prefix}{key} is {before} in the checkpoint, {now} now")
    return result


def _load(state: TrainingState, arrays: Mapping[str, Tensor], step: int) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if name.startswith(prefix)}

    state.model.load_state_dict(under("model/"))
    state.averaged.module.load_state_dict(under("average/"))
    state.averaged.n_averaged.fill_(step)
    state.best.parameters = under("best/")
    names = {parameter: name for name, parameter in state.model.named_parameters()}
    optimizer = state.optimizer.state_dict()
    ordered = [names[parameter] for group in state.optimizer.param_groups for parameter in group["params"]]
    quantities = {name.split("/")[1] for name in arrays if name.startswith("adam/")}
    moments = {quantity: under(f"adam/{quantity}/") for quantity in quantities}
    optimizer["state"] = {
        number: {quantity: stored[name] for quantity, stored in moments.items()}
        for number, name in enumerate(ordered)
        if all(name in stored for stored in moments.values()) and moments
    }
    state.optimizer.load_state_dict(optimizer)
