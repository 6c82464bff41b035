"""Labelled points over one image: a CSV with lon and lat in degrees, or a vector file of points.

A point labels the pixel in which it lies. Groups are the values of a column, such as the plot; without one, the blocks
of the image.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.errors import DataError, visible
from ms2hs.raster.dataset import open_dataset, read_pixel_grid
from ms2hs.raster.pixel_grid import WGS84, pixel_at, position, wkb_point
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_scenes import open_label_scene
from ms2hs.tasks.labels.label_set import LabelSet
from ms2hs.tasks.labels.label_values import block_names, class_indices, keyed, matched
from ms2hs.tasks.labels.labelled_spectra import GROUP_KEYS, LABEL_KEYS

VECTOR_SUFFIXES = {".gpkg", ".geojson", ".shp", ".fgb"}
MAX_POINTS = 100_000


@dataclass(frozen=True, eq=False)
class PointTable:
    """Points with their columns."""

    lon: NDArray[np.float64]
    """(point,) degrees east."""
    lat: NDArray[np.float64]
    columns: Mapping[str, NDArray[Any]]
    """(point,) values by name in lower case: numbers, or texts."""


def is_point_table(path: Path) -> bool:
    """Whether the path is a CSV or a vector file, by its name."""
    return path.is_file() and path.suffix.lower() in {".csv", *VECTOR_SUFFIXES}


def open_label_points(options: LabelOptions, task: str) -> LabelSet:
    """The pixels of an image in which labelled points lie; points outside it are left out, with a note.

    Raises
    ------
    DataError : no --scene, an image without a CRS, no column of labels, or no point inside the image.
    """
    path = options.path
    if options.scene is None:
        raise DataError(f"{path}: points need the image on which they lie. Give it with --scene.")
    scene = open_label_scene(options.scene, options)
    with open_dataset(str(options.scene)) as file:
        grid = read_pixel_grid(file)
    table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_vector(path)
    if grid.crs is None:
        raise DataError(
            f"{options.scene}: has no CRS, so that no point lies on it. Write one with `gdal_edit.py -a_srs`."
        )
    pixels = [pixel_at(grid, lon, lat) for lon, lat in zip(table.lon.tolist(), table.lat.tolist(), strict=True)]
    inside = np.array([pixel is not None for pixel in pixels], bool)
    if not inside.any():
        raise DataError(
            f"{path}: none of the {len(pixels)} points lies inside {options.scene}; labels inside the image are "
            "needed. Give the image of the points, and check that lon and lat are in degrees."
        )
    row, col = np.array([pixel for pixel in pixels if pixel is not None]).T
    name, pattern = _column(path, table, options.label_key, LABEL_KEYS, "--label-key")
    values = matched(table.columns[name][inside], pattern)
    if task == "regression" and values.dtype.kind not in "iuf":
        raise DataError(f"{path}: {name} holds texts; numbers are needed for regression. Use --task segmentation.")
    is_quantity = task == "regression"
    classes, labels = ((name,), values.astype(np.float32)[:, None]) if is_quantity else class_indices(str(path), values)
    image = np.zeros(len(row), np.intp)
    groups, grouped_by = block_names(image, row, col, options.block), f"block of {options.block} pixels"
    if options.group_key or any(key in table.columns for key in GROUP_KEYS):
        grouped_by, group_pattern = _column(path, table, options.group_key, GROUP_KEYS, "--group-key")
        groups = matched(table.columns[grouped_by][inside].astype(str), group_pattern)
    outside = int((~inside).sum())
    notes = [f"{outside} of {len(inside)} points lie outside {options.scene}, and are left out"] if outside else []
    return LabelSet(
        name=path.stem,
        task=task,
        classes=classes,
        grid=scene.cube.grid,
        sensor=scene.sensor,
        images=[(scene.cube,)],
        image=image,
        row=row,
        col=col,
        labels=labels,
        groups=groups,
        grouped_by=grouped_by,
        notes=(*scene.notes, *notes),
    )


def _column(path: Path, table: PointTable, wanted: str | None, usual: Sequence[str], option: str) -> Any:  # noqa: ANN401
    """Name and pattern of the wanted column, else of the first usual one."""
    name, pattern = keyed(wanted) if wanted else (next((key for key in usual if key in table.columns), ""), None)
    if name.lower() not in table.columns:
        raise DataError(
            f"{path}: no column {name or ' or '.join(usual)!r}; the columns are {', '.join(table.columns)[:200]}. Name "
            f"one with {option}."
        )
    return name.lower(), pattern


def _read_csv(path: Path) -> PointTable:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        if not {"lon", "lat"} <= set(columns):
            raise DataError(
                f"{path}: the columns are {', '.join(columns)[:200]}; lon and lat, in degrees, are needed. Correct the "
                "first line."
            )
        lines = [line for line, _ in zip(rows, range(MAX_POINTS + 1), strict=False)]
    _check_count(path, len(lines))
    texts = {name: np.array([(line.get(key) or "").strip() for line in lines]) for name, key in columns.items()}
    lon, lat = (_numbers(texts.pop(name)) for name in ("lon", "lat"))
    if lon.dtype.kind != "f" or lat.dtype.kind != "f" or not ((np.abs(lon) <= 360) & (np.abs(lat) <= 90)).all():
        raise DataError(
            f"{path}: a line has no lon from -360 to 360 and lat from -90 to 90; numbers in degrees are needed. "
            "Correct or remove the line."
        )
    return PointTable(lon, lat, {name: _numbers(values) for name, values in texts.items()})


def _numbers(texts: NDArray[np.str_]) -> NDArray[Any]:
    """The numbers of a column, NaN where empty; its texts if one of them is no number."""
    try:
        return np.where(texts == "", "nan", texts).astype(np.float64)
    except ValueError:
        return np.array([visible(text) for text in texts.tolist()])


def _read_vector(path: Path) -> PointTable:
    if find_spec("pyogrio") is None:
        raise DataError(
            f"{path}: pyogrio, which reads vector files, is not installed; a CSV with lon and lat needs no library. "
            "Install it with `pip install 'ms2hs[vector]'`."
        )
    from pyogrio.raw import read  # noqa: PLC0415  comes with ms2hs[vector]

    meta, _, shapes, fields = read(path, max_features=MAX_POINTS + 1)
    _check_count(path, len(shapes))
    points = [wkb_point(shape) for shape in shapes]
    known = [point for point in points if point is not None]
    if len(known) != len(points):
        raise DataError(f"{path}: has a geometry that is no point; points are needed. Use the centres of the areas.")
    lon, lat = np.array([position(meta["crs"] or WGS84, *point) for point in known]).T
    columns = {
        str(name).lower(): values if values.dtype.kind in "iuf" else np.array([str(value or "") for value in values])
        for name, values in zip(meta["fields"], fields, strict=True)
    }
    return PointTable(lon, lat, columns)


def _check_count(path: Path, count: int) -> None:
    if not 0 < count <= MAX_POINTS:
        raise DataError(f"{path}: {count} points; 1 to {MAX_POINTS} are allowed. Give a part of them.")
