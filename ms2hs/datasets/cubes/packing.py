"""prepare: any corpus of cubes, packed into shards that train without GDAL."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.datasets.cubes.registry import Cube, open_cubes
from ms2hs.datasets.cubes.shards import NODATA, SUFFIX, numbers_of, write_shard
from ms2hs.errors import DataError, OutputError
from ms2hs.files import move_into_place
from ms2hs.progress import Progress

SHARD_BYTES = 256_000_000
# A window of which less is known teaches too little for its size.
FEWEST_KNOWN = 0.1


@dataclass(frozen=True)
class PackingResult:
    """What was packed."""

    paths: list[Path]
    """The shards."""
    windows: int
    left_out: int
    """Windows of which less than `FEWEST_KNOWN` is known."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Cubes of one grid whose windows have one size; a shard holds such windows only."""

    cubes: list[Cube]
    height: int
    width: int

    @property
    def per_shard(self) -> int:
        """How many windows a shard holds."""
        return max(1, SHARD_BYTES // (2 * len(self.cubes[0].grid) * self.height * self.width))


def prepare(
    folder: Path,
    output: Path,
    window: int = 128,
    progress: Progress | None = None,
    split: str | None = None,
    *,
    overwrite: bool = False,
) -> PackingResult:
    """Pack the cubes of a folder into shards, and tell what was left out.

    Cubes are cut into windows side by side; those at the right and lower edge are filled up with nodata. Cubes smaller
    than a window are windows of their own size. Shards get their names when all are written: an interrupted run leaves
    none.

    Parameters
    ----------
    folder, split : as `open_cubes` takes them.
    output : a directory for the shards; it is made if its parent is there.
    window : side in pixels.
    overwrite : replace the shards that are there.

    Raises
    ------
    DataError : as `open_cubes`; or no window is known well enough.
    OutputError : there are shards already, or they cannot be written.
    """
    if window < 1:
        raise ValueError(f"window {window} is below 1")
    cubes = open_cubes(folder, split)
    old = _check_directory(output, overwrite=overwrite)
    packer = _Packer(Path(folder).resolve().name, output, progress, sum(cube.shape[0] for cube in cubes))
    try:
        for group in _groups(cubes, window):
            packer.add(group)
        if not packer.parts:
            raise DataError(
                f"{folder}: {packer.left_out} windows, all with less than {FEWEST_KNOWN:.0%} known pixels; one with "
                "more is needed. Check nodata and flags, or try a smaller --window."
            )
        paths = [path.with_name(f"shard-{number:05d}{SUFFIX}") for number, path in enumerate(packer.parts)]
        for path in set(old) - set(paths):
            path.unlink()
        for part, path in zip(packer.parts, paths, strict=True):
            move_into_place(part, path)
    finally:
        for part in packer.parts:
            part.unlink(missing_ok=True)
    return PackingResult(paths, packer.windows, packer.left_out)


def _check_directory(output: Path, *, overwrite: bool) -> list[Path]:
    """The shards that are there; the directory is made."""
    if output.is_file() or not output.parent.is_dir():
        raise OutputError(f"{output}: not a directory that can be made; its parent must exist. Give another with -o.")
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made ({error.strerror}); give a writable place with -o.") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise OutputError(f"{output} is not writable for you; the shards are written there. Choose another directory.")
    old = sorted(output.glob(f"*{SUFFIX}"))
    if old and not overwrite:
        raise OutputError(
            f"{output} has {len(old)} {SUFFIX} files; they are replaced only when asked. Pass --overwrite, or give an "
            "empty directory."
        )
    return [path for path in old if path.name.startswith("shard-")]


def _groups(cubes: list[Cube], window: int) -> list[_Group]:
    groups: dict[tuple[bytes, bytes, int, int], list[Cube]] = defaultdict(list)
    for cube in cubes:
        height, width = (min(window, size) for size in cube.shape)
        groups[cube.grid.wavelength_nm.tobytes(), cube.grid.fwhm_nm.tobytes(), height, width].append(cube)
    return [_Group(members, height, width) for (_, _, height, width), members in groups.items()]


class _Packer:
    """Writes shards under names of their own, and counts."""

    def __init__(self, source: str, output: Path, progress: Progress | None, rows: int) -> None:
        self.source, self.output, self.progress, self.rows = source, output, progress, rows
        self.parts: list[Path] = []
        self.windows = self.left_out = self.done = 0

    def add(self, group: _Group) -> None:
        """Pack every window of a group."""
        held: list[NDArray[np.int16]] = []
        names: list[tuple[str, str]] = []
        for cube in group.cubes:
            for row, col, dn in self._cut(cube, group):
                held.append(dn)
                names.append((f"{cube.name}@{row},{col}", cube.scene))
                if len(held) == group.per_shard:
                    self._write(group, held, names)
                    held, names = [], []
        if held:
            self._write(group, held, names)

    def _cut(self, cube: Cube, group: _Group) -> Iterator[tuple[int, int, NDArray[np.int16]]]:
        rows, cols = cube.shape
        for row in range(0, rows, group.height):
            height = min(group.height, rows - row)
            for col in range(0, cols, group.width):
                values = cube.read(row, col, height, min(group.width, cols - col))
                # A pixel is known where most of its bands are: some corpora lack single bands everywhere.
                if (np.isfinite(values).mean(axis=0) >= 0.5).mean() < FEWEST_KNOWN:
                    self.left_out += 1
                    continue
                dn = np.full((len(cube.grid), group.height, group.width), NODATA, np.int16)
                dn[:, : values.shape[1], : values.shape[2]] = numbers_of(values)
                yield row, col, dn
            self.done += height
            if self.progress:
                self.progress("prepare", self.done, self.rows)

    def _write(self, group: _Group, held: list[NDArray[np.int16]], names: list[tuple[str, str]]) -> None:
        path = self.output / f".shard-{len(self.parts):05d}.{os.getpid()}.part"
        self.parts.append(path)
        write_shard(path, held, group.cubes[0].grid, names, self.source)
        self.windows += len(held)
