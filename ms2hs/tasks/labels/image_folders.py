"""Folders of images by class, `<class>/<image>.tif`, such as EuroSAT; and its published splits.

Groups are cells of a quarter of a degree, by the georeference of the images: neighbours share a tile, weather and soil.
EuroSAT's own split is random by image, so that it is used only by name (`--split given`); its spatial split
(`eurosat-spatial-train.txt`) is used wherever it lies beside the images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform

from ms2hs.datasets.cubes.raster_cube import find_rasters, open_rasters
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.multispectral import open_sensor_cubes
from ms2hs.errors import DataError
from ms2hs.raster.dataset import open_dataset
from ms2hs.raster.pixel_grid import UNKNOWN_POSITION, WGS84
from ms2hs.tasks.labels.label_options import LabelOptions
from ms2hs.tasks.labels.label_scenes import is_hyperspectral, sensor_of
from ms2hs.tasks.labels.label_set import WHOLE, LabelSet
from ms2hs.tasks.labels.label_values import class_indices, keyed, matched
from ms2hs.tasks.labels.splits import SIDES

IMAGE_SUFFIXES = {".tif", ".tiff", ".jp2", ".img", ".dat", ".bsq", ".bil", ".bip"}
# EuroSAT's archives nest the folders of classes up to seven deep.
MAX_DEPTH = 8
CELL_DEGREES = 0.25
MAX_LIST_BYTES = 50_000_000


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds folders of images by class, directly or in folders of one folder."""
    return class_root(path) is not None


def class_root(path: Path, depth: int = MAX_DEPTH) -> Path | None:
    """The folder whose folders are the classes; None if there is none."""
    if not path.is_dir() or depth == 0:
        return None
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    classes = [folder for folder in folders if _has_images(folder)]
    if len(classes) >= 2:
        return path
    return next((root for folder in folders if (root := class_root(folder, depth - 1))), None)


def _has_images(folder: Path) -> bool:
    return next(_images(folder), None) is not None


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def open_image_folder(options: LabelOptions, task: str) -> LabelSet:
    """The images of a folder with the class of each, none read.

    Raises
    ------
    DataError : images of different bands, bands that are not known, or a list of a split with missing images.
    """
    root = class_root(options.path)
    if root is None:
        raise DataError(f"{options.path}: no folders of images by class; <class>/<image>.tif is needed.")
    first = next(file for folder in sorted(root.iterdir()) if folder.is_dir() for file in _images(folder))
    opened: Sequence[Cube]
    if is_hyperspectral(first, options.source):
        opened = open_rasters(root, find_rasters(root))
    else:
        opened = open_sensor_cubes(root, options.source)
    cubes = sorted((cube for cube in opened if "/" in cube.name), key=lambda cube: cube.name)
    if not cubes:
        raise DataError(
            f"{options.path}: the images have no bands of a known sensor, and no wavelengths; one of both is needed. "
            "Name the sensor with --source."
        )
    names = np.array([cube.name.split("/")[0] for cube in cubes])
    files = np.array([cube.name.rsplit("/", 1)[1] for cube in cubes])
    check_bands(options.path, cubes)
    classes, labels = class_indices(str(options.path), names)
    given, notes = _given_split(options, root, files)
    groups, grouped_by = files, "image"
    if given is None and options.split != "random":
        groups, grouped_by = _groups(options, cubes, files)
    whole = np.full(len(cubes), WHOLE)
    return LabelSet(
        name=options.path.resolve().name,
        task=task,
        classes=classes,
        grid=cubes[0].grid,
        sensor=sensor_of(cubes[0]),
        images=[(cube,) for cube in cubes],
        image=np.arange(len(cubes)),
        row=whole,
        col=whole,
        labels=labels,
        groups=groups,
        grouped_by=grouped_by if groups.any() else "",
        given_split=given,
        notes=(*dict.fromkeys(note for cube in cubes[:1] for note in getattr(cube, "notes", ())), *notes),
    )


