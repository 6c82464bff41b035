"""The second table of arXiv 2502.19451 on public scenes: frozen and fine-tuned networks, and all baselines.

    python benchmarks/second_table.py --data DIR --output DIR [--steps 750] [--tune-steps 75] [--jobs 2]

Trains a prior and networks without six scenes, fine-tunes them for Sentinel-2A to EnMAP and HLS S30 to EMIT on pairs
simulated from the training scenes, calibrates them on three of the six scenes, and scores them on the other three.
Frozen networks of pasted bands are scored by both rules for the bands of a visible group that no source band covers,
by the earlier rule without a calibration.
Existing files are kept, so the command can be interrupted and started again. About two hours on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ms2hs.models.config import NEAREST
from ms2hs.models.weights import load_weights, save_weights

# Chosen before any scoring: three scenes to score on, three to calibrate on; the other four places are trained on.
TEST = ("jasper_ridge", "salton_sea", "sjer")
HELD = ("bavaria", "osbs_mlbs", "urban_texas")
VIEWS = (("sentinel2a", "enmap"), ("hls_s30", "emit"))


@dataclass(frozen=True)
class Recipe:
    """Training of a network."""

    preset: str
    window: int
    batch: int
    share: float = 1.0
    """Factor on --steps."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Fields of the configuration that differ from the preset's."""


LEARNING_RATE = 3e-4
NETWORKS = {
    "dlr-ibm-spectral": Recipe("dlr-ibm-spectral", 32, 8),
    "dlr-ibm-spectral-window": Recipe("dlr-ibm-spectral", 32, 8, changes={"reach": "window"}),
    "dlr-ibm-spatial-spectral": Recipe("dlr-ibm-spatial-spectral", 32, 8),
    "spectral": Recipe("spectral", 16, 8, 0.5),
    "spatial-spectral": Recipe("spatial-spectral", 32, 4, 0.5),
}
PASTED = tuple(name for name in NETWORKS if name.startswith("dlr-ibm"))


def ms2hs(*words: object) -> None:
    """Print a command of ms2hs and run it with one thread."""
    command = [sys.executable, "-m", "ms2hs.cli", *map(str, words)]
    print("ms2hs", *words, flush=True)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def repeated(option: str, values: tuple[str, ...]) -> list[str]:
    """The option repeated for each value."""
    return [word for value in values for word in (option, value)]


def pretrain(args: argparse.Namespace, name: str) -> None:
    """Train a network on simulated scenes and the training cubes, unless it exists."""
    output = args.output / f"{name}.safetensors"
    recipe = NETWORKS[name]
    if not output.exists():
        ms2hs(
            *("pretrain", "--preset", recipe.preset, "--data", args.data / "hyperspectral", "-q", "-o", output),
            *("--prior", args.output / "prior.safetensors", "--simulated", 2000, "--window", recipe.window),
            *("--batch", recipe.batch, "--lr", LEARNING_RATE, "--steps", round(recipe.share * args.steps)),
            *repeated("--leave-out", TEST + HELD),
            *repeated("--set", tuple(f"{key}={value}" for key, value in recipe.changes.items())),
        )


def with_earlier_rule(args: argparse.Namespace, name: str) -> Path:
    """Path of a pretrained network that repeats the nearest covered band."""
    output: Path = args.output / f"{name}-nearest.safetensors"
    if not output.exists():
        weights = load_weights(str(args.output / f"{name}.safetensors"))
        assert weights.network is not None  # noqa: S101  trained by `pretrain`
        weights.network.config = replace(weights.network.config, uncovered=NEAREST)
        save_weights(output, weights.prior, weights.card, weights.network)
    return output


def tune(args: argparse.Namespace, name: str, view: tuple[str, str], train: str) -> Path:
    """Path of the network for one source and target: calibrated only (`none`), or fine-tuned (`all`)."""
    source, target = view
    output: Path = args.output / f"{name}-{target}-{'frozen' if train == 'none' else 'tuned'}.safetensors"
    recipe = NETWORKS[name]
    if not output.exists():
        ms2hs(
            *("finetune", "--corpus", args.data / "hyperspectral", "--source", source, "--target", target, "-q"),
            *("--init", args.output / f"{name}.safetensors", "--train", train, "--steps", args.tune_steps),
            *("--window", recipe.window, "--batch", recipe.batch, "--lr", LEARNING_RATE / 3, "-o", output),
            *repeated("--leave-out", TEST), *repeated("--hold-out", HELD),
        )  # fmt: skip
    return output


def score(args: argparse.Namespace, view: tuple[str, str], models: list[Path]) -> list[dict[str, object]]:
    """Rows of the report on the test scenes, which is written beside the weights."""
    source, target = view
    report = args.output / f"{target}.html"
    if not report.with_suffix(".json").exists():
        ms2hs(
            *("evaluate", "--corpus", args.data / "hyperspectral", "--source", source, "--target", target),
            *("--prior", args.output / "prior.safetensors", "--report", report, *repeated("--scene", TEST)),
            *repeated("--model", tuple(map(str, models))),
        )
    rows: list[dict[str, object]] = json.loads(report.with_suffix(".json").read_text())["rows"]
    return rows


def show(view: tuple[str, str], rows: list[dict[str, object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{view[0]} to {view[1]}, scored on {', '.join(TEST)}\n")
    print("| | MSE | masked | unmasked | SSIM | RMSE | SAM | coverage of 90 % |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        found = row["overall"]
        mse = " | ".join(f"{1e4 * found[name]:.2f}" for name in ("mse", "masked_mse", "unmasked_mse"))
        inside = "" if found["coverage_90"] is None else f"{100 * found['coverage_90']:.0f} %"
        others = f"{found['ssim']:.3f} | {found['rmse']:.4f} | {found['sam_median']:.2f}° | {inside}"
        print(f"| {row['method']} | {mse} | {others} |")
    print("\nMSE in 1e-4; SSIM with data range 1")


def main() -> None:
    """Train and score the missing models, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="all, if not given")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--tune-steps", type=int, default=75)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    names, prior = args.network or list(NETWORKS), args.output / "prior.safetensors"
    if not prior.exists():
        ms2hs("pretrain", "--preset", "linear", "--data", args.data, "-o", prior, *repeated("--leave-out", TEST + HELD))
    with ThreadPoolExecutor(args.jobs) as jobs:
        list(jobs.map(lambda name: pretrain(args, name), names))
        wanted = [(name, view, train) for view in VIEWS for name in names for train in ("none", "all")]
        tuned = list(jobs.map(lambda one: tune(args, *one), wanted))
    for view in VIEWS:
        models = [path for (_, own, _), path in zip(wanted, tuned, strict=True) if own == view]
        models += [with_earlier_rule(args, name) for name in names if name in PASTED]
        show(view, score(args, view, models))


if __name__ == "__main__":
    main()
