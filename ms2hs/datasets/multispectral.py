"""Multispectral images as training cubes: rasters that `scenes` reads, and published data sets of such images.

Bands, scale, offset and quality layers follow the rules of `scenes`, and bands of 20 and 60 m are brought to the finest
pixels. Data sets of `LAYOUTS` have hundreds of thousands of images: their files are listed by name, and an image is
opened when it is first read. Other folders are searched for scenes, and each is opened.

Level 1C is accepted here, with a note: it is top-of-atmosphere reflectance. Its B10 shows no surface and is never read.
Files of 13 bands without names have one of the two published orders in `ORDERS`. B10 is nearly black everywhere, so the
pixels show which.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.errors import DataError, SceneError, UnknownName, input_errors
from ms2hs.raster.dataset import open_dataset, read_bands
from ms2hs.raster.header import Header, read_header
from ms2hs.scenes.bands import SKIP, name_bands
from ms2hs.scenes.formats import open_scene, scene_paths
from ms2hs.scenes.plausibility import fit_of
from ms2hs.scenes.reader import SceneReader
from ms2hs.scenes.recognition import (
    DEFAULT_SOURCE,
    LEVEL_1C_NOTE,
    platform_note,
    source_named_in,
    source_of_file,
)
from ms2hs.scenes.scene import CUSTOM, Scene, SceneOptions
from ms2hs.spectra.sensors import load_sensor, sensor_names
from ms2hs.spectra.spectral_grid import SpectralGrid

TIFF = re.compile(r"\.tiff?$", re.IGNORECASE)
# B8A last: EuroSAT (github.com/phelber/EuroSAT). By wavelength: fMoW-Sentinel (purl.stanford.edu/vg497cb6002), and
# exports of level 1C from Earth Engine.
_TO_B08 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08")
ORDERS = (
    (*_TO_B08, "B09", "B10", "B11", "B12", "B8A"),
    (*_TO_B08, "B8A", "B09", "B10", "B11", "B12"),
)
# Images, and pixels on a side of each, that show the order of the bands and whether the values can be reflectance.
SAMPLED_IMAGES, SAMPLED_SIDE = 16, 64
# Images that a process remembers without their pixels.
OPEN_IMAGES = 1000
MAX_METADATA_BYTES = 1_000_000
NAMES_REMEDY = (
    "Use files with all bands, named (B02, B8A) in the descriptions of the bands or the names of the files, or give "
    "the sensor with --source, such as --source sentinel2a."
)


@dataclass(frozen=True, eq=False)
class SensorCube:
    """A multispectral image, opened for each read: it pickles, and processes can share it."""

    name: str
    scene: str
    path: Path
    """The file of all bands, one file of several, or their folder."""
    options: SceneOptions
    grid: SpectralGrid
    """The sensor's bands in ascending wavelength."""
    notes: tuple[str, ...] = ()
    """Assumptions about the image, for the user."""

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the finest band."""
        grid = self._opened().grid
        return grid.height, grid.width

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown.

        SceneError or DataError if a file is missing or damaged, or the image has other bands than its data set;
        ValueError for a window beyond the image.
        """
        image = self._opened()
        with SceneReader(image, image.grid) as reader:
            values, valid = reader.read(row, col, height, width)
        values[:, ~valid] = np.nan
        names = [asset.name for asset in image.assets]
        return values[[names.index(name) for name in self.grid.names]]

    def _opened(self) -> Scene:
        image = _remembered_scene(self.path, self.options)
        names = [asset.name for asset in image.assets]
        if set(names) != set(self.grid.names):
            raise DataError(
                f"{self.path}: bands {', '.join(names)}; the data set has {', '.join(self.grid.names)}, which each of "
                "its images needs. Remove the image, or download it again."
            )
        return image


