"""How stored numbers become reflectance: the one module that decides scale, offset and nodata.

Readers pass the declarations of a file, product or item, and the user's offset. They get a `RadiometricRule`: scale,
offset and nodata of each band, and a sentence that states the rule. `scenes/reader` applies the rule.

Sentinel-2 is the difficult case. From processing baseline 04.00 on, ESA adds 1000 to the stored numbers. Some archives
keep the 1000 and some subtract it, and their items do not always declare this correctly. The date is no evidence,
because ESA reprocesses old scenes with new baselines (Collection 1).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms2hs.errors import SceneError
from ms2hs.scenes.scene import Asset
from ms2hs.spectra.library import MAX_REFLECTANCE
from ms2hs.spectra.sensors import Sensor

# Sentinel-2, HLS and most other products store reflectance in ten-thousandths.
DN_SCALE = 1e-4
# From this processing baseline on BOA_ADD_OFFSET is -1000. Sen2Cor outside ESA writes baseline 99.99 and adds nothing.
FIRST_BASELINE_WITH_OFFSET, FIRST_LOCAL_BASELINE = 4.0, 99.0
BOA_ADD_OFFSET = -1000.0


@dataclass(frozen=True)
class Declared:
    """Declared scale, offset and nodata of one band in a file or item; None where undeclared."""

    scale: float | None = None
    offset: float | None = None
    """In reflectance: `dn * scale + offset`, as GDAL and STAC define it."""
    nodata: float | None = None
    where: str = ""
    """The declaring part of the file, for the sentence of the rule."""


@dataclass(frozen=True)
class RadiometricRule:
    """`reflectance = (dn + dn_offset) * dn_scale` for each band."""

    dn_scale: tuple[float, ...]
    dn_offset: tuple[float, ...]
    nodata: tuple[float | None, ...]
    """Declared stored number that means no data; None without one."""
    description: str
    """The rule in words, and who declared it."""
    notes: tuple[str, ...] = ()
    """Warnings for the user."""

    def with_offset(self, dn_offset: float | None) -> "RadiometricRule":
        """The rule with the user's offset and without notes; the same rule if the offset is None."""
        if dn_offset is None:
            return self
        text = f"--dn-offset {dn_offset:g} given by the user instead of {_listed(self.dn_offset)} ({self.description})"
        return replace(self, dn_offset=(float(dn_offset),) * len(self.dn_scale), description=text, notes=())

    def assets(self, names: Sequence[str], hrefs: Sequence[str], bands: Sequence[int]) -> tuple[Asset, ...]:
        """The bands of a scene with this rule; `bands` are 1-based positions in the files."""
        # Products with an offset below 0 keep 0 for fill. Without such an offset, 0 is reflectance, as of water.
        fills = [
            0.0 if nodata is None and offset < 0 else nodata
            for nodata, offset in zip(self.nodata, self.dn_offset, strict=True)
        ]
        columns = zip(names, hrefs, bands, self.dn_scale, self.dn_offset, fills, strict=True)
        return tuple(Asset(*fields) for fields in columns)


def rule_of_raster(
    dtypes: Sequence[str],
    scales: Sequence[float],
    offsets: Sequence[float],
    *,
    p99: float | None = None,
    dn_offset: float | None = None,
    nodata: Sequence[float | None] | None = None,
    sensor: Sensor | None = None,
) -> RadiometricRule:
    """The rule of a raster without product metadata.

    The raster's own scale and offset, if declared; else the sensor's, for the data type of its products; else 1e-4 for
    integers, and 1 for floats with a 99th percentile of at most 2.

    Parameters
    ----------
    dtypes, scales, offsets, nodata : of each band as GDAL reports them; scale 1 and offset 0 where undeclared.
    p99 : 99th percentile of the stored numbers; required for floats only.
    dn_offset : the user's offset; with one, floats with a 99th percentile above 2 count as ten-thousandths.

    Raises
    ------
    SceneError : the numbers cannot be identified as reflectance.
    """
    bands = len(scales)
    dtype = np.result_type(*dtypes)
    # NaN is invalid in any case, and JSON has no NaN.
    fills = tuple(None if fill is None or np.isnan(fill) else fill for fill in nodata or (None,) * bands)
    has_scale = [scale != 1 for scale in scales]
    if all(has_scale):
        own = tuple(round(offset / scale, 6) for offset, scale in zip(offsets, scales, strict=True))
        text = f"the file's own scale {_listed(scales)} and offset {_listed(own)} (in stored numbers)"
        return RadiometricRule(tuple(scales), own, fills, text).with_offset(dn_offset)
    if any(has_scale) or any(offsets):
        raise SceneError(
            f"the file declares scale {_listed(scales)} and offset {_listed(offsets)}; scale and offset are required "
            "for every band, or for none. Write them into the file (gdal_edit.py -scale 0.0001 -offset -0.1)."
        )
    scale, offset = DN_SCALE, 0.0
    if sensor is not None and dtype.name == sensor.dtype:
        scale, offset = sensor.scale, sensor.offset / sensor.scale
        text = f"{sensor.title} ({dtype}): scale {sensor.scale:g} and offset {sensor.offset:g}"
    elif dtype.kind not in "iuf" or dtype.itemsize == 1:
        raise SceneError(
            f"the data type is {dtype}; integers of at least 16 bits, or floats, are required. 8-bit files are "
            "pictures stretched for display. Use the surface reflectance product."
        )
    elif dtype.kind in "iu":
        text = f"integers ({dtype}) without scale in the file: scale {DN_SCALE:g}, no offset"
    elif p99 is not None and p99 <= MAX_REFLECTANCE:
        scale, text = 1.0, f"floats with 99th percentile {p99:.3g}: taken as reflectance, no scale and no offset"
    elif dn_offset is not None:
        text = f"floats with 99th percentile {p99:.4g}: taken as numbers of {DN_SCALE:g}"
    else:
        raise SceneError(
            f"floats with 99th percentile {p99:.4g} and no scale in the file; reflectance is at most "
            f"{MAX_REFLECTANCE:g}. If they are ten-thousandths, give the offset with --dn-offset (0, or -1000 for "
            "baseline 04.00 and later)."
        )
    return RadiometricRule((scale,) * bands, (offset,) * bands, fills, text).with_offset(dn_offset)


