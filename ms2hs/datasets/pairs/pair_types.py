"""Pairs: what a multispectral sensor and what a hyperspectral one measured of the same pixels, real or simulated.

How a folder of pairs is laid out.

A pair is two GeoTIFFs on one grid, `<id>_ms.tif` and `<id>_hs.tif`, with wavelengths on the bands. Beside them may lie
`pairs.csv` with columns `id` and `scene`, and `splits/<name>.csv` with an id a line.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from ms2hs.arrays import Float32Array, FloatArray
from ms2hs.datasets.cubes.plausibility import check_window
from ms2hs.datasets.cubes.raster_cube import TIFF_SUFFIXES, RasterCube, open_raster
from ms2hs.datasets.cubes.registry import Cube
from ms2hs.datasets.cubes.spectra_npz import reach, view_matrix
from ms2hs.errors import DataError, Ms2hsError
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.scene import Scene, SceneOptions
from ms2hs.spectra.sensors import load_sensor
from ms2hs.spectra.spectral_grid import SpectralGrid

MULTISPECTRAL, HYPERSPECTRAL = "_ms", "_hs"
TABLE = "pairs.csv"
# The tag of a multispectral file that names its sensor, whose responses are taken then.
SOURCE_TAG = "MS2HS_SOURCE"
# What ends an id and only numbers a window: `_0012`, `-r00128-c00256`. A date is longer.
NUMBERING = re.compile(r"([-_][rcxy]?\d{1,5})+$", re.IGNORECASE)


class Pair(Protocol):
    """A window that both sensors saw, on one pixel grid. It pickles, and keeps no file open."""

    @property
    def name(self) -> str:
        """Unique within its folder."""

    @property
    def scene(self) -> str:
        """What no split may part: a place, a scene, a family."""

    @property
    def sensor(self) -> str:
        """Name of the source's sensor, or `custom` where only wavelengths are known."""

    @property
    def is_simulated(self) -> bool:
        """Whether the source's bands were computed from the truth, so that nothing of a product is in them."""

    @property
    def source(self) -> SpectralGrid:
        """The measured bands, in the order that `read` gives."""

    @property
    def target(self) -> SpectralGrid:
        """The true bands, in ascending wavelength."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col) reflectance of a window inside, NaN where unknown.

        Raises
        ------
        Ms2hsError : a file is gone or damaged.
        ValueError : the window does not lie inside.
        """


@dataclass(frozen=True, eq=False)
class SimulatedPair:
    """A cube, and what a source sensor would see of it through its response functions."""

    cube: Cube
    sensor: str
    """Of the source."""
    asked: SpectralGrid | None = None
    """Bands to have as truth, in ascending wavelength; None: the cube's own. Those it does not reach are unknown."""
    is_simulated: bool = True

    @property
    def name(self) -> str:
        """The cube's."""
        return self.cube.name

    @property
    def scene(self) -> str:
        """The cube's."""
        return self.cube.scene

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.cube.shape

    @cached_property
    def source(self) -> SpectralGrid:
        """All bands of the source."""
        return load_sensor(self.sensor).grid

    @property
    def target(self) -> SpectralGrid:
        """The bands that were asked for."""
        return self.asked or self.cube.grid

    @cached_property
    def _views(self) -> tuple[Float32Array, Float32Array | None]:
        """(source band, own band), and (target band, own band): a row of NaN where the cube does not reach."""
        own = self.cube.grid.wavelength_nm
        to_source = view_matrix(self.source, own).astype(np.float32)
        if self.asked is None:
            return to_source, None
        known = reach(own, self.asked)
        to_target = np.full((len(self.asked), len(own)), np.nan, np.float32)
        if known.any():
            to_target[known] = view_matrix(self.asked.select(known), own)
        return to_source, to_target

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col), NaN where unknown. Errors as of the cube's `read`."""
        values = self.cube.read(row, col, height, width)
        to_source, to_target = self._views
        truth = values if to_target is None else seen_through(to_target, values)
        return seen_through(to_source, values), truth


