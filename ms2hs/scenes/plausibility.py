"""Checks of a scene's reflectance: can its scale and offset be right, and which scale would be.

A wrong scale changes the brightness of a spectrum and not its shape. So the check divides a sample of the pixels by
shape, and compares the brightness of the brighter pixels of each class with what these surfaces reflect:

- vegetation (the near infrared well above red) and bare ground (the short-wave infrared above green) at any scale;
- snow (bright to the near infrared, dark beyond) and water (falling to the infrared) as far as they differ from others:
  water ten times too bright looks like ice, and dark water is no error.

Where the rule of a scene cannot be right, other scales in use are applied to the same sample, and the one that fits
best becomes the advice. Without enough evidence a scene passes.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.errors import SceneError
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import relate
from ms2hs.raster.sample import is_quick, read_part, sample_parts
from ms2hs.scenes.radiometry import BOA_ADD_OFFSET, DN_SCALE, RadiometricRule
from ms2hs.scenes.recognition import baseline_of, has_offset
from ms2hs.scenes.scene import CUSTOM, Asset, Scene
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

# The offset that ESA adds from processing baseline 04.00 on, in reflectance.
ADDED_REFLECTANCE = -BOA_ADD_OFFSET * DN_SCALE
# Constants that every band contains if that offset, or Landsat's, was not subtracted; 0.2 also if 0.1 was added.
ADDED_CONSTANTS = (ADDED_REFLECTANCE, 0.2)
# Wavelengths of the bands that the checks use, in nm, and the largest distance of a band from them.
BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_1_NM, SWIR_2_NM = 490.0, 560.0, 660.0, 865.0, 1610.0, 2200.0
REACH_NM = 40.0
# Stored numbers that files use as fill without declaring it, and the largest number that counts as measured.
FILLS, MAX_STORED = (-9999.0, 65535.0), 1e6
# Share of a sample from which on a repeated extreme is a fill; also of the other numbers.
MIN_SHARE_FILL = 0.05
MIN_PIXELS = 16
# Share of pixels below 0 from which on a scene is suspect.
MAX_SHARE_BELOW_ZERO = 0.05
# A pixel is negative if this share of its bands (one of a multispectral sensor) is below this: more than noise.
NEGATIVE, MIN_SHARE_BANDS = -0.02, 1 / 12
# Scales and offsets in use: reflectance, ten-thousandths, percent, thousandths, 16 and 8 bits; Landsat Collection 2;
# Sentinel-2 from baseline 04.00 on.
SCALES_IN_USE = (1.0, DN_SCALE, 0.01, 0.001, 1 / 65535)
LANDSAT_RULE, SENTINEL2_RULE = (2.75e-5, -0.2), (DN_SCALE, -ADDED_REFLECTANCE)
# Other multiples of the present scale, an offset of Sentinel-2 that no name declares, and Landsat's rule for another
# sensor are advised only if they fit better by this (log10 of brightness). An offset in the name may fit worse by it.
POWER_OF_TEN, UNUSUAL, UNDECLARED_OFFSET, OTHER_SENSOR, EIGHT_BITS_AS_FLOATS = 0.1, 0.25, 0.3, 0.1, 0.5
# Largest distance of a class from its typical brightness that counts, in log10.
MAX_DISTANCE = 0.6
# A rule takes precedence over the next unless that fits better by this.
CLEARLY_BETTER = 0.15


@dataclass(frozen=True)
class SurfaceClass:
    """Plausible brightness of the pixels of one spectral shape: the 90th percentile of their brightest band."""

    name: str
    darkest: float
    typical: float
    brightest: float
    min_share: float
    """Share of the pixels from which on the class shows that a scene is too dark."""
    unsure_below: float
    """Below this brightness, noise and adjacent land over dark water have the same shape."""
    min_share_if_unsure: float
    min_share_bright: float = 0.01
    """Share of the pixels from which on the class shows that a scene is too bright."""


# Source: ours. `tests/test_plausibility.py` has the spectra of surfaces that pass, and the wrong scales that do not.
CLASSES = (
    SurfaceClass("vegetation", 0.097, 0.4, 0.9, 0.1, 0.02, 0.3),
    SurfaceClass("bare ground", 0.085, 0.4, 1.1, 0.1, 0.02, 0.3),
    SurfaceClass("snow", 0.2, 0.8, 1.7, 0.6, 0.05, np.inf),
    SurfaceClass("water", 0.0, 0.05, 1.0, 1.0, 0.0, np.inf),
    SurfaceClass("deep water", 0.0, 0.05, 0.45, 1.0, 0.0, np.inf, 0.5),
    SurfaceClass("another surface", 0.015, 0.6, np.inf, 0.6, 0.0, np.inf),
)
# No whole scene is brighter than these in the brightest band (quantile: limit), nor darker than DARKEST_SCENE (98th
# percentile), nor than DARKEST_LAND unless it has this share of water.
BRIGHTEST_SCENE = {0.5: 1.7, 0.9: 2.0}
DARKEST_SCENE, DARKEST_LAND, MIN_SHARE_WATER = 0.002, 0.015, 0.4


@dataclass(frozen=True)
class Fit:
    """How well reflectance agrees with what surfaces reflect."""

    problem: str
    """What is impossible, with the number; empty if nothing is."""
    misfit: float
    """Distance of the classes' brightness from the typical, in log10, plus penalties."""


