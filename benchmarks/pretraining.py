"""Speed of a training step of `pretrain`, compared with bare transformer layers, and speed of its loader.

    python benchmarks/pretraining.py                                      # the presets of PRESETS
    python benchmarks/pretraining.py --preset spectral --batch 8 --threads 1
    python benchmarks/pretraining.py --preset dlr-ibm-spectral --window 64

A step is the step of `fit`: loss, backward, clipping, AdamW, moving average. It is compared with stacks of
`nn.TransformerEncoderLayer` of the same width and depth, on the same number of tokens (counted in the same batch), with
backward, clipping and the same optimizer. The model's last block computes only the queries; a bare layer computes all
tokens. Steps of all kinds alternate, batch by batch, so that other load on the machine slows all of them; the results
are medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ms2hs.datasets.cubes.registry import Cube, open_cubes
from ms2hs.datasets.cubes.shards import encode, write_shard
from ms2hs.datasets.simulation.synthetic_scenes import simulated_cubes
from ms2hs.models.config import ModelConfig, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights
from ms2hs.training.engine.distributed import Processes, joined
from ms2hs.training.engine.loader import batches
from ms2hs.training.engine.loop import FitSettings, Trainer
from ms2hs.training.engine.optim import initial_state
from ms2hs.training.masked_task import MaskedTask
from ms2hs.training.pretraining import MIN_SIMULATED_SIDE, SIMULATED_SCENES

PRESETS = ("dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "spectral", "spatial-spectral")
# Default windows in a step, and default window size.
BATCH = {"cpu": 4, "cuda": 32}
WINDOW = {"cpu": 32, "cuda": 128}
# Windows of a shard, and their side in pixels, as `prepare` writes them.
SHARD_WINDOWS, SHARD_SIDE = 8, 128
# Batches whose steps are measured; further rounds use them again.
BATCHES = 8

Seconds = dict[str, list[float]]
Step = Callable[[int], Any]


@dataclass(frozen=True)
class Case:
    """A preset and the settings to measure it with."""

    preset: str
    window: int
    batch: int
    steps: int
    """Rounds of one step of every kind."""
    device: torch.device
    compiled: bool


class BareStacks(nn.Module):
    """Stacks of torch's own transformer layers with the sizes of a model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        sizes = {
            "encoder": (c.width, c.heads, c.depth),
            "decoder": (c.decoder_width, c.decoder_heads, c.decoder_depth),
        }
        self.stacks = nn.ModuleDict({name: nn.Sequential(*_layers(*size)) for name, size in sizes.items()})

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """A scalar to differentiate."""
        outputs = [stack(tokens[name]).float().square().mean() for name, stack in self.stacks.items()]
        return torch.stack(outputs).sum()


def _layers(width: int, heads: int, depth: int) -> list[nn.Module]:
    common = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return [nn.TransformerEncoderLayer(width, heads, 4 * width, **common) for _ in range(depth)]


