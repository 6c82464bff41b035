"""Bands of a scene: names and wavelengths of files matched with the bands of a sensor.

A text names a band by the band's own number (`B02`, `SR_B2`, `T32TNT_20240601T102021_B02_10m`), else by a common name
of the sensor's table (`blue`, `nbart_red_edge_1`), else by its number in a list (`Band 2`). Texts that only count the
bands of the file (`Band 1` to `Band n`) name nothing. Tools use some common names for different bands; such a name is
read where the other names of the file leave one band, and refused where they leave several.
"""

import re
from collections.abc import Collection, Sequence
from itertools import product

from ms2hs.errors import SceneError
from ms2hs.raster.header import Wavelength
from ms2hs.scenes.recognition import level_1c_error, sources
from ms2hs.spectra.sensors import load_sensor

# The user's name for a band of the file that is not used.
SKIP = "-"
# `B02`, `b2`, `B8A`, `B08A`, `Band 2`. At most two digits, because the bands of hyperspectral cubes are called `B001`.
# `ST_B10` is surface temperature.
BAND_NAME = re.compile(r"(?<![A-Za-z0-9])(?<!ST_)B(?:and)?[ _-]?(\d{1,2}A?)(?![A-Za-z0-9])", re.IGNORECASE)
# Without the word `Band`, by which lists of bands count, except in ESPA's `sr_band2`.
OWN_NUMBER = re.compile(r"(?<![A-Za-z0-9])(?<!ST_)(?:B|SR[ _-]?BAND)[ _-]?(\d{1,2}A?)(?![A-Za-z0-9])", re.IGNORECASE)
# Default names of bands, by which GDAL, ENVI, R and others count the bands of a file.
POSITION = re.compile(r"(?:B|BAND)?[ _-]?(\d+)", re.IGNORECASE)
# Words of layers that are no reflectance, such as `Scene-average Water Vapour map, WVP` and `view_zenith_B2`.
OTHER_LAYERS = {
    "angle", "aot", "azimuth", "clm", "clp", "count", "datamask", "fmask", "footprint", "mask", "msk", "probability",
    "qa", "quality", "scl", "std", "stddev", "stdev", "variance", "vcid", "wvp", "zenith",
}  # fmt: skip
# Bands of 60 m that MAJA, users of Earth Engine and others leave out, in the order in which tools leave them out.
OFTEN_MISSING = ("B09", "B01")
# The numbers of Landsat 4 to 7, where B06 is thermal and B04 near infrared.
TM_NUMBERS = {"B01", "B02", "B03", "B04", "B05", "B07"}
# The numbers of Landsat 8 and 9, and of HLS L30.
OLI_NUMBERS = {f"B{i:02d}" for i in range(1, 8)}
# With more unclear names, the message would list more orders than a user can compare.
MAX_UNCLEAR = 4


def canonical(text: str, source: str) -> str | None:
    """The band name in one text, written as Sentinel-2 and HLS do (`B02`, `B8A`); None without a name.

    A name that tools use for different bands has its meaning in STAC. For the names of a whole file use `read_names`.
    """
    bands = _readings(text, source)
    stac = load_sensor(source).common_names.get("".join(_words(text)), "")
    return _certain(bands) or _certain(bands & _numbered(OWN_NUMBER, stac))


def read_names(texts: Sequence[str | None], source: str, *, by_user: bool = False) -> list[frozenset[str]]:
    """The bands that each text of a file may name, by canonical name: none, one, or several where tools differ.

    A user who gives names (`by_user`) does not count the bands of a file.
    """
    if not by_user and _are_positions(texts, source):
        return [frozenset()] * len(texts)
    found = [_readings(text or "", source) for text in texts]
    while True:
        taken = frozenset[str]().union(*(bands for bands in found if len(bands) == 1))
        reduced = [bands - taken if len(bands) > 1 else bands for bands in found]
        if reduced == found:
            return found
        found = reduced


def name_bands(texts: Sequence[str | None], source: str, *, by_user: bool = False) -> list[str | None]:
    """The canonical name of the band in each text, as `read_names`; None without one certain name."""
    return [_certain(bands) for bands in read_names(texts, source, by_user=by_user)]


def _certain(bands: frozenset[str]) -> str | None:
    return next(iter(bands)) if len(bands) == 1 else None