def check_reflectance(scene: Scene, grid: PixelGrid, *, force: bool | None = None) -> tuple[str, ...]:
    """Refuse a scene whose reflectance cannot be right; returns the refusal as a warning with `force`.

    Reads a sample of the stored numbers over the pixels of `grid`. Without the option --force, `force` is None.

    Raises
    ------
    SceneError : the scale or offset is wrong; the message says which options make the sample plausible, if any do.
    """
    stored = stored_sample(scene.assets, grid)
    scales, offsets = (np.array([getattr(asset, key) for asset in scene.assets]) for key in ("dn_scale", "dn_offset"))
    problem = fit_of((stored + offsets[:, None]) * scales[:, None], scene.spectral).problem or _odd_bands(scene, stored)
    if not problem:
        return ()
    remedy = _remedy(scene, stored)
    advice = f"Use {remedy}, {_fits(scene)}." if remedy else "Give the right --scale and --offset."
    text = f"{problem} ({scene.offset_rule})"
    if force:
        return (f"warning: {text}. {advice}",)
    other = "" if force is None else " (--force converts all the same.)"
    raise SceneError(f"{scene.id}: {text}; so the scale or offset is wrong. {advice}{other}")


def _odd_bands(scene: Scene, stored: FloatArray) -> str:
    """The problem of bands whose own rule is an error; empty without such bands.

    Their scale differs from the scale of most bands by a power of ten, or their offset differs, and the rule of most
    bands gives smoother spectra. Scales that a packing computes from the range of each band are no powers of ten.
    """
    rules = [(asset.dn_scale, round(asset.dn_offset * asset.dn_scale, 9)) for asset in scene.assets]
    scale, offset = max(dict.fromkeys(rules), key=rules.count)
    own, own_offset = (np.array(column)[:, None] for column in zip(*rules, strict=True))
    powers = np.log10(own / scale)
    if stored.shape[1] < MIN_PIXELS or len({*rules}) == 1 or np.abs(powers - powers.round()).max() > 0.01:
        return ""
    order = np.argsort(scene.spectral.wavelength_nm)
    steps = [
        np.median(np.abs(np.diff(np.log10(np.maximum(values[order], 1e-3)), axis=0)).sum(axis=0))
        for values in (stored * own + own_offset, stored * scale + offset)
    ]
    odd = [asset.name for asset, rule in zip(scene.assets, rules, strict=True) if rule != (scale, offset)]
    is_error = steps[1] < steps[0] - CLEARLY_BETTER
    return f"{', '.join(odd)}: scale or offset of other bands would give smoother spectra" if is_error else ""


def offset_warnings(scene: Scene, pixels: Float32Array) -> tuple[str, ...]:
    """Warnings about the offset of a converted scene, one sentence or more each.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of a sample of valid pixels.
    """
    if not pixels.size:
        return ()
    warnings = []
    if (negative := _share_below(0, pixels)) > MAX_SHARE_BELOW_ZERO:
        warnings.append(
            f"{negative:.0%} of the valid pixels have negative reflectance ({scene.offset_rule}); at most 5 % are "
            "usual, on water and in shadow." + _offset_advice(scene, pixels, ADDED_REFLECTANCE)
        )
    if constant := added_constant(pixels, scene.spectral.wavelength_nm):
        warnings.append(
            f"the reflectance seems to contain a constant of +{constant:g} ({scene.offset_rule}): no pixel is "
            "dark, although the scene has vegetation or water." + _offset_advice(scene, pixels, -constant)
        )
    return tuple(warnings)


def _share_below(limit: float, pixels: FloatArray) -> float:
    """Share of the pixels (band, pixel) with `MIN_SHARE_BANDS` of the bands below a limit."""
    return float(((pixels < limit).mean(axis=0) >= MIN_SHARE_BANDS).mean())


