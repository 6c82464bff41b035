"""How stored numbers become reflectance, and whether the result can be true.

The rule that turns the stored numbers of a catalogue's item into reflectance, by collection, with its reason.

One sensor, four habits. From processing baseline 04.00 on, ESA adds 1000 to Sentinel-2's stored numbers. Some archives
pass them on so, some take the 1000 out again, and what their items say of it is not always true. The date decides
nothing: ESA processes old scenes again with new baselines (Collection 1).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.errors import SceneError
from ms2hs.scenes.bands import is_sentinel2
from ms2hs.scenes.scene import Scene
from ms2hs.scenes.stac_metadata import NAMES, Band, Item
from ms2hs.spectra.spectral_grid import nearest_band

# Sentinel-2, HLS and most others store reflectance in ten-thousandths.
DN_SCALE = 1e-4
# Reflectance above this is rare even on snow and cloud edges in the sun; a 99th percentile above it is no reflectance.
BRIGHTEST = 2.0
# Added to the stored numbers from processing baseline 04.00 on (BOA_ADD_OFFSET -1000), in reflectance.
CONSTANT = 0.1
# Whether 1000 was taken out of the stored numbers: Earth Search v1, and v0 before it.
FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
# Where catalogues tell the processing baseline, if not in the product's name.
BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
IN_NAME = re.compile(r"_N(\d\d)\.?(\d\d)(?![0-9])")
NUMBER = re.compile(r"(\d\d?)\.(\d\d)")
# From this processing baseline on, BOA_ADD_OFFSET is -1000 and listed for every band. Sen2Cor run at home writes 99.99.
FIRST_WITH_OFFSET, AT_HOME = 4.0, 99.0
BOA_ADD_OFFSET = -1000.0
SAFE_NODATA = 0.0
# HLS v2.0 User Guide, tables of layers: fill value of surface reflectance, where a file does not say it itself.
HLS_NODATA = -9999.0


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


def offset_warnings(scene: Scene, pixels: Float32Array) -> tuple[str, ...]:
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


def constant_left_in(pixels: Float32Array, wavelength_nm: FloatArray) -> bool:
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


@dataclass(frozen=True)
class Stored:
    """`reflectance = (dn + dn_offset) * dn_scale` of each band, what means nodata, why, and what to know of it."""

    dn_scale: tuple[float, ...]
    dn_offset: tuple[float, ...]
    nodata: tuple[float, ...]
    rule: str
    notes: tuple[str, ...] = ()


Rule = Callable[[Item, Sequence[Band], str], Stored]

"""From an item, its bands and its source."""


def baseline(item: Item) -> str | None:
    """The processing baseline of a Sentinel-2 item, such as `05.10`; None where nothing tells it."""
    properties = item.get("properties", {})
    for key in BASELINES:
        if found := NUMBER.fullmatch(str(properties.get(key, ""))):
            return f"{int(found[1]):02d}.{found[2]}"
    for text in [*(properties.get(key, "") for key in NAMES), item.get("id", "")]:
        if found := IN_NAME.search(str(text)):
            return f"{found[1]}.{found[2]}"
    return None


def has_offset(number: str) -> bool:
    """Whether products of this baseline come with 1000 added. Sen2Cor at home writes 99.99 and adds nothing."""
    return FIRST_WITH_OFFSET <= float(number) < AT_HOME


def by_baseline(item: Item, bands: Sequence[Band], source: str) -> Stored:
    """Passed on as ESA made them: by the baseline. Planetary Computer, Copernicus Data Space.

    Planetary Computer declares nothing. Copernicus declares -0.1 for every asset of every item, aerosol included, so
    that says less than the baseline does.
    """
    number = baseline(item)
    if number is None:
        return declared(item, bands, source)
    added = has_offset(number)
    reason = "ESA adds 1000 from 04.00 on" if added else "ESA adds 1000 only from 04.00 on"
    return _same(bands, BOA_ADD_OFFSET if added else 0.0, f"processing baseline {number}; {reason}", SAFE_NODATA)


def declared(item: Item, bands: Sequence[Band], source: str) -> Stored:
    """As the item declares of each band. Earth Search `sentinel-2-c1-l2a`, whose items are true, and unknown ones.

    What declares nothing is taken by its baseline, and where that is unknown too, without offset and with a note.
    """
    facts = [band.stored for band in bands]
    if not all("scale" in fact or "offset" in fact for fact in facts):
        number = baseline(item)
        if number is not None:
            return by_baseline(item, bands, source)
        note = (
            "warning: neither scale, offset nor processing baseline is told; none was taken to be added. If the scene "
            "looks 0.1 too bright, give --dn-offset -1000."
        )
        return _same(bands, 0.0, "no scale, offset or processing baseline is told", SAFE_NODATA, (note,))
    scales = tuple(float(fact.get("scale", DN_SCALE)) for fact in facts)
    offsets = tuple(round(float(fact.get("offset", 0.0)) / scale, 6) for fact, scale in zip(facts, scales, strict=True))
    told = ", ".join(f"{scale:g} and {offset:g}" for scale, offset in dict.fromkeys(zip(scales, offsets, strict=True)))
    nodata = tuple(float(fact.get("nodata", SAFE_NODATA)) for fact in facts)
    return Stored(scales, offsets, nodata, f"the item's own scale and offset (in stored numbers) {told}")


def flagged(item: Item, bands: Sequence[Band], _source: str) -> Stored:
    """By the flag that 1000 was taken out. Earth Search `sentinel-2-l2a`.

    Where it was, its items still declare the offset of -0.1: applied again, half the scene would be negative. Where a
    flag says that nothing was taken out though the baseline has an offset, it is true of some items and wrong of others
    (Element84/earth-search issues 66 and 71, cirrus-geo/cirrus-earth-search issue 33), which only the pixels tell.
    """
    properties = item.get("properties", {})
    taken_out = next((bool(properties[key]) for key in FLAGS if key in properties), None)
    number = baseline(item)
    if taken_out:
        reason = "its offset was taken out already (boa_offset_applied is true), whatever raster:bands declares"
        return _same(bands, 0.0, reason, SAFE_NODATA)
    if number is not None and not has_offset(number):
        return _same(bands, 0.0, f"processing baseline {number}, before 04.00: none was added", SAFE_NODATA)
    flag = "is false" if taken_out is False else "is missing"
    note = (
        f"warning: boa_offset_applied {flag} though the processing baseline is {number or 'unknown'}; that is wrong of "
        "some items of this collection. If many pixels turn negative, give --dn-offset 0, or use the collection "
        "sentinel-2-c1-l2a."
    )
    reason = f"boa_offset_applied {flag}, processing baseline {number or 'unknown'}"
    return _same(bands, BOA_ADD_OFFSET, reason, SAFE_NODATA, (note,))


def harmonized(_item: Item, bands: Sequence[Band], _source: str) -> Stored:
    """HLS v1.5 and v2.0, User Guide: scale 1e-4, no offset, fill -9999, whatever else is not declared."""
    scales = tuple(float(band.stored.get("scale", DN_SCALE)) for band in bands)
    nodata = tuple(float(band.stored.get("nodata", HLS_NODATA)) for band in bands)
    told = ", ".join(f"{scale:g}" for scale in dict.fromkeys(scales))
    return Stored(scales, (0.0,) * len(bands), nodata, f"HLS User Guide: scale {told}, no offset")


RULES: dict[str, Rule] = {
    "by_baseline": by_baseline,
    "declared": declared,
    "flagged": flagged,
    "harmonized": harmonized,
}


def rule_of(item: Item, source: str) -> Rule:
    """The rule where no provider is known: by what the item itself says."""
    if not is_sentinel2(source):
        return harmonized
    if any(flag in item.get("properties", {}) for flag in FLAGS):
        return flagged
    return declared


def _same(bands: Sequence[Band], offset: float, reason: str, nodata: float, notes: tuple[str, ...] = ()) -> Stored:
    """Ten-thousandths with one offset in all bands."""
    count = len(bands)
    missing = tuple(float(band.stored.get("nodata", nodata)) for band in bands)
    rule = f"scale {DN_SCALE:g}, offset {offset:g}: {reason}"
    return Stored((DN_SCALE,) * count, (offset,) * count, missing, rule, notes)
