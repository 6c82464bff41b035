"""How good a cross-fitted network is beside its prior, on scenes that neither has seen.

    python benchmarks/cross_fitted.py --data DIR --folds DIR [--target enmap] [--json]

DIR of --folds is what `ms2hs pretrain --cross-fit` leaves: for each scene a network and a prior without it, with share
and scale of the other scenes. Sentinel-2A is simulated; clean, and off by gain 2 %, offset 0.005 a band and scene and
noise 0.003 a pixel, which both are told of; with 3 and 10 pixels of the scene as references, which are not scored.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ms2hs.crossfitting import SOURCE, fold_of
from ms2hs.data.cubes import open_cubes
from ms2hs.data.pairs import SimulatedPair
from ms2hs.data.samples import windows_of
from ms2hs.models.prior import Conditional
from ms2hs.models.reconstruction import Reconstructor
from ms2hs.models.weights import Weights, load_weights
from ms2hs.spectra.metrics import coverage, rmse, sam
from ms2hs.spectra.sensors import load_sensor
from ms2hs.truth import PRODUCT_ERROR

# Of files of one place, the one that is scored.
SCORED = {"berlin": "berlin_enmap_simulated", "bavaria_hyspex": "bavaria_hyspex", "urban_hydice": "urban_hydice"}
DRAWS = 5


def pixels_of(data: Path, scene: str, weights: Weights, target: str) -> dict[str, np.ndarray]:
    """(band, pixel) what is measured, clean and noisy, what the network says beyond its prior, and the truth."""
    grids = load_sensor(SOURCE).grid, load_sensor(target).grid
    cubes = [cube for cube in open_cubes(data) if cube.scene == scene and cube.name.startswith(SCORED.get(scene, ""))]
    cubes = [cube for cube in cubes if cube.name.split("/")[0] == SCORED.get(scene, cube.name.split("/")[0])]
    network, plain = Reconstructor(weights.network, *grids), weights.prior.condition(*grids)
    rng = np.random.default_rng(0)
    gain, offset = (part * rng.standard_normal((12, 1, 1)) for part in (PRODUCT_ERROR.gain, PRODUCT_ERROR.offset))
    found: dict[str, list[np.ndarray]] = {}
    for _, seen, truth in windows_of([SimulatedPair(cube, SOURCE, grids[1]) for cube in cubes], 1):
        valid = np.isfinite(seen).all(axis=0) & np.isfinite(truth).any(axis=0)
        if valid.any():
            clean = np.where(valid, seen, 0).astype(np.float32)
            noise = PRODUCT_ERROR.pixel * rng.standard_normal(clean.shape)
            noisy = (clean * (1 + gain) + offset + noise).astype(np.float32)
            parts = {"truth": truth, "clean": clean, "noisy": noisy}
            parts |= {
                f"{k} added": network.reconstruct(parts[k], valid) - plain.reconstruct(parts[k])
                for k in ("clean", "noisy")
            }
            for name, values in parts.items():
                found.setdefault(name, []).append(values[:, valid])
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def scores(model: Conditional, pixels: dict[str, np.ndarray], kind: str, part: float) -> dict[str, float]:
    """RMSE, SAM and coverage of the linear model (`part` 0), or of the network beside it (1)."""
    known = np.isfinite(pixels["truth"]).all(axis=1)
    made = model.reconstruct(np.ascontiguousarray(pixels[kind])) + part * pixels[f"{kind} added"]
    truth, sigma = pixels["truth"][known], model.sigma(pixels[kind])[known]
    return {
        "rmse": rmse(made[known], truth),
        "sam": sam(made[known], truth),
        "held": coverage(made[known], sigma, truth),
    }


def with_references(model: Conditional, pixels: dict[str, np.ndarray], count: int, part: float) -> dict[str, float]:
    """The same after a few pixels corrected it; mean of some draws."""
    rng, found = np.random.default_rng(count), []
    everywhere = np.arange(pixels["truth"].shape[1])
    for _ in range(DRAWS):
        chosen = rng.choice(everywhere, count, replace=False)
        truth = pixels["truth"][:, chosen] - part * pixels["clean added"][:, chosen]
        rest = {name: np.delete(values, chosen, axis=1) for name, values in pixels.items()}
        found.append(scores(model.with_references(pixels["clean"][:, chosen].T, truth.T), rest, "clean", part))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def judge(data: Path, folds: Path, scene: str, target: str) -> dict[str, dict[str, float]]:
    """Every score of a scene, by method and input."""
    weights = load_weights(str(fold_of(folds, scene)[0]))
    spread = replace(weights.prior, sigma_scale=weights.sigma_scale)
    pixels = pixels_of(data, scene, weights, target)
    grids = load_sensor(SOURCE).grid, load_sensor(target).grid
    result = {}
    for name, prior, part in (("prior", weights.prior, 0.0), ("network", spread, 1.0)):
        result[f"{name}, clean"] = scores(prior.condition(*grids), pixels, "clean", part)
        result[f"{name}, noisy, told"] = scores(prior.condition(*grids, PRODUCT_ERROR), pixels, "noisy", part)
        for count in (3, 10):
            result[f"{name}, {count} references"] = with_references(prior.condition(*grids), pixels, count, part)
    return result


def main() -> None:
    """Print a table, a row a scene, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--target", default="enmap")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    names = sorted(path.name for path in asked.folds.glob("without-*.prior.safetensors"))
    scenes = [name.removeprefix("without-").removesuffix(".prior.safetensors") for name in names]
    found = {scene: judge(asked.data, asked.folds, scene, asked.target) for scene in scenes}
    if asked.json:
        print(json.dumps(found))
        return
    kinds = ("clean", "noisy, told", "3 references", "10 references")
    print(f"{'RMSE x 1e4 / SAM; held':26s}" + "".join(f"{kind:>44s}" for kind in kinds))
    print(f"{'':26s}" + f"{'prior':>15s}{'network':>22s}{'ratio':>7s}" * len(kinds))
    for scene in [*scenes, "mean"]:
        of = list(found) if scene == "mean" else [scene]
        line = f"{scene:26s}"
        for kind in kinds:
            mean = {
                name: {
                    key: np.mean([found[one][f"{name}, {kind}"][key] for one in of]) for key in ("rmse", "sam", "held")
                }
                for name in ("prior", "network")
            }
            cells = (f"{1e4 * one['rmse']:5.1f}/{one['sam']:4.2f} {100 * one['held']:3.0f}%" for one in mean.values())
            line += (
                "".join(f"{cell:>18s}" for cell in cells) + f"{mean['network']['rmse'] / mean['prior']['rmse']:8.3f}"
            )
        print(line)


if __name__ == "__main__":
    main()
