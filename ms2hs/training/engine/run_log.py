"""The log of a training run: JSON lines, one for each logged step."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from ms2hs.errors import OutputError
from ms2hs.files import write_bytes

Entry = Mapping[str, float | None]


class RunLog:
    """A log file; each entry has a `step`."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Open the log, and drop the entries after `last_step`, whose steps are taken again.

        Raises
        ------
        OutputError : the file cannot be written.
        """
        self.path = path
        self.entries = [entry for entry in _entries(path) if (entry["step"] or 0) <= last_step]
        write_bytes(path, "".join(json.dumps(entry) + "\n" for entry in self.entries).encode())

    @property
    def elapsed_s(self) -> float:
        """Training time at the last entry, in seconds."""
        return (self.entries[-1].get("elapsed_s") or 0.0) if self.entries else 0.0

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on disk when this returns.

        Raises
        ------
        OutputError : the file cannot be written.
        """
        self.entries.append(entry)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror}); it is the log of the run. Free some space, and "
                "continue from the last checkpoint with --resume."
            ) from error


class Clock:
    """Times for the log, starting at `done` steps and `elapsed_s` seconds."""

    def __init__(self, done: int, elapsed_s: float) -> None:
        self.done, self.last = done, time.monotonic()
        self.start = self.last - elapsed_s

    def read(self, done: int, batch: int) -> dict[str, float | None]:
        """Windows per second since the last reading, and seconds since the first step of the run."""
        now = time.monotonic()
        rate = (done - self.done) * batch / max(now - self.last, 1e-9)
        self.done, self.last = done, now
        return {"windows_per_s": round(rate, 3), "elapsed_s": round(now - self.start, 3)}


def _entries(path: Path) -> list[Entry]:
    """The complete entries of a file; a killed run may have left half a line."""
    entries: list[Entry] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            break
        if not isinstance(entry, dict) or not isinstance(entry.get("step", ""), int | None):
            break
        if not isinstance(entry.get("elapsed_s"), int | float | None):
            break
        entries.append(entry)
    return entries
