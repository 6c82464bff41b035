"""Hyperspectral cubes with a pixel grid on the ground and a day, which pairs and `ms2hs fetch --for` start from."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from rasterio.windows import Window

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import GriddedCube, OrthoCube, find_granules, open_emit, orthorectify
from ms2hs.datasets.cubes.enmap import ENMAP_IMAGE, ENMAP_METADATA, find_products, open_enmap
from ms2hs.datasets.cubes.raster_cube import RasterCube, find_rasters, open_raster
from ms2hs.datasets.cubes.registry import Cube, open_cubes
from ms2hs.datasets.cubes.tanager import GriddedTanager, find_tanager, open_tanager
from ms2hs.errors import DataError, Ms2hsError, failure
from ms2hs.raster.dataset import open_dataset, read_bands, read_pixel_grid
from ms2hs.raster.dates import day_of
from ms2hs.raster.header import read_header
from ms2hs.raster.pixel_grid import PixelGrid

# Layers of EnMAP L2A products in which any value but 0 hides the ground: cloud and cloud shadow are 1, cirrus is 1 to 3
# (thin, medium, thick), background is 255. Haze and snow do not hide the ground.
CLOUD_LAYERS = ("QL_QUALITY_CLOUD", "QL_QUALITY_CLOUDSHADOW", "QL_QUALITY_CIRRUS")


@dataclass(frozen=True, eq=False)
class GeoreferencedCube:
    """A cube with its pixel grid and day of acquisition. It pickles, and keeps no file open."""

    cube: Cube
    pixel_grid: PixelGrid
    """Of `cube.shape`, with a CRS."""
    day: date
    """UTC."""
    flags: tuple[Path, ...] = ()
    """Cloud layers on the pixel grid; a value other than 0 hides the ground."""

    @property
    def name(self) -> str:
        """Name of the cube."""
        return self.cube.name

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance, NaN where unknown or under cloud, cloud shadow or cirrus.

        EMIT cubes apply their own flags. Errors as in `Cube.read`.
        """
        values = self.cube.read(row, col, height, width)
        for path in self.flags:
            with open_dataset(str(path)) as file:
                values[:, read_bands(file, [1], Window(col, row, width, height))[0] != 0] = np.nan
        return values


def find_cubes(paths: Sequence[Path], left_out: dict[str, str]) -> list[GeoreferencedCube]:
    """Cubes at these paths that have a pixel grid and a day, sorted by name.

    Parameters
    ----------
    paths : EMIT granules, EnMAP products (folder, METADATA.XML or image), Tanager ortho products, rasters with
        wavelengths; or folders of these, or in one of the `FORMATS` of `registry`.
    left_out : receives the reasons why other cubes are left out, by name.

    Raises
    ------
    DataError : a path is missing, or a folder without cubes.
    """
    cubes_by_key: dict[tuple[Any, ...], GeoreferencedCube] = {}
    for name, open_product in (opener for path in paths for opener in _openers(Path(path))):
        try:
            cubes = open_product()
        except Exception as error:  # noqa: BLE001  one product must not stop the others
            left_out[name] = failure(name, error)
            continue
        for cube in cubes:
            try:
                georeferenced = _georeferenced(cube)
            except Exception as error:  # noqa: BLE001  one product must not stop the others
                left_out[cube.name] = failure(cube.name, error)
            else:  # a product may be given twice
                cubes_by_key[cube.name, georeferenced.pixel_grid, georeferenced.day] = georeferenced
    return sorted(cubes_by_key.values(), key=lambda cube: (cube.name, cube.pixel_grid.bounds))


