"""Spectral libraries: measured spectra from a CSV, an ENVI spectral library or an `.npz`."""

import csv
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import DataError, input_errors

# Spectra are not interpolated across wider gaps. Detector joins and single missing bands leave up to 30 nm; the removed
# water-vapour bands (1350-1430, 1800-1950 nm) leave at least 60 nm.
MAX_STEP_NM = 30.0
# Larger values are percent or stored numbers: snow, cloud edges in the sun and specular minerals stay below.
MAX_REFLECTANCE = 2.0
# Smaller wavelengths are not in nm: optical sensors begin at about 200 nm, and 100 um would read as 100.
MIN_NM = 150.0
# Larger wavelengths are not in nm either: libraries of thermal spectra end at 25 um.
MAX_NM = 50_000.0
# Limits before memory is taken: bytes of a file, of unpacked arrays, of a header, and wavelengths of a library.
MAX_TEXT_BYTES, MAX_ARRAY_BYTES, MAX_HEADER_BYTES = 200_000_000, 4_000_000_000, 10_000_000
MAX_WAVELENGTHS = 20_000
# Stored numbers up to this mean unknown (USGS writes -1.23e34, ENVI often -9999).
MAX_UNKNOWN = -1.0
# Data types of ENVI libraries.
ENVI_TYPES = {"1": "u1", "2": "i2", "3": "i4", "4": "f4", "5": "f8", "12": "u2"}
MICROMETRES = ("micrometers", "micrometer", "micrometres", "microns", "um", "\u00b5m")
NANOMETRES = ("nanometers", "nanometer", "nanometres", "nm")


@dataclass(frozen=True, eq=False)
class Library:
    """Spectra with common wavelengths."""

    wavelength_nm: FloatArray
    """(band,) in nm, in the order of the file."""
    reflectance: Float32Array
    """(spectrum, band) unitless, nominally 0-1, NaN = unknown."""
    ids: tuple[str, ...]
    """(spectrum,) names of the spectra."""
    lon: FloatArray
    """(spectrum,) degrees east, NaN = unknown."""
    lat: FloatArray
    """(spectrum,) degrees north, NaN = unknown."""
    classes: tuple[str, ...] = ()
    """(spectrum,) class of each spectrum; empty if unknown."""


