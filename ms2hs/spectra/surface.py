"""Surfaces that a few bands tell apart: water and snow, of which the models have learnt little."""

import numpy as np
from numpy.typing import NDArray

from ms2hs.spectra.grid import FloatArray, SpectralGrid, nearest_band

GREEN_NM, NIR_NM, SWIR_NM = 560.0, 865.0, 1610.0
# How far a band may lie from these.
REACH_NM = 40.0
# Open water and snow are both brighter in green than at 1610 nm; only snow is bright in the near infrared too.
# Hall et al. 1995, Remote Sens. Environ. 54:127, doi 10.1016/0034-4257(95)00137-P.
DARKEST_SNOW_NIR = 0.11
LEAST_SNOW_INDEX = 0.4


def is_water(reflectance: FloatArray, grid: SpectralGrid) -> NDArray[np.bool_]:
    """(...) where reflectance (band, ...) is that of open water: a positive modified NDWI, and a dark near infrared.

    Nowhere if the grid lacks green, near infrared or 1610 nm. Source: Xu 2006, Int. J. Remote Sens. 27:3025, doi
    10.1080/01431160600589179.
    """
    index, nir = _green_over_swir(reflectance, grid)
    return (index > 0) & (nir <= DARKEST_SNOW_NIR)


def is_snow(reflectance: FloatArray, grid: SpectralGrid) -> NDArray[np.bool_]:
    """(...) where reflectance (band, ...) is that of snow (or ice cloud): NDSI above 0.4, bright in the near infrared.

    Nowhere if the grid lacks green, near infrared or 1610 nm. Source: as `DARKEST_SNOW_NIR`.
    """
    index, nir = _green_over_swir(reflectance, grid)
    return (index > LEAST_SNOW_INDEX) & (nir > DARKEST_SNOW_NIR)


def _green_over_swir(reflectance: FloatArray, grid: SpectralGrid) -> tuple[FloatArray, FloatArray]:
    """Normalised difference of green and 1610 nm, and near infrared; NaN, which no limit holds for, if unknown."""
    found = [nearest_band(grid.wavelength_nm, nm, REACH_NM) for nm in (GREEN_NM, NIR_NM, SWIR_NM)]
    bands = [band for band in found if band is not None]
    if len(bands) < len(found):
        unknown = np.full(reflectance.shape[1:], np.nan, np.float32)
        return unknown, unknown
    green, nir, swir = (reflectance[band] for band in bands)
    return (green - swir) / np.maximum(green + swir, 1e-3), nir
