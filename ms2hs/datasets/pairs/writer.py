"""Writes folders of pairs: two GeoTIFFs for each pair, tables, and splits by location (layout: `pair_set`)."""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms2hs.arrays import BoolArray, Float32Array
from ms2hs.datasets.pairs.pair_set import HYPERSPECTRAL, MULTISPECTRAL, PAIRS_TABLE
from ms2hs.datasets.pairs.pair_types import SENSOR_TAG
from ms2hs.errors import OutputError
from ms2hs.files import NO_FILES, FileIds, check_name, file_ids, files_in, move_into_place, write_bytes
from ms2hs.raster.cog.encoding import quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.spectra.spectral_grid import SpectralGrid

BANDS_TABLE = "bands.csv"
# Share of the locations in `val`, and the same again in `test`.
HELD_OUT_SHARE = 0.15

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PairWindow:
    """The reflectance of both sensors in one window."""

    pixel_grid: PixelGrid
    source: SpectralGrid
    measured: Float32Array
    """(source band, row, col) reflectance."""
    target: SpectralGrid
    truth: Float32Array
    """(target band, row, col) reflectance, NaN where unknown."""
    valid: BoolArray
    """(row, col) True where both sensors measured the ground."""


def split_locations(locations: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """The locations in each split: 70 % train, 15 % val and 15 % test, each at least one.

    A single location is in train; two locations are in train and test. The same locations and seed give the same
    splits.
    """
    names = sorted(set(locations))
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held = max(1, round(HELD_OUT_SHARE * len(drawn)))
    test = held if len(drawn) > 1 else 0
    val = held if len(drawn) > 2 else 0
    parts = {"train": drawn[test + val :], "val": drawn[test : test + val], "test": drawn[:test]}
    return {split: sorted(names) for split, names in parts.items()}


@contextmanager
def pair_writer(folder: Path, *, overwrite: bool = False, inputs: FileIds = NO_FILES) -> Iterator["PairWriter"]:
    """Yield the writer of a temporary folder, and rename that folder to `folder` at the end; an error leaves nothing.

    Raises
    ------
    OutputError : as in `check_folder`, or a write failed.
    """
    check_folder(folder, overwrite=overwrite, inputs=inputs)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    except OSError as error:
        raise OutputError(
            f"{folder.parent}: cannot write the pairs here ({error.strerror}). Use -o for another directory."
        ) from error
    try:
        new = temporary / "pairs"
        new.mkdir()
        yield PairWriter(new)
        check_folder(folder, overwrite=overwrite, inputs=inputs)  # it may hold other files by now
        try:
            if folder.exists():
                move_into_place(folder, temporary / "old")
            move_into_place(new, folder)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot rename the written pairs ({error}). Use -o for another directory."
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class PairWriter:
    """Writes pairs and their tables into a folder."""

    folder: Path

    def write_pair(self, name: str, window: PairWindow, sensor: str, tags: Mapping[str, str]) -> None:
        """Write the two files of a pair; pixels that are not valid are nodata in both.

        Parameters
        ----------
        sensor : name of the multispectral sensor, written as a tag.
        tags : provenance, written into both files.
        """
        for kind, grid, values, own in (
            (MULTISPECTRAL, window.source, window.measured, {SENSOR_TAG: sensor}),
            (HYPERSPECTRAL, window.target, window.truth, dict[str, str]()),
        ):
            with CogWriter(self.folder / f"{name}{kind}.tif", window.pixel_grid, grid, dict(tags) | own) as writer:
                writer.write(0, quantise(values, window.valid))

    def remove_pairs(self, names: Sequence[str]) -> None:
        """Remove the files of these pairs."""
        for name in names:
            for kind in (MULTISPECTRAL, HYPERSPECTRAL):
                (self.folder / f"{name}{kind}.tif").unlink(missing_ok=True)

    def write_tables(self, pairs: Sequence[Row], bands: Sequence[Row], splits: Mapping[str, Sequence[str]]) -> None:
        """Write the rows of `pairs.csv` and `bands.csv`, and the ids of each split to `splits/`."""
        _write_csv(self.folder / PAIRS_TABLE, pairs)
        _write_csv(self.folder / BANDS_TABLE, bands)
        folder = self.folder / "splits"
        folder.mkdir()
        for split, names in splits.items():
            write_bytes(folder / f"{split}.csv", "".join(f"{name}\n" for name in names).encode())


def check_folder(folder: Path, *, overwrite: bool, inputs: FileIds = NO_FILES) -> None:
    """Refuse a folder that pairs cannot be written to, before any work starts.

    OutputError if the parent is missing or not writable, or the folder holds other files, inputs, or pairs and not
    `overwrite`.
    """
    parent = folder.absolute().parent
    if not folder.exists():
        check_name(folder)
    if folder.is_file() or not parent.is_dir():
        raise OutputError(f"{folder}: cannot create this directory; its parent must exist. Use -o for another one.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{parent}: no permission to write; the pairs are written there. Use -o for another directory."
        )
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = [path.name for path in inside if not _is_part_of_pairs(path)]
    if foreign or (inside and not (folder / PAIRS_TABLE).is_file()):
        raise OutputError(
            f"{folder} holds files other than pairs ({(foreign or [inside[0].name])[0]}); an empty or new directory is "
            "needed. Use -o for another one."
        )
    if inside and file_ids(files_in([folder])) & inputs:
        raise OutputError(f"{folder} holds inputs of this command; none is replaced. Use -o for another directory.")
    if inside and not overwrite:
        raise OutputError(f"{folder} holds pairs. Use --overwrite to replace them, or give a new directory.")


def _is_part_of_pairs(path: Path) -> bool:
    if path.is_dir():
        return path.name == "splits" and all(inside.suffix == ".csv" for inside in path.iterdir())
    name = path.name.removesuffix(".aux.xml")
    return name in {PAIRS_TABLE, BANDS_TABLE} or name.endswith((f"{MULTISPECTRAL}.tif", f"{HYPERSPECTRAL}.tif"))


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
