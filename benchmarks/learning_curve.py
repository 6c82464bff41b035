"""How much each further scene to learn from brings: accuracy on scenes left out against how many were trained on.

    python benchmarks/learning_curve.py --data DIR --output DIR [--recipe FILE ...] [--folds DIR ...] [--jobs 2]

Nine scenes in three groups of three. For each group, a prior and a network of each recipe learn from 0, 2, 4 and 6 of
the others, in an order drawn by chance, and are scored on the group as benchmarks/cross_fitted.py does, with shares
learnt on the scenes of all groups but the one that is scored. `--folds`, one a recipe, is what `ms2hs pretrain
--cross-fit` leaves: the end of the curve, all other scenes. A picture, learning_curve.svg, and learning_curve.json are
written; networks that are there are kept, so that the command can be stopped and started.
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
from cross_fitted import judge
from matplotlib.figure import Figure

from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.models.weights import save_weights
from ms2hs.training.cross_fitting import cross_fit, fold_of
from ms2hs.training.pretraining import Pretraining
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather

# Neighbours in kind (vegetation, town, desert) are in different groups.
GROUPS = (
    ("jasper_ridge", "berlin", "four_corners"),
    ("sjer", "urban_texas", "salton_sea"),
    ("osbs_mlbs", "bavaria", "franschhoek"),
)
SCORED = tuple(scene for group in GROUPS for scene in group)
COUNTS = (0, 2, 4, 6)
INPUTS = ("clean", "noisy, told")


def chosen(group: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The scenes that are learnt from: the first so many of the other groups', in an order drawn once."""
    others = [scene for scene in SCORED if scene not in group]
    return tuple(np.random.default_rng(0).permutation(others)[:count].tolist())


def estimate_priors(data: Path, output: Path) -> None:
    """One prior a group and count."""
    wanted = {prior_of(output, group, count): (group, count) for group in GROUPS for count in COUNTS}
    wanted = {path: asked for path, asked in wanted.items() if not path.exists()}
    evidence = gather(data, PriorSettings()) if wanted else None
    for path, (group, count) in wanted.items():
        out = set(evidence.families) - set(chosen(group, count))
        save_weights(path, calibrate(fit(evidence, out), evidence, out), {"command": "a learning curve"})


def prior_of(output: Path, group: tuple[str, ...], count: int) -> Path:
    """Where a prior is kept; where nothing is learnt from scenes, one serves all groups."""
    return output / f"{count}-without-{(group if count else GROUPS[0])[0]}.prior.safetensors"


def train(data: Path, output: Path, recipe: Path, group: tuple[str, ...], count: int) -> Path:
    """One network, with one thread."""
    path = output / f"{recipe.stem}-{prior_of(output, group, count).name.replace('.prior', '')}"
    if not path.exists():
        scenes = {cube.scene for cube in open_cubes(data)} - set(chosen(group, count))
        given = ["--data", data, *(word for scene in sorted(scenes) for word in ("--leave-out", scene))]
        asked = tomllib.loads(recipe.read_text("utf-8")).items()
        words = ["pretrain", *(word for name, value in asked if name != "cross-fit" for word in (f"--{name}", value))]
        words += ["--prior", prior_of(output, group, count), *(given if count else [])]
        words += ["-q", "--overwrite", "-o", path]
        print("ms2hs", *words, file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "ms2hs.cli", *map(str, words)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return path


def score(data: Path, folds: Path) -> dict[str, dict[str, list[float]]]:
    """By input, and `prior` or `network`: the RMSE of each scene."""
    found = {scene: judge(data, folds, scene, "enmap") for scene in SCORED}
    return {
        kind: {who: [found[scene][f"{who}, {kind}"]["rmse"] for scene in SCORED] for who in ("prior", "network")}
        for kind in INPUTS
    }


def point(data: Path, output: Path, recipe: Path, count: int) -> dict[str, dict[str, list[float]]]:
    """The scores of a recipe that learnt from so many scenes."""
    folds = output / f"{recipe.stem}-{count}.folds"
    folds.mkdir(exist_ok=True)
    for group in GROUPS:
        for scene in group:
            network, prior = fold_of(folds, scene)
            shutil.copy(train(data, output, recipe, group, count), network)
            shutil.copy(prior_of(output, group, count), prior)
    others = {cube.scene for cube in open_cubes(data)} - set(SCORED)
    cross_fit(Pretraining(recipe.stem, (data,), leave_out=tuple(others)), folds)
    return score(data, folds)


def draw(curves: dict[str, dict[int, dict[str, dict[str, list[float]]]]], path: Path) -> None:
    """RMSE against the number of scenes, a panel an input."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, kind, title in zip(figure.subplots(1, 2), INPUTS, ("clean input", "a product's errors"), strict=True):
        for index, (name, points) in enumerate(curves.items()):
            counts = sorted(points)
            if not index:
                prior = [1e4 * np.mean(points[count][kind]["prior"]) for count in counts]
                axes.plot(counts, prior, "o--", color="0.4", label="linear (the prior)")
            network = [1e4 * np.mean(points[count][kind]["network"]) for count in counts]
            axes.plot(counts, network, "o-", color=f"C{index}", label=name)
        axes.set(xlabel="real scenes learnt from", ylabel="RMSE on left-out scenes × 10⁴", title=title)
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train what is missing, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="holds hyperspectral/ and spectra/")
    parser.add_argument("--output", type=Path, required=True)
    recipes = sorted((Path(__file__).parent.parent / "weights" / "recipes").glob("*.toml"))
    parser.add_argument("--recipe", type=Path, action="append")
    parser.add_argument("--folds", type=Path, action="append", default=[], help="<recipe>.folds")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    recipes = asked.recipe or recipes
    asked.output.mkdir(parents=True, exist_ok=True)
    estimate_priors(asked.data, asked.output)
    todo = [(recipe, group, count) for count in COUNTS for recipe in recipes for group in GROUPS[: 3 if count else 1]]
    with ThreadPoolExecutor(asked.jobs) as jobs:
        list(jobs.map(lambda one: train(asked.data, asked.output, *one), todo))
    curves = {
        recipe.stem: {count: point(asked.data, asked.output, recipe, count) for count in COUNTS} for recipe in recipes
    }
    for folds in asked.folds:
        curves[folds.stem][len({cube.scene for cube in open_cubes(asked.data)}) - 1] = score(asked.data, folds)
    (asked.output / "learning_curve.json").write_text(json.dumps({"scenes": SCORED, "curves": curves}), "utf-8")
    draw(curves, asked.output / "learning_curve.svg")
    print(f"{'RMSE x 1e4, mean of nine':28s}" + "".join(f"{kind:>30s}" for kind in INPUTS))
    for name, points in curves.items():
        for count, found in sorted(points.items()):
            cells = [[1e4 * np.mean(found[kind][who]) for who in ("prior", "network")] for kind in INPUTS]
            line = "".join(f"{prior:14.1f} →{network:6.1f}  {network / prior:.3f}" for prior, network in cells)
            print(f"{name:20s} {count:3d} scenes{line}")


if __name__ == "__main__":
    main()
