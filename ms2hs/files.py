"""Output paths: names from ids, checks before work starts, atomic writes, and a lock per folder.

Every file of ms2hs is written under a temporary name beside its final name, and moved into place when complete: a file
with a final name is complete, also after a crash. This module holds the only renames of the package.
A path is checked twice, before work starts and when its file is moved into place. An existing file is replaced only
with `overwrite`, and never if it is an input: the two are compared by device and inode, not by name. Without
`overwrite` the move is a hard link, which fails if a file of that name was created in the meantime.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ms2hs.errors import OutputError

LOGGER = logging.getLogger(__name__)
MAX_NAME_BYTES = 150
"""Longest name of a scene: file systems allow 255 bytes, with suffixes and the names of temporary files."""


# Names that Windows cannot hold: devices, also with a suffix; letters; and a dot or blank at the end
# (learn.microsoft.com/windows/win32/fileio/naming-a-file).
DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)
LETTERS = '< > : " | ? * \\'
NO_NAME = re.compile(rf"[{re.escape(LETTERS.replace(' ', ''))}\x00-\x1f]")


def file_name(text: str) -> str:
    """An id as a file name: no separators, no control characters, not hidden, at most MAX_NAME_BYTES long.

    A name that differs from its id ends in a part of the checksum of the id: different ids give different names.
    """
    name = re.sub(r"[^\w.+ (),@=~\u00a1-\U0010ffff-]", "_", text)
    name = _portable("".join(letter if letter.isprintable() else "_" for letter in name).lstrip(". "))
    if name and name == text and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    checksum = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{checksum}".lstrip("-")


def _portable(name: str) -> str:
    """The name, changed where Windows cannot hold it."""
    name = NO_NAME.sub("_", name).rstrip(". ")
    return f"_{name}" if DEVICE.fullmatch(name) else name


def check_name(path: Path) -> None:
    """Refuse the name of a new file or folder that Windows cannot hold: a result is copied to other systems.

    Raises
    ------
    OutputError : a device such as NUL, also with a suffix; one of the letters `<>:"|?*` and backslash; or a dot or
        blank at the end.
    """
    portable = _portable(path.name)
    if path.name not in {"", "..", portable}:
        raise OutputError(
            f"{path}: Windows cannot hold the name {path.name!r}; names without {LETTERS}, without a dot or blank at "
            "the end, and not of a device such as CON or NUL are allowed. Use for example "
            f"{path.with_name(portable or 'cube')}."
        )


FileIds = frozenset[tuple[int, int]]
"""Identities of files: device and inode."""
NO_FILES: FileIds = frozenset()
LOCK_NAME = ".ms2hs.lock"
STORE_SUFFIX = ".zarr"
"""Suffix of a Zarr store, a folder that counts as one file."""
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
"""Files of which one lies in every Zarr store."""


def read_json(path: Path, max_bytes: int) -> Any:  # noqa: ANN401 - any JSON
    """The JSON document in a file; OSError, ValueError or RecursionError if it cannot be read, or is too long."""
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    LOGGER.debug("read: %s, %s bytes", path, f"{len(content):,}")
    if len(content) > max_bytes:
        raise ValueError(f"more than {max_bytes / 1e6:.0f} MB")
    return json.loads(content)


def file_ids(paths: Iterable[str | Path]) -> FileIds:
    """The identities of these files; missing files have none."""
    ids = set()
    for path in paths:
        with suppress(OSError, ValueError):  # ValueError: a name with a zero byte
            status = Path(path).stat()
            ids.add((status.st_dev, status.st_ino))
    return frozenset(ids)


def files_in(paths: Iterable[str | Path | None]) -> Iterator[Path]:
    """The given files, and all files in the given folders; None and names of no file are left out."""
    for path in (Path(path) for path in paths if path is not None):
        with suppress(OSError):  # a name may be too long for a file
            yield from (inside for inside in path.rglob("*") if inside.is_file()) if path.is_dir() else [path]


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store, which counts as one file."""
    return path.is_dir() and any((path / name).is_file() for name in ZARR_FILES)


def check_output(path: str | Path, *, overwrite: bool = False, inputs: FileIds = NO_FILES) -> None:
    """Refuse an output path that cannot be written to, before any work starts.

    Parameters
    ----------
    path : of a file, or of a Zarr store.
    inputs : files that the output must not replace, also with `overwrite`.

    Raises
    ------
    OutputError : the file exists and `overwrite` is False, or is an input, a device or a pipe; its directory is
        missing or not writable; or Windows cannot hold its name.
    """
    path = Path(path)
    check_name(path)
    folder = path.parent
    try:
        if path.is_dir() and not (path.suffix.lower() == STORE_SUFFIX and is_store(path)):
            raise OutputError(f"{path} is a directory; a file is needed. Give a name such as {path / 'cube.tif'}.")
        if path.suffix.lower() == STORE_SUFFIX and path.is_file():
            raise OutputError(f"{path} is a file; a Zarr store is a directory. Remove it, or give another name.")
        if not folder.is_dir():
            raise OutputError(
                f"there is no directory {folder}; an existing one is needed. Create it, or choose another."
            )
        with suppress(FileNotFoundError):
            _temporary(path).lstat()  # OSError: the name is too long
        _check_replaceable(path, overwrite=overwrite, inputs=inputs)
    except OSError as error:
        raise OutputError(
            f"{path}: not a possible output ({error.strerror}); a name of up to 240 bytes in a directory that can be "
            "read is needed. Give another name."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} is not writable; the output is written there. Choose another directory.")


