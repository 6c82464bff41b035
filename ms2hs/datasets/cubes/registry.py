"""Hyperspectral cubes to learn from, whatever the layout of their files: opened by their headers, read by window."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import open_granules
from ms2hs.datasets.cubes.enmap import open_products
from ms2hs.datasets.cubes.hyspecnet import open_hyspecnet, open_spectral_earth
from ms2hs.datasets.cubes.npz import open_archives
from ms2hs.datasets.cubes.raster_cube import open_rasters
from ms2hs.datasets.cubes.shards import open_shards
from ms2hs.errors import DataError, UnknownName
from ms2hs.spectra.spectral_grid import SpectralGrid


class Cube(Protocol):
    """A cube of surface reflectance. It pickles, and keeps no file open: workers may share it."""

    @property
    def name(self) -> str:
        """Unique within its corpus."""

    @property
    def scene(self) -> str:
        """What no split may part: a location, tile, granule or family."""

    @property
    def grid(self) -> SpectralGrid:
        """The bands that `read` gives: usable ones only, in ascending wavelength."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """(band, row, col) reflectance of a window inside the cube, NaN where unknown; no more of the file is read.

        Raises
        ------
        Ms2hsError : the file is gone or damaged.
        ValueError : the window does not lie inside the cube.
        """


class OfScene(Protocol):
    """A cube, or a pair: what a split puts on one side."""

    @property
    def scene(self) -> str:
        """What no split may part."""


AnyOfScene = TypeVar("AnyOfScene", bound=OfScene)

# Tried in this order, and the first that finds cubes is taken: others may lie beside them, such as the quality layers
# of a product. Each gives none where a folder is not of its layout.
LAYOUTS: dict[str, Callable[[Path], Sequence[Cube]]] = {
    "shards made by `ms2hs prepare`": open_shards,
    "HySpecNet-11k (patches/<tile>/<patch>/)": open_hyspecnet,
    "SpectralEarth (enmap/<location>/)": open_spectral_earth,
    "EMIT L2A granules (EMIT_L2A_RFL_*.nc)": open_granules,
    "EnMAP L2A products (ENMAP01-____L2A-*-METADATA.XML)": open_products,
    "cubes in .npz (dn, scale, nodata, wavelength_nm)": open_archives,
    "GeoTIFF or ENVI cubes with wavelengths": open_rasters,
}

# Scenes that a message lists, at most.
NAMED = 20

FILE_SUFFIXES = {".tif", ".tiff", ".npy", ".npz", ".nc", ".hdr", ".img", ".dat", ".bsq", ".bil", ".bip"}


def open_cubes(folder: Path, split: str | None = None) -> list[Cube]:
    """Every cube of a folder, sorted by name.

    Parameters
    ----------
    folder : of one of `LAYOUTS`, or that holds a folder `hyspecnet-11k`.
    split : a list in the folder's `splits/`, without `.csv`: `easy/train` or `hard/val` of HySpecNet-11k, `train` of
        others. Each line is a path of a cube within the folder. (HySpecNet-11k's `easy` has patches of one tile on both
        sides; prefer `hard`.)

    Raises
    ------
    DataError : no folder, of no known layout, empty; no such split, or a split with cubes that are not there; or as
        the layout's own module says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a folder of hyperspectral cubes is needed. Check the path.")
    nested = folder / "hyspecnet-11k"
    folder = nested if nested.is_dir() else folder
    found = next((cubes for layout in LAYOUTS.values() if (cubes := layout(folder))), [])
    if not found:
        content = "is empty" if not any(folder.iterdir()) else "holds no cubes of a known layout"
        raise DataError(f"{folder} {content}; known: {'; '.join(LAYOUTS)}. Give another folder, or download the data.")
    cubes = sorted(found, key=lambda cube: cube.name)
    twice = sorted({one.name for one, another in pairwise(cubes) if one.name == another.name})
    if twice:
        raise DataError(f"{folder}: {', '.join(twice[:3])} there more than once; once is needed. Remove the copies.")
    return cubes if split is None else _of_split(folder, cubes, split)


def _of_split(folder: Path, cubes: list[Cube], split: str) -> list[Cube]:
    listing = folder / "splits" / f"{split}.csv"
    if not listing.is_file():
        known = sorted(
            path.relative_to(folder / "splits").with_suffix("").as_posix() for path in folder.glob("splits/**/*.csv")
        )
        raise DataError(
            f"{folder}: no split {split!r}; there are {', '.join(known) or 'none (no splits/*.csv)'}. Give one of "
            "these, or none to take every cube."
        )
    lines = [line.split(",")[0].strip().strip('"') for line in listing.read_text(encoding="utf-8-sig").splitlines()]
    wanted = {_name_in_split(line) for line in lines if line}
    chosen = [cube for cube in cubes if cube.name in wanted]
    missing = sorted(wanted - {cube.name for cube in chosen})
    if missing or not wanted:
        raise DataError(
            f"{listing}: {len(missing)} of its {len(wanted)} cubes are not there (the first: "
            f"{missing[0] if missing else 'it lists none'}); a split needs all of its own. Download the rest, or "
            "shorten the list."
        )
    return chosen


def _name_in_split(line: str) -> str:
    """The name of the cube at this path; lists of HySpecNet-11k name arrays that it does not ship, `-DATA.npy`."""
    path = PurePosixPath(line.replace("\\", "/"))
    if path.name.endswith("-DATA.npy"):
        return path.name.removesuffix("-DATA.npy")
    bare = path.with_suffix("") if path.suffix.lower() in FILE_SUFFIXES else path
    return str(bare).removeprefix("enmap/").removeprefix("EMIT_L2A_RFL_")


def check_scenes(cubes: Sequence[OfScene], wanted: Sequence[str], hint: str) -> None:
    """UnknownName, with the scenes that there are, unless all that are `wanted` are among them."""
    there = sorted({cube.scene for cube in cubes})
    if absent := sorted(set(wanted) - set(there)):
        raise UnknownName.of("scene", absent[0], there[:NAMED], hint)


def hold_out(cubes: Sequence[AnyOfScene], share: float, seed: int) -> tuple[list[AnyOfScene], list[AnyOfScene]]:
    """Cubes to learn from, and cubes held out, of about `share` of the scenes; no scene is on both sides.

    The same scenes, share and seed give the same split, whatever the order of the cubes. At least one scene is held out
    and one kept, unless the share is 0.

    Raises
    ------
    DataError : fewer than two scenes.
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
