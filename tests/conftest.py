"""Shared fixtures: small rasters, the command line, a local object store, and a block of the network."""

# ruff: noqa: E402 - the number of threads must be set before numpy and torch load

import os

# Arrays of the tests are small: more threads would make them slower. Subprocesses inherit the variables.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ.update(ONE_THREAD)

import logging
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.session
from hypothesis import settings
from rasterio import Affine

from ms2hs.cli.app import main
from ms2hs.datasets.simulation.example_scene import write_example

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
# Reflectance of dense vegetation, clear water and sand in these bands.
LEAVES = (0.02, 0.025, 0.05, 0.03, 0.09, 0.27, 0.33, 0.35, 0.37, 0.38, 0.19, 0.08)
WATER = (0.04, 0.035, 0.03, 0.02, 0.015, 0.01, 0.01, 0.01, 0.008, 0.007, 0.004, 0.003)
SAND = (0.13, 0.16, 0.23, 0.33, 0.36, 0.37, 0.38, 0.38, 0.39, 0.4, 0.48, 0.45)
WEST, NORTH = 600_000.0, 5_100_000.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The originals, before a test replaces them.
CONNECT, RESOLVE = socket.socket.connect, socket.getaddrinfo
# rasterio creates a session of boto3, which takes 15 ms, whenever it opens a file; no test reads S3 through GDAL.
rasterio.session.boto3 = None
# By default, examples fail after 0.2 s, which any example may take while other tests run in parallel.
settings.register_profile("parallel", deadline=None)
settings.load_profile("parallel")


def write_raster(path: Path, values: np.ndarray, gsd_m: float = 10.0, **options: Any) -> Path:
    """Write (band, row, col) values as a GeoTIFF, or by another `driver`; the options include tags and descriptions."""
    descriptions: Sequence[str] = options.pop("descriptions", ())
    tags: dict[str, str] = options.pop("tags", {})
    band_tags: dict[str, Sequence[dict[str, str]]] = options.pop("band_tags", {})
    scale, offset = options.pop("scale", None), options.pop("offset", None)
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:32632",
        "transform": Affine(gsd_m, 0, WEST, 0, -gsd_m, NORTH),
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **(profile | options)) as dataset:
        dataset.write(values)
        dataset.update_tags(**tags)
        for band, text in enumerate(descriptions, 1):
            dataset.set_band_description(band, text)
        for domain, rows in band_tags.items():
            for band, row in enumerate(rows, 1):
                dataset.update_tags(band, ns=domain or None, **row)
        if scale is not None:
            dataset.scales = np.broadcast_to(scale, dataset.count).tolist()
        if offset is not None:
            dataset.offsets = np.broadcast_to(offset, dataset.count).tolist()
    return path


def dn_of(spectra: Sequence[Sequence[float]], shape: tuple[int, int] = (24, 30), dtype: str = "uint16") -> np.ndarray:
    """(band, row, col) reflectance in ten-thousandths: columns repeat the spectra, rows increase in brightness."""
    rows, cols = shape
    brightness = np.linspace(0.9, 1.1, rows)[None, :, None]
    columns = np.array([spectra[col % len(spectra)] for col in range(cols)]).T[:, None, :]
    return np.round(columns * brightness * 1e4).astype(dtype)


@pytest.fixture
def s2_tif(tmp_path: Path) -> Path:
    """A small Sentinel-2 GeoTIFF of vegetation, water and sand, without scale and nodata."""
    return write_raster(tmp_path / "scene.tif", dn_of([LEAVES, WATER, SAND]), descriptions=S2_BANDS)


def allow_sockets(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    """Refuse connections to all other addresses, and names; local sockets between processes stay allowed."""

    def refuse(self, address):
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(prefixes):
            raise AssertionError(f"a test tried to reach {address}")
        return CONNECT(self, address)

    def resolve(host, *args, **options):
        if host and host != "localhost" and not re.fullmatch(r"[0-9.]+|[0-9a-f:]*:[0-9a-f:.]*", str(host)):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # a name server may take seconds
        return RESOLVE(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    allow_sockets(monkeypatch)


@pytest.fixture(autouse=True)
def _no_log_lines():
    """Remove what a command with -v, or a command that shows waits, added to the logger."""
    yield
    logger = logging.getLogger("ms2hs")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def scene_path(tmp_path_factory):
    """A synthetic Sentinel-2 scene of odd size, with a nodata edge."""
    return write_example(tmp_path_factory.mktemp("scene") / "plain.tif")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data; skips the test if MS2HS_DATA is not set."""
    folder = os.environ.get("MS2HS_DATA")
    if not folder:
        pytest.skip("MS2HS_DATA is not set: no real data")
    return Path(folder)


@pytest.fixture(scope="session")
def _object_store():
    """The address of a local S3 store, and a client of this store."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # by default, every request is logged to stderr
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
    yield address, boto3.client("s3", endpoint_url=address, **keys)
    server.stop()


class Bucket:
    """A bucket with the name `bucket`, to read, write and list its files."""

    def __init__(self, client):
        self.client = client
        self.client.create_bucket(Bucket="bucket")

    def files(self):
        return sorted(entry["Key"] for entry in self.client.list_objects_v2(Bucket="bucket").get("Contents", []))

    def read(self, key):
        return self.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def write(self, key, content):
        self.client.put_object(Bucket="bucket", Key=key, Body=content)

    def remove(self):
        for key in self.files():
            self.client.delete_object(Bucket="bucket", Key=key)
        self.client.delete_bucket(Bucket="bucket")


@pytest.fixture
def bucket(_object_store, monkeypatch, _no_network):
    """An empty bucket s3://bucket, configured by environment variables; other hosts are refused."""
    from s3fs import S3FileSystem

    address, client = _object_store
    allow_sockets(monkeypatch, "127.")
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    keys = {"ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": "tests", "DEFAULT_REGION": "us-east-1"}
    files = {"CONFIG_FILE": os.devnull, "SHARED_CREDENTIALS_FILE": os.devnull, "EC2_METADATA_DISABLED": "true"}
    for name, value in {**keys, **files, "ENDPOINT_URL": address}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()  # instances of other environments
    opened = Bucket(client)
    yield opened
    opened.remove()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def ms2hs(monkeypatch, capsys):
    """Run the command line: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ms2hs", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: MS2HS_BROWSER, or from the PATH. Without a browser, tests are skipped; in CI they fail."""
    path = os.environ.get("MS2HS_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is on the PATH. Install Chromium, or set MS2HS_BROWSER."
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
