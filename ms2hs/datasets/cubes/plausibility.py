"""Checks that every cube format shares: usable bands, plausible reflectance, windows inside a cube."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError
from ms2hs.spectra.library import MAX_NM, MIN_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of

# Surface reflectance outside this range is an artefact of atmospheric correction.
PLAUSIBLE_REFLECTANCE = (-0.05, 1.5)


def usable_bands(
    path: Path | str, wavelength_nm: FloatArray, fwhm_nm: FloatArray | None = None, good: BoolArray | None = None
) -> tuple[SpectralGrid, NDArray[np.intp]]:
    """The grid of the good bands in ascending wavelength, and their positions in the file.

    A width that is unknown or impossible becomes the median step between neighbouring bands, so that gaps and detector
    joins do not count.

    Parameters
    ----------
    path : the file, for the message.
    wavelength_nm, fwhm_nm, good : (band,) for every band of the file, in any order; an fwhm of NaN is unknown.

    Raises
    ------
    DataError : fewer than two usable bands, lists of different lengths, or wavelengths that are not in nm.
    """
    centre = np.asarray(wavelength_nm, float)
    width = np.full(len(centre), np.nan) if fwhm_nm is None else np.asarray(fwhm_nm, float)
    usable = np.ones(len(centre), bool) if good is None else np.asarray(good, bool)
    if not centre.shape == width.shape == usable.shape or usable.sum() < 2:
        raise DataError(
            f"{path}: {len(centre)} wavelengths, {len(width)} widths, {len(usable)} flags of which {usable.sum()} are "
            "good; each band needs all three, and at least 2 good bands are needed. Check the product."
        )
    in_range = (centre >= MIN_NM) & (centre <= MAX_NM)
    if not in_range.all() or len(set(centre)) < 2:
        wrong = centre[~in_range] if not in_range.all() else centre
        raise DataError(
            f"{path}: a wavelength of {wrong[0]:g}; different values in nm are needed ({MIN_NM:g} to {MAX_NM:g}). If "
            "these are micrometres, write the wavelength units into the file."
        )
    width = np.where((width > 0) & (width < np.ptp(centre)), width, _median_step(centre))
    order = np.argsort(centre, kind="stable")
    order = order[usable[order]]
    return grid_of(centre, width).select(order), order


def _median_step(centre_nm: FloatArray) -> FloatArray:
    """(band,) the median of the two steps on either side."""
    distinct = np.unique(centre_nm)
    if len(distinct) < 2:
        return np.full(len(centre_nm), np.nan)
    steps = np.pad(np.diff(distinct), 2, constant_values=np.nan)
    median = np.nanmedian(np.lib.stride_tricks.sliding_window_view(steps, 4), axis=1)
    return np.asarray(median[np.searchsorted(distinct, centre_nm)])


def reflectance_of(
    dn: NDArray[np.generic],
    scale: FloatArray | float = 1.0,
    offset: FloatArray | float = 0.0,
    nodata: float | None = None,
) -> Float32Array:
    """(band, row, col) reflectance, `dn * scale + offset`; NaN where no surface was measured.

    Unknown are `nodata`, pixels with one number in every band (fill), and values outside `PLAUSIBLE_REFLECTANCE`
    (EMIT's -9999 and -0.1 among them).

    Parameters
    ----------
    dn : (band, row, col).
    scale, offset : (band,) or one number for all bands.
    """
    factor, shift = (np.reshape(np.float32(part), (-1, 1, 1)) for part in (scale, offset))
    values = np.asarray(dn.astype(np.float32) * factor + shift)
    low, high = PLAUSIBLE_REFLECTANCE
    unknown = ~((values >= low) & (values <= high)) | (dn == dn[:1]).all(axis=0)
    if nodata is not None:
        unknown |= dn == nodata
    values[unknown] = np.nan
    return values


def check_window(shape: tuple[int, int], row: int, col: int, height: int, width: int) -> None:
    """ValueError unless the window lies inside a cube of this shape and holds a pixel."""
    rows, cols = shape
    if not (0 <= row < row + height <= rows and 0 <= col < col + width <= cols):
        raise ValueError(f"window {(row, col, height, width)} does not lie inside {shape} (rows, cols)")
