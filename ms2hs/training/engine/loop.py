"""The training loop: `fit` trains any model on any task, in one process or in the processes of `torchrun`.

A run that was killed and resumed equals an uninterrupted run, on a CPU bit for bit. Three rules make this so: a batch
depends on its step number alone; the random seed of each step depends on the run's seed, the step and the process; and
the checkpoint holds everything else (parameters, moving average, optimizer).
"""

import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from ms2hs.errors import DataError, Interrupted, OutputError, UnknownName
from ms2hs.inference.device import native_bfloat16
from ms2hs.progress import FitProgress
from ms2hs.training.engine.checkpointing import CHECKPOINT, restore_checkpoint, save_checkpoint
from ms2hs.training.engine.distributed import Processes, joined
from ms2hs.training.engine.early_stopping import Best, EarlyStopping
from ms2hs.training.engine.loader import Batch, batches
from ms2hs.training.engine.optim import TrainingState, initial_state, learning_rate
from ms2hs.training.engine.run_log import Clock, Entry, RunLog
from ms2hs.training.engine.signals import stop_requests

LOG = "log.jsonl"
PRECISIONS = ("auto", "float32", "bfloat16")
# Width of layers from which bfloat16 is faster on a CPU.
MIN_BFLOAT16_WIDTH = 128


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training run. All but the last group must stay the same when a run is resumed."""

    steps: int = 1000
    batch: int = 32
    """Windows in a step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest gradient norm; inf for no clipping."""
    ema: float = 0.999
    """Decay of the moving average of the parameters, after the first steps; 0 for no average."""
    seed: int = 0
    """Seed of the model's own random numbers."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast), or `auto`: bfloat16 where it is faster."""

    workers: int = field(default=0, metadata={"free": True})
    """Processes that load batches; 0: the training process itself."""
    checkpoint_every: int = field(default=500, metadata={"free": True})
    log_every: int = field(default=10, metadata={"free": True})
    picture_every: int = field(default=0, metadata={"free": True})
    """0 for no pictures."""
    compiled: bool = field(default=False, metadata={"free": True})
    """Whether the model is compiled by torch.compile."""
    device: str = field(default="auto", metadata={"free": True})

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.checkpoint_every, self.log_every) < 1:
            raise ValueError("steps, batch, checkpoint_every and log_every are 1 or more")
        if min(self.workers, self.picture_every, self.weight_decay) < 0 or not (self.lr > 0 and self.clip > 0):
            raise ValueError("workers, picture_every and weight_decay are 0 or more; lr and clip above 0")
        if not (0 <= self.warmup <= 1 and 0 <= self.ema < 1):
            raise ValueError("warmup is a share, 0 to 1; ema is 0 or more and below 1")
        if self.precision not in PRECISIONS:
            raise UnknownName.of("precision", self.precision, list(PRECISIONS), "Give one of these.")

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        free = {name for name, entry in self.__dataclass_fields__.items() if entry.metadata.get("free")}
        return {name: value for name, value in asdict(self).items() if name not in free}


@dataclass(frozen=True, eq=False)
class Loss:
    """Loss of one process's windows, as sums and not means, so that processes can be added."""

    total: Tensor
    """Sum over values of weight times squared error, float32; the loss is `total / count` over all processes."""
    count: Tensor
    """Sum of the weights."""
    parts: Mapping[str, tuple[Tensor, Tensor]]
    """Sums and counts for the log, by name; the same names in every batch and process."""


class TrainingTask(Protocol):
    """Batches and loss of a training run. Must be picklable, for the processes that load batches."""

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """The windows of process `rank` of `world` in step `step`, from 0: arrays and plain values by name.

        The same step gives the same batch, and the batches of all ranks together are the batch of a single process.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch, device: torch.device) -> Loss:
        """The loss of a batch; calls `model(...)` once, and no other method of the model."""
        ...

    def save_picture(self, model: nn.Module, path: Path) -> None:
        """Write a PNG of the model's output for some windows beside the truth."""
        ...


@dataclass(frozen=True)
class FitResult:
    """Result of a training run. The model itself holds the averaged parameters."""

    history: tuple[Entry, ...]
    """Entries of the log from the first step on; in the first process only."""
    steps: int
    first: bool
    """Whether this is the process that writes results."""
    best: Best
    """The best score of a run with early stopping."""


