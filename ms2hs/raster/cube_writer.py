"""The interface that every output format of a cube implements, and the names of the files of a cube."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ms2hs.arrays import DnArray
from ms2hs.remote.object_store import OutputPath

# A cube in ENVI's format is two files: pixels, and a header of text.
ENVI_PIXELS, ENVI_HEADER = ".dat", ".hdr"

BlockFiller = Callable[[slice, slice, DnArray], None]
"""Called with bands, columns and an array (band, row, col), into which it writes the stored numbers."""


class CubeWriter(Protocol):
    """Writes the stored numbers of a cube from the top row to the last.

    A context manager: leaving it without an error finishes the file; after an error no file with the final name exists.
    """

    path: Path
    """The finished file, or the folder of a Zarr store."""

    @property
    def block(self) -> int:
        """Height and width of the blocks that `write_blocks` requests, in pixels."""

    @property
    def kept_rows(self) -> int:
        """Rows in the working directory, left by an interrupted writer of the same cube."""

    @property
    def seconds(self) -> dict[str, float]:
        """Thread seconds by stage."""

    def from_row(self, row: int) -> Self:
        """Resume an interrupted run at `row`, at most `kept_rows`; returns the writer."""

    def __enter__(self) -> Self:
        """Create the working files."""

    def write(self, row: int, values: DnArray) -> None:
        """Append rows: (band, row, width) stored numbers; `row` is the first and follows the rows before."""

    def write_blocks(self, row: int, rows: int, fill: BlockFiller) -> None:
        """Append one row of blocks whose numbers `fill` computes, in the writer's threads."""

    def wait(self) -> None:
        """Return when all appended rows are on disk."""

    def finish(self) -> None:
        """Complete the file and rename it to `path`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file if it is not finished and no error was raised; close and remove the working files."""


CubeFormat = Callable[..., CubeWriter]
"""Called like `CogWriter`: path, grid, bands, tags, `encoding`, `home` (a working directory that outlasts an
interruption)."""


def cube_path(path: OutputPath) -> OutputPath:
    """The path that stands for a cube: of `x.hdr` it is `x.dat`, since GDAL opens the pixels and not the header."""
    is_header = path.name.lower().endswith(ENVI_HEADER)
    return path.with_name(f"{path.stem}{ENVI_PIXELS}") if is_header else path


def cube_names(cube: OutputPath) -> list[str]:
    """The names of a cube's files, the cube first: `x.tif`, the folder `x.zarr`, `x.nc`, or `x.dat` and `x.hdr`."""
    is_envi = cube.name.lower().endswith(ENVI_PIXELS)
    return [cube.name, f"{cube.stem}{ENVI_HEADER}"] if is_envi else [cube.name]


def sigma_name(cube: OutputPath) -> str:
    """The name of a cube's uncertainty, beside it in the same format: `x_sigma.tif` of `x.tif`."""
    return f"{cube.stem}_sigma{cube.name.removeprefix(cube.stem)}"
