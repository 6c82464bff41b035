"""fetch --product: cubes of EMIT granules from an unreliable server equal the local reader's, read by few bytes."""

import json
import os
from datetime import date, timedelta
from functools import partial
from itertools import product as all_of

import h5py
import numpy as np
import pytest
import rasterio
from conftest import allow_sockets
from emit_granules import FLAG_NAMES, Layout, place, write_granule
from hypothesis import given, settings
from hypothesis import strategies as st
from rio_cogeo.cogeo import cog_validate
from stac_server import FAULT_KINDS, Faults, StacServer
from stac_world import World

from ms2hs import fetch, open_cube, search
from ms2hs.datasets.cubes.emit import find_granules, open_emit, orthorectify
from ms2hs.datasets.cubes.georeferenced import find_cubes
from ms2hs.errors import (
    AddressError,
    CredentialsError,
    DataError,
    Ms2hsError,
    NothingFound,
    QueryError,
    RemoteError,
    SceneError,
    UnknownName,
)
from ms2hs.fetching.cubes.cube_fetcher import fetch_cubes
from ms2hs.fetching.cubes.emit_item import EmitItem
from ms2hs.fetching.cubes.product_search import pass_order
from ms2hs.fetching.cubes.products import PRODUCTS
from ms2hs.fetching.cubes.remote_cube import open_remote_cube
from ms2hs.fetching.fetcher import FetchOptions
from ms2hs.fetching.search_query import parse_bbox
from ms2hs.fetching.stac_search import Candidate
from ms2hs.raster.pixel_grid import PixelGrid, window_in
from ms2hs.remote import range_file
from ms2hs.remote.byte_range import ByteRange
from ms2hs.remote.client import RetryPolicy, WebClient
from ms2hs.remote.providers import PROVIDERS, Provider, access_to
from ms2hs.remote.url_policy import Access

QUICK = RetryPolicy(first_s=0.002, longest_s=0.01, read_s=2.0, connect_s=2.0)
OPTIONS = FetchOptions(retries=QUICK)
NAME = "001_20240603T092122_2415506_042"
BOX = (10.315, 45.985, 10.34, 46.005)


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


def local_reader(folder, layout=None, seed=0):
    """The cube of the same granule on disk."""
    return orthorectify(open_emit(write_granule(folder / "local", NAME, layout, seed)[0]))


def grid_of(cube):
    return PixelGrid(cube.crs, cube.transform, *cube.shape)


def check_equal(path, cube, box=BOX):
    """The cube in a file equals a window of the local reader, within the step of the stored numbers."""
    row, col, height, width = window_in(grid_of(cube), box)
    expected = cube.read(row, col, height, width)
    found = open_cube(path)
    np.testing.assert_array_equal(np.isnan(found.reflectance.values), np.isnan(expected))
    np.testing.assert_allclose(found.reflectance.values, expected, atol=0.51e-4)
    np.testing.assert_allclose(found.wavelength, cube.grid.wavelength_nm, rtol=1e-6)
    np.testing.assert_allclose(found.fwhm, cube.grid.fwhm_nm, rtol=1e-6)
    a, _, c, _, e, f = cube.transform
    np.testing.assert_allclose(found.x, c + a * (col + 0.5 + np.arange(width)), rtol=1e-12)
    np.testing.assert_allclose(found.y, f + e * (row + 0.5 + np.arange(height)), rtol=1e-12)
    return expected


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(flipped=True, build="010613", turn_degrees=-20),
        Layout(chunks=None),
        Layout(chunks=(7, 80, 30), flags_version=3, turn_degrees=10, lon=10.317),
    ],
)
def test_fetched_cube_equals_the_local_reader(world, tmp_path, layout):
    item = world.emit(NAME, layout)
    result = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert (result.kept, result.failed, result.left_out) == (0, (), ())
    (path,) = result.paths
    assert path == tmp_path / "out" / f"{item['id']}.tif"
    assert cog_validate(path)[0]
    expected = check_equal(path, local_reader(tmp_path, layout))
    assert 0.3 < np.isfinite(expected).mean() < 0.99
    written = json.loads(path.with_suffix(".json").read_text())
    properties, (asset,) = written["properties"], written["assets"].values()
    wavelength_nm = open_cube(path).wavelength.values
    for prefix, bands in (("eo:", asset["bands"]), ("", asset["eo:bands"])):
        centres_nm = [band[f"{prefix}center_wavelength"] * 1e3 for band in bands]
        np.testing.assert_allclose(centres_nm, wavelength_nm, atol=1e-3)
    assert {"eo/v1.1.0", "raster/v2.0.0"} <= {"/".join(name.split("/")[3:5]) for name in written["stac_extensions"]}
    assert properties["ms2hs:known_pixels"] == np.isfinite(expected).any(axis=0).sum()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [path.with_suffix(".json").name, path.name]
    with rasterio.open(path) as file:
        assert file.tags()["ACQUISITION_DATETIME"] == "2024-06-03T09:21:22Z"
        assert (file.tags()["MS2HS_ITEM"], file.tags()["MS2HS_ORIGIN"]) == (item["id"], world.server.root)
    left_out = {}
    (cube,) = find_cubes([path], left_out)
    assert (cube.day, left_out) == (date(2024, 6, 3), {})


