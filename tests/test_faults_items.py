"""STAC items of others: each gives a right scene or one message; and the items that ms2hs writes are valid."""

import copy
import json
import re
from contextlib import suppress
from pathlib import Path

import pystac
import pytest
from conftest import allow_sockets, write_raster
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from stac_items import S2_REFLECTANCE, S2_SIZES, dn_image, earth_search
from stac_server import StacServer
from stac_world import World

from ms2hs.errors import Ms2hsError, NothingFound, SceneError, visible
from ms2hs.fetching.fetcher import FetchOptions, fetch
from ms2hs.fetching.footprints import coverage
from ms2hs.fetching.search_query import parse_bbox, read_geojson
from ms2hs.fetching.selection import SearchRequest, select
from ms2hs.fetching.stac_search import read_items, write_items
from ms2hs.files import file_name
from ms2hs.remote.client import RetryPolicy
from ms2hs.remote.url_policy import shown, without_secrets
from ms2hs.scenes.stac_item import open_item
from ms2hs.scenes.stac_metadata import parse_item, sensing_time, valid_items

QUICK = RetryPolicy(first_s=0.002, longest_s=0.01, read_s=0.25, connect_s=0.5)
NAME = "S2A_32TNT_20240601_0_L2A"
# Values of all types of JSON, and some that JSON readers also accept.
VALUES = [
    None, True, 0, -5, 1e308, float("nan"), float("inf"), 10**400, "", "x", "\ud800", "\x1b]0;x\x07", [], [1], [None],
    ["a", "b"], [[]], [{}], {}, {"a": 1}, "http://[::1", "../../etc", "a" * 5000,
]  # fmt: skip
PLACES = [
    ("type",), ("id",), ("collection",), ("properties",), ("geometry",), ("bbox",), ("links",), ("assets",),
    ("stac_extensions",), ("ms2hs:from",),
    *(("properties", key) for key in (
        "datetime", "start_datetime", "proj:epsg", "proj:code", "proj:wkt2", "proj:projjson", "proj:shape",
        "proj:transform", "platform", "constellation", "eo:cloud_cover", "s2:processing_baseline", "s2:product_uri",
        "grid:code", "earthsearch:boa_offset_applied", "updated",
    )),
    ("links", 0), ("links", 0, "rel"), ("links", 0, "href"),
    ("assets", "red"),
    *(("assets", "red", key) for key in (
        "href", "type", "roles", "gsd", "eo:bands", "bands", "raster:bands", "proj:shape", "proj:transform",
        "proj:epsg", "raster:scale", "raster:offset", "nodata", "scale",
    )),
    ("assets", "red", "eo:bands", 0), ("assets", "red", "eo:bands", 0, "name"),
    ("assets", "red", "eo:bands", 0, "center_wavelength"),
    ("assets", "red", "raster:bands", 0),
    *(("assets", "red", "raster:bands", 0, key) for key in ("scale", "offset", "nodata", "spatial_resolution")),
    ("assets", "scl", "href"), ("assets", "visual", "href"),
]  # fmt: skip


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """An item with its files beside it, and the folder."""
    folder = tmp_path_factory.mktemp("item")
    for name, gsd_m in S2_SIZES.items():
        write_raster(folder / f"{name}.tif", dn_image(gsd_m, S2_REFLECTANCE.get(name, 0.1), 1000), gsd_m, nodata=0)
    item = earth_search("sentinel-2-c1-l2a", "05.10")
    del item["assets"]["scl"]
    item["links"] = [{"rel": "root", "href": "https://stac.example.org"}]
    return item, folder


def changed(item, place, value):
    item = copy.deepcopy(item)
    part = item
    for key in place[:-1]:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    part[place[-1]] = value
    return item


@pytest.mark.parametrize("place", [place for place in PLACES if "scl" not in place], ids=str)
def test_item_of_wrong_types_is_a_scene_or_one_message(on_disk, place):
    item, folder = on_disk
    right = open_with(folder, item)
    for value in VALUES:
        with suppress(Ms2hsError):
            scene = open_with(folder, changed(item, place, value))
            assert scene.grid == right.grid
            assert file_name(scene.id) == scene.id


def open_with(folder, item):
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    return open_item(str(path))


