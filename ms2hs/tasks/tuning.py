"""`ms2hs finetune --labels`: a head for a task, and the encoder with it, trained on labelled samples.

Samples are split by place, block or group. The training part is trained on; the validation part scores the run, and
the best parameters are kept; the test part is scored once, at the end. A conversion with the weights stays as it was.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ms2hs.arrays import Float32Array
from ms2hs.errors import DataError, UnknownName
from ms2hs.files import check_output, file_ids, files_in
from ms2hs.inference.device import device_named
from ms2hs.models.config import ModelConfig
from ms2hs.models.weights import DEFAULT, Weights, load_weights
from ms2hs.progress import FitProgress
from ms2hs.tasks.label_task import LabelledWindows, LabelTask
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.splits import Split, split
from ms2hs.tasks.probing import check_probe_installed
from ms2hs.tasks.sample_features import open_samples
from ms2hs.tasks.task_encoder import network_of
from ms2hs.tasks.task_model import TaskFacts, TaskModel
from ms2hs.training.engine.distributed import Note, collect_notes
from ms2hs.training.engine.early_stopping import EarlyStopping
from ms2hs.training.engine.loop import FitResult, FitSettings, fit
from ms2hs.training.model_card import command_line

TRAINED = ("head", "all")
# Sides of the split that are scored.
SIDES = {"val": "validation", "test": "test"}
# End of the name of the score that the most frequent class, or the mean, has for every sample.
CONSTANT = "_of_constant"
# A run is scored this often, and ends after so many scores without a better one. Windows that a score uses at most.
SCORES, PATIENCE, MAX_SCORED = 20, 5, 256
# Least side of the windows around pixels for a network that sees its own patch only, in pixels.
LOCAL_SIDE = 8
# Batches that features are standardised by; and least deviation, relative to the median over features.
STANDARD_BATCHES, LEAST_DEVIATION = 8, 1e-2


@dataclass(frozen=True)
class TuneOptions:
    """Labels, initial weights and settings of a run."""

    labels: LabelOptions
    init: str = DEFAULT
    """Weights of a network: a name or a path."""
    train: str = "head"
    """Trained parts, one of `TRAINED`."""
    window: int | None = None
    """Side of the windows around pixels, in pixels; None: the configuration's."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(steps=300, batch=32, lr=1e-2))

    def __post_init__(self) -> None:
        """Check the part to train."""
        if self.train not in TRAINED:
            hint = "Give one of these to --train; a decoder is trained on pairs."
            raise UnknownName.of("part to train on labels", self.train, list(TRAINED), hint)


@dataclass(frozen=True)
class TuneResult:
    """Result of `tune`."""

    output: Path
    sha256: str
    """Empty in all but the first process."""
    scores: Mapping[str, Mapping[str, float | None]]
    """Scores of `label_scores` on the sides `val` and `test`."""
    fit: FitResult
    notes: tuple[str, ...]


