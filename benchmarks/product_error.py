"""Errors of Sentinel-2 surface reflectance, from match-ups with field measurements: covariance, and left-out scores.

    python benchmarks/product_error.py --data DIR [--target NAME] [--weights NAME] [--write FILE]

Each place is left out in turn: the covariance of the other places is the error model with which the spectra of this
place are predicted from real Sentinel-2 bands, and scored against the field spectra. The table shows today's choices
beside it, and exact bands (the field's own) as the bound. With --write, the covariance of all places becomes a table
for `ms2hs/spectra/tables/errors/`. Takes seconds.

The covariance is a second moment: the mean error stays in it, since other processors have another one. It is halfway
shrunk towards equal variances with a correlation that falls with the distance in log wavelength. Dates of one place
share half of the error's variance (intraclass correlation 0.45-0.51), which lowers their weight; dates that the field
team calls mediocre weigh half. Match-ups are means over a field: the noise of single pixels is added.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import multivariate_normal

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.inference.predictor import Predictor
from ms2hs.models.prior import SpectralPrior
from ms2hs.models.weights import Weights, load_weights
from ms2hs.spectra.metrics import coverage, rmse, spectral_angle
from ms2hs.spectra.product_error import TYPICAL_INPUT_ERROR, TYPICAL_SCALE, ErrorTable, InputError
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

NAME = "sentinel2"
SENSOR = "sentinel2a"
# Share of the error's variance that the dates of one place have in common.
WITHIN_PLACE = 0.5
MEDIOCRE_WEIGHT = 0.5
# Shrinkage towards a variance equal in all bands and a correlation exp(-|distance in log wavelength| / LENGTH), with
# this share of independent error.
SHRINKAGE, LENGTH, INDEPENDENT = 0.5, 2.0, 0.02
# Smallest share of a band's variance that its common directions leave.
LEAST_OWN = 0.05
# Noise of single pixels relative to a spectrum's scale.
PIXEL_NOISE = TYPICAL_INPUT_ERROR.pixel / TYPICAL_SCALE
# B09, in water vapour, has no match-ups: its variance is this many times that between its neighbours.
WATER_VAPOUR_BAND, WATER_VAPOUR_VARIANCE = "B09", 2.0
# Rounds in which a field spectrum is brought to its bands.
ROUNDS = 5


@dataclass(frozen=True, eq=False)
class MatchUp:
    """Real Sentinel-2 bands and the field spectrum of the same day."""

    site: str
    """`several` places, or `Mullion`: several instruments on two dates."""
    place: str
    source: SpectralGrid
    measured: Float32Array
    """(source band,) of Sentinel-2."""
    exact: Float32Array
    """(source band,) of the field."""
    truth: Float32Array
    """(target band,) of the field; NaN where the atmosphere is opaque."""


@dataclass(frozen=True, eq=False)
class Bands:
    """Bands of real Sentinel-2 and of the field by site and date."""

    measured: FloatArray
    """(date, band)."""
    field: FloatArray
    """(date, band)."""
    place: np.ndarray
    """(date,)."""
    weight: FloatArray
    """(date,) 1, or less by the quality of the field measurement."""
    grid: SpectralGrid


def read_bands(data: Path) -> Bands:
    """All site-dates with 11 bands on both sides."""
    found = np.load(data / "pairs" / "sentinel2_vs_field_bands.npz")
    grid = grid_of_bands(SENSOR, found["bands"])
    weight = np.where(found["quality"] == "Mediocre", MEDIOCRE_WEIGHT, 1.0)
    return Bands(found["s2_mean"].astype(float), found["field_mean"].astype(float), found["place"], weight, grid)


def grid_of_bands(sensor: str, names: np.ndarray) -> SpectralGrid:
    """The grid of some bands of a sensor."""
    grid = load_sensor(sensor).grid
    return grid.select(grid.index([str(name) for name in names]))


def read_match_ups(data: Path, target: SpectralGrid) -> list[MatchUp]:
    """The match-ups with a full field spectrum."""
    found = []
    for site, prefix in (("several", "sentinel2"), ("Mullion", "sentinel2b")):
        file = np.load(data / "pairs" / f"{prefix}_vs_field_{'spectra' if site == 'several' else 'mullion'}.npz")
        samples_nm, spectra = file["wavelength_nm"].astype(float), file["field"].astype(float)
        places = np.broadcast_to(file["place"], len(spectra))
        platforms = file["platform"] if "platform" in file else np.full(len(spectra), "sentinel2b")
        measured = file["s2" if "s2" in file else "s2b_mean"]
        for place, platform, bands, exact, spectrum in zip(
            places, platforms, measured, file["field_bands"], spectra, strict=True
        ):
            source = grid_of_bands(str(platform), file["bands"])
            truth = truth_of(spectrum, samples_nm, exact.astype(float), source, target)
            found.append(MatchUp(site, str(place), source, bands, exact, truth))
    return found


def truth_of(
    spectrum: FloatArray, samples_nm: FloatArray, exact: FloatArray, source: SpectralGrid, target: SpectralGrid
) -> Float32Array:
    """(target band,) the field spectrum, multiplied by a smooth ratio that gives it the field's bands, on the target.

    The field's bands are normalised for sun and view, and the spectra are not. The ratio is linear between bands.
    """
    known = np.isfinite(spectrum)
    samples_nm, spectrum = samples_nm[known], spectrum[known]
    response, order = response_matrix(source, samples_nm), np.argsort(source.wavelength_nm)
    for _ in range(ROUNDS):
        ratio = exact / (response @ spectrum)
        spectrum = spectrum * np.interp(samples_nm, source.wavelength_nm[order], ratio[order])
    distance = np.abs(target.wavelength_nm[:, None] - samples_nm)
    step = float(np.median(np.diff(samples_nm)))
    covered = (distance <= target.fwhm_nm[:, None] / 2 + step).sum(axis=1) >= target.fwhm_nm / step
    inside = (target.wavelength_nm >= samples_nm.min()) & (target.wavelength_nm <= samples_nm.max())
    usable = covered & inside
    truth = np.full(len(target), np.nan, np.float32)
    truth[usable] = response_matrix(target.select(usable), samples_nm) @ spectrum
    return truth


def relative_errors(bands: Bands, prior: SpectralPrior) -> FloatArray:
    """(date, band) errors relative to the scale of the field's spectrum."""
    scale = prior.condition(bands.grid, bands.grid).scale(bands.field.T.astype(np.float32))
    return (bands.measured - bands.field) / scale[:, None]


