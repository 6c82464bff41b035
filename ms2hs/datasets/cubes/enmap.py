"""EnMAP L2A products: bands from METADATA.XML, the choice of bands where the two detectors overlap, and flag layers.

The bands of the image are in ascending wavelength, so the bands of both detectors alternate at 902-993 nm. There the
detectors disagree by 0.01-0.02, which would show as a sawtooth in the spectrum. Files beside the image flag pixels.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import usable_bands
from ms2hs.datasets.cubes.raster_cube import FlagLayer, RasterCube, ReflectanceEncoding
from ms2hs.errors import DataError, UnknownName
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# Newer downloads have suffixes in lower case, and one archive doubles the suffix.
ENMAP_METADATA = re.compile(r"(ENMAP\S*L2A\S*)-METADATA(\.xml)+", re.IGNORECASE)
# One tile of one datatake; the rest of a product name describes the processing.
ENMAP_TILE = re.compile(r"DT\d+_\d{8}T\d{6}Z_\d{3}")
OVERLAPS = ("swir", "vnir", "keep", "average")
ENMAP_IMAGE = "-SPECTRAL_IMAGE"
ENMAP_NODATA = -32768
# Layers beside the image, and their numbers that show the surface; 255 is background in each. Cloud and shadow are 1,
# cirrus is 1 to 3 (thin, medium, thick). Classes are 0 none, 1 land, 2 water, 3 background. Haze and snow do not hide
# the surface. Sources: flags of the EnMAP reader of ESA's SNAP, and the values of HySpecNet-11k's layers in the
# community catalogue of Earth Engine.
CLOUD_LAYERS = ("QL_QUALITY_CLOUD", "QL_QUALITY_CLOUDSHADOW", "QL_QUALITY_CIRRUS")
SURFACE_LAYERS = {**dict.fromkeys(CLOUD_LAYERS, (0,)), "QL_QUALITY_CLASSES": (0, 1, 2)}
# Defective pixels of the detectors, 1, in a band for each band of the image.
DEFECT_LAYER = "QL_PIXELMASK"
TIFF_ENDINGS = (".TIF", ".tif", "_COG.TIF", "_COG.tif")
# The statistics of a band without data.
EMPTY_MEAN, EMPTY_STD = -1_000_000.0, 0.0


@dataclass(frozen=True, eq=False)
class EnmapBands:
    """The band table of METADATA.XML, (band,) in the order of the image."""

    wavelength_nm: FloatArray
    fwhm_nm: FloatArray
    scale: FloatArray
    offset: FloatArray
    good: BoolArray
    """Has data and lies outside water vapour."""
    vnir: BoolArray
    swir: BoolArray

    def kept(self, overlap: str) -> BoolArray:
        """(band,) True for the good bands that remain with this `overlap`."""
        first_swir, last_vnir = self.wavelength_nm[self.swir].min(), self.wavelength_nm[self.vnir].max()
        dropped = {
            "swir": self.vnir & (self.wavelength_nm > first_swir),
            "vnir": self.swir & (self.wavelength_nm < last_vnir),
        }
        return np.asarray(self.good & ~dropped.get(overlap, np.False_))

    def choose(self, overlap: str, where: str) -> tuple[SpectralGrid, ReflectanceEncoding, NDArray[np.intp]]:
        """Grid and encoding of the bands that remain with this `overlap`, and their positions in the image.

        DataError if fewer than two bands remain; `where` names the file.
        """
        grid, order = usable_bands(where, self.wavelength_nm, self.fwhm_nm, self.kept(overlap))
        numbers = tuple(int(band) + 1 for band in order)
        encoding = ReflectanceEncoding(len(self.good), numbers, self.scale[order], self.offset[order], ENMAP_NODATA)
        return grid, encoding, order


@dataclass(frozen=True, eq=False)
class AveragedCube(RasterCube):
    """A cube with SWIR bands in the overlap, each the mean of itself and the line through the VNIR bands around it.

    `encoding` holds the bands of both detectors; positions refer to these bands.
    """

    bands: NDArray[np.intp]
    """(band,) positions of the bands of `grid`."""
    below: NDArray[np.intp]
    """(band,) position of the next VNIR band below; outside the overlap the band itself."""
    above: NDArray[np.intp]
    """(band,) position of the next VNIR band above; outside the overlap the band itself."""
    share: Float32Array
    """(band,) position between `below` (0) and `above` (1)."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. Errors as in `RasterCube.read`."""
        values = super().read(row, col, height, width)
        share = self.share[:, None, None]
        line = (1 - share) * values[self.below] + share * values[self.above]
        return np.asarray((values[self.bands] + line) / 2, np.float32)


def find_flags(image: Path) -> tuple[FlagLayer, ...]:
    """The flag layers of an image `…-SPECTRAL_IMAGE….TIF`, beside it."""
    product, ending = re.split(ENMAP_IMAGE, image.name, maxsplit=1, flags=re.IGNORECASE)

    def layer(name: str, surface: tuple[int, ...], *, by_band: bool = False) -> FlagLayer:
        # As a rule, all files of a product end alike.
        paths = (image.with_name(f"{product}-{name}{end}") for end in (ending, *TIFF_ENDINGS))
        return FlagLayer(name, next(filter(Path.is_file, paths), None), surface, by_band)

    flags = [layer(name, surface) for name, surface in SURFACE_LAYERS.items()]
    return (*flags, layer(DEFECT_LAYER, (0,), by_band=True))


def find_products(folder: Path) -> list[Path]:
    """METADATA.XML of every L2A product under the folder."""
    return [path for path in sorted(folder.rglob("*")) if ENMAP_METADATA.fullmatch(path.name)]


