"""Radiometric comparison of two sensors on the same pixels: difference, gain and offset of each band."""

from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid

# From processing baseline 04.00 on, Sentinel-2's dn carry +1000, which is 0.1 in reflectance. If the offset is ignored,
# all bands are too bright by 0.1; if it is applied twice, too dark (github.com/EnMAP-Box/enmap-box issue 1524).
BASELINE_OFFSET = 0.1
# Largest deviation of a band's difference from this offset; real products also differ by 0.01-0.03 for other reasons.
OFFSET_TOLERANCE = 0.03
# Percentiles whose distance measures the spread of a band.
SPREAD_PERCENTILES = (16.0, 84.0)
MIN_PIXELS_FOR_AXIS = 64
# Spread in reflectance below which a band has no gain.
MIN_SPREAD = 1e-4
# Number of fits of the line, and the multiple of the median distance from a line beyond which the next fit leaves out
# values (3 standard deviations of a Gaussian): undetected cloud, and changes between the two days.
FITS = 4
MAX_MEDIAN_DISTANCES = 4.45


@dataclass(frozen=True, eq=False)
class BandComparison:
    """Measured reflectance of a multispectral sensor against that expected from a hyperspectral one, band by band."""

    names: tuple[str, ...]
    """(band,) bands of the multispectral sensor."""
    wavelength_nm: FloatArray
    difference: FloatArray
    """(band,) median of measured minus expected reflectance; NaN where the hyperspectral sensor has no such band."""
    gain: FloatArray
    """(band,) gain of the line `measured = gain * expected + offset`; NaN where the expected values have no spread."""
    offset: FloatArray
    """(band,) in reflectance."""

    @property
    def constant_offset(self) -> float | None:
        """Median difference in reflectance, if it is near +0.1 in every band or near -0.1 in every band."""
        known = self.difference[np.isfinite(self.difference)]
        if len(known) < 2:
            return None
        nearest = BASELINE_OFFSET * float(np.sign(np.median(known)))
        return float(np.median(known)) if np.abs(known - nearest).max() <= OFFSET_TOLERANCE else None


def compare_bands(measured: FloatArray, expected: FloatArray, grid: SpectralGrid) -> BandComparison:
    """Comparison of reflectance (band, pixel), NaN where unknown, in the bands of `grid`.

    The line is the reduced major axis (Kermack & Haldane 1950, doi:10.1093/biomet/37.1-2.30), which treats both sensors
    alike, with medians for means and the distance between the 16th and 84th percentile for standard deviations. The
    gain is the ratio of these distances. Least squares would turn noise and blur of one sensor into a gain below 1.
    """
    if measured.shape != expected.shape or len(measured) != len(grid):
        raise ValueError(f"values of shape {measured.shape} and {expected.shape}; ({len(grid)}, pixel) are needed")
    lines = np.array([_fit_line(*both) for both in zip(measured, expected, strict=True)])
    return BandComparison(grid.names, grid.wavelength_nm, *lines.T)


def _fit_line(measured: FloatArray, expected: FloatArray) -> tuple[float, float, float]:
    """Difference, gain and offset of one band."""
    known = np.isfinite(measured) & np.isfinite(expected)
    if known.sum() < MIN_PIXELS_FOR_AXIS:
        return (float("nan"),) * 3
    measured, expected = (np.asarray(values[known], float) for values in (measured, expected))
    difference = float(np.median(measured - expected))
    kept = np.ones(len(measured), bool)
    gain = offset = float("nan")
    for _ in range(FITS):
        spreads = [float(np.diff(np.percentile(side[kept], SPREAD_PERCENTILES))[0]) for side in (measured, expected)]
        if spreads[1] < MIN_SPREAD:
            return difference, float("nan"), float("nan")
        gain = spreads[0] / spreads[1]
        offset = float(np.median(measured[kept]) - gain * np.median(expected[kept]))
        distance = np.abs(measured - gain * expected - offset)
        kept = distance <= MAX_MEDIAN_DISTANCES * max(float(np.median(distance)), MIN_SPREAD)
    return difference, gain, offset
