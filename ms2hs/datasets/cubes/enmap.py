"""EnMAP L2A product folders: bands from METADATA.XML, and what to do where the two detectors overlap.

The bands of the image are in ascending wavelength, so those of the detectors alternate at 902-993 nm, where they
disagree by 0.01-0.02: a sawtooth that is the instrument's, not the surface's.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import usable_bands
from ms2hs.datasets.cubes.raster_cube import RasterCube, Storage
from ms2hs.errors import DataError, UnknownName
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

# Newer downloads have suffixes in lower case, and one archive doubles the suffix.
METADATA = re.compile(r"(ENMAP\S*L2A\S*)-METADATA(\.xml)+", re.IGNORECASE)
# One tile of one datatake; the rest of a product's name is its processing.
TILE = re.compile(r"DT\d+_\d{8}T\d{6}Z_\d{3}")
OVERLAPS = ("swir", "vnir", "keep", "average")
NODATA = -32768
# What the statistics of a band without data say.
EMPTY_MEAN, EMPTY_STD = -1_000_000.0, 0.0


@dataclass(frozen=True, eq=False)
class _Bands:
    """What METADATA.XML says of each band, (band,) in the order of the image."""

    wavelength_nm: FloatArray
    fwhm_nm: FloatArray
    scale: FloatArray
    offset: FloatArray
    good: BoolArray
    """Neither without data nor in water vapour."""
    vnir: BoolArray
    swir: BoolArray

    def kept(self, overlap: str) -> BoolArray:
        """(band,) those that `overlap` leaves; both detectors' for `average`."""
        first_swir, last_vnir = self.wavelength_nm[self.swir].min(), self.wavelength_nm[self.vnir].max()
        dropped = {
            "swir": self.vnir & (self.wavelength_nm > first_swir),
            "vnir": self.swir & (self.wavelength_nm < last_vnir),
        }
        kept: BoolArray = self.good & ~dropped.get(overlap, np.False_)
        return kept


@dataclass(frozen=True, eq=False)
class AveragedCube:
    """The bands of `overlap="swir"`; in the overlap each is the mean of itself and the line through VNIR's bands."""

    inner: RasterCube
    """With the bands of both detectors."""
    grid: SpectralGrid
    picked: NDArray[np.intp]
    """(band,) positions among the inner bands."""
    below: NDArray[np.intp]
    """(band,) the VNIR band below, as a position among the inner bands; the band itself outside the overlap."""
    above: NDArray[np.intp]
    """(band,) the same, above."""
    share: Float32Array
    """(band,) how far from `below` to `above` the band lies, 0-1."""

    @property
    def name(self) -> str:
        """The product."""
        return self.inner.name

    @property
    def scene(self) -> str:
        """The tile."""
        return self.inner.scene

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.inner.shape

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. Errors as of `RasterCube.read`."""
        values = self.inner.read(row, col, height, width)
        share = self.share[:, None, None]
        line = (1 - share) * values[self.below] + share * values[self.above]
        return np.asarray((values[self.picked] + line) / 2, np.float32)


def open_products(folder: Path) -> list[RasterCube | AveragedCube]:
    """Every L2A product under the folder, with SWIR's bands alone in the overlap."""
    return [open_enmap(path) for path in sorted(folder.rglob("*")) if METADATA.fullmatch(path.name)]


def open_enmap(path: Path, overlap: str = "swir") -> RasterCube | AveragedCube:
    """An L2A product, without bands that hold no data or that lie in water vapour (those HySpecNet-11k leaves out).

    Parameters
    ----------
    path : its METADATA.XML, or the folder that holds one.
    overlap : whose bands stand where the detectors overlap: `swir`, `vnir`, both (`keep`), or SWIR's averaged with
        VNIR's (`average`).

    Raises
    ------
    DataError : no product there, no image beside it, or metadata that cannot be read.
    UnknownName : another overlap.
    """
    if overlap not in OVERLAPS:
        raise UnknownName.of("overlap", overlap, list(OVERLAPS), "Give one of these.")
    metadata = _metadata(Path(path))
    bands = _read_metadata(metadata)
    kept = bands.kept("keep" if overlap == "average" else overlap)
    grid, order = usable_bands(metadata, bands.wavelength_nm, bands.fwhm_nm, kept)
    numbers = tuple(int(band) + 1 for band in order)
    storage = Storage(len(kept), numbers, bands.scale[order], bands.offset[order], NODATA)
    found = METADATA.fullmatch(metadata.name)
    name = found[1] if found else metadata.stem
    tile = TILE.search(name)
    cube = RasterCube(name, tile[0] if tile else name, _image(metadata, name), grid, storage)
    return _averaged(cube, bands, order) if overlap == "average" else cube