def check_bands(path: Path, cubes: Sequence[Cube]) -> None:
    """DataError unless all images have the bands of the first."""
    first = cubes[0].grid
    for cube in cubes:
        same = cube.grid is first or (
            len(cube.grid) == len(first) and np.allclose(cube.grid.wavelength_nm, first.wavelength_nm, atol=1)
        )
        if not same:
            raise DataError(
                f"{path}: {cube.name} has other bands than {cubes[0].name}; images of one set need the same bands. "
                "Name one sensor with --source, or remove the others."
            )


def _groups(options: LabelOptions, cubes: Sequence[Cube], files: NDArray[np.str_]) -> tuple[NDArray[np.str_], str]:
    """(image,) the part of the file's name that --group-key takes, else the cell of its place; "" without any."""
    if options.group_key is not None:
        name, pattern = keyed(options.group_key)
        if name != "name":
            raise DataError(
                f"{options.path}: images have no {name!r}; their `name` is known. Use --group-key 'name~PATTERN'."
            )
        return matched(files, pattern), "name"
    return places_of([Path(getattr(cube, "path", "")) for cube in cubes]), f"cell of {CELL_DEGREES:g} degrees"


def places_of(paths: Sequence[Path]) -> NDArray[np.str_]:
    """(image,) name of the cell of `CELL_DEGREES` in which the centre of each image lies; empty without a CRS."""
    centres: dict[str, list[tuple[int, float, float]]] = {}
    for number, path in enumerate(paths):
        with open_dataset(str(path)) as file:
            if file.crs is not None:
                a, b, c, d, e, f = tuple(file.transform)[:6]
                x, y = c + (a * file.width + b * file.height) / 2, f + (d * file.width + e * file.height) / 2
                centres.setdefault(file.crs.to_string(), []).append((number, x, y))
    cells = np.full(len(paths), "", "U24")
    for crs, points in centres.items():
        numbers, x, y = zip(*points, strict=True)
        try:
            lon, lat = np.array(transform(crs, WGS84, x, y))
        except UNKNOWN_POSITION:
            continue
        inside = np.isfinite(lon) & np.isfinite(lat)
        cell = np.floor(np.stack([lon, lat], axis=1)[inside] / CELL_DEGREES).astype(int)
        cells[np.array(numbers)[inside]] = [f"{east}:{north}" for east, north in cell.tolist()]
    return cells


def _given_split(
    options: LabelOptions, root: Path, files: NDArray[np.str_]
) -> tuple[NDArray[np.str_] | None, tuple[str, ...]]:
    """(image,) side in EuroSAT's lists, and a note about them; None if there are none, or they are not wanted."""
    if options.split == "random":
        return None, ()
    for prefix in ("eurosat-spatial-", "eurosat-") if options.split == "groups" else ("eurosat-", "eurosat-spatial-"):
        lists = {side: _list_file(options.path, root, f"{prefix}{side}.txt") for side in SIDES}
        if not lists["train"] or (prefix == "eurosat-" and options.split == "groups"):
            continue
        given = np.full(len(files), "", "U5")
        position = {file: number for number, file in enumerate(files.tolist())}
        for side, path in lists.items():
            if path is None:
                continue
            listed = [Path(line.strip()).stem for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            if absent := [name for name in listed if name not in position]:
                raise DataError(
                    f"{path}: {len(absent)} of {len(listed)} listed images are missing (the first: {absent[0]}); a "
                    "split needs all its images. Download the rest."
                )
            given[[position[name] for name in listed]] = side
        random = "the split of EuroSAT is random by image: neighbours of training images are in its test set"
        return given, (random,) if prefix == "eurosat-" else ()
    return None, ()


def _list_file(path: Path, root: Path, name: str) -> Path | None:
    """The list of this name in the given folder, or in a folder between it and the classes."""
    folders = [root, *[parent for parent in root.parents if parent == path or path in parent.parents]]
    found = (folder / name for folder in folders)
    return next((file for file in found if file.is_file() and file.stat().st_size <= MAX_LIST_BYTES), None)