def rule_of_safe(
    names: Sequence[str],
    quantification: float,
    offsets: Mapping[str, float],
    baseline: str,
    *,
    sensor: Sensor,
    dn_offset: float | None,
) -> RadiometricRule:
    """The rule of a SAFE product: its quantification and offsets; without listed offsets, by its baseline.

    Parameters
    ----------
    names : of the bands.
    offsets : BOA_ADD_OFFSET by band; empty if the product lists none.
    baseline : processing baseline such as `05.10`; empty if unknown.
    """
    stated = f"processing baseline {baseline or 'unknown'}"
    text = f"product metadata: quantification {quantification:g}"
    if offsets:
        values = tuple(offsets.get(name, 0.0) for name in names)
        text += f", BOA_ADD_OFFSET {_listed(values)} ({stated})"
    elif re.fullmatch(r"\d\d\.\d\d", baseline) and has_offset(baseline):
        values = (BOA_ADD_OFFSET,) * len(names)
        text += f"; BOA_ADD_OFFSET {BOA_ADD_OFFSET:g} for {stated}, although none is listed"
    else:
        values = (0.0,) * len(names)
        text += f", no offset listed ({stated})"
    fills = (sensor.nodata,) * len(names)
    return RadiometricRule((1 / quantification,) * len(names), values, fills, text).with_offset(dn_offset)


def rule_of_hls(bands: Sequence[Declared], *, sensor: Sensor, dn_offset: float | None) -> RadiometricRule:
    """The rule of an HLS granule: what each file declares, else the HLS User Guide."""
    scales = tuple(sensor.scale if band.scale is None else band.scale for band in bands)
    offsets = tuple(band.offset or 0.0 for band in bands)
    texts = [
        f"{band.where if band.scale is not None else 'User Guide:'} scale {scale:g} and offset {offset:g}"
        for band, scale, offset in zip(bands, scales, offsets, strict=True)
    ]
    dn_offsets = tuple(offset / scale for offset, scale in zip(offsets, scales, strict=True))
    text = f"HLS: {'; '.join(dict.fromkeys(texts))}"
    return RadiometricRule(scales, dn_offsets, _fills(bands, sensor), text).with_offset(dn_offset)


@dataclass(frozen=True)
class ItemDeclaration:
    """The declarations of a STAC item about its stored numbers."""

    sensor: Sensor
    bands: tuple[Declared, ...]
    baseline: str | None
    """Processing baseline of Sentinel-2, such as `05.10`; None if unknown."""
    offset_removed: bool | None
    """Whether the archive subtracted ESA's 1000, by `boa_offset_applied`; None without that flag."""


def rule_of_item(item: ItemDeclaration, archive_rule: str | None, dn_offset: float | None) -> RadiometricRule:
    """The rule of a STAC item.

    Parameters
    ----------
    archive_rule : key in `ITEM_RULES` for the item's collection; None for an unknown archive: the sensor's rule.
    """
    rule = archive_rule or item.sensor.item_rule
    if archive_rule is None and rule == "declared" and item.offset_removed is not None:
        rule = "flagged"
    return ITEM_RULES[rule](item).with_offset(dn_offset)


def has_offset(baseline: str) -> bool:
    """Whether ESA adds 1000 to the stored numbers of this processing baseline."""
    return FIRST_BASELINE_WITH_OFFSET <= float(baseline) < FIRST_LOCAL_BASELINE