class Layout(NamedTuple):
    """The folders of a published data set."""

    name: str
    pattern: re.Pattern[str]
    """Matches one file of each image, by its path in the folder; its groups are arguments of `scene`."""
    scene: Callable[[Path, re.Match[str]], str]
    """The place of an image, which a split keeps on one side."""
    level_1c: bool = False
    """Whether its files have the 13 bands of level 1C."""
    by_folder: bool = False
    """Whether an image is a folder with a file for each band."""
    has_tables: bool = False
    """Whether `<split>.csv` lists the images of the folder `<split>` that are complete."""


def _tile(path: Path, match: re.Match[str]) -> str:
    """The MGRS tile of a BigEarthNet patch: in the names of version 2, in the labels of version 1."""
    if tile := re.search(r"_(T\d{2}[A-Z]{3})_", match[1]):
        return tile[1]
    labels = path.with_name(f"{match[1]}_labels_metadata.json")
    if labels.is_file() and labels.stat().st_size <= MAX_METADATA_BYTES:
        with input_errors(str(labels), DataError):
            source = str(json.loads(labels.read_text(encoding="utf-8")).get("tile_source"))
        if tile := re.search(r"_(T\d{2}[A-Z]{3})_", source):
            return tile[1]
    return match[1].rsplit("_", 2)[0]


LAYOUTS = (
    Layout("BigEarthNet", re.compile(r"(?:.*/)?(S2[A-D]_MSIL2A_\w+)/\1_B02\.tiff?"), _tile, by_folder=True),
    Layout(
        *("fMoW-Sentinel", re.compile(r"(?:.*/)?([a-z_]+_\d+)/\1_(\d+)\.tiff?"), lambda _, match: match[1]),
        level_1c=True,
        has_tables=True,
    ),
    Layout("EuroSAT", re.compile(r"(?:.*/)?([A-Za-z]+)/(\1_\d+)\.tiff?"), lambda _, match: match[2], level_1c=True),
)
Item = TypeVar("Item")