def fit(
    model: nn.Module,
    task: TrainingTask,
    settings: FitSettings,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    overwrite: bool = False,
    progress: FitProgress | None = None,
    early_stopping: EarlyStopping | None = None,
) -> FitResult:
    """Train the model, and leave it with the moving average of its parameters, or the best average that was scored.

    `folder` gets log.jsonl, checkpoint.safetensors and pictures (step0000500.png). Under `torchrun` every process calls
    this function, and all must see the folder.

    Parameters
    ----------
    identity : JSON values that identify the run (model configuration, data); `settings.identity()` is added. A
        checkpoint with another identity is refused.
    resume : continue from the folder's checkpoint.
    overwrite : start again where the folder has a checkpoint; ignored with `resume`.
    early_stopping : score the run between steps, and end it without a better score; None: take all steps.

    Raises
    ------
    DataError : the loss is not finite, or a batch cannot be loaded.
    WeightsError : with `resume`, no checkpoint, or an unreadable checkpoint, or a checkpoint of another configuration.
    OutputError : the folder cannot be written, or has a checkpoint without `resume` or `overwrite`.
    UnknownName : no such device.
    Interrupted : Ctrl-C or SIGTERM; the step was finished and a checkpoint written.
    """
    with joined(settings.device) as processes, stop_requests() as stop_requested, torch.random.fork_rng(processes.gpus):
        model.to(processes.device)
        state = initial_state(model, settings.weight_decay, settings.ema)
        facts = {**identity, "fit": settings.identity()}
        trainer = Trainer(task, settings, folder, facts, processes, state, early_stopping)
        history = trainer.train(trainer.start(resume=resume, overwrite=overwrite), stop_requested, progress)
        model.load_state_dict(state.best.parameters or state.averaged.module.state_dict())
        del trainer  # and its references to the process group
    return FitResult(tuple(history), settings.steps, processes.first, state.best)


@dataclass(frozen=True)
class _StepResult:
    """Result of a step over all processes."""

    loss: float
    count: float
    gradient_norm: float
    stop: bool
    """Whether any process received a request to stop; all stop together."""
    parts: Mapping[str, tuple[Tensor, Tensor]]
    """`Loss.parts` of this process."""