def tune(
    options: TuneOptions,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    note: Note | None = None,
) -> TuneResult:
    """Train a head on labelled samples and write it with its network; log and checkpoint go to `<output stem>.run/`.

    Parameters
    ----------
    resume, overwrite, progress, note : as in `pretraining.pretrain`.

    Raises
    ------
    Ms2hsError : unusable labels, weights or settings; interrupted.
    """
    check_probe_installed()
    labels = options.labels
    inputs = file_ids(files_in([labels.path, labels.scene, options.init]))
    check_output(output, overwrite=overwrite, inputs=inputs)
    notes, add_note = collect_notes(note)
    weights = load_weights(options.init)
    label_set = open_samples(labels)
    for text in label_set.notes:
        add_note(text)
    if weights.task:
        add_note(f"{weights.name}: training starts from its network, without the head that it has for another task")
    config = network_of(weights).config
    side = _window_side(label_set, config, options.window)
    sides = split(label_set, options.fit.seed, guard=config.patch // 2)
    model = TaskModel.of(weights, TaskFacts.of(label_set, side))
    trained = model.encoder.encoder_parameters() if options.train == "all" else {}
    for name, parameter in model.encoder.network.named_parameters():
        parameter.requires_grad_(name in trained)
    task = LabelTask(LabelledWindows(label_set, sides.train, side), options.fit.batch, options.fit.seed)
    model.to(device_named(options.fit.device, int(os.environ.get("LOCAL_RANK", "0"))))
    _standardise(model, task)
    held = {name: LabelledWindows(label_set, getattr(sides, name), side) for name in SIDES}
    result = fit(
        *(model, task, options.fit, output.with_suffix(".run")),
        identity={
            "init": weights.sha256,
            "train": options.train,
            "side": side,
            "labels": _digest(label_set, sides),
            "task": [label_set.task, *label_set.classes],
        },
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        early_stopping=_early_stopping(task, held["val"], options.fit),
    )
    model.eval()
    digest, scores = "", {}
    if result.first:
        model.fold()
        scores = {name: _scores(model, task, windows) for name, windows in held.items()}
        add_note(_end_of(result))
        found = "; ".join(_in_words(name, scores[side]) for side, name in SIDES.items())
        optimistic = ", which is optimistic: neighbours are on both sides" if sides.optimistic else ""
        add_note(f"{label_set.task}: {found}; split by {sides.by}{optimistic}")
        if warning := _not_better(scores["test"]):
            add_note(warning)
        counts = {name: len(getattr(sides, name)) for name in ("train", *SIDES)}
        outcome = {
            "split": {"by": sides.by, "optimistic": sides.optimistic, **counts},
            "kept_step": result.best.step,
            "scores": scores,
        }
        card = {**weights.card, "task": _facts(options, weights, label_set, output) | outcome}
        digest = model.save(output, weights, card, overwrite=overwrite, inputs=inputs)
    return TuneResult(output, digest, scores, result, tuple(notes))


def _window_side(labels: LabelSet, config: ModelConfig, window: int | None) -> int:
    """Side of the training's windows in pixels, a multiple of the patch. DataError if `window` does not fit."""
    patch = config.patch
    if labels.whole_images or labels.isolated:
        if window:
            samples = "images" if labels.whole_images else "points without neighbours"
            raise DataError(
                f"windows of {window} pixels, and samples that are {samples}; windows are needed around pixels of an "
                "image only. Leave --window out."
            )
        longest = max(max(cube.shape) for cubes in labels.images for cube in cubes) if labels.whole_images else 1
        return -(-longest // patch) * patch
    if window and window % patch:
        needed = f"a multiple of the patch, {patch}, is needed"
        raise DataError(f"windows of {window} pixels; {needed}. Change --window.")
    wanted = window or (max(LOCAL_SIDE, 2 * patch) if config.is_local else config.window)
    longest = max(max(cube.shape) for cubes in labels.images for cube in cubes)
    return min(wanted, -(-longest // patch) * patch)


def _standardise(model: TaskModel, task: LabelTask) -> None:
    """Scale features by their mean and deviation over some batches, and quantities by the labels'."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for step in range(STANDARD_BATCHES):
            batch = task.batch(step)
            values, valid = (torch.from_numpy(batch[name]).to(model.device) for name in ("values", "valid"))
            tokens, own = model.features(values, valid)
            parts[0].append(tokens.movedim(1, -1).flatten(0, 2))
            parts[1].append(own.movedim(1, -1)[valid])
        features = [_mean_and_deviation(torch.cat(rows)) for rows in parts if rows[0].shape[1]]
        output = torch.zeros(len(model.classes)), torch.ones(len(model.classes))
        if model.task == "regression":
            labels = task.windows.labels.labels[task.windows.samples].astype(np.float32)
            output = torch.from_numpy(labels.mean(axis=0)), torch.from_numpy(task.deviation)
        mean, deviation = (torch.cat(part) for part in zip(*features, strict=True))
        model.standardise((mean, deviation), output)


def _mean_and_deviation(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(feature,) mean and standard deviation of features (row, feature); features that hardly vary are not blown up."""
    deviation = rows.std(dim=0, correction=0)
    return rows.mean(dim=0), deviation.clamp(min=max(LEAST_DEVIATION * float(deviation.median()), 1e-6))


def _early_stopping(task: LabelTask, windows: LabelledWindows, settings: FitSettings) -> EarlyStopping:
    """Scores by the loss on some of the validation windows, the same each time."""
    chosen = np.random.default_rng(settings.seed).permutation(len(windows.cells))[:MAX_SCORED]
    cells = [windows.cells[number] for number in np.sort(chosen)]
    every = max(1, settings.steps // SCORES)
    return EarlyStopping(partial(task.score, windows=windows, cells=cells), every, PATIENCE * every)


def _digest(labels: LabelSet, sides: Split) -> str:
    """A hash of the labels and their split: a resumed run needs the same."""
    arrays = (labels.image, labels.row, labels.col, labels.labels, sides.train, sides.val)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def _scores(model: TaskModel, task: LabelTask, windows: LabelledWindows) -> dict[str, float | None]:
    """The scores of the task, the main one of a constant answer too, and the number of samples; None = undefined."""
    from ms2hs.tasks.label_scores import score_all  # noqa: PLC0415  scikit-learn comes with ms2hs[tasks]

    with torch.inference_mode():
        truth, outputs = task.predicted(model, windows, windows.cells)
    if not len(truth):
        return {"samples": 0}
    found = score_all(model.task, *_as_labels(model.task, truth, outputs))
    constant = np.broadcast_to(task.constant, outputs.shape)
    main, of_constant = next(iter(score_all(model.task, *_as_labels(model.task, truth, constant)).items()))
    found |= {f"{main}{CONSTANT}": of_constant}
    scores = {name: value if math.isfinite(value) else None for name, value in found.items()}
    return {**scores, "samples": len(truth)}


def _not_better(scores: Mapping[str, float | None]) -> str:
    """A sentence where the model is not better than a constant answer; else empty."""
    for name, constant in scores.items():
        own = scores.get(name.removesuffix(CONSTANT)) if name.endswith(CONSTANT) else None
        if own is not None and constant is not None and own <= constant:
            key = name.removesuffix(CONSTANT)
            return (
                f"the model is not better than a constant answer on the test samples ({key} {own:.3f} and "
                f"{constant:.3f}): add labels or places, or compare with `ms2hs probe`"
            )
    return ""


def _as_labels(task: str, truth: Float32Array, outputs: Float32Array) -> tuple[Any, Any]:
    """Truth and prediction as `label_scores` takes them."""
    from ms2hs.tasks.label_scores import Prediction  # noqa: PLC0415  scikit-learn

    if task == "regression":
        return truth, Prediction(outputs)
    if task == "multilabel":
        return truth > 0, Prediction(outputs > 0, outputs)
    return truth[:, 0].astype(int), Prediction(outputs.argmax(axis=1))


def _end_of(result: FitResult) -> str:
    """Where a run ended, and which parameters are kept, in words."""
    best, last = result.best, result.history[-1]["step"]
    kept = f"the parameters of step {best.step} have the best validation loss, {-best.score:.4g}, and are kept"
    if not best.step:
        kept = "the last parameters are kept: no validation sample has known reflectance in all bands"
    return f"ended at step {last:g} of {result.steps}; {kept}"


def _in_words(name: str, scores: Mapping[str, float | None]) -> str:
    """The scores of one side, in words."""
    own = {key: value for key, value in scores.items() if key != "samples" and not key.endswith(CONSTANT)}
    known = [f"{key} {value:.3f}" for key, value in own.items() if value is not None]
    return f"{name} {', '.join(known) or 'undefined'} ({scores['samples']:g} samples)"


def _facts(options: TuneOptions, weights: Weights, labels: LabelSet, output: Path) -> dict[str, Any]:
    """What the card says of the task; all other facts of a card are of the network, whose conversions do not change."""
    given = options.labels
    words = [
        ("--labels", given.path.name),
        ("--task", labels.task),
        ("--scene", given.scene.name if given.scene else None),
        ("--source", Path(given.source).name if given.source else None),
        ("--scale", given.scale),
        *(("--variable", name) for name in given.variables),
        ("--label-key", given.label_key),
        ("--group-key", given.group_key),
        *(("--drop", name) for name in given.drop),
        ("--split", given.split),
        ("--block", given.block),
        ("--init", Path(options.init).name),
        ("--train", options.train),
        ("--window", options.window),
    ]
    return {
        "command": command_line("finetune", words, options.fit, output),
        "init": weights.name,
        "init_sha256": weights.sha256,
        "train": options.train,
        "fit": options.fit.identity(),
        "labels": labels.name,
        "classes": list(labels.classes),
    }
