"""Invented evaluations, for tests of tables, figures and the page."""

from dataclasses import replace

import numpy as np

from ms2hs.evaluation.accumulators import FEATURES_NM
from ms2hs.evaluation.metric_table import mean_scores
from ms2hs.evaluation.results import Curve, Evaluation, Example, ExampleWindow, MethodScores
from ms2hs.spectra.spectral_grid import grid_of, pasted_bands

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
KINDS = {"mean spectrum": "baseline", "interpolation": "baseline", "prior": "prior", "spectral": "model"}
# RMSE of each, as a factor of 0.01.
SIZES = {"mean spectrum": 9.0, "interpolation": 2.2, "prior": 0.75, "spectral": 0.9}


def scores_of(rmse, coverage=np.nan):
    depth = {f"depth_{nm}": rmse * 3 for nm in FEATURES_NM} | {"depth_1730": np.nan}
    error = {"mse": rmse**2, "masked_mse": 1.3 * rmse**2, "unmasked_mse": 0.0, "rmse": rmse, "bias": -rmse / 10}
    angles = {"sam_mean": 220 * rmse, "sam_median": 200 * rmse}
    others = {"ssim": 1 - rmse, "psnr": -20 * np.log10(rmse), "ergas": 900 * rmse, "r2": 1 - 5 * rmse, "seconds": 1.25}
    return error | angles | others | depth | {"coverage_68": coverage - 0.22, "coverage_90": coverage}


def row_of(method, kind, size, scenes, prior_size=0.75):
    coverage = np.nan if kind == "baseline" else 0.9
    found = {name: scores_of(0.01 * size * (1 + 0.1 * place), coverage) for place, name in enumerate(scenes)}
    overall = mean_scores(list(found.values()))
    keys = ("mse", "rmse", "sam_median") if len(scenes) > 1 else ()
    interval = {key: (0.8 * overall[key], 1.2 * overall[key]) for key in keys}
    covers = {"soil": scores_of(0.01 * size), "water": scores_of(0.02 * size)}
    return MethodScores(
        method, kind, overall, interval, found, covers, size / prior_size, 7e-5 if kind == "model" else np.nan
    )


def evaluation_of(scenes=3, sizes=SIZES, kinds=KINDS, bands=100, side=16, examples=2, windows=3, seed=0):
    """An evaluation with missing and unknown target bands around water vapour, as real evaluations have."""
    rng = np.random.default_rng(seed)
    names = [f"scene {place}" for place in range(scenes)]
    nm = np.linspace(420, 2400, bands)
    nm = nm[(nm < 1340) | (nm > 1460)]
    target = grid_of(nm, np.full(len(nm), 12.0))
    source = grid_of(np.array([490.0, 560, 665, 865, 1610, 2190]), np.array([65.0, 35, 30, 20, 90, 180]))
    unknown = (nm > 1780) & (nm < 1980)
    truth = (0.3 + 0.1 * np.sin(nm / 200)).astype(np.float32)
    truth[unknown] = np.nan
    methods = {method: size / 100 for method, size in sizes.items()}
    curves = {}
    for method, size in methods.items():
        curve = np.where(unknown, np.nan, size * rng.uniform(0.5, 1.5, len(nm)))
        shares = None if kinds[method] == "baseline" else np.array(LEVELS) - 0.05
        curves[method] = Curve(curve, curve / 10 - size / 20, 100 * curve, shares)
    sure = [method for method in methods if kinds[method] != "baseline"]
    known = np.nan_to_num(truth, nan=0.3)
    measured = np.interp(source.wavelength_nm, nm, known).astype(np.float32)
    noise = {method: rng.normal(0, size, len(nm)) for method, size in methods.items()}
    made = {method: (known + noise[method]).astype(np.float32) for method in methods}
    sigma = dict.fromkeys(sure, np.full(len(nm), 0.02, np.float32))
    made_examples = tuple(
        Example(f"scene 0, window {place}, row 3, column 4: typical", measured, truth, made, sigma)
        for place in range(examples)
    )
    made_windows = tuple(window_of(rng, place, side) for place in range(windows))
    return Evaluation(
        title=f"toy to enmap: {scenes} simulated scenes", command="ms2hs evaluate --corpus cubes", source=source,
        target=target, measured=pasted_bands(source, target) >= 0,
        rows=tuple(row_of(method, kinds[method], size, names) for method, size in sizes.items()),
        curves=curves, levels=LEVELS, examples=made_examples, windows=made_windows,
        scenes=dict.fromkeys(names, 12345), unlike=77, left_out={"cloudy": "no valid pixel"}, notes=("Simulated.",),
    )  # fmt: skip


def window_of(rng, place, side):
    truth = rng.uniform(0.1, 0.5, (3, side, side)).astype(np.float32)
    truth[:, :2, :3] = np.nan
    made = np.nan_to_num(truth) + rng.normal(0, 0.02, truth.shape).astype(np.float32)
    error = np.sqrt(np.mean((made - truth) ** 2, axis=0))
    return ExampleWindow(
        f"scene {place}, window 1", "spectral", (650.0, 1200.0, 2200.0), truth, made, error,
        float(np.sqrt(np.nanmean(error**2))), is_worst=place == 1,
    )  # fmt: skip


def renamed(evaluation, old, new):
    """The same evaluation with another name of one method."""

    def swap(mapping):
        return {new if name == old else name: value for name, value in mapping.items()}

    return replace(
        evaluation,
        rows=tuple(replace(row, method=new) if row.method == old else row for row in evaluation.rows),
        curves=swap(evaluation.curves),
        examples=tuple(
            replace(one, predicted=swap(one.predicted), sigma=swap(one.sigma)) for one in evaluation.examples
        ),
        windows=tuple(replace(one, method=new) if one.method == old else one for one in evaluation.windows),
    )
