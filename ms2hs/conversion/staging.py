"""Results that are being made: in a directory beside their place, and put there only when all of them are whole.

The directory of `scene_enmap.tif` is `.scene_enmap.tif.part`. It holds what has been written, which rows these are, and
what they were made of, so that a later process can go on where one was stopped, if it would make the very same.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ms2hs.errors import OutputError
from ms2hs.files import lock_folder, move_into_place


class Staging:
    """The directory in which one result is made, by one process at a time. A context manager.

    Raises
    ------
    OutputError : it cannot be made, or another process is at work in it.
    """

    def __init__(self, output: Path, facts: dict[str, Any], *, resume: bool) -> None:
        """Nothing is made yet.

        Parameters
        ----------
        output : the most important of the files that will be put in place: it comes last.
        facts : all that decides what the result will be, as JSON has it.
        resume : keep what is there if it was made of the same, and keep what is made if work is stopped.
        """
        self._output = output
        self._resume = resume
        self._stamp = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = directory_of(output)
        """Where the result is made."""
        self.notes: list[str] = []
        """What the user should know of what was there."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make the directory, or take the one that is there."""
        with ExitStack() as stack:
            self._make()
            stack.enter_context(lock_folder(self.folder))
            if not self._is_of_the_same():
                self._begin()
            self._journal().touch()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing, unless work was stopped that may go on."""
        with self._stack:
            if kind is None or not self._resume or not self._journal().stat().st_size:
                shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Where a file of this name is made."""
        return self.folder / name

    def states(self) -> dict[int, dict[str, Any]]:
        """What was noted, by the rows that were made then."""
        found = {}
        for line in self._journal().read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # a line that was cut short
                noted = json.loads(line)
                found[int(noted["rows"])] = noted["state"]
        return found

    def note(self, rows: int, state: dict[str, Any]) -> None:
        """Note that so many rows were made, and what is to be known of them."""
        with self._journal().open("a", encoding="utf-8") as journal:
            journal.write("\n" + json.dumps({"rows": rows, "state": state}))  # behind a line that may be cut short

    def put(self, files: Iterable[Path]) -> None:
        """Give files of the directory their names beside the output, and the output its own, last of all."""
        try:
            for file in files:
                if file.name != self._output.name:
                    move_into_place(file, self._output.with_name(file.name))
            move_into_place(self.place(self._output.name), self._output)
        except OSError as error:
            raise OutputError(
                f"{self._output} could not be put in place ({error}); its directory must be writable. See to it, or "
                "choose another place."
            ) from error

    def _make(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be made ({error}); a result is made there first. Choose a directory that can be "
                "written to."
            ) from error

    def _is_of_the_same(self) -> bool:
        stamp = self.place("stamp")
        if not self._resume or not stamp.exists():
            return False
        if stamp.read_text(encoding="utf-8") == self._stamp:
            return True
        self.notes.append(
            f"{self._output.name} was begun with another scene, model or choice, and is begun again: nothing of it fits"
        )
        return False

    def _begin(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not path.name.startswith("."):  # the lock
                path.unlink()
        self.place("stamp").write_text(self._stamp, encoding="utf-8")

    def _journal(self) -> Path:
        return self.place("journal.jsonl")


def directory_of(output: Path) -> Path:
    """Where a result that is not whole is made."""
    return output.with_name(f".{output.name}.part")
