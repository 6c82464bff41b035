"""Accuracy of one camera's bands predicted from another's, on spectra of the field and the laboratory.

    python benchmarks/camera_bands.py --data DIR [--source NAME] [--target NAME] [--places] [--json]

The spectra are libraries that were measured close to the surface; `SETS` lists their files in DIR/spectra. The prior is
estimated without any of these files, with the calibration of the shipped prior. The source camera is simulated through
its bands, without noise. A target band counts if no source band reaches it (`inferred`) and the library measured it.
Compared are the mean training spectrum at the brightness of each spectrum, the last source band held constant, and the
prior. One run takes a few minutes on a core.

--places measures the intervals instead, on the cubes and points of places that are left out one at a time: the coverage
of the 90 % interval, and the factor on sigma that makes it 90 %, for both cameras and, beside them, for Sentinel-2.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.spectra_npz import SpectraFile, read_spectra, read_spectra_folder, spectra_on
from ms2hs.evaluation.baselines import TrainingSpectra, interpolated
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import load_weights
from ms2hs.spectra.library import MAX_STEP_NM
from ms2hs.spectra.metrics import NORMAL_90, coverage, rmse
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, band_support
from ms2hs.training.prior_fit import PriorSettings, fit, gather

SETS = {
    "crop canopies": ("munich_wheat_canopy_asd", "parthenium_field_canopy_za"),
    "prairie": ("specdal_prairie",),
    "tundra canopies": ("ngee_arctic_canopy",),
    "tree leaves": ("pef_maine_tree_leaves",),
    "soils, 572 sites": ("earthlib_icraf_soils",),
    "soils, Israel": ("ssl_israel_soils",),
    "rocks": ("hylite_rock_fenix",),
}
# Spectra of a file that are scored with --places, and the least number.
PLACE_SPECTRA, LEAST_SPECTRA = 600, 10
LEFT_OUT = tuple(name for names in SETS.values() for name in names)


def prior_without(data: Path, names: Sequence[str], settings: PriorSettings) -> SpectralPrior:
    """The prior of the data without these files, with the widths of the shipped prior's intervals."""
    return _with_calibration(fit(gather(data, settings, names)), load_weights("linear").prior)


def _with_calibration(prior: SpectralPrior, shipped: SpectralPrior) -> SpectralPrior:
    assert prior.covers is not None and shipped.covers is not None  # noqa: S101, PT018  of the prior's own settings
    covers = replace(prior.covers, sigma_scale=shipped.covers.sigma_scale)
    return replace(prior, sigma_scale=shipped.sigma_scale, shift=shipped.shift, covers=covers)


def score(
    prior: SpectralPrior, paths: Sequence[Path], source: SpectralGrid, target: SpectralGrid
) -> dict[str, int | float]:
    """Number of spectra, RMSE of each method in reflectance, mean sigma, and coverage of the 90 % interval."""
    inferred = np.array(band_support(source, target)) == "inferred"
    target = target.select(inferred)
    parts = [_spectra(path, source, target) for path in paths]
    measured, truth = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
    posterior = prior.condition(source, target)
    training = TrainingSpectra.of(load_weights("linear").prior, posterior, source, target)
    mean = training.target.mean(axis=1)[:, None] * posterior.scale(measured)
    predicted, sigma = posterior.reconstruct(measured), posterior.sigma(measured)
    known = np.isfinite(truth)
    return {
        "spectra": measured.shape[1],
        "mean_spectrum": rmse(mean[known], truth[known]),
        "held_constant": rmse(interpolated(measured, source, target)[known], truth[known]),
        "linear": rmse(predicted[known], truth[known]),
        "sigma": float(sigma[known].mean()),
        "inside_90": coverage(predicted[known], sigma[known], truth[known]),
    }


def _spectra(path: Path, source: SpectralGrid, target: SpectralGrid) -> tuple[Float32Array, Float32Array]:
    """(source band, spectrum) and (target band, spectrum); spectra with an unknown source band are left out."""
    return _in_bands(read_spectra(path), source, target)


