"""Folders of pairs, written: two GeoTIFFs a pair, a table, and lists that split them by location."""

import csv
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.pairs.pair_types import HYPERSPECTRAL, MULTISPECTRAL, SOURCE_TAG, TABLE
from ms2hs.errors import OutputError
from ms2hs.files import move_into_place
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

BANDS_TABLE = "bands.csv"
SPLITS = ("train", "val", "test")
HELD_SHARE = 0.15
"""Of the locations, for `val` and again for `test`."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A window that both sensors saw."""

    place: PixelGrid
    source: SpectralGrid
    measured: Float32Array
    """(source band, row, col) reflectance."""
    target: SpectralGrid
    truth: Float32Array
    """(target band, row, col) reflectance, NaN where unknown."""
    valid: BoolArray
    """(row, col) True where both sensors saw the ground."""


def split_locations(locations: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Which of the locations are in which split: 70 % train, 15 % val, 15 % test; one at least from three on.

    One location is train's; of two, one is train's and one is test's. The same locations and seed give the same splits.
    """
    drawn = [sorted(set(locations))[i] for i in np.random.default_rng(seed).permutation(len(set(locations)))]
    held = max(1, round(HELD_SHARE * len(drawn)))
    test = held if len(drawn) > 1 else 0
    val = held if len(drawn) > 2 else 0
    parts = {"test": drawn[:test], "val": drawn[test : test + val], "train": drawn[test + val :]}
    return {split: sorted(parts[split]) for split in SPLITS}


class PairWriter:
    """Writes a folder of pairs beside its name, and renames it when it is whole; an interrupted run leaves nothing.

    A context manager.

    Raises
    ------
    OutputError : from `__enter__`, the place cannot be written to, or holds something else than pairs, or pairs without
        `overwrite`; later, a write failed.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self._overwrite = overwrite
        self._beside: Path | None = None

    def __enter__(self) -> Self:
        """Check the place, and make a folder beside it."""
        check_folder(self.folder, overwrite=self._overwrite)
        try:
            self._beside = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.absolute().parent))
            self._home.mkdir()
        except OSError as error:
            raise OutputError(
                f"{self.folder.parent} cannot be written to ({error.strerror}); the pairs are written there. "
                "Choose another directory with -o."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the folder in place, or leave nothing."""
        try:
            if kind is None:
                self._replace()
        finally:
            shutil.rmtree(self._part_of(""), ignore_errors=True)

    @property
    def _home(self) -> Path:
        """The folder that gets the name."""
        return self._part_of("pairs")

    def _part_of(self, name: str) -> Path:
        if self._beside is None:
            raise ValueError("the writer is not open; use it in a with statement")
        return self._beside / name

    def write_pair(self, name: str, cut: Cut, sensor: str, tags: Mapping[str, str]) -> None:
        """Write the two files of a pair: what is not valid is nodata in both.

        Parameters
        ----------
        sensor : the multispectral one, by which the file's bands are known again.
        tags : of both files: where they come from.
        """
        sides: tuple[tuple[str, SpectralGrid, Float32Array, dict[str, str]], ...] = (
            (MULTISPECTRAL, cut.source, cut.measured, {SOURCE_TAG: sensor}),
            (HYPERSPECTRAL, cut.target, cut.truth, {}),
        )
        for kind, grid, values, own in sides:
            with CogWriter(self._home / f"{name}{kind}.tif", cut.place, grid, dict(tags) | own) as writer:
                writer.write(0, quantise(values, cut.valid))

    def remove_pairs(self, names: Sequence[str]) -> None:
        """Take back what was written of these."""
        for name in names:
            for kind in (MULTISPECTRAL, HYPERSPECTRAL):
                (self._home / f"{name}{kind}.tif").unlink(missing_ok=True)

    def write_tables(
        self,
        pairs: Sequence[Mapping[str, Any]],
        bands: Sequence[Mapping[str, Any]],
        splits: Mapping[str, Sequence[str]],
    ) -> None:
        """Write `pairs.csv` and `bands.csv`, a row each, and `splits/`, the ids of each split's pairs."""
        _write_csv(self._home / TABLE, pairs)
        _write_csv(self._home / BANDS_TABLE, bands)
        (self._home / "splits").mkdir()
        for split, names in splits.items():
            _write_text(self._home / "splits" / f"{split}.csv", "".join(f"{name}\n" for name in names))

    def _replace(self) -> None:
        try:
            if self.folder.exists():
                move_into_place(self.folder, self._part_of("old"))
            move_into_place(self._home, self.folder)
        except OSError as error:
            raise OutputError(
                f"{self.folder} could not be put in place ({error}). Choose another directory."
            ) from error


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """OutputError unless pairs may be written to `folder`: nothing is there, or nothing but pairs, and `overwrite`."""
    if folder.is_file() or not folder.absolute().parent.is_dir():
        raise OutputError(f"{folder}: not a directory that can be made; its parent must exist. Give another with -o.")
    if not os.access(folder.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder.absolute().parent} is not writable for you; the pairs are written there. "
            "Choose another directory."
        )
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    strange = [path.name for path in inside if not _is_ours(path)]
    if strange or (inside and not (folder / TABLE).is_file()):
        raise OutputError(
            f"{folder} holds other things than pairs ({(strange or [inside[0].name])[0]}); an empty or a new directory "
            "is needed. Give another with -o."
        )
    if inside and not overwrite:
        raise OutputError(
            f"{folder} has pairs in it; they are replaced only when asked. Pass --overwrite, or give a new directory."
        )


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return path.name == "splits" and all(inside.suffix == ".csv" for inside in path.iterdir())
    name = path.name.removesuffix(".aux.xml")
    return name in {TABLE, BANDS_TABLE} or name.endswith((f"{MULTISPECTRAL}.tif", f"{HYPERSPECTRAL}.tif"))


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"{path.name} could not be written ({error}). Free some space, or go elsewhere.") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path.name} could not be written ({error}). Free some space, or go elsewhere.") from error
