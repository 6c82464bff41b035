"""Sums from which scores follow, so that neither scenes nor their reconstructions need be in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import NormalDist

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.evaluation.results import FEATURES_NM, Scores
from ms2hs.spectra.metrics import band_depth, ergas, psnr, r2, spectral_angle
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

# Nominal shares of the intervals of which it is counted how many values they hold.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.7, 0.8, 0.9, 0.95)
# Half their widths in standard deviations.
FACTORS = np.array([NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS])
# The shoulders and the centre of a feature may lie so far from the bands that stand for them.
FEATURE_REACH_NM = 30.0
# Where the shoulders of a feature are darker its depth is a ratio of noise (water, deep shadow).
DARKEST_SHOULDER = 0.02
# Half the width of the part of a spectrum whose angle is told by wavelength.
PART_NM = 100.0
# Few enough that what is computed of them stays in a processor's cache.
PIXELS_AT_A_TIME = 512
_NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Bands:
    """What a tally must know of the target's bands."""

    grid: SpectralGrid
    """In ascending wavelength."""
    measured: BoolArray
    """(band,) whether the source measured it."""

    @cached_property
    def features(self) -> dict[int, tuple[int, int, int]]:
        """Left shoulder, centre and right shoulder of each feature that has three bands, by position."""
        found = {}
        for name, at_nm in FEATURES_NM.items():
            bands = [nearest_band(self.grid.wavelength_nm, nm, FEATURE_REACH_NM) for nm in at_nm]
            there = tuple(band for band in bands if band is not None)
            if len(set(there)) == len(at_nm):
                found[name] = (there[0], there[1], there[2])
        return found

    @cached_property
    def parts(self) -> list[slice]:
        """(band,) the bands within 100 nm of each."""
        nm = self.grid.wavelength_nm
        first = np.searchsorted(nm, nm - PART_NM)
        last = np.searchsorted(nm, nm + PART_NM, side="right")
        return [slice(int(low), int(high)) for low, high in zip(first, last, strict=True)]


