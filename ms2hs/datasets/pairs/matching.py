"""Matches of hyperspectral products and multispectral scenes: the same ground, within a few days, and its location."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray, FloatArray
from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube
from ms2hs.datasets.pairs.warping import overlap
from ms2hs.errors import SceneError, failure
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.dates import day_of
from ms2hs.raster.header import read_header
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds
from ms2hs.scenes.formats import open_scene, scene_paths
from ms2hs.scenes.plausibility import check_reflectance
from ms2hs.scenes.scene import Scene, SceneOptions


@dataclass(frozen=True, eq=False)
class DatedScene:
    """A scene and its day of acquisition."""

    scene: Scene
    day: date
    """UTC."""


@dataclass(frozen=True, eq=False)
class Match:
    """A product and a scene that overlap, acquired within a few days of each other."""

    cube: GeoreferencedCube
    dated: DatedScene
    location: str
    """Id of the location, which a split keeps on one side; products that overlap or are of one scene share it."""
    rows: int
    """Rows of the product that the scene may cover."""

    @property
    def name(self) -> str:
        """Names of product and scene."""
        return f"{self.cube.name} + {self.dated.scene.id}"

    @property
    def days_apart(self) -> int:
        """Days from product to scene; negative if the scene is earlier."""
        return (self.dated.day - self.cube.day).days

    def facts(self) -> dict[str, Any]:
        """Names, days and their difference, for tables and JSON."""
        return {
            "product": self.cube.name,
            "product_day": self.cube.day.isoformat(),
            "multispectral": self.dated.scene.id,
            "multispectral_day": self.dated.day.isoformat(),
            "days_apart": self.days_apart,
        }


def find_scenes(paths: Sequence[Path], options: SceneOptions, left_out: dict[str, str]) -> list[DatedScene]:
    """Scenes at and under these paths that have a CRS and a day, sorted by id; SceneError if a path is missing.

    Parameters
    ----------
    options : scale and offset of every scene, instead of the metadata's.
    left_out : receives the reasons why other scenes are left out, by path.
    """
    scenes: dict[tuple[Any, ...], DatedScene] = {}
    for path in paths:
        if not Path(path).exists():
            raise SceneError(f"{path}: no such file or folder; multispectral scenes are needed. Check the path.")
        for scene_path in scene_paths(Path(path)):
            try:
                dated = _open_dated(scene_path, options)
            except Exception as error:  # noqa: BLE001  one scene must not stop the others
                left_out[str(scene_path)] = failure(str(scene_path), error)
            else:
                scenes[dated.scene.id, dated.scene.grid, dated.day] = dated
    return sorted(scenes.values(), key=lambda dated: (dated.scene.id, dated.scene.grid.bounds))


def _open_dated(path: Path, options: SceneOptions) -> DatedScene:
    scene = open_scene(str(path), options)
    with open_dataset(scene.assets[0].href) as file:
        tags = read_header(file, path.name).tags
    day = day_of([scene.datetime or ""], None) or day_of([path.name, path.parent.name], tags)
    if day is None or scene.grid.crs is None:
        missing = "no acquisition date; a date in the name (20240601)" if day is None else "no CRS; a CRS"
        raise SceneError(f"{path}: {missing} is needed. Rename the file, or write it into the file.")
    check_reflectance(scene, scene.grid)
    return DatedScene(scene, day)


def find_matches(
    cubes: Sequence[GeoreferencedCube], scenes: Sequence[DatedScene], days: int, left_out: dict[str, str]
) -> list[Match]:
    """Products and scenes that overlap and are at most `days` apart.

    `left_out` receives the reasons why products and scenes have no partner, by name.
    """
    boxes = _lonlat_boxes(cube.pixel_grid for cube in cubes)
    scene_boxes = _lonlat_boxes(dated.scene.grid for dated in scenes)
    apart = np.array([[(dated.day - cube.day).days for dated in scenes] for cube in cubes], int)
    apart = apart.reshape(len(cubes), len(scenes))
    overlapping = np.array([_overlapping(scene_boxes, box) for box in boxes], bool).reshape(apart.shape)
    chosen = overlapping & (np.abs(apart) <= days)
    products, ids = [cube.name for cube in cubes], [dated.scene.id for dated in scenes]
    for i in np.flatnonzero(~chosen.any(axis=1)).tolist():
        left_out[products[i]] = _why_unmatched("scene", overlapping[i], apart[i], ids, days)
    for j in np.flatnonzero(~chosen.any(axis=0)).tolist():
        left_out[ids[j]] = _why_unmatched("product", overlapping[:, j], apart[:, j], products, days)
    used = np.flatnonzero(chosen.any(axis=1)).tolist()
    locations = dict(zip(used, _locations([cubes[i] for i in used], boxes[used]), strict=True))
    matches = []
    for i, j in zip(*(positions.tolist() for positions in np.nonzero(chosen)), strict=True):
        common = overlap(cubes[i].pixel_grid, scenes[j].scene.grid)
        matches.append(Match(cubes[i], scenes[j], f"L{locations[i]:03d}", common[2] if common else 0))
    return matches


def _why_unmatched(kind: str, overlapping: BoolArray, apart: NDArray[np.int_], names: list[str], days: int) -> str:
    """The reason why a product or scene has no partner; `kind` is the kind of the partner."""
    if not overlapping.any():
        return f"no overlapping {kind}; one is needed. Give more {kind}s."
    nearest = int(np.where(overlapping, np.abs(apart), np.iinfo(int).max).argmin())
    return (
        f"the overlapping {kind} nearest in time, {names[nearest]}, is {abs(apart[nearest])} days away; at most "
        f"{days} are allowed. Give more {kind}s, or use a larger --days."
    )


def _lonlat_boxes(grids: Iterable[PixelGrid]) -> FloatArray:
    """(grid, 4) west, south, east, north in degrees; east exceeds 180 across the antimeridian."""
    boxes = np.array([lonlat_bounds(grid) for grid in grids], float).reshape(-1, 4)
    boxes[:, 2] += np.where(boxes[:, 2] < boxes[:, 0], 360, 0)
    return boxes


def _overlapping(boxes: FloatArray, box: FloatArray) -> BoolArray:
    """(box,) True where a box shares an area with `box`; touching is not enough."""
    turned = boxes[:, None] + np.array([[turn, 0, turn, 0] for turn in (-360, 0, 360)])
    is_common = (turned[..., :2] < box[2:]).all(axis=-1) & (turned[..., 2:] > box[:2]).all(axis=-1)
    return np.asarray(is_common.any(axis=1))


def _locations(cubes: Sequence[GeoreferencedCube], boxes: FloatArray) -> list[int]:
    """(cube,) number of the location, from 1: the connected components of cubes that overlap or are of one scene."""
    _, scene = np.unique([cube.cube.scene for cube in cubes], return_inverse=True)
    number = np.zeros(len(cubes), int)
    for start in range(len(cubes)):
        reached = [] if number[start] else [start]
        current = int(number.max()) + 1
        while reached:
            i = reached.pop()
            number[i] = current
            near = (number == 0) & ((scene == scene[i]) | _overlapping(boxes, boxes[i]))
            number[near] = current
            reached += np.flatnonzero(near).tolist()
    return [int(location) for location in number]