def _in_bands(spectra: SpectraFile, source: SpectralGrid, target: SpectralGrid) -> tuple[Float32Array, Float32Array]:
    measured, _ = spectra_on(spectra, source, interpolate=True)
    truth, _ = spectra_on(spectra, target)
    known = np.isfinite(measured).all(axis=1) & np.isfinite(truth).any(axis=1)
    return np.ascontiguousarray(measured[known].T), truth[known].T


def scores(prior: SpectralPrior, data: Path, source: str, target: str) -> dict[str, dict[str, int | float]]:
    """The scores of each set whose files exist."""
    grids = load_sensor(source).grid, load_sensor(target).grid
    found = {
        title: [path for name in names if (path := data / "spectra" / f"{name}.npz").is_file()]
        for title, names in SETS.items()
    }
    return {title: score(prior, paths, *grids) for title, paths in found.items() if paths}


def intervals(data: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Number of places, mean coverage of the 90 % interval, and median and upper quartile of the factor it needs."""
    evidence, shipped = gather(data, PriorSettings()), load_weights("linear").prior
    files = [file for file in read_spectra_folder(data) if not file.is_library]
    found: dict[str, list[tuple[float, float]]] = {f"{a} to {b}": [] for a, b in pairs}
    for place in evidence.places:
        prior = _with_calibration(fit(evidence, {place}), shipped)
        for names in pairs:
            source, target = (load_sensor(name).grid for name in names)
            target = target.select(np.array(band_support(source, target)) == "inferred")
            posterior, ratios = prior.condition(source, target), []
            for file in files:
                beyond = (source.wavelength_nm < file.wavelength_nm[0] - MAX_STEP_NM) | (
                    source.wavelength_nm > file.wavelength_nm[-1] + MAX_STEP_NM
                )
                if file.place != place or beyond.any():
                    continue
                chosen = np.random.default_rng(0).permutation(len(file.reflectance))[:PLACE_SPECTRA]
                part = replace(file, reflectance=file.reflectance[chosen], classes=(), shape=(len(chosen),))
                measured, truth = _in_bands(part, source, target)
                if measured.shape[1] >= LEAST_SPECTRA:
                    error = np.abs(posterior.reconstruct(measured) - truth)
                    ratios.append((error / (NORMAL_90 * posterior.sigma(measured)))[np.isfinite(truth)])
            if ratios:
                widths = [np.quantile(ratio, 0.9) for ratio in ratios]
                inside = [np.mean(ratio <= 1) for ratio in ratios]
                found[" to ".join(names)].append((float(np.mean(inside)), float(np.mean(widths))))
    return {
        title: {
            "places": len(rows),
            "inside_90": float(np.mean([inside for inside, _ in rows])),
            "factor_median": float(np.median([width for _, width in rows])),
            "factor_of_three_quarters": float(np.quantile([width for _, width in rows], 0.75)),
        }
        for title, rows in found.items()
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--source", default="specim-iq")
    parser.add_argument("--target", default="specim-fx17")
    parser.add_argument("--places", action="store_true", help="measure the intervals on places left out, as JSON")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pairs = (arguments.source, arguments.target), (arguments.target, arguments.source)
    if arguments.places:
        print(json.dumps(intervals(arguments.data, [*pairs, ("sentinel2a", "enmap")]), indent=1))
        return
    prior = prior_without(arguments.data, LEFT_OUT, PriorSettings())
    results: dict[str, Any] = {f"{a} to {b}": scores(prior, arguments.data, a, b) for a, b in pairs}
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for title, rows in results.items():
        print(f"\n| {title} | spectra | mean spectrum | held constant | linear | mean σ | inside 90 % |")
        print("|---|---|---|---|---|---|---|")
        for name, row in rows.items():
            errors = " | ".join(f"{row[key]:.3f}" for key in ("mean_spectrum", "held_constant", "linear", "sigma"))
            print(f"| {name} | {row['spectra']} | {errors} | {row['inside_90']:.0%} |")


if __name__ == "__main__":
    main()