def second_moment(bands: Bands, prior: SpectralPrior, chosen: BoolArray) -> FloatArray:
    """(band, band) weighted second moment of the relative errors of some dates."""
    error, place = relative_errors(bands, prior)[chosen], bands.place[chosen]
    dates = np.array([(place == one).sum() for one in place])
    weight = bands.weight[chosen] / (1 + (dates - 1) * WITHIN_PLACE)
    return (weight[:, None] * error).T @ error / weight.sum()


def shrunk(second: FloatArray, wavelength_nm: FloatArray) -> FloatArray:
    """A second moment halfway between itself and a smooth covariance, with the noise of pixels."""
    distance = np.abs(np.subtract.outer(*[np.log(wavelength_nm)] * 2))
    correlation = (1 - INDEPENDENT) * np.exp(-distance / LENGTH) + INDEPENDENT * np.eye(len(second))
    smooth = np.trace(second) / len(second) * correlation
    return (1 - SHRINKAGE) * second + SHRINKAGE * smooth + PIXEL_NOISE**2 * np.eye(len(second))


def in_directions(second: FloatArray, count: int) -> FloatArray:
    """Variances and the leading `count` common directions of a second moment; 0: independent bands."""
    values, vectors = np.linalg.eigh(second)
    common = (vectors[:, -count:] * values[-count:]) @ vectors[:, -count:].T if count else np.zeros_like(second)
    own = np.diag(second)
    return common + np.diag(np.maximum(own - np.diag(common), LEAST_OWN * own))


