"""Reflectance of snow and ice, from grain size, impurities, liquid water and the sun's height.

Single scattering by grains of mixed shapes is parametrised by Räisänen et al. (2015, doi:10.5194/tc-9-1277-2015),
multiple scattering of a deep layer by van de Hulst's similarity parameter (King 1987, J. Atmos. Sci. 44:1734),
direction by the asymptotic theory of Kokhanovsky & Zege (2004, doi:10.1364/AO.43.001589).
"""

import numpy as np
from numpy.typing import ArrayLike

from ms2hs.arrays import FloatArray
from ms2hs.datasets.simulation.water import water_absorption_per_m

# Refractive index of ice: Warren & Brandt 2008, doi:10.1029/2007JD009744. Of their table, the wavelengths (nm) from
# which interpolation has the rest of the imaginary part (linear in its logarithm) within 4 %, the real within 0.002.
ICE_ABSORBING = (
    (350, 2.0e-11), (390, 2.0e-11), (420, 3.14e-11), (430, 4.14e-11), (450, 9.24e-11), (500, 5.89e-10),
    (520, 1.08e-9), (550, 2.29e-9), (630, 1.04e-8), (660, 1.66e-8), (690, 2.40e-8), (720, 4.03e-8), (740, 4.92e-8),
    (780, 1.02e-7), (800, 1.34e-7), (840, 1.51e-7), (890, 3.92e-7), (950, 6.02e-7), (1010, 2.00e-6), (1020, 2.25e-6),
    (1040, 2.33e-6), (1080, 1.74e-6), (1100, 1.70e-6), (1120, 1.82e-6), (1140, 2.25e-6), (1150, 2.29e-6),
    (1180, 4.77e-6), (1200, 6.71e-6), (1210, 8.66e-6), (1230, 1.13e-5), (1250, 1.29e-5), (1270, 1.35e-5),
    (1340, 1.34e-5), (1370, 1.48e-5), (1390, 1.74e-5), (1400, 1.98e-5), (1430, 1.03e-4), (1440, 1.52e-4),
    (1471, 3.99e-4), (1481, 4.94e-4), (1493, 5.53e-4), (1538, 4.59e-4), (1613, 2.66e-4), (1730, 1.65e-4),
    (1830, 1.30e-4), (1855, 1.38e-4), (1870, 1.63e-4), (1890, 2.57e-4), (1923, 7.06e-4), (1942, 1.11e-3),
    (1961, 1.44e-3), (1980, 1.61e-3), (2020, 1.57e-3), (2062, 1.27e-3), (2083, 1.02e-3), (2150, 4.03e-4),
    (2170, 3.24e-4), (2190, 2.71e-4), (2240, 2.04e-4), (2270, 2.17e-4), (2350, 4.59e-4), (2390, 5.61e-4),
    (2500, 7.53e-4), (2600, 7.54e-4),
)  # fmt: skip
ICE_REFRACTING = (
    (350, 1.3249), (440, 1.3163), (560, 1.3106), (1587, 1.2897), (2083, 1.2707), (2245, 1.2587), (2390, 1.2435),
    (2500, 1.2270), (2600, 1.2043),
)  # fmt: skip
ICE_KG_M3 = 917.0


def snow_reflectance(
    wavelength_nm: FloatArray,
    *,
    grain_radius_um: ArrayLike,
    soot: ArrayLike = 0.0,
    dust: ArrayLike = 0.0,
    dust_power: ArrayLike = 3.0,
    liquid: ArrayLike = 0.0,
    sun_zenith_deg: ArrayLike = 60.0,
) -> FloatArray:
    """(snow, wavelength) reflectance of a deep, even layer seen from above.

    Soot absorbs 7500 m²/kg at 550 nm, in inverse proportion to wavelength (Bond & Bergstrom 2006,
    doi:10.1080/02786820500421521); dust 100 m²/kg at 400 nm, falling with a power of wavelength of 2.5 to 5 (Caponi et
    al. 2017, doi:10.5194/acp-17-7175-2017). Ice and liquid water absorb by their shares (Green et al. 2002,
    doi:10.3189/172756402781817987).

    Parameters
    ----------
    grain_radius_um : (snow,) radius of spheres with the ratio of volume to projected area of the grains.
    soot, dust, liquid : (snow,) mass fractions of impurities, and share of liquid water, 0-1.
    sun_zenith_deg : (snow,) zenith angle of the sun.
    """
    nm = wavelength_nm
    radius, soot, dust, power, liquid, zenith = (
        np.atleast_1d(np.asarray(value, float))[:, None]
        for value in (grain_radius_um, soot, dust, dust_power, liquid, sun_zenith_deg)
    )
    ice_nm, ice = np.array(ICE_ABSORBING).T
    real = np.interp(nm, *np.array(ICE_REFRACTING).T)
    wave_m = nm * 1e-9
    impurities_per_m = ICE_KG_M3 * (soot * 7500 * (550 / nm) + dust * 100 * (400 / nm) ** power)
    imaginary = (1 - liquid) * np.exp(np.interp(nm, ice_nm, np.log(ice))) + (
        liquid * water_absorption_per_m(nm) + impurities_per_m
    ) * wave_m / (4 * np.pi)
    size = 2 * np.pi * radius * 1e-6 / wave_m
    absorbing = size * imaginary * real**2
    lost = 0.470 * (1 - np.exp(-2.69 * absorbing * (1 - 0.31 * np.minimum(absorbing, 2) ** 0.67)))
    asymmetry = 1 - 1.146 * (real - 1) ** 0.8 * (0.52 - lost) ** 1.05 * (1 + 8 * size**-1.5)
    similarity = np.sqrt(lost / (1 - (1 - lost) * asymmetry))
    albedo = (1 - 0.139 * similarity) * (1 - similarity) / (1 + 1.170 * similarity)
    return _towards_nadir(albedo, zenith)


def _towards_nadir(albedo: FloatArray, sun_zenith_deg: FloatArray) -> FloatArray:
    """Reflectance seen from above of layers with a spherical albedo, by the reflectance without absorption.

    The latter is parametrised by Kokhanovsky (2005, doi:10.1016/j.jqsrt.2004.12.008).
    """
    sun = np.cos(np.radians(sun_zenith_deg))
    angle = 180 - sun_zenith_deg
    phase = 11.1 * np.exp(-0.087 * angle) + 1.1 * np.exp(-0.014 * angle)
    white = (1.247 + 1.186 * (sun + 1) + 5.157 * sun + phase) / (4 * (sun + 1))
    escape = 3 / 7 * (1 + 2 * sun) * 9 / 7
    result: FloatArray = white * albedo ** (escape / white)
    return result
