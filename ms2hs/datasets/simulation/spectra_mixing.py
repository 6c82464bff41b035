"""Simulated spectra: canopies over soils (PROSAIL), linear mixtures, and their view by a sensor.

Canopies are PROSPECT-D leaves (Feret et al. 2017, doi:10.1016/j.rse.2017.03.004) in 4SAIL canopies (Verhoef et al.
2007, doi:10.1109/TGRS.2007.895844), by the package prosail. Mixtures are sums weighted by area, without multiple
scattering.
"""

from types import ModuleType

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.spectra.spectral_grid import SpectralGrid, response_matrix

# Wavelengths at which PROSPECT-D and 4SAIL are defined.
CANOPY_WAVELENGTH_NM = np.arange(400.0, 2501.0)
# Uniform ranges of leaf and canopy parameters: the ranges usual for inversion of PROSAIL (Berger et al. 2018,
# doi:10.3390/rs10010085, table 3), widened to sparse and dry canopies. Leaf structure, chlorophyll and carotenoids in
# µg/cm², water and dry matter in g/cm², mean leaf angle in degrees, hot spot, and angles of sun, view and between both.
CANOPY_RANGES = {
    "n": (1.2, 2.4),
    "cab": (5.0, 80.0),
    "car": (1.0, 16.0),
    "cw": (0.002, 0.04),
    "cm": (0.002, 0.015),
    "lidfa": (25.0, 75.0),
    "hspot": (0.01, 0.3),
    "tts": (15.0, 60.0),
    "tto": (0.0, 15.0),
    "psi": (0.0, 180.0),
}
MAX_LAI = 6.0


def import_prosail() -> ModuleType:
    """The package prosail, an optional dependency that is slow to import; DataError if it is not installed."""
    try:
        import prosail  # noqa: PLC0415
    except ImportError as error:
        raise DataError("spectra are simulated with prosail, which is not installed. Install ms2hs[train].") from error
    package: ModuleType = prosail
    return package


def simulate_canopies(soils: FloatArray, count: int, rng: np.random.Generator) -> Float32Array:
    """(count, 2101) directional reflectance of canopies over random soils, at `CANOPY_WAVELENGTH_NM`.

    Ground cover, 1 - exp(-LAI / 2), is uniform; with a uniform leaf area nearly all canopies would be closed. One in
    five canopies has brown pigment, one in ten anthocyanin.

    `soils` is (soil, 2101) reflectance at the same wavelengths, finite. DataError if prosail is not installed.
    """
    run_prosail = import_prosail().run_prosail
    result = np.empty((count, len(CANOPY_WAVELENGTH_NM)), np.float32)
    densest = 1 - np.exp(-MAX_LAI / 2)
    for row in result:
        drawn = {name: rng.uniform(low, high) for name, (low, high) in CANOPY_RANGES.items()}
        drawn["lai"] = -2 * np.log(1 - densest * rng.uniform())
        drawn["cbrown"] = rng.uniform() if rng.uniform() < 0.2 else 0.0
        drawn["ant"] = rng.uniform(0, 10) if rng.uniform() < 0.1 else 0.0
        soil = soils[rng.integers(len(soils))] * rng.uniform(0.5, 1.1)
        row[:] = run_prosail(**drawn, rsoil0=soil, prospect_version="D")
    return result


def mix(spectra: Float32Array, weights: FloatArray, count: int, rng: np.random.Generator) -> Float32Array:
    """(count, wavelength) mixtures of two to four spectra, with Dirichlet(1) shares.

    Parameters
    ----------
    spectra : (spectrum, wavelength) NaN = unknown, which makes every mixture with the spectrum unknown there.
    weights : (spectrum,) probability of a spectrum, not negative, any sum.
    """
    members = rng.choice(len(spectra), size=(count, 4), p=weights / weights.sum())
    shares = rng.standard_exponential((count, 4))
    shares[rng.uniform(size=count) < 1 / 3, 2:] = 0
    shares[rng.uniform(size=count) < 1 / 3, 3] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    result = np.zeros((count, spectra.shape[1]), np.float32)
    for part in range(4):
        rows = shares[:, part] > 0
        result[rows] += shares[rows, part, None].astype(np.float32) * spectra[members[rows, part]]
    return result


def view(reflectance: FloatArray, wavelength_nm: FloatArray, sensor: SpectralGrid) -> FloatArray:
    """(spectrum, band) reflectance in the sensor's bands, from (spectrum, wavelength) without unknown values."""
    in_bands: FloatArray = reflectance @ response_matrix(sensor, wavelength_nm).astype(reflectance.dtype).T
    return in_bands