def _averaged(cube: RasterCube, bands: _Bands, order: NDArray[np.intp]) -> AveragedCube:
    centre, vnir = bands.wavelength_nm[order], np.flatnonzero(bands.vnir[order])
    picked = np.flatnonzero(bands.kept("swir")[order])
    right = np.clip(np.searchsorted(centre[vnir], centre[picked]), 1, len(vnir) - 1)
    below, above = vnir[right - 1], vnir[right]
    share = (centre[picked] - centre[below]) / (centre[above] - centre[below])
    between = bands.swir[order][picked] & (share > 0) & (share <= 1)
    below, above = (np.where(between, side, picked) for side in (below, above))
    return AveragedCube(
        cube, cube.grid.select(picked), picked, below, above, np.where(between, share, 0).astype(np.float32)
    )


def _metadata(path: Path) -> Path:
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in found if METADATA.fullmatch(file.name) and file.is_file()]
    if len(files) != 1:
        raise DataError(
            f"{path}: {len(files)} files of EnMAP L2A metadata; one named ENMAP01-____L2A-…-METADATA.XML is needed. "
            "Give the folder of one product."
        )
    return files[0]


def _image(metadata: Path, name: str) -> Path:
    wanted = re.compile(re.escape(name) + r"-SPECTRAL_IMAGE(_COG)?\.tiff?", re.IGNORECASE)
    images = sorted(path for path in metadata.parent.iterdir() if wanted.fullmatch(path.name))
    if not images:
        raise DataError(
            f"{metadata}: no {name}-SPECTRAL_IMAGE.TIF beside it; a product has both. Copy or download it again."
        )
    return images[0]


def _read_metadata(path: Path) -> _Bands:
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - expat here expands no external entities
        characterised = root.findall("specific/bandCharacterisation/bandID")
        fields = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
        centre, width, gain, offset = (
            np.array([float(band.findtext(field, "nan")) for band in characterised]) for field in fields
        )
        vnir, swir = (_channels(root, detector, len(centre)) for detector in ("vnir", "swir"))
        empty = _empty(root, len(centre))
    except (ET.ParseError, ValueError, IndexError) as error:
        raise DataError(f"{path}: metadata that cannot be read ({error}). Download the product again.") from error
    numbers = np.array([centre, width, gain, offset])
    if not (len(centre) and np.isfinite(numbers).all() and vnir.any() and swir.any()):
        raise DataError(
            f"{path}: {len(centre)} bands, {vnir.sum()} of them VNIR and {swir.sum()} SWIR; each needs "
            f"{', '.join(fields)}, and both detectors an expectedChannelsList. Download the product again."
        )
    known = load_sensor("enmap-224").grid
    nearest = np.abs(centre[:, None] - known.wavelength_nm).argmin(axis=1)
    return _Bands(centre, width, gain, offset, known.good[nearest] & ~empty, vnir, swir)


def _channels(root: ET.Element, detector: str, count: int) -> BoolArray:
    """(band,) whether it is of this detector; the lists count from 1."""
    text = root.findtext(f"specific/{detector}ProductQuality/expectedChannelsList", "")
    numbers = [int(number) for number in text.split(",") if number.strip()]
    if numbers and not 1 <= min(numbers) <= max(numbers) <= count:
        raise ValueError(f"{detector} channels {min(numbers)}-{max(numbers)} of {count}")
    return np.isin(np.arange(count) + 1, numbers)


def _empty(root: ET.Element, count: int) -> BoolArray:
    """(band,) whether the product's statistics say that it holds no data; nothing is empty where there are none."""
    statistics = root.findall("product/bandStatistics/bandID")
    if len(statistics) != count:
        return np.zeros(count, bool)
    mean, std = (
        np.array([float(band.findtext(field, "nan")) for band in statistics]) for field in ("mean", "stdDeviation")
    )
    return np.asarray((mean == EMPTY_MEAN) & (std == EMPTY_STD))
