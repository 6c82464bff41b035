"""Which files GDAL may open: rasters by their content, and virtual rasters (VRT) with local sources only.

GDAL chooses a driver by content and not by name. A file of a product that is called `.jp2` may be a VRT, which names
other files of this machine or addresses of a private network. So rasters are opened by drivers that read one file.
A VRT is allowed where its own path is given as a scene, since users stack bands by VRT; each of its sources must be a
local raster by the same rule.
"""

import os
from pathlib import Path
from xml.etree import ElementTree as ET

from ms2hs.errors import SceneError

# Drivers that read a file and, for ENVI, its header.
DRIVERS = ["GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "ENVI", "HFA", "netCDF", "HDF5", "HDF5Image"]
VRT_SUFFIX = ".vrt"
# Files beside a raster, such as `a.tif.ovr`, that GDAL opens by any driver: overviews and masks.
SIDECAR_SUFFIXES = (".ovr", ".msk")
# Size and depth of virtual rasters: a mosaic of 10,000 files takes about 10 MB.
MAX_VRT_BYTES, MAX_DEPTH = 50_000_000, 4
SOURCE_TAGS = {"SourceFilename", "SourceDataset"}
# Parts of a VRT that run code, or read bytes of any file as pixels.
FORBIDDEN_TAGS, FORBIDDEN_CLASSES = {"PixelFunctionLanguage", "PixelFunctionCode"}, {"VRTRawRasterBand"}


def drivers_of(path: str, *, depth: int = 0) -> list[str]:
    """GDAL's drivers that may open a local file.

    Raises
    ------
    SceneError : not a regular file, or a VRT with a source that is not a local raster.
    """
    file = Path(path)
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "a pipe or device"
        raise SceneError(f"{path}: is {kind}; a regular file is needed. Give the path of a raster.")
    if file.suffix.lower() != VRT_SUFFIX:
        return DRIVERS
    for source in _sources(file):
        if not source.is_file():
            raise SceneError(
                f"{path}: the source {str(source)[:200]!r} is not a file of this machine; a VRT may stack local files. "
                "Download the sources first, and build the VRT again."
            )
        if depth >= MAX_DEPTH:
            raise SceneError(
                f"{path}: VRTs within VRTs, {MAX_DEPTH} deep; fewer levels are allowed. Build one VRT of the rasters."
            )
        drivers_of(str(source), depth=depth + 1)
        if source.suffix.lower() != VRT_SUFFIX and _is_vrt(source):
            raise SceneError(
                f"{path}: the source {str(source)[:200]!r} is a VRT with another suffix; {VRT_SUFFIX} is required. "
                "Rename the source, and build the VRT again."
            )
    return ["VRT"]


def sidecars_of(file: Path) -> list[Path]:
    """The overviews and masks beside a local raster, and those beside them, in any case of letters."""
    start = f"{file.name.lower()}."
    with os.scandir(file.parent) as entries:  # faster than paths in folders of many files
        names = [entry.name for entry in entries if entry.name.lower().endswith(SIDECAR_SUFFIXES)]
    return [file.parent / name for name in names if name.lower().startswith(start)]


def _sources(file: Path) -> list[Path]:
    """The files that a VRT names; SceneError if the VRT cannot be read, or could run code or read bytes of any file."""
    if file.stat().st_size > MAX_VRT_BYTES:
        raise SceneError(
            f"{file}: a VRT of more than {MAX_VRT_BYTES / 1e6:.0f} MB; less is needed. Build a smaller VRT."
        )
    try:
        # Python's expat refuses entity bombs, and external entities are not followed.
        root = ET.fromstring(file.read_bytes())  # noqa: S314
    except (ET.ParseError, ValueError, LookupError) as error:
        raise SceneError(
            f"{file}: not a VRT that can be read ({error}); a complete file is needed. Build the VRT again."
        ) from error
    for element in root.iter():
        if element.tag in FORBIDDEN_TAGS or element.get("subClass") in FORBIDDEN_CLASSES:
            name = element.tag if element.tag in FORBIDDEN_TAGS else element.get("subClass")
            raise SceneError(f"{file}: has a {name}, which may not be opened; plain sources are allowed. Remove it.")
    return [
        (file.parent / (element.text or "").strip())
        if element.get("relativeToVRT") == "1"
        else Path(element.text or "")
        for element in root.iter()
        if element.tag in SOURCE_TAGS
    ]


def _is_vrt(file: Path) -> bool:
    """Whether GDAL would read a file as a VRT."""
    with file.open("rb") as opened:
        return b"<VRTDataset" in opened.read(4096)
