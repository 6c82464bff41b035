"""Headers of raster files: tags, band descriptions and wavelengths."""

import math
import re
from dataclasses import dataclass

from rasterio.io import DatasetReader

# Wavelengths without unit below this are micrometres: reflected sunlight spans 300 nm to 2.5 um.
MAX_UM = 100.0


@dataclass(frozen=True)
class Wavelength:
    """Centre wavelength and width (FWHM) of one band."""

    centre_nm: float
    fwhm_nm: float | None


@dataclass(frozen=True)
class Header:
    """Metadata of a raster file."""

    path: str
    tags: dict[str, str]
    """Dataset tags, keys in lower case with `_` for spaces."""
    descriptions: tuple[str | None, ...]
    """(band,)"""
    wavelengths: tuple[Wavelength | None, ...]
    """(band,)"""


def read_header(dataset: DatasetReader, path: str) -> Header:
    """Tags, descriptions and wavelengths of an opened raster."""
    tags = {**_tags(dataset, 0, "IMAGERY"), **_tags(dataset, 0, "ENVI"), **_tags(dataset, 0, None)}
    from_lists = _listed_wavelengths(tags, dataset.count)
    wavelengths = tuple(_band_wavelength(dataset, band) or from_lists[band - 1] for band in dataset.indexes)
    return Header(path, tags, dataset.descriptions, wavelengths)


def _tags(dataset: DatasetReader, band: int, domain: str | None) -> dict[str, str]:
    """Tags of a band (0: of the file), keys in lower case with `_` for spaces."""
    return {key.lower().replace(" ", "_"): str(value) for key, value in dataset.tags(band, ns=domain).items()}


def _band_wavelength(dataset: DatasetReader, band: int) -> Wavelength | None:
    """Wavelength from the band's `IMAGERY` tags (GDAL 3.10 and later), or from its `wavelength` tags (ENVI)."""
    imagery, tags = _tags(dataset, band, "IMAGERY"), _tags(dataset, band, None)
    if (centre := _number(imagery.get("central_wavelength_um"))) is not None:
        return _wavelength(centre, _number(imagery.get("fwhm_um")), "um")
    if (centre := _number(tags.get("wavelength"))) is not None:
        return _wavelength(centre, _number(tags.get("fwhm")), tags.get("wavelength_units", ""))
    return None


def _listed_wavelengths(tags: dict[str, str], count: int) -> list[Wavelength | None]:
    """Wavelengths of all bands from lists in the dataset tags: `wavelength = {443, 490, ...}`."""
    centres, widths = _numbers(tags.get("wavelength", "")), _numbers(tags.get("fwhm", ""))
    if len(centres) != count:
        return [None] * count
    fwhm = widths if len(widths) == count else [None] * count
    unit = tags.get("wavelength_units", "")
    return [_wavelength(centre, width, unit) for centre, width in zip(centres, fwhm, strict=True)]


def _wavelength(centre: float, width: float | None, unit: str) -> Wavelength:
    unit = unit.strip().lower()
    in_um = unit in {"um", "µm", "μm"} or unit.startswith("micro") or (not unit and centre < MAX_UM)
    factor = 1000.0 if in_um else 1.0
    return Wavelength(centre * factor, width * factor if width else None)


def _number(text: str | None) -> float | None:
    numbers = _numbers(text or "")
    return numbers[0] if len(numbers) == 1 else None


def _numbers(text: str) -> list[float]:
    """The numbers of a text such as `{443.0, 490}`; an empty list unless all are finite and positive."""
    words = re.split(r"[\s,;]+", text.strip().strip("{}[]()").strip())
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return []
    return numbers if all(math.isfinite(number) and number > 0 for number in numbers) else []
