"""The device that a network runs on: its choice, its memory, and batches that adapt to that memory."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.errors import Ms2hsError, UnknownName

Batch = TypeVar("Batch")


def device_named(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of a name; `auto` is a GPU, else the CPU; `cuda` is the GPU of this process, by `local_rank`.

    Raises
    ------
    UnknownName : the device does not exist on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name if name != "cuda" else f"cuda:{local_rank}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        available = ["auto", "cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        raise UnknownName.of("device", name, available, "Use --device auto, or one of these names.") from error
    return device


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively.

    A training step is then 1.5 to 2.9 times faster on a CPU with AVX-512 BF16 (widths 128 to 768, 2 threads, torch
    2.13). Emulated bfloat16 is slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that this process can still use, in bytes, including torch's cache."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def to_device(array: Float32Array | BoolArray, device: torch.device) -> Tensor:
    """The array as a tensor: without a copy on a CPU, by an asynchronous copy on CUDA."""
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class AdaptiveBatch:
    """A batch size that is halved each time the device runs out of memory."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.device = device
        self.size = size
        """Units of work in a batch, 1 or more."""

    def run(
        self,
        batches: Sequence[Batch],
        split: Callable[[Batch, int], list[Batch]],
        compute: Callable[[Batch], Tensor],
        use: Callable[[Batch, Tensor], None],
    ) -> None:
        """Compute and use every batch once, in order, also after memory ran out.

        Parameters
        ----------
        batches : of any size.
        split : returns a batch as parts of at most the given number of units, in order.
        compute : returns the result of a part; after memory ran out it is called again with smaller parts.
        use : receives each part and its result.

        Raises
        ------
        Ms2hsError : a single unit does not fit into memory.
        """
        waiting = list(reversed(batches))
        while waiting:
            batch = waiting.pop()
            parts = split(batch, self.size)
            if len(parts) > 1:
                waiting.extend(reversed(parts))
                continue
            result = self._attempt(compute, batch)
            if result is None:  # empty the cache only here: the error held references to tensors
                waiting.append(batch)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                use(batch, result)
                del result  # frees memory before the next batch

    def _attempt(self, compute: Callable[[Batch], Tensor], batch: Batch) -> Tensor | None:
        """The result, or None after halving the size where memory ran out."""
        try:
            return compute(batch)
        except torch.OutOfMemoryError as error:
            if self.size == 1:
                raise Ms2hsError(
                    f"{self.device} is out of memory with a batch of 1 window or patch; at least that must fit. "
                    "Free memory that other programs hold, or use --device cpu or --model spectral."
                ) from error
            self.size //= 2
            return None
