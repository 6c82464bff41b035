"""Which band of which sensor: names and wavelengths as files give them, put to a sensor's bands."""

import re
from collections.abc import Collection, Sequence

from ms2hs.errors import SceneError, UnknownName
from ms2hs.raster.header import Wavelength
from ms2hs.spectra.sensors import load_sensor, sensor_names

CUSTOM = "custom"
SKIP = "-"
# The cirrus band of Sentinel-2: level 1C has it, level 2A never.
CIRRUS, CIRRUS_NM = "B10", 1373.5
# At most two digits: the bands of hyperspectral cubes are called `B001`.
# `B02`, `b2`, `B8A`, `B08A`, `Band 2`, `B02 490 nm`, `T32TNT_20240601T102021_B02_10m`
NAME = re.compile(r"(?<![A-Za-z0-9])B(?:and)?[ _-]?(\d{1,2}A?)(?![A-Za-z0-9])", re.IGNORECASE)
# Names of Sentinel-2 bands in the catalogues of Earth Search and the like.
COMMON = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "swir16": "B11", "swir22": "B12",
}  # fmt: skip


def is_sentinel2(source: str) -> bool:
    """Whether this is Sentinel-2 as ESA delivers it (not HLS)."""
    return source.startswith("sentinel2")


def needed(source: str) -> int:
    """How many of a sensor's bands must be there.

    Two may be missing of Sentinel-2's 12 and HLS S30's 11, one of Landsat's 7: with fewer, too much would be guessed.
    """
    count = len(load_sensor(source).grid)
    return count - 2 if count > 8 else count - 1


def check_source(source: str) -> str:
    """The name of a multispectral sensor, or `custom`; UnknownName lists them."""
    known = [*sensor_names("source"), CUSTOM]
    if source not in known:
        raise UnknownName.of("source", source, known, "Give one of these with --source.")
    return source


def canonical(text: str) -> str | None:
    """The band that a description names, as Sentinel-2 and HLS write it (`B02`, `B8A`); None if it names none."""
    found = NAME.search(text)
    if found is None:
        return COMMON.get(text.strip().lower())
    number = found[1].upper().lstrip("0")
    return f"B{number.zfill(2)}"


def match_names(names: Sequence[str | None], source: str) -> list[str | None]:
    """For each canonical name the sensor's own name of that band (`B2` for Landsat), None where it has none."""
    own = {canonical(name): name for name in load_sensor(source).grid.names}
    return [None if name is None else own.get(name) for name in names]


def match_wavelengths(found: Sequence[Wavelength | None], source: str) -> list[str | None]:
    """For each band the one of the sensor at its wavelength, as a canonical name; None where there is none.

    A centre may be off by a quarter of the band's width (nominal and response-weighted centres differ by that much), or
    6 nm, and a width by a factor of 2. No band of the sensor is given twice: of two candidates the nearer gets it.
    """
    grid = load_sensor(source).grid
    names = [canonical(name) for name in grid.names]
    centres, widths = list(grid.wavelength_nm), list(grid.fwhm_nm)
    if is_sentinel2(source):
        names, centres, widths = [*names, CIRRUS], [*centres, CIRRUS_NM], [*widths, 30.0]
    matched: list[str | None] = [None] * len(found)
    for name, centre, width in zip(names, centres, widths, strict=True):
        near = [
            (abs(band.centre_nm - centre), i)
            for i, band in enumerate(found)
            if band is not None
            and abs(band.centre_nm - centre) <= max(6.0, width / 4)
            and (band.fwhm_nm is None or width / 2 <= band.fwhm_nm <= width * 2)
        ]
        if near:
            matched[min(near)[1]] = name
    return matched


def check_bands(names: Sequence[str | None], source: str, where: str) -> None:
    """Refuse bands that are not this sensor's surface bands.

    Parameters
    ----------
    names : canonical names in file order, None where a band is not recognised.
    where : the file, for the message.

    Raises
    ------
    SceneError : Landsat numbering or level 1C taken for Sentinel-2, a band twice, or too few.
    """
    there = [name for name in names if name is not None]
    if is_sentinel2(source):
        _refuse_landsat(there, source, where)
        if CIRRUS in there:
            raise SceneError(
                f"{where}: has band B10, so it is level 1C, top of atmosphere; surface reflectance (level 2A) is "
                "needed. Get the L2A product; if it is HLS S30, give --source hls_s30."
            )
    twice = sorted({name for name in there if there.count(name) > 1})
    if twice:
        raise SceneError(
            f"{where}: bands appear twice: {', '.join(twice)}; each may be there once. Name them with --bands, "
            f"`{SKIP}` for those to skip."
        )
    matched = [name for name in match_names(there, source) if name is not None]
    if len(matched) < needed(source):
        wanted = load_sensor(source).grid.names
        lacking = [name for name in wanted if name not in matched]
        raise SceneError(
            f"{where}: {len(matched)} of {len(names)} bands are recognised as {source}'s "
            f"({', '.join(matched) or 'none'}); at least {needed(source)} of {', '.join(wanted)} are needed "
            f"(missing: {', '.join(lacking)}). Name the bands in file order with --bands {','.join(wanted[:3])},..., "
            "or give the sensor with --source."
        )


def choose_bands(
    there: Collection[str], source: str, asked: Sequence[str] | None, *, where: str, lacks: str, remedy: str
) -> tuple[str, ...]:
    """The bands to use of a product with a file for each, in the sensor's order: those asked for, or all.

    Parameters
    ----------
    there : names that the product has a file of, others than bands too.
    where, lacks, remedy : the product, what is said of it (`{}` for the bands) and what helps, if one is not there.

    Raises
    ------
    SceneError : a band has no file; the message names it. Or as `check_bands` says.
    """
    known = load_sensor(source).grid.names
    chosen = known if asked is None else tuple(canonical(name) or name for name in asked)
    missing = [name for name in chosen if name not in there]
    if missing:
        present = ", ".join(name for name in known if name in there) or "none"
        raise SceneError(f"{where}: {lacks.format(', '.join(missing))}; there are {present}. {remedy}")
    check_bands(chosen, source, where)
    return tuple(name for name in known if name in chosen)


def _refuse_landsat(names: Sequence[str], source: str, where: str) -> None:
    """Landsat and HLS L30 count otherwise: their B05 is near infrared, B06 and B07 short-wave, B10 and B11 thermal."""
    landsat = {f"B{i:02d}" for i in range(1, 8)} <= set(names) and not {"B08", "B8A", "B12"} & set(names)
    if landsat:
        raise SceneError(
            f"{where}: bands {', '.join(names)} without B08, B8A and B12 are numbered as Landsat's, and not {source}'s "
            "(B10 and B11 are thermal there); Sentinel-2's surface bands are needed. Give --source hls_l30 "
            "(HLS L30), landsat8 or landsat9."
        )


def agree(names: Sequence[str | None], found: Sequence[Wavelength | None], source: str) -> bool:
    """Whether no band's name contradicts its wavelength: centres within the sensor band's width, or 20 nm."""
    grid = load_sensor(source).grid
    for own, band in zip(match_names(names, source), found, strict=True):
        if band is None or own is None:
            continue
        i = grid.names.index(own)
        if abs(band.centre_nm - grid.wavelength_nm[i]) > max(20.0, grid.fwhm_nm[i]):
            return False
    return True
