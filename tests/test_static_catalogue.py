"""static_catalogue and stac_search: catalogues without a search, read by their links."""

import json
from dataclasses import replace

import pytest
from conftest import allow_sockets
from hypothesis import given
from hypothesis import strategies as st
from stac_items import FOOTPRINT, earth_search
from stac_server import StacServer

from ms2hs.errors import NothingFound, QueryError, RemoteError
from ms2hs.fetching.search_query import parse_bbox, parse_period
from ms2hs.fetching.stac_search import Candidate, StacQuery, search
from ms2hs.remote import client, static_catalogue
from ms2hs.remote.providers import PROVIDERS, provider_named
from ms2hs.remote.static_catalogue import walk_items

ROOT = "data/stac/tanager-core-imagery"
WORLD = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2024-01-01T00:00:00Z", None]]}}


@pytest.fixture
def server(monkeypatch):
    allow_sockets(monkeypatch, "127.")
    monkeypatch.setattr(client.DEFAULT_CLIENT, "retries", client.RetryPolicy(attempts=2, first_s=0.001))
    with StacServer() as server:
        yield server


def links(rel, *targets):
    return [{"rel": rel, "href": target} for target in targets]


def catalogue(name, *rows, kind="Catalog", **facts):
    facts = {"type": kind, "id": name, "stac_version": "1.0.0", "description": name} | facts
    return facts | {"links": [link for row in rows for link in row]}


def put(server, path, document):
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return server.add_file(f"{ROOT}/{path}", content)