def read_library(path: str | Path) -> Library:
    """The spectra in a file: `.csv`, `.sli` or `.hdr` (ENVI spectral library), or `.npz`.

    A CSV has the header `id,lon,lat,<nm>,<nm>,...`. Empty values are unknown, also lon and lat.

    Raises
    ------
    DataError : missing, of another format, without spectra, reflectance not in 0-1, or wavelengths not in nm.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".npz": _read_npz, ".sli": _read_envi, ".hdr": _read_envi}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(readers)
        raise DataError(f"{path}: unknown format of spectra {path.suffix!r}; {known} are allowed. Convert the file.")
    if not path.is_file():
        raise DataError(f"{path}: no such file; a .csv, .sli or .npz file is required. Check the path.")
    with input_errors(str(path), DataError):
        return _checked(path, reader(path))


def _check_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{path}: {size / 1e6:.0f} MB of spectra; at most {limit / 1e6:.0f} MB are read. Give a part of them."
        )


def by_pattern(known: BoolArray) -> Iterator[tuple[BoolArray, NDArray[np.intp]]]:
    """Each distinct row of (spectrum, wavelength) booleans, and the positions of the spectra with that row."""
    _, first, which = np.unique(np.packbits(known, axis=1), axis=0, return_index=True, return_inverse=True)
    for pattern, example in enumerate(first):
        yield known[example], np.flatnonzero(which == pattern)


def interpolate_known(reflectance: FloatArray, wavelength_nm: FloatArray, at_nm: FloatArray) -> Float32Array:
    """(spectrum, wavelength) reflectance at other wavelengths, by linear interpolation between known bands.

    NaN beyond the known bands, and in gaps wider than `MAX_STEP_NM`.

    Parameters
    ----------
    reflectance : (spectrum, band) NaN = unknown.
    wavelength_nm : (band,) in nm, in any order.
    at_nm : (wavelength,) in nm.
    """
    order = np.argsort(wavelength_nm, kind="stable")
    reflectance, wavelength_nm = reflectance[:, order], wavelength_nm[order]
    known = np.isfinite(reflectance)
    result = np.full((len(reflectance), len(at_nm)), np.nan, np.float32)
    for pattern, rows in by_pattern(known):
        bands = np.flatnonzero(pattern)
        if len(bands) < 2:
            continue
        right = np.clip(np.searchsorted(wavelength_nm[bands], at_nm), 1, len(bands) - 1)
        start, stop = wavelength_nm[bands][right - 1], wavelength_nm[bands][right]
        share = (at_nm - start) / np.maximum(stop - start, 1e-9)
        inside = np.flatnonzero((stop - start <= MAX_STEP_NM) & (share >= 0) & (share <= 1))
        part = share[inside].astype(np.float32)
        before, after = bands[right[inside] - 1], bands[right[inside]]
        result[np.ix_(rows, inside)] = (
            reflectance[np.ix_(rows, before)] * (1 - part) + reflectance[np.ix_(rows, after)] * part
        )
    return result


def _checked(path: Path, library: Library) -> Library:
    values = library.reflectance
    known = np.isfinite(values)
    if values.size == 0 or not known.any():
        raise DataError(f"{path}: {len(values)} spectra without a known value; one is required. Check the file.")
    wavelength = library.wavelength_nm
    if not np.isfinite(wavelength).all() or wavelength.min() < MIN_NM or wavelength.max() > MAX_NM:
        raise DataError(
            f"{path}: wavelengths from {np.nanmin(wavelength):g} to {np.nanmax(wavelength):g}; nm are "
            f"required ({MIN_NM:g} to {MAX_NM:g}). If these are micrometres, multiply them by 1000."
        )
    if len(wavelength) > MAX_WAVELENGTHS:
        raise DataError(f"{path}: {len(wavelength)} wavelengths; at most {MAX_WAVELENGTHS} are read. Resample them.")
    for name, degrees, limit in (("lon", library.lon, 360), ("lat", library.lat, 90)):
        if (beyond := np.abs(degrees[np.isfinite(degrees)]) > limit).any():
            number = degrees[np.isfinite(degrees)][beyond][0]
            raise DataError(f"{path}: {name} {number:g}; -{limit} to {limit} degrees are required. Correct the column.")
    highest = float(values[known].max())
    if highest > MAX_REFLECTANCE:
        raise DataError(
            f"{path}: reflectance up to {highest:g}; 0-1 is required. If it is in percent, divide by 100; if stored as "
            "integers, by their scale (often 10000)."
        )
    return library


def _read_csv(path: Path) -> Library:
    _check_size(path, path.stat().st_size, MAX_TEXT_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines()) if row and any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: not text or not a table ({str(error)[:200]}); a CSV in UTF-8 is required. Save the file in UTF-8."
        ) from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if [cell.lower() for cell in header[:3]] != ["id", "lon", "lat"] or len(header) < 4:
        raise DataError(
            f"{path}: the header begins {','.join(header[:4])!r}; id,lon,lat,<nm>,<nm>,... is required. "
            "Put these columns first; lon and lat may be empty."
        )
    if len(rows) < 2:
        raise DataError(f"{path}: no spectra below the header; at least one row is required. Add spectra.")
    wavelength = np.array([_number(path, 1, cell.lower().removesuffix("nm")) for cell in header[3:]])
    if not np.isfinite(wavelength).all():
        raise DataError(f"{path}: a wavelength in the header is empty; every column requires one in nm. Add it.")
    table = np.full((len(rows) - 1, len(header)), np.nan)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} columns; {len(header)} are required. Correct it.")
        table[number - 2, 1:] = [_number(path, number, cell) for cell in row[1:]]
    ids = tuple(row[0].strip() or f"row {number}" for number, row in enumerate(rows[1:], start=2))
    return Library(wavelength, _unknown_as_nan(table[:, 3:]), ids, table[:, 1], table[:, 2])


def _number(path: Path, row: int, cell: str) -> float:
    text = cell.strip()
    if not text or text.lower() in {"nan", "na", "null"}:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise DataError(
            f"{path}: row {row} has {text!r} where a number is required. Correct the value or leave it empty."
        ) from error


def _unknown_as_nan(values: FloatArray) -> Float32Array:
    return np.where(values <= MAX_UNKNOWN, np.nan, values).astype(np.float32)


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` by name; DataError if the file cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(member.file_size for member in archive.infolist()), MAX_ARRAY_BYTES)
            for member in archive.infolist():
                _check_member(archive, member)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable .npz ({error}); arrays without pickle are required.") from error


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """ValueError if the header of an array in an `.npz` promises another size than the array has."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename}: shape {shape} of {dtype} does not fit {member.file_size} bytes")


def _read_npz(path: Path) -> Library:
    return _from_arrays(path, load_npz(path))


def library_of(path: Path, arrays: dict[str, NDArray[Any]]) -> Library:
    """The library in the arrays of an `.npz`, with the checks of `read_library`."""
    return _checked(path, _from_arrays(path, arrays))


