"""Quality layers: which pixels show the ground.

A layer is recognised by the name of its band or file. `choose_layers` decides in three steps:

1. Scaled copies are undone: tools divide all bands by 10000, the classes included. A layer fits only if all its numbers
   times one factor are numbers of that layer; averaged classes do not fit.
2. Of the layers that mark clouds, the layers of the lowest rank are used: the product's own classification before
   probabilities. Layers that mark only missing data are always used.
3. A sentence says which layers are used, or why clouds are kept.

Water and snow are ground. To add a layer, add its line in `QUALITY_LAYERS`.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ms2hs.arrays import BoolArray, DnArray
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import Axis, relate
from ms2hs.scenes.scene import Asset

# A number that no layer contains: the fill of layers without a fill of their own.
NO_DATA = -1
# Factors from stored numbers to the layer's own; copies of a layer are divided or multiplied like reflectance.
COPY_SCALES = (1.0, 1e4, 1e-4)
# Larger layers are sampled in 3x3 windows of this side in pixels; if the sample shows a fault, all is read.
SAMPLE_PIXELS = 512
MAX_WHOLE_PIXELS = 1 << 22
# Cloud probability in percent above which a pixel counts as cloud: the default threshold of s2cloudless (0.4).
MAX_CLOUD_PERCENT = 40
# Layers of probabilities and masks with fewer distinct numbers, all of them ground, mark nothing.
FEW_NUMBERS = 10
# Clear share below which a pixel counts as cloud: the threshold in the example of Cloud Score+ in Earth Engine.
MIN_CLEAR_SHARE = 0.6
# Names that suggest a quality layer.
LIKELY_QUALITY = re.compile(r"(?i)qa|mask|cloud|cld|clear|quality|shadow|scl")
SNOW_NAME = re.compile(r"(?i)snow|snw")


@dataclass(frozen=True)
class QualityLayer:
    """A quality layer of a product."""

    name: str
    """As in the product; the name of its `Asset`."""
    pattern: str
    """Regular expression that a band's name contains as a whole word, in any case."""
    rank: int
    """The layers of the lowest rank are used, together. 0: marks no clouds, always used."""
    marks: str
    """What is removed, in words."""
    fill: int
    """Number outside the image."""
    valid: Callable[[DnArray], BoolArray]
    """True where the pixel shows the ground; water and snow are ground."""
    scale_of: Callable[[DnArray], float | None]
    """The factor from distinct stored numbers to the layer's own; None if the numbers cannot be this layer's."""

    def asset(self, href: str, band: int = 1, scale: float = 1.0, nodata: float | None = None) -> Asset:
        """The layer in a file; the stored number times `scale` is the layer's own."""
        return Asset(self.name, href, band, scale, 0.0, float(self.fill) if nodata is None else nodata)


def one_of(*ground: int) -> Callable[[DnArray], BoolArray]:
    """Valid are these classes."""
    return lambda numbers: np.isin(numbers if numbers.dtype.kind in "iu" else np.rint(numbers), ground)


def without_bits(*positions: int) -> Callable[[DnArray], BoolArray]:
    """Valid are numbers with none of these bits set; negative numbers are fill."""
    bits = sum(1 << position for position in positions)

    def valid(numbers: DnArray) -> BoolArray:
        whole = np.rint(numbers).astype(np.int64)
        return np.asarray(((whole & bits) == 0) & (whole >= 0))

    return valid


def within(low: float, high: float) -> Callable[[DnArray], BoolArray]:
    """Valid are numbers from low to high."""
    return lambda numbers: np.asarray((numbers >= low) & (numbers <= high))


def classes(members: Collection[int]) -> Callable[[DnArray], float | None]:
    """The scale of a layer of whole numbers: the first with which all numbers are members."""

    def scale_of(numbers: DnArray) -> float | None:
        for scale in COPY_SCALES:
            own = numbers * scale
            # Integers are exact, and float32 has seven digits.
            is_whole = np.abs(own - np.rint(own)) <= (0 if scale == 1 else 1e-6 * scale)
            if is_whole.all() and all(int(number) in members for number in np.rint(own)):
                return scale
        return None

    return scale_of


def shares(top: int) -> Callable[[DnArray], float | None]:
    """The scale of a layer of shares: 0 to `top`, whole or averaged, a scaled copy of whole numbers, or 0 to 1."""
    scale_of_whole = classes(range(top + 1))

    def scale_of(numbers: DnArray) -> float | None:
        scale, high = scale_of_whole(numbers), float(numbers.max())
        if scale == 1 and high == 1 < top:
            return None  # a mask of 0 and 1, not shares
        if scale is not None:
            return scale
        return top if high <= 1 else 1.0 if high <= top else None

    return scale_of


