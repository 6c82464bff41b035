"""Tables in Markdown of the scores of places by model: see `places.py`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.evaluation.accumulators import FEATURES_NM
from ms2hs.spectra.metrics import ratio_interval

# Kinds of input: without errors; with typical errors that the model does not know, or knows; with measured errors.
CLEAN, UNKNOWN, KNOWN, MEASURED = "clean", "errors", "errors known", "measured errors"
# Numbers of references.
REFERENCES = (3, 10)
# Liquid water in leaves and wet ground, beside the features of `ms2hs evaluate`.
FEATURES = {970: (900.0, 970.0, 1070.0), **FEATURES_NM}
# A ratio to this is rounding.
NOT_WORSE = 1.0005
# Weight of the RMSE on clean input in the minimised score; the rest is the RMSE with typical errors that are known.
CLEAN_SHARE = 0.75
Scores = dict[str, float]
Results = dict[str, dict[str, dict[str, Scores]]]
"""By source and target, model and place."""


@dataclass(frozen=True)
class Compared:
    """A model in the tables."""

    name: str
    reference: str
    """Name of the model that it is compared with."""
    is_calibrated: bool


def column(of_model: dict[str, Scores], name: str) -> FloatArray:
    """(place,) one score of a model; NaN where there is none."""
    return np.array([of_place.get(name, np.nan) for of_place in of_model.values()])


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n| {title} | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def show_places(results: dict[str, dict[str, Scores]], models: Sequence[Compared]) -> None:
    """Print a table with a row for each place, and the comparisons."""
    kinds = [
        kind for kind in (CLEAN, KNOWN, MEASURED) if f"{kind}, rmse" in next(iter(results[models[0].name].values()))
    ]
    places = list(results[models[0].name])
    compared = [model for model in models if model.reference != model.name]

    def values(name: str, what: str) -> FloatArray:
        return column(results[name], what)

    def cell(model: Compared, kind: str, at: int) -> str:
        error, angle = (values(model.name, f"{kind}, {what}") for what in ("rmse", "sam"))
        reference = values(model.reference, f"{kind}, rmse")
        error, angle, reference = (np.append(part, part.mean())[at] for part in (error, angle, reference))
        ratio = f" ({error / reference:.3f})" if model in compared else ""
        return f"{1e4 * error:.1f} / {angle:.2f}{ratio}"

    for kind in kinds:
        rows = ([place, *(cell(model, kind, at) for model in models)] for at, place in enumerate([*places, "mean"]))
        table(f"{kind}: RMSE × 10⁴ / angle", [model.name for model in models], rows)
    rows = []
    for model in compared:
        for kind in (*kinds, UNKNOWN, *(f"{count} references" for count in REFERENCES)):
            own, reference = (values(name, f"{kind}, rmse") for name in (model.name, model.reference))
            (low, high), ratios = ratio_interval(own, reference), own / reference
            ratio = f"{own.mean() / reference.mean():.3f} ({low:.3f}–{high:.3f})"
            worst, better = (
                f"{ratios.max():.3f} {places[ratios.argmax()]}",
                f"{(ratios <= NOT_WORSE).sum()} of {len(places)}",
            )
            rows.append([f"{model.name} to {model.reference}, {kind}", ratio, worst, better])
    table("ratio of RMSE", ["of means (95 % interval)", "worst place", "not worse on"], rows)
    features = [nm for nm in FEATURES if np.isfinite(values(models[0].name, f"depth {nm}")).any()]
    depths = {model.name: [np.nanmean(values(model.name, f"depth {nm}")) for nm in features] for model in models}
    rows = [
        [
            model.name,
            *(f"{a:.4f} ({a / b:.3f})" for a, b in zip(depths[model.name], depths[model.reference], strict=True)),
        ]
        for model in models
    ]
    table("error of depth (ratio)", [f"{nm} nm" for nm in features], rows)
    rows = []
    for model in models:
        inside = [100 * values(model.name, f"{kind}, coverage") for kind in kinds] if model.is_calibrated else []
        if inside:
            cells = (f"{part.mean():.0f} % ({part.min():.0f} % {places[part.argmin()]})" for part in inside)
            rows.append([model.name, *cells])
    if rows:
        table("in the 90 % interval (worst place)", kinds, rows)


def show_sensors(results: Results, models: Sequence[Compared]) -> None:
    """Print a table with a row for each source and target."""
    rows, kinds = [], (CLEAN, KNOWN, MEASURED)
    for view, of_models in results.items():
        cells = []
        for kind in kinds:
            for model in models:
                error, angle = (column(of_models[model.name], f"{kind}, {what}").mean() for what in ("rmse", "sam"))
                ratio = error / column(of_models[model.reference], f"{kind}, rmse").mean()
                compared = f" ({ratio:.3f})" if model.reference != model.name else ""
                cells.append(f"{error:.4f} / {angle:.2f}°{compared}" if np.isfinite(error) else "")
        rows.append([view, *cells])
    table("RMSE / angle (ratio)", [f"{model.name}, {kind}" for kind in kinds for model in models], rows)


def show_choice(results: dict[str, dict[str, Scores]]) -> None:
    """Print the mean score of each candidate, and of the candidate that is best for the other places of each place."""
    error = {kind: np.array([column(found, f"{kind}, rmse") for found in results.values()]) for kind in (CLEAN, KNOWN)}
    score = CLEAN_SHARE * error[CLEAN] + (1 - CLEAN_SHARE) * error[KNOWN]  # (candidate, place)
    best = (score.sum(axis=1, keepdims=True) - score).argmin(axis=0)
    names, chosen = list(results), np.arange(score.shape[1])
    rows = [[name, *(f"{1e4 * error[kind][at].mean():.2f}" for kind in error)] for at, name in enumerate(names)]
    rows.append(["best for the other places", *(f"{1e4 * part[best, chosen].mean():.2f}" for part in error.values())])
    table("RMSE × 10⁴", list(error), rows)
    print("chosen:", ", ".join(f"{name} {(best == at).sum()}" for at, name in enumerate(names) if (best == at).any()))
