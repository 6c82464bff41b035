"""tanager_item: windows of Tanager items by byte ranges, from the search of a static catalogue to a cube on disk."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import h5py
import numpy as np
import pytest
from conftest import allow_sockets
from stac_server import Faults, StacServer
from tanager_world import EPSG, KEPT, SCENE, WAVELENGTH, make_tanager, tanager_item, truth

from ms2hs.datasets.cubes.raster_cube import open_raster
from ms2hs.datasets.hdf5_file import stored_dataset, stored_ranges
from ms2hs.errors import AddressError, DataError, RemoteError, SceneError
from ms2hs.fetching.cubes.cube_fetcher import fetch_cubes
from ms2hs.fetching.cubes.remote_cube import open_remote_cube
from ms2hs.fetching.cubes.tanager_item import TanagerItem
from ms2hs.fetching.fetcher import FetchOptions
from ms2hs.fetching.search_query import parse_bbox, parse_period
from ms2hs.fetching.stac_search import StacQuery, search
from ms2hs.remote.client import RetryPolicy, WebClient
from ms2hs.remote.providers import PROVIDERS, access_to

QUICK = RetryPolicy(attempts=6, first_s=0.001, longest_s=0.01)
FIELDS = "HDFEOS/GRIDS/HYP/Data Fields"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    allow_sockets(monkeypatch, "127.")


@pytest.fixture
def server():
    with StacServer() as server:
        yield server


def on(server, folder, shape=(60, 80), **options):
    item, values, flagged = tanager_item(server.add_file, folder, shape, **options)
    return server.add_item(item), truth(values, flagged)


def opened(server, item, client, folder=None):
    return open_remote_cube(client, item, access_to(server.root, ()), folder)


def test_tanager_item_reads_windows_of_the_ortho_product(server, tmp_path):
    item, expected = on(server, tmp_path)
    with WebClient(QUICK) as client:
        cube = opened(server, item, client)
        assert isinstance(cube, TanagerItem)
        assert (cube.name, cube.grid.crs, cube.block_shape) == (SCENE, f"EPSG:{EPSG}", (16, 20))
        np.testing.assert_allclose(cube.spectral.wavelength_nm, WAVELENGTH[KEPT], rtol=1e-6)
        for row, col, height, width in ((0, 0, 60, 80), (15, 19, 2, 2), (59, 79, 1, 1)):
            values = cube.read(row, col, height, width)
            np.testing.assert_array_equal(values, expected[:, row : row + height, col : col + width])
        cube.close()
    assert all("basic" not in request.path for request in server.requests)


def test_tanager_item_reads_little_more_than_the_needed_chunks(server, tmp_path):
    item, expected = on(server, tmp_path, (400, 400), chunks=(9, 100, 100))
    window = (130, 200, 100, 180)
    with WebClient(QUICK) as client:
        values = opened(server, item, client).read(*window)
        read = client.bytes_read
    np.testing.assert_array_equal(values, expected[:, 130:230, 200:380])
    path = tmp_path / "a.h5"
    path.write_bytes(server.files[urlsplit(item["assets"]["ortho_sr_hdf5"]["href"]).path[7:]])
    rows, cols = np.s_[130:230, 200:380]
    with h5py.File(path) as file:
        needed = sum(
            size
            for name in ("surface_reflectance", "nodata_pixels", "beta_cloud_mask", "beta_cirrus_mask")
            for _, size in stored_ranges(
                stored_dataset(file, f"{FIELDS}/{name}"),
                (slice(0, 9), rows, cols) if name == "surface_reflectance" else (rows, cols),
            )
        )
    assert needed > 500_000
    assert read < 1.3 * needed


def test_requests_of_a_window_are_all_that_its_read_needs(server, tmp_path):
    item, expected = on(server, tmp_path, seed=1)
    window = (10, 30, 40, 40)
    with WebClient(QUICK, 4) as client, ThreadPoolExecutor(4) as pool:
        cube = opened(server, item, client, tmp_path / "kept")
        list(pool.map(lambda request: request.send(), cube.requests(*window)))
        assert cube.requests(*window) == []
        count = len(server.requests)
        np.testing.assert_array_equal(cube.read(*window), expected[:, 10:50, 30:70])
        assert len(server.requests) == count
        cube.close()


def test_tanager_item_survives_server_faults(server, tmp_path):
    item, expected = on(server, tmp_path, (120, 160), seed=2)
    server.fault, server.slow_s = Faults(0.3, seed=4), 0.01
    with WebClient(RetryPolicy(first_s=0.001, longest_s=0.01)) as client:
        np.testing.assert_array_equal(opened(server, item, client).read(0, 0, 120, 160), expected)
    assert server.fault.drawn


@pytest.mark.parametrize(
    ("damage", "error", "expected"),
    [
        (lambda _content: b"<html>Please log in</html>", SceneError, "no HDF5 file"),
        (lambda content: content[: len(content) // 2], DataError, "not a whole Tanager"),
        (lambda content: content[:512] + bytes(len(content) - 512), DataError, "not a whole Tanager"),
    ],
)
def test_tanager_item_reports_damaged_files(server, tmp_path, damage, error, expected):
    item, _ = on(server, tmp_path)
    name = urlsplit(item["assets"]["ortho_sr_hdf5"]["href"]).path[7:]
    server.files[name] = damage(server.files[name])
    with WebClient(QUICK) as client, pytest.raises(error, match=expected):
        opened(server, item, client).read(0, 0, 60, 80)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_tanager_item_refuses_a_file_of_this_machine(server, tmp_path, scheme):
    item, *_ = tanager_item(server.add_file, tmp_path, (20, 20))
    path = tmp_path / f"{SCENE}_ortho_sr_hdf5.h5"
    make_tanager(path, (20, 20))
    item["assets"] = {"product": {"href": f"{scheme}{path}"}}
    with WebClient(QUICK) as client, pytest.raises(AddressError, match=r"is a local file; only https, http, s3 are"):
        opened(server, item, client)


def test_tanager_item_reports_a_missing_or_basic_file(server, tmp_path):
    item, _ = on(server, tmp_path)
    name = urlsplit(item["assets"]["ortho_sr_hdf5"]["href"]).path[7:]
    make_tanager(tmp_path / "basic.h5", layout="SWATHS")
    server.files[name] = (tmp_path / "basic.h5").read_bytes()
    with WebClient(QUICK) as client, pytest.raises(SceneError, match="geometry of the sensor"):
        opened(server, item, client)
    del server.files[name]
    with WebClient(QUICK) as client, pytest.raises(RemoteError, match="no such file"):
        opened(server, item, client)
    del item["assets"]["ortho_sr_hdf5"]
    with WebClient(QUICK) as client, pytest.raises(SceneError, match="Open the address in a browser"):
        opened(server, item, client)


def test_search_of_the_static_catalogue_leads_to_a_cube_on_disk(server, tmp_path):
    item, values, flagged = tanager_item(server.add_file, tmp_path)
    root = server.add_file("tanager-core-imagery/catalog.json", json.dumps(catalogue("item", "a.json")).encode())
    server.add_file("tanager-core-imagery/a.json", json.dumps(item).encode())
    area = parse_bbox(item["bbox"])
    query = StacQuery(replace(PROVIDERS["planet"], url=root), "tanager-core-imagery", area, parse_period("2025"))
    (found,) = search(query)
    assert (found.cloud, found.coverage > 0.9) == (4.0, True)
    result = fetch_cubes([found.item], None, tmp_path / "out", FetchOptions(retries=QUICK))
    cube = open_raster(result.paths[0])
    np.testing.assert_allclose(cube.grid.wavelength_nm, WAVELENGTH[KEPT], rtol=1e-4)
    np.testing.assert_allclose(cube.read(0, 0, 60, 80), truth(values, flagged), atol=6e-5)


def catalogue(rel, *targets):
    facts = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "x"}
    return facts | {"links": [{"rel": rel, "href": target} for target in targets]}
