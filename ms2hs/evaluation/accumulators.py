"""Per-band sums of errors, from which every metric is computed.

Whole scenes do not fit in memory. An `Accumulator` therefore takes the pixels of one method window by window and
keeps sums: of errors, of their squares, of the truth, of band depths and of interval hits. Spectral angles are kept
per pixel, because a median is no sum. Accumulators of different pixels add up to the accumulator of all pixels.
"""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.spectra.metrics import band_depth, spectral_angle
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

# Absorption features whose depth is scored, by their centre in nm: left shoulder, centre, right shoulder.
FEATURES_NM: dict[int, tuple[float, float, float]] = {
    670: (560.0, 670.0, 780.0),  # chlorophyll
    1200: (1090.0, 1200.0, 1275.0),  # leaf water
    1730: (1660.0, 1730.0, 1780.0),  # lignin, cellulose, nitrogen
    2100: (2040.0, 2100.0, 2210.0),  # cellulose
    2205: (2135.0, 2205.0, 2245.0),  # Al-OH: clay
    2330: (2265.0, 2330.0, 2380.0),  # carbonate, Mg-OH
}
# Nominal shares of the prediction intervals whose coverage is counted.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.7, 0.8, 0.9, 0.95)
# Half-width of each of these intervals, in standard deviations.
LEVEL_SIGMAS = np.array([NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS])
# Largest distance between a shoulder or centre of a feature and the band that represents it.
MAX_FEATURE_DISTANCE_NM = 30.0
# Below this reflectance of a shoulder the depth is a ratio of noise (water, deep shadow).
MIN_SHOULDER_REFLECTANCE = 0.02
# Half-width of the wavelength range of a local spectral angle.
LOCAL_ANGLE_NM = 100.0
# Pixels added at once; few, so that intermediate arrays stay in the processor's cache.
PIXELS_PER_CHUNK = 512


@dataclass(frozen=True, eq=False)
class TargetBands:
    """The bands that are scored."""

    grid: SpectralGrid
    """In ascending wavelength."""
    measured: BoolArray
    """(band,) True where a source band covers the target band."""

    @cached_property
    def features(self) -> dict[int, list[int]]:
        """Positions of left shoulder, centre and right shoulder, for each feature with three different bands."""
        features = {}
        for name, at_nm in FEATURES_NM.items():
            nearest = [nearest_band(self.grid.wavelength_nm, nm, MAX_FEATURE_DISTANCE_NM) for nm in at_nm]
            bands = [band for band in nearest if band is not None]
            if len(set(bands)) == len(at_nm):
                features[name] = bands
        return features

    @cached_property
    def local_bands(self) -> list[slice]:
        """(band,) the bands within 100 nm of each band."""
        nm = self.grid.wavelength_nm
        first = np.searchsorted(nm, nm - LOCAL_ANGLE_NM)
        last = np.searchsorted(nm, nm + LOCAL_ANGLE_NM, side="right")
        return [slice(int(low), int(high)) for low, high in zip(first, last, strict=True)]


