"""Where networks run."""

import torch

from ms2hs.errors import UnknownName


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
