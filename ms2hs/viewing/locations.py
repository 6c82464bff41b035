"""Locations in a cube: longitudes and latitudes of a user, or of a file of points, and their pixels."""

import csv
import math
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ms2hs.errors import DataError, input_errors
from ms2hs.raster.pixel_grid import WGS84, PixelGrid, lonlat_bounds, pixel_at, position, wkb_point

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".shp", ".fgb")
MAX_POINTS = 10_000


class Point(NamedTuple):
    """A location in degrees (WGS 84)."""

    id: str
    lon: float
    lat: float


class Pixel(NamedTuple):
    """A pixel of a cube, with the name of its point."""

    id: str
    row: int
    col: int


def read_points(path: str | Path) -> list[Point]:
    """The points of a CSV with the columns lon, lat (degrees) and, if given, id; or of a vector file.

    Vector files are GeoPackage, GeoJSON, shapefile and FlatGeobuf with a layer of points; their `id` or `name` is the
    name of a point. Points without a name are numbered from 1.

    Raises
    ------
    DataError : missing, without points, another geometry, or pyogrio is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a CSV or vector file of points is needed. Check the path.")
    suffix = path.suffix.lower()
    if suffix not in {".csv", *VECTOR_SUFFIXES}:
        known = ", ".join((".csv", *VECTOR_SUFFIXES))
        raise DataError(f"{path}: unknown format of points {path.suffix!r}; {known} are allowed. Convert the file.")
    with input_errors(str(path), DataError):
        points = _read_csv(path) if suffix == ".csv" else _read_vector(path)
    if not 0 < len(points) <= MAX_POINTS:
        raise DataError(f"{path}: {len(points)} points; 1 to {MAX_POINTS} are allowed. Give a part of them.")
    return points


def find_pixels(grid: PixelGrid, points: Iterable[Point]) -> tuple[list[Pixel], list[str]]:
    """The pixels of a cube that hold the points, and a message for each point outside the cube."""
    pixels, outside = [], []
    for point in points:
        at = pixel_at(grid, point.lon, point.lat)
        if at is None:
            bounds = lonlat_bounds(grid)
            covered = ",".join(f"{degrees:.5f}" for degrees in bounds) if bounds else "no known area"
            outside.append(
                f"{point.id}: longitude {point.lon:g}, latitude {point.lat:g} is outside the cube, which covers "
                f"{covered} (west,south,east,north). Choose a location inside."
            )
        else:
            pixels.append(Pixel(point.id, *at))
    return pixels, outside


def check_pixels(grid: PixelGrid, pixels: Sequence[Pixel]) -> tuple[list[Pixel], list[str]]:
    """The pixels inside a cube, and a message for each of the others."""
    inside = [pixel for pixel in pixels if 0 <= pixel.row < grid.height and 0 <= pixel.col < grid.width]
    outside = [
        f"{pixel.id}: row {pixel.row}, column {pixel.col} is outside the cube; rows 0 to {grid.height - 1} and columns "
        f"0 to {grid.width - 1} are allowed. Choose a pixel inside."
        for pixel in pixels
        if pixel not in inside
    ]
    return inside, outside


def _read_csv(path: Path) -> list[Point]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"lon", "lat"} <= set(columns):
            raise DataError(
                f"{path}: the columns are {', '.join(columns)[:200]}; lon and lat, in degrees, are needed. Correct the "
                "first line."
            )
        points = []
        for number, row in enumerate(rows, 1):
            try:
                lon, lat = (float(row[columns[name]]) for name in ("lon", "lat"))
            except (TypeError, ValueError):
                lon = lat = math.nan
            if not (abs(lon) <= 360 and abs(lat) <= 90):
                raise DataError(
                    f"{path}: line {rows.line_num} has no lon from -360 to 360 and lat from -90 to 90; numbers in "
                    "degrees are needed. Correct or remove the line."
                )
            points.append(Point((row.get(columns.get("id", "")) or "").strip() or str(number), lon, lat))
    return points


def _read_vector(path: Path) -> list[Point]:
    if find_spec("pyogrio") is None:
        raise DataError(
            f"{path}: pyogrio, which reads vector files, is not installed; a CSV with lon and lat needs no library. "
            "Install it with `pip install 'ms2hs[vector]'`."
        )
    from pyogrio.raw import read  # noqa: PLC0415  comes with ms2hs[vector]

    meta, _, shapes, fields = read(path, max_features=MAX_POINTS + 1)
    names = next((fields[i] for i, name in enumerate(meta["fields"]) if name.lower() in {"id", "name"}), None)
    points = []
    for number, shape in enumerate(shapes):
        if (point := wkb_point(shape)) is None:
            raise DataError(
                f"{path}: has a geometry that is no point; points are needed. Use the centres of the areas."
            )
        lon, lat = position(meta["crs"] or WGS84, *point)
        name = "" if names is None or names[number] is None else str(names[number])
        points.append(Point(name or str(number + 1), lon, lat))
    return points
