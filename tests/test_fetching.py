"""fetch: what comes over a line that is bad, in the three layouts of archives, is what lies on the server."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.warp import transform_bounds
from stac_server import KINDS, Faults, StacServer

from ms2hs.errors import AddressError, CredentialsError, NothingFound, OutputError, RemoteError
from ms2hs.fetching import FetchChoices, fetch
from ms2hs.raster.products import open_scene
from ms2hs.raster.query import box_place
from ms2hs.raster.ranges import Patience
from ms2hs.raster.reader import SceneReader

QUICK = Patience(first_s=0.002, longest_s=0.01, read_s=0.25, connect_s=0.5)
S2 = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09"),
}
HLS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
# Metres along a side of the scenes, instead of 109 800: a multiple of 60.
SIDE_M = 6000


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Instead of what refuses every socket: this machine alone."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family != socket.AF_UNIX and not str(address[0]).startswith("127."):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def server():
    with StacServer(slow_s=0.5) as server:
        yield server


def cog(path, values, gsd_m, corner, epsg, nodata, block=128):
    """The bytes of a COG."""
    profile = {
        "driver": "COG", "count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype,
        "crs": f"EPSG:{epsg}", "transform": Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1]), "nodata": nodata,
        "blocksize": block, "compress": "DEFLATE", "predictor": "YES",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)
    content = path.read_bytes()
    path.unlink()
    return content


class World:
    """Scenes on a server, and what is in them."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.values = {}
        """By item and band, what lies on the server."""

    def sentinel2(self, name, corner=(600_000, 5_100_000), epsg=32632, *, prefix="", seed=0, key=NAMES.get, **facts):
        """An item as Earth Search has it; `key` names the assets."""
        rng = np.random.default_rng(seed)
        assets = {}
        for gsd, bands in S2.items():
            for band in bands:
                size = SIDE_M // gsd
                values = rng.integers(1100, 4000, (size, size)).astype(np.uint16)
                self._asset(assets, key(band), name, band, values, gsd, corner, epsg, 0, prefix)
        classes = rng.choice([4, 5, 8], (SIDE_M // 200, SIDE_M // 200), p=[0.5, 0.3, 0.2]).astype(np.uint8)
        scl = np.kron(classes, np.ones((10, 10), np.uint8))
        self._asset(assets, "scl" if key("B02") != "B02" else "SCL", name, "SCL", scl, 20, corner, epsg, 0, prefix)
        properties = {"platform": "sentinel-2a", "s2:processing_baseline": "05.10", **facts.pop("properties", {})}
        return self._item(name, assets, corner, epsg, {"collection": "sentinel-2-c1-l2a", **facts}, properties)

    def hls(self, name="HLS.S30.T32TNT.2024153T102021.v2.0", corner=(600_000, 5_100_000), epsg=32632, **facts):
        """An item as LP DAAC has it."""
        rng = np.random.default_rng(3)
        assets = {}
        size = SIDE_M // 30
        for band in HLS:
            values = rng.integers(100, 4000, (size, size)).astype(np.int16)
            self._asset(assets, band, name, band, values, 30, corner, epsg, -9999, facts.get("prefix", ""))
        fmask = rng.choice([0, 64, 2, 8], (size, size)).astype(np.uint8)
        self._asset(assets, "Fmask", name, "Fmask", fmask, 30, corner, epsg, 255, facts.pop("prefix", ""))
        for asset in assets.values():  # CMR tells nothing of the grid
            for fact in [fact for fact in asset if fact.startswith("proj:")]:
                del asset[fact]
        return self._item(name, assets, corner, epsg, {"collection": "HLSS30_2.0", **facts}, {"platform": "S2A"})

    def _asset(self, assets, key, name, band, values, gsd, corner, epsg, nodata, prefix):
        self.values[name, band] = values
        content = cog(self.folder / "made.tif", values, gsd, corner, epsg, nodata)
        separator = "." if name.startswith("HLS") else "/"
        assets[key] = {
            "href": self.server.add_file(f"{prefix}{name}{separator}{band}.tif", content),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:epsg": epsg,
            "proj:shape": list(values.shape),
            "proj:transform": [gsd, 0, corner[0], 0, -gsd, corner[1]],
        }
        if name.startswith("S2") and band != "SCL":
            assets[key]["raster:bands"] = [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]

    def _item(self, name, assets, corner, epsg, facts, properties):
        west, north = corner
        bounds = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", west, north - SIDE_M, west + SIDE_M, north)
        ring = [[bounds[i], bounds[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "bbox": list(bounds),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"datetime": "2024-06-01T10:20:21Z", "eo:cloud_cover": 5, **properties}, "assets": assets,
            "ms2hs:from": {"provider": "custom", "url": self.server.root}, **facts,
        }  # fmt: skip
        return self.server.add_item(item)


@pytest.fixture
def world(server, tmp_path):
    return World(server, tmp_path / "making")


def within(bounds_m, epsg=32632):
    """The place whose box in degrees lies inside bounds in metres."""
    return box_place(transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds_m))


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


def test_a_whole_scene_converts_as_its_files_do(world, tmp_path):
    from ms2hs.raster.placement import working_grid
    from ms2hs.raster.stac import scene_of

    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    made = fetch([item], None, tmp_path / "out", FetchChoices(patience=QUICK))
    assert (made.kept, made.failed, made.left_out) == (0, (), ())
    scene, reflectance, valid = read_all(made.paths[0])
    assert scene.source == "sentinel2a"
    assert scene.quality_rule == "scl"
    assert scene.datetime.startswith("2024-06-01")
    native = fetch([item], None, tmp_path / "native", FetchChoices("native", patience=QUICK)).paths[0]
    files = scene_of(json.loads(native.read_text()) | {"assets": absolute(native)}, None)
    grid = working_grid(files, 30.0)
    assert grid == scene.grid
    with SceneReader(files, grid) as reader:
        direct, there = reader.read(0, 0, grid.height, grid.width)
    assert (there == valid).mean() > 0.999
    both = there & valid
    assert np.abs(direct - reflectance)[:, both].max() <= 0.51e-4


def absolute(item):
    assets = json.loads(item.read_text())["assets"]
    return {key: asset | {"href": str(item.parent / asset["href"])} for key, asset in assets.items()}


def test_native_files_are_those_of_the_server_bit_for_bit(world, tmp_path):
    item = world.sentinel2("S2A_32TNT_20240601_0_L2A")
    made = fetch([item], None, tmp_path / "out", FetchChoices("native", patience=QUICK))
    for (name, band), values in world.values.items():
        with rasterio.open(made.paths[0].parent / f"{name}_{band}.tif") as file:
            assert np.array_equal(file.read(1), values), band
