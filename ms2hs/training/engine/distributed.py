"""The processes of a training run: a single process, or the processes that `torchrun` started."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ms2hs.inference.device import device_named


def is_first_process() -> bool:
    """Whether this is the only process, or the first one of `torchrun`: only it prints and writes."""
    return os.environ.get("RANK", "0") == "0"


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

    @contextmanager
    def own_random(self) -> Iterator[None]:
        """Restore the caller's random generators at the end."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            yield

    def shared(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; a batch may leave parameters unused."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes of `torchrun` (RANK, LOCAL_RANK, WORLD_SIZE), or run as a single process; leave at the end.

    Raises
    ------
    UnknownName : no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    own = device_named(device, int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world == 1:
        yield Processes(0, 1, own)
        return
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, own)
    finally:
        # DistributedDataParallel has reference cycles. If it outlives the group, the group's threads outlive the
        # interpreter, and one in seven runs ended in an abort ("terminate called without an active exception").
        gc.collect()
        distributed.destroy_process_group()
