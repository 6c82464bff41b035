"""Output formats of cubes: the table from file suffix to writer."""

from pathlib import Path

from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube_writer import CubeFormat

FORMATS: dict[str, CubeFormat] = {".tif": CogWriter, ".tiff": CogWriter}
"""By suffix in lower case. A new format is a class that implements `CubeWriter`, in this package, and one line here."""


def format_of(path: Path) -> CubeFormat:
    """The format for the suffix of an output path; a COG for any other suffix."""
    return FORMATS.get(path.suffix.lower(), CogWriter)