def scene(name, day="2024-06-01", degrees=0.0, **properties):
    """An item in the form of Planet's open catalogue."""
    item = earth_search("sentinel-2-c1-l2a", "05.10")
    west, south, east, north = FOOTPRINT
    ring = [[lon + degrees, lat] for lon, lat in item["geometry"]["coordinates"][0]]
    return item | {
        "id": name, "collection": "fire", "bbox": [west + degrees, south, east + degrees, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": f"{day}T10:00:00Z", "cloud_percent": 3, **properties},
        "assets": {"ortho_sr_hdf5": {"href": f"./{name}_ortho_sr_hdf5.h5"}}, "links": [],
    }  # fmt: skip


def tanager(server):
    """A catalogue of two collections, as Planet has it; its root."""
    for number, day in enumerate(("2024-06-01", "2024-07-01", "2023-06-01")):
        put(server, f"fire/s{number}/s{number}.json", scene(f"s{number}", day))
    put(server, "urban/s9/s9.json", scene("s9", cloud_percent=60) | {"collection": "urban"})
    items = links("item", *(f"./s{number}/s{number}.json" for number in range(3)))
    put(server, "fire/collection.json", catalogue("fire", items, kind="Collection", extent=WORLD, license="x"))
    item = links("item", "./s9/s9.json")
    put(server, "urban/collection.json", catalogue("urban", item, kind="Collection", extent=WORLD, license="x"))
    children = links("child", "./fire/collection.json", "./urban/collection.json")
    return put(server, "catalog.json", catalogue("planet-root", children, links("root", "./catalog.json")))


def ids(items):
    return sorted(item["id"] for item in items)


@pytest.mark.parametrize(
    ("collection", "expected"),
    [
        ("tanager-core-imagery", ["s0", "s1", "s2", "s9"]),  # the folder of the root
        ("planet-root", ["s0", "s1", "s2", "s9"]),
        ("fire", ["s0", "s1", "s2"]),
        ("urban", ["s9"]),
        ("snow", []),
    ],
)
def test_walk_reads_the_items_of_a_collection_once(server, collection, expected):
    items = walk_items(tanager(server), collection)
    assert ids(items) == expected
    paths = [request.path for request in server.requests]
    assert len(paths) == len(set(paths)) == 3 + len(expected)
    for item in items:
        folder = f"{ROOT}/{item['collection']}/{item['id']}"
        assert item["assets"]["ortho_sr_hdf5"]["href"] == server.address(f"{folder}/{item['id']}_ortho_sr_hdf5.h5")


def test_walk_leaves_out_what_cannot_be_read_and_follows_no_circle(server, tmp_path):
    (tmp_path / "local.json").write_text(json.dumps(scene("local")))
    put(server, "good.json", scene("good"))
    put(server, "page.json", b"<html>busy</html>")
    put(server, "list.json", b"[]")
    put(server, "odd.json", {"type": "Catalog", "links": 5})
    rows = links("item", "good.json", "good.json#x", "none.json", "page.json", "list.json", "http://127.0.0.2/x.json")
    rows += links("item", (tmp_path / "local.json").as_uri(), "http://169.254.169.254/latest/meta-data")
    rows += [{"rel": "item"}, 3, {"rel": "item", "href": 7}]
    root = put(server, "catalog.json", catalogue("x", rows, links("child", "catalog.json", "odd.json")))
    left_out = []
    assert ids(walk_items(root, "x", left_out=left_out)) == ["good"]
    text = "\n".join(left_out)
    for expected in ("none.json", "no JSON", "is list", "127.0.0.2", "file:", "169.254.169.254"):
        assert expected in text
    assert len(left_out) == 6


def test_walk_is_bounded(server, monkeypatch):
    root = tanager(server)
    monkeypatch.setattr(static_catalogue, "MAX_DOCUMENTS", 6)
    with pytest.raises(QueryError, match=r"more than 6 documents.*--stac"):
        walk_items(root, "planet-root")
    assert len(server.requests) == 3
    assert len(walk_items(root, "urban")) == 1
    with pytest.raises(RemoteError, match="no such file"):
        walk_items(server.address("none/catalog.json"), "x")


@given(parents=st.lists(st.integers(0, 30), max_size=12), kinds=st.lists(st.booleans(), min_size=12, max_size=12))
def test_walk_finds_every_item_of_a_random_tree(parents, kinds):
    """Document i+1 hangs below document `parents[i]`; items have no children."""
    is_item = [False, *kinds]
    documents = {0: catalogue("0")}
    for number, parent in enumerate(parents, 1):
        above = next(at for at in range(min(parent, number - 1), -1, -1) if not is_item[at])
        documents[number] = scene(str(number)) if is_item[number] else catalogue(str(number))
        documents[above]["links"] += links("item" if is_item[number] else "child", f"{number}.json")

    def read(address, *_):
        return documents[int(address.rpartition("/")[2].removesuffix(".json"))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_catalogue, "_read", read)
        found = walk_items("https://example.org/a/0.json", "0")
    assert ids(found) == sorted(str(number) for number in documents if is_item[number])


def query(server, **choices):
    provider = replace(PROVIDERS["planet"], url=tanager(server))
    options = {"area": parse_bbox((10.285, 46.035, 10.305, 46.055)), "period": parse_period("2024-06")}
    return StacQuery(provider, "tanager-core-imagery", **(options | {"max_cloud": None} | choices))


def test_search_filters_a_static_catalogue_by_area_period_and_cloud(server):
    found = search(query(server))
    assert [scene.item["id"] for scene in found] == ["s0", "s9"]
    assert [scene.cloud for scene in found] == [3.0, 60.0]
    assert [scene.item["id"] for scene in search(query(server, max_cloud=20.0))] == ["s0"]
    assert len(search(query(server, period=parse_period("2023/..")))) == 4
    for choices in ({"area": parse_bbox((20, 46, 21, 47))}, {"period": parse_period("2022")}):
        with pytest.raises(NothingFound):
            search(query(server, **choices))


@pytest.mark.parametrize(
    ("properties", "cloud"),
    [
        ({"eo:cloud_cover": "12"}, 12.0),
        ({"eo:cloud_cover": 7, "cloud_percent": 3}, 7.0),
        ({"eo:cloud_cover": None, "cloud_percent": 3}, 3.0),
        ({"pl:cloud_percent": 0}, 0.0),
        ({"eo:cloud_cover": "none"}, None),
        ({"eo:cloud_cover": "nan"}, None),
        ({"eo:cloud_cover": [1]}, None),
        ({}, None),
    ],
)
def test_cloud_cover_is_read_from_the_property_of_the_archive(properties, cloud):
    assert Candidate({"id": "a", "properties": properties}, 1.0).cloud == cloud


@pytest.mark.parametrize(
    ("box", "interval", "is_read"),
    [
        ([10, 46, 11, 47], ["2024-06-10T00:00:00Z", "2024-06-20T00:00:00Z"], True),
        ([10, 46, 11, 47], [None, None], True),
        ([10, 46, 0, 11, 47, 900], ["2024-01-01T00:00:00Z", None], True),
        ([20, 46, 21, 47], [None, None], False),
        ([10, 46, 11, 47], ["2024-07-01T00:00:00Z", None], False),
        ([10, 46, 11, 47], [None, "2024-05-31T00:00:00Z"], False),
        ("everywhere", None, True),
        ([170, -10, -170, 60], [None, None], True),
    ],
)
def test_search_skips_collections_whose_extent_is_elsewhere(server, box, interval, is_read):
    wanted = query(server)
    extent = {"spatial": {"bbox": [box]}, "temporal": {"interval": [interval]}}
    rows = links("item", *(f"./s{number}/s{number}.json" for number in range(3)))
    put(server, "fire/collection.json", catalogue("fire", rows, kind="Collection", extent=extent, license="x"))
    search(wanted)
    assert any("/s0/" in request.path for request in server.requests) == is_read


def test_stac_option_takes_a_static_catalogue(server, ms2hs):
    words = [
        "--stac",
        tanager(server),
        "--collection",
        "fire",
        "--bbox",
        "10.2,46,10.4,46.1",
        "--date",
        "2024",
        "--list",
    ]
    code, out, err = ms2hs("fetch", *words)
    assert code == 0, err
    assert "s0" in out
    assert "s9" not in out


def test_planet_provider_is_a_static_catalogue():
    provider = provider_named("planet")
    assert provider.url == "https://www.planet.com/data/stac/tanager-core-imagery/catalog.json"
    assert provider.collection() in provider.url.split("/")
