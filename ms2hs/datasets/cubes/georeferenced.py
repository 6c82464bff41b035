"""Hyperspectral cubes with a pixel grid on the ground and a day, which pairs and `ms2hs fetch --for` start from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import GriddedCube, OrthoCube, find_granules, open_emit, orthorectify
from ms2hs.datasets.cubes.enmap import ENMAP_IMAGE, ENMAP_METADATA, find_products, open_enmap
from ms2hs.datasets.cubes.raster_cube import RasterCube, find_rasters, open_raster
from ms2hs.datasets.cubes.registry import Cube, note_missing_flags, open_cubes
from ms2hs.datasets.cubes.tanager import GriddedTanager, find_tanager, open_tanager
from ms2hs.errors import DataError, Ms2hsError, failure
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.dates import day_of
from ms2hs.raster.header import read_header
from ms2hs.raster.pixel_grid import PixelGrid


@dataclass(frozen=True, eq=False)
class GeoreferencedCube:
    """A cube with its pixel grid and day of acquisition. It pickles, and keeps no file open."""

    cube: Cube
    pixel_grid: PixelGrid
    """Of `cube.shape`, with a CRS."""
    day: date
    """UTC."""

    @property
    def name(self) -> str:
        """Name of the cube."""
        return self.cube.name

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance, NaN where unknown or flagged. Errors as in `Cube.read`."""
        return self.cube.read(row, col, height, width)


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
    found = sorted(cubes_by_key.values(), key=lambda cube: (cube.name, cube.pixel_grid.bounds))
    note_missing_flags([georeferenced.cube for georeferenced in found])
    return found


def _openers(path: Path) -> list[tuple[str, Callable[[], Sequence[Cube]]]]:
    """Name and opener of each product at a path, so that a damaged product does not stop the others."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; hyperspectral products are needed. Check the path.")
    if not path.is_dir():
        return [(path.name, partial(_open, path, path.parent))]
    products = sorted([*find_granules(path), *find_products(path), *find_tanager(path)])
    if not products:
        try:
            cubes = open_cubes(path, noted=False)
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
    return GeoreferencedCube(cube, pixel_grid, _check_day(cube.name, day))


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
