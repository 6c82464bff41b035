"""References of a scene: accuracy and intervals of the correction on places that are left out.

    python benchmarks/references.py --data DIR [--counts 3,10] [--draws 5] [--details]

Sentinel-2A is simulated from every cube of `hyperspectral/` and `points/`: exact, with a product's typical errors
(`TYPICAL_INPUT_ERROR`), and with errors drawn from the measured covariance of Sentinel-2. The prior is given these
errors, and for exact input also the measured errors, which `convert` assumes by default. The references are random
pixels, or the pixels nearest to the centres of a k-means clustering of the source's bands. The prior of a scene, with
its calibration, is estimated without the scene's place. Compared are no references, the regression with one strength
for all scenes, the correction of `Posterior.with_references`, and two limits that use the truth of all pixels: the
scene's own mean residual, and its own linear map.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from known_truth import TruthScene, perturbed, read_scene
from scipy.cluster.vq import kmeans2

from ms2hs.models.posterior import Posterior
from ms2hs.models.prior import TYPICAL_INPUT_ERROR
from ms2hs.spectra.metrics import coverage, rmse
from ms2hs.spectra.product_error import input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather

# Scenes of the first column.
SCENES = (
    *("jasper_ridge_aviris", "bavaria_hyspex", "berlin_enmap_simulated", "salton_sea_aviris", "urban_hydice"),
    *("sjer_neon", "osbs_mlbs_neon_plots", "franschhoek_airborne_3x3", "four_corners_aviris_ng"),
)
SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
MEASURED = input_error_named("sentinel2")
# Errors of the simulated input, and errors that the prior is given.
INPUTS = {
    ("exact", "none"): None,
    ("exact", "measured errors"): MEASURED,
    ("typical errors", "the same"): TYPICAL_INPUT_ERROR,
    ("measured errors", "the same"): MEASURED,
}
MEASURED_NOISE = 0.003  # of a pixel, beside the measured errors
MOST_PIXELS = 2000
RANGES_NM = ((400, 950), (950, 1300), (1450, 1800), (1930, 2450))


def simulated(scene: TruthScene, kind: str, posterior: Posterior, rng: np.random.Generator) -> np.ndarray:
    """(source band, pixel) input with errors of this kind."""
    if kind == "exact":
        return scene.measured
    if kind == "typical errors":
        return perturbed(scene.measured, rng)
    common = rng.multivariate_normal(np.zeros(len(SOURCE)), MEASURED.product_covariance(SOURCE.wavelength_nm))
    noise = MEASURED_NOISE * rng.standard_normal(scene.measured.shape)
    return (scene.measured + np.outer(common, posterior.scale(scene.measured)) + noise).astype(np.float32)


def residual_of(posterior: Posterior, measured: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(target band, pixel) truth minus expectation, 0 where unknown."""
    return np.nan_to_num(truth - posterior.reconstruct(np.ascontiguousarray(measured)))


