"""How stored numbers become reflectance: the one module that decides scale, offset and nodata.

Readers pass the declarations of a file, product or item, and the user's options. They get a `RadiometricRule`: scale,
offset and nodata of each band, and a sentence that states the rule. `scenes/reader` applies the rule. The order is: the
user's options; what file, item or product declares; the baseline in the product's name; the sensor's rule; 1e-4 for
integers and 1 for floats. Where two rules are possible, the pixels decide (`scenes.plausibility.most_plausible`).

Sentinel-2 is the difficult case. From processing baseline 04.00 on, ESA adds 1000 to the stored numbers. Some archives
keep the 1000 and some subtract it, and their items do not always declare this correctly. The date is no evidence,
because ESA reprocesses old scenes with new baselines (Collection 1).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms2hs.errors import SceneError
from ms2hs.raster.header import Declared
from ms2hs.scenes.recognition import has_offset
from ms2hs.scenes.scene import Asset, SceneOptions
from ms2hs.spectra.sensors import Sensor

# Sentinel-2, HLS and most other products store reflectance in ten-thousandths.
DN_SCALE = 1e-4
# In products of Sentinel-2 whose baseline has an offset (`recognition.has_offset`).
BOA_ADD_OFFSET = -1000.0
# A declared scale outside this range is an error of the file.
SCALE_RANGE = (1e-30, 1e30)
# Origins of a rule whose offset is a fact about the stored numbers.
DECLARING_ORIGINS = ("file", "item", "product", "name")


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
    origin: str = "default"
    """Source of scale and offset: `option`, `file`, `item`, `product`, `name`, `sensor` or `default`."""
    is_float: bool = False
    """Whether the stored numbers are floats, to which `--dn-offset` does not apply."""

    @property
    def offset(self) -> tuple[float, ...]:
        """Offset of each band in reflectance: `dn * dn_scale + offset`."""
        return tuple(round(dn * scale, 9) for dn, scale in zip(self.dn_offset, self.dn_scale, strict=True))

    def with_options(self, options: SceneOptions, where: str) -> "RadiometricRule":
        """The rule with the user's scale and offset and without notes; the same rule if the user gives neither.

        A scale alone replaces the offset by 0, unless an offset is declared. `where` names the scene in messages.

        Raises
        ------
        SceneError : `--dn-offset` for floats, or a scale without offset where an offset is declared.
        """
        scale, offset, dn_offset = options.scale, options.offset, options.dn_offset
        if scale is None and not options.has_offset:
            return self
        if dn_offset is not None and self.is_float:
            remedy = dn_offset * min(DN_SCALE, *self.dn_scale)
            raise SceneError(
                f"{where}: --dn-offset {dn_offset:g}, but the stored numbers are floats; it is allowed for integers "
                f"only. Use --offset {remedy:g} instead, or for floats in ten-thousandths --scale {DN_SCALE:g} "
                f"--offset {remedy:g} instead."
            )
        if not options.has_offset and any(self.dn_offset) and self.origin in DECLARING_ORIGINS:
            with_scale = f"--scale {scale:g} --offset"
            keep = f"{with_scale} {self.offset[0]:g} to keep it, or " if len(set(self.offset)) == 1 else ""
            raise SceneError(
                f"{where}: --scale {scale:g} without offset, but offset {_listed(self.offset)} is declared "
                f"({self.description}); both are required. Use {keep}{with_scale} 0 to drop it."
            )
        scales = self.dn_scale if scale is None else (float(scale),) * len(self.dn_scale)
        if dn_offset is not None:
            dn_offsets = (float(dn_offset),) * len(scales)
        else:
            dn_offsets = _in_stored((offset or 0.0,) * len(scales), scales)
        given = {"--scale": scale, "--offset": offset, "--dn-offset": dn_offset}
        words = " ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)
        text = f"{words} given by the user instead of scale {_listed(self.dn_scale)} and offset {_listed(self.offset)}"
        text += f" ({self.description})"
        return RadiometricRule(scales, dn_offsets, self.nodata, text, origin="option")

    def assets(self, names: Sequence[str], hrefs: Sequence[str], bands: Sequence[int]) -> tuple[Asset, ...]:
        """The bands of a scene with this rule; `bands` are 1-based positions in the files."""
        # Products with an offset below 0 keep 0 for fill. Without such an offset, 0 is reflectance, as of water.
        fills = [
            0.0 if nodata is None and offset < 0 else nodata
            for nodata, offset in zip(self.nodata, self.dn_offset, strict=True)
        ]
        columns = zip(names, hrefs, bands, self.dn_scale, self.dn_offset, fills, strict=True)
        return tuple(Asset(*fields) for fields in columns)


def rules_of_raster(
    bands: Sequence[Declared],
    *,
    options: SceneOptions | None = None,
    sensor: Sensor | None = None,
    baseline: str | None = None,
    where: str = "the file",
) -> list[RadiometricRule]:
    """The possible rules of a raster without product metadata, the most likely first; without the user's options.

    Several rules are possible for integers without declared offset only:

    - a baseline in the name says that 1000 was added, but many tools subtract the 1000 and keep the name;
    - a sensor with a rule of its own (Landsat Collection 2), whose numbers others bring to ten-thousandths.

    Parameters
    ----------
    bands : what each band declares, with its data type.
    options : whatever the user gives replaces the declaration, so that a wrong declaration is then no error.
    baseline : processing baseline of Sentinel-2 by the name or tags of the file, such as `05.10`; None if unknown.

    Raises
    ------
    SceneError : the numbers cannot be identified as reflectance, or a declared number is impossible.
    """
    options = options or SceneOptions()
    bands = _checked(bands, options, where)
    dtype = np.result_type(*(band.dtype for band in bands))
    # NaN is invalid in any case, and JSON has no NaN.
    fills = tuple(None if band.nodata is None or np.isnan(band.nodata) else band.nodata for band in bands)
    is_declared = any(band.scale is not None or band.offset for band in bands)
    has_eight_bits = dtype.itemsize == 1 and options.scale is None and not is_declared
    if dtype.kind not in "iuf" or has_eight_bits:
        raise SceneError(
            f"{where}: the data type is {dtype}; integers of at least 16 bits, or floats, are required. 8-bit files "
            "are pictures stretched for display. Use the surface reflectance product."
        )

    kinds = {np.dtype(band.dtype).kind == "f" for band in bands}
    if len(kinds) > 1 and not is_declared and options.scale is None:
        raise SceneError(
            f"{where}: has integers and floats without a declared scale; one scale for all bands is required. Use "
            f"--scale {DN_SCALE:g} if all are ten-thousandths, or write all bands with one data type."
        )

    def uniform(scale: float, offset: float, text: str, origin: str) -> RadiometricRule:
        scales = (scale,) * len(bands)
        dn_offsets = _in_stored((offset,) * len(bands), scales)
        return RadiometricRule(scales, dn_offsets, fills, text, (), origin, dtype.kind == "f")

    if is_declared:
        own = _rule_of_declarations(bands, fills, dtype, options, where)
    elif dtype.kind == "f":
        own = uniform(1.0, 0.0, f"floats ({dtype}) without scale in the file: scale 1, no offset", "default")
    else:
        text = f"integers ({dtype}) without scale in the file: scale {DN_SCALE:g}, no offset"
        own = uniform(DN_SCALE, 0.0, text, "default")
        if sensor is not None and sensor.dtype:
            text = f"{sensor.title} ({dtype}): scale {sensor.scale:g} and offset {sensor.offset:g}"
            return [uniform(sensor.scale, sensor.offset, text, "sensor"), own]
    is_plain = not own.is_float and {*own.dn_scale, *own.dn_offset} == {DN_SCALE, 0.0}
    is_sentinel2 = sensor is None or sensor.family == "sentinel2"
    if baseline is None or not (is_plain and is_sentinel2 and has_offset(baseline)):
        return [own]
    added = f"offset {BOA_ADD_OFFSET * DN_SCALE:g} by the processing baseline {baseline} in the name or tags"
    text, note, dn_offsets = f"{own.description}; {added}", f"The scene has {added}.", (BOA_ADD_OFFSET,) * len(bands)
    named = RadiometricRule(own.dn_scale, dn_offsets, fills, text, (note,), "name")
    removed = f"The processing baseline is {baseline}, but the pixels show that the offset was already subtracted."
    return [own, named] if is_declared else [named, replace(own, notes=(removed,))]


def _checked(bands: Sequence[Declared], options: SceneOptions, where: str) -> list[Declared]:
    """The declarations; SceneError for an impossible scale or offset, which is left out where the user replaces it."""
    low, high = SCALE_RANGE
    remedy = "Correct it, or give the right numbers with --scale and --offset."
    checked = []
    for band in bands:
        has_bad_scale = band.scale is not None and not low < band.scale < high
        has_bad_offset = band.offset is not None and not math.isfinite(band.offset)
        if has_bad_scale and options.scale is None:
            raise SceneError(
                f"{where}: declares the scale {band.scale:g}; a finite number above 0 is required. {remedy}"
            )
        if has_bad_offset and not options.has_offset:
            raise SceneError(f"{where}: declares the offset {band.offset:g}; a finite number is required. {remedy}")
        scale, offset = None if has_bad_scale else band.scale, None if has_bad_offset else band.offset
        checked.append(replace(band, scale=scale, offset=offset))
    return checked


def _rule_of_declarations(
    bands: Sequence[Declared], fills: tuple[float | None, ...], dtype: np.dtype, options: SceneOptions, where: str
) -> RadiometricRule:
    """The rule by the declarations of a raster: scale and offset of every band, or offsets alone."""
    offsets = [band.offset or 0.0 for band in bands]
    default = 1.0 if dtype.kind == "f" else DN_SCALE
    scales = [default if band.scale is None else band.scale for band in bands]
    declaring = sum(band.scale is not None for band in bands)
    is_in_reflectance = dtype.kind == "f" or max(map(abs, offsets)) <= 1
    is_clear = declaring == len(bands) or (not declaring and is_in_reflectance)
    if not is_clear and not (options.scale is not None and options.has_offset):
        unscaled = [1.0 if band.scale is None else band.scale for band in bands]
        raise SceneError(
            f"{where}: the file declares scale {_listed(unscaled)} and offset {_listed(offsets)}; scale and offset are "
            f"required for every band, or for none. Give both for all bands, such as --scale {DN_SCALE:g} --offset 0 "
            f"or --scale {DN_SCALE:g} --offset {BOA_ADD_OFFSET * DN_SCALE:g} in reflectance."
        )
    dn_offsets = _in_stored(offsets, scales)
    source = bands[0].where or "the file's own"
    text = f"{source} scale {_listed(scales)} and offset {_listed(offsets)}"
    return RadiometricRule(tuple(scales), dn_offsets, fills, text, (), "file", dtype.kind == "f")


def _in_stored(offsets: Sequence[float], scales: Sequence[float]) -> tuple[float, ...]:
    """(band,) offsets in reflectance as offsets of stored numbers."""
    return tuple(round(offset / scale, 9) for offset, scale in zip(offsets, scales, strict=True))


def rule_of_safe(
    names: Sequence[str], quantification: float, offsets: Mapping[str, float], baseline: str, *, sensor: Sensor,
    options: SceneOptions, where: str,
) -> RadiometricRule:  # fmt: skip
    """The rule of a SAFE product: its quantification and offsets; without listed offsets, by its baseline.

    Parameters
    ----------
    names : of the bands.
    quantification, offsets : as declared; NaN for a text that is no number. `offsets` is BOA_ADD_OFFSET by band, empty
        if the product lists none.
    baseline : processing baseline such as `05.10`; empty if unknown.
    """
    scale = 1 / quantification if quantification > 0 else math.nan
    declared = [Declared(scale, offsets.get(name, 0.0)) for name in names]
    kept = _checked(declared, options, f"{where}: product metadata")
    scales = tuple(DN_SCALE if band.scale is None else band.scale for band in kept)
    stated = f"processing baseline {baseline or 'unknown'}"
    text = f"product metadata: quantification {quantification:g}"
    if offsets:
        values = tuple(band.offset or 0.0 for band in kept)
        text += f", BOA_ADD_OFFSET {_listed(values)} ({stated})"
    elif re.fullmatch(r"\d\d\.\d\d", baseline) and has_offset(baseline):
        values = (BOA_ADD_OFFSET,) * len(names)
        text += f"; BOA_ADD_OFFSET {BOA_ADD_OFFSET:g} for {stated}, although none is listed"
    else:
        values = (0.0,) * len(names)
        text += f", no offset listed ({stated})"
    fills = (sensor.nodata,) * len(names)
    return RadiometricRule(scales, values, fills, text, origin="product").with_options(options, where)


def rule_of_hls(bands: Sequence[Declared], *, sensor: Sensor, options: SceneOptions, where: str) -> RadiometricRule:
    """The rule of an HLS granule: what each file declares, else the HLS User Guide."""
    bands = _checked(bands, options, where)
    scales = tuple(sensor.scale if band.scale is None else band.scale for band in bands)
    offsets = tuple(band.offset or 0.0 for band in bands)
    dn_offsets = _in_stored(offsets, scales)
    sources = dict.fromkeys("User Guide:" if band.scale is None else band.where for band in bands)
    text = f"HLS: {', '.join(sources)} scale {_listed(scales)} and offset {_listed(offsets)}"
    origin = "file" if any(band.scale is not None or band.offset for band in bands) else "sensor"
    rule = RadiometricRule(scales, dn_offsets, _fills(bands, sensor), text, (), origin, _has_floats(bands))
    return rule.with_options(options, where)


@dataclass(frozen=True)
class ItemDeclaration:
    """The declarations of a STAC item about its stored numbers."""

    sensor: Sensor
    bands: tuple[Declared, ...]
    baseline: str | None
    """Processing baseline of Sentinel-2, such as `05.10`; None if unknown."""
    offset_removed: bool | None
    """Whether the archive subtracted ESA's 1000, by `boa_offset_applied`; None without that flag."""


