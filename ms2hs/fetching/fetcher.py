"""fetch: scenes to disk."""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from ms2hs.errors import AddressError, NothingFound, OutputError, QueryError, RemoteError, SceneError
from ms2hs.fetching.assembling import Cuts, put_together, resume
from ms2hs.fetching.cropping import around, cut_of, file_name, part_within
from ms2hs.fetching.download import copy_window, holds_data, open_remote
from ms2hs.fetching.fetch_request import Gsd, Order, requests_for
from ms2hs.fetching.orbit_mosaic import mosaics
from ms2hs.fetching.search_query import Place
from ms2hs.files import alone, check_space
from ms2hs.progress import Progress
from ms2hs.raster.pixel_grid import PixelGrid, pixel_size_m
from ms2hs.remote.client import RetryPolicy, WebClient
from ms2hs.remote.range_file import TURN
from ms2hs.scenes.scene import Asset, Scene, working_grid
from ms2hs.scenes.stac_item import scene_of

# Scenes whose bands come in while one is put together: more would only fill the disk.
AHEAD = 2
# Of a file that a scene's grid is taken from: the finest bands of Sentinel-2.
FINEST = ("B02", "B03", "B04")
# Twice the coarsest pixels of Sentinel-2, which are interpolated and look for their quality around them.
AROUND_M = 120.0
# Bytes that a pixel of a band takes on disk while a scene is put together: its cut, strips and the result.
DISK_BYTES = 6


@dataclass(frozen=True)
class FetchOptions:
    """How to fetch; the defaults suit most."""

    gsd_m: Gsd = 30.0
    """Ground sampling of what is written, in m, or `native`: a file a band as it is."""
    mosaic: bool = False
    """Scenes of one pass together on one grid, clearest first."""
    jobs: int = 4
    """Connections at once, at most."""
    overwrite: bool = False
    """Fetch again what is there and whole."""
    patience: RetryPolicy = field(default_factory=RetryPolicy)
    """With servers."""


@dataclass(frozen=True)
class FetchResult:
    """What a run of `fetch` left."""

    paths: tuple[Path, ...]
    """Every scene that is there now and converts, in the order of the items."""
    kept: int
    """How many of them were there before, and whole."""
    bytes_read: int
    """Over the network."""
    failed: tuple[str, ...] = ()
    """What could not be fetched: a line each, with item and reason, and no address with a signature."""
    left_out: tuple[str, ...] = ()
    """Scenes without data in the place, a line each."""


def fetch(
    items: Sequence[dict[str, Any]],
    place: Place | None,
    output: Path,
    choices: FetchOptions | None = None,
    progress: Progress | None = None,
) -> FetchResult:
    """Fetch scenes, of each only the part inside `place` (None: all of it), into a folder.

    What is there and whole is kept. A scene that fails does not keep the others from being fetched.

    Parameters
    ----------
    items : STAC items, as `raster.stac.search` gives them.
    output : the folder; its parent must exist.
    progress : called with bytes that have come and bytes that there are, as far as that is known.

    Raises
    ------
    NothingFound : no scene has data in the place.
    RemoteError, CredentialsError, AddressError, SceneError : nothing could be fetched.
    OutputError : it cannot be written, something else of that name is there, or another process writes there.
    """
    choices = choices or FetchOptions()
    if choices.jobs < 1 or (choices.gsd_m != "native" and not choices.gsd_m > 0):
        raise ValueError(f"{choices.jobs} jobs, gsd {choices.gsd_m}: from 1 on and above 0 are allowed")
    if choices.mosaic and choices.gsd_m == "native":
        raise QueryError(
            "--mosaic with --gsd native: files of single bands are not put together; a sampling in m is needed. Give "
            "--gsd 10, 20 or 30."
        )
    make_folder(output)
    with alone(output):
        wanted = requests_for(items, place, output, choices.gsd_m, overwrite=choices.overwrite)
        for provider in {id(one.provider): one.provider for one in wanted if not one.is_whole}.values():
            if provider is not None:
                provider.check_credentials()
        with WebClient(choices.patience, choices.jobs) as client:
            made = _Run(client, choices, progress).fetch(wanted)
        if not choices.mosaic:
            return made
        return replace(made, paths=tuple(mosaics(made.paths, output, overwrite=choices.overwrite)))


def make_folder(output: Path) -> None:
    """Make it if it is not there; OutputError where that fails."""
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be made ({error}); a directory whose parent exists is needed. Make it, or go elsewhere."
        ) from error


class _Empty(Exception):
    """The scene has no data in the place."""


@dataclass(frozen=True, eq=False)
class _Coming:
    """A scene whose files come in."""

    wanted: Order
    first: "Future[Cuts]"
    bands: "list[Future[None]]"

    def cancel(self) -> None:
        """Leave what has not begun."""
        self.first.cancel()
        for future in self.bands:
            future.cancel()