def _check_replaceable(path: Path, *, overwrite: bool, inputs: FileIds) -> None:
    """Refuse to replace an input, a device, a pipe, or without `overwrite` any file."""
    if not os.path.lexists(path):
        return
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise OutputError(f"{path} is a device or a pipe; outputs are regular files. Give another name.")
        if file_ids([path, *files_in([path])]) & inputs:
            raise OutputError(
                f"{path} is an input of this command; an output never replaces an input. Give another name or "
                "directory."
            )
    if not overwrite:
        raise OutputError(f"{path} exists; it is replaced only on request. Use --overwrite, or give another name.")


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
    path: Path,
    *,
    durable: bool = False,
    overwrite: bool = True,
    inputs: FileIds = NO_FILES,
    errors: tuple[type[Exception], ...] = (),
    hint: str = "choose another disk",
) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it to `path` when the block ends without an error.

    After an error neither the temporary file nor a changed `path` remains.

    Parameters
    ----------
    durable : wait until the content is on the disk before moving, so that also a power cut leaves no partial file.
    overwrite, inputs : as in `move_into_place`.
    errors : exceptions, besides OSError, that mean a failed write.
    hint : what the user can do, besides freeing space.

    Raises
    ------
    OutputError : the file cannot be written, or must not be replaced.
    """
    temporary = _temporary(path)
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        if temporary.is_symlink():  # writing would follow the link
            temporary.unlink()
        yield temporary
        if durable:
            flush_to_disk(temporary)
        move_into_place(temporary, path, overwrite=overwrite, inputs=inputs)
    except failures as error:
        raise write_error(path, error, hint) from error
    finally:
        with suppress(OSError):  # the first error is raised
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_bytes(
    path: Path, content: bytes, *, durable: bool = False, overwrite: bool = True, inputs: FileIds = NO_FILES
) -> None:
    """Write a small file atomically; parameters and errors as in `atomic_write`."""
    with atomic_write(path, durable=durable, overwrite=overwrite, inputs=inputs) as temporary:
        temporary.write_bytes(content)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk, so that it also survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def move_into_place(temporary: Path, path: Path, *, overwrite: bool = True, inputs: FileIds = NO_FILES) -> None:
    """Rename a complete file or folder on the same disk; OSError if that fails.

    Parameters
    ----------
    overwrite : replace an existing file, or a Zarr store by a folder; False: also a file that is created at the same
        moment stays.
    inputs : files that are not replaced, also with `overwrite`.

    Raises
    ------
    OutputError : `path` exists and must not be replaced.
    """
    _check_replaceable(path, overwrite=overwrite or temporary.is_dir(), inputs=inputs)
    if overwrite and temporary.is_dir() and is_store(path):
        replaced = _temporary(path)
        path.replace(replaced)
        try:
            temporary.replace(path)
        except OSError:
            replaced.replace(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    elif overwrite or temporary.is_dir():  # a folder replaces no file, and no folder that is not empty
        temporary.replace(path)
    elif _link(temporary, path):
        temporary.unlink()
    LOGGER.debug("written: %s%s", path, "" if path.is_dir() else f", {path.stat().st_size:,} bytes")


def place_files(
    files: Sequence[tuple[Path, Path]],
    *,
    overwrite: bool,
    inputs: FileIds = NO_FILES,
    is_own: Callable[[Path], bool] = lambda _path: False,
) -> None:
    """Move complete files, pairs of temporary and final path, into place in this order: all, or after an error none.

    Without `overwrite` the temporary files stay as second names of the placed files, if the file system has hard links.
    With `overwrite` an error leaves the files that were replaced before it.

    Parameters
    ----------
    overwrite, inputs : as in `move_into_place`.
    is_own : whether an existing file was placed by an earlier attempt of this work, and may be replaced.

    Raises
    ------
    OutputError : as in `move_into_place`. OSError : a file cannot be moved.
    """
    placed: list[tuple[Path, Path]] = []
    try:
        for temporary, path in files:
            if overwrite or (path.exists() and is_own(path)):
                move_into_place(temporary, path, inputs=inputs)
            else:
                placed.append((temporary, path))
                _check_replaceable(path, overwrite=False, inputs=inputs)
                _link(temporary, path)
                LOGGER.debug("written: %s, %s bytes", path, f"{path.stat().st_size:,}")
    except BaseException:
        _take_back(placed)
        raise


def _take_back(placed: Sequence[tuple[Path, Path]]) -> None:
    """Undo `_link` for pairs of temporary and final path; a final path that is another file stays."""
    for temporary, path in placed:
        with suppress(OSError):
            if not temporary.exists():
                path.replace(temporary)
            elif temporary.samefile(path):
                path.unlink()


def _link(temporary: Path, path: Path) -> bool:
    """Give a file a second name that does not exist; False if it was renamed: a folder, or without hard links.

    Raises
    ------
    OutputError : the name exists.
    """
    try:
        if temporary.is_dir():  # replaces no file, and no folder that is not empty
            temporary.rename(path)
            return False
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            raise
        except OSError:  # no hard links here: claim the name, then replace the empty file
            path.open("xb").close()
            temporary.replace(path)
            return False
    except FileExistsError as error:
        raise OutputError(
            f"{path} was created in the meantime; it is replaced only on request. Use --overwrite, or give another "
            "name."
        ) from error
    return True


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
    path = folder / LOCK_NAME
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise OutputError(
            f"{path} is a link or another special file; the lock is a regular file. Remove it, or choose another "
            "directory."
        )
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
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8", errors="replace")
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
