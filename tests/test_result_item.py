"""The STAC item and the QGIS style beside a cube: bands, colours, links and addresses."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import imagecodecs
import numpy as np
import pystac
import pytest
import rasterio
from conftest import LEAVES, S2_BANDS, SAND, dn_of, write_raster
from pystac.extensions.eo import EOExtension
from pystac.extensions.render import RenderExtension
from stac_items import planetary_computer
from test_faults_items import check_item_is_valid

from ms2hs.conversion.convert_scene import convert
from ms2hs.conversion.planning import ConvertOptions
from ms2hs.errors import OutputError
from ms2hs.scenes.formats import open_scene
from ms2hs.spectra.sensors import COMMON_NAMES_NM, load_sensor
from ms2hs.spectra.spectral_grid import band_support

CATALOGUE = "https://stac.example.com/collections/s2/items/S2A_1"
LINEAR = ConvertOptions(model="linear", force=True, overwrite=True, wavelengths_nm=((640.0, 660.0),))
BASE = "https://data.example.com/cubes/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene as `fetch` writes it, with the item that names the catalogue's, and its cube with uncertainty."""
    folder = tmp_path_factory.mktemp("item")
    (folder / "scenes").mkdir()
    scene = folder / "scenes" / "S2A_1.tif"
    write_raster(scene, dn_of([LEAVES, SAND]), descriptions=S2_BANDS, tags={"ACQUISITION_DATE": "2024-06-08T10:15:59Z"})
    links = [{"rel": "derived_from", "href": f"{CATALOGUE}?token=secret"}]
    item = {
        "type": "Feature",
        "id": "S2A_1",
        "properties": {},
        "links": links,
        "assets": {"data": {"href": "./S2A_1.tif"}},
    }
    scene.with_suffix(".json").write_text(json.dumps(item))
    convert(scene, "enmap", folder / "cube.tif", ConvertOptions(source="sentinel2b", model="linear", uncertainty=True))
    return folder


@pytest.fixture
def item(folder):
    return json.loads((folder / "cube.json").read_text())


def test_item_names_bands_for_both_versions_of_the_extension(folder, item):
    check_item_is_valid(folder / "cube.json")
    bands = EOExtension.ext(pystac.Item.from_dict(item).assets["data"]).bands
    with rasterio.open(folder / "cube.tif") as cube:
        assert [band.name for band in bands] == [text.split()[0] for text in cube.descriptions]
        support = [cube.tags(band)["ms2hs_support"] for band in cube.indexes]
    core = item["assets"]["data"]["bands"]
    assert [band["name"] for band in core] == [band.name for band in bands]
    assert [band["ms2hs:support"] for band in core] == support
    assert support == band_support(load_sensor("sentinel2b").grid, load_sensor("enmap").grid)


def test_each_common_name_belongs_to_the_nearest_band(item):
    centre = load_sensor("enmap").grid.wavelength_nm
    named = {
        band["common_name"]: nm
        for band, nm in zip(item["assets"]["data"]["eo:bands"], centre, strict=True)
        if "common_name" in band
    }
    assert named.keys() == COMMON_NAMES_NM.keys() - {"cirrus"}  # EnMAP's products lack bands near 1375 nm
    for name, nm in named.items():
        assert abs(nm - COMMON_NAMES_NM[name]) == np.abs(centre - COMMON_NAMES_NM[name]).min()


def test_names_of_bands_are_unique_in_an_item(item):
    names = [band["name"] for asset in item["assets"].values() for band in asset.get("bands", ())]
    assert len(set(names)) == len(names) == 404
    assert not any("common_name" in band for band in item["assets"]["sigma"]["eo:bands"])


def test_item_names_satellite_and_size_of_pixels(item):
    found = {name: item["properties"][name] for name in ("platform", "constellation", "instruments", "gsd", "datetime")}
    assert found == {
        "platform": "sentinel-2b", "constellation": "sentinel-2", "instruments": ["msi"], "gsd": 10,
        "datetime": "2024-06-08T10:15:59Z",
    }  # fmt: skip


def test_item_names_no_satellite_that_is_assumed(tmp_path, ms2hs):
    scene = write_raster(tmp_path / "scene.tif", dn_of([LEAVES]), descriptions=S2_BANDS)
    assert (
        ms2hs("convert", scene, "--model", "linear", "--wavelengths", "640-660", "-q", "-o", tmp_path / "x.tif")[0] == 0
    )
    properties = json.loads((tmp_path / "x.json").read_text())["properties"]
    assert "platform" not in properties
    assert properties["instruments"] == ["msi"]


