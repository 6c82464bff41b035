"""Accuracy on unseen places, images and points: of the prior, its variants, and networks of cross-fitting.

    python benchmarks/places.py --data DIR [--variant NAME ...] [--folds DIR ...] [--curve] [--choose] [--write FILE]
        [--source NAME ...] [--target NAME ...] [--every-sensor] [--sensor-out] [--calibrate] [--json]

A variant is a setting of the prior's estimation: each place is scored by a prior that was estimated without its files.
`today` is the prior before land covers, from the data of that time. --folds is a folder of `ms2hs pretrain
--cross-fit`: each place is scored by the prior and by the network of the fold that leaves it out. The first model is
what the others are compared with; a network is compared with the prior of its fold.

The source is simulated through its response functions, over windows of up to 128 pixels. Of the target's bands, those
that the place's own sensor measured are scored. Inputs: without errors; with a product's typical errors that the model
does not know, or knows and filters as `convert --input-error` does; and with errors drawn from the measured covariance
of Sentinel-2, which the model knows. References are random pixels, of input without errors. A place's score is the mean
over its files. Intervals are 95 % bootstrap intervals over places.

--sensor-out leaves all places of a sensor out together, since products of one sensor share their errors: the answer
for a target whose sensor has no training data. --calibrate measures the coverage of variants too (10 minutes). --curve
estimates the prior from fewer places, in random order. --choose scores `CANDIDATES` of the settings, and each place
with the candidate that is best for the other places (an hour). --write writes the prior of all places, with the scores
of the default in its card. One variant takes two minutes on a core.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from place_tables import (
    CLEAN,
    FEATURES,
    KNOWN,
    MEASURED,
    REFERENCES,
    UNKNOWN,
    Compared,
    Results,
    Scores,
    show_choice,
    show_places,
    show_sensors,
)  # fmt: skip

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.registry import open_cubes
from ms2hs.datasets.pairs.pair_sampling import Kind, held_out_windows
from ms2hs.datasets.pairs.pair_types import SimulatedPair
from ms2hs.evaluation.accumulators import MAX_FEATURE_DISTANCE_NM, MIN_SHOULDER_REFLECTANCE
from ms2hs.models.mae import SpectralMAE
from ms2hs.models.prior import TYPICAL_INPUT_ERROR, InputError, Posterior, SpectralPrior
from ms2hs.models.weights import load_weights
from ms2hs.spectra.metrics import band_depth, coverage, rmse, sam
from ms2hs.spectra.product_error import input_error_named
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band
from ms2hs.training.cross_fitting import Predictions, predict, read_folds
from ms2hs.training.prior_fit import Evidence, PriorSettings, calibrate, fit, gather, pretrain_linear

# Files that `today` does not have: the places and libraries that were added with land covers.
ADDED = (
    *(
        "bay_area",
        "cao_tropical",
        "cuprite",
        "emit_jpl",
        "fft_forests",
        "neon_",
        "seward",
        "crrel_snow",
        "greenland_ice",
    ),
    *("earthlib_asd_urban", "earthlib_icraf", "ecostress_minerals", "emit_unmixing_convex", "hylite_rock", "moss_"),
    *("munich_wheat", "ngee_arctic", "parthenium_field", "specdal_prairie", "ssl_israel"),
)


@dataclass(frozen=True)
class Variant:
    """Settings of the prior's estimation."""

    settings: dict[str, float] = field(default_factory=dict)
    covers: bool = True
    """Whether each land cover has a map of its own."""
    without: tuple[str, ...] = ()
    """Beginnings of the names of files that are not used."""


VARIANTS = {
    "today": Variant(
        {"libraries": 1.0, "cover_share": 1.0, "trust": 0.0, "water": 0.0, "snow": 0.0, "wet_soils": 0.0}, False, ADDED
    ),
    "one map": Variant(covers=False),
    "default": Variant(),
}
# Settings that were chosen by these scores; --choose tells what the choice is worth.
CANDIDATES = (
    *({"trust": value} for value in (0.0, 0.375, 0.75, 1.5)),
    *({"general": value} for value in (0.3, 3.0)),
    *({"cover_share": value} for value in (0.25, 1.0)),
    *({"libraries": value} for value in (1.0, 5.0)),
    *({"noise": value} for value in (0.004, 0.012)),
)
# Numbers of places of the learning curve.
COUNTS = (0, 3, 6, 9, 12, 15)
# Settings that `gather` does not use, so that evidence serves all their values; the candidate that is the default.
NOT_GATHERED, DEFAULT_CANDIDATE = ("trust", "general", "noise"), "trust 0.75"
# Places of one airborne sensor; other places have a sensor of their own.
SENSORS = (
    {"jerc", "osbs_mlbs", "sjer", "soap"},
    {"jasper_ridge", "salton_sea", "san_diego", "cuprite", "fft_forests", "bay_area"},
    {"four_corners", "seward"},
)
PIXELS, DRAWS = 2000, 3
Model = tuple[SpectralPrior, SpectralMAE | None]