def _readings(text: str, source: str) -> frozenset[str]:
    """The bands that one text may name."""
    if OTHER_LAYERS & set(_words(text)):
        return frozenset()
    text = re.sub(r"^\s*(?=\d{1,2}A?\s*$)", "B", text, flags=re.IGNORECASE)
    if own := _numbered(OWN_NUMBER, text):
        # `B05 - NIR` is a band of Landsat, and none of Sentinel-2.
        named = _by_common_name(["".join(_words(OWN_NUMBER.sub("", text)))], source)
        return own if len(own) == 1 and (not named or own <= named) else frozenset()
    listed = _numbered(BAND_NAME, text)
    return _by_common_name(_words(text), source) or (listed if len(listed) == 1 else frozenset())


def _numbered(pattern: re.Pattern[str], text: str) -> frozenset[str]:
    return frozenset(f"B{number.upper().lstrip('0').zfill(2)}" for number in pattern.findall(text.strip()))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def _by_common_name(words: Sequence[str], source: str) -> frozenset[str]:
    """The bands with the longest common name in some words; none if the words name several."""
    names = load_sensor(source).possible_bands
    for length in range(len(words), 0, -1):
        phrases = {"".join(words[i : i + length]) for i in range(len(words) - length + 1)}
        if found := {names[phrase] for phrase in phrases if phrase in names}:
            return _numbered(OWN_NUMBER, " ".join(found.pop())) if len(found) == 1 else frozenset()
    return frozenset()


def _are_positions(texts: Sequence[str | None], source: str) -> bool:
    """Whether the names only count the bands of the file, from 0 or 1: `Band 1` to `Band n`, and no `Band 8A`.

    `B1` to `B7` name the bands of a source that has just these.
    """
    positions = [_position(text or "", source) for text in texts]
    start = positions[0]
    counts = [i for i, number in enumerate(positions) if number is not None]
    if start not in {0, 1} or len(counts) < 2 or any(positions[i] != i + start for i in counts):
        return False
    if any(_readings(text or "", source) for text, number in zip(texts, positions, strict=True) if number is None):
        return False
    own = [canonical(name, source) for name in load_sensor(source).grid.names]
    return [_certain(_numbered(OWN_NUMBER, texts[i] or "")) for i in counts] != own


def _position(text: str, source: str) -> int | None:
    """The number of a text that may only count the band: `B1`, `1`, `Band 1 (stack.tif)`."""
    if match := POSITION.fullmatch(text.strip()):
        return int(match[1])
    names = OWN_NUMBER.search(text) or _by_common_name(_words(text), source)
    match = None if names else BAND_NAME.search(text)
    return int(match[1]) if match and match[1].isdigit() else None


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


def is_enough(names: Sequence[str | None], source: str) -> bool:
    """Whether the canonical names contain the number of bands that the sensor requires."""
    return len(set(match_names(names, source)) - {None}) >= load_sensor(source).min_bands


def check_names(
    texts: Sequence[str | None], source: str, where: str, *, is_known: bool = True, by_user: bool = False
) -> list[str | None]:
    """The canonical name of the band in each text of a file; None for a band that is not recognised.

    Parameters
    ----------
    where : the file, for the message.
    is_known : whether the user or the file names the source; otherwise the message also proposes other sources.

    Raises
    ------
    SceneError : names that fit another source, that tools use for different bands, or that are no names of bands; the
        message gives the option that decides. Also as `check_bands`.
    """
    readings = read_names(texts, source, by_user=by_user)
    names = [_certain(bands) for bands in readings]
    numbered = {_certain(_numbered(OWN_NUMBER, text or "")) for text, name in zip(texts, names, strict=True) if name}
    if not by_user and numbered == TM_NUMBERS:
        raise SceneError(
            f"{where}: bands {', '.join(sorted(TM_NUMBERS))} without B06 have the numbering of Landsat 4 to 7, whose "
            f"spectral responses are not available; bands of Sentinel-2, HLS, Landsat 8 or Landsat 9 are required. Use "
            "a scene of these sensors, or name each band in file order with --bands if one of them took the scene."
        )
    if not is_known and not is_enough(names, source) and (others := other_sources(texts, source, by_user=by_user)):
        _refuse_other_numbering([*filter(None, names)], source, where)
        raise SceneError(
            f"{where}: {_found(names, source)}; the names also fit {_alternatives(others)}. Use --source "
            f"{_alternatives(others)} if that sensor took the scene."
        )
    if orders := _orders(readings, source):
        unclear = {texts[i]: sorted(bands) for i, bands in enumerate(readings) if len(bands) > 1}
        meanings = "; ".join(f"{text} is {_alternatives(bands)}" for text, bands in unclear.items())
        raise SceneError(
            f"{where}: tools use names for different bands ({meanings}); one meaning is required. Use "
            f"{_alternatives([f'--bands {order}' for order in orders[:4]])}."
        )
    if not by_user and not any(names):
        _refuse_unnamed(texts, source, where, is_known=is_known)
    check_bands(names, source, where)
    return names


