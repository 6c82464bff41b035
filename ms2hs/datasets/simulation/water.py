"""Reflectance of open water and of wet soil, from their optical properties.

Water absorbs, particles scatter: reflectance follows from the absorption and backscattering coefficients by the
semi-analytical model of Lee et al. (1999, Appl. Opt. 38:3831, doi:10.1364/AO.38.003831). Wet soil is dry soil below a
film of water: MARMIT (Bablet et al. 2018, doi:10.1016/j.rse.2018.07.031). Water absorbs as in PROSPECT-D (package
prosail), within 10 % of Pope & Fry (1997, doi:10.1364/AO.36.008710) at 550-700 nm.
"""

import numpy as np
from numpy.typing import ArrayLike

from ms2hs.arrays import FloatArray
from ms2hs.datasets.simulation.spectra_mixing import CANOPY_WAVELENGTH_NM, import_prosail

# Absorption of phytoplankton relative to 440 nm, a0 + a1 ln(absorption at 440 nm): Lee et al. 1998, Appl. Opt. 37:6329,
# doi:10.1364/AO.37.006329, table 2; zero at longer wavelengths.
PHYTOPLANKTON_NM = np.arange(390.0, 731.0, 10.0)
PHYTOPLANKTON_A0 = np.array([
    0.5813, 0.6843, 0.7782, 0.8637, 0.9603, 1.0000, 0.9634, 0.9311, 0.8697, 0.7890, 0.7558, 0.7333,
    0.6911, 0.6327, 0.5681, 0.5046, 0.4262, 0.3433, 0.2950, 0.2784, 0.2595, 0.2389, 0.2745, 0.3197,
    0.3421, 0.3331, 0.3502, 0.5610, 0.8435, 0.7485, 0.3890, 0.1360, 0.0545, 0.0250, 0.0,
])  # fmt: skip
PHYTOPLANKTON_A1 = np.array([
    0.0235, 0.0205, 0.0129, 0.0060, 0.0020, 0.0000, 0.0060, 0.0109, 0.0157, 0.0152, 0.0256, 0.0559,
    0.0865, 0.0981, 0.0969, 0.0900, 0.0781, 0.0659, 0.0600, 0.0581, 0.0540, 0.0495, 0.0578, 0.0674,
    0.0718, 0.0685, 0.0713, 0.1128, 0.1595, 0.1388, 0.0812, 0.0317, 0.0128, 0.0050, 0.0,
])  # fmt: skip
# Refractive index of water.
WATER_INDEX = 1.33


def water_absorption_per_m(wavelength_nm: FloatArray) -> FloatArray:
    """(wavelength,) absorption coefficient of water in 1/m; constant below 400 nm and above 2500 nm.

    DataError if the package prosail is not installed.
    """
    per_cm = np.asarray(import_prosail().spectral_lib.prospectd.kw, float)
    absorption: FloatArray = np.interp(wavelength_nm, CANOPY_WAVELENGTH_NM, 100 * per_cm)
    return absorption


def water_reflectance(
    wavelength_nm: FloatArray,
    *,
    chlorophyll_mg_m3: ArrayLike,
    sediment_g_m3: ArrayLike,
    dissolved_per_m: ArrayLike,
    backscatter_slope: ArrayLike = 0.5,
    backscatter_factor: ArrayLike = 1.0,
    depth_m: ArrayLike = np.inf,
    bottom: ArrayLike = 0.0,
) -> FloatArray:
    """(water, wavelength) reflectance above the surface, for sun and view near nadir, without glint and skylight.

    Phytoplankton absorbs 0.06 chlorophyll^0.65 at 440 nm (Morel 1991, doi:10.1016/0079-6611(91)90004-6) and scatters
    0.30 chlorophyll^0.62 at 550 nm, 0.5 % of it backwards (Gordon & Morel 1983). A gram of sediment absorbs 0.041 m² at
    443 nm (Babin et al. 2003, doi:10.1029/2001JC000882) and scatters 0.51 m² at 555 nm (the same authors,
    doi:10.4319/lo.2003.48.2.0843), 1.83 % of it backwards (Petzold 1972). Water backscatters 0.00144 /m at 500 nm
    (Morel 1974).

    Parameters
    ----------
    chlorophyll_mg_m3, sediment_g_m3, dissolved_per_m, depth_m, backscatter_slope, backscatter_factor : (water,);
        `dissolved_per_m` is the absorption of dissolved matter at 440 nm, the last two are the exponent and a factor of
        the backscattering of sediment.
    bottom : (water, wavelength) reflectance of the bottom.
    """
    nm = wavelength_nm
    chlorophyll, sediment, dissolved, slope, factor, depth = (
        np.atleast_1d(np.asarray(value, float))[:, None]
        for value in (
            chlorophyll_mg_m3, sediment_g_m3, dissolved_per_m, backscatter_slope, backscatter_factor, depth_m,
        )
    )  # fmt: skip
    blue = 0.06 * chlorophyll**0.65
    a0, a1 = (np.interp(nm, PHYTOPLANKTON_NM, table) for table in (PHYTOPLANKTON_A0, PHYTOPLANKTON_A1))
    absorption = (
        water_absorption_per_m(nm)
        + np.clip(a0 + a1 * np.log(blue), 0, None) * blue
        + 0.041 * sediment * np.exp(-0.0123 * (nm - 443))
        + dissolved * np.exp(-0.015 * (nm - 440))
    )
    backscatter = (
        0.00144 * (nm / 500) ** -4.32
        + 0.005 * 0.30 * chlorophyll**0.62 * (550 / nm)
        + 0.0183 * 0.51 * sediment * factor * (555 / nm) ** slope
    )
    attenuation = absorption + backscatter
    share = backscatter / attenuation
    deep = (0.084 + 0.170 * share) * share
    from_water = np.exp(-(1 + 1.03 * np.sqrt(1 + 2.4 * share)) * attenuation * depth)
    from_bottom = np.exp(-(1 + 1.04 * np.sqrt(1 + 5.4 * share)) * attenuation * depth)
    below = deep * (1 - from_water) + np.asarray(bottom) / np.pi * from_bottom
    above: FloatArray = np.pi * 0.5 * below / (1 - 1.5 * below)
    return above


def wet_reflectance(dry: FloatArray, wavelength_nm: FloatArray, film_cm: ArrayLike, share: ArrayLike) -> FloatArray:
    """(soil, wavelength) reflectance of soils of which a share is below a film of water.

    Light enters near nadir and leaves the soil in all directions; with Fresnel's reflectances of a surface of index n,
    0.021 at nadir and 0.066 of diffuse light from above, 1 - (1 - 0.066) / n² of it returns to the soil.

    Parameters
    ----------
    dry : (soil, wavelength) reflectance of the dry soils.
    film_cm, share : (soil,) thickness of the film, and its share of the area, 0-1.
    """
    film, covered = (np.atleast_1d(np.asarray(value, float))[:, None] for value in (film_cm, share))
    entering, returned = 1 - 0.021, 1 - (1 - 0.066) / WATER_INDEX**2
    below = np.exp(-2 * film / 100 * water_absorption_per_m(wavelength_nm)) * dry
    wet: FloatArray = entering * (1 - returned) * below / (1 - returned * below)
    return covered * wet + (1 - covered) * dry
