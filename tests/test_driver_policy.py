"""Files that GDAL may open: rasters by their content, virtual rasters with local sources only."""

import os
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, dn_of, write_raster
from rasterio.shutil import copy
from test_safe import make_safe

from ms2hs.errors import Ms2hsError, SceneError
from ms2hs.raster.dataset import open_dataset, read_bands
from ms2hs.scenes.formats import open_scene
from ms2hs.scenes.reader import SceneReader

VALUES = dn_of([LEAVES, SAND])


def vrt_of(*sources, tag="SimpleSource", more="", relative=0):
    """The text of a VRT with one band for each source."""
    bands = "".join(
        f"<VRTRasterBand dataType='UInt16' band='{i}'><{tag}>"
        f"<SourceFilename relativeToVRT='{relative}'>{source}</SourceFilename><SourceBand>1</SourceBand></{tag}>{more}"
        "</VRTRasterBand>"
        for i, source in enumerate(sources, 1)
    )
    height, width = VALUES.shape[1:]
    return (
        f"<VRTDataset rasterXSize='{width}' rasterYSize='{height}'><SRS>EPSG:32632</SRS>"
        f"<GeoTransform>600000,10,0,5100000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )


def read_scene(path):
    scene = open_scene(str(path))
    with SceneReader(scene, scene.grid) as reader:
        return reader.read(0, 0, scene.grid.height, scene.grid.width)


@pytest.fixture
def requests(monkeypatch):
    """Addresses that GDAL requests; none may be."""
    import socket

    tried = []

    def connect(_self, address):
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


@pytest.mark.parametrize("suffix", [".tif", ".jp2", ".img", ".dat", ""])
@pytest.mark.parametrize("source", ["private.tif", "/vsicurl/http://127.0.0.1:9/x.tif"])
def test_vrt_with_another_suffix_is_refused(tmp_path, suffix, source):
    write_raster(tmp_path / "private.tif", VALUES)
    path = tmp_path / f"scene{suffix}"
    path.write_text(vrt_of(source if source.startswith("/") else tmp_path / source))
    with pytest.raises(SceneError, match="not a raster that can be read"):
        open_dataset(str(path))


@pytest.mark.parametrize("relative", [0, 1])
def test_vrt_of_local_rasters_opens(tmp_path, relative):
    path = write_raster(tmp_path / "a.tif", VALUES)
    (tmp_path / "scene.vrt").write_text(vrt_of("a.tif" if relative else path, relative=relative))
    with open_dataset(str(tmp_path / "scene.vrt")) as dataset:
        assert np.array_equal(read_bands(dataset, [1])[0], VALUES[0])


def test_vrt_that_stacks_bands_is_a_scene(tmp_path):
    path = write_raster(tmp_path / "a.tif", VALUES, descriptions=S2_BANDS)
    copy(path, tmp_path / "S2A_scene.vrt", driver="VRT")
    assert read_scene(tmp_path / "S2A_scene.vrt")[1].all()


@pytest.mark.parametrize(
    "source",
    [
        "/vsicurl/http://127.0.0.1:9/x.tif",
        "http://127.0.0.1:9/x.tif",
        "/vsis3/bucket/x.tif",
        "WMS:http://127.0.0.1:9/",
        "NETCDF:x.nc:B02",
        "<VRTDataset/>",
        "missing.tif",
        "",
    ],
)
def test_vrt_with_a_source_elsewhere_is_refused(tmp_path, source, requests):
    escaped = source.replace("<", "&lt;")
    (tmp_path / "scene.vrt").write_text(vrt_of(escaped))
    with pytest.raises(SceneError, match="is not a file of this machine"):
        open_dataset(str(tmp_path / "scene.vrt"))
    assert not requests


def test_vrt_within_vrt_is_checked(tmp_path):
    (tmp_path / "inner.vrt").write_text(vrt_of("/vsicurl/http://127.0.0.1:9/x.tif"))
    (tmp_path / "outer.vrt").write_text(vrt_of(tmp_path / "inner.vrt"))
    with pytest.raises(SceneError, match="inner.vrt: the source"):
        open_dataset(str(tmp_path / "outer.vrt"))
    (tmp_path / "hidden.tif").write_text(vrt_of("/vsicurl/http://127.0.0.1:9/x.tif"))
    (tmp_path / "outer.vrt").write_text(vrt_of(tmp_path / "hidden.tif"))
    with pytest.raises(SceneError, match="is a VRT with another suffix"):
        open_dataset(str(tmp_path / "outer.vrt"))
    (tmp_path / "loop.vrt").write_text(vrt_of(tmp_path / "loop.vrt"))
    with pytest.raises(SceneError, match="VRTs within VRTs"):
        open_dataset(str(tmp_path / "loop.vrt"))


def test_vrt_that_runs_code_or_reads_bytes_is_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", VALUES)
    text = vrt_of(path, more="<PixelFunctionLanguage>Python</PixelFunctionLanguage>")
    raw = vrt_of("/etc/hostname").replace("<VRTRasterBand ", "<VRTRasterBand subClass='VRTRawRasterBand' ")
    for content, name in ((text, "PixelFunctionLanguage"), (raw, "VRTRawRasterBand"), ("<VRTDataset", "not a VRT")):
        (tmp_path / "scene.vrt").write_text(content)
        with pytest.raises(SceneError, match=name):
            open_dataset(str(tmp_path / "scene.vrt"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_vrt_inside_a_product_is_refused(tmp_path, kind):
    private = write_raster(tmp_path / "private.tif", VALUES[:1])
    root = make_safe(tmp_path, driver="GTiff")
    image = next(root.rglob("*_B04_10m.jp2"))
    image.write_text(vrt_of(private))
    path = root
    if kind == "zip":
        path = tmp_path / "product.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, file.relative_to(root.parent))
    with pytest.raises(Ms2hsError, match="B04"):
        read_scene(path)


def test_overviews_in_a_named_file_are_refused(tmp_path, requests):
    path = write_raster(tmp_path / "a.tif", VALUES)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE="/vsicurl/http://127.0.0.1:9/x.ovr")
    with pytest.raises(SceneError, match="names a file of overviews"):
        open_dataset(str(path))
    assert not requests
    copy(path, tmp_path / "copy.tif", driver="GTiff")  # as gdal_translate does
    open_dataset(str(tmp_path / "copy.tif")).close()


def test_pipes_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(SceneError, match="is a pipe or device"):
        open_dataset(str(tmp_path / "pipe.tif"))
    with pytest.raises(SceneError, match="is a folder"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("suffix", [".ovr", ".msk", ".OVR", ".msk.ovr", ".ovr.msk"])
@pytest.mark.parametrize("kind", ["vrt", "wcs", "redirect", "pipe"])
@pytest.mark.parametrize("place", ["folder", "zip"])
def test_sidecar_that_leads_elsewhere_is_refused(tmp_path, suffix, kind, place):
    target = "/vsicurl/http://127.0.0.1:9/x.tif"
    scene = write_raster(tmp_path / "scene.tif", VALUES, descriptions=S2_BANDS)
    sidecar = tmp_path / f"scene.tif{suffix}"
    if kind == "pipe":
        os.mkfifo(sidecar)
        if place == "zip":
            return
    elif kind == "redirect":
        write_raster(sidecar, VALUES[:, ::2, ::2])
        with rasterio.open(sidecar, "r+", driver="GTiff") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=target)
    else:
        wcs = "<WCS_GDAL><ServiceURL>http://127.0.0.1:9/?</ServiceURL><CoverageName>x</CoverageName></WCS_GDAL>"
        sidecar.write_text(wcs if kind == "wcs" else vrt_of(*[target] * len(S2_BANDS)))
    if place == "zip":
        with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
            for file in (scene, sidecar):
                archive.write(file, file.name)
        scene = tmp_path / "scene.zip"
    with pytest.raises(SceneError, match="scene.tif" + suffix):
        read_scene(scene)


@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 32768, "blockysize": 32768, "interleave": "band"},
        {"blockysize": 20_000, "interleave": "pixel"},
        {"width": 1_000_000_000, "blockysize": 1},
    ],
)
def test_blocks_are_bounded(tmp_path, options):
    size = {"width": 20_000, "height": 20_000, "count": 12, "dtype": "uint16", "compress": "deflate"}
    size |= {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 600_000, 0, -10, 5_100_000)}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", sparse_ok=True, BIGTIFF="YES", **(size | options)):
        pass
    with pytest.raises(SceneError, match=r"a\.tif: its pixels are stored in blocks"):
        open_dataset(str(tmp_path / "a.tif"))