def _openers(path: Path) -> list[tuple[str, Callable[[], Sequence[Cube]]]]:
    """Name and opener of each product at a path, so that a damaged product does not stop the others."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; hyperspectral products are needed. Check the path.")
    if not path.is_dir():
        return [(path.name, partial(_open, path, path.parent))]
    products = sorted([*find_granules(path), *find_products(path), *find_tanager(path)])
    if not products:
        try:
            cubes = open_cubes(path)
        except Ms2hsError as error:
            products = find_rasters(path)
            if not products:
                raise DataError(str(error)) from error
        else:
            return [(path.name, lambda: cubes)]
    return [(product.name, partial(_open, product, path)) for product in products]


def _open(path: Path, folder: Path) -> list[Cube]:
    """The cube in one file; the name of a raster is its path in the folder."""
    if path.suffix.lower() == ".nc":
        return [orthorectify(open_emit(path))]
    if path.suffix.lower() == ".h5":
        return [open_tanager(path)]
    metadata = path if ENMAP_METADATA.fullmatch(path.name) else _metadata_of(path)
    return [open_enmap(metadata) if metadata else open_raster(path, folder)]


def _metadata_of(image: Path) -> Path | None:
    """METADATA.XML beside an EnMAP image; None for other rasters."""
    product = image.name.split(ENMAP_IMAGE)[0]
    matches = (ENMAP_METADATA.fullmatch(beside.name) for beside in sorted(image.parent.iterdir()))
    return next((image.parent / match[0] for match in matches if match and match[1] == product), None)


def _georeferenced(cube: Cube) -> GeoreferencedCube:
    if isinstance(cube, OrthoCube | GriddedCube | GriddedTanager):
        pixel_grid = PixelGrid(cube.crs, cube.transform, *cube.shape)
        return GeoreferencedCube(cube, pixel_grid, _check_day(cube.name, day_of([cube.name])))
    if not isinstance(cube, RasterCube):
        raise DataError(
            f"{cube.name}: the file has no georeference; a GeoTIFF or ENVI cube with a CRS, or an EnMAP, EMIT "
            "or Tanager ortho product is needed. Give the original product."
        )
    with open_dataset(str(cube.path)) as file:
        pixel_grid, tags = read_pixel_grid(file), read_header(file, str(cube.path)).tags
    if pixel_grid.crs is None:
        raise DataError(
            f"{cube.path}: no coordinate reference system, which is needed to find scenes of the same location. "
            "Write it into the file (gdal_edit.py -a_srs), or give the orthorectified product."
        )
    names = (cube.name.split("/")[-1], cube.path.name, cube.path.parent.name)
    day = day_of(names, _metadata_tags(cube.path) | tags)
    flags = _find_flags(cube.path, (pixel_grid.height, pixel_grid.width))
    return GeoreferencedCube(cube, pixel_grid, _check_day(cube.name, day), flags)


def _check_day(name: str, day: date | None) -> date:
    if day is None:
        raise DataError(
            f"{name}: no acquisition date; a date in the file name (20240601) or a tag `acquisition_time` is needed. "
            "Rename the file, or add the tag."
        )
    return day


def _metadata_tags(image: Path) -> dict[str, str]:
    """The start time in METADATA.XML beside an EnMAP image."""
    metadata = _metadata_of(image)
    if metadata is None:
        return {}
    try:
        # Python's expat refuses entity bombs, and external entities are not followed.
        return {"start_time": ET.parse(metadata).findtext(".//temporalCoverage/startTime", "")}  # noqa: S314
    except ET.ParseError:
        return {}


def _find_flags(image: Path, shape: tuple[int, int]) -> tuple[Path, ...]:
    """The cloud layers beside an EnMAP image."""
    product, is_enmap, _ = image.name.partition(ENMAP_IMAGE)
    if not is_enmap:
        return ()
    pattern = re.compile(rf"{re.escape(product)}-({'|'.join(CLOUD_LAYERS)})(_COG)?\.tiff?", re.IGNORECASE)
    paths = tuple(path for path in sorted(image.parent.iterdir()) if pattern.fullmatch(path.name))
    for path in paths:
        with open_dataset(str(path)) as file:
            if file.shape != shape:
                raise DataError(
                    f"{path}: {file.shape} pixels; {shape} are needed, as in {image.name}. The file belongs to another "
                    "product or is damaged: download it again, or remove it."
                )
    return paths
