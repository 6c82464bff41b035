"""EMIT L2A granules on a server: only the chunks of their files that a window needs are read.

The look-up table of the window comes first. It gives the pixels of the sensor, and so the chunks of flags, and the
chunks of reflectance with a pixel that is not flagged; their byte ranges stand in the index of the HDF5 file. They are
read ahead, neighbours by one request, and h5py then reads the same bytes through the same file object.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ms2hs.arrays import Float32Array
from ms2hs.datasets.cubes.emit import (
    NEEDS,
    EmitCube,
    GriddedCube,
    OrthoCube,
    Window,
    open_emit,
    open_tables,
    orthorectify,
    table_grid,
)
from ms2hs.datasets.emit_flags import KIND, TIME
from ms2hs.datasets.hdf5_file import Source, band_runs, name_of, opened, stored_dataset, stored_ranges
from ms2hs.errors import RemoteError, SceneError
from ms2hs.fetching.cubes.item_files import addresses_of, open_source
from ms2hs.raster.pixel_grid import WGS84, PixelGrid
from ms2hs.remote.client import DOCUMENT_ATTEMPTS, HttpRequest, WebClient, read_document
from ms2hs.remote.hdf5_handle import Hdf5Handle, with_bytes
from ms2hs.remote.range_file import RangeRequest
from ms2hs.remote.url_policy import Access
from ms2hs.scenes.stac_item import ORIGIN
from ms2hs.scenes.stac_metadata import Item, parse_item

# The collections of flags of granules of version 2, the newest first.
FLAGS_VERSIONS = ("003", "002")
GRANULE = re.compile(r"EMIT_L2A_RFL_.+\.nc")
FLAGS = re.compile(r"EMIT_L2A_MASK_.+\.nc")
# Flags and tables without chunks have small gaps between the rows of a window. Requests take longer than these.
GAP_BYTES = 40_000
Ranges = list[tuple[int, int]]
EmitOrtho = OrthoCube | GriddedCube
T = TypeVar("T")


class EmitItem:
    """An EMIT granule, opened by byte ranges; implements `RemoteCube`."""

    block_shape = (256, 256)

    def __init__(self, client: WebClient, item: Mapping[str, Any], access: Access, folder: Path | None = None) -> None:
        """Open the files of an item; parameters and errors as in `open_remote_cube`."""
        self.name = str(item["id"])
        self._client, self._access, self._folder = client, access, folder
        self._sources: list[Source] = []
        self._ortho: EmitOrtho | None = None
        try:
            granule = self._open(item, GRANULE)
            cube = self._run(partial(open_emit, granule))
            if isinstance(cube, EmitCube) and cube.flags is None:
                own = addresses_of(item, FLAGS)
                flags = self._open(item if own else self._flags_item(item, granule), FLAGS)
                cube = self._run(partial(open_emit, granule, flags))
            self._cube = cube
            if isinstance(cube, GriddedCube):
                transform, shape = cube.transform, cube.shape
            else:
                transform, shape = self._run(partial(table_grid, cube))
        except BaseException:
            self.close()
            raise
        self.grid = PixelGrid(WGS84, transform, *shape)
        self.spectral = self._cube.grid

    def requests(self, row: int, col: int, height: int, width: int) -> list[RangeRequest]:
        """As in `RemoteCube`; reads the look-up table and the flags of the window."""
        needed = self._needed(row, col, height, width)
        return [
            request
            for source, ranges in needed
            if isinstance(source, Hdf5Handle)
            for request in source.file.requests(ranges)
        ]

    def read(self, row: int, col: int, height: int, width: int) -> Float32Array:
        """As in `RemoteCube`."""
        for source, ranges in self._needed(row, col, height, width):
            if isinstance(source, Hdf5Handle):
                source.file.fetch_ahead(ranges)
        assert self._ortho is not None  # noqa: S101 - `_needed` sets it
        return self._run(partial(self._ortho.read, row, col, height, width))

    def close(self) -> None:
        """Close the files."""
        for source in self._sources:
            if isinstance(source, Hdf5Handle):
                source.file.close()

    def _open(self, item: Mapping[str, Any], pattern: re.Pattern[str]) -> Source:
        """The file of an item with this name."""
        source = open_source(self._client, addresses_of(item, pattern)[0], self._access, self._folder)
        self._sources.append(source)
        return source

    def _flags_item(self, item: Mapping[str, Any], granule: Source) -> Item:
        """The item with the flags of a granule of version 2, in a collection of its own on the same server."""
        server, time = (item.get(ORIGIN) or {}).get("url"), TIME.search(PurePosixPath(name_of(granule)).name)
        reason = "the item has no server, or its file no time"
        for version in FLAGS_VERSIONS if server and time else ():
            name = f"EMIT_L2A_MASK_{version}_{time[0] if time else ''}"
            address = f"{server}/collections/EMITL2AMASK_{version}/items/{name}"
            try:
                text = read_document(HttpRequest(address, self._access, attempts=DOCUMENT_ATTEMPTS), self._client)
                found = parse_item(json.loads(text))
            except (RemoteError, SceneError, ValueError, RecursionError) as error:
                reason = str(error)
                continue
            found.pop(ORIGIN, None)  # only a search may set the origin
            if addresses_of(found, FLAGS):
                return found
        raise SceneError(
            f"{self.name}: no file EMIT_L2A_MASK_….nc was found ({reason}); without flags, clouds cannot be left out. "
            "Use another item."
        )

    def _run(self, operation: Callable[[], T]) -> T:
        """The result of an operation that reads the files."""
        return with_bytes(self._sources, operation)

    def _needed(self, row: int, col: int, height: int, width: int) -> list[tuple[Source, Ranges]]:
        """The byte ranges of a window in each file."""
        cube, window = self._cube, (slice(row, row + height), slice(col, col + width))
        if isinstance(cube, GriddedCube):
            self._ortho = cube
            return [(cube.source, self._run(partial(_gridded_ranges, cube, window)))]
        table = self._run(partial(_table_ranges, cube, window))
        _keep(cube.source, table)
        if self._ortho is None:
            self._ortho = self._orthorectified(cube, window)
        assert isinstance(self._ortho, OrthoCube)  # noqa: S101 - the cube is in the geometry of the sensor
        windows = partial(self._ortho.sensor_windows, row, col, height, width)
        flags: Ranges = []
        if cube.flags is not None:
            flags = self._run(partial(_flag_ranges, cube, self._run(partial(windows, clear=False))))
            _keep(cube.flags, flags)
        chunks = self._run(partial(_chunk_ranges, cube, self._run(partial(windows, clear=True))))
        return [(cube.source, [*table, *chunks]), *([(cube.flags, flags)] if cube.flags else [])]

    def _orthorectified(self, cube: EmitCube, window: Window) -> EmitOrtho:
        """The granule on its grid. In the middle of the swath, the direction needs the whole table."""
        ortho = self._run(partial(orthorectify, cube, window))
        if isinstance(ortho, OrthoCube) and not ortho.is_direction_measured:
            whole = slice(0, self.grid.height), slice(0, self.grid.width)
            _keep(cube.source, self._run(partial(_table_ranges, cube, whole)))
            ortho = self._run(partial(orthorectify, cube))
        return ortho


def _gridded_ranges(cube: GriddedCube, window: Window) -> Ranges:
    with opened(cube.source, KIND, NEEDS) as file:
        stored = stored_dataset(file, "reflectance")
        return _distinct(stored_ranges(stored, (run, *window)) for run in band_runs(cube.bands))


def _table_ranges(cube: EmitCube, window: Window) -> Ranges:
    with cube.opened() as files:
        return _distinct(stored_ranges(table, window) for table in open_tables(files.granule))


def _flag_ranges(cube: EmitCube, boxes: Sequence[Window]) -> Ranges:
    layers = slice(0, max(cube.flag_layers) + 1)
    with cube.opened() as files:
        return _distinct(stored_ranges(files.mask, (*box, layers)) for box in boxes)


def _chunk_ranges(cube: EmitCube, boxes: Sequence[Window]) -> Ranges:
    with cube.opened() as files:
        runs = band_runs(cube.bands)
        return _distinct(stored_ranges(files.reflectance, (*box, run)) for box in boxes for run in runs)


def _distinct(parts: Iterable[Ranges]) -> Ranges:
    return sorted({chunk for part in parts for chunk in part})


def _keep(source: Source, ranges: Ranges) -> None:
    """Read ranges of a remote file besides those that it has."""
    if isinstance(source, Hdf5Handle):
        for request in source.file.requests(ranges, GAP_BYTES):
            request.send()