def tokens_of(model: SpectralMAE, task: MaskedTask, batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Random tokens (sequence, token, width), as many as each stack of the model gets for this batch."""
    tokens: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        tokens[name] = torch.randn(given[0].shape, device=device)

    stacks = {"encoder": model.encoder, "decoder": model.decoder}
    hooks = [stack[0].register_forward_pre_hook(partial(note, name)) for name, stack in stacks.items()]
    with torch.no_grad():
        task.loss(model, batch, device)
    for hook in hooks:
        hook.remove()
    return tokens


def steps_of_fit(
    case: Case, model: SpectralMAE, task: MaskedTask, batches_of_steps: Sequence[dict[str, Any]]
) -> tuple[dict[str, Step], str]:
    """Training steps by name, as functions of the batch number, and the precision that `fit` would choose.

    All train the same model. Only one is compiled, since torch limits recompilations in a process.
    """
    state = initial_state(model, FitSettings.weight_decay, FitSettings.ema)

    def trainer_of(precision: str, *, compiled: bool = False) -> Trainer:
        settings = FitSettings(precision=precision, compiled=compiled, batch=case.batch)
        return Trainer(task, settings, Path(), {}, Processes(0, 1, case.device), state)

    def step_of(trainer: Trainer) -> Step:
        return lambda number: trainer.step(number, batches_of_steps[number], stop=False)

    auto = "bfloat16" if trainer_of("auto").bfloat16 else "float32"
    steps = {precision: step_of(trainer_of(precision)) for precision in ("float32", "bfloat16")}
    if case.compiled:
        steps[f"{auto}, compiled"] = step_of(trainer_of(auto, compiled=True))
    return steps, auto


def bare_steps(case: Case, config: ModelConfig, tokens: Sequence[dict[str, Tensor]]) -> dict[str, Step]:
    """Steps of the bare stacks by name."""
    bare = BareStacks(config).to(case.device)
    state = initial_state(bare, FitSettings.weight_decay, FitSettings.ema)

    def step(number: int, precision: str) -> None:
        with torch.autocast(case.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = bare(tokens[number])
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), FitSettings.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        loss.item()

    return {f"bare, {precision}": partial(step, precision=precision) for precision in ("float32", "bfloat16")}


def alternate(steps: dict[str, Step], rounds: int, count: int) -> tuple[Seconds, dict[str, float]]:
    """Seconds of each step in each round, and of the first pass over all batches, which is not counted."""
    first = {name: sum(_seconds(step, number) for number in range(count)) for name, step in steps.items()}
    seconds: Seconds = defaultdict(list)
    for number in range(rounds):
        for name, step in steps.items():
            seconds[name].append(_seconds(step, number % count))
    return seconds, first


def _seconds(step: Step, number: int) -> float:
    """Of one step; a step ends with a number read back, so the device is idle."""
    began = time.perf_counter()
    step(number)
    return time.perf_counter() - began


def windows_a_second(task: MaskedTask, case: Case, workers: int) -> float:
    """Windows per second of the loader alone, from the median time between batches."""
    numbers = range(1000 * (1 + workers), 1000 * (1 + workers) + case.steps + 1)
    arrived = [time.perf_counter() for _ in batches(task.batch, numbers, workers)]
    return case.batch / statistics.median(later - earlier for earlier, later in pairwise(arrived))


def sharded(cubes: Sequence[Cube], folder: Path) -> list[Cube]:
    """Some simulated scenes, as shards."""
    some = cubes[:SHARD_WINDOWS]
    dn = [encode(cube.read(0, 0, *cube.shape)) for cube in some]
    names = [(cube.name, cube.scene) for cube in some]
    write_shard(folder / "shard-00000.safetensors", dn, some[0].grid, names, "simulated")
    return open_cubes(folder)


def measure(case: Case) -> dict[str, Any]:
    """All measurements of one preset."""
    torch.manual_seed(0)
    config, prior = preset(case.preset), load_weights("linear").prior
    side = max(case.window, MIN_SIMULATED_SIDE)
    scenes = simulated_cubes(SIMULATED_SCENES, 0, prior=prior, shape=(side, side))
    task = MaskedTask(config, scenes, case.batch, 1000, window=case.window)
    model = SpectralMAE(config, prior).to(case.device)
    batches_of_steps = [task.batch(number) for number in range(min(case.steps, BATCHES))]
    tokens = [tokens_of(model, task, batch, case.device) for batch in batches_of_steps]
    steps, auto = steps_of_fit(case, model, task, batches_of_steps)
    seconds, first = alternate(steps | bare_steps(case, config, tokens), case.steps, len(batches_of_steps))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    own = {name: times for name, times in seconds.items() if not name.startswith("bare")}
    with tempfile.TemporaryDirectory() as folder:
        large = simulated_cubes(SHARD_WINDOWS, 1, prior=prior, shape=(SHARD_SIDE, SHARD_SIDE))
        tasks = {"simulated": task, "shards": replace(task, cubes=sharded(large, Path(folder)))}
        loader = {
            f"{name}, {workers} workers": windows_a_second(each, case, workers)
            for (name, each), workers in product(tasks.items(), (0, 1))
        }
    return {
        "preset": case.preset,
        "window": case.window,
        "batch": case.batch,
        "threads": torch.get_num_threads(),
        "device": str(case.device),
        "tokens": {name: list(given.shape) for name, given in tokens[0].items()},
        "seconds": median,
        "compiling_s": {name: first[name] for name in own if "compiled" in name},
        "bare_over_step": {name: _ratio(seconds[f"bare, {name}"], own[name]) for name in ("float32", "bfloat16")},
        "faster_than_float32": {name: _ratio(own["float32"], times) for name, times in own.items()},
        "auto": auto,
        "step_windows_s": case.batch / median[auto],
        "loader_windows_s": loader,
        "loader_over_step": {name: rate * median[auto] / case.batch for name, rate in loader.items()},
    }


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median ratio within the rounds."""
    return float(np.median(np.divide(one, other)))


def show(result: dict[str, Any]) -> None:
    """Print one preset as a table."""
    tokens = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in result["tokens"].items())
    print(f"{result['preset']}: {result['batch']} windows of {result['window']} x {result['window']} pixels")
    print(f"  on {result['device']} with {result['threads']} threads; sequences x tokens of the first batch: {tokens}")
    for name, seconds in result["seconds"].items():
        faster = result["faster_than_float32"].get(name)
        compiling = result["compiling_s"].get(name)
        notes = [
            f"{faster:.2f} x as fast as float32" if faster else "",
            f"first {compiling:.0f} s" if compiling else "",
        ]
        print(f"  {name:22} {1000 * seconds:9.1f} ms  {', '.join(filter(None, notes))}")
    for name, ratio in result["bare_over_step"].items():
        print(
            f"  speed of a step relative to bare layers, {name}: {ratio:.0%}"
            + (" (auto)" if name == result["auto"] else "")
        )
    print(f"  a step in {result['auto']} trains {result['step_windows_s']:.1f} windows per second; the loader makes")
    for name, rate in result["loader_windows_s"].items():
        print(f"    {name:22} {rate:9.1f}  {result['loader_over_step'][name]:.2f} times what a step needs")


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", help=f"repeatable [default: {', '.join(PRESETS)}]")
    parser.add_argument("--window", type=int, help="side in pixels [default: the preset's, at most 32 on a CPU]")
    parser.add_argument("--batch", type=int, help="windows in a step [default: 4 on a CPU, 32 on a GPU]")
    parser.add_argument("--steps", type=int, default=7, help="rounds to measure")
    parser.add_argument("--threads", type=int, help="threads of torch on a CPU [default: torch's choice]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--eager", action="store_true", help="skip torch.compile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = []
    with joined(options.device) as processes:
        device = processes.device
        for name in options.preset or PRESETS:
            window = options.window or min(preset(name).window, WINDOW[device.type])
            batch = options.batch or BATCH[device.type]
            torch.compiler.reset()
            rows.append(measure(Case(name, window, batch, options.steps, device, not options.eager)))
            if not options.json:
                show(rows[-1])
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
