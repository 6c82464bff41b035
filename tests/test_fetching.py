"""fetch: scenes from an unreliable server, in the layouts of three archives, are the server's pixels."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import allow_sockets
from rasterio.io import MemoryFile
from rasterio.warp import transform
from rio_cogeo.cogeo import cog_validate
from stac_server import FAULT_KINDS, Faults, StacServer
from stac_world import World, cog, signer, smooth, within

from ms2hs.errors import AddressError, CredentialsError, NothingFound, OutputError, QueryError, RemoteError, SceneError
from ms2hs.fetching import fetcher
from ms2hs.fetching.fetcher import FetchOptions, fetch
from ms2hs.fetching.search_query import parse_bbox
from ms2hs.remote.client import RetryPolicy
from ms2hs.remote.providers import PROVIDERS, Provider
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader

QUICK = RetryPolicy(first_s=0.002, longest_s=0.01, read_s=0.25, connect_s=0.5)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Allow connections to this machine only."""
    allow_sockets(monkeypatch, "127.")


@pytest.fixture
def server():
    with StacServer(slow_s=0.5) as server:
        yield server


@pytest.fixture
def world(server, tmp_path):
    return World(server, tmp_path / "making")


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_all(path):
    scene = open_scene(str(path))
    with SceneReader(scene, scene.grid) as reader:
        return scene, *reader.read(0, 0, scene.grid.height, scene.grid.width)


