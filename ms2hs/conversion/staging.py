"""Staging and resuming: results are written in a folder beside the output and moved into place when all are complete.

`cube.tif` is staged in `.cube.tif.part`, locked by one process at a time. The folder holds `stamp`, the digest of
inputs and options; `journal.jsonl`, a line for each finished row of blocks with the statistics so far; a block store
for each cube; and the complete files. A later run with `resume` and the same digest continues after the last row that
is in the journal and in every block store; with another digest it starts over. The cube is moved last: if the cube
exists, the other files exist too. Every worker of a cluster converts in a private folder of its own.
A folder with other files, or a link in its place, is refused: nothing that ms2hs did not write is deleted. Every line
of the journal has a digest; a damaged journal or stamp means that the conversion starts over.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ms2hs.conversion.result_files import (
    placed_files,
    publish_files,
    refuse_link,
    result_names,
    staging_folder,
)
from ms2hs.errors import OutputError
from ms2hs.files import LOCK_NAME, NO_FILES, FileIds, check_output, file_ids, lock_folder, write_error
from ms2hs.raster.container import file_of
from ms2hs.raster.cube_writer import CubeWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.spectral_grid import SpectralGrid

# A line of the journal that an interruption cut short begins like this.
ENTRY_START = b'{"rows": '
STAMP = re.compile(rb"[0-9a-f]{64}")
# Options that do not change the pixels of a result; the provenance has the window's size.
NO_CHOICES = {"overwrite", "resume", "force", "site_date", "site_limit", "site_notes", "window_size"}
NO_CHOICES |= {"href_base", "collection"}
# Files of a writer, by their path in its folder: of a COG, and of the other formats, which use the names of the result.
BLOCK_FILE, STORE_FILE = re.compile(r"level\d+|cog"), re.compile(r"(\w+/)?zarr\.json|\w+/c(/\d+)*")


def conversion_inputs(
    scene: Scene, grid: PixelGrid, spectral: SpectralGrid, options: Mapping[str, Any], provenance: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that determines the result of a conversion: pixels, bands, options and input files."""
    files = [asset.href for asset in (*scene.assets, *scene.quality)]
    files += [str(path) for path in (options["reference"], *options["site"]) if path]
    return {
        "facts": provenance,
        "choices": {name: value for name, value in options.items() if name not in NO_CHOICES},
        "scene": scene,
        "grid": grid,
        "bands": [list(map(str, spectral.names)), spectral.wavelength_nm.tolist()],
        "widths": spectral.fwhm_nm.tolist(),
        "files": {file: _size_and_time(file_of(file)) for file in files},
    }


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """Size and modification time of a file; None for a remote file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


class Staging:
    """The staging folder of one output, locked by one process at a time. A context manager."""

    def __init__(
        self,
        output: Path,
        inputs: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool = False,
        sources: FileIds = NO_FILES,
    ) -> None:
        """Prepare staging; no file is created yet.

        Parameters
        ----------
        output : the file that is moved into place last.
        inputs : everything that determines the result (`conversion_inputs`), as JSON values or with a `str`.
        resume : continue an interrupted conversion of the same inputs, and keep the folder after an interruption.
        overwrite : replace existing files, though none of `sources`.
        """
        self._output, self._resume, self._overwrite, self._sources = output, resume, overwrite, sources
        self._digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = staging_folder(output)
        self._placed: FileIds = NO_FILES
        """Files at their final names that the interrupted conversion placed."""
        self.notes: list[str] = []
        """Messages for the user about resuming."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Create and lock the folder; empty it unless its conversion can be resumed.

        Raises
        ------
        OutputError : the folder cannot be created, holds other files, or another process holds the lock.
        """
        is_new = not os.path.lexists(self.folder)
        try:
            refuse_link(self._output)
            self.folder.mkdir(exist_ok=True)
            self._refuse_other_files()
            with ExitStack() as stack:
                stack.enter_context(lock_folder(self.folder))
                try:
                    self._begin()
                    self._stack = stack.pop_all()
                except BaseException:
                    if not self._has_rows():
                        self._remove_folder()
                    self._stack.close()
                    raise
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be created ({error}); results are staged there. Use a writable directory."
            ) from error
        except KeyboardInterrupt:  # a signal may arrive between any two lines, also before the lock is held
            if is_new:
                self._remove_folder()
            raise
        finally:
            with suppress(OSError):
                self.folder.rmdir()  # an empty folder, after an error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder, unless an interrupted conversion can be resumed from it."""
        with self._stack:
            if kind is None or not self._resume or not self._has_rows():
                self._remove_folder()

    def _begin(self) -> None:
        """Keep the files of the same conversion, or remove all."""
        placed = placed_files(self._output, result_names(self._output, uncertainty=True))
        if self._can_resume():
            self._placed = placed
        else:
            self._refuse_placed(placed)
            self._remove_files()
            self.path("stamp").write_text(self._digest, encoding="utf-8")
        self._journal.touch()

    def path(self, name: str) -> Path:
        """Path of a staged file."""
        return self.folder / name

    def record(self, rows: int, state: dict[str, Any]) -> None:
        """Append to the journal that the first `rows` rows are finished, with the statistics of these rows."""
        entry = {"rows": rows, "state": state}
        try:
            with self._journal.open("a", encoding="utf-8") as journal:
                # The line break comes first: an interruption may have cut the line before.
                journal.write("\n" + json.dumps({**entry, "digest": _entry_digest(entry)}))
        except OSError as error:
            raise write_error(self._journal, error) from error

    def states(self) -> dict[int, dict[str, Any]]:
        """Recorded statistics by number of finished rows; without a last line that was cut short.

        Raises
        ------
        ValueError : a damaged line.
        """
        states = {}
        for line in filter(None, self._journal.read_bytes().split(b"\n")):
            try:
                entry = json.loads(line)
                if entry.pop("digest") != _entry_digest(entry):
                    raise ValueError("a line with another digest")
                states[int(entry["rows"])] = entry["state"]
            except json.JSONDecodeError:
                if not line.startswith(ENTRY_START[: len(line)]):
                    raise
            except (AttributeError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"not a line of a journal: {error}") from error
        return states

    def resume_point(
        self, writers: list[CubeWriter], height: int
    ) -> tuple[int, list[CubeWriter], dict[str, Any] | None]:
        """The row at which to continue (0: a new conversion), writers of incomplete files, and recorded statistics."""
        states = self.states()

        def finished_rows(pending: list[CubeWriter]) -> int:
            kept = min((writer.kept_rows for writer in pending), default=height)
            return max((rows for rows in states if rows <= kept), default=0)

        pending = [writer for writer in writers if not writer.path.exists()]
        row = finished_rows(pending)
        if row < height:  # complete files can only be kept if the others need no more rows
            pending, row = writers, finished_rows(writers)
        if row:
            self.notes.append(f"resuming an interrupted conversion at row {row} of {height}")
        return row, pending, states.get(row)

    def publish(self, names: Iterable[str]) -> None:
        """Move staged files into place, the output last."""
        publish_files(
            [self.path(name) for name in names],
            self._output,
            overwrite=self._overwrite,
            inputs=self._sources,
            own=self._placed,
        )

    @property
    def _journal(self) -> Path:
        return self.path("journal.jsonl")

    def _has_rows(self) -> bool:
        return self._journal.is_file() and self._journal.stat().st_size > 0

    def _can_resume(self) -> bool:
        stamp = self.path("stamp")
        if not self._resume or not stamp.exists():
            return False
        found = stamp.read_bytes()
        if found == self._digest.encode():
            try:
                self.states()
            except (ValueError, OSError):
                self.notes.append(f"{self._output.name}: cannot resume: the journal is damaged. Starting over.")
                return False
            return True
        reason = "inputs or options changed" if STAMP.fullmatch(found) else "the stamp is damaged"
        self.notes.append(f"{self._output.name}: cannot resume: {reason}. Starting over.")
        return False

    def _is_own(self, path: Path) -> bool:
        """Whether ms2hs may have written a file or folder in the staging folder."""
        names = set(result_names(self._output, uncertainty=True))
        if path.is_symlink():
            return False
        if path.is_dir() and path.name in {f"{Path(name).stem}.blocks" for name in names}:
            return all(
                self._is_own(inside)
                or (BLOCK_FILE.fullmatch(inside.name) and inside.is_file() and not inside.is_symlink())
                for inside in path.iterdir()
            )
        if path.is_dir():
            files = [inside for inside in path.rglob("*") if inside.is_symlink() or not inside.is_dir()]
            return path.name in names and all(
                STORE_FILE.match(file.relative_to(path).as_posix()) and not file.is_symlink() for file in files
            )
        name = re.sub(r"^\.(.*)\.\d+\.part$", r"\1", path.name)  # of an atomic write
        return name in {"stamp", "journal.jsonl", LOCK_NAME, *names} and path.is_file()

    def _refuse_placed(self, placed: FileIds) -> None:
        """Refuse to start over where the interrupted conversion had moved files into place."""
        for name in result_names(self._output, uncertainty=True):
            path = self._output.with_name(name)
            if file_ids([path]) & placed:
                check_output(path, overwrite=self._overwrite, inputs=self._sources)

    def _refuse_other_files(self) -> None:
        if other := [path.name for path in self.folder.iterdir() if not self._is_own(path)]:
            raise OutputError(
                f"{self.folder} holds {min(other)!r}, which ms2hs did not write; results are staged in a "
                "directory of their own. Move it elsewhere, or give another output."
            )

    def _remove_files(self) -> None:
        """Remove the files of ms2hs, except the lock."""
        for path in self.folder.iterdir():
            if not self._is_own(path) or path.name == LOCK_NAME:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        with suppress(OSError):  # files of others stay
            self._remove_files()
            self.path(LOCK_NAME).unlink(missing_ok=True)
            self.folder.rmdir()


def _entry_digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:16]