def test_item_links_to_the_item_of_its_input(item, folder):
    links = {link["rel"]: link["href"] for link in item["links"]}
    assert links == {"derived_from": "scenes/S2A_1.json", "via": CATALOGUE}
    assert (folder / links["derived_from"]).is_file()


@pytest.mark.parametrize("source", ["local item", f"{CATALOGUE}?token=secret"])
def test_item_links_to_the_item_that_the_scene_was_opened_from(folder, source):
    asset = {"eo:bands": [{"name": name} for name in S2_BANDS], "href": "./S2A_1.tif"}
    links = [{"rel": "self", "href": CATALOGUE}]
    path = folder / "scenes" / "item.json"
    path.write_text(json.dumps(planetary_computer("02.12") | {"links": links, "assets": {"data": asset}}))
    scene = open_scene(str(path))
    made = convert(scene if source == "local item" else replace(scene, item=source), "enmap", folder, LINEAR)
    links = {link["rel"]: link["href"] for link in json.loads(made.item.read_text())["links"]}
    assert links == {"derived_from": "scenes/item.json" if source == "local item" else CATALOGUE, "via": CATALOGUE}


def test_absolute_addresses_begin_with_href_base(folder, tmp_path, ms2hs):
    words = (
        "--model",
        "linear",
        "--wavelengths",
        "640-660",
        "--href-base",
        BASE,
        "--collection",
        "cubes",
        "-q",
        "-o",
        tmp_path / "x.tif",
    )
    code, _, err = ms2hs("convert", folder / "scenes" / "S2A_1.tif", *words)
    assert code == 0, err
    item = json.loads((tmp_path / "x.json").read_text())
    assert item["collection"] == "cubes"
    links = {link["rel"]: link["href"] for link in item["links"]}
    # the item of the input is on this disk: its address in the catalogue remains
    assert links == {"self": f"{BASE}x.json", "collection": f"{BASE}collection.json"} | dict.fromkeys(
        ("derived_from", "via"), CATALOGUE
    )
    hrefs = {Path(asset["href"]).name: asset["href"] for asset in item["assets"].values()}
    assert hrefs == {f"x{suffix}": f"{BASE}x{suffix}" for suffix in (".tif", ".png", ".qml")}


def test_item_names_the_files_of_envi(folder, tmp_path):
    made = convert(folder / "scenes" / "S2A_1.tif", "enmap", tmp_path / "x.hdr", LINEAR)
    assets = json.loads(made.item.read_text())["assets"].values()
    assert {Path(asset["href"]).name: asset["type"] for asset in assets} == {
        "x.dat": "application/octet-stream", "x.hdr": "text/plain", "x.png": "image/png", "x.qml": "text/xml",
    }  # fmt: skip
    assert all((tmp_path / asset["href"]).is_file() for asset in assets)


@pytest.mark.parametrize(
    "base",
    ["cubes", "../x", "", "ftp://a/b", "https://", "https://me:pw@a/b", "https://a/b?sig=1", "https://a/b\n", "file:x"],
)
def test_other_bases_are_refused(base):
    with pytest.raises(OutputError, match=r"--href-base .*are allowed\. Leave it out"):
        ConvertOptions(href_base=base)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "é'"])
def test_other_names_of_collections_are_refused(name):
    with pytest.raises(OutputError, match=r"--collection .*are allowed\. Use"):
        ConvertOptions(collection=name)


def test_style_has_the_colours_of_quicklook_and_item(folder, item):
    renderer = ET.parse(folder / "cube.qml").getroot().find("pipe/rasterrenderer")  # noqa: S314 - our own file
    bands = [int(renderer.get(f"{colour}Band")) for colour in ("red", "green", "blue")]
    limits = [
        [float(renderer.findtext(f"{colour}ContrastEnhancement/{end}Value")) for end in ("min", "max")]
        for colour in ("red", "green", "blue")
    ]
    render = RenderExtension.ext(pystac.Item.from_dict(item)).renders["natural"]
    assert render.properties["bidx"] == bands
    assert render.properties["bands"] == [[item["assets"]["data"]["bands"][band - 1]["name"] for band in bands]]
    np.testing.assert_allclose(np.array(render.rescale) * 1e-4, limits, atol=5.1e-5)
    with rasterio.open(folder / "cube.tif") as cube:
        values = cube.read(bands) * 1e-4
    picture = imagecodecs.imread(folder / "cube.png")[: values.shape[1], : values.shape[2], :3]
    low, high = limits[0]
    assert np.abs(255 * np.clip((values - low) / (high - low), 0, 1) - np.moveaxis(picture, -1, 0)).max() <= 0.51