def check_user_names(bands: Sequence[str], source: str, where: str, *, is_known: bool = True) -> list[str | None]:
    """As `check_names` for the value of `--bands`, where every name must be a name of a band or `SKIP`."""
    readings = read_names(bands, source, by_user=True)
    unknown = [text for text, read in zip(bands, readings, strict=True) if not read and text != SKIP]
    if unknown:
        raise SceneError(
            f"{where}: --bands has {', '.join(unknown)}; names such as B02 and B8A are allowed. Use `{SKIP}` for a "
            "band to skip."
        )
    return check_names(bands, source, where, is_known=is_known, by_user=True)


def contradiction(named: Sequence[str | None], measured: Sequence[str | None], where: str) -> SceneError:
    """The error for names of bands that their wavelengths contradict."""
    pairs = [
        f"{i} is called {a}, with the wavelength of {b}"
        for i, (a, b) in enumerate(zip(named, measured, strict=True), 1)
        if a != b and a and b
    ]
    by_wavelength, by_name = (",".join(name or SKIP for name in names) for names in (measured, named))
    return SceneError(
        f"{where}: names and wavelengths of the bands disagree (band {'; '.join(pairs[:3])}); they must agree. Use "
        f"--bands {by_wavelength} if the wavelengths are right, or --bands {by_name} if the names are right."
    )


def other_sources(texts: Sequence[str | None], source: str, *, by_user: bool) -> list[str]:
    """Landsat and HLS L30, where the names fit them at least as well as the source."""
    found = {
        sensor.name: len(set(match_names(name_bands(texts, sensor.name, by_user=by_user), sensor.name)) - {None})
        for sensor in sources()
    }
    return [
        name
        for name, count in found.items()
        if name != source and "B8A" not in load_sensor(name).grid.names
        if count >= max(found[source], load_sensor(name).min_bands)
    ]


def _orders(readings: Sequence[frozenset[str]], source: str) -> list[str]:
    """The values of `--bands` for each meaning of unclear names; none if all are clear, or no meaning is a scene."""
    if not 0 < sum(len(bands) > 1 for bands in readings) <= MAX_UNCLEAR:
        return []
    orders = []
    for order in product(*(sorted(bands) or [SKIP] for bands in readings)):
        names = [name for name in order if name != SKIP]
        if len(set(names)) == len(names) and is_enough(names, source):
            orders.append(",".join(order))
    return orders


def _refuse_unnamed(texts: Sequence[str | None], source: str, where: str, *, is_known: bool) -> None:
    """Refuse bands without names, with the usual order of so many bands as a proposal."""
    given = [text for text in texts if text and text != SKIP]
    called = f"are called {given[0]} to {given[-1]}, which only counts them" if given else "have no names"
    is_band = [text != SKIP and not OTHER_LAYERS & set(_words(text or "")) for text in texts]
    landsat = [] if is_known else [sensor.name for sensor in sources() if "B8A" not in sensor.grid.names]
    names = load_sensor(source).grid.names
    if load_sensor(source).toa_band and sum(is_band) == len(names) + 1 == len(texts):
        raise SceneError(
            f"{where}: its {len(texts)} bands {called}; names such as B02, or wavelengths, are required. With B10 they "
            f"are level 1C: use the L2A product. If the last is a mask, use --bands {','.join(names)},{SKIP}."
        )
    for candidates in filter(None, ([source], landsat)):
        if usual := _usual_order(sum(is_band), candidates[0]):
            ordered = iter(usual)
            orders = [",".join(next(ordered) if is_one else SKIP for is_one in is_band)]
            own = [_certain(_numbered(OWN_NUMBER, text or "")) for text in texts]
            if is_enough(own, source) and None not in match_names(own, source):
                orders.append(",".join(filter(None, match_names(own, source))))
            option = "" if candidates == [source] else f" and --source {_alternatives(candidates)}"
            raise SceneError(
                f"{where}: its {len(texts)} bands {called}; names such as B02, or wavelengths, are required. If this "
                f"is their order, use {_alternatives([f'--bands {order}' for order in orders])}{option}."
            )


