"""fetch: scenes to disk."""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from ms2hs.errors import AddressError, NothingFound, OutputError, RemoteError, SceneError
from ms2hs.progress import Progress
from ms2hs.raster.addresses import check_address
from ms2hs.raster.cutting import around, cut_of, file_name, local_scene, part_within, safe_name
from ms2hs.raster.geotiff import SOURCE_TAG, TIME_TAG
from ms2hs.raster.items import check_item
from ms2hs.raster.output import check_space, flush
from ms2hs.raster.placement import pixel_size_m, working_grid
from ms2hs.raster.providers import PROVIDERS, Provider, provider_of
from ms2hs.raster.query import Place
from ms2hs.raster.ranges import Access, Patience, RangeClient
from ms2hs.raster.remote import address_of, copy_window, holds_data, open_remote
from ms2hs.raster.scene import Asset, PixelGrid, Scene
from ms2hs.raster.signing import Keys, Store, presigned, public
from ms2hs.raster.stac import ORIGIN, base_of, scene_of
from ms2hs.raster.stacking import StackLayout, strips_of, write_stack
from ms2hs.receipts import Receipt, State, state

# Scenes whose bands come in while one is put together: more would only fill the disk.
AHEAD = 2
# Of a file that a scene's grid is taken from: the finest bands of Sentinel-2.
FINEST = ("B02", "B03", "B04")
# Twice the coarsest pixels of Sentinel-2, which are interpolated and look for their quality around them.
AROUND_M = 120.0
# Bytes that a pixel of a band takes on disk while a scene is put together: its cut, strips and the result.
DISK_BYTES = 6


@dataclass(frozen=True)
class FetchChoices:
    """How to fetch; the defaults suit most."""

    gsd_m: float | Literal["native"] = 30.0
    """Ground sampling of what is written, in m, or `native`: a file a band as it is."""
    mosaic: bool = False
    """Scenes of one pass together on one grid, clearest first."""
    jobs: int = 4
    """Connections at once, at most."""
    overwrite: bool = False
    """Fetch again what is there and whole."""
    patience: Patience = field(default_factory=Patience)
    """With servers."""


@dataclass(frozen=True)
class Fetched:
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
    choices: FetchChoices | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch scenes, of each only the part inside `place` (None: all of it), into a folder.

    What is there and whole is kept. A scene that fails does not keep the others from being fetched.

    Parameters
    ----------
    items : STAC items, as `raster.stac.search` gives them.
    output : the folder; its parent must exist.
    progress : called with kB that have come and kB that there are, as far as that is known.

    Raises
    ------
    NothingFound : no scene has data in the place.
    RemoteError, CredentialsError, AddressError, SceneError : nothing could be fetched.
    OutputError : it cannot be written, or something else of that name is there.
    """
    choices = choices or FetchChoices()
    if choices.jobs < 1 or (choices.gsd_m != "native" and not choices.gsd_m > 0):
        raise ValueError(f"{choices.jobs} jobs, gsd {choices.gsd_m}: from 1 on and above 0 are allowed")
    _make(output)
    wanted = _wanted(items, place, output, choices)
    for provider in {id(one.provider): one.provider for one in wanted if not one.is_whole}.values():
        if provider is not None:
            provider.check_credentials()
    with RangeClient(choices.patience, choices.jobs) as client:
        return _Run(client, choices, progress).fetch(wanted)


def _make(output: Path) -> None:
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be made ({error}); a directory whose parent exists is needed. Make it, or go elsewhere."
        ) from error


@dataclass(frozen=True, eq=False)
class _Wanted:
    """One item, what is asked of it, and where it goes."""

    item: dict[str, Any]
    name: str
    folder: Path
    request: Mapping[str, Any]
    place: Place | None
    provider: Provider | None
    base: str | None
    is_native: bool
    is_whole: bool

    @property
    def part(self) -> Path:
        """Where it comes together; what is in it is taken up by the next run."""
        return self.folder / f".{self.name}.part"

    @property
    def home(self) -> Path:
        """The folder of the finished files."""
        return self.folder / self.name if self.is_native else self.folder

    @property
    def receipt(self) -> Path:
        """The item beside it."""
        return self.home / f"{self.name}.json"

    @property
    def path(self) -> Path:
        """What `convert` takes."""
        return self.receipt if self.is_native else self.folder / f"{self.name}.tif"

    @property
    def access(self) -> Access:
        """To its files."""
        provider = self.provider

        def check(address: str) -> None:
            check_address(address, self.base)

        def sign(address: str, *, fresh: bool) -> str:
            endpoint = provider.gdal.get("AWS_S3_ENDPOINT") if provider else None
            if address.startswith("s3://"):
                return presigned(address, Store(endpoint), Keys.of_environment()) if endpoint else public(address)
            return provider.sign(address, fresh=fresh) if provider else address

        return Access(check, sign) if provider is None else Access(check, sign, provider.headers)


def _wanted(items: Sequence[dict[str, Any]], place: Place | None, output: Path, choices: FetchChoices) -> list[_Wanted]:
    """What is to be fetched, after a look at what is there; an item that is given twice counts once."""
    found: dict[str, _Wanted] = {}
    for item in items:
        name = safe_name(check_item(item))
        request = {
            "item": item["id"],
            "collection": item.get("collection"),
            "updated": item.get("properties", {}).get("updated"),
            "boxes": [list(box) for box in place.boxes] if place else None,
            "gsd_m": choices.gsd_m,
        }
        if name in found and found[name].request != request:
            name = safe_name(f"{name}_{item.get('collection')}")
        origin = item.get(ORIGIN) or {}
        base = base_of(item)
        provider = PROVIDERS.get(str(origin.get("provider"))) or provider_of(item)
        is_native = choices.gsd_m == "native"
        one = _Wanted(item, name, output, request, place, provider, base, is_native, is_whole=False)
        found[name] = _looked_at(one, overwrite=choices.overwrite)
    return list(found.values())


def _looked_at(one: _Wanted, *, overwrite: bool) -> _Wanted:
    """The same, knowing whether it is whole; OutputError where something else is in its place."""
    there = state(one.receipt, one.request)
    target = one.home if one.is_native else one.path
    if there is State.MISSING and target.exists() and not one.part.exists():
        there = State.OTHER
    if there is State.OTHER and not overwrite:
        raise OutputError(
            f"{target} is there, but of {there.value}; it is replaced only when asked. Pass --overwrite, or give "
            "another directory."
        )
    is_whole = there is State.WHOLE and not overwrite
    if is_whole:
        shutil.rmtree(one.part, ignore_errors=True)
    return _Wanted(**{**vars(one), "is_whole": is_whole})


class _Empty(Exception):
    """The scene has no data in the place."""


@dataclass(frozen=True, eq=False)
class _Cuts:
    """What is cut from a scene's files."""

    scene: Scene
    grid: PixelGrid
    """That it is put on; of native files, that of the finest band."""
    beyond: PixelGrid
    """The same with what is needed around it."""


