"""Spectra of a cube at some pixels, as a dataset, CSV and JSON.

Pixels are read block by block, so that a file of many points decodes each block once.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ms2hs.errors import visible
from ms2hs.viewing.locations import Pixel

# Side of the squares whose pixels are read together.
SQUARE = 256
CSV_COLUMNS = ("wavelength_nm", "fwhm_nm", "reflectance", "sigma", "support", "good")
# Significant digits of wavelengths, widths, reflectance (stored in steps of 1e-4) and its uncertainty.
DIGITS = (7, 7, 6, 6)


def read_spectra(cube: xr.Dataset, pixels: Sequence[Pixel]) -> tuple[xr.Dataset, list[str]]:
    """The spectra of some pixels of an open cube, and a message for each pixel without a valid value.

    Returns
    -------
    The variables of the cube as (point, wavelength), loaded, with the coordinates of `open_cube`, and `id`, `row` and
    `col` of each point, in the order of `pixels`.
    """
    squares: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, pixel in enumerate(pixels):
        squares[pixel.row // SQUARE, pixel.col // SQUARE].append(number)
    names = [name for name in ("reflectance", "sigma") if name in cube]
    values = {name: np.empty((len(pixels), cube.sizes["wavelength"]), np.float32) for name in names}
    for members in squares.values():
        rows, cols = (np.array([getattr(pixels[number], axis) for number in members]) for axis in ("row", "col"))
        window = {"y": slice(rows.min(), rows.max() + 1), "x": slice(cols.min(), cols.max() + 1)}
        for name in names:
            values[name][members] = cube[name].isel(window).values[:, rows - rows.min(), cols - cols.min()].T
    valid = np.asarray(np.isfinite(values["reflectance"]).any(axis=1))
    invalid = [
        f"{pixel.id}: the pixel at row {pixel.row}, column {pixel.col} is invalid (cloud, or nodata of the scene); a "
        "valid pixel is needed. Choose another location."
        for pixel, is_valid in zip(pixels, valid, strict=True)
        if not is_valid
    ]
    kept = [pixel for pixel, is_valid in zip(pixels, valid, strict=True) if is_valid]
    coords = {name: coord for name, coord in cube.coords.items() if coord.dims == ("wavelength",)}
    coords |= {name: ("point", [getattr(pixel, name) for pixel in kept]) for name in Pixel._fields}
    data = {name: (("point", "wavelength"), array[valid], cube[name].attrs) for name, array in values.items()}
    return xr.Dataset(data, coords, cube.attrs), invalid


def csv_text(spectra: xr.Dataset, *, with_id: bool) -> str:
    """The spectra as CSV with a header, one row a band; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*(("id",) if with_id else ()), *CSV_COLUMNS))
    for name, rows in _rows(spectra):
        start = (name,) if with_id else ()
        writer.writerows((*start, *cells, str(good).lower()) for *cells, good in rows)
    return text.getvalue()


def json_facts(spectra: xr.Dataset) -> list[dict[str, Any]]:
    """The spectra as JSON: `id`, `row`, `col` and `bands`, a list of objects with the columns of the CSV."""
    return [
        {"id": name, "row": int(row), "col": int(col)}
        | {
            "bands": [
                dict(zip(CSV_COLUMNS, (None if cell == "" else cell for cell in band), strict=True)) for band in rows
            ]
        }
        for (name, rows), row, col in zip(_rows(spectra), spectra.row.values, spectra.col.values, strict=True)
    ]


def _rows(spectra: xr.Dataset) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """The name of each point, and the cells of each band in the order of `CSV_COLUMNS`."""
    bands = spectra.sizes["wavelength"]
    support = spectra.support.values.tolist() if "support" in spectra.coords else [""] * bands
    for point, name in enumerate(spectra.id.values):
        numbers = [spectra.wavelength.values, spectra.fwhm.values, spectra.reflectance.values[point]]
        numbers.append(spectra.sigma.values[point] if "sigma" in spectra else np.full(bands, np.nan))
        cells = [
            [float(f"{number:.{digits}g}") if math.isfinite(number) else "" for number in column.tolist()]
            for digits, column in zip(DIGITS, numbers, strict=True)
        ]
        yield visible(str(name)), list(zip(*cells, support, spectra.good.values.tolist(), strict=True))
