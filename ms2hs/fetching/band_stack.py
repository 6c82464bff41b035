"""A multispectral scene as one COG: reflectance of every band on one grid, and its quality layer as the last band."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window

from ms2hs.arrays import BoolArray
from ms2hs.errors import OutputError
from ms2hs.files import flush
from ms2hs.raster.cog.encoding import BLOCK, quantise
from ms2hs.raster.cog.writer import WRITE_ERRORS
from ms2hs.raster.cube import NODATA, SCALE
from ms2hs.raster.dataset import open_dataset, quietly, read_bands, read_pixel_grid
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.raster.resampling import axis_weights, covered, relate
from ms2hs.scenes.quality import QUALITY_LAYERS
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.spectral_grid import SpectralGrid, nearest_band

Stored = NDArray[np.int16]
# Rows that are worked on at a time.
STRIP_ROWS = 128
# What the quality band holds where the scene has no data.
NO_DATA = {key: layer.fill for key, layer in QUALITY_LAYERS.items()}
QUALITY_NAMES = {key: layer.name for key, layer in QUALITY_LAYERS.items()}
RGB_NM = (650.0, 550.0, 470.0)


@dataclass(frozen=True)
class Stack:
    """What is in a stacked scene."""

    pixels: int
    known: int
    """Pixels that every band has a value of."""
    clear: int
    """Of these, those whose quality is good."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows of a stacked scene."""

    row: int
    """The first of them."""
    numbers: Stored
    """(band, row, col) stored numbers, the quality layer last if there is one."""
    known: int
    clear: int


@dataclass(frozen=True, eq=False)
class StackLayout:
    """What a stack holds and where."""

    grid: PixelGrid
    spectral: SpectralGrid
    quality_rule: str | None
    tags: dict[str, str]


def strips_of(scene: Scene, grid: PixelGrid) -> Iterator[Strip]:
    """A scene on a grid, strip by strip.

    A pixel that is mostly good is the mean of what is good in it; any other is the mean of all of it, so that cloud
    can be told to be kept. The quality that stands beside is the one that covers most of it among those that say the
    same of it, good or not.

    Raises
    ------
    SceneError : a file is damaged.
    """
    with ExitStack() as opened:
        whole = opened.enter_context(SceneReader(replace(scene, quality=None, quality_rule=None), grid))
        good_only = opened.enter_context(SceneReader(scene, grid)) if scene.quality else None
        classes = opened.enter_context(_Classes(scene, grid)) if scene.quality else None
        for row in range(0, grid.height, STRIP_ROWS):
            rows = min(STRIP_ROWS, grid.height - row)
            reflectance, known = whole.read(row, 0, rows, grid.width)
            clear = known
            if good_only is not None:
                good, clear = good_only.read(row, 0, rows, grid.width)
                clear &= known
                np.copyto(reflectance, good, where=clear)
            numbers = quantise(reflectance, known)
            if classes is not None:
                layer = classes.read(row, rows, known, clear)
                numbers = np.concatenate([numbers, layer[None].astype(np.int16)])
            yield Strip(row, numbers, int(known.sum()), int(clear.sum()))


class _Classes:
    """The quality layer of a scene on a grid."""

    def __init__(self, scene: Scene, grid: PixelGrid) -> None:
        assert scene.quality is not None  # noqa: S101 - asked for only then
        self._asset, self._rule, self._grid = scene.quality, scene.quality_rule or "", grid

    def __enter__(self) -> Self:
        """Open it."""
        self._dataset = open_dataset(self._asset.href)
        self._axes = relate(self._grid, read_pixel_grid(self._dataset), self._asset.name)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._dataset.close()

    def read(self, row: int, rows: int, known: BoolArray, clear: BoolArray) -> NDArray[np.integer]:
        """(row, col) for each pixel the class that covers most of it among those that are as `clear` as it is."""
        down, right = axis_weights(self._axes[0], row, rows), axis_weights(self._axes[1], 0, self._grid.width)
        result = np.full(known.shape, NO_DATA[self._rule], np.int16)
        if down.begin == down.end or right.begin == right.end:
            return result
        window = Window.from_slices((down.begin, down.end), (right.begin, right.end))
        stored = read_bands(self._dataset, [self._asset.band], window)[0]
        largest = np.zeros(known.shape, np.float32)
        for label in np.unique(stored):
            is_usable = bool(QUALITY_LAYERS[self._rule].flags(np.array([label])).valid[0])
            area = covered((stored == label).astype(np.float32), down, right)
            area[clear != is_usable] *= 1e-3  # only where there is no other
            takes = known & (area > largest)
            result[takes], largest[takes] = label, area[takes]
        return result


