"""Hyperspectral cubes whose place and day are known, so that other measurements of the same ground can be found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from rasterio.windows import Window

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import PATTERN, OrthoCube, open_emit
from ms2hs.datasets.cubes.enmap import METADATA, AveragedCube, open_enmap
from ms2hs.datasets.cubes.hyspecnet import IMAGE
from ms2hs.datasets.cubes.raster_cube import RasterCube, open_raster, raster_paths
from ms2hs.datasets.cubes.registry import Cube, open_cubes
from ms2hs.errors import DataError, Ms2hsError
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.dates import day_of
from ms2hs.raster.header import read_header
from ms2hs.raster.pixel_grid import PixelGrid

# Layers of EnMAP L2A products in which anything but 0 hides the ground: cloud and its shadow say 1, cirrus 1 to 3
# (thin, medium, thick), 255 is background. Haze and snow leave the ground to be seen.
UNKNOWN_LAYERS = ("QL_QUALITY_CLOUD", "QL_QUALITY_CLOUDSHADOW", "QL_QUALITY_CIRRUS")
SUFFIXES = (".TIF", ".tif", ".TIFF", ".tiff")


@dataclass(frozen=True, eq=False)
class PlacedCube:
    """A cube, where its pixels lie, and when they were taken. It pickles, and keeps no file open."""

    cube: Cube
    place: PixelGrid
    """Of `cube.shape`, with a CRS."""
    day: date
    """UTC."""
    flags: tuple[Path, ...] = ()
    """Layers on its grid; where one is not 0, the ground cannot be seen."""

    @property
    def name(self) -> str:
        """The cube's."""
        return self.cube.name

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance, NaN where unknown or under cloud, its shadow or cirrus; errors as the cube's.

        What a cube in the geometry of the sensor flags itself (EMIT) is unknown already.
        """
        values = self.cube.read(row, col, height, width)
        for path in self.flags:
            with open_dataset(str(path)) as file:
                values[:, read_bands(file, [1], Window(col, row, width, height))[0] != 0] = np.nan
        return values


def open_placed(path: Path) -> tuple[list[PlacedCube], dict[str, str]]:
    """Every cube at a path that has a place and a day, and by name why others were left out.

    Parameters
    ----------
    path : an EMIT granule, an EnMAP product's folder, METADATA.XML or image, a raster with wavelengths; or a folder of
        such, or of a layout that `open_cubes` knows.

    Raises
    ------
    DataError : there is nothing at the path.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; hyperspectral products are needed. Check the path.")
    placed: list[PlacedCube] = []
    left_out: dict[str, str] = {}
    for name, opened in _openers(path):
        try:
            cubes = opened()
        except Ms2hsError as error:
            left_out[name] = str(error)
            continue
        for cube in cubes:
            try:
                placed.append(_placed(cube))
            except Ms2hsError as error:
                left_out[cube.name] = str(error)
    return placed, left_out


def _openers(path: Path) -> list[tuple[str, Callable[[], Sequence[Cube]]]]:
    """For each product at a path its name and what opens it, so that a damaged one leaves the others alone."""
    products = _products(path) if path.is_dir() else [path]
    if products:
        return [(product.name, lambda product=product: [_open(product)]) for product in products]  # type: ignore[misc]
    try:
        found = open_cubes(path)
    except Ms2hsError as error:
        rasters = raster_paths(path)
        if not rasters:
            raise DataError(str(error)) from error
        return [(raster.name, lambda raster=raster: [open_raster(raster, path)]) for raster in rasters]  # type: ignore[misc]
    return [(path.name, lambda: found)]


def _products(folder: Path) -> list[Path]:
    """EMIT granules and EnMAP products, whose folders may be mixed."""
    products = [file for file in folder.rglob("*") if METADATA.fullmatch(file.name)]
    return sorted([*folder.rglob(PATTERN), *products])


