"""Stores beyond this machine's disks that results are put into: S3, and whatever else fsspec can write.

Keys, endpoints and other settings are fsspec's own: AWS_* variables, profiles, FSSPEC_* and its configuration files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ms2hs.errors import CredentialsError, Ms2hsError, OutputError, UnknownName
from ms2hs.progress import Progress
from ms2hs.remote.url_policy import shown, without_secrets

ENDS = (".tif", ".tiff")
"""How the name of a cube ends; other addresses are folders, which stores have only in the names of files."""
# What a login is called in the names of errors of the stores' libraries, which have no kind in common.
LOGINS = ("credential", "token", "login", "auth")


class Address(str):
    """A file or a folder in a store, such as s3://bucket/cubes/; what of a Path it needs, which would drop a slash."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "Address":
        """All up to the last slash."""
        return Address(self.removesuffix(self.name))

    @property
    def is_cube(self) -> bool:
        """Whether it names a cube; else a folder for one."""
        return self.lower().endswith(ENDS)

    def with_name(self, name: str) -> "Address":
        """Another file of the same folder."""
        return self.parent / name

    def absolute(self) -> "Address":
        """Itself."""
        return self

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self}{'' if self.endswith('/') else '/'}{name}")


Place = Path | Address

"""Where a result is, or will be."""


def place_of(text: str | Path) -> Place:
    """The place that a user names: a path, unless it has a protocol; that of files is a path too."""
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    return Path(text.removeprefix("file://")) if text.startswith("file://") else Address(text)


class ObjectStore:
    """A folder in a store, and which names there were taken when it was opened.

    Raises
    ------
    UnknownName : fsspec does not know the protocol.
    CredentialsError : keys that are missing or refused.
    OutputError : a bucket that is not there, a library that is not, a store that does not answer.
    """

    def __init__(self, folder: Address) -> None:
        self.folder = folder
        with _told(folder):
            self._store, path = _opened(folder)
            self._path = path.rstrip("/")
            self._store.invalidate_cache()  # a program may run for days, and others write there too
            try:
                listed = self._store.ls(path, detail=False)
                self._is_there = True
            except FileNotFoundError:
                top = _top(path)
                if not self._store.exists(top):
                    raise OutputError(
                        f"{shown(folder)}: there is no bucket {top}; one that exists is needed. Make it, correct the "
                        "address, or, where the store is another, set AWS_ENDPOINT_URL or what fsspec takes for it."
                    ) from None
                listed, self._is_there = [], False
        self._taken = {str(name).rstrip("/").rpartition("/")[2] for name in listed}

    def check(self, names: Iterable[str], *, overwrite: bool = False) -> None:
        """Refuse names that are taken, unless `overwrite` is asked.

        Raises
        ------
        OutputError : one is.
        """
        taken = [name for name in names if name in self._taken]
        if taken and not overwrite:
            raise OutputError(
                f"{shown(self.folder / taken[0])} exists; it is replaced only when asked. Pass --overwrite, or give "
                "another name."
            )

    def put(self, paths: Sequence[Path], progress: Progress | None = None) -> None:
        """Upload files under their names, in this order; none of them stays if another fails.

        A file of a store such as S3 is there whole or not at all. What is being replaced is kept until it is.

        Parameters
        ----------
        progress : called with the megabytes of a file that are done, and that there are.

        Raises
        ------
        CredentialsError, OutputError : one could not be uploaded.
        """
        begun: list[str] = []
        with _told(self.folder):
            try:
                if not self._is_there:
                    self._store.makedirs(self._path, exist_ok=True)
                for path in paths:
                    begun.append(path.name)
                    self._store.put_file(str(path), f"{self._path}/{path.name}", callback=_callback(path, progress))
            except BaseException:
                self._remove(name for name in begun if name != begun[-1] or name not in self._taken)
                raise

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(Exception):  # of what led here the user is told; one may not have come to be
                self._store.rm_file(f"{self._path}/{name}")


def _opened(folder: Address) -> tuple[Any, str]:
    """The store of fsspec, and what the folder is called in it."""
    from fsspec import get_filesystem_class, url_to_fs  # noqa: PLC0415  an extra, and only needed here

    protocol = folder.partition("://")[0].rpartition("::")[2]
    if protocol in {"http", "https"}:
        raise OutputError(
            f"{shown(folder)}: a web server takes no results; a store that fsspec writes to is needed, such as "
            "s3://bucket/folder/. Give another place."
        )
    try:
        get_filesystem_class(protocol)
    except ValueError:
        raise UnknownName(
            f"{shown(folder)}: unknown protocol {protocol!r}; s3, gs, abfs, sftp and the others of fsspec are known. "
            "Correct the address."
        ) from None
    store, path = url_to_fs(folder)
    return store, str(path)


def _top(path: str) -> str:
    """The bucket, or the first folder of a store that has none."""
    root = "/" if path.startswith("/") else ""
    return root + path.strip("/").partition("/")[0]


def _callback(path: Path, progress: Progress | None) -> Any:  # noqa: ANN401 - fsspec has no types
    from fsspec.callbacks import Callback  # noqa: PLC0415  an extra, and only needed here

    hooks: dict[str, Callable[..., None]] = {}
    if progress:
        size, stage = path.stat().st_size, f"upload {path.suffix.lstrip('.')} (MB)"
        hooks["told"] = lambda _size, value, **_: progress(stage, value // 1_000_000, -(-size // 1_000_000))
    return Callback(hooks=hooks)


@contextmanager
def _told(folder: Address) -> Iterator[None]:
    """Whatever the library behind a protocol raises, as one message."""
    where = shown(folder)
    try:
        yield
    except Ms2hsError:
        raise
    except ImportError as error:
        raise OutputError(
            f"{where}: a library is not there ({error}); fsspec and the one of this protocol are needed. For s3:// "
            "install them with pip install 'ms2hs[remote]', for another what is named."
        ) from error
    except Exception as error:
        kind = type(error).__name__
        why = f"{kind}: {without_secrets(' '.join(str(error).split()))}"
        if isinstance(error, PermissionError) or any(word in kind.lower() for word in LOGINS):
            raise CredentialsError(
                f"{where}: refused ({why}); keys that may list and write there are needed. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or what fsspec takes for this protocol."
            ) from error
        raise OutputError(
            f"{where}: cannot be written to ({why}); a store that answers and takes files is needed. See whether the "
            "address and AWS_ENDPOINT_URL are right, and try again."
        ) from error