# Rules and their sources:
# SCL: Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD). Removed: 0 no data, 1 saturated or defective,
#   3 cloud shadow, 8 and 9 cloud of medium and high probability, 10 thin cirrus. Ground: 2 dark area or topographic
#   shadow, 4 vegetation, 5 bare, 6 water, 7 unclassified, 11 snow or ice.
# Fmask: HLS v2.0 User Guide: bit 0 cirrus (v1.5; reserved in v2.0), 1 cloud, 2 adjacent to cloud or shadow, 3 cloud
#   shadow, 4 snow or ice, 5 water, 6-7 aerosol level; 255 is fill.
# QA_PIXEL: Landsat 8-9 Collection 2 Level 2 Science Product Guide (LSDS-1619): bit 0 fill, 1 dilated cloud, 2 cirrus,
#   3 cloud, 4 cloud shadow, 5 snow, 6 clear, 7 water, 8-15 confidences.
# pixel_qa: Landsat 8 Collection 1 Surface Reflectance Code Product Guide (LSDS-1368): bit 0 fill, 1 clear, 2 water,
#   3 cloud shadow, 4 snow, 5 cloud, 6-7 and 8-9 confidence of cloud and cirrus, 10 terrain occlusion.
# QAI: FORCE documentation, Quality Assurance Information: bit 0 no data, 1-2 cloud state (buffered, opaque, cirrus),
#   3 cloud shadow, 4 snow, 5 water.
# oa_fmask: Geoscience Australia ARD: 0 no data, 1 clear, 2 cloud, 3 shadow, 4 snow, 5 water.
# CLM: Sentinel Hub (s2cloudless): 0 clear, 1 cloud, 255 no data. MAJA (MUSCATE format): every bit is a kind of cloud or
#   cloud shadow. Either way only 0 is ground. MG2 of MAJA: bit 1 cloud, 2 snow, 3 cloud shadow.
# MSK_CLDPRB: Sen2Cor, 0-100 %; also `CLD`, `probability` of Earth Engine's S2_CLOUD_PROBABILITY. CLP: 0-255.
# cs_cdf: Earth Engine, GOOGLE/CLOUD_SCORE_PLUS: 0 occluded to 1 clear.
# QA60: Earth Engine, COPERNICUS/S2_SR_HARMONIZED: bit 10 opaque cloud, 11 cirrus; empty from 2022-02 to 2024-02.
# dataMask: Sentinel Hub: 0 no data, 1 data; 255 or 65535 where the output is scaled. EDG of MAJA: 1 no data.
SHADOW = "cloud and shadow"
BYTE, WORD = range(1 << 8), range(1 << 16)
# fmt: off
QUALITY_LAYERS = {layer.name: layer for layer in (
    QualityLayer("SCL", r"scl|scene[ _-]?class(ification)?([ _-](map|layer))?", 1, SHADOW, 0, one_of(2, 4, 5, 6, 7, 11),
                 classes(range(12))),
    QualityLayer("QA_PIXEL", r"qa[ _-]?pixel", 1, SHADOW, 1, without_bits(0, 1, 2, 3, 4), classes(WORD)),
    QualityLayer("pixel_qa", r"pixel_qa", 1, SHADOW, 1, without_bits(0, 3, 5), classes(range(1 << 11))),
    QualityLayer("QAI", r"qai", 1, SHADOW, 1, without_bits(0, 1, 2, 3), classes(WORD)),
    QualityLayer("oa_fmask", r"oa_fmask", 1, SHADOW, 0, one_of(1, 4, 5), classes(range(6))),
    QualityLayer("Fmask", r"fmask", 1, SHADOW, 255, without_bits(0, 1, 2, 3), classes(BYTE)),
    QualityLayer("MSK_CLDPRB", r"(msk_)?cld_?prb|cld|cloud[ _-]?(confidence|prob(ability)?)|^(cloud|probability)$", 2,
                 "cloud", NO_DATA, within(0, MAX_CLOUD_PERCENT), shares(100)),
    QualityLayer("CLM", r"clm", 3, "cloud", 255, one_of(0), classes(BYTE)),
    QualityLayer("MG2", r"mg2", 3, SHADOW, 2, without_bits(1, 3), classes(BYTE)),
    QualityLayer("CLP", r"clp", 4, "cloud", NO_DATA, within(0, MAX_CLOUD_PERCENT * 2.55), shares(255)),
    QualityLayer("cs_cdf", r"cs_cdf|^cs$", 5, SHADOW, NO_DATA, within(MIN_CLEAR_SHARE, 1), shares(1)),
    QualityLayer("QA60", r"qa60", 6, "cloud", NO_DATA, without_bits(10, 11), classes((0, 1024, 2048, 3072))),
    QualityLayer("MSK_CLASSI_OPAQUE", r"msk_classi_opaque", 7, "cloud", NO_DATA, one_of(0), classes((0, 1))),
    QualityLayer("MSK_CLASSI_CIRRUS", r"msk_classi_cirrus", 7, "cirrus", NO_DATA, one_of(0), classes((0, 1))),
    QualityLayer("dataMask", r"data_?mask", 0, "no data", 0, one_of(1, 255, 65535), classes((0, 1, 255, 65535))),
    QualityLayer("EDG", r"edg", 0, "no data", 1, one_of(0), classes((0, 1))),
)}
# fmt: on


