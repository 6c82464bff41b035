"""The processes that train together: one, or those that `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ms2hs.errors import UnknownName


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
        distributed.destroy_process_group()


def device_named(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one, and `cuda` the one of this process.

    Raises
    ------
    UnknownName : no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name if name != "cuda" else f"cuda:{local_rank}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        here = ["auto", "cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise UnknownName.of("device", name, here, "Give one of these, or leave it to auto.") from error
    return device


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself.

    Where it does, a step of a transformer is shorter: by 1.5 to 2.9 times on a processor with AVX-512 BF16 (widths
    128 to 768, 2 threads, torch 2.13). Where it only imitates it, it is longer.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False
