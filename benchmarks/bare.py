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
from contextlib import AbstractContextManager, ExitStack
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
from ms2hs.models.prior_tensors import PriorOfBands
from ms2hs.models.weights import load_weights

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
    kind: tuple[str, torch.Size, bool]
    """Name of the method, shape of its first argument, and whether every pixel was valid."""
    pixels: int
    """Pixels of the scene that it reads; 0 for a method that reads the output of another."""
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

    def copied(value: object) -> object:
        return value.clone() if isinstance(value, Tensor) else value

    def recorded(owner: type, name: str) -> AbstractContextManager[object]:
        method = getattr(owner, name)

        def recording(self: object, x: Tensor, *others: object, **named: object) -> Tensor:
            own = {key: copied(value) for key, value in named.items()}
            network = partial(method, self, copied(x), *map(copied, others), **own)
            # `valid` is a Tensor of bool, by name or by position
            is_whole = not any(
                isinstance(value, Tensor) and value.dtype == torch.bool for value in (*others, *own.values())
            )
            how = x.device, torch.is_autocast_enabled(x.device.type), threading.get_ident(), torch.get_num_threads()
            pixels = 0 if name == "correct" else len(x) * x.shape[2] * x.shape[3]
            calls.append(Call(network, (name, x.shape, is_whole), pixels, *how))
            result: Tensor = method(self, x, *others, **named)
            return result

        return mock.patch.object(owner, name, recording)

    network = load_weights(weights).network
    by_patch = network is not None and network.config.by_patch
    methods = [(PriorOfBands, "content"), (SpectralMAE, "correct")] if by_patch else [(SpectralMAE, "forward")]
    with ExitStack() as stack:
        for owner, name in methods:
            stack.enter_context(recorded(owner, name))
        convert(
            scene,
            "enmap",
            scene.with_name("recorded.tif"),
            ConvertOptions(overwrite=True, model=weights, device=str(device)),
        )
    if not calls:
        raise SystemExit(f"{weights}: not a network; weights of a network are needed. Use another --model.")
    # the check of the weights runs in this thread, a network of patch tokens in others
    return [call for call in calls if call.caller != threading.get_ident()] or calls


def operations(calls: list[Call]) -> int:
    """Floating point operations of all calls: matrix products and attention, the same for equal shapes."""
    flop_registry.setdefault(CPU_ATTENTION, flop_registry[ATTENTION])  # missing in torch
    known: dict[object, int] = {}
    for call in calls:
        if call.kind not in known:
            with FlopCounterMode(display=False) as counter:
                call.again()
            known[call.kind] = counter.get_total_flops()
    return sum(known[call.kind] for call in calls)


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
        if call.pixels:
            timed("copied_in", partial(torch.zeros(SCENE_BANDS, call.pixels).to, call.device))
        outputs = timed("device_seconds", call.again).float()
        if call.kind[0] != "content":
            timed("copied_out", outputs.cpu)
    return seconds


def main() -> None:
    """Print the facts, then one measurement for each line on stdin."""
    scene, weights, device_name = sys.argv[1:]
    device = device_named(device_name)
    calls = calls_of(Path(scene), weights, device)
    callers, threads = len({call.caller for call in calls}), calls[0].threads
    facts = {"device": str(device), "callers": callers, "threads": threads, "calls": len(calls)}
    facts["pixels"] = sum(call.pixels for call in calls)
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
