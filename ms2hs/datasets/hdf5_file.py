"""HDF5 and NetCDF-4 files of others, opened from a path or from a binary file object such as a remote file.

A file may be hostile: an external link, external storage or a virtual dataset would read other files of this machine,
and a small file may declare tables and chunks that fill the memory. `stored_dataset` gives only datasets that are
stored in the file itself, of the needed type and in chunks of a bounded size. `stored_ranges` gives the byte ranges in
which a part of a dataset is stored, so that a remote file can read them ahead.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import IOBase
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms2hs.errors import DataError, Ms2hsError

LOGGER = logging.getLogger(__name__)
Source = Path | IOBase
"""A path, or an open binary file with a `name`; a remote file (`remote.hdf5_handle`) raises its own error."""
# Cache for the uncompressed chunks of an open dataset: one of an EMIT granule may have 15 MB.
CHUNK_CACHE_BYTES = 100_000_000
# Largest uncompressed chunk, which HDF5 holds in memory as a whole; archives have chunks of up to 70 MB.
MAX_CHUNK_BYTES = 500_000_000
# Largest number of values in a table that is read as a whole, such as wavelengths or names of flags.
MAX_TABLE_VALUES = 100_000
# Kinds of data types of NumPy.
NUMBERS, TEXTS = "fiu", "SO"
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
    DataError and others : as `hdf5_errors`, also for reads of the file.
    """
    import h5py  # noqa: PLC0415  only readers of HDF5 files need it

    cache = {"rdcc_nbytes": CHUNK_CACHE_BYTES, "rdcc_nslots": CHUNK_CACHE_SLOTS}
    # Without locks, which shared file systems often refuse; products are never written.
    with hdf5_errors(source, kind, needs), h5py.File(source, "r", locking=False, **cache) as file:
        LOGGER.debug("opened: %s, %s file", name_of(source), kind)
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


def stored_dataset(file: Any, name: str, *, is_text: bool = False) -> Any:  # noqa: ANN401 - h5py has no types
    """A dataset that is stored in the file itself.

    KeyError if the file has none of this name, ValueError for another kind of data type, or chunks that are too large.
    """
    import h5py  # noqa: PLC0415

    node = file
    for part in name.split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"no {name} in the file itself")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
        raise KeyError(f"no {name} in the file itself")
    chunk_bytes = prod(node.chunks) * node.dtype.itemsize if node.chunks else 0
    if node.shape is None or node.dtype.kind not in (TEXTS if is_text else NUMBERS) or chunk_bytes > MAX_CHUNK_BYTES:
        raise ValueError(f"{name} of type {node.dtype}, shape {node.shape} and {chunk_bytes} bytes a chunk")
    return node


def stored_table(file: Any, name: str, *, is_text: bool = False) -> NDArray[Any]:  # noqa: ANN401
    """The values of a small dataset; ValueError if it is large, others as `stored_dataset`."""
    dataset = stored_dataset(file, name, is_text=is_text)
    if dataset.size > MAX_TABLE_VALUES:
        raise ValueError(f"{name} of shape {dataset.shape}")
    return np.asarray(dataset)


def band_runs(bands: NDArray[np.intp]) -> list[slice]:
    """The positions of bands in a file as slices of neighbours, ascending."""
    runs = np.split(np.sort(bands), np.flatnonzero(np.diff(np.sort(bands)) > 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs]


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