def _from_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> Library:
    missing = [key for key in ("wavelength_nm", "reflectance") if key not in arrays]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; wavelength_nm and reflectance are required. Add them.")
    wavelength, reflectance = arrays["wavelength_nm"], arrays["reflectance"]
    if wavelength.dtype.kind not in "iuf" or reflectance.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: wavelength_nm is {wavelength.dtype}, reflectance {reflectance.dtype}; numbers are required. "
            "Correct the arrays."
        )
    wavelength = wavelength.astype(float)
    if reflectance.ndim != 2 or wavelength.shape != reflectance.shape[1:]:
        raise DataError(
            f"{path}: reflectance has shape {reflectance.shape}, wavelength_nm {wavelength.shape}; (spectrum, band) "
            "and (band,) are required. Correct the arrays."
        )
    count = len(reflectance)
    names = arrays.get("names", np.arange(count).astype(str))
    classes = arrays.get("class", np.full(count, "other"))
    if len(np.atleast_1d(names)) != count or len(np.atleast_1d(classes)) != count:
        raise DataError(f"{path}: names and class have other lengths than the {count} spectra. Correct the arrays.")
    unknown = np.full(count, np.nan)
    ids = tuple(map(str, names.tolist()))
    return Library(wavelength, _unknown_as_nan(reflectance), ids, unknown, unknown, tuple(map(str, classes.tolist())))


def _read_envi(path: Path) -> Library:
    """An ENVI spectral library: a header, and a binary file of the same name."""
    header_path = path.with_suffix(".hdr") if path.with_suffix(".hdr").is_file() else Path(f"{path}.hdr")
    if not header_path.is_file():
        raise DataError(f"{path}: no header {header_path.name} beside it; both are required. Copy it there.")
    header = _envi_header(header_path)
    data_path = path if path.suffix.lower() != ".hdr" else path.with_suffix(".sli")
    if not data_path.is_file():
        data_path = path.with_suffix("")
    if not data_path.is_file():
        raise DataError(f"{path}: no {path.stem}.sli beside the header; both are required. Copy it there.")
    _check_size(data_path, data_path.stat().st_size, MAX_ARRAY_BYTES)
    try:
        bands, count = int(header["samples"]), int(header["lines"])
        offset = int(header.get("header offset", "0"))
        kind = np.dtype(ENVI_TYPES[header["data type"].strip()])
        wavelength = np.array([float(cell) for cell in _envi_list(header["wavelength"])])
        factor = float(header.get("reflectance scale factor", "1"))
        ignored = float(header.get("data ignore value", "nan"))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{header_path}: not the header of a spectral library ({error}); samples, lines, data type and wavelength "
            "are required. Export the library again."
        ) from error
    kind = kind.newbyteorder(">" if header.get("byte order", "0").strip() == "1" else "<")
    raw = data_path.read_bytes()[offset:]
    if min(bands, count) < 1 or offset < 0 or not 0 < abs(factor) < math.inf:
        raise DataError(
            f"{header_path}: samples {bands}, lines {count}, header offset {offset}, scale factor {factor:g}; positive "
            "numbers are required. Export the library again."
        )
    if len(raw) < bands * count * kind.itemsize or len(wavelength) != bands:
        raise DataError(
            f"{data_path}: {len(raw)} bytes and {len(wavelength)} wavelengths; {count} spectra of {bands} bands need "
            f"{bands * count * kind.itemsize} and {bands}. The file is truncated, or the header is of another file."
        )
    values = np.frombuffer(raw, kind, bands * count).reshape(count, bands).astype(float)
    values = np.where(values == ignored, np.nan, values)
    units = header.get("wavelength units", "").strip().lower()
    if units in MICROMETRES:
        wavelength = wavelength * 1000
    elif units and units not in NANOMETRES:
        raise DataError(f"{header_path}: wavelength units {units!r}; nanometers or micrometers are read. Convert them.")
    names = _envi_list(header.get("spectra names", ""))
    ids = tuple(names) if len(names) == count else tuple(str(number) for number in range(1, count + 1))
    unknown = np.full(count, np.nan)
    return Library(wavelength, _unknown_as_nan(values / factor), ids, unknown, unknown)


def _envi_list(text: str) -> list[str]:
    return [cell.strip() for cell in text.strip().strip("{}").split(",") if cell.strip()]


def _envi_header(path: Path) -> dict[str, str]:
    """Keys (lower case) and values of an ENVI header; a value in braces may span lines."""
    _check_size(path, path.stat().st_size, MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    key, value = "", ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if key:
            value += " " + line
        elif "=" in line:
            key, value = (part.strip() for part in line.split("=", 1))
        if key and (not value.startswith("{") or "}" in line):
            fields[key.lower()] = value
            key, value = "", ""
    return fields