def open_enmap(path: Path, overlap: str = "swir") -> RasterCube:
    """An L2A product, without bands that hold no data or lie in water vapour (the bands that HySpecNet-11k leaves out).

    Parameters
    ----------
    path : METADATA.XML, or the folder that holds it.
    overlap : bands to use where the detectors overlap: `swir`, `vnir`, both (`keep`), or SWIR averaged with VNIR
        (`average`).

    Raises
    ------
    DataError : the product or its image is missing, or the metadata cannot be read.
    UnknownName : an unknown overlap.
    """
    if overlap not in OVERLAPS:
        raise UnknownName.of("overlap", overlap, list(OVERLAPS), "Use a known overlap.")
    metadata = _metadata(Path(path))
    bands = parse_bands(metadata.read_bytes(), str(metadata))
    grid, encoding, order = bands.choose("keep" if overlap == "average" else overlap, str(metadata))
    match = ENMAP_METADATA.fullmatch(metadata.name)
    name = match[1] if match else metadata.stem
    tile = ENMAP_TILE.search(name)
    image = _image(metadata, name)
    cube = RasterCube(name, tile[0] if tile else name, image, grid, encoding, flags=find_flags(image))
    return _averaged(cube, bands, order) if overlap == "average" else cube


def _averaged(cube: RasterCube, bands: EnmapBands, order: NDArray[np.intp]) -> AveragedCube:
    centre, vnir = bands.wavelength_nm[order], np.flatnonzero(bands.vnir[order])
    chosen = np.flatnonzero(bands.kept("swir")[order])
    right = np.clip(np.searchsorted(centre[vnir], centre[chosen]), 1, len(vnir) - 1)
    below, above = vnir[right - 1], vnir[right]
    share = (centre[chosen] - centre[below]) / (centre[above] - centre[below])
    between = bands.swir[order][chosen] & (share > 0) & (share <= 1)
    below, above = (np.where(between, side, chosen) for side in (below, above))
    weight: Float32Array = np.where(between, share, 0).astype(np.float32)
    grid = cube.grid.select(chosen)
    facts = cube.name, cube.scene, cube.path, grid, cube.encoding
    return AveragedCube(*facts, chosen, below, above, weight, flags=cube.flags)


def _metadata(path: Path) -> Path:
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in inside if ENMAP_METADATA.fullmatch(file.name) and file.is_file()]
    if len(files) != 1:
        raise DataError(
            f"{path}: {len(files)} files of EnMAP L2A metadata; one named ENMAP01-____L2A-…-METADATA.XML is needed. "
            "Give the folder of one product."
        )
    return files[0]


def _image(metadata: Path, name: str) -> Path:
    pattern = re.compile(rf"{re.escape(name)}{ENMAP_IMAGE}(_COG)?\.tiff?", re.IGNORECASE)
    images = sorted(path for path in metadata.parent.iterdir() if pattern.fullmatch(path.name))
    if not images:
        raise DataError(
            f"{metadata}: no {name}{ENMAP_IMAGE}.TIF beside it; both are needed. Copy or download the product again."
        )
    return images[0]


def parse_bands(metadata: bytes, where: str) -> EnmapBands:
    """The bands of a product by the content of its METADATA.XML; DataError if it is damaged. `where` names the file."""
    try:
        root = ET.fromstring(metadata)  # noqa: S314 - expat here expands no external entities
        characterised = root.findall("specific/bandCharacterisation/bandID")
        fields = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
        centre, width, gain, offset = (
            np.array([float(band.findtext(field, "nan")) for band in characterised]) for field in fields
        )
        vnir, swir = (_channels(root, detector, len(centre)) for detector in ("vnir", "swir"))
        empty = _empty(root, len(centre))
    except (ET.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{where}: metadata cannot be read ({error}). Download the product again.") from error
    numbers = np.array([centre, width, gain, offset])
    if not (len(centre) and np.isfinite(numbers).all() and vnir.any() and swir.any()):
        raise DataError(
            f"{where}: {len(centre)} bands, {vnir.sum()} of them VNIR and {swir.sum()} SWIR; each band needs "
            f"{', '.join(fields)}, and both detectors need an expectedChannelsList. Download the product again."
        )
    known = load_sensor("enmap-224").grid
    nearest = np.abs(centre[:, None] - known.wavelength_nm).argmin(axis=1)
    return EnmapBands(centre, width, gain, offset, known.good[nearest] & ~empty, vnir, swir)


def _channels(root: ET.Element, detector: str, count: int) -> BoolArray:
    """(band,) True for bands of this detector; the channel lists count from 1."""
    text = root.findtext(f"specific/{detector}ProductQuality/expectedChannelsList", "")
    numbers = [int(number) for number in text.split(",") if number.strip()]
    if numbers and not 1 <= min(numbers) <= max(numbers) <= count:
        raise ValueError(f"{detector} channels {min(numbers)}-{max(numbers)} of {count}")
    return np.isin(np.arange(count) + 1, numbers)


def _empty(root: ET.Element, count: int) -> BoolArray:
    """(band,) True for bands without data, by the product's statistics; all False if it has none."""
    statistics = root.findall("product/bandStatistics/bandID")
    if len(statistics) != count:
        return np.zeros(count, bool)
    mean, std = (
        np.array([float(band.findtext(field, "nan")) for band in statistics]) for field in ("mean", "stdDeviation")
    )
    return np.asarray((mean == EMPTY_MEAN) & (std == EMPTY_STD))
