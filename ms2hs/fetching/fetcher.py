"""The download of STAC items as scenes on disk (`fetch`).

Several bands are read at once, on `jobs` threads, into the staging folder of their scene. The main thread assembles the
scenes in order, while the bands of at most SCENES_AHEAD further scenes arrive. The quality layer of a scene is read
first: a scene without data in the area needs no other band. A failing scene does not stop the others.
`fetching.cubes` fetches hyperspectral items by the same steps (`planned_requests`, `ItemFetcher`).
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ms2hs.errors import Ms2hsError, NothingFound, OutputError, QueryError, SceneError, failure
from ms2hs.fetching.assembling import ScenePart, assemble
from ms2hs.fetching.cropping import band_file_name, padded, source_pixels
from ms2hs.fetching.download import ByteCounter, copy_window, has_data, open_remote
from ms2hs.fetching.fetch_request import FetchRequest, Gsd, plan_requests
from ms2hs.fetching.orbit_mosaic import write_mosaics
from ms2hs.fetching.search_query import SearchArea
from ms2hs.fetching.staged_scene import prepare_staging, remove_staging
from ms2hs.files import check_name, check_space, lock_folder
from ms2hs.progress import Progress
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m, window_in
from ms2hs.remote.client import RetryPolicy, WebClient
from ms2hs.remote.range_file import GDAL_LOCK
from ms2hs.scenes.scene import Asset, Scene, working_grid
from ms2hs.scenes.stac_item import scene_of
from ms2hs.scenes.stac_metadata import valid_items

SCENES_AHEAD = 2
# Twice the coarsest pixels of Sentinel-2: interpolation and quality look that far around a pixel.
QUALITY_MARGIN_M = 120.0
# Disk space for a pixel of a band while a scene is assembled: band file, COG writer and result.
DISK_BYTES_PER_PIXEL = 6


@dataclass(frozen=True)
class FetchOptions:
    """Options of `fetch`."""

    gsd_m: Gsd = 30.0
    """Ground sampling of the output in m, or `native`: one file per band, with unchanged pixels."""
    mosaic: bool = False
    """Combine the scenes of each satellite pass on one grid, the clearest on top."""
    jobs: int = 4
    """Maximum number of simultaneous connections."""
    overwrite: bool = False
    """Fetch complete scenes again."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    """Attempts and waiting times for failing requests."""


@dataclass(frozen=True)
class FetchResult:
    """The result of `fetch`."""

    paths: tuple[Path, ...]
    """Every scene on disk, to give to `convert`, in the order of the items."""
    kept: int
    """Number of scenes that a previous run had completed."""
    bytes_read: int
    """Number of bytes read over the network."""
    failed: tuple[str, ...] = ()
    """One message for each scene that could not be fetched, without secrets."""
    left_out: tuple[str, ...] = ()
    """One message for each scene without data in the area."""


def fetch(
    items: Sequence[dict[str, Any]],
    area: SearchArea | None,
    output: Path,
    options: FetchOptions | None = None,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch the parts of scenes inside an area into a folder, as one COG per scene.

    Complete scenes of an earlier run are kept. A failing scene does not stop the others.

    Parameters
    ----------
    items : STAC items, as `stac_search.search` returns them; invalid items are left out.
    area : None fetches whole scenes.
    output : the folder; its parent must exist.
    progress : called with the bytes read and the estimated total.

    Raises
    ------
    NothingFound : no scene has data in the area.
    RemoteError, CredentialsError, AddressError, SceneError : nothing could be fetched.
    OutputError : the folder cannot be written to, another file has the name of an output, or another process fetches
        into the same folder.
    """
    options = options or FetchOptions()
    if options.jobs < 1 or (options.gsd_m != "native" and not options.gsd_m > 0):
        raise ValueError(f"{options.jobs} jobs, gsd {options.gsd_m}: at least 1, and above 0, are allowed")
    if options.mosaic and options.gsd_m == "native":
        raise QueryError(
            "--mosaic with --gsd native: files of single bands cannot be combined; a ground sampling in m is needed. "
            "Use --gsd 10, 20 or 30."
        )
    with planned_requests(items, area, output, options.gsd_m, overwrite=options.overwrite) as (requests, left_out):
        with WebClient(options.retries, options.jobs) as client:
            result = _SceneFetcher(client, options, progress).fetch(requests)
        result = replace(result, left_out=(*left_out, *result.left_out))
        if not options.mosaic:
            return result
        return replace(result, paths=tuple(write_mosaics(result.paths, output, overwrite=options.overwrite)))