def write_stack(path: Path, layout: StackLayout, strips: Iterator[Strip]) -> Stack:
    """Write strips as a COG: int16, scale 1e-4, nodata -32768.

    Overviews are thinned out and not averaged: a sample of them is of measured numbers, and of classes that there are.
    Work goes on beside the file, under names that begin with its own and a dot.

    Raises
    ------
    OutputError : it cannot be written; no file is left then.
    """
    plain, cog = path.with_name(f".{path.name}.strips.tif"), path.with_name(f".{path.name}.cog.tif")
    known = clear = 0
    try:
        with quietly():
            with rasterio.open(plain, "w", **_profile(layout)) as file:
                _describe(file, layout)
                for strip in strips:
                    _, rows, cols = strip.numbers.shape
                    file.write(strip.numbers, window=Window(0, strip.row, cols, rows))
                    known, clear = known + strip.known, clear + strip.clear
            with rasterio.Env(GDAL_NUM_THREADS="1"):
                rasterio.shutil.copy(plain, cog, driver="COG", **_COG)
        flush(cog)
        cog.replace(path)
    except WRITE_ERRORS as error:
        raise OutputError(
            f"{path} could not be written ({error}); its directory must be writable and have room. "
            "Free some space, or choose another place."
        ) from error
    finally:
        for left in (plain, cog, cog.with_name(f"{cog.name}.ovr.tmp")):
            left.unlink(missing_ok=True)
    return Stack(layout.grid.height * layout.grid.width, known, clear)


_COG = {
    "BLOCKSIZE": str(BLOCK),
    "COMPRESS": "ZSTD",
    "LEVEL": "1",
    "PREDICTOR": "YES",
    "BIGTIFF": "IF_SAFER",
    "OVERVIEW_RESAMPLING": "NEAREST",
}


def _profile(layout: StackLayout) -> dict[str, object]:
    grid = layout.grid
    return {
        "driver": "GTiff",
        "count": len(layout.spectral) + (layout.quality_rule is not None),
        "height": grid.height,
        "width": grid.width,
        "crs": grid.crs,
        "transform": Affine(*grid.transform),
        "dtype": "int16",
        "nodata": NODATA,
        "interleave": "pixel",
        "bigtiff": "IF_SAFER",
    }


def _describe(file: rasterio.io.DatasetWriter, layout: StackLayout) -> None:
    spectral = layout.spectral
    extra = [] if layout.quality_rule is None else [QUALITY_NAMES[layout.quality_rule]]
    file.update_tags(**layout.tags)
    file.scales = [SCALE for _ in spectral.names] + [1.0 for _ in extra]
    file.offsets = [0.0] * file.count
    rgb = [nearest_band(spectral.wavelength_nm, nm, 40.0) for nm in RGB_NM]
    colours = dict(zip(rgb, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True))
    file.colorinterp = [colours.get(i, ColorInterp.undefined) for i in range(file.count)]
    for band, name in enumerate((*spectral.names, *extra), 1):
        file.set_band_description(band, name)
    for band, (centre, width) in enumerate(zip(spectral.wavelength_nm, spectral.fwhm_nm, strict=True), 1):
        micrometres = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.7g}", "FWHM_UM": f"{width / 1000:.7g}"}
        file.update_tags(band, ns="IMAGERY", **micrometres)
