"""Staging and resuming: results are written in a folder beside the output and moved into place when all are complete.

`cube.tif` is staged in `.cube.tif.part`, locked by one process at a time. The folder holds `stamp`, the digest of
inputs and options; `journal.jsonl`, a line for each finished row of blocks with the statistics so far; a block store
for each cube; and the complete files. A later run with `resume` and the same digest continues after the last row that
is in the journal and in every block store; with another digest it starts over. The cube is moved last: if the cube
exists, the other files exist too. Every worker of a cluster converts in a private folder of its own.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ms2hs.errors import OutputError
from ms2hs.files import check_output, lock_folder, move_into_place
from ms2hs.raster.container import file_of
from ms2hs.raster.cube_writer import CubeWriter
from ms2hs.raster.pixel_grid import PixelGrid
from ms2hs.remote.object_store import ObjectStore, OutputPath, RemotePath
from ms2hs.scenes.scene import Scene
from ms2hs.spectra.spectral_grid import SpectralGrid


def staging_folder(output: Path) -> Path:
    """The folder in which an output is staged."""
    return output.with_name(f".{output.name}.part")


def sigma_name(cube: OutputPath) -> str:
    """File name of a cube's uncertainty."""
    return f"{cube.stem}_sigma.tif"


def is_complete(output: OutputPath) -> bool:
    """Whether a local output exists and no conversion to it was interrupted."""
    return isinstance(output, Path) and output.exists() and not staging_folder(output).exists()


def check_new_output(
    cube: OutputPath, *, uncertainty: bool, overwrite: bool, resume: bool, store: ObjectStore | None = None
) -> None:
    """Refuse an output that cannot be written, before any work starts; `store` is its folder, if already open.

    Raises
    ------
    OutputError : files exist and may not be replaced, or the folder cannot be written to.
    CredentialsError : the store refuses the credentials.
    """
    names = [cube.name, sigma_name(cube)] if uncertainty else [cube.name]
    if isinstance(cube, RemotePath):
        if resume:
            raise OutputError(
                f"{cube}: --resume needs an output on a local disk, and this output is in an object store. Use a local "
                "directory, or omit --resume."
            )
        store = store or ObjectStore(cube.parent)
        store.check([*names, f"{cube.stem}.png", f"{cube.stem}.json"], overwrite=overwrite)
        return
    may_replace = overwrite or (resume and staging_folder(cube).exists())
    for name in names:
        check_output(cube.with_name(name), overwrite=may_replace)


def conversion_inputs(
    scene: Scene, grid: PixelGrid, spectral: SpectralGrid, options: Mapping[str, Any], provenance: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that determines the result of a conversion: pixels, bands, options and input files."""
    files = [asset.href for asset in (*scene.assets, *scene.quality)]
    files += [str(path) for path in (options["reference"], options["site"]) if path]
    return {
        "facts": provenance,
        "choices": {name: value for name, value in options.items() if name not in {"overwrite", "resume", "force"}},
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

    def __init__(self, output: Path, inputs: dict[str, Any], *, resume: bool) -> None:
        """Prepare staging; no file is created yet.

        Parameters
        ----------
        output : the file that is moved into place last.
        inputs : everything that determines the result (`conversion_inputs`), as JSON values or with a `str`.
        resume : continue an interrupted conversion of the same inputs, and keep the folder after an interruption.
        """
        self._output, self._resume = output, resume
        self._digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = staging_folder(output)
        self.notes: list[str] = []
        """Messages for the user about resuming."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Create and lock the folder; empty it unless its conversion can be resumed.

        Raises
        ------
        OutputError : the folder cannot be created, or another process holds the lock.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be created ({error}); results are staged there. Use a writable directory."
            ) from error
        with ExitStack() as stack:
            stack.enter_context(lock_folder(self.folder))
            if not self._can_resume():
                self._empty()
            self._journal.touch()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder, unless an interrupted conversion can be resumed from it."""
        with self._stack:
            if kind is None or not self._resume or not self._journal.stat().st_size:
                shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Path of a staged file."""
        return self.folder / name

    def record(self, rows: int, state: dict[str, Any]) -> None:
        """Append to the journal that the first `rows` rows are finished, with the statistics of these rows."""
        with self._journal.open("a", encoding="utf-8") as journal:
            # The line break comes first: an interruption may have cut the line before.
            journal.write("\n" + json.dumps({"rows": rows, "state": state}))

    def states(self) -> dict[int, dict[str, Any]]:
        """Recorded statistics by number of finished rows."""
        states = {}
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a line that was cut short
                entry = json.loads(line)
                states[int(entry["rows"])] = entry["state"]
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
        publish_files((self.path(name) for name in names), self._output)

    @property
    def _journal(self) -> Path:
        return self.path("journal.jsonl")

    def _can_resume(self) -> bool:
        stamp = self.path("stamp")
        if not self._resume or not stamp.exists():
            return False
        if stamp.read_text(encoding="utf-8") == self._digest:
            return True
        self.notes.append(f"{self._output.name}: cannot resume: inputs or options changed. Starting over.")
        return False

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.name.startswith("."):  # the lock
                path.unlink()
        self.path("stamp").write_text(self._digest, encoding="utf-8")


def publish_files(files: Iterable[Path], output: Path) -> None:
    """Rename files of the same disk to their names beside `output`; the file with the name of `output` comes last.

    Raises
    ------
    OutputError : a file cannot be renamed.
    """
    try:
        for file in sorted(files, key=lambda file: file.name == output.name):
            move_into_place(file, output.with_name(file.name))
    except OSError as error:
        raise OutputError(
            f"{output} cannot be moved into place ({error}); its directory must be writable. Change its permissions, "
            "or use another directory."
        ) from error


@contextmanager
def private_folder(output: OutputPath, run_id: str) -> Iterator[Path]:
    """Yield a folder for one attempt of a worker; for a local output, on the same disk. It is removed afterwards."""
    folder = Path(tempfile.mkdtemp(dir=_private_parent(output), prefix=f".{output.stem}.{run_id}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_private_folders(output: OutputPath, run_id: str) -> None:
    """Remove the folders of a run that killed workers left."""
    for folder in _private_parent(output).glob(f".*.{run_id}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def _private_parent(output: OutputPath) -> Path:
    return Path(tempfile.gettempdir()) if isinstance(output, RemotePath) else output.parent