@dataclass(eq=False)
class Accumulator:
    """Sums over pixels of one method; tallies of different pixels add up to that of all of them."""

    bands: Bands
    count: FloatArray = field(init=False)
    """(band,) known values."""
    error: FloatArray = field(init=False)
    """(band,) sum of estimate minus truth."""
    squares: FloatArray = field(init=False)
    """(band,) sum of its square."""
    truth: FloatArray = field(init=False)
    """(band,)"""
    truth_squares: FloatArray = field(init=False)
    """(band,)"""
    depths: FloatArray = field(init=False)
    """(feature, 2): sum of squared errors of the depth, pixels."""
    held: FloatArray = field(init=False)
    """(level + 1,): values within the interval of each of `LEVELS`; values that have one."""
    angles: list[Float32Array] = field(default_factory=list)
    """Of the pixels added each time, degrees."""
    similar: list[float] = field(default_factory=list)
    """Structural similarity of each window."""
    clock: FloatArray = field(default_factory=lambda: np.zeros(2))
    """Seconds, and the pixels that they were spent on."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        bands = len(self.bands.grid)
        for name in ("count", "error", "squares", "truth", "truth_squares"):
            setattr(self, name, np.zeros(bands))
        self.depths = np.zeros((len(FEATURES_NM), 2))
        self.held = np.zeros(len(LEVELS) + 1)

    def add(self, estimate: Float32Array, truth: Float32Array, sigma: Float32Array | None = None) -> None:
        """Count pixels: (band, pixel) each; `truth` NaN where unknown, `estimate` finite where it is known."""
        for start in range(0, truth.shape[1], PIXELS_AT_A_TIME):
            part = np.s_[:, start : start + PIXELS_AT_A_TIME]
            self._add(estimate[part], truth[part], None if sigma is None else sigma[part])

    def _add(self, estimate: Float32Array, truth: Float32Array, sigma: Float32Array | None) -> None:
        known = np.isfinite(truth)
        error = np.where(known, estimate.astype(float) - truth, 0.0)
        true = np.where(known, truth, 0.0).astype(float)
        self.count += known.sum(axis=1)
        self.error += error.sum(axis=1)
        self.squares += np.einsum("ij,ij->i", error, error)
        self.truth += true.sum(axis=1)
        self.truth_squares += np.einsum("ij,ij->i", true, true)
        self.angles.append(spectral_angle(estimate, truth).astype(np.float32))
        self._add_depths(estimate, truth)
        if sigma is not None:
            self._add_intervals(np.abs(error[known]), sigma[known])

    def _add_depths(self, estimate: Float32Array, truth: Float32Array) -> None:
        """Of pixels whose true shoulders are bright enough; an estimate that has no depth there has one of 0."""
        nm = self.bands.grid.wavelength_nm
        for index, name in enumerate(FEATURES_NM):
            if name not in self.bands.features:
                continue
            three = list(self.bands.features[name])
            made, true = (
                np.clip(band_depth(values[three].astype(float), nm[three], FEATURES_NM[name]), -1, 1)
                for values in (estimate, truth)
            )
            known = np.isfinite(true) & (truth[three[0]] >= DARKEST_SHOULDER) & (truth[three[2]] >= DARKEST_SHOULDER)
            self.depths[index] += np.square(np.nan_to_num(made[known]) - true[known]).sum(), known.sum()

    def _add_intervals(self, error: FloatArray, sigma: Float32Array) -> None:
        known = np.isfinite(sigma)
        error, wide = error[known], sigma[known].astype(float)
        self.held[:-1] += [np.count_nonzero(error <= factor * wide) for factor in FACTORS]
        self.held[-1] += len(error)

    def __add__(self, other: "Accumulator") -> "Accumulator":
        """Of the pixels of both."""
        total = Accumulator(self.bands)
        for name in ("count", "error", "squares", "truth", "truth_squares", "depths", "held", "clock"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total.angles = self.angles + other.angles
        total.similar = self.similar + other.similar
        return total

    @property
    def rmse(self) -> FloatArray:
        """(band,) NaN where nothing is known."""
        return np.sqrt(_over(self.squares, self.count))

    @property
    def bias(self) -> FloatArray:
        """(band,) NaN where nothing is known."""
        return _over(self.error, self.count)

    @property
    def reliability(self) -> FloatArray | None:
        """(level,) share of values within each interval; None where the method has none."""
        return _over(self.held[:-1], self.held[-1]) if self.held[-1] else None

    def scores(self) -> Scores:
        """What the sums say."""
        mean = _over(self.truth, self.count)
        variation = self.truth_squares - self.count * np.square(np.nan_to_num(mean))
        # what rounding leaves of a band that does not vary is no variation
        variation[variation <= 1e-12 * np.maximum(self.truth_squares, 1e-30)] = 0
        mse = _ratio(self.squares.sum(), self.count.sum())
        held = self.reliability
        angles = np.concatenate(self.angles or [np.empty(0, np.float32)])
        angles = angles[np.isfinite(angles)]
        return Scores(
            mse=mse,
            masked_mse=self._mse(~self.bands.measured),
            unmasked_mse=self._mse(self.bands.measured),
            ssim=_mean(value for value in self.similar if np.isfinite(value)),
            rmse=float(np.sqrt(mse)),
            bias=_ratio(self.error.sum(), self.count.sum()),
            sam_mean=_mean(angles),
            sam_median=float(np.median(angles)) if len(angles) else _NAN,
            psnr=psnr(mse),
            ergas=ergas(self.rmse, mean),
            r2=r2(self.squares, variation),
            depth={name: float(np.sqrt(_ratio(*found))) for name, found in zip(FEATURES_NM, self.depths, strict=True)},
            coverage_68=_NAN if held is None else float(held[LEVELS.index(0.68)]),
            coverage_90=_NAN if held is None else float(held[LEVELS.index(0.9)]),
            seconds=1e6 * _ratio(*self.clock),
        )

    def _mse(self, bands: BoolArray) -> float:
        return _ratio(self.squares[bands].sum(), self.count[bands].sum())


class PartAngles:
    """Angles of parts of spectra, by wavelength; all are kept, so that some pixels must stand for many."""

    def __init__(self, bands: Bands) -> None:
        """Nothing is known yet."""
        self.bands = bands
        self._angles: list[Float32Array] = []

    def add(self, estimate: Float32Array, truth: Float32Array) -> None:
        """Pixels as in `Accumulator.add`."""
        known = np.isfinite(truth)
        made, true = (np.where(known, values, 0).astype(float) for values in (estimate, truth))
        angles = np.full(true.shape, np.nan, np.float32)
        products = (made, true), (made, made), (true, true)
        # cosines of sums of products, which run along the band: exact to 1e-6 degrees in float64, enough for a curve
        running = [np.vstack([np.zeros(true.shape[1]), np.cumsum(a * b, 0)]) for a, b in products]
        for band, part in enumerate(self.bands.parts):
            across, first, second = (sums[part.stop] - sums[part.start] for sums in running)
            lengths = np.sqrt(np.maximum(first * second, 0))
            defined = known[band] & (lengths > 0)
            cosine = np.divide(across, lengths, out=np.ones_like(across), where=defined)
            angles[band, defined] = np.degrees(np.arccos(np.clip(cosine[defined], -1, 1)))
        self._angles.append(angles)

    def median(self) -> FloatArray:
        """(band,) degrees; NaN where nothing is known."""
        angles = np.concatenate(self._angles, axis=1)
        return np.array([np.median(row[known]) if (known := np.isfinite(row)).any() else _NAN for row in angles])


def _over(sums: FloatArray, count: FloatArray) -> FloatArray:
    result: FloatArray = np.divide(sums, count, out=np.full(np.shape(sums), np.nan), where=np.asarray(count) > 0)
    return result


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else _NAN


def _mean(values: Iterable[float]) -> float:
    found = np.fromiter(values, float)
    return float(found.mean()) if len(found) else _NAN
