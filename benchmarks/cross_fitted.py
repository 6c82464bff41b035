"""Accuracy of cross-fitted networks compared with their priors, on scenes that neither has seen.

    python benchmarks/cross_fitted.py --data DIR --folds DIR [--target enmap] [--limits] [--json]

--folds is the folder that `ms2hs pretrain --cross-fit` writes: for each scene a network and a prior without it, with
the share and sigma scale of the other scenes. Sentinel-2A is simulated: clean; with errors (gain 2 %, offset 0.005 per
band and scene, noise 0.003 per pixel) that are given to both models and denoised, as `convert --input-error` does; the
prior with these errors given but not denoised; and with 3 and 10 pixels of the scene as references, not scored.
--limits prints instead the RMSE that knowledge of the truth would allow: with the best share of each band for the
scene, and with the scene's mean error removed, for the prior and the network.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_sampling import windows_of
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.inference.predictor import Predictor
from ms2hs.models.denoising import denoise
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, Posterior
from ms2hs.models.weights import Weights, load_weights
from ms2hs.spectra.metrics import coverage, rmse, sam
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import response_matrix
from ms2hs.training.cross_fitting import SOURCE, fold_paths

# The scored file of places with several files.
SCORED = {"berlin": "berlin_enmap_simulated", "bavaria": "bavaria_hyspex", "urban_texas": "urban_hydice"}
DRAWS = 5
# Scenes with which the prior was developed too, and which only the recipe's networks leave out, are no part of means.
NOT_IN_MEANS = ("san_diego",)
BOOTSTRAPS = 10_000


def interval(values: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """90 % bootstrap interval of mean(values) / mean(others) over scenes."""
    drawn = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1) / others[drawn].mean(axis=1), (0.05, 0.95))
    return float(low), float(high)


def pixels_of(data: Path, scene: str, weights: Weights, target: str) -> dict[str, np.ndarray]:
    """(band, pixel) clean and noisy input, the network's correction of its prior, and the truth, by name."""
    grids = load_sensor(SOURCE).grid, load_sensor(target).grid
    cubes = [cube for cube in open_cubes(data) if cube.scene == scene and cube.name.startswith(SCORED.get(scene, ""))]
    cubes = [cube for cube in cubes if cube.name.split("/")[0] == SCORED.get(scene, cube.name.split("/")[0])]
    network, plain = Predictor(weights.network, *grids), weights.prior.condition(*grids)
    rng = np.random.default_rng(0)
    gain, offset = (
        part * rng.standard_normal((12, 1, 1)) for part in (TYPICAL_INPUT_ERROR.gain, TYPICAL_INPUT_ERROR.offset)
    )
    windows: dict[str, list[np.ndarray]] = {}
    for _, seen, truth in windows_of([SimulatedPair(cube, SOURCE, grids[1]) for cube in cubes], 1):
        valid = np.isfinite(seen).all(axis=0) & np.isfinite(truth).any(axis=0)
        if valid.any():
            clean = np.where(valid, seen, 0).astype(np.float32)
            noise = TYPICAL_INPUT_ERROR.pixel * rng.standard_normal(clean.shape)
            noisy = (clean * (1 + gain) + offset + noise).astype(np.float32)
            parts = {
                "truth": truth,
                "clean": clean,
                "raw": noisy,
                "noisy": denoise(noisy, valid, TYPICAL_INPUT_ERROR.pixel),
            }
            parts |= {
                f"{kind} correction": network.reconstruct(parts[kind], valid) - plain.reconstruct(parts[kind])
                for kind in ("clean", "noisy")
            }
            parts["raw correction"] = np.zeros_like(truth)
            for name, values in parts.items():
                windows.setdefault(name, []).append(values[:, valid])
    return {name: np.concatenate(parts, axis=1) for name, parts in windows.items()}


def scores(model: Posterior, pixels: dict[str, np.ndarray], kind: str, part: float) -> dict[str, float]:
    """RMSE, SAM and coverage of the linear model (`part` 0) or of the network (`part` 1)."""
    known = np.isfinite(pixels["truth"]).all(axis=1)
    predicted = model.reconstruct(np.ascontiguousarray(pixels[kind])) + part * pixels[f"{kind} correction"]
    truth, sigma = pixels["truth"][known], model.sigma(pixels[kind])[known]
    return {
        "rmse": rmse(predicted[known], truth),
        "sam": sam(predicted[known], truth),
        "held": coverage(predicted[known], sigma, truth),
    }


