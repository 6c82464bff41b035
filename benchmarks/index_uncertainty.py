"""Uncertainty of spectral indices: intervals of converted scenes against the indices of the true spectra.

    python benchmarks/index_uncertainty.py --data DIR [--places 3]

Sentinel-2A is simulated from every cube of `hyperspectral/`, with errors drawn from the measured covariance of
Sentinel-2, and converted to EMIT's bands by the linear model, whose prior and calibration are estimated without the
scene's place. A row is an index: the share of pixels whose true index lies in the 90 % interval (value ± 1.645 sigma),
and the median sigma, with the correlation of the bands' errors and with independent errors; means over scenes.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from known_truth import TruthScene, read_scene

from ms2hs.arrays import FloatArray
from ms2hs.models.prior import SpectralPrior
from ms2hs.spectra.index_catalogue import find_index
from ms2hs.spectra.indices import CoverShares
from ms2hs.spectra.product_error import input_error_named
from ms2hs.spectra.sensors import load_sensor
from ms2hs.training.prior_fit import PriorSettings, calibrate, fit, gather
from ms2hs.viewing.band_indices import BandIndex
from ms2hs.viewing.error_correlation import ErrorCorrelation, posterior_correlation

NAMES = ("NDVI", "NDMI", "MCARI", "REIP", "PRI", "CAI", "NDLI", "NDNI", "Clay2200", "Carbonate2330")
SOURCE, TARGET = load_sensor("sentinel2a").grid, load_sensor("emit").grid
ERROR = input_error_named("sentinel2")
PIXELS, NINETY_PERCENT = 500, 1.645


def score_scene(
    scene: TruthScene, prior: SpectralPrior, rng: np.random.Generator
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Name, coverage and median sigma with correlation, coverage and median sigma without, of each index."""
    posterior = prior.condition(SOURCE, TARGET, ERROR)
    matrices = posterior_correlation(prior, SOURCE, TARGET, ERROR)
    covers = CoverShares.of(TARGET.wavelength_nm)
    correlated = ErrorCorrelation(matrices, covers, "") if len(matrices) > 1 else ErrorCorrelation(matrices, None, "")
    independent = ErrorCorrelation(np.eye(len(TARGET))[None], None, "")
    chosen = rng.permutation(scene.measured.shape[1])[:PIXELS]
    clean, truth = scene.measured[:, chosen], scene.truth[:, chosen]
    common = rng.multivariate_normal(np.zeros(len(SOURCE)), ERROR.product_covariance(SOURCE.wavelength_nm))
    measured = np.ascontiguousarray((clean + np.outer(common, posterior.scale(clean))).astype(np.float32))
    reflectance, sigma = posterior.reconstruct(measured), posterior.sigma(measured)
    for name in NAMES:
        one = BandIndex.of(find_index(name), TARGET)
        if not scene.known[one.weights.any(axis=0)].all():
            continue
        expected, _ = one.compute(truth)
        cells: list[float] = []
        for correlation in (correlated, independent):
            value, uncertainty = one.compute(reflectance, sigma, correlation)
            cells += _coverage(expected, value, uncertainty)
        yield name, tuple(cells)


def _coverage(expected: FloatArray, value: FloatArray, sigma: FloatArray | None) -> list[float]:
    """Share of values in the interval, and the median sigma."""
    sigma = np.full(value.shape, np.nan) if sigma is None else sigma
    known = np.isfinite(expected) & np.isfinite(value)
    inside = np.abs(expected - value)[known] <= NINETY_PERCENT * sigma[known]
    return [float(inside.mean()), float(np.median(sigma[known]))]


def main() -> None:
    """Print a row for each index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--places", type=int, default=100, help="largest number of places")
    parser.add_argument("--draws", type=int, default=4, help="draws of the product's errors for each scene")
    arguments = parser.parse_args()
    evidence = gather(arguments.data, PriorSettings())
    paths = sorted((arguments.data / "hyperspectral").glob("*.npz"))
    scenes = [read_scene(path, SOURCE, TARGET) for path in paths]
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for place in sorted({scene.place for scene in scenes})[: arguments.places]:
        prior = calibrate(fit(evidence, {place}), evidence, {place})
        for scene in (scene for scene in scenes if scene.place == place):
            for draw in range(arguments.draws):
                for name, cells in score_scene(scene, prior, np.random.default_rng([draw, *map(ord, scene.name)])):
                    rows[name].append(cells)
        print(f"{place}: done", flush=True)
    print("index           scenes  coverage  sigma     independent: coverage  sigma")
    for name, cells in rows.items():
        inside, sigma, inside_independent, sigma_independent = np.mean(cells, axis=0)
        count = len(cells) // arguments.draws
        independent = f"{inside_independent:>21.2f}  {sigma_independent:.4g}"
        print(f"{name:<15} {count:>6}  {inside:>8.2f}  {sigma:<8.4g}  {independent}")


if __name__ == "__main__":
    main()