def _usual_order(count: int, source: str) -> list[str] | None:
    """The sensor's bands in order, without those that files often lack; None if no such order has `count` bands."""
    names = list(load_sensor(source).grid.names)
    absent = [name for missing in OFTEN_MISSING for name in names if canonical(name, source) == missing]
    excess = len(names) - count
    return [name for name in names if name not in absent[:excess]] if 0 <= excess <= len(absent) else None


def check_bands(names: Sequence[str | None], source: str, where: str) -> None:
    """Refuse bands that are not the sensor's surface bands.

    Parameters
    ----------
    names : canonical names in file order; None for a band that is not recognised.
    where : the file, for the message.

    Raises
    ------
    SceneError : the numbering of another sensor, level 1C instead of Sentinel-2, a repeated band, or too few bands.
    """
    sensor = load_sensor(source)
    known = [name for name in names if name is not None]
    _refuse_other_numbering(known, source, where)
    if sensor.toa_band is not None and sensor.toa_band[0] in known:
        raise level_1c_error(where, f"band {sensor.toa_band[0]}; for HLS S30 use --source hls_s30")
    repeated = sorted({name for name in known if known.count(name) > 1})
    if repeated:
        first = ",".join(SKIP if name is None or name in names[:i] else name for i, name in enumerate(names))
        raise SceneError(
            f"{where}: bands appear twice: {', '.join(repeated)}; each band is allowed once. Use --bands {first} for "
            f"the first of each, with `{SKIP}` for a band to skip."
        )
    if not is_enough(names, source):
        too_few = "Use a file with the missing bands, or name" if len(names) < sensor.min_bands else "Name"
        raise SceneError(
            f"{where}: {_found(names, source)}. {too_few} each band in file order with --bands (`{SKIP}` skips a "
            "band), or give the sensor with --source."
        )


def _found(names: Sequence[str | None], source: str) -> str:
    """The recognised, required and missing bands of a sensor."""
    sensor = load_sensor(source)
    matched = [name for name in match_names(names, source) if name is not None]
    missing = [name for name in sensor.grid.names if name not in matched]
    return (
        f"{len(matched)} of {len(names)} bands are recognised as {source}'s ({', '.join(matched) or 'none'}); at least "
        f"{sensor.min_bands} of {', '.join(sensor.grid.names)} are required (missing: {', '.join(missing)})"
    )


def _alternatives(texts: Sequence[str]) -> str:
    """The texts as `a, b or c`."""
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def choose_bands(
    available: Collection[str], source: str, requested: Sequence[str] | None, *, where: str, lacks: str, remedy: str
) -> tuple[str, ...]:
    """The requested bands, or all, of a product with one file per band, in the sensor's order.

    Parameters
    ----------
    available : the sensor's own names of the product's bands; names of other layers are ignored.
    where, lacks, remedy : parts of the message about missing bands: the product, the fault (`{}` for the bands), and
        the user's next step.

    Raises
    ------
    SceneError : a band has no file; the message names it. Also as `check_bands`.
    """
    _refuse_other_numbering(sorted(filter(None, (canonical(text, source) for text in available))), source, where)
    known = load_sensor(source).grid.names
    chosen = known
    if requested is not None:
        own = match_names(name_bands(requested, source, by_user=True), source)
        chosen = tuple(dict.fromkeys(name or text for name, text in zip(own, requested, strict=True)))
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


def _refuse_other_numbering(names: Sequence[str], source: str, where: str) -> None:
    """Refuse canonical names with the numbering of the other family.

    Landsat and HLS L30 have B05 near infrared, B06 and B07 short-wave, B10 and B11 thermal; Sentinel-2 alone has B8A
    and B12.
    """
    own = load_sensor(source).grid.names
    if "B8A" not in own and {"B8A", "B12"} & set(names):
        raise SceneError(
            f"{where}: bands {', '.join(names)} with B8A or B12 have Sentinel-2's numbering, not {source}'s; "
            f"{', '.join(own)} are required. Use --source sentinel2a, sentinel2b, sentinel2c or hls_s30."
        )
    if "B8A" in own and set(names) >= OLI_NUMBERS and not {"B08", "B8A", "B12"} & set(names):
        raise SceneError(
            f"{where}: bands {', '.join(names)} without B08, B8A and B12 have Landsat's numbering, not {source}'s (B10 "
            "and B11 are thermal in Landsat); Sentinel-2's surface bands are required. Use --source hls_l30, landsat8 "
            "or landsat9."
        )
