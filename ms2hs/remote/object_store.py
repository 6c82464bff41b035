"""Object stores for results: S3, and every other store that fsspec can write to.

Keys, endpoints and other settings come from fsspec: AWS_* variables, profiles, FSSPEC_* and its configuration files. A
result is written to the local disk and uploaded when complete. `RemotePath` keeps the text of a URL, with user,
host and final slash, which `UPath` drops: "s3://bucket/x.tif/" is a folder, and printed paths must be usable.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ms2hs.errors import CredentialsError, Ms2hsError, OutputError, UnknownName
from ms2hs.files import STORE_SUFFIX
from ms2hs.progress import Progress
from ms2hs.remote.url_policy import shown, without_secrets

LOGGER = logging.getLogger(__name__)
CUBE_SUFFIXES = (".tif", ".tiff", ".zarr", ".dat", ".hdr", ".nc")
"""Suffixes of a cube; all other remote paths are folders."""
# Parts of the names of credential errors: the libraries of the stores have no common error class.
CREDENTIAL_WORDS = ("credential", "token", "login", "auth")


class RemotePath(str):
    """URL of a file or a folder in a store, such as s3://bucket/cubes/, with the interface of a Path."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The text after the last slash."""
        return self.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "RemotePath":
        """The text up to the last slash."""
        return RemotePath(self.removesuffix(self.name))

    @property
    def is_cube(self) -> bool:
        """Whether the path names a cube; otherwise it is a folder."""
        return self.lower().endswith(CUBE_SUFFIXES)

    def with_name(self, name: str) -> "RemotePath":
        """Another file in the same folder."""
        return self.parent / name

    def absolute(self) -> "RemotePath":
        """The path itself."""
        return self

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self}{'' if self.endswith('/') else '/'}{name}")


OutputPath = Path | RemotePath
"""Path of a result, local or remote."""


def parse_output(text: str | Path) -> OutputPath:
    """The output path that a user gives: remote if the text has a protocol other than file:// and local://."""
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    protocol, _, path = text.partition("://")
    return Path(path) if protocol in {"file", "local"} else RemotePath(text)


class ObjectStore:
    """A folder in a store, and the names of its files at the time of opening.

    Raises
    ------
    UnknownName : fsspec does not know the protocol.
    CredentialsError : keys are missing or refused.
    OutputError : the bucket does not exist, a library is not installed, or the store does not answer.
    """

    def __init__(self, folder: RemotePath) -> None:
        self.folder = folder
        with _store_errors(folder):
            self._store, path = _open_store(folder)
            self._path = path.rstrip("/")
            self._store.invalidate_cache()  # other programs may have changed the store since it was opened last
            try:
                listed = self._store.ls(path, detail=False)
                self._exists = True
            except FileNotFoundError:
                bucket = ("/" if path.startswith("/") else "") + path.strip("/").partition("/")[0]
                if not self._store.exists(bucket):
                    raise OutputError(
                        f"{shown(folder)}: there is no bucket {bucket}; an existing bucket is needed. Create it, "
                        "correct the address, or set AWS_ENDPOINT_URL, or the setting of fsspec for this store."
                    ) from None
                listed, self._exists = [], False
        self._existing = {str(name).rstrip("/").rpartition("/")[2] for name in listed}

    def check(self, names: Iterable[str], *, overwrite: bool = False) -> None:
        """Refuse names that exist, unless `overwrite` is True, and Zarr stores always; OutputError names the first."""
        existing = [name for name in names if name in self._existing]
        if stores := [name for name in existing if name.lower().endswith(STORE_SUFFIX)]:
            raise OutputError(
                f"{shown(self.folder / stores[0])} exists; a Zarr store in an object store is not replaced, since its "
                "old chunks would remain. Delete it first, or give another name."
            )
        if existing and not overwrite:
            raise OutputError(
                f"{shown(self.folder / existing[0])} exists; it is replaced only on request. Use --overwrite, or give "
                "another name."
            )

    def put(self, paths: Sequence[Path], progress: Progress | None = None) -> None:
        """Upload files, and folders of files, under their names, in this order; if one fails, none remains.

        An upload to a store such as S3 is atomic: a file that is replaced stays unchanged until its upload is complete.

        Parameters
        ----------
        progress : called with the bytes uploaded of a file, and the bytes of the file.

        Raises
        ------
        CredentialsError, OutputError : a file could not be uploaded.
        """
        started: list[str] = []
        with _store_errors(self.folder):
            try:
                if not self._exists:
                    self._store.makedirs(self._path, exist_ok=True)
                for name, file in (found for path in paths for found in _files_of(path)):
                    if "/" in name:
                        self._store.makedirs(f"{self._path}/{name.rpartition('/')[0]}", exist_ok=True)
                    started.append(name)
                    self._store.put_file(str(file), f"{self._path}/{name}", callback=_callback(file, progress))
                    LOGGER.debug("uploaded: %s, %s bytes", shown(self.folder / name), f"{file.stat().st_size:,}")
            except BaseException:
                for name in started:
                    if name != started[-1] or name not in self._existing:
                        with suppress(Exception):  # the first error is raised; the file may not exist
                            self._store.rm_file(f"{self._path}/{name}")
                raise


