"""The download of hyperspectral items as cubes on disk (`fetch --product`).

The byte ranges that the area needs are read by `jobs` threads into sparse files in the staging folder of their item,
from which an interrupted run continues. The main thread writes the cubes in order, one row of blocks at a time, while
the ranges of further items arrive.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ms2hs.errors import visible
from ms2hs.fetching.assembling import write_scene
from ms2hs.fetching.cubes.remote_cube import RemoteCube, open_remote_cube
from ms2hs.fetching.fetch_request import FetchRequest
from ms2hs.fetching.fetcher import (
    DISK_BYTES_PER_PIXEL,
    FetchOptions,
    FetchResult,
    ItemFetcher,
    NoData,
    PlannedItem,
    planned_requests,
)
from ms2hs.fetching.search_query import SearchArea
from ms2hs.fetching.sidecar import Sidecar
from ms2hs.fetching.staged_scene import KEPT_FOLDER
from ms2hs.files import check_space, flush_to_disk
from ms2hs.progress import Progress
from ms2hs.raster.cog.encoding import BLOCK, quantise
from ms2hs.raster.cog.writer import CogWriter
from ms2hs.raster.pixel_grid import PixelGrid, window_in
from ms2hs.remote.client import WebClient
from ms2hs.remote.range_file import GDAL_LOCK, RangeRequest
from ms2hs.scenes.recognition import TIME_TAG
from ms2hs.scenes.stac_item import ORIGIN
from ms2hs.scenes.stac_metadata import sensing_time

# Reflectance that is read at once: wide windows share chunks that are large, or cut the swath at an angle.
READ_BYTES = 128_000_000
Window = tuple[int, int, int, int]
"""Row, column, height, width."""


def fetch_cubes(
    items: Sequence[dict[str, Any]],
    area: SearchArea | None,
    output: Path,
    options: FetchOptions | None = None,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch the parts of hyperspectral items inside an area into a folder, as one cube (COG) per item.

    The cubes are orthorectified, in reflectance, with wavelengths, good bands only; flagged pixels are nodata.
    Parameters, result and errors as for `fetcher.fetch`; `gsd_m` and `mosaic` do not apply.
    """
    options = options or FetchOptions()
    with (
        planned_requests(items, area, output, None, overwrite=options.overwrite) as (requests, left_out),
        WebClient(options.retries, options.jobs) as client,
    ):
        result = _CubeFetcher(client, options, progress).fetch(requests)
    return replace(result, left_out=(*left_out, *result.left_out))


class _CubeFetcher(ItemFetcher):
    """Fetches hyperspectral items."""

    def count(self, items: int) -> None:
        """Count the bytes of this number of items."""
        self._counter = _ByteCounter(items, self.progress)

    def item_ended(self, name: str) -> None:
        """Expect no further bytes of an item."""
        self._counter.item_ended(name)

    def plan(self, pool: ThreadPoolExecutor, request: FetchRequest) -> PlannedItem:
        """Open an item, and start to read the byte ranges of its window."""
        # rasterio finds an open remote file only in the context in which it was opened, and another thread writes.
        context = copy_context()
        cube, window, ranges = context.run(self._open, request)
        parts = [pool.submit(self._send, request.name, part) for part in ranges]
        return PlannedItem(parts, partial(context.run, _write, request, cube, window), partial(context.run, cube.close))

    def _open(self, request: FetchRequest) -> tuple[RemoteCube, Window, list[RangeRequest]]:
        """An open item, the pixels in the area, and the byte ranges that they need."""
        cube = open_remote_cube(self.client, request.item, request.access, request.staging_folder / KEPT_FOLDER)
        try:
            window = _window(cube.grid, request.area)
            ranges = cube.requests(*window)
            size = sum(part.end - part.begin for part in ranges)
            values = window[2] * window[3] * len(cube.spectral)
            check_space(request.folder, size + values * DISK_BYTES_PER_PIXEL)
        except BaseException:
            cube.close()
            raise
        self._counter.item_planned(request.name, size)
        return cube, window, ranges

    def _send(self, name: str, part: RangeRequest) -> None:
        part.send()
        self._counter.bytes_read(name, part.end - part.begin)


