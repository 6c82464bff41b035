"""Quality layers of products: which pixels show the ground. To add one, add a function and its line in `RULES`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray

Layer = NDArray[np.generic]
# Sen2Cor scene classification, Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), table of SCL values:
# 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud of medium and high probability, 10 thin cirrus.
# Kept: 2 dark area or topographic shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 11 snow or ice.
SCL_UNUSABLE = (0, 1, 3, 8, 9, 10)
SCL_SNOW = 11
# HLS v2.0 User Guide, table of the Fmask layer: bit 0 cirrus (reserved, never set in v2.0), 1 cloud, 2 adjacent to
# cloud or shadow, 3 cloud shadow, 4 snow or ice, 5 water, 6-7 aerosol level; 255 is fill.
FMASK_UNUSABLE_BITS = 0b0000_1111
FMASK_SNOW_BIT = 0b0001_0000
FMASK_FILL = 255


def valid_in_scl(layer: Layer) -> BoolArray:
    """True where the scene classification of Sentinel-2 L2A shows the ground; water and snow are ground."""
    return ~np.isin(layer, SCL_UNUSABLE)


def valid_in_fmask(layer: Layer) -> BoolArray:
    """True where the Fmask of HLS shows the ground; water and snow are ground."""
    bits = layer.astype(np.uint8)
    return np.asarray(((bits & FMASK_UNUSABLE_BITS) == 0) & (bits != FMASK_FILL))


def snow_in_scl(layer: Layer) -> BoolArray:
    """True where the scene classification says snow or ice."""
    return np.asarray(layer == SCL_SNOW)


def snow_in_fmask(layer: Layer) -> BoolArray:
    """True where Fmask says snow or ice."""
    bits = layer.astype(np.uint8)
    return np.asarray(((bits & FMASK_SNOW_BIT) != 0) & (bits != FMASK_FILL))


RULES: dict[str, Callable[[Layer], BoolArray]] = {"scl": valid_in_scl, "fmask": valid_in_fmask}

SNOW: dict[str, Callable[[Layer], BoolArray]] = {"scl": snow_in_scl, "fmask": snow_in_fmask}
