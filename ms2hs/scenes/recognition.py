"""Which sensor took a scene, by the names in its files and tags, and which products are refused.

The patterns stand in the sensors' tables (`spectra/sensors`). A complete product name takes precedence over the name of
a satellite, because HLS files also name the Sentinel-2 or Landsat scene that they come from.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ms2hs.errors import SceneError
from ms2hs.raster.header import Header
from ms2hs.spectra.sensors import Sensor, load_sensor, sensor_names

# The source where neither the user nor the scene names one.
DEFAULT_SOURCE = "sentinel2a"
# Tags of files written by `ms2hs fetch`: the name of the source, and the time of acquisition.
SOURCE_TAG, TIME_TAG = "MS2HS_SOURCE", "ACQUISITION_DATETIME"
# Names and tags of top-of-atmosphere products: Sentinel-2 level 1C, Landsat level 1, and others.
LEVEL_1C_NAME = re.compile(r"_MSIL1C_|S2MSI1C|Sentinel-2[_ -]L1C|S2L1C|COPERNICUS[/_]S2(?:_HARMONIZED)?(?!_?[A-Z])")
LEVEL_1C_WORD = re.compile(r"(?<![A-Z0-9])L1C(?![A-Z0-9])", re.IGNORECASE)
LEVEL_1C_TAG = re.compile(r"(level[-_ ]?|l)1c", re.IGNORECASE)
TOP_OF_ATMOSPHERE = re.compile(r"(?<![A-Z])TOA(?:RF)?(?![A-Z])|top[-_ ]of[-_ ]atmosphere", re.IGNORECASE)
LEVEL_1_NAME = re.compile(r"(?<![A-Z0-9])L[CETMO]0\d_L1(?:TP|GT|GS)(?![A-Z])")
LEVEL_1_TAG = re.compile(r"(level[-_ ]?|l)1(tp|gt|gs)?", re.IGNORECASE)
# ESPA names surface reflectance after the product of level 1: `LC08_L1TP_..._sr_band2.tif`.
SURFACE_NAME = re.compile(r"(?<![A-Z0-9])(?:SR|BOA)(?![A-Z0-9])", re.IGNORECASE)
# `_N0510_` in the name of a product of Sentinel-2 is processing baseline 05.10.
BASELINE_IN_NAME = re.compile(r"_N(\d\d)\.?(\d\d)(?![0-9])")
BASELINE = re.compile(r"0?(\d\d?)\.(\d\d)")
# ESA adds 1000 from this baseline on. Sen2Cor outside ESA writes baseline 99.99 and adds nothing.
FIRST_BASELINE_WITH_OFFSET, FIRST_LOCAL_BASELINE = 4.0, 99.0
LEVEL_1C_NOTE = (
    "The images are level 1C, top of atmosphere: no surface reflectance. Haze brightens the bands of short wavelengths."
)
# Sen2Like adjusts scenes of several sensors to one (level 2H) and mixes their pixels (2F).
SEN2LIKE_NAME = re.compile(r"(?<![A-Z0-9])(?:S2._MSIL2[FH]|L2[FH]_T\d{2}[A-Z]{3})_", re.IGNORECASE)
# Raw counts of a camera and of its white and dark reference, and the reflectance that its software computes from them,
# in the folder of a capture.
REFERENCE_FILES, REFLECTANCE_CUBES = ("WHITEREF_", "DARKREF_"), "results/REFLECTANCE_*.hdr"
LEVEL_KEY = re.compile(r"level|data_type|product_type")
# Missions without a sensor's table, in file names, descriptions of bands and tags with these keys.
MISSION_KEY = re.compile(r"platform|spacecraft|satellite|mission|sensor")
OTHER_MISSIONS = {
    "Landsat 4, 5 or 7": re.compile(
        r"(?i)(?<![A-Z0-9])(L[ET]0?[457]|LND0[457]|LANDSAT[-_ ]?[457]|L[ET][457]\d{13}\w*)(?![A-Z0-9])"
    ),
    "Landsat MSS": re.compile(r"(?i)(?<![A-Z0-9])(LM0?[1-5]|LANDSAT[-_ ]?[123]|LM[1-5]\d{13}\w*)(?![A-Z0-9])"),
    "MODIS": re.compile(r"(?i)(?<![A-Z0-9])(M[OYC]D\d\d\w*|sur_refl_b\d\d|MODIS)(?![A-Z0-9])"),
    "VIIRS": re.compile(r"(?i)(?<![A-Z0-9])(V(NP|J1)\d\d\w*|VIIRS)(?![A-Z0-9])"),
}


def is_raw_capture(path: Path) -> bool:
    """Whether a file holds raw counts of a camera: a white or dark reference, or the image that lies beside one."""
    beside = any((path.parent / f"{start}{path.stem}.hdr").is_file() for start in REFERENCE_FILES)
    return beside or path.name.upper().startswith(REFERENCE_FILES)


def raw_capture_error(path: str | Path) -> SceneError:
    """The error for raw counts of a camera."""
    return SceneError(
        f"{path}: holds raw counts of a camera, with white and dark references; reflectance is required. Use "
        "REFLECTANCE_*.dat, or write (counts - dark) / (white - dark) times the panel's reflectance as an ENVI file."
    )


def platform_note(source: str) -> str:
    """A note that the platform is unknown and assumed."""
    return f"The platform (Sentinel-2A, B or C) is unknown: taken as {source}. Use --source for another platform."


def sources() -> list[Sensor]:
    """All multispectral sensors."""
    return [load_sensor(name) for name in sensor_names("source")]


def source_named_in(
    texts: Sequence[str], fields: Sequence[str] = ("product_pattern", "platform_pattern")
) -> str | None:
    """The sensor named in some texts; None if they name no sensor, or several.

    Parameters
    ----------
    fields : patterns of `Sensor`; the first with a match decides.
    """
    for field in fields:
        names = [sensor.name for sensor in sources() if any(getattr(sensor, field).search(text) for text in texts)]
        if names:
            return names[0] if len(names) == 1 else None
    return None


def source_of_file(header: Header) -> str | None:
    """The sensor named by a file's name or tags, or by each description of a band; None if several are named."""
    tag = header.tags.get(SOURCE_TAG.lower())
    if tag in sensor_names("source"):
        return tag
    described = {source_named_in([text]) for text in header.descriptions if text}
    from_bands = described.pop() if len(described) == 1 else None
    return source_named_in((Path(header.path).name, *header.tags.values())) or from_bands