def _name_pattern(pattern: str) -> re.Pattern[str]:
    # `scl_water` and `qa60_mask` are other layers; `CLM_R1` and SNAP's `SCL_M` are copies.
    return re.compile(rf"(?<![a-z0-9])({pattern})(?![a-z0-9]|_[a-z]{{2}})", re.IGNORECASE)


# The name of a layer in the name of a file.
QUALITY_NAME = _name_pattern("|".join(layer.pattern for layer in QUALITY_LAYERS.values()))
# Parts of a band's text that do not belong to its name: `Band 13: SCL`, `0_SCL`, `B13 SCL`, `SCL_20m`, `scl-jp2`.
AROUND_NAME = re.compile(r"^((band|b)?[ _-]?\d+[:_ -]+)|([ _-](\d\dm|jp2))+$")


@dataclass(frozen=True)
class Candidate:
    """A band that may be a quality layer."""

    text: str
    """Name or description."""
    href: str
    band: int
    """1-based position in the file."""
    where: str
    """The band for messages, such as `band 13`."""


class QualityChoice(NamedTuple):
    """The quality layers of a scene."""

    layers: tuple[Asset, ...]
    note: str
    """Which layers remove what, or why clouds are kept."""


def layer_named(text: str, own_layer: str = "") -> QualityLayer | None:
    """The quality layer that a name or description names; None if it names none.

    Parameters
    ----------
    own_layer : name of the quality layer of the sensor's products; HLS v1 calls its own `QA`.
    """
    name = AROUND_NAME.sub("", text.strip().lower())
    if name == "qa" and own_layer == "Fmask":
        return QUALITY_LAYERS[own_layer]
    return next((layer for layer in QUALITY_LAYERS.values() if _name_pattern(layer.pattern).search(name)), None)


def quality_note(layer: Asset | None, product: str, *, wanted: bool) -> str:
    """The note of a product with one quality layer, or without one."""
    if layer is not None and wanted:
        return f"{QUALITY_LAYERS[layer.name].marks} by {layer.name}"
    return f"clouds are kept: {'--no-quality' if layer is not None else f'{product} has no cloud layer'}"


def valid_by(asset: Asset, stored: DnArray) -> BoolArray:
    """True where a quality layer's stored numbers show the ground."""
    # 102 / 10000 * 10000 is not 102.
    numbers = stored if asset.dn_scale == 1 else np.round(stored * asset.dn_scale, 2)
    with np.errstate(invalid="ignore"):
        valid = QUALITY_LAYERS[asset.name].valid(numbers)
    return np.asarray(valid & has_value(asset, stored))


def has_value(asset: Asset, stored: DnArray) -> BoolArray:
    """True where a quality layer has a number that is not its nodata."""
    return np.asarray(np.isfinite(stored) & (stored != asset.nodata))


def choose_layers(candidates: Sequence[Candidate], kind: str, own_layer: str = "") -> QualityChoice:
    """The quality layers among the bands of a scene; reads a sample of each candidate.

    Parameters
    ----------
    kind : what the bands belong to, for the note: `file` or `folder`.
    own_layer : name of the quality layer of the sensor's products.
    """
    named = [(layer, candidate) for candidate in candidates if (layer := layer_named(candidate.text, own_layer))]
    layers: list[Asset] = []
    used, unused = [], []
    rank = None
    for layer, candidate in sorted(named, key=lambda pair: (pair[0].rank == 0, pair[0].rank)):
        if rank is not None and layer.rank > rank:
            continue
        asset, fault = _checked(layer, candidate, own_layer)
        if asset is not None:
            layers.append(asset)
        if fault is None:
            used.append(f"{layer.marks} by {layer.name} ({candidate.where})")
            rank = layer.rank or rank
        else:
            unused.append(f"{candidate.where} ({layer.name}) {fault}")
    if rank is None:
        others = [band for band in candidates if layer_named(band.text, own_layer) is None]
        likely = [band for band in others if LIKELY_QUALITY.search(band.text) and not SNOW_NAME.search(band.text)]
        unused += [f"{band.where} ({band.text}) has an unknown meaning" for band in likely]
        used.insert(0, f"clouds are kept: {', '.join(unused) or f'the {kind} has no cloud layer'}")
        unused = []
    return QualityChoice(tuple(layers), "; ".join([*used, *unused]))


