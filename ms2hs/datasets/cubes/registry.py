"""The cube formats that can be read, and lists of cubes: opened, selected by split, held out by scene.

To add a format, write a function that finds its files in a folder and one that opens them, and add a line to `FORMATS`.
A cube is opened by its header and read by window.
"""

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import find_granules, open_emit
from ms2hs.datasets.cubes.enmap import find_products, open_enmap
from ms2hs.datasets.cubes.hyspecnet import find_hyspecnet, find_spectral_earth, open_hyspecnet, open_spectral_earth
from ms2hs.datasets.cubes.npz import find_libraries, find_npz, open_library, open_npz
from ms2hs.datasets.cubes.raster_cube import find_rasters, open_rasters
from ms2hs.datasets.cubes.shards import find_shards, open_shard
from ms2hs.datasets.cubes.tanager import find_tanager, open_tanager
from ms2hs.errors import DataError, GridError, UnknownName, input_errors
from ms2hs.spectra.spectral_grid import SpectralGrid

LOGGER = logging.getLogger(__name__)


class SceneData(Protocol):
    """What cubes and pairs have in common."""

    @property
    def name(self) -> str:
        """Unique within its folder."""

    @property
    def scene(self) -> str:
        """The place that a split keeps on one side: a location, tile, granule or file."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""


AnySceneData = TypeVar("AnySceneData", bound=SceneData)


class Cube(SceneData, Protocol):
    """A cube of surface reflectance. It pickles and keeps no file open, so that processes can share it."""

    @property
    def grid(self) -> SpectralGrid:
        """The usable bands, in ascending wavelength."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window, NaN where unknown. Only the window is read, if the format allows.

        Raises
        ------
        Ms2hsError : the file is missing or damaged.
        ValueError : the window does not lie inside the cube.
        """


CubeOpener = Callable[[Path, Sequence[Path]], Sequence[Cube]]


class DataFormat(NamedTuple):
    """A format of cubes: how its files are recognised and opened."""

    name: str
    layout: str
    """Pattern of its files, for messages and help."""
    find: Callable[[Path], Sequence[Path]]
    """Files of the format in a folder; none if the folder has another format."""
    open: CubeOpener
    """The cubes in these files of the folder."""


def _one_by_one(open_file: Callable[[Path], Sequence[Cube]]) -> CubeOpener:
    def open_all(_folder: Path, paths: Sequence[Path]) -> list[Cube]:
        cubes: list[Cube] = []
        for path in paths:
            try:
                with input_errors(str(path), DataError):
                    cubes += open_file(path)
            except GridError as error:
                raise DataError(f"{path}: {error}") from error
        return cubes

    return open_all


# Tried in this order; the first format that has cubes is taken. Other files may lie beside them, such as the quality
# layers of a product.
FORMATS = (
    DataFormat("shards", "*.safetensors written by `ms2hs prepare`", find_shards, _one_by_one(open_shard)),
    DataFormat("HySpecNet-11k", "patches/<tile>/<patch>/", find_hyspecnet, open_hyspecnet),
    DataFormat("SpectralEarth", "enmap/<location>/", find_spectral_earth, open_spectral_earth),
    DataFormat("EMIT L2A granules", "EMIT_L2A_RFL_*.nc", find_granules, _one_by_one(lambda path: [open_emit(path)])),
    DataFormat(
        "EnMAP L2A products", "ENMAP*L2A*-METADATA.XML", find_products, _one_by_one(lambda path: [open_enmap(path)])
    ),
    DataFormat("Tanager products", "*_sr_hdf5.h5", find_tanager, _one_by_one(lambda path: [open_tanager(path)])),
    DataFormat("NumPy cubes", "*.npz with dn, scale, nodata, wavelength_nm", find_npz, _one_by_one(open_npz)),
    DataFormat("GeoTIFF or ENVI cubes", "*.tif or *.hdr with wavelengths", find_rasters, open_rasters),
    DataFormat(
        "spectral libraries", "*.csv of id,lon,lat,nm,…, *.npz or *.sli", find_libraries, _one_by_one(open_library)
    ),
)

MAX_LISTED_SCENES = 20

# Suffixes that lists of a split may add to the name of a cube.
FILE_SUFFIXES = {".tif", ".tiff", ".npy", ".npz", ".nc", ".hdr", ".img", ".dat", ".bsq", ".bil", ".bip"}


def open_cubes(folder: Path, split: str | None = None) -> list[Cube]:
    """Every cube of a folder, sorted by name.

    Parameters
    ----------
    folder : in one of `FORMATS`, or with a folder `hyspecnet-11k` inside.
    split : a list in the folder's `splits/`, without `.csv`: `easy/train` or `hard/val` for HySpecNet-11k. Each line is
        the path of a cube within the folder. (The `easy` splits of HySpecNet-11k have patches of one tile on both
        sides; prefer `hard`.)

    Raises
    ------
    DataError : the folder is missing, empty or in no known format; the split is missing or lists missing cubes; or an
        error of the format's own module.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a folder of hyperspectral cubes is needed. Check the path.")
    nested = folder / "hyspecnet-11k"
    folder = nested if nested.is_dir() else folder
    cubes: list[Cube] = []
    for data_format in FORMATS:
        if paths := data_format.find(folder):
            cubes = sorted(data_format.open(folder, paths), key=lambda cube: cube.name)
        if cubes:
            break
    else:
        content = "is empty" if not any(folder.iterdir()) else "holds no cubes of a known format"
        formats = "; ".join(f"{data_format.name} ({data_format.layout})" for data_format in FORMATS)
        raise DataError(f"{folder} {content}; known: {formats}. Give another folder, or download the data.")
    if twice := sorted({first.name for first, second in pairwise(cubes) if first.name == second.name}):
        raise DataError(f"{folder}: more than one cube is named {', '.join(twice[:3])}. Remove the copies.")
    LOGGER.debug("opened: %s, %d cubes of format %s", folder, len(cubes), data_format.name)
    return cubes if split is None else _select_split(folder, cubes, split)