def with_references(model: Posterior, pixels: dict[str, np.ndarray], count: int, part: float) -> dict[str, float]:
    """Scores after the correction by a few pixels of the scene; mean of some draws."""
    rng, results = np.random.default_rng(count), []
    everywhere = np.arange(pixels["truth"].shape[1])
    for _ in range(DRAWS):
        chosen = rng.choice(everywhere, count, replace=False)
        truth = pixels["truth"][:, chosen] - part * pixels["clean correction"][:, chosen]
        rest = {name: np.delete(values, chosen, axis=1) for name, values in pixels.items()}
        results.append(scores(model.with_references(pixels["clean"][:, chosen].T, truth.T), rest, "clean", part))
    return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def score_scene(data: Path, folds: Path, scene: str, target: str) -> dict[str, dict[str, float]]:
    """All scores of a scene, by method and input."""
    weights = load_weights(str(fold_paths(folds, scene)[0]))
    calibrated = replace(weights.prior, sigma_scale=weights.sigma_scale)
    pixels = pixels_of(data, scene, weights, target)
    grids = load_sensor(SOURCE).grid, load_sensor(target).grid
    result = {}
    for name, prior, part in (("prior", weights.prior, 0.0), ("network", calibrated, 1.0)):
        result[f"{name}, clean"] = scores(prior.condition(*grids), pixels, "clean", part)
        result[f"{name}, noisy, given"] = scores(prior.condition(*grids, TYPICAL_INPUT_ERROR), pixels, "noisy", part)
        for count in (3, 10):
            result[f"{name}, {count} references"] = with_references(prior.condition(*grids), pixels, count, part)
    result["prior, not denoised"] = scores(weights.prior.condition(*grids, TYPICAL_INPUT_ERROR), pixels, "raw", 0.0)
    result["network, not denoised"] = result["network, noisy, given"]
    return result


def limits(data: Path, folds: Path, scene: str, target: str) -> dict[str, float]:
    """RMSE with knowledge of the truth, and RMSE of prior and network, by input."""
    weights = load_weights(str(fold_paths(folds, scene)[0]))
    grids = load_sensor(SOURCE).grid, load_sensor(target).grid
    assert weights.network is not None  # noqa: S101  folds are networks
    share = response_matrix(grids[1], weights.prior.wavelength_nm) @ weights.network.share
    weights.network.set_share(None)
    pixels = pixels_of(data, scene, weights, target)
    known = np.isfinite(pixels["truth"]).all(axis=1)
    rmse_of = {}
    for kind, error in (("clean", None), ("noisy", TYPICAL_INPUT_ERROR)):
        model = weights.prior.condition(*grids, error)
        scale = model.scale(pixels[kind])
        residual = (pixels["truth"] - model.reconstruct(pixels[kind]))[known]
        correction = pixels[f"{kind} correction"][known]
        best = np.clip((correction * residual / scale**2).sum(axis=1) / (correction**2 / scale**2).sum(axis=1), 0, 1)
        errors = {
            "prior": residual,
            "network": residual - share[known, None] * correction,
            "best": residual - best[:, None] * correction,
        }
        for name in ("prior", "network"):
            constant = (errors[name] / scale).mean(axis=1, keepdims=True)
            errors[f"{name}, mean error off"] = errors[name] - constant * scale
        rmse_of |= {f"{name}, {kind}": float(np.sqrt(np.square(error).mean())) for name, error in errors.items()}
    return rmse_of


def main() -> None:
    """Print a table with a row for each scene, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--target", default="enmap")
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = sorted(path.name for path in args.folds.glob("without-*.prior.safetensors"))
    scenes = [name.removeprefix("without-").removesuffix(".prior.safetensors") for name in names]
    if args.limits:
        scenes = [scene for scene in scenes if scene not in NOT_IN_MEANS]
        of_scenes = [limits(args.data, args.folds, scene, args.target) for scene in scenes]
        means = {name: float(np.mean([result[name] for result in of_scenes])) for name in of_scenes[0]}
        print(json.dumps(means) if args.json else "\n".join(f"{key:32s}{1e4 * means[key]:7.1f}" for key in means))
        return
    found = {scene: score_scene(args.data, args.folds, scene, args.target) for scene in scenes}
    if args.json:
        print(json.dumps(found))
    else:
        print_table(found)


def print_table(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print a row for each scene, the means, and the interval of the ratio of the means."""
    kinds = ("clean", "noisy, given", "not denoised", "3 references", "10 references")
    print(f"{'RMSE x 1e4 / SAM; cover':26s}" + "".join(f"{kind:>44s}" for kind in kinds))
    print(f"{'':26s}" + f"{'prior':>15s}{'network':>22s}{'ratio':>7s}" * len(kinds))
    counted = [scene for scene in found if scene not in NOT_IN_MEANS]
    for row in [*found, f"mean of {len(counted)}"]:
        of, line = [row] if row in found else counted, f"{row:26s}"
        for kind in kinds:
            prior, network = (
                {key: np.mean([found[one][f"{name}, {kind}"][key] for one in of]) for key in ("rmse", "sam", "held")}
                for name in ("prior", "network")
            )
            for one in (prior, network):
                line += f"{1e4 * one['rmse']:8.1f}/{one['sam']:4.2f} {100 * one['held']:3.0f}%"
            line += f"{network['rmse'] / prior['rmse']:9.3f}"
        print(line)
    for kind in kinds:
        for key in ("rmse", "sam"):
            network, prior = (
                np.array([found[one][f"{name}, {kind}"][key] for one in counted]) for name in ("network", "prior")
            )
            low, high = interval(network, prior)
            better = int((network <= 1.0005 * prior).sum())
            print(
                f"{kind}, {key}: {network.mean() / prior.mean():.3f} times the prior's (90 % interval over scenes "
                f"{low:.3f} to {high:.3f}), worst scene {(network / prior).max():.3f}, not worse on {better}"
            )


if __name__ == "__main__":
    main()
