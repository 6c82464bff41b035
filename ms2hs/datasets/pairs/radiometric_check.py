"""How well two sensors agree on the same pixels: difference, gain and offset of each band, and a forgotten constant."""

from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid

# From processing baseline 04.00 on Sentinel-2's numbers carry +1000, which is 0.1 in reflectance. Read without it, all
# bands are too bright by that; taken off twice, too dark (github.com/EnMAP-Box/enmap-box issue 1524).
CONSTANT = 0.1
# How far a band's difference may be from it: real products differ by 0.01-0.03 besides.
NEAR = 0.03
# Between these shares of the values lies what spread means here: one in six on either side is ignored.
INNER = (16.0, 84.0)
FEWEST_PIXELS = 64
# Of reflectance; values that differ less tell no gain.
LEAST_WIDTH = 1e-4
# The line is laid so many times, each without what lies further from the last than so many times the median distance
# (3 standard deviations of a Gaussian): cloud that nobody saw, and what changed between the two days.
ROUNDS = 4
FARTHEST = 4.45


@dataclass(frozen=True, eq=False)
class Agreement:
    """A multispectral sensor's values beside those that it should have, as a hyperspectral one tells."""

    names: tuple[str, ...]
    """(band,) of the multispectral sensor."""
    wavelength_nm: FloatArray
    difference: FloatArray
    """(band,) median of measured minus expected, in reflectance; NaN where the other sensor does not see the band."""
    gain: FloatArray
    """(band,) of the line `measured = gain * expected + offset`; NaN where the expected values hardly differ."""
    offset: FloatArray
    """(band,) in reflectance."""

    @property
    def constant(self) -> float | None:
        """What all bands are off by, in reflectance, if it is near +0.1 or near -0.1 in each of them."""
        known = self.difference[np.isfinite(self.difference)]
        if len(known) < 2:
            return None
        told = CONSTANT * float(np.sign(np.median(known)))
        return float(np.median(known)) if np.abs(known - told).max() <= NEAR else None


def agreement_of(measured: FloatArray, expected: FloatArray, grid: SpectralGrid) -> Agreement:
    """The agreement of values (band, pixel), NaN where unknown.

    The line is the reduced major axis (Kermack & Haldane 1950, doi:10.1093/biomet/37.1-2.30), which treats both sensors
    alike, with medians for means and the width between the 16th and 84th percentile for standard deviations: gain is
    the ratio of the widths. Least squares would take noise and blur of one sensor for a gain below 1.
    """
    if measured.shape != expected.shape or len(measured) != len(grid):
        raise ValueError(f"values of shape {measured.shape} and {expected.shape}; ({len(grid)}, pixel) are due")
    lines = np.array([_line(*both) for both in zip(measured, expected, strict=True)])
    return Agreement(grid.names, grid.wavelength_nm, *lines.T)


def _line(measured: FloatArray, expected: FloatArray) -> tuple[float, float, float]:
    """Difference, gain and offset of one band."""
    known = np.isfinite(measured) & np.isfinite(expected)
    if known.sum() < FEWEST_PIXELS:
        return (float("nan"),) * 3
    found, wanted = (np.asarray(values[known], float) for values in (measured, expected))
    difference = float(np.median(found - wanted))
    kept = np.ones(len(found), bool)
    gain = offset = float("nan")
    for _ in range(ROUNDS):
        widths = [float(np.diff(np.percentile(values[kept], INNER))[0]) for values in (found, wanted)]
        if widths[1] < LEAST_WIDTH:
            return difference, float("nan"), float("nan")
        gain = widths[0] / widths[1]
        offset = float(np.median(found[kept]) - gain * np.median(wanted[kept]))
        off = np.abs(found - gain * wanted - offset)
        kept = off <= FARTHEST * max(float(np.median(off)), LEAST_WIDTH)
    return difference, gain, offset
