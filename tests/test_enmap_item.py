"""enmap_item: windows of EnMAP items by byte ranges, against the arrays that the files were made from."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from conftest import allow_sockets
from enmap_world import EPSG, GAIN, KEPT, OFFSET, PRODUCT, WAVELENGTH, enmap_item, enmap_metadata
from eoc_world import FILES, EocServer
from stac_server import Faults, StacServer

from ms2hs.datasets.cubes.raster_cube import open_raster
from ms2hs.errors import AddressError, CredentialsError, DataError, RemoteError, SceneError
from ms2hs.fetching.cubes.cube_fetcher import fetch_cubes
from ms2hs.fetching.cubes.enmap_item import FLAG_LAYERS, EnmapItem
from ms2hs.fetching.cubes.remote_cube import open_remote_cube
from ms2hs.fetching.fetcher import FetchOptions
from ms2hs.remote import logins, range_file
from ms2hs.remote.client import RetryPolicy, WebClient, new_session
from ms2hs.remote.providers import PROVIDERS, access_to
from ms2hs.scenes.stac_item import ORIGIN

QUICK = RetryPolicy(attempts=6, first_s=0.001, longest_s=0.01)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    allow_sockets(monkeypatch, "127.")


@pytest.fixture
def server():
    with StacServer() as server:
        yield server


def on(server, folder, **options):
    item, dn, layers = enmap_item(server.add_file, folder, **options)
    return server.add_item(item), dn, layers


def opened(server, item, client, folder=None):
    return open_remote_cube(client, item, access_to(server.root, ()), folder)


def truth(dn, layers):
    """(band, row, col) reflectance of the whole product."""
    values = dn[KEPT] * np.float32(GAIN) + np.float32(OFFSET)
    values[:, (dn == -32768).all(axis=0)] = np.nan
    for name in FLAG_LAYERS:
        if name in layers:
            values[:, layers[name] != 0] = np.nan
    return values


def cut(values, window):
    row, col, height, width = window
    return values[:, row : row + height, col : col + width]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_enmap_item_reads_windows_of_flagged_reflectance(server, tmp_path, interleave):
    item, dn, layers = on(server, tmp_path, interleave=interleave)
    expected = truth(dn, layers)
    with WebClient(QUICK) as client:
        cube = opened(server, item, client)
        assert isinstance(cube, EnmapItem)
        assert (cube.name, cube.grid.crs, cube.block_shape) == (PRODUCT, f"EPSG:{EPSG}", (64, 64))
        np.testing.assert_array_equal(cube.spectral.wavelength_nm, WAVELENGTH[KEPT])
        for window in ((0, 0, 160, 200), (10, 0, 60, 70), (63, 63, 2, 2), (159, 199, 1, 1), (20, 20, 5, 10)):
            np.testing.assert_allclose(cube.read(*window), cut(expected, window), rtol=1e-6)
        assert np.isnan(cube.read(20, 20, 10, 20)).all()  # cloud
        assert np.isfinite(cube.read(70, 20, 2, 20)).all()  # snow is a surface
        with pytest.raises(ValueError, match="does not lie inside"):
            cube.read(150, 0, 20, 20)
        cube.close()


def blocks_bytes(content, bands, rows, cols):
    """Compressed size of the blocks of a GeoTIFF that a window touches."""
    with rasterio.MemoryFile(content) as memory, memory.open() as file:
        height, width = file.block_shapes[0]
        blocks = {
            tuple(file.get_tag_item(f"BLOCK_{key}_{x}_{y}", "TIFF", bidx=band) for key in ("OFFSET", "SIZE"))
            for band in bands
            for y in range(rows.start // height, -(-rows.stop // height))
            for x in range(cols.start // width, -(-cols.stop // width))
        }
    return sum(int(size) for _, size in blocks)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_enmap_item_reads_little_more_than_the_needed_blocks(server, tmp_path, interleave):
    item, *_ = on(server, tmp_path, shape=(512, 512), block=128, interleave=interleave)
    window = (130, 130, 120, 250)
    with WebClient(QUICK) as client:
        opened(server, item, client).read(*window)
        read = client.bytes_read
    rows, cols = np.s_[130:250, 130:380]
    files = {key: server.files[urlsplit(asset["href"]).path[7:]] for key, asset in item["assets"].items()}
    needed = blocks_bytes(files["image"], [band + 1 for band in KEPT], rows, cols) + len(files["metadata"])
    needed += sum(blocks_bytes(files[key], [1], rows, cols) for key in files if key.startswith("quality_c"))
    headers = 16_384 * 5  # the first request of each raster
    assert read < 1.3 * needed + headers
    assert not any(server.sent[name] for name in server.sent if "SNOW" in name or "VNIR" in name or "CLASSES" in name)


def test_requests_of_a_window_are_all_that_its_read_needs(server, tmp_path):
    item, dn, layers = on(server, tmp_path)
    window = (70, 70, 60, 100)
    with WebClient(QUICK, 4) as client, ThreadPoolExecutor(4) as pool:
        cube = opened(server, item, client)
        requests = cube.requests(*window)
        assert requests
        list(pool.map(lambda request: request.send(), requests))
        assert cube.requests(*window) == []
        count = len(server.requests)
        values = cube.read(*window)
        assert len(server.requests) == count
    np.testing.assert_allclose(values, cut(truth(dn, layers), window), rtol=1e-6)


def test_kept_bytes_are_not_read_again(server, tmp_path):
    item, dn, layers = on(server, tmp_path)
    window = (0, 0, 64, 200)
    for _ in range(2):
        server.sent.clear()
        with WebClient(QUICK) as client:
            cube = opened(server, item, client, tmp_path / "kept")
            np.testing.assert_allclose(cube.read(*window), cut(truth(dn, layers), window), rtol=1e-6)
            cube.close()
    assert max(server.sent.values()) <= 16_384


def test_enmap_item_survives_server_faults(server, tmp_path):
    item, dn, layers = on(server, tmp_path, seed=3)
    server.fault, server.slow_s = Faults(0.3, seed=5), 0.01
    with WebClient(RetryPolicy(first_s=0.001, longest_s=0.01)) as client:
        cube = opened(server, item, client)
        np.testing.assert_allclose(cube.read(0, 0, 160, 200), truth(dn, layers), rtol=1e-6)
    assert server.fault.drawn


def renamed(item, change):
    """The item with other keys and file names, and the addresses of its files by their new names."""
    assets = {}
    for number, (_, asset) in enumerate(reversed(item["assets"].items())):
        assets[f"data{number}"] = asset | {"href": change(asset["href"])}
    return item | {"assets": assets}


def test_enmap_item_finds_files_by_name(server, tmp_path):
    def change(address):
        new = address.replace("_COG.TIF", "_COG.tiff").replace("METADATA.XML", "METADATA.xml")
        server.files[urlsplit(new).path[7:]] = server.files[urlsplit(address).path[7:]]
        return f"{new}?key=1"

    item, dn, layers = on(server, tmp_path)
    with WebClient(QUICK) as client:
        cube = opened(server, renamed(item, change), client)
        np.testing.assert_allclose(cube.read(0, 0, 20, 20), truth(dn, layers)[:, :20, :20], rtol=1e-6)


def test_enmap_item_without_haze_layer_is_read(server, tmp_path):
    item, dn, layers = on(server, tmp_path)
    del item["assets"]["quality_haze"], layers["QL_QUALITY_HAZE"]
    with WebClient(QUICK) as client:
        np.testing.assert_allclose(opened(server, item, client).read(0, 0, 160, 200), truth(dn, layers), rtol=1e-6)


@pytest.mark.parametrize("key", ["metadata", "image", "quality_cirrus"])
@pytest.mark.parametrize("scheme", ["", "file://", "/vsizip/"])
def test_enmap_item_refuses_files_of_this_machine(server, tmp_path, key, scheme):
    item, *_ = enmap_item(server.add_file, tmp_path)
    asset = item["assets"][key]
    path = tmp_path / urlsplit(asset["href"]).path.rpartition("/")[2]
    path.write_bytes(server.files[urlsplit(asset["href"]).path[7:]])
    asset["href"] = f"{scheme}{path}"
    with WebClient(QUICK) as client, pytest.raises(AddressError, match=r"only https, http, s3 are allowed"):
        opened(server, item, client)


@pytest.mark.parametrize("missing", ["image", "quality_cloud", "quality_cirrus", "quality_cloud_shadow"])
def test_enmap_item_refuses_an_item_without_needed_files(server, tmp_path, missing):
    item, *_ = on(server, tmp_path)
    name = urlsplit(item["assets"].pop(missing)["href"]).path.rpartition("-")[2].removesuffix("_COG.TIF")
    with WebClient(QUICK) as client, pytest.raises(SceneError, match=rf"missing files: {name};.*Use another item"):
        opened(server, item, client)
    assert not server.requests


@pytest.mark.parametrize(
    ("file", "content", "error", "expected"),
    [
        ("METADATA.XML", b"<html>Please log in</html>", DataError, "0 bands"),
        ("METADATA.XML", b"\xff\xfe<a", DataError, "metadata cannot be read"),
        ("METADATA.XML", b'<?xml version="1.0" encoding="no"?><a/>', DataError, "metadata cannot be read"),
        ("METADATA.XML", enmap_metadata(WAVELENGTH[:11], (1, 2), (5, 7)).encode(), SceneError, "12 bands with"),
        ("SPECTRAL_IMAGE_COG.TIF", b"<html>Please log in</html>", SceneError, "GeoTIFF"),
        ("QL_QUALITY_CLOUD_COG.TIF", None, SceneError, "other pixels"),
        ("SPECTRAL_IMAGE_COG.TIF", b"II*\0" + bytes(100), RemoteError, "cannot be read"),
    ],
)
def test_enmap_item_reports_damaged_files(server, tmp_path, file, content, error, expected):
    item, *_ = on(server, tmp_path)
    path = f"{PRODUCT}/{PRODUCT}-{file}"
    if content is None:
        other = {}
        enmap_item(other.setdefault, tmp_path, (64, 64))
        content = other[path]
    server.files[path] = content
    with WebClient(QUICK) as client, pytest.raises(error, match=expected):
        opened(server, item, client)


def test_enmap_item_reads_with_a_login_at_dlr(tmp_path, monkeypatch):
    """Older items of DLR have addresses without the folder of the product."""
    monkeypatch.setenv("EOC_USERNAME", "me")
    monkeypatch.setenv("EOC_PASSWORD", "my-password")
    for name in ("EOC_COOKIE", "EOC_COOKIE_FILE"):
        monkeypatch.delenv(name, raising=False)
    with EocServer() as eoc:

        def add_file(name, content):
            eoc.files[f"/ENMAP/files/L2A/{name}"] = content
            return f"https://{FILES}/ENMAP/files/L2A/{name.rpartition('/')[2]}"

        def local_session(_connections=1):
            session = new_session()
            session.mount("https://", eoc.adapter())
            return session

        monkeypatch.setattr(logins, "new_session", local_session)
        monkeypatch.setattr("ms2hs.remote.client.new_session", local_session)
        item, dn, layers = enmap_item(add_file, tmp_path)
        item = json.loads(json.dumps(item))
        with WebClient(QUICK) as client:
            cube = open_remote_cube(client, item, access_to("https://geoservice.dlr.de/eoc/ogc/stac/v1"))
            np.testing.assert_allclose(cube.read(0, 0, 70, 70), truth(dn, layers)[:, :70, :70], rtol=1e-6)
        assert len(eoc.posted()) == 1
        eoc.sessions.clear()
        monkeypatch.setenv("EOC_COOKIE", "session=old|1|x")
        with WebClient(QUICK) as client, pytest.raises(CredentialsError, match="refuses the session cookie"):
            open_remote_cube(client, item, access_to("https://geoservice.dlr.de/eoc/ogc/stac/v1"))


def test_product_option_lists_enmap_items_of_dlr(server, tmp_path, ms2hs, monkeypatch):
    """The search needs no login."""
    item, *_ = on(server, tmp_path)
    monkeypatch.setitem(PROVIDERS, "dlr", replace(PROVIDERS["dlr"], url=server.root))
    west, south, east, north = item["bbox"]
    code, out, err = ms2hs("fetch", "--product", "enmap", f"--bbox={west},{south},{east},{north}", "--list")
    assert (code, PRODUCT in out) == (0, True), err


def test_fetch_writes_an_enmap_cube_and_continues_after_an_interruption(server, tmp_path, monkeypatch):
    item, dn, layers = on(server, tmp_path, shape=(256, 320), interleave="band")
    item |= {ORIGIN: {"provider": "custom", "url": server.root}}
    monkeypatch.setattr(range_file, "MAX_REQUEST_BYTES", 50_000)
    options, numbers = FetchOptions(retries=RetryPolicy(attempts=2, first_s=0.001)), iter(range(10**6))
    server.fault = lambda path: "failed" if "SPECTRAL" in path and next(numbers) > 12 else None
    with pytest.raises(RemoteError):
        fetch_cubes([item], None, tmp_path / "out", options)
    assert not list((tmp_path / "out").glob("*.tif"))
    assert server.sent.total() > 100_000
    server.fault = None
    result = fetch_cubes([item], None, tmp_path / "out", options)
    cube = open_raster(result.paths[0])
    np.testing.assert_allclose(cube.grid.wavelength_nm, WAVELENGTH[KEPT])
    np.testing.assert_allclose(cube.read(0, 0, 256, 320), truth(dn, layers), atol=6e-5)
    assert server.sent.total() < 1.1 * sum(len(content) for content in server.files.values())
