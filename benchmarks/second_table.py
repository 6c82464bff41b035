"""The second table of arXiv 2502.19451 on public scenes: frozen and fine-tuned networks, and all baselines.

    python benchmarks/second_table.py --data DIR --output DIR [--steps 1500] [--tune-steps 300] [--jobs 2]

Trains a prior and networks without six scenes, fine-tunes them for Sentinel-2A to EnMAP and HLS S30 to EMIT on pairs
simulated from the training scenes, calibrates them on three of the six scenes, and scores them on the other three.
Existing files are kept, so the command can be interrupted and started again. About two hours on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Chosen before any scoring: three scenes to score on, three to calibrate on; the other four places are trained on.
TEST = ("jasper_ridge", "salton_sea", "sjer")
HELD = ("bavaria", "osbs_mlbs", "urban_texas")
VIEWS = (("sentinel2a", "enmap"), ("hls_s30", "emit"))
# Window, batch, learning rate, and factor on --steps of each preset.
PRESETS = {
    "dlr-ibm-spectral": (32, 8, 3e-4, 1.0),
    "dlr-ibm-spatial-spectral": (32, 8, 3e-4, 1.0),
    "spectral": (16, 8, 3e-4, 0.5),
    "spatial-spectral": (32, 4, 3e-4, 0.5),
}


def ms2hs(*words: object) -> None:
    """Print a command of ms2hs and run it with one thread."""
    command = [sys.executable, "-m", "ms2hs.cli", *map(str, words)]
    print("ms2hs", *words, flush=True)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def without(option: str, scenes: tuple[str, ...]) -> list[str]:
    """The option repeated for each scene."""
    return [word for scene in scenes for word in (option, scene)]


def pretrain(args: argparse.Namespace, preset: str) -> None:
    """Train the network of a preset on simulated scenes and the training cubes, unless it exists."""
    output = args.output / f"{preset}.safetensors"
    window, batch, lr, share = PRESETS[preset]
    if not output.exists():
        ms2hs(
            *("pretrain", "--preset", preset, "--data", args.data / "hyperspectral", "-q", "-o", output),
            *("--prior", args.output / "prior.safetensors", "--simulated", 2000, "--window", window, "--batch", batch),
            *("--lr", lr, "--steps", round(share * args.steps), *without("--leave-out", TEST + HELD)),
        )


def tune(args: argparse.Namespace, preset: str, view: tuple[str, str], train: str) -> Path:
    """Path of the network for one source and target: calibrated only (`none`), or fine-tuned (`all`)."""
    source, target = view
    output = args.output / f"{preset}-{target}-{'frozen' if train == 'none' else 'tuned'}.safetensors"
    window, batch, lr, _ = PRESETS[preset]
    if not output.exists():
        ms2hs(
            *("finetune", "--corpus", args.data / "hyperspectral", "--source", source, "--target", target, "-q"),
            *("--init", args.output / f"{preset}.safetensors", "--train", train, "--steps", args.tune_steps),
            *("--window", window, "--batch", batch, "--lr", lr / 3, "-o", output),
            *without("--leave-out", TEST), *without("--hold-out", HELD),
        )  # fmt: skip
    return output


def score(args: argparse.Namespace, view: tuple[str, str], models: list[Path]) -> list[dict[str, object]]:
    """Rows of the report on the test scenes, which is written beside the weights."""
    source, target = view
    report = args.output / f"{target}.html"
    if not report.with_suffix(".json").exists():
        ms2hs(
            *("evaluate", "--corpus", args.data / "hyperspectral", "--source", source, "--target", target),
            *("--prior", args.output / "prior.safetensors", "--report", report, *without("--scene", TEST)),
            *(word for model in models for word in ("--model", model)),
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
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--tune-steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    prior = args.output / "prior.safetensors"
    if not prior.exists():
        ms2hs("pretrain", "--preset", "linear", "--data", args.data, "-o", prior, *without("--leave-out", TEST + HELD))
    with ThreadPoolExecutor(args.jobs) as jobs:
        list(jobs.map(lambda preset: pretrain(args, preset), PRESETS))
        wanted = [(preset, view, train) for view in VIEWS for preset in PRESETS for train in ("none", "all")]
        tuned = list(jobs.map(lambda one: tune(args, *one), wanted))
    for view in VIEWS:
        models = [path for (_, own, _), path in zip(wanted, tuned, strict=True) if own == view]
        show(view, score(args, view, models))


if __name__ == "__main__":
    main()
