"""A multispectral scene as one COG: reflectance of every band on one grid, with the quality layer as the last band.

`read_strips` resamples the files of a scene to one grid, `ROWS_PER_STRIP` rows at a time. `write_stack` passes the
strips to the COG writer of the package and counts the known and the clear pixels.
"""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from ms2hs.arrays import BoolArray, DnArray
from ms2hs.files import flush_to_disk
from ms2hs.raster.cog.encoding import Encoding, quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.cube import SCALE
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import axis_weights, covered, relate
from ms2hs.remote.range_file import GDAL_LOCK
from ms2hs.scenes.quality import QUALITY_LAYERS, valid_by
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Asset, Scene
from ms2hs.spectra.sensors import RGB_NM, RGB_REACH_NM
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

ROWS_PER_STRIP = 128
# Bits of a quality layer that int16 holds; no rule of `scenes.quality` needs the sign bit.
STORED_BITS = 0x7FFF
# Overviews take every second pixel: means of quality classes would be other classes.
STACK_ENCODING = Encoding(averages=False)


@dataclass(frozen=True, eq=False)
class StackStrip:
    """Consecutive rows of a stacked scene."""

    row: int
    """Index of the first row."""
    dn: DnArray
    """(band, row, col) int16 stored numbers, with the quality layer as the last band if the scene has one."""
    known: int
    """Number of pixels with a value in every band."""
    clear: int
    """Number of known pixels of good quality."""


@dataclass(frozen=True, eq=False)
class StackLayout:
    """Grid, bands and tags of a stack; labels the bands for the COG writer."""

    grid: PixelGrid
    spectral: SpectralGrid
    quality: str | None
    """Name of the quality layer in the last band; None without one."""
    tags: dict[str, str]

    def __len__(self) -> int:
        """Number of bands, with the quality layer."""
        return len(self.spectral) + (self.quality is not None)

    def write_to(self, file: Any) -> None:  # noqa: ANN401 - rasterio has no types
        """Set scale, colour, name and wavelength of every band of an opened rasterio dataset."""
        spectral = self.spectral
        extra = [] if self.quality is None else [self.quality]
        file.scales = [SCALE for _ in spectral.names] + [1.0 for _ in extra]
        file.offsets = [0.0] * len(self)
        rgb = [nearest_band(spectral.wavelength_nm, nm, RGB_REACH_NM) for nm in RGB_NM]
        colours = dict(zip(rgb, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True))
        file.colorinterp = [colours.get(i, ColorInterp.undefined) for i in range(len(self))]
        for band, name in enumerate((*spectral.names, *extra), 1):
            file.set_band_description(band, name)
        for band, (centre, width) in enumerate(zip(spectral.wavelength_nm, spectral.fwhm_nm, strict=True), 1):
            micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
            file.update_tags(band, ns="IMAGERY", **micrometres)


def read_strips(scene: Scene, grid: PixelGrid) -> Generator[StackStrip, None, None]:
    """A scene resampled to a grid, strip by strip.

    A pixel of which at least half is clear is the mean of its clear parts. Any other pixel is the mean of all its
    parts, so that clouds are kept. Its quality class is the class with the largest area among the clear classes or,
    for a pixel that is not clear, among the other classes.

    Raises
    ------
    SceneError : a file is damaged.
    """
    with ExitStack() as opened:
        all_reader = opened.enter_context(SceneReader(replace(scene, quality=()), grid))
        clear_reader = opened.enter_context(SceneReader(scene, grid)) if scene.quality else None
        quality_reader = _QualityReader(opened, scene.quality[0], grid) if scene.quality else None
        for row in range(0, grid.height, ROWS_PER_STRIP):
            rows = min(ROWS_PER_STRIP, grid.height - row)
            reflectance, known = all_reader.read(row, 0, rows, grid.width)
            clear = known
            if clear_reader is not None:
                clear_reflectance, clear = clear_reader.read(row, 0, rows, grid.width)
                clear &= known
                np.copyto(reflectance, clear_reflectance, where=clear)
            dn = quantise(reflectance, known)
            if quality_reader is not None:
                dn = np.concatenate([dn, quality_reader.read(row, known, clear)[None]])
            yield StackStrip(row, dn, int(known.sum()), int(clear.sum()))


class _QualityReader:
    """Reads the quality layer of a scene on a grid."""

    def __init__(self, opened: ExitStack, asset: Asset, grid: PixelGrid) -> None:
        self._dataset, self._band = opened.enter_context(open_dataset(asset.href)), asset.band
        self._down, self._right = relate(grid, read_pixel_grid(self._dataset), asset.name)
        self._asset, self._fill = asset, QUALITY_LAYERS[asset.name].fill

    def read(self, row: int, known: BoolArray, clear: BoolArray) -> DnArray:
        """(row, col) for each pixel the class with the largest area, among the clear classes only where `clear`."""
        down, right = axis_weights(self._down, row, len(known)), axis_weights(self._right, 0, known.shape[1])
        result = np.full(known.shape, self._fill, np.int16)
        if down.begin == down.end or right.begin == right.end:
            return result
        window = Window.from_slices((down.begin, down.end), (right.begin, right.end))
        classes = read_bands(self._dataset, [self._band], window)[0]
        largest = np.zeros(known.shape, np.float32)
        for label in np.unique(classes):
            is_usable = bool(valid_by(self._asset, np.array([label]))[0])
            area = covered((classes == label).astype(np.float32), down, right)
            area[clear != is_usable] *= 1e-3  # wins only where no class agrees with the pixel
            wins = known & (area > largest)
            result[wins], largest[wins] = int(label) & STORED_BITS, area[wins]
        return result


def _take_turns(strips: Generator[StackStrip, None, None]) -> Iterator[StackStrip]:
    """The strips; GDAL_LOCK is held while a strip is read, and free while it is compressed and written."""
    try:
        while True:
            with GDAL_LOCK:
                strip = next(strips, None)
            if strip is None:
                return
            yield strip
    finally:
        with GDAL_LOCK:
            strips.close()


def write_stack(path: Path, layout: StackLayout, strips: Generator[StackStrip, None, None]) -> tuple[int, int]:
    """Write strips as a COG: int16, scale 1e-4, nodata -32768. Returns the numbers of known and of clear pixels.

    Raises
    ------
    OutputError : the file cannot be written; no file remains.
    """
    known = clear = 0
    with ExitStack() as opened:
        with GDAL_LOCK:
            writer = CogWriter(path, layout.grid, layout, layout.tags, encoding=STACK_ENCODING)
            opened.enter_context(writer)
        for strip in _take_turns(strips):
            writer.write(strip.row, strip.dn)
            known, clear = known + strip.known, clear + strip.clear
    flush_to_disk(path)
    return known, clear
