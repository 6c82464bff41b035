"""Output paths: checks before work starts, atomic writes, and a lock per folder.

Every file of ms2hs is written under a temporary name beside its final name, and renamed when complete: a file with a
final name is complete, also after a crash. This module holds the only renames of the package.
"""

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ms2hs.errors import OutputError

MAX_NAME_BYTES = 150
"""Longest name of a scene: file systems allow 255 bytes, with suffixes and the names of temporary files."""


def file_name(text: str) -> str:
    """An id as a file name: no separators, no control characters, not hidden, at most MAX_NAME_BYTES long.

    A name that differs from its id ends in a part of the checksum of the id: different ids give different names.
    """
    name = re.sub(r"[^\w.+-]", "_", text).lstrip(".")
    if name and name == text and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    checksum = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{checksum}".lstrip("-")


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse an output path that cannot be written to, before any work starts.

    Raises
    ------
    OutputError : the file exists and `overwrite` is False, or its directory is missing or not writable.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path} is a directory; a file is needed. Give a name such as {path / 'cube.tif'}.")
    if not folder.is_dir():
        raise OutputError(f"there is no directory {folder}; an existing one is needed. Create it, or choose another.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; it is replaced only on request. Use --overwrite, or give another name.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; the output is written there. Choose another directory.")


def check_space(folder: str | Path, needed_bytes: int, elsewhere: str = "choose another disk") -> None:
    """Refuse to start a write that does not fit; `elsewhere` says how to choose another disk.

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


@contextmanager
def atomic_write(
    path: Path, *, durable: bool = False, errors: tuple[type[Exception], ...] = (), hint: str = "choose another disk"
) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    An existing file is replaced. After an error neither the temporary file nor a changed `path` remains.

    Parameters
    ----------
    durable : wait until the content is on the disk before renaming, so that also a power cut leaves no partial file.
    errors : exceptions, besides OSError, that mean a failed write.
    hint : what the user can do, besides freeing space.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield temporary
        if durable:
            flush_to_disk(temporary)
        move_into_place(temporary, path)
    except failures as error:
        raise write_error(path, error, hint) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a small file atomically; OutputError if that fails."""
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk, so that it also survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a complete file or folder on the same disk; an existing file is replaced. OSError if that fails."""
    temporary.replace(path)


def write_error(path: Path, error: Exception, hint: str = "choose another disk") -> OutputError:
    """The error for a failed write of `path`."""
    reason = getattr(error, "strerror", None) or error  # strerror lacks the temporary name
    return OutputError(
        f"{path} could not be written ({reason}); a writable directory with free space is needed. Free some space, or "
        f"{hint}."
    )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the only lock on a folder; the operating system releases the lock when the process ends.

    Raises
    ------
    OutputError : another process, named in the message, holds the lock; or the lock file cannot be created.
    """
    path = folder / ".ms2hs.lock"
    lock = FileLock(path, timeout=0.2)  # long enough for a process that is about to end
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"{folder} is being written to by {_lock_holder(path)}; only one at a time is allowed. Wait until it "
            "has ended, or choose another directory."
        ) from None
    except OSError as error:
        raise OutputError(
            f"{path} cannot be created ({error}); a writable directory is needed. Choose another directory."
        ) from error
    try:
        with suppress(OSError):  # Windows locks the content too
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()


def _lock_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"