@dataclass(frozen=True, eq=False)
class _Coming:
    """A scene whose files come in."""

    wanted: _Wanted
    first: "Future[_Cuts]"
    bands: "list[Future[None]]"

    def cancel(self) -> None:
        """Leave what has not begun."""
        self.first.cancel()
        for future in self.bands:
            future.cancel()


class _Run:
    """One call of `fetch`."""

    def __init__(self, client: RangeClient, choices: FetchChoices, progress: Progress | None) -> None:
        self.client = client
        self.choices = choices
        self.tally = _Tally(progress)

    def fetch(self, wanted: list[_Wanted]) -> Fetched:
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
        return Fetched(ordered, kept, self.client.traffic.bytes_read, told, tuple(left_out))

    def _arrived(self, wanted: list[_Wanted]) -> Iterator[tuple[_Wanted, Path | Exception]]:
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

    def _start(self, pool: ThreadPoolExecutor, one: _Wanted) -> _Coming | Exception:
        try:
            scene = scene_of(one.item, one.base, None, self._grid_at(one))
        except (SceneError, AddressError, RemoteError) as error:
            return error
        _resume(one)
        self.tally.expect(len(scene.assets) + (scene.quality is not None))
        first = pool.submit(self._look, one, scene)
        # In the order in which they were handed in: `first` runs or has run when one of these waits for it.
        bands = [pool.submit(self._band, one, asset, first) for asset in scene.assets]
        return _Coming(one, first, bands)

    def _grid_at(self, one: _Wanted) -> Callable[[str], PixelGrid]:
        def look(href: str) -> PixelGrid:
            with open_remote(self.client, href, one.access) as raster:
                return raster.grid

        return look

    def _look(self, one: _Wanted, scene: Scene) -> _Cuts:
        """Find out what is needed, and fetch the quality layer of it."""
        finest = next((asset for name in FINEST for asset in scene.assets if asset.name == name), scene.assets[0])
        whole = self._grid_at(one)(finest.href)
        grid = whole if one.is_native else working_grid(_on(scene, whole), float(self.choices.gsd_m))
        _check_gsd(scene, whole, self.choices.gsd_m)
        if one.place is not None:
            part = part_within(grid, one.place.boxes)
            if part is None:
                raise _Empty("it does not reach into the place")
            grid = grid.crop(*part)
        cuts = _Cuts(scene, grid, around(grid, AROUND_M))
        check_space(one.folder, grid.height * grid.width * (len(scene.assets) + 1) * DISK_BYTES)
        if scene.quality is not None:
            path = self._copy(one, scene, scene.quality, cuts.beyond)
            if not holds_data(path, scene.quality.nodata):
                raise _Empty("it has no data in the place")
        return cuts

    def _band(self, one: _Wanted, asset: Asset, first: "Future[_Cuts]") -> None:
        """Fetch a band, once it is known what of it; nothing where that failed."""
        if first.exception() is None:
            cuts = first.result()
            self._copy(one, cuts.scene, asset, cuts.grid)

    def _copy(self, one: _Wanted, scene: Scene, asset: Asset, grid: PixelGrid) -> Path:
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

    def _finish(self, coming: _Coming) -> tuple[_Wanted, Path | Exception]:
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
        return one, _put_together(one, cuts)