class _Run:
    """One call of `fetch`."""

    def __init__(self, client: WebClient, choices: FetchOptions, progress: Progress | None) -> None:
        self.client = client
        self.choices = choices
        self.tally = _Tally(progress)

    def fetch(self, wanted: list[Order]) -> FetchResult:
        """All of them, those that are whole left as they are."""
        paths: dict[str, Path] = {one.name: one.path for one in wanted if one.is_whole}
        kept = len(paths)
        failed: list[Exception] = []
        left_out: list[str] = []
        for one, result in self._arrived([one for one in wanted if not one.is_whole]):
            if isinstance(result, Path):
                paths[one.name] = result
            elif isinstance(result, _Empty):
                left_out.append(f"{one.name}: {result}")
            else:
                failed.append(result)
        if not paths and failed:
            raise failed[0]
        if not paths:
            raise NothingFound(
                f"none of {len(wanted)} scenes has data in the place that was asked for; one is needed. Give a larger "
                "--bbox, or a longer --date." + "\n  ".join(["", *left_out])
            )
        ordered = tuple(paths[one.name] for one in wanted if one.name in paths)
        told = tuple(str(error) for error in failed)
        return FetchResult(ordered, kept, self.client.traffic.bytes_read, told, tuple(left_out))

    def _arrived(self, wanted: list[Order]) -> Iterator[tuple[Order, Path | Exception]]:
        """Each with where it is, or why it is not."""
        pool = ThreadPoolExecutor(self.choices.jobs, "fetch")
        coming: deque[_Coming] = deque()
        try:
            for one in wanted:
                started = self._start(pool, one)
                if isinstance(started, Exception):
                    yield one, started
                    continue
                coming.append(started)
                if len(coming) > AHEAD:
                    yield self._finish(coming.popleft())
            while coming:
                yield self._finish(coming.popleft())
        finally:
            if coming:
                self.client.stop()
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, one: Order) -> _Coming | Exception:
        try:
            with TURN:
                scene = scene_of(one.item, one.base, None, self._grid_at(one))
        except (SceneError, AddressError, RemoteError) as error:
            return error
        resume(one)
        self.tally.expect(len(scene.assets) + (scene.quality is not None))
        first = pool.submit(self._look, one, scene)
        # In the order in which they were handed in: `first` runs or has run when one of these waits for it.
        bands = [pool.submit(self._band, one, asset, first) for asset in scene.assets]
        return _Coming(one, first, bands)

    def _grid_at(self, one: Order) -> Callable[[str], PixelGrid]:
        def look(href: str) -> PixelGrid:
            with open_remote(self.client, href, one.access) as raster:
                return raster.grid

        return look

    def _look(self, one: Order, scene: Scene) -> Cuts:
        """Find out what is needed, and fetch the quality layer of it."""
        finest = next((asset for name in FINEST for asset in scene.assets if asset.name == name), scene.assets[0])
        whole = self._grid_at(one)(finest.href)
        with TURN:
            _check_gsd(scene, whole, self.choices.gsd_m)
            grid = whole if one.is_native else working_grid(replace(scene, grid=whole), float(self.choices.gsd_m))
            if one.place is not None:
                part = part_within(grid, one.place.boxes)
                if part is None:
                    raise _Empty("it does not reach into the place")
                grid = grid.crop(*part)
            cuts = Cuts(scene, grid, around(grid, AROUND_M))
        check_space(one.folder, grid.height * grid.width * (len(scene.assets) + 1) * DISK_BYTES)
        if scene.quality is not None:
            path = self._copy(one, scene, scene.quality, cuts.beyond)
            if not holds_data(path, scene.quality.nodata):
                raise _Empty("it has no data in the place")
        return cuts

    def _band(self, one: Order, asset: Asset, first: "Future[Cuts]") -> None:
        """Fetch a band, once it is known what of it; nothing where that failed."""
        if first.exception() is None:
            cuts = first.result()
            self._copy(one, cuts.scene, asset, cuts.grid)

    def _copy(self, one: Order, scene: Scene, asset: Asset, grid: PixelGrid) -> Path:
        """The pixels of one file that a grid is made of."""
        path = one.part / file_name(scene, asset)
        if path.exists():
            self.tally.opened(0)
            return path
        with open_remote(self.client, asset.href, one.access) as raster:
            cut = cut_of(grid, raster.grid, asset.name)
            if cut is None:
                raise _Empty(f"its band {asset.name} does not reach into the place")
            size = raster.blocks_bytes(asset.band, cut.rows, cut.cols)
            self.tally.opened(size)
            for rows in copy_window(raster, asset, cut.rows, cut.cols, path):
                self.tally.came(size * rows / (cut.rows.stop - cut.rows.start))
        return path

    def _finish(self, coming: _Coming) -> tuple[Order, Path | Exception]:
        one = coming.wanted
        try:
            cuts = coming.first.result()
            for future in coming.bands:
                future.result()
        except _Empty as error:
            coming.cancel()
            shutil.rmtree(one.part, ignore_errors=True)
            return one, error
        except (RemoteError, AddressError, SceneError) as error:
            coming.cancel()
            return one, error
        with TURN:
            return one, put_together(one, cuts)


def _check_gsd(scene: Scene, grid: PixelGrid, gsd_m: float | str) -> None:
    finest = min(pixel_size_m(grid))
    if isinstance(gsd_m, float | int) and gsd_m < 0.99 * finest:
        raise SceneError(
            f"{scene.id}: --gsd {gsd_m:g} is finer than its pixels of {finest:g} m; {finest:g} m and more, or native, "
            "are allowed. Give one of these."
        )


class _Tally:
    """Tells how many bytes have come, of several threads, and how many there are, as far as that is known."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._lock = Lock()
        self._files = self._opened = self._known = 0
        self._came = 0.0

    def expect(self, files: int) -> None:
        """So many more."""
        with self._lock:
            self._files += files

    def opened(self, size: int) -> None:
        """One more of them is known to be of this size."""
        with self._lock:
            self._opened += 1
            self._known += size

    def came(self, size: float) -> None:
        """So many bytes more are there."""
        with self._lock:
            self._came += size
            unopened = max(0, self._files - self._opened) * self._known / max(1, self._opened)
            if self._progress is not None:
                self._progress("fetch", int(self._came), int(self._known + unopened))
