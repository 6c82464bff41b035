"""Spectral indices that classify surfaces: water, snow, vegetation and bare ground.

`cover` names one land cover for each pixel. `CoverShares` gives the share of each cover instead, which changes
gradually from cover to cover, so that models of the covers can be blended without seams.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

GREEN_NM, RED_NM, NIR_NM, SWIR_NM = 560.0, 665.0, 865.0, 1610.0
# Largest distance of a band from these wavelengths.
REACH_NM = 40.0
# Open water and snow are both brighter in green than at 1610 nm; only snow is also bright in the near infrared.
# Hall et al. 1995, Remote Sens. Environ. 54:127, doi 10.1016/0034-4257(95)00137-P.
MIN_SNOW_NIR = 0.11
MIN_SNOW_INDEX = 0.4
# The NDVI of bare ground is below about 0.2 to 0.25, of full canopies above 0.5: Sobrino et al. 2004, Remote
# Sens. Environ. 90:434, doi 10.1016/j.rse.2004.02.003 (0.2 and 0.5); Montandon & Small 2008, Remote Sens. Environ.
# 112:1835, doi 10.1016/j.rse.2007.09.007 (soils up to 0.25 and more).
MIN_SPARSE_NDVI, MIN_DENSE_NDVI = 0.25, 0.5
COVERS = ("water", "snow", "vegetation", "sparse vegetation", "bare")
LAND = COVERS[2:]
# Where shares of covers change: NDVI of bare ground, of sparse and of dense vegetation, linear in between (ours, chosen
# by leaving places out); green-SWIR index of land and water; near infrared of water and snow; index of water and snow.
BARE_NDVI, SPARSE_NDVI, DENSE_NDVI = 0.1, 0.4, 0.7
WATER_INDEX, SNOW_INDEX, SNOW_NIR = (-0.1, 0.1), (0.3, 0.5), (0.09, 0.13)

Array = TypeVar("Array", bound=Any)
"""A NumPy array or a PyTorch tensor."""


def water_and_snow(reflectance: FloatArray, grid: SpectralGrid) -> tuple[BoolArray, BoolArray]:
    """(...) True for spectra (band, ...) of open water, and (...) True for spectra of snow or ice cloud.

    Both are brighter in green than at 1610 nm; water is dark in the near infrared (a positive modified NDWI: Xu 2006,
    Int. J. Remote Sens. 27:3025, doi 10.1080/01431160600589179), snow is bright there and has an NDSI above 0.4
    (source as for `MIN_SNOW_NIR`). False everywhere if the grid lacks green, near infrared or 1610 nm.
    """
    green, nir, swir = (_at(reflectance, grid, nm) for nm in (GREEN_NM, NIR_NM, SWIR_NM))
    index = (green - swir) / np.maximum(green + swir, 1e-3)
    return (index > 0) & (nir <= MIN_SNOW_NIR), (index > MIN_SNOW_INDEX) & (nir > MIN_SNOW_NIR)


def cover(reflectance: FloatArray, grid: SpectralGrid) -> NDArray[np.str_]:
    """(...) land cover from `COVERS` of each spectrum (band, ...); "unknown" where red or near infrared is unknown.

    Water and snow by `water_and_snow`. Other pixels by the normalised difference of near infrared and red (NDVI:
    Tucker 1979, doi 10.1016/0034-4257(79)90013-0): vegetation from 0.5, sparse vegetation from 0.25, else bare (soil,
    rock, roofs, roads, dry plants).
    """
    red, nir = (_at(reflectance, grid, nm) for nm in (RED_NM, NIR_NM))
    index = (nir - red) / np.maximum(nir + red, 1e-3)
    cases = [*water_and_snow(reflectance, grid), index >= MIN_DENSE_NDVI, index >= MIN_SPARSE_NDVI, np.isfinite(index)]
    return np.select(cases, COVERS, "unknown")


@dataclass(frozen=True)
class CoverShares:
    """The shares of the land covers in each pixel, computed from four bands of a source.

    Water and snow by the indices of `water_and_snow`, other covers by the NDVI as in `cover`, with linear transitions.
    Shares are 0-1, sum to 1 and change continuously; a pixel and one twice as bright have the same shares, except near
    the absolute limits `SNOW_NIR`, and where the bands' sum is below 0.001. Non-finite bands give non-finite shares.
    """

    green: int
    """Position of the band nearest to `GREEN_NM`; the other bands likewise."""
    red: int
    nir: int
    swir: int

    @classmethod
    def of(cls, wavelength_nm: FloatArray) -> Self | None:
        """For a source with these band centres; None if it lacks one of the four bands."""
        bands = [nearest_band(wavelength_nm, nm, REACH_NM) for nm in (GREEN_NM, RED_NM, NIR_NM, SWIR_NM)]
        return cls(*(band for band in bands if band is not None)) if None not in bands else None

    def shares(self, reflectance: Array) -> tuple[Array, ...]:
        """(..., pixel) share of each cover of `COVERS`, from reflectance (..., source band, pixel)."""
        green, red, nir, swir = (reflectance[..., band, :] for band in astuple(self))
        ndvi, wetness = _index(nir, red), _index(green, swir)
        snowy = _ramp(nir, *SNOW_NIR)
        water, snow = _ramp(wetness, *WATER_INDEX) * (1 - snowy), _ramp(wetness, *SNOW_INDEX) * snowy
        land = 1 - water - snow
        vegetated, dense = _ramp(ndvi, BARE_NDVI, SPARSE_NDVI), _ramp(ndvi, SPARSE_NDVI, DENSE_NDVI)
        return water, snow, land * dense, land * (vegetated - dense), land * (1 - vegetated)


def by_cover(values: Array, shares: Iterable[Array]) -> list[Array]:
    """For each cover (..., band, pixel) values times the cover's share (..., pixel)."""
    return [share[..., None, :] * values for share in shares]


def _index(first: Array, second: Array) -> Array:
    """Normalised difference of two bands."""
    index: Array = (first - second) / (first + second).clip(min=1e-3)
    return index


def _ramp(values: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high` on, and linear in between."""
    ramp: Array = ((values - low) * (1 / (high - low))).clip(0, 1)
    return ramp


def _at(reflectance: FloatArray, grid: SpectralGrid, nm: float) -> FloatArray:
    """(...) reflectance of the band nearest to `nm`; NaN without a band within `REACH_NM`."""
    band = nearest_band(grid.wavelength_nm, nm, REACH_NM)
    return np.full(reflectance.shape[1:], np.nan, np.float32) if band is None else reflectance[band]