def _on(scene: Scene, grid: PixelGrid) -> Scene:
    return Scene(**{**vars(scene), "grid": grid})


def _check_gsd(scene: Scene, grid: PixelGrid, gsd_m: float | str) -> None:
    finest = min(pixel_size_m(grid))
    if isinstance(gsd_m, float | int) and gsd_m < 0.99 * finest:
        raise SceneError(
            f"{scene.id}: --gsd {gsd_m:g} is finer than its pixels of {finest:g} m; {finest:g} m and more, or native, "
            "are allowed. Give one of these."
        )


def _resume(one: _Wanted) -> None:
    """Keep what an earlier run left of the same request, and nothing of another."""
    told = json.dumps(one.request, sort_keys=True)
    note = one.part / "request.json"
    try:
        if note.is_file() and note.read_text(encoding="utf-8") != told:
            shutil.rmtree(one.part)
        one.part.mkdir(exist_ok=True)
        with _in_place(note) as part:
            part.write_text(told, encoding="utf-8")
    except OSError as error:
        raise _unwritten(one.part, error) from error


@contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when all is written."""
    part = path.with_name(f".{path.name}")
    yield part
    flush(part)
    part.replace(path)


def _unwritten(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} could not be written ({error}); its directory must be writable and have room. Free some space, or "
        "choose another place."
    )


def _put_together(one: _Wanted, cuts: _Cuts) -> Path:
    """Make the finished files of those that came, and put them in place, the receipt last."""
    scene = local_scene(cuts.scene, one.part, cuts.grid)
    assets = [*scene.assets, *([scene.quality] if scene.quality else [])]
    try:
        if one.is_native:
            return _keep_files(one, cuts, [Path(asset.href) for asset in assets])
        layout = StackLayout(cuts.grid, scene.spectral, scene.quality_rule, _tags(one, scene))
        stacked = one.part / one.path.name
        counts = write_stack(stacked, layout, strips_of(scene, cuts.grid))
        receipt = Receipt(one.request, one.item, cuts.scene, cuts.grid, counts.known, counts.clear)
        _write_json(one.part / one.receipt.name, receipt.document([stacked], {}))
        one.receipt.unlink(missing_ok=True)
        stacked.replace(one.path)
        one.path.with_name(f"{one.path.name}.aux.xml").unlink(missing_ok=True)
        (one.part / one.receipt.name).replace(one.receipt)
        shutil.rmtree(one.part)
    except OSError as error:
        raise _unwritten(one.path, error) from error
    return one.path


def _keep_files(one: _Wanted, cuts: _Cuts, files: list[Path]) -> Path:
    receipt = Receipt(one.request, one.item, cuts.scene, cuts.grid, 0, 0)
    keys = {file.name: key for file in files if (key := _asset_key(one, cuts.scene, file))}
    _write_json(one.part / one.receipt.name, receipt.document(files, keys))
    (one.part / "request.json").unlink(missing_ok=True)
    if one.home.exists():
        shutil.rmtree(one.home)
    one.part.replace(one.home)
    return one.path


def _asset_key(one: _Wanted, scene: Scene, file: Path) -> str | None:
    """The item's asset that a file was cut from."""
    assets = [*scene.assets, *([scene.quality] if scene.quality else [])]
    href = next(address_of(asset.href) or asset.href for asset in assets if file_name(scene, asset) == file.name)
    given = one.item["assets"].items()
    return next((key for key, asset in given if href.endswith(str(asset.get("href", "")).removeprefix("./"))), None)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with _in_place(path) as part:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _tags(one: _Wanted, scene: Scene) -> dict[str, str]:
    told = {
        "MS2HS_ITEM": str(one.item["id"]),
        "MS2HS_COLLECTION": str(one.item.get("collection") or ""),
        SOURCE_TAG: scene.source,
        "MS2HS_OFFSET_RULE": f"{scene.offset_rule}; applied: what is stored is reflectance in ten-thousandths",
        TIME_TAG: scene.datetime or "",
    }
    return {name: text for name, text in told.items() if text}


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
                self._progress("fetch", int(self._came / 1000), int((self._known + unopened) / 1000))