@pytest.mark.parametrize(
    "text",
    [b'{"a":' * 100_000, b"[" * 100_000, b"\xff\xfe", b"", b"null", b"7", b'"x"', b"[]", b"{}", b"\0",
     b'{"type": "Feature"}',
     b'{"type":"Feature","assets":{},"properties":{},"id":"a","x":' + b"[" * 500 + b"]" * 500 + b"}"],
)  # fmt: skip
def test_document_that_is_no_item_is_one_message(tmp_path, text):
    (tmp_path / "item.json").write_bytes(text)
    with pytest.raises(SceneError, match=r"item\.json|Feature"):
        open_item(str(tmp_path / "item.json"))


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("key", ["geometry", "bbox"])
def test_coverage_of_wrong_footprints_is_a_number(key, value):
    item = {"geometry": None, "bbox": None} | {key: value}
    assert 0 <= coverage(item, parse_bbox((10, 46, 11, 47))) <= 1
    item = {"geometry": {"type": "Polygon", "coordinates": value}, "bbox": value}
    assert 0 <= coverage(item, parse_bbox((10, 46, 11, 47))) <= 1


@pytest.mark.parametrize("place", [("id",), ("properties",), ("assets", "red", "href"), ("links",)], ids=str)
def test_invalid_item_is_left_out_with_its_reason(place):
    good = earth_search("sentinel-2-c1-l2a", "05.10")
    left_out: list[str] = []
    assert [item["id"] for item in valid_items([changed(good, place, 7), good], left_out)] == [good["id"]]
    assert len(left_out) == 1
    assert "7" in left_out[0]


def test_null_means_absent():
    item = changed(earth_search("sentinel-2-c1-l2a", "05.10"), ("assets", "red", "roles"), None)
    assert "roles" not in parse_item(item)["assets"]["red"]
    assert parse_item(parse_item(item)) == parse_item(item)


@pytest.mark.parametrize(
    ("text", "time"),
    [("2024-06-01T10:20:30.123Z", "2024-06-01T10:20:30.123Z"), ("2024-06-01T10:20", "2024-06-01T10:20:00Z")],
)
def test_sensing_time_has_a_zone(text, time):
    assert sensing_time({"properties": {"datetime": text}}) == time


# ---- fetch ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(monkeypatch, tmp_path):
    allow_sockets(monkeypatch, "127.0.0.")
    with StacServer() as running:
        yield World(running, tmp_path / "making", 1200)


def test_search_leaves_out_invalid_items(world):
    world.sentinel2(NAME)
    bad = world.sentinel2("bad", seed=1)
    bad["links"] = "self"
    request = SearchRequest((10, 45.9, 10.5, 46.1), date="2024", stac=world.server.root, collection=bad["collection"])
    found = select(request, to_fetch=False)
    assert [item["id"] for item in found.items] == [NAME]
    assert "bad: links is 'self'" in found.left_out[0]


def test_documents_on_disk_are_bounded(tmp_path):
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(2_000_000_000)
    for read in (open_item, lambda path: read_items(Path(path)), lambda path: read_geojson(Path(path))):
        with pytest.raises(Ms2hsError, match="huge.json: .*more than (20|100) MB"):
            read(str(huge))


def test_fetch_of_ids_that_give_one_name_keeps_all(world, tmp_path):
    names = ["S2A/a", "S2A:a", "S2A a", "A" * 160 + "1", "A" * 160 + "2"]
    items = [
        world.sentinel2(name, properties={"datetime": f"2024-06-0{i + 1}T10:20:30Z"}) for i, name in enumerate(names)
    ]
    items += [items[0] | {"collection": "other"}, items[1] | {"id": "../x"}]
    result = fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert len(set(result.paths)) == len(items)
    assert all(path.parent == tmp_path / "out" for path in result.paths)
    assert fetch(items, None, tmp_path / "out", FetchOptions(retries=QUICK)).paths == result.paths


def test_refused_file_of_one_scene_keeps_the_others(world, tmp_path):
    good, bad = world.sentinel2(NAME), world.sentinel2("S2A_32TNT_20240602_0_L2A", seed=1)
    world.server.fault = lambda path: "expired" if path.startswith(bad["id"]) else None
    result = fetch([bad, good], None, tmp_path / "out", FetchOptions(retries=QUICK))
    assert [path.stem for path in result.paths] == [NAME]
    assert "refuses access" in result.failed[0]


