"""The processes that train together: one, or those that `torchrun` started."""

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
    """Whether this process is the only one, or the first of those that `torchrun` started: it alone tells."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """One process among those that train together."""

    rank: int
    """0 is the one that writes and shows."""
    world: int
    """How many there are."""
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes, logs and shows."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in each of them."""
        if self.world > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return when every process is here."""
        self.total(torch.zeros(1, device=self.device)).tolist()

    @contextmanager
    def own_random(self) -> Iterator[None]:
        """What is drawn at random within leaves the caller's generators as they were."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            yield

    def shared(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over all processes; a batch may leave parameters out."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes of `torchrun` (its RANK, LOCAL_RANK, WORLD_SIZE), or be the only one; leave at the end.

    Raises
    ------
    UnknownName : `device` is not one that is here.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = device_named(device, int(os.environ.get("LOCAL_RANK", "0")))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(0, 1, place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, place)
    finally:
        # DistributedDataParallel refers to itself in circles. If it outlives the group, the group's threads outlive the
        # interpreter, and one in seven runs ended in an abort ("terminate called without an active exception").
        gc.collect()
        distributed.destroy_process_group()
