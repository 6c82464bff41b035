"""Spectra of points, such as of a field spectrometer, converted to the bands of a sensor by the spectral prior.

A spectrum has no neighbours, so the prior alone converts it. Spectra with the same known bands are converted together;
bands that a spectrum lacks, such as those in water vapour, count as not measured.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.spectra_npz import at_resolution, spectra_of
from ms2hs.errors import DataError, GridError
from ms2hs.files import check_output, file_ids, write_bytes
from ms2hs.models.weights import load_weights
from ms2hs.raster.cube_writer import sigma_name
from ms2hs.spectra.library import Library, by_pattern, read_library
from ms2hs.spectra.sensors import RANGE_NM, load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

SPECTRA_SUFFIXES = (".csv", ".npz", ".sli")
# With fewer known bands, a spectrum is not converted.
MIN_BANDS = 4


@dataclass(frozen=True)
class SpectraResult:
    """The files of a conversion of spectra."""

    output: Path
    sigma: Path | None
    """The uncertainty; None if not requested."""
    spectra: int
    unlike: int
    """Number of spectra that are unlike the training data."""
    left_out: tuple[str, ...]
    """Names of spectra with too few known bands; their row is empty."""

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [self.output, *([self.sigma] if self.sigma else [])]


def is_spectra(path: str) -> bool:
    """Whether a path names spectra and no scene, by its suffix."""
    return Path(path).suffix.lower() in SPECTRA_SUFFIXES


def convert_spectra(
    path: Path,
    target: str,
    output: Path | None = None,
    *,
    model: str = "linear",
    uncertainty: bool = False,
    overwrite: bool = False,
) -> SpectraResult:
    """Convert the spectra of a library to the bands of a sensor, as a CSV of `id,lon,lat,<nm>,...`.

    Parameters
    ----------
    path : a library as `read_library` reads it.
    target : name of a sensor, or path of a CSV of bands.
    output : .csv; None: `<library>_<target>.csv` in the working directory.
    model : weights, of which the spectral prior is used.
    uncertainty : also write `<output>_sigma.csv`, such that value ± 1.645 σ is the 90 % interval.

    Raises
    ------
    Ms2hsError : a library, target, model or output that cannot be used; DataError without a spectrum to convert.
    """
    sensor, weights = load_sensor(target), load_weights(model)
    output = output or Path(f"{path.stem}_{sensor.name}.csv")
    sigma_path = output.with_name(sigma_name(output)) if uncertainty else None
    if output.suffix.lower() != ".csv":
        raise DataError(f"{output}: not the name of a table; .csv is required for spectra. Use --output spectra.csv.")
    for file in filter(None, (output, sigma_path)):
        check_output(file, overwrite=overwrite, inputs=file_ids([path, weights.path]))
    library = read_library(path)
    source, measured = _source_of(path, library)
    prior = weights.calibrated_prior or weights.prior
    result = np.full((2, len(measured), len(sensor.grid)), np.nan, np.float32)  # value, sigma
    unlike, left_out = 0, list[str]()
    for known, rows in by_pattern(np.isfinite(measured)):
        if known.sum() < MIN_BANDS:
            left_out += [library.ids[row] for row in rows]
            continue
        posterior = prior.condition(source.select(known), sensor.grid)
        spectra = np.ascontiguousarray(measured[np.ix_(rows, np.flatnonzero(known))].T)
        result[:, rows] = posterior.reconstruct(spectra).T, posterior.sigma(spectra).T
        unlike += int(posterior.unlike(spectra).sum())
    if len(left_out) == len(measured):
        raise DataError(f"{path}: no spectrum has {MIN_BANDS} known bands; one is required. Give other spectra.")
    for file, values in zip(filter(None, (output, sigma_path)), result, strict=False):
        write_bytes(file, _table(library, sensor.grid, values), overwrite=overwrite)
    return SpectraResult(output, sigma_path, len(measured), unlike, tuple(left_out))


def _source_of(path: Path, library: Library) -> tuple[SpectralGrid, Float32Array]:
    """The bands of a library within the supported wavelengths, ascending, and (spectrum, band) reflectance."""
    spectra, (low, high) = at_resolution(spectra_of(path.stem, library)), RANGE_NM
    inside = (spectra.wavelength_nm >= low) & (spectra.wavelength_nm <= high)
    if inside.sum() < MIN_BANDS:
        raise GridError(
            f"{path}: {inside.sum()} bands within {low:.0f}-{high:.0f} nm; at least {MIN_BANDS} are required. "
            "Give spectra of these wavelengths."
        )
    return grid_of(spectra.wavelength_nm, spectra.fwhm_nm).select(inside), spectra.reflectance[:, inside]


def _table(library: Library, grid: SpectralGrid, values: Float32Array) -> bytes:
    """A CSV of `id,lon,lat,<nm>,...` that `read_library` reads; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "lon", "lat", *(f"{nm:.2f}" for nm in grid.wavelength_nm)])
    for name, lon, lat, row in zip(library.ids, library.lon, library.lat, values, strict=True):
        degrees = ("" if np.isnan(angle) else f"{angle:.8g}" for angle in (lon, lat))
        writer.writerow([name, *degrees, *("" if np.isnan(value) else f"{value:.5f}" for value in row)])
    return text.getvalue().encode()