@contextmanager
def planned_requests(
    items: Sequence[dict[str, Any]], area: SearchArea | None, output: Path, gsd_m: Gsd | None, *, overwrite: bool
) -> Iterator[tuple[list[FetchRequest], list[str]]]:
    """The requests for the valid items, and a message for each other item; meanwhile the folder is locked.

    Parameters
    ----------
    gsd_m : as in `plan_requests`; the others as for `fetch`.

    Raises
    ------
    SceneError : no item is valid. CredentialsError : an item needs a login. OutputError : as for `fetch`.
    """
    left_out: list[str] = []
    valid = valid_items(items, left_out)
    if left_out and not valid:
        raise SceneError(left_out[0])
    make_folder(output)
    with lock_folder(output):
        requests = plan_requests(valid, area, output, gsd_m, overwrite=overwrite)
        for request in requests:
            if request.provider is not None and not request.is_complete:
                request.provider.check_credentials()
        yield requests, left_out


def make_folder(output: Path) -> None:
    """Create the folder if it does not exist; OutputError if that fails."""
    if not output.exists():
        check_name(output)
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be created ({error}); a directory in an existing one is needed. Create its parent, or "
            "choose another directory."
        ) from error


class NoData(Exception):
    """The item has no data in the area."""


@dataclass(frozen=True, eq=False)
class PlannedItem:
    """An item whose parts are being read."""

    parts: "Sequence[Future[Any]]"
    finish: Callable[[], Path]
    """Writes the output when all parts are read, and returns the path to give to `convert`."""
    close: Callable[[], None] = lambda: None
    """Closes the files of the item, also after an error."""


@dataclass(frozen=True, eq=False)
class _PendingItem:
    """An item that is being planned and read."""

    request: FetchRequest
    planned: "Future[PlannedItem]"

    def cancel(self) -> None:
        """Cancel the parts that are not being read yet."""
        if not self.planned.cancel() and self.planned.exception() is None:
            for future in self.planned.result().parts:
                future.cancel()

    def close(self) -> None:
        """Close the files of an item that was planned."""
        if self.planned.done() and not self.planned.cancelled() and self.planned.exception() is None:
            self.planned.result().close()


class ItemFetcher(ABC):
    """The state of one call of `fetch`; a kind of items is a subclass that plans one item."""

    def __init__(self, client: WebClient, options: FetchOptions, progress: Progress | None) -> None:
        self.client = client
        self.options = options
        self.progress = progress

    @abstractmethod
    def count(self, items: int) -> None:
        """Prepare to report the progress of this number of items."""

    @abstractmethod
    def plan(self, pool: ThreadPoolExecutor, request: FetchRequest) -> PlannedItem:
        """Open an item, and start to read its parts in the threads of `pool`; NoData if it has none in the area."""

    @abstractmethod
    def item_ended(self, name: str) -> None:
        """Report that an item is complete, or has failed."""

    def fetch(self, requests: list[FetchRequest]) -> FetchResult:
        """Fetch all requests that are not complete."""
        paths = {request.name: request.scene_path for request in requests if request.is_complete}
        kept = len(paths)
        failed: list[Exception] = []
        left_out: list[str] = []
        missing = [request for request in requests if not request.is_complete]
        self.count(len(missing))
        for request, result in self._fetch_in_order(missing):
            self.item_ended(request.name)
            if isinstance(result, Path):
                paths[request.name] = result
            elif isinstance(result, NoData):
                left_out.append(f"{request.name}: {result}")
            else:
                is_known = isinstance(result, Ms2hsError)
                failed.append(result if is_known else SceneError(failure(request.name, result)))
        if not paths and failed:
            raise failed[0]
        if not paths:
            raise NothingFound(
                f"none of {len(requests)} scenes has data in the requested area; at least one is needed. Give a larger "
                "--bbox, or a longer --date." + "\n  ".join(["", *left_out])
            )
        ordered = tuple(paths[request.name] for request in requests if request.name in paths)
        messages = tuple(map(str, failed))
        return FetchResult(ordered, kept, self.client.bytes_read, messages, tuple(left_out))

    def _fetch_in_order(self, requests: list[FetchRequest]) -> Iterator[tuple[FetchRequest, Path | Exception]]:
        """Each request with its path, or with the error."""
        pool = ThreadPoolExecutor(self.options.jobs, "fetch")
        pending: deque[_PendingItem] = deque()
        try:
            for request in requests:
                prepare_staging(request.staging_folder, request.parameters)
                pending.append(_PendingItem(request, pool.submit(self.plan, pool, request)))
                if len(pending) > SCENES_AHEAD:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:
            if pending:
                self.client.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            for waiting in pending:
                waiting.close()

    def _finish(self, pending: _PendingItem) -> tuple[FetchRequest, Path | Exception]:
        request = pending.request
        try:
            planned = pending.planned.result()
            for future in planned.parts:
                future.result()
            return request, planned.finish()
        except NoData as error:
            pending.cancel()
            remove_staging(request.staging_folder)
            return request, error
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001  one item must not stop the others
            pending.cancel()
            return request, error
        finally:
            pending.close()


