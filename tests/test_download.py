"""download: conversions from servers without a local copy."""

import json

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, SAND, allow_sockets, dn_of, write_raster
from stac_server import StacServer
from stac_world import S2_BANDS, World, signer, within

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import AddressError, CredentialsError, RemoteError
from ms2hs.fetching.download import copy_window, open_remote
from ms2hs.fetching.fetcher import FetchOptions, fetch
from ms2hs.remote import client
from ms2hs.remote.providers import PROVIDERS, Provider
from ms2hs.remote.s3_signing import Keys
from ms2hs.remote.url_policy import Access
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.scene import Asset

QUICK = client.RetryPolicy(first_s=0.002, longest_s=0.01, read_s=0.25, connect_s=0.5)
LINEAR = ConvertOptions(model="linear")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Allow connections to this machine only."""
    allow_sockets(monkeypatch, "127.")
    monkeypatch.setattr(client.DEFAULT_CLIENT, "retries", QUICK)


@pytest.fixture
def server():
    with StacServer(slow_s=0.5) as server:
        yield server


@pytest.fixture
def world(server, tmp_path):
    return World(server, tmp_path / "making", 2400)


def own_address(item):
    return next(link["href"] for link in item["links"] if link["rel"] == "self")


def pixels(path):
    with rasterio.open(path) as file:
        return file.transform, file.crs, file.read()


@pytest.fixture
def store(server, monkeypatch):
    """The server as the S3 store of Copernicus, with keys in the environment."""
    keys = {"AWS_ACCESS_KEY_ID": "planted-id", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
    settings = {"AWS_S3_ENDPOINT": f"127.0.0.1:{server.port}", "AWS_HTTPS": "NO"}
    for name, text in (keys | settings).items():
        monkeypatch.setenv(name, text)
    server.buckets["eodata"] = Keys(*keys.values())
    return server


PRODUCT = "S2A_MSIL2A_20240601T102021_N0510_R065_T32TNT_20240601T142021"


@pytest.mark.parametrize("layout", ["sentinel2", "hls", "copernicus"])
@pytest.mark.usefixtures("store")
def test_remote_item_converts_like_fetched_files(layout, world, server, tmp_path):
    item = world.hls() if layout == "hls" else getattr(world, layout)(PRODUCT)
    direct = pixels(convert(own_address(item), "enmap", tmp_path / "direct.tif", LINEAR).output)
    read = {request.path for request in server.requests} & set(server.files)
    assert read == set(server.files)
    assert all("range" in request.headers for request in server.requests if request.path in read)
    native = fetch([item], None, tmp_path / "native", FetchOptions("native", retries=QUICK)).paths[0]
    fetched = pixels(convert(native, "enmap", tmp_path / "there.tif", LINEAR).output)
    assert fetched[:2] == direct[:2]
    assert np.array_equal(fetched[2], direct[2])
    stacked = fetch([item], None, tmp_path / "at30", FetchOptions(retries=QUICK)).paths[0]
    rounded = pixels(convert(stacked, "enmap", tmp_path / "rounded.tif", LINEAR).output)
    assert rounded[:2] == direct[:2]
    known = direct[2] != -32768
    assert (known == (rounded[2] != -32768)).mean() > 0.999
    both = known & (rounded[2] != -32768)
    assert both.mean() > 0.2
    # Its bands were rounded to a ten-thousandth, which the prior makes up to a few of.
    assert np.abs(rounded[2].astype(int) - direct[2])[both].max() <= 5


def test_jpeg_2000_from_s3_is_bit_identical(world, store, tmp_path):
    item = world.copernicus(PRODUCT)
    path = fetch([item], None, tmp_path / "out", FetchOptions("native", retries=QUICK)).paths[0]
    for (name, band), values in world.values.items():
        with rasterio.open(path.parent / f"{name}_{band}.tif") as file:
            assert np.array_equal(file.read(1), values), band
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("out/**/*") if path.is_file())
    assert b"planted" not in everything
    assert b"X-Amz" not in everything
    assert all("planted-secret" not in request.query for request in store.requests)


@pytest.mark.parametrize("command", ["convert", "fetch"])
@pytest.mark.usefixtures("store")
def test_missing_or_refused_s3_keys_are_errors(command, world, tmp_path, monkeypatch):
    item = world.copernicus(PRODUCT)

    def run():
        if command == "fetch":
            fetch([item], None, tmp_path / "out", FetchOptions(retries=QUICK))
        else:
            convert(own_address(item), "enmap", tmp_path / "made.tif", LINEAR)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(CredentialsError, match="refuses access") as caught:
        run()
    assert "X-Amz" not in str(caught.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY not set"):
        run()


def test_truncated_jpeg_2000_is_an_error(world, store, tmp_path):
    """GDAL would read missing data as zeros."""
    item, requested = world.copernicus(PRODUCT), []
    store.fault = lambda path: requested.append(path) or ("failed" if len(requested) > 30 else None)
    with pytest.raises(RemoteError, match=r"\.jp2: could not be read \(status 50"):
        convert(own_address(item), "enmap", tmp_path / "made.tif", LINEAR)
    assert not (tmp_path / "made.tif").exists()


def test_bbox_reads_only_its_part_of_an_item(server, tmp_path):
    world = World(server, tmp_path / "making", 12_000)
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    result = fetch(
        [item], within((601_000, 5_097_500, 602_000, 5_098_500)), tmp_path / "out", FetchOptions(retries=QUICK)
    )
    grid = open_scene(str(result.paths[0])).grid
    scene = open_scene(own_address(item))
    row = round((scene.grid.transform[5] - grid.transform[5]) / 30)
    col = round((grid.transform[2] - scene.grid.transform[2]) / 30)
    sent = sum(server.sent.values())
    part = ConvertOptions(model="linear", window=(row, col, grid.height, grid.width))
    direct = pixels(convert(own_address(item), "enmap", tmp_path / "direct.tif", part).output)
    assert sum(server.sent.values()) - sent < 0.5 * sum(len(content) for content in server.files.values())
    fetched = pixels(convert(result.paths[0], "enmap", tmp_path / "fetched.tif", LINEAR).output)
    assert fetched[:2] == direct[:2]
    both = (fetched[2] != -32768) & (direct[2] != -32768)
    assert both.mean() > 0.2
    assert np.abs(fetched[2].astype(int) - direct[2])[both].max() <= 5


@pytest.mark.parametrize("target", ["http://localhost:{}/files/other", "file:///etc/passwd", "http://127.0.0.2:{}/x"])
@pytest.mark.parametrize("after", [0, 14, 20])
def test_late_redirect_to_a_private_host_is_refused(target, after, world, server, tmp_path, monkeypatch):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    address, files = own_address(item), []
    monkeypatch.setattr(server, "fault", lambda path: "redirected" if len(files) > after else files.append(path))
    monkeypatch.setattr(server, "redirect_target", target.format(server.port))
    with pytest.raises(AddressError, match="is not followed|private|local file") as caught:
        convert(address, "enmap", tmp_path / "made.tif", LINEAR)
    assert target.split("/")[2].format(server.port) in str(caught.value)
    assert len(files) == after + 1
    assert {request.headers["host"] for request in server.requests} == {f"127.0.0.1:{server.port}"}
    assert not (tmp_path / "made.tif").exists()


@pytest.mark.parametrize("kind", ["busy", "failed", "cut", "short", "shifted", "whole", "page", "slow", "redirected"])
def test_transient_faults_do_not_change_the_result(kind, world, server, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    part = ConvertOptions(model="linear", window=(0, 0, 40, 40))
    right = pixels(convert(own_address(item), "enmap", tmp_path / "right.tif", part).output)
    requested = []
    server.fault = lambda path: requested.append(path) or (kind if len(requested) % 7 == 3 else None)
    result = pixels(convert(own_address(item), "enmap", tmp_path / "found.tif", part).output)
    assert len(requested) > 13
    assert np.array_equal(result[2], right[2])


def test_expired_signatures_are_renewed(world, server, tmp_path, monkeypatch):
    right = convert(own_address(world.sentinel2("S2A_32TNT_20240601_0_L2A")), "enmap", tmp_path / "a.tif", LINEAR)
    provider = Provider("guarded", "of a test", server.root, {}, sign=signer(server))
    monkeypatch.setitem(PROVIDERS, "guarded", provider)
    server.signature_life = 4
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A", prefix="signed/", collection="guarded")
    result = convert(own_address(item), "enmap", tmp_path / "b.tif", LINEAR)
    assert len(server.signatures) > 5
    assert np.array_equal(pixels(result.output)[2], pixels(right.output)[2])
    everything = b"".join(path.read_bytes() for path in tmp_path.glob("b.*"))
    assert b"sig-" not in everything


@pytest.mark.parametrize("kind", ["https", "gdal's", "s3"])
def test_raster_url_converts_like_a_local_file(kind, server, store, tmp_path):
    names = [band for bands in S2_BANDS.values() for band in bands]
    path = write_raster(tmp_path / "scene.tif", dn_of([LEAVES, SAND]), descriptions=sorted(names), nodata=0)
    expected = pixels(convert(path, "enmap", tmp_path / "there.tif", LINEAR).output)
    address = {
        "https": server.add_file("scene.tif", path.read_bytes()) + "?key=planted",
        "gdal's": f"/vsicurl/{server.address('scene.tif')}",
        "s3": "s3://eodata/scene.tif",
    }[kind]
    store.files["eodata/scene.tif"] = path.read_bytes()
    path.unlink()
    assert np.array_equal(pixels(convert(address, "enmap", tmp_path / "made.tif", LINEAR).output)[2], expected[2])
    assert b"planted" not in (tmp_path / "made.tif").read_bytes() + (tmp_path / "made.json").read_bytes()


def test_file_changed_during_reading_is_an_error(world, server, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    requested = []

    def change(path):
        requested.append(path)
        if requested.count(path) == 2:
            server.files[path] = server.files[path][:-1] + b"!"

    server.fault = change
    with pytest.raises(RemoteError, match="changed on the server while it was read"):
        convert(own_address(item), "enmap", tmp_path / "made.tif", LINEAR)
    assert not (tmp_path / "made.tif").exists()


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", -9999.0), ("uint8", 0.5), ("int16", 1e9), ("uint16", np.nan)])
def test_copy_window_drops_a_nodata_that_the_dtype_cannot_hold(dtype, nodata, tmp_path):
    values = np.arange(256 * 3, dtype=np.int64).reshape(3, 16, 16)[0].astype(dtype)
    path = write_raster(tmp_path / "in.tif", values[None])
    with open_remote(client.DEFAULT_CLIENT, str(path), Access.to_host_of("")) as raster:
        asset = Asset("B02", str(path), 1, 1e-4, 0.0, nodata)
        assert sum(copy_window(raster, asset, slice(0, 16), slice(0, 16), tmp_path / "out.tif")) == 16
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.nodata is None
        assert np.array_equal(file.read(1), values)


@pytest.mark.parametrize("declared", [-9999, "nan", 70000])
def test_fetch_accepts_a_declared_nodata_that_files_cannot_hold(declared, world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    odd = json.loads(json.dumps(item))
    for asset in odd["assets"].values():
        if "raster:bands" in asset:
            asset["raster:bands"][0]["nodata"] = declared
    plain = fetch([item], None, tmp_path / "a", FetchOptions(retries=QUICK))
    result = fetch([odd], None, tmp_path / "b", FetchOptions(retries=QUICK))
    assert result.failed == ()
    assert np.array_equal(pixels(plain.paths[0])[2], pixels(result.paths[0])[2])
