"""The one fit: it trains any model on any lesson, in one process or in those of `torchrun`.

Two rules make a run that was killed and resumed equal to an unbroken one, on a processor bit for bit: a batch follows
from the number of its step alone, and so does the seed of whatever the model draws. All else is in the checkpoint.
"""

import importlib.util
import json
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
from ms2hs.training.engine.loader import Batch, batches
from ms2hs.training.engine.optim import Learner, learner_of, learning_rate
from ms2hs.training.engine.run_log import Clock, Entry, RunLog
from ms2hs.training.engine.signals import stop_requests

LOG = "log.jsonl"
PRECISIONS = ("auto", "float32", "bfloat16")
# From this width of layers on, bfloat16 pays on a processor.
WIDE = 128


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained. All but the last group of settings must stay the same when a run is resumed."""

    steps: int = 1000
    batch: int = 32
    """Windows a step, over all processes."""
    lr: float = 1e-3
    """The highest learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Longest gradient; inf for any."""
    ema: float = 0.999
    """Decay of the moving average of the parameters, once many steps are done; 0 for none."""
    seed: int = 0
    """Of what the model itself draws at random."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast), or `auto`: bfloat16 where it pays."""

    workers: int = field(default=0, metadata={"free": True})
    """Processes that make batches; 0: this one does."""
    checkpoint_every: int = field(default=500, metadata={"free": True})
    log_every: int = field(default=10, metadata={"free": True})
    picture_every: int = field(default=0, metadata={"free": True})
    """0 for no pictures."""
    compiled: bool = field(default=False, metadata={"free": True})
    """Whether the model goes through torch.compile."""
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
        """What a run that is resumed must share."""
        free = {name for name, entry in self.__dataclass_fields__.items() if entry.metadata.get("free")}
        return {name: value for name, value in asdict(self).items() if name not in free}


@dataclass(frozen=True, eq=False)
class Loss:
    """What a lesson found in the windows of one process: sums and not means, so that processes can be added."""

    total: Tensor
    """Sum over values of weight times squared error, float32; what is learnt is `total / count` over all processes."""
    count: Tensor
    """Sum of the weights."""
    parts: Mapping[str, tuple[Tensor, Tensor]]
    """Sums and counts for the log, by name; the same names in every batch and process."""


class TrainingTask(Protocol):
    """What a model is shown. It can be pickled, for the processes that make batches."""

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """The windows of process `rank` of `world` in step `step`, from 0: arrays and plain values.

        The same step gives the same batch, and the batches of all ranks together are that of one process.
        """
        ...

    def loss(self, model: nn.Module, batch: Batch, device: torch.device) -> Loss:
        """The loss of a batch; calls `model(...)` once, and nothing else of it."""
        ...

    def picture(self, model: nn.Module, path: Path) -> None:
        """Draw what the model makes of some windows, true beside reconstructed, as a PNG."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What came of it. The model itself now holds the averaged parameters."""

    history: tuple[Entry, ...]
    """Lines of the log, from the first step on; in the first process only."""
    steps: int
    first: bool
    """Whether this is the process that writes what came of it."""


def fit(
    model: nn.Module,
    lesson: TrainingTask,
    settings: FitSettings,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: FitProgress | None = None,
) -> FitResult:
    """Train the model, and leave it with the moving average of its parameters.

    `folder` gets log.jsonl, checkpoint.safetensors and pictures (step0000500.png). Under `torchrun` every process calls
    this, and all must see the folder.

    Parameters
    ----------
    identity : JSON values that say what is learnt (the model's configuration, the data); a checkpoint of others is
        refused. What matters of `settings` is added.
    resume : go on from the folder's checkpoint.

    Raises
    ------
    DataError : the loss is no longer finite, or a batch cannot be made.
    WeightsError : with `resume`, no checkpoint, or an unreadable one, or one of another configuration.
    OutputError : the folder cannot be written, or without `resume` holds a checkpoint.
    UnknownName : no such device.
    Interrupted : Ctrl-C or SIGTERM; the step was finished and a checkpoint written.
    """
    with joined(settings.device) as processes, stop_requests() as asked, processes.own_random():
        model.to(processes.device)
        whole = json.loads(json.dumps({**identity, "fit": settings.identity()}))
        learner = learner_of(model, settings.weight_decay, settings.ema)
        run = _Run(lesson, settings, folder, whole, processes, learner)
        history = run.train(run.begin(resume=resume), asked, progress)
        model.load_state_dict(learner.averaged.module.state_dict())
        del run  # and with it what still holds the processes together
    return FitResult(tuple(history), settings.steps, processes.first)


@dataclass(frozen=True)
class _Told:
    """What all processes together found in a step."""

    loss: float
    count: float
    gradient_norm: float
    stop: bool
    """Whether any of them is asked to stop: they stop together."""
    parts: Mapping[str, tuple[Tensor, Tensor]]
    """Of this process."""


