"""Learning curve: accuracy on scenes left out, against the number of scenes trained on.

    python benchmarks/learning_curve.py --data DIR --output DIR [--recipe FILE ...] [--folds DIR ...] [--jobs 2]

Nine scenes in three groups of three. For each group, a prior and a network of each recipe are trained on 0, 2, 4 and 6
of the other scenes, in a random order. They are scored on the group as in benchmarks/cross_fitted.py, with shares
fitted to all scenes except the scored one. `--folds`, once for each recipe, is the folder that `ms2hs pretrain
--cross-fit` writes: the end of the curve, all other scenes. Writes learning_curve.svg and learning_curve.json. Existing
networks are kept, so the command can be interrupted and started again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from cross_fitted import score_scene
from matplotlib.figure import Figure

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.models.weights import save_weights
from ms2hs.training.cross_fitting import cross_fit, fold_paths
from ms2hs.training.pretraining import PretrainOptions
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather

# Scenes of one kind (vegetation, town, desert) are in different groups.
GROUPS = (
    ("jasper_ridge", "berlin", "four_corners"),
    ("sjer", "urban_texas", "salton_sea"),
    ("osbs_mlbs", "bavaria", "franschhoek"),
)
SCORED = tuple(scene for group in GROUPS for scene in group)
COUNTS = (0, 2, 4, 6)
INPUTS = ("clean", "noisy, given")


def chosen(group: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Training scenes: the first `count` of the other groups' scenes, in a fixed random order."""
    others = [scene for scene in SCORED if scene not in group]
    return tuple(np.random.default_rng(0).permutation(others)[:count].tolist())


def estimate_priors(data: Path, output: Path) -> None:
    """Write one prior for each group and count."""
    wanted = {prior_of(output, group, count): (group, count) for group in GROUPS for count in COUNTS}
    wanted = {path: key for path, key in wanted.items() if not path.exists()}
    evidence = gather(data, PriorSettings()) if wanted else None
    for path, (group, count) in wanted.items():
        out = set(evidence.places) - set(chosen(group, count))
        save_weights(path, calibrate(fit(evidence, out), evidence, out), {"command": "a learning curve"})


def prior_of(output: Path, group: tuple[str, ...], count: int) -> Path:
    """Path of a prior; with 0 training scenes one prior serves all groups."""
    return output / f"{count}-without-{(group if count else GROUPS[0])[0]}.prior.safetensors"


def train(data: Path, output: Path, recipe: Path, group: tuple[str, ...], count: int) -> Path:
    """Path of one network, trained with one thread unless it exists."""
    path = output / f"{recipe.stem}-{prior_of(output, group, count).name.replace('.prior', '')}"
    if not path.exists():
        scenes = {cube.scene for cube in open_cubes(data)} - set(chosen(group, count))
        data_options = ["--data", data, *(word for scene in sorted(scenes) for word in ("--leave-out", scene))]
        settings = tomllib.loads(recipe.read_text("utf-8")).items()
        words = [
            "pretrain",
            *(word for name, value in settings if name != "cross-fit" for word in (f"--{name}", value)),
        ]
        words += ["--prior", prior_of(output, group, count), *(data_options if count else [])]
        words += ["-q", "--overwrite", "-o", path]
        print("ms2hs", *words, file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "ms2hs.cli", *map(str, words)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return path


def score(data: Path, folds: Path) -> dict[str, dict[str, list[float]]]:
    """RMSE of each scene, by input and by `prior` or `network`."""
    found = {scene: score_scene(data, folds, scene, "enmap") for scene in SCORED}
    return {
        kind: {who: [found[scene][f"{who}, {kind}"]["rmse"] for scene in SCORED] for who in ("prior", "network")}
        for kind in INPUTS
    }


def point(data: Path, output: Path, recipe: Path, count: int) -> dict[str, dict[str, list[float]]]:
    """Scores of a recipe trained on `count` scenes."""
    folds = output / f"{recipe.stem}-{count}.folds"
    folds.mkdir(exist_ok=True)
    for group in GROUPS:
        for scene in group:
            network, prior = fold_paths(folds, scene)
            shutil.copy(train(data, output, recipe, group, count), network)
            shutil.copy(prior_of(output, group, count), prior)
    others = {cube.scene for cube in open_cubes(data)} - set(SCORED)
    cross_fit(PretrainOptions(recipe.stem, (data,), leave_out=tuple(others)), folds)
    return score(data, folds)


def plot(curves: dict[str, dict[int, dict[str, dict[str, list[float]]]]], path: Path) -> None:
    """Plot RMSE against the number of scenes, in one panel for each input."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, kind, title in zip(figure.subplots(1, 2), INPUTS, ("clean input", "a product's errors"), strict=True):
        for index, (name, points) in enumerate(curves.items()):
            counts = sorted(points)
            if not index:
                prior = [1e4 * np.mean(points[count][kind]["prior"]) for count in counts]
                axes.plot(counts, prior, "o--", color="0.4", label="linear (the prior)")
            network = [1e4 * np.mean(points[count][kind]["network"]) for count in counts]
            axes.plot(counts, network, "o-", color=f"C{index}", label=name)
        axes.set(xlabel="real training scenes", ylabel="RMSE on left-out scenes × 10⁴", title=title)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train the missing networks, print a table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="holds hyperspectral/ and spectra/")
    parser.add_argument("--output", type=Path, required=True)
    recipes = sorted((Path(__file__).parent.parent / "weights" / "recipes").glob("*.toml"))
    parser.add_argument("--recipe", type=Path, action="append")
    parser.add_argument("--folds", type=Path, action="append", default=[], help="<recipe>.folds")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    recipes = args.recipe or recipes
    args.output.mkdir(parents=True, exist_ok=True)
    estimate_priors(args.data, args.output)
    todo = [(recipe, group, count) for count in COUNTS for recipe in recipes for group in GROUPS[: 3 if count else 1]]
    with ThreadPoolExecutor(args.jobs) as jobs:
        list(jobs.map(lambda one: train(args.data, args.output, *one), todo))
    curves = {
        recipe.stem: {count: point(args.data, args.output, recipe, count) for count in COUNTS} for recipe in recipes
    }
    for folds in args.folds:
        curves[folds.stem][len({cube.scene for cube in open_cubes(args.data)}) - 1] = score(args.data, folds)
    (args.output / "learning_curve.json").write_text(json.dumps({"scenes": SCORED, "curves": curves}), "utf-8")
    plot(curves, args.output / "learning_curve.svg")
    print(f"{'RMSE x 1e4, mean of nine':28s}" + "".join(f"{kind:>30s}" for kind in INPUTS))
    for name, points in curves.items():
        for count, found in sorted(points.items()):
            cells = [[1e4 * np.mean(found[kind][who]) for who in ("prior", "network")] for kind in INPUTS]
            line = "".join(f"{prior:14.1f} →{network:6.1f}  {network / prior:.3f}" for prior, network in cells)
            print(f"{name:20s} {count:3d} scenes{line}")


if __name__ == "__main__":
    main()
