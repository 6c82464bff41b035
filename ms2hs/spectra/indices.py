"""Spectral indices that classify surfaces: water, snow, vegetation and bare ground."""

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


def _at(reflectance: FloatArray, grid: SpectralGrid, nm: float) -> FloatArray:
    """(...) reflectance of the band nearest to `nm`; NaN without a band within `REACH_NM`."""
    band = nearest_band(grid.wavelength_nm, nm, REACH_NM)
    return np.full(reflectance.shape[1:], np.nan, np.float32) if band is None else reflectance[band]
