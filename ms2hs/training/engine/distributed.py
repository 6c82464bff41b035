"""The processes of a training run: a single process, or the processes that `torchrun` started."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ms2hs.inference.device import device_named

Note = Callable[[str], None]


def collect_notes(note: Note | None) -> tuple[list[str], Note]:
    """The notes of a run, and a function that adds a note; in the first process it also calls `note`."""
    notes: list[str] = []

    def add(text: str) -> None:
        notes.append(text)
        if note and os.environ.get("RANK", "0") == "0":
            note(text)

    return notes, add


@dataclass(frozen=True)
class Processes:
    """The rank and device of this process, and the number of processes."""

    rank: int
    """0 to `world` - 1; process 0 writes."""
    world: int
    """Number of processes."""
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files, the log and progress."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over all processes, in every process."""
        if self.world > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until every process has called this."""
        self.total(torch.zeros(1, device=self.device)).tolist()

    @property
    def gpus(self) -> list[torch.device]:
        """The GPU of this process; empty on a CPU."""
        return [self.device] if self.device.type == "cuda" else []

    def shared(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; a batch may leave parameters unused."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=self.gpus or None, find_unused_parameters=True)


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes of `torchrun` (RANK, LOCAL_RANK, WORLD_SIZE), or run as a single process; leave at the end.

    Within another `joined` nothing is joined or left: processes that join a second group may wait for ever.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    own = device_named(device, int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world == 1 or distributed.is_initialized():
        yield Processes(rank, world, own)
        return
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, own)
    finally:
        # DistributedDataParallel has reference cycles. If it outlives the group, the group's threads outlive the
        # interpreter, and one in seven runs ended in an abort ("terminate called without an active exception").
        gc.collect()
        distributed.destroy_process_group()