@dataclass(eq=False)
class Trainer:
    """The training run of one process; `fit` drives it."""

    task: TrainingTask
    settings: FitSettings
    folder: Path
    identity: dict[str, Any]
    processes: Processes
    state: TrainingState
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        shared = self.processes.shared(self.state.model)
        self.network = cast("nn.Module", torch.compile(shared)) if self.settings.compiled else shared
        self.trainable = [parameter for parameter in self.state.model.parameters() if parameter.requires_grad]
        self.checkpoint = self.folder / CHECKPOINT
        precision = self.settings.precision
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and self._bfloat16_is_faster())

    def _bfloat16_is_faster(self) -> bool:
        """Whether the device has bfloat16 and, on a CPU, the layers are wide.

        With AVX-512 BF16 (1 thread, torch 2.13, benchmarks/pretraining.py) steps with layers 768 wide are 2.3 times as
        fast, blocks 256, 192 and 128 wide 2.5, 1.7 and 1.1 times. Steps with layers 96 and 48 wide are 0.9 to 1.1 times
        as fast: the casts cost about as much as the products save.
        """
        device, layers = self.processes.device, self.state.model.modules()
        widest = max((min(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)), default=0)
        return native_bfloat16(device) and (device.type != "cpu" or widest >= MIN_BFLOAT16_WIDTH)

    def start(self, *, resume: bool, overwrite: bool) -> int:
        """Prepare the folder, or restore the checkpoint; the number of steps already taken."""
        if resume:
            return restore_checkpoint(self.checkpoint, self.state, self.identity)
        if overwrite:
            self.checkpoint.unlink(missing_ok=True)
        if self.checkpoint.exists():
            raise OutputError(
                f"{self.checkpoint} exists; a new run needs a folder without a checkpoint. Use --resume to continue "
                "the run, or give another folder."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            needed = "training writes its log and checkpoints there. Give another folder."
            raise OutputError(f"cannot create {self.folder} ({error.strerror}); {needed}") from error
        return 0

    def train(self, start: int, stop_requested: Callable[[], bool], progress: FitProgress | None) -> list[Entry]:
        """Take all steps from `start` on; the entries of the log."""
        processes, steps = self.processes, self.settings.steps
        log = RunLog(self.folder / LOG, start) if processes.first else None
        pictures = processes.first and self._can_save_pictures()
        clock = Clock(start, log.elapsed_s if log else 0.0)
        load = partial(self.task.batch, rank=processes.rank, world=processes.world)
        left = range(start, start if self._has_ended(start) else steps)
        for done, batch in enumerate(batches(load, left, self.settings.workers), start + 1):
            result = self.step(done - 1, batch, stop=stop_requested())
            if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
                raise self._not_finite(done, result)
            score = self._score(done)
            if done in {1, steps} or done % self.settings.log_every == 0 or score:
                entry = self._entry(done, result) | score | clock.read(done, self.settings.batch)
                if log:
                    log.add(entry)
            has_ended = done == steps or self._has_ended(done)
            if result.stop or has_ended or done % self.settings.checkpoint_every == 0:
                self._save(done)
            if pictures and done % self.settings.picture_every == 0:
                with torch.no_grad():
                    self.task.save_picture(self.state.averaged.module, self.folder / f"step{done:07d}.png")
            if processes.first and progress:
                progress(done, steps, result.loss)
            if has_ended:
                break
            if result.stop:
                raise Interrupted(
                    f"interrupted after step {done} of {steps}; the checkpoint {self.checkpoint} is complete."
                )
        return log.entries if log else []

    def step(self, step: int, batch: Batch, *, stop: bool) -> _StepResult:
        """Loss, backward pass, clipping, optimizer step and moving average of one batch."""
        model, averaged, optimizer = self.state.model, self.state.averaged, self.state.optimizer
        device, processes = self.processes.device, self.processes
        torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, step, processes.rank]).generate_state(1)[0]))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.settings.steps, self.settings.lr, self.settings.warmup)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.task.loss(self.network, batch, device)
        own = loss.total.detach()
        shared = processes.total(torch.stack([own, loss.count.to(own), own.new_tensor(float(stop))]).float())
        # Gradients are averaged over processes; this factor makes their average the gradient of the loss over all.
        (loss.total * (processes.world / shared[1])).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        total, count, stops, length = torch.cat([shared, norm.detach()[None]]).tolist()
        return _StepResult(total / count if count else math.nan, count, length, stops > 0, loss.parts)

    def _score(self, done: int) -> dict[str, float | None]:
        """The score of the averaged model after this step, for the log; empty in steps without a score."""
        early, model = self.early_stopping, self.state.averaged.module
        if early is None or (done % early.every and done != self.settings.steps):
            return {}
        with torch.no_grad():  # the first process decides for all
            own = early.score(model) if self.processes.first else 0.0
        score = float(self.processes.total(torch.tensor(own, dtype=torch.float32, device=self.processes.device)))
        self.state.best.update(done, score, model)
        return {"score": score if math.isfinite(score) else None}

    def _has_ended(self, done: int) -> bool:
        """Whether the best score is so many steps old that the run ends."""
        early = self.early_stopping
        return early is not None and done % early.every == 0 and done - self.state.best.step >= early.patience

    def _entry(self, done: int, result: _StepResult) -> dict[str, float | None]:
        entry: dict[str, float | None] = {"step": done, "loss": result.loss}
        if result.parts:
            names = sorted(result.parts)
            sums = torch.stack([torch.stack(result.parts[name]).detach().float() for name in names])
            for name, (total, count) in zip(names, self.processes.total(sums).tolist(), strict=True):
                entry[f"{name}_mse"] = total / count if count else None
        return entry | {"lr": self.state.optimizer.param_groups[0]["lr"], "gradient_norm": result.gradient_norm}

    def _save(self, done: int) -> None:
        if self.processes.first:
            save_checkpoint(self.checkpoint, self.state, done, self.identity)
        self.processes.wait()  # a launcher ends all processes when one ends, and none may end while the first saves

    def _can_save_pictures(self) -> bool:
        if self.settings.picture_every and importlib.util.find_spec("matplotlib") is None:
            warnings.warn(
                "no pictures: matplotlib is not installed. Install it with `pip install 'ms2hs[train]'`", stacklevel=4
            )
            return False
        return self.settings.picture_every > 0

    def _not_finite(self, done: int, result: _StepResult) -> DataError:
        kept = f"{self.checkpoint} is of an earlier step" if self.checkpoint.exists() else "no checkpoint was written"
        return DataError(
            f"step {done}: the loss is {result.loss} over {result.count:g} values, its gradient norm "
            f"{result.gradient_norm}; finite numbers are needed ({kept}). Check the data for NaN and for windows "
            "without valid values, or lower the learning rate."
        )
