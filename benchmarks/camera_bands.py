"""Accuracy of one camera's bands predicted from another's, on spectra of the field and the laboratory.

    python benchmarks/camera_bands.py --data DIR [--source NAME] [--target NAME] [--json]

The spectra are libraries that were measured close to the surface; `SETS` lists their files in DIR/spectra. The prior is
estimated without any of these files, with the calibration of the shipped prior. The source camera is simulated through
its bands, without noise. A target band counts if no source band reaches it (`inferred`) and the library measured it.
Compared are the mean training spectrum at the brightness of each spectrum, the last source band held constant, and the
prior. One run takes a few minutes on a core.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.spectra_npz import read_spectra, spectra_on
from ms2hs.evaluation.baselines import TrainingSpectra, interpolated
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import load_weights
from ms2hs.spectra.metrics import coverage, rmse
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
LEFT_OUT = tuple(name for names in SETS.values() for name in names)


def prior_without(data: Path, names: Sequence[str], settings: PriorSettings) -> SpectralPrior:
    """The prior of the data without these files, with the widths of the shipped prior's intervals."""
    shipped, prior = load_weights("linear").prior, fit(gather(data, settings, names))
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
    spectra = read_spectra(path)
    measured, _ = spectra_on(spectra, source, interpolate=True)
    truth, _ = spectra_on(spectra, target)
    known = np.isfinite(measured).all(axis=1) & np.isfinite(truth).any(axis=1)
    return measured[known].T, truth[known].T


def scores(prior: SpectralPrior, data: Path, source: str, target: str) -> dict[str, dict[str, int | float]]:
    """The scores of each set whose files exist."""
    grids = load_sensor(source).grid, load_sensor(target).grid
    found = {
        title: [path for name in names if (path := data / "spectra" / f"{name}.npz").is_file()]
        for title, names in SETS.items()
    }
    return {title: score(prior, paths, *grids) for title, paths in found.items() if paths}


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--source", default="specim-iq")
    parser.add_argument("--target", default="specim-fx17")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    prior = prior_without(arguments.data, LEFT_OUT, PriorSettings())
    pairs = (arguments.source, arguments.target), (arguments.target, arguments.source)
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