def test_fetched_cube_without_area_is_the_whole_granule(world, tmp_path):
    layout = Layout(rows=300, cols=40, bands=12, turn_degrees=0)
    (path,) = fetch_cubes([world.emit(NAME, layout)], None, tmp_path / "out", OPTIONS).paths
    cube = local_reader(tmp_path, layout)
    np.testing.assert_allclose(open_cube(path).reflectance.values, cube.read(0, 0, *cube.shape), atol=0.51e-4)


def test_flags_are_chosen_by_name(tmp_path):
    for version, names in FLAG_NAMES.items():
        flags = np.zeros((20, 20, len(names)))
        for layer in range(len(names)):
            flags[layer, 2, layer] = 1
        layout = Layout(rows=20, cols=20, flags_version=version)
        cube = open_emit(write_granule(tmp_path / str(version), NAME, layout, flags=flags)[0])
        hidden = np.isnan(cube.read(0, 2, len(names), 1)).all(axis=(0, 2))
        expected = {"cloud flag", "cirrus flag", "spacecraft flag", "dilated cloud flag", "spectf-cloud flag"}
        found = {name.lower() for name, is_hidden in zip(names, hidden, strict=True) if is_hidden}
        assert found == expected & {name.lower() for name in names}


def chunk_bytes(path, variable, windows):
    """Sum of the sizes of the chunks with a pixel in one of the (row, col) positions."""
    with h5py.File(path) as file:
        stored = file[variable].id
        chunks = [stored.get_chunk_info(number) for number in range(stored.get_num_chunks())]
        high, wide, _ = file[variable].chunks
        needed = {(row // high, col // wide) for row, col in windows}
        return sum(one.size for one in chunks if (one.chunk_offset[0] // high, one.chunk_offset[1] // wide) in needed)


def test_fetch_reads_little_more_than_the_needed_chunks(world, tmp_path):
    layout = Layout(rows=256, cols=200, bands=40, chunks=(32, 40, 10))
    box = (10.33, 45.95, 10.38, 46.0)
    result = fetch_cubes([world.emit(NAME, layout)], parse_bbox(box), tmp_path / "out", OPTIONS)
    granule, flags = write_granule(tmp_path / "local", NAME, layout)
    cube = orthorectify(open_emit(granule))
    row, col, height, width = window_in(grid_of(cube), box)
    table = place(layout)[2][:, row : row + height, col : col + width]
    pixels = set(zip(*(table[:, table[0] > 0] - 1), strict=True))
    needed = chunk_bytes(granule, "reflectance", pixels) + chunk_bytes(flags, "mask", pixels)
    assert needed < 0.6 * granule.stat().st_size
    assert result.bytes_read == sum(world.server.sent.values())
    assert result.bytes_read < 1.3 * needed
    check_equal(result.paths[0], cube, box)


@pytest.mark.parametrize("box", [(10.33, 45.95, 10.38, 46.0), (10.345, 45.97, 10.36, 45.985)])
def test_fetch_reads_little_more_than_the_needed_rows(world, tmp_path, box):
    """Reflectance of LP DAAC's files of version 1 has no chunks, and is not compressed."""
    layout = Layout(rows=256, cols=200, bands=40, chunks=None)
    result = fetch_cubes([world.emit(NAME, layout)], parse_bbox(box), tmp_path / "out", OPTIONS)
    cube = local_reader(tmp_path, layout)
    row, col, height, width = window_in(grid_of(cube), box)
    table = place(layout)[2][:, row : row + height, col : col + width]
    lines, samples = table[:, table[0] > 0] - 1
    needed = sum(np.ptp(samples[lines == line]) + 1 for line in np.unique(lines)) * layout.bands * 4
    flags = (np.ptp(lines) + 1) * layout.cols * 8 * 4  # whole rows, by few requests: a 36th of reflectance
    assert result.bytes_read < 1.3 * needed + flags + 16 * 16_384
    assert len(world.server.requests) < 2 * len(np.unique(lines))
    check_equal(result.paths[0], cube, box)


def test_remote_cube_reads_windows_in_memory(world, tmp_path):
    item, cube = world.emit(NAME), local_reader(tmp_path)
    with WebClient(QUICK) as client:
        remote = open_remote_cube(client, item, access_to(world.server.root))
        assert (remote.grid.height, remote.grid.width) == cube.shape
        assert client.bytes_read < 0.2 * sum(map(len, world.server.files.values()))
        for row, col in all_of((20, 45), (30, 50)):
            np.testing.assert_array_equal(remote.read(row, col, 9, 13), cube.read(row, col, 9, 13))
        remote.close()


layouts = st.builds(
    Layout,
    rows=st.integers(8, 60),
    cols=st.integers(8, 50),
    bands=st.just(6),
    chunks=st.none() | st.tuples(st.integers(3, 60), st.integers(3, 50), st.integers(1, 6)),
    flipped=st.booleans(),
    turn_degrees=st.floats(-85, 85),
)


@settings(max_examples=20)
@given(layouts, st.tuples(*[st.floats(0, 1)] * 4), st.booleans())
def test_remote_windows_equal_local_windows(tmp_path_factory, layout, corners, is_kept):
    folder = tmp_path_factory.mktemp("granule")
    flags = np.zeros((layout.rows, layout.cols, 8), np.float32)
    flags[2:5, 3:6, 0] = 1
    paths = write_granule(folder, NAME, layout, flags=flags)
    contents = {path.name: path.read_bytes() for path in paths}
    cube = orthorectify(open_emit(paths[0]))
    (height, width), (top, bottom, left, right) = cube.shape, corners
    row, col = int(top * (height - 1)), int(left * (width - 1))
    window = row, col, 1 + int(bottom * (height - row - 1)), 1 + int(right * (width - col - 1))
    sent = []

    def read_range(_client, address, _access, begin, size):
        content = contents[address.split("/")[-1]]
        sent.append((begin, size))
        return ByteRange(content[begin : begin + size], len(content), "v1")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_file, "read_range", read_range)
        item = {"id": NAME, "links": [], "assets": {name: {"href": f"https://h.org/{name}"} for name in contents}}
        remote = EmitItem(None, item, Access(lambda _address: None), folder / "kept" if is_kept else None)
        for request in remote.requests(*window):
            request.send()
        sent.clear()
        values = remote.read(*window)
        remote.close()
    np.testing.assert_array_equal(values, cube.read(*window))
    assert sent == []  # the requests were complete


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_transient_faults_do_not_change_the_cube(world, tmp_path, kind):
    world.server.slow_s, world.server.other_host = 0.03, "127.0.0.1"
    item = world.emit(NAME)
    world.server.fault = Faults(0.3, seed=1, kinds=(kind,))
    result = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert world.server.fault.drawn[kind]
    check_equal(result.paths[0], local_reader(tmp_path))


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("failed", RemoteError, "status 50"),
        ("page", RemoteError, "text/html instead of"),
        ("cut", RemoteError, "incomplete read"),
        ("whole", RemoteError, "without the requested range"),
        ("expired", CredentialsError, "refuses access"),
        ("redirected", AddressError, "private"),
    ],
)
@pytest.mark.parametrize("after", [0, 3, 9])
def test_permanent_faults_are_one_message(world, tmp_path, kind, error, words, after):
    item, requested = world.emit(NAME), []

    def fail(path):
        requested.append(path)
        return kind if len(requested) > after else None

    world.server.fault = fail
    with pytest.raises(error, match=words) as caught:
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert "?" not in str(caught.value)
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_fetch_resumes_with_the_bytes_that_it_has(world, tmp_path):
    item = world.emit(NAME, Layout(rows=128, cols=120, bands=40))
    whole = fetch_cubes([item], parse_bbox(BOX), tmp_path / "whole", OPTIONS)
    requested, count = [], len([request for request in world.server.requests if request.path.endswith(".nc")])

    def fail(path):
        requested.append(path)
        return "failed" if len(requested) > count - 1 else None

    world.server.fault = fail
    world.server.sent.clear()
    with pytest.raises(RemoteError):
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", FetchOptions(jobs=1, retries=QUICK))
    world.server.fault = None
    first = sum(size for path, size in world.server.sent.items() if path.endswith(".nc"))
    assert first > 0.4 * whole.bytes_read
    result = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert result.paths[0].read_bytes() == whole.paths[0].read_bytes()
    # Only the first bytes of both files are read again: they have the version.
    assert result.bytes_read <= whole.bytes_read - first + 2 * 16_384
    assert fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS).kept == 1