def _files_of(path: Path) -> list[tuple[str, Path]]:
    """Names and paths of a file, or of the files in a folder: its own metadata last, so that it is complete then."""
    if not path.is_dir():
        return [(path.name, path)]
    files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: (file.parent == path, file))
    return [(file.relative_to(path.parent).as_posix(), file) for file in files]


def _open_store(folder: RemotePath) -> tuple[Any, str]:
    """The file system of fsspec, and the path of the folder in it."""
    from fsspec import get_filesystem_class, url_to_fs  # noqa: PLC0415  an extra

    protocol = folder.partition("://")[0].rpartition("::")[2]
    if protocol in {"http", "https"}:
        raise OutputError(
            f"{shown(folder)}: results cannot be uploaded to a web server; a store that fsspec can write to is "
            "needed. Use for example -o s3://bucket/folder/."
        )
    try:
        get_filesystem_class(protocol)
    except ValueError:
        raise UnknownName(
            f"{shown(folder)}: unknown protocol {protocol!r}; s3, gs, abfs, sftp and all others of fsspec are known. "
            "Correct the address."
        ) from None
    store, path = url_to_fs(folder)
    return store, str(path)


def _callback(path: Path, progress: Progress | None) -> Any:  # noqa: ANN401 - fsspec has no types
    from fsspec.callbacks import Callback  # noqa: PLC0415  an extra

    hooks: dict[str, Callable[..., None]] = {}
    if progress:
        size, stage = path.stat().st_size, f"upload {path.suffix.lstrip('.')}"
        hooks["progress"] = lambda _size, value, **_: progress(stage, value, size)
    return Callback(hooks=hooks)


@contextmanager
def _store_errors(folder: RemotePath) -> Iterator[None]:
    """Turn every error of a store's library into one message."""
    name = shown(folder)
    try:
        yield
    except Ms2hsError:
        raise
    except ImportError as error:
        raise OutputError(
            f"{name}: a library is not installed ({error}); fsspec and the library of this protocol are needed. "
            "For s3://, run pip install 'ms2hs[remote]'; for other protocols, install the named library."
        ) from error
    except Exception as error:
        kind = type(error).__name__
        reason = f"{kind}: {without_secrets(' '.join(str(error).split()))}"
        if isinstance(error, PermissionError) or any(word in kind.lower() for word in CREDENTIAL_WORDS):
            raise CredentialsError(
                f"{name}: refused ({reason}); keys that may list and write files are needed. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or the setting of fsspec for this protocol."
            ) from error
        raise OutputError(
            f"{name}: cannot be written to ({reason}); a store that answers and accepts files is needed. Check the "
            "address and AWS_ENDPOINT_URL, and try again."
        ) from error