def _offset_advice(scene: Scene, pixels: Float32Array, change: float) -> str:
    """The options that change the offset, if the bands have one rule and the sample is plausible afterwards."""
    changed = pixels + np.float32(change)
    is_wrong = (
        _share_below(0, changed) > MAX_SHARE_BELOW_ZERO
        or bool(added_constant(changed, scene.spectral.wavelength_nm))
        or bool(fit_of(changed, scene.spectral).problem)
    )
    return "" if is_wrong else offset_remedy(scene, change)


def offset_remedy(scene: Scene, change: float) -> str:
    """The sentence with the options that change the offset by this reflectance; empty for bands with several rules."""
    rules = {(asset.dn_scale, round(asset.dn_scale * asset.dn_offset, 6)) for asset in scene.assets}
    if len(rules) != 1:
        return ""
    ((scale, offset),) = rules
    return f" Use --scale {scale:.5g} --offset {round(offset + change, 6):g}, {_fits(scene)}."


def _fits(scene: Scene) -> str:
    return "which fits the pixels" + (", instead of the given options" if scene.rule_origin == "option" else "")


def most_plausible(
    rules: Sequence[RadiometricRule], hrefs: Sequence[str], bands: Sequence[int], grid: PixelGrid,
    spectral: SpectralGrid,
) -> RadiometricRule:  # fmt: skip
    """The first rule, unless a later one fits clearly better to a sample of the pixels of the `bands` in some files."""
    if len(rules) == 1:
        return rules[0]
    stored = stored_sample(rules[0].assets(spectral.names, hrefs, bands), grid)
    columns = [(np.array(rule.dn_scale)[:, None], np.array(rule.dn_offset)[:, None]) for rule in rules]
    misfits = [fit_of((stored + offset) * scale, spectral).misfit for scale, offset in columns]
    best = int(np.argmin(misfits))
    return rules[best] if misfits[best] < misfits[0] - CLEARLY_BETTER else rules[0]


def fit_of(reflectance: FloatArray, grid: SpectralGrid) -> Fit:
    """How well the reflectance (band, pixel) of a sample fits; no problem and no misfit with too few pixels."""
    if reflectance.shape[1] < MIN_PIXELS:
        return Fit("", 0.0)
    top = reflectance.max(axis=0)
    negative = _share_below(NEGATIVE, reflectance)
    problems, dark, misfit, water = [], [], 0.0, 0.0
    if negative > 0.5:
        problems.append(f"{negative:.0%} of the pixels have negative reflectance")
    for surface, (members, brightness, darkest) in zip(CLASSES, _classes(reflectance, grid), strict=True):
        share = float(members.mean())
        if members.sum() < min(MIN_PIXELS, 0.25 * top.size):
            continue
        upper = float(np.quantile(brightness[members], 0.9))
        words = f"{surface.name} reflects {upper:.2g} (90th percentile of {share:.0%} of the pixels)"
        misfit += share * min(abs(np.log10(max(upper, 1e-9) / surface.typical)), MAX_DISTANCE)
        misfit += 0.5 * share if surface is CLASSES[-1] else 0.0
        water += share if not surface.darkest else 0.0
        if upper > surface.brightest and share >= surface.min_share_bright:
            problems.append(f"{words}; at most {surface.brightest:g} is possible")
        is_enough = share >= (surface.min_share_if_unsure if upper < surface.unsure_below else surface.min_share)
        lowest = min(surface.darkest, darkest)
        if surface.darkest and is_enough:
            dark.append(f"{words}; at least {lowest:.2g} is usual" if upper < lowest else "")
    problems += [
        f"{1 - quantile:.0%} of the pixels reflect more than {upper:.3g}; at most 1 is usual"
        for quantile, highest in BRIGHTEST_SCENE.items()
        if (upper := float(np.quantile(top, quantile))) > highest
    ]
    if (upper := float(np.quantile(top, 0.98))) < (DARKEST_SCENE if water >= MIN_SHARE_WATER else DARKEST_LAND):
        dark = [f"98 % of the pixels reflect less than {upper:.2g}; even {'water' if water else 'shade'} reflects more"]
    problems += dark[:1] if all(dark) else []
    misfit += 2 * negative + bool(problems) + 0.5 * bool(added_constant(reflectance, grid.wavelength_nm))
    return Fit(problems[0] if problems else "", misfit)