class Accumulator:
    """Sums over the pixels of one method."""

    def __init__(self, bands: TargetBands) -> None:
        """Start with all sums at zero."""
        self.bands = bands
        self.count, self.error_sum, self.square_sum = np.zeros((3, len(bands.grid)))
        """(band,) number of known values, sum of estimate minus truth, and sum of squared errors."""
        self.truth_sum, self.truth_square_sum = np.zeros((2, len(bands.grid)))
        """(band,) sum of the truth, and of the squared truth."""
        self.depth_sums = np.zeros((len(FEATURES_NM), 2))
        """(feature, 2) sum of squared errors of the band depth, and number of pixels."""
        self.inside_counts = np.zeros(len(LEVELS) + 1)
        """(level + 1,) values inside the interval of each of `LEVELS`, and number of values with an interval."""
        self.time = np.zeros(2)
        """Seconds of computation, and number of pixels computed."""
        self.angles: list[Float32Array] = []
        """One array (pixel,) per chunk: spectral angle in degrees."""
        self.window_ssim: list[float] = []
        """Structural similarity of each window."""

    def add(self, estimate: Float32Array, truth: Float32Array, sigma: Float32Array | None = None) -> None:
        """Add pixels: (band, pixel) each; `truth` is NaN where unknown, `estimate` finite where the truth is known."""
        for start in range(0, truth.shape[1], PIXELS_PER_CHUNK):
            chunk = np.s_[:, start : start + PIXELS_PER_CHUNK]
            self._add(estimate[chunk], truth[chunk], None if sigma is None else sigma[chunk])

    def _add(self, estimate: Float32Array, truth: Float32Array, sigma: Float32Array | None) -> None:
        known = np.isfinite(truth)
        error = np.where(known, estimate.astype(float) - truth, 0.0)
        true = np.where(known, truth, 0.0).astype(float)
        self.count += known.sum(axis=1)
        self.error_sum += error.sum(axis=1)
        self.square_sum += np.einsum("ij,ij->i", error, error)
        self.truth_sum += true.sum(axis=1)
        self.truth_square_sum += np.einsum("ij,ij->i", true, true)
        self.angles.append(spectral_angle(estimate, truth).astype(np.float32))
        self._add_depths(estimate, truth)
        if sigma is not None:
            self._add_intervals(np.abs(error[known]), sigma[known])

    def _add_depths(self, estimate: Float32Array, truth: Float32Array) -> None:
        """Add the pixels whose true shoulders are bright enough; an undefined depth of the estimate counts as 0."""
        nm = self.bands.grid.wavelength_nm
        for name, bands in self.bands.features.items():
            estimated, true = (
                np.clip(band_depth(values[bands].astype(float), nm[bands], FEATURES_NM[name]), -1, 1)
                for values in (estimate, truth)
            )
            bright = (truth[bands[0]] >= MIN_SHOULDER_REFLECTANCE) & (truth[bands[2]] >= MIN_SHOULDER_REFLECTANCE)
            known = np.isfinite(true) & bright
            error = np.nan_to_num(estimated[known]) - true[known]
            self.depth_sums[list(FEATURES_NM).index(name)] += np.square(error).sum(), known.sum()

    def _add_intervals(self, error: FloatArray, sigma: Float32Array) -> None:
        known = np.isfinite(sigma)
        error, width = error[known], sigma[known].astype(float)
        self.inside_counts[:-1] += [np.count_nonzero(error <= factor * width) for factor in LEVEL_SIGMAS]
        self.inside_counts[-1] += len(error)

    def __add__(self, other: "Accumulator") -> "Accumulator":
        """The sums over the pixels of both."""
        total = Accumulator(self.bands)
        for name, value in vars(self).items():
            if name != "bands":
                setattr(total, name, value + getattr(other, name))
        return total

    @property
    def rmse(self) -> FloatArray:
        """(band,) reflectance; NaN where no value is known."""
        return np.sqrt(ratios(self.square_sum, self.count))

    @property
    def bias(self) -> FloatArray:
        """(band,) mean of estimate minus truth; NaN where no value is known."""
        return ratios(self.error_sum, self.count)

    @property
    def truth_mean(self) -> FloatArray:
        """(band,) reflectance; NaN where no value is known."""
        return ratios(self.truth_sum, self.count)

    @property
    def truth_variation(self) -> FloatArray:
        """(band,) sum of squared deviations of the truth from its mean; 0 where only rounding error is left."""
        variation = self.truth_square_sum - self.count * np.square(np.nan_to_num(self.truth_mean))
        variation[variation <= 1e-12 * np.maximum(self.truth_square_sum, 1e-30)] = 0
        return variation

    @property
    def reliability(self) -> FloatArray | None:
        """(level,) share of values inside each interval; None if the method has no intervals."""
        return ratios(self.inside_counts[:-1], self.inside_counts[-1]) if self.inside_counts[-1] else None

    @property
    def known_angles(self) -> Float32Array:
        """(pixel,) spectral angles in degrees; pixels without an angle are left out."""
        angles = np.concatenate(self.angles or [np.empty(0, np.float32)])
        return angles[np.isfinite(angles)]

    def mse(self, bands: BoolArray | slice = np.s_[:]) -> float:
        """Mean square error over the values of some bands; NaN if none is known."""
        return ratio(self.square_sum[bands].sum(), self.count[bands].sum())


class LocalAngles:
    """Spectral angle by wavelength: the angle between the parts of two spectra within 100 nm of each band.

    Angles are kept for every pixel and band, so callers should add a sample of the pixels.
    """

    def __init__(self, bands: TargetBands) -> None:
        """Start without pixels."""
        self.bands = bands
        self._angles: list[Float32Array] = []

    def add(self, estimate: Float32Array, truth: Float32Array) -> None:
        """Add pixels, as in `Accumulator.add`."""
        known = np.isfinite(truth)
        first, second = (np.where(known, values, 0).astype(float) for values in (estimate, truth))
        angles = np.full(second.shape, np.nan, np.float32)
        products = (first, second), (first, first), (second, second)
        # Cosines from running sums of products along the bands: exact to 1e-6 degrees in float64, enough for a curve.
        running = [np.vstack([np.zeros(second.shape[1]), np.cumsum(a * b, 0)]) for a, b in products]
        for band, part in enumerate(self.bands.local_bands):
            across, *squares = (sums[part.stop] - sums[part.start] for sums in running)
            lengths = np.sqrt(np.maximum(squares[0] * squares[1], 0))
            defined = known[band] & (lengths > 0)
            cosine = np.divide(across, lengths, out=np.ones_like(across), where=defined)
            angles[band, defined] = np.degrees(np.arccos(np.clip(cosine[defined], -1, 1)))
        self._angles.append(angles)

    def median(self) -> FloatArray:
        """(band,) degrees; NaN where no angle is known."""
        angles = np.concatenate(self._angles, axis=1)
        return np.array([np.median(row[known]) if (known := np.isfinite(row)).any() else np.nan for row in angles])


def ratio(total: float, count: float) -> float:
    """`total / count`; NaN if the count is 0."""
    return float(total / count) if count else float("nan")


def ratios(sums: FloatArray, count: FloatArray) -> FloatArray:
    """`sums / count` of each element, NaN where the count is 0."""
    result: FloatArray = np.divide(sums, count, out=np.full(np.shape(sums), np.nan), where=np.asarray(count) > 0)
    return result