def rule_of_item(
    item: ItemDeclaration, archive_rule: str | None, options: SceneOptions, where: str = "the item"
) -> RadiometricRule:
    """The rule of a STAC item.

    Parameters
    ----------
    archive_rule : key in `ITEM_RULES` for the item's collection; None for an unknown archive: the sensor's rule.
    where : the item, for messages.
    """
    item = replace(item, bands=tuple(_checked(item.bands, options, where)))
    key = archive_rule or item.sensor.item_rule
    if archive_rule is None and key == "declared" and item.offset_removed is not None:
        key = "flagged"
    return replace(ITEM_RULES[key](item), is_float=_has_floats(item.bands)).with_options(options, where)


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
            "looks 0.1 too bright, use --offset -0.1 instead."
        )
        rule = _uniform(item, 0.0, "no scale, offset or processing baseline declared", note)
        return replace(rule, origin="default")
    scales = tuple(DN_SCALE if band.scale is None else band.scale for band in item.bands)
    offsets = _in_stored([band.offset or 0.0 for band in item.bands], scales)
    pairs = ", ".join(f"{scale:g} and {offset:g}" for scale, offset in dict.fromkeys(zip(scales, offsets, strict=True)))
    text = f"the item's own scale and offset (in stored numbers) {pairs}"
    return RadiometricRule(scales, offsets, _fills(item.bands, item.sensor), text, origin="item")


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
        "--offset 0, or the collection sentinel-2-c1-l2a."
    )
    return _uniform(item, BOA_ADD_OFFSET, reason, note)


