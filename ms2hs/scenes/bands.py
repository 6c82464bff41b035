"""Bands of a scene: names and wavelengths of files matched with the bands of a sensor."""

import re
from collections.abc import Collection, Sequence

from ms2hs.errors import SceneError
from ms2hs.raster.header import Wavelength
from ms2hs.scenes.recognition import level_1c_error
from ms2hs.spectra.sensors import load_sensor

# The user's name for a band of the file that is not used.
SKIP = "-"
# `B02`, `b2`, `B8A`, `B08A`, `Band 2`, `B02 490 nm`, `T32TNT_20240601T102021_B02_10m`. At most two digits, because the
# bands of hyperspectral cubes are called `B001`.
BAND_NAME = re.compile(r"(?<![A-Za-z0-9])B(?:and)?[ _-]?(\d{1,2}A?)(?![A-Za-z0-9])", re.IGNORECASE)


def canonical(text: str, source: str) -> str | None:
    """The band name in a text, written as Sentinel-2 and HLS do (`B02`, `B8A`); None without a name.

    The text may also be a common name of the source's bands, such as `nir08`.
    """
    text = load_sensor(source).common_names.get(text.strip().lower(), text)
    match = BAND_NAME.search(text)
    return None if match is None else f"B{match[1].upper().lstrip('0').zfill(2)}"


def match_names(names: Sequence[str | None], source: str) -> list[str | None]:
    """The sensor's own name (`B2` for Landsat) of each canonical name; None if the sensor has no such band."""
    own = {canonical(name, source): name for name in load_sensor(source).grid.names}
    return [None if name is None else own.get(name) for name in names]


def match_wavelengths(wavelengths: Sequence[Wavelength | None], source: str) -> list[str | None]:
    """The canonical name of the sensor's band at each wavelength; None without such a band.

    Centres may differ by a quarter of the band's width or by 6 nm, as nominal and response-weighted centres do. Widths
    may differ by a factor of 2. Each band of the sensor is matched once, with the nearest candidate.
    """
    sensor = load_sensor(source)
    grid = sensor.grid
    names = [canonical(name, source) for name in grid.names]
    bands = [*zip(names, grid.wavelength_nm, grid.fwhm_nm, strict=True), *filter(None, [sensor.toa_band])]
    matched: list[str | None] = [None] * len(wavelengths)
    for name, centre, width in bands:
        near = [
            (abs(band.centre_nm - centre), i)
            for i, band in enumerate(wavelengths)
            if band is not None
            and abs(band.centre_nm - centre) <= max(6.0, width / 4)
            and (band.fwhm_nm is None or width / 2 <= band.fwhm_nm <= width * 2)
        ]
        if near:
            matched[min(near)[1]] = name
    return matched


def check_bands(names: Sequence[str | None], source: str, where: str) -> None:
    """Refuse bands that are not the sensor's surface bands.

    Parameters
    ----------
    names : canonical names in file order; None for a band that is not recognised.
    where : the file, for the message.

    Raises
    ------
    SceneError : Landsat numbering or level 1C instead of Sentinel-2, a repeated band, or too few bands.
    """
    sensor = load_sensor(source)
    known = [name for name in names if name is not None]
    if "B8A" in sensor.grid.names:
        _refuse_landsat_numbers(known, source, where)
    if sensor.toa_band is not None and sensor.toa_band[0] in known:
        raise level_1c_error(where, f"band {sensor.toa_band[0]}; for HLS S30 use --source hls_s30")
    repeated = sorted({name for name in known if known.count(name) > 1})
    if repeated:
        raise SceneError(
            f"{where}: bands appear twice: {', '.join(repeated)}; each band is allowed once. Name the bands with "
            f"--bands, `{SKIP}` for a band to skip."
        )
    matched = [name for name in match_names(known, source) if name is not None]
    if len(matched) < sensor.min_bands:
        wanted = sensor.grid.names
        missing = [name for name in wanted if name not in matched]
        raise SceneError(
            f"{where}: {len(matched)} of {len(names)} bands are recognised as {source}'s "
            f"({', '.join(matched) or 'none'}); at least {sensor.min_bands} of {', '.join(wanted)} are required "
            f"(missing: {', '.join(missing)}). Name the bands in file order with --bands {','.join(wanted[:3])},..., "
            "or give the sensor with --source."
        )


def choose_bands(
    available: Collection[str], source: str, requested: Sequence[str] | None, *, where: str, lacks: str, remedy: str
) -> tuple[str, ...]:
    """The requested bands, or all, of a product with one file per band, in the sensor's order.

    Parameters
    ----------
    available : names of the product's files; names of other layers are ignored.
    where, lacks, remedy : parts of the message about missing bands: the product, the fault (`{}` for the bands), and
        the user's next step.

    Raises
    ------
    SceneError : a band has no file; the message names it. Also as `check_bands`.
    """
    known = load_sensor(source).grid.names
    chosen = known
    if requested is not None:
        own = match_names([canonical(name, source) for name in requested], source)
        chosen = tuple(name or text for name, text in zip(own, requested, strict=True))
    missing = [name for name in chosen if name not in available]
    if missing:
        present = ", ".join(name for name in known if name in available) or "none"
        raise SceneError(f"{where}: {lacks.format(', '.join(missing))}; available: {present}. {remedy}")
    check_bands([canonical(name, source) for name in chosen], source, where)
    return tuple(name for name in known if name in chosen)


def names_fit_wavelengths(names: Sequence[str | None], wavelengths: Sequence[Wavelength | None], source: str) -> bool:
    """Whether no band's name contradicts its wavelength: centres within the sensor band's width, or 20 nm."""
    grid = load_sensor(source).grid
    pairs = zip(match_names(names, source), wavelengths, strict=True)
    known = [(grid.names.index(name), band.centre_nm) for name, band in pairs if name is not None and band is not None]
    return all(abs(centre - grid.wavelength_nm[i]) <= max(20.0, grid.fwhm_nm[i]) for i, centre in known)


def _refuse_landsat_numbers(names: Sequence[str], source: str, where: str) -> None:
    """Refuse band numbers of Landsat and HLS L30: B05 near infrared, B06 and B07 short-wave, B10 and B11 thermal."""
    if {f"B{i:02d}" for i in range(1, 8)} <= set(names) and not {"B08", "B8A", "B12"} & set(names):
        raise SceneError(
            f"{where}: bands {', '.join(names)} without B08, B8A and B12 have Landsat's numbering, not {source}'s (B10 "
            "and B11 are thermal in Landsat); Sentinel-2's surface bands are required. Use --source hls_l30, landsat8 "
            "or landsat9."
        )
