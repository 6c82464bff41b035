"""Quality layers of products: which pixels show the ground, and which show snow.

To add a layer, add a function and its line in `QUALITY_LAYERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.scenes.scene import Asset

# Sen2Cor scene classification, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), table of SCL values:
# 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud of medium and high probability, 10 thin cirrus.
# Kept: 2 dark area or topographic shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 11 snow or ice.
SCL_INVALID = (0, 1, 3, 8, 9, 10)
SCL_SNOW = 11
# HLS v2.0 User Guide, table of the Fmask layer: bit 0 cirrus (reserved, never set in v2.0), 1 cloud, 2 adjacent to
# cloud or shadow, 3 cloud shadow, 4 snow or ice, 5 water, 6-7 aerosol level; 255 is fill.
FMASK_INVALID_BITS = 0b0000_1111
FMASK_SNOW_BIT = 0b0001_0000
FMASK_FILL = 255


class PixelFlags(NamedTuple):
    """(row, col) flags of the pixels of a quality layer."""

    valid: BoolArray
    """True where the pixel shows the ground; water and snow are ground."""
    snow: BoolArray
    """True where the pixel is snow or ice."""


@dataclass(frozen=True)
class QualityLayer:
    """A quality layer of a product."""

    name: str
    """As in products and in band descriptions."""
    fill: int
    """Value outside the image."""
    flags: Callable[[NDArray[np.generic]], PixelFlags]
    """The flags of an array of the layer's values."""

    def asset(self, href: str, band: int = 1) -> Asset:
        """The layer in a file; scale and offset have no meaning."""
        return Asset(self.name, href, band, 1.0, 0.0, float(self.fill))


def scl_flags(layer: NDArray[np.generic]) -> PixelFlags:
    """Flags of the scene classification of Sentinel-2 L2A."""
    return PixelFlags(~np.isin(layer, SCL_INVALID), np.asarray(layer == SCL_SNOW))


def fmask_flags(layer: NDArray[np.generic]) -> PixelFlags:
    """Flags of the Fmask of HLS."""
    bits = layer.astype(np.uint8)
    known = bits != FMASK_FILL
    return PixelFlags(((bits & FMASK_INVALID_BITS) == 0) & known, ((bits & FMASK_SNOW_BIT) != 0) & known)


QUALITY_LAYERS = {
    "scl": QualityLayer("SCL", 0, scl_flags),
    "fmask": QualityLayer("Fmask", FMASK_FILL, fmask_flags),
}
