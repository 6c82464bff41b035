"""How fast a step of `pretrain` is beside bare transformer layers, whether its loader keeps up, and what else pays.

    python benchmarks/pretraining.py                                      # all presets that follow
    python benchmarks/pretraining.py --preset spectral --batch 8 --threads 1
    python benchmarks/pretraining.py --preset dlr-ibm-spectral --window 64

A step is the very one that `fit` takes: loss, backward, clipping, AdamW, moving average. Beside it stand stacks of
`nn.TransformerEncoderLayer`s as wide and deep as the model's own, on as many tokens as its stacks were given in the
same batch (counted there), with backward, clipping and the same optimizer: nothing else. (The model's last block makes
only the tokens that were asked for; a bare layer makes all.) Steps of all kinds take turns, batch by batch, so that
whatever else the machine does slows all of them; medians are told.
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
from ms2hs.training.engine.loop import FitSettings, _Run
from ms2hs.training.engine.optim import learner_of
from ms2hs.training.masked_task import MaskedTask
from ms2hs.training.pretraining import SIMULATED_SCENES, SMALLEST_SIMULATED

PRESETS = ("dlr-ibm-spectral", "dlr-ibm-spatial-spectral", "spectral", "spatial-spectral")
# Windows a step, and the largest window, where none are given: a processor has to be done some day.
BATCH = {"cpu": 4, "cuda": 32}
WINDOW = {"cpu": 32, "cuda": 128}
# Windows of a shard, and pixels on a side of each: `prepare` makes such ones.
SHARD_WINDOWS, SHARD_SIDE = 8, 128
# Batches whose steps are measured; further rounds take them again.
BATCHES = 8

Seconds = dict[str, list[float]]
Step = Callable[[int], Any]


@dataclass(frozen=True)
class Asked:
    """What to measure."""

    preset: str
    window: int
    batch: int
    steps: int
    """Rounds; each takes one step of every kind."""
    device: torch.device
    compiled: bool


class BareStacks(nn.Module):
    """A model's stacks of blocks as torch itself has them; tokens in, tokens out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = config
        sizes = {
            "encoder": (c.width, c.heads, c.depth),
            "context": (c.width, c.heads, c.depth if c.context else 0),
            "decoder": (c.decoder_width, c.decoder_heads, c.decoder_depth),
        }
        self.stacks = nn.ModuleDict({name: nn.Sequential(*_layers(*size)) for name, size in sizes.items() if size[2]})

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Something to go down from."""
        made = [stack(tokens[name]).float().square().mean() for name, stack in self.stacks.items()]
        return torch.stack(made).sum()


def _layers(width: int, heads: int, depth: int) -> list[nn.Module]:
    common = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    return [nn.TransformerEncoderLayer(width, heads, 4 * width, **common) for _ in range(depth)]


def tokens_of(model: SpectralMAE, lesson: MaskedTask, batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Random tokens (sequence, token, width), as many as each stack of the model is given with this batch."""
    found: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[name] = torch.randn(given[0].shape, device=device)

    stacks = {"encoder": model.encoder, "context": model.context, "decoder": model.decoder}
    hooks = [stack[0].register_forward_pre_hook(partial(note, name)) for name, stack in stacks.items() if len(stack)]
    with torch.no_grad():
        lesson.loss(model, batch, device)
    for hook in hooks:
        hook.remove()
    return found


def steps_of_fit(
    asked: Asked, model: SpectralMAE, lesson: MaskedTask, shown: Sequence[dict[str, Any]]
) -> tuple[dict[str, Step], str]:
    """Whole training steps by name, each on the batch of that number, and the precision that `fit` itself takes.

    All train the same model. Only one is compiled: in one process, others would use up what may be compiled again.
    """
    learner = learner_of(model, FitSettings.weight_decay, FitSettings.ema)

    def run_of(precision: str, *, compiled: bool = False) -> _Run:
        settings = FitSettings(precision=precision, compiled=compiled, batch=asked.batch)
        return _Run(lesson, settings, Path(), {}, Processes(0, 1, asked.device), learner)

    def step_of(run: _Run) -> Step:
        return lambda number: run._learn(number, shown[number], stop=False)  # noqa: SLF001  the very step

    auto = "bfloat16" if run_of("auto").bfloat16 else "float32"
    steps = {precision: step_of(run_of(precision)) for precision in ("float32", "bfloat16")}
    if asked.compiled:
        steps[f"{auto}, compiled"] = step_of(run_of(auto, compiled=True))
    return steps, auto


