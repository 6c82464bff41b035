"""METRICS: every number that an evaluation reports about a method.

The text tables, the HTML page, the CSV columns and the JSON keys are generated from this table. To add a metric, write
a function of an `Accumulator` (the formulas are in `spectra.metrics`) and add one line to `METRICS`.
Metrics are computed per scene. Methods are compared by the mean over scenes, each with the same weight.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from ms2hs.errors import DataError
from ms2hs.evaluation.accumulators import FEATURES_NM, LEVELS, Accumulator, ratio
from ms2hs.spectra.metrics import ergas, psnr, r2

Scores = Mapping[str, float]
"""The value of each metric by its key; NaN where it is undefined."""

# Titles of the tables of metrics.
ERROR = "Error, angle and time"
SQUARED = "Squared error and structure"
DEPTH = "Share of values inside the intervals, and RMSE of band depths"


@dataclass(frozen=True)
class Metric:
    """One number per method and scene, with its column, unit and digits."""

    key: str
    """CSV column and JSON key."""
    heading: str
    unit: str
    compute: Callable[[Accumulator], float]
    table: str
    digits: int = 4
    """Digits after the decimal point."""
    factor: float = 1.0
    """Multiplies a value before it is shown."""
    better: Literal["low", "high", "zero", "none"] = "low"
    """Good values: low, high, or near zero; `none` if no value is better than another."""
    has_interval: bool = False
    """Whether the mean over scenes gets a bootstrap interval."""
    definition: str = ""

    def text(self, value: float) -> str:
        """The text of a value in tables; `-` for NaN."""
        if not math.isfinite(value):
            return "-" if math.isnan(value) else str(value)
        number = round(self.factor * value, self.digits) or 0.0  # no negative zero
        sign = "+" if self.better == "zero" and number else ""
        return f"{number:{sign}.{self.digits}f}"

    def cost(self, value: float) -> float:
        """A number that is lower for better values; NaN if no value is better than another."""
        return {"low": value, "high": -value, "zero": abs(value), "none": math.nan}[self.better]


def _coverage(sums: Accumulator, level: float) -> float:
    return math.nan if sums.reliability is None else float(sums.reliability[LEVELS.index(level)])


def _depth(nm: int) -> Metric:
    row = list(FEATURES_NM).index(nm)
    definition = "" if row else "RMSE of 1 - R(centre) / R(line between the shoulders), and likewise the other depths"
    return Metric(
        f"depth_{nm}", f"depth {nm}", "nm", lambda sums: math.sqrt(ratio(*sums.depth_sums[row])), DEPTH,
        definition=definition,
    )  # fmt: skip


def known_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN without such a value."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else math.nan


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan


# fmt: off
METRICS: dict[str, Metric] = {metric.key: metric for metric in (
    Metric("mse", "MSE", "1e-4", lambda sums: sums.mse(), SQUARED, 3, 1e4, has_interval=True,
           definition="over all bands, in units of 1e-4; MSE and SSIM as in Table 2 of arXiv 2502.19451"),
    Metric("masked_mse", "MSE masked", "1e-4", lambda sums: sums.mse(~sums.bands.measured), SQUARED, 3, 1e4,
           definition="over bands of which the source covers less than 60 %"),
    Metric("unmasked_mse", "MSE unmasked", "1e-4", lambda sums: sums.mse(sums.bands.measured), SQUARED, 3, 1e4,
           definition="over the other bands"),
    Metric("ssim", "SSIM", "", lambda sums: known_mean(sums.window_ssim), SQUARED, better="high",
           definition="data range 1, uniform windows of 7 x 7 pixels"),
    Metric("rmse", "RMSE", "", lambda sums: math.sqrt(sums.mse()), ERROR, has_interval=True),
    Metric("bias", "Bias", "", lambda sums: ratio(sums.error_sum.sum(), sums.count.sum()), ERROR, better="zero",
           definition="reconstructed minus true"),
    Metric("sam_mean", "SAM mean", "°", lambda sums: known_mean(sums.known_angles), ERROR, 2,
           definition="spectral angle; spectra of zeros are left out"),
    Metric("sam_median", "SAM median", "°", lambda sums: _median(sums.known_angles), ERROR, 2, has_interval=True),
    Metric("psnr", "PSNR", "dB", lambda sums: psnr(sums.mse()), SQUARED, 1, better="high",
           definition="-10 log10(MSE), a peak of 1"),
    Metric("ergas", "ERGAS", "", lambda sums: ergas(sums.rmse, sums.truth_mean), ERROR, 2,
           definition="Wald (2000), resolution ratio 1: 100 sqrt(mean over bands of (RMSE / mean)²)"),
    Metric("r2", "R²", "", lambda sums: r2(sums.square_sum, sums.truth_variation), ERROR, 3, better="high",
           definition="mean over bands of 1 - SSE / SST within a scene"),
    Metric("coverage_68", "inside 68\N{NO-BREAK SPACE}%", "%", lambda sums: _coverage(sums, 0.68), DEPTH, 1, 100,
           "none",
           definition="share of values inside the method's 68 % interval"),
    Metric("coverage_90", "inside 90\N{NO-BREAK SPACE}%", "%", lambda sums: _coverage(sums, 0.9), DEPTH, 1, 100,
           "none"),
    Metric("seconds", "Time", "s/Mpx", lambda sums: 1e6 * ratio(*sums.time), ERROR, 2, better="none",
           definition="for a million pixels, on this machine"),
    *(_depth(nm) for nm in FEATURES_NM),
)}
"""By key, in the order of the CSV columns."""
# fmt: on


def scores_of(sums: Accumulator) -> Scores:
    """Every metric of the accumulated pixels."""
    return {key: metric.compute(sums) for key, metric in METRICS.items()}


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of each metric over scenes; scenes in which it is undefined are left out."""
    return {key: known_mean([scene[key] for scene in scores]) for key in METRICS}


def definitions(metrics: Iterable[Metric]) -> list[str]:
    """The conventions of metrics, one line per metric that has a definition."""
    return [f"{metric.heading}: {metric.definition}" for metric in metrics if metric.definition]


def check_ssim_installed() -> None:
    """Raise DataError unless scikit-image, which computes SSIM, is installed."""
    if find_spec("skimage") is None:
        raise DataError("scikit-image is not installed; SSIM needs it. `pip install 'ms2hs[train]'` brings it.")