def test_saved_items_keep_their_area(world, tmp_path):
    item = world.sentinel2(NAME)
    area = parse_bbox((10.29, 46.04, 10.295, 46.045))
    write_items(tmp_path / "items.json", [item], area)
    request = SearchRequest(items=tmp_path / "items.json", stac=world.server.root)
    assert select(request, to_fetch=True).area == area
    other = SearchRequest((10.2, 46.0, 10.5, 46.1), items=tmp_path / "items.json", stac=world.server.root)
    assert select(other, to_fetch=True).area == parse_bbox((10.2, 46.0, 10.5, 46.1))
    with pytest.raises(NothingFound):
        select(SearchRequest((50, 46.0, 51, 46.1), items=tmp_path / "items.json"), to_fetch=False)


@pytest.mark.parametrize(
    "area", [7, {"bbox": "x"}, {"bbox": [1, 2]}, {}, {"bbox": [0, 0, 1, 1], "geometry": {"type": "x"}}]
)
def test_saved_area_of_wrong_type_is_one_message(tmp_path, area):
    document = {
        "type": "FeatureCollection",
        "features": [earth_search("sentinel-2-c1-l2a", "05.10")],
        "ms2hs:area": area,
    }
    (tmp_path / "items.json").write_text(json.dumps(document))
    with pytest.raises(Ms2hsError, match=r"items\.json"):
        select(SearchRequest(items=tmp_path / "items.json"), to_fetch=False)


# ---- text of others in messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "/vsizip//vsicurl/http://user:SECRET@127.0.0.1:9/a.zip",
        "/vsicurl?url=http://127.0.0.1:9/x.tif%3Fsig%3DSECRET",
        "/vsicurl_streaming/http://user:SECRET@127.0.0.1:9/a.tif",
        "/vsicurl?header.Authorization=SECRET&url=http://a.b/c.tif",
        "https://user:SECRET@host.example/a.tif?X-Amz-Signature=SECRET",
        "ftp://user:SECRET@host.example/a.tif",
        "cannot open user:SECRET@host.example/a.tif",
        "file a.tif%3Fsig%3DSECRET not found",
        "X-Amz-Security-Token=SECRET&x=1",
        "http://[SECRET?sig=SECRET".replace("[SECRET", "["),
        "s3://bucket/key?versionId=SECRET",
        "AWS_SESSION_TOKEN=SECRET",
    ],
)
def test_messages_have_no_secrets(text):
    assert "SECRET" not in without_secrets(text)
    if "://" in text or text.startswith("/vsi"):
        assert "SECRET" not in without_secrets(shown(text))


def test_messages_keep_ordinary_text():
    for text in ("B02: 10:20 at 5 m", "a@b.example", "C:/data/x.tif", "https://host.example/a.tif", "is it cut? yes"):
        assert without_secrets(text) == text


def test_visible_text_has_no_control_characters():
    assert visible("a\x1b]0;x\x07\n\u202e\x9bé") == r"a\x1b]0;x\x07\n\u202e\x9bé"


def test_messages_are_short_and_on_indented_lines():
    from ms2hs.cli.messages import MAX_LINE, MAX_LINES, presentable

    lines = presentable("\n".join(["wrong"] + ["x" * 5000] * 100)).split("\n")
    assert len(lines) == MAX_LINES
    assert max(map(len, lines)) < MAX_LINE + 10
    assert all(line.startswith("  ") for line in lines[1:])


@pytest.mark.parametrize("field", ["id", "collection", "platform", "href"])
def test_command_line_prints_no_control_characters(on_disk, ms2hs, field):
    item, folder = on_disk
    evil = "x\x1b]0;owned\x07\x9b"
    places = {"platform": ("properties", "platform"), "href": ("assets", "red", "href")}
    path = folder / "evil.json"
    path.write_text(json.dumps(changed(item, places.get(field, (field,)), evil)))
    _, out, err = ms2hs("convert", path, "--dry-run", "--model", "linear", "-o", folder / "x.tif")
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err) is None


# ---- items that ms2hs writes ----------------------------------------------------------------------------------------