def bare_steps(asked: Asked, config: ModelConfig, tokens: Sequence[dict[str, Tensor]]) -> dict[str, Step]:
    """Steps of bare stacks by name."""
    bare = BareStacks(config).to(asked.device)
    learner = learner_of(bare, FitSettings.weight_decay, FitSettings.ema)

    def step(number: int, precision: str) -> None:
        with torch.autocast(asked.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = bare(tokens[number])
        loss.backward()
        nn.utils.clip_grad_norm_(bare.parameters(), FitSettings.clip)
        learner.optimizer.step()
        learner.optimizer.zero_grad()
        loss.item()

    return {f"bare, {precision}": partial(step, precision=precision) for precision in ("float32", "bfloat16")}


def taken_in_turns(steps: dict[str, Step], rounds: int, count: int) -> tuple[Seconds, dict[str, float]]:
    """Seconds of each step in each round, and of the first steps of each, on every batch, which are not counted."""
    first = {name: sum(_seconds(step, number) for number in range(count)) for name, step in steps.items()}
    found: Seconds = defaultdict(list)
    for number in range(rounds):
        for name, step in steps.items():
            found[name].append(_seconds(step, number % count))
    return found, first


def _seconds(step: Step, number: int) -> float:
    """Of one step; steps end with a number read back, so that no device is still busy."""
    began = time.perf_counter()
    step(number)
    return time.perf_counter() - began


def windows_a_second(lesson: MaskedTask, asked: Asked, workers: int) -> float:
    """Windows that the loader makes when nothing else is to do, by the median of times between batches."""
    numbers = range(1000 * (1 + workers), 1000 * (1 + workers) + asked.steps + 1)
    arrived = [time.perf_counter() for _ in batches(lesson.batch, numbers, workers)]
    return asked.batch / statistics.median(later - earlier for earlier, later in pairwise(arrived))


def sharded(cubes: Sequence[Cube], folder: Path) -> list[Cube]:
    """Some simulated scenes, as shards."""
    some = cubes[:SHARD_WINDOWS]
    dn = [encode(cube.read(0, 0, *cube.shape)) for cube in some]
    names = [(cube.name, cube.scene) for cube in some]
    write_shard(folder / "shard-00000.safetensors", dn, some[0].grid, names, "simulated")
    return open_cubes(folder)


def measure(asked: Asked) -> dict[str, Any]:
    """All of one preset."""
    torch.manual_seed(0)
    config, prior = preset(asked.preset), load_weights("linear").prior
    side = max(asked.window, SMALLEST_SIMULATED)
    scenes = simulated_cubes(SIMULATED_SCENES, 0, prior=prior, shape=(side, side))
    lesson = MaskedTask(config, scenes, asked.batch, 1000, window=asked.window)
    model = SpectralMAE(config, prior).to(asked.device)
    shown = [lesson.batch(number) for number in range(min(asked.steps, BATCHES))]
    tokens = [tokens_of(model, lesson, batch, asked.device) for batch in shown]
    steps, auto = steps_of_fit(asked, model, lesson, shown)
    seconds, first = taken_in_turns(steps | bare_steps(asked, config, tokens), asked.steps, len(shown))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    own = {name: times for name, times in seconds.items() if not name.startswith("bare")}
    with tempfile.TemporaryDirectory() as folder:
        large = simulated_cubes(SHARD_WINDOWS, 1, prior=prior, shape=(SHARD_SIDE, SHARD_SIDE))
        lessons = {"simulated": lesson, "shards": replace(lesson, cubes=sharded(large, Path(folder)))}
        made = {
            f"{name}, {workers} workers": windows_a_second(one, asked, workers)
            for (name, one), workers in product(lessons.items(), (0, 1))
        }
    return {
        "preset": asked.preset,
        "window": asked.window,
        "batch": asked.batch,
        "threads": torch.get_num_threads(),
        "device": str(asked.device),
        "tokens": {name: list(given.shape) for name, given in tokens[0].items()},
        "seconds": median,
        "compiling_s": {name: first[name] for name in own if "compiled" in name},
        "bare_over_step": {name: _ratio(seconds[f"bare, {name}"], own[name]) for name in ("float32", "bfloat16")},
        "faster_than_float32": {name: _ratio(own["float32"], times) for name, times in own.items()},
        "auto": auto,
        "step_windows_s": asked.batch / median[auto],
        "loader_windows_s": made,
        "loader_over_step": {name: rate * median[auto] / asked.batch for name, rate in made.items()},
    }


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Of what was measured in the same rounds."""
    return float(np.median(np.divide(one, other)))


def show(found: dict[str, Any]) -> None:
    """One preset as a small table."""
    tokens = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in found["tokens"].items())
    print(f"{found['preset']}: {found['batch']} windows of {found['window']} x {found['window']} pixels")
    print(f"  on {found['device']} with {found['threads']} threads; sequences x tokens of the first batch: {tokens}")
    for name, seconds in found["seconds"].items():
        faster = found["faster_than_float32"].get(name)
        compiling = found["compiling_s"].get(name)
        notes = [
            f"{faster:.2f} x as fast as float32" if faster else "",
            f"first {compiling:.0f} s" if compiling else "",
        ]
        print(f"  {name:22} {1000 * seconds:9.1f} ms  {', '.join(filter(None, notes))}")
    for name, ratio in found["bare_over_step"].items():
        print(
            f"  speed of a step beside bare layers, {name}: {ratio:.0%}" + (" (auto)" if name == found["auto"] else "")
        )
    print(
        f"  a step of precision {found['auto']} learns {found['step_windows_s']:.1f} windows a second; the loader makes"
    )
    for name, rate in found["loader_windows_s"].items():
        print(f"    {name:22} {rate:9.1f}  {found['loader_over_step'][name]:.2f} times what the step needs")


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", help=f"may be repeated [default: {', '.join(PRESETS)}]")
    parser.add_argument("--window", type=int, help="pixels on a side [default: the preset's, at most 32 on a CPU]")
    parser.add_argument("--batch", type=int, help="windows a step [default: 4 on a CPU, 32 on a GPU]")
    parser.add_argument("--steps", type=int, default=7, help="rounds to take medians of")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU [default: torch's own choice]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
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
            rows.append(measure(Asked(name, window, batch, options.steps, device, not options.eager)))
            if not options.json:
                show(rows[-1])
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
