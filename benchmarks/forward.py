"""How much of `convert` with a network is the network, and how near that comes to what the machine can multiply.

    python benchmarks/forward.py                                                 # spatial-spectral, 1024 x 1024 pixels
    python benchmarks/forward.py --model spectral --model dlr-ibm-spectral --size 512
    python benchmarks/forward.py --device cuda --size 3660 --json

Models are shipped weights, a path, or a preset, which is then built fresh: what was learnt does not change the speed.

The bare forward is the network called on tensors that are there. A process of its own (`bare.py`) converts the scene
once and keeps what each call was given. Then, in turns with whole conversions in further processes, it makes the very
same calls again, from as many threads, with as many threads each: the same windows, overlap and parts, and nothing
else. It holds 50 to 90 bytes a pixel for that, 0.8 to 1.4 kB for models that have bands pasted.

In each turn that process also multiplies large matrices. Operations of the forward (products of matrices and
attention, as `torch.utils.flop_counter` counts them) over its seconds, beside the rate of those products, are the
share of the matrix rate that it reaches. What is told are medians over the turns; of ratios too, each of one turn,
since a machine may be faster in one than in the next. In every other turn the bare forward goes first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from conversion import converted, write_scene

from ms2hs.models.config import PRESETS, preset
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.weights import load_weights, save_weights, weights_names

BARE = Path(__file__).with_name("bare.py")
# What a GPU's table tells, by what it is called in the JSON.
ON_A_GPU = {
    "device_seconds": "forward, by the device's clock",
    "copied_in": "copied to the device",
    "copied_out": "copied back",
    "compress": "compressed, seconds of threads",
    "store": "written",
    "whole": "end to end",
}


def weights_of(model: str, folder: Path) -> str:
    """What `convert` takes for this model: itself, or the path of a preset built fresh."""
    if model in weights_names() or model not in PRESETS:
        return model
    torch.manual_seed(0)
    prior, path = load_weights("linear").prior, folder / f"{model}.safetensors"
    save_weights(path, prior, {}, SpectralMAE(preset(model), prior))
    return str(path)


def measure(model: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One model: whole conversions and bare forwards in turns; medians over these."""
    scene, weights = folder / "scene.tif", weights_of(model, folder)
    command = [sys.executable, str(BARE), str(scene), weights, asked.device]
    runs = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as bare:
        assert bare.stdin and bare.stdout  # noqa: S101, PT018  both were asked for
        about = bare.stdout.readline()
        if not about:
            raise SystemExit(bare.wait())
        facts = json.loads(about)

        def by_convert() -> dict[str, float]:
            return converted(scene, folder / "cube.tif", weights, asked.device)

        def by_the_network() -> dict[str, float]:
            bare.stdin.write("\n")
            found: dict[str, float] = json.loads(bare.stdout.readline())
            return found

        for turn in range(asked.repeat):
            first, second = (by_the_network, by_convert) if turn % 2 else (by_convert, by_the_network)
            run = first() | second()
            run["rate"] = run[f"rate_{facts['precision']}"]
            run["whole_over_bare"] = run["whole"] / run["bare"]
            run["besides_over_bare"] = run["whole_over_bare"] - 1
            run["share_of_matrix_rate"] = facts["operations"] / run["bare"] / run["rate"]
            runs.append(run)
    row: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    row = {"weights": model, "size": asked.size, "repeat": asked.repeat} | facts | row
    return row | {"load": os.getloadavg(), "runs": runs}


def show(row: dict[str, Any]) -> None:
    """One model as a small table."""
    more, threads = row["pixels"] / row["size"] ** 2, f"{row['callers']} x {row['threads']} threads"
    print(f"{row['weights']}: {row['size']} x {row['size']} pixels on {row['device']}, {threads}; ", end="")
    print(f"medians of {row['repeat']}; load of the machine {row['load'][0]:.1f}")
    print(f"  the bare forward         {row['bare']:8.2f} s  {row['calls']} calls on ", end="")
    print(f"{more:.2f} times the scene's pixels")
    print(f"  at the matrix rate       {row['operations'] / row['rate']:8.2f} s  ", end="")
    print(
        f"{row['operations'] / 1e9:.0f} GFLOP at {row['rate'] / 1e9:.0f} a second ({row['precision']}): the forward ",
        end="",
    )
    print(f"reaches {row['share_of_matrix_rate']:.0%} of that")
    print(
        f"  the whole of `convert`   {row['whole']:8.2f} s  {row['whole_over_bare']:.2f} times the bare forward: ",
        end="",
    )
    print(f"all else costs {row['besides_over_bare']:.0%} of it")
    stages = ", ".join(f"{stage} {row[stage]:.2f}" for stage in ("read", "model", "compress", "store", "finish"))
    print(f"    seconds of its stages (they overlap): {stages}")
    for key, name in ON_A_GPU.items() if "copied_in" in row else ():
        print(f"  {name:30} {row[key]:8.2f} s  {row[key] / row['device_seconds']:6.2f} times the forward on the device")


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="may be given again [default: spatial-spectral]")
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the scene")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work [temporary]")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        write_scene(Path(folder) / "scene.tif", asked.size, asked.size)
        for model in asked.model or ["spatial-spectral"]:
            rows.append(measure(model, Path(folder), asked))
            if not asked.json:
                show(rows[-1])
    if asked.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
