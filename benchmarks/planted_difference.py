"""The share of a simulated gain and offset that fine-tuning corrects, and its cost on other scenes.

    python benchmarks/planted_difference.py --data DIR --prior FILE [--model FILE …] [--gain 1.05] [--offset 0.01]

Pairs are written as by `ms2hs pairs`, from public scenes with simulated Sentinel-2A bands: unchanged, and with the
gain and the offset in every band. The linear model of --prior and each model are fine-tuned on the changed pairs of the
training scenes and scored on test scenes, changed and unchanged. The prior and the models must not have been trained on
the test scenes; benchmarks/second_table.py writes such weights.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_set import PairSet, open_pairs
from ms2hs.datasets.pairs.pair_types import Pair, SimulatedPair
from ms2hs.datasets.pairs.writer import PairWindow, pair_writer
from ms2hs.evaluation.evaluator import EvaluationSettings, evaluate_pairs
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.engine.loop import FitSettings
from ms2hs.training.finetuning import FinetuneOptions, finetune

SPLITS = {
    "test": ("jasper_ridge", "salton_sea", "sjer"),
    "val": ("bavaria", "osbs_mlbs", "urban_texas"),
}
# Smallest side of an image in pixels.
MIN_SIDE = 10


def pairs_of(data: Path) -> list[SimulatedPair]:
    """Pairs of the scenes' cubes with simulated Sentinel-2A bands."""
    target = load_sensor("enmap").grid
    cubes = open_cubes(data / "hyperspectral")
    return [SimulatedPair(cube, "sentinel2a", target) for cube in cubes if min(cube.shape) >= MIN_SIDE]


def write(folder: Path, pairs: Sequence[SimulatedPair], gain: float, offset: float) -> None:
    """Write a folder of pairs with a gain and an offset in every source band."""
    rows, splits = [], {name: [] for name in ("train", *SPLITS)}
    with pair_writer(folder) as writer:
        for number, pair in enumerate(pairs):
            measured, truth = pair.read(0, 0, *pair.shape)
            valid = np.isfinite(measured).all(axis=0) & np.isfinite(truth).any(axis=0)
            place = PixelGrid("EPSG:32632", (30.0, 0.0, 5e5 + 1e4 * number, 0.0, -30.0, 5e6), *pair.shape)
            name = f"{number:03d}"
            seen = np.where(valid, gain * measured + offset, np.float32(0)).astype(np.float32)
            writer.write_pair(name, PairWindow(place, pair.source, seen, pair.target, truth, valid), pair.sensor, {})
            rows.append({"id": name, "scene": pair.scene})
            splits[next((split for split, scenes in SPLITS.items() if pair.scene in scenes), "train")].append(name)
        writer.write_tables(rows, [{"id": ""}], splits)


def rmse_of(models: Sequence[str], pairs: Sequence[Pair], prior: str) -> list[float]:
    """RMSE of each model, mean over scenes."""
    found = evaluate_pairs(models, PairSet("", pairs), EvaluationSettings(prior=prior))
    return [row.overall["rmse"] for row in found.rows if row.kind == "model"]


def main() -> None:
    """Write pairs, fine-tune, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", required=True)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--gain", type=float, default=1.05)
    parser.add_argument("--offset", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    simulated = pairs_of(args.data)
    unplanted = [pair for pair in simulated if pair.scene in SPLITS["test"]]
    print(f"{'RMSE x 1e4 on test scenes':28s} clean  planted  tuned  taken back  cost unplanted  cost of plain pairs")
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"planted": Path(scratch, "planted"), "plain": Path(scratch, "plain")}
        write(folders["planted"], simulated, args.gain, args.offset)
        write(folders["plain"], simulated, 1.0, 0.0)
        test = {name: list(open_pairs(folder, "test").pairs) for name, folder in folders.items()}
        for model in (args.prior, *args.model):
            settings = FitSettings(steps=args.steps, batch=8, lr=1e-4)
            tuned = {}
            for name, folder in folders.items():
                wanted = FinetuneOptions(init=model, pairs=folder, fit=settings, window=16)
                tuned[name] = str(finetune(wanted, Path(scratch, f"{name}.safetensors"), overwrite=True).output)
            clean, after_plain = rmse_of([model, tuned["plain"]], test["plain"], args.prior)
            spoilt, mended = rmse_of([model, tuned["planted"]], test["planted"], args.prior)
            before, after = rmse_of([model, tuned["planted"]], unplanted, args.prior)
            back = (spoilt - mended) / (spoilt - clean)
            numbers = f"{1e4 * clean:6.1f} {1e4 * spoilt:8.1f} {1e4 * mended:6.1f} {100 * back:10.0f} %"
            costs = f"{100 * (after / before - 1):+13.1f} % {100 * (after_plain / clean - 1):+18.1f} %"
            print(f"{Path(model).stem:28s}{numbers} {costs}")


if __name__ == "__main__":
    main()
