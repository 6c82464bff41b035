"""Sets of pairs: a folder of measured pairs, or pairs simulated from a folder of cubes.

A measured pair is two GeoTIFFs on one pixel grid, `<id>_ms.tif` and `<id>_hs.tif`, with wavelengths on the bands. The
folder may hold `pairs.csv` with columns `id` and `scene`, and `splits/<name>.csv` with an id in each line.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Self

from ms2hs.datasets.cubes.raster_cube import TIFF_SUFFIXES
from ms2hs.datasets.cubes.registry import check_scenes, check_spectra, open_cubes, read_split
from ms2hs.datasets.pairs.pair_types import Pair, SimulatedPair, StoredPair, open_pair
from ms2hs.errors import DataError, Ms2hsError
from ms2hs.spectra.sensors import load_sensor

MULTISPECTRAL, HYPERSPECTRAL = "_ms", "_hs"
PAIRS_TABLE = "pairs.csv"
# The end of an id that numbers a window: `_0012`, `-r00128-c00256`. A date is longer.
WINDOW_NUMBER = re.compile(r"([-_][rcxy]?\d{1,5})+$", re.IGNORECASE)


@dataclass(frozen=True)
class PairSet:
    """Pairs with a title."""

    title: str
    """A few words for reports."""
    pairs: Sequence[Pair]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Reasons why pairs cannot be used, by name."""

    def of_scenes(self, scenes: Sequence[str]) -> Self:
        """The pairs of these scenes, or all pairs if none are given. UnknownName for a scene without pairs."""
        check_scenes(self.pairs, scenes, "Give known scenes.")
        return replace(self, pairs=[pair for pair in self.pairs if not scenes or pair.scene in scenes])


def simulated_pairs(corpus: Path, source: str, target: str | None, split: str | None = None) -> PairSet:
    """Pairs of a simulated source sensor and the bands of `target`, from a folder of cubes.

    `target` is a sensor or a CSV; None = each cube's own bands. Cubes without the source's wavelengths are left out;
    DataError if no cube has them. Other errors as in `open_cubes` and `load_sensor`.
    """
    load_sensor(source)
    grid = None if target is None else load_sensor(target).grid
    title = f"simulated {source} to {target or 'the own bands'}, from {corpus}"
    pairs, left_out = list[Pair](), dict[str, str]()
    cubes = open_cubes(corpus, split)
    check_spectra(cubes, "the bands of a sensor are simulated from spectra", "Use a folder of hyperspectral cubes.")
    for cube in cubes:
        pair = SimulatedPair(cube, source, grid)
        if lacking := pair.unknown_source_bands:
            low, high = cube.grid.wavelength_nm[[0, -1]]
            left_out[cube.name] = (
                f"{cube.name} has {low:.0f}-{high:.0f} nm; the source {source} measures {len(lacking)} bands outside "
                f"({', '.join(lacking[:3])}). Use cubes with its wavelengths, or another --source"
            )
        else:
            pairs.append(pair)
    if not pairs:
        raise DataError(f"{corpus}: {source} cannot be simulated from any cube. {next(iter(left_out.values()))}.")
    return PairSet(title if split is None else f"{title}, split {split}", pairs, left_out)


def open_pairs(folder: Path, split: str | None = None) -> PairSet:
    """The measured pairs of a folder, sorted by name; unusable pairs are left out, each with its reason.

    The scene of a pair is given by `pairs.csv`, else by its subfolder, else by its name without the window's number.

    Parameters
    ----------
    folder : holds `<id>_ms.tif` and `<id>_hs.tif`, written by `ms2hs pairs` or another program.
    split : a list in the folder's `splits/`, without `.csv`; each line is an id or the path of one of its files.

    Raises
    ------
    DataError : the folder, pairs in it or the split are missing, or no pair can be used.
    """
    folder = Path(folder)
    pairs, left_out = _open_usable(folder, split)
    title = f"pairs of {folder}"
    if split is not None:
        title += f", split {split}"
    elif (folder / "splits" / "train.csv").is_file():
        title += ", the training split included"
    return PairSet(title, pairs, left_out)


def _open_usable(folder: Path, split: str | None) -> tuple[list[StoredPair], dict[str, str]]:
    files = _find_files(folder) if folder.is_dir() else {}
    if not files:
        problem = "holds no pairs" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: {problem}; files <id>{MULTISPECTRAL}.tif and <id>{HYPERSPECTRAL}.tif are needed. "
            "Check the path, or make pairs with `ms2hs pairs`."
        )
    names = sorted(files) if split is None else _names_in_split(folder, split)
    scenes = _read_scenes(folder / PAIRS_TABLE)
    pairs: list[StoredPair] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            paths = _check_partners(name, files.get(name, {}))
            pairs.append(open_pair(name, scenes.get(name, scene_by_name(name)), *paths))
        except Ms2hsError as error:
            left_out[name] = str(error)
    if not pairs:
        first, reason = next(iter(left_out.items()))
        raise DataError(
            f"{folder}: none of its {len(left_out)} pairs can be used; at least one is needed. "
            f"The first, {first}: {reason}"
        )
    return pairs, left_out


def _find_files(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each pair, by name of the pair and kind."""
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.stem[-3:].lower()
        if path.suffix.lower() in TIFF_SUFFIXES and kind in {MULTISPECTRAL, HYPERSPECTRAL}:
            name = path.relative_to(folder).with_name(path.stem[:-3]).as_posix()
            files.setdefault(name, {})[kind] = path
    return files


def _check_partners(name: str, files: Mapping[str, Path]) -> tuple[Path, Path]:
    for kind, partner in ((MULTISPECTRAL, "hyperspectral"), (HYPERSPECTRAL, "multispectral")):
        if kind not in files:
            raise DataError(
                f"{name}: the {partner} file has no partner; {name}{kind}.tif is needed. Add it, or remove the other "
                "file."
            )
    return files[MULTISPECTRAL], files[HYPERSPECTRAL]


def _names_in_split(folder: Path, split: str) -> list[str]:
    names = {_name_in_split(line) for line in read_split(folder, split, "pair") if line != "id"}
    if not names:
        raise DataError(
            f"{folder}: splits/{split}.csv lists no pair; at least one is needed. Use another split, or make pairs of "
            "more locations."
        )
    return sorted(names)


def _name_in_split(line: str) -> str:
    path = PurePosixPath(line.replace("\\", "/"))
    bare = path.with_suffix("") if path.suffix.lower() in TIFF_SUFFIXES else path
    return re.sub(f"({MULTISPECTRAL}|{HYPERSPECTRAL})$", "", str(bare))


def _read_scenes(table: Path) -> dict[str, str]:
    """The scene of each pair, by name; empty without a table."""
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        return {row["id"]: row["scene"] for row in csv.DictReader(file) if row.get("id") and row.get("scene")}


def scene_by_name(name: str) -> str:
    """The scene of a pair that is in no table: its subfolder, else its name without the window's number."""
    folder, _, stem = name.rpartition("/")
    return folder.split("/")[0] or WINDOW_NUMBER.sub("", stem)