# By prefix: the extension, and the rule of each field that ms2hs writes.
EXTENSIONS = {
    "proj": "projection", "eo": "eo", "raster": "raster", "file": "file", "classification": "classification",
}  # fmt: skip
FIELDS = {
    "proj:code": lambda value: re.fullmatch(r"[A-Z]+:.+", value),
    "proj:wkt2": lambda value: isinstance(value, str),
    "proj:shape": lambda value: len(value) == 2 and all(type(number) is int for number in value),
    "proj:transform": lambda value: len(value) in {6, 9} and all(isinstance(number, float | int) for number in value),
    "file:size": lambda value: type(value) is int and value >= 0,
    "file:checksum": lambda value: re.fullmatch(r"[a-f0-9]+", value),
    "eo:center_wavelength": lambda value: value > 0,
    "eo:full_width_half_max": lambda value: value > 0,
    "eo:cloud_cover": lambda value: 0 <= value <= 100,
    "classification:classes": lambda value: all(
        type(one["value"]) is int
        and re.fullmatch(r"[0-9A-Za-z_-]+", one["name"])
        and re.fullmatch(r"[0-9A-F]{6}", one.get("color_hint", "000000"))
        for one in value
    ),
    "raster:scale": lambda value: isinstance(value, float | int),
    "raster:offset": lambda value: isinstance(value, float | int),
}


def fields_of(document):
    """Every key of a JSON document, with its value."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key, value
            yield from fields_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from fields_of(value)


def check_item_is_valid(path):
    """Valid by the core schemas of pystac, and by the rules of the extensions."""
    document = json.loads(path.read_text())
    JsonSchemaSTACValidator().validate_core(document | {"stac_version": "1.1.0"}, pystac.STACObjectType.ITEM, "1.1.0")
    assert pystac.Item.from_dict(document).id == document["id"]
    used = {key.partition(":")[0] for key, _ in fields_of(document)} & set(EXTENSIONS)
    for prefix, extension in EXTENSIONS.items():
        named = any(f"/{extension}/" in name for name in document["stac_extensions"])
        assert named == (prefix in used), prefix
    for key, value in fields_of(document):
        if key in FIELDS:
            assert FIELDS[key](value), (key, value)
    if document.get("collection"):
        assert [link["rel"] for link in document["links"]].count("collection") == 1
    for asset in document["assets"].values():
        assert (path.parent / asset["href"]).is_file()


@pytest.mark.parametrize("gsd_m", [60.0, "native"])
def test_items_of_fetch_are_valid(world, tmp_path, gsd_m):
    extensions = ["https://stac-extensions.github.io/eo/v1.1.0/schema.json",
                  "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
                  "https://stac-extensions.github.io/projection/v1.1.0/schema.json"]  # fmt: skip
    item = world.sentinel2(NAME) | {"stac_extensions": extensions}
    path = fetch([item], None, tmp_path / "out", FetchOptions(gsd_m, retries=QUICK)).paths[0]
    check_item_is_valid(path.with_suffix(".json"))


@pytest.mark.parametrize(
    "properties",
    [
        {"datetime": None}, {"datetime": "2024-06-01T10:20"}, {"datetime": "2024-06-01T12:20:00+02:00"},
        {"datetime": None, "start_datetime": "2024-06-01T10:20:00Z"}, {"updated": "x"}, {"created": 7},
        {"eo:cloud_cover": -5}, {"eo:cloud_cover": None},
    ],
    ids=str,
)  # fmt: skip
def test_items_of_fetch_are_valid_for_invalid_ones(world, tmp_path, properties):
    item = world.sentinel2(NAME)
    item["properties"] |= properties
    path = fetch([item], None, tmp_path / "out", FetchOptions(60.0, retries=QUICK)).paths[0]
    check_item_is_valid(path.with_suffix(".json"))


@pytest.mark.parametrize("crs", ["EPSG:32632", None])
def test_items_of_convert_are_valid(tmp_path, ms2hs, crs):
    from conftest import LEAVES, S2_BANDS, dn_of

    write_raster(tmp_path / "scene.tif", dn_of([LEAVES]), descriptions=S2_BANDS, crs=crs)
    code, _, err = ms2hs(
        "convert", tmp_path / "scene.tif", "--model", "linear", "-q", "--uncertainty", "-o", tmp_path / "r.tif"
    )
    assert code == 0, err
    check_item_is_valid(tmp_path / "r.json")
