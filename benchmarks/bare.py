"""The process that `forward.py` starts: it makes the calls of a network again that `convert` made, and nothing else.

python benchmarks/bare.py SCENE WEIGHTS DEVICE      # a line of JSON; then one more for each line that comes in
"""

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.inference.device import device_named
from ms2hs.models.mae import SpectralMAE

# Sides of the matrices whose products tell a device's rate, and how many of them are taken at a time.
SIDE, PRODUCTS = {"cpu": 2048, "cuda": 8192}, 4
SCENE_BANDS = 12
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001  torch's own names
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001


@dataclass(frozen=True)
class Call:
    """One call of the network, as `convert` made it."""

    network: Callable[[], Tensor]
    """With all that it was given."""
    shape: torch.Size
    """(window, band, row, col) of what it was given first."""
    is_whole: bool
    """Whether no pixel had to be filled."""
    device: torch.device
    bfloat16: bool
    caller: int
    """The thread that called."""
    threads: int
    """How many torch had there."""

    def again(self) -> Tensor:
        """The same once more."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.network()


def calls_of(scene: Path, weights: str, device: torch.device) -> list[Call]:
    """All calls of the network while the scene is converted."""
    calls: list[Call] = []
    forward = SpectralMAE.forward

    def kept(value: object) -> object:
        return value.clone() if isinstance(value, Tensor) else value

    def noting(self: SpectralMAE, x: Tensor, *others: object, **named: object) -> Tensor:
        own = {name: kept(value) for name, value in named.items()}
        network = partial(self, kept(x), *map(kept, others), **own)
        how = own.get("valid") is None, x.device, torch.is_autocast_enabled(x.device.type)
        calls.append(Call(network, x.shape, *how, threading.get_ident(), torch.get_num_threads()))
        return forward(self, x, *others, **named)

    with mock.patch.object(SpectralMAE, "forward", noting):
        convert(
            scene,
            "enmap",
            scene.with_name("noted.tif"),
            ConvertOptions(overwrite=True, model=weights, device=str(device)),
        )
    if not calls:
        raise SystemExit(f"{weights}: no network was called in this process; weights of a network are needed.")
    return calls


def operations(calls: list[Call]) -> int:
    """Floating point operations of all calls: products of matrices, and attention. Calls of one shape have the same."""
    flop_registry.setdefault(CPU_ATTENTION, flop_registry[ATTENTION])  # which torch leaves out
    known: dict[tuple[torch.Size, bool], int] = {}
    for call in calls:
        if (call.shape, call.is_whole) not in known:
            with FlopCounterMode(display=False) as counter:
                call.again()
            known[call.shape, call.is_whole] = counter.get_total_flops()
    return sum(known[call.shape, call.is_whole] for call in calls)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device is done."""
    settled = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    settled()
    began = time.perf_counter()
    work()
    settled()
    return time.perf_counter() - began


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second in products of large matrices."""
    side = SIDE[device.type]
    one, other, made = (torch.rand(side, side, device=device).to(dtype) for _ in range(3))
    torch.mm(one, other, out=made)
    return (
        PRODUCTS * 2 * side**3 / seconds_of(lambda: [torch.mm(one, other, out=made) for _ in range(PRODUCTS)], device)
    )


def by_the_device(calls: list[Call]) -> dict[str, float]:
    """Of a GPU: seconds by its own clock of the forward, and of copying what goes in and what comes out."""
    seconds = {"copied_in": 0.0, "device_seconds": 0.0, "copied_out": 0.0}

    def clocked(name: str, step: Callable[[], Tensor]) -> Tensor:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        made = step()
        end.record()
        end.synchronize()
        seconds[name] += begin.elapsed_time(end) / 1000
        return made

    for call in calls:
        given = torch.zeros(call.shape[0], SCENE_BANDS, *call.shape[2:])
        clocked("copied_in", partial(given.to, call.device))
        made = clocked("device_seconds", call.again).float()
        clocked("copied_out", made.cpu)
    return seconds


def main() -> None:
    """Answer until there is nothing more to read."""
    scene, weights, device_name = sys.argv[1:]
    device = device_named(device_name)
    calls = calls_of(Path(scene), weights, device)
    callers, threads = len({call.caller for call in calls}), calls[0].threads
    facts = {"device": str(device), "callers": callers, "threads": threads, "calls": len(calls)}
    facts["pixels"] = sum(call.shape[0] * call.shape[2] * call.shape[3] for call in calls)
    facts["precision"] = "bfloat16" if calls[0].bfloat16 else "float32"
    print(json.dumps(facts | {"operations": operations(calls)}), flush=True)
    torch.set_num_threads(callers * threads)
    with ExitStack() as stack:
        # in this thread, as there: another gets its memory anew for each call, and is slower
        each: Callable[..., Iterable[object]] = map
        if callers > 1:
            pool = ThreadPoolExecutor(callers, initializer=partial(torch.set_num_threads, threads))
            each = stack.enter_context(pool).map
        for _ in sys.stdin:
            found = {"bare": seconds_of(lambda: deque(each(_call, calls), 0), device)}
            found["rate_float32"] = matrix_rate(device, torch.float32)
            if device.type == "cuda":
                found |= {"rate_bfloat16": matrix_rate(device, torch.bfloat16)} | by_the_device(calls)
            print(json.dumps(found), flush=True)


def _call(call: Call) -> None:
    call.again()  # and forget what it made


if __name__ == "__main__":
    main()
