"""The share of the network in the time of `convert`, and its rate compared with matrix products on the same machine.

    python benchmarks/forward.py                                                 # spatial-spectral, 1024 x 1024 pixels
    python benchmarks/forward.py --model spectral --model dlr-ibm-spectral --size 512
    python benchmarks/forward.py --device cuda --size 3660 --json

A model is the name of shipped weights, a path, or a preset, which is initialised at random: training does not change
the speed.

The bare forward is the network called on tensors in memory. A separate process (`bare.py`) converts the scene once and
records the arguments of each call. It then repeats the same calls with the same windows, batches and threads, in turns
with whole conversions in further processes. It holds 50 to 90 bytes per pixel, or 0.8 to 1.4 kB for models with mapped
bands.

A network of patch tokens corrects the linear model: each turn also converts with its prior alone, and the table shows
the whole conversion over the sum of the bare forward and the linear conversion.

In each turn that process also multiplies large matrices. The share of the matrix rate is the rate of the forward
(matrix products and attention, as `torch.utils.flop_counter` counts them) over the rate of these products. The table
shows medians over the turns, also of ratios, which are taken within a turn because a machine's speed varies. The order
within a turn alternates.
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
# Lines of the table of a GPU, by key of the JSON.
ON_A_GPU = {
    "device_seconds": "forward, by the clock of the device",
    "copied_in": "copied to the device",
    "copied_out": "copied to the host",
    "compress": "compressed, thread seconds",
    "store": "written",
    "whole": "end to end",
}


def weights_of(model: str, folder: Path) -> str:
    """The `--model` of `convert` for a model: its name or path, or the path of a new network of a preset."""
    if model in weights_names() or model not in PRESETS:
        return model
    torch.manual_seed(0)
    prior, path = load_weights("linear").prior, folder / f"{model}.safetensors"
    save_weights(path, prior, {}, SpectralMAE(preset(model), prior))
    return str(path)


def measure(model: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure conversions and bare forwards of one model in turns; medians over the turns."""
    scene, weights = folder / "scene.tif", weights_of(model, folder)
    command = [sys.executable, str(BARE), str(scene), weights, args.device]
    loaded, prior, runs = load_weights(weights), folder / "prior.safetensors", []
    by_patch = loaded.network is not None and loaded.network.config.by_patch
    save_weights(prior, loaded.prior, {})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as bare:
        assert bare.stdin and bare.stdout  # noqa: S101, PT018  both are pipes
        line = bare.stdout.readline()
        if not line:
            raise SystemExit(bare.wait())
        facts = json.loads(line)

        def run_convert() -> dict[str, float]:
            return converted(scene, folder / "cube.tif", weights, args.device)

        def run_bare() -> dict[str, float]:
            bare.stdin.write("\n")
            result: dict[str, float] = json.loads(bare.stdout.readline())
            return result

        for turn in range(args.repeat):
            first, second = (run_bare, run_convert) if turn % 2 else (run_convert, run_bare)
            run = first() | second()
            run["rate"] = run[f"rate_{facts['precision']}"]
            run["whole_over_bare"] = run["whole"] / run["bare"]
            if by_patch:
                run["linear"] = converted(scene, folder / "cube.tif", str(prior))["whole"]
                run["whole_over_parts"] = run["whole"] / (run["bare"] + run["linear"])
            run["besides_over_bare"] = run["whole_over_bare"] - 1
            run["share_of_matrix_rate"] = facts["operations"] / run["bare"] / run["rate"]
            runs.append(run)
    row: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    row = {"weights": model, "size": args.size, "repeat": args.repeat} | facts | row
    return row | {"load": os.getloadavg(), "runs": runs}


def show(row: dict[str, Any]) -> None:
    """Print the table of one model."""
    more, threads = row["pixels"] / row["size"] ** 2, f"{row['callers']} x {row['threads']} threads"
    print(f"{row['weights']}: {row['size']} x {row['size']} pixels on {row['device']}, {threads}; ", end="")
    print(f"medians of {row['repeat']}; load {row['load'][0]:.1f}")
    print(f"  bare forward             {row['bare']:8.2f} s  {row['calls']} calls on ", end="")
    print(f"{more:.2f} times the scene's pixels")
    print(f"  at the matrix rate       {row['operations'] / row['rate']:8.2f} s  ", end="")
    print(
        f"{row['operations'] / 1e9:.0f} GFLOP at {row['rate'] / 1e9:.0f} GFLOP/s ({row['precision']}); the forward ",
        end="",
    )
    print(f"reaches {row['share_of_matrix_rate']:.0%} of that")
    print(
        f"  whole `convert`          {row['whole']:8.2f} s  {row['whole_over_bare']:.2f} times the bare forward: ",
        end="",
    )
    print(f"overhead {row['besides_over_bare']:.0%}")
    if "linear" in row:
        print(f"  linear conversion        {row['linear']:8.2f} s  whole `convert`: ", end="")
        print(f"{row['whole_over_parts']:.2f} times bare forward and linear conversion")
    stages = ", ".join(f"{stage} {row[stage]:.2f}" for stage in ("read", "model", "compress", "store", "finish"))
    print(f"    thread seconds by stage (overlapping): {stages}")
    for key, name in ON_A_GPU.items() if "copied_in" in row else ():
        print(f"  {name:30} {row[key]:8.2f} s  {row[key] / row['device_seconds']:6.2f} times the forward")


def main() -> None:
    """Measure and print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="can be repeated [default: spatial-spectral]")
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the scene")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="working directory [temporary]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_scene(Path(folder) / "scene.tif", args.size, args.size)
        for model in args.model or ["spatial-spectral"]:
            rows.append(measure(model, Path(folder), args))
            if not args.json:
                show(rows[-1])
    if args.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