def _classes(reflectance: FloatArray, grid: SpectralGrid) -> list[tuple[BoolArray, FloatArray, float]]:
    """Members (pixel), brightness (pixel) and darkest plausible brightness of each of `CLASSES`.

    A band that the sensor lacks decides nothing: without the short-wave infrared, snow is not recognised.
    """
    blue, green, red, nir, swir, swir_2 = (
        np.full(reflectance.shape[1], np.nan) if band is None else np.asarray(reflectance[band], float)
        for nm in (BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_1_NM, SWIR_2_NM)
        for band in [nearest_band(grid.wavelength_nm, nm, REACH_NM)]
    )
    has_swir = bool(np.isfinite(swir).all()) and swir.size > 0
    positive = (red >= 0) & (nir > 0)
    vegetation = positive & (nir > 4 * red) & (nir > 2 * green)
    bare = positive & ~vegetation & (nir > 1.1 * green)
    if has_swir:
        vegetation &= (swir > 0.25 * nir) & (swir < nir)
        bare &= (swir > 1.2 * green) & (swir > 1.1 * red) & (swir > 0.5 * nir)
    else:
        bare &= (red > 1.1 * green) & (nir > 1.1 * red)
    snow = (green > 2 * swir) & (nir > 0.7 * green) & (blue > 0.7 * green)
    visible = np.fmax(green, blue)
    water = (nir < 0.7 * visible) & (green > 0)
    if has_swir:
        water &= green > 1.5 * swir
    deep = water & (nir < 0.12 * visible)
    infrared = np.fmax(np.fmax(nir, swir), swir_2)
    # Lava and asphalt are darker than sand, and flatter. Without the short-wave infrared, burnt ground is dark, too.
    slope = float(np.median((infrared / np.maximum(blue, 1e-9))[bare])) if bare.any() and has_swir else 1.5
    darkest_bare = max(0.035 * slope, 0.04) if np.isfinite(slope) else 1.0
    return [
        (vegetation, nir, 1.0),
        (bare, infrared, darkest_bare),
        (snow, green, 1.0),
        (water & ~deep, visible, 1.0),
        (deep, visible, 1.0),
        (~(vegetation | bare | snow | water), reflectance.max(axis=0), 1.0),
    ]


def added_constant(pixels: FloatArray, wavelength_nm: FloatArray) -> float:
    """The constant of `ADDED_CONSTANTS` that every band contains and that must be subtracted; 0 if none.

    Both conditions must hold, here for 0.1:

    1. No pixel is dark: 99 % of the pixels are above 0.09 even in their darkest band. Green leaves in blue and red,
       water in the infrared, and shadows reflect 0.00 to 0.05. So the scene has none of these (bright desert, snow,
       cloud), or a constant was added.
    2. At least 1 % of the pixels have the spectrum of dense vegetation or of water after 0.1 is subtracted.
       Vegetation: red and blue within -0.02-0.06 and within 0.025 of each other, green not below red, NDVI of at
       least 0.7. No surface has this spectrum plus 0.1: bare ground with red at 0.13 has blue near 0.07, as soils rise
       from blue to red, and haze leaves the short-wave infrared dark (condition 1).
       Water: every band within -0.02-0.07, and 2200 nm not above blue nor above 0.02. Plus 0.1 this is a flat grey
       that falls towards the infrared, where dark rock, asphalt and ash rise. Grey roofs may fall too, so the result is
       a warning and not an error. Plus 0.2 it is thin cloud, which does not count.

    Parameters
    ----------
    pixels : (band, pixel) reflectance of valid pixels.
    wavelength_nm : (band,) centres in nm.

    Source: ours; thresholds from the spectra of leaves, water and soils named above.
    """
    bands = [nearest_band(wavelength_nm, nm, REACH_NM) for nm in (BLUE_NM, GREEN_NM, RED_NM, NIR_NM, SWIR_2_NM)]
    darkest = float(np.quantile(pixels.min(axis=0), 0.01))
    for constant in ADDED_CONSTANTS:
        if any(band is None for band in bands) or darkest < constant - 0.01:
            break
        rest = pixels - constant
        blue, green, red, nir, swir = (rest[band] for band in bands if band is not None)
        dark = (red > -0.02) & (red < 0.06) & (blue > -0.02) & (blue < 0.06)
        ndvi = (nir - red) / np.maximum(nir + red, 0.01)
        found = dark & (np.abs(blue - red) < 0.025) & (green >= red) & (ndvi >= 0.7) & (nir >= 0.15)
        if constant == ADDED_REFLECTANCE:
            found |= (rest.min(axis=0) > -0.02) & (rest.max(axis=0) < 0.07) & (swir <= blue) & (swir < 0.02)
        if float(found.mean()) >= 0.01:
            return constant
    return 0.0


