"""HDF5 and NetCDF-4 files of others, opened from a path or from a binary file object such as a remote file.

A file may be hostile: an external link, external storage or a virtual dataset would read other files of this machine.
`stored_dataset` gives only datasets that are stored in the file itself. `stored_ranges` gives the byte ranges in which
a part of a dataset is stored, so that a remote file can read them ahead.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import IOBase
from itertools import product
from pathlib import Path
from typing import Any

from ms2hs.errors import DataError, Ms2hsError

Source = Path | IOBase
"""A path, or an open binary file with a `name`; a remote file (`remote.hdf5_handle`) raises its own error."""
# Cache for the uncompressed chunks of an open dataset: one of an EMIT granule may have 15 MB.
CHUNK_CACHE_BYTES = 100_000_000
# Slots of the cache's hash table: a prime, about 100 times the number of chunks in the cache (h5py's advice).
CHUNK_CACHE_SLOTS = 10_007


def name_of(source: Source) -> str:
    """The path of a file, or the address of a remote file without secrets."""
    return str(getattr(source, "name", source) if isinstance(source, IOBase) else source)


@contextmanager
def opened(source: Source, kind: str, needs: str) -> Iterator[Any]:
    """An open `h5py.File`.

    Parameters
    ----------
    kind, needs : name of the format and the datasets of its files, for messages.

    Raises
    ------
    DataError : h5py is not installed. Others: as `hdf5_errors`, also for reads of the file.
    """
    try:
        import h5py  # noqa: PLC0415  only readers of HDF5 files need it
    except ImportError as error:
        raise DataError(
            f"{name_of(source)}: {kind} files are read with h5py, which is not installed. Install ms2hs[train]."
        ) from error
    cache = {"rdcc_nbytes": CHUNK_CACHE_BYTES, "rdcc_nslots": CHUNK_CACHE_SLOTS}
    # Without locks, which shared file systems often refuse; products are never written.
    with hdf5_errors(source, kind, needs), h5py.File(source, "r", locking=False, **cache) as file:
        yield file


@contextmanager
def hdf5_errors(source: Source, kind: str, needs: str) -> Iterator[None]:
    """Turn the errors of h5py into one message that names the file.

    Raises
    ------
    DataError : a damaged file, or a file of another kind. RemoteError, AddressError, CredentialsError, OutputError : as
        the remote file raises them.
    """
    try:
        yield
    except (OSError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        _check_remote(source)
        raise DataError(
            f"{name_of(source)}: not a whole {kind} file ({error}); {needs} are needed. Download it again, or use "
            "another file."
        ) from error
    except Ms2hsError:
        _check_remote(source)
        raise
    _check_remote(source)


def _check_remote(source: Source) -> None:
    """Raise the error of a remote file, if any: it is the cause of what HDF5 reports."""
    if remote := getattr(source, "file", None):
        remote.check()


def stored_dataset(file: Any, name: str) -> Any:  # noqa: ANN401 - h5py has no types
    """A dataset that is stored in the file itself; KeyError if the file has none of this name."""
    import h5py  # noqa: PLC0415

    node = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"no {name} in the file itself")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
        raise KeyError(f"no {name} in the file itself")
    return node


def stored_ranges(dataset: Any, window: Sequence[slice]) -> list[tuple[int, int]]:  # noqa: ANN401
    """Offset and size of the byte ranges of the chunks that a window touches; of the rows, where there are no chunks.

    Parameters
    ----------
    window : one slice with start and stop for each axis of the dataset.
    """
    if dataset.chunks is None:
        begin = dataset.id.get_offset()
        if begin is None:
            return []
        item = dataset.dtype.itemsize
        rows = [_flat(dataset.shape, (row, *(part.start for part in window[1:]))) for row in _range(window[0])]
        last = [part.stop - 1 for part in window[1:]]
        length = _flat(dataset.shape, (0, *last)) - _flat(dataset.shape, (0, *(part.start for part in window[1:]))) + 1
        return [(begin + row * item, length * item) for row in rows]
    steps = [
        range(part.start // size, -(-part.stop // size)) for part, size in zip(window, dataset.chunks, strict=True)
    ]
    ranges = []
    for position in product(*steps):
        corner = tuple(at * size for at, size in zip(position, dataset.chunks, strict=True))
        chunk = dataset.id.get_chunk_info_by_coord(corner)
        if chunk.byte_offset is not None and chunk.size:
            ranges.append((int(chunk.byte_offset), int(chunk.size)))
    return ranges


def _range(part: slice) -> range:
    return range(part.start, part.stop)


def _flat(shape: Sequence[int], position: Sequence[int]) -> int:
    """Number of values before a position."""
    number = 0
    for size, at in zip(shape, position, strict=True):
        number = number * size + at
    return number