def layout_of(folder: Path) -> Layout | None:
    """The published data set in a folder, by the names of its files; None for other folders."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix() if TIFF.search(path.name) else ""
        layout = next((layout for layout in LAYOUTS if layout.pattern.fullmatch(name)), None)
        if layout is not None and (not layout.level_1c or _has_bands_of_level_1c(path)):
            return layout
    return None


def open_sensor_cubes(folder: Path, sensor: str | None = None) -> list[SensorCube]:
    """The multispectral images of a folder, sorted by name; empty without any.

    A scene is a tile of BigEarthNet, a location of fMoW-Sentinel, a file of EuroSAT (its files name no place); of other
    images a subfolder of the folder, or an image in the folder itself. Rasters of one band that belong to no scene are
    skipped, and so are images of fMoW-Sentinel that `<split>.csv` beside the folder of a split does not list.

    Parameters
    ----------
    sensor : name of the source sensor; None: the files name it. Sentinel-2 of unknown platform is taken as
        `sentinel2a`, with a note.

    Raises
    ------
    DataError : bands that are not recognised as the sensor's, or values that cannot be reflectance.
    UnknownName : no such sensor.
    """
    _check_sensor(sensor)
    if (layout := layout_of(folder)) is not None:
        cubes = _of_layout(folder, layout, sensor)
    else:
        opened = [_open(path, sensor, folder) for path in scene_paths(folder)]
        cubes = [cube for cube in opened if cube is not None]
    _check_reflectance(folder, cubes)
    return sorted(cubes, key=lambda cube: cube.name)


def open_sensor_raster(path: Path, sensor: str | None = None) -> SensorCube:
    """The multispectral image in a file, or in a folder of files with one band each.

    The file gives its name and scene. Errors as in `open_sensor_cubes`.
    """
    _check_sensor(sensor)
    cube = _open(path, sensor, path.parent)
    if cube is None:
        raise DataError(f"{path}: has one band; the bands of a multispectral sensor are needed. Give another file.")
    _check_reflectance(path, [cube])
    return cube


def _check_sensor(sensor: str | None) -> None:
    if sensor is not None and sensor not in sensor_names("source"):
        raise UnknownName.of("source", sensor, sensor_names("source"), "Use one of these with --source.")


def _of_layout(folder: Path, layout: Layout, sensor: str | None) -> list[SensorCube]:
    """The images of a data set, which are not opened."""
    matches = {path: layout.pattern.fullmatch(path.relative_to(folder).as_posix()) for path in folder.rglob("*")}
    found = {path: match for path, match in matches.items() if match}
    paths = sorted(found.keys() - (_unlisted(found) if layout.has_tables else set()))
    options = SceneOptions(level_1c=layout.level_1c)
    notes: tuple[str, ...] = ()
    if layout.level_1c and paths:
        options, notes = replace(options, bands=_ordered_bands(folder, paths)), (LEVEL_1C_NOTE,)
    cubes = []
    for path in paths:
        named = sensor or source_named_in([path.parent.name])
        source = named or DEFAULT_SOURCE
        image = path.parent if layout.by_folder else path
        cubes.append(
            SensorCube(
                name=image.relative_to(folder).with_suffix("").as_posix(),
                scene=layout.scene(path, found[path]),
                path=image,
                options=replace(options, source=source),
                grid=_grid_of(source, load_sensor(source).grid.names),
                notes=notes if named else (*notes, platform_note(source)),
            )
        )
    return cubes


def _unlisted(found: dict[Path, re.Match[str]]) -> set[Path]:
    """Images that failed to download, which the table of their split does not list."""
    unlisted: set[Path] = set()
    for split in {path.parents[2] for path in found}:
        tables = [split.with_name(f"{split.name}{end}.csv") for end in ("", "_gt")]
        if table := next((table for table in tables if table.is_file()), None):
            with input_errors(str(table), DataError), table.open(encoding="utf-8-sig", newline="") as file:
                listed = {(f"{row['category']}_{row['location_id']}", row["image_id"]) for row in csv.DictReader(file)}
            inside = {path: match for path, match in found.items() if path.parents[2] == split}
            unlisted |= {path for path, match in inside.items() if match.groups() not in listed}
    return unlisted


def _open(path: Path, sensor: str | None, folder: Path) -> SensorCube | None:
    """The image at a path that `scenes` opens, named as in the folder; None for a raster of one band."""
    options, is_single = SceneOptions(source=sensor, level_1c=True), False
    notes: tuple[str, ...] = ()
    if path.is_file() and TIFF.search(path.name):
        with open_dataset(str(path)) as file:
            header, is_single = read_header(file, str(path)), file.count == 1
        if not is_single and (bands := _bands_of_level_1c(path, header, sensor)):
            options, notes = replace(options, bands=bands), (LEVEL_1C_NOTE,)
    try:
        scene = _scene(path, options)
    except DataError:
        if is_single:
            return None
        raise
    relative = path.relative_to(folder)
    place = relative.parts[0] if len(relative.parts) > 1 else scene.id
    name = (relative.parent / scene.id).as_posix()
    names = tuple(asset.name for asset in scene.assets)
    grid = _ascending(scene.spectral) if scene.source == CUSTOM else _grid_of(scene.source, names)
    return SensorCube(name, place, path, options, grid, (*notes, *scene.notes))


def _bands_of_level_1c(path: Path, header: Header, sensor: str | None) -> tuple[str, ...] | None:
    """The names of the bands of a file of level 1C, `-` for B10; None for other files.

    DataError for bands without wavelengths where neither the user nor the file names a sensor or its bands.
    """
    named = sensor or source_of_file(header)
    source = named or DEFAULT_SOURCE
    names = name_bands(header.descriptions, source)
    if not any((named, *names, *header.wavelengths)):
        raise DataError(
            f"{path}: {len(names)} bands without wavelengths, and without names of a sensor's bands; each band needs a "
            "wavelength tag or a name such as B02. Write them into the files, or give the sensor with --source, such "
            "as --source sentinel2a."
        )
    if load_sensor(source).toa_band is None:
        return None
    return _without_b10(names) or (_ordered_bands(path, [path]) if sensor and _is_unnamed(header) else None)


def _has_bands_of_level_1c(path: Path) -> bool:
    """Whether a file has the 13 bands of level 1C, by their names or without names."""
    with open_dataset(str(path)) as file:
        header = read_header(file, str(path))
    names = name_bands(header.descriptions, DEFAULT_SOURCE)
    return len(names) == len(ORDERS[0]) and (_is_unnamed(header) or _without_b10(names) is not None)


def _is_unnamed(header: Header) -> bool:
    """Whether a file has 13 bands without names and wavelengths."""
    return len(header.descriptions) == len(ORDERS[0]) and not any((*header.descriptions, *header.wavelengths))


def _without_b10(names: Sequence[str | None]) -> tuple[str, ...] | None:
    """The names of bands of level 1C, `-` for B10 and bands without a name; None for bands of other products."""
    if not {"B10", "B8A"} <= set(names):
        return None
    return tuple(SKIP if name in {None, "B10"} else str(name) for name in names)


def _scene(path: Path, options: SceneOptions) -> Scene:
    """`open_scene` for training: DataError, whose remedies are no options of a conversion."""
    try:
        return open_scene(str(path), options)
    except SceneError as error:
        text = str(error)
        if "--bands" in text or "--scale" in text:
            text = f"{path}: {text.removeprefix(f'{path}: ').split('. ')[0]}. {NAMES_REMEDY}"
        raise DataError(text) from error


_remembered_scene = lru_cache(maxsize=OPEN_IMAGES)(_scene)


@cache
def _grid_of(source: str, names: tuple[str, ...]) -> SpectralGrid:
    """Bands of a sensor in ascending wavelength; the images of a data set share it, since its responses are large."""
    grid = load_sensor(source).grid
    return _ascending(grid.select(grid.index(names)))


def _ascending(grid: SpectralGrid) -> SpectralGrid:
    return grid.select(np.argsort(grid.wavelength_nm, kind="stable"))


def _ordered_bands(where: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """The names of the 13 bands of files of level 1C, `-` for B10.

    Files without names have the order of `ORDERS` whose B10 is the darkest band of a sample; DataError if none has.
    """
    with open_dataset(str(paths[0])) as file:
        names = name_bands(file.descriptions, DEFAULT_SOURCE)
    if named := _without_b10(names):
        return named
    medians = []
    for path in _spread(paths):
        with open_dataset(str(path)) as file:
            if file.count == len(ORDERS[0]):
                medians.append(np.median(read_bands(file, file.indexes).astype(float), axis=(1, 2)))
    darkest = int(np.median(medians, axis=0).argmin()) if medians else 0
    order = next((order for order in ORDERS if order[darkest] == "B10"), None)
    if order is None:
        raise DataError(
            f"{where}: 13 bands without names, of which band {darkest + 1} is the darkest; the order of EuroSAT or of "
            f"wavelengths is needed, where the darkest is B10. {NAMES_REMEDY}"
        )
    return tuple(SKIP if name == "B10" else name for name in order)


def _check_reflectance(where: Path, cubes: Sequence[SensorCube]) -> None:
    """DataError if a sample of the cubes cannot be reflectance, by the check of scenes (`scenes.plausibility`)."""
    pixels = []
    alike = [cube for cube in cubes if cube.grid.names == cubes[0].grid.names]
    for cube in _spread(alike):
        height, width = (min(SAMPLED_SIDE, side) for side in cube.shape)
        window = cube.read((cube.shape[0] - height) // 2, (cube.shape[1] - width) // 2, height, width)
        pixels.append(window[:, np.isfinite(window).all(axis=0)])
    if pixels and (problem := fit_of(np.concatenate(pixels, axis=1), alike[0].grid).problem):
        rule = _scene(alike[0].path, alike[0].options).offset_rule
        raise DataError(
            f"{where}: {problem} ({rule}); reflectance is needed, so the scale or offset is wrong. Write both into the "
            "files, such as `gdal_edit.py -scale 0.0001 -offset 0 FILE`."
        )


def _spread(items: Sequence[Item]) -> list[Item]:
    """At most `SAMPLED_IMAGES` of the items, evenly spread."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, SAMPLED_IMAGES).astype(int))] if items else []
