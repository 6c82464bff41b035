"""OSCD: pairs of Sentinel-2 images of cities with maps of changed pixels.

A city has its bands in `imgs_1_rect` and `imgs_2_rect`, all on one grid of 10 m, and its map in `cm/cm.png` (255 =
changed) or `cm/<city>-cm.tif` (2 = changed), in another folder. Cities are the groups; the folder of the map, or the
published lists, say which are for training and which for the test.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.plausibility import check_window
from ms2hs.datasets.multispectral import SensorCube, open_sensor_raster
from ms2hs.errors import DataError, input_errors
from ms2hs.raster.dataset import quietly
from ms2hs.scenes.recognition import DEFAULT_SOURCE
from ms2hs.spectra.spectral_grid import SpectralGrid
from ms2hs.tasks.labels.image_folders import check_bands
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_scenes import labelled_pixels
from ms2hs.tasks.labels.label_set import LabelSet

CLASSES = ("no change", "change")
DATES = ("imgs_1_rect", "imgs_2_rect")
# Daudt et al. 2018 (doi:10.1109/IGARSS.2018.8518015); the files train.txt and test.txt of the images.
TRAIN = (
    *("aguasclaras", "bercy", "bordeaux", "nantes", "paris", "rennes", "saclay_e", "abudhabi", "cupertino", "pisa"),
    *("beihai", "hongkong", "beirut", "mumbai"),
)
TEST = (
    *("brasilia", "montpellier", "norcia", "rio", "saclay_w", "valencia", "dubai", "lasvegas", "milano", "chongqing"),
)
SIDE_OF_CITY = dict.fromkeys(TRAIN, "train") | dict.fromkeys(TEST, "test")


@dataclass(frozen=True, eq=False)
class HeldCube:
    """An image of a city, kept in memory while its windows are read: its bands are a file each."""

    cube: SensorCube

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.cube.name

    @property
    def scene(self) -> str:
        """Name of the scene."""
        return self.cube.scene

    @property
    def grid(self) -> SpectralGrid:
        """The bands in ascending wavelength."""
        return self.cube.grid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.shape

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. Errors as of `SensorCube.read`."""
        check_window(self.shape, row, col, height, width)
        return _whole(self.cube)[:, row : row + height, col : col + width]


# Both dates of two cities: an image has about 600 x 600 pixels.
@lru_cache(maxsize=4)
def _whole(cube: SensorCube) -> Float32Array:
    return cube.read(0, 0, *cube.shape)


def is_change_pairs(path: Path) -> bool:
    """Whether a folder, or a folder in it, holds cities with `imgs_1_rect`."""
    return path.is_dir() and bool(_cities(path))


def _cities(path: Path) -> dict[str, Path]:
    found = [*path.glob(f"*/{DATES[0]}"), *path.glob(f"*/*/{DATES[0]}")]
    return {folder.parent.name: folder.parent for folder in sorted(found)}


def _maps(path: Path) -> dict[str, tuple[Path, str]]:
    """The map of each city, and the side that its folder names; the PNG where there are both."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in sorted([*path.glob("*/cm"), *path.glob("*/*/cm")]):
        city = folder.parent.name
        files = [file for file in (folder / "cm.png", folder / f"{city}-cm.tif") if file.is_file()]
        text = folder.parent.parent.name.lower()
        side = "train" if "train" in text else "test" if "test" in text else SIDE_OF_CITY.get(city, "")
        if files:
            found[city] = files[0], side
    return found


def open_change_pairs(options: LabelOptions, task: str) -> LabelSet:
    """The pixels of the cities that have a map.

    Raises
    ------
    DataError : no maps, or a map or date with another number of pixels.
    """
    path, source = options.path, options.source or DEFAULT_SOURCE
    cities, maps = _cities(path), _maps(path)
    if not cities.keys() & maps.keys():
        raise DataError(
            f"{path}: {len(cities)} cities with images, and {len(maps)} maps of change (cm/cm.png), none of the same "
            "city; both are needed. Unpack the images and the labels of OSCD into one folder."
        )
    names = sorted(cities.keys() & maps.keys())
    pairs = [tuple(HeldCube(open_sensor_raster(cities[city] / date, source)) for date in DATES) for city in names]
    check_bands(path, [cube for pair in pairs for cube in pair])
    values = [_changes(maps[city][0]) for city in names]
    for city, pair, change in zip(names, pairs, values, strict=True):
        shapes = [cube.shape for cube in pair]
        if {*shapes, change.shape} != {change.shape}:
            raise DataError(
                f"{path}: {city} has {shapes[0]} and {shapes[1]} pixels in its images, and {change.shape} in its map; "
                "all need one grid. Download the city again."
            )
    pixels = labelled_pixels(values)
    sides = np.array([maps[city][1] for city in names])
    notes = [f"{len(cities) - len(names)} cities have no map, and are left out"] if len(names) < len(cities) else []
    return LabelSet(
        name=path.resolve().name,
        task=task,
        classes=CLASSES,
        grid=pairs[0][0].grid,
        sensor=source,
        images=pairs,
        image=pixels.image,
        row=pixels.row,
        col=pixels.col,
        labels=pixels.labels,
        groups=np.array(names)[pixels.image],
        grouped_by="city",
        given_split=sides[pixels.image] if sides.any() and options.split != "random" else None,
        notes=(*pairs[0][0].cube.notes, *pixels.notes, *notes),
    )


def _changes(path: Path) -> NDArray[Any]:
    """(row, col) 1 where a map says that a pixel changed, else 0."""
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with input_errors(str(path), DataError), quietly(), rasterio.open(path, driver=driver) as file:
        stored = file.read(1)
    return np.asarray(stored > (1 if path.suffix == ".tif" else 0), np.int8)