@dataclass(eq=False)
class _Run:
    lesson: TrainingTask
    settings: FitSettings
    folder: Path
    identity: dict[str, Any]
    processes: Processes
    learner: Learner

    def __post_init__(self) -> None:
        shared = self.processes.shared(self.learner.model)
        self.network = cast("nn.Module", torch.compile(shared)) if self.settings.compiled else shared
        self.learning = [parameter for parameter in self.learner.model.parameters() if parameter.requires_grad]
        self.checkpoint = self.folder / CHECKPOINT
        precision = self.settings.precision
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and self._halving_pays())

    def _halving_pays(self) -> bool:
        """Whether steps are shorter in bfloat16: the device has it, and on a processor the layers are wide.

        With AVX-512 BF16 (1 thread, torch 2.13, benchmarks/pretraining.py) steps of layers 768 wide are 2.3 times as
        fast, blocks 256, 192 and 128 wide 2.5, 1.7 and 1.1 times; steps of layers 96 and 48 wide 0.9 to 1.1 times, for
        there the casts cost about what the products save.
        """
        device, layers = self.processes.device, self.learner.model.modules()
        widest = max((min(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)), default=0)
        return native_bfloat16(device) and (device.type != "cpu" or widest >= WIDE)

    def begin(self, *, resume: bool) -> int:
        """Make the folder ready, and the learner if it goes on; how many steps are done."""
        if resume:
            return restore_checkpoint(self.checkpoint, self.learner, self.identity)
        if self.checkpoint.exists():
            raise OutputError(
                f"{self.checkpoint} exists; a run begins where there is none. Pass --resume to go on with it, or give "
                "another folder."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be made ({error.strerror}); training writes its log and checkpoints there. Give "
                "another folder."
            ) from error
        return 0

    def train(self, start: int, asked: Callable[[], bool], progress: FitProgress | None) -> list[Entry]:
        """All steps from `start` on; the lines of the log."""
        processes, steps = self.processes, self.settings.steps
        logbook = RunLog(self.folder / LOG, start) if processes.first else None
        drawn = processes.first and self._can_draw()
        clock = Clock(start, logbook.elapsed_s if logbook else 0.0)
        make = partial(self.lesson.batch, rank=processes.rank, world=processes.world)
        for done, batch in enumerate(batches(make, range(start, steps), self.settings.workers), start + 1):
            told = self._learn(done - 1, batch, stop=asked())
            if not (math.isfinite(told.loss) and math.isfinite(told.gradient_norm)):
                raise self._not_finite(done, told)
            if done in {1, steps} or done % self.settings.log_every == 0:
                entry = self._entry(done, told) | clock.read(done, self.settings.batch)
                if logbook:
                    logbook.add(entry)
            if told.stop or done == steps or done % self.settings.checkpoint_every == 0:
                self._save(done)
            if drawn and done % self.settings.picture_every == 0:
                with torch.no_grad():
                    self.lesson.picture(self.learner.averaged.module, self.folder / f"step{done:07d}.png")
            if processes.first and progress:
                progress(done, steps, told.loss)
            if told.stop and done < steps:
                raise Interrupted(
                    f"interrupted after step {done} of {steps}; the checkpoint {self.checkpoint} holds all of it. Run "
                    "the same command with --resume to go on."
                )
        return logbook.entries if logbook else []

    def _learn(self, step: int, batch: Batch, *, stop: bool) -> _Told:
        model, averaged, optimizer = self.learner.model, self.learner.averaged, self.learner.optimizer
        device, processes = self.processes.device, self.processes
        torch.manual_seed(int(np.random.SeedSequence([self.settings.seed, step, processes.rank]).generate_state(1)[0]))
        for group in optimizer.param_groups:
            group["lr"] = self._rate(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.lesson.loss(self.network, batch, device)
        own = loss.total.detach()
        shared = processes.total(torch.stack([own, loss.count.to(own), own.new_tensor(float(stop))]).float())
        # Gradients are averaged over processes; this makes their average the gradient of the loss over all of them.
        (loss.total * (processes.world / shared[1])).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.learning, self.settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
        total, count, stops, length = torch.cat([shared, norm.detach()[None]]).tolist()
        return _Told(total / count if count else math.nan, count, length, stops > 0, loss.parts)

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.settings.steps, self.settings.lr, self.settings.warmup)

    def _entry(self, done: int, told: _Told) -> dict[str, float | None]:
        entry: dict[str, float | None] = {"step": done, "loss": told.loss}
        if told.parts:
            names = sorted(told.parts)
            sums = torch.stack([torch.stack(told.parts[name]).detach().float() for name in names])
            for name, (total, count) in zip(names, self.processes.total(sums).tolist(), strict=True):
                entry[f"{name}_mse"] = total / count if count else None
        return entry | {"lr": self._rate(done - 1), "gradient_norm": told.gradient_norm}

    def _save(self, done: int) -> None:
        if self.processes.first:
            save_checkpoint(self.checkpoint, self.learner, done, self.identity)
        self.processes.wait()  # when one process ends, a launcher ends the others: none may while one is saving

    def _can_draw(self) -> bool:
        if self.settings.picture_every and importlib.util.find_spec("matplotlib") is None:
            warnings.warn(
                "no pictures: matplotlib is not installed; `pip install 'ms2hs[train]'` brings it", stacklevel=4
            )
            return False
        return self.settings.picture_every > 0

    def _not_finite(self, done: int, told: _Told) -> DataError:
        kept = f"{self.checkpoint} is from before" if self.checkpoint.exists() else "no checkpoint is there yet"
        return DataError(
            f"step {done}: the loss is {told.loss} over {told.count:g} values, the length of its gradient "
            f"{told.gradient_norm}; finite numbers are needed ({kept}). Look for NaN in the data, or for windows "
            "without valid values, or lower the learning rate."
        )