def by_user_guide(item: ItemDeclaration) -> RadiometricRule:
    """HLS v1.5 and v2.0, User Guide: scale 1e-4 unless declared, no offset, whatever the item declares."""
    scales = tuple(DN_SCALE if band.scale is None else band.scale for band in item.bands)
    text = f"HLS User Guide: scale {_listed(scales)}, no offset"
    return RadiometricRule(scales, (0.0,) * len(scales), _fills(item.bands, item.sensor), text, origin="sensor")


def by_product_guide(item: ItemDeclaration) -> RadiometricRule:
    """Declared scale and offset of each band, else the sensor's, for Landsat Collection 2: USGS declares none."""
    sensor, is_declared = item.sensor, [band.scale is not None for band in item.bands]
    scales = tuple(sensor.scale if band.scale is None else band.scale for band in item.bands)
    offsets = tuple(
        (0.0 if own else sensor.offset) if band.offset is None else band.offset
        for own, band in zip(is_declared, item.bands, strict=True)
    )
    dn_offsets = _in_stored(offsets, scales)
    origin = "item" if all(is_declared) else "sensor"
    title = "the item's own" if all(is_declared) else f"{sensor.title}:"
    text = f"{title} scale {_listed(scales)} and offset {_listed(offsets)}"
    return RadiometricRule(scales, dn_offsets, _fills(item.bands, sensor), text, origin=origin)


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
    return RadiometricRule((DN_SCALE,) * count, (offset,) * count, _fills(item.bands, item.sensor), text, notes, "item")


def _fills(bands: Sequence[Declared], sensor: Sensor) -> tuple[float | None, ...]:
    return tuple(sensor.nodata if band.nodata is None else band.nodata for band in bands)


def _has_floats(bands: Sequence[Declared]) -> bool:
    return any(np.dtype(band.dtype).kind == "f" for band in bands if band.dtype)


def _listed(values: Sequence[float]) -> str:
    """The distinct values, as text."""
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
