"""What a raster file says of itself: tags, band descriptions, wavelengths."""

import math
import re
from dataclasses import dataclass

from rasterio.io import DatasetReader

NM_PER_UM = 1000.0
# Numbers below this can only be micrometres: reflected sunlight begins near 300 nm and ends near 2.5 um.
LARGEST_UM = 100.0


@dataclass(frozen=True)
class Wavelength:
    """Centre and width of one band as its file gives them."""

    centre_nm: float
    fwhm_nm: float | None


@dataclass(frozen=True)
class Header:
    """What a raster file says of itself."""

    path: str
    tags: dict[str, str]
    """Of the whole file."""
    descriptions: tuple[str | None, ...]
    """(band,)"""
    wavelengths: tuple[Wavelength | None, ...]
    """(band,)"""


def read_header(dataset: DatasetReader, path: str) -> Header:
    """Tags, descriptions and wavelengths of an opened raster."""
    tags = {**_tags(dataset, 0, "ENVI"), **_tags(dataset, 0, None)}
    listed = _listed_wavelengths(tags, dataset.count)
    wavelengths = tuple(_band_wavelength(dataset, band) or listed[band - 1] for band in dataset.indexes)
    return Header(path, tags, dataset.descriptions, wavelengths)


def _tags(dataset: DatasetReader, band: int, domain: str | None) -> dict[str, str]:
    """Tags of the file (band 0) or of a band, keys in lower case with `_` for spaces."""
    found = dataset.tags(band, ns=domain) if band else dataset.tags(ns=domain)
    return {key.lower().replace(" ", "_"): str(value) for key, value in found.items()}


def _band_wavelength(dataset: DatasetReader, band: int) -> Wavelength | None:
    """Of a band, from the `IMAGERY` domain of GDAL 3.10 on, or from `wavelength` tags as ENVI files have them."""
    imagery = _tags(dataset, band, "IMAGERY")
    centre = _number(imagery.get("central_wavelength_um"))
    if centre is not None:
        return _wavelength(centre, _number(imagery.get("fwhm_um")), "um")
    tags = _tags(dataset, band, None)
    centre = _number(tags.get("wavelength"))
    return None if centre is None else _wavelength(centre, _number(tags.get("fwhm")), tags.get("wavelength_units", ""))


def _listed_wavelengths(tags: dict[str, str], count: int) -> list[Wavelength | None]:
    """Of every band, from lists that the whole file carries: `wavelength = {443, 490, ...}`."""
    centres, widths = _numbers(tags.get("wavelength", "")), _numbers(tags.get("fwhm", ""))
    if len(centres) != count:
        return [None] * count
    known = widths if len(widths) == count else [None] * count
    units = tags.get("wavelength_units", "")
    return [_wavelength(centre, width, units) for centre, width in zip(centres, known, strict=True)]


def _wavelength(centre: float, width: float | None, units: str) -> Wavelength:
    unit = units.strip().lower()
    in_um = unit in {"um", "µm", "μm"} or unit.startswith("micro") or (not unit and centre < LARGEST_UM)
    factor = NM_PER_UM if in_um else 1.0
    return Wavelength(centre * factor, width * factor if width else None)


def _number(text: str | None) -> float | None:
    numbers = _numbers(text or "")
    return numbers[0] if len(numbers) == 1 else None


def _numbers(text: str) -> list[float]:
    """The finite numbers above 0 in a text such as `{443.0, 490}`; none if anything else stands there."""
    words = re.split(r"[\s,;]+", text.strip().strip("{}[]()").strip())
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return []
    return numbers if all(math.isfinite(number) and number > 0 for number in numbers) else []