def baseline_of(declared: Sequence[str], names: Sequence[str]) -> str | None:
    """The processing baseline of Sentinel-2 that is declared, else in a product's name, such as `05.10`; or None."""
    found = (*(BASELINE.fullmatch(text.strip()) for text in declared), *map(BASELINE_IN_NAME.search, names))
    first = next(filter(None, found), None)
    return None if first is None else f"{int(first[1]):02d}.{first[2]}"


def baseline_of_file(header: Header, names: Sequence[str] = ()) -> str | None:
    """The processing baseline by a file's tags and name, and by other `names` of its product; None if unknown."""
    declared = [text for key, text in header.tags.items() if key.endswith("processing_baseline")]
    return baseline_of(declared, (Path(header.path).name, *names, *header.tags.values()))


def has_offset(baseline: str) -> bool:
    """Whether ESA adds 1000 to the stored numbers of this processing baseline."""
    return FIRST_BASELINE_WITH_OFFSET <= float(baseline) < FIRST_LOCAL_BASELINE


def refuse_unsuitable(header: Header) -> None:
    """Refuse top-of-atmosphere files, raw counts, files of missions without a table, and files written by ms2hs.

    Level and mission are read from the file's name, its tags and the descriptions of its bands. The mission does not
    matter if the bands have wavelengths.
    """
    path, name, tags = header.path, Path(header.path).name, header.tags
    if is_raw_capture(Path(path)):
        raise raw_capture_error(path)
    own, texts = (name, *filter(None, header.descriptions)), (name, *tags.values())
    if found := next(filter(SEN2LIKE_NAME.search, own), None):
        raise SceneError(
            f"{path}: is a Sen2Like product of level 2H or 2F ({found}), which mixes sensors; surface reflectance of "
            "one sensor is required. Use the level-2A product of the same scene."
        )
    # Products of level 2A also name the level-1C product that they come from.
    level_1c = [] if any("MSIL2A" in text for text in texts) else [*filter(LEVEL_1C_NAME.search, texts)]
    level_1c += [] if any("L2A" in text for text in texts) else filter(LEVEL_1C_WORD.search, own)
    if evidence := [f"{key}={text}" for key, text in tags.items() if LEVEL_1C_TAG.fullmatch(text.strip())] + level_1c:
        raise level_1c_error(path, evidence[0])
    level_1 = [] if any(map(SURFACE_NAME.search, own)) else [*filter(LEVEL_1_NAME.search, own)]
    level_1 += filter(TOP_OF_ATMOSPHERE.search, own)
    levels = {key: text for key, text in tags.items() if LEVEL_KEY.search(key)}
    if evidence := [f"{key}={text}" for key, text in levels.items() if LEVEL_1_TAG.fullmatch(text.strip())] + level_1:
        raise level_1_error(path, evidence[0])
    if tags.get("ms2hs_synthetic", "").upper() == "YES":
        raise SceneError(
            f"{path}: was written by ms2hs (MS2HS_SYNTHETIC=YES); a measured multispectral scene is required. "
            "Use the scene that it was converted from."
        )
    if source_of_file(header) is None and not any(header.wavelengths):
        refuse_other_missions((*own, *(text for key, text in tags.items() if MISSION_KEY.search(key))), path)


def refuse_other_missions(texts: Sequence[str], where: str) -> None:
    """Refuse a scene of a mission without a sensor's table, by texts such as its name and platform."""
    for mission, pattern in OTHER_MISSIONS.items():
        if match := next(filter(None, map(pattern.search, texts)), None):
            raise SceneError(
                f"{where}: is a scene of {mission} ({match[0]}), whose spectral responses are not available; scenes of "
                "Sentinel-2, HLS, Landsat 8 and Landsat 9 are allowed, and files whose bands have wavelengths. Use a "
                "scene of these sensors, or write CENTRAL_WAVELENGTH_UM into the bands' IMAGERY domain."
            )


def level_1_error(where: str, evidence: str) -> SceneError:
    """The error for a product of Landsat's level 1, or any other top-of-atmosphere reflectance."""
    return SceneError(
        f"{where}: is level 1, top of atmosphere ({evidence}); surface reflectance (level 2) is required. Use the "
        "level-2 product of the same scene, such as LC08_L2SP."
    )


def level_1c_error(where: str, evidence: str = "") -> SceneError:
    """The error for a level-1C product."""
    return SceneError(
        f"{where}: is level 1C, top of atmosphere{evidence and f' ({evidence})'}; surface reflectance (level 2A) is "
        "required. Use the L2A product of the same scene."
    )
