"""convert --site auto: passes over a scene are found, sampled, cached and used, or the conversion does without."""

import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from conftest import S2_BANDS, allow_sockets, dn_of, write_raster
from emit_granules import Layout, write_granule
from enmap_world import CORNER as ENMAP_CORNER
from enmap_world import GAIN, KEPT, OFFSET, enmap_item
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import EMIT_NM, Site
from stac_server import Faults, StacServer
from stac_world import World as GranuleWorld

import ms2hs
import ms2hs.datasets.cubes.emit
from ms2hs.conversion import dask_backend
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.conversion.site_adaptation import site_text
from ms2hs.errors import QueryError, RemoteError
from ms2hs.fetching.cubes import pass_samples, site_search
from ms2hs.fetching.cubes.pass_samples import _spread
from ms2hs.fetching.cubes.products import PRODUCTS
from ms2hs.fetching.cubes.remote_cube import open_remote_cube
from ms2hs.fetching.cubes.site_search import SiteFinder
from ms2hs.fetching.search_query import SearchArea
from ms2hs.raster.cube import open_cube
from ms2hs.raster.pixel_grid import PixelGrid, lonlat_bounds
from ms2hs.remote.client import RetryPolicy
from ms2hs.remote.providers import PROVIDERS
from ms2hs.scenes.formats import open_scene
from ms2hs.spectra.spectral_grid import grid_of

CORNER = (600_000.0, 5_100_000.0)
# Of a sample: fewer than by default are faster.
PIXELS = 1024
LOGINS = ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD")
EOC = ("EOC_USERNAME", "EOC_PASSWORD", "EOC_COOKIE", "EOC_COOKIE_FILE")
QUICK = ConvertOptions(model="linear", site="auto")


