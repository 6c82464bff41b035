"""What cubes of every layout share: which bands are usable, which numbers are a surface, which window is meant."""

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.spectra_npz import PLAUSIBLE
from ms2hs.errors import DataError
from ms2hs.spectra.library import MIN_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, grid_of


def usable_bands(
    where: object, wavelength_nm: FloatArray, fwhm_nm: FloatArray | None = None, good: BoolArray | None = None
) -> tuple[SpectralGrid, NDArray[np.intp]]:
    """The grid of the good bands in ascending wavelength, and their positions in the file.

    A width that is unknown is the usual step between the bands around, be there a gap or a join of two detectors.

    Parameters
    ----------
    where : the file, for the message.
    wavelength_nm, fwhm_nm, good : (band,) of every band of the file, in any order; an fwhm of NaN is unknown.

    Raises
    ------
    DataError : no usable bands, lists of different lengths, or wavelengths that are not in nm.
    """
    centre = np.asarray(wavelength_nm, float)
    width = np.full(len(centre), np.nan) if fwhm_nm is None else np.asarray(fwhm_nm, float)
    usable = np.ones(len(centre), bool) if good is None else np.asarray(good, bool)
    if not centre.shape == width.shape == usable.shape or usable.sum() < 2:
        raise DataError(
            f"{where}: {len(centre)} wavelengths, {len(width)} widths, {len(usable)} flags of which {usable.sum()} are "
            "good; one of each a band, and at least 2 good bands, are needed. Check the product."
        )
    if not np.isfinite(centre).all() or centre.min() < MIN_NM or len(set(centre)) < 2:
        raise DataError(
            f"{where}: wavelengths from {np.nanmin(centre):g} to {np.nanmax(centre):g}; nm are needed (at least "
            f"{MIN_NM:g}), and not one for all. If these are micrometres, say so in the file's wavelength units."
        )
    width = np.where(width > 0, width, _usual_step(centre))
    order = np.argsort(centre, kind="stable")
    order = order[usable[order]]
    return grid_of(centre, width).select(order), order


def _usual_step(centre_nm: FloatArray) -> FloatArray:
    """(band,) the median of the two steps on either side."""
    distinct = np.unique(centre_nm)
    if len(distinct) < 2:
        return np.full(len(centre_nm), np.nan)
    steps = np.pad(np.diff(distinct), 2, constant_values=np.nan)
    usual = np.nanmedian(np.lib.stride_tricks.sliding_window_view(steps, 4), axis=1)
    return np.asarray(usual[np.searchsorted(distinct, centre_nm)])


def reflectance_of(
    dn: NDArray[np.generic],
    scale: FloatArray | float = 1.0,
    offset: FloatArray | float = 0.0,
    nodata: float | None = None,
) -> Float32Array:
    """(band, row, col) reflectance of stored numbers, `dn * scale + offset`; NaN where no surface was measured.

    That is where `nodata` stands, where one number stands in every band (fill), and outside what surfaces reflect
    (`PLAUSIBLE`: EMIT's -9999 and -0.1 among others).

    Parameters
    ----------
    dn : (band, row, col).
    scale, offset : (band,) or one number for all.
    """
    factor, shift = (np.reshape(np.float32(part), (-1, 1, 1)) for part in (scale, offset))
    values = np.asarray(dn.astype(np.float32) * factor + shift)
    low, high = PLAUSIBLE
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
