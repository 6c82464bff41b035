"""Headers of raster files: tags, band descriptions, wavelengths, and the declared scale and offset."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rasterio.io import DatasetReader

from ms2hs.raster.cube_writer import ENVI_HEADER
from ms2hs.spectra.sensors import camera_of

ENVI_DRIVER = "ENVI"
"""GDAL's name of the driver for ENVI files."""
# Suffixes of the image that an ENVI header describes.
ENVI_IMAGES = ("", ".dat", ".img", ".bsq", ".bil", ".bip", ".raw")
# Wavelengths without unit below this are micrometres: reflected sunlight spans 300 nm to 2.5 um.
MAX_UM = 100.0
# Longest text of a tag that is searched for names and numbers; wavelengths of 10,000 bands have fewer characters.
MAX_TAG = 100_000
# Tags with the scale: of a file, or of a band. `scale_factor` is the CF conventions' name; FORCE writes `Scale`.
FILE_SCALE_TAGS, FILE_OFFSET_TAGS = ("scale_factor",), ("add_offset",)
BAND_SCALE_TAGS, BAND_OFFSET_TAGS = ("scale_factor", "scale"), ("add_offset", "offset")
# A scale in tags from this number on divides, such as FORCE's 10000.
MIN_DIVISOR = 100.0


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
    camera: str = ""
    """The camera whose nominal widths the wavelengths have, since the file has none; empty otherwise."""


@dataclass(frozen=True)
class Declared:
    """Declared scale, offset and nodata of one band in a file or item; None where undeclared."""

    scale: float | None = None
    offset: float | None = None
    """In reflectance: `dn * scale + offset`, as GDAL and STAC define it."""
    nodata: float | None = None
    where: str = ""
    """The declaring part of the file, for the sentence of the rule."""
    dtype: str = ""
    """Data type of the stored numbers; empty if unknown."""


def image_of(path: str) -> str:
    """The image that an ENVI header describes; other paths as they are."""
    if Path(path).suffix.lower() != ENVI_HEADER:
        return path
    images = (Path(path).with_suffix(suffix) for suffix in ENVI_IMAGES)
    return str(next((image for image in images if image.is_file()), path))


def read_header(dataset: DatasetReader, path: str) -> Header:
    """Tags, descriptions and wavelengths of an opened raster."""
    tags = {**_tags(dataset, 0, "IMAGERY"), **_tags(dataset, 0, "ENVI"), **_tags(dataset, 0, None)}
    from_lists = _listed_wavelengths(tags, dataset.count)
    from_bands = [_band_wavelength(dataset, band) for band in dataset.indexes]
    if dataset.driver == ENVI_DRIVER:  # GDAL rounds the wavelengths of bands to nanometres; the header has all digits
        from_lists, from_bands = from_bands, from_lists
    wavelengths = tuple(first or second for first, second in zip(from_bands, from_lists, strict=True))
    return _with_camera_widths(Header(path, tags, dataset.descriptions, wavelengths))


def _with_camera_widths(header: Header) -> Header:
    """The header with the widths of a camera if its file has the camera's bands, and no widths."""
    bands = [band for band in header.wavelengths if band is not None and band.fwhm_nm is None]
    camera = camera_of([band.centre_nm for band in bands]) if 0 < len(bands) == len(header.wavelengths) else None
    if camera is None:
        return header
    widths = zip(bands, camera.grid.fwhm_nm.tolist(), strict=True)
    wavelengths = tuple(replace(band, fwhm_nm=width) for band, width in widths)
    return replace(header, wavelengths=wavelengths, camera=camera.name)


def _tags(dataset: DatasetReader, band: int, domain: str | None) -> dict[str, str]:
    """Tags of a band (0: of the file), keys in lower case with `_` for spaces."""
    tags = dataset.tags(band, ns=domain)
    return {key.lower().replace(" ", "_"): str(value)[:MAX_TAG] for key, value in tags.items()}


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


def declared_in(dataset: DatasetReader, bands: Sequence[int]) -> list[Declared]:
    """What an open raster declares about its 1-based `bands`.

    ENVI's `reflectance scale factor` comes first, as gains may give radiance; then GDAL's scale and offset of the band,
    the band's tags, and the file's tags.
    """
    file_tags = _scale_tags(dataset, 0)
    in_file = _tagged(file_tags, FILE_SCALE_TAGS, FILE_OFFSET_TAGS)
    declared = []
    for band in bands:
        in_band = _tagged(_scale_tags(dataset, band), BAND_SCALE_TAGS, BAND_OFFSET_TAGS)
        sources = (
            (_divisor(file_tags.get("reflectance_scale_factor")), None, "the header's reflectance scale factor:"),
            (dataset.scales[band - 1], dataset.offsets[band - 1], "the file's own"),
            (*in_band, "the bands' tags:"),
            (*in_file, "the file's tags:"),
        )
        # GDAL reports scale 1 and offset 0 where nothing is declared.
        known = [(None if scale == 1 else scale, offset or None, where) for scale, offset, where in sources]
        scale, offset, where = next((row for row in known if row[:2] != (None, None)), (None, None, ""))
        declared.append(Declared(scale, offset, dataset.nodatavals[band - 1], where, dataset.dtypes[band - 1]))
    return declared


def _scale_tags(dataset: DatasetReader, band: int) -> dict[str, str]:
    """Tags of a band (0: of the file) that may hold a scale."""
    return {**_tags(dataset, band, "ENVI"), **_tags(dataset, band, "FORCE"), **_tags(dataset, band, None)}


def _tagged(
    tags: Mapping[str, str], scale_keys: Sequence[str], offset_keys: Sequence[str]
) -> tuple[float | None, float | None]:
    """Scale and offset in some tags; None where undeclared."""
    scale = next((number_of(tags[key]) for key in scale_keys if key in tags), None)
    offset = next((number_of(tags[key]) for key in offset_keys if key in tags), None)
    if scale is not None and scale >= MIN_DIVISOR:
        scale = 1 / scale
    return scale, offset


def _divisor(text: str | None) -> float | None:
    """1 / number; NaN for a text that is no number above 0, None for None."""
    number = None if text is None else number_of(text)
    return None if number is None else 1 / number if number > 0 else math.nan


def number_of(value: object) -> float:
    """A declared number; NaN, which every rule refuses, for a text that is no number."""
    try:
        return float(str(value).strip())
    except ValueError:
        return math.nan
