"""Accuracy of the prior on unseen places: leave one place out at a time, with all its files, over images and points.

    python benchmarks/places.py --data DIR [--corpus DIR] [--variant NAME ...] [--sensor-out] [--json]

Variants are settings of the estimation; the first is what the others are compared with. `by land cover` has a prior
for each cover of `spectra.indices.COVERS`, chosen for each pixel by the source's bands. The source (Sentinel-2A) is
simulated through its response functions. Of EnMAP's 202 bands, those that the scene's own sensor measured are scored:
without errors, with a product's typical errors that the model knows or not, and at absorption features. A place's score
is the mean over its files. With `--sensor-out` all places of a sensor are left out together, since products of one
sensor share their errors: the answer for a target whose sensor has no training data. Takes ten minutes on a core.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from known_truth import TruthScene, perturbed, read_scene
from numpy.typing import NDArray

from ms2hs.datasets.cubes.spectra_npz import PARTS
from ms2hs.evaluation.accumulators import FEATURES_NM, MIN_SHOULDER_REFLECTANCE
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, InputError, SpectralPrior
from ms2hs.spectra.indices import cover
from ms2hs.spectra.metrics import band_depth, rmse, sam
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, fit, gather

SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("enmap").grid
# Settings, and whether each land cover has a prior of its own.
VARIANTS: dict[str, tuple[dict[str, float], bool]] = {
    "equal": ({"libraries": 1.0, "cover_share": 1.0, "trust": 0.0}, False),
    "default": ({}, False),
    "by land cover": ({}, True),
}
# Places of one airborne sensor; other places have a sensor of their own.
SENSORS = (
    {"jerc", "osbs_mlbs", "sjer", "soap"},
    {"jasper_ridge", "salton_sea", "san_diego", "cuprite", "fft_forests", "bay_area"},
    {"four_corners", "seward"},
)
# Liquid water in leaves and wet ground, beside the features of `ms2hs evaluate`.
FEATURES = {970: (900.0, 970.0, 1070.0), **FEATURES_NM}
PIXELS, DRAWS = 3000, 3
SCORES = ("rmse", "sam", "errors", "errors known", *(f"depth {nm}" for nm in FEATURES))


def estimate(
    priors: Callable[[str | None], SpectralPrior], reflectance: NDArray[np.float32], by_cover: bool, error: InputError
) -> NDArray[np.float32]:
    """(target band, pixel) by the prior of all land covers (None), or of each pixel's, from (source band, pixel)."""
    result = priors(None).condition(SOURCE, TARGET, error).reconstruct(reflectance)
    kinds = cover(reflectance, SOURCE) if by_cover else np.empty(0, str)
    for kind in np.unique(kinds):
        posterior = priors(str(kind)).condition(SOURCE, TARGET, error)
        result[:, kinds == kind] = posterior.reconstruct(reflectance[:, kinds == kind])
    return result


def depth_error(
    found: NDArray[np.float32], truth: NDArray[np.float32], feature_nm: tuple[float, float, float]
) -> float:
    """RMSE of a feature's depth over pixels that are bright enough; NaN if the scene lacks one of its bands."""
    bands = [int(np.abs(TARGET.wavelength_nm - nm).argmin()) for nm in feature_nm]
    bright = (truth[bands] > MIN_SHOULDER_REFLECTANCE).all(axis=0)
    if not bright.any():
        return float("nan")
    depths = (band_depth(one[:, bright], TARGET.wavelength_nm, feature_nm) for one in (found, truth))
    return float(np.sqrt(np.nanmean(np.square(np.subtract(*depths)))))


def scores(
    priors: Callable[[str | None], SpectralPrior], scene: TruthScene, by_cover: bool, rng: np.random.Generator
) -> list[float]:
    """The `SCORES` of one scene."""
    pixels = rng.permutation(scene.measured.shape[1])[:PIXELS]
    clean, truth = scene.measured[:, pixels], np.where(scene.known[:, None], scene.truth[:, pixels], np.nan)
    noisy = [perturbed(clean, rng) for _ in range(DRAWS)]
    plain = estimate(priors, clean, by_cover, InputError())
    known = truth[scene.known]
    with_errors = (
        np.mean([rmse(estimate(priors, one, by_cover, assumed)[scene.known], known) for one in noisy])
        for assumed in (InputError(), TYPICAL_INPUT_ERROR)
    )
    depths = (depth_error(plain, truth, feature) for feature in FEATURES.values())
    return [rmse(plain[scene.known], known), sam(plain[scene.known], known), *map(float, with_errors), *depths]


def companions(place: str, sensor_out: bool) -> set[str]:
    """The place, and with `sensor_out` the places of its sensor."""
    return next((set(sensor) for sensor in SENSORS if sensor_out and place in sensor), {place})


def main() -> None:
    """Score every place with every variant, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--corpus", type=Path, help="folder that the prior is estimated from, if it is another")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all")
    parser.add_argument("--sensor-out", action="store_true", help="leave all places of a sensor out together")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    paths = [path for part in PARTS[:2] for path in sorted((arguments.data / part).glob("*.npz"))]
    scenes = [read_scene(path, SOURCE, TARGET) for path in paths]
    places = sorted({scene.place for scene in scenes})
    results: dict[str, NDArray[np.float64]] = {}
    for name in arguments.variant or VARIANTS:
        settings, by_cover = VARIANTS[name]
        evidence = gather(arguments.corpus or arguments.data, replace(PriorSettings(), **settings))
        table = []
        for number, place in enumerate(places):
            priors = cache(partial(fit, evidence, companions(place, arguments.sensor_out)))
            rng = np.random.default_rng(number)
            table.append([scores(priors, scene, by_cover, rng) for scene in scenes if scene.place == place])
        results[name] = np.array([np.nanmean(rows, axis=0) for rows in table])
    if arguments.json:
        print(json.dumps({name: dict(zip(places, table.tolist(), strict=True)) for name, table in results.items()}))
        return
    first = next(iter(results.values()))
    for name, table in results.items():
        print(f"\n{name}\n{'place':14s}" + "".join(f"{score:>14s}" for score in SCORES) + f"{'ratio':>8s}")
        ratio = table[:, 0] / first[:, 0]
        for place, row, share in zip([*places, "mean"], [*table, np.nanmean(table, axis=0)], [*ratio, ratio.mean()],
                                     strict=True):  # fmt: skip
            print(f"{place:14s}" + "".join(f"{value:14.4f}" for value in row) + f"{share:8.3f}")
        means = ", ".join(f"{score} {value:.3f}" for score, value in
                          zip(SCORES, np.nanmean(table, axis=0) / np.nanmean(first, axis=0), strict=True))  # fmt: skip
        print(f"mean relative to {next(iter(results))}: {means}; worst place {ratio.max():.3f}")


if __name__ == "__main__":
    main()