def _open(path: Path) -> Cube:
    """The cube in one file."""
    if path.suffix.lower() == ".nc":
        return open_emit(path, ortho=True)
    metadata = path if METADATA.fullmatch(path.name) else _metadata_of(path)
    return open_enmap(metadata) if metadata else open_raster(path)


def _metadata_of(image: Path) -> Path | None:
    """EnMAP's METADATA.XML of an image, which lies beside it."""
    product = image.name.split(IMAGE)[0]
    found = (METADATA.fullmatch(beside.name) for beside in sorted(image.parent.iterdir()))
    return next((image.parent / match[0] for match in found if match and match[1] == product), None)


def _placed(cube: Cube) -> PlacedCube:
    if isinstance(cube, OrthoCube):
        place = PixelGrid(cube.crs, cube.transform, *cube.shape)
        return PlacedCube(cube, place, _known_day(cube.name, day_of([cube.name])))
    raster = cube.inner if isinstance(cube, AveragedCube) else cube
    if not isinstance(raster, RasterCube):
        raise DataError(
            f"{cube.name}: its file does not say where its pixels lie; a GeoTIFF or ENVI cube with a CRS, or EnMAP's "
            "or EMIT's products are needed. Give the product that it was made from."
        )
    with open_dataset(str(raster.path)) as file:
        place, tags = read_pixel_grid(file), read_header(file, str(raster.path)).tags
    if place.crs is None:
        raise DataError(
            f"{raster.path}: has no coordinate reference system; without one, no scene of the same place can be found. "
            "Write it in (gdal_edit.py -a_srs), or give the orthorectified product."
        )
    names = (raster.name.split("/")[-1], raster.path.name, raster.path.parent.name)
    day = day_of(names, _metadata_tags(raster.path) | tags)
    return PlacedCube(cube, place, _known_day(cube.name, day), _flags(raster.path, (place.height, place.width)))


def _known_day(name: str, day: date | None) -> date:
    if day is None:
        raise DataError(
            f"{name}: its day is not known; a date in the file's name (20240601) or a tag `acquisition_time` is "
            "needed. Rename it, or add the tag."
        )
    return day


def _metadata_tags(image: Path) -> dict[str, str]:
    """The start time that EnMAP's METADATA.XML beside an image tells."""
    metadata = _metadata_of(image)
    if metadata is None:
        return {}
    try:
        # Python's expat refuses entity bombs, and external entities are not followed.
        found = ET.parse(metadata).getroot().find(".//temporalCoverage/startTime")  # noqa: S314
    except ET.ParseError:
        return {}
    return {} if found is None else {"start_time": found.text or ""}


def _flags(image: Path, shape: tuple[int, int]) -> tuple[Path, ...]:
    """The layers beside an EnMAP image that tell cloud."""
    product, found, _ = image.name.partition(IMAGE)
    if not found:
        return ()
    names = [
        f"{product}-{layer}{cog}{suffix}" for layer in UNKNOWN_LAYERS for cog in ("", "_COG") for suffix in SUFFIXES
    ]
    paths = tuple(path for name in names if (path := image.with_name(name)).is_file())
    for path in paths:
        with open_dataset(str(path)) as file:
            if file.shape != shape:
                raise DataError(
                    f"{path}: has {file.shape} pixels; {shape} are needed, as of {image.name}. It belongs to another "
                    "product, or is damaged: download it again, or take it away."
                )
    return paths


def find_cubes(paths: Sequence[Path], left_out: dict[str, str]) -> list[PlacedCube]:
    """Cubes at these paths that have a place and a day; why others are `left_out` is added by name.

    Raises
    ------
    DataError : nothing is at a path.
    """
    found: dict[tuple[Any, ...], PlacedCube] = {}
    for path in paths:
        cubes, others = open_placed(Path(path))
        left_out |= others
        found |= {(cube.name, cube.place, cube.day): cube for cube in cubes}  # a product may be given twice
    return sorted(found.values(), key=lambda cube: (cube.name, cube.place.bounds))
