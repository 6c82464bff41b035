"""The work of `ms2hs prepare`: cubes of any format cut into windows and packed into shards, to train without GDAL."""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms2hs.datasets.cubes.registry import Cube, open_cubes
from ms2hs.datasets.cubes.shards import SHARD_NODATA, SHARD_SUFFIX, encode, write_shard
from ms2hs.errors import DataError, OutputError
from ms2hs.files import check_name, file_ids, files_in, move_into_place
from ms2hs.progress import Progress

SHARD_BYTES = 256_000_000
# Windows with a smaller share of known pixels are left out.
MIN_KNOWN_SHARE = 0.1


@dataclass(frozen=True)
class PackingResult:
    """The shards written, and the number of windows in them."""

    paths: list[Path]
    windows: int
    left_out: int
    """Number of windows with a share of known pixels below `MIN_KNOWN_SHARE`."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Cubes of one spectral grid and one window size, which can share a shard."""

    cubes: list[Cube]
    height: int
    width: int

    @property
    def per_shard(self) -> int:
        """Number of windows in a full shard."""
        return max(1, SHARD_BYTES // (2 * len(self.cubes[0].grid) * self.height * self.width))


def prepare(
    folder: Path,
    output: Path,
    window: int = 128,
    progress: Progress | None = None,
    split: str | None = None,
    *,
    source: str | None = None,
    overwrite: bool = False,
) -> PackingResult:
    """Pack the cubes of a folder into shards.

    Cubes are cut into adjacent windows, padded with nodata at the right and lower edge. A cube smaller than a window is
    one window of its own size. Shards are renamed into place at the end, so an interrupted run leaves none.

    Parameters
    ----------
    folder, split, source : as in `open_cubes`; images of a multispectral sensor are packed, too.
    output : directory for the shards; created if its parent exists.
    window : side in pixels.
    overwrite : replace existing shards.

    Raises
    ------
    DataError : as in `open_cubes`, or every window has too few known pixels.
    OutputError : shards exist, or cannot be written.
    """
    if window < 1:
        raise ValueError(f"window {window} is below 1")
    cubes = open_cubes(folder, split, source, multispectral=True)
    is_new = not output.exists()
    old_paths = _check_directory(output, overwrite=overwrite)
    if old_paths and file_ids(old_paths) & file_ids(files_in([folder])):
        raise OutputError(
            f"{output} holds shards that are read from {folder}; an output never replaces an input. Use -o for another "
            "directory."
        )
    packer = _Packer(Path(folder).resolve().name, output, progress, sum(cube.shape[0] for cube in cubes))
    try:
        for group in _groups(cubes, window):
            packer.add(group)
        if not packer.parts:
            raise DataError(
                f"{folder}: {packer.left_out} windows, all with less than {MIN_KNOWN_SHARE:.0%} known pixels; at least "
                "one window with more is needed. Check nodata and flags, or use a smaller --window."
            )
        paths = [path.with_name(f"shard-{number:05d}{SHARD_SUFFIX}") for number, path in enumerate(packer.parts)]
        for path in set(old_paths) - set(paths):
            path.unlink()
        for part, path in zip(packer.parts, paths, strict=True):
            move_into_place(part, path, overwrite=overwrite)
    finally:
        for part in packer.parts:
            part.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # it has shards
                output.rmdir()
    return PackingResult(paths, packer.windows, packer.left_out)


def _check_directory(output: Path, *, overwrite: bool) -> list[Path]:
    """Create the directory, and list the shards in it that will be replaced."""
    if output.is_file() or not output.parent.is_dir():
        raise OutputError(f"{output}: cannot create this directory; its parent must exist. Use -o for another one.")
    if not output.exists():
        check_name(output)
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output}: cannot create this directory ({error.strerror}). Use -o for another one."
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise OutputError(
            f"{output}: no permission to write; the shards are written there. Use -o for another directory."
        )
    old = sorted(output.glob(f"*{SHARD_SUFFIX}"))
    if old and not overwrite:
        raise OutputError(
            f"{output} has {len(old)} {SHARD_SUFFIX} files. Use --overwrite to replace them, or an empty directory."
        )
    return [path for path in old if path.name.startswith("shard-")]


def _groups(cubes: list[Cube], window: int) -> list[_Group]:
    groups: dict[tuple[bytes, bytes, int, int], list[Cube]] = defaultdict(list)
    for cube in cubes:
        height, width = (min(window, size) for size in cube.shape)
        groups[cube.grid.wavelength_nm.tobytes(), cube.grid.fwhm_nm.tobytes(), height, width].append(cube)
    return [_Group(members, height, width) for (_, _, height, width), members in groups.items()]


class _Packer:
    """Writes shards under temporary names, and counts windows."""

    def __init__(self, source: str, output: Path, progress: Progress | None, rows: int) -> None:
        self.source, self.output, self.progress, self.rows = source, output, progress, rows
        self.parts: list[Path] = []
        self.windows = self.left_out = self.rows_done = 0

    def add(self, group: _Group) -> None:
        """Pack every window of a group."""
        windows = (window for cube in group.cubes for window in self._cut(cube, group))
        while shard := list(islice(windows, group.per_shard)):
            self.parts.append(self.output / f".shard-{len(self.parts):05d}.{os.getpid()}.part")
            names = [(name, scene) for name, scene, _ in shard]
            write_shard(self.parts[-1], [dn for *_, dn in shard], group.cubes[0].grid, names, self.source)
            self.windows += len(shard)

    def _cut(self, cube: Cube, group: _Group) -> Iterator[tuple[str, str, NDArray[np.int16]]]:
        """Name, scene and dn (band, row, col) of each window with enough known pixels."""
        rows, cols = cube.shape
        for row in range(0, rows, group.height):
            height = min(group.height, rows - row)
            for col in range(0, cols, group.width):
                values = cube.read(row, col, height, min(group.width, cols - col))
                # A pixel is known if at least half of its bands are: some data sets lack single bands everywhere.
                if (np.isfinite(values).mean(axis=0) >= 0.5).mean() < MIN_KNOWN_SHARE:
                    self.left_out += 1
                    continue
                dn = np.full((len(cube.grid), group.height, group.width), SHARD_NODATA, np.int16)
                dn[:, : values.shape[1], : values.shape[2]] = encode(values)
                yield f"{cube.name}@{row},{col}", cube.scene, dn
            self.rows_done += height
            if self.progress:
                self.progress("prepare", self.rows_done, self.rows)