class FakePass:
    """A pass over the site, of 30 m pixels, in blocks of 16 x 16."""

    spectral = grid_of(EMIT_NM, np.full(len(EMIT_NM), 9.0))
    grid = PixelGrid("EPSG:32632", (30, 0, CORNER[0] - 600, 0, -30, CORNER[1] + 600), 120, 120)
    block_shape = (16, 16)

    def __init__(self, name, cloudy=0.0):
        self.name, self.reads, self.closed = name, [], False
        self.clouds = np.random.default_rng(0).random((120, 120)) < cloudy
        self.values = Site().seen(self.spectral, Site().place(30, -20, -20), (120, 120)).astype(np.float32)

    def requests(self, *_window):
        return []

    def read(self, row, col, height, width):
        self.reads.append((row, col, height, width))
        part = np.s_[row : row + height, col : col + width]
        return np.where(self.clouds[part], np.float32(np.nan), self.values[:, *part])

    def close(self):
        self.closed = True


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A server of both products with a login at LP DAAC only, an empty cache, and the passes that were opened."""
    allow_sockets(monkeypatch, "127.")
    for name in (*LOGINS, *EOC):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("EARTHDATA_TOKEN", "token-of-nothing")
    monkeypatch.setenv("MS2HS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pass_samples, "PIXELS", PIXELS)
    with StacServer() as server:
        for product in ("emit", "enmap"):
            provider = PRODUCTS[product].provider
            monkeypatch.setitem(PROVIDERS, provider, replace(PROVIDERS[provider], url=server.root))
        yield World(server, monkeypatch)


class World:
    def __init__(self, server, monkeypatch):
        self.server, self.monkeypatch = server, monkeypatch
        self.passes, self.opened, self.fault = {}, [], None
        monkeypatch.setattr(pass_samples, "open_remote_cube", self.open)

    def add(self, day="2023-07-14", cloud=3.0, *, cloudy=0.0, product="emit", east=0.0, **facts):
        name = f"{product.upper()}_L2A_{day.replace('-', '')}T101010"
        box = [10.28 + east, 46.0, 10.36 + east, 46.07]
        west, south, right, north = box
        ring = [[west, south], [right, south], [right, north], [west, north], [west, south]]
        self.server.add_item({
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": PRODUCTS[product].collection,
            "bbox": box, "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": f"{day}T10:10:10Z", "eo:cloud_cover": cloud, **facts},
            "assets": {"data": {"href": self.server.address(f"{name}.nc")}}, "links": [],
        })  # fmt: skip
        self.passes[name] = FakePass(name, cloudy)
        return name

    def open(self, _client, item, _access, _folder=None):
        self.opened.append(item["id"])
        if self.fault:
            raise self.fault
        return self.passes[item["id"]]

    def go_offline(self):
        """No server answers any more."""
        self.server.items.clear()
        for provider in ("lpdaac", "dlr"):
            there = replace(PROVIDERS[provider], url=f"http://127.0.0.1:{closed_port()}")
            self.monkeypatch.setitem(PROVIDERS, provider, there)


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "S2B_MSIL2A_20240604T101559_T32TNT.tif")


def write_scene(path, corner=CORNER, size=80):
    """A Sentinel-2 scene of the site, of 30 m pixels."""
    dn = dn_of([[0.1, 0.1, 0.12, 0.1, 0.15, 0.3, 0.33, 0.34, 0.35, 0.35, 0.2, 0.1]], (size, size))
    transform = rasterio.Affine(30, 0, corner[0], 0, -30, corner[1])
    return write_raster(path, dn, descriptions=S2_BANDS, nodata=0, transform=transform)


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def find(path, *request, **options):
    """The site of a scene, as a new run finds it."""
    opened = open_scene(str(path))
    return SiteFinder(*request).find(opened.grid, opened.datetime, **options)


def test_passes_are_sampled_and_named_in_the_result(world, scene, tmp_path):
    name = world.add()
    result = ms2hs.convert(scene, "enmap", tmp_path / "out.tif", QUICK)
    note, effect = [note for note in result.notes if note.startswith("site:")]
    assert f"{name} (2023-07-14, {PIXELS} pixels) used; reflectance changes by 0.0" in effect
    assert note.startswith(f"site: {name} (2023-07-14, {PIXELS} pixels); enmap: dlr: no login")
    properties = json.loads(result.item.read_text())["properties"]
    assert note in properties["ms2hs:notes"]
    assert properties["ms2hs:site"] == f"{name} (2023-07-14, {PIXELS} pixels)"
    with rasterio.open(result.output) as cube:
        assert cube.tags()["MS2HS_SITE"] == properties["ms2hs:site"]
    assert world.passes[name].closed
    # the same pixels as with the cube in the cache
    (cube,) = (tmp_path / "cache").rglob("*.tif")
    by_hand = ms2hs.convert(scene, "enmap", tmp_path / "hand.tif", replace(QUICK, site=cube)).output
    without = ms2hs.convert(scene, "enmap", tmp_path / "none.tif", replace(QUICK, site=None)).output
    by_auto, by_hand, without = (open_cube(path).reflectance.values for path in (result.output, by_hand, without))
    assert np.array_equal(by_auto, by_hand, equal_nan=True)
    assert not np.array_equal(by_auto, without, equal_nan=True)


def test_a_sample_holds_pixels_of_the_pass_and_its_facts(world, scene):
    name = world.add()
    (path,) = find(scene).cubes
    cube, source = open_cube(path), world.passes[name]
    spectra = cube.reflectance.values.reshape(len(EMIT_NM), -1).T
    assert len(spectra) == PIXELS
    known = {tuple(row) for row in np.round(source.values.reshape(len(EMIT_NM), -1).T * 1e4).astype(int).tolist()}
    assert {tuple(row) for row in np.round(spectra * 1e4).astype(int).tolist()} <= known
    assert np.allclose(cube.wavelength, EMIT_NM)
    west, south, east, north = map(float, cube.attrs["MS2HS_BBOX"].split(","))
    assert 10.28 < west < east < 10.36
    assert 46.0 < south < north < 46.07
    assert site_text(path) == f"{name} (2023-07-14, {PIXELS} pixels)"


def test_a_second_search_needs_no_network(world, scene):
    world.add()
    first = find(scene)
    world.go_offline()
    began = time.monotonic()
    assert find(scene) == first
    assert time.monotonic() - began < 1
    assert len(world.opened) == 1


@pytest.mark.parametrize("damage", ["cube", "facts", "choice", "missing"])
def test_a_damaged_cache_is_fetched_again(world, scene, tmp_path, damage):
    world.add()
    first = find(scene)
    (cube,) = first.cubes
    (choice,) = (tmp_path / "cache").rglob("passes_*.json")
    whole = cube.read_bytes()
    if damage == "cube":
        cube.write_bytes(whole[:-200] + bytes(200))
    elif damage == "facts":
        cube.with_suffix(".json").write_text("{")
    elif damage == "missing":
        cube.unlink()
    else:
        choice.write_text('["..", 1]')
    assert find(scene) == first
    assert cube.read_bytes() == whole
    assert len(world.opened) == (1 if damage == "choice" else 2)


def test_an_old_choice_is_searched_again_and_kept_without_network(world, scene, monkeypatch):
    world.add()
    find(scene)
    monkeypatch.setattr(site_search, "MAX_AGE_DAYS", -1)
    newer = world.add("2024-06-01")
    assert newer in find(scene).note
    world.go_offline()
    monkeypatch.setattr(site_search, "RETRIES", replace(site_search.RETRIES, unreachable_s=0.1))
    offline = find(scene)
    assert newer in offline.passes[0]
    assert "emit: " in offline.note


def test_a_new_version_of_an_item_is_fetched(world, scene, monkeypatch):
    name = world.add()
    old = find(scene).cubes
    monkeypatch.setattr(site_search, "MAX_AGE_DAYS", -1)
    world.server.items.clear()
    world.add(updated="2024-01-01T00:00:00Z")
    assert find(scene).cubes != old
    assert world.opened == [name, name]


def test_the_limit_and_the_period_select_passes(world, scene):
    names = [world.add(day) for day in ("2022-06-01", "2023-06-01", "2023-08-01", "2024-06-01")]
    assert [name in find(scene, None, 2).note for name in names] == [False, True, False, True]
    assert [name in find(scene, "2022", 1).note for name in names] == [True, False, False, False]


def test_a_cloudy_pass_is_left_early_and_the_next_is_used(world, scene):
    cloudy, clear = world.add("2024-06-01", cloudy=1.0), world.add("2022-06-01")
    note = find(scene).note
    assert note.startswith(f"site: {clear} (2022-06-01, {PIXELS} pixels); {cloudy}: 0 of ")
    assert "pixels over the scene are clear" in note
    assert len(world.passes[cloudy].reads) <= 12
    partly = pass_samples._clear_pixels(
        FakePass("partly", cloudy=0.5), "partly", SearchArea(lonlat_bounds(open_scene(str(scene)).grid))
    )
    assert len(partly) >= pass_samples.MIN_PIXELS


WINDOWS = st.tuples(*[st.integers(0, 90)] * 2, *[st.integers(1, 90)] * 2)


@settings(max_examples=40)
@given(WINDOWS, st.tuples(*[st.integers(8, 100)] * 2), st.integers(1, 4096))
def test_cells_tile_a_window_and_lie_in_one_block(window, block_shape, pixels):
    cells = pass_samples._cells(window, block_shape)
    covered = np.zeros((180, 180), np.uint8)
    for row, col, height, width in cells:
        covered[row : row + height, col : col + width] += 1
        for first, size, block in ((row, height, block_shape[0]), (col, width, block_shape[1])):
            assert first // block == (first + size - 1) // block
        top, left, rows, cols = pass_samples._middle((row, col, height, width), pixels)
        assert 0 < rows * cols <= pixels
        assert row <= top <= top + rows <= row + height
        assert col <= left <= left + cols <= col + width
    top, left, height, width = window
    assert covered[top : top + height, left : left + width].min() == covered.max() == 1
    assert covered.sum() == height * width
    assert sorted(_spread(cells)) == sorted(cells)


def test_cells_spread_over_the_scene():
    cells = list(_spread(pass_samples._cells((100, 30, 300, 310), (256, 256))))
    rows, cols = zip(*((row, col) for row, col, _, _ in cells[:8]), strict=True)
    assert (min(rows), max(rows), min(cols), max(cols)) == (100, 384, 30, 336)
    assert pass_samples._middle((0, 0, 256, 256), 512) == (117, 116, 22, 23)


def test_few_large_blocks_are_read(scene):
    """Blocks of 30 MB: five are read, and more cells of these."""

    class LargeBlocks(FakePass):
        block_shape, kept = (32, 32), ()

        def requests(self, row, col, *_shape):
            return [] if (row // 32, col // 32) in self.kept else [Request(0, 30_000_000)]

        def read(self, row, col, height, width):
            self.kept = {*self.kept, (row // 32, col // 32)}
            return super().read(row, col, height, width)

    cube = LargeBlocks("large")
    area = SearchArea(lonlat_bounds(open_scene(str(scene)).grid))
    assert len(pass_samples._clear_pixels(cube, "large", area)) > 900
    assert len(cube.kept) == 5


class Request(NamedTuple):
    begin: int
    end: int

    def send(self):
        """Nothing to read."""


def test_without_a_login_the_scene_is_converted_in_one_line(world, scene, tmp_path, ms2hs, monkeypatch):
    monkeypatch.delenv("EARTHDATA_TOKEN")
    code, out, err = ms2hs("convert", scene, "--model", "linear", "--site", "auto", "-o", tmp_path / "out.tif")
    assert code == 0
    assert {Path(line).suffix for line in out.splitlines()} == {".tif", ".qml", ".png", ".json"}
    (line,) = [line for line in err.splitlines() if "site:" in line]
    assert "site: no pass; emit: lpdaac: no Earthdata login" in line
    assert "EARTHDATA_TOKEN" in line
    assert "enmap: dlr: no login" in line
    assert world.server.requests == []
    assert not (tmp_path / "cache").exists()


def test_without_a_pass_the_scene_is_converted(world, scene, tmp_path):
    world.add(east=5.0)
    assert find(scene).note.startswith("site: no pass; emit: no pass; enmap: dlr: no login")
    assert files(tmp_path / "cache") == []


@pytest.mark.usefixtures("world")
def test_a_scene_without_position_has_no_passes(tmp_path):
    path = write_raster(tmp_path / "s.tif", dn_of([[0.1] * 12]), descriptions=S2_BANDS, crs=None)
    assert find(path).note == "site: no pass; the scene has no position on the Earth"


@pytest.fixture
def black_hole():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []
        threading.Thread(target=lambda: held.extend(iter(listener.accept, None)), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("kind", ["black hole", "refused", "unknown name"])
def test_without_network_one_line_comes_in_time(scene, tmp_path, ms2hs, black_hole, monkeypatch, kind):
    """Two servers that do not answer take as long as one."""
    monkeypatch.setenv("EOC_COOKIE", "a=b")
    monkeypatch.setattr(site_search, "FIRST_ANSWER_S", 0.5)
    urls = {
        "black hole": black_hole,
        "refused": f"http://127.0.0.1:{closed_port()}",
        "unknown name": "https://x.invalid",
    }
    for provider in ("lpdaac", "dlr"):
        monkeypatch.setitem(PROVIDERS, provider, replace(PROVIDERS[provider], url=urls[kind]))
    began = time.monotonic()
    code, _, err = ms2hs("convert", scene, "--model", "linear", "--site", "auto", "-o", tmp_path / "out.tif")
    assert time.monotonic() - began < 4
    assert code == 0
    (line,) = [line for line in err.splitlines() if "site:" in line]
    assert "site: no pass; emit: " in line
    assert "; enmap: " in line
    assert "waiting" not in err


def test_a_failing_server_of_files_is_asked_twice(world, scene, tmp_path):
    world.add()
    world.add("2022-06-01")
    world.add("2022-07-01")
    world.fault = RemoteError("http://x/y.nc: could not be read (reset) in 4 attempts; a server is needed. Try later.")
    site = find(scene)
    assert site.cubes == ()
    assert "; http://x/y.nc: could not be read (reset) in 4 attempts; a server is needed" in site.note
    assert len(world.opened) == 2
    assert files(tmp_path / "cache") == []
    world.fault = None
    assert len(find(scene).cubes) == 3


def test_scenes_of_a_batch_share_searches_of_their_footprints(world, tmp_path):
    world.add()
    scenes = [
        write_scene(tmp_path / "S2B_MSIL2A_20240604T101559_T32TNT.tif", size=16),
        write_scene(tmp_path / "S2B_MSIL2A_20240614T101559_T32TNT.tif", size=16),
        write_scene(tmp_path / "far.tif", (600_900.0, 5_099_100.0), 20),
    ]
    batch = ms2hs.convert_all(scenes, "enmap", tmp_path / "out", QUICK)
    assert len(batch.made) == 3, batch.failed
    assert all(any("pixels" in note for note in result.notes) for result in batch.made.values())
    searches = [request for request in world.server.requests if request.path == "/search"]
    assert len(searches) == 2
    assert len(world.opened) == 2


def test_every_process_gets_the_cubes_of_its_scene(world, scene, tmp_path, monkeypatch):
    world.add()
    far = write_scene(tmp_path / "far.tif", (600_900.0, 5_099_100.0), 20)
    sent = []
    monkeypatch.setattr(dask_backend, "_check_executor", lambda _executor: None)
    monkeypatch.setattr(dask_backend, "_convert_on", lambda _executor, jobs, *_: sent.extend(jobs) or {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError):
        ms2hs.convert_all([scene, far], "enmap", tmp_path / "out", QUICK, executor=ms2hs.Executor(workers=2))
    cubes = [job.options.site for job in sent]
    assert len({*cubes}) == 2
    assert all(path.is_file() for (path,) in cubes)
    assert all(job.options.site_notes for job in sent)


def test_a_shard_looks_for_its_scenes_only(world, scene, tmp_path, ms2hs):
    world.add()
    far = write_scene(tmp_path / "far.tif", (600_900.0, 5_099_100.0), 20)
    words = ("--model", "linear", "--site", "auto", "--shard", "2/2", "-o", tmp_path / "out", "--json")
    code, out, err = ms2hs("convert", scene, far, *words)
    assert code == 0, err
    (result,) = json.loads(out)["made"].values()
    assert any("EMIT_L2A" in note for note in result["notes"])
    assert len(world.opened) == 1


def test_a_dry_run_names_the_passes_and_fetches_nothing(world, scene, tmp_path, ms2hs):
    name = world.add(cloud=None)
    words = ("convert", scene, "--model", "linear", "--site", "auto", "--dry-run", "-o", tmp_path / "x.tif")
    code, out, _ = ms2hs(*words)
    assert code == 0
    assert f"note: site: {name} (2023-07-14, unknown cloud); enmap: dlr" in out
    assert world.opened == []
    assert not (tmp_path / "cache").exists()
    code, out, _ = ms2hs(*words, "--json")
    assert any(name in note for note in json.loads(out)["input"]["notes"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--site-date", "2023"], "--site-date does not apply: it needs --site auto"),
        (["--site", "x.tif", "--site-limit", "2"], "--site-limit does not apply: it needs --site auto"),
        (["--site", "auto", "--site", "x.tif"], "--site auto with 1 other value"),
        (["--site", "auto", "--site-limit", "0"], "greater than or equal to 1"),
        (["--site", "auto", "--site-date", "soon"], "Correct --site-date"),
    ],
)
def test_options_that_do_not_fit_are_refused(world, scene, tmp_path, ms2hs, words, part):
    code, _, err = ms2hs("convert", scene, "--model", "linear", *words, "-o", tmp_path / "out.tif")
    assert code == 2
    assert part in " ".join(err.split())
    assert world.server.requests == []
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.usefixtures("world")
def test_a_wrong_period_is_refused_before_a_batch(scene, tmp_path):
    with pytest.raises(QueryError, match="--site-date"):
        ms2hs.convert_all([scene], "enmap", tmp_path / "out", replace(QUICK, site_date="soon"))
    assert not (tmp_path / "out").exists()


def test_the_cache_may_not_be_writable(world, scene, tmp_path):
    world.add()
    (tmp_path / "cache").write_text("a file")
    site = find(scene)
    assert site.cubes == ()
    assert "cache/site cannot be created" in site.note


@pytest.fixture
def granules(world, tmp_path, monkeypatch):
    """EMIT granules on a server, a scene in the middle of them, and their world."""
    monkeypatch.setattr(pass_samples, "open_remote_cube", open_remote_cube)
    monkeypatch.setattr(site_search, "RETRIES", RetryPolicy(first_s=0.002, longest_s=0.01, read_s=0.5, connect_s=0.5))
    granules = GranuleWorld(world.server, tmp_path / "making")
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32632", [10.32], [46.03])
    return granules, write_scene(tmp_path / "scene_20240604.tif", (x - 600, y + 600), 40)


def test_granules_are_sampled_through_a_faulty_server(granules, tmp_path):
    world, scene = granules
    item = world.emit(layout=Layout(chunks=None))
    first = find(scene)
    world.server.fault = Faults(0.3, kinds=("busy", "failed", "cut", "short", "shifted", "whole", "page"))
    world.server.requests.clear()
    for path in (tmp_path / "cache").rglob("*.tif"):
        path.unlink()
    again = find(scene)
    assert again == first
    assert sum(world.server.fault.drawn.values()) > 0
    (sample,) = again.cubes
    spectra = np.round(open_cube(sample).reflectance.values * 1e4).reshape(27, -1).T
    spectra = spectra[np.isfinite(spectra).all(axis=1)]
    assert len(spectra) >= pass_samples.MIN_PIXELS
    write_granule(tmp_path / "whole", item["id"].removeprefix("EMIT_L2A_RFL_"))
    whole = ms2hs.datasets.cubes.emit.open_emit(tmp_path / "whole" / f"{item['id']}.nc")
    known = np.round(whole.read(0, 0, *whole.shape) * 1e4).reshape(27, -1).T
    known = {tuple(row) for row in known[np.isfinite(known).all(axis=1)].astype(int).tolist()}
    assert {tuple(row) for row in spectra.astype(int).tolist()} <= known


def test_a_sample_reads_a_part_of_a_granule(granules):
    world, scene = granules
    world.emit(layout=Layout(rows=512, cols=480, chunks=None, lon=10.2, lat=46.1))
    assert find(scene).passes
    sizes = [len(content) for name, content in world.server.files.items() if "RFL_" in name]
    read = sum(size for name, size in world.server.sent.items() if "RFL_" in name)
    assert read < 0.15 * sum(sizes)


def test_passes_of_both_products_are_sampled(granules, tmp_path, monkeypatch):
    world, _ = granules
    monkeypatch.setenv("EOC_COOKIE", "session=1")
    item, dn, _ = enmap_item(world.server.add_file, tmp_path)
    world.server.add_item(item)
    (x,), (y,) = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [ENMAP_CORNER[0] + 2000], [ENMAP_CORNER[1] - 2000])
    world.emit(layout=Layout(lon=x - 0.03, lat=y + 0.02))
    site = find(write_scene(tmp_path / "both_20240604.tif", (ENMAP_CORNER[0] + 300, ENMAP_CORNER[1] - 300), 120))
    assert len(site.cubes) == 2, site.note
    assert site.note.count("pixels)") == 2
    assert ";" not in site.note
    (path,) = [path for path in site.cubes if path.name.startswith("ENMAP")]
    spectra = open_cube(path).reflectance.values.reshape(len(KEPT), -1).T
    known = {tuple(pixel) for pixel in dn[KEPT].reshape(len(KEPT), -1).T.tolist()}
    stored = np.round((spectra[np.isfinite(spectra).all(axis=1)] - OFFSET) / GAIN).astype(int)
    assert {tuple(pixel) for pixel in stored.tolist()} <= known