def test_fetch_starts_over_when_the_file_has_changed(world, tmp_path):
    item, requested = world.emit(NAME), []

    def fail(path):
        requested.append(path)
        return "failed" if len(requested) > 12 else None

    world.server.fault = fail
    with pytest.raises(RemoteError):
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", FetchOptions(jobs=1, retries=QUICK))
    world.server.fault = None
    world.emit(NAME, seed=5)
    result = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    check_equal(result.paths[0], local_reader(tmp_path, seed=5))


def test_file_changed_while_it_is_read_is_an_error(world, tmp_path):
    item, requested = world.emit(NAME), []

    def change(path):
        requested.append(path)
        if len(requested) == 6:
            world.server.files[path] = world.server.files[path][:-1] + b"!"

    world.server.fault = change
    with pytest.raises(RemoteError, match="changed on the server while it was read"):
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_token_of_a_login_is_sent_and_not_kept(world, tmp_path, monkeypatch, caplog):
    def headers(address):
        return {"Authorization": "Bearer planted-token"} if f":{world.server.port}/" in address else {}

    caplog.set_level("DEBUG")
    monkeypatch.setitem(PROVIDERS, "guarded", Provider("guarded", "of a test", world.server.root, {}, headers=headers))
    item = world.emit(NAME)
    for asset in item["assets"].values():  # as the login does: on to where the file lies
        path = asset["href"].removeprefix(world.server.address(""))
        if path != asset["href"]:
            world.server.redirects[f"protected/{path}"] = asset["href"]
            asset["href"] = world.server.address(f"protected/{path}")
    item["ms2hs:from"]["provider"] = "guarded"
    steps = []
    (path,) = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS, lambda *step: steps.append(step)).paths
    check_equal(path, local_reader(tmp_path))
    assert steps[-1][1] == steps[-1][2] > 0
    files = [file.read_bytes().decode("latin1") for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert "planted-token" not in caplog.text + "".join(files)
    assert any(request.headers.get("authorization") == "Bearer planted-token" for request in world.server.requests)


def test_ranges_are_read_by_as_many_connections_as_jobs(world, tmp_path, monkeypatch):
    monkeypatch.setattr(range_file, "MAX_REQUEST_BYTES", 10_000)
    world.server.fault, world.server.slow_s = lambda _path: "slow", 0.01
    (path,) = fetch_cubes([world.emit(NAME)], parse_bbox(BOX), tmp_path / "out", FetchOptions(jobs=3)).paths
    assert world.server.max_active == 3
    check_equal(path, local_reader(tmp_path))


def overwrite_chunks(variable, content, path):
    """The content of a granule whose chunks of a variable are zeros."""
    path.write_bytes(content)
    damaged = bytearray(content)
    with h5py.File(path) as file:
        for number in range(file[variable].id.get_num_chunks()):
            chunk = file[variable].id.get_chunk_info(number)
            damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    return bytes(damaged)


DAMAGES = {
    "reflectance": (partial(overwrite_chunks, "reflectance"), "not a whole EMIT L2A file"),
    "table": (partial(overwrite_chunks, "location/glt_x"), "not a whole EMIT L2A file"),
    "truncated": (lambda content, _path: content[: len(content) // 2], "not a whole EMIT L2A file"),
    "page": (lambda _content, _path: b"<html>Please log in</html>" * 900, "the server sent no HDF5 file"),
    "empty": (lambda _content, _path: b"", "status 416"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_granule_fails_its_item_only(world, tmp_path, ms2hs, kind):
    items = [world.emit(NAME), world.emit("001_20230610T092122_2315506_042", seed=1)]
    damage, words = DAMAGES[kind]
    name = f"{items[0]['id']}.nc"
    world.server.files[name] = damage(world.server.files[name], tmp_path / "granule.nc")
    command = ("fetch", "--product", "emit", "--stac", world.server.root, "-c", "EMITL2ARFL_001", "--json")
    code, out, err = ms2hs(*command, "--bbox", ",".join(map(str, BOX)), "-o", tmp_path / "out")
    found = json.loads(out)
    assert (code, [path.split("/")[-1] for path in found["paths"]]) == (5, [f"{items[1]['id']}.tif"])
    assert len(found["failed"]) == 1
    assert name in found["failed"][0]
    assert words in found["failed"][0]
    assert "Traceback" not in err
    assert not find_granules(tmp_path / "out")  # what is kept for the next run is no product


def put(file, name, values):
    """Replace a dataset."""
    del file[name]
    file[name] = values


def put_huge(file):
    """Tables that would take terabytes, without a stored number."""
    for axis in "xy":
        del file[f"location/glt_{axis}"]
        file.create_dataset(f"location/glt_{axis}", (10**6, 10**6), np.int32, chunks=(64, 64))


HOSTILE = {
    "no transform": lambda file: file.attrs.pop("geotransform"),
    "short transform": lambda file: file.attrs.update(geotransform=[1.0, 2.0]),
    "transform of text": lambda file: file.attrs.update(geotransform="here"),
    "pixels without size": lambda file: file.attrs.update(geotransform=np.zeros(6)),
    "huge transform": lambda file: file.attrs.update(geotransform=[1e300, 1, 0, 1e300, 0, -1]),
    "unknown transform": lambda file: file.attrs.update(geotransform=np.full(6, np.nan)),
    "no good band": lambda file: put(file, "sensor_band_parameters/good_wavelengths", np.zeros(30, np.uint8)),
    "few wavelengths": lambda file: put(file, "sensor_band_parameters/wavelengths", np.arange(400.0, 410)),
    "micrometres": lambda file: put(file, "sensor_band_parameters/wavelengths", np.linspace(0.4, 2.4, 30)),
    "wavelengths of text": lambda file: put(file, "sensor_band_parameters/wavelengths", ["a"] * 30),
    "two axes": lambda file: put(file, "reflectance", np.zeros((96, 80), np.float32)),
    "no pixels": lambda file: put(file, "reflectance", np.zeros((0, 80, 30), np.float32)),
    "reflectance of text": lambda file: put(file, "reflectance", np.full((96, 80, 30), b"x")),
    "short longitudes": lambda file: put(file, "location/lon", np.zeros(3)),
    "other table": lambda file: put(file, "location/glt_x", np.zeros((3, 3), np.int32)),
    "table beyond": lambda file: put(file, "location/glt_y", np.full(file["location/glt_y"].shape, 9999)),
    "table of text": lambda file: put(file, "location/glt_y", np.full(file["location/glt_y"].shape, b"x")),
    "huge table": put_huge,
    "group for data": lambda file: (file.pop("reflectance"), file.create_group("reflectance")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_granule_is_one_message(world, tmp_path, kind):
    item = world.emit(NAME)
    path = tmp_path / "granule.nc"
    name = f"{item['id']}.nc"
    path.write_bytes(world.server.files[name])
    with h5py.File(path, "r+") as file:
        HOSTILE[kind](file)
    world.server.files[name] = path.read_bytes()
    with pytest.raises(Ms2hsError) as caught:
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert "unexpected error" not in str(caught.value)
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_items_without_valid_pixels_are_left_out(world, tmp_path):
    items = [world.emit(NAME), world.emit("001_20230610T092122_2315506_042", seed=1)]
    name = f"EMIT_L2A_MASK_{NAME}.nc"
    flags = np.ones((96, 80, 8))
    world.server.files[name] = write_granule(tmp_path / "flags", NAME, flags=flags)[1].read_bytes()
    result = fetch_cubes(items, parse_bbox(BOX), tmp_path / "out", OPTIONS)
    assert [path.stem for path in result.paths] == [items[1]["id"]]
    reason = "the item has no valid pixel in the area: outside the swath, or under cloud"
    assert result.left_out == (f"{items[0]['id']}: {reason}",)
    assert not list((tmp_path / "out").glob(".*.part"))
    # Of the granule under cloud, no reflectance was read.
    assert world.server.sent[f"{items[0]['id']}.nc"] < 0.3 * world.server.sent[f"{items[1]['id']}.nc"]
    with pytest.raises(NothingFound, match="none of 1 scenes has data"):
        fetch_cubes([items[0]], parse_bbox((10.2, 45.0, 10.3, 45.1)), tmp_path / "none", OPTIONS)


def test_granule_without_flags_is_refused(world, tmp_path):
    item = world.emit(NAME)
    item["assets"] = {key: one for key, one in item["assets"].items() if "MASK" not in one["href"]}
    with pytest.raises(SceneError, match=r"no file EMIT_L2A_MASK_….nc was found \(.*no such file"):
        fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("version", ["003", "002"])
def test_flags_of_version_2_are_a_collection_of_their_own(world, tmp_path, version):
    layout = Layout(flags_version=3)
    item = world.emit("002_20240603T092122", layout)
    name = f"EMIT_L2A_MASK_{version}_20240603T092122"
    address = world.server.add_file(f"{name}.nc", world.server.files.pop("EMIT_L2A_MASK_002_20240603T092122.nc"))
    flags = {"id": name, "collection": f"EMITL2AMASK_{version}", "assets": {"data": {"href": address}}}
    world.server.add_item(item | flags)
    item["assets"] = {key: one for key, one in item["assets"].items() if "MASK" not in one["href"]}
    (path,) = fetch_cubes([item], parse_bbox(BOX), tmp_path / "out", OPTIONS).paths
    check_equal(path, local_reader(tmp_path, layout))


def test_links_to_other_files_are_refused(tmp_path):
    granule = write_granule(tmp_path, NAME)[0]
    for link in (h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x"), h5py.SoftLink("/location/lon")):
        with h5py.File(granule, "r+") as file:
            del file["reflectance"]
            file["reflectance"] = link
        with h5py.File(tmp_path / "secret.h5", "w") as file:
            file["x"] = np.zeros((96, 80, 30), np.float32)
        with pytest.raises(DataError, match="no reflectance in the file itself"):
            open_emit(granule)


def write_gridded(path, values, west=10.3, north=46.0, step=0.00055):
    """A gridded granule: (band, lat, lon)."""
    bands, height, width = values.shape
    with h5py.File(path, "w") as file:
        file.create_dataset("reflectance", data=values, fillvalue=-9999.0, chunks=(4, 16, 16), compression="gzip")
        file["lon"] = west + step * (np.arange(width) + 0.5)
        file["lat"] = north - step * (np.arange(height) + 0.5)
        file["sensor_band_parameters/wavelengths"] = np.linspace(410, 2493, bands).astype(np.float32)
        file["sensor_band_parameters/fwhm"] = np.full(bands, 8.5, np.float32)
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 0] + [1] * (bands - 3), np.uint8)


def test_gridded_granule_keeps_its_grid(world, tmp_path):
    item = world.emit("002_20240603T092122_2415506_042")
    values = np.random.default_rng(0).random((12, 70, 60), np.float32) * 0.5
    values[:, 20, 20] = -9999
    path = tmp_path / "granule.nc"
    write_gridded(path, values)
    world.server.files[f"{item['id']}.nc"] = path.read_bytes()
    item["assets"] = {key: one for key, one in item["assets"].items() if "MASK" not in one["href"]}
    (cube,) = fetch_cubes([item], None, tmp_path / "out", OPTIONS).paths
    found = open_cube(cube)
    expected = np.where(values == -9999, np.nan, values)[np.r_[0:2, 3:12]]
    np.testing.assert_allclose(found.reflectance.values, expected, atol=0.51e-4)
    np.testing.assert_allclose(found.x[0], 10.3 + 0.00055 / 2, rtol=1e-9)


def test_cog_with_wavelengths_is_a_cube(world, tmp_path):
    first = world.emit(NAME)
    (path,) = fetch_cubes([first], parse_bbox(BOX), tmp_path / "first", OPTIONS).paths
    address = world.server.add_file("cubes/mirror.tif", path.read_bytes())
    item = first | {"id": "mirror", "collection": "mirror", "assets": {"image": {"href": address}}}
    world.server.add_item(item)
    inner = (10.32, 45.99, 10.33, 46.0)
    (copy,) = fetch_cubes([item], parse_bbox(inner), tmp_path / "out", OPTIONS).paths
    check_equal(copy, local_reader(tmp_path), inner)
    item["assets"] = {"image": {"href": world.server.add_file("plain.txt", b"no cube")}}
    with pytest.raises(SceneError, match=r"none of its files is a hyperspectral cube \(plain.txt\)"):
        fetch_cubes([item], parse_bbox(inner), tmp_path / "none", OPTIONS)


def test_fetch_product_lists_saves_and_fetches(world, tmp_path, ms2hs):
    for seed, (name, cloud) in enumerate({"001_20240603T092122_1_1": 12, "001_20230610T092122_2_2": 14}.items()):
        day = f"{name[4:8]}-{name[8:10]}-{name[10:12]}T09:21:22Z"
        world.emit(name, seed=seed, properties={"datetime": day, "eo:cloud_cover": cloud})
    words = ("fetch", "--product", "emit", "--stac", world.server.root, "-c", "EMITL2ARFL_001")
    words = (*words, "--bbox", ",".join(map(str, BOX)))
    code, out, err = ms2hs(*words, "--list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "EMIT_L2A_RFL_001_20240603T092122_1_1", "EMIT_L2A_RFL_001_20230610T092122_2_2"
    ]  # fmt: skip
    code, out, _ = ms2hs(*words, "--list", "--json", "--near", "2023-06-01")
    assert [facts["datetime"][:4] for facts in json.loads(out)] == ["2023", "2024"]
    assert not any(request.path.endswith(".nc") for request in world.server.requests)
    assert ms2hs(*words, "--date", "2023", "--save", tmp_path / "items.json")[0] == 0
    saved = ("fetch", "--product", "emit", "--items", tmp_path / "items.json", "--stac", world.server.root)
    code, out, err = ms2hs(*saved, "-o", tmp_path / "out")
    assert (code, out.strip()) == (0, str(tmp_path / "out" / "EMIT_L2A_RFL_001_20230610T092122_2_2.tif"))
    assert "note: 1 cubes, 0 already existed" in err
    code, out, _ = ms2hs(*saved, "-o", tmp_path / "out", "--json", "-q")
    assert (code, json.loads(out)["kept"]) == (0, 1)


def test_api_searches_and_fetches_products(world, tmp_path):
    world.emit(NAME)
    server = {"stac": world.server.root, "collection": "EMITL2ARFL_001", "product": "emit"}
    assert [item["id"] for item in search(BOX, near="2024-06", **server)] == [f"EMIT_L2A_RFL_{NAME}"]
    (path,) = fetch(BOX, output=tmp_path / "out", **server).paths
    check_equal(path, local_reader(tmp_path))
    with pytest.raises(QueryError, match="'soon' is not a date"):
        search(BOX, near="soon", **server)
    with pytest.raises(UnknownName, match="unknown product 'x'; known: emit, enmap"):
        search(BOX, product="x")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--product", "emit", "--gsd", "10"), 2, "cubes keep their own grid"),
        (("--near", "2024-06-01", "--date", "2024"), 2, "it needs --product"),
        (("--product", "other"), 2, "--product other without a server"),
        (("--product", "nosuch"), 2, "nosuch"),
        (("--product", "emit"), 4, "no Earthdata login found"),
        (("--product", "emit", "--stac", "{}", "-c", "EMITL2ARFL_001", "--date", "2021"), 3, "no scene of this area"),
    ],
)
def test_fetch_product_exit_codes(world, tmp_path, ms2hs, monkeypatch, words, code, message):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    world.emit(NAME)
    words = [word.format(world.server.root) for word in words]
    found, out, err = ms2hs("fetch", "--bbox", "10.31,45.99,10.33,46.0", "-o", tmp_path / "out", *words)
    assert (found, out) == (code, "")
    assert message in err


def candidate(days, cloud, coverage):
    time = f"{date(2024, 6, 1) + timedelta(days=days)}T00:00:00Z"
    properties = {"datetime": time} if cloud is None else {"datetime": time, "eo:cloud_cover": cloud}
    return Candidate({"id": f"{days} {cloud} {coverage}", "properties": properties, "assets": {}}, coverage)


passes = st.builds(
    candidate, st.integers(-800, 800), st.none() | st.floats(0, 100), st.floats(0.01, 1, allow_subnormal=False)
)


@given(st.lists(passes, min_size=2, max_size=8))
def test_pass_order_puts_clear_then_season_then_date_first(found):
    key = pass_order(date(2024, 6, 1))
    ordered = sorted(found, key=key)
    clouds = [101.0 if one.cloud is None else one.cloud for one in ordered]
    assert [cloud // 10 for cloud in clouds] == sorted(cloud // 10 for cloud in clouds)
    assert key(candidate(365, 3.0, 0.1)) < key(candidate(180, 3.0, 1.0))  # the same season of another year
    assert key(candidate(365, 3.0, 0.1)) < key(candidate(730, 3.0, 1.0))
    assert key(candidate(180, 3.0, 0.1)) < key(candidate(0, 33.0, 1.0))


def test_products_have_one_line():
    for name, product in PRODUCTS.items():
        assert (product.name, bool(product.provider)) == (name, bool(product.collection))
        assert "\n" not in product.title


def replaced(file, name, **options):
    del file[name]
    return file.create_dataset(name, **options)


ODD_STORAGE = {
    "complex": lambda file: replaced(file, "reflectance", shape=(96, 80, 30), dtype="c8"),
    "chunk": lambda file: replaced(
        file, "reflectance", shape=(96, 80, 30), dtype="f4", chunks=(9000, 2000, 30), maxshape=(None, None, 30)
    ),
    "empty": lambda file: replaced(file, "reflectance", data=h5py.Empty("f4")),
    "wavelengths": lambda file: replaced(
        file, "sensor_band_parameters/wavelengths", shape=(10**10,), dtype="f8", chunks=(1000,)
    ),
    "nothing": lambda file: [replaced(file, f"location/glt_{axis}", shape=(0, 0), dtype="i4") for axis in "xy"],
    "positions": lambda file: replaced(file, "location/lon", shape=(96, 10**10), dtype="f8", chunks=(1, 1000)),
}


@pytest.mark.parametrize("damage", ODD_STORAGE)
def test_hostile_shapes_and_types_are_refused_before_they_are_read(tmp_path, damage):
    granule, _ = write_granule(tmp_path, NAME)
    with h5py.File(granule, "r+") as file:
        ODD_STORAGE[damage](file)
    with pytest.raises(DataError, match=granule.name):
        orthorectify(open_emit(granule)).read(0, 0, 20, 20)


def test_flag_names_behind_a_link_are_not_opened(tmp_path):
    granule, flags = write_granule(tmp_path, NAME)
    os.mkfifo(tmp_path / "other.h5")  # to open it would block
    with h5py.File(flags, "r+") as file:
        del file["sensor_band_parameters"]
        file["sensor_band_parameters"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    assert open_emit(granule).flag_layers == (0, 1, 3, 4)


@pytest.mark.parametrize("number", [np.nan, -9999])  # version 2 has nodata where clouds were cut off on board
def test_flags_without_a_number_hide_a_pixel(tmp_path, number):
    granule, flags = write_granule(tmp_path, NAME)
    with h5py.File(flags, "r+") as file:
        file["mask"][5, 6, 0] = number
    values = open_emit(granule).read(5, 5, 1, 3)
    assert np.isnan(values[:, 0, 1]).all()
    assert np.isfinite(values[:, 0, [0, 2]]).all()
