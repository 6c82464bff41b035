"""The interface that every output format of a cube implements."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ms2hs.arrays import DnArray

BlockFiller = Callable[[slice, slice, DnArray], None]
"""Called with bands, columns and an array (band, row, col), into which it writes the stored numbers."""


class CubeWriter(Protocol):
    """Writes the stored numbers of a cube from the top row to the last.

    A context manager: leaving it without an error finishes the file; after an error no file with the final name exists.
    """

    path: Path
    """The finished file."""

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
"""Called like `CogWriter`: path, grid, bands, tags, and `home`, a working directory that outlasts an interruption."""