def _checked(layer: QualityLayer, candidate: Candidate, own_layer: str) -> tuple[Asset | None, str | None]:
    """The layer in the file, if its numbers fit; and the fault for which it marks no clouds, if any."""
    checked: tuple[Asset | None, str | None] = None, None
    with open_dataset(candidate.href) as dataset:
        dtype, declared = np.dtype(dataset.dtypes[candidate.band - 1]), dataset.nodatavals[candidate.band - 1]
        limit = np.iinfo(dtype).max if dtype.kind in "iu" else None
        for numbers in _distinct_numbers(dataset, candidate.band):
            checked = _fitted(layer, candidate, numbers, (declared, limit), own_layer)
            if checked[1] is None:
                break
    return checked


def _fitted(
    layer: QualityLayer, candidate: Candidate, numbers: DnArray, fills: tuple[float | None, int | None], own_layer: str
) -> tuple[Asset | None, str | None]:
    """As `_checked`, by the distinct numbers of the band; `fills`: its nodata, and the limit of its data type."""
    scale, nodata = layer.scale_of(numbers) if numbers.size else None, None
    if scale is None:
        nodata, numbers = fills[0], numbers[(numbers != fills[0]) & (numbers != fills[1])]
        scale = layer.scale_of(numbers) if numbers.size else None
    if not numbers.size:
        return None, "has no values"
    if scale is None:
        fractions = numbers[numbers != np.rint(numbers)]
        return None, f"is not used: {[*fractions, numbers.max()][0]:.6g} is not a number of this layer"
    # Other programs write classes into a layer of this name, and each program has other classes.
    if layer.name == "Fmask" != own_layer and np.isin(numbers, (*range(6), 255)).all():
        return None, "is not used: its numbers may be bits or classes"
    asset = layer.asset(candidate.href, candidate.band, scale, nodata)
    # Few numbers that mark nothing may be classes of another program.
    is_few = numbers.size < (FEW_NUMBERS if layer.rank > 1 else 2)
    is_empty = layer.rank > 0 and is_few and valid_by(asset, numbers).all()
    return asset, "marks nothing" if is_empty else None


def _distinct_numbers(dataset: DatasetReader, band: int) -> Iterator[DnArray]:
    """(n,) distinct finite numbers from 0 on, as no layer has negative numbers: of a sample, then of the whole band."""
    height, width = dataset.shape
    side = SAMPLE_PIXELS
    if height * width > MAX_WHOLE_PIXELS:
        tops, lefts = (np.linspace(0, max(size - side, 0), 3).astype(int) for size in (height, width))
        windows = [Window(left, top, min(side, width), min(side, height)) for top in tops for left in lefts]
        if (numbers := _distinct(dataset, band, windows)).size > 1:
            yield numbers
    yield _distinct(dataset, band, [Window(0, top, width, min(side, height - top)) for top in range(0, height, side)])


def _distinct(dataset: DatasetReader, band: int, windows: Sequence[Window]) -> DnArray:
    parts = [np.unique(read_bands(dataset, [band], window)) for window in windows]
    numbers: DnArray = np.unique(np.concatenate(parts))
    return np.asarray(numbers[np.isfinite(numbers) & (numbers >= 0)])


def removed_share(asset: Asset, grid: PixelGrid) -> float:
    """The share of a grid's pixels that a quality layer removes, by a sample; pixels beyond the layer are removed.

    Raises
    ------
    SceneError : the layer cannot be read, or has another grid.
    """
    with open_dataset(asset.href) as dataset:
        rows, cols = relate(grid, read_pixel_grid(dataset), asset.name)
        (row, inside_rows), (col, inside_cols) = _overlap(rows, grid.height), _overlap(cols, grid.width)
        if not inside_rows or not inside_cols:
            return 1.0
        shape = min(SAMPLE_PIXELS, row.stop - row.start), min(SAMPLE_PIXELS, col.stop - col.start)
        stored = read_bands(dataset, [asset.band], Window.from_slices(row, col), shape)[0]
    return 1 - inside_rows * inside_cols * float(np.mean(valid_by(asset, stored)))


def _overlap(axis: Axis, size: int) -> tuple[slice, float]:
    """The pixels of a layer under `size` pixels of the output, and the share of these that lies inside the layer."""
    whole = axis.step * size
    low, high = max(axis.start, 0.0), min(axis.start + whole, float(axis.size))
    return slice(math.floor(round(low, 3)), math.ceil(round(high, 3))), max(0.0, high - low) / whole
