"""How stored numbers become reflectance, and whether the result can be true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms2hs.errors import SceneError
from ms2hs.raster.scene import Scene
from ms2hs.spectra.grid import nearest_band

FloatArray = NDArray[np.float32]

# Sentinel-2, HLS and most others store reflectance in ten-thousandths.
DN_SCALE = 1e-4
# Reflectance above this is rare even on snow and cloud edges in the sun; a 99th percentile above it is no reflectance.
BRIGHTEST = 2.0
# Added to the stored numbers from processing baseline 04.00 on (BOA_ADD_OFFSET -1000), in reflectance.
CONSTANT = 0.1


@dataclass(frozen=True)
class Calibration:
    """`reflectance = (dn + dn_offset) * dn_scale` for each band, and what decided it."""

    dn_scale: tuple[float, ...]
    dn_offset: tuple[float, ...]
    rule: str


def from_file(
    dtype: str, scales: Sequence[float], offsets: Sequence[float], p99: float | None, dn_offset: float | None
) -> Calibration:
    """The rule for a raster that no product's metadata comes with.

    Its own scale and offset if it has some; else 1e-4 for integers, and nothing for floats whose 99th percentile is at
    most 2. A date decides nothing: products are processed again, and some archives take the offset out.

    Parameters
    ----------
    dtype : of the stored numbers, as numpy names it.
    scales, offsets : one a band as GDAL has them, 1 and 0 where the file says nothing.
    p99 : 99th percentile of the stored numbers; needed for floats only.
    dn_offset : what the user wants added instead. Floats above 2 are then taken as numbers of 1e-4.

    Raises
    ------
    SceneError : numbers that cannot be told to be reflectance.
    """
    bands = len(scales)
    kind = np.dtype(dtype)
    declared = [scale != 1 for scale in scales]
    if all(declared):
        own = tuple(round(offset / scale, 6) for offset, scale in zip(offsets, scales, strict=True))
        return overridden(Calibration(tuple(scales), own, _own_rule(scales, own)), dn_offset)
    if any(declared) or any(offsets):
        raise SceneError(
            f"the file gives scale {_few(scales)} and offset {_few(offsets)}; scale and offset of every band, or none, "
            "are needed. Write them into the file (gdal_edit.py -scale 0.0001 -offset -0.1)."
        )
    if kind.kind not in "iuf" or kind.itemsize == 1:
        raise SceneError(
            f"the numbers are {dtype}; integers of 16 bits or more, or floats, are needed. "
            "8-bit files are pictures that were stretched for the eye: give the surface reflectance product."
        )
    if kind.kind in "iu":
        rule = f"integers ({dtype}) without scale in the file: scale {DN_SCALE:g}, no offset"
        return overridden(Calibration((DN_SCALE,) * bands, (0.0,) * bands, rule), dn_offset)
    if p99 is not None and p99 <= BRIGHTEST:
        rule = f"floats with 99th percentile {p99:.3g}: taken as reflectance, no scale and no offset"
        return overridden(Calibration((1.0,) * bands, (0.0,) * bands, rule), dn_offset)
    if dn_offset is not None:
        rule = f"floats with 99th percentile {p99:.4g}: taken as numbers of {DN_SCALE:g}"
        return overridden(Calibration((DN_SCALE,) * bands, (0.0,) * bands, rule), dn_offset)
    raise SceneError(
        f"floats with 99th percentile {p99:.4g} and no scale in the file; reflectance has at most {BRIGHTEST:g}. If "
        "they are ten-thousandths, say what to add to them with --dn-offset (0, or -1000 for baseline 04.00 and later)."
    )


def overridden(found: Calibration, dn_offset: float | None) -> Calibration:
    """The calibration with the user's offset, if there is one."""
    if dn_offset is None:
        return found
    rule = f"--dn-offset {dn_offset:g} given by the user instead of {_few(found.dn_offset)} ({found.rule})"
    return Calibration(found.dn_scale, (float(dn_offset),) * len(found.dn_scale), rule)


