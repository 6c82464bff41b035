"""Random spectra of surfaces that are rare in cubes and libraries: water, snow and wet soil.

The literature gives the ranges of properties. A theory has few degrees of freedom, and an estimate would rely on
details of its spectra that no product measures so well: each spectrum is multiplied by a random smooth curve.
"""

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.simulation.snow import snow_reflectance
from ms2hs.datasets.simulation.water import water_reflectance, wet_reflectance

# Clear ocean to eutrophic lakes and turbid rivers (Spyrakos et al. 2018, doi:10.1002/lno.10674): chlorophyll in mg/m³,
# sediment in g/m³, absorption of dissolved matter at 440 nm in 1/m. Share of waters whose bottom is seen, and depth.
CHLOROPHYLL_MG_M3, SEDIMENT_G_M3, DISSOLVED_PER_M = (0.05, 200.0), (0.1, 1000.0), (0.01, 10.0)
SHALLOW_SHARE, DEPTH_M = 0.3, (0.05, 10.0)
# Mean of the exponential distribution of sun glint, largest share of skylight at 500 nm, and reflectance of the surface
# at nadir (Gege 2012, doi:10.1364/AO.51.001407).
MEAN_GLINT, MAX_SKYLIGHT, SURFACE_REFLECTANCE = 0.008, 0.5, 0.02
# Fresh to coarse wet snow: radius of spheres with a surface of 2 to 160 m² in a kilogram (Domine et al. 2007,
# doi:10.1029/2006JF000512). Mass fractions of soot and dust (Warren & Wiscombe 1980, J. Atmos. Sci. 37:2734), powers of
# wavelength of the absorption by dust (Caponi et al. 2017, doi:10.5194/acp-17-7175-2017), largest share of liquid
# water, and zenith angle of the sun.
GRAIN_RADIUS_UM, SOOT, DUST = (20.0, 1600.0), (1e-9, 1e-5), (1e-6, 1e-3)
DUST_POWER, MAX_LIQUID, SUN_ZENITH_DEG = (2.5, 5.0), 0.25, (20.0, 75.0)
# Fresnel's reflectance at nadir of facets at the surface of snow, ((n - 1) / (n + 1))² with n = 1.3.
FACET_REFLECTANCE = 0.017
# Films of water on soil in cm (Bablet et al. 2018, doi:10.1016/j.rse.2018.07.031: up to 0.2 cm).
FILM_CM = (0.001, 0.2)
# Relative error of theory and product, and its correlation length; chosen by leaving snow and places out.
SMOOTH_ERROR, SMOOTH_NM = 0.1, 100.0


def simulate_water(
    bottoms: FloatArray, wavelength_nm: FloatArray, count: int, rng: np.random.Generator
) -> Float32Array:
    """(count, wavelength) reflectance of waters with glint and skylight, some over random bottoms.

    `bottoms` is (bottom, wavelength) reflectance, finite. DataError if prosail is not installed.
    """
    chlorophyll, sediment, dissolved, depth = (
        _log_uniform(limits, count, rng) for limits in (CHLOROPHYLL_MG_M3, SEDIMENT_G_M3, DISSOLVED_PER_M, DEPTH_M)
    )
    water = water_reflectance(
        wavelength_nm,
        chlorophyll_mg_m3=chlorophyll,
        sediment_g_m3=sediment,
        dissolved_per_m=dissolved,
        backscatter_slope=rng.uniform(0, 1, count),
        backscatter_factor=rng.uniform(0.5, 1.5, count),
        depth_m=np.where(rng.uniform(size=count) < SHALLOW_SHARE, depth, np.inf),
        bottom=bottoms[rng.integers(len(bottoms), size=count)],
    )
    sky = rng.uniform(0, MAX_SKYLIGHT, (count, 1)) * (500 / wavelength_nm) ** rng.uniform(1, 4, (count, 1))
    glint = rng.exponential(MEAN_GLINT, (count, 1))
    return _with_errors(water + glint + SURFACE_REFLECTANCE * sky, wavelength_nm, rng)


def simulate_snow(ground: FloatArray, wavelength_nm: FloatArray, count: int, rng: np.random.Generator) -> Float32Array:
    """(count, wavelength) reflectance of snow: a third clean, a third dry, half of it on a part of random ground.

    `ground` is (spectrum, wavelength) reflectance, finite. DataError if prosail is not installed.
    """
    radius, soot, dust = (_log_uniform(limits, count, rng) for limits in (GRAIN_RADIUS_UM, SOOT, DUST))
    dirty, wet = (rng.uniform(size=count) < 2 / 3 for _ in range(2))
    snow = snow_reflectance(
        wavelength_nm,
        grain_radius_um=radius,
        soot=soot * dirty,
        dust=dust * dirty,
        dust_power=rng.uniform(*DUST_POWER, count),
        liquid=rng.uniform(0, MAX_LIQUID, count) * wet,
        sun_zenith_deg=rng.uniform(*SUN_ZENITH_DEG, count),
    )
    snow += rng.uniform(0, FACET_REFLECTANCE, (count, 1))
    covered = rng.uniform(0, 2, (count, 1)).clip(0, 1)
    mixed = covered * snow + (1 - covered) * ground[rng.integers(len(ground), size=count)]
    return _with_errors(mixed, wavelength_nm, rng)


def simulate_wet_soils(
    soils: FloatArray, wavelength_nm: FloatArray, count: int, rng: np.random.Generator
) -> Float32Array:
    """(count, wavelength) reflectance of random soils, (soil, wavelength) and finite, with films of water."""
    dry = soils[rng.integers(len(soils), size=count)]
    film = _log_uniform(FILM_CM, count, rng)
    return wet_reflectance(dry, wavelength_nm, film, rng.uniform(0.2, 1, count)).astype(np.float32)


def _log_uniform(limits: tuple[float, float], count: int, rng: np.random.Generator) -> FloatArray:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), count))


def _with_errors(reflectance: FloatArray, wavelength_nm: FloatArray, rng: np.random.Generator) -> Float32Array:
    """Reflectance times random curves of mean 1, smooth over `SMOOTH_NM`; not negative."""
    knots = np.arange(wavelength_nm[0] - 3 * SMOOTH_NM, wavelength_nm[-1] + 3 * SMOOTH_NM, SMOOTH_NM / 2)
    kernel = np.exp(-0.5 * ((wavelength_nm - knots[:, None]) / SMOOTH_NM) ** 2)
    kernel /= np.linalg.norm(kernel, axis=0)
    errors = rng.standard_normal((len(reflectance), len(knots))) @ kernel
    disturbed: Float32Array = np.clip(reflectance * (1 + SMOOTH_ERROR * errors), 0, None).astype(np.float32)
    return disturbed
