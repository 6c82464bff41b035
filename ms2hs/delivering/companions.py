"""Scenes to pair with hyperspectral products: of the same places, within a few days."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from ms2hs.data.couples import find_cubes
from ms2hs.data.placed import PlacedCube
from ms2hs.delivering.selection import Wish, items_of, select
from ms2hs.errors import NothingFound, QueryError
from ms2hs.raster.cutting import safe_name
from ms2hs.raster.items import Item
from ms2hs.raster.placement import lonlat_bounds
from ms2hs.raster.query import Place, box_place


@dataclass(frozen=True)
class Companions:
    """The scenes of one product."""

    product: str
    """Its name, as that of a folder."""
    place: Place
    items: tuple[Item, ...]


def find_companions(products: Sequence[Path], wish: Wish, days: int, left_out: dict[str, str]) -> Iterator[Companions]:
    """For each product the scenes that cover some of it and were taken at most `days` calendar days (UTC) apart.

    Parameters
    ----------
    products : as `data.placed.open_placed` takes them.
    wish : all but place and date, which are the products'.
    left_out : takes up products without place, day or scene, by name, and why.

    Raises
    ------
    QueryError : a place or date was asked for too. DataError : nothing is at a path.
    NothingFound : none of the products has a place and a day.
    """
    given = {"--bbox": wish.bbox, "--intersects": wish.intersects, "--date": wish.date, "--items": wish.items}
    if told := [option for option, value in given.items() if value is not None]:
        raise QueryError(f"{', '.join(told)} with --for: the products tell place and day. Leave {told[0]} out.")
    cubes = find_cubes(products, left_out)
    if not cubes:
        raise NothingFound(
            "none of the products of --for tells its place and day; one is needed. Give EnMAP or EMIT products."
            + "\n  ".join(["", *left_out.values()])
        )
    for cube in cubes:
        place = _place(cube)
        first, last = cube.day - timedelta(days=days), cube.day + timedelta(days=days)
        try:
            found = select(replace(wish, bbox=place.bbox, date=f"{first}/{last}"), to_fetch=True)
        except NothingFound as error:
            left_out[cube.name] = str(error)
            continue
        yield Companions(safe_name(cube.name), place, tuple(items_of(found)))


def _place(cube: PlacedCube) -> Place:
    bounds = lonlat_bounds(cube.place)
    assert bounds is not None  # noqa: S101 - placed cubes have a CRS
    return box_place(bounds)
