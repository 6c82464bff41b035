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
LEVEL_1C_NAME = re.compile(r"_MSIL1C_|S2MSI1C")
LEVEL_1C_TAG = re.compile(r"(level[-_ ]?|l)1c", re.IGNORECASE)


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
    """The sensor named by a file's name or tags; None if they name no sensor, or several."""
    tag = header.tags.get(SOURCE_TAG.lower())
    return tag if tag in sensor_names("source") else source_named_in((Path(header.path).name, *header.tags.values()))


def refuse_unsuitable(header: Header) -> None:
    """Refuse files whose name or tags say level 1C, and files written by ms2hs."""
    texts = (Path(header.path).name, *header.tags.values())
    # Products of level 2A also name the level-1C product that they come from.
    names = [] if any("MSIL2A" in text for text in texts) else [text for text in texts if LEVEL_1C_NAME.search(text)]
    tags = [f"{key}={text}" for key, text in header.tags.items() if LEVEL_1C_TAG.fullmatch(text.strip())]
    if tags or names:
        raise level_1c_error(header.path, (tags or names)[0])
    if header.tags.get("ms2hs_synthetic", "").upper() == "YES":
        raise SceneError(
            f"{header.path}: was written by ms2hs (MS2HS_SYNTHETIC=YES); a measured multispectral scene is required. "
            "Use the scene that it was converted from."
        )


def level_1c_error(where: str, evidence: str = "") -> SceneError:
    """The error for a level-1C product."""
    return SceneError(
        f"{where}: is level 1C, top of atmosphere{evidence and f' ({evidence})'}; surface reflectance (level 2A) is "
        "required. Use the L2A product of the same scene."
    )