def _select_split(folder: Path, cubes: list[Cube], split: str) -> list[Cube]:
    wanted = {_name_in_split(line) for line in read_split(folder, split, "cube")}
    chosen = [cube for cube in cubes if cube.name in wanted]
    missing = sorted(wanted - {cube.name for cube in chosen})
    if missing or not wanted:
        raise DataError(
            f"{folder}: {len(missing)} of {len(wanted)} cubes in splits/{split}.csv are missing (the first: "
            f"{missing[0] if missing else 'the list is empty'}); a split needs all its cubes. Download the rest, or "
            "shorten the list."
        )
    return chosen


def read_split(folder: Path, split: str, item: str) -> list[str]:
    """The first field of each line of `splits/<split>.csv` that is not empty; DataError if the file is missing."""
    splits = folder / "splits"
    path = splits / f"{split}.csv"
    if not path.is_file():
        known = sorted(path.relative_to(splits).with_suffix("").as_posix() for path in splits.glob("**/*.csv"))
        raise DataError(
            f"{folder}: no split {split!r}; known: {', '.join(known) or 'none (no splits/*.csv)'}. Give a known split, "
            f"or none to take every {item}."
        )
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [field for line in lines if (field := line.split(",")[0].strip().strip('"'))]


def _name_in_split(line: str) -> str:
    """The name of the cube at this path. Lists of HySpecNet-11k name arrays that are not distributed, `-DATA.npy`."""
    path = PurePosixPath(line.replace("\\", "/"))
    if path.name.endswith("-DATA.npy"):
        return path.name.removesuffix("-DATA.npy")
    bare = path.with_suffix("") if path.suffix.lower() in FILE_SUFFIXES else path
    return str(bare).removeprefix("enmap/").removeprefix("EMIT_L2A_RFL_")


def check_scenes(cubes: Sequence[SceneData], wanted: Sequence[str], hint: str) -> None:
    """UnknownName, with the known scenes, if a wanted scene has no cube or pair."""
    known = sorted({cube.scene for cube in cubes})
    if absent := sorted(set(wanted) - set(known)):
        raise UnknownName.of("scene", absent[0], known[:MAX_LISTED_SCENES], hint)


def hold_out(cubes: Sequence[AnySceneData], share: float, seed: int) -> tuple[list[AnySceneData], list[AnySceneData]]:
    """Cubes to train on, and cubes of about `share` of the scenes held out; no scene is on both sides.

    The same scenes, share and seed give the same split, whatever the order of the cubes. Unless the share is 0, at
    least one scene is on each side; DataError if there are fewer than two scenes.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share {share} is not in [0, 1)")
    scenes = sorted({cube.scene for cube in cubes})
    if share == 0:
        return list(cubes), []
    if len(scenes) < 2:
        raise DataError(
            f"{len(cubes)} cubes of {len(scenes)} scene; at least 2 scenes are needed to hold some out. Give more "
            "data, or hold none out."
        )
    count = min(max(1, round(share * len(scenes))), len(scenes) - 1)
    held = {scenes[i] for i in np.random.default_rng(seed).permutation(len(scenes))[:count]}
    return [cube for cube in cubes if cube.scene not in held], [cube for cube in cubes if cube.scene in held]