@dataclass(frozen=True)
class Contender(Compared):
    """A model that is trained without the place that it is scored on."""

    without: Callable[[str], Model]
    """The prior, with its calibration, and the network, from the name of the place."""


def contenders(arguments: argparse.Namespace) -> Iterator[Contender]:
    """The variants, and the prior and network of each folder of folds."""
    if arguments.choose:
        for settings in CANDIDATES:
            name = ", ".join(f"{key} {value:g}" for key, value in settings.items())
            yield Contender(name, DEFAULT_CANDIDATE, False, estimate(Variant(settings), arguments))
        return
    variants = arguments.variant or (["default"] if arguments.curve else [] if arguments.folds else list(VARIANTS))
    for name in variants:
        yield Contender(name, variants[0], arguments.calibrate, estimate(VARIANTS[name], arguments))
    for count in COUNTS if arguments.curve else ():
        without = estimate(VARIANTS[variants[0]], arguments, count)
        yield Contender(f"{count} places", variants[0], arguments.calibrate, without)
    for folder in arguments.folds:
        prior = f"prior of {folder.stem}"
        yield Contender(prior, variants[0] if variants else prior, True, of_folds(folder, network=False))
        yield Contender(folder.stem, prior, True, of_folds(folder, network=True))


@cache
def evidence_of(data: Path, settings: PriorSettings, without: tuple[str, ...]) -> Evidence:
    """The evidence for these settings, gathered once."""
    return gather(data, settings, without)


def estimate(variant: Variant, arguments: argparse.Namespace, count: int | None = None) -> Callable[[str], Model]:
    """A function that estimates the prior without a place, or without all places of its sensor.

    Parameters
    ----------
    count : number of places that are used, in random order; None: all.
    """
    settings = replace(PriorSettings(), **variant.settings)
    evidence = evidence_of(arguments.data, replace(settings, **dict.fromkeys(NOT_GATHERED, 0.0)), variant.without)
    evidence = replace(evidence, settings=settings)

    def without(place: str) -> Model:
        sensors = SENSORS if arguments.sensor_out else ()
        out = next((set(sensor) for sensor in sensors if place in sensor), {place})
        others = [other for other in evidence.places if other not in out]
        order = np.random.default_rng(list(map(ord, place))).permutation(others)
        out |= set(order[count:].tolist()) if count is not None else set()
        prior = fit(evidence, out)
        prior = calibrate(prior, evidence, out) if arguments.calibrate else prior
        return prior if variant.covers else replace(prior, covers=None), None

    return without


def of_folds(folder: Path, *, network: bool) -> Callable[[str], Model]:
    """A function that loads the prior or the network of the fold that leaves a place out."""
    folds = read_folds(folder)

    @cache
    def weights_of(place: str) -> Model:
        fold = next(fold for fold in folds if place in fold.places)
        weights = load_weights(str(fold.network if network else fold.prior))
        return weights.calibrated_prior or weights.prior, weights.network

    return weights_of


class Conditioned:
    """A prior that keeps its posteriors."""

    def __init__(self, condition: Callable[..., Posterior]) -> None:
        """Keep the results of `SpectralPrior.condition`."""
        self.condition = cache(condition)


def kinds_for(source: str, draws: int) -> dict[str, Kind]:
    """The kinds of input of a source; measured errors only where convert assumes some."""
    kinds = {
        CLEAN: Kind(InputError()),
        UNKNOWN: Kind(TYPICAL_INPUT_ERROR, given=False, draws=draws),
        KNOWN: Kind(TYPICAL_INPUT_ERROR, draws=draws),
    }
    measured = load_sensor(source).product_error
    return kinds | ({MEASURED: Kind(input_error_named(measured), draws=2 * draws)} if measured else {})


def depth_error(
    found: Float32Array, truth: Float32Array, target: SpectralGrid, feature_nm: tuple[float, float, float]
) -> float:
    """RMSE of a feature's depth over pixels that are bright enough; NaN if a band is missing."""
    bands = [nearest_band(target.wavelength_nm, nm, MAX_FEATURE_DISTANCE_NM) for nm in feature_nm]
    if None in bands or len(set(bands)) < len(bands):
        return float("nan")
    bright = (truth[bands] > MIN_SHOULDER_REFLECTANCE).all(axis=0)
    return rmse(*(band_depth(one[:, bright], target.wavelength_nm, feature_nm) for one in (found, truth)))


def score_references(part: Predictions, posterior: Posterior, count: int) -> tuple[float, float]:
    """RMSE and angle after a correction by random pixels as references, which are not scored: mean over draws."""
    found = []
    for draw in range(DRAWS):
        order = np.random.default_rng((count, draw)).permutation(part.truth.shape[1])
        some, rest = order[:count], order[count:]
        corrected = posterior.with_references(part.measured[:, some].T, (part.truth - part.correction)[:, some].T)
        predicted = corrected.reconstruct(part.measured[:, rest]) + part.correction[:, rest]
        found.append((rmse(predicted, part.truth[:, rest]), sam(predicted, part.truth[:, rest])))
    error, angle = np.mean(found, axis=0)
    return error, angle


