"""Styles of QGIS beside cubes: QGIS opens a raster with the style file of the same name.

Without a style, QGIS shows the first three bands of a cube, which are all blue.
"""

from pathlib import Path

from ms2hs.files import write_bytes
from ms2hs.raster.quicklook import Stretch

STYLE_SUFFIX = ".qml"
# The elements of a style that QGIS 3 needs; it takes its defaults for all others.
STYLE = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
 <pipe>
  <rasterrenderer type="multibandcolor" redBand="{red}" greenBand="{green}" blueBand="{blue}">
   <minMaxOrigin><limits>None</limits></minMaxOrigin>
{contrasts}
  </rasterrenderer>
 </pipe>
</qgis>
"""
CONTRAST = (
    "   <{colour}ContrastEnhancement><minValue>{low:.7g}</minValue><maxValue>{high:.7g}</maxValue>"
    "<algorithm>StretchToMinimumMaximum</algorithm></{colour}ContrastEnhancement>"
)


def write_style(path: Path, stretch: Stretch) -> None:
    """Write a style with the bands and the contrast of a quicklook; an existing file is replaced.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    colours = ("red", "green", "blue")
    contrasts = "\n".join(CONTRAST.format(colour=colour, low=stretch.low, high=stretch.high) for colour in colours)
    bands = {colour: band + 1 for colour, band in zip(colours, stretch.bands, strict=True)}
    write_bytes(path, STYLE.format(**bands, contrasts=contrasts).encode())