def test_fetched_scene_converts_like_its_files(world, tmp_path):
    from ms2hs.scenes.scene import working_grid
    from ms2hs.scenes.stac_item import scene_of

    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    result = fetch([item], None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert (result.kept, result.failed, result.left_out) == (0, (), ())
    scene, reflectance, valid = read_all(result.paths[0])
    assert scene.source == "sentinel2a"
    assert [layer.name for layer in scene.quality] == ["SCL"]
    assert scene.datetime.startswith("2024-06-01")
    native = fetch([item], None, tmp_path / "native", FetchOptions("native", retries=QUICK)).paths[0]
    files = scene_of(json.loads(native.read_text()) | {"assets": absolute(native)}, None)
    grid = working_grid(files, 30.0)
    assert grid == scene.grid
    with SceneReader(files, grid) as reader:
        direct, direct_valid = reader.read(0, 0, grid.height, grid.width)
    assert (direct_valid == valid).mean() > 0.999
    both = direct_valid & valid
    assert np.abs(direct - reflectance)[:, both].max() <= 0.51e-4


def absolute(item):
    assets = json.loads(item.read_text())["assets"]
    return {key: asset | {"href": str(item.parent / asset["href"])} for key, asset in assets.items()}


def test_native_files_are_bit_identical(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    world.server.fault = lambda _path: "slow"
    world.server.slow_s = 0.02
    result = fetch([item], None, tmp_path / "out", FetchOptions("native", jobs=3, retries=QUICK))
    assert world.server.max_active == 3
    for (name, band), values in world.values.items():
        with rasterio.open(result.paths[0].parent / f"{name}_{band}.tif") as file:
            assert np.array_equal(file.read(1), values), band


def login(server, name="guarded", **options):
    """A provider whose files need a signature, like Planetary Computer."""
    return Provider(name, "of a test", server.root, {"sentinel-2-l2a": "by_baseline"}, **options)


def earth_search(world, monkeypatch):  # noqa: ARG001 - the same parameters as the other layouts
    return world.sentinel2("S2A_32TNT_20240601_0_L2A")


def planetary_computer(world, monkeypatch):
    provider = login(world.server, sign=signer(world.server))
    monkeypatch.setitem(PROVIDERS, "guarded", provider)
    world.server.signature_life = 40
    name = "S2A_MSIL2A_20240601T102021_R065_T32TNT_20240601T142021"
    item = world.sentinel2(name, key=str, prefix="signed/", collection="sentinel-2-l2a")
    for asset in item["assets"].values():
        asset.pop("raster:bands", None)
    item["ms2hs:from"]["provider"] = "guarded"
    return item


def lp_daac(world, monkeypatch):
    def headers(address):
        return {"Authorization": "Bearer planted-token"} if f":{world.server.port}/" in address else {}

    monkeypatch.setitem(PROVIDERS, "guarded", login(world.server, headers=headers))
    item = world.hls()
    for asset in item["assets"].values():  # as the login does: on to where the file lies
        path = asset["href"].removeprefix(world.server.address(""))
        world.server.redirects[f"protected/{path}"] = asset["href"]
        asset["href"] = world.server.address(f"protected/{path}")
    item["ms2hs:from"]["provider"] = "guarded"
    return item


@pytest.mark.parametrize("layout", [earth_search, planetary_computer, lp_daac])
def test_fetch_then_convert(layout, world, tmp_path, monkeypatch, caplog):
    from ms2hs.conversion.convert_scene import convert

    caplog.set_level("DEBUG")
    item = layout(world, monkeypatch)
    area = within((601_000, 5_097_500, 603_100, 5_099_000))
    steps = []
    result = fetch([item], area, tmp_path / "out", FetchOptions(retries=QUICK), lambda *step: steps.append(step))
    scene = open_scene(str(result.paths[0]))
    assert scene.source == ("hls_s30" if layout is lp_daac else "sentinel2a")
    assert [layer.name for layer in scene.quality] == ["Fmask" if layout is lp_daac else "SCL"]
    assert (scene.grid.transform[2] - 600_000) % 30 == (5_100_000 - scene.grid.transform[5]) % 30 == 0
    cube = convert(result.paths[0], "enmap", tmp_path / "cube.tif")
    with rasterio.open(cube.output) as file:
        assert (file.count, file.shape) == (202, (scene.grid.height, scene.grid.width))
        assert (file.read(50) != file.nodata).mean() > 0.3
    assert cog_validate(result.paths[0])[:2] == (True, [])
    assert steps[-1][1] == steps[-1][2] > 0
    everything = caplog.text + "".join(
        path.read_bytes().decode("latin1") for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert "planted-token" not in everything
    assert "sig-" not in everything
    assert list(hashes(tmp_path / "out")) == sorted(f"{item['id']}{end}" for end in (".json", ".tif"))


def test_fetch_keeps_complete_scenes_and_repairs_damaged_ones(world, tmp_path):
    items = [world.sentinel2(f"S2A_32TNT_2024060{day}_0_L2A", seed=day) for day in (1, 2)]
    area, out = within((601_000, 5_098_000, 602_000, 5_099_000)), tmp_path / "out"
    choices = FetchOptions(retries=QUICK)
    first = fetch(items, area, out, choices)
    before, requests = hashes(out), len(world.server.requests)
    again = fetch(items, area, out, choices)
    assert (again.kept, again.bytes_read, again.paths) == (2, 0, first.paths)
    assert len(world.server.requests) == requests
    content = first.paths[0].read_bytes()
    first.paths[0].write_bytes(content[:-100] + bytes(100))
    assert fetch(items, area, out, choices).kept == 1
    first.paths[1].unlink()
    assert fetch(items, area, out, choices).kept == 1
    assert hashes(out) == before
    with pytest.raises(OutputError, match="--overwrite"):
        fetch(items, None, out, choices)
    assert fetch(items, None, out, FetchOptions(overwrite=True, retries=QUICK)).kept == 0


def test_fetch_does_not_replace_other_files(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / f"{item['id']}.tif"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        fetch([item], None, tmp_path / "out")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("gsd_m", [30.0, "native"])
def test_fetch_does_not_replace_a_file_created_in_the_meantime(world, tmp_path, monkeypatch, gsd_m):
    item, out = world.sentinel2("S2A_32TNT_20240601_0_L2A"), tmp_path / "out"
    mine = out / item["id"] / "a.json" if gsd_m == "native" else out / f"{item['id']}.json"

    def assemble(request, part, write=fetcher.assemble):
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        return write(request, part)

    monkeypatch.setattr(fetcher, "assemble", assemble)
    with pytest.raises(OutputError, match="--overwrite"):
        fetch([item], None, out, FetchOptions(gsd_m=gsd_m))
    assert mine.read_text() == "mine"
    monkeypatch.undo()
    mine.unlink()
    assert fetch([item], None, out, FetchOptions(gsd_m=gsd_m)).paths


def test_fetch_ignores_paths_in_item_ids(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    for name in ("../../evil", "/etc/evil", ".hidden", "a" * 300):
        result = fetch([item | {"id": name}], None, tmp_path / "out", FetchOptions(retries=QUICK))
        assert result.paths[0].parent == tmp_path / "out"
        assert not result.paths[0].name.startswith(".")


@pytest.mark.parametrize(
    ("corner", "epsg", "box"),
    [
        pytest.param((600_000, 5_100_000), 32632, (10.30, 46.01, 10.3002, 46.0101), id="less than a pixel"),
        pytest.param((600_000, 5_100_000), 32632, (-100, -60, 120, 75), id="larger than a tile"),
        pytest.param((831_000, 100_000), 32660, (179.98, 0.86, -179.985, 0.89), id="across the antimeridian"),
        pytest.param((831_000, 100_000), 32660, (170, -10, -170, 10), id="far across the antimeridian"),
        pytest.param((163_000, 100_000), 32601, (179.98, 0.86, -179.985, 0.89), id="from its other side"),
    ],
)
def test_fetch_crops_to_any_box(world, tmp_path, corner, epsg, box):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A", corner, epsg)
    area = parse_bbox(box)
    result = fetch([item], area, tmp_path / "out", FetchOptions(retries=QUICK))
    with rasterio.open(result.paths[0]) as file:
        bounds = file.bounds
        assert file.crs.to_epsg() == epsg
    scene_bounds = (corner[0], corner[1] - world.side_m, corner[0] + world.side_m, corner[1])
    corners = [(x, y) for bounds in area.boxes for x in bounds[::2] for y in bounds[1::2]]
    xs, ys = transform("EPSG:4326", f"EPSG:{epsg}", *zip(*corners, strict=True))
    wanted = (min(xs), min(ys), max(xs), max(ys))
    if box[2] - box[0] > 100 or box[0] == 170:
        wanted = scene_bounds
    for k, (side, own, edge) in enumerate(zip(bounds, wanted, scene_bounds, strict=True)):
        inside = max(own, edge) if k < 2 else min(own, edge)
        assert abs(side - inside) <= 45, (bounds, wanted)


def test_fetch_keeps_the_zone_of_each_scene(world, tmp_path):
    west = world.sentinel2("S2A_32TQT_20240601_0_L2A", (729_000, 5_100_000), 32632)
    east = world.sentinel2("S2A_33TTM_20240601_0_L2A", (267_000, 5_103_000), 32633)
    bounds = [west["bbox"], east["bbox"]]
    area = parse_bbox((max(b[0] for b in bounds), max(b[1] for b in bounds) + 0.01, 12.02, min(b[3] for b in bounds)))
    result = fetch([west, east], area, tmp_path / "out", FetchOptions(retries=QUICK))
    codes = [rasterio.open(path).crs.to_epsg() for path in result.paths]
    assert codes == [32632, 32633]


def test_fetch_without_scene_in_the_area_is_an_error(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    with pytest.raises(NothingFound, match=r"none of 1 scenes.*--bbox") as caught:
        fetch([item], parse_bbox((20, 46, 21, 47)), tmp_path / "out", FetchOptions(retries=QUICK))
    assert caught.value.exit_code == 3
    assert list((tmp_path / "out").iterdir()) == []


def test_fetch_leaves_out_scenes_without_data_in_the_area(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    href = item["assets"]["scl"]["href"].removeprefix(world.server.address(""))
    world.server.files[href] = cog(
        tmp_path / "x.tif", np.zeros((300, 300), np.uint8), 20, (600_000, 5_100_000), 32632, 0
    )
    with pytest.raises(NothingFound, match="no data in the area"):
        fetch([item], None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert sum("B0" in request.path for request in world.server.requests) == 1  # a header


def test_fetch_reads_only_the_blocks_of_the_window(server, tmp_path):
    world = World(server, tmp_path / "making", 12_000, 512)
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    rng = np.random.default_rng(0)
    ratios = []
    for k in range(6):
        west, south = 600_000 + rng.uniform(200, 9000), 5_088_000 + rng.uniform(200, 9000)
        bounds = (west, south, west + rng.uniform(100, 2700), south + rng.uniform(100, 2700))
        result = fetch([item], within(bounds), tmp_path / f"out{k}", FetchOptions(retries=QUICK))
        with rasterio.open(result.paths[0]) as file:
            touched = sum(blocks_under(content, file.bounds) for content in server.files.values())
        ratios.append(result.bytes_read / touched)
    assert max(ratios) <= 1.3, ratios


def blocks_under(content, bounds):
    """Size of the blocks of a file that a window touches."""
    with MemoryFile(content) as memory, memory.open() as file:
        (left, top), (right, bottom) = ~file.transform @ bounds[::3], ~file.transform @ (bounds[2], bounds[1])
        high, wide = file.block_shapes[0]
        rows = range(int(top + 1e-6) // high, -(-math.ceil(bottom - 1e-6) // high))
        cols = range(int(left + 1e-6) // wide, -(-math.ceil(right - 1e-6) // wide))
        return sum(int(file.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x in cols for y in rows)


@pytest.mark.slow
def test_fetch_of_fifty_scenes_survives_faults(server, tmp_path):
    world = World(server, tmp_path / "making", 1200)
    items = [world.sentinel2(f"S2A_32TNT_20240601_{k}_L2A", seed=k % 7) for k in range(50)]
    server.fault = Faults(0.1, seed=1)
    result = fetch(items, None, tmp_path / "out", FetchOptions("native", jobs=4, retries=QUICK))
    assert (len(result.paths), result.failed, result.left_out) == (50, (), ())
    assert set(server.fault.drawn) == set(FAULT_KINDS)
    for path in result.paths:
        for (name, band), values in world.values.items():
            if name == path.stem:
                with rasterio.open(path.parent / f"{name}_{band}.tif") as file:
                    assert np.array_equal(file.read(1), values), (name, band)


RUN = """
import json, sys
from pathlib import Path
from ms2hs.fetching.fetcher import FetchOptions, fetch
fetch(json.loads(Path(sys.argv[1]).read_text()), None, Path(sys.argv[2]), FetchOptions(float(sys.argv[3])))
"""


@pytest.mark.alone
@pytest.mark.slow
def test_fetch_resumes_after_a_kill_with_the_same_files(server, tmp_path):
    world = World(server, tmp_path / "making", 1200)
    items = [world.sentinel2(f"S2A_32TNT_20240601_{k}_L2A", seed=k) for k in range(4)]
    (tmp_path / "items.json").write_text(json.dumps(items))
    fetch(items, None, tmp_path / "undisturbed", FetchOptions(retries=QUICK))
    server.fault, server.slow_s = lambda _path: "slow", 0.02
    command = [sys.executable, "-c", RUN, str(tmp_path / "items.json"), str(tmp_path / "out"), "30"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    seen = []
    for after in (4, 30, 55, 80):
        started = len(server.requests)
        with subprocess.Popen(command, env=environment) as run:
            while run.poll() is None and len(server.requests) < started + after:
                time.sleep(0.005)
            run.send_signal(signal.SIGKILL)
        seen.append(len(server.requests) - started)
    server.fault = None
    result = fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert len(result.paths) == 4
    assert hashes(tmp_path / "out") == hashes(tmp_path / "undisturbed")
    assert result.kept or sum(seen) > 0


@pytest.mark.slow
def test_fetch_locks_its_folder(server, tmp_path):
    world = World(server, tmp_path / "making", 1200)
    items = [world.sentinel2(f"S2A_32TNT_20240601_{k}_L2A", seed=k) for k in range(2)]
    (tmp_path / "items.json").write_text(json.dumps(items))
    fetch(items, None, tmp_path / "undisturbed", FetchOptions(retries=QUICK))
    came, go_on = threading.Event(), threading.Event()
    server.fault = lambda _path: came.set() or (None if go_on.wait(50) else "failed")
    command = [sys.executable, "-c", RUN, str(tmp_path / "items.json"), str(tmp_path / "out"), "30"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, env=environment) as first:
        assert came.wait(50)
        second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert first.poll() is None
        assert "OutputError" in second.stderr
        assert f"being written to by process {first.pid} on" in second.stderr
        go_on.set()
    assert first.returncode == 0
    assert hashes(tmp_path / "out") == hashes(tmp_path / "undisturbed")


def test_lock_folder_serves_one_process_at_a_time(tmp_path):
    program = """
import sys, time
from pathlib import Path
from ms2hs.errors import OutputError
from ms2hs.files import lock_folder
folder, got = Path(sys.argv[1]), 0
until = time.monotonic() + 30
while got < 5 and time.monotonic() < until:
    try:
        with lock_folder(folder):
            (folder / "held").touch(exist_ok=False)
            (folder / "held").unlink()
            got += 1
    except OutputError:
        pass
print(got)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(run.communicate()[0].strip(), run.returncode) for run in runs] == [("5", 0)] * 3
    assert list(tmp_path.iterdir()) == []


def once(kind, count=1):
    """A fault for the first requests of files only."""
    left = [kind] * count
    return lambda _path: left.pop() if left else None


def test_fetch_obeys_retry_after(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    world.server.fault, world.server.retry_after = once("busy"), "1"
    began = time.monotonic()
    fetch([item], None, tmp_path / "out", FetchOptions(jobs=1, retries=QUICK))
    assert 1 <= time.monotonic() - began < 4
    world.server.fault, world.server.retry_after = once("busy"), "100000"
    with pytest.raises(RemoteError, match="asks to wait 100000 s"):
        fetch([item], None, tmp_path / "other", FetchOptions(jobs=1, retries=QUICK))


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("failed", RemoteError, "status 50"),
        ("page", RemoteError, "text/html instead of a raster"),
        ("cut", RemoteError, "incomplete read"),
        ("whole", RemoteError, "without the requested range"),
        ("expired", CredentialsError, "refuses access"),
        ("redirected", AddressError, "private"),
    ],
)
def test_fetch_reports_permanent_faults(world, tmp_path, kind, error, words):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    world.server.fault = lambda _path: kind
    with pytest.raises(error, match=words) as caught:
        fetch([item], None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert "?" not in str(caught.value)
    assert not any(request.headers["host"].startswith("127.0.0.2") for request in world.server.requests)


def test_fetch_continues_after_a_missing_file(world, tmp_path):
    items = [world.sentinel2(f"S2A_32TNT_2024060{day}_0_L2A", seed=day) for day in (1, 2)]
    gone = items[0]["assets"]["red"]["href"].removeprefix(world.server.address(""))
    del world.server.files[gone]
    result = fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert [path.stem for path in result.paths] == [items[1]["id"]]
    assert len(result.failed) == 1
    assert "no such file" in result.failed[0]


def test_fetch_continues_after_a_refused_scene(world, tmp_path):
    items = [world.sentinel2(f"S2A_32TNT_2024060{day}_0_L2A", seed=day) for day in (1, 2)]
    refused = items[0]["assets"]["red"]["href"].removeprefix(world.server.address(""))
    world.server.fault = lambda path: "expired" if refused in path else None
    result = fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert [path.stem for path in result.paths] == [items[1]["id"]]
    assert "refuses access" in result.failed[0]


@pytest.mark.parametrize("step", ["scene_of", "assemble"])
def test_fetch_continues_after_an_unexpected_error(world, tmp_path, monkeypatch, step):
    items = [world.sentinel2(f"S2A_32TNT_2024060{day}_0_L2A", seed=day) for day in (1, 2)]
    original, calls = getattr(fetcher, step), []

    def fail_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyError("proj:shape")
        return original(*arguments)

    monkeypatch.setattr(fetcher, step, fail_first)
    result = fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert [path.stem for path in result.paths] == [items[1]["id"]]
    assert "S2A_32TNT_20240601_0_L2A: KeyError: 'proj:shape'" in result.failed[0]


def test_fetch_at_other_ground_samplings(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    for gsd_m in (10.0, 20.0):
        result = fetch([item], None, tmp_path / f"at{gsd_m:.0f}", FetchOptions(gsd_m, retries=QUICK))
        with rasterio.open(result.paths[0]) as file:
            assert file.res == (gsd_m, gsd_m)
            band = "B02" if gsd_m == 10 else "B05"
            own = world.values[item["id"], band].astype(int) - 1000
            stored = file.read(file.descriptions.index(band) + 1)
            assert np.array_equal(stored, own)
    with pytest.raises(SceneError, match="--gsd 20 is finer"):
        fetch([world.hls()], None, tmp_path / "hls", FetchOptions(20.0, retries=QUICK))


def test_mosaic_takes_the_clearest_scene_first(world, tmp_path):
    name = "S2A_{}_20240601_0_L2A"
    a = world.sentinel2(name.format("32TQT"), (729_000, 5_100_000), seed=1)
    b = world.sentinel2(name.format("32TQS"), (730_500, 5_097_000), seed=2)
    later = world.sentinel2(name.format("late"), (729_000, 5_100_000), properties={"datetime": "2024-06-03T10:20:21Z"})
    choices = FetchOptions(mosaic=True, retries=QUICK)
    result = fetch([a, b, later], None, tmp_path / "out", choices)
    assert [path.stem for path in result.paths] == ["sentinel2a_20240601T102021_mosaic", later["id"]]
    with rasterio.open(result.paths[0]) as file:
        mosaic, bounds = file.read(), file.bounds
        assert (file.descriptions[-1], bounds) == ("SCL", (729_000, 5_091_000, 736_500, 5_100_000))
    expected, rank = np.full_like(mosaic, -32768), np.zeros(mosaic.shape[1:])
    expected[-1] = 0
    scenes = []
    for item in (a, b):
        with rasterio.open(tmp_path / "out" / f"{item['id']}.tif") as file:
            window = file.read(), (file.bounds.left - bounds.left) // 30, (bounds.top - file.bounds.top) // 30
            scenes.append((np.isin(window[0][-1], (4, 5)).mean(), *window))
    for _, numbers, col, row in sorted(scenes, key=lambda scene: -scene[0]):
        _, rows, cols = numbers.shape
        pixels = (slice(int(row), int(row) + rows), slice(int(col), int(col) + cols))
        own = 1 + np.isin(numbers[-1], (4, 5))
        better = own > rank[pixels]
        expected[:, *pixels][:, better] = numbers[:, better]
        rank[pixels][better] = own[better]
    assert np.array_equal(mosaic, expected)
    before = hashes(tmp_path / "out")
    assert fetch([a, b, later], None, tmp_path / "out", choices).bytes_read == 0
    assert hashes(tmp_path / "out") == before
    result.paths[0].with_suffix(".json").unlink()
    with pytest.raises(OutputError, match="mosaic.tif exists, with other content"):
        fetch([a, b, later], None, tmp_path / "out", choices)
    with pytest.raises(QueryError, match="--mosaic"):
        fetch([a], None, tmp_path / "out", FetchOptions("native", mosaic=True))


def test_mosaic_of_two_zones_lies_in_one(world, tmp_path):
    """A smooth field that lies in both zones is the same in the mosaic."""
    name = "S2A_{}_20240601_0_L2A"
    west = world.sentinel2(name.format("32TQT"), (729_000, 5_100_000), field=True)
    east = world.sentinel2(name.format("33TTM"), (267_000, 5_103_000), 32633, field=True)
    result = fetch([west, east], None, tmp_path / "out", FetchOptions(mosaic=True, retries=QUICK))
    scene, mosaic, valid = read_all(result.paths[0])
    a, _, left, _, e, top = scene.grid.transform
    rows, cols = np.nonzero(valid)
    lon, lat = transform(scene.grid.crs, "EPSG:4326", left + (cols + 0.5) * a, top + (rows + 0.5) * e)
    assert np.ptp(lon) > 1.3 * (west["bbox"][2] - west["bbox"][0])
    expected = (np.array(smooth(np.array(lon), np.array(lat))) - 1000) * 1e-4
    assert np.abs(mosaic[1][rows, cols] - expected).max() < 0.002


def test_fetch_for_a_product(world, tmp_path, ms2hs):
    from datetime import timedelta

    from sites import Site, make_enmap

    from ms2hs.datasets.cubes.georeferenced import find_cubes

    folder = tmp_path / "products"
    make_enmap(folder, Site())
    (cube,) = find_cubes([folder], {})
    days = {name: cube.day + timedelta(days=apart) for name, apart in (("near", 3), ("far", 4), ("away", 0))}
    for name, day in days.items():
        corner = (700_000, 5_100_000) if name == "away" else (599_400, 5_100_600)
        facts = {"datetime": f"{day}T10:20:21Z"}
        world.sentinel2(f"S2A_32TNT_{name}_0_L2A", corner, properties=facts)
    out = tmp_path / "scenes"
    words = ("fetch", "--for", folder, "--stac", world.server.root, "--collection", "sentinel-2-c1-l2a", "-o", out)
    code, out_text, err = ms2hs(*words)
    assert code == 0, err
    (path,) = map(Path, out_text.split())
    assert (path.parent.parent, path.stem) == (out, "S2A_32TNT_near_0_L2A")
    with rasterio.open(path) as file:
        left, bottom, right, top = cube.pixel_grid.bounds
        assert (file.bounds.left <= left, file.bounds.bottom <= bottom) == (True, True)
        assert (file.bounds.right >= right, file.bounds.top >= top) == (True, True)
    code, out_text, err = ms2hs(*words, "--bbox", "1,2,3,4")
    assert (code, out_text) == (2, "")
    assert "--bbox with --for" in err
    code, _, err = ms2hs(*words, "--days", "0")
    assert code == 3
    assert "--days" in err
