"""Accuracy of the prior on unseen scenes: leave one scene out at a time, with all files of its place.

    python benchmarks/leave_one_scene_out.py --data DIR
        [--source NAME] [--target NAME] [--json] [--choose] [--write FILE]

The source (Sentinel-2A) is simulated through its response functions. Of the target's bands (EnMAP's 202), those that
the scene's own sensor measured are scored. The uncertainty of each prior is calibrated on the other scenes alone. Takes
a few minutes on two cores.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from known_truth import (
    Score,
    TruthScene,
    mean_score,
    perturbed,
    read_scene,
    response_of,
    score,
    score_prior,
    score_references,
    score_site,
)

from ms2hs.conversion.site_fit import fit_site
from ms2hs.evaluation.baselines import interpolated
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, Posterior, SpectralPrior
from ms2hs.spectra.library import interpolate_known
from ms2hs.spectra.product_error import input_error_named
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.training.prior_fit import Evidence, PriorSettings, calibrate, fit, gather, pretrain_linear

SCENES = (
    "jasper_ridge_aviris",
    "bavaria_hyspex",
    "berlin_enmap_simulated",
    "salton_sea_aviris",
    "urban_hydice",
    "sjer_neon",
    "osbs_mlbs_neon_plots",
    "franschhoek_airborne_3x3",
    "four_corners_aviris_ng",
)
DRAWS = 5
# Settings tried on inner splits: with --choose each scene is scored with the best settings for the other eight.
CANDIDATES = (
    {"floor": 0.1, "canopies": 1.0},
    {"floor": 0.2, "canopies": 1.0},
    {"floor": 0.1, "canopies": 2.0},
    {"floor": 0.2, "canopies": 2.0},
    {"floor": 0.3, "canopies": 3.0},
    {"floor": 0.1, "canopies": 1.0, "libraries": 2.0},
)
NOISES = (0.004, 0.008, 0.012, 0.016)
# Weight of the RMSE on clean input in the minimised score; the rest is the RMSE with a product's errors.
CLEAN_SHARE = 0.75


@dataclass(frozen=True)
class SensorPair:
    """The simulated source, and the target whose bands are scored."""

    source: SpectralGrid
    target: SpectralGrid


def mean_spectrum(scene: TruthScene, others: list[TruthScene]) -> np.ndarray:
    """(target band, 1) mean of the mean spectra of the other scenes."""
    total, count = np.zeros(len(scene.known)), np.zeros(len(scene.known))
    for other in others:
        if other.place != scene.place:
            total[other.known] += other.truth[other.known].mean(axis=1)
            count += other.known
    return (total / np.maximum(count, 1))[:, None]


def tables(
    prior: SpectralPrior, scene: TruthScene, scenes: list[TruthScene], view: SensorPair, seed: int
) -> dict[str, Score]:
    """All scores of one left-out scene."""
    rng = np.random.default_rng(seed)
    posterior = prior.condition(view.source, view.target)
    with_error = prior.condition(view.source, view.target, TYPICAL_INPUT_ERROR)
    measured_errors = prior.condition(view.source, view.target, input_error_named("sentinel2"))
    noisy = perturbed(scene.measured, rng)
    pixels = scene.measured.shape[1]
    found = {
        "mean spectrum": score(np.repeat(mean_spectrum(scene, scenes), pixels, axis=1), scene),
        "interpolation": score(interpolated(scene.measured, view.source, view.target), scene),
        "prior": score_prior(posterior, scene, to_source=response_of(view.source, view.target)),
        "prior, noise": score_prior(posterior, scene, measured=noisy, to_source=response_of(view.source, view.target)),
        "prior, noise given": score_prior(
            with_error, scene, measured=noisy, to_source=response_of(view.source, view.target)
        ),
        "prior, sentinel2 errors assumed": score_prior(measured_errors, scene),
        "the same, noise": score_prior(measured_errors, scene, measured=noisy),
        "3 references": score_references(posterior, scene, 3, DRAWS, rng),
        "10 references": score_references(posterior, scene, 10, DRAWS, rng),
    }
    if len(scene.shape) == 2:
        points = interpolate_known(scene.spectra, scene.wavelength_nm, prior.wavelength_nm.astype(float))

        def fitted(half: np.ndarray) -> Posterior:
            return fit_site(prior, points[half], view.source, scene.measured[:, ~half].T).condition(view.target)

        found["half, no site"], found["half, site"] = score_site(scene, posterior, fitted)
    return found


def show(results: dict[str, dict[str, Score]]) -> None:
    """Print a row for each method and a column for each scene: RMSE x 1e4 / SAM, then coverage."""
    methods = list(dict.fromkeys(method for found in results.values() for method in found))
    print(
        f"{'RMSE x 1e4 / SAM deg':32s}{'mean RMSE':>10s}{'SAM':>7s}  "
        + " ".join(f"{name[:11]:>11s}" for name in results)
    )
    for method in methods:
        found = {name: scores[method] for name, scores in results.items() if method in scores}
        mean = mean_score(list(found.values()))
        cells = [f"{1e4 * found[n].rmse:.0f}/{found[n].sam:.2f}" if n in found else "" for n in results]
        print(f"{method:32s}{mean.rmse:10.5f}{mean.sam:7.2f}  " + " ".join(f"{cell:>11s}" for cell in cells))
    print("\ncoverage of the 90 % interval; residual at the measured bands")
    for method in methods:
        found = [scores[method] for scores in results.values() if method in scores]
        if np.isfinite([one.coverage for one in found]).all():
            inside = [one.coverage for one in found]
            cells = " ".join(f"{100 * value:11.1f}" for value in inside)
            residual = mean_score(found).residual
            print(
                f"{method:32s}{100 * np.mean(inside):8.1f} %, worst {100 * min(inside):.1f} %; {residual:.4f}  {cells}"
            )
    sites = {n: s["half, site"].rmse / s["half, no site"].rmse for n, s in results.items() if "half, site" in s}
    print(f"\nsite / no site: mean {np.mean(list(sites.values())):.3f}, worst {max(sites.values()):.3f}  {sites}")


def inner_errors(
    evidence: Evidence, scenes: list[TruthScene], noises: tuple[float, ...], view: SensorPair
) -> np.ndarray:
    """(noise, left-out scene, inner scene, clean or noisy) RMSE of priors without both scenes; NaN if equal."""
    errors = np.full((len(noises), len(scenes), len(scenes), 2), np.nan)
    for first, outer in enumerate(scenes):
        for second, inner in enumerate(scenes[:first]):
            prior = fit(evidence, {outer.place, inner.place})
            for row, noise in enumerate(noises):
                posterior = replace(prior, noise=noise).condition(view.source, view.target)
                for left_out, scored in ((first, second), (second, first)):
                    scene = scenes[scored]
                    rng = np.random.default_rng(scored)
                    some = rng.permutation(scene.measured.shape[1])[:2000]
                    inputs = scene.measured[:, some], perturbed(scene.measured, rng)[:, some]
                    found = [score(posterior.reconstruct(one), scene, some).rmse for one in inputs]
                    errors[row, left_out, scored] = found
    return errors


def choose(data: Path, scenes: list[TruthScene], view: SensorPair) -> list[tuple[PriorSettings, Evidence]]:
    """For each scene, the best settings for the other eight, each of them left out in turn."""
    tried: list[tuple[PriorSettings, Evidence]] = []
    errors: list[np.ndarray] = []
    for changes in CANDIDATES:
        settings = replace(PriorSettings(), **changes)
        evidence = gather(data, settings)
        for noise, found in zip(NOISES, inner_errors(evidence, scenes, NOISES, view), strict=True):
            chosen = replace(settings, noise=noise)
            tried.append((chosen, replace(evidence, settings=chosen)))
            clean, noisy = np.moveaxis(np.nanmean(found, axis=1), -1, 0)
            errors.append(CLEAN_SHARE * clean + (1 - CLEAN_SHARE) * noisy)
            print(f"{changes} noise {noise}: clean {clean.mean():.5f}, noisy {noisy.mean():.5f}")
    best = np.argmin(errors, axis=0)
    overall = int(np.argmin(np.mean(errors, axis=1)))
    print(f"chosen: {best.tolist()}; over all scenes: {overall}, {tried[overall][0]}")
    return [tried[index] for index in best]


def main() -> None:
    """Score every scene, and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/ and spectra/")
    parser.add_argument("--source", default="sentinel2a", choices=sensor_names("source"))
    parser.add_argument("--target", default="enmap", choices=sensor_names("target"))
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--choose", action="store_true", help="choose the settings for each scene on the other eight")
    parser.add_argument("--write", type=Path, help="write weights of all scenes, with these scores in their card")
    arguments = parser.parse_args()
    start = time.monotonic()
    view = SensorPair(load_sensor(arguments.source).grid, load_sensor(arguments.target).grid)
    scenes = [read_scene(arguments.data / "hyperspectral" / f"{name}.npz", view.source, view.target) for name in SCENES]
    if arguments.choose:
        chosen = choose(arguments.data, scenes, view)
    else:
        settings = PriorSettings()
        chosen = [(settings, gather(arguments.data, settings))] * len(scenes)
    results = {}
    for number, (scene, (_, evidence)) in enumerate(zip(scenes, chosen, strict=True)):
        prior = calibrate(fit(evidence, {scene.place}), evidence, {scene.place})
        results[scene.name] = tables(prior, scene, scenes, view, seed=number)
    if arguments.write:
        scores = {
            name: {"rmse": round(s["prior"].rmse, 5), "sam": round(s["prior"].sam, 3)} for name, s in results.items()
        }
        pretrain_linear(arguments.data, arguments.write, scores=scores)
    if arguments.json:
        print(
            json.dumps(
                {name: {method: asdict(one) for method, one in found.items()} for name, found in results.items()}
            )
        )
    else:
        show(results)
        print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