def _own_rule(scales: Sequence[float], offsets: Sequence[float]) -> str:
    return f"the file's own scale {_few(scales)} and offset {_few(offsets)} (in stored numbers)"


def _few(values: Sequence[float]) -> str:
    """The different values, as text."""
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))


def offset_warnings(scene: Scene, pixels: FloatArray) -> tuple[str, ...]:
    """What looks wrong with the offset and scale of a scene, one sentence each.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of some of its valid pixels.
    """
    if not pixels.size:
        return ()
    warnings = []
    negative = float((pixels < 0).any(axis=0).mean())
    if negative > 0.05:
        warnings.append(
            f"{negative:.0%} of the valid pixels have negative reflectance ({scene.offset_rule}); at most 5 % are "
            "usual, on water and in shadow. If the offset was taken out before, give --dn-offset 0."
        )
    bright = float((pixels > BRIGHTEST).any(axis=0).mean())
    if bright > 0.01:
        warnings.append(
            f"{bright:.0%} of the valid pixels have a reflectance above {BRIGHTEST:g} ({scene.offset_rule}); the scale "
            "cannot be right. Some exports store reflectance times 65535: write the scale into the file."
        )
    if constant_left_in(pixels, scene.spectral.wavelength_nm):
        warnings.append(
            f"a constant of +{CONSTANT:g} seems still to be in the reflectance ({scene.offset_rule}): nothing in the "
            "scene is dark, yet vegetation or water is there. If it is of processing baseline 04.00 or later, "
            "give --dn-offset -1000."
        )
    return tuple(warnings)


# Centres that the test for a left-in constant looks at, in nm, and how far a band's may be from them.
BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_NM = 490.0, 560.0, 660.0, 865.0, 2200.0
NEAR_NM = 40.0


def constant_left_in(pixels: FloatArray, wavelength_nm: NDArray[np.floating]) -> bool:
    """Whether +0.1 in every band is plainly left in.

    Two things must come together:

    1. Nothing is dark. Green leaves in blue and red, water in the near and short-wave infrared, and shadows reflect
       0.00 to 0.05; so if 99 % of the pixels are above 0.09 even in their darkest band, either hardly any such thing is
       in the scene (bright desert, snow, cloud) or a constant is in the numbers.
    2. Such a thing is there: at least 1 % of the pixels have, once 0.1 is taken off, the spectrum of dense vegetation
       or of water. Vegetation: red and blue both within -0.02-0.06 and within 0.025 of each other, green not below red,
       NDVI of 0.7 or more. Nothing natural looks so with 0.1 more: half-bare ground with red at 0.13 has blue near
       0.07, as soils rise from blue to red, and haze leaves the short-wave infrared dark (rule 1). Water: every band
       within -0.02-0.07, and 2200 nm not above blue nor above 0.02. With 0.1 more it would be a flat grey that falls
       towards the infrared; dark rock, asphalt and ash rise. Grey roofs may
       not, so this is a warning and no refusal.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of valid pixels.
    wavelength_nm : (band,) centres in nm.
    """
    bands = [nearest_band(wavelength_nm, nm, NEAR_NM) for nm in (BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_NM)]
    if any(band is None for band in bands) or float(np.quantile(pixels.min(axis=0), 0.01)) < CONSTANT - 0.01:
        return False
    blue, green, red, nir, swir = (pixels[band] - CONSTANT for band in bands if band is not None)
    dark = (red > -0.02) & (red < 0.06) & (blue > -0.02) & (blue < 0.06)
    ndvi = (nir - red) / np.maximum(nir + red, 0.01)
    vegetation = dark & (np.abs(blue - red) < 0.025) & (green >= red) & (ndvi >= 0.7) & (nir >= 0.15)
    rest = pixels - CONSTANT
    water = (rest.min(axis=0) > -0.02) & (rest.max(axis=0) < 0.07) & (swir <= blue) & (swir < 0.02)
    return float((vegetation | water).mean()) >= 0.01
