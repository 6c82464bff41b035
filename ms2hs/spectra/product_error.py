"""Errors of a product's reflectance: levels that a user gives, and covariances measured against the field.

An `InputError` enters `SpectralPrior.condition` as noise of the source's bands, and widens the output's uncertainty.
A table `tables/errors/NAME.csv` holds the covariance of the bands' errors, relative to a spectrum's scale (about its
brightness), from products and field measurements of the same day. Most of the error comes from the atmosphere and from
view and sun angles, so that neighbouring bands err together. Between the table's bands the error is interpolated.
`benchmarks/product_error.py` estimates a table and judges it on places that are left out.
"""

import csv
from dataclasses import dataclass
from functools import cache

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.errors import GridError, UnknownName
from ms2hs.spectra.sensors import TABLES
from ms2hs.spectra.spectral_grid import line_weights

ERROR_TABLES = TABLES / "errors"
# Scale (about the brightness) of a common spectrum, which turns an error in reflectance into a relative error: the mean
# of the public scenes.
TYPICAL_SCALE = 0.25
# Largest distance of a band from the outer bands of a table: the bands of sensors alike differ by less.
REACH_NM = 30.0


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """The measured errors of one product."""

    name: str
    title: str
    """What was measured, in a few words."""
    citation: str
    """Source and licence of the measurements."""
    wavelength_nm: FloatArray
    """(band,) ascending."""
    covariance: FloatArray
    """(band, band) relative to the squared scale of a spectrum."""

    def covariance_at(self, wavelength_nm: FloatArray) -> FloatArray:
        """(band, band) covariance at these wavelengths. Between the table's bands, errors are linear in log wavelength.

        The variance is interpolated too: the part that the interpolated error lacks is independent between bands.

        Raises
        ------
        GridError : a band lies more than `REACH_NM` outside the table.
        """
        low, high = self.wavelength_nm[0] - REACH_NM, self.wavelength_nm[-1] + REACH_NM
        outside = (wavelength_nm < low) | (wavelength_nm > high)
        if outside.any():
            raise GridError(
                f"source bands at {', '.join(f'{nm:.0f}' for nm in wavelength_nm[outside][:5])} nm; the errors "
                f"{self.name!r} are known at {low:.0f}-{high:.0f} nm. Use --input-error none, or GAIN,OFFSET,PIXEL."
            )
        weights = line_weights(np.log(wavelength_nm), np.log(self.wavelength_nm))
        covariance: FloatArray = weights @ self.covariance @ weights.T
        np.fill_diagonal(covariance, weights @ np.diag(self.covariance))
        return covariance


@dataclass(frozen=True)
class InputError:
    """Errors of a product's reflectance: of each band and scene, and noise of each pixel. Without values: no errors."""

    gain: float = 0.0
    """Standard deviation of a band's gain, relative to the value; independent between bands."""
    offset: float = 0.0
    """Standard deviation of a band's offset, in reflectance; independent between bands."""
    pixel: float = 0.0
    """Standard deviation of a pixel's noise, in reflectance."""
    product: ErrorTable | None = None
    """Measured errors that are added; common to a scene."""

    @property
    def has_levels(self) -> bool:
        """Whether a standard deviation is above 0."""
        return max(self.gain, self.offset, self.pixel) > 0

    def __bool__(self) -> bool:
        """Whether there is any error."""
        return self.has_levels or self.product is not None

    def __str__(self) -> str:
        """The errors as text, for notes and metadata."""
        levels = f"gain {self.gain:g}, offset {self.offset:g}, pixel {self.pixel:g}" if self.has_levels else ""
        return ", ".join(filter(None, [self.product.name if self.product else "", levels])) or "none"

    def variance(self, reflectance: FloatArray) -> FloatArray:
        """(...) variance of the error of each value by `gain`, `offset` and `pixel`."""
        variance: FloatArray = np.square(self.gain * reflectance) + (self.offset**2 + self.pixel**2)
        return variance

    def relative_variance(self, second_moment: FloatArray) -> FloatArray:
        """(band,) that variance relative to a spectrum's scale, for bands of these second moments at scale 1."""
        absolute = self.offset**2 + self.pixel**2
        relative: FloatArray = np.square(self.gain) * second_moment + absolute / TYPICAL_SCALE**2
        return relative

    def disturb(
        self, reflectance: Float32Array, scale: FloatArray, wavelength_nm: FloatArray, rng: np.random.Generator
    ) -> Float32Array:
        """(band, ...) reflectance of one scene with random errors: of each band by Gaussians, and noise of each pixel.

        Parameters
        ----------
        scale : (...) scale of each spectrum, which the measured errors are relative to.
        wavelength_nm : (band,) of the reflectance.

        Raises
        ------
        GridError : bands outside the table of measured errors.
        """
        bands = (-1, *(1,) * (reflectance.ndim - 1))
        gain, offset = (
            size * rng.standard_normal(len(reflectance)).reshape(bands) for size in (self.gain, self.offset)
        )
        covariance = self.product_covariance(wavelength_nm)
        common = rng.multivariate_normal(np.zeros(len(covariance)), covariance).reshape(bands)
        noise = self.pixel * rng.standard_normal(reflectance.shape)
        return (reflectance * (1 + gain) + offset + common * scale + noise).astype(np.float32)

    def product_covariance(self, wavelength_nm: FloatArray) -> FloatArray:
        """(band, band) covariance of the measured errors relative to a spectrum's scale; 0 without them.

        Raises
        ------
        GridError : bands outside the table.
        """
        if self.product is None:
            return np.zeros((len(wavelength_nm), len(wavelength_nm)))
        return self.product.covariance_at(wavelength_nm)


# Errors of real products (standard deviations), which simulated sources are given.
TYPICAL_INPUT_ERROR = InputError(gain=0.02, offset=0.005, pixel=0.003)


def error_table_names() -> list[str]:
    """Names of the products whose errors were measured."""
    return sorted(path.stem for path in ERROR_TABLES.glob("*.csv"))


@cache
def load_error_table(name: str) -> ErrorTable:
    """The measured errors of this name.

    Raises
    ------
    UnknownName : no such table; the message lists the known names.
    """
    if name not in error_table_names():
        raise UnknownName.of("input error", name, ["none", *error_table_names()], "Or give GAIN,OFFSET,PIXEL.")
    lines = (ERROR_TABLES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    keys = dict(line[1:].strip().split(": ", 1) for line in lines if line.startswith("#"))
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    covariance = np.array([[float(row[other["band"]]) for other in rows] for row in rows])
    centre = np.array([float(row["center_nm"]) for row in rows])
    return ErrorTable(name, keys["title"], keys["source"], centre, covariance)


def input_error_named(name: str) -> InputError:
    """No errors for `none`, else the measured errors of this name.

    Raises
    ------
    UnknownName : no such table; the message lists the known names.
    """
    return InputError() if name == "none" else InputError(product=load_error_table(name))
