"""Checkpoints of a training run: all that it needs to go on exactly, in one safetensors file. Nothing in it runs.

Arrays are `model/<name>`, `average/<name>` and `adam/<quantity>/<name>` by the names of the model's state. The header
holds `format`, `kind` = checkpoint, `step` (steps done) and `identity` (JSON: what was being learnt, and how).
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
from ms2hs.training.engine.optim import Learner

FORMAT = "1"
KIND = "checkpoint"
CHECKPOINT = "checkpoint.safetensors"
# So many differences between two configurations are told.
TOLD = 5


def save_checkpoint(path: Path, learner: Learner, step: int, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its name and rename it when whole, so that there is always a good one.

    Parameters
    ----------
    step : how many are done.
    identity : JSON values that the run that goes on from here must share.

    Raises
    ------
    OutputError : it cannot be written; the one before it stays.
    """
    header = {"format": FORMAT, "kind": KIND, "step": str(step), "identity": json.dumps(identity, sort_keys=True)}
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(learner).items()}
    hint = "continue from the last checkpoint with --resume; a checkpoint is about four times as large as the weights"
    with atomic_write(path, errors=(SafetensorError,), hint=hint) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(arrays, temporary, header)
        temporary.chmod(mode)  # safetensors writes files that only their owner can read


def restore_checkpoint(path: Path, learner: Learner, identity: Mapping[str, Any]) -> int:
    """Bring the learner to where the checkpoint was written; returns how many steps were done.

    Raises
    ------
    WeightsError : no checkpoint there; not one that can be read; of another configuration.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: no checkpoint there; a folder that a run has left one in is needed to go on. Check the folder, "
            "or begin anew without --resume."
        )
    header, arrays = _read(path)
    try:
        step, there = int(header["step"]), json.loads(header["identity"])
    except (KeyError, ValueError) as error:
        raise _unreadable(path, f"its header lacks a step or an identity: {error}") from error
    here = json.loads(json.dumps(identity))
    if different := _differences(there, here) or _misfits(arrays, learner):
        raise WeightsError(
            f"{path}: a checkpoint of another configuration: {'; '.join(different[:TOLD])}; a run goes on only as it "
            "began. Give the settings it was begun with, or another folder."
        )
    _load(learner, arrays, step)
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
        f"{path}: not a readable checkpoint ({why}); one of format {FORMAT!r}, kind {KIND!r} is needed. Restore it "
        "from a copy, or delete it and begin anew without --resume."
    )


def _state(learner: Learner) -> dict[str, Tensor]:
    """Every array of the learner, by its name in the file."""
    arrays = {f"model/{name}": tensor for name, tensor in learner.model.state_dict().items()}
    arrays |= {f"average/{name}": tensor for name, tensor in learner.averaged.module.state_dict().items()}
    for name, parameter in learner.model.named_parameters():
        for quantity, tensor in learner.optimizer.state.get(parameter, {}).items():
            arrays[f"adam/{quantity}/{name}"] = tensor
    return arrays


def _misfits(arrays: Mapping[str, Tensor], learner: Learner) -> list[str]:
    """Arrays that the model has and the file lacks, or the other way round, or of another shape or type."""
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in _state(learner).items()}
    there = {name: (tuple(t.shape), t.dtype) for name, t in arrays.items() if not name.startswith("adam/")}
    for name, parameter in learner.model.named_parameters():
        for quantity in ("exp_avg", "exp_avg_sq"):
            key = f"adam/{quantity}/{name}"
            if key in arrays:  # a parameter that no step has touched has none
                there[key] = (tuple(arrays[key].shape), arrays[key].dtype)
                expected[key] = (tuple(parameter.shape), parameter.dtype)
    return _differences(there, expected)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """In words, where two nested mappings differ."""
    found = []
    for key in sorted(there.keys() | here.keys()):
        one, other = there.get(key), here.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key} is {one} there, {other} here")
    return found


def _load(learner: Learner, arrays: Mapping[str, Tensor], step: int) -> None:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in arrays.items() if name.startswith(prefix)}

    learner.model.load_state_dict(under("model/"))
    learner.averaged.module.load_state_dict(under("average/"))
    learner.averaged.n_averaged.fill_(step)
    names = {parameter: name for name, parameter in learner.model.named_parameters()}
    state = learner.optimizer.state_dict()
    ordered = [names[parameter] for group in learner.optimizer.param_groups for parameter in group["params"]]
    quantities = {name.split("/")[1] for name in arrays if name.startswith("adam/")}
    moments = {quantity: under(f"adam/{quantity}/") for quantity in quantities}
    state["state"] = {
        number: {quantity: found[name] for quantity, found in moments.items()}
        for number, name in enumerate(ordered)
        if all(name in found for found in moments.values()) and moments
    }
    learner.optimizer.load_state_dict(state)