@dataclass(frozen=True, eq=False)
class StoredPair:
    """A pair that was measured, in two files."""

    name: str
    scene: str
    measured: Scene
    """The multispectral file."""
    cube: RasterCube
    """The hyperspectral file."""
    is_simulated: bool = False

    @property
    def sensor(self) -> str:
        """Of the multispectral file."""
        return self.measured.source

    @cached_property
    def source(self) -> SpectralGrid:
        """The bands of the multispectral file, with the responses of its sensor where that is known."""
        return self.measured.spectral

    @property
    def target(self) -> SpectralGrid:
        """The good bands of the hyperspectral file."""
        return self.cube.grid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.measured.grid.height, self.measured.grid.width

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Float32Array, Float32Array]:
        """(source band, row, col) and (target band, row, col) reflectance, NaN where unknown.

        A pixel that lacks one source band lacks all of them, as in scenes.

        Raises
        ------
        SceneError, DataError : a file is gone or damaged.
        ValueError : the window does not lie inside.
        """
        check_window(self.shape, row, col, height, width)
        return self._read_measured(row, col, height, width), self.cube.read(row, col, height, width)

    def _read_measured(self, row: int, col: int, height: int, width: int) -> Float32Array:
        from ms2hs.scenes.reader import SceneReader

        with SceneReader(self.measured, self.measured.grid) as reader:
            values, valid = reader.read(row, col, height, width)
        values[:, ~valid] = np.nan
        return values

    def has_pixels(self) -> bool:
        """Whether any pixel is known to both sensors; of the cube, three bands are asked."""
        bands = sorted({0, len(self.cube.grid) // 2, len(self.cube.grid) - 1})
        stored = self.cube.storage
        scale, offset = (np.broadcast_to(part, len(stored.bands))[bands] for part in (stored.scale, stored.offset))
        few = replace(stored, bands=tuple(stored.bands[band] for band in bands), scale=scale, offset=offset)
        window = (0, 0, *self.shape)
        known = np.isfinite(replace(self.cube, storage=few).read(*window)).any(axis=0)
        return bool((known & np.isfinite(self._read_measured(*window)).all(axis=0)).any())


@dataclass(frozen=True, eq=False)
class PairFolder:
    """What `open_pairs` found."""

    pairs: tuple[StoredPair, ...]
    """Sorted by name."""
    left_out: Mapping[str, str]
    """By name, why a pair cannot be used."""


def open_pairs(folder: Path, split: str | None = None) -> PairFolder:
    """The pairs under a folder; those that cannot be used are left out, each with its reason.

    A pair's scene is what `pairs.csv` says, else the subfolder that it lies in, else its name without what numbers
    windows.

    Parameters
    ----------
    folder : of `<id>_ms.tif` and `<id>_hs.tif`, made by `ms2hs pairs` or anything else.
    split : a list in the folder's `splits/`, without `.csv`; each line is an id, or the path of one of its files.

    Raises
    ------
    DataError : no folder, no pairs in it, no such split, or none of its pairs can be used.
    """
    folder = Path(folder)
    files = files_of_pairs(folder) if folder.is_dir() else {}
    if not files:
        told = "holds no pairs" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: {told}; files <id>{MULTISPECTRAL}.tif and <id>{HYPERSPECTRAL}.tif are needed. "
            "Check the path, or make pairs with `ms2hs pairs`."
        )
    names = sorted(files) if split is None else names_of_split(folder, split)
    scenes = scenes_of(folder)
    pairs: list[StoredPair] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            pairs.append(_stored(name, scenes.get(name, scene_of(name)), files.get(name, {})))
        except Ms2hsError as error:
            left_out[name] = str(error)
    if not pairs:
        first, reason = next(iter(left_out.items()))
        raise DataError(
            f"{folder}: none of its {len(left_out)} pairs can be used; one is needed at least. "
            f"The first, {first}: {reason}"
        )
    return PairFolder(tuple(pairs), left_out)


def _stored(name: str, scene: str, files: Mapping[str, Path]) -> StoredPair:
    from ms2hs.raster.dataset import open_dataset, read_pixel_grid
    from ms2hs.raster.header import read_header
    from ms2hs.scenes.formats import open_scene

    for kind, of in ((MULTISPECTRAL, "hyperspectral"), (HYPERSPECTRAL, "multispectral")):
        if kind not in files:
            raise DataError(
                f"{name}: its {of} file has no partner; {name}{kind}.tif is needed. Copy it there, or take both away."
            )
    cube = open_raster(files[HYPERSPECTRAL])
    with open_dataset(str(cube.path)) as file:
        grid = read_pixel_grid(file)
    path = str(files[MULTISPECTRAL])
    with open_dataset(path) as file:
        source = read_header(file, path).tags.get(SOURCE_TAG.lower())
    pair = StoredPair(name, scene, open_scene(path, SceneOptions(source=source)), cube)
    if not _is_same(pair.measured.grid, grid):
        raise DataError(
            f"{name}: its files lie on different grids ({_told(pair.measured.grid)}, {_told(grid)}); both must have "
            "the same pixels. Warp one onto the other (gdalwarp), or make the pairs with `ms2hs pairs`."
        )
    if not pair.has_pixels():
        raise DataError(
            f"{name}: no pixel is known to both sensors, all is cloud or nodata; one is needed. Take the pair out."
        )
    return pair


def _is_same(first: PixelGrid, second: PixelGrid) -> bool:
    """Whether the pixels are the same: corners within a hundredth of a pixel."""
    shapes = (first.height, first.width) == (second.height, second.width)
    if not shapes or first.crs != second.crs:
        return False
    corners = np.array([[0, first.width, 0], [0, 0, first.height], [1, 1, 1]])
    there = np.linalg.solve(first.matrix, second.matrix @ corners)
    return bool(np.abs(there - corners).max() < 0.01)


def _told(grid: PixelGrid) -> str:
    return f"{grid.height} x {grid.width} pixels of {grid.crs} from {grid.transform[2]:.10g}, {grid.transform[5]:.10g}"


def seen_through(matrix: Float32Array | FloatArray, values: Float32Array) -> Float32Array:
    """(band, row, col) `matrix @ values`, where an unknown value spreads to those bands alone that see it."""
    flat = values.reshape(len(values), -1)
    unknown = ~np.isfinite(flat)
    result = np.asarray(matrix @ np.where(unknown, 0, flat), np.float32)
    if unknown.any():
        result[(matrix != 0).astype(np.float32) @ unknown.astype(np.float32) > 0] = np.nan
    return result.reshape(len(matrix), *values.shape[1:])


def files_of_pairs(folder: Path) -> dict[str, dict[str, Path]]:
    """By name of the pair, its files by their kind."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.stem[-3:].lower()
        if path.suffix.lower() in TIFF_SUFFIXES and kind in {MULTISPECTRAL, HYPERSPECTRAL}:
            name = path.relative_to(folder).with_name(path.stem[:-3]).as_posix()
            found.setdefault(name, {})[kind] = path
    return found


def names_of_split(folder: Path, split: str) -> list[str]:
    """Names of the pairs that `splits/<split>.csv` lists; DataError if there is no such list, or nothing in it."""
    listing = folder / "splits" / f"{split}.csv"
    if not listing.is_file():
        known = ", ".join(sorted(path.stem for path in (folder / "splits").glob("*.csv")))
        raise DataError(
            f"{folder}: no split {split!r}; there are {known or 'none (no splits/*.csv)'}. Give one of these, or none "
            "to take every pair."
        )
    lines = [line.split(",")[0].strip().strip('"') for line in listing.read_text(encoding="utf-8-sig").splitlines()]
    names = {_name_in_split(line) for line in lines if line and line != "id"}
    if not names:
        raise DataError(
            f"{listing}: lists no pair; one is needed at least. Few locations fill few splits: take another split, or "
            "make pairs of more locations."
        )
    return sorted(names)


def _name_in_split(line: str) -> str:
    path = PurePosixPath(line.replace("\\", "/"))
    bare = path.with_suffix("") if path.suffix.lower() in TIFF_SUFFIXES else path
    return re.sub(f"({MULTISPECTRAL}|{HYPERSPECTRAL})$", "", str(bare))


def scenes_of(folder: Path) -> dict[str, str]:
    """By name of the pair its scene, as the table says."""
    table = folder / TABLE
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["id"]: row["scene"] for row in rows if row.get("id") and row.get("scene")}


def scene_of(name: str) -> str:
    """The scene of a pair that no table tells of: its subfolder, else its name without what numbers windows."""
    folder, _, stem = name.rpartition("/")
    return folder.split("/")[0] or NUMBERING.sub("", stem)
