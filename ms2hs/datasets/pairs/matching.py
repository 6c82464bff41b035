"""Which product and which scene show the same ground, taken within a few days of each other; and which ground it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.arrays import BoolArray
from ms2hs.datasets.cubes.georeferenced import GeoreferencedCube
from ms2hs.datasets.pairs.warping import overlap
from ms2hs.errors import Ms2hsError, SceneError
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.dates import day_of
from ms2hs.raster.header import read_header
from ms2hs.raster.pixel_grid import lonlat_bounds
from ms2hs.scenes.formats import open_scene, scene_paths
from ms2hs.scenes.scene import Scene, SceneOptions


@dataclass(frozen=True, eq=False)
class DatedScene:
    """A scene whose day is known."""

    scene: Scene
    day: date
    """UTC."""


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """A product and a scene that overlap, taken within a few days of each other."""

    cube: GeoreferencedCube
    dated: DatedScene
    location: str
    """Products that overlap, or are of one scene, are of one location: no split may part it."""
    rows: int
    """Of the product that the scene may cover."""

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.cube.name} + {self.dated.scene.id}"

    @property
    def days_apart(self) -> int:
        """Positive where the scene was taken later."""
        return (self.dated.day - self.cube.day).days


def find_scenes(paths: Sequence[Path], dn_offset: float | None, left_out: dict[str, str]) -> list[DatedScene]:
    """Scenes at and under these paths that have a place and a day; why others are `left_out` is added by path.

    Parameters
    ----------
    dn_offset : as `SceneOptions` has it.

    Raises
    ------
    SceneError : nothing is at a path.
    """
    found: dict[tuple[Any, ...], DatedScene] = {}
    for path in paths:
        if not Path(path).exists():
            raise SceneError(f"{path}: no such file or folder; multispectral scenes are needed. Check the path.")
        for place in scene_paths(Path(path)):
            try:
                dated = _dated(place, dn_offset)
            except Ms2hsError as error:
                left_out[str(place)] = str(error)
            else:
                found[dated.scene.id, dated.scene.grid, dated.day] = dated
    return sorted(found.values(), key=lambda dated: (dated.scene.id, dated.scene.grid.bounds))


def _dated(path: Path, dn_offset: float | None) -> DatedScene:
    scene = open_scene(str(path), SceneOptions(dn_offset=dn_offset))
    with open_dataset(scene.assets[0].href) as file:
        tags = read_header(file, path.name).tags
    day = day_of([scene.datetime or ""], None) or day_of([path.name, path.parent.name], tags)
    if day is None or scene.grid.crs is None:
        lacks = "its day is not known; a date in the name (20240601)" if day is None else "it has no CRS; a CRS"
        raise SceneError(f"{path}: {lacks} is needed. Rename it, or write it into the file.")
    return DatedScene(scene, day)


def find_matches(
    cubes: Sequence[GeoreferencedCube], scenes: Sequence[DatedScene], days: int, left_out: dict[str, str]
) -> list[MatchedPair]:
    """Products and scenes that overlap, at most `days` apart; why those without a partner are `left_out` is added."""
    boxes, covers = _boxes([cube.pixel_grid for cube in cubes]), _boxes([dated.scene.grid for dated in scenes])
    apart = np.array([[(dated.day - cube.day).days for dated in scenes] for cube in cubes], int)
    apart = apart.reshape(len(cubes), len(scenes))
    together = np.array([_overlapping(covers, box) for box in boxes], bool).reshape(apart.shape)
    chosen = together & (np.abs(apart) <= days)
    names = [cube.name for cube in cubes], [dated.scene.id for dated in scenes]
    for kind, own, axis in (("scene", names[0], 0), ("product", names[1], 1)):
        for i, name in enumerate(own):
            if not chosen.take(i, axis).any():
                left_out[name] = _lonely(kind, together.take(i, axis), apart.take(i, axis), names[1 - axis], days)
    used = np.flatnonzero(chosen.any(axis=1)).tolist()
    locations = dict(zip(used, _locations([cubes[i] for i in used], boxes[used]), strict=True))
    couples = []
    for i, j in zip(*(part.tolist() for part in np.nonzero(chosen)), strict=True):
        part = overlap(cubes[i].pixel_grid, scenes[j].scene.grid)
        couples.append(MatchedPair(cubes[i], scenes[j], f"L{locations[i]:03d}", part[2] if part else 0))
    return couples


def _lonely(kind: str, together: BoolArray, apart: NDArray[np.int_], names: list[str], days: int) -> str:
    """Why something has no partner, which is of this kind."""
    if not together.any():
        return f"no {kind} overlaps it; one of the same place is needed. Give more of them."
    nearest = int(np.where(together, np.abs(apart), np.iinfo(int).max).argmin())
    return (
        f"the nearest in time {kind} that overlaps it, {names[nearest]}, is {abs(apart[nearest])} days away; at most "
        f"{days} are allowed. Give more of them, or more --days."
    )


def _boxes(grids: Sequence[Any]) -> NDArray[np.float64]:
    """(grid, 4) west, south, east, north in degrees."""
    return np.array([lonlat_bounds(grid) for grid in grids], float).reshape(-1, 4)


def _overlapping(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> BoolArray:
    """(box,) whether each of `boxes` shares an area with `box`; one that touches it does not."""
    return np.asarray((boxes[:, :2] < box[2:]).all(axis=1) & (boxes[:, 2:] > box[:2]).all(axis=1))


def _locations(cubes: Sequence[GeoreferencedCube], boxes: NDArray[np.float64]) -> list[int]:
    """(cube,) numbers, from 1: cubes that overlap, or are of one scene, are of one location, and so on from each."""
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
    return [int(one) for one in number]