def _remedy(scene: Scene, stored: FloatArray) -> str:
    """The options that make the sample plausible, such as `--scale 0.01`; empty if none do."""
    sensor = None if scene.source == CUSTOM else load_sensor(scene.source)
    present = {(asset.dn_scale, round(asset.dn_offset * asset.dn_scale, 9)) for asset in scene.assets}
    candidates = [(*rule, 0.0) for rule in present] + [(scale, 0.0, 0.0) for scale in SCALES_IN_USE]
    candidates.append((1 / 255, 0.0, 0.0 if (stored == stored.round()).all() else EIGHT_BITS_AS_FLOATS))
    candidates += [(10.0**power, 0.0, POWER_OF_TEN) for power in range(-7, 5)]
    candidates.append((*LANDSAT_RULE, 0.0 if sensor is None or sensor.dtype else OTHER_SENSOR))
    is_named = (baseline := baseline_of([], [scene.id])) is not None and has_offset(baseline)
    candidates.append((*SENTINEL2_RULE, -UNDECLARED_OFFSET if is_named else UNDECLARED_OFFSET))
    if len(present) == 1:
        ((scale, offset),) = present
        factors = [10.0**power for power in range(-5, 6) if power] + [6.5535, 1 / 6.5535]
        offsets = {0.0, offset}
        candidates += [(scale * factor, each, UNUSUAL) for factor, each in product(factors, offsets)]
    best = (np.inf, "")
    for scale, offset, penalty in candidates:
        scale = float(f"{scale:.5g}")  # noqa: PLW2901 - as the user will write it
        fit = fit_of(stored * scale + offset, scene.spectral)
        names_offset = offset != 0 or any(asset.dn_offset for asset in scene.assets)
        text = f"--scale {scale:g} --offset {offset:g}" if names_offset else f"--scale {scale:g}"
        if not fit.problem and {(scale, offset)} != present:
            best = min(best, (fit.misfit + penalty, text))
    return best[1]


def stored_sample(assets: Sequence[Asset], grid: PixelGrid) -> FloatArray:
    """(band, pixel) stored numbers of a sample of some bands over a grid; pixels without measurement are left out."""
    files: dict[str, list[int]] = {}
    for position, asset in enumerate(assets):
        files.setdefault(asset.href, []).append(position)
    with ExitStack() as opened:
        layers = []
        for href, positions in files.items():
            dataset = opened.enter_context(open_dataset(href))
            axes = relate(grid, read_pixel_grid(dataset), assets[positions[0]].name)
            sizes = (grid.height, grid.width)
            rows, cols = ((axis.start, axis.start + size * axis.step) for axis, size in zip(axes, sizes, strict=True))
            layers.append((dataset, positions, rows, cols))
        is_whole = all(is_quick(dataset, len(index), rows, cols) for dataset, index, rows, cols in layers)
        parts = sample_parts(grid.height, grid.width, is_whole=is_whole)
        columns: list[list[FloatArray]] = [[] for _ in assets]
        valid: list[BoolArray] = []
        for dataset, positions, rows, cols in layers:
            bands = [assets[i].band for i in positions]
            stored = np.concatenate([read_part(dataset, bands, rows, cols, part) for part in parts], axis=1)
            nodata = [assets[i].nodata for i in positions]
            valid.append(_is_measured(stored, nodata, dataset.dtypes[bands[0] - 1]))
            for i, values in zip(positions, stored, strict=True):
                columns[i] = values
    sample = np.stack(columns)
    is_valid = np.all(valid, axis=0) & ~(sample == sample[:1]).all(axis=0)
    return sample[:, is_valid]


def _is_measured(stored: FloatArray, nodata: Sequence[float | None], dtype: str) -> BoolArray:
    """(pixel,) False for nodata, fill, saturated and infinite numbers, and for one number in all bands."""
    limits: tuple[float, ...] = ()
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        limits = (float(info.max), float(info.min)) if info.min else (float(info.max),)
    bad = ~(np.abs(stored) <= MAX_STORED) | np.isin(stored, (*FILLS, *limits))
    bad |= stored == np.array([np.nan if number is None else number for number in nodata])[:, None]
    is_fill = (stored == stored[:1]).all(axis=0) if len(stored) > 1 else False
    # A fill that no list contains: the extreme of a band, often repeated, and far from the other numbers.
    for numbers in np.abs(np.where(bad, np.nan, stored)):
        repeated = numbers == np.fmax.reduce(numbers, initial=0.0)
        others = np.fmax.reduce(numbers[~repeated], initial=0.0)
        is_far = 0 < others < np.fmax.reduce(numbers, initial=0.0) / 3
        bad[0] |= repeated & is_far & (MIN_SHARE_FILL < repeated.mean() < 1 - MIN_SHARE_FILL)
    return np.asarray(~bad.any(axis=0) & ~np.asarray(is_fill))