def one_strength(posterior: Posterior, measured: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(target band, source band) change of the map by the regression with one strength; references (band, K)."""
    bright, precision = posterior.brightness.astype(float), posterior.precision.astype(float)
    before = np.outer(bright, bright) / 2 + precision * 4 / len(bright)
    scaled = measured / posterior.scale(measured)
    residual = residual_of(posterior, measured, truth) / posterior.scale(measured)
    inner = np.eye(scaled.shape[1]) + scaled.T @ before @ scaled
    return residual @ np.linalg.solve(inner, scaled.T @ before)


def own_mean(posterior: Posterior, measured: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(target band, source band) change of the map that removes the mean residual of all pixels."""
    bright = posterior.brightness @ measured
    weight = 1 / np.square(posterior.scale(measured))
    residual = residual_of(posterior, measured, truth)
    return np.outer(residual @ (weight * bright) / (weight @ bright**2), posterior.brightness)


def own_map(posterior: Posterior, measured: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(target band, source band) change of the map by least squares over all pixels."""
    scale = posterior.scale(measured)
    residual = residual_of(posterior, measured, truth)
    return np.linalg.lstsq((measured / scale).T, (residual / scale).T, rcond=None)[0].T


def random_pixels(measured: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(K,) indices of random pixels."""
    return rng.choice(measured.shape[1], count, replace=False)


def central_pixels(posterior: Posterior, measured: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(K,) indices of the pixels nearest to the centres of a k-means clustering of the whitened bands."""
    points = (posterior.whitening @ (measured / posterior.scale(measured))).T.astype(float)
    centres, _ = kmeans2(points, count, minit="++", rng=rng)
    return np.unique([np.square(points - centre).sum(axis=1).argmin() for centre in centres])


def scores(estimate: np.ndarray, sigma: np.ndarray | None, scene: TruthScene, rest: np.ndarray) -> tuple[float, ...]:
    """RMSE, coverage, and coverage by wavelength range, of an estimate and sigma (target band, pixel) of `rest`."""
    known, truth = scene.known, scene.truth[:, rest]
    if sigma is None:
        return rmse(estimate[known], truth[known]), *[np.nan] * (1 + len(RANGES_NM))
    parts = [(TARGET.wavelength_nm >= low) & (TARGET.wavelength_nm < high) & known for low, high in RANGES_NM]
    inside = [coverage(estimate[part], sigma[part], truth[part]) for part in (known, *parts)]
    return rmse(estimate[known], truth[known]), *inside


def score_scene(
    posterior: Posterior, scene: TruthScene, kind: str, counts: list[int], draws: int
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Pairs of a method's name and its scores, for each draw."""
    pixels = scene.measured.shape[1]
    for draw in range(draws):
        rng = np.random.default_rng([draw, *map(ord, scene.name)])
        measured = simulated(scene, kind, posterior, rng)
        everything = rng.permutation(pixels)[:MOST_PIXELS]
        everywhere = np.ascontiguousarray(measured[:, everything])
        expected = posterior.reconstruct(everywhere)
        yield "none", scores(expected, posterior.sigma(everywhere), scene, everything)
        for name, limit in (("own mean (limit)", own_mean), ("own map (limit)", own_map)):
            change = limit(posterior, measured, scene.truth)
            yield name, scores(expected + change @ everywhere, None, scene, everything)
        for count in counts:
            if pixels < 2 * count:
                continue
            rng = np.random.default_rng([draw, count, *map(ord, scene.name)])
            chosen = {
                "random": random_pixels(measured, count, rng),
                "central": central_pixels(posterior, measured, count, rng),
            }
            for way, indices in chosen.items():
                rest = np.setdiff1d(everything, indices)
                seen, some = np.ascontiguousarray(measured[:, rest]), (measured[:, indices], scene.truth[:, indices])
                before = posterior.reconstruct(seen) + one_strength(posterior, *some) @ seen
                after = posterior.with_references(some[0].T, some[1].T)
                yield f"{count} {way}, one strength", scores(before, None, scene, rest)
                yield (
                    f"{count} {way}, with_references",
                    scores(after.reconstruct(seen), after.sigma(seen), scene, rest),
                )


def show(results: dict[str, dict[str, np.ndarray]], *, details: bool) -> None:
    """Print a row for each method: RMSE x 1e4, and coverage of the 90 % interval."""
    print(f"{'RMSE x 1e4':32s} nine worst   all | coverage: nine worst  all worst | worst of all by nm: {RANGES_NM}")
    for method, by_scene in results.items():
        nine, every = (np.array([by_scene[n] for n in names if n in by_scene]) for names in (SCENES, by_scene))
        inside = " ".join(
            f"{100 * value:5.1f}" for part in (nine, every) for value in (part[:, 1].mean(), min(part[:, 1]))
        )
        ranges = " ".join(f"{100 * value:5.1f}" for value in np.fmin.reduce(every[:, 2:]))
        error = 1e4 * np.array([nine[:, 0].mean(), nine[:, 0].max(), every[:, 0].mean()])
        print(f"{method:32s}{error[0]:5.1f} {error[1]:5.0f} {error[2]:5.1f} | {inside} | {ranges}", flush=True)
        if details:
            print("    " + " ".join(f"{name[:12]} {1e4 * one[0]:.0f}" for name, one in by_scene.items()))


def main() -> None:
    """Score every scene with every kind of input, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--counts", default="3,10", help="numbers of references, separated by commas")
    parser.add_argument("--draws", type=int, default=5, help="draws of references and errors")
    parser.add_argument("--details", action="store_true", help="print the RMSE of each scene")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    paths = [path for part in ("hyperspectral", "points") for path in sorted((arguments.data / part).glob("*.npz"))]
    scenes = [read_scene(path, SOURCE, TARGET) for path in paths]
    evidence = gather(arguments.data, PriorSettings())
    priors = {}
    for place in {*(scene.place for scene in scenes)}:
        without = frozenset({place} & set(evidence.places))
        if without not in priors:
            priors[without] = calibrate(fit(evidence, without), evidence, without)
    for (kind, given), error in INPUTS.items():
        results: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for scene in scenes:
            posterior = priors[frozenset({scene.place} & set(evidence.places))].condition(SOURCE, TARGET, error)
            found = defaultdict(list)
            for method, values in score_scene(posterior, scene, kind, counts, arguments.draws):
                found[method].append(values)
            for method, values in found.items():
                results[method][scene.name] = np.mean(values, axis=0)
        print(f"\ninput: {kind}; given to the prior: {given}; {len(scenes)} scenes")
        show(dict(results), details=arguments.details)


if __name__ == "__main__":
    main()
