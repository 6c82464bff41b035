"""The rule that turns the stored numbers of a catalogue's item into reflectance, by collection, with its reason.

One sensor, four habits. From processing baseline 04.00 on, ESA adds 1000 to Sentinel-2's stored numbers. Some archives
pass them on so, some take the 1000 out again, and what their items say of it is not always true. The date decides
nothing: ESA processes old scenes again with new baselines (Collection 1).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ms2hs.raster.bands import is_sentinel2
from ms2hs.raster.calibration import DN_SCALE
from ms2hs.raster.hls import NODATA as HLS_NODATA
from ms2hs.raster.items import NAMES, Band, Item
from ms2hs.raster.safe import AT_HOME, BOA_ADD_OFFSET, FIRST_WITH_OFFSET, NODATA

# Whether 1000 was taken out of the stored numbers: Earth Search v1, and v0 before it.
FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
# Where catalogues tell the processing baseline, if not in the product's name.
BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
IN_NAME = re.compile(r"_N(\d\d)\.?(\d\d)(?![0-9])")
NUMBER = re.compile(r"(\d\d?)\.(\d\d)")


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
    return _same(bands, BOA_ADD_OFFSET if added else 0.0, f"processing baseline {number}; {reason}", NODATA)


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
        return _same(bands, 0.0, "no scale, offset or processing baseline is told", NODATA, (note,))
    scales = tuple(float(fact.get("scale", DN_SCALE)) for fact in facts)
    offsets = tuple(round(float(fact.get("offset", 0.0)) / scale, 6) for fact, scale in zip(facts, scales, strict=True))
    told = ", ".join(f"{scale:g} and {offset:g}" for scale, offset in dict.fromkeys(zip(scales, offsets, strict=True)))
    nodata = tuple(float(fact.get("nodata", NODATA)) for fact in facts)
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
        return _same(bands, 0.0, reason, NODATA)
    if number is not None and not has_offset(number):
        return _same(bands, 0.0, f"processing baseline {number}, before 04.00: none was added", NODATA)
    flag = "is false" if taken_out is False else "is missing"
    note = (
        f"warning: boa_offset_applied {flag} though the processing baseline is {number or 'unknown'}; that is wrong of "
        "some items of this collection. If many pixels turn negative, give --dn-offset 0, or use the collection "
        "sentinel-2-c1-l2a."
    )
    reason = f"boa_offset_applied {flag}, processing baseline {number or 'unknown'}"
    return _same(bands, BOA_ADD_OFFSET, reason, NODATA, (note,))


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
