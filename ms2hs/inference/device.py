"""Where networks run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ms2hs.errors import Ms2hsError, UnknownName

Job = TypeVar("Job")


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


def free_bytes(device: torch.device) -> int:
    """Memory of a CUDA device that this process could have: what nobody has, and what torch keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Portion:
    """How much goes through a device at a time: half as much from when its memory is out."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.device = device
        self.size = size
        """Units of work, 1 or more; the one that worked is kept."""

    def work(
        self,
        jobs: Sequence[Job],
        cut: Callable[[Job, int], list[Job]],
        compute: Callable[[Job], Tensor],
        use: Callable[[Job, Tensor], None],
    ) -> None:
        """Compute and use every job in order, each once; what was used already stays so when memory is out.

        Parameters
        ----------
        jobs : of any size.
        cut : a job in parts of at most so many units, in order; only itself where it has no more.
        compute : may run out of memory, and is then called again with less.
        use : what becomes of a result.

        Raises
        ------
        Ms2hsError : a single unit does not fit.
        """
        waiting = list(reversed(jobs))
        while waiting:
            job = waiting.pop()
            parts = cut(job, self.size)
            if len(parts) > 1:
                waiting.extend(reversed(parts))
                continue
            made = self._attempt(compute, job)
            if made is None:  # only here, when the error and all that it held on to is gone
                waiting.append(job)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                use(job, made)
                del made  # before the next is computed

    def _attempt(self, compute: Callable[[Job], Tensor], job: Job) -> Tensor | None:
        """None, and half the size, where memory is out."""
        try:
            return compute(job)
        except torch.OutOfMemoryError as error:
            if self.size == 1:
                raise Ms2hsError(
                    f"the memory of {self.device} is out with 1 window or place at a time; at least that must fit. "
                    "Free what other programs hold of it, or use --device cpu or --model spectral."
                ) from error
            self.size //= 2
            return None