class _SceneFetcher(ItemFetcher):
    """Fetches multispectral scenes."""

    def count(self, items: int) -> None:
        """Count the bytes of this number of scenes."""
        self.counter = ByteCounter(items, self.progress)

    def item_ended(self, name: str) -> None:
        """Expect no further file of a scene."""
        self.counter.scene_ended(name)

    def plan(self, pool: ThreadPoolExecutor, request: FetchRequest) -> PlannedItem:
        """Plan a scene, copy its quality layer, and start to copy its bands."""
        scene = scene_of(request.item, request.base, None, partial(self._read_grid, request))
        self.counter.scene_started(request.name, scene)
        part = self._plan_part(request, scene)
        bands = [pool.submit(self._copy, request, scene, band, part.grid) for band in scene.assets]
        return PlannedItem(bands, partial(assemble, request, part))

    def _read_grid(self, request: FetchRequest, href: str) -> PixelGrid:
        with open_remote(self.client, href, request.access) as raster:
            return raster.grid

    def _plan_part(self, request: FetchRequest, scene: Scene) -> ScenePart:
        """Find the part of the scene inside the area, and copy its quality layer."""
        gsd_m = self.options.gsd_m
        with GDAL_LOCK:
            _check_gsd(scene, gsd_m)
            grid = scene.grid if gsd_m == "native" else working_grid(scene, gsd_m)
            if request.area is not None:
                window = window_in(grid, request.area.bbox)
                if window is None:
                    raise NoData("the scene does not reach into the area")
                grid = grid.crop(*window)
            part = ScenePart(scene, grid, padded(grid, QUALITY_MARGIN_M))
        check_space(request.folder, grid.height * grid.width * (len(scene.assets) + 1) * DISK_BYTES_PER_PIXEL)
        for layer in scene.quality:
            path = self._copy(request, scene, layer, part.quality_grid)
            if not has_data(path, layer.nodata):
                raise NoData("the scene has no data in the area")
        return part

    def _copy(self, request: FetchRequest, scene: Scene, asset: Asset, grid: PixelGrid) -> Path:
        """Copy the pixels of a file from which a grid is computed; a file from an earlier run is kept."""
        path = request.staging_folder / band_file_name(scene, asset)
        if path.exists():
            self.counter.file_opened(request.name, scene.source, asset, None)
            return path
        with open_remote(self.client, asset.href, request.access) as raster:
            pixels = source_pixels(grid, raster.grid, asset.name)
            if pixels is None:
                raise NoData(f"band {asset.name} does not reach into the area")
            rows, cols = pixels
            size = raster.blocks_bytes(asset.band, rows, cols)
            self.counter.file_opened(request.name, scene.source, asset, size)
            for copied in copy_window(raster, asset, rows, cols, path):
                self.counter.bytes_read(size * copied / (rows.stop - rows.start))
        return path


def _check_gsd(scene: Scene, gsd_m: float | str) -> None:
    finest = min(pixel_size_m(scene.grid))
    if isinstance(gsd_m, float | int) and gsd_m < 0.99 * finest:
        raise SceneError(
            f"{scene.id}: --gsd {gsd_m:g} is finer than its pixels of {finest:g} m; {finest:g} m or coarser is "
            f"allowed. Use --gsd {finest:g}, or --gsd native."
        )
