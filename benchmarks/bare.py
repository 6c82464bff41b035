"""The process that `forward.py` starts: it repeats the network calls of a `convert`, without the rest of it.

python benchmarks/bare.py SCENE WEIGHTS DEVICE      # prints a line of JSON, then one for each line on stdin
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

# Side of the matrices whose products measure a device's rate, and number of products in a measurement.
SIDE, PRODUCTS = {"cpu": 2048, "cuda": 8192}, 4
SCENE_BANDS = 12
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001  private names of torch
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001


@dataclass(frozen=True)
class Call:
    """One call of the network by `convert`."""

    network: Callable[[], Tensor]
    """With its arguments."""
    shape: torch.Size
    """(window, band, row, col) of its first argument."""
    is_whole: bool
    """Whether every pixel was valid."""
    device: torch.device
    bfloat16: bool
    caller: int
    """Identifier of the calling thread."""
    threads: int
    """Threads of torch in the calling thread."""

    def again(self) -> Tensor:
        """Repeat the call."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.network()


def calls_of(scene: Path, weights: str, device: torch.device) -> list[Call]:
    """All calls of the network during the conversion of a scene."""
    calls: list[Call] = []
    forward = SpectralMAE.forward

    def copied(value: object) -> object:
        return value.clone() if isinstance(value, Tensor) else value

    def recording(self: SpectralMAE, x: Tensor, *others: object, **named: object) -> Tensor:
        own = {name: copied(value) for name, value in named.items()}
        network = partial(self, copied(x), *map(copied, others), **own)
        how = own.get("valid") is None, x.device, torch.is_autocast_enabled(x.device.type)
        calls.append(Call(network, x.shape, *how, threading.get_ident(), torch.get_num_threads()))
        return forward(self, x, *others, **named)

    with mock.patch.object(SpectralMAE, "forward", recording):
        convert(
            scene,
            "enmap",
            scene.with_name("recorded.tif"),
            ConvertOptions(overwrite=True, model=weights, device=str(device), input_error="none"),
        )
    if not calls:
        raise SystemExit(f"{weights}: not a network; weights of a network are needed. Use another --model.")
    return calls


def operations(calls: list[Call]) -> int:
    """Floating point operations of all calls: matrix products and attention, the same for equal shapes."""
    flop_registry.setdefault(CPU_ATTENTION, flop_registry[ATTENTION])  # missing in torch
    known: dict[tuple[torch.Size, bool], int] = {}
    for call in calls:
        if (call.shape, call.is_whole) not in known:
            with FlopCounterMode(display=False) as counter:
                call.again()
            known[call.shape, call.is_whole] = counter.get_total_flops()
    return sum(known[call.shape, call.is_whole] for call in calls)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of work, until the device has finished."""
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second in products of large matrices."""
    side = SIDE[device.type]
    left, right, product = (torch.rand(side, side, device=device).to(dtype) for _ in range(3))
    torch.mm(left, right, out=product)
    return (
        PRODUCTS
        * 2
        * side**3
        / seconds_of(lambda: [torch.mm(left, right, out=product) for _ in range(PRODUCTS)], device)
    )


def device_seconds(calls: list[Call]) -> dict[str, float]:
    """Seconds by the clock of a GPU: the forward passes, and copies of their inputs and outputs."""
    seconds = {"copied_in": 0.0, "device_seconds": 0.0, "copied_out": 0.0}

    def timed(name: str, step: Callable[[], Tensor]) -> Tensor:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = step()
        end.record()
        end.synchronize()
        seconds[name] += begin.elapsed_time(end) / 1000
        return result

    for call in calls:
        inputs = torch.zeros(call.shape[0], SCENE_BANDS, *call.shape[2:])
        timed("copied_in", partial(inputs.to, call.device))
        outputs = timed("device_seconds", call.again).float()
        timed("copied_out", outputs.cpu)
    return seconds


def main() -> None:
    """Print the facts, then one measurement for each line on stdin."""
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
        # one caller runs in this thread: another thread allocates its memory anew for each call, and is slower
        run_all: Callable[..., Iterable[object]] = map
        if callers > 1:
            pool = ThreadPoolExecutor(callers, initializer=partial(torch.set_num_threads, threads))
            run_all = stack.enter_context(pool).map
        for _ in sys.stdin:
            result = {"bare": seconds_of(lambda: deque(run_all(_call, calls), 0), device)}
            result["rate_float32"] = matrix_rate(device, torch.float32)
            if device.type == "cuda":
                result |= {"rate_bfloat16": matrix_rate(device, torch.bfloat16)} | device_seconds(calls)
            print(json.dumps(result), flush=True)


def _call(call: Call) -> None:
    call.again()  # without keeping its result


if __name__ == "__main__":
    main()