def by_baseline(item: ItemDeclaration) -> RadiometricRule:
    """Offset by processing baseline, for archives with ESA's own numbers: Planetary Computer, Copernicus Data Space.

    Planetary Computer declares nothing. Copernicus declares -0.1 for every asset of every item, aerosol included, so
    the baseline is the better evidence.
    """
    if item.baseline is None:
        return by_declaration(item)
    added = has_offset(item.baseline)
    reason = "ESA adds 1000 from 04.00 on" if added else "ESA adds 1000 only from 04.00 on"
    return _uniform(item, BOA_ADD_OFFSET if added else 0.0, f"processing baseline {item.baseline}; {reason}")


def by_declaration(item: ItemDeclaration) -> RadiometricRule:
    """Declared scale and offset of each band, for unknown archives and Earth Search's `sentinel-2-c1-l2a`.

    If nothing is declared, the baseline decides. Without a baseline no offset is assumed, with a warning.
    """
    if any(band.scale is None and band.offset is None for band in item.bands):
        if item.baseline is not None:
            return by_baseline(item)
        note = (
            "warning: the item declares no scale, offset or processing baseline; no offset is assumed. If the scene "
            "looks 0.1 too bright, use --dn-offset -1000."
        )
        return _uniform(item, 0.0, "no scale, offset or processing baseline declared", note)
    scales = tuple(DN_SCALE if band.scale is None else band.scale for band in item.bands)
    offsets = tuple(round((band.offset or 0.0) / scale, 6) for band, scale in zip(item.bands, scales, strict=True))
    pairs = ", ".join(f"{scale:g} and {offset:g}" for scale, offset in dict.fromkeys(zip(scales, offsets, strict=True)))
    text = f"the item's own scale and offset (in stored numbers) {pairs}"
    return RadiometricRule(scales, offsets, _fills(item.bands, item.sensor), text)


def by_flag(item: ItemDeclaration) -> RadiometricRule:
    """Offset by the flag `boa_offset_applied`, for Earth Search's `sentinel-2-l2a`.

    Items with a true flag still declare the offset of -0.1: subtracted again, half the scene would be negative. Items
    with a false flag and a baseline with offset are right or wrong (Element84/earth-search issues 66 and 71,
    cirrus-geo/cirrus-earth-search issue 33); only the pixels show which.
    """
    if item.offset_removed:
        return _uniform(item, 0.0, "boa_offset_applied is true: the archive has already subtracted the offset")
    if item.baseline is not None and not has_offset(item.baseline):
        return _uniform(item, 0.0, f"processing baseline {item.baseline}, before 04.00: no offset was added")
    flag = "is false" if item.offset_removed is False else "is missing"
    reason = f"boa_offset_applied {flag}, processing baseline {item.baseline or 'unknown'}"
    note = (
        f"warning: {reason}; this is wrong for some items of this collection. If many pixels are negative, use "
        "--dn-offset 0, or the collection sentinel-2-c1-l2a."
    )
    return _uniform(item, BOA_ADD_OFFSET, reason, note)


def by_user_guide(item: ItemDeclaration) -> RadiometricRule:
    """HLS v1.5 and v2.0, User Guide: scale 1e-4 unless declared, no offset, whatever the item declares."""
    scales = tuple(DN_SCALE if band.scale is None else band.scale for band in item.bands)
    text = f"HLS User Guide: scale {_listed(scales)}, no offset"
    return RadiometricRule(scales, (0.0,) * len(scales), _fills(item.bands, item.sensor), text)


def by_product_guide(item: ItemDeclaration) -> RadiometricRule:
    """Declared scale and offset of each band, else the sensor's, for Landsat Collection 2: USGS declares none."""
    sensor = item.sensor
    scales = tuple(sensor.scale if band.scale is None else band.scale for band in item.bands)
    offsets = tuple(sensor.offset if band.offset is None else band.offset for band in item.bands)
    dn_offsets = tuple(offset / scale for offset, scale in zip(offsets, scales, strict=True))
    text = f"{sensor.title}: scale {_listed(scales)}, offset {_listed(offsets)}"
    return RadiometricRule(scales, dn_offsets, _fills(item.bands, sensor), text)


ITEM_RULES: dict[str, Callable[[ItemDeclaration], RadiometricRule]] = {
    "by_baseline": by_baseline,
    "declared": by_declaration,
    "flagged": by_flag,
    "harmonized": by_user_guide,
    "product_guide": by_product_guide,
}


def _uniform(item: ItemDeclaration, offset: float, reason: str, *notes: str) -> RadiometricRule:
    """Ten-thousandths with one offset for all bands."""
    count = len(item.bands)
    text = f"scale {DN_SCALE:g}, offset {offset:g}: {reason}"
    return RadiometricRule((DN_SCALE,) * count, (offset,) * count, _fills(item.bands, item.sensor), text, notes)


def _fills(bands: Sequence[Declared], sensor: Sensor) -> tuple[float | None, ...]:
    return tuple(sensor.nodata if band.nodata is None else band.nodata for band in bands)


def _listed(values: Sequence[float]) -> str:
    """The distinct values, as text."""
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
