"""Where results go: checked before work starts, and put in place only when whole."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ms2hs.errors import OutputError


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a path that cannot be written to, before any work starts.

    Raises
    ------
    OutputError : it exists and `overwrite` is not asked, its directory is missing or cannot be written to.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path} is a directory; a file is needed. Give a name such as {path / 'cube.tif'}.")
    if not folder.is_dir():
        raise OutputError(
            f"there is no directory {folder}; the output needs one that exists. Make it, or go elsewhere."
        )
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; it is replaced only when asked. Pass --overwrite, or give another name.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable for you; the output is written there. Choose another directory.")


def check_space(folder: str | Path, needed_bytes: int, elsewhere: str = "choose another disk") -> None:
    """Refuse to begin what will not fit; `elsewhere` says how to go to another disk.

    Raises
    ------
    OutputError : fewer than `needed_bytes` are free in `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{folder} has {free / 1e9:.2f} GB free; up to {needed_bytes / 1e9:.2f} GB are needed while writing. "
            f"Free some space, {elsewhere}, or convert a part or fewer wavelengths."
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file beside its name, and rename it when whole; what is there is replaced.

    Raises
    ------
    OutputError : it cannot be written; nothing is left then.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"{path} could not be written ({error}); its directory must be writable and have room. "
            "Free some space, or choose another place."
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else who asks for this folder gets it meanwhile; the system ends it with the process, however that ends.

    Raises
    ------
    OutputError : another process has it; the message says which.
    """
    if sys.platform == "win32":  # has no such locks
        yield
        return
    path = folder / ".ms2hs.lock"
    file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: Path) -> int:
    """The descriptor of a file that is there and locked, with its holder written in it."""
    import fcntl  # noqa: PLC0415  not on every system

    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be made ({error}); a directory that can be written to is needed. Give another."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise OutputError(
                f"{path.parent} is being written to by {holder}; one at a time is allowed. Wait until it has ended, or "
                "give another directory."
            ) from None
        except OSError:
            return file  # a file system without locks, as some of clusters
        if _is_still(path, file):
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return file
        os.close(file)


def _is_still(path: Path, file: int) -> bool:
    """Whether a name stands for an opened file: who had it before takes its name away when it ends."""
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def flush(path: Path) -> None:
    """Wait until a file is on the disk, so that its name never stands for less than all of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