ESTIMATORS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "independent bands": lambda second, _nm: in_directions(second, 0),
    "one common direction": lambda second, _nm: in_directions(second, 1),
    "two common directions": lambda second, _nm: in_directions(second, 2),
    "second moment, not shrunk": lambda second, _nm: second + PIXEL_NOISE**2 * np.eye(len(second)),
    "shrunk (the table)": shrunk,
}


def likelihoods(bands: Bands, prior: SpectralPrior) -> dict[str, float]:
    """Log likelihood of a left-out date's errors by estimator: mean over the dates of a place, then over places."""
    errors, nm = relative_errors(bands, prior), bands.grid.wavelength_nm
    typical = TYPICAL_INPUT_ERROR.relative_variance(np.ones(len(nm)))
    models = {"0.02,0.005,0.003": lambda _second, _nm: np.diag(typical)} | ESTIMATORS
    found: dict[str, list[float]] = {name: [] for name in models}
    for place in sorted(set(bands.place)):
        left_out = np.asarray(bands.place == place, bool)
        second = second_moment(bands, prior, ~left_out)
        for name, estimate in models.items():
            model = multivariate_normal(np.zeros(len(nm)), estimate(second, nm))
            found[name].append(float(np.mean(model.logpdf(errors[left_out]))))
    return {name: float(np.mean(values)) for name, values in found.items()}


def table_of(bands: Bands, prior: SpectralPrior, chosen: BoolArray) -> ErrorTable:
    """The covariance of some dates as a table, with the water-vapour band between its neighbours."""
    covariance = shrunk(second_moment(bands, prior, chosen), bands.grid.wavelength_nm)
    measured = ErrorTable("", "", "", bands.grid.wavelength_nm, covariance)
    whole = load_sensor(SENSOR).grid
    covariance = measured.covariance_at(whole.wavelength_nm)
    band = whole.index([WATER_VAPOUR_BAND])[0]
    covariance[band, band] *= WATER_VAPOUR_VARIANCE
    return replace(measured, wavelength_nm=whole.wavelength_nm, covariance=covariance)


def write_table(path: Path, table: ErrorTable, bands: Bands) -> None:
    """Write a table in the form that `load_error_table` reads."""
    names = load_sensor(SENSOR).grid.names
    low, high = 100 * np.sqrt(np.diag(table.covariance)[[1, -2]])
    facts = {
        "title": f"1 sigma of {low:.0f}-{high:.0f} % of brightness, alike in neighbouring bands, from "
        f"{len(bands.place)} field match-ups",
        "source": "Geoscience Australia, validation of Sentinel-2 NBAR surface reflectance in the field (CC BY 4.0)",
        "places": f"{len(set(bands.place))} in Australia, 2018-2026; Sentinel-2A, 2B and 2C",
        "note": "covariance of (product - field) / scale, with noise of pixels; by benchmarks/product_error.py",
        "missing": f"{WATER_VAPOUR_BAND} has no match-ups: interpolated, {WATER_VAPOUR_VARIANCE:g} times the variance",
    }
    lines = [*(f"# {key}: {text}" for key, text in facts.items()), f"band,center_nm,{','.join(names)}"]
    for name, centre, row in zip(names, table.wavelength_nm, table.covariance, strict=True):
        lines.append(f"{name},{centre:.4f},{','.join(f'{value:.6f}' for value in row)}")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


Scores = dict[str, list[tuple[float, float, float]]]