def _window(grid: PixelGrid, area: SearchArea | None) -> Window:
    """The pixels of a grid inside an area."""
    if area is None:
        return 0, 0, grid.height, grid.width
    with GDAL_LOCK:
        window = window_in(grid, area.bbox)
    if window is None:
        raise NoData("the item does not reach into the area")
    return window


def _write(request: FetchRequest, cube: RemoteCube, window: Window) -> Path:
    """Write the cube of a window and its STAC item; returns the path of the cube."""
    time, grid = sensing_time(request.item), cube.grid.crop(*window)
    origin = request.item.get(ORIGIN) or {}
    tags = {
        "MS2HS_ITEM": str(request.item["id"]),
        "MS2HS_COLLECTION": str(request.item.get("collection") or ""),
        "MS2HS_ORIGIN": str(origin.get("url") or ""),
        TIME_TAG: time or "",
    }
    tags = {name: visible(text) for name, text in tags.items() if text}
    sidecar = Sidecar(request.parameters, request.item, time, grid, {}, cube.spectral)
    write = partial(_write_cube, cube=cube, window=window, tags=tags)
    write_scene(request.scene_path, request.staging_folder, sidecar, write, overwrite=request.overwrite)
    return request.scene_path


def _write_cube(path: Path, cube: RemoteCube, window: Window, tags: dict[str, str]) -> tuple[int, int]:
    """Write a window of a cube as a COG; returns the number of pixels with a value, twice: flagged pixels have none.

    Raises
    ------
    NoData : no pixel of the window has a value; no file remains.
    """
    top, left, height, width = window
    step = max(1, READ_BYTES // (4 * BLOCK * BLOCK * len(cube.spectral))) * BLOCK
    known = 0
    with ExitStack() as opened:
        with GDAL_LOCK:
            writer = CogWriter(path, cube.grid.crop(*window), cube.spectral, tags)
            opened.enter_context(writer)
        for row, col in product(range(0, height, BLOCK), range(0, width, step)):
            rows, cols = min(BLOCK, height - row), min(step, width - col)
            reflectance = cube.read(top + row, left + col, rows, cols)
            valid = np.asarray(np.isfinite(reflectance).any(axis=0))
            known += int(valid.sum())
            for begin in range(0, cols, BLOCK):
                block = slice(begin, begin + BLOCK)
                writer.write_block(row, col + begin, quantise(reflectance[:, :, block], valid[:, block]))
        if not known:
            raise NoData("the item has no valid pixel in the area: outside the swath, or under cloud")
    flush_to_disk(path)
    return known, known


class _ByteCounter:
    """Reports the bytes read, and an estimate of all bytes: items not planned yet count as the mean of the others."""

    def __init__(self, items: int, progress: Progress | None) -> None:
        self._items, self._progress = items, progress
        self._lock = Lock()
        self._sizes: dict[str, int] = {}
        self._read: dict[str, int] = {}

    def item_planned(self, name: str, size: int) -> None:
        """Add an item that needs this number of bytes."""
        with self._lock:
            self._sizes[name] = size

    def item_ended(self, name: str) -> None:
        """Expect no further bytes of an item, which may have failed."""
        with self._lock:
            self._sizes[name] = self._read.get(name, 0)

    def bytes_read(self, name: str, size: int) -> None:
        """Add bytes of an item, and report progress."""
        with self._lock:
            self._read[name] = self._read.get(name, 0) + size
            if self._progress is not None:
                total = sum(self._sizes.values()) * self._items / max(1, len(self._sizes))
                self._progress("fetch", sum(self._read.values()), int(total))
