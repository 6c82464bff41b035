"""Spectral grids: bands with centres, widths and responses, and the linear maps between grids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.errors import GridError

Support = Literal["measured", "interpolated", "inferred"]
# Full width at half maximum of a Gaussian in standard deviations: 2 sqrt(2 ln 2).
FWHM_PER_SIGMA = 2.354820045
# A gap between measured bands that is wider than this can contain whole absorption features (the leaf-water band at
# 1200 nm is about 100 nm wide). Values in such a gap are inferred, not interpolated.
MAX_GAP_NM = 120.0
# Share of a target band's FWHM interval that a source band must cover to represent it (arXiv 2502.19451).
MIN_OVERLAP = 0.6
# Numbers in a response matrix while it is computed, before memory is taken: 2000 bands of 2 nm need 2e7.
MAX_RESPONSE_VALUES = 40_000_000


@dataclass(frozen=True, eq=False)
class Response:
    """Tabulated relative spectral response of each band of a grid."""

    wavelength_nm: FloatArray
    """(sample,) ascending, in nm."""
    value: FloatArray
    """(band, sample) in any scale, at least 0."""


@dataclass(frozen=True, eq=False)
class SpectralGrid:
    """The bands of a sensor in the order of its files, which need not be the order of wavelengths."""

    names: tuple[str, ...]
    """(band,) unique."""
    wavelength_nm: FloatArray
    """(band,) centres in nm."""
    fwhm_nm: FloatArray
    """(band,) full width at half maximum in nm."""
    good: BoolArray
    """(band,) False where the sensor's products flag the band as bad (water vapour)."""
    response: Response | None = None
    """Tabulated response; None means a Gaussian of `fwhm_nm`."""
    support: tuple[Support, ...] = ()
    """(band,) how the source of a converted cube supports each band; empty if unknown."""

    def __post_init__(self) -> None:
        """Check the shapes and values; GridError if they disagree."""
        bands = len(self.names)
        for field in ("wavelength_nm", "fwhm_nm", "good"):
            shape = getattr(self, field).shape
            if shape != (bands,):
                raise GridError(f"{field} has shape {shape}; {(bands,)} is required. Check the table.")
        if self.response is not None and (rows := len(self.response.value)) != bands:
            raise GridError(f"the response has {rows} bands; {bands} are required, one row per band. Check the table.")
        if self.support and len(self.support) != bands:
            raise GridError(f"support has {len(self.support)} bands; {bands} are required. Check the table.")
        if len(set(self.names)) != bands:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise GridError(f"band names appear twice: {', '.join(twice)}; each must be unique. Rename them.")
        if not bands or not np.all(np.isfinite(self.wavelength_nm) & (self.wavelength_nm > 0)):
            raise GridError("a grid requires at least one band, and finite wavelengths above 0 nm. Check the table.")
        if not np.all(np.isfinite(self.fwhm_nm) & (self.fwhm_nm > 0)):
            raise GridError("band widths (FWHM) must be finite and above 0 nm. Check the table.")

    def __len__(self) -> int:
        """Number of bands."""
        return len(self.names)

    @cached_property
    def range_nm(self) -> tuple[float, float]:
        """Lowest and highest wavelength at half maximum of any band, in nm."""
        half = self.fwhm_nm / 2
        return float((self.wavelength_nm - half).min()), float((self.wavelength_nm + half).max())

    def select(self, bands: Sequence[int] | NDArray[np.integer] | BoolArray) -> "SpectralGrid":
        """The grid of some bands in the given order, by their positions or by a boolean for each band."""
        index = np.arange(len(self))[np.asarray(bands)]
        response = self.response and Response(self.response.wavelength_nm, self.response.value[index])
        names = tuple(self.names[i] for i in index)
        support = tuple(self.support[i] for i in index) if self.support else ()
        return SpectralGrid(names, self.wavelength_nm[index], self.fwhm_nm[index], self.good[index], response, support)

    def index(self, names: Sequence[str]) -> list[int]:
        """Positions of band names; GridError if a name is unknown."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise GridError(f"no band {', '.join(missing)}; available: {', '.join(self.names)}. Use these names.")
        return [self.names.index(name) for name in names]


def grid_of(wavelength_nm: FloatArray, fwhm_nm: FloatArray | None = None) -> SpectralGrid:
    """A grid of Gaussian bands; bands without a width reach half-way to their neighbours.

    Parameters
    ----------
    wavelength_nm : (band,) in nm, in any order.
    fwhm_nm : (band,) in nm; NaN = unknown.
    """
    centres = np.asarray(wavelength_nm, float)
    widths = np.full(len(centres), np.nan) if fwhm_nm is None else np.asarray(fwhm_nm, float)
    if np.isnan(widths).any():
        distinct = np.unique(centres)
        spacing = np.gradient(distinct) if len(distinct) > 1 else np.full(len(distinct), 10.0)
        widths = np.where(np.isnan(widths), np.interp(centres, distinct, np.maximum(spacing, 1.0)), widths)
    names = tuple(f"B{i + 1:03d}" for i in range(len(centres)))
    return SpectralGrid(names, centres, widths, np.ones(len(centres), bool))


def response_matrix(grid: SpectralGrid, wavelength_nm: FloatArray) -> FloatArray:
    """(band, sample) float64 with rows that sum to 1: `matrix @ spectrum` is the measurement of each band of `grid`.

    The spectrum is piecewise linear through its samples. A band measures the mean of this line, weighted by the band's
    response, so that bands narrower than the sampling are right too. The part of a response beyond the samples is
    ignored, and the rest is normalised.

    Parameters
    ----------
    grid : the measuring bands.
    wavelength_nm : (sample,) wavelengths of the spectrum in nm, in any order.

    Raises
    ------
    GridError : the centre of a band lies outside the samples; the message gives both ranges.
    """
    samples = np.asarray(wavelength_nm, float)
    low, high = float(samples.min()), float(samples.max())
    outside = (grid.wavelength_nm < low) | (grid.wavelength_nm > high)
    if outside.any():
        which = ", ".join(f"{nm:.1f}" for nm in grid.wavelength_nm[outside][:5])
        raise GridError(
            f"bands at {which} nm are outside the known spectrum; {low:.1f}-{high:.1f} nm is allowed. Remove them."
        )
    step = min(0.5, float(grid.fwhm_nm.min()) / 10)
    count = (high - low) / step
    if not count * len(grid) <= MAX_RESPONSE_VALUES:
        raise GridError(
            f"{len(grid)} bands of {grid.fwhm_nm.min():g} nm and more, on a spectrum of {low:g}-{high:g} nm, are too "
            f"many; {MAX_RESPONSE_VALUES / 1e6:g} million numbers are allowed. Use fewer or wider bands."
        )
    dense = np.linspace(low, high, max(2, int(np.ceil(count)) + 1))
    if grid.response is None:
        sigma = grid.fwhm_nm[:, None] / FWHM_PER_SIGMA
        weight = np.exp(-0.5 * ((dense[None] - grid.wavelength_nm[:, None]) / sigma) ** 2)
        weight[weight < 1e-4] = 0  # real responses end; otherwise a distant NaN would reach every band
    else:
        table = grid.response
        weight = np.stack([np.interp(dense, table.wavelength_nm, row, left=0, right=0) for row in table.value])
    weight /= weight.sum(axis=1, keepdims=True)
    order = np.argsort(samples, kind="stable")
    return _spread(weight, dense, samples[order])[:, np.argsort(order, kind="stable")]


def _spread(weight: FloatArray, dense: FloatArray, samples: FloatArray) -> FloatArray:
    """(band, sample) `weight` of each dense point, split between its two neighbouring samples; equal samples share."""
    distinct, which, count = np.unique(samples, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.repeat(weight.sum(axis=1, keepdims=True) / count[0], count[0], axis=1)
    right = np.clip(np.searchsorted(distinct, dense, side="right"), 1, len(distinct) - 1)
    share = (dense - distinct[right - 1]) / (distinct[right] - distinct[right - 1])
    spread = np.zeros((len(dense), len(distinct)))
    rows = np.arange(len(dense))
    spread[rows, right - 1] = 1 - share
    spread[rows, right] += share
    shared: FloatArray = (weight @ spread) / count
    return shared[:, which]


def line_weights(at_nm: FloatArray, knots_nm: FloatArray) -> FloatArray:
    """(wavelength, knot) weights of linear interpolation between ascending knots, constant beyond the outer knots."""
    return np.stack([np.interp(at_nm, knots_nm, unit) for unit in np.eye(len(knots_nm))], axis=1)


def nearest_band(wavelength_nm: FloatArray, target_nm: float, reach_nm: float) -> int | None:
    """Position of the band with the centre nearest to `target_nm`; None without a band within `reach_nm`."""
    distance = np.abs(wavelength_nm - target_nm)
    nearest = int(np.nanargmin(distance))
    return nearest if distance[nearest] <= reach_nm else None


def band_overlap(source: SpectralGrid, target: SpectralGrid) -> FloatArray:
    """(target band, source band) share (0-1) of the target's FWHM interval that the source's interval covers."""
    low = np.maximum.outer(target.wavelength_nm - target.fwhm_nm / 2, source.wavelength_nm - source.fwhm_nm / 2)
    high = np.minimum.outer(target.wavelength_nm + target.fwhm_nm / 2, source.wavelength_nm + source.fwhm_nm / 2)
    share: FloatArray = np.clip(high - low, 0, None) / target.fwhm_nm[:, None]
    return share


def pasted_bands(source: SpectralGrid, target: SpectralGrid) -> NDArray[np.intp]:
    """(target band,) position of the source band that represents the target band, -1 without one.

    A source band represents a target band if it covers at least 60 % of the target's FWHM interval (centre ± FWHM / 2).
    Of several, the band with the largest cover is chosen, then the narrowest.

    Source: arXiv 2502.19451, which leaves the choice between several bands open.
    """
    share = band_overlap(source, target)
    narrow_first = np.argsort(source.fwhm_nm, kind="stable")
    best = narrow_first[share[:, narrow_first].argmax(axis=1)]
    return np.where(share.max(axis=1) >= MIN_OVERLAP, best, -1)


def band_support(source: SpectralGrid, target: SpectralGrid) -> list[Support]:
    """How the source supports the value of each target band: one of `Support` per target band.

    `measured`: a source band represents the target band (`pasted_bands`).
    `interpolated`: the target band lies between two source bands at most `MAX_GAP_NM` apart, edge to edge.
    `inferred`: neither; the value comes from the correlation of bands in other spectra.
    """
    measured = pasted_bands(source, target) >= 0
    low, high = source.wavelength_nm - source.fwhm_nm / 2, source.wavelength_nm + source.fwhm_nm / 2
    support: list[Support] = []
    for is_measured, centre in zip(measured, target.wavelength_nm, strict=True):
        below = centre - high[high <= centre].max(initial=-np.inf)
        above = low[low >= centre].min(initial=np.inf) - centre
        inside = bool(((low <= centre) & (centre <= high)).any())
        between = inside or below + above <= MAX_GAP_NM
        support.append("measured" if is_measured else "interpolated" if between else "inferred")
    return support