def score(match_ups: list[MatchUp], bands: Bands, weights: Weights, target: SpectralGrid) -> Scores:
    """RMSE, SAM and coverage of each match-up by method; the error model does not know the match-up's place.

    A network has a window of one pixel, the mean over the field.
    """
    prior = weights.calibrated_prior or weights.prior
    tables = {
        place: table_of(bands, prior, np.asarray(bands.place != place, bool))
        for place in {one.place for one in match_ups}
    }
    found: Scores = {}
    for one in match_ups:
        measured_errors = InputError(product=tables[one.place])
        models = {
            "exact bands, none": (one.exact, None),
            "exact bands, sentinel2": (one.exact, measured_errors),
            "Sentinel-2, none": (one.measured, None),
            "Sentinel-2, 0.02,0.005,0.003": (one.measured, TYPICAL_INPUT_ERROR),
            "Sentinel-2, sentinel2": (one.measured, measured_errors),
        }
        for method, (measured, error) in models.items():
            posterior = prior.condition(one.source, target, error)
            estimates = {method: posterior.reconstruct(measured[:, None])[:, 0]}
            if weights.network is not None:
                network = Predictor(weights.network, one.source, target, error=error)
                window = measured[:, None, None]
                estimates[f"{method}; network"] = network.reconstruct(window, np.ones((1, 1), bool))[:, 0, 0]
            sigma = posterior.sigma(measured[:, None])[:, 0]
            for name, estimate in estimates.items():
                angle, inside = float(spectral_angle(estimate, one.truth)), coverage(estimate, sigma, one.truth)
                found.setdefault(name, []).append((rmse(estimate, one.truth), angle, inside))
    return found


def band_scores(bands: Bands, prior: SpectralPrior) -> dict[str, FloatArray]:
    """RMSE, SAM and coverage of the source's own bands, predicted from the product's bands: means over left-out places.

    All match-ups have bands, and few have spectra.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for place in sorted(set(bands.place)):
        chosen = np.asarray(bands.place == place, bool)
        measured, field = bands.measured[chosen].T.astype(np.float32), bands.field[chosen].T
        left_out = InputError(product=table_of(bands, prior, ~chosen))
        for method, error in (("none", None), ("0.02,0.005,0.003", TYPICAL_INPUT_ERROR), (NAME, left_out)):
            posterior = prior.condition(bands.grid, bands.grid, error)
            estimate = posterior.reconstruct(measured)
            inside = coverage(estimate, posterior.sigma(measured), field)
            found.setdefault(method, []).append(
                (rmse(estimate, field), float(spectral_angle(estimate, field).mean()), inside)
            )
    return {method: np.mean(scores, axis=0) for method, scores in found.items()}


def show(match_ups: list[MatchUp], scores: Scores) -> None:
    """Print RMSE, SAM and coverage of the 90 % interval for each method: by site, then by place of the first site."""
    site, place = (np.array([getattr(one, name) for one in match_ups]) for name in ("site", "place"))
    groups = [site == name for name in dict.fromkeys(site)]
    groups += [(site == "several") & (place == name) for name in sorted(set(place))]
    heads = [*dict.fromkeys(site), *sorted(set(place))]
    print(f"{'RMSE / SAM / 90 %':40s}" + "".join(f"{name:>20s}" for name in heads))
    for method, rows in scores.items():
        cells = []
        for group in groups:
            error, angle, inside = np.array(rows)[group].T
            cells.append(f"{np.sqrt(np.mean(error**2)):.4f} / {angle.mean():.2f} / {100 * inside.mean():.0f}")
        print(f"{method:40s}" + "".join(f"{cell:>20s}" for cell in cells))


def main() -> None:
    """Print the left-out scores, and write the table of all places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs/")
    parser.add_argument("--target", default="enmap")
    parser.add_argument("--weights", default="linear", help="name or file of a prior, or of a network and its prior")
    parser.add_argument("--write", type=Path, help="write the covariance of all places to this CSV")
    arguments = parser.parse_args()
    target, weights = load_sensor(arguments.target).grid, load_weights(arguments.weights)
    prior = weights.calibrated_prior or weights.prior
    bands, match_ups = read_bands(arguments.data), read_match_ups(arguments.data, target)
    show(match_ups, score(match_ups, bands, weights, target))
    print("\nthe source's own bands, mean over 12 left-out places: RMSE, SAM, 90 %")
    for method, (error, angle, inside) in band_scores(bands, prior).items():
        print(f"{method:30s}{error:8.4f}{angle:7.2f}{100 * inside:7.0f}")
    print("\nlog likelihood of a left-out date's bands by model of their errors")
    for name, value in likelihoods(bands, prior).items():
        print(f"{name:30s}{value:8.1f}")
    if arguments.write:
        write_table(arguments.write, table_of(bands, prior, np.ones(len(bands.place), bool)), bands)


if __name__ == "__main__":
    main()