def scores(found: dict[str, Predictions], posterior: Posterior, target: SpectralGrid, *, is_calibrated: bool) -> Scores:
    """All scores of one file, by name; `posterior` is of input without errors."""
    result: Scores = {}
    for count in REFERENCES:
        error, angle = score_references(found[CLEAN], posterior, count)
        result |= {f"{count} references, rmse": error, f"{count} references, sam": angle}
    for kind, part in found.items():
        predicted = part.expected + part.correction
        result |= {f"{kind}, rmse": rmse(predicted, part.truth), f"{kind}, sam": sam(predicted, part.truth)}
        if is_calibrated:
            result[f"{kind}, coverage"] = coverage(predicted, part.sigma, part.truth)
        known = np.isfinite(part.truth)
        error = np.where(known, part.truth - predicted, 0) / part.scale
        mean = error.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        result[f"{kind}, mean error off, rmse"] = rmse(predicted + mean * part.scale, part.truth)
        if kind == CLEAN:
            depths = {nm: depth_error(predicted, part.truth, target, at_nm) for nm, at_nm in FEATURES.items()}
            result |= {f"depth {nm}": depth for nm, depth in depths.items()}
    return result


def score_places(
    arguments: argparse.Namespace, models: Sequence[Contender], views: Sequence[tuple[str, str]]
) -> Results:
    """The scores of all places, by source and target, model and place."""
    cubes = open_cubes(arguments.data)
    results: Results = {f"{source} to {target}": {model.name: {} for model in models} for source, target in views}
    for number, place in enumerate(sorted({cube.scene for cube in cubes})):
        print(place, file=sys.stderr)
        fitted = [(Conditioned(prior.condition), network) for prior, network in (one.without(place) for one in models)]
        for source, target in views:
            grids = load_sensor(source).grid, load_sensor(target).grid
            scale = fitted[0][0].condition(grids[0], grids[0]).scale
            files: list[list[Scores]] = [[] for _ in models]
            for cube in (cube for cube in cubes if cube.scene == place):
                pair = SimulatedPair(cube, source, grids[1])
                windows = held_out_windows([pair], kinds_for(source, arguments.draws), scale, number, PIXELS)
                for model, own, rows in zip(models, fitted, files, strict=True):
                    found = predict(windows, *own, grids)
                    rows.append(scores(found, own[0].condition(*grids), grids[1], is_calibrated=model.is_calibrated))
            for model, rows in zip(models, files, strict=True):
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                known = {name: [value for value in values if np.isfinite(value)] for name, values in columns.items()}
                results[f"{source} to {target}"][model.name][place] = {
                    name: float(np.mean(values)) if values else float("nan") for name, values in known.items()
                }
    return results


def main() -> None:
    """Score every place with every model, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hyperspectral/, points/ and spectra/")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: all, or none with --folds")
    parser.add_argument(
        "--folds", type=Path, action="append", default=[], help="<stem>.folds of `pretrain --cross-fit`"
    )
    parser.add_argument("--source", action="append", choices=sensor_names("source"), help="default: sentinel2a")
    parser.add_argument("--target", action="append", choices=sensor_names("target"), help="default: enmap")
    parser.add_argument("--every-sensor", action="store_true", help="all sources, to EnMAP and EMIT")
    parser.add_argument("--draws", type=int, default=DRAWS, help="random errors of each window")
    parser.add_argument("--sensor-out", action="store_true", help="leave all places of a sensor out together")
    parser.add_argument("--calibrate", action="store_true", help="calibrate the variants without each place too")
    parser.add_argument("--curve", action="store_true", help="score the prior of fewer places too")
    parser.add_argument("--choose", action="store_true", help="score candidates of the settings")
    parser.add_argument("--write", type=Path, help="write weights of all places, with the scores of the default")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    sources = sensor_names("source") if arguments.every_sensor else arguments.source or ["sentinel2a"]
    targets = ["enmap", "emit"] if arguments.every_sensor else arguments.target or ["enmap"]
    models = list(contenders(arguments))
    views = [(source, target) for source in sources for target in targets]
    results = score_places(arguments, models, views)
    first = next(iter(results.values()))
    if arguments.write:
        card = {
            place: {what: round(found[f"{CLEAN}, {what}"], 5) for what in ("rmse", "sam")}
            for place, found in first["default"].items()
        }
        pretrain_linear(arguments.data, arguments.write, scores=card)
    if arguments.json:
        print(json.dumps(results))
    elif arguments.choose:
        show_choice(first)
    else:
        print(next(iter(results)))
        show_places(first, models)
    if len(views) > 1 and not arguments.json:
        show_sensors(results, models)


if __name__ == "__main__":
    main()
