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
    multispectral: bool = False
    """Whether the cubes are images of a multispectral sensor, which show no spectra."""


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


SENSOR_LAYOUT = "*.tif whose band names give a sensor, or a *.tif for each band"


def _find_sensor_data(folder: Path) -> list[Path]:
    from ms2hs.datasets.multispectral import layout_of

    return [folder] if layout_of(folder) else []


def _open_sensor_cubes(folder: Path, _paths: Sequence[Path]) -> Sequence[Cube]:
    from ms2hs.datasets.multispectral import open_sensor_cubes

    return open_sensor_cubes(folder)


def _format_of_sensor(source: str) -> DataFormat:
    from ms2hs.datasets.multispectral import open_sensor_cubes

    return DataFormat(
        f"images of {source}",
        SENSOR_LAYOUT,
        lambda folder: [folder],
        lambda folder, _: open_sensor_cubes(folder, source),
    )


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
    DataFormat(
        "BigEarthNet, EuroSAT, fMoW-Sentinel",
        "<patch>/<patch>_B02.tif, <class>/<class>_1.tif, <location>/<location>_1.tif",
        _find_sensor_data,
        _open_sensor_cubes,
        multispectral=True,
    ),
    DataFormat("GeoTIFF or ENVI cubes", "*.tif or *.hdr with wavelengths", find_rasters, open_rasters),
    DataFormat(
        "multispectral images (--source names their sensor)",
        SENSOR_LAYOUT,
        find_rasters,
        _open_sensor_cubes,
        multispectral=True,
    ),
    DataFormat(
        "spectral libraries", "*.csv of id,lon,lat,nm,…, *.npz or *.sli", find_libraries, _one_by_one(open_library)
    ),
)

MAX_LISTED_SCENES = 20
# Cubes with fewer bands, such as shards of a multispectral sensor, show no spectra.
MIN_BANDS_OF_SPECTRUM = 20

# Suffixes of the lists of splits; SpectralEarth's are `.txt`, with one path a line.
SPLIT_SUFFIXES = (".csv", ".txt")
# Suffixes that lists of a split may add to the name of a cube.
FILE_SUFFIXES = {".tif", ".tiff", ".npy", ".npz", ".nc", ".hdr", ".img", ".dat", ".bsq", ".bil", ".bip"}


def open_cubes(
    folder: Path,
    split: str | None = None,
    source: str | None = None,
    *,
    multispectral: bool = False,
    noted: bool = True,
) -> list[Cube]:
    """Every cube of a folder, sorted by name.

    Parameters
    ----------
    folder : in one of `FORMATS`, or with a folder `hyspecnet-11k` inside.
    split : a list in the folder's `splits/`, without its suffix (`SPLIT_SUFFIXES`): `easy/train` or `hard/val` for
        HySpecNet-11k, `enmap_nlcd/train` for SpectralEarth. Each line is the path of a cube within the folder. (The
        `easy` splits of HySpecNet-11k have patches of one tile on both sides; prefer `hard`.)
    source : name of the sensor of multispectral images, which the folder then holds; None: any format, and the files
        name their sensor.
    multispectral : whether the caller takes images of a multispectral sensor, too.
    noted : log a note if cubes lack flag layers.

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
    known = FORMATS if source is None else [_format_of_sensor(source)]
    formats = [data_format for data_format in known if multispectral or not data_format.multispectral]
    for data_format in formats:
        if paths := data_format.find(folder):
            cubes = sorted(data_format.open(folder, paths), key=lambda cube: cube.name)
        if cubes:
            break
    else:
        if not multispectral and (rasters := find_rasters(folder)):
            raise DataError(
                f"{folder}: rasters without wavelengths (the first: {min(rasters)}); each band needs a wavelength tag. "
                "Write the tags, or give the folder of a known data set. (Images of a multispectral sensor are for "
                "`ms2hs pretrain --source`.)"
            )
        content = "is empty" if not any(folder.iterdir()) else "holds no cubes of a known format"
        listed = "; ".join(f"{data_format.name} ({data_format.layout})" for data_format in formats)
        raise DataError(f"{folder} {content}; known: {listed}. Give another folder, or download the data.")
    if twice := sorted({first.name for first, second in pairwise(cubes) if first.name == second.name}):
        raise DataError(f"{folder}: more than one cube is named {', '.join(twice[:3])}. Remove the copies.")
    LOGGER.debug("opened: %s, %d cubes of format %s", folder, len(cubes), data_format.name)
    cubes = cubes if split is None else _select_split(folder, cubes, split)
    if noted:
        note_missing_flags(cubes)
    return cubes


def note_missing_flags(cubes: Sequence[Cube]) -> None:
    """Log how many cubes lack flag layers of their product, whose clouds are thus kept."""
    missing = [(cube.name, names) for cube in cubes if (names := getattr(cube, "missing_flags", ()))]
    if missing:
        name, layers = missing[0]
        LOGGER.info(
            "%d of %d cubes lack flag layers, so pixels that these would hide are kept, such as clouds (the first: %s "
            "lacks %s)",
            *(len(missing), len(cubes), name, ", ".join(layers)),
        )


def _select_split(folder: Path, cubes: list[Cube], split: str) -> list[Cube]:
    wanted = {_name_in_split(line) for line in read_split(folder, split, "cube")}
    chosen = [cube for cube in cubes if cube.name in wanted]
    missing = sorted(wanted - {cube.name for cube in chosen})
    if missing or not wanted:
        raise DataError(
            f"{folder}: {len(missing)} of {len(wanted)} cubes in the split {split} are missing (the first: "
            f"{missing[0] if missing else 'the list is empty'}); a split needs all its cubes. Download the rest, or "
            "shorten the list."
        )
    return chosen


def read_split(folder: Path, split: str, item: str) -> list[str]:
    """The first field of each line of `splits/<split>.csv` or `.txt` that is not empty; DataError if it is missing."""
    splits = folder / "splits"
    path = next((path for suffix in SPLIT_SUFFIXES if (path := splits / f"{split}{suffix}").is_file()), None)
    if path is None:
        lists = (path.relative_to(splits) for suffix in SPLIT_SUFFIXES for path in splits.glob(f"**/*{suffix}"))
        known = sorted(path.with_suffix("").as_posix() for path in lists)
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


def check_spectra(cubes: Sequence[Cube], needs: str, remedy: str) -> None:
    """DataError for a cube with fewer than `MIN_BANDS_OF_SPECTRUM` bands; `needs` says who needs spectra."""
    if few := next((cube for cube in cubes if len(cube.grid) < MIN_BANDS_OF_SPECTRUM), None):
        raise DataError(
            f"{few.name}: {len(few.grid)} bands; {needs}, so that {MIN_BANDS_OF_SPECTRUM} or more are needed. {remedy}"
        )


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
