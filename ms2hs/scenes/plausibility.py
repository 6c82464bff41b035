"""Checks of a scene's reflectance: signs that its scale or offset is wrong."""

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.scenes.radiometry import BOA_ADD_OFFSET, DN_SCALE
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.library import MAX_REFLECTANCE
from ms2hs.spectra.spectral_grid import nearest_band

# The offset that ESA adds from processing baseline 04.00 on, in reflectance.
ADDED_REFLECTANCE = -BOA_ADD_OFFSET * DN_SCALE
# Wavelengths of the bands that the check for an offset uses, in nm, and the largest distance of a band from them.
BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_NM = 490.0, 560.0, 660.0, 865.0, 2200.0
REACH_NM = 40.0


def offset_warnings(scene: Scene, pixels: Float32Array) -> tuple[str, ...]:
    """Warnings about the scale and offset of a scene, one sentence or more each.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of a sample of valid pixels.
    """
    if not pixels.size:
        return ()
    warnings = []
    negative = float((pixels < 0).any(axis=0).mean())
    if negative > 0.05:
        warnings.append(
            f"{negative:.0%} of the valid pixels have negative reflectance ({scene.offset_rule}); at most 5 % are "
            "usual, on water and in shadow. If the archive already subtracted the offset, use --dn-offset 0."
        )
    bright = float((pixels > MAX_REFLECTANCE).any(axis=0).mean())
    if bright > 0.01:
        warnings.append(
            f"{bright:.0%} of the valid pixels have a reflectance above {MAX_REFLECTANCE:g} ({scene.offset_rule}); the "
            "scale cannot be right. Some exports store reflectance times 65535: write the scale into the file."
        )
    if has_added_offset(pixels, scene.spectral.wavelength_nm):
        warnings.append(
            f"the reflectance seems to contain a constant of +{ADDED_REFLECTANCE:g} ({scene.offset_rule}): no pixel is "
            "dark, although the scene has vegetation or water. For processing baseline 04.00 or later, use "
            "--dn-offset -1000."
        )
    return tuple(warnings)


def has_added_offset(pixels: Float32Array, wavelength_nm: FloatArray) -> bool:
    """Whether every band contains +0.1 that must be subtracted.

    Both conditions must hold:

    1. No pixel is dark: 99 % of the pixels are above 0.09 even in their darkest band. Green leaves in blue and red,
       water in the infrared, and shadows reflect 0.00 to 0.05. So the scene has none of these (bright desert, snow,
       cloud), or a constant was added.
    2. At least 1 % of the pixels have the spectrum of dense vegetation or of water after 0.1 is subtracted.
       Vegetation: red and blue within -0.02-0.06 and within 0.025 of each other, green not below red, NDVI of at
       least 0.7. No surface has this spectrum plus 0.1: bare ground with red at 0.13 has blue near 0.07, as soils rise
       from blue to red, and haze leaves the short-wave infrared dark (condition 1).
       Water: every band within -0.02-0.07, and 2200 nm not above blue nor above 0.02. Plus 0.1 this is a flat grey
       that falls towards the infrared, where dark rock, asphalt and ash rise. Grey roofs may fall too, so the result is
       a warning and not an error.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of valid pixels.
    wavelength_nm : (band,) centres in nm.

    Source: ours; thresholds from the spectra of leaves, water and soils named above.
    """
    bands = [nearest_band(wavelength_nm, nm, REACH_NM) for nm in (BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_NM)]
    darkest = float(np.quantile(pixels.min(axis=0), 0.01))
    if any(band is None for band in bands) or darkest < ADDED_REFLECTANCE - 0.01:
        return False
    rest = pixels - ADDED_REFLECTANCE
    blue, green, red, nir, swir = (rest[band] for band in bands if band is not None)
    dark = (red > -0.02) & (red < 0.06) & (blue > -0.02) & (blue < 0.06)
    ndvi = (nir - red) / np.maximum(nir + red, 0.01)
    vegetation = dark & (np.abs(blue - red) < 0.025) & (green >= red) & (ndvi >= 0.7) & (nir >= 0.15)
    water = (rest.min(axis=0) > -0.02) & (rest.max(axis=0) < 0.07) & (swir <= blue) & (swir < 0.02)
    return float((vegetation | water).mean()) >= 0.01
