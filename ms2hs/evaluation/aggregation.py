"""Aggregation of scored windows into scores of each method: by scene, over scenes, by land cover, by wavelength."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.evaluation.accumulators import Accumulator, LocalAngles, TargetBands, ratios
from ms2hs.evaluation.baselines import PRIOR
from ms2hs.evaluation.metric_table import METRICS, Scores, mean_scores, scores_of
from ms2hs.evaluation.results import Curve, Kind, MethodScores
from ms2hs.spectra.metrics import SSIM_PIXELS, ssim

# Pixels per scene from which the local spectral angle is computed.
LOCAL_ANGLE_PIXELS = 1 << 14
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class ScoredWindow:
    """The measured and true reflectance of a window."""

    scene: str
    title: str
    measured: Float32Array
    """(source band, row, col)."""
    truth: Float32Array
    """(target band, row, col) NaN where unknown."""
    valid: BoolArray
    """(row, col)."""
    cover: NDArray[np.str_]
    """(row, col) land cover, from the truth."""


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """The prediction of one method for a window."""

    estimate: Float32Array
    """(target band, row, col) finite where valid."""
    sigma: Float32Array | None
    """(target band, row, col) standard deviation; None without intervals."""
    seconds: float = float("nan")


@dataclass(frozen=True)
class MethodInfo:
    """Name and kind of a method."""

    name: str
    kind: Kind
    train_mse: float = float("nan")


class Aggregator:
    """Collects the windows of all scenes; the windows of one scene must follow each other.

    Parameters
    ----------
    max_windows : largest number of windows per scene, which share `LOCAL_ANGLE_PIXELS`.
    """

    def __init__(self, bands: TargetBands, methods: Sequence[MethodInfo], max_windows: int) -> None:
        """Start without windows."""
        self.bands = bands
        self.methods = methods
        self.pixels: dict[str, int] = {}
        """Number of valid pixels by scene."""
        self._sampled_pixels = max(1, LOCAL_ANGLE_PIXELS // max_windows)
        self._scenes: dict[str, dict[str, Scores]] = {method.name: {} for method in methods}
        self._covers: dict[str, dict[str, Accumulator]] = {method.name: {} for method in methods}
        self._curves: dict[str, list[Curve]] = {method.name: [] for method in methods}
        # Of the current scene, by method and land cover, and by method.
        self._accumulators: dict[tuple[str, str], Accumulator] = {}
        self._angles: dict[str, LocalAngles] = {}

    def add(self, window: ScoredWindow, outputs: Mapping[str, MethodOutput]) -> None:
        """Add a window with the output of every method."""
        valid = np.flatnonzero(window.valid)
        self.pixels[window.scene] = self.pixels.get(window.scene, 0) + len(valid)
        reference, cover_names = _SsimReference(window), window.cover.ravel()[valid]
        pixels_of = {str(cover): valid[cover_names == cover] for cover in np.unique(cover_names)}
        truth = {cover: _pixels(window.truth, pixels) for cover, pixels in pixels_of.items()}
        sample = valid[:: max(1, -(-len(valid) // self._sampled_pixels))]
        for method in self.methods:
            output = outputs[method.name]
            for cover, pixels in pixels_of.items():
                sums = self._accumulators.setdefault((method.name, cover), Accumulator(self.bands))
                sigma = None if output.sigma is None else _pixels(output.sigma, pixels)
                sums.add(_pixels(output.estimate, pixels), truth[cover], sigma)
            # SSIM and time belong to the window: they are added to one land cover, and so count once in the scene.
            sums.window_ssim.append(reference.ssim(output.estimate))
            sums.time += output.seconds, window.valid.size
            angles = self._angles.setdefault(method.name, LocalAngles(self.bands))
            angles.add(_pixels(output.estimate, sample), _pixels(window.truth, sample))

    def close_scene(self, scene: str) -> None:
        """Compute the scores of a scene after its last window; a scene without windows is ignored."""
        if not self._accumulators:
            return
        for method in self.methods:
            by_cover = {cover: sums for (name, cover), sums in self._accumulators.items() if name == method.name}
            total = reduce(add, by_cover.values())
            self._scenes[method.name][scene] = scores_of(total)
            angle = self._angles[method.name].median()
            self._curves[method.name].append(Curve(total.rmse, total.bias, angle, total.reliability))
            covers = self._covers[method.name]
            for cover, sums in by_cover.items():
                covers[cover] = covers[cover] + sums if cover in covers else sums
        self._accumulators.clear()
        self._angles.clear()

    def rows(self, seed: int) -> tuple[MethodScores, ...]:
        """The scores of each method; `seed` is the seed of the bootstrap."""
        overall = {method.name: mean_scores(list(self._scenes[method.name].values())) for method in self.methods}
        prior_rmse = overall[PRIOR]["rmse"] if PRIOR in overall else float("nan")
        return tuple(
            MethodScores(
                method=method.name,
                kind=method.kind,
                overall=overall[method.name],
                interval=bootstrap_intervals(list(self._scenes[method.name].values()), np.random.default_rng(seed)),
                scenes=self._scenes[method.name],
                covers={cover: scores_of(sums) for cover, sums in sorted(self._covers[method.name].items())},
                to_prior=overall[method.name]["rmse"] / prior_rmse if prior_rmse else float("nan"),
                train_mse=method.train_mse,
            )
            for method in self.methods
        )

    def curves(self) -> dict[str, Curve]:
        """By method: the mean curve over scenes, each with the same weight."""
        return {name: _mean_curve(curves) for name, curves in self._curves.items()}


def _pixels(image: Float32Array, positions: NDArray[np.intp]) -> Float32Array:
    """(band, pixel) of an image (band, row, col), at flat pixel positions."""
    return np.take(image.reshape(len(image), -1), positions, axis=1)


class _SsimReference:
    """The truth of a window without its unknown bands, prepared once for all methods."""

    def __init__(self, window: ScoredWindow) -> None:
        known = np.isfinite(window.truth)
        # Bands that are known in most pixels, and the pixels in which all these bands are known.
        self.bands = known.sum(axis=(1, 2)) > window.valid.sum() / 2
        self.valid = window.valid & known[self.bands].all(axis=0)
        self.truth = window.truth[self.bands]

    def ssim(self, estimate: Float32Array) -> float:
        """Structural similarity; NaN where no square of 7 pixels is known completely."""
        if min(self.valid.shape) < SSIM_PIXELS or not self.bands.any():
            return float("nan")
        return ssim(estimate[self.bands], self.truth, self.valid)


def bootstrap_intervals(scores: Sequence[Scores], rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """90 % percentile bootstrap intervals (Efron 1979) of the mean over scenes; empty for fewer than two scenes."""
    if len(scores) < 2:
        return {}
    draws = rng.integers(len(scores), size=(BOOTSTRAP_DRAWS, len(scores)))
    result = {}
    for key in (key for key, metric in METRICS.items() if metric.has_interval):
        values = np.array([scene[key] for scene in scores])
        if np.isfinite(values).all():
            low, high = np.quantile(values[draws].mean(axis=1), [0.05, 0.95])
            result[key] = (float(low), float(high))
    return result


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    reliability = [curve.reliability for curve in curves if curve.reliability is not None]
    rmse, bias, sam = (_known_mean([getattr(curve, name) for curve in curves]) for name in ("rmse", "bias", "sam"))
    return Curve(rmse, bias, sam, _known_mean(reliability) if reliability else None)


def _known_mean(rows: Sequence[FloatArray]) -> FloatArray:
    """Mean over rows of the finite values; NaN where a column has none."""
    values = np.stack(rows)
    known = np.isfinite(values)
    return ratios(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))
